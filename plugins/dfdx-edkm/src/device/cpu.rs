//! Memory of dfdx's `Cpu`.
//!
//! A tensor's storage is private to dfdx, and the public way to it (`copy_into`) copies.
//! What is public is `Index`, which lends one element; elements of a tensor stand in one `Vec`, so the address of the first gives all.
#![allow(unsafe_code)]

use std::any::Any;
use std::sync::Arc;

use dfdx::prelude::*;
use edkm_store::{Digest, SharedBytes};

use super::DeviceMemory;

impl DeviceMemory for Cpu {
    type View<'a> = &'a [f32];
    type Fresh = <Self as Storage<f32>>::Vec;

    fn view<S: Shape, T>(tensor: &Tensor<S, f32, Self, T>) -> &[f32] {
        let len = tensor.shape().num_elements();
        if len == 0 {
            return &[];
        }
        assert!(
            Self::is_contiguous(tensor),
            "a view of a tensor that is not contiguous: {:?}",
            tensor.shape()
        );
        let first: *const f32 = &tensor[S::Concrete::default()];
        // a gradient whose memory was shortened has not all of them: dfdx's index panics then
        let end: *const f32 = &tensor[last(tensor.shape())];
        assert_eq!(
            end.addr(),
            first.addr() + (len - 1) * size_of::<f32>(),
            "another order than the strides have"
        );
        // SAFETY: `Index` lends an element of the tensor's one `Vec<f32>`, and dfdx lends no more; that a pointer to it reaches the numbers beside it
        // is what the model of Tree Borrows allows (Stacked Borrows would not). The strides were found to be those of the shape and the last element to be there, so the elements
        // [0, len) lie in that `Vec` behind the first, initialised. The `Vec` lives in an `Arc` that `tensor` holds for the lifetime of the returned
        // slice, and is changed only through `&mut` of a tensor that is its sole owner (`Arc::make_mut`).
        unsafe { std::slice::from_raw_parts(first, len) }
    }

    fn is_contiguous<S: Shape, T>(tensor: &Tensor<S, f32, Self, T>) -> bool {
        let (shape, strides) = (tensor.shape().concrete(), tensor.shape().strides());
        if tensor.shape().num_elements() == 0 {
            return true;
        }
        let origin = &tensor[S::Concrete::default()] as *const f32 as usize;
        (0..S::NUM_DIMS).filter(|&axis| shape[axis] > 1).all(|axis| {
            let mut index = S::Concrete::default();
            index[axis] = 1;
            let address = &tensor[index] as *const f32 as usize;
            address == origin + strides[axis] * size_of::<f32>()
        })
    }

    fn tensor_from_buffer<S: Shape>(
        &self,
        mut buffer: <Self as Storage<f32>>::Vec,
        shape: S,
    ) -> Result<Tensor<S, f32, Self>, CpuError> {
        self.try_tensor_from_vec(std::mem::take(&mut *buffer), shape)
    }

    fn tensor_from_host<S: Shape>(&self, numbers: Vec<f32>, shape: S) -> Result<Tensor<S, f32, Self>, CpuError> {
        self.try_tensor_from_vec(numbers, shape)
    }

    fn digest<S: Shape>(tensor: &Tensor<S, f32, Self>) -> Result<Digest, CpuError> {
        Ok(Digest::of(bytemuck::cast_slice(Self::view(tensor))))
    }

    fn host_bytes<S: Shape>(tensor: Tensor<S, f32, Self>) -> Result<Arc<dyn SharedBytes>, CpuError> {
        let len = tensor.shape().num_elements();
        Ok(Arc::new(HeldTensor {
            tensor: tensor.try_reshape_like(&(len,))?,
        }))
    }

    fn tensor_from_host_bytes<S: Shape>(
        &self,
        bytes: Arc<dyn SharedBytes>,
        shape: S,
    ) -> Result<Tensor<S, f32, Self>, CpuError> {
        if bytes.as_bytes().len() != shape.num_elements() * size_of::<f32>() {
            return Err(CpuError::WrongNumElements);
        }
        let any: Arc<dyn Any + Send + Sync> = bytes.clone();
        match any.downcast::<HeldTensor>() {
            Ok(held) => held.tensor.clone().try_reshape_like(&shape),
            // the bytes of a blob need not be aligned for f32
            Err(_) => self.try_tensor_from_vec(bytemuck::pod_collect_to_vec(bytes.as_bytes()), shape),
        }
    }

