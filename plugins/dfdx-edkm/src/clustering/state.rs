//! What a clustering has reached, as it is written down.

use edkm_cluster::{Centroids, ClusterError, Spec};
use serde::{Deserialize, Serialize};

use crate::ChannelScale;

/// What a run must save to go on with the same bytes: see [`Clustering::state`](super::Clustering::state).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "SavedState", into = "SavedState")]
pub struct ClusteringState {
    /// Fingerprint of the weight that `start` served.
    pub fingerprint: u128,
    /// The centroids that the last forward pass started from.
    pub start: Centroids,
    /// The centroids that it ended with.
    pub last: Centroids,
}

/// All that a clustering goes on from: [`Clustering::saved`](super::Clustering::saved).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedClustering {
    /// The settings.
    pub spec: Spec,
    /// Whether rows are brought to one spread first.
    pub channel_scale: ChannelScale,
    /// The centroids, if a forward pass was run.
    pub state: Option<ClusteringState>,
}

/// A [`ClusteringState`] as it is written.
#[derive(Serialize, Deserialize)]
struct SavedState {
    /// The lower half first: JSON has no larger numbers.
    fingerprint: [u64; 2],
    /// `[palettes, clusters, dim]`
    start: Vec<f64>,
    last: Vec<f64>,
    clusters: u64,
    dim: u64,
}

impl From<ClusteringState> for SavedState {
    fn from(state: ClusteringState) -> Self {
        Self {
            fingerprint: [state.fingerprint as u64, (state.fingerprint >> 64) as u64],
            start: state.start.as_f64_slice().to_vec(),
            last: state.last.as_f64_slice().to_vec(),
            clusters: state.last.clusters() as u64,
            dim: state.last.dim() as u64,
        }
    }
}

impl TryFrom<SavedState> for ClusteringState {
    type Error = ClusterError;

    fn try_from(saved: SavedState) -> Result<Self, ClusterError> {
        let centroids = |values| Centroids::from_f64(values, saved.clusters as usize, saved.dim as usize);
        let [low, high] = saved.fingerprint.map(u128::from);
        Ok(Self {
            fingerprint: high << 64 | low,
            start: centroids(saved.start)?,
            last: centroids(saved.last)?,
        })
    }
}
