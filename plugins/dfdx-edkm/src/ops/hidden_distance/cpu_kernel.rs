use dfdx::prelude::*;
use edkm_kernels::elementwise::axpy;
use edkm_kernels::hidden_distance;

use super::{Distance, HiddenDistanceKernel};

type Buffer = <Cpu as Storage<f32>>::Vec;

impl HiddenDistanceKernel for Cpu {
    fn distance(&self, x: &[f32], y: &[f32], width: usize) -> Result<Distance<Self>, CpuError> {
        let mut half_gradient = self.try_alloc_len(x.len())?;
        Ok(Distance {
            sum: hidden_distance::forward(x, y, width, &mut half_gradient),
            half_gradient,
        })
    }

    fn add_times(&self, from: &[f32], factor: f32, times: &Buffer, to: &mut Buffer) -> Result<(), CpuError> {
        axpy(factor * times[0], from, to);
        Ok(())
    }
}
