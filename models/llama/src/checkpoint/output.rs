//! A folder that appears whole or not at all.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::{INDEX_FILE, MODEL_FILE};
use crate::{config::CONFIG_FILE, files, LlamaError};

/// What is done with a folder that already holds something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// It is an error.
    #[default]
    Refuse,
    /// It is replaced, at the very end and as a whole, if it looks like a folder with a model.
    Replace,
}

/// A folder in the making.
///
/// Everything is built in a folder beside the target, `.NAME.partial-...`, which [`commit`](Self::commit) syncs and puts
/// in the target's place. Before that, the target is as it was: absent, empty, or whole. Dropping without a commit
/// removes what was built, unless it is [kept](Self::keep); a process that is killed leaves the folder beside the target, where it may be deleted.
#[derive(Debug)]
pub struct OutputDir {
    target: PathBuf,
    staging: TempDir,
    overwrite: Overwrite,
    /// Whether what was built is in the target's place.
    is_put: bool,
}

impl OutputDir {
    /// Checks that `target` may be written and makes the folder beside it, with its parents.
    ///
    /// # Errors
    /// - [`LlamaError::OutputNoFolder`] if `target` is a file.
    /// - [`LlamaError::OutputForeign`] if it holds what no model folder has, whatever `overwrite` says: a wrong path
    ///   would otherwise delete someone's work.
    /// - [`LlamaError::OutputExists`] if it holds a model while `overwrite` refuses.
    /// - [`LlamaError::Io`] if the system refuses.
    pub fn create(target: impl AsRef<Path>, overwrite: Overwrite) -> Result<Self, LlamaError> {
        let target = resolve(target.as_ref())?;
        check(&target, overwrite)?;
        Self::beside(target, overwrite)
    }

    /// Whether `target` may be written, as [`Self::create`] would find: nothing is made.
    ///
    /// # Errors
    /// Those of [`Self::create`] that it has of `target`.
    pub fn check(target: impl AsRef<Path>, overwrite: Overwrite) -> Result<(), LlamaError> {
        check(&resolve(target.as_ref())?, overwrite)
    }

    /// [`Self::create`] without a look at `target`, which [`commit`](Self::commit) checks: for what has been worked for, and may be
    /// [kept](Self::keep) elsewhere if the target is none any more.
    ///
    /// # Errors
    /// [`LlamaError::Io`] if the system refuses.
    pub fn stage(target: impl AsRef<Path>, overwrite: Overwrite) -> Result<Self, LlamaError> {
        Self::beside(resolve(target.as_ref())?, overwrite)
    }

    fn beside(target: PathBuf, overwrite: Overwrite) -> Result<Self, LlamaError> {
        let parent = files::folder_of(&target);
        fs::create_dir_all(parent).map_err(|source| LlamaError::io("make", parent, source))?;
        let prefix = files::partial_prefix(&target);
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix);
        files::shared_permissions(&mut builder, 0o777);
        let staging = builder
            .tempdir_in(parent)
            .map_err(|source| LlamaError::io("make a folder in", parent, source))?;
        Ok(Self {
            target,
            staging,
            overwrite,
            is_put: false,
        })
    }

    /// Where to build.
    pub fn path(&self) -> &Path {
        self.staging.path()
    }

    /// Where the folder will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Syncs all that was built and puts it in the target's place.
    ///
    /// A target that was not empty is exchanged in one step where the system can (Linux, macOS); elsewhere it is
    /// moved aside first, and for that instant there is none.
    ///
    /// # Errors
    /// As [`create`](Self::create), as the target may have changed meanwhile. The target is then as it was.
    pub fn commit(mut self) -> Result<(), LlamaError> {
        self.put()
    }

    /// [`commit`](Self::commit) of a folder that is left where it is if that fails, to be [kept](Self::keep).
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn put(&mut self) -> Result<(), LlamaError> {
        sync_all(self.staging.path())?;
        check(&self.target, self.overwrite)?;
        let (target, staging) = (&self.target, self.staging.path());
        let moved = |source| LlamaError::io("put the result at", target, source);
        if is_occupied(target)? {
            files::exchange(staging, target).map_err(moved)?;
            // What was the target is now the temporary folder, and goes with it when `self` is dropped.
        } else {
            // An empty folder in the way: renaming replaces it on Unix only.
            if cfg!(windows) && target.exists() {
                fs::remove_dir(target).map_err(moved)?;
            }
            fs::rename(staging, target).map_err(moved)?;
        }
        self.is_put = true;
        files::sync_folder(files::folder_of(&self.target))
    }

    /// Moves what was built, whole or not, to a folder beside the target that is not there yet: `NAME.unfinished`, `NAME.unfinished-2` and so on; where the
    /// system refuses that, it stays where it was built. Gives its path, or `None` where it is in the target's place already.
    pub fn keep(self) -> Option<PathBuf> {
        if self.is_put {
            return None;
        }
        let name = self.target.file_name().unwrap_or_default().to_string_lossy();
        let (mut path, mut number) = (self.target.with_file_name(format!("{name}.unfinished")), 1);
        while fs::symlink_metadata(&path).is_ok() {
            number += 1;
            path = self.target.with_file_name(format!("{name}.unfinished-{number}"));
        }
        let built = self.staging.keep();
        match fs::rename(&built, &path) {
            Ok(()) => Some(path),
            Err(_) => Some(built),
        }
    }
}

