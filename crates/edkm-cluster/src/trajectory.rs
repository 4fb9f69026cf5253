//! What is kept from the forward to the backward pass.

use crate::engine::{engine, Source};
use crate::parallel::{execution, for_palettes};
use crate::repeat::Moved;
use crate::scalar;
use crate::scalar::gradient::Repetition;
use crate::shape::check_length;
use crate::target::Target;
use crate::{Centroids, ClusterError, GradientMode, MatrixShape, Spec};

/// The centroids of every repetition, from which clustered weights and gradients are made again.
///
/// The attention map is never built, and nothing of the size of the weights is kept: beyond the weights themselves, which their owner keeps
/// anyway, the backward pass needs this alone ([`saved_bytes`](Trajectory::saved_bytes)).
///
/// Weights, shape and settings given to its methods must be those that it was made from; the weights are not checked again, for
/// that would be another pass over them: what comes of others is without meaning.
#[derive(Debug, Clone, PartialEq)]
pub struct Trajectory {
    pub(crate) spec: Spec,
    pub(crate) shape: MatrixShape,
    pub(crate) start: Centroids,
    pub(crate) last: Centroids,
    pub(crate) palettes: Vec<PaletteTrajectory>,
}

/// One palette's part.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PaletteTrajectory {
    pub(crate) tau: f64,
    /// The cluster that stays zero.
    pub(crate) pinned: Option<usize>,
    /// Repetitions that were done, kept or not.
    pub(crate) done: usize,
    /// `[kept + 1, K, d]`.
    pub(crate) centroids_tkd: Vec<f64>,
    /// log2 of each cluster's mass in each kept repetition, `[kept, K]`.
    pub(crate) log_mass_tk: Vec<f64>,
    pub(crate) clusters: usize,
    /// Which keys occur, where it spares a pass over the weights to know.
    pub(crate) occupied: Option<scalar::Occupied>,
}

impl PaletteTrajectory {
    /// No repetition yet.
    pub(crate) fn new(tau: f64, pinned: Option<usize>, start_kd: Vec<f64>, clusters: usize) -> Self {
        PaletteTrajectory {
            tau,
            pinned,
            done: 0,
            centroids_tkd: start_kd,
            log_mass_tk: Vec::new(),
            clusters,
            occupied: None,
        }
    }

    /// Adds a repetition, and drops what the backward pass will not need.
    pub(crate) fn keep(&mut self, mode: GradientMode, moved: Moved) {
        let Moved {
            centroids_kd,
            log_mass_k,
        } = moved;
        self.done += 1;
        match mode {
            GradientMode::Unrolled => {
                self.centroids_tkd.extend(centroids_kd);
                self.log_mass_tk.extend(log_mass_k);
            }
            GradientMode::Implicit => {
                let before = self.centroids_tkd.len() - centroids_kd.len();
                self.centroids_tkd.drain(..before);
                self.centroids_tkd.extend(centroids_kd);
                self.log_mass_tk = log_mass_k;
            }
            GradientMode::StraightThrough => self.centroids_tkd = centroids_kd,
        }
    }

    /// Repetitions that are kept.
    pub(crate) fn len(&self) -> usize {
        self.log_mass_tk.len() / self.clusters
    }

    /// The centroids after so many kept repetitions.
    pub(crate) fn step(&self, step: usize) -> &[f64] {
        let len = self.centroids_tkd.len() / (self.len() + 1);
        &self.centroids_tkd[step * len..(step + 1) * len]
    }

    /// The kept repetitions, in order.
    pub(crate) fn repetitions(&self) -> impl DoubleEndedIterator<Item = Repetition<'_>> + ExactSizeIterator {
        (0..self.len()).map(|t| Repetition {
            before_k: self.step(t),
            after_k: self.step(t + 1),
            log_mass_k: &self.log_mass_tk[t * self.clusters..(t + 1) * self.clusters],
        })
    }

    fn bytes(&self) -> usize {
        std::mem::size_of::<Self>() + 8 * (self.centroids_tkd.len() + self.log_mass_tk.len())
    }
}

impl Trajectory {
    /// The centroids that the repetitions started from. They are constants of the gradient.
    pub fn start(&self) -> &Centroids {
        &self.start
    }

    /// The centroids that the repetitions ended with: where the next training step starts, and the palette of the compressed model.
    pub fn last(&self) -> &Centroids {
        &self.last
    }

    /// The most repetitions that any palette did.
    pub fn steps(&self) -> usize {
        self.palettes.iter().map(|palette| palette.done).max().unwrap_or(0)
    }

