//! The folder of a run: its checkpoints on disk.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use dfdx_edkm::optim::AdamW;
use dfdx_edkm::EdkmDevice;
use edkm_llama::checkpoint::{copy_companions, write_safetensors, Access, Checkpoint};
use edkm_llama::config::LlamaConfig;
use edkm_llama::files::{canonical, clear_left, is_moved_aside, moved_aside, partial_prefix};
use edkm_llama::model::DynamicLlama;

use super::best::BEST;
use super::completed::WRITTEN;
use super::format::{damaged, read_state, MOMENTS, PARAMETERS};
use super::state::{model_fingerprint, put, take};
use super::{moments, OptimizerState, RunState};
use crate::files::{self, write_whole};
use crate::TrainError;

pub(super) const ARGUMENTS: &str = "arguments.json";
pub(super) const LOCK: &str = "lock";
const COMPANIONS: &str = "companions";
const TEACHER: &str = "teacher.safetensors";
const STAGING: &str = "staging";
const METRICS: &str = "metrics.jsonl";
const LOG: &str = "log.txt";
const CHECKPOINTS: &str = "checkpoints";
/// All that a run keeps.
const OWN: [&str; 10] = [
    ARGUMENTS,
    LOCK,
    COMPANIONS,
    TEACHER,
    STAGING,
    METRICS,
    LOG,
    CHECKPOINTS,
    BEST,
    WRITTEN,
];
/// The largest path that is read.
const STAGING_LIMIT: u64 = 1 << 16;
/// What the name of a folder in the making begins with.
pub(super) const PARTIAL: &str = ".partial-";
/// The largest `arguments.json` that is read.
const ARGUMENTS_LIMIT: u64 = 1 << 23;

/// `OUT.run`, for the folder OUT that a run will write.
pub fn run_folder(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".run");
    out.with_file_name(name)
}

/// The folder in which a run keeps what it needs to be resumed.
#[derive(Debug)]
pub struct RunFolder {
    pub(super) path: PathBuf,
    /// Held while a process works on the run.
    pub(super) lock: Option<File>,
}

impl RunFolder {
    /// The folder of a run that may be there, to look at it.
    pub fn open(out: &Path) -> Self {
        Self {
            path: run_folder(out),
            lock: None,
        }
    }

    /// The folder of a run that goes on.
    ///
    /// # Errors
    /// [`TrainError::NoRun`] if it is not there, [`TrainError::NoCheckpoint`] if none has begun in it; [`TrainError::Running`] if another process works on it.
    pub fn open_locked(out: &Path) -> Result<Self, TrainError> {
        let mut folder = Self::open(out);
        folder.check_begun()?;
        folder.lock = Some(folder.locked()?);
        folder.remove_partial()?;
        folder.remove_partial_best()?;
        folder.remove_staging(out)?;
        Ok(folder)
    }

    /// Notes where OUT is being built, so that it goes when the run is gone on with after a kill.
    ///
    /// # Errors
    /// A system that does not write.
    pub fn note_staging(&self, built: &Path) -> Result<(), TrainError> {
        write_whole(&self.path.join(STAGING), built.as_os_str().as_encoded_bytes())
    }

    /// Removes what a process was building when it was killed.
    pub(super) fn remove_staging(&self, out: &Path) -> Result<(), TrainError> {
        let note = self.path.join(STAGING);
        if !note.exists() {
            return Ok(());
        }
        let built = String::from_utf8(files::read_capped(&note, STAGING_LIMIT)?).unwrap_or_default();
        let built = Path::new(&built);
        // behind links, as it is built
        let out = canonical(out).or_else(|_| std::path::absolute(out));
        let is_of = |out: &PathBuf| {
            let name = built.file_name().unwrap_or_default().to_string_lossy();
            built.parent() == out.parent() && name.starts_with(&partial_prefix(out))
        };
        if let Some(out) = out.ok().filter(is_of) {
            for left in [&moved_aside(built), built].into_iter().filter(|left| left.is_dir()) {
                clear_left(left, &out)?;
            }
        }
        fs::remove_file(&note).map_err(TrainError::io("remove", &note))
    }

