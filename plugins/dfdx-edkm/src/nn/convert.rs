//! Turning existing layers into clustered ones.

use dfdx::nn::modules::{Embedding, Linear, UnbiasedLinear};
use dfdx::prelude::*;

use super::{ClusteredEmbedding, ClusteredLinear, UnbiasedClusteredLinear};
use crate::{Clustering, Spec};

/// An existing layer with a clustered counterpart. The parameters are taken over as they are (the same storage, the same gradient).
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
/// # Ok(())
/// # }
/// ```
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
