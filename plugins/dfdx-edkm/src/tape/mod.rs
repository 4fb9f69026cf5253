//! A tape whose saved tensors go to a storage backend (eDKM, section 2: tensors saved for backward live in a store).

mod backward;
mod context;
mod failure;
mod rematerialize;
mod resident;

pub use backward::{backward, backward_by_parts, backward_each_part};
pub use context::with_reason;
pub(crate) use context::{listener, Context};
pub use failure::Failure;
pub(crate) use rematerialize::{byte_len, Remake, Remakes, Shared};
pub use resident::DeviceBudget;
pub(crate) use resident::{Resident, Residents, Taken};

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use dfdx::prelude::*;
use edkm_store::{Backend, Precision};

use crate::gradients::refill;
use crate::EdkmError;

/// An operation of the backward pass.
type BackwardOp<E, D> = Box<dyn FnOnce(&mut Gradients<E, D>) -> Result<(), <D as HasErr>::Err>>;

/// What a tape records.
enum Recorded<E, D: Storage<E>> {
    Op {
        run: BackwardOp<E, D>,
        /// Whether it looks at the length of the gradients that it adds to.
        is_checked: bool,
    },
    /// From here on the parameters of this part are used.
    Part(usize),
}

/// The order in which operations were recorded, across all tapes: merged tapes are run in the order of time.
static CLOCK: AtomicU64 = AtomicU64::new(0);

/// A gradient tape that every dfdx op accepts, and that hands what the ops of this crate save to a [`Backend`].
///
/// Put it on the input in place of dfdx's `traced`: `x.put_tape(StoreTape::new(store, model.alloc_grads()))`. What dfdx's own ops capture
/// in their closures stays there, as on dfdx's `OwnedTape`; wrap such a sub-model in [`crate::checkpoint`] to save its input alone.
///
/// dfdx's modules `Dropout` and `BatchNorm` are written for `OwnedTape` alone where they train; its op `dropout` takes this tape too.
///
/// What an op can make again from what is saved anyway (outputs of RMSNorm, SwiGLU and short attention) is not saved by the ops that read it.
///
/// An empty tape, as dfdx makes it for the branches of `Residual` and `SplitInto`, goes with the tape that was made or used last on its thread, if
/// that still lives: it has the same store, budget and [`Failure`]. Without one it keeps saved tensors as they are.
///
/// With a lossless store the gradients are bitwise those of `OwnedTape`. Dropping the tape frees what the store keeps for it.
pub struct StoreTape<E, D: Storage<E>> {
    recorded: Vec<(u64, Recorded<E, D>)>,
    /// Those that it was made with, and those of the tapes that were merged into it. An empty tape has none.
    gradients: Vec<Gradients<E, D>>,
    context: Rc<Context>,
    /// Made empty by dfdx: whose context it has was found out, not said.
    is_found: bool,
    /// Where ops of merged tapes leave their reasons.
    other_failures: Vec<Failure>,
    /// What need not be saved, since it can be made again.
    remakes: Remakes<E, D>,
    /// What need not be saved yet, since the device has room for it.
    residents: Option<Box<Residents<E, D>>>,
}

