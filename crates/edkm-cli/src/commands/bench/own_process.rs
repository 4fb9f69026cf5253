//! Memory is measured in a process that does one thing alone. On a GPU everything is: kernels that fail there fail for the rest of their process.

use std::io::Write;
use std::process::{Command, Output};

use serde::de::DeserializeOwned;

use crate::commands::Failure;

/// For glibc's allocator: freed memory goes back to the system at once.
const FREED_MEMORY_GOES_BACK: [(&str, &str); 2] =
    [("MALLOC_MMAP_THRESHOLD_", "65536"), ("MALLOC_TRIM_THRESHOLD_", "0")];

/// What becomes of memory that the process frees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freed {
    /// It goes back to the system at once: resident memory is what is held. To ask for fresh pages over and over takes time.
    GoesBack,
    /// What the allocator likes.
    IsKept,
}

/// Runs `edkm bench ARGUMENTS` and reads the JSON that it prints; `what` is measured.
///
/// # Errors
/// A process that fails, with what it said last.
pub(super) fn measure<T: DeserializeOwned>(
    arguments: impl IntoIterator<Item = String>,
    freed: Freed,
    what: &str,
) -> Result<T, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("bench").args(arguments);
    if freed == Freed::GoesBack {
        command.envs(FREED_MEMORY_GOES_BACK);
    }
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("measuring {what} failed: {}", reason(&output)).into());
    }
    // warnings; where nobody can read them the work goes on without
    let _ = std::io::stderr().write_all(&output.stderr);
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The last line that a process has left, but for a panic's stack and hint, and how it ended.
fn reason(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let said = text
        .lines()
        .map(str::trim)
        .take_while(|line| *line != "stack backtrace:")
        .filter(|line| !line.is_empty() && !line.starts_with("note: "))
        .last();
    match said {
        Some(line) => format!("{} ({})", line.strip_prefix("error: ").unwrap_or(line), output.status),
        None => output.status.to_string(),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn a_reason_is_what_the_process_said_and_no_part_of_a_stack() {
        let said = |stderr: &str| {
            reason(&Output {
                status: ExitStatus::from_raw(6),
                stdout: Vec::new(),
                stderr: stderr.into(),
            })
        };
        let stack = "stack backtrace:\n   0: rust_oom\n             at library/std/src/alloc.rs:439:9\nnote: Some details are omitted\n";
        for (stderr, expected) in [
            ("warning: x\nerror: no such thing\n", "no such thing"),
            (
                &format!("memory allocation of 8 bytes failed\n{stack}"),
                "memory allocation of 8 bytes failed",
            ),
            (
                "thread 'main' panicked at a.rs:1:2:\nno good\nnote: run with `RUST_BACKTRACE=1`\n",
                "no good",
            ),
        ] {
            let reason = said(stderr);
            assert!(reason.starts_with(expected), "{reason}");
        }
        assert!(said("").contains("signal"));
    }
}
