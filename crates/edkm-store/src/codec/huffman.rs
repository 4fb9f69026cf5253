//! Huffman coding of bytes, for planes whose values are skewed but do not repeat in runs: the exponents of floats.
//!
//! ```text
//! encoded = lengths, ends, streams
//! lengths: 128 bytes   the code lengths of all 256 bytes, 4 bits each, low half first; 0 for a byte that does not occur
//! ends: 3 x u32 LE     where the first three of the four streams end, counted from the first
//! streams              the plane's four quarters, each in a stream of its own that ends with PADDING zero bytes
//! ```
//!
//! Four streams, because a decoder's next step depends on its last one: with four at a time the processor has work to do
//! between the two.

mod code;

use code::{codes, decoder_table, Code, Entry};

use super::CodecError;

/// The longest code. Five codes fit the 57 bits that one unaligned read is good for, and the decoder's table the
/// first-level cache.
const MAX_BITS: usize = 11;
const CODES_A_READ: usize = 5;
const STREAMS: usize = 4;
const LENGTHS: usize = 128;
const HEAD: usize = LENGTHS + 4 * (STREAMS - 1);
/// So that 8 bytes can be read at every bit of a stream.
const PADDING: usize = 8;

/// How often each byte occurs.
pub(super) type Counts = [u32; 256];

/// Counts the bytes of `plane`.
pub(super) fn count(plane: &[u8]) -> Counts {
    // Equal bytes often follow each other, and a counter cannot be raised again before it has been stored.
    let mut counts = [[0u32; 256]; 4];
    let (fours, rest) = plane.as_chunks::<4>();
    for four in fours {
        for (counts, &byte) in counts.iter_mut().zip(four) {
            counts[usize::from(byte)] += 1;
        }
    }
    for &byte in rest {
        counts[0][usize::from(byte)] += 1;
    }
    std::array::from_fn(|byte| counts.iter().map(|counts| counts[byte]).sum())
}

/// The fewest bits that a code which looks at one byte at a time can need for bytes with these counts.
pub(super) fn entropy_bits(counts: &Counts) -> f32 {
    let total: u32 = counts.iter().sum();
    counts
        .iter()
        .filter(|&&count| count > 0)
        .map(|&count| count as f32 * (total as f32 / count as f32).log2())
        .sum()
}

/// Encodes `plane`, whose bytes have these counts, and appends it to `encoded`. There are at least two different bytes.
pub(super) fn encode(plane: &[u8], counts: &Counts, encoded: &mut Vec<u8>) {
    let lengths = code::lengths(counts);
    let codes = codes(&lengths).unwrap_or([Code::default(); 256]);
    let head = encoded.len();
    encoded.extend(lengths.as_chunks::<2>().0.iter().map(|[low, high]| low | high << 4));
    encoded.resize(head + HEAD, 0);
    let start = encoded.len();
    for (i, quarter) in quarters(plane).into_iter().enumerate() {
        encode_stream(quarter, &codes, encoded);
        let end = (encoded.len() - start) as u32;
        if let Some(place) = encoded[head + LENGTHS..start].as_chunks_mut::<4>().0.get_mut(i) {
            *place = end.to_le_bytes();
        }
    }
}

/// One stream after the other: unlike a decoder, an encoder is not faster with several at a time.
fn encode_stream(bytes: &[u8], codes: &[Code; 256], encoded: &mut Vec<u8>) {
    let start = encoded.len();
    encoded.resize(start + bytes.len() * MAX_BITS / 8 + 2 * PADDING, 0);
    let mut writer = Writer {
        stream: &mut encoded[start..],
        at: 0,
        waiting: 0,
        filled: 0,
    };
    let (groups, rest) = bytes.as_chunks::<CODES_A_READ>();
    for group in groups {
        writer.write(group, codes);
    }
    writer.write(rest, codes);
    let end = start + writer.at;
    encoded.truncate(end + 1);
    encoded.resize(end + PADDING, 0);
}

/// A bit stream that is being written.
struct Writer<'a> {
    stream: &'a mut [u8],
    at: usize,
    waiting: u64,
    filled: u32,
}

impl Writer<'_> {
    /// Writes the codes of at most [`CODES_A_READ`] bytes.
    #[inline(always)]
    fn write(&mut self, bytes: &[u8], codes: &[Code; 256]) {
        for &byte in bytes {
            let Code { bits, len } = codes[usize::from(byte)];
            self.waiting |= u64::from(bits) << self.filled;
            self.filled += u32::from(len);
        }
        self.stream[self.at..self.at + 8].copy_from_slice(&self.waiting.to_le_bytes());
        self.at += self.filled as usize / 8;
        self.waiting >>= self.filled & !7;
        self.filled %= 8;
    }
}

