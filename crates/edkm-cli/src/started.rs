//! What a run was started with, kept in its folder so that `--resume OUT` needs nothing else.

use std::path::{Path, PathBuf};

use clap::Parser;
use edkm_train::run::checkpoint::RunFolder;
use serde::{Deserialize, Serialize};

use crate::args::{Args, Command, FinetuneArgs};
use crate::commands::Failure;

/// A command line, where it was given, and the folder that it writes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Started {
    arguments: Vec<String>,
    folder: PathBuf,
    /// The folder that the run writes, absolute.
    pub out: Option<PathBuf>,
}

impl Started {
    /// The command line of this process.
    pub fn now() -> Result<Self, Failure> {
        let text = |argument: std::ffi::OsString| {
            let lossy = argument.to_string_lossy().into_owned();
            argument.into_string().map_err(|_| format!("{lossy:?} is not Unicode"))
        };
        Ok(Self {
            arguments: std::env::args_os().map(text).collect::<Result<_, _>>()?,
            folder: std::env::current_dir()?,
            out: None,
        })
    }

    /// That of the run that writes `out`. Its paths are relative to where it was started, and this process goes there.
    pub fn read(out: &Path) -> Result<(FinetuneArgs, Self), Failure> {
        let text = RunFolder::open(&std::path::absolute(out)?).arguments()?;
        let mut started: Self = serde_json::from_str(&text)
            .map_err(|why| format!("the arguments of the run of {}: {why}", out.display()))?;
        // The folder may have been moved since.
        started.out = Some(std::path::absolute(out)?);
        std::env::set_current_dir(&started.folder)
            .map_err(|why| format!("cannot go to {}: {why}", started.folder.display()))?;
        match Args::try_parse_from(&started.arguments)?.command {
            Command::Finetune(args) => Ok((*args, started)),
            _ => Err(format!("{} was not written by finetune", out.display()).into()),
        }
    }

    /// As JSON, with the folder that is written.
    pub fn with_out(self, out: &Path) -> Result<String, serde_json::Error> {
        serde_json::to_string(&Self {
            out: Some(out.to_path_buf()),
            ..self
        })
    }
}
