//! What a clustered weight remembers between steps.

mod packed;
pub(crate) mod start;
mod state;

pub use packed::{pack, palette_spec, LearnedPalette};
pub use state::{ClusteringState, SavedClustering};

use std::sync::{Arc, Mutex, PoisonError};

use edkm_cluster::{Centroids, ClusterError, MatrixShape, Prepared, Spec, Temperature, Trajectory};
use edkm_palette::{PaletteDType, PalettizedMatrix};

use self::start::{start_after, Iterable};
use crate::channel_scale::{divided, ChannelScale};
use crate::ops::linear::ClusteredUse;
use crate::PalettizeError;

/// How a weight is clustered, and the palettes it has reached.
///
/// The forward pass is a function of the weight and of the centroids that it starts from. Those are the ones that the weight *before* the
/// last optimizer step ended with; they are told apart by a fingerprint of the weight. So a second forward pass over the same
/// weight (evaluation, gradient accumulation, a checkpointed segment run again) computes exactly the same, and no hook into the optimizer
/// is needed. At another temperature it starts from the same centroids again: an evaluation between two steps of a schedule leaves what is trained as it is.
///
/// A module's safetensors file holds its parameters, as dfdx's do, and neither centroids nor settings. A new module that loads it finds centroids by k-means, as
/// training began, and clusters at the temperature that it was made with: its outputs may be far from those that were saved. To have the same to the bit, keep what
/// [`clusterings_of`](crate::clusterings_of) gives beside the file, and [`restore_clusterings`](crate::restore_clusterings) it (of a single weight
/// [`Clustering::saved`] and [`Clustering::go_on`]). A module that has already run starts from the centroids that it has: where what it loads is another weight
/// altogether, [`Clustering::reset`] it first. `to_device`, `to_dtype` and `clone` take the settings and what has been reached along.
///
/// What training measures is the soft weight W~, and what is packed is the hard one, each weight at its nearest centroid. The lower the temperature, the closer they
/// are: it is lowered during training ([`set_temperatures`](crate::set_temperatures)), from about 0.15 to a hundredth of that, say.
///
/// One clustering is for one weight: a second one would take turns with it, and neither would come again as it was. What is done with other weights than
/// training's, such as the palettes of an average of them, is done on a clone: the next step starts from where this one's last forward pass ended.
///
/// Interior mutability, since dfdx's forward pass takes `&self`. A clone starts from what this one has reached and then goes its own way.
#[derive(Debug)]
pub struct Clustering {
    inner: Mutex<Inner>,
}

#[derive(Debug, Clone)]
struct Inner {
    name: Option<String>,
    spec: Spec,
    channel_scale: ChannelScale,
    state: Option<Reached>,
}

#[derive(Debug, Clone)]
struct Reached {
    state: ClusteringState,
    /// How `state.last` was reached, and by which settings; `None` if that was in another run.
    trajectory: Option<(Arc<Trajectory>, Spec)>,
}

impl Clustering {
    /// A clustering that finds its first centroids by k-means on the first weight it sees.
    pub fn new(spec: Spec) -> Self {
        Self {
            inner: Mutex::new(Inner {
                name: None,
                spec,
                channel_scale: ChannelScale::None,
                state: None,
            }),
        }
    }

    /// The same, with rows brought to one spread first.
    pub fn with_channel_scale(self, channel_scale: ChannelScale) -> Self {
        self.lock().channel_scale = channel_scale;
        self
    }

    /// The same for a clustering that is in a model. What was reached with another scale is forgotten.
    pub fn set_channel_scale(&self, channel_scale: ChannelScale) {
        let mut inner = self.lock();
        if inner.channel_scale != channel_scale {
            inner.channel_scale = channel_scale;
            inner.state = None;
        }
    }

    /// The name of its weight, for errors: [`name_clusterings`](crate::name_clusterings) gives those of a model.
    pub fn set_name(&self, name: impl Into<String>) {
        self.lock().name = Some(name.into());
    }

    /// An op that clusters its weight, as errors call it.
    pub(crate) fn label(&self, op: &str) -> String {
        match &self.lock().name {
            Some(name) => format!("{op} ({name})"),
            None => op.to_owned(),
        }
    }

    /// Whether rows are brought to one spread first.
    pub fn channel_scale(&self) -> ChannelScale {
        self.lock().channel_scale
    }

    /// A copy of the settings.
    pub fn spec(&self) -> Spec {
        self.lock().spec
    }

