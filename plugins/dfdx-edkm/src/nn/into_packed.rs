//! Turning trained layers, and models that dfdx composes of them, into packed ones.

use dfdx::nn::modules::{BatchNorm1D, Embedding, LayerNorm1D, Linear, UnbiasedLinear};
use dfdx::prelude::*;
use edkm_palette::{PaletteDType, PalettizedMatrix};

use super::{ClusteredEmbedding, ClusteredLinear, PackedEmbedding, PackedLinear, RmsNorm, UnbiasedClusteredLinear};
use crate::composition::{for_layers_without_parameters, for_tuples, for_wrappers};
use crate::parameters::numbers;
use crate::{Clustering, EdkmDevice, MatrixShape, PackError};

/// A clustered layer, or a model that dfdx composes of such (tuples, its wrappers), with its weights packed: what a file of it computes, in the memory that the file
/// takes. Layers that are not clustered stay what they are.
///
/// ```
/// use dfdx::prelude::*;
/// use dfdx_edkm::nn::{builders::ClusteredLinear, IntoPacked};
/// use dfdx_edkm::PaletteDType;
/// # fn main() -> Result<(), dfdx_edkm::PackError> {
/// # let dev: Cpu = Default::default();
/// type Model = (ClusteredLinear<8, 16>, ReLU, Residual<ClusteredLinear<16, 16>>);
/// let model = dev.build_module::<Model, f32>();
/// // ... trained
/// let packed = model.into_packed(PaletteDType::F16)?;
/// let y: Tensor<Rank2<5, 16>, f32, Cpu> = packed.forward(dev.sample_normal::<Rank2<5, 8>>());
/// assert_eq!(packed.0.weight().spec().bits, 3);
/// # Ok(())
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no packed counterpart, and is not known as a layer that stays as it is",
    note = "convert the parts that have one, and put the model together of them"
)]
pub trait IntoPacked: Sized {
    /// The packed layer.
    type Packed;

    /// Packs each clustered weight at its nearest centroids, in palettes of this type.
    ///
    /// # Errors
    /// Those of [`Clustering::palettize`], with the parameter's name.
    fn into_packed(self, dtype: PaletteDType) -> Result<Self::Packed, PackError> {
        self.into_packed_at("", dtype)
    }

    /// The same of a part of a model, whose parameters' names begin with `prefix`.
    ///
    /// # Errors
    /// As [`Self::into_packed`].
    fn into_packed_at(self, prefix: &str, dtype: PaletteDType) -> Result<Self::Packed, PackError>;
}

fn pack<R: Dim, C: Dim, D: EdkmDevice>(
    weight: &Tensor<(R, C), f32, D>,
    clustering: &Clustering,
    prefix: &str,
    dtype: PaletteDType,
) -> Result<PalettizedMatrix, PackError> {
    let (rows, cols) = *weight.shape();
    clustering
        .palettize(&numbers(weight), MatrixShape::new(rows.size(), cols.size()), dtype)
        .map_err(named(prefix))
}

fn named<E: Into<crate::PalettizeError>>(prefix: &str) -> impl Fn(E) -> PackError + '_ {
    move |source| PackError {
        name: format!("{prefix}weight"),
        source: source.into(),
    }
}

impl<I: Dim, O: Dim, D: EdkmDevice> IntoPacked for ClusteredLinear<I, O, f32, D> {
    type Packed = PackedLinear<I, O>;

    fn into_packed_at(self, prefix: &str, dtype: PaletteDType) -> Result<Self::Packed, PackError> {
        let (outputs, inputs) = *self.weight.shape();
        let weight = pack(&self.weight, &self.clustering, prefix, dtype)?;
        PackedLinear::new(inputs, outputs, weight, Some(numbers(&self.bias))).map_err(named(prefix))
    }
}

impl<I: Dim, O: Dim, D: EdkmDevice> IntoPacked for UnbiasedClusteredLinear<I, O, f32, D> {
    type Packed = PackedLinear<I, O>;

