//! The log of a run: `OUT.run/log.txt`, which becomes `OUT/log.txt`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

/// The target of events that are for the log alone: what is on the screen already.
pub const PROGRESS: &str = "edkm::progress";

/// What is written before the run's folder is there, at most.
const WAITING: usize = 64 << 10;

/// A writer for the log layer, which writes to the run's folder once there is one.
#[derive(Clone, Default)]
pub struct RunLog(Arc<Mutex<State>>);

enum State {
    Waiting(Vec<u8>),
    /// The file, absolute, opened for each line: Windows does not move a folder in which one is open, and the run's goes when it is done.
    Begun(PathBuf),
}

impl Default for State {
    fn default() -> Self {
        Self::Waiting(Vec::new())
    }
}

impl RunLog {
    /// Goes on in `log.txt` in this folder.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn open_in(&self, folder: &Path) -> std::io::Result<()> {
        let path = std::path::absolute(folder.join("log.txt"))?;
        let mut file = appending().create(true).open(&path)?;
        let mut state = self.state();
        if let State::Waiting(early) = &*state {
            file.write_all(early)?;
        }
        *state = State::Begun(path);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn appending() -> OpenOptions {
    let mut options = File::options();
    options.append(true);
    options
}

/// What the layer is given.
pub struct Handle(RunLog);

impl Write for Handle {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &mut *self.0.state() {
            State::Waiting(early) if early.len() + bytes.len() <= WAITING => early.extend_from_slice(bytes),
            State::Waiting(_) => {}
            // A log that cannot be written does not end the run: its figures and checkpoints say so if the disk is full.
            State::Begun(path) => drop(appending().open(path).and_then(|mut file| file.write_all(bytes))),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for RunLog {
    type Writer = Handle;

    fn make_writer(&self) -> Handle {
        Handle(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_log_may_go_at_any_time() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, aside) = (dir.path().join("out.run"), dir.path().join("aside"));
        std::fs::create_dir(&folder).unwrap();
        let log = RunLog::default();
        let mut lines = log.make_writer();
        lines.write_all(b"before\n").unwrap();
        log.open_in(&folder).unwrap();
        lines.write_all(b"within\n").unwrap();
        let path = folder.join("log.txt");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "before\nwithin\n");
        // Windows does not move a folder with an open file, wine and others do
        #[cfg(target_os = "linux")]
        for open in std::fs::read_dir("/proc/self/fd").unwrap() {
            let leads_to = std::fs::read_link(open.unwrap().path());
            assert!(leads_to.map_or(true, |open| open != path), "{} is open", path.display());
        }
        std::fs::rename(&folder, &aside).unwrap();
        lines.write_all(b"behind\n").unwrap();
        assert!(!folder.exists());
        assert_eq!(
            std::fs::read_to_string(aside.join("log.txt")).unwrap(),
            "before\nwithin\n"
        );
    }
}
