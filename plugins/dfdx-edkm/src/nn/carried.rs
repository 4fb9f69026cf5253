//! How a clustering comes from a module to the one that a visitor makes of it.

use std::cell::RefCell;

use crate::Clustering;

/// dfdx hands tensors alone to a visitor that makes a module out of another (`to_device`, `to_dtype`): the clustering is noted when the visitor reads the
/// weight beside it. A visitor that builds a module from nothing reads none, and gets the default.
#[derive(Default)]
pub(super) struct Carried(RefCell<Option<Clustering>>);

impl Carried {
    /// Of the module that is read.
    pub(super) fn note(&self, clustering: &Clustering) {
        *self.0.borrow_mut() = Some(clustering.clone());
    }

    /// For the module that is made.
    pub(super) fn take(&self) -> Clustering {
        self.0.borrow_mut().take().unwrap_or_default()
    }
}
