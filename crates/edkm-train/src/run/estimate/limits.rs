//! What there is, and the refusal of runs that need more.

use std::path::Path;

use serde::Serialize;

use super::memory::{GRADIENTS, OPTIMIZER, SAVED, TEXT_OF_A_STEP};
use super::Estimate;
use crate::memory::{available_bytes, resident_bytes};
use crate::run::checkpoint::{run_folder, Start};
use crate::TrainError;

/// What there is for a run. `None` where the system does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Memory that the process can still take.
    pub memory_bytes: Option<u64>,
    /// Memory of the device that is free, where tensors lie in a device's.
    pub device_bytes: Option<u64>,
    /// Memory that it holds already.
    pub held_bytes: u64,
    /// Room on the file system of OUT, with what the run's folder already takes of it.
    pub disk_bytes: Option<u64>,
}

impl Limits {
    /// What there is now, for a run that writes `out`.
    pub(super) fn now(out: &Path, device_bytes: Option<u64>) -> Self {
        Self {
            memory_bytes: available_bytes(),
            device_bytes,
            held_bytes: resident_bytes().unwrap_or(0),
            disk_bytes: room(out).map(|room| room.saturating_add(bytes_in(&run_folder(out)))),
        }
    }
}

impl Estimate {
    /// Refuses a run that needs more than there is. The host's memory is not judged where tensors lie in a device's.
    ///
    /// # Errors
    /// [`TrainError::NotEnough`] with the figures, and what can be lowered.
    pub fn check(&self) -> Result<(), TrainError> {
        let Limits {
            memory_bytes,
            device_bytes,
            held_bytes,
            ..
        } = self.limits;
        let (what, needed, there) = match device_bytes {
            Some(_) => ("the GPU's memory", self.memory_bytes, device_bytes),
            None => ("memory", self.memory_bytes.saturating_sub(held_bytes), memory_bytes),
        };
        if let Some(available) = there.filter(|&available| needed > available) {
            return Err(TrainError::NotEnough {
                what,
                needed,
                available,
                lower: self.less_memory(),
            });
        }
        let needed = self.disk_bytes.saturating_add(self.disk_bytes_if_interrupted);
        if let Some(available) = self.limits.disk_bytes.filter(|&available| needed > available) {
            return Err(TrainError::NotEnough {
                what: "disk",
                needed,
                available,
                lower: match self.start {
                    Start::Fresh => "a smaller --keep or fewer --steps, or --out on another disk",
                    Start::Resume => "a smaller --keep, or it more room",
                    Start::Finish => "it more room",
                }
                .to_owned(),
            });
        }
        Ok(())
    }

    /// What would lower the memory most.
    fn less_memory(&self) -> String {
        match self.start {
            Start::Fresh => {}
            Start::Resume => return "--checkpoint-layers, or a --store that spills, or it more memory".to_owned(),
            Start::Finish => return "it more memory".to_owned(),
        }
        let shares = self.peak().map_or(&[][..], |stage| &stage.shares);
        let largest = shares.iter().max_by_key(|share| share.bytes).map(|share| share.what);
        match (largest, &self.largest_data) {
            (Some("data"), Some((path, bytes))) => {
                format!(
                    "less text ({} has {:.1} GiB)",
                    path.display(),
                    *bytes as f64 / (1u64 << 30) as f64
                )
            }
            (Some(TEXT_OF_A_STEP), _) => "a smaller --accumulate".to_owned(),
            (Some(SAVED), _) if self.host_memory.is_some() => "a smaller --device-memory".to_owned(),
            (Some(OPTIMIZER), _) => "--optimizer adamw-8bit, a smaller --batch or --seq, --no-distill".to_owned(),
            (Some(GRADIENTS), _) => "--update-in-backward (without --accumulate)".to_owned(),
            _ => "a smaller --batch (with --accumulate) or --seq, --checkpoint-layers, --no-distill".to_owned(),
        }
    }
}

/// Bytes that may be written beside `out`: on the file system of the nearest folder above it that is there.
#[cfg(unix)]
fn room(out: &Path) -> Option<u64> {
    let out = std::path::absolute(out).ok()?;
    let there = out.ancestors().skip(1).find(|folder| folder.is_dir())?;
    let about = rustix::fs::statvfs(there).ok()?;
    about.f_frsize.checked_mul(about.f_bavail)
}

