//! Model folders that mean harm, or were harmed: each must end in an error that names the fault, at once and in little memory.
//!
//! One process and one test, so that the peak of resident memory can be measured for each folder.

mod corpus;

use std::{
    fs,
    path::Path,
    sync::LazyLock,
    time::{Duration, Instant},
};

use edkm_llama::{checkpoint::Checkpoint, config::LlamaConfig, names, LlamaError};

/// What loading does, up to the last weight.
fn load(dir: &Path) -> Result<(), LlamaError> {
    let config = LlamaConfig::read(dir)?;
    let checkpoint = Checkpoint::open(dir)?;
    checkpoint.verify(&config)?;
    for parameter in names::parameters(&config) {
        checkpoint.weight(&parameter.name, &parameter.shape)?;
    }
    Ok(())
}

#[test]
fn every_hostile_folder_is_refused_quickly_and_in_little_memory() {
    const TIME: Duration = Duration::from_secs(1);
    const MEMORY: u64 = 200 << 20;

    let valid = tempfile::tempdir().unwrap();
    corpus::valid_folder(valid.path());
    load(valid.path()).expect("the folder that is not harmed loads");
    let palettized = tempfile::tempdir().unwrap();
    corpus::palettized_folder(palettized.path());
    load(palettized.path()).expect("and so does its palettized sibling");

    let cases = corpus::cases();
    assert!(cases.len() >= 60, "{} cases", cases.len());
    let count = cases.len();
    let mut worst = (Duration::ZERO, 0);
    for case in cases {
        let dir = tempfile::tempdir().unwrap();
        (case.make)(dir.path());
        reset_peak_memory();
        let start = processor_time();
        let result = load(dir.path());
        let (time, memory) = (processor_time() - start, peak_memory());
        let message = match result {
            Ok(()) => panic!("{}: accepted", case.name),
            Err(error) => error.to_string(),
        };
        assert!(message.contains(case.expect), "{}: {message}", case.name);
        assert!(
            message.len() < 4096,
            "{}: a message of {} bytes",
            case.name,
            message.len()
        );
        assert!(time < TIME, "{}: took {time:?}", case.name);
        if let Some(memory) = memory {
            assert!(memory < MEMORY, "{}: took {} MB", case.name, memory >> 20);
        }
        worst = (worst.0.max(time), worst.1.max(memory.unwrap_or(0)));
    }
    println!("{count} folders; at most {:?} and {} MB each", worst.0, worst.1 >> 20);
}

/// The time that this thread has run, where Linux tells it: on a busy machine the clock on the wall says nothing.
fn processor_time() -> Duration {
    let run = || {
        fs::read_to_string("/proc/thread-self/schedstat")
            .ok()?
            .split(' ')
            .next()?
            .parse()
            .ok()
    };
    match run() {
        Some(nanoseconds) => Duration::from_nanos(nanoseconds),
        None => STARTED.elapsed(),
    }
}

static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Linux keeps the peak of resident memory of a process, and can be asked to forget it.
fn reset_peak_memory() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// In bytes; unknown elsewhere.
fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}
