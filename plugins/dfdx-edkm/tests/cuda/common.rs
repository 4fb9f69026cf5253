//! A GPU, numbers, gradients.

use dfdx::prelude::*;
use dfdx_edkm::device::open_gpu;
use dfdx_edkm::EdkmDevice;
pub(crate) use edkm_testkit::random;

/// GPU 0.
pub(crate) fn gpu() -> Cuda {
    open_gpu(0, 0).expect("a GPU")
}

/// The gradient of a tensor, on the host.
pub(crate) fn gradient<S: Shape, D: EdkmDevice>(gradients: &mut Gradients<f32, D>, of: &Tensor<S, f32, D>) -> Vec<f32> {
    let buffer = gradients.get_or_alloc_mut(of).expect("memory");
    of.device().buffer_to_vec(buffer).expect("a copy")
}
