//! How an op keeps a tensor for its backward pass: the trait that each tape answers in its own way.

use std::rc::Rc;

use dfdx::prelude::*;
use edkm_store::{Backend, DType, Placement, Precision, Record, StoreError, Ticket};

use crate::device::DeviceMemory;
use crate::ops::Vector;
use crate::tape::{byte_len, listener, Context, Failure, Remake, Resident, StoreTape, Taken};
use crate::EdkmError;

/// What a saved tensor is, for the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaveAs {
    /// Names the op and the tensor in errors and reports: `"rms_norm.x"`.
    pub label: &'static str,
    /// Whether all learners hold the same content.
    pub placement: Placement,
    /// How exactly a store keeps it.
    pub precision: Precision,
}

impl SaveAs {
    /// A tensor that differs between learners (activations do).
    pub const fn local(label: &'static str) -> Self {
        Self {
            label,
            placement: Placement::Local,
            precision: Precision::Unsaid,
        }
    }

    /// A tensor that all learners hold alike (what follows from the weights does).
    pub const fn replicated(label: &'static str) -> Self {
        Self {
            label,
            placement: Placement::Replicated,
            precision: Precision::Unsaid,
        }
    }

    /// The same, kept exactly by every store: for few numbers on which much depends, such as the logarithms of a softmax's sums.
    pub const fn exactly(self) -> Self {
        Self {
            precision: Precision::Exact,
            ..self
        }
    }
}

/// A tape that ops of this crate can save tensors through. A module that is written against this trait runs on dfdx's `NoneTape`
/// (saves nothing), dfdx's `OwnedTape` (keeps the tensor) and [`StoreTape`] (hands it to the store).
pub trait SaveForBackward<D: DeviceMemory>: Tape<f32, D> + 'static {
    /// What the backward closure holds in place of the tensor.
    type Saved<S: Shape>: 'static;

    /// Keeps a contiguous tensor until backward.
    ///
    /// # Errors
    /// The store's or the device's, as one of the device; the reason is in the tape's [`Failure`].
    fn save<S: Shape>(&mut self, tensor: Tensor<S, f32, D>, how: SaveAs) -> Result<Self::Saved<S>, D::Err>;

    /// Gives the tensor back, once: the same numbers. To dfdx it may be another one, of another id; where a store keeps contents once, that of another tensor that
    /// had the same.
    ///
    /// # Errors
    /// As for [`save`](Self::save).
    fn load<S: Shape>(saved: Self::Saved<S>) -> Result<Tensor<S, f32, D>, D::Err>;

    /// Says that backward can make the tensor `out` again with `recipe` (its elements, row-major, the same bits from the same bits), from what is
    /// saved anyway: an op that saves that content then needs no bytes for it. A tape that keeps tensors as they are pays no heed.
    fn remade_by<S: Shape>(
        &mut self,
        _out: &Tensor<S, f32, D>,
        _recipe: impl Fn() -> Result<Vector<D>, D::Err> + 'static,
    ) -> Result<(), D::Err> {
        Ok(())
    }

    /// Says that the parameters of a part of the model are used from here on and not before: once backward has come back to here, their gradients
    /// are whole (see [`crate::backward_by_parts`]). `part` is its number in the model. A tape that gives all gradients at the end pays no heed.
    fn begin_part(&mut self, _part: usize) {}

    /// Records the backward pass of an op that refuses a gradient of another length than it needs. Those recorded by dfdx's
    /// [`Tape::add_backward_op`] need not: what they add to is of its length throughout, also where a part's gradients were taken.
    fn add_checked_op<F>(&mut self, operation: F)
    where
        F: 'static + FnOnce(&mut Gradients<f32, D>) -> Result<(), D::Err>,
    {
        self.add_backward_op(operation);
    }

    /// Notes why an op failed, and gives the device's error to return.
    fn fail(&self, error: EdkmError) -> D::Err;

    /// A tape for running a segment again in backward, over the same store (see [`crate::checkpoint`]).
    fn segment(&self) -> SegmentTape;
}

/// What [`SaveForBackward::segment`] hands on.
#[derive(Clone, Default)]
pub struct SegmentTape(Option<Context>);

impl SegmentTape {
    pub(crate) fn tape<D: DeviceMemory>(self) -> StoreTape<f32, D> {
        StoreTape::within(self.0.unwrap_or_default())
    }

