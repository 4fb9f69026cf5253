//! How what a module holds beside its tensors comes to the module that a visitor makes of it.

use std::cell::RefCell;

/// dfdx hands tensors alone to a visitor that makes a module out of another (`to_device`, `to_dtype`): what stands beside the weight is noted when the visitor
/// reads that. A visitor that builds a module from nothing reads none.
pub(super) struct Carried<T>(RefCell<Option<T>>);

impl<T> Default for Carried<T> {
    fn default() -> Self {
        Self(RefCell::new(None))
    }
}

impl<T: Clone> Carried<T> {
    /// Of the module that is read.
    pub(super) fn note(&self, of_module: &T) {
        *self.0.borrow_mut() = Some(of_module.clone());
    }

    /// For the module that is made, if it is made of another.
    pub(super) fn take(&self) -> Option<T> {
        self.0.borrow_mut().take()
    }
}