    fn into_packed_at(self, prefix: &str, dtype: PaletteDType) -> Result<Self::Packed, PackError> {
        let (outputs, inputs) = *self.weight.shape();
        let weight = pack(&self.weight, &self.clustering, prefix, dtype)?;
        PackedLinear::new(inputs, outputs, weight, None).map_err(named(prefix))
    }
}

impl<V: Dim, M: Dim, D: EdkmDevice> IntoPacked for ClusteredEmbedding<V, M, f32, D> {
    type Packed = PackedEmbedding<V, M>;

    fn into_packed_at(self, prefix: &str, dtype: PaletteDType) -> Result<Self::Packed, PackError> {
        let (vocabulary, hidden) = *self.weight.shape();
        let weight = pack(&self.weight, &self.clustering, prefix, dtype)?;
        PackedEmbedding::new(vocabulary, hidden, weight).map_err(named(prefix))
    }
}

macro_rules! tuple {
    ($($name:ident $index:tt),+) => {
        impl<$($name: IntoPacked),+> IntoPacked for ($($name,)+) {
            type Packed = ($($name::Packed,)+);

            fn into_packed_at(self, prefix: &str, dtype: PaletteDType) -> Result<Self::Packed, PackError> {
                Ok(($(self.$index.into_packed_at(&format!("{prefix}{}.", $index), dtype)?,)+))
            }
        }
    };
}

for_tuples!(tuple);

macro_rules! wrapper {
    ($($wrapper:ident),+) => {$(
        impl<M: IntoPacked> IntoPacked for $wrapper<M> {
            type Packed = $wrapper<M::Packed>;

            fn into_packed_at(self, prefix: &str, dtype: PaletteDType) -> Result<Self::Packed, PackError> {
                Ok($wrapper(self.0.into_packed_at(&format!("{prefix}0."), dtype)?))
            }
        }
    )+};
}

for_wrappers!(wrapper);

impl<F: IntoPacked, R: IntoPacked> IntoPacked for GeneralizedResidual<F, R> {
    type Packed = GeneralizedResidual<F::Packed, R::Packed>;

    fn into_packed_at(self, prefix: &str, dtype: PaletteDType) -> Result<Self::Packed, PackError> {
        Ok(GeneralizedResidual {
            f: self.f.into_packed_at(&format!("{prefix}f."), dtype)?,
            r: self.r.into_packed_at(&format!("{prefix}r."), dtype)?,
        })
    }
}

impl<M: IntoPacked, const N: usize> IntoPacked for Repeated<M, N> {
    type Packed = Repeated<M::Packed, N>;

    fn into_packed_at(self, prefix: &str, dtype: PaletteDType) -> Result<Self::Packed, PackError> {
        let modules = self.modules.into_iter().enumerate();
        let modules = modules.map(|(index, module)| module.into_packed_at(&format!("{prefix}{index}."), dtype));
        Ok(Repeated {
            modules: modules.collect::<Result<_, _>>()?,
        })
    }
}

macro_rules! stays {
    ($([$($generics:tt)*] $module:ty),+ $(,)?) => {$(
        impl<$($generics)*> IntoPacked for $module {
            type Packed = Self;

            fn into_packed_at(self, _: &str, _: PaletteDType) -> Result<Self, PackError> {
                Ok(self)
            }
        }
    )+};
}

for_layers_without_parameters!(stays);

stays!(
    [const I: usize, const O: usize, E: Dtype, D: Storage<E>] Linear<I, O, E, D>,
    [const I: usize, const O: usize, E: Dtype, D: Storage<E>] UnbiasedLinear<I, O, E, D>,
    [const V: usize, const M: usize, E: Dtype, D: Storage<E>] Embedding<V, M, E, D>,
    [const M: usize, E: Dtype, D: Storage<E>] LayerNorm1D<M, E, D>,
    [const C: usize, E: Dtype, D: Storage<E>] BatchNorm1D<C, E, D>,
    [M: Dim, E: Dtype, D: Storage<E>] RmsNorm<M, E, D>,
);