    /// Runs the segment for the first time, on no tape.
    pub(crate) fn first<R>(&self, segment: impl FnOnce() -> R) -> R {
        match &self.0 {
            Some(context) => context.listen(segment),
            None => segment(),
        }
    }

    /// Notes why an op failed in its backward pass.
    pub(crate) fn fail<D: DeviceMemory>(self, error: EdkmError) -> D::Err {
        match self.0 {
            Some(context) => context.failure.set(error),
            None => return SaveForBackward::<D>::fail(&NoneTape, error),
        }
        D::failed()
    }
}

impl<D: DeviceMemory> SaveForBackward<D> for NoneTape {
    type Saved<S: Shape> = std::convert::Infallible;

    fn save<S: Shape>(&mut self, _: Tensor<S, f32, D>, how: SaveAs) -> Result<Self::Saved<S>, D::Err> {
        // ops ask `OWNS_TAPE` first
        tracing::error!(label = how.label, "a tensor was saved on a tape that records nothing");
        Err(D::failed())
    }

    fn load<S: Shape>(saved: Self::Saved<S>) -> Result<Tensor<S, f32, D>, D::Err> {
        match saved {}
    }

    fn fail(&self, error: EdkmError) -> D::Err {
        match listener() {
            Some(failure) => failure.set(error),
            None => tracing::error!(%error, "an op failed"),
        }
        D::failed()
    }

    fn segment(&self) -> SegmentTape {
        SegmentTape::default()
    }
}

impl<D: DeviceMemory> SaveForBackward<D> for OwnedTape<f32, D> {
    type Saved<S: Shape> = Tensor<S, f32, D>;

    fn save<S: Shape>(&mut self, tensor: Tensor<S, f32, D>, _: SaveAs) -> Result<Self::Saved<S>, D::Err> {
        Ok(tensor)
    }

    fn load<S: Shape>(saved: Self::Saved<S>) -> Result<Tensor<S, f32, D>, D::Err> {
        Ok(saved)
    }

    fn fail(&self, error: EdkmError) -> D::Err {
        SaveForBackward::<D>::fail(&NoneTape, error)
    }

    fn segment(&self) -> SegmentTape {
        SegmentTape::default()
    }
}

/// A tensor saved on a [`StoreTape`].
pub enum StoreSaved<S: Shape, D: DeviceMemory> {
    /// On a tape without a store: the tensor itself.
    Owned(Tensor<S, f32, D>),
    /// In the store.
    Stored {
        /// The claim on the stored bytes; dropping it frees them.
        ticket: Ticket,
        /// What the bytes are turned back into.
        shape: S,
        /// On which device.
        device: D,
        /// Where a failed load leaves its reason.
        failure: Failure,
    },
    /// On the device as long as its budget allows, then in the store.
    Resident {
        /// Where it is.
        resident: Rc<Resident<f32, D>>,
        /// What it is turned back into.
        shape: S,
        /// On which device.
        device: D,
        /// Where a failed load leaves its reason.
        failure: Failure,
    },
    /// Made again when it is loaded.
    Remade(Remade<S, D>),
}

/// A tensor that was not saved.
pub struct Remade<S: Shape, D: DeviceMemory> {
    remake: Rc<Remake<f32, D>>,
    shape: S,
    label: &'static str,
    failure: Failure,
}

impl<D: DeviceMemory> SaveForBackward<D> for StoreTape<f32, D> {
    type Saved<S: Shape> = StoreSaved<S, D>;

    fn save<S: Shape>(&mut self, tensor: Tensor<S, f32, D>, how: SaveAs) -> Result<Self::Saved<S>, D::Err> {
        let Some(store) = self.store().cloned() else {
            return Ok(StoreSaved::Owned(tensor));
        };
        let _span = tracing::trace_span!("save", label = how.label).entered();
        let (shape, device) = (*tensor.shape(), tensor.device().clone());
        if let Some(remake) = self.remakes().find(byte_len(&tensor), || D::digest(&tensor))? {
            return Ok(StoreSaved::Remade(Remade {
                remake,
                shape,
                label: how.label,
                failure: self.failure(),
            }));
        }
        let failure = self.failure();
        let Some(residents) = self.residents_mut() else {
            let ticket = {
                let axes: Vec<usize> = shape.concrete().into();
                to_store(&*store, tensor, &axes, how, &failure)?
            };
            return Ok(StoreSaved::Stored {
                ticket,
                shape,
                device,
                failure,
            });
        };
        let resident = residents.keep(tensor, how)?;
        residents.make_room(|oldest, shape, how| to_store(&*store, oldest, shape, how, &failure))?;
        Ok(StoreSaved::Resident {
            resident,
            shape,
            device,
            failure,
        })
    }

