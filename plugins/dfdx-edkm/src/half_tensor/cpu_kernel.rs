use dfdx::prelude::*;
use edkm_cluster::HalfKind;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};
use rayon::prelude::*;

use super::HalfKernel;
use crate::device::DeviceMemory;

/// Numbers that one thread converts in one go.
const PIECE: usize = 1 << 16;

impl HalfKernel for Cpu {
    type Halves = Vec<u16>;

    fn round_to_half<S: Shape>(tensor: &Tensor<S, f32, Self>, kind: HalfKind) -> Result<Vec<u16>, CpuError> {
        let numbers = Self::view(tensor);
        let mut halves = vec![0u16; numbers.len()];
        let pieces = halves.par_chunks_mut(PIECE).zip(numbers.par_chunks(PIECE));
        pieces.for_each(|(halves, numbers)| match kind {
            HalfKind::Bf16 => halves.reinterpret_cast_mut::<bf16>().convert_from_f32_slice(numbers),
            HalfKind::F16 => halves.reinterpret_cast_mut::<f16>().convert_from_f32_slice(numbers),
        });
        Ok(halves)
    }

    fn widen_half<S: Shape>(
        &self,
        halves: &Vec<u16>,
        kind: HalfKind,
        shape: S,
    ) -> Result<Tensor<S, f32, Self>, CpuError> {
        let mut buffer = Storage::<f32>::try_alloc_len(self, halves.len())?;
        let pieces = buffer.par_chunks_mut(PIECE).zip(halves.par_chunks(PIECE));
        pieces.for_each(|(numbers, halves)| match kind {
            HalfKind::Bf16 => halves.reinterpret_cast::<bf16>().convert_to_f32_slice(numbers),
            HalfKind::F16 => halves.reinterpret_cast::<f16>().convert_to_f32_slice(numbers),
        });
        self.tensor_from_buffer(buffer, shape)
    }
}
