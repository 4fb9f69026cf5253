//! How work is cut into pieces: by its size alone, so that results do not depend on the number of threads.

use rayon::prelude::*;

/// Numbers in a piece of an elementwise kernel: 64 KiB of `f32`, a few microseconds of work, which is also where handing
/// work to another thread begins to pay.
pub(crate) const PIECE: usize = 1 << 14;

/// Rows of `width` numbers in a piece: about two [`PIECE`]s, and at least 16 so that sums over pieces stay few.
pub(crate) fn rows_in_piece(width: usize) -> usize {
    (2 * PIECE / width.max(1)).max(16)
}

/// Calls `work(first, piece)` for consecutive pieces of `size` numbers of `out`, `first` being the index of the piece's
/// first number.
pub(crate) fn for_each_piece<T: Send>(out: &mut [T], size: usize, work: impl Fn(usize, &mut [T]) + Send + Sync) {
    let size = size.max(1);
    if out.len() <= size {
        if !out.is_empty() {
            work(0, out);
        }
        return;
    }
    out.par_chunks_mut(size)
        .enumerate()
        .for_each(|(i, piece)| work(i * size, piece));
}

/// As [`for_each_piece`] over two slices at once, in pieces of `size.0` and `size.1` numbers; `work` gets the index of the
/// piece.
pub(crate) fn for_each_piece2<T: Send, U: Send>(
    out: (&mut [T], &mut [U]),
    size: (usize, usize),
    work: impl Fn(usize, &mut [T], &mut [U]) + Send + Sync,
) {
    let size = (size.0.max(1), size.1.max(1));
    if out.0.len() <= size.0 && out.1.len() <= size.1 {
        if !out.0.is_empty() || !out.1.is_empty() {
            work(0, out.0, out.1);
        }
        return;
    }
    let pieces = out.0.par_chunks_mut(size.0).zip_eq(out.1.par_chunks_mut(size.1));
    pieces.enumerate().for_each(|(i, (a, b))| work(i, a, b));
}
