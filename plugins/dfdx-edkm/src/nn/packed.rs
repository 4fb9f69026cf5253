//! Layers whose weights are packed: what a clustered layer becomes when it is trained.

use dfdx::nn::modules::NonMutableModule;
use dfdx::prelude::*;
use edkm_palette::{PaletteError, PalettizedMatrix};
use rayon::prelude::*;

use super::RowsOf;
use crate::ops::as_matrix;
use crate::parameters::numbers;
use crate::{EdkmError, SaveForBackward};

/// y = x W~^T + b from packed indices and palettes, in the order of sums of [`PalettizedMatrix::matvec`]: the weights take up the memory that they take up in a
/// file. What [`IntoPacked`](super::IntoPacked) makes of a clustered linear layer.
///
/// Takes what [`ClusteredLinear`](super::ClusteredLinear) takes, on the CPU and without a tape: there is nothing to train in it.
#[derive(Debug, Clone)]
pub struct PackedLinear<I: Dim, O: Dim> {
    weight: PalettizedMatrix,
    bias: Option<Vec<f32>>,
    inputs: I,
    outputs: O,
}

impl<I: Dim, O: Dim> PackedLinear<I, O> {
    /// Of a weight `[outputs, inputs]`, as it comes from [`Clustering::palettize`](crate::Clustering::palettize) or a file, and a bias `[outputs]`.
    ///
    /// # Errors
    /// A weight or a bias of other sizes.
    pub fn new(inputs: I, outputs: O, weight: PalettizedMatrix, bias: Option<Vec<f32>>) -> Result<Self, PaletteError> {
        check("a row of the weight", inputs.size(), weight.cols())?;
        check("a column of the weight", outputs.size(), weight.rows())?;
        if let Some(bias) = &bias {
            check("bias", outputs.size(), bias.len())?;
        }
        Ok(Self {
            weight,
            bias,
            inputs,
            outputs,
        })
    }

    /// The weight, for a file.
    pub fn weight(&self) -> &PalettizedMatrix {
        &self.weight
    }

    /// The bias, `[outputs]`.
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }
}

impl<I: Dim, O: Dim> NonMutableModule for PackedLinear<I, O> {}

impl<S: RowsOf<I>, I: Dim, O: Dim> Module<Tensor<S, f32, Cpu>> for PackedLinear<I, O> {
    type Output = Tensor<S::With<O>, f32, Cpu>;
    type Error = CpuError;

    fn try_forward(&self, x: Tensor<S, f32, Cpu>) -> Result<Self::Output, CpuError> {
        let y_shape = x.shape().with(self.outputs);
        let device = x.device().clone();
        let x = as_matrix(x)?;
        let (rows, features) = *x.shape();
        if features != self.inputs.size() {
            return Err(failed(EdkmError::Shape {
                op: "packed linear",
                expected: format!("inputs of {} features", self.inputs.size()),
                got: format!("{features}"),
            }));
        }
        let outputs = self.outputs.size();
        let mut y = vec![0.0; rows * outputs];
        self.weight
            .matmul(<Cpu as crate::device::DeviceMemory>::view(&x), rows, &mut y)
            .map_err(|error| failed(EdkmError::Device(error.to_string())))?;
        if let Some(bias) = &self.bias {
            y.par_chunks_exact_mut(outputs.max(1))
                .with_min_len(16)
                .for_each(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
        }
        device.try_tensor_from_vec(y, y_shape)
    }
}

/// Rows of a table by token id, from packed indices and palettes. What [`IntoPacked`](super::IntoPacked) makes of a clustered embedding.
///
/// Takes ids `[S]` or `[B, S]`, on the CPU and without a tape.
#[derive(Debug, Clone)]
pub struct PackedEmbedding<V: Dim, M: Dim> {
    weight: PalettizedMatrix,
    vocabulary: V,
    hidden: M,
}

impl<V: Dim, M: Dim> PackedEmbedding<V, M> {
    /// Of a table `[vocabulary, hidden]`.
    ///
    /// # Errors
    /// A table of other sizes.
    pub fn new(vocabulary: V, hidden: M, weight: PalettizedMatrix) -> Result<Self, PaletteError> {
        check("a row of the table", hidden.size(), weight.cols())?;
        check("a column of the table", vocabulary.size(), weight.rows())?;
        Ok(Self {
            weight,
            vocabulary,
            hidden,
        })
    }

    /// The table, for a file.
    pub fn weight(&self) -> &PalettizedMatrix {
        &self.weight
    }

    fn rows<S: Shape, Out: Shape>(
        &self,
        ids: Tensor<S, usize, Cpu>,
        shape: Out,
    ) -> Result<Tensor<Out, f32, Cpu>, CpuError> {
        let device = ids.device().clone();
        let hidden = self.hidden.size();
        let ids = numbers(&ids);
        let mut rows = vec![0.0; ids.len() * hidden];
        for (&id, row) in ids.iter().zip(rows.chunks_exact_mut(hidden.max(1))) {
            self.weight.row_into(id, row).map_err(|_| {
                failed(EdkmError::Shape {
                    op: "packed embedding",
                    expected: format!("token ids below {}, the rows of the table", self.vocabulary.size()),
                    got: format!("id {id}"),
                })
            })?;
        }
        device.try_tensor_from_vec(rows, shape)
    }
}

impl<V: Dim, M: Dim> NonMutableModule for PackedEmbedding<V, M> {}

impl<S: Dim, V: Dim, M: Dim> Module<Tensor<(S,), usize, Cpu>> for PackedEmbedding<V, M> {
    type Output = Tensor<(S, M), f32, Cpu>;
    type Error = CpuError;

    fn try_forward(&self, ids: Tensor<(S,), usize, Cpu>) -> Result<Self::Output, CpuError> {
        let shape = (ids.shape().0, self.hidden);
        self.rows(ids, shape)
    }
}

impl<B: Dim, S: Dim, V: Dim, M: Dim> Module<Tensor<(B, S), usize, Cpu>> for PackedEmbedding<V, M> {
    type Output = Tensor<(B, S, M), f32, Cpu>;
    type Error = CpuError;

    fn try_forward(&self, ids: Tensor<(B, S), usize, Cpu>) -> Result<Self::Output, CpuError> {
        let shape = (ids.shape().0, ids.shape().1, self.hidden);
        self.rows(ids, shape)
    }
}

fn check(what: &'static str, expected: usize, got: usize) -> Result<(), PaletteError> {
    match expected == got {
        true => Ok(()),
        false => Err(PaletteError::Length { what, expected, got }),
    }
}

/// The device's error for one that [`with_reason`](crate::with_reason) gives.
fn failed(error: EdkmError) -> CpuError {
    SaveForBackward::<Cpu>::fail(&NoneTape, error)
}
