//! What a run was started with, kept in its folder so that `--resume OUT` needs nothing else.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Parser;
use edkm_train::run::checkpoint::{run_folder, RunFolder};
use edkm_train::run::LayerRules;
use serde::{Deserialize, Serialize};

use crate::args::{self, Args, Changes, Command, FinetuneArgs};
use crate::commands::Failure;
use crate::console::note;

/// A command line, where it was given, and the folder that it writes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Started {
    arguments: Vec<String>,
    pub folder: PathBuf,
    /// The folder that the run writes, absolute.
    pub out: Option<PathBuf>,
    /// The rules of `--layers` as they were read, as TOML: the file may be another by now.
    #[serde(default)]
    layers: Option<String>,
    /// What was changed when the run went on.
    #[serde(default)]
    changes: Changes,
}

impl Started {
    /// The command line of this process.
    pub fn now() -> Result<Self, Failure> {
        Ok(Self {
            arguments: std::env::args_os().map(unicode).collect::<Result<_, _>>()?,
            folder: std::env::current_dir()?,
            out: None,
            layers: None,
            changes: Changes::default(),
        })
    }

    /// Whether the run that writes `out` was asked for JSON, as far as that is still known.
    pub fn with_json(out: &Path) -> bool {
        Self::parsed(out).is_ok_and(|(args, _)| args.json)
    }

    /// That of the run that writes `out`. Its paths are relative to where it was started, and this process goes there; if that folder is gone, or
    /// may not be entered, they are relative to where this process is.
    pub fn read(out: &Path) -> Result<(FinetuneArgs, Self), Failure> {
        let (args, mut started) = Self::parsed(out)?;
        // it may be gone itself
        let here = std::env::current_dir();
        if here.as_ref().is_ok_and(|here| started.folder == *here) {
            return Ok((args, started));
        }
        let is_closed = match std::env::set_current_dir(&started.folder) {
            Ok(()) => {
                note(format_args!(
                    "paths of the run begin in {}, where it was started",
                    started.folder.display()
                ));
                return Ok((args, started));
            }
            Err(why) if why.kind() == ErrorKind::NotFound => "is not there any more",
            Err(why) if why.kind() == ErrorKind::PermissionDenied => "may not be entered",
            Err(why) => {
                return Err(format!(
                    "cannot go to {}, where the run was started and its paths begin: {why}",
                    started.folder.display()
                )
                .into())
            }
        };
        let here = here.map_err(|_| {
            format!(
                "{}, where the run was started, {is_closed}, and this folder is gone too: resume it from another one",
                started.folder.display()
            )
        })?;
        note(format_args!(
            "{}, where the run was started, {is_closed}: its paths begin here, in {}",
            started.folder.display(),
            here.display()
        ));
        started.folder = here;
        Ok((args, started))
    }

    fn parsed(out: &Path) -> Result<(FinetuneArgs, Self), Failure> {
        let folder = RunFolder::open(&std::path::absolute(out)?);
        let unusable = |why: &dyn std::fmt::Display| format!("{}: {why}", folder.arguments_path().display());
        let arguments = folder.arguments()?;
        if arguments.is_empty() {
            return Err(
                unusable(&"the run was not started by this program, and only what started it knows how").into(),
            );
        }
        let mut started: Self = serde_json::from_str(&arguments).map_err(|why| unusable(&why))?;
        // The folder may have been moved since.
        started.out = Some(std::path::absolute(out)?);
        let args = Args::try_parse_from(&started.arguments).map_err(|why| unusable(&why))?;
        let args = match args.command {
            Command::Finetune(args) if args.resume.is_none() => args,
            Command::Finetune(_) => return Err(unusable(&"a run cannot have been started by --resume").into()),
            _ => return Err(unusable(&"not what finetune was started with").into()),
        };
        Ok((*args, started))
    }

    /// What a run was to write, if it is named by the folder of its checkpoints.
    pub fn out_of(named: &Path) -> PathBuf {
        let out = named.with_extension("");
        let is_folder_of_run = match named.exists() {
            true => named.is_dir(),
            // it goes when the run is done
            false => out.is_dir(),
        };
        match run_folder(&out) == named && is_folder_of_run && !run_folder(named).exists() {
            true => out,
            false => named.to_path_buf(),
        }
    }

    /// With the steps that `--epochs` came to, in its place: a run that goes on takes as many.
    pub fn with_steps(mut self, steps: u64) -> Self {
        let is_epochs = |argument: &String| argument == "--epochs" || argument.starts_with("--epochs=");
        let mut instead = vec!["--steps".to_owned(), steps.to_string()];
        // said twice, the last one holds
        while let Some(at) = self.arguments.iter().rposition(is_epochs) {
            let with_value = if self.arguments[at] == "--epochs" { 2 } else { 1 };
            let end = self.arguments.len().min(at + with_value);
            self.arguments.splice(at..end, instead.drain(..));
        }
        self
    }

    /// With what is changed from now on, in `args` too.
    ///
    /// # Errors
    /// Changes of what the run does not have; what it reads, where it is not.
    pub fn with_changes(self, changes: Changes, args: &mut FinetuneArgs) -> Result<Self, Failure> {
        changes.check(args)?;
        let changes = changes.or(self.changes);
        changes.make(args);
        args::check_there(args)?;
        Ok(Self { changes, ..self })
    }

    /// With the rules for single layers.
    pub fn with_layers(self, rules: &LayerRules) -> Self {
        Self {
            layers: Some(rules.to_toml()),
            ..self
        }
    }

    /// The rules for single layers that the run began with.
    ///
    /// # Errors
    /// A text that is none of them.
    pub fn layers(&self) -> Result<LayerRules, Failure> {
        Ok(LayerRules::from_toml(self.layers.as_deref().unwrap_or_default())?)
    }

    /// As JSON, with the folder that is written.
    pub fn with_out(&self, out: &Path) -> Result<String, serde_json::Error> {
        serde_json::to_string(&Self {
            out: Some(out.to_path_buf()),
            ..self.clone()
        })
    }
}

/// An argument that is kept with the run, which is text.
///
/// # Errors
/// One that is not Unicode, by name.
pub fn unicode(argument: OsString) -> Result<String, String> {
    let said = |argument: OsString| format!("{:?} is not Unicode", argument.to_string_lossy());
    argument.into_string().map_err(said)
}
