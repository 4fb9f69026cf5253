//! Transposing a part of a matrix, so that a product reads it along its rows.

/// Rows and columns that are transposed in registers.
const BLOCK: usize = 8;

/// The left upper part of a matrix, seen by its transpose.
#[derive(Clone, Copy)]
pub(crate) struct Transposed<'a> {
    /// The matrix from its first number on.
    pub(crate) from: &'a [f32],
    /// From one of its rows to the next.
    pub(crate) stride: usize,
    /// How many of its rows: the width of the transpose.
    pub(crate) width: usize,
    /// How many numbers of each row: the depth of the transpose.
    pub(crate) depth: usize,
}

impl Transposed<'_> {
    /// Writes `depth` rows of `width` numbers, `to_stride` apart.
    pub(crate) fn write(self, to: &mut [f32], to_stride: usize) {
        let whole = Transposed {
            width: self.width / BLOCK * BLOCK,
            depth: self.depth / BLOCK * BLOCK,
            ..self
        };
        whole.write_blocks(to, to_stride);
        // The rows and columns that make no whole block.
        for j in 0..self.width {
            let begin = if j < whole.width { whole.depth } else { 0 };
            for p in begin..self.depth {
                to[p * to_stride + j] = self.from[j * self.stride + p];
            }
        }
    }

    fn write_blocks(self, to: &mut [f32], to_stride: usize) {
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            return simd.vectorize(
                #[inline(always)]
                || self.each_block(to, to_stride, |block| avx2::transpose(simd, block)),
            );
        }
        self.each_block(to, to_stride, |block| std::array::from_fn(|i| block.map(|row| row[i])));
    }

    /// Two rows of blocks at a time, so that whole cache lines are written, and along the rows of the matrix, which the
    /// hardware fetches ahead.
    #[inline(always)]
    fn each_block(self, to: &mut [f32], to_stride: usize, transpose: impl Fn(Block) -> Block) {
        for first in (0..self.width).step_by(2 * BLOCK) {
            for p in (0..self.depth).step_by(BLOCK) {
                for j in (first..self.width.min(first + 2 * BLOCK)).step_by(BLOCK) {
                    let row = |i: usize| {
                        *self.from[(j + i) * self.stride + p..]
                            .first_chunk()
                            .expect("a whole block")
                    };
                    for (i, row) in transpose(std::array::from_fn(row)).into_iter().enumerate() {
                        *to[(p + i) * to_stride + j..].first_chunk_mut().expect("a whole block") = row;
                    }
                }
            }
        }
    }
}

type Block = [[f32; BLOCK]; BLOCK];

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::Block;
    use pulp::{bytemuck::cast, x86::V3};

    /// Eight vectors of eight: by pairs, by quarters, by halves.
    #[inline(always)]
    pub(super) fn transpose(simd: V3, block: Block) -> Block {
        let avx = simd.avx;
        let rows: [std::arch::x86_64::__m256; 8] = block.map(cast);
        let pairs: [_; 8] = std::array::from_fn(|i| {
            let (a, b) = (rows[i / 2 * 2], rows[i / 2 * 2 + 1]);
            if i % 2 == 0 {
                avx._mm256_unpacklo_ps(a, b)
            } else {
                avx._mm256_unpackhi_ps(a, b)
            }
        });
        let quarters: [_; 8] = std::array::from_fn(|i| {
            let (a, b) = (pairs[i / 4 * 4 + i % 4 / 2], pairs[i / 4 * 4 + i % 4 / 2 + 2]);
            if i % 2 == 0 {
                avx._mm256_shuffle_ps::<0x44>(a, b)
            } else {
                avx._mm256_shuffle_ps::<0xee>(a, b)
            }
        });
        let halves: [_; 8] = std::array::from_fn(|i| {
            let (a, b) = (quarters[i % 4], quarters[i % 4 + 4]);
            if i < 4 {
                avx._mm256_permute2f128_ps::<0x20>(a, b)
            } else {
                avx._mm256_permute2f128_ps::<0x31>(a, b)
            }
        });
        halves.map(cast)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random;

    #[test]
    fn whole_and_broken_blocks() {
        for (width, depth) in [(8, 8), (16, 24), (1, 1), (7, 9), (40, 17), (33, 64)] {
            let (stride, to_stride) = (depth + 3, width + 5);
            let from = random(1, width * stride);
            let mut to = vec![f32::NAN; depth * to_stride];
            Transposed {
                from: &from,
                stride,
                width,
                depth,
            }
            .write(&mut to, to_stride);
            for (p, row) in to.chunks_exact(to_stride).enumerate() {
                for (j, &got) in row.iter().enumerate() {
                    assert!(
                        if j < width {
                            got == from[j * stride + p]
                        } else {
                            got.is_nan()
                        },
                        "{width} x {depth}: {j}, {p}"
                    );
                }
            }
        }
    }
}
