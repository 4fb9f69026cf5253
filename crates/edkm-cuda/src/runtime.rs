//! What the ops need of a device.
#![allow(unsafe_code)]

use crate::check::{self, TooLarge};
use crate::product::{Precision, Product};

/// Threads of a block, in every launch: as in `cuda/prelude.cuh`.
pub(crate) const THREADS: usize = 256;

/// More blocks than any device runs at once, by far; kernels go on in strides of the grid.
const MOST_BLOCKS: usize = 1 << 16;

/// An argument of a kernel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Argument {
    /// A pointer.
    Address(u64),
    /// `size_t`
    Size(usize),
    /// `float`
    Float(f32),
    /// `double`
    Double(f64),
}

impl Argument {
    /// The argument as a kernel reads it: in the first bytes (little-endian).
    pub fn bits(self) -> u64 {
        match self {
            Argument::Address(address) => address,
            Argument::Size(size) => size as u64,
            Argument::Float(x) => x.to_bits().into(),
            Argument::Double(x) => x.to_bits(),
        }
    }
}

/// Something that holds memory and runs the kernels of this crate, one after the other in the order of the calls.
pub trait Runtime {
    /// What can go wrong: out of memory, a kernel that does not compile or run, a size that is too large for either.
    type Error: From<TooLarge>;
    /// Memory of the device, freed when dropped.
    type Memory;

    /// So many bytes, all zero.
    fn allocate(&self, bytes: usize) -> Result<Self::Memory, Self::Error>;

    /// So many bytes, whatever they are.
    fn allocate_unset(&self, bytes: usize) -> Result<Self::Memory, Self::Error>;

    /// Where memory begins.
    fn address(memory: &Self::Memory) -> u64;

    /// Copies from the host.
    ///
    /// # Safety
    /// `to` is the start of at least so many bytes of this runtime's memory.
    unsafe fn write(&self, to: u64, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Copies to the host, after all that was launched before is done.
    ///
    /// # Safety
    /// `from` is the start of at least so many bytes of this runtime's memory.
    unsafe fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), Self::Error>;

    /// Copies to the host what stands there before `meanwhile`, which launches more. Where the runtime can do that, the host does not wait for what is
    /// launched there.
    ///
    /// # Safety
    /// As [`Self::read`], and nothing that `meanwhile` launches writes there.
    unsafe fn read_before<T>(
        &self,
        from: u64,
        bytes: &mut [u8],
        meanwhile: impl FnOnce() -> Result<T, Self::Error>,
    ) -> Result<T, Self::Error> {
        let made = meanwhile()?;
        // SAFETY: the caller's contract; what stands there is what stood there before.
        unsafe { self.read(from, bytes) }?;
        Ok(made)
    }

    /// Launches a kernel of [`crate::source`] with 256 threads a block.
    ///
    /// # Safety
    /// The arguments are those of the kernel, in number and kind, and the memory that it reaches by them is this runtime's.
    unsafe fn launch(&self, kernel: &'static str, blocks: u32, arguments: &[Argument]) -> Result<(), Self::Error>;

    /// How products are to be computed.
    fn precision(&self) -> Precision {
        Precision::F32
    }

    /// Multiplies matrices.
    ///
    /// # Safety
    /// The matrices lie in this runtime's memory.
    unsafe fn multiply(&self, product: &Product) -> Result<(), Self::Error>;
}

/// Blocks for so many threads, at least one.
pub(crate) fn blocks_for(threads: usize) -> u32 {
    blocks(threads.div_ceil(THREADS))
}

/// So many blocks, at least one; kernels go on where the grid ends.
pub(crate) fn blocks(wanted: usize) -> u32 {
    wanted.clamp(1, MOST_BLOCKS) as u32
}

/// Exactly so many blocks: of kernels that find by their number what they work on, and go no further.
pub(crate) fn blocks_of_grid<const N: usize>(what: &'static str, factors: [usize; N]) -> Result<u32, TooLarge> {
    // a grid has so many along its first axis
    const MOST: usize = i32::MAX as usize;
    let blocks = check::product(what, factors).ok().filter(|&blocks| blocks <= MOST);
    blocks.map(|blocks| blocks as u32).ok_or_else(|| TooLarge {
        what,
        factors: factors.to_vec(),
        most: MOST,
    })
}

/// A device without memory or kernels, for what is refused before either is asked for.
#[cfg(test)]
pub(crate) struct Nowhere;

#[cfg(test)]
impl Runtime for Nowhere {
    type Error = TooLarge;
    type Memory = ();

    fn allocate(&self, _: usize) -> Result<(), TooLarge> {
        Ok(())
    }

    fn allocate_unset(&self, _: usize) -> Result<(), TooLarge> {
        Ok(())
    }

    fn address((): &()) -> u64 {
        0
    }

    unsafe fn write(&self, _: u64, _: &[u8]) -> Result<(), TooLarge> {
        unreachable!("there is no memory")
    }

    unsafe fn read(&self, _: u64, _: &mut [u8]) -> Result<(), TooLarge> {
        unreachable!("there is no memory")
    }

    unsafe fn launch(&self, kernel: &'static str, _: u32, _: &[Argument]) -> Result<(), TooLarge> {
        unreachable!("there is no {kernel}")
    }

    unsafe fn multiply(&self, _: &Product) -> Result<(), TooLarge> {
        unreachable!("there are no products")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_has_all_blocks_or_is_an_error() {
        assert_eq!(blocks_of_grid("repetitions [P, parts]", [3, 128]), Ok(384));
        assert_eq!(
            blocks_of_grid("repetitions [P, parts]", [(1 << 31) - 1, 1]),
            Ok((1 << 31) - 1)
        );
        for palettes in [1 << 24, 1 << 25, usize::MAX / 2] {
            let error = blocks_of_grid("repetitions [P, parts]", [palettes, 128]).unwrap_err();
            let message = format!("repetitions [P, parts]: {palettes} x 128 is too large, the most is 2147483647");
            assert_eq!(error.to_string(), message);
        }
    }
}
