//! Ctrl-C, the signal to terminate and that of a terminal that is gone: what the first one does is said at once, the second one ends the process.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use edkm_train::run::Stage;
use indicatif::ProgressBar;

use crate::console::note;

/// The exit code of work that was interrupted.
pub const INTERRUPTED: u8 = 130;

/// How soon a signal is acknowledged while the work looks for none. (To wait for one without looking is not possible on every system.)
const LOOKS_EVERY: Duration = Duration::from_millis(50);

/// Signals that follow the first so soon are taken for the same one: some programs (`timeout`) send theirs to a process and to its group.
const TAKEN_FOR_ONE: Duration = Duration::from_millis(500);

/// Whether the work shall end. By default nobody listens, and the signals do what they do.
#[derive(Default)]
pub struct Interrupts {
    asked: Arc<AtomicBool>,
    shown: Arc<Mutex<Shown>>,
}

/// What the user sees when a signal comes.
#[derive(Default)]
struct Shown {
    stage: Option<Stage>,
    bar: Option<ProgressBar>,
    acknowledged: bool,
}

impl Interrupts {
    /// Listens from now on.
    ///
    /// # Errors
    /// A system that refuses.
    pub fn listen() -> std::io::Result<Self> {
        let interrupts = Self::default();
        let ends_at_once = Arc::new(AtomicBool::new(false));
        register(&interrupts.asked, &ends_at_once)?;
        let (asked, shown) = (interrupts.asked.clone(), interrupts.shown.clone());
        std::thread::Builder::new()
            .name("interrupts".to_owned())
            .spawn(move || {
                while !asked.load(Ordering::Relaxed) {
                    std::thread::sleep(LOOKS_EVERY);
                }
                // by itself: where nobody reads standard error it waits for ever
                let acknowledge = move || shown.lock().unwrap_or_else(PoisonError::into_inner).acknowledge();
                let _ = std::thread::Builder::new().spawn(acknowledge);
                std::thread::sleep(TAKEN_FOR_ONE);
                ends_at_once.store(true, Ordering::Relaxed);
            })?;
        Ok(interrupts)
    }

    /// Whether a signal has come, which is acknowledged then.
    pub fn asked(&self) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        if asked {
            self.shown().acknowledge();
        }
        asked
    }

    /// A part of the work begins.
    pub fn enter(&self, stage: Stage) {
        self.shown().stage = Some(stage);
    }

    /// The bar that is on the screen now.
    pub fn show_above(&self, bar: Option<ProgressBar>) {
        self.shown().bar = bar;
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Outlives the signal of a file that has reached the size that files may have (`ulimit -f`): the write fails instead, and is treated as others that fail.
#[cfg(unix)]
pub fn outlive_file_limits() -> std::io::Result<()> {
    let nobody_asks = Arc::default();
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, nobody_asks).map(drop)
}

/// There is no such signal.
#[cfg(not(unix))]
pub fn outlive_file_limits() -> std::io::Result<()> {
    Ok(())
}

/// Has signals set `asked`, or end the process once `ends_at_once` is set.
#[cfg(unix)]
fn register(asked: &Arc<AtomicBool>, ends_at_once: &Arc<AtomicBool>) -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::flag;
    for signal in [SIGINT, SIGTERM].into_iter().chain(hangup()) {
        flag::register_conditional_shutdown(signal, INTERRUPTED.into(), ends_at_once.clone())?;
        flag::register(signal, asked.clone())?;
    }
    Ok(())
}

/// The same for Ctrl-C and Ctrl-Break. A console that is closed, a session or a system that ends leave no time for more.
#[cfg(windows)]
fn register(asked: &Arc<AtomicBool>, ends_at_once: &Arc<AtomicBool>) -> std::io::Result<()> {
    let (asked, ends_at_once) = (asked.clone(), ends_at_once.clone());
    let handler = move || match ends_at_once.load(Ordering::Relaxed) {
        true => std::process::exit(INTERRUPTED.into()),
        false => asked.store(true, Ordering::Relaxed),
    };
    ctrlc::set_handler(handler).map_err(std::io::Error::other)
}

/// The signal of a terminal that is gone, unless it is to be ignored (`nohup`), which Linux tells.
#[cfg(target_os = "linux")]
fn hangup() -> Option<i32> {
    use signal_hook::consts::SIGHUP;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    let ignored = u64::from_str_radix(ignored.trim(), 16).ok()?;
    (ignored & 1 << (SIGHUP - 1) == 0).then_some(SIGHUP)
}

#[cfg(all(unix, not(target_os = "linux")))]
fn hangup() -> Option<i32> {
    None
}

impl Shown {
    /// Once.
    fn acknowledge(&mut self) {
        if std::mem::replace(&mut self.acknowledged, true) {
            return;
        }
        let line = format!("interrupted: {}; once more ends it at once", what_follows(self.stage));
        let say = || note(&line);
        match &self.bar {
            Some(bar) => bar.suspend(say),
            None => say(),
        }
    }
}

/// What the first signal does in a part of the work.
fn what_follows(stage: Option<Stage>) -> &'static str {
    match stage {
        Some(Stage::Train) => "the run ends after this step, with a checkpoint",
        Some(Stage::Save | Stage::EvaluateAfter) => "what is left is done first, since it is little",
        Some(
            Stage::LoadModel
            | Stage::LoadData
            | Stage::ChooseBits
            | Stage::EvaluateBefore
            | Stage::EvaluateBaselines
            | Stage::Compress
            | Stage::Export,
        )
        | None => "the run ends after what is being computed",
    }
}
