//! A run that ended between the moment at which its result was there and the removal of its own folder.
//!
//! Just before OUT takes its place, the checksum of its model and what the run came to are noted in `OUT.run`. Who finds the note and that
//! model at OUT knows that nothing is left to do.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use edkm_llama::checkpoint::MODEL_FILE;
use serde::{Deserialize, Serialize};

use super::{run_folder, RunFolder};
use crate::files::{self, write_whole};
use crate::TrainError;

const NOTE: &str = "result.json";
/// The largest note that is read; one of a model of 100 layers has 100 KB.
const NOTE_LIMIT: u64 = 16 << 20;

/// How a run is found to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Completed {
    /// Its folder was still there, and is removed now; this is what the run came to, as JSON.
    Here(serde_json::Value),
    /// OUT holds a model that a run wrote, and no run that could go on.
    Earlier,
}

#[derive(Serialize, Deserialize)]
struct Note {
    /// XXH3-128 of the model's file, in hexadecimal digits.
    model: String,
    outcome: serde_json::Value,
}

/// Whether the run that writes `out` is done; its folder is removed then.
///
/// # Errors
/// [`TrainError::Running`] if a process works on it; a system that does not read or remove.
pub fn completed(out: &Path) -> Result<Option<Completed>, TrainError> {
    let written = out.join(MODEL_FILE);
    if !run_folder(out).exists() {
        let finished = written.exists() && out.join("metrics.jsonl").exists();
        return Ok(finished.then_some(Completed::Earlier));
    }
    let folder = RunFolder::open_locked(out)?;
    let path = note_path(&folder);
    if !path.exists() || !written.exists() {
        return Ok(None);
    }
    let note = match serde_json::from_slice::<Note>(&files::read_capped(&path, NOTE_LIMIT)?) {
        Ok(note) => note,
        Err(why) => {
            tracing::warn!("{}: {why}; it is passed over", path.display());
            return Ok(None);
        }
    };
    if note.model != digest(&written)? {
        return Ok(None);
    }
    folder.remove()?;
    Ok(Some(Completed::Here(note.outcome)))
}

impl RunFolder {
    /// Notes what the run came to; its model is whole in `built`, which will be OUT.
    pub(crate) fn note_result(&self, built: &Path, outcome: &impl Serialize) -> Result<(), TrainError> {
        let path = note_path(self);
        let failed = |why: serde_json::Error| TrainError::io("write", &path)(why.into());
        let note = Note {
            model: digest(&built.join(MODEL_FILE))?,
            outcome: serde_json::to_value(outcome).map_err(failed)?,
        };
        write_whole(&path, &serde_json::to_vec(&note).map_err(failed)?)
    }
}

fn note_path(folder: &RunFolder) -> PathBuf {
    folder.path().join(NOTE)
}

fn digest(path: &Path) -> Result<String, TrainError> {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    update(&mut hash, files::open(path)?).map_err(TrainError::io("read", path))?;
    Ok(format!("{:032x}", hash.digest128()))
}

/// Adds all of a file to a hash.
pub(super) fn update(hash: &mut xxhash_rust::xxh3::Xxh3, mut file: File) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            read => hash.update(&buffer[..read]),
        }
    }
}
