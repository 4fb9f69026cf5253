//! The folder of a run: its checkpoints on disk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use dfdx_edkm::optim::AdamW;
use dfdx_edkm::EdkmDevice;
use edkm_llama::checkpoint::{write_safetensors, Access, Checkpoint, Overwrite};
use edkm_llama::files::replace_file;
use edkm_llama::model::DynamicLlama;
use edkm_llama::LlamaError;

use super::completed::update;
use super::state::{put, take};
use super::{moments, OptimizerState, RunState, SavedClustering};
use crate::files::{self, write_whole};
use crate::TrainError;

const PARAMETERS: &str = "parameters.safetensors";
const MOMENTS: &str = "moments.safetensors";
const STATE: &str = "state.bin";
const CHECKSUM: &str = "xxh3";
const ARGUMENTS: &str = "arguments.json";
const LOCK: &str = "lock";
const PARTIAL: &str = ".partial-";
/// The beginning of `state.bin`: what it is, and the version of what follows (bincode 2, fixed-size little-endian integers).
const MAGIC: [u8; 12] = *b"edkm run\x03\0\0\0";
/// The largest `arguments.json` that is read.
const ARGUMENTS_LIMIT: u64 = 1 << 20;

/// `OUT.run`, for the folder OUT that a run will write.
pub fn run_folder(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".run");
    out.with_file_name(name)
}

/// The folder in which a run keeps what it needs to be resumed.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Held while a process works on the run.
    lock: Option<File>,
}

impl RunFolder {
    /// Refuses to begin a run where another one could go on.
    ///
    /// # Errors
    /// [`TrainError::Unfinished`], unless it may be overwritten; a folder that cannot be read.
    pub fn check(out: &Path, overwrite: Overwrite) -> Result<(), TrainError> {
        let folder = Self::open(out);
        match (folder.checkpoints()?.is_empty(), overwrite) {
            (false, Overwrite::Refuse) => Err(TrainError::Unfinished {
                folder: folder.path,
                out: out.to_path_buf(),
            }),
            _ => Ok(()),
        }
    }

    /// Begins the folder of a run, empty but for its arguments.
    ///
    /// # Errors
    /// As [`Self::check`]; a system that does not write.
    pub fn begin(out: &Path, overwrite: Overwrite, arguments: &str) -> Result<Self, TrainError> {
        Self::check(out, overwrite)?;
        let mut folder = Self::open(out);
        if folder.path.join(LOCK).exists() {
            drop(folder.locked()?);
        }
        remove(&folder.path)?;
        let checkpoints = folder.checkpoints_path();
        fs::create_dir_all(&checkpoints).map_err(TrainError::io("make", &checkpoints))?;
        folder.lock = Some(folder.locked()?);
        write_whole(&folder.path.join(ARGUMENTS), arguments.as_bytes())?;
        Ok(folder)
    }

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
    /// [`TrainError::NoRun`] if it is not there; [`TrainError::Running`] if another process works on it.
    pub fn open_locked(out: &Path) -> Result<Self, TrainError> {
        let mut folder = Self::open(out);
        if !folder.path.exists() {
            return Err(TrainError::NoRun { folder: folder.path });
        }
        folder.lock = Some(folder.locked()?);
        Ok(folder)
    }

