//! The project's codec: byte planes, each compressed with lz4 where that helps.
//!
//! ```text
//! encoded = block* tail                  a block is BLOCK bytes of the original, the last one fewer
//! block   = plane{element size}          least significant first
//! plane   = length: u32 LE, bytes        the top bit of the length says that the bytes are lz4
//! tail    = bytes after the last whole element, as they are
//! ```

use lz4_flex::block::{compress_into_with_table, decompress_into, get_maximum_output_size, CompressTable};

use super::{planes, Codec, CodecError};

/// lz4 over byte planes, in blocks that fit the second-level cache. A plane that does not shrink by at least a
/// sixteenth stays as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlaneLz4;

/// Bytes of the original in one block; a multiple of every element size.
const BLOCK: usize = 1 << 18;
const LZ4: u32 = 1 << 31;

impl Codec for PlaneLz4 {
    fn name(&self) -> &'static str {
        "lz4"
    }

    fn encode(&self, bytes: &[u8], element_size: usize) -> Option<Vec<u8>> {
        let size = plane_count(element_size);
        let (whole, tail) = bytes.split_at(bytes.len() - bytes.len() % size);
        let mut encoded = Vec::with_capacity(bytes.len() / 2);
        let mut split = vec![0; whole.len().min(BLOCK)];
        let mut packed = vec![0; get_maximum_output_size(split.len() / size)];
        let mut table = CompressTable::default();
        for block in whole.chunks(BLOCK) {
            let split = &mut split[..block.len()];
            planes::split(block, size, split);
            for plane in split.chunks_exact(block.len() / size) {
                push_plane(plane, &mut packed, &mut table, &mut encoded);
            }
            if encoded.len() >= bytes.len() {
                return None;
            }
        }
        encoded.extend_from_slice(tail);
        encoded.shrink_to_fit();
        (encoded.len() < bytes.len()).then_some(encoded)
    }

    fn decode(&self, encoded: &[u8], element_size: usize, out: &mut [u8]) -> Result<(), CodecError> {
        let size = plane_count(element_size);
        let (whole, tail) = out.split_at_mut(out.len() - out.len() % size);
        let mut split = vec![0; whole.len().min(BLOCK)];
        let mut rest = encoded;
        for block in whole.chunks_mut(BLOCK) {
            let split = &mut split[..block.len()];
            for plane in split.chunks_exact_mut(block.len() / size) {
                rest = pull_plane(rest, plane)?;
            }
            planes::join(split, size, block);
        }
        if rest.len() != tail.len() {
            return Err(CodecError(format!(
                "{} bytes after the last block, expected {}",
                rest.len(),
                tail.len()
            )));
        }
        tail.copy_from_slice(rest);
        Ok(())
    }
}

/// Element sizes that are no power of two up to 8 are treated as plain bytes.
fn plane_count(element_size: usize) -> usize {
    match element_size {
        2 | 4 | 8 => element_size,
        _ => 1,
    }
}

fn push_plane(plane: &[u8], packed: &mut [u8], table: &mut CompressTable, encoded: &mut Vec<u8>) {
    let shrunk = compress_into_with_table(plane, packed, table)
        .ok()
        .filter(|&len| len <= plane.len() / 16 * 15);
    let (flag, bytes) = match shrunk {
        Some(len) => (LZ4, &packed[..len]),
        None => (0, plane),
    };
    encoded.extend_from_slice(&(bytes.len() as u32 | flag).to_le_bytes());
    encoded.extend_from_slice(bytes);
}

/// Reads one plane and returns what follows it.
fn pull_plane<'a>(encoded: &'a [u8], plane: &mut [u8]) -> Result<&'a [u8], CodecError> {
    let truncated = || CodecError(format!("{} bytes are left where a plane should stand", encoded.len()));
    let (head, rest) = encoded.split_first_chunk().ok_or_else(truncated)?;
    let head = u32::from_le_bytes(*head);
    let (bytes, rest) = rest.split_at_checked((head & !LZ4) as usize).ok_or_else(truncated)?;
    let got = if head & LZ4 != 0 {
        decompress_into(bytes, plane).map_err(|error| CodecError(format!("a plane is no lz4 block: {error}")))?
    } else if bytes.len() == plane.len() {
        plane.copy_from_slice(bytes);
        plane.len()
    } else {
        bytes.len()
    };
    if got == plane.len() {
        Ok(rest)
    } else {
        Err(CodecError(format!("a plane has {got} bytes, expected {}", plane.len())))
    }
}
