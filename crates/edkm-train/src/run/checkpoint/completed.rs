//! What a run came to, for who asks again.
//!
//! OUT has it in `result.json`. A run may end between the moment at which OUT is there and the removal of its own folder; so just before OUT takes its
//! place, the checksum of its model is noted in `OUT.run`. Who finds that note and that model at OUT knows that nothing is left to do.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use edkm_llama::checkpoint::MODEL_FILE;
use serde::{Deserialize, Serialize};

use super::folder::sweep;
use super::RunFolder;
use crate::files::{self, write_whole};
use crate::TrainError;

/// The file in OUT with the figures of the run.
const FIGURES: &str = "result.json";
pub(super) const WRITTEN: &str = "written.json";
/// The largest file of either kind that is read; the figures of a model of 100 layers take 100 KB.
const LIMIT: u64 = 16 << 20;

#[derive(Serialize, Deserialize)]
struct Note {
    /// XXH3-128 of the model's file, in hexadecimal digits.
    model: String,
}

/// The figures of the run that wrote `out`, as JSON, if nothing of it is left to do. Its own folder, if it is still there, is removed then.
///
/// # Errors
/// [`TrainError::Running`] if a process works on it; figures that are no JSON; a system that does not read or remove.
pub fn completed(out: &Path) -> Result<Option<serde_json::Value>, TrainError> {
    let (model, path) = (out.join(MODEL_FILE), out.join(FIGURES));
    let folder = match RunFolder::open(out).has_begun() {
        true => Some(RunFolder::open_locked(out)?),
        false => None,
    };
    if !model.exists() || !path.exists() {
        return Ok(None);
    }
    if let Some(folder) = &folder {
        if !folder.has_written(&model)? {
            return Ok(None);
        }
    }
    let bytes = files::read_capped(&path, LIMIT)?;
    let figures = serde_json::from_slice(&bytes).map_err(|why| TrainError::io("read", &path)(why.into()))?;
    if let Some(folder) = folder {
        folder.remove()?;
    }
    sweep(out);
    Ok(Some(figures))
}

impl RunFolder {
    /// Writes what the run came to into `built`, which will be OUT, and notes here which model is there.
    pub(crate) fn note_result(&self, built: &Path, outcome: &impl Serialize) -> Result<(), TrainError> {
        let path = built.join(FIGURES);
        let mut text = serde_json::to_vec(outcome).map_err(|why| TrainError::io("write", &path)(why.into()))?;
        text.push(b'\n');
        write_whole(&path, &text)?;
        let model = digest(&built.join(MODEL_FILE))?;
        write_json(&note_path(self), &Note { model })
    }

    /// Whether `model` is what this run wrote in the end.
    fn has_written(&self, model: &Path) -> Result<bool, TrainError> {
        let path = note_path(self);
        if !path.exists() {
            return Ok(false);
        }
        match serde_json::from_slice::<Note>(&files::read_capped(&path, LIMIT)?) {
            Ok(note) => Ok(note.model == digest(model)?),
            Err(why) => {
                tracing::warn!("{}: {why}; it is passed over", path.display());
                Ok(false)
            }
        }
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), TrainError> {
    let bytes = serde_json::to_vec(value).map_err(|why| TrainError::io("write", path)(why.into()))?;
    write_whole(path, &bytes)
}

fn note_path(folder: &RunFolder) -> PathBuf {
    folder.path().join(WRITTEN)
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
