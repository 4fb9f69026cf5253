//! The project's codec: byte planes, each kept in the way that suits it.
//!
//! ```text
//! encoded = block* tail                  a block is BLOCK bytes of the original, the last one fewer
//! block   = plane{element size}          least significant first
//! plane   = head: u32 LE, bytes          the top two bits of the head are the form, the rest the number of bytes
//! tail    = bytes after the last whole element, as they are
//! ```

use lz4_flex::block::{compress_into_with_table, decompress_into, get_maximum_output_size, CompressTable};

use super::{huffman, planes, Codec, CodecError};

/// The project's codec: splits elements into byte planes, block by block, and keeps every plane in the form that suits it.
/// A plane of noise, such as the low bytes of a float, stays as it is.
///
/// Working memory: about four blocks of 256 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlaneCodec {
    /// Planes that repeat themselves with lz4, planes whose bytes are merely skewed (exponents) with a Huffman code, which
    /// is both smaller and faster there.
    #[default]
    Adaptive,
    /// lz4 alone.
    Lz4,
}

/// Bytes of the original in one block; a multiple of every element size.
const BLOCK: usize = 1 << 18;

/// How a plane is kept. The number stands in the encoded bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Form {
    Raw = 0,
    Lz4 = 1,
    Huffman = 2,
    /// All bytes are this one.
    Constant = 3,
}

/// Planes shorter than that are not worth a look before they are tried.
const MIN_SAMPLED: usize = 2048;

const LEN_BITS: u32 = 30;
const LEN_MASK: u32 = (1 << LEN_BITS) - 1;

