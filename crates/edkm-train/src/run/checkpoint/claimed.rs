//! The folder of a run from the moment it is taken until the run begins.

use std::fs;
use std::path::{Path, PathBuf};

use edkm_llama::checkpoint::Overwrite;

use super::best::BEST;
use super::folder::{sweep, ARGUMENTS, LOCK};
use super::RunFolder;
use crate::files::write_whole;
use crate::run::count;
use crate::TrainError;

impl RunFolder {
    /// Takes the folder of a run that is to begin, so that no other process takes it.
    ///
    /// # Errors
    /// [`TrainError::Unfinished`] where another run could go on or has left its best model, unless it may be overwritten; [`TrainError::Running`] if another process works on it;
    /// [`TrainError::ForeignRunFolder`] where a folder of that name holds what is of no run; a system that does not read or write.
    pub fn claim(out: &Path, overwrite: Overwrite) -> Result<ClaimedFolder, TrainError> {
        let mut folder = Self::open(out);
        if let Some(foreign) = folder.foreign()? {
            return Err(TrainError::ForeignRunFolder {
                folder: folder.path,
                found: foreign,
            });
        }
        let holds_steps = !folder.checkpoints()?.is_empty() || folder.path.join(BEST).is_dir();
        if overwrite == Overwrite::Refuse && holds_steps {
            return Err(TrainError::Unfinished {
                folder: folder.path,
                out: out.to_path_buf(),
            });
        }
        let is_new = !folder.path.exists();
        while folder.lock.is_none() {
            fs::create_dir_all(&folder.path).map_err(TrainError::io("make", &folder.path))?;
            match folder.locked() {
                // another process, which did not begin after all, has removed it meanwhile
                Err(_) if !folder.path.exists() => {}
                lock => folder.lock = Some(lock?),
            }
        }
        Ok(ClaimedFolder {
            folder: Some(folder),
            out: out.to_path_buf(),
            is_new,
        })
    }
}

/// The folder of a run that has not begun: if it does not, a folder that was made for it goes again.
#[derive(Debug)]
pub struct ClaimedFolder {
    /// None once the run has begun.
    folder: Option<RunFolder>,
    out: PathBuf,
    /// It was not there before.
    is_new: bool,
}

impl ClaimedFolder {
    /// Begins the run: its folder is empty but for its arguments.
    ///
    /// # Errors
    /// A system that does not write.
    pub fn begin(mut self, arguments: &str) -> Result<RunFolder, TrainError> {
        let folder = self.folder.take().expect("begun once");
        let kept = folder.checkpoints()?.len();
        if kept > 0 {
            tracing::warn!(
                "{}: {} of a run that was not finished will be overwritten",
                folder.path.display(),
                count(kept as u64, "checkpoint")
            );
        }
        if let Some(best) = folder.best_model() {
            tracing::warn!(
                "{}: the best model of a run that was not finished will be overwritten",
                best.display()
            );
        }
        folder.remove_staging(&self.out)?;
        folder.clear()?;
        sweep(&self.out);
        let checkpoints = folder.checkpoints_path();
        fs::create_dir_all(&checkpoints).map_err(TrainError::io("make", &checkpoints))?;
        write_whole(&folder.path.join(ARGUMENTS), arguments.as_bytes())?;
        Ok(folder)
    }
}

impl Drop for ClaimedFolder {
    fn drop(&mut self) {
        if let Some(RunFolder { path, mut lock }) = self.folder.take().filter(|_| self.is_new) {
            // Windows may keep the name of a file, and so its folder, until it is closed
            if cfg!(windows) {
                drop(lock.take());
            }
            let _ = fs::remove_file(path.join(LOCK));
            drop(lock);
            // anything else in it stays, and it with that
            let _ = fs::remove_dir(path);
        }
    }
}
