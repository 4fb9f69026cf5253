//! eDKM for [dfdx](https://docs.rs/dfdx) 0.13: train a model whose weight matrices take only 2^bits values.
//!
//! Three things to know, in the order in which they are met:
//!
//! 1. **Modules** ([`nn`]): [`nn::ClusteredLinear`] composes like dfdx's own `Linear`: const dimensions, tuples, dfdx's wrappers,
//!    optimizers and safetensors. Its weight is clustered inside the training graph (DKM, arXiv 2108.12659), with the map of
//!    weights x clusters never built.
//! 2. **The tape** ([`StoreTape`]): a tape that every dfdx op accepts. What the ops of this crate save for backward goes to a
//!    storage backend (`edkm_store`); which one is chosen by the tape that is put on the input, not by changing the model.
//! 3. **[`checkpoint`]**: any dfdx sub-model, saved by its input alone and run again in backward.
//!
//! An op that fails gives the device's error, since dfdx's modules have room for no other (on the CPU it says `OutOfMemory`, and `forward` panics with it
//! where `try_forward` returns it). The reason is in the tape: keep [`StoreTape::failure`] before the tape goes onto an input, and
//! [`take`](Failure::take) it then, or run the forward pass and the making of its tape in [`with_reason`]; [`backward`] returns it. A reason that nobody takes goes to
//! `tracing`, as without such a tape.
//!
//! What is packed in the end is each weight at its nearest centroid, and what training measures is softer: lower the temperature on the way ([`set_temperatures`]), so
//! that both come to the same.
//!
//! Everything computes in f32 on dfdx's `Cpu`, or on its `Cuda` with the feature `cuda`. A device takes part by implementing [`EdkmDevice`]'s parts, one kernel trait an op.
//!
//! ```
//! use dfdx::optim::Adam;
//! use dfdx::prelude::*;
//! use dfdx_edkm::{backward, nn::builders::ClusteredLinear, StoreTape};
//!
//! let dev: Cpu = Default::default();
//! type Model = (ClusteredLinear<8, 16>, ReLU, ClusteredLinear<16, 4>);
//! let mut model = dev.build_module::<Model, f32>();
//! let mut adam = Adam::new(&model, Default::default());
//! let x: Tensor<Rank2<5, 8>, f32, _> = dev.sample_normal();
//! // the one line that chooses where saved tensors go
//! let tape = StoreTape::new(edkm_store::Store::marshaling(), model.alloc_grads());
//! let loss = model.forward(x.put_tape(tape)).square().mean();
//! let grads = backward(loss).unwrap();
//! adam.update(&mut model, &grads).unwrap();
//! ```

pub mod channel_scale;
mod checkpoint;
mod clustering;
mod clusterings;
mod composition;
pub mod device;
mod error;
mod gradients;
mod half_tensor;
pub mod nn;
pub mod ops;
pub mod optim;
mod packed_file;
mod parameters;
mod save;
mod tape;

pub use channel_scale::ChannelScale;
pub use checkpoint::{checkpoint, try_checkpoint, try_checkpoint_with, try_rematerialize};
pub use clustering::{pack, palette_spec, Clustering, ClusteringState, LearnedPalette, SavedClustering};
pub use clusterings::{
    clusterings_of, name_clusterings, reset_clusterings, restore_clusterings, set_temperatures, UnlikeClusterings,
};
pub use device::EdkmDevice;
/// How a weight is clustered: the settings that [`nn::IntoClustered`] and [`Clustering`] take, and what it gives.
pub use edkm_cluster::{
    Bits, Centroids, ClusterError, GradientMode, Grouping, HalfKind, Initialization, KeepZero, MatrixShape, Spec,
    Temperature, VectorLen,
};
/// The packed form of a clustered weight, and a file of such.
pub use edkm_palette::{
    FileError, PaletteDType, PaletteError, PaletteFile, PaletteSpec, PalettizedMatrix, PlainTensor,
};
pub use error::{EdkmError, PackError, PalettizeError};
pub use gradients::{gradients_of, take_gradient};
pub use half_tensor::{HalfKernel, HalfTensor};
pub use packed_file::packed_file;
pub use parameters::{
    count_parameters, visit_clustered, ClusteredMatrix, ParameterKind, ParameterVisitor, Parameters, ParametersByPart,
};
pub use save::{SaveAs, SaveForBackward};
pub use tape::{backward, backward_by_parts, backward_each_part, with_reason, DeviceBudget, Failure, StoreTape};

/// The README's program is compiled and run with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