impl Codec for PlaneCodec {
    fn name(&self) -> &'static str {
        match self {
            Self::Adaptive => "planes",
            Self::Lz4 => "planes with lz4",
        }
    }

    fn encode(&self, bytes: &[u8], element_size: usize) -> Option<Vec<u8>> {
        let size = plane_count(element_size);
        let (whole, tail) = bytes.split_at(bytes.len() - bytes.len() % size);
        let mut packer = Packer::new(*self, whole.len().min(BLOCK), size);
        if packer.gains_nothing(whole, size) {
            return None;
        }
        // Memory that is not touched costs nothing, and growing would copy.
        packer.encoded.reserve_exact(bytes.len());
        for block in whole.chunks(BLOCK) {
            packer.push_block(block, size);
            if packer.encoded.len() >= bytes.len() {
                return None;
            }
        }
        let mut encoded = packer.encoded;
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

fn is_constant(plane: &[u8]) -> bool {
    // Line by line, which the compiler turns into vector instructions and a search that may end at any byte it does not.
    let first = plane[0];
    plane
        .chunks(64)
        .all(|line| line.iter().fold(0, |seen, &byte| seen | (byte ^ first)) == 0)
}

/// The counts of one line in 32, which tells noise from exponents.
fn sample(plane: &[u8]) -> huffman::Counts {
    const LINE: usize = 64;
    let mut counts = [0; 256];
    for line in plane.chunks(32 * LINE) {
        for &byte in &line[..LINE.min(line.len())] {
            counts[usize::from(byte)] += 1;
        }
    }
    counts
}

/// Whether a Huffman code would hardly shrink bytes with these counts.
fn is_noise(counts: &huffman::Counts) -> bool {
    const BITS: f32 = 7.0;
    huffman::entropy_bits(counts) > BITS * counts.iter().sum::<u32>() as f32
}

/// The encoder with its working memory.
struct Packer {
    codec: PlaneCodec,
    encoded: Vec<u8>,
    split: Vec<u8>,
    lz4: Vec<u8>,
    table: CompressTable,
}

impl Packer {
    fn new(codec: PlaneCodec, block: usize, size: usize) -> Self {
        let lz4 = vec![0; get_maximum_output_size(block / size)];
        Self {
            codec,
            encoded: Vec::new(),
            split: vec![0; block],
            lz4,
            table: CompressTable::default(),
        }
    }

    /// Whether a few pieces from all over `bytes` do not shrink by a thirty-second.
    fn gains_nothing(&mut self, bytes: &[u8], size: usize) -> bool {
        const TRIALS: usize = 4;
        const TRIAL: usize = 1 << 16;
        if bytes.len() < 8 * TRIALS * TRIAL {
            return false;
        }
        let stride = (bytes.len() - TRIAL) / (TRIALS - 1) / 8 * 8;
        for trial in 0..TRIALS {
            self.push_block(&bytes[trial * stride..][..TRIAL], size);
        }
        let kept = self.encoded.len();
        self.encoded.clear();
        kept > TRIALS * TRIAL / 32 * 31
    }

    fn push_block(&mut self, block: &[u8], size: usize) {
        let mut split = std::mem::take(&mut self.split);
        planes::split(block, size, &mut split[..block.len()]);
        for plane in split[..block.len()].chunks_exact((block.len() / size).max(1)) {
            self.push_plane(plane);
        }
        self.split = split;
    }

    fn push_plane(&mut self, plane: &[u8]) {
        if is_constant(plane) {
            return self.push(Form::Constant, |encoded, _| encoded.push(plane[0]));
        }
        let noise = plane.len() >= MIN_SAMPLED && is_noise(&sample(plane));
        if noise && !self.repeats(plane) {
            return self.push(Form::Raw, |encoded, _| encoded.extend_from_slice(plane));
        }
        if self.codec == PlaneCodec::Adaptive && !noise {
            if let Some(counts) = self.skewed(plane) {
                return self.push(Form::Huffman, |encoded, _| huffman::encode(plane, &counts, encoded));
            }
        }
        match self.lz4(plane) {
            Some(len) => self.push(Form::Lz4, |encoded, lz4| encoded.extend_from_slice(&lz4[..len])),
            None => self.push(Form::Raw, |encoded, _| encoded.extend_from_slice(plane)),
        }
    }

    /// Bytes that lz4 makes of `plane`, in the working memory, unless it gains less than a sixteenth.
    fn lz4(&mut self, plane: &[u8]) -> Option<usize> {
        let len = compress_into_with_table(plane, &mut self.lz4, &mut self.table).ok()?;
        (len <= plane.len() / 16 * 15).then_some(len)
    }

    /// Whether lz4 finds something in an eighth of a plane of noise: rows that repeat, up to 4096 elements long in a whole block of f32.
    /// Without that it would only find out byte by byte that there is nothing.
    fn repeats(&mut self, plane: &[u8]) -> bool {
        let trial = &plane[plane.len() / 2..][..plane.len() / 8];
        self.lz4(trial).is_some()
    }

    /// The counts of a plane that a Huffman code serves better than lz4.
    fn skewed(&mut self, plane: &[u8]) -> Option<huffman::Counts> {
        if plane.len() < MIN_SAMPLED {
            return None;
        }
        let counts = huffman::count(plane);
        if is_noise(&counts) {
            return None;
        }
        // lz4 is tried on a piece from the middle. It must be clearly better there, for it is the slower one.
        let trial = &plane[plane.len() / 2..][..(plane.len() / 16).max(MIN_SAMPLED / 2)];
        let by_lz4 = self.lz4(trial).unwrap_or(trial.len()) as f32 / trial.len() as f32;
        let by_huffman = huffman::entropy_bits(&counts).max(plane.len() as f32) / 8.0 / plane.len() as f32;
        (by_lz4 > 0.8 * by_huffman).then_some(counts)
    }

    /// Appends a plane whose bytes `write` appends.
    fn push(&mut self, form: Form, write: impl FnOnce(&mut Vec<u8>, &[u8])) {
        let head = self.encoded.len();
        self.encoded.extend_from_slice(&[0; 4]);
        write(&mut self.encoded, &self.lz4);
        let len = (self.encoded.len() - head - 4) as u32;
        self.encoded[head..head + 4].copy_from_slice(&((form as u32) << LEN_BITS | len).to_le_bytes());
    }
}

/// Reads one plane and returns what follows it.
fn pull_plane<'a>(encoded: &'a [u8], plane: &mut [u8]) -> Result<&'a [u8], CodecError> {
    let truncated = || CodecError(format!("{} bytes are left where a plane should stand", encoded.len()));
    let (head, rest) = encoded.split_first_chunk().ok_or_else(truncated)?;
    let head = u32::from_le_bytes(*head);
    let (bytes, rest) = rest
        .split_at_checked((head & LEN_MASK) as usize)
        .ok_or_else(truncated)?;
    let got = match (head >> LEN_BITS, bytes) {
        (form, _) if form == Form::Huffman as u32 => {
            huffman::decode(bytes, plane)?;
            plane.len()
        }
        (form, _) if form == Form::Lz4 as u32 => {
            decompress_into(bytes, plane).map_err(|error| CodecError(format!("a plane is no lz4 block: {error}")))?
        }
        (form, &[byte]) if form == Form::Constant as u32 => {
            plane.fill(byte);
            plane.len()
        }
        (form, _) if form == Form::Raw as u32 && bytes.len() == plane.len() => {
            plane.copy_from_slice(bytes);
            plane.len()
        }
        _ => bytes.len(),
    };
    if got == plane.len() {
        Ok(rest)
    } else {
        Err(CodecError(format!("a plane has {got} bytes, expected {}", plane.len())))
    }
}

#[cfg(test)]
mod tests;
