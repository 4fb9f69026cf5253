//! Adam with decoupled weight decay (arXiv 1711.05101).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use dfdx::prelude::*;
use edkm_kernels::adamw::Hyper;
use serde::{Deserialize, Serialize};

use super::moments::{self, moments_fit, DeviceMoments, MomentFormat, Moments};
use crate::{EdkmDevice, EdkmError, ParameterKind, ParameterVisitor, Parameters};

/// Settings of [`AdamW`]. The learning rate is given at each step, since a schedule changes it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdamWConfig {
    /// Decay of the mean of gradients and of their squares.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decay of matrices per step, times the learning rate; vectors (norms, biases) do not decay.
    pub weight_decay: f32,
    /// Gradients are scaled down to this norm over all parameters; infinity for no clipping. [`AdamW::backward_and_step`] keeps to it part by part.
    pub clip_norm: f64,
    /// How the moments are kept.
    pub moments: MomentFormat,
}

impl Default for AdamWConfig {
    /// Betas 0.9 and 0.95 and clipping at 1.0, as is usual for language models; no decay; moments in f32.
    fn default() -> Self {
        Self {
            betas: [0.9, 0.95],
            eps: 1e-8,
            weight_decay: 0.0,
            clip_norm: 1.0,
            moments: MomentFormat::F32,
        }
    }
}

/// AdamW over parameters that are told apart by name: 8 bytes of state a parameter, or 2 (see [`MomentFormat`]), parallel, fused with gradient clipping.
/// A clone has moments of its own.
#[derive(Clone)]
pub struct AdamW<D: EdkmDevice> {
    config: AdamWConfig,
    pub(super) step: u64,
    moments: BTreeMap<String, DeviceMoments<D>>,
    rate_factors: BTreeMap<String, f32>,
    pub(super) device: D,
}

/// Without the moments, which are as long as the model.
impl<D: EdkmDevice> fmt::Debug for AdamW<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdamW")
            .field("config", &self.config)
            .field("step", &self.step)
            .field("parameters", &self.moments.len())
            .finish_non_exhaustive()
    }
}

/// All that an [`AdamW`] holds, on the host, for a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdamWState {
    /// The settings.
    pub config: AdamWConfig,
    /// Updates made so far.
    pub step: u64,
    /// The moments of each parameter, by name.
    pub moments: BTreeMap<String, Moments<Vec<f32>, Vec<u8>>>,
}

impl<D: EdkmDevice> AdamW<D> {
    /// An optimizer that has seen nothing. Moments are allocated at the first update.
    pub fn new(device: D, config: AdamWConfig) -> Self {
        Self {
            config,
            step: 0,
            moments: BTreeMap::new(),
            rate_factors: BTreeMap::new(),
            device,
        }
    }

    /// The same, with the learning rate of each parameter that is named multiplied by a factor of its own. One of 0 freezes its parameter: it has no moments, and its
    /// gradient no part in the norm that is clipped. They are no part of the [`state`](Self::state): who restores an optimizer gives them again.
    pub fn with_rate_factors(self, rate_factors: BTreeMap<String, f32>) -> Self {
        Self { rate_factors, ..self }
    }

    /// [`Self::with_rate_factors`] from the next step on. A parameter that is no longer frozen has moments of zero, which are corrected as those of this step: its first
    /// updates are of another size than a first step's (with betas of 0.9 and 0.95 between 0.45 and 1.1 of the rate, with 0.9 and 0.999 up to five times it).
    pub fn set_rate_factors(&mut self, rate_factors: BTreeMap<String, f32>) {
        self.rate_factors = rate_factors;
    }

    /// The factors of learning rates, by parameter.
    pub fn rate_factors(&self) -> &BTreeMap<String, f32> {
        &self.rate_factors
    }