impl<E: 'static, D: Storage<E>> StoreTape<E, D> {
    /// A tape over `store`, accumulating into `gradients`: from dfdx's `alloc_grads` or [`gradients_of`](crate::gradients_of), so that gradients of
    /// what lies between are freed on the way, or [`Gradients::leaky`], which keeps them all.
    pub fn new(store: impl Backend, gradients: Gradients<E, D>) -> Self {
        Self::shared(Arc::new(store), gradients)
    }

    /// The same over a backend that others use too.
    pub fn shared(store: Arc<dyn Backend>, gradients: Gradients<E, D>) -> Self {
        let context = Context {
            store: Some(store),
            // one that is made within `with_reason` tells it
            failure: listener().unwrap_or_default(),
            ..Context::default()
        };
        Self {
            gradients: vec![gradients],
            ..Self::within(context)
        }
    }

    /// The same tape, which leaves what it saves in the device's memory as far as `budget` goes, and gives the oldest of it to the store beyond.
    /// Without a budget everything goes to the store. What stays is not in the store's figures but in those of `budget`.
    pub fn with_device_budget(self, budget: &DeviceBudget) -> Self {
        let context = Rc::new(Context {
            budget: Some(budget.clone()),
            ..Context::clone(&self.context)
        });
        context.make_current();
        Self { context, ..self }
    }

    /// Where the reason of a failed op is left. Take it before the forward pass: a failed op drops its tape. An op in a branch of `Residual` or `SplitInto` leaves it with the tape that was
    /// made or used last: where there are several, make each right before its own forward pass.
    pub fn failure(&self) -> Failure {
        self.context.failure.clone()
    }

    /// The backend, if this tape has one.
    pub fn store(&self) -> Option<&Arc<dyn Backend>> {
        self.context.store.as_ref()
    }

    /// An empty tape in a context of its own: the one of a segment that is run again in backward.
    pub(crate) fn within(context: Context) -> Self {
        let context = Rc::new(context);
        context.make_current();
        Self::sharing(context)
    }

    fn sharing(context: Rc<Context>) -> Self {
        Self {
            recorded: Vec::new(),
            gradients: Vec::new(),
            context,
            is_found: false,
            other_failures: Vec::new(),
            remakes: Remakes::default(),
            residents: None,
        }
    }

    pub(crate) fn context(&self) -> &Rc<Context> {
        &self.context
    }

    /// What stays on the device, if anything may.
    pub(crate) fn residents_mut(&mut self) -> Option<&mut Residents<E, D>> {
        let budget = self.context.budget.as_ref()?;
        let residents = self
            .residents
            .get_or_insert_with(|| Box::new(Residents::new(budget.clone())));
        Some(residents)
    }

    /// Runs the recorded operations, newest first, on `gradients`.
    pub(crate) fn run(self, gradients: &mut Gradients<E, D>) -> Result<(), D::Err> {
        self.run_by_parts(gradients, |_, _| Ok(()), |error| error)
    }

    /// The same; behind the last operation of each part it calls `part`. `failed` is what becomes of the error of an operation.
    fn run_by_parts<X>(
        mut self,
        gradients: &mut Gradients<E, D>,
        mut part: impl FnMut(usize, &mut Gradients<E, D>) -> Result<(), X>,
        failed: impl Fn(D::Err) -> X,
    ) -> Result<(), X> {
        // from here on an output stays as long as an op that needs it
        drop(std::mem::take(&mut self.remakes));
        self.recorded.sort_by_key(|(time, _)| *time);
        // where a part has begun twice it is the first that counts, which is met last
        let mut begun = HashSet::new();
        self.recorded.retain(|(_, recorded)| match recorded {
            Recorded::Op { .. } => true,
            Recorded::Part(part) => begun.insert(*part),
        });
        while let Some((_, recorded)) = self.recorded.pop() {
            match recorded {
                Recorded::Op { run, is_checked } => {
                    if !is_checked {
                        refill(gradients).map_err(&failed)?;
                    }
                    run(gradients).map_err(&failed)?;
                }
                Recorded::Part(begun) => part(begun, gradients)?,
            }
        }
        Ok(())
    }

    /// Notes that the parameters of `part` are used from here on.
    pub(crate) fn note_part(&mut self, part: usize) {
        self.record(Recorded::Part(part));
    }

    pub(crate) fn record_checked<F>(&mut self, operation: F)
    where
        F: 'static + FnOnce(&mut Gradients<E, D>) -> Result<(), D::Err>,
    {
        self.record(Recorded::Op {
            run: Box::new(operation),
            is_checked: true,
        });
    }

    fn record(&mut self, what: Recorded<E, D>) {
        self.context.make_current();
        self.recorded.push((CLOCK.fetch_add(1, Ordering::Relaxed), what));
    }

    pub(crate) fn remakes(&self) -> &Remakes<E, D> {
        &self.remakes
    }

    pub(crate) fn remakes_mut(&mut self) -> &mut Remakes<E, D> {
        &mut self.remakes
    }

    pub(crate) fn fail(&self, error: EdkmError) {
        self.context.failure.set(error);
    }
}

impl<E: 'static, D: Storage<E>> Default for StoreTape<E, D> {
    fn default() -> Self {
        Self {
            is_found: true,
            ..Self::sharing(Context::current().unwrap_or_default())
        }
    }
}

impl<E, D: Storage<E>> std::fmt::Debug for StoreTape<E, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreTape")
            .field("recorded", &self.recorded.len())
            .field("has_store", &self.context.store.is_some())
            .finish_non_exhaustive()
    }
}

impl<E, D: Storage<E>> Merge<NoneTape> for StoreTape<E, D> {
    fn merge(self, _: NoneTape) -> Self {
        self
    }
}

impl<E: 'static, D: Storage<E>> Merge<Self> for StoreTape<E, D> {
    /// Keeps the store and the failure slot of the left side, but if that is an empty tape of dfdx's. The gradients are those of both, as with `OwnedTape`:
    /// of a leaf that both have, the right side's.
    fn merge(self, other: Self) -> Self {
        let (mut kept, mut joined) = if self.gradients.is_empty() && !other.gradients.is_empty() {
            (other, self)
        } else {
            (self, other)
        };
        kept.gradients.append(&mut joined.gradients);
        if !Rc::ptr_eq(&kept.context, &joined.context) {
            let rounds = |tape: &Self| {
                let store = tape.context.store.as_ref();
                store.is_some_and(|store| store.unsaid_precision() == Precision::Bf16)
            };
            if joined.is_found && !joined.recorded.is_empty() && rounds(&joined) && !rounds(&kept) {
                kept.fail(EdkmError::OtherTape);
            }
            kept.other_failures.push(joined.failure());
        }
        kept.other_failures.append(&mut joined.other_failures);
        kept.recorded.append(&mut joined.recorded);
        kept.remakes.append(joined.remakes);
        match (&mut kept.residents, joined.residents) {
            (Some(earlier), Some(later)) => earlier.append(*later),
            (none, later) if none.is_none() => *none = later,
            _ => {}
        }
        kept
    }
}

impl<E: 'static, D: Storage<E>> Tape<E, D> for StoreTape<E, D> {
    const OWNS_TAPE: bool = true;

    fn add_backward_op<F>(&mut self, operation: F)
    where
        F: 'static + FnOnce(&mut Gradients<E, D>) -> Result<(), D::Err>,
    {
        self.record(Recorded::Op {
            run: Box::new(operation),
            is_checked: false,
        });
    }
}