    fn load<S: Shape>(saved: Self::Saved<S>) -> Result<Tensor<S, f32, D>, D::Err> {
        match saved {
            StoreSaved::Owned(tensor) => Ok(tensor),
            StoreSaved::Stored {
                ticket,
                shape,
                device,
                failure,
            } => from_store(ticket, &device, shape, &failure),
            StoreSaved::Resident {
                resident,
                shape,
                device,
                failure,
            } => match resident.take() {
                Taken::Tensor(tensor) => tensor.try_reshape_like(&shape),
                Taken::Ticket(ticket) => from_store(ticket, &device, shape, &failure),
                // the tape has the reason of the first time
                Taken::Nothing => Err(D::failed()),
            },
            StoreSaved::Remade(Remade {
                remake,
                shape,
                label,
                failure,
            }) => remake.get(label, &failure)?.try_reshape_like(&shape),
        }
    }

    fn remade_by<S: Shape>(
        &mut self,
        out: &Tensor<S, f32, D>,
        recipe: impl Fn() -> Result<Vector<D>, D::Err> + 'static,
    ) -> Result<(), D::Err> {
        if let Some(store) = self.store() {
            let remake = Remake::new(&**store, out, recipe)?;
            self.remakes_mut().insert(remake);
        }
        Ok(())
    }

    fn begin_part(&mut self, part: usize) {
        self.note_part(part);
    }

    fn add_checked_op<F>(&mut self, operation: F)
    where
        F: 'static + FnOnce(&mut Gradients<f32, D>) -> Result<(), D::Err>,
    {
        self.record_checked(operation);
    }

    fn fail(&self, error: EdkmError) -> D::Err {
        self.fail_with(error)
    }

    fn segment(&self) -> SegmentTape {
        SegmentTape(Some(Context::clone(self.context())))
    }
}

impl<D: DeviceMemory> StoreTape<f32, D> {
    fn fail_with(&self, error: EdkmError) -> D::Err {
        StoreTape::fail(self, error);
        D::failed()
    }
}

/// Gives a contiguous tensor, of such a shape or this one's elements in a row, to a store.
fn to_store<S: Shape, D: DeviceMemory>(
    store: &dyn Backend,
    tensor: Tensor<S, f32, D>,
    shape: &[usize],
    how: SaveAs,
    failure: &Failure,
) -> Result<Ticket, D::Err> {
    let uptake = tensor.device().uptake(tensor.shape().num_elements());
    let rounded = match how.precision.or(store.unsaid_precision()) {
        Precision::Bf16 => D::rounded_host_bytes(&tensor)?,
        Precision::Exact | Precision::Unsaid => None,
    };
    let (bytes, dtype) = match rounded {
        Some(bytes) => (bytes, DType::Bf16),
        None => (D::host_bytes(tensor)?, DType::F32),
    };
    let record = Record::new(bytes, dtype, shape, how.label)
        .with_placement(how.placement)
        .with_precision(how.precision)
        .with_uptake(uptake);
    store.save(record).map_err(|error| {
        failure.set(error.into());
        D::failed()
    })
}

/// Has it back.
fn from_store<S: Shape, D: DeviceMemory>(
    ticket: Ticket,
    device: &D,
    shape: S,
    failure: &Failure,
) -> Result<Tensor<S, f32, D>, D::Err> {
    let _span = tracing::trace_span!("load").entered();
    let (expected, saved) = (shape.num_elements() * size_of::<f32>(), ticket.logical_bytes());
    let bytes = ticket.load().map_err(|error| {
        failure.set(error.into());
        D::failed()
    })?;
    let got = bytes.as_bytes().len();
    device.tensor_from_host_bytes(bytes, shape).inspect_err(|_| {
        // half of them are bf16, if they were saved so
        if got != expected && (2 * got, saved) != (expected, got) {
            failure.set(StoreError::OtherLength { expected, got }.into());
        }
    })
}