    /// The settings.
    pub fn config(&self) -> &AdamWConfig {
        &self.config
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The moments of each parameter that has had an update, by name.
    pub fn moments(&self) -> &BTreeMap<String, DeviceMoments<D>> {
        &self.moments
    }

    /// Updates made so far.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// Updates every parameter of `model` from `gradients`, and returns the norm of all gradients before clipping. A parameter without a
    /// gradient counts as having a gradient of zero.
    ///
    /// `gradient_scale` multiplies the gradients first (one over the number of accumulated batches).
    ///
    /// # Errors
    /// A norm that is not finite ([`StepError::NotFinite`] names the parameter), a number that cannot be used, two parameters of one name, a factor for none, moments of another length
    /// than their parameter: nothing is changed then. The device's errors.
    pub fn step(
        &mut self,
        model: &mut impl Parameters<D>,
        gradients: &mut Gradients<f32, D>,
        learning_rate: f64,
        gradient_scale: f64,
    ) -> Result<f64, StepError> {
        let _span = tracing::trace_span!("optimizer").entered();
        self.check(learning_rate, gradient_scale)?;
        let norm = self.norm(model, gradients)? * gradient_scale;
        let clip = clip_factor(norm, self.config.clip_norm);
        self.step += 1;
        let mut update = Update {
            hyper: self.hyper(learning_rate, gradient_scale * clip),
            gradients,
            optimizer: self,
        };
        model.visit_parameters("", &mut update)?;
        Ok(norm)
    }

    /// The norm of all gradients of `model`.
    ///
    /// # Errors
    /// The first parameter with a gradient that is not finite, with the name of another one, or with moments that are not its own; a factor of a learning rate for none.
    pub fn norm(&self, model: &mut impl Parameters<D>, gradients: &mut Gradients<f32, D>) -> Result<f64, StepError> {
        let mut norm = Norm {
            gradients,
            optimizer: self,
            sum_of_squares: 0.0,
            names: Names::default(),
        };
        model.visit_parameters("", &mut norm)?;
        let is_unknown = |name: &&String| !norm.names.has(name);
        match self.rate_factors.keys().find(is_unknown) {
            None => Ok(norm.sum_of_squares.sqrt()),
            Some(name) => Err(StepError::NoParameter { name: name.clone() }),
        }
    }

    /// Refuses what would make every parameter a NaN.
    pub(super) fn check(&self, learning_rate: f64, gradient_scale: f64) -> Result<(), StepError> {
        let AdamWConfig {
            betas: [beta1, beta2],
            eps,
            weight_decay,
            clip_norm,
            ..
        } = self.config;
        let is_beta = |beta: f32| (0.0..1.0).contains(&beta);
        let as_f32_is_finite = |value: f64| (value as f32).is_finite();
        let settings = [
            ("learning rate", learning_rate, as_f32_is_finite(learning_rate)),
            (
                "scale of the gradients",
                gradient_scale,
                as_f32_is_finite(gradient_scale),
            ),
            ("norm to clip at", clip_norm, clip_norm > 0.0),
            ("first beta", beta1.into(), is_beta(beta1)),
            ("second beta", beta2.into(), is_beta(beta2)),
            // without it a number that never had a gradient becomes 0/0
            ("eps", eps.into(), eps.is_finite() && eps > 0.0),
            ("weight decay", weight_decay.into(), weight_decay.is_finite()),
        ];
        let factors = self.rate_factors.values();
        let factors = factors.map(|&factor| ("factor of a learning rate", factor.into(), factor.is_finite()));
        match settings.into_iter().chain(factors).find(|(_, _, is_usable)| !is_usable) {
            None => Ok(()),
            Some((what, value, _)) => Err(StepError::Setting { what, value }),
        }
    }

    /// Whether a parameter stays as it is.
    pub(super) fn is_frozen(&self, name: &str) -> bool {
        self.rate_factors.get(name) == Some(&0.0)
    }

    /// Refuses moments that are not those of a parameter of that shape.
    pub(super) fn check_moments(&self, name: &str, shape: &impl Shape) -> Result<(), StepError> {
        let numbers = shape.num_elements();
        match self.moments.get(name) {
            Some(moments) if !moments_fit(&self.device, moments, numbers) => Err(StepError::Moments {
                parameter: name.to_owned(),
                numbers,
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn hyper(&self, learning_rate: f64, gradient_scale: f64) -> Hyper {
        Hyper {
            lr: learning_rate as f32,
            beta1: self.config.betas[0],
            beta2: self.config.betas[1],
            eps: self.config.eps,
            weight_decay: self.config.weight_decay,
            step: self.step,
            grad_scale: gradient_scale as f32,
        }
    }

    pub(super) fn advance(&mut self) {
        self.step += 1;
    }

    /// The update of one parameter of that kind, at its own rate.
    pub(super) fn update_of_kind<S: Shape>(
        &mut self,
        name: &str,
        kind: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, D>,
        gradient: &<D as Storage<f32>>::Vec,
        mut hyper: Hyper,
    ) -> Result<(), StepError> {
        if self.is_frozen(name) {
            return Ok(());
        }
        if matches!(kind, ParameterKind::Vector) {
            hyper.weight_decay = 0.0;
        }
        hyper.lr *= self.rate_factors.get(name).copied().unwrap_or(1.0);
        self.update_one(name, parameter, gradient, &hyper)
            .map_err(|e| device_error(name, e))
    }

    pub(super) fn update_one<S: Shape>(
        &mut self,
        name: &str,
        parameter: &mut Tensor<S, f32, D>,
        gradient: &<D as Storage<f32>>::Vec,
        hyper: &Hyper,
    ) -> Result<(), D::Err> {
        self.begin_moments(name, parameter.shape())?;
        match self.moments.get_mut(name) {
            Some(moments) => self.device.adamw_update(parameter, gradient, moments, hyper),
            None => Ok(()),
        }
    }

    /// Moments of zero for a parameter that has none.
    pub(super) fn begin_moments(&mut self, name: &str, shape: &impl Shape) -> Result<(), D::Err> {
        if !self.moments.contains_key(name) {
            let zeros = moments::zeros(&self.device, shape.num_elements(), self.config.moments)?;
            self.moments.insert(name.to_owned(), zeros);
        }
        Ok(())
    }

    /// Everything needed to go on elsewhere with the same bytes, but for the [factors of learning rates](Self::with_rate_factors), which are given again: without them
    /// what was frozen is trained.
    ///
    /// # Errors
    /// The device's, when copying to the host.
    pub fn state(&self) -> Result<AdamWState, EdkmError> {
        let device = &self.device;
        let to_host = |(name, moments): (&String, &DeviceMoments<D>)| {
            let moments = moments
                .as_ref()
                .try_map(|n| device.buffer_to_vec(n), |c| device.bytes_to_vec(c))?;
            Ok((name.clone(), moments))
        };
        let moments = self.moments.iter().map(to_host).collect::<Result<_, D::Err>>();
        let moments = moments.map_err(|e| EdkmError::Device(e.to_string()))?;
        Ok(AdamWState {
            config: self.config,
            step: self.step,
            moments,
        })
    }

    /// An optimizer that goes on where another one was. An update fails where moments have another length than the parameter.
    pub fn from_moments(
        device: D,
        config: AdamWConfig,
        step: u64,
        moments: BTreeMap<String, DeviceMoments<D>>,
    ) -> Self {
        Self {
            config,
            step,
            moments,
            rate_factors: BTreeMap::new(),
            device,
        }
    }

    /// An optimizer that goes on from a saved state.
    ///
    /// # Errors
    /// The device's, when copying from the host.
    pub fn from_state(device: D, state: AdamWState) -> Result<Self, EdkmError> {
        let from_host = |(name, moments): (String, Moments<_, _>)| {
            let moments = moments.try_map(|n| device.buffer_from_vec(n), |c| device.bytes_from_vec(c))?;
            Ok((name, moments))
        };
        let moments = state.moments.into_iter().map(from_host).collect::<Result<_, D::Err>>();
        let moments = moments.map_err(|e| EdkmError::Device(e.to_string()))?;
        Ok(Self::from_moments(device, state.config, state.step, moments))
    }
}

/// What a step of the optimizer can fail with.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// A gradient that is not finite.
    #[error("the gradient of {parameter} is not finite")]
    NotFinite {
        /// Its dotted path.
        parameter: String,
    },
    /// A number that a step cannot be made with.
    #[error("the {what} is {value}")]
    Setting {
        /// What it is.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// Two parameters that moments cannot be told apart for.
    #[error("two parameters have the name {parameter}: `visit_parameters` must give each field a prefix of its own")]
    SameName {
        /// The name.
        parameter: String,
    },
    /// One tensor under two names. A clone of a module shares its tensors with it, gradients and all.
    #[error("{first} and {second} are one tensor: a layer that is used twice is one field, whose weight serves both; two layers are made one by one")]
    SameTensor {
        /// The name that comes first.
        first: String,
        /// The other one.
        second: String,
    },
    /// A factor of a learning rate for a parameter that the model has not.
    #[error("there is a factor of the learning rate for {name}, and no parameter of that name")]
    NoParameter {
        /// The name.
        name: String,
    },
    /// Moments of another length than the parameter that has their name.
    #[error("the moments of {parameter} are not those of its {numbers} numbers: they were kept for another model")]
    Moments {
        /// Its dotted path.
        parameter: String,
        /// Numbers that it has.
        numbers: usize,
    },
    /// The device.
    #[error("the device failed at {parameter}: {reason}")]
    Device {
        /// Its dotted path.
        parameter: String,
        /// The device's message.
        reason: String,
    },
    /// The backward pass in which parameters were updated.
    #[error(transparent)]
    Backward(#[from] EdkmError),
}

/// What gradients of that norm are multiplied with, so that it is at most `clip_norm`.
pub(super) fn clip_factor(norm: f64, clip_norm: f64) -> f64 {
    if norm > clip_norm {
        clip_norm / norm
    } else {
        1.0
    }
}

/// The gradient of a parameter: zero if it has none.
pub(super) fn gradient_of<'g, S: Shape, D: EdkmDevice>(
    gradients: &'g mut Gradients<f32, D>,
    name: &str,
    parameter: &Tensor<S, f32, D>,
) -> Result<&'g mut <D as Storage<f32>>::Vec, StepError> {
    gradients.get_or_alloc_mut(parameter).map_err(|e| device_error(name, e))
}

/// That of the gradient of a parameter, which must be finite.
pub(super) fn sum_of_squares<D: EdkmDevice>(
    device: &D,
    parameter: &str,
    gradient: &<D as Storage<f32>>::Vec,
) -> Result<f64, StepError> {
    let sum = device
        .sum_of_squares(gradient)
        .map_err(|e| device_error(parameter, e))?;
    match sum.is_finite() {
        true => Ok(sum),
        false => Err(StepError::NotFinite {
            parameter: parameter.to_owned(),
        }),
    }
}

pub(super) fn device_error(parameter: &str, error: impl std::fmt::Display) -> StepError {
    StepError::Device {
        parameter: parameter.to_owned(),
        reason: error.to_string(),
    }
}

/// The parameters of a walk, each of which comes once.
#[derive(Default)]
pub(super) struct Names {
    names: HashSet<String>,
    by_address: HashMap<u64, String>,
}

impl Names {
    fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    pub(super) fn add<S: Shape, D: EdkmDevice>(
        &mut self,
        name: &str,
        parameter: &Tensor<S, f32, D>,
    ) -> Result<(), StepError> {
        if !self.names.insert(name.to_owned()) {
            return Err(StepError::SameName {
                parameter: name.to_owned(),
            });
        }
        if parameter.shape().num_elements() == 0 || !D::is_contiguous(parameter) {
            return Ok(());
        }
        match self.by_address.insert(D::address(parameter), name.to_owned()) {
            None => Ok(()),
            Some(first) => Err(StepError::SameTensor {
                first,
                second: name.to_owned(),
            }),
        }
    }
}

struct Norm<'a, D: EdkmDevice> {
    gradients: &'a mut Gradients<f32, D>,
    optimizer: &'a AdamW<D>,
    sum_of_squares: f64,
    names: Names,
}

impl<D: EdkmDevice> ParameterVisitor<D> for Norm<'_, D> {
    type Error = StepError;

    fn visit<S: Shape>(
        &mut self,
        name: &str,
        _: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, D>,
    ) -> Result<(), StepError> {
        self.names.add(name, parameter)?;
        self.optimizer.check_moments(name, parameter.shape())?;
        if self.optimizer.is_frozen(name) {
            return Ok(());
        }
        let gradient = gradient_of(self.gradients, name, parameter)?;
        self.sum_of_squares += sum_of_squares(&self.optimizer.device, name, gradient)?;
        Ok(())
    }
}

struct Update<'a, D: EdkmDevice> {
    hyper: Hyper,
    gradients: &'a mut Gradients<f32, D>,
    optimizer: &'a mut AdamW<D>,
}

impl<D: EdkmDevice> ParameterVisitor<D> for Update<'_, D> {
    type Error = StepError;

    fn visit<S: Shape>(
        &mut self,
        name: &str,
        kind: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, D>,
    ) -> Result<(), StepError> {
        let gradient = gradient_of(self.gradients, name, parameter)?;
        self.optimizer
            .update_of_kind(name, kind, parameter, gradient, self.hyper)
    }
}
