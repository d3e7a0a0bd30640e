//! A checkout's progress, as said in the build's log: now and then, and at the end of each part.

use std::time::{Duration, Instant};

use super::wire::Event;

/// How often it is said how far a part is.
const NEWS_EVERY: Duration = Duration::from_secs(2);

/// What was said last.
#[derive(Default)]
pub(super) struct Progress {
    told: Option<Instant>,
    waiting: bool,
    received: bool,
}

impl Progress {
    /// The lines that an event is worth.
    pub(super) fn take(&mut self, event: &Event) -> Vec<String> {
        match event {
            Event::Note { text } => vec![text.clone()],
            Event::Waiting if !self.waiting => {
                self.waiting = true;
                vec!["Waiting for another checkout of this repository".into()]
            }
            Event::Receiving { objects, total, bytes }
                if *total > 0 && objects == total && !self.received =>
            {
                self.received = true;
                vec![format!("Received {total} objects, {}", size(*bytes))]
            }
            Event::Receiving { objects, total, bytes } if !self.received => {
                self.now_and_then(|| format!("Received {objects} of {total} objects, {}", size(*bytes)))
            }
            Event::Resolving { deltas, total } => {
                self.now_and_then(|| format!("Resolved {deltas} of {total} deltas"))
            }
            Event::Writing { files, total } => {
                self.now_and_then(|| format!("Wrote {files} of {total} files"))
            }
            _ => Vec::new(),
        }
    }

    fn now_and_then(&mut self, line: impl FnOnce() -> String) -> Vec<String> {
        match self.told {
            // What is over within the first moments needs no news.
            None => self.told = Some(Instant::now()),
            Some(told) if told.elapsed() >= NEWS_EVERY => {
                self.told = Some(Instant::now());
                return vec![line()];
            }
            Some(_) => {}
        }
        Vec::new()
    }
}

fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes / 1024),
        _ => format!("{}.{} MiB", bytes / 1_048_576, bytes % 1_048_576 * 10 / 1_048_576),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_checkout_says_one_line() {
        let mut progress = Progress::default();
        let receiving = |objects| Event::Receiving { objects, total: 3, bytes: 1_600_000 };
        let lines: Vec<String> = [receiving(1), receiving(2), receiving(3), receiving(3)]
            .iter()
            .flat_map(|event| progress.take(event))
            .collect();
        assert_eq!(lines, ["Received 3 objects, 1.5 MiB"]);
    }
}
