//! The repetitions of a clustering and their gradient, on the device: what lies between the passes over the weights ([`clustering`](crate::clustering)).
//!
//! Soft assignment of scalars, differentiated through all repetitions (DKM, arXiv 2108.12659, section 3), on the counts and sums of 16-bit keys
//! (uniquification of eDKM, arXiv 2309.00964, section 2.2), in f64 as `edkm-cluster` does it. A matrix is waited for once in the forward pass, to
//! know the centroids on the host, and not at all in the backward pass, if its palettes are not small. Palettes in which a cluster has hardly any weight are left to the host.

mod backward;
mod forward;
mod kept;
mod record;

use edkm_cluster::elsewhere::{PaletteStart, PaletteWay};

use crate::clustering::{count_into, Palettes, KEYS};
use crate::Argument::Size;
use crate::{check, Array, Runtime, SliceMut};

pub use backward::backward_accumulate;
pub use forward::{add_digest, clustered, forward};
pub use kept::Kept;
pub use record::is_starved;

/// Blocks that share the keys of a palette: as in `cuda/repetitions.cu`.
const PARTS: usize = 128;

/// Clusters that are done together: likewise.
const CLUSTERS_AT_ONCE: usize = 8;

/// Most clusters of a palette.
pub const MOST_CLUSTERS: usize = 256;

/// Palettes whose tables may well be in memory at once: 112 MiB in the backward pass.
pub const AT_ONCE: usize = 64;

/// What all palettes of a matrix have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// K, at most [`MOST_CLUSTERS`].
    pub clusters: usize,
    /// T, at most.
    pub repetitions: usize,
    /// Whether weights of zero take no part and stay zero.
    pub keep_zero: bool,
    /// Palettes whose tables are in memory at once, 256 KiB each in the forward pass, 1.75 MiB in the backward pass: [`AT_ONCE`]. One at the least.
    pub at_once: usize,
}

impl Settings {
    fn most_at_once(self) -> usize {
        self.at_once.max(1)
    }

    /// # Panics
    /// If there are no clusters, or too many.
    fn check(self) {
        let Settings {
            clusters, repetitions, ..
        } = self;
        assert!(
            (1..=MOST_CLUSTERS).contains(&clusters),
            "{clusters} clusters: at most {MOST_CLUSTERS}"
        );
        assert!(
            u32::try_from(repetitions).is_ok(),
            "{repetitions} repetitions: at most 2^32 - 1"
        );
    }

    /// # Panics
    /// If these are not ways that so many palettes can have gone.
    fn check_ways(self, ways: &[PaletteWay], palettes: usize) {
        self.check();
        check::len("ways [P]", ways.len(), palettes);
        let Settings {
            clusters, repetitions, ..
        } = self;
        for PaletteWay {
            centroids_tk,
            log_mass_tk,
            ..
        } in ways
        {
            let done = log_mass_tk.len() / clusters;
            assert!(
                (1..=repetitions).contains(&done),
                "a way of {done} repetitions, where there are 1 to {repetitions}"
            );
            check::len("log masses [t, K]", log_mass_tk.len(), done * clusters);
            check::len("centroids [t + 1, K]", centroids_tk.len(), (done + 1) * clusters);
        }
    }

    fn keep_zero_argument(self) -> crate::Argument {
        Size(self.keep_zero.into())
    }
}

/// Two starts of every palette, and which matrix the first is for.
#[derive(Debug, Clone, PartialEq)]
pub struct Starts {
    /// The digest of that matrix.
    pub digest: [u64; 2],
    /// Where it begins, `[P]`.
    pub known: Vec<PaletteStart>,
    /// Where any other one does, `[P]`.
    pub other: Vec<PaletteStart>,
}

/// What the forward pass found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// What the matrix is recognised by: see [`add_digest`].
    pub digest: [u64; 2],
    /// The largest magnitude of each palette, as the bits of an f32: above those of infinity for NaN.
    pub magnitudes: Vec<u32>,
    /// The ways of all palettes; none if the host is to do it.
    pub ways: Option<Vec<PaletteWay>>,
}

/// The palettes in parts whose tables are in memory at once: the first of each part, and how many.
fn parts(weights: Palettes<'_>, settings: Settings) -> impl Iterator<Item = (usize, Palettes<'_>)> {
    weights.parts(settings.most_at_once())
}

/// The counts of a part, `[P, KEYS]`.
fn counted<R: Runtime>(
    runtime: &R,
    part: Palettes<'_>,
    magnitudes: &mut SliceMut<'_, u32>,
) -> Result<Array<R, u32>, R::Error> {
    let mut counts = Array::zeroed(runtime, part.palettes() * KEYS)?;
    count_into(runtime, part, &mut counts.as_mut(), magnitudes)?;
    Ok(counts)
}