/// Fills `plane` with what [`encode`] made of it.
pub(super) fn decode(encoded: &[u8], plane: &mut [u8]) -> Result<(), CodecError> {
    let wrong = |what: &str| CodecError(format!("a Huffman plane {what}"));
    let (lengths, rest) = encoded
        .split_first_chunk::<LENGTHS>()
        .ok_or_else(|| wrong("has no code lengths"))?;
    let (ends, streams) = rest
        .split_first_chunk::<{ HEAD - LENGTHS }>()
        .ok_or_else(|| wrong("has no stream ends"))?;
    let lengths = std::array::from_fn(|byte| lengths[byte / 2] >> (4 * (byte % 2)) & 15);
    let table = decoder_table(&lengths).ok_or_else(|| wrong("has code lengths that make no code"))?;
    let ends = ends
        .as_chunks::<4>()
        .0
        .iter()
        .map(|end| u32::from_le_bytes(*end) as usize);
    let mut from = 0;
    let mut parts = [&[][..]; STREAMS];
    for (part, end) in parts.iter_mut().zip(ends.chain([streams.len()])) {
        *part = streams
            .get(from..end)
            .ok_or_else(|| wrong("has stream ends out of order"))?;
        from = end;
    }
    decode_streams(parts, &table, plane).ok_or_else(|| wrong("is not as long as its streams"))
}

/// A bit stream that is being read.
#[derive(Clone, Copy)]
struct Reader<'a> {
    stream: &'a [u8],
    bit: usize,
}

impl Reader<'_> {
    /// Decodes the bytes of `out`, at most [`CODES_A_READ`].
    #[inline(always)]
    fn read(&mut self, table: &[Entry; 1 << MAX_BITS], out: &mut [u8]) -> Option<()> {
        let word = self.stream.get(self.bit / 8..)?.first_chunk::<8>()?;
        let mut word = u64::from_le_bytes(*word) >> (self.bit % 8);
        for byte in out {
            let entry = table[word as usize % (1 << MAX_BITS)];
            *byte = entry.byte;
            word >>= entry.len;
            self.bit += usize::from(entry.len);
        }
        Some(())
    }
}

fn decode_streams(streams: [&[u8]; STREAMS], table: &[Entry; 1 << MAX_BITS], plane: &mut [u8]) -> Option<()> {
    let [mut a, mut b, mut c, mut d] = streams.map(|stream| Reader { stream, bit: 0 });
    let [out_a, out_b, out_c, out_d] = quarters_mut(plane);
    // The last quarter is the shortest: as long as it lasts, all four go on together.
    let together = out_d.len() / CODES_A_READ * CODES_A_READ;
    let (head_a, tail_a) = out_a.split_at_mut(together);
    let (head_b, tail_b) = out_b.split_at_mut(together);
    let (head_c, tail_c) = out_c.split_at_mut(together);
    let (head_d, tail_d) = out_d.split_at_mut(together);
    let fives = |out| <[u8]>::as_chunks_mut::<CODES_A_READ>(out).0.iter_mut();
    for (((x, y), z), w) in fives(head_a).zip(fives(head_b)).zip(fives(head_c)).zip(fives(head_d)) {
        a.read(table, x)?;
        b.read(table, y)?;
        c.read(table, z)?;
        d.read(table, w)?;
    }
    for (reader, tail) in [(&mut a, tail_a), (&mut b, tail_b), (&mut c, tail_c), (&mut d, tail_d)] {
        for group in tail.chunks_mut(CODES_A_READ) {
            reader.read(table, group)?;
        }
        if reader.bit / 8 + PADDING != reader.stream.len() {
            return None;
        }
    }
    Some(())
}

/// Four parts, of which the first three are equally long and the last at most as long.
fn quarters(plane: &[u8]) -> [&[u8]; STREAMS] {
    let quarter = plane.len().div_ceil(STREAMS);
    std::array::from_fn(|i| &plane[(i * quarter).min(plane.len())..((i + 1) * quarter).min(plane.len())])
}

fn quarters_mut(plane: &mut [u8]) -> [&mut [u8]; STREAMS] {
    let quarter = plane.len().div_ceil(STREAMS);
    let mut rest = plane;
    std::array::from_fn(|_| {
        let len = quarter.min(rest.len());
        let (part, after) = std::mem::take(&mut rest).split_at_mut(len);
        rest = after;
        part
    })
}

#[cfg(test)]
mod tests;