/// The files that belong to a model besides its configuration and weights, for programs that load it.
pub const COMPANIONS: [&str; 10] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
];

/// Copies tokenizer and generation settings from one model folder to another, as far as they are there.
///
/// # Errors
/// If one of them cannot be read or written, or is not a regular file.
pub fn copy_companions(from: &Path, to: &Path) -> Result<(), LlamaError> {
    for name in COMPANIONS {
        let source = from.join(name);
        if !files::exists(&source)? {
            continue;
        }
        let (mut file, _) = files::open_regular(&source)?;
        files::replace_file(&to.join(name), |out| {
            io::copy(&mut file, out).map_err(|e| LlamaError::io("copy", &source, e))
        })?;
    }
    Ok(())
}

/// The path without links and dots, so that the folder beside it is on the same file system.
fn resolve(target: &Path) -> Result<PathBuf, LlamaError> {
    let failed = |source| LlamaError::io("find", target, source);
    let path = match files::canonical(target) {
        Ok(path) => path,
        Err(e) if e.kind() == io::ErrorKind::NotFound => std::path::absolute(target).map_err(failed)?,
        Err(e) => return Err(failed(e)),
    };
    let here = std::env::current_dir()
        .and_then(|here| files::canonical(&here))
        .is_ok_and(|here| here.starts_with(&path));
    // A folder that one is in, or the root, cannot be put in another's place.
    if here || path.file_name().is_none() {
        return Err(LlamaError::OutputInUse { path });
    }
    Ok(path)
}

fn is_occupied(target: &Path) -> Result<bool, LlamaError> {
    match fs::read_dir(target) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(LlamaError::io("read", target, source)),
    }
}

fn check(target: &Path, overwrite: Overwrite) -> Result<(), LlamaError> {
    let no_folder = match target {
        _ if target.is_file() => Some("a file"),
        _ if target.is_symlink() => Some("a link that leads nowhere"),
        _ => None,
    };
    if let Some(found) = no_folder {
        return Err(LlamaError::OutputNoFolder {
            path: target.to_owned(),
            found,
        });
    }
    if !is_occupied(target)? {
        return Ok(());
    }
    let failed = |source| LlamaError::io("read", target, source);
    let mut foreign = Vec::new();
    for entry in fs::read_dir(target).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_folder = entry.file_type().map_err(failed)?.is_dir();
        if !belongs(&entry.file_name(), is_folder) {
            foreign.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    if !files::exists(&target.join(CONFIG_FILE))? && foreign.is_empty() {
        foreign.push(format!("no {CONFIG_FILE}"));
    }
    if foreign.is_empty() {
        return match overwrite {
            Overwrite::Replace => Ok(()),
            Overwrite::Refuse => Err(LlamaError::OutputExists {
                path: target.to_owned(),
            }),
        };
    }
    foreign.sort();
    Err(LlamaError::OutputForeign {
        path: target.to_owned(),
        entries: foreign,
    })
}

/// What the project's programs write into a model folder besides the model and its [`COMPANIONS`].
const RECORDS: [&str; 6] = [
    "layers.toml",
    "report.html",
    "result.json",
    "compress.json",
    "metrics.jsonl",
    "log.txt",
];

/// Whether a file of this name is one of a model folder. What somebody else put there is not, so that it is not replaced.
fn belongs(name: &OsStr, is_folder: bool) -> bool {
    let Some(name) = name.to_str().filter(|_| !is_folder) else {
        return false;
    };
    let is_shard = name.starts_with("model-") && name.ends_with(".safetensors");
    is_shard
        || [CONFIG_FILE, MODEL_FILE, INDEX_FILE].contains(&name)
        || COMPANIONS.contains(&name)
        || RECORDS.contains(&name)
}

/// Makes everything below a folder durable.
fn sync_all(folder: &Path) -> Result<(), LlamaError> {
    let failed = |source| LlamaError::io("sync", folder, source);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        match entry.file_type().map_err(failed)? {
            kind if kind.is_dir() => sync_all(&entry.path())?,
            kind if kind.is_file() => {
                // Windows flushes only handles that may write.
                let file = File::options()
                    .read(true)
                    .write(cfg!(windows))
                    .open(entry.path())
                    .map_err(failed)?;
                file.sync_all().map_err(failed)?;
            }
            _ => {}
        }
    }
    files::sync_folder(folder)
}

#[cfg(test)]
mod tests;
