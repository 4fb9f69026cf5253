//! The files of a checkpoint, and how it is told whether they are whole.

use std::fs;
use std::path::Path;

use edkm_llama::checkpoint::{Access, Checkpoint};
use edkm_llama::files::replace_file;
use edkm_llama::LlamaError;

use super::completed::update;
use super::RunState;
use crate::files;
use crate::TrainError;

pub(super) const PARAMETERS: &str = "parameters.safetensors";
pub(super) const MOMENTS: &str = "moments.safetensors";
pub(super) const STATE: &str = "state.bin";
pub(super) const CHECKSUM: &str = "xxh3";
/// The beginning of `state.bin`: what it is, and the version of what follows (bincode 2, fixed-size little-endian integers).
const MAGIC: [u8; 12] = *b"edkm run\x09\0\0\0";

type Format = bincode::config::Configuration<bincode::config::LittleEndian, bincode::config::Fixint>;

fn format() -> Format {
    bincode::config::standard().with_fixed_int_encoding()
}

/// The state takes the palettes, at most a fraction of the parameters; a file far beyond is not one, and would fill the memory.
fn check_sizes(folder: &Path) -> Result<(), TrainError> {
    const REST: u64 = 64 << 20;
    let length = |name| {
        let path = folder.join(name);
        fs::metadata(&path)
            .map(|data| data.len())
            .map_err(TrainError::io("read", &path))
    };
    let (parameters, state) = (length(PARAMETERS)?, length(STATE)?);
    if state > parameters.saturating_add(REST) {
        let reason = format!("{state} bytes, too many for a run of {parameters} bytes of parameters");
        return Err(damaged(&folder.join(STATE), &reason));
    }
    // a header says how long the file has to be
    for name in [PARAMETERS, MOMENTS] {
        Checkpoint::open_file(folder.join(name), Access::Read)?;
    }
    Ok(())
}

/// The state of a checkpoint that is whole.
pub(super) fn read_state(folder: &Path) -> Result<RunState, TrainError> {
    check_sizes(folder)?;
    let expected = files::read_capped(&folder.join(CHECKSUM), 64)?;
    if expected != checksum(folder)?.as_bytes() {
        return Err(damaged(folder, "the checksum does not fit: it is torn or was altered"));
    }
    let path = folder.join(STATE);
    let length = fs::metadata(&path).map_err(TrainError::io("read", &path))?.len();
    let bytes = files::read_capped(&path, length)?;
    let Some(body) = bytes.strip_prefix(&MAGIC) else {
        return Err(damaged(
            &path,
            "not the state of a run, or of another version of the format",
        ));
    };
    let (state, used) = decode(body).map_err(|why| damaged(&path, &why.to_string()))?;
    match used == body.len() {
        true => Ok(state),
        false => Err(damaged(&path, "bytes behind the end")),
    }
}

/// Decodes a state. A length in it is allocated before its bytes are read, so no length may be much more than there are bytes; bincode wants
/// the limit at compile time.
fn decode(body: &[u8]) -> Result<(RunState, usize), bincode::error::DecodeError> {
    const MIB: usize = 1 << 20;
    match body.len() / MIB {
        0..4 => bincode::serde::decode_from_slice(body, format().with_limit::<{ 4 * MIB }>()),
        4..64 => bincode::serde::decode_from_slice(body, format().with_limit::<{ 64 * MIB }>()),
        64..1024 => bincode::serde::decode_from_slice(body, format().with_limit::<{ 1024 * MIB }>()),
        1024..16_384 => bincode::serde::decode_from_slice(body, format().with_limit::<{ 16_384 * MIB }>()),
        _ => bincode::serde::decode_from_slice(body, format().with_limit::<{ 16_384 * 256 * MIB }>()),
    }
}

/// XXH3-128 over lengths and contents of the files of a checkpoint, as hexadecimal digits.
pub(super) fn checksum(folder: &Path) -> Result<String, TrainError> {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    for name in [PARAMETERS, MOMENTS, STATE] {
        let path = folder.join(name);
        let file = files::open(&path)?;
        let failed = |why| TrainError::io("read", &path)(why);
        hash.update(&file.metadata().map_err(failed)?.len().to_le_bytes());
        update(&mut hash, file).map_err(failed)?;
    }
    Ok(format!("{:032x}", hash.digest128()))
}

pub(super) fn damaged(path: &Path, reason: &str) -> TrainError {
    TrainError::RunCheckpoint {
        path: path.to_path_buf(),
        reason: reason.to_owned(),
    }
}

/// Writes a state as it is encoded: encoded as a whole it would take as much memory again.
pub(super) fn write_state(path: &Path, state: &RunState) -> Result<(), TrainError> {
    Ok(replace_file(path, |mut out| {
        let failed = |source| LlamaError::Io {
            action: "write",
            path: path.to_path_buf(),
            source,
        };
        out.write_all(&MAGIC).map_err(failed)?;
        match bincode::serde::encode_into_std_write(state, &mut out, format()) {
            Ok(_) => Ok(()),
            Err(bincode::error::EncodeError::Io { inner, .. }) => Err(failed(inner)),
            // only a sequence of unknown length, and there is none
            Err(other) => Err(failed(std::io::Error::other(other))),
        }
    })?)
}

#[cfg(test)]
mod tests {
    use super::MAGIC;

    #[test]
    fn the_list_of_files_has_the_version_that_is_written() {
        let list = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/support.md");
        let list = std::fs::read_to_string(list).expect("the list of what is supported");
        let row = format!("| run checkpoints (`OUT.run/checkpoints/step-*`) | {}, in", MAGIC[8]);
        assert!(list.contains(&row), "no row begins {row:?}");
    }
}
