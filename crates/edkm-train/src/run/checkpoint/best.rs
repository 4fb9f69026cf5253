//! The best model that a run has been, as it would be written: kept beside its checkpoints.

use std::fs;
use std::path::{Path, PathBuf};

use edkm_llama::files::{clear_left, exchange, partial_prefix, sync_folder};
use serde::{Deserialize, Serialize};

use super::RunFolder;
use crate::files::{self, write_whole};
use crate::TrainError;

pub(super) const BEST: &str = "best";
const MEASURED: &str = "measured.json";
/// The largest `measured.json` that is read.
const LIMIT: u64 = 1 << 10;

/// What was measured of the model that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Steps that made it.
    pub(crate) steps: u64,
    /// Its perplexity on the validation text.
    pub(crate) perplexity: f64,
}

impl Measured {
    /// Whether it is better than what is kept.
    pub(crate) fn is_better_than(&self, kept: Option<(PathBuf, Self)>) -> bool {
        let limit = kept.map_or(f64::INFINITY, |(_, kept)| kept.perplexity);
        self.perplexity < limit
    }
}

impl RunFolder {
    /// The folder of the model that is kept, and what was measured of it; `None` where there is none, or a damaged one, with a warning.
    pub(crate) fn best(&self) -> Option<(PathBuf, Measured)> {
        let (path, note) = (self.path.join(BEST), self.path.join(BEST).join(MEASURED));
        if !path.exists() {
            return None;
        }
        let read = files::read_capped(&note, LIMIT).map_err(|why| why.to_string());
        match read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|why| why.to_string())) {
            Ok(measured) => Some((path, measured)),
            Err(why) => {
                tracing::warn!("{}: {why}; the model in it is passed over", note.display());
                None
            }
        }
    }

    /// The folder of the best model that was measured, which is whole, if the run keeps it.
    pub fn best_model(&self) -> Option<PathBuf> {
        self.best().map(|(path, _)| path)
    }

    /// Keeps a model that `write` puts into a folder, in place of the one that was kept.
    ///
    /// # Errors
    /// Those of `write`, and a system that does not write; what was kept before is then as it was.
    pub(crate) fn keep_best(
        &self,
        measured: Measured,
        write: impl FnOnce(&Path) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let path = self.path.join(BEST);
        let staging = tempfile::Builder::new()
            .prefix(&partial_prefix(&path))
            .tempdir_in(&self.path)
            .map_err(TrainError::io("make a folder in", &self.path))?;
        write(staging.path())?;
        let note = serde_json::to_vec(&measured).map_err(|why| TrainError::io("write", &path)(why.into()))?;
        write_whole(&staging.path().join(MEASURED), &note)?;
        let moved = TrainError::io("rename", &path);
        match path.exists() {
            // the one before goes with `staging`
            true => exchange(staging.path(), &path).map_err(moved)?,
            false => fs::rename(staging.path(), &path).map_err(moved)?,
        }
        Ok(sync_folder(&self.path)?)
    }

    /// Removes a model that a process was killed over; the one before takes its place again where it was moved aside.
    pub(super) fn remove_partial_best(&self) -> Result<(), TrainError> {
        let prefix = partial_prefix(Path::new(BEST));
        for entry in fs::read_dir(&self.path).map_err(TrainError::io("read", &self.path))? {
            let path = entry.map_err(TrainError::io("read", &self.path))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(&prefix) && path.is_dir() {
                clear_left(&path, &self.path.join(BEST))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use edkm_llama::checkpoint::Overwrite;

    use super::*;

    fn measured(steps: u64) -> Measured {
        Measured {
            steps,
            perplexity: 1.0 / 3.0 + steps as f64,
        }
    }

    #[test]
    fn a_better_model_takes_the_place_of_the_one_before_and_a_failure_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let folder = RunFolder::claim(&out, Overwrite::Refuse).unwrap().begin("{}").unwrap();
        assert_eq!(folder.best(), None);
        for steps in [3, 5] {
            let write = |path: &Path| {
                fs::write(path.join("model"), [steps as u8]).unwrap();
                Ok(())
            };
            folder.keep_best(measured(steps), write).unwrap();
            let (path, kept) = folder.best().unwrap();
            assert_eq!(
                (kept, fs::read(path.join("model")).unwrap()),
                (measured(steps), vec![steps as u8])
            );
        }
        let fails = |_: &Path| Err(TrainError::Stopped);
        assert!(folder.keep_best(measured(7), fails).is_err());
        assert_eq!(folder.best().unwrap().1, measured(5));
        // nothing else is left, and what a process was killed over goes once the run goes on
        fs::create_dir(folder.path().join(".best.partial-x")).unwrap();
        drop(folder);
        let folder = RunFolder::open_locked(&out).unwrap();
        let mut names: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["arguments.json", "best", "checkpoints", "lock"]);

        // killed while the better one had not yet taken the place of the one before
        fs::rename(folder.path().join("best"), folder.path().join(".best.partial-x-old")).unwrap();
        fs::create_dir(folder.path().join(".best.partial-x")).unwrap();
        drop(folder);
        let folder = RunFolder::open_locked(&out).unwrap();
        assert_eq!(folder.best().unwrap().1, measured(5));
        assert!(!folder.path().join(".best.partial-x").exists());

        fs::write(folder.path().join("best/measured.json"), "{").unwrap();
        assert_eq!(folder.best(), None);
        folder.remove().unwrap();
        assert!(!run_folder_exists(&out));
    }

    fn run_folder_exists(out: &Path) -> bool {
        super::super::run_folder(out).exists()
    }
}