    /// Changes the settings; centroids of another size are dropped (and found anew), others are kept.
    pub fn set_spec(&self, spec: Spec) {
        let mut inner = self.lock();
        let keeps_palette =
            inner.spec.bits == spec.bits && inner.spec.grouping == spec.grouping && inner.spec.vector == spec.vector;
        if !keeps_palette {
            inner.state = None;
        }
        inner.spec = spec;
    }

    /// Changes the temperature, for a schedule. (What will be written is [`palettize`](Self::palettize)d: `palettize(..).dequantize()` has its numbers.)
    pub fn set_temperature(&self, temperature: Temperature) {
        self.lock().spec.temperature = temperature;
    }

    /// What has been reached, if a forward pass was run; restored by [`Clustering::restore`].
    pub fn state(&self) -> Option<ClusteringState> {
        self.lock().state.as_ref().map(|reached| reached.state.clone())
    }

    /// Bytes that the clustering keeps from forward to backward: the way of the centroids. 0 before the first forward pass.
    pub fn saved_bytes(&self) -> usize {
        let reached = self
            .lock()
            .state
            .as_ref()
            .and_then(|reached| reached.trajectory.clone());
        reached.map_or(0, |(trajectory, _)| trajectory.saved_bytes())
    }

    /// Settings and state, to go on with the same bytes elsewhere.
    pub fn saved(&self) -> SavedClustering {
        let inner = self.lock();
        SavedClustering {
            spec: inner.spec,
            channel_scale: inner.channel_scale,
            state: inner.state.as_ref().map(|reached| reached.state.clone()),
        }
    }

    /// Goes on where the one that was [saved](Self::saved) was.
    pub fn go_on(&self, saved: SavedClustering) {
        let SavedClustering {
            spec,
            channel_scale,
            state,
        } = saved;
        let mut inner = self.lock();
        (inner.spec, inner.channel_scale) = (spec, channel_scale);
        inner.state = state.map(|state| Reached {
            state,
            trajectory: None,
        });
    }

    /// Goes on where another run was, with the same bytes: a weight that the state was found on is clustered from where it was, the next
    /// one from where that ended.
    pub fn restore(&self, state: ClusteringState) {
        self.lock().state = Some(Reached {
            state,
            trajectory: None,
        });
    }

    /// Forgets the centroids that have been reached: the next weight starts from a k-means, as the first one did. For a weight that is none of training's
    /// next ones, such as one that was loaded.
    pub fn reset(&self) {
        self.lock().state = None;
    }

    /// Centroids to start the next new weight from, in place of a k-means.
    pub fn start_from(&self, centroids: Centroids) {
        // no weight has this fingerprint but by a chance of 2^-128
        self.restore(ClusteringState {
            fingerprint: 0,
            start: centroids.clone(),
            last: centroids,
        });
    }

    /// The trajectory of the centroids for this weight, the settings that it was found with, and what the rows were divided by.
    ///
    /// Memory: with a channel scale a copy of the weight, while it runs.
    ///
    /// # Errors
    /// A weight that is not finite, or a shape that does not fit.
    pub fn cluster(&self, weight: &[f32], shape: MatrixShape) -> Result<ClusteredUse, ClusterError> {
        let _span = tracing::trace_span!("cluster", rows = shape.rows, cols = shape.cols).entered();
        let (spec, channel_scale) = (self.spec(), self.channel_scale());
        let row_scales = channel_scale.of(weight, shape);
        let scaled = divided(weight, row_scales.as_deref());
        let prepared = Prepared::new(&scaled, shape, &spec)?;
        Ok(ClusteredUse {
            trajectory: self.reach(&prepared)?,
            spec,
            row_scales: row_scales.map(Arc::from),
            of_device: None,
        })
    }

    /// The trajectory for a weight that is ready: the one of the last time if weight and settings are the same, one from the same start if only the weight is, else
    /// a new one from where that ended.
    pub(crate) fn reach(&self, weight: &impl Iterable) -> Result<Arc<Trajectory>, ClusterError> {
        let fingerprint = weight.fingerprint();
        let trajectory = match self.state() {
            Some(state) if state.fingerprint == fingerprint => match self.known(fingerprint, weight.spec()) {
                Some(trajectory) => return Ok(trajectory),
                None => weight.iterate(&state.start)?,
            },
            Some(state) => match start_after(weight, &state.last)? {
                Some(start) => weight.iterate(&start)?,
                None => weight.iterate(&state.last)?,
            },
            None => weight.iterate(&weight.initial()?)?,
        };
        Ok(self.settle(fingerprint, weight.spec(), trajectory))
    }

