//! The optimizer's moments, a tensor at a time.
//!
//! A parameter NAME has `NAME.first_moment` and `NAME.second_moment`: both f32, or both u8 and `NAME.moment_scales` f32 with them (see
//! [`edkm_kernels::adamw::eight_bit`]), all of one axis.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use dfdx::prelude::*;
use dfdx_edkm::optim::{moments_fit, AdamW, DeviceMoments, Moments};
use dfdx_edkm::{EdkmDevice, ParameterKind, ParameterVisitor, Parameters};
use edkm_llama::checkpoint::{write_safetensors, Access, Checkpoint, Dtype, FloatDtype, TensorEntry};
use edkm_llama::model::DynamicLlama;
use edkm_llama::LlamaError;

use super::format::damaged;
use super::OptimizerState;
use crate::TrainError;

const FIRST: &str = ".first_moment";
const SECOND: &str = ".second_moment";
const SCALES: &str = ".moment_scales";

/// Writes the moments of `optimizer`. Memory: a copy of the largest tensor.
pub(super) fn write<D: EdkmDevice>(path: &Path, optimizer: &AdamW<D>) -> Result<(), TrainError> {
    let device = optimizer.device();
    let mut entries = Vec::new();
    for (name, moments) in optimizer.moments() {
        let named = |suffix| format!("{name}{suffix}");
        match moments {
            Moments::F32 { first, second } => {
                entries.push(numbers(device, named(FIRST), first));
                entries.push(numbers(device, named(SECOND), second));
            }
            Moments::EightBit { first, second, scales } => {
                entries.push(codes(device, named(FIRST), first));
                entries.push(codes(device, named(SECOND), second));
                entries.push(numbers(device, named(SCALES), scales));
            }
        }
    }
    write_safetensors(path, entries, &BTreeMap::new())?;
    Ok(())
}

fn numbers<'a, D: EdkmDevice>(device: &'a D, name: String, numbers: &'a <D as Storage<f32>>::Vec) -> TensorEntry<'a> {
    let shape = [Storage::<f32>::len(device, numbers)];
    let make = {
        let name = name.clone();
        move || device.buffer_to_vec(numbers).map_err(|why| failed(name, &why))
    };
    TensorEntry::later_values(name, shape, FloatDtype::F32, make)
}

fn codes<'a, D: EdkmDevice>(device: &'a D, name: String, codes: &'a <D as Storage<u8>>::Vec) -> TensorEntry<'a> {
    let shape = [Storage::<u8>::len(device, codes)];
    let make = {
        let name = name.clone();
        move || {
            let bytes = device.bytes_to_vec(codes).map_err(|why| failed(name, &why))?;
            Ok(Cow::Owned(bytes))
        }
    };
    TensorEntry::later(name, Dtype::U8, shape, make)
}

/// The optimizer whose moments are in a file. Memory: that of the moments, and a copy of the largest tensor.
pub(super) fn read<D: EdkmDevice>(path: &Path, device: &D, state: &OptimizerState) -> Result<AdamW<D>, TrainError> {
    let file = Checkpoint::open_file(path, Access::Read)?;
    let mut moments = BTreeMap::new();
    for name in file.names() {
        if let Some(parameter) = name.strip_suffix(FIRST) {
            moments.insert(parameter.to_owned(), of_parameter(&file, device, parameter)?);
        } else if !name.ends_with(SECOND) && !name.ends_with(SCALES) {
            return Err(damaged(path, &format!("{name}: not a moment")));
        }
    }
    Ok(AdamW::from_moments(device.clone(), state.config, state.step, moments))
}

fn of_parameter<D: EdkmDevice>(file: &Checkpoint, device: &D, parameter: &str) -> Result<DeviceMoments<D>, TrainError> {
    let named = |suffix| format!("{parameter}{suffix}");
    let numbers = |name: String| {
        let shape = file.info(&name).map_or(&[][..], |info| &info.shape);
        let values = file.read_f32(&name, shape)?;
        device.buffer_from_vec(values).map_err(|why| failed(name, &why))
    };
    let codes = |name: String| {
        let tensor = file.raw(&name)?;
        let bytes = tensor.bytes.as_slice().to_vec();
        device.bytes_from_vec(bytes).map_err(|why| failed(name, &why))
    };
    Ok(match file.info(&named(FIRST)).map(|info| info.dtype) {
        Some(Dtype::U8) => Moments::EightBit {
            first: codes(named(FIRST))?,
            second: codes(named(SECOND))?,
            scales: numbers(named(SCALES))?,
        },
        _ => Moments::F32 {
            first: numbers(named(FIRST))?,
            second: numbers(named(SECOND))?,
        },
    })
}

/// Refuses moments that are not those of the model's parameters: an update would begin with zeros where there are none. Before the first update
/// there are none at all.
pub(super) fn check<D: EdkmDevice>(
    path: &Path,
    model: &mut DynamicLlama<D>,
    optimizer: &AdamW<D>,
) -> Result<(), TrainError> {
    struct Check<'a, D: EdkmDevice>(&'a Path, &'a AdamW<D>);
    impl<D: EdkmDevice> ParameterVisitor<D> for Check<'_, D> {
        type Error = TrainError;
        fn visit<S: Shape>(
            &mut self,
            name: &str,
            _: ParameterKind<'_>,
            parameter: &mut Tensor<S, f32, D>,
        ) -> Result<(), TrainError> {
            let len = parameter.shape().num_elements();
            match self.1.moments().get(name) {
                None => Err(damaged(self.0, &format!("no moments of {name}"))),
                Some(moments) if moments_fit(self.1.device(), moments, len) => Ok(()),
                Some(_) => Err(damaged(
                    self.0,
                    &format!("moments of {name} for another length than {len}"),
                )),
            }
        }
    }
    match optimizer.step_count() {
        0 => Ok(()),
        _ => model.visit_parameters("", &mut Check(path, optimizer)),
    }
}

fn failed(name: String, why: &impl std::fmt::Display) -> LlamaError {
    LlamaError::Device {
        name,
        reason: why.to_string(),
    }
}
