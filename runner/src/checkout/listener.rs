//! Listens to a checkout's process, for as long as that is worth it: a server's silence is limited, and so is the whole,
//! but not what this host's own disk takes of it, nor another checkout's time.

use std::time::Duration;

use caisson_protocol::ErrorReason;
use futures_util::StreamExt;
use tokio::{
    io::AsyncRead,
    time::{Instant, timeout_at},
};
use tokio_util::codec::{FramedRead, LinesCodec};

use super::{
    CheckoutError, broken,
    wire::{Event, Turn},
};
use crate::config::Git;

/// How much longer than a server the child itself may be silent, at most: it reports the server's silence first. A
/// server that drips is heard of only by us, since libgit2 says nothing before it has a whole packet.
const STALL_MARGIN_MAX: Duration = Duration::from_secs(10);
/// How long a line may be: what a server says of a failure is in it. A process that was taken over by what it unpacked
/// could go on for ever.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Hears events.
pub(super) struct Listener<'a, R> {
    git: &'a Git,
    lines: FramedRead<R, LinesCodec>,
    end: Instant,
    turn: Turn,
}

impl<'a, R: AsyncRead + Unpin> Listener<'a, R> {
    /// The time of the checkout begins.
    pub(super) fn new(output: R, git: &'a Git) -> Self {
        let lines = FramedRead::new(output, LinesCodec::new_with_max_length(LINE_BYTES_MAX));
        Self { git, lines, end: Instant::now() + git.timeout.0, turn: Turn::Host }
    }

    /// What is said next, or why it is waited for no longer. Nothing comes from a process that has ended.
    pub(super) async fn next(&mut self) -> Option<Result<Event, CheckoutError>> {
        let begun = Instant::now();
        let stalled = begun + self.git.stall.0 + STALL_MARGIN_MAX.min(self.git.stall.0);
        let given_up = if self.turn == Turn::Server { self.end.min(stalled) } else { self.end };
        let Ok(line) = timeout_at(given_up, self.lines.next()).await else {
            return Some(Err(self.too_slow()));
        };
        if self.turn == Turn::Other {
            self.end += begun.elapsed();
        }
        let Some(event) = line?.ok().and_then(|line| serde_json::from_str::<Event>(&line).ok()) else {
            return Some(Err(broken("it said what can't be understood")));
        };
        self.turn = event.turn().unwrap_or(self.turn);
        Some(Ok(event))
    }

    fn too_slow(&self) -> CheckoutError {
        let message = if Instant::now() >= self.end {
            format!(
                "the checkout was not done within {}: the server or the runner's disk is too slow, or the repository \
                 too large; git.timeout on the runner sets the limit",
                self.git.timeout
            )
        } else {
            format!(
                "the checkout stood still for {}: the server sends nothing, or next to nothing",
                self.git.stall
            )
        };
        CheckoutError { reason: ErrorReason::CloneFailed, message }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::config::Config;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    fn receiving(objects: usize) -> Event {
        Event::Receiving { objects, total: 3, bytes: 1024 }
    }

    fn done() -> Event {
        Event::Done { commit: "a".repeat(40).parse().unwrap() }
    }

    /// Whether a child is heard out that says this, each after a while, with a minute for a silent server and ten for
    /// everything.
    async fn followed(story: Vec<(Duration, Event)>) -> Result<(), CheckoutError> {
        let lines = story
            .into_iter()
            .map(|(after, event)| (after, [serde_json::to_vec(&event).unwrap(), b"\n".to_vec()].concat()));
        heard(lines.collect()).await
    }

    async fn heard(story: Vec<(Duration, Vec<u8>)>) -> Result<(), CheckoutError> {
        let (mut child, output) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            for (after, line) in story {
                tokio::time::sleep(after).await;
                let _ = child.write_all(&line).await;
            }
        });
        let git = Config::default().git;
        let mut listener = Listener::new(output, &git);
        loop {
            if let Event::Done { .. } = listener.next().await.expect("the child has said how it ends")? {
                return Ok(());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_has_a_minute_to_say_something_and_a_disk_has_ten() {
        let large_pack = vec![
            (SECOND, Event::Asking),
            (59 * SECOND, receiving(1)),
            (59 * SECOND, receiving(3)),
            (2 * MINUTE, Event::Working),
            (2 * MINUTE, Event::Writing { files: 1, total: 2 }),
            (2 * MINUTE, done()),
        ];
        followed(large_pack).await.unwrap();
        let counts_objects = vec![(SECOND, Event::Asking), (MINUTE, Event::Alive), (MINUTE, done())];
        followed(counts_objects).await.unwrap();

        for last_words in [Event::Asking, receiving(2)] {
            let silent = vec![(SECOND, last_words), (71 * SECOND, done())];
            let message = followed(silent).await.unwrap_err().message;
            assert!(message.contains("the server sends nothing"), "{message}");
        }
        for last_words in [receiving(3), Event::Working] {
            let hanging = vec![(SECOND, last_words), (11 * MINUTE, done())];
            let message = followed(hanging).await.unwrap_err().message;
            assert!(message.contains("git.timeout") && message.contains("disk"), "{message}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_another_checkout_takes_is_not_this_ones_time() {
        let mut story = vec![(SECOND, Event::Waiting); 60 * 60];
        story.extend([(SECOND, Event::Working), (9 * MINUTE, done())]);
        followed(story.clone()).await.unwrap();
        *story.last_mut().unwrap() = (11 * MINUTE, done());
        let message = followed(story).await.unwrap_err().message;
        assert!(message.contains("git.timeout"), "{message}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_never_ends_a_line_is_not_listened_to() {
        let endless = vec![b'a'; LINE_BYTES_MAX + 1];
        for line in [endless, b"no event\n".to_vec(), b"\xff\n".to_vec()] {
            let error = heard(vec![(SECOND, line), (60 * MINUTE, Vec::new())]).await.unwrap_err();
            assert!(error.message.contains("can't be understood"), "{error}");
        }
    }
}
