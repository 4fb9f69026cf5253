//! The seam for distribution: learners that hold the same bytes and gather each other's parts.

mod equal_parts;
mod in_process;

pub use equal_parts::gather_equal_parts;
pub use in_process::{in_process_learners, InProcessLearner, DEFAULT_PATIENCE};

use std::sync::Arc;

use crate::{SharedBytes, StoreError};

/// The first rank whose tag the fewest learners share, unless all are equal.
fn odd_one_out(tags: &[u64]) -> Option<usize> {
    let sharing = |tag: u64| tags.iter().filter(|&&other| other == tag).count();
    let odd = (0..tags.len()).min_by_key(|&rank| sharing(tags[rank]))?;
    (sharing(tags[odd]) < tags.len()).then_some(odd)
}

/// One learner's view of the group that it trains with: the seam behind which threads, MPI or NCCL stand.
///
/// All learners call `all_gather` the same number of times in the same order, as MPI's and NCCL's own collectives demand.
/// The store sees to it within one store, provided that each learner saves and loads its replicated records in the same
/// order and from one thread.
pub trait LearnerGroup: Send + Sync + 'static {
    /// This learner, from 0.
    fn rank(&self) -> usize;

    /// Learners in the group, at least 1.
    fn world(&self) -> usize;

    /// Gives `part` to all learners and returns everybody's, by rank. Parts may differ in length. `tag` is equal for
    /// calls that belong together; an implementation that can compare tags reports learners that have come apart.
    ///
    /// # Errors
    /// [`StoreError::Learner`], naming the learner that failed, left, did not come in time or gathered something else.
    fn all_gather(&self, tag: u64, part: Arc<dyn SharedBytes>) -> Result<Vec<Arc<dyn SharedBytes>>, StoreError>;

    /// Tells the others that this learner has failed, so that they do not wait for it. The store calls it on its own errors.
    fn abort(&self, reason: &str);
}

impl<G: LearnerGroup + ?Sized> LearnerGroup for Arc<G> {
    fn rank(&self) -> usize {
        (**self).rank()
    }

    fn world(&self) -> usize {
        (**self).world()
    }

    fn all_gather(&self, tag: u64, part: Arc<dyn SharedBytes>) -> Result<Vec<Arc<dyn SharedBytes>>, StoreError> {
        (**self).all_gather(tag, part)
    }

    fn abort(&self, reason: &str) {
        (**self).abort(reason);
    }
}
