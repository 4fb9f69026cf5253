//! Learners that are GPUs of one machine.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use edkm_cuda::driver::nccl::{CollectiveError, Communicator};
use edkm_store::{gather_equal_parts, LearnerGroup, SharedBytes, StoreError};

use crate::EdkmError;

/// Makes a learner of each of these GPUs, for one thread each: give it to that thread's store (`StoreBuilder::shard`, `StoreSpec::build_for`). What they
/// gather goes from GPU to GPU by NCCL.
///
/// A learner leaves the group when it is dropped, which ends the others' waiting with an error. One that neither fails nor leaves nor comes is given up
/// after `patience`. A GPU is in one group at a time: collectives of two may wait for each other.
///
/// # Errors
/// GPUs that there are not, or one named twice; NCCL.
pub fn nccl_learners(ordinals: &[usize], patience: Duration) -> Result<Vec<NcclLearner>, EdkmError> {
    if let Some(twice) = (1..ordinals.len()).find(|&i| ordinals[..i].contains(&ordinals[i])) {
        return Err(EdkmError::Device(format!(
            "GPU {} stands twice among the learners: each has one of its own",
            ordinals[twice]
        )));
    }
    let communicators = Communicator::for_gpus(ordinals).map_err(|error| EdkmError::Device(error.to_string()))?;
    let gone = Arc::new(Mutex::new(None));
    Ok(communicators
        .into_iter()
        .map(|communicator| NcclLearner {
            communicator,
            patience,
            gone: gone.clone(),
        })
        .collect())
}

/// The first learner that is gone, and why.
type Gone = Option<(usize, String)>;

/// A learner on a GPU. See [`nccl_learners`].
pub struct NcclLearner {
    communicator: Communicator,
    patience: Duration,
    gone: Arc<Mutex<Gone>>,
}

impl NcclLearner {
    fn gone(&self) -> Gone {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn go(&self, reason: String) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.get_or_insert((self.rank(), reason));
    }

    /// The error of a collective: of the learner that went first, if one did.
    fn failure(&self, error: &CollectiveError) -> StoreError {
        let (rank, reason) = self
            .gone()
            .unwrap_or_else(|| (self.rank(), format!("cannot gather: {error}")));
        StoreError::Learner {
            rank,
            world: self.world(),
            reason,
        }
    }
}

impl LearnerGroup for NcclLearner {
    fn rank(&self) -> usize {
        self.communicator.rank()
    }

    fn world(&self) -> usize {
        self.communicator.world()
    }

    fn all_gather(&self, tag: u64, part: Arc<dyn SharedBytes>) -> Result<Vec<Arc<dyn SharedBytes>>, StoreError> {
        let begun = Instant::now();
        let give_up = || match self.gone() {
            Some((_, reason)) => Some(reason),
            None if begun.elapsed() > self.patience => Some(format!("others did not come within {:?}", self.patience)),
            None => None,
        };
        gather_equal_parts(self.rank(), self.world(), tag, part.as_bytes(), |own| {
            self.communicator
                .all_gather(own, give_up)
                .map_err(|error| self.failure(&error))
        })
    }

    fn abort(&self, reason: &str) {
        self.go(format!("has failed: {reason}"));
        self.communicator.abort();
    }
}

impl Drop for NcclLearner {
    fn drop(&mut self) {
        self.go("has left the group".to_owned());
    }
}