    /// Finds where a weight starts that is the first, for a device that goes on from there; none of the others is looked at.
    #[cfg(feature = "cuda")]
    pub(crate) fn begin(&self, weight: &impl Iterable) -> Result<(), ClusterError> {
        if self.state().is_none() {
            let start = weight.initial()?;
            self.restore(ClusteringState {
                fingerprint: weight.fingerprint(),
                last: start.clone(),
                start,
            });
        }
        Ok(())
    }

    /// The trajectory of the weight with this fingerprint by these settings, if it was the last one.
    pub(crate) fn known(&self, fingerprint: u128, spec: &Spec) -> Option<Arc<Trajectory>> {
        let inner = self.lock();
        let reached = inner.state.as_ref()?;
        let (trajectory, by) = reached.trajectory.as_ref()?;
        (reached.state.fingerprint == fingerprint && by == spec).then(|| trajectory.clone())
    }

    /// What the next weight starts from.
    pub(crate) fn settle(&self, fingerprint: u128, spec: &Spec, trajectory: Trajectory) -> Arc<Trajectory> {
        let (start, last) = (trajectory.start().clone(), trajectory.last().clone());
        let trajectory = Arc::new(trajectory);
        let state = ClusteringState {
            fingerprint,
            start,
            last,
        };
        self.lock().state = Some(Reached {
            state,
            trajectory: Some((trajectory.clone(), *spec)),
        });
        trajectory
    }

    /// The palettes reached for this weight, each weight assigned to its nearest centroid (DKM section 3.2: at the end of training).
    ///
    /// # Errors
    /// As [`Clustering::cluster`].
    pub fn palette(&self, weight: &[f32], shape: MatrixShape) -> Result<LearnedPalette, ClusterError> {
        let ClusteredUse {
            trajectory,
            spec,
            row_scales,
            ..
        } = self.cluster(weight, shape)?;
        let centroids = trajectory.last().clone();
        let scaled = divided(weight, row_scales.as_deref());
        let indices = Prepared::new(&scaled, shape, &spec)?.assign(&centroids)?;
        Ok(LearnedPalette {
            centroids,
            indices,
            row_scales: row_scales.map(|scales| scales.to_vec()),
        })
    }

    /// The palettes packed, each weight with the nearest of the numbers that `dtype` has in place of the centroids: what runs from indices and palettes, and is written to a file ([`PalettizedMatrix::to_entries`]).
    ///
    /// ```
    /// use dfdx::prelude::*;
    /// use dfdx_edkm::nn::builders::ClusteredLinear;
    /// use dfdx_edkm::{MatrixShape, PaletteDType};
    /// # fn main() -> Result<(), dfdx_edkm::PalettizeError> {
    /// # let dev: Cpu = Default::default();
    /// let layer = dev.build_module::<ClusteredLinear<8, 4>, f32>();
    /// let packed = layer.clustering.palettize(&layer.weight.as_vec(), MatrixShape::new(4, 8), PaletteDType::F32)?;
    /// let mut y = [0.0; 4];
    /// packed.matvec(&[1.0; 8], &mut y)?; // y = W x, without the bias
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Clustering::cluster`]; a centroid that is beyond the range of `dtype`. (What is closer to zero than its smallest number becomes zero: in f16 below 3e-8.)
    pub fn palettize(
        &self,
        weight: &[f32],
        shape: MatrixShape,
        dtype: PaletteDType,
    ) -> Result<PalettizedMatrix, PalettizeError> {
        let ClusteredUse {
            trajectory,
            spec,
            row_scales,
            ..
        } = self.cluster(weight, shape)?;
        let row_scales = row_scales.as_deref();
        let scaled = divided(weight, row_scales);
        let prepared = Prepared::new(&scaled, shape, &spec)?;
        pack(
            &prepared,
            shape,
            palette_spec(&spec, dtype),
            trajectory.last(),
            row_scales,
        )
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clone for Clustering {
    fn clone(&self) -> Self {
        Self {
            inner: Mutex::new(self.lock().clone()),
        }
    }
}

impl Default for Clustering {
    /// 3 bits, one palette a tensor.
    fn default() -> Self {
        Self::new(Spec::default())
    }
}