    fn address<S: Shape>(tensor: &Tensor<S, f32, Self>) -> u64 {
        Self::view(tensor).as_ptr() as u64
    }

    fn failed() -> CpuError {
        CpuError::OutOfMemory
    }
}

/// A tensor kept by a store as it is: a reference, no copy.
struct HeldTensor {
    tensor: Tensor<(usize,), f32, Cpu>,
}

impl SharedBytes for HeldTensor {
    fn as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(Cpu::view(&self.tensor))
    }
}

/// The index of the last element of a shape that has one.
fn last<S: Shape>(shape: &S) -> S::Concrete {
    let mut last = shape.concrete();
    for axis in 0..S::NUM_DIMS {
        last[axis] -= 1;
    }
    last
}

/// The numbers of a tensor in the order of memory, which is that of its gradient, for writing in place: its elements, in another order if it is permuted.
/// Copies first if the storage is shared with another tensor.
pub(crate) fn memory_mut<S: Shape>(tensor: &mut Tensor<S, f32, Cpu>) -> &mut [f32] {
    if tensor.shape().num_elements() == 0 {
        return &mut [];
    }
    let last = last(tensor.shape());
    let address = |index: S::Concrete| &tensor[index] as *const f32 as usize;
    // strides are not negative: no element lies before the first or behind the last
    let len = (address(last) - address(S::Concrete::default())) / size_of::<f32>() + 1;
    let first: *mut f32 = &mut tensor[S::Concrete::default()];
    // SAFETY: of a pointer to one element as in `view`. `Index` has lent the elements at both ends of the tensor's one `Vec<f32>`, so the `len` numbers
    // between lie in it, initialised; `IndexMut` has made this tensor the sole owner of its storage, which leaves places within it as they were, and the
    // borrow of `tensor` is unique.
    unsafe { std::slice::from_raw_parts_mut(first, len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_the_tensor_and_not_a_copy() {
        let dev: Cpu = Default::default();
        let t = dev.tensor([[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]]);
        assert_eq!(Cpu::view(&t), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(Cpu::view(&t).as_ptr(), Cpu::view(&t.clone()).as_ptr());
    }

    /// Memory that is there at the first element and one step along each axis, and not at the last.
    #[test]
    #[should_panic = "index out of bounds"]
    fn a_gradient_that_was_shortened_is_not_viewed() {
        let dev: Cpu = Default::default();
        let t: Tensor<Rank2<2, 8>, f32, _> = dev.zeros();
        let mut gradients = Gradients::leaky();
        gradients.get_or_alloc_mut(&t).unwrap().truncate(9);
        Cpu::view(&gradients.get(&t));
    }

    #[test]
    fn permuted_and_broadcast_tensors_are_recognised() {
        let dev: Cpu = Default::default();
        let t: Tensor<Rank2<2, 3>, f32, _> = dev.sample_normal();
        assert!(Cpu::is_contiguous(&t));
        assert!(!Cpu::is_contiguous(&t.clone().permute::<Rank2<3, 2>, _>()));
        let row: Tensor<Rank1<3>, f32, _> = dev.sample_normal();
        assert!(!Cpu::is_contiguous(&row.broadcast::<Rank2<4, 3>, _>()));
        // an axis of length one has no stride to speak of
        let column: Tensor<Rank2<3, 1>, f32, _> = dev.sample_normal();
        assert!(Cpu::is_contiguous(&column.permute::<Rank2<1, 3>, _>()));
    }

    #[test]
    fn writing_leaves_clones_as_they_were() {
        let dev: Cpu = Default::default();
        let mut t = dev.tensor([1.0f32, 2.0]);
        let before = t.clone();
        memory_mut(&mut t)[1] = 7.0;
        assert_eq!(t.array(), [1.0, 7.0]);
        assert_eq!(before.array(), [1.0, 2.0]);
    }

    #[test]
    fn memory_is_in_its_own_order() {
        let dev: Cpu = Default::default();
        let t = dev.tensor([[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]]);
        let mut permuted = t.clone().permute::<Rank2<3, 2>, _>();
        assert_eq!(memory_mut(&mut permuted), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let mut broadcast = t.broadcast::<Rank3<2, 4, 3>, Axis<1>>();
        assert_eq!(memory_mut(&mut broadcast), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let mut number: Tensor<Rank0, f32, _> = dev.ones();
        assert_eq!(memory_mut(&mut number), [1.0]);
    }
}
