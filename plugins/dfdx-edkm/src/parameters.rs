//! A walk over the parameters of a model, for run-time and const dimensions alike.
//!
//! dfdx's `TensorCollection` needs const shapes from outside dfdx (its `TensorOptions` cannot be made otherwise). This smaller trait serves
//! the optimizer, the checkpoints and the conversions of models whose sizes are read from a file.

mod composed;

use std::marker::PhantomData;

use dfdx::prelude::*;
use edkm_cluster::MatrixShape;

use crate::{Clustering, EdkmDevice};

/// What a parameter is, for weight decay, clustering and reports.
#[derive(Debug, Clone, Copy)]
pub enum ParameterKind<'a> {
    /// A matrix that multiplies activations, clustered or not.
    Linear {
        /// How it is clustered.
        clustering: Option<&'a Clustering>,
    },
    /// A table of rows by token id.
    Embedding {
        /// How it is clustered.
        clustering: Option<&'a Clustering>,
    },
    /// A vector: the scale of a normalisation, a bias.
    Vector,
}

impl<'a> ParameterKind<'a> {
    /// How the parameter is clustered, if it is.
    pub fn clustering(&self) -> Option<&'a Clustering> {
        match self {
            Self::Linear { clustering } | Self::Embedding { clustering } => *clustering,
            Self::Vector => None,
        }
    }
}

/// Something that is done to each parameter of a model.
pub trait ParameterVisitor<D: EdkmDevice> {
    /// What can go wrong.
    type Error;

    /// Visits one parameter. `name` is the dotted path of the checkpoint.
    fn visit<S: Shape>(
        &mut self,
        name: &str,
        kind: ParameterKind<'_>,
        parameter: &mut Tensor<S, f32, D>,
    ) -> Result<(), Self::Error>;
}

/// A model whose parameters can be walked, in a fixed order: this crate's layers, dfdx's linear layers, embedding, layer norm and activations, and what dfdx's
/// wrappers and tuples of up to six make of these, in `Vec`, `Option`, `Box` and arrays too. A struct of your own visits its fields.
#[diagnostic::on_unimplemented(
    message = "the parameters of `{Self}` are not known",
    note = "implement `Parameters` for a struct of your own with the layer in it and visit its tensors, or train with `AdamWOptimizer`, which takes every dfdx module"
)]
pub trait Parameters<D: EdkmDevice> {
    /// Calls the visitor for each parameter; names start with `prefix`.
    fn visit_parameters<V: ParameterVisitor<D>>(&mut self, prefix: &str, visitor: &mut V) -> Result<(), V::Error>;
}

/// A model of parts that says on the tape where each begins ([`SaveForBackward::begin_part`](crate::SaveForBackward::begin_part)).
pub trait ParametersByPart<D: EdkmDevice>: Parameters<D> {
    /// How many parts there are; they are numbered from 0.
    fn parts(&self) -> usize;

    /// Calls the visitor for each parameter of a part, with the names that [`Parameters::visit_parameters`] gives them. No parameter is in two parts.
    fn visit_part<V: ParameterVisitor<D>>(
        &mut self,
        part: usize,
        prefix: &str,
        visitor: &mut V,
    ) -> Result<(), V::Error>;
}

/// A clustered parameter of a model.
pub struct ClusteredMatrix<'a> {
    /// The dotted path of the checkpoint.
    pub name: &'a str,
    /// What it is.
    pub kind: ParameterKind<'a>,
    /// How it is clustered.
    pub clustering: &'a Clustering,
    /// Rows and columns.
    pub shape: MatrixShape,
    read: &'a dyn Fn() -> Vec<f32>,
}

impl ClusteredMatrix<'_> {
    /// The weights `[rows, cols]`, copied from the device.
    pub fn weight(&self) -> Vec<f32> {
        (self.read)()
    }
}

/// The numbers of a tensor. dfdx's `as_vec` panics where there is none.
pub(crate) fn numbers<S: Shape, E: Unit, D: Storage<E>, T>(tensor: &Tensor<S, E, D, T>) -> Vec<E> {
    match tensor.shape().num_elements() {
        0 => Vec::new(),
        _ => tensor.as_vec(),
    }
}

/// A weight of any shape as the matrix that is clustered: its first axis, and all others; a vector is one row.
pub(crate) fn as_matrix_shape<S: Shape>(shape: &S) -> MatrixShape {
    let sizes = shape.concrete();
    let (rows, cols) = match sizes.as_ref() {
        [] => (1, 1),
        [len] => (1, *len),
        [rows, others @ ..] => (*rows, others.iter().product()),
    };
    MatrixShape { rows, cols }
}

/// Calls `each` for the clustered weights of a model, in order.
///
/// # Errors
/// The first of `each`.
pub fn visit_clustered<D: EdkmDevice, E>(
    model: &mut impl Parameters<D>,
    each: impl FnMut(ClusteredMatrix<'_>) -> Result<(), E>,
) -> Result<(), E> {
    struct Clustered<F, E>(F, PhantomData<E>);
    impl<D: EdkmDevice, E, F: FnMut(ClusteredMatrix<'_>) -> Result<(), E>> ParameterVisitor<D> for Clustered<F, E> {
        type Error = E;
        fn visit<S: Shape>(
            &mut self,
            name: &str,
            kind: ParameterKind<'_>,
            parameter: &mut Tensor<S, f32, D>,
        ) -> Result<(), E> {
            let Some(clustering) = kind.clustering() else {
                return Ok(());
            };
            (self.0)(ClusteredMatrix {
                name,
                kind,
                clustering,
                shape: as_matrix_shape(parameter.shape()),
                read: &|| numbers(parameter),
            })
        }
    }
    model.visit_parameters("", &mut Clustered(each, PhantomData))
}

/// The number of trainable numbers in a model.
pub fn count_parameters<D: EdkmDevice>(model: &mut impl Parameters<D>) -> usize {
    struct Count(usize);
    impl<D: EdkmDevice> ParameterVisitor<D> for Count {
        type Error = std::convert::Infallible;
        fn visit<S: Shape>(
            &mut self,
            _: &str,
            _: ParameterKind<'_>,
            parameter: &mut Tensor<S, f32, D>,
        ) -> Result<(), Self::Error> {
            self.0 += parameter.shape().num_elements();
            Ok(())
        }
    }
    let mut count = Count(0);
    match model.visit_parameters("", &mut count) {
        Ok(()) => count.0,
        Err(never) => match never {},
    }
}
