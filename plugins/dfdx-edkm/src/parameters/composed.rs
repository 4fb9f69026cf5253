//! [`Parameters`] of models that are composed as dfdx composes them: tuples, its wrappers and its own layers. A parameter has the name that it has in dfdx's
//! safetensors files.

use dfdx::nn::modules::{BatchNorm1D, Embedding, LayerNorm1D, Linear, UnbiasedLinear};
use dfdx::prelude::*;

use super::{ParameterKind, ParameterVisitor, Parameters};
use crate::composition::{for_layers_without_parameters, for_tuples, for_wrappers};
use crate::EdkmDevice;

macro_rules! tuple {
    ($($name:ident $index:tt),+) => {
        impl<D: EdkmDevice, $($name: Parameters<D>),+> Parameters<D> for ($($name,)+) {
            fn visit_parameters<V: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
                $(self.$index.visit_parameters(&format!("{prefix}{}.", $index), visitor)?;)+
                Ok(())
            }
        }
    };
}

for_tuples!(tuple);

macro_rules! wrapper {
    ($($wrapper:ident),+) => {$(
        impl<D: EdkmDevice, M: Parameters<D>> Parameters<D> for $wrapper<M> {
            fn visit_parameters<V: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
                self.0.visit_parameters(&format!("{prefix}0."), visitor)
            }
        }
    )+};
}

for_wrappers!(wrapper);

impl<D: EdkmDevice, F: Parameters<D>, R: Parameters<D>> Parameters<D> for GeneralizedResidual<F, R> {
    fn visit_parameters<V: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
        self.f.visit_parameters(&format!("{prefix}f."), visitor)?;
        self.r.visit_parameters(&format!("{prefix}r."), visitor)
    }
}

impl<D: EdkmDevice, M: Parameters<D>, const N: usize> Parameters<D> for Repeated<M, N> {
    fn visit_parameters<V: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
        let mut modules = self.modules.iter_mut().enumerate();
        modules.try_for_each(|(index, module)| module.visit_parameters(&format!("{prefix}{index}."), visitor))
    }
}

/// Layers in a row, by their places.
macro_rules! row {
    ($row:ty $(, $count:ident)?) => {
        impl<D: EdkmDevice, M: Parameters<D> $(, const $count: usize)?> Parameters<D> for $row {
            fn visit_parameters<V: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
                let mut modules = self.iter_mut().enumerate();
                modules.try_for_each(|(index, module)| module.visit_parameters(&format!("{prefix}{index}."), visitor))
            }
        }
    };
}

row!(Vec<M>);
row!([M; N], N);

impl<D: EdkmDevice, M: Parameters<D>> Parameters<D> for Option<M> {
    fn visit_parameters<V: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
        self.iter_mut()
            .try_for_each(|module| module.visit_parameters(prefix, visitor))
    }
}

impl<D: EdkmDevice, M: Parameters<D>> Parameters<D> for Box<M> {
    fn visit_parameters<V: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
        (**self).visit_parameters(prefix, visitor)
    }
}

impl<D: EdkmDevice, const I: usize, const O: usize> Parameters<D> for Linear<I, O, f32, D> {
    fn visit_parameters<V: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
        let kind = ParameterKind::Linear { clustering: None };
        visitor.visit(&format!("{prefix}weight"), kind, &mut self.weight)?;
        visitor.visit(&format!("{prefix}bias"), ParameterKind::Vector, &mut self.bias)
    }
}

impl<D: EdkmDevice, const I: usize, const O: usize> Parameters<D> for UnbiasedLinear<I, O, f32, D> {
    fn visit_parameters<V: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
        let kind = ParameterKind::Linear { clustering: None };
        visitor.visit(&format!("{prefix}weight"), kind, &mut self.weight)
    }
}

impl<D: EdkmDevice, const V: usize, const M: usize> Parameters<D> for Embedding<V, M, f32, D> {
    fn visit_parameters<W: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut W) -> Result<(), W::Error> {
        let kind = ParameterKind::Embedding { clustering: None };
        visitor.visit(&format!("{prefix}weight"), kind, &mut self.weight)
    }
}

impl<D: EdkmDevice, const M: usize> Parameters<D> for LayerNorm1D<M, f32, D> {
    fn visit_parameters<V: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
        visitor.visit(&format!("{prefix}gamma"), ParameterKind::Vector, &mut self.gamma)?;
        visitor.visit(&format!("{prefix}beta"), ParameterKind::Vector, &mut self.beta)
    }
}

/// Its running statistics are no parameters.
impl<D: EdkmDevice, const C: usize> Parameters<D> for BatchNorm1D<C, f32, D> {
    fn visit_parameters<V: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error> {
        visitor.visit(&format!("{prefix}scale"), ParameterKind::Vector, &mut self.scale)?;
        visitor.visit(&format!("{prefix}bias"), ParameterKind::Vector, &mut self.bias)
    }
}

macro_rules! without_parameters {
    ($([$($generics:tt)*] $module:ty),+ $(,)?) => {$(
        impl<D: EdkmDevice, $($generics)*> Parameters<D> for $module {
            fn visit_parameters<V: ParameterVisitor<D>>(&mut self, _: &str, _: &mut V) -> Result<(), V::Error> {
                Ok(())
            }
        }
    )+};
}

for_layers_without_parameters!(without_parameters);
