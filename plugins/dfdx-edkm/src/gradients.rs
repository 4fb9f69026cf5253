//! Gradients between ops: which of them are leaves, and how the memory of those that nobody needs any more is freed on the way.
//!
//! dfdx's own ops add to the memory in a gradient's slot without a look at its length. So a slot may be left empty only while all that will still reach for
//! it are ops of this crate, which look ([`SaveForBackward::add_checked_op`](crate::SaveForBackward::add_checked_op)).

use std::any::Any;
use std::cell::RefCell;

use dfdx::optim::UnusedTensors;
use dfdx::prelude::*;

use crate::device::DeviceMemory;
use crate::{EdkmDevice, EdkmError, ParameterKind, ParameterVisitor, Parameters, SaveForBackward};

/// The numbers of gradients on a device.
type Numbers<D> = <D as Storage<f32>>::Vec;

/// Gradients that keep those of the parameters of `model` to the end of a backward pass and no others: what dfdx's `alloc_grads` is for its const modules, for
/// all that has [`Parameters`]. It takes no memory before there is a gradient. (A walk over parameters borrows the model as its own: the gradients are made on a line
/// before that of the forward pass.)
///
/// Into the gradients that one backward pass returns the next may be accumulated.
pub fn gradients_of<D: EdkmDevice>(model: &mut impl Parameters<D>) -> Gradients<f32, D> {
    struct Leaves(UnusedTensors);
    impl<D: EdkmDevice> ParameterVisitor<D> for Leaves {
        type Error = std::convert::Infallible;
        fn visit<S: Shape>(
            &mut self,
            _: &str,
            _: ParameterKind<'_>,
            parameter: &mut Tensor<S, f32, D>,
        ) -> Result<(), Self::Error> {
            self.0.add(parameter);
            Ok(())
        }
    }
    let mut leaves = Leaves(UnusedTensors::default());
    let Ok(()) = model.visit_parameters("", &mut leaves);
    let mut gradients = Gradients::leaky();
    gradients.retain_leafs(&leaves.0.ids);
    gradients
}

/// Puts zeros into a slot that was left empty.
type Refill<E, D> = Box<dyn FnOnce(&mut Gradients<E, D>) -> Result<(), <D as HasErr>::Err>>;

/// The backward pass over a tape of this crate that runs on this thread.
struct Pass {
    /// Gradients of what is no leaf go at its end: nobody can ask for them.
    temporaries_go: bool,
    /// For each slot that was left empty its [`Refill`].
    empty: Vec<Box<dyn Any>>,
}

thread_local! {
    static PASS: RefCell<Option<Pass>> = const { RefCell::new(None) };
}

/// A backward pass, as long as it is there.
pub(crate) struct Running(Option<Pass>);

impl Running {
    pub(crate) fn begin(temporaries_go: bool) -> Self {
        let empty = Vec::new();
        Running(PASS.replace(Some(Pass { temporaries_go, empty })))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        PASS.set(self.0.take());
    }
}

/// Puts zeros into all slots that were left empty in this pass: before ops that do not look, and before somebody else has the gradients.
pub(crate) fn refill<E: 'static, D: Storage<E>>(gradients: &mut Gradients<E, D>) -> Result<(), D::Err> {
    let empty = PASS.with_borrow_mut(|pass| pass.as_mut().map(|pass| std::mem::take(&mut pass.empty)));
    for refill in empty.into_iter().flatten() {
        if let Ok(refill) = refill.downcast::<Refill<E, D>>() {
            refill(gradients)?;
        }
    }
    Ok(())
}

/// Whether what is no leaf goes where `gradients` drop it: their leaves are dfdx's secret, so a slot of another length is put there.
pub(crate) fn drop_temporaries<E: Dtype, D: Device<E>>(
    gradients: &mut Gradients<E, D>,
    temporary: &Tensor<Rank0, E, D>,
) -> Result<bool, D::Err> {
    const OTHER_LEN: usize = 2;
    let (device, ghost) = (temporary.device(), temporary.ghost());
    *gradients.get_or_alloc_mut(&ghost)? = Storage::<E>::try_alloc_len(device, OTHER_LEN)?;
    gradients.drop_non_leafs();
    let slot = gradients.get_or_alloc_mut(&ghost)?;
    if Storage::<E>::len(device, slot) != OTHER_LEN {
        return Ok(true);
    }
    *slot = Storage::<E>::try_alloc_len(device, 1)?;
    Ok(false)
}

/// The slot of the gradient of `tensor`, for an op of this crate that adds to it.
pub(crate) fn gradient_slot<'g, D: DeviceMemory>(
    device: &D,
    slot: &'g mut Numbers<D>,
    tensor: &impl HasShape,
) -> Result<&'g mut Numbers<D>, D::Err> {
    match Storage::<f32>::len(device, slot) == tensor.shape().num_elements() {
        true => Ok(slot),
        false => Err(SaveForBackward::<D>::fail(&NoneTape, EdkmError::GradientTaken)),
    }
}

/// The gradient of an op's output, for its backward pass. Behind that nobody adds to it or reads it, unless it may be asked for when all is done.
pub(crate) fn output_gradient<D: DeviceMemory>(
    device: &D,
    slot: &mut Numbers<D>,
    tensor: &impl HasShape,
) -> Result<Numbers<D>, D::Err> {
    let slot = gradient_slot(device, slot, tensor)?;
    match PASS.with_borrow(|pass| pass.as_ref().is_some_and(|pass| pass.temporaries_go)) {
        true => replace(device, slot, EMPTY),
        false => Ok(slot.clone()),
    }
}

/// The gradient of an op's input, which the op puts back: [`Gradients`] lends one at a time.
pub(crate) fn lend_gradient<D: DeviceMemory>(
    device: &D,
    slot: &mut Numbers<D>,
    tensor: &impl HasShape,
) -> Result<Numbers<D>, D::Err> {
    replace(device, gradient_slot(device, slot, tensor)?, EMPTY)
}

/// Takes the gradient of a parameter for good, in [`backward_by_parts`](crate::backward_by_parts) that of one of the part: its memory is then the caller's to
/// free. To others it is zeros from then on, which take memory only once somebody may reach for them.
///
/// # Errors
/// The device's.
pub fn take_gradient<S: Shape, D: DeviceMemory>(
    gradients: &mut Gradients<f32, D>,
    parameter: &Tensor<S, f32, D>,
) -> Result<Numbers<D>, D::Err> {
    let (device, ghost) = (parameter.device().clone(), parameter.ghost());
    let slot = gradient_slot(&device, gradients.get_or_alloc_mut(&ghost)?, &ghost)?;
    let len = Storage::<f32>::len(&device, slot);
    let is_in_pass = PASS.with_borrow(Option::is_some);
    let taken = replace(&device, slot, if is_in_pass { EMPTY } else { len })?;
    let refill: Refill<f32, D> = Box::new(move |gradients| {
        *gradients.get_or_alloc_mut(&ghost)? = Storage::<f32>::try_alloc_len(&device, len)?;
        Ok(())
    });
    PASS.with_borrow_mut(|pass| {
        if let Some(pass) = pass {
            pass.empty.push(Box::new(refill));
        }
    });
    Ok(taken)
}

/// Elements of an emptied slot: one, since not every device can allocate none.
const EMPTY: usize = 1;

fn replace<D: DeviceMemory>(device: &D, slot: &mut Numbers<D>, len: usize) -> Result<Numbers<D>, D::Err> {
    Ok(std::mem::replace(slot, Storage::<f32>::try_alloc_len(device, len)?))
}
