//! Work in parts of fixed size, so that no result depends on the number of threads.

use rayon::prelude::*;

/// Where the parts of a piece of work are done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Execution {
    /// On the calling thread, one after the other: other palettes keep the other threads busy.
    Here,
    /// On all threads.
    Pool,
}

impl Execution {
    /// Does all parts; the results are in the order of the parts.
    pub(crate) fn map<P: Send, R: Send>(self, parts: Vec<P>, work: impl Fn(P) -> R + Sync + Send) -> Vec<R> {
        match self {
            Execution::Here => parts.into_iter().map(work).collect(),
            Execution::Pool => parts.into_par_iter().map(work).collect(),
        }
    }
}

/// How a matrix's palettes are spread over threads. It depends on sizes alone.
///
/// Many palettes, or small ones, are done whole by one thread each; a few large ones are split.
pub(crate) fn execution(palettes: usize, weights_per_palette: usize) -> Execution {
    const ENOUGH_PALETTES: usize = 16;
    const WORTH_SPLITTING: usize = 1 << 15;
    if palettes >= ENOUGH_PALETTES || weights_per_palette < WORTH_SPLITTING {
        Execution::Here
    } else {
        Execution::Pool
    }
}

/// Does something for each palette, on all threads, with the results in order.
pub(crate) fn for_palettes<P: Send, R: Send>(palettes: Vec<P>, work: impl Fn(P) -> R + Sync + Send) -> Vec<R> {
    if let [_] = palettes.as_slice() {
        Execution::Here.map(palettes, work)
    } else {
        Execution::Pool.map(palettes, work)
    }
}

/// Adds up arrays of equal length in order.
pub(crate) fn sum_in_order(mut parts: Vec<Vec<f64>>) -> Vec<f64> {
    let mut parts = parts.drain(..);
    let mut total = parts.next().unwrap_or_default();
    for part in parts {
        for (t, p) in total.iter_mut().zip(part) {
            *t += p;
        }
    }
    total
}
