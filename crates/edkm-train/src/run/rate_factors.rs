//! Learning rates relative to weights: a clustered weight must go a gap between centroids to change its cluster, and the gap is as large as the
//! weights of its matrix are.

use std::collections::BTreeMap;

use dfdx::prelude::*;
use dfdx_edkm::{EdkmDevice, ParameterKind, ParameterVisitor, Parameters};
use edkm_llama::model::DynamicLlama;

/// What the learning rate of a clustered matrix is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RateUnit {
    /// It is multiplied by the root mean square of the matrix as it came, over [`TYPICAL`].
    #[default]
    Relative,
    /// It is that of all other parameters.
    Absolute,
}

/// The root mean square of a matrix whose learning rate is the run's.
pub const TYPICAL: f64 = 0.12;

/// The factors of the clustered matrices of `model`. A matrix of zeros has none.
pub(super) fn rate_factors<D: EdkmDevice>(model: &mut DynamicLlama<D>, unit: RateUnit) -> BTreeMap<String, f32> {
    let mut visitor = Factors::default();
    if unit == RateUnit::Relative {
        match model.visit_parameters("", &mut visitor) {
            Ok(()) => {}
            Err(never) => match never {},
        }
    }
    visitor.0
}

#[derive(Default)]
struct Factors(BTreeMap<String, f32>);

impl<D: EdkmDevice> ParameterVisitor<D> for Factors {
    type Error = std::convert::Infallible;

    fn visit<S: Shape>(
        &mut self,
        name: &str,
        kind: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, D>,
    ) -> Result<(), Self::Error> {
        if kind.clustering().is_some() {
            let weight = parameter.as_vec();
            let squares: f64 = weight.iter().map(|&w| f64::from(w) * f64::from(w)).sum();
            let factor = ((squares / weight.len() as f64).sqrt() / TYPICAL) as f32;
            if factor.is_normal() {
                self.0.insert(name.to_owned(), factor);
            }
        }
        Ok(())
    }
}