    /// The centroids of one palette, `[clusters, dim]` in f64, after each repetition that is kept for the backward pass, the start included.
    ///
    /// # Panics
    /// When there is no palette `group`.
    pub fn palette_steps(&self, group: usize) -> impl ExactSizeIterator<Item = &[f64]> {
        let palette = &self.palettes[group];
        (0..palette.len() + 1).map(|step| palette.step(step))
    }

    /// The temperature of each palette.
    pub fn taus(&self) -> impl ExactSizeIterator<Item = f64> + '_ {
        self.palettes.iter().map(|palette| palette.tau)
    }

    /// All bytes that are kept from the forward to the backward pass, beyond the weights: this object with everything in it.
    pub fn saved_bytes(&self) -> usize {
        let centroids = self.start.bytes() + self.last.bytes();
        std::mem::size_of::<Self>() + centroids + self.palettes.iter().map(PaletteTrajectory::bytes).sum::<usize>()
    }

    /// Writes the clustered weights W~.
    ///
    /// Called again for the backward pass it writes the same bits. One pass over the weights; no memory of the size of the weights.
    ///
    /// # Errors
    /// [`ClusterError::Length`] for slices that do not hold the matrix, [`ClusterError::OtherTrajectory`] for another shape or other settings.
    pub fn clustered_into(
        &self,
        weights: &[f32],
        shape: MatrixShape,
        spec: &Spec,
        out: &mut [f32],
    ) -> Result<(), ClusterError> {
        let _span = tracing::trace_span!("gather").entered();
        self.check(weights, shape, spec)?;
        check_length("clustered weights", shape.len(), out.len())?;
        let len = spec.grouping.weights_per_palette(shape);
        let execution = execution(self.palettes.len(), len);
        let work: Vec<_> = self
            .palettes
            .iter()
            .zip(weights.chunks(len))
            .zip(out.chunks_mut(len))
            .collect();
        for_palettes(work, |((palette, weights), out)| {
            engine(spec.vector).clustered(
                Source {
                    weights,
                    spec,
                    execution,
                },
                palette,
                out,
            );
        });
        Ok(())
    }

    /// Turns dL/dW~ into dL/dW, in place.
    ///
    /// Two passes over weights and gradient; no memory of the size of the weights.
    ///
    /// # Errors
    /// As [`clustered_into`](Trajectory::clustered_into).
    pub fn backward(
        &self,
        weights: &[f32],
        shape: MatrixShape,
        spec: &Spec,
        grad: &mut [f32],
    ) -> Result<(), ClusterError> {
        check_length("gradient of the clustered weights", shape.len(), grad.len())?;
        self.backward_to(weights, shape, spec, Target::InPlace(grad))
    }

    /// Adds dL/dW to `grad_weight`, given dL/dW~.
    ///
    /// # Errors
    /// As [`clustered_into`](Trajectory::clustered_into).
    pub fn backward_accumulate(
        &self,
        weights: &[f32],
        shape: MatrixShape,
        spec: &Spec,
        grad_clustered: &[f32],
        grad_weight: &mut [f32],
    ) -> Result<(), ClusterError> {
        check_length("gradient of the clustered weights", shape.len(), grad_clustered.len())?;
        check_length("gradient of the weights", shape.len(), grad_weight.len())?;
        self.backward_to(
            weights,
            shape,
            spec,
            Target::Accumulate {
                upstream: grad_clustered,
                total: grad_weight,
            },
        )
    }

    fn backward_to(
        &self,
        weights: &[f32],
        shape: MatrixShape,
        spec: &Spec,
        target: Target<'_>,
    ) -> Result<(), ClusterError> {
        let _span = tracing::trace_span!("differentiate").entered();
        self.check(weights, shape, spec)?;
        let len = spec.grouping.weights_per_palette(shape);
        let execution = execution(self.palettes.len(), len);
        let work: Vec<_> = self
            .palettes
            .iter()
            .zip(weights.chunks(len))
            .zip(target.split(len))
            .collect();
        for_palettes(work, |((palette, weights), target)| {
            engine(spec.vector).backward(
                Source {
                    weights,
                    spec,
                    execution,
                },
                palette,
                target,
            );
        });
        Ok(())
    }

    fn check(&self, weights: &[f32], shape: MatrixShape, spec: &Spec) -> Result<(), ClusterError> {
        shape.check("weights", weights)?;
        if shape != self.shape {
            return Err(ClusterError::OtherTrajectory { what: "matrix shape" });
        }
        if *spec != self.spec {
            return Err(ClusterError::OtherTrajectory { what: "specification" });
        }
        Ok(())
    }
}
