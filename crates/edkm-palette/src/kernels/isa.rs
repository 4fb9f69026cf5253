//! The instruction sets that the kernels are compiled for, and the choice among them when the program runs.

#[cfg(target_arch = "x86_64")]
use super::avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use super::avx512::Avx512;
use super::lanes::{Job, Lanes};
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::portable::Portable;

/// An instruction set that this processor has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
    Portable(Portable),
}

impl Isa {
    /// The instruction sets that this processor has, fastest first.
    pub(crate) fn available() -> impl Iterator<Item = Isa> {
        #[cfg(target_arch = "x86_64")]
        let detected = [Avx512::detect().map(Isa::Avx512), Avx2::detect().map(Isa::Avx2)];
        #[cfg(target_arch = "aarch64")]
        let detected = [Neon::detect().map(Isa::Neon)];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let detected: [Option<Isa>; 0] = [];
        detected.into_iter().flatten().chain([Isa::Portable(Portable)])
    }

    /// The fastest.
    pub(crate) fn best() -> Isa {
        Self::available().next().unwrap_or(Isa::Portable(Portable))
    }

    /// Runs a job with the instructions enabled. Each width is a function of its own: one function with all of them would take
    /// the compiler minutes.
    pub(crate) fn run<J: Job>(self, job: J) {
        match job.bits() {
            1 => self.run_width::<J, 1>(job),
            2 => self.run_width::<J, 2>(job),
            3 => self.run_width::<J, 3>(job),
            4 => self.run_width::<J, 4>(job),
            5 => self.run_width::<J, 5>(job),
            6 => self.run_width::<J, 6>(job),
            7 => self.run_width::<J, 7>(job),
            _ => self.run_width::<J, 8>(job),
        }
    }

    fn run_width<J: Job, const BITS: usize>(self, job: J) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(lanes) => lanes.run::<J, BITS>(job),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(lanes) => lanes.run::<J, BITS>(job),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon(lanes) => lanes.run::<J, BITS>(job),
            Isa::Portable(lanes) => lanes.run::<J, BITS>(job),
        }
    }
}
