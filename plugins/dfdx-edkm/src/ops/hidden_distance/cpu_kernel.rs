use dfdx::prelude::*;
use edkm_kernels::adamw::sum_of_squares;
use edkm_kernels::elementwise::{axpy, subtract};

use super::{Difference, HiddenDistanceKernel};

type Buffer = <Cpu as Storage<f32>>::Vec;

impl HiddenDistanceKernel for Cpu {
    fn difference(&self, x: &[f32], y: &[f32]) -> Result<Difference<Self>, CpuError> {
        let mut difference = self.try_alloc_len(x.len())?;
        subtract(x, y, &mut difference);
        Ok(Difference {
            squares: sum_of_squares(&difference),
            squares_of_second: sum_of_squares(y),
            difference,
        })
    }

    fn add_times(&self, from: &[f32], factor: f32, times: &Buffer, to: &mut Buffer) -> Result<(), CpuError> {
        axpy(factor * times[0], from, to);
        Ok(())
    }
}
