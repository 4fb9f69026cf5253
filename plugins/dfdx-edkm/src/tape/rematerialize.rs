//! Outputs that need not be saved, because what they were made of is saved anyway (rematerialization, arXiv 1604.06174).
//!
//! An op that can make its output again at little cost tells the tape how. When another op then saves that very content, the tape keeps the
//! way to it and no bytes: RMSNorm's output, which the projections behind it save, follows from RMSNorm's input, and SwiGLU's, which the
//! down projection saves, from gate and up. As in marshaling it is the content that counts and not who saves it: outputs are known by
//! their digests, and what was made again is compared with its own, so that it is the same bytes or an error.
//!
//! From a store that rounds what it keeps, an output is made again of rounded numbers, and so is as approximate as what is saved: there is nothing to
//! compare it with.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use dfdx::prelude::*;
use edkm_store::{Backend, Digest, Precision, StoreError};

use super::Failure;
use crate::device::{contiguous, DeviceMemory};
use crate::ops::Vector;
use crate::SaveForBackward;

/// The outputs of a tape's ops that can be made again, by content.
pub(crate) struct Remakes<E, D: Storage<E>>(HashMap<(usize, Digest), Rc<Remake<E, D>>>);

impl<E, D: Storage<E>> Default for Remakes<E, D> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<E, D: Storage<E>> Remakes<E, D> {
    pub(crate) fn insert(&mut self, remake: Remake<E, D>) {
        self.0.insert((remake.len, remake.digest), Rc::new(remake));
    }

    /// How to make so many bytes with this digest, if they are one of the outputs. The digest is asked for only if there is an output of that length.
    pub(crate) fn find<Err>(
        &self,
        len: usize,
        digest: impl FnOnce() -> Result<Digest, Err>,
    ) -> Result<Option<Rc<Remake<E, D>>>, Err> {
        if !self.0.keys().any(|&(known, _)| known == len) {
            return Ok(None);
        }
        Ok(self.0.get(&(len, digest()?)).cloned())
    }

    pub(crate) fn append(&mut self, other: Self) {
        self.0.extend(other.0);
    }
}

/// Makes the elements of an output, row-major.
type Recipe<E, D> = Box<dyn Fn() -> Result<Tensor<(usize,), E, D>, <D as HasErr>::Err>>;

/// How an output is made again. It is made for the first who asks, and dropped with the last who may.
pub(crate) struct Remake<E, D: Storage<E>> {
    len: usize,
    digest: Digest,
    recipe: Recipe<E, D>,
    /// Whether it is made of the very numbers that it was made of first.
    is_exact: bool,
    made: RefCell<Option<Tensor<(usize,), E, D>>>,
}

impl<D: DeviceMemory> Remake<f32, D> {
    /// Of the output `out`, by what `store` keeps.
    pub(crate) fn new<S: Shape>(
        store: &dyn Backend,
        out: &Tensor<S, f32, D>,
        recipe: impl Fn() -> Result<Vector<D>, D::Err> + 'static,
    ) -> Result<Self, D::Err> {
        Ok(Self {
            len: byte_len(out),
            digest: D::digest(&contiguous(out.clone())?)?,
            recipe: Box::new(recipe),
            is_exact: store.unsaid_precision() == Precision::Exact,
            made: RefCell::default(),
        })
    }

    /// The output, for an op that has saved it as `label`.
    pub(crate) fn get(&self, label: &'static str, failure: &Failure) -> Result<Vector<D>, D::Err> {
        if let Some(made) = &*self.made.borrow() {
            return Ok(made.clone());
        }
        let _span = tracing::trace_span!("rematerialize", label).entered();
        let made = (self.recipe)()?;
        if byte_len(&made) != self.len || self.is_exact && D::digest(&made)? != self.digest {
            let error = StoreError::Corrupt {
                label,
                layer: "rematerialized",
                bytes: byte_len(&made),
            };
            failure.set(error.into());
            return Err(D::failed());
        }
        *self.made.borrow_mut() = Some(made.clone());
        Ok(made)
    }
}

/// Bytes of a tensor's elements.
pub(crate) fn byte_len<S: Shape, D: DeviceMemory>(tensor: &Tensor<S, f32, D>) -> usize {
    tensor.shape().num_elements() * size_of::<f32>()
}

/// A saved tensor with several readers: it is loaded when the first one asks, and dropped with the last.
pub(crate) struct Shared<S: Shape, D: DeviceMemory, T: SaveForBackward<D>>(RefCell<State<S, D, T>>);

enum State<S: Shape, D: DeviceMemory, T: SaveForBackward<D>> {
    Saved(T::Saved<S>),
    Loaded(Tensor<S, f32, D>),
    Failed,
}

impl<S: Shape, D: DeviceMemory, T: SaveForBackward<D>> Shared<S, D, T> {
    pub(crate) fn new(saved: T::Saved<S>) -> Rc<Self> {
        Rc::new(Self(RefCell::new(State::Saved(saved))))
    }

    pub(crate) fn get(&self) -> Result<Tensor<S, f32, D>, D::Err> {
        let state = &mut *self.0.borrow_mut();
        let tensor = match std::mem::replace(state, State::Failed) {
            State::Saved(saved) => T::load(saved)?,
            State::Loaded(tensor) => tensor,
            // the tape has the reason of the first time
            State::Failed => return Err(D::failed()),
        };
        *state = State::Loaded(tensor.clone());
        Ok(tensor)
    }
}