    fn locked(&self) -> Result<File, TrainError> {
        let path = self.path.join(LOCK);
        let file = File::create(&path).map_err(TrainError::io("create", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => Err(TrainError::Running {
                folder: self.path.clone(),
            }),
            Err(fs::TryLockError::Error(why)) if why.kind() == std::io::ErrorKind::Unsupported => Ok(file),
            Err(fs::TryLockError::Error(why)) => Err(TrainError::io("lock", &path)(why)),
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a log of the run may be kept.
    pub fn log(&self) -> PathBuf {
        self.path.join("log.txt")
    }

    /// Where it is kept what the run was started with.
    pub fn arguments_path(&self) -> PathBuf {
        self.path.join(ARGUMENTS)
    }

    /// What the run was started with.
    ///
    /// # Errors
    /// A file that is not there, or larger than 1 MiB, or not text.
    pub fn arguments(&self) -> Result<String, TrainError> {
        let path = self.arguments_path();
        if !self.path.exists() {
            return Err(TrainError::NoRun {
                folder: self.path.clone(),
            });
        }
        if !path.exists() {
            return Err(TrainError::NoCheckpoint {
                folder: self.path.clone(),
                damaged: Vec::new(),
            });
        }
        let bytes = files::read_capped(&path, ARGUMENTS_LIMIT)?;
        String::from_utf8(bytes).map_err(|why| TrainError::NotUtf8 {
            path,
            offset: why.utf8_error().valid_up_to() as u64,
        })
    }

    /// Where the figures of the steps are written.
    pub fn metrics(&self) -> PathBuf {
        self.path.join("metrics.jsonl")
    }

    /// Removes the folder: the run is done.
    ///
    /// # Errors
    /// A system that refuses.
    pub fn remove(self) -> Result<(), TrainError> {
        drop(self.lock);
        remove(&self.path)
    }

    /// Writes the parameters of `model` and the moments of `optimizer` into a checkpoint that [`StagedCheckpoint::finish`] makes whole. Memory: a copy of
    /// the largest of them.
    ///
    /// # Errors
    /// A system that does not write.
    pub fn stage<D: EdkmDevice>(
        &self,
        model: &mut DynamicLlama<D>,
        optimizer: &AdamW<D>,
    ) -> Result<StagedCheckpoint<'_>, TrainError> {
        let parent = self.checkpoints_path();
        let staging = tempfile::Builder::new()
            .prefix(PARTIAL)
            .tempdir_in(&parent)
            .map_err(TrainError::io("make a folder in", &parent))?;
        let taken = take(model);
        write_safetensors(&staging.path().join(PARAMETERS), taken.parameters, &BTreeMap::new())?;
        moments::write(&staging.path().join(MOMENTS), optimizer)?;
        Ok(StagedCheckpoint {
            folder: self,
            staging,
            clusterings: taken.clusterings,
        })
    }

    /// The newest checkpoint that is whole, and what is wrong with newer ones, each with its path.
    ///
    /// # Errors
    /// [`TrainError::NoCheckpoint`].
    pub fn newest(&self) -> Result<(PathBuf, RunState, Vec<String>), TrainError> {
        let mut unusable = Vec::new();
        for path in self.checkpoints()?.into_iter().rev() {
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
    fn checkpoints(&self) -> Result<Vec<PathBuf>, TrainError> {
        let parent = self.checkpoints_path();
        let entries = match fs::read_dir(&parent) {
            Ok(entries) => entries,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(why) => return Err(TrainError::io("read", &parent)(why)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(TrainError::io("read", &parent))?;
            if entry.file_name().to_string_lossy().starts_with("step-") {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    }

    fn checkpoints_path(&self) -> PathBuf {
        self.path.join("checkpoints")
    }
}

/// A checkpoint in the making: parameters and moments are written.
#[derive(Debug)]
pub struct StagedCheckpoint<'f> {
    folder: &'f RunFolder,
    staging: tempfile::TempDir,
    clusterings: BTreeMap<String, SavedClustering>,
}

impl StagedCheckpoint<'_> {
    /// Writes the rest of the state, puts the checkpoint in its place, then removes all but the newest `keep`. The palettes of `state` are those
    /// of the model.
    ///
    /// # Errors
    /// A system that does not write; the checkpoints before it are then as they were.
    pub fn finish(self, mut state: RunState, keep: usize) -> Result<PathBuf, TrainError> {
        let (parent, staging) = (self.folder.checkpoints_path(), self.staging.path());
        state.clusterings = self.clusterings;
        write_state(&staging.join(STATE), &state)?;
        let sum = checksum(staging)?;
        write_whole(&staging.join(CHECKSUM), sum.as_bytes())?;
        let target = parent.join(format!("step-{:012}", state.step));
        if target.exists() {
            // of the same step, so the same unless it is damaged
            fs::remove_dir_all(&target).map_err(TrainError::io("remove", &target))?;
        }
        fs::rename(staging, &target).map_err(TrainError::io("rename", &target))?;
        sync_folder(&parent)?;
        let all = self.folder.checkpoints()?;
        for old in &all[..all.len().saturating_sub(keep.max(1))] {
            fs::remove_dir_all(old).map_err(TrainError::io("remove", old))?;
        }
        Ok(target)
    }
}

type Format = bincode::config::Configuration<bincode::config::LittleEndian, bincode::config::Fixint>;

fn format() -> Format {
    bincode::config::standard().with_fixed_int_encoding()
}

/// Removes a folder that may not be there, under another name: a process that is killed meanwhile leaves no half of a run behind.
fn remove(folder: &Path) -> Result<(), TrainError> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let aside = folder.with_file_name(format!(".{name}{PARTIAL}{}", std::process::id()));
    let gone = |result: std::io::Result<()>, path: &Path| match result {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(TrainError::io("remove", path)(why)),
        _ => Ok(()),
    };
    // of a process that had this number before
    gone(fs::remove_dir_all(&aside), &aside)?;
    gone(fs::rename(folder, &aside), folder)?;
    gone(fs::remove_dir_all(&aside), &aside)
}

/// The state takes the palettes, at most a fraction of the parameters; a file far beyond is not one, and would fill the memory.
fn check_sizes(folder: &Path) -> Result<(), TrainError> {
    const REST: u64 = 64 << 20;
    let length = |name| {
        let path = folder.join(name);
        fs::metadata(&path)
            .map(|data| data.len())
            .map_err(TrainError::io("read", &path))
    };
    let (parameters, state) = (length(PARAMETERS)?, length(STATE)?);
    if state > parameters.saturating_add(REST) {
        let reason = format!("{state} bytes, too many for a run of {parameters} bytes of parameters");
        return Err(damaged(&folder.join(STATE), &reason));
    }
    // a header says how long the file has to be
    for name in [PARAMETERS, MOMENTS] {
        Checkpoint::open_file(folder.join(name), Access::Read)?;
    }
    Ok(())
}

fn read_state(folder: &Path) -> Result<RunState, TrainError> {
    check_sizes(folder)?;
    let expected = files::read_capped(&folder.join(CHECKSUM), 64)?;
    if expected != checksum(folder)?.as_bytes() {
        return Err(damaged(folder, "the checksum does not fit: it is torn or was altered"));
    }
    let path = folder.join(STATE);
    let length = fs::metadata(&path).map_err(TrainError::io("read", &path))?.len();
    let bytes = files::read_capped(&path, length)?;
    let Some(body) = bytes.strip_prefix(&MAGIC) else {
        return Err(damaged(
            &path,
            "not the state of a run, or of another version of the format",
        ));
    };
    let (state, used) = decode(body).map_err(|why| damaged(&path, &why.to_string()))?;
    match used == body.len() {
        true => Ok(state),
        false => Err(damaged(&path, "bytes behind the end")),
    }
}

/// Decodes a state. A length in it is allocated before its bytes are read, so no length may be much more than there are bytes; bincode wants
/// the limit at compile time.
fn decode(body: &[u8]) -> Result<(RunState, usize), bincode::error::DecodeError> {
    const MIB: usize = 1 << 20;
    match body.len() / MIB {
        0..4 => bincode::serde::decode_from_slice(body, format().with_limit::<{ 4 * MIB }>()),
        4..64 => bincode::serde::decode_from_slice(body, format().with_limit::<{ 64 * MIB }>()),
        64..1024 => bincode::serde::decode_from_slice(body, format().with_limit::<{ 1024 * MIB }>()),
        1024..16_384 => bincode::serde::decode_from_slice(body, format().with_limit::<{ 16_384 * MIB }>()),
        _ => bincode::serde::decode_from_slice(body, format().with_limit::<{ 16_384 * 256 * MIB }>()),
    }
}

/// XXH3-128 over lengths and contents of the files of a checkpoint, as hexadecimal digits.
fn checksum(folder: &Path) -> Result<String, TrainError> {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    for name in [PARAMETERS, MOMENTS, STATE] {
        let path = folder.join(name);
        let file = files::open(&path)?;
        let failed = |why| TrainError::io("read", &path)(why);
        hash.update(&file.metadata().map_err(failed)?.len().to_le_bytes());
        update(&mut hash, file).map_err(failed)?;
    }
    Ok(format!("{:032x}", hash.digest128()))
}

pub(super) fn damaged(path: &Path, reason: &str) -> TrainError {
    TrainError::RunCheckpoint {
        path: path.to_path_buf(),
        reason: reason.to_owned(),
    }
}

/// Writes a state as it is encoded: encoded as a whole it would take as much memory again.
fn write_state(path: &Path, state: &RunState) -> Result<(), TrainError> {
    Ok(replace_file(path, |mut out| {
        let failed = |source| LlamaError::Io {
            action: "write",
            path: path.to_path_buf(),
            source,
        };
        out.write_all(&MAGIC).map_err(failed)?;
        match bincode::serde::encode_into_std_write(state, &mut out, format()) {
            Ok(_) => Ok(()),
            Err(bincode::error::EncodeError::Io { inner, .. }) => Err(failed(inner)),
            // only a sequence of unknown length, and there is none
            Err(other) => Err(failed(std::io::Error::other(other))),
        }
    })?)
}

fn sync_folder(folder: &Path) -> Result<(), TrainError> {
    if cfg!(unix) {
        let synced = File::open(folder).and_then(|opened| opened.sync_all());
        synced.map_err(TrainError::io("sync", folder))?;
    }
    Ok(())
}