#[cfg(not(unix))]
fn room(_: &Path) -> Option<u64> {
    None
}

/// Bytes of the files in a folder and those in it; 0 if it is not there.
pub(super) fn bytes_in(folder: &Path) -> u64 {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(about) if about.is_dir() => bytes_in(&entry.path()),
        Ok(about) => about.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::estimate::{Share, StageMemory, When};

    fn estimate(memory_bytes: u64, disk_bytes: u64) -> Estimate {
        Estimate {
            memory_bytes,
            memory: Vec::new(),
            host_memory: None,
            disk_bytes,
            disk: Vec::new(),
            disk_bytes_if_interrupted: 10,
            largest_data: None,
            start: Start::Fresh,
            limits: Limits {
                memory_bytes: Some(1 << 30),
                held_bytes: 1 << 20,
                device_bytes: None,
                disk_bytes: Some(1 << 30),
            },
        }
    }

    #[test]
    fn what_is_not_there_is_refused_with_figures() {
        // what the process holds already is not needed again
        estimate((1 << 30) + (1 << 20), (1 << 30) - 10).check().unwrap();
        for (memory, disk, parts) in [
            ((1 << 30) + (1 << 20) + 1, 0, ["memory", "--checkpoint-layers"]),
            (0, (1 << 30) - 9, ["disk", "--keep"]),
            (5 << 40, 0, ["5.00 TiB", "1.00 GiB"]),
        ] {
            let message = estimate(memory, disk).check().unwrap_err().to_string();
            for part in parts {
                assert!(message.contains(part), "no `{part}` in: {message}");
            }
        }
    }

    /// Of a model whose weights take as much as the gradients.
    #[test]
    fn what_would_lower_the_memory_most_is_said() {
        for (moments, gradients, advice) in [
            (8, 4, "--optimizer adamw-8bit"),
            (2, 4, "--update-in-backward"),
            (2, 1, "--batch"),
        ] {
            let shares = [("weights", 4), (OPTIMIZER, moments), (GRADIENTS, gradients)];
            let shares = shares.map(|(what, bytes)| Share { what, bytes });
            let estimate = Estimate {
                memory: vec![StageMemory::new("training", When::Always, shares.into())],
                ..estimate(5 << 40, 0)
            };
            let message = estimate.check().unwrap_err().to_string();
            assert!(message.contains(advice), "no `{advice}` in: {message}");
        }
    }

    #[test]
    fn a_run_that_goes_on_is_told_what_it_can_still_be_given() {
        for (start, memory, disk) in [
            (Start::Resume, "--checkpoint-layers", "--keep"),
            (Start::Finish, "give it more memory", "give it more room"),
        ] {
            for (bytes, advice) in [((5 << 40, 0), memory), ((0, 5 << 40), disk)] {
                let estimate = Estimate {
                    start,
                    ..estimate(bytes.0, bytes.1)
                };
                let message = estimate.check().unwrap_err().to_string();
                assert!(message.contains(advice) && !message.contains("--seq"), "{message}");
            }
        }
    }

    #[test]
    fn what_a_run_has_written_is_not_needed_again() {
        let dir = tempfile::tempdir().unwrap();
        let (out, checkpoints) = (dir.path().join("out"), dir.path().join("out.run/checkpoints"));
        assert_eq!(bytes_in(&run_folder(&out)), 0);
        std::fs::create_dir_all(&checkpoints).unwrap();
        std::fs::write(dir.path().join("out.run/metrics.jsonl"), [0; 10]).unwrap();
        std::fs::write(checkpoints.join("a"), [0; 1000]).unwrap();
        assert_eq!(bytes_in(&run_folder(&out)), 1010);
    }

    #[test]
    #[cfg(unix)]
    fn room_is_that_of_the_folder_in_which_out_will_be() {
        let dir = tempfile::tempdir().unwrap();
        let (above, deep) = (room(&dir.path().join("out")), room(&dir.path().join("a/b/out")));
        assert!(above.unwrap() > 0 && deep.unwrap() > 0);
    }
}
