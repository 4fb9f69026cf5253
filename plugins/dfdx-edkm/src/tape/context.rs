//! What the tapes of one forward pass have in common.
//!
//! dfdx makes empty tapes on the way, by `Default`: for the branches of `Residual` and `SplitInto`, and for each weight. Nothing tells them whose they are,
//! so they take the context of the tape that was made or used last on their thread: as long as that lives, it is the one whose forward pass is running.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use edkm_store::Backend;

use super::{DeviceBudget, Failure};
use crate::EdkmError;

/// Where saved tensors and the reasons of failures go.
#[derive(Clone, Default)]
pub(crate) struct Context {
    /// `None`: saved tensors stay as they are.
    pub(crate) store: Option<Arc<dyn Backend>>,
    pub(crate) failure: Failure,
    /// What may stay on the device before it goes to the store.
    pub(crate) budget: Option<DeviceBudget>,
}

thread_local! {
    static CURRENT: RefCell<Weak<Context>> = const { RefCell::new(Weak::new()) };
    /// Where ops without a tape leave their reasons, while one listens.
    static LISTENER: RefCell<Option<Failure>> = const { RefCell::new(None) };
}

/// Puts the listener before it back, also in a panic.
struct Listening(Option<Failure>);

impl Drop for Listening {
    fn drop(&mut self) {
        LISTENER.set(self.0.take());
    }
}

/// Runs `work` and gives the reason of an op that failed in it with what `work` gives: the device's error says only that there was one. Those on a
/// [`StoreTape`](crate::StoreTape) that was made before are told by its [`Failure`].
pub fn with_reason<R>(work: impl FnOnce() -> R) -> (R, Option<EdkmError>) {
    let failure = Failure::default();
    let listening = Listening(LISTENER.replace(Some(failure.clone())));
    let result = work();
    drop(listening);
    (result, failure.take())
}

/// Who is told why an op without a tape failed.
pub(crate) fn listener() -> Option<Failure> {
    LISTENER.with_borrow(Clone::clone)
}

impl Context {
    /// That of the tape which was made or used last on this thread, if it lives.
    pub(super) fn current() -> Option<Rc<Self>> {
        // a thread that is ending has none
        CURRENT.try_with(|current| current.borrow().upgrade()).ok().flatten()
    }

    /// Runs a part of the forward pass whose ops have no tape, since it will be run again in backward. The reasons of their failures are this context's.
    pub(crate) fn listen<R>(&self, part: impl FnOnce() -> R) -> R {
        let _listening = Listening(LISTENER.replace(Some(self.failure.clone())));
        part()
    }

    /// Notes that a tape of this context is in use.
    pub(super) fn make_current(self: &Rc<Self>) {
        let _ = CURRENT.try_with(|current| {
            let current = &mut *current.borrow_mut();
            if !std::ptr::eq(current.as_ptr(), Rc::as_ptr(self)) {
                *current = Rc::downgrade(self);
            }
        });
    }
}
