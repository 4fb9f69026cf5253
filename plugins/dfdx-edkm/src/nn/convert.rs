//! Turning existing layers, and models that dfdx composes of them, into clustered ones.

use dfdx::nn::modules::{BatchNorm1D, Embedding, LayerNorm1D, Linear, UnbiasedLinear};
use dfdx::prelude::*;

use super::{ClusteredEmbedding, ClusteredLinear, RmsNorm, UnbiasedClusteredLinear};
use crate::composition::{for_layers_without_parameters, for_tuples, for_wrappers};
use crate::{Clustering, Spec};

/// An existing layer with a clustered counterpart, or a model that dfdx composes of such (tuples, its wrappers). The parameters are taken over as they are (the
/// same storage, the same gradient). Layers without matrices, and those that are clustered already, stay what they are; so that a plain layer stays plain, take
/// the tuple apart and convert the others.
///
/// ```
/// use dfdx::prelude::*;
/// use dfdx_edkm::nn::IntoClustered;
/// use dfdx_edkm::{Bits, Spec};
/// # fn main() -> Result<(), dfdx_edkm::ClusterError> {
/// # let dev: Cpu = Default::default();
/// let linear = dev.build_module::<Linear<8, 4>, f32>();
/// let clustered = linear.clone().into_clustered(Spec::new(Bits::new(2)?));
/// assert_eq!(clustered.weight.array(), linear.weight.array());
///
/// let model = dev.build_module::<(Linear<8, 16>, ReLU, Residual<Linear<16, 16>>), f32>();
/// let (first, ReLU, Residual(second)) = model.into_clustered(Spec::new(Bits::new(3)?));
/// assert_eq!((first.clustering.spec().bits.get(), second.clustering.spec().bits.get()), (3, 3));
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no clustered counterpart, and is not known as a layer without matrices",
    note = "convert the parts that have one, and put the model together of them"
)]
pub trait IntoClustered {
    /// The clustered layer.
    type Clustered;

    /// Takes the parameters over, to be clustered as `spec` says.
    fn into_clustered(self, spec: Spec) -> Self::Clustered;
}

impl<const I: usize, const O: usize, E: Dtype, D: Storage<E>> IntoClustered for Linear<I, O, E, D> {
    type Clustered = ClusteredLinear<Const<I>, Const<O>, E, D>;

    fn into_clustered(self, spec: Spec) -> Self::Clustered {
        ClusteredLinear {
            weight: self.weight,
            bias: self.bias,
            clustering: Clustering::new(spec),
        }
    }
}

impl<const I: usize, const O: usize, E: Dtype, D: Storage<E>> IntoClustered for UnbiasedLinear<I, O, E, D> {
    type Clustered = UnbiasedClusteredLinear<Const<I>, Const<O>, E, D>;

    fn into_clustered(self, spec: Spec) -> Self::Clustered {
        UnbiasedClusteredLinear {
            weight: self.weight,
            clustering: Clustering::new(spec),
        }
    }
}

impl<const V: usize, const M: usize, E: Dtype, D: Storage<E>> IntoClustered for Embedding<V, M, E, D> {
    type Clustered = ClusteredEmbedding<Const<V>, Const<M>, E, D>;

    fn into_clustered(self, spec: Spec) -> Self::Clustered {
        ClusteredEmbedding {
            weight: self.weight,
            clustering: Clustering::new(spec),
        }
    }
}

macro_rules! tuple {
    ($($name:ident $index:tt),+) => {
        impl<$($name: IntoClustered),+> IntoClustered for ($($name,)+) {
            type Clustered = ($($name::Clustered,)+);

            fn into_clustered(self, spec: Spec) -> Self::Clustered {
                ($(self.$index.into_clustered(spec),)+)
            }
        }
    };
}

for_tuples!(tuple);

macro_rules! wrapper {
    ($($wrapper:ident),+) => {$(
        impl<M: IntoClustered> IntoClustered for $wrapper<M> {
            type Clustered = $wrapper<M::Clustered>;

            fn into_clustered(self, spec: Spec) -> Self::Clustered {
                $wrapper(self.0.into_clustered(spec))
            }
        }
    )+};
}

for_wrappers!(wrapper);

impl<F: IntoClustered, R: IntoClustered> IntoClustered for GeneralizedResidual<F, R> {
    type Clustered = GeneralizedResidual<F::Clustered, R::Clustered>;

    fn into_clustered(self, spec: Spec) -> Self::Clustered {
        GeneralizedResidual {
            f: self.f.into_clustered(spec),
            r: self.r.into_clustered(spec),
        }
    }
}

impl<M: IntoClustered, const N: usize> IntoClustered for Repeated<M, N> {
    type Clustered = Repeated<M::Clustered, N>;

    fn into_clustered(self, spec: Spec) -> Self::Clustered {
        let modules = self.modules.into_iter().map(|module| module.into_clustered(spec));
        Repeated {
            modules: modules.collect(),
        }
    }
}

macro_rules! stays {
    ($([$($generics:tt)*] $module:ty),+ $(,)?) => {$(
        impl<$($generics)*> IntoClustered for $module {
            type Clustered = Self;

            fn into_clustered(self, _: Spec) -> Self {
                self
            }
        }
    )+};
}

for_layers_without_parameters!(stays);

stays!(
    [const M: usize, E: Dtype, D: Storage<E>] LayerNorm1D<M, E, D>,
    [const C: usize, E: Dtype, D: Storage<E>] BatchNorm1D<C, E, D>,
    [I: Dim, O: Dim, E: Dtype, D: Storage<E>] ClusteredLinear<I, O, E, D>,
    [I: Dim, O: Dim, E: Dtype, D: Storage<E>] UnbiasedClusteredLinear<I, O, E, D>,
    [V: Dim, M: Dim, E: Dtype, D: Storage<E>] ClusteredEmbedding<V, M, E, D>,
    [M: Dim, E: Dtype, D: Storage<E>] RmsNorm<M, E, D>,
);
