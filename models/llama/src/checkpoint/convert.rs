//! Weights in the types of checkpoints to f32 and back, in parallel and in bounded memory.

use half::{bf16, f16, slice::HalfFloatSliceExt};
use rayon::prelude::*;
use safetensors::Dtype;

use super::{file::TensorFile, header::TensorInfo};
use crate::LlamaError;

/// Elements that one task reads and converts: 1 MiB of f32, in cache together with its source.
pub(super) const CHUNK: usize = 1 << 18;

/// Reads a tensor of type f32, f16 or bf16 into `values`, which has its length.
pub(super) fn read_f32(file: &TensorFile, name: &str, info: &TensorInfo, values: &mut [f32]) -> Result<(), LlamaError> {
    let fill = match info.dtype {
        Dtype::F32 => read_plain,
        Dtype::F16 => read_half::<f16>,
        Dtype::BF16 => read_half::<bf16>,
        other => {
            return Err(LlamaError::Dtype {
                path: file.path().to_owned(),
                name: name.to_owned(),
                got: format!("{other:?}"),
                supported: "F32, F16 and BF16",
            })
        }
    };
    // The first of all that are not finite, so that the error does not depend on the threads.
    let worst = values
        .par_chunks_mut(CHUNK)
        .enumerate()
        .map(|(i, chunk)| {
            let start = i * CHUNK;
            fill(file, name, info, start, chunk)?;
            Ok(first_not_finite(chunk).map(|at| start + at))
        })
        .try_reduce(|| None, |a, b| Ok([a, b].into_iter().flatten().min()))?;
    match worst {
        None => Ok(()),
        Some(index) => Err(LlamaError::NotFinite {
            path: file.path().to_owned(),
            name: name.to_owned(),
            index,
            value: values[index],
        }),
    }
}

fn read_plain(
    file: &TensorFile,
    name: &str,
    info: &TensorInfo,
    start: usize,
    chunk: &mut [f32],
) -> Result<(), LlamaError> {
    file.read(name, info, start as u64 * 4, bytemuck::cast_slice_mut(chunk))?;
    from_little_endian(chunk);
    Ok(())
}

/// Nothing on little-endian machines.
fn from_little_endian(values: &mut [f32]) {
    if cfg!(target_endian = "big") {
        for value in values {
            *value = f32::from_bits(u32::from_le(value.to_bits()));
        }
    }
}

fn read_half<H: bytemuck::Pod>(
    file: &TensorFile,
    name: &str,
    info: &TensorInfo,
    start: usize,
    chunk: &mut [f32],
) -> Result<(), LlamaError>
where
    [H]: HalfFloatSliceExt,
{
    thread_local! {
        static HALVES: std::cell::RefCell<Vec<u16>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    HALVES.with_borrow_mut(|halves| {
        halves.resize(CHUNK, 0);
        let halves = &mut halves[..chunk.len()];
        file.read(name, info, start as u64 * 2, bytemuck::cast_slice_mut(halves))?;
        if cfg!(target_endian = "big") {
            halves.iter_mut().for_each(|half| *half = u16::from_le(*half));
        }
        bytemuck::cast_slice::<u16, H>(halves).convert_to_f32_slice(chunk);
        Ok(())
    })
}

/// The index of the first value that is NaN or infinite.
pub(super) fn first_not_finite(values: &[f32]) -> Option<usize> {
    // Without a branch in the loop: it runs at the speed of memory, and the search only if there is something to find.
    let bad = values.iter().fold(false, |bad, value| bad | !value.is_finite());
    bad.then(|| values.iter().position(|value| !value.is_finite()))
        .flatten()
}
