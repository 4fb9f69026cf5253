//! The running means of gradients and of their squares, and how they are kept.

use dfdx::prelude::*;
use edkm_kernels::adamw::eight_bit;
use serde::{Deserialize, Serialize};

/// How [`AdamW`](super::AdamW) keeps its moments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MomentFormat {
    /// f32: 8 bytes a parameter.
    #[default]
    F32,
    /// 8 bits each, in blocks of 256 numbers with a scale of their own, rounded stochastically: 2 bytes a parameter (see
    /// [`edkm_kernels::adamw::eight_bit`]). Parameters of fewer than 4096 numbers, such as norms and biases, keep f32.
    EightBit,
}

/// Parameters of fewer numbers keep f32 moments: there is nothing to gain.
const SMALL: usize = 4096;

impl MomentFormat {
    /// Bytes of the moments of a parameter of `len` numbers.
    pub fn bytes(self, len: usize) -> u64 {
        match self.of(len) {
            MomentFormat::F32 => 8 * len as u64,
            MomentFormat::EightBit => 2 * len as u64 + 4 * eight_bit::scales(len) as u64,
        }
    }

    /// The format of a parameter of `len` numbers.
    pub(super) fn of(self, len: usize) -> Self {
        if len < SMALL {
            MomentFormat::F32
        } else {
            self
        }
    }
}

/// The running means of one parameter's gradient and of its square. `N`: memory of f32 numbers; `C`: memory of bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Moments<N, C> {
    /// As they are.
    F32 {
        /// Mean of gradients.
        first: N,
        /// Mean of squared gradients.
        second: N,
    },
    /// 8 bits each.
    EightBit {
        /// Codes of the mean of gradients.
        first: C,
        /// Codes of the mean of squared gradients.
        second: C,
        /// `[blocks, 2]`
        scales: N,
    },
}

impl<N, C> Moments<N, C> {
    /// The same in other memory.
    pub(super) fn try_map<M, B, E>(
        self,
        numbers: impl Fn(N) -> Result<M, E>,
        codes: impl Fn(C) -> Result<B, E>,
    ) -> Result<Moments<M, B>, E> {
        Ok(match self {
            Moments::F32 { first, second } => Moments::F32 {
                first: numbers(first)?,
                second: numbers(second)?,
            },
            Moments::EightBit { first, second, scales } => Moments::EightBit {
                first: codes(first)?,
                second: codes(second)?,
                scales: numbers(scales)?,
            },
        })
    }

    /// References to the same.
    pub(super) fn as_ref(&self) -> Moments<&N, &C> {
        match self {
            Moments::F32 { first, second } => Moments::F32 { first, second },
            Moments::EightBit { first, second, scales } => Moments::EightBit { first, second, scales },
        }
    }
}

/// The moments of a parameter in the memory of a device.
pub type DeviceMoments<D> = Moments<<D as Storage<f32>>::Vec, <D as Storage<u8>>::Vec>;

/// Whether moments are those of a parameter of `len` numbers.
pub fn moments_fit<D: Storage<f32> + Storage<u8>>(device: &D, moments: &DeviceMoments<D>, len: usize) -> bool {
    let numbers = |memory| Storage::<f32>::len(device, memory);
    let codes = |memory| Storage::<u8>::len(device, memory);
    match moments {
        Moments::F32 { first, second } => [first, second].map(numbers) == [len; 2],
        Moments::EightBit { first, second, scales } => {
            [first, second].map(codes) == [len; 2] && numbers(scales) == eight_bit::scales(len)
        }
    }
}

/// The moments of `len` numbers that have had no gradient.
pub(super) fn zeros<D: Storage<f32> + Storage<u8>>(
    device: &D,
    len: usize,
    format: MomentFormat,
) -> Result<DeviceMoments<D>, D::Err> {
    let numbers = |len| Storage::<f32>::try_alloc_len(device, len);
    let codes = || Storage::<u8>::try_alloc_len(device, len);
    Ok(match format.of(len) {
        MomentFormat::F32 => Moments::F32 {
            first: numbers(len)?,
            second: numbers(len)?,
        },
        MomentFormat::EightBit => Moments::EightBit {
            first: codes()?,
            second: codes()?,
            scales: numbers(eight_bit::scales(len))?,
        },
    })
}
