//! What the runner must not lose: the log and the report of each attempt it holds, on its disk until the coordinator
//! has them.
//!
//! ```text
//! <work_dir>/spool/<attempt id>/assignment.json   there from before the attempt is accepted
//!                               output.log, .idx  the attempt's log
//!                               report.json       there once it has ended, whole or not at all
//! ```
//! Everything here blocks.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use caisson_protocol::{AttemptId, AttemptReport, BuildSpec};
use serde::{Deserialize, Serialize};

const ASSIGNMENT: &str = "assignment.json";
const REPORT: &str = "report.json";
const LOG: &str = "output";

/// An attempt as it was handed to this runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Which attempt it is.
    pub attempt: AttemptId,
    /// What to run.
    pub spec: Arc<BuildSpec>,
    /// How long its log may become, in bytes.
    pub log_bytes_max: u64,
}

/// The folder of all attempts.
#[derive(Debug, Clone)]
pub struct Spool {
    root: PathBuf,
}

/// The folder of one attempt.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

/// What an earlier process left behind.
#[derive(Debug)]
pub enum Restored {
    /// It had ended, and its report waits to be acknowledged.
    Finished(Box<(Assignment, AttemptReport, Folder)>),
    /// It was on its way when that process died.
    Interrupted(Folder),
}

impl Spool {
    /// Opens the spool under `work_dir`, and makes it where there is none.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn open(work_dir: &Path) -> io::Result<Self> {
        let root = work_dir.join("spool");
        fs::create_dir_all(&root)?;
        Ok(Self { root })
    }

    /// Where an attempt's folder is, whether or not it is there.
    #[must_use]
    pub fn folder(&self, attempt: AttemptId) -> Folder {
        Folder { path: self.root.join(attempt.to_string()) }
    }

    /// Everything that earlier processes left.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn restore(&self) -> io::Result<Vec<Restored>> {
        let mut restored = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            // What bears no attempt's name is not ours.
            let Some(attempt) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            let folder = self.folder(attempt);
            restored.push(match folder.read() {
                Ok((assignment, report)) => Restored::Finished(Box::new((assignment, report, folder))),
                // Without a report, or with a damaged one, there is no result that could be delivered.
                Err(error) if is_lost(error.kind()) => Restored::Interrupted(folder),
                Err(error) => return Err(error),
            });
        }
        Ok(restored)
    }
}

impl Folder {
    /// Makes the folder. Once this has returned the attempt survives a loss of power.
    ///
    /// # Errors
    /// When the disk refuses. Nothing is left then.
    pub fn begin(&self, assignment: &Assignment) -> io::Result<()> {
        let made = fs::create_dir_all(&self.path)
            .and_then(|()| write_whole(&self.path, ASSIGNMENT, assignment))
            .and_then(|()| sync_folder(self.path.parent().unwrap_or(&self.path)));
        if made.is_err() {
            // The cause is worth more than a second failure.
            let _ = fs::remove_dir_all(&self.path);
        }
        made
    }

    /// Where the attempt's log is, without its endings.
    #[must_use]
    pub fn log_base(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Keeps the report. Once this has returned it survives a loss of power.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn write_report(&self, report: &AttemptReport) -> io::Result<()> {
        write_whole(&self.path, REPORT, report)
    }

    /// Forgets the attempt.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove(&self) -> io::Result<()> {
        // The report goes first: what is left by a removal that was cut short is then never taken for a result.
        for removed in [fs::remove_file(self.path.join(REPORT)), fs::remove_dir_all(&self.path)] {
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The attempt's folder, for people.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self) -> io::Result<(Assignment, AttemptReport)> {
        let assignment = serde_json::from_slice(&fs::read(self.path.join(ASSIGNMENT))?)?;
        let report = serde_json::from_slice(&fs::read(self.path.join(REPORT))?)?;
        Ok((assignment, report))
    }
}

/// Whether a file that could not be read is not there, or not what it was written as. Anything else is the disk's.
fn is_lost(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

/// Writes a file that is there as a whole or not at all.
fn write_whole(folder: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let temporary = folder.join(format!("{name}.part"));
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.sync_all()?;
    fs::rename(&temporary, folder.join(name))?;
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use caisson_protocol::{Outcome, Phases};

    fn assignment(number: u32) -> Assignment {
        let spec = serde_json::json!({
            "repository_url": "https://example.org/app.git", "commit": "main", "command": "true",
            "image": "busybox", "timeout_seconds": 60,
        });
        Assignment {
            attempt: format!("019aac1e-7c00-7000-8000-000000000001.{number}").parse().unwrap(),
            spec: serde_json::from_value(spec).unwrap(),
            log_bytes_max: 1024,
        }
    }

    fn begin(spool: &Spool, number: u32) -> Folder {
        let assignment = assignment(number);
        let folder = spool.folder(assignment.attempt);
        folder.begin(&assignment).unwrap();
        folder
    }

    fn report() -> AttemptReport {
        AttemptReport {
            outcome: Outcome::Succeeded,
            phases: Phases::default(),
            resolved_commit: None,
            image_digest: None,
            log_bytes: 7,
        }
    }

    #[test]
    fn a_report_survives_and_an_unfinished_attempt_is_told_apart() {
        let home = tempfile::tempdir().unwrap();
        let spool = Spool::open(home.path()).unwrap();
        begin(&spool, 1).write_report(&report()).unwrap();
        begin(&spool, 2);

        let (mut finished, mut interrupted) = (Vec::new(), 0);
        for restored in Spool::open(home.path()).unwrap().restore().unwrap() {
            match restored {
                Restored::Finished(found) => finished.push((found.0.clone(), found.1.clone())),
                Restored::Interrupted(folder) => {
                    folder.remove().unwrap();
                    interrupted += 1;
                }
            }
        }
        assert_eq!(finished, [(assignment(1), report())]);
        assert_eq!(interrupted, 1);
        assert_eq!(spool.restore().unwrap().len(), 1);
    }

    #[test]
    fn half_a_report_is_no_report() {
        let home = tempfile::tempdir().unwrap();
        let spool = Spool::open(home.path()).unwrap();
        let folder = begin(&spool, 1);
        fs::write(folder.path.join(REPORT), "{\"outcome\":").unwrap();
        assert!(matches!(spool.restore().unwrap()[..], [Restored::Interrupted(_)]));
    }

    #[test]
    fn removing_what_is_gone_is_no_error() {
        let home = tempfile::tempdir().unwrap();
        let folder = begin(&Spool::open(home.path()).unwrap(), 1);
        folder.remove().unwrap();
        folder.remove().unwrap();
    }
}
