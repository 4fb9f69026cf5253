//! Who listens to the program's spans and events: standard error, the log of a run, a trace file, the account of a step's phases.

use std::io::{IsTerminal, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use edkm_llama::files::canonical;
use edkm_train::bench::phases::{Phase, PhaseTimes};
use edkm_train::run::checkpoint::run_folder;
use tempfile::NamedTempFile;
use tracing::level_filters::LevelFilter;
use tracing_chrome::{ChromeLayerBuilder, FlushGuard, TraceStyle};
use tracing_subscriber::filter::{filter_fn, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::args::Command;
use crate::console::note;
use crate::run_log::{RunLog, PROGRESS};
use crate::written_over::Written;

/// A trace that is being written, beside the file that it will be.
pub struct Trace {
    guard: FlushGuard,
    file: NamedTempFile,
    path: PathBuf,
}

/// A trace of nothing.
const WITHOUT_EVENTS: &str = "[\n\n]";

impl Trace {
    /// Writes what is left and puts the file in its place. Where nothing was traced, as the work failed before, or was done already and there is a trace of it,
    /// that place stays as it was.
    ///
    /// # Errors
    /// A system that does not write.
    pub fn finish(self, worked: bool) -> Result<(), super::commands::Failure> {
        drop(self.guard);
        let is_empty = self.file.as_file().metadata()?.len() <= WITHOUT_EVENTS.len() as u64;
        if is_empty && (!worked || self.path.exists()) {
            return Ok(());
        }
        self.file.as_file().sync_all()?;
        if !is_whole(&self.file)? {
            let path = self.path.display();
            return Err(format!("cannot write the trace {path}: it ends in the middle; is the disk full?").into());
        }
        self.file
            .persist(&self.path)
            .map_err(|error| format!("cannot write the trace {}: {}", self.path.display(), error.error))?;
        Ok(())
    }
}

/// Whether a trace ends as it should: who writes it tells nobody that it could not.
fn is_whole(file: &NamedTempFile) -> std::io::Result<bool> {
    let mut file = file.reopen()?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(8)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(end.trim_ascii_end().ends_with(b"]"))
}

/// Sets up the subscriber. Without a trace file and an account no span is on: its cost is the comparison of a level.
///
/// # Errors
/// A trace file that cannot be made, or would replace something else.
pub fn init(
    command: &Command,
    phases: Option<PhaseTimes>,
    log: &RunLog,
) -> Result<Option<Trace>, super::commands::Failure> {
    let (layer, trace) = match command.trace() {
        None => (None, None),
        Some(path) => {
            Written::Trace.check(path, &command.inputs())?;
            let cannot = |error: std::io::Error| format!("cannot write the trace {}: {error}", path.display());
            let place = place(path).map_err(cannot)?;
            let folder = place.parent().unwrap_or(&place);
            if !folder.is_dir() {
                let (folder, path) = (folder.display(), path.display());
                return Err(
                    format!("cannot write the trace {path}: there is no folder {folder}; make it first").into(),
                );
            }
            if let Some(whole) = command.out().and_then(|out| folder_around(&place, out)) {
                let (path, whole) = (path.display(), whole.display());
                return Err(format!(
                    "cannot write the trace {path} into {whole}, which appears as a whole: name a file outside it"
                )
                .into());
            }
            let file = new_file(folder).map_err(cannot)?;
            let writer = std::io::BufWriter::new(file.reopen().map_err(cannot)?);
            let (layer, guard) = ChromeLayerBuilder::new()
                .writer(writer)
                .include_args(true)
                .trace_style(TraceStyle::Threaded)
                .build();
            // the names of our crates begin so
            let ours = ["dfdx_edkm", "edkm"];
            let filter = Targets::new().with_targets(ours.map(|target| (target, LevelFilter::TRACE)));
            let trace = Trace {
                guard,
                file,
                path: place,
            };
            (Some(layer.with_filter(filter)), Some(trace))
        }
    };
    let phases = phases.map(|phases| {
        phases.with_filter(filter_fn(|metadata| {
            metadata.is_span() && Phase::of_span(metadata.name()).is_some()
        }))
    });
    let wanted = wanted();
    let filter = |default| EnvFilter::new(wanted.as_deref().unwrap_or(default));
    let messages = tracing_subscriber::fmt::layer()
        // consoles of Windows before its version 10 show the codes themselves, and later ones do where they are not asked first
        .with_ansi(cfg!(unix) && std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let messages = match &wanted {
        Some(_) => messages.boxed(),
        // for people, as the notes beside them
        None => messages.without_time().with_target(false).boxed(),
    };
    let messages = messages
        .with_filter(filter("warn"))
        .with_filter(filter_fn(|metadata| metadata.target() != PROGRESS));
    let progress = format!("{PROGRESS}=info").parse()?;
    let of_run = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(log.clone())
        // whatever else is wanted, what a run was started with and what it came to
        .with_filter(filter("info").add_directive(progress));
    tracing_subscriber::registry()
        .with(layer)
        .with(phases)
        .with(messages)
        .with(of_run)
        .init();
    // Tokenizers say at the lowest level of the crate `log` what they do to each character: that nobody hears it is to be known before it is passed on.
    let heard = filter("info").max_level_hint().unwrap_or(LevelFilter::TRACE);
    log::set_max_level(heard.to_string().parse()?);
    Ok(trace)
}

/// What `RUST_LOG` asks for; `None` if it is not set, or empty, or says nothing that can be understood.
fn wanted() -> Option<String> {
    let text = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    match (text.trim(), EnvFilter::try_new(&text)) {
        ("", _) => None,
        (_, Ok(_)) => Some(text),
        (_, Err(why)) => {
            note(format_args!(
                "RUST_LOG={text}: {why}; it is passed over (write a level, as in RUST_LOG=debug)"
            ));
            None
        }
    }
}

/// Where the file at `path` lies, wherever the process goes: behind links, if it is there.
fn place(path: &Path) -> std::io::Result<PathBuf> {
    match canonical(path) {
        Ok(found) => Ok(found),
        Err(_) => std::path::absolute(path),
    }
}

/// The folder of a run, or that of its checkpoints, if the file at `place` would lie in it.
fn folder_around(place: &Path, out: &Path) -> Option<PathBuf> {
    let out = std::path::absolute(out).ok()?;
    let mut folders = [run_folder(&out), out].into_iter();
    folders.find(|folder| {
        let behind_links = canonical(folder);
        place.starts_with(folder) || behind_links.is_ok_and(|folder| place.starts_with(folder))
    })
}

/// A temporary file that others may read, as far as the process's mask lets them, once it is in its place.
fn new_file(folder: &Path) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".edkm-trace-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}