    /// Removes checkpoints that a process was killed over.
    fn remove_partial(&self) -> Result<(), TrainError> {
        let torn = |name: &OsStr| name.to_string_lossy().starts_with(PARTIAL);
        for path in self.entries(torn)? {
            match is_moved_aside(&path).then(|| read_state(&path).ok()).flatten() {
                // moved aside for one of the same step
                Some(state) => clear_left(&path, &self.checkpoint_path(state.step))?,
                None => fs::remove_dir_all(&path).map_err(TrainError::io("remove", &path))?,
            }
        }
        Ok(())
    }

    pub(super) fn locked(&self) -> Result<File, TrainError> {
        files::lock(&self.path.join(LOCK))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses a folder in which no run has begun.
    fn check_begun(&self) -> Result<(), TrainError> {
        let folder = || self.path.clone();
        match (self.path.exists(), self.has_begun()) {
            (false, _) => Err(TrainError::NoRun { folder: folder() }),
            (true, false) => Err(TrainError::NoCheckpoint {
                folder: folder(),
                damaged: Vec::new(),
            }),
            (true, true) => Ok(()),
        }
    }

    /// Whether a run has begun here.
    pub(super) fn has_begun(&self) -> bool {
        self.arguments_path().exists()
    }

    /// The name of something here that is of no run.
    pub(super) fn foreign(&self) -> Result<Option<String>, TrainError> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(TrainError::io("read", &self.path)(why)),
        };
        for entry in entries {
            let name = entry.map_err(TrainError::io("read", &self.path))?.file_name();
            if !is_own(&name) {
                return Ok(Some(name.to_string_lossy().into_owned()));
            }
        }
        Ok(None)
    }

    /// Where a log of the run may be kept.
    pub fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Where it is kept what the run was started with.
    pub fn arguments_path(&self) -> PathBuf {
        self.path.join(ARGUMENTS)
    }

    /// What the run was started with.
    ///
    /// # Errors
    /// A file that is not there, or larger than 8 MiB, or not text.
    pub fn arguments(&self) -> Result<String, TrainError> {
        let path = self.arguments_path();
        self.check_begun()?;
        let bytes = files::read_capped(&path, ARGUMENTS_LIMIT)?;
        String::from_utf8(bytes).map_err(|why| TrainError::NotUtf8 {
            path,
            offset: why.utf8_error().valid_up_to() as u64,
        })
    }

    /// Keeps what the run goes on with from now on, in place of what it was started with.
    ///
    /// # Errors
    /// A system that does not write; what was kept is then as it was.
    pub fn keep_arguments(&self, arguments: &str) -> Result<(), TrainError> {
        write_whole(&self.arguments_path(), arguments.as_bytes())
    }

    /// Keeps what goes with the model into OUT besides its configuration and weights, its tokenizer above all: the run may be the last that has it.
    ///
    /// # Errors
    /// A file that cannot be read; a system that does not write.
    pub fn keep_companions(&self, model_dir: &Path) -> Result<(), TrainError> {
        let kept = self.path.join(COMPANIONS);
        fs::create_dir_all(&kept).map_err(TrainError::io("make", &kept))?;
        Ok(copy_companions(model_dir, &kept)?)
    }

    /// Copies into `out` what was [kept](Self::keep_companions).
    ///
    /// # Errors
    /// A file that cannot be read; a system that does not write.
    pub fn copy_companions(&self, out: &Path) -> Result<(), TrainError> {
        Ok(copy_companions(&self.path.join(COMPANIONS), out)?)
    }

    /// Keeps the model that is learned from as it is now, and gives its fingerprint.
    ///
    /// # Errors
    /// A system that does not write.
    pub fn keep_teacher<D: EdkmDevice>(&self, model: &mut DynamicLlama<D>) -> Result<u64, TrainError> {
        write_safetensors(&self.path.join(TEACHER), take(model).parameters, &BTreeMap::new())?;
        Ok(model_fingerprint(model))
    }

    /// The model that is learned from, which has that fingerprint.
    ///
    /// # Errors
    /// A file that is not there, or is another.
    pub fn teacher<D: EdkmDevice>(
        &self,
        config: &LlamaConfig,
        device: &D,
        fingerprint: Option<u64>,
    ) -> Result<DynamicLlama<D>, TrainError> {
        let path = self.path.join(TEACHER);
        let file = Checkpoint::open_file(&path, Access::Read)?;
        let mut model = DynamicLlama::from_checkpoint(&file, config, device)?;
        match fingerprint == Some(model_fingerprint(&mut model)) {
            true => Ok(model),
            false => Err(damaged(&path, "not the model that this run learns from")),
        }
    }

    /// Where the figures of the steps are written.
    pub fn metrics(&self) -> PathBuf {
        self.path.join(METRICS)
    }

    /// Removes the folder: the run is done. What has been put there that is of no run stays.
    ///
    /// # Errors
    /// A system that refuses.
    pub fn remove(self) -> Result<(), TrainError> {
        match self.foreign()? {
            None => {
                drop(self.lock);
                remove(&self.path)
            }
            Some(_) => {
                self.clear()?;
                let lock = self.path.join(LOCK);
                drop(self.lock);
                fs::remove_file(&lock).map_err(TrainError::io("remove", &lock))
            }
        }
    }

    /// Removes all that a run keeps but its lock, first what it would go on with: a process that is killed meanwhile leaves no half of a run.
    pub(super) fn clear(&self) -> Result<(), TrainError> {
        let arguments = self.arguments_path();
        if arguments.exists() {
            fs::remove_file(&arguments).map_err(TrainError::io("remove", &arguments))?;
        }
        for entry in fs::read_dir(&self.path).map_err(TrainError::io("read", &self.path))? {
            let entry = entry.map_err(TrainError::io("read", &self.path))?;
            let (name, path) = (entry.file_name(), entry.path());
            if name == LOCK || !is_own(&name) {
                continue;
            }
            let removed = match path.is_dir() && !path.is_symlink() {
                true => fs::remove_dir_all(&path),
                false => fs::remove_file(&path),
            };
            removed.map_err(TrainError::io("remove", &path))?;
        }
        Ok(())
    }

    /// The newest checkpoint that is whole, and what is wrong with newer ones, each with its path.
    ///
    /// # Errors
    /// [`TrainError::NoCheckpoint`].
    pub fn newest(&self) -> Result<(PathBuf, RunState, Vec<String>), TrainError> {
        self.newest_before(u64::MAX)
    }

    /// [`Self::newest`] of those before a step.
    pub(crate) fn newest_before(&self, step: u64) -> Result<(PathBuf, RunState, Vec<String>), TrainError> {
        let mut unusable = Vec::new();
        let is_before = |path: &PathBuf| step_of(path).is_none_or(|of| of < step);
        for path in self.checkpoints()?.into_iter().rev().filter(is_before) {
            match read_state(&path) {
                Ok(state) => return Ok((path, state, unusable)),
                Err(error) => unusable.push(error.to_string()),
            }
        }
        Err(TrainError::NoCheckpoint {
            folder: self.path.clone(),
            damaged: unusable,
        })
    }

    /// The step of the newest checkpoint by its name; it is not read.
    pub fn newest_step(&self) -> Option<u64> {
        step_of(&self.checkpoints().ok()?.pop()?)
    }

    /// Removes the checkpoints of later steps than this one.
    ///
    /// # Errors
    /// A system that does not remove.
    pub(crate) fn remove_after(&self, step: u64) -> Result<(), TrainError> {
        for path in self.checkpoints()? {
            if step_of(&path).is_some_and(|of| of > step) {
                fs::remove_dir_all(&path).map_err(TrainError::io("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Puts the parameters and palettes of a checkpoint into a model that is clustered as it was.
    ///
    /// # Errors
    /// Parameters that are not those of the model.
    pub fn restore<D: EdkmDevice>(
        path: &Path,
        state: &RunState,
        model: &mut DynamicLlama<D>,
    ) -> Result<(), TrainError> {
        let parameters = Checkpoint::open_file(path.join(PARAMETERS), Access::Read)?;
        put(model, &parameters, &state.clusterings)
    }

    /// The optimizer of a checkpoint, whose state says the rest of it. [`Self::check_optimizer`] tells whether it is a model's.
    ///
    /// # Errors
    /// A file that is not one of moments, or that cannot be read; the device's.
    pub fn optimizer<D: EdkmDevice>(path: &Path, state: &OptimizerState, device: &D) -> Result<AdamW<D>, TrainError> {
        moments::read(&path.join(MOMENTS), device, state)
    }

    /// Refuses an optimizer that is not one of the model.
    ///
    /// # Errors
    /// A parameter without moments, or with moments of another length.
    pub fn check_optimizer<D: EdkmDevice>(
        path: &Path,
        model: &mut DynamicLlama<D>,
        optimizer: &AdamW<D>,
    ) -> Result<(), TrainError> {
        moments::check(&path.join(MOMENTS), model, optimizer)
    }

    /// The checkpoints, oldest first.
    pub(super) fn checkpoints(&self) -> Result<Vec<PathBuf>, TrainError> {
        self.entries(|name| name.to_string_lossy().starts_with("step-"))
    }

    /// What lies among the checkpoints under such a name, in the order of names.
    fn entries(&self, is_wanted: impl Fn(&OsStr) -> bool) -> Result<Vec<PathBuf>, TrainError> {
        let parent = self.checkpoints_path();
        let entries = match fs::read_dir(&parent) {
            Ok(entries) => entries,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(why) => return Err(TrainError::io("read", &parent)(why)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(TrainError::io("read", &parent))?;
            if is_wanted(&entry.file_name()) {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    }

    /// Where the checkpoint of a step lies.
    pub(super) fn checkpoint_path(&self, step: u64) -> PathBuf {
        self.checkpoints_path().join(format!("step-{step:012}"))
    }

    pub(super) fn checkpoints_path(&self) -> PathBuf {
        self.path.join(CHECKPOINTS)
    }
}

/// The step of a checkpoint, by its name.
fn step_of(checkpoint: &Path) -> Option<u64> {
    checkpoint.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()
}

/// Whether a run keeps something of this name, or was writing it when it was killed.
fn is_own(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    OWN.iter()
        .any(|own| name == *own || name.starts_with(&partial_prefix(Path::new(own))))
}

/// Removes what processes were removing of the run that writes `out` when they were killed, as far as the system lets it.
pub(super) fn sweep(out: &Path) {
    let folder = run_folder(out);
    let entries = folder.parent().and_then(|parent| parent.read_dir().ok());
    for entry in entries.into_iter().flatten().flatten() {
        if entry
            .file_name()
            .to_string_lossy()
            .starts_with(&partial_prefix(&folder))
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Removes a folder that may not be there, under another name: a process that is killed meanwhile leaves no half of a run behind.
fn remove(folder: &Path) -> Result<(), TrainError> {
    let aside = folder.with_file_name(format!("{}{}", partial_prefix(folder), std::process::id()));
    let gone = |result: std::io::Result<()>, path: &Path| match result {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(TrainError::io("remove", path)(why)),
        _ => Ok(()),
    };
    // of a process that had this number before
    gone(fs::remove_dir_all(&aside), &aside)?;
    gone(fs::rename(folder, &aside), folder)?;
    gone(fs::remove_dir_all(&aside), &aside)
}

#[cfg(test)]
mod tests;
