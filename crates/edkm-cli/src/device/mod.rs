//! Where a model is computed: `cpu`, `cuda` or `cuda:N`.

#[cfg(feature = "cuda")]
mod gpu;
#[cfg(not(feature = "cuda"))]
#[path = "no_gpu.rs"]
mod gpu;

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use dfdx::prelude::*;
use dfdx_edkm::EdkmDevice;
use edkm_llama::inference::InferenceModel;
use edkm_store::{Bytes, StoreSpec};
use edkm_train::device_share::DeviceShare;

use crate::args::{DeviceArgs, PrecisionChoice};
use crate::commands::Failure;

/// The device that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The CPU, all its threads.
    Cpu,
    /// A GPU, counted from 0.
    Cuda(usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ordinal = match text.split_once(':') {
            None if text == "cpu" => return Ok(Self::Cpu),
            None if text == "cuda" => Some(0),
            Some(("cuda", number)) => number.parse().ok(),
            _ => None,
        };
        ordinal
            .map(Self::Cuda)
            .ok_or_else(|| "a device is cpu, cuda, or cuda:N with the number of a GPU, counted from 0".to_owned())
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// Something to do on a device of whatever kind.
pub trait OnDevice {
    /// What comes of it.
    type Output;

    /// Does it.
    fn run<D: EdkmDevice>(self, device: &D) -> Result<Self::Output, Failure>;
}

impl DeviceArgs {
    /// The same as arguments again, for a process of its own.
    pub fn arguments(self) -> Vec<String> {
        let precision = self.precision.to_possible_value();
        let precision = precision.map(|value| ["--precision".to_owned(), value.get_name().to_owned()]);
        let mut arguments = vec!["--device".to_owned(), self.device.to_string()];
        arguments.extend(precision.into_iter().flatten());
        arguments
    }

    /// Refuses a budget of device memory where there is none.
    pub fn check_memory(self, budget: Option<Bytes>) -> Result<(), Failure> {
        match (self.device, budget) {
            (DeviceChoice::Cpu, Some(_)) => {
                Err("the CPU's memory is the store's: --device-memory is for --device cuda:N".into())
            }
            _ => Ok(()),
        }
    }

    /// Where tensors saved for backward go, as `--store` and `--device-memory` say it.
    pub fn storage(self, layers: Option<&str>, budget: Option<Bytes>) -> Result<(StoreSpec, DeviceShare), Failure> {
        self.check_memory(budget)?;
        let share = match (layers, budget) {
            (_, Some(bytes)) => DeviceShare::AtMost(bytes),
            (Some(_), None) => DeviceShare::Nothing,
            (None, None) => DeviceShare::WhatFits,
        };
        Ok((layers.unwrap_or("marshal").parse()?, share))
    }

    /// Refuses what the device cannot do.
    pub fn check(self) -> Result<(), Failure> {
        match (self.device, self.precision) {
            (DeviceChoice::Cpu, PrecisionChoice::Tf32 | PrecisionChoice::F16) => {
                Err("the CPU multiplies in f32; --precision is for --device cuda:N".into())
            }
            _ => Ok(()),
        }
    }

    /// Refuses what the device cannot do, and a GPU if this program is not built for one: before a model is opened.
    pub fn check_inference(self) -> Result<(), Failure> {
        self.check()?;
        match self.device {
            DeviceChoice::Cpu => Ok(()),
            DeviceChoice::Cuda(ordinal) => gpu::check(ordinal),
        }
    }

    /// Puts a model on the device, with its weights as they are stored.
    pub fn place(self, model: InferenceModel) -> Result<InferenceModel, Failure> {
        match self.device {
            DeviceChoice::Cpu => Ok(model),
            DeviceChoice::Cuda(ordinal) => gpu::place(ordinal, self.precision, model),
        }
    }

    /// Does `work` on the device.
    pub fn run<W: OnDevice>(self, work: W) -> Result<W::Output, Failure> {
        self.check()?;
        match self.device {
            DeviceChoice::Cpu => {
                let device = Cpu::default();
                // freed memory goes back: what is measured is what is held
                device.disable_cache();
                work.run(&device)
            }
            DeviceChoice::Cuda(ordinal) => gpu::run(ordinal, self.precision, work),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saved_tensors_stay_on_a_gpu_unless_something_else_is_said() {
        let on = |device| DeviceArgs {
            device,
            precision: PrecisionChoice::F32,
        };
        let gpu = on(DeviceChoice::Cuda(0));
        let share = |layers, budget| gpu.storage(layers, budget).unwrap().1;
        let bytes = Bytes(1 << 20);
        assert_eq!(share(None, None), DeviceShare::WhatFits);
        assert_eq!(share(Some("marshal"), None), DeviceShare::Nothing);
        assert_eq!(share(Some("marshal"), Some(bytes)), DeviceShare::AtMost(bytes));
        assert_eq!(share(None, Some(bytes)), DeviceShare::AtMost(bytes));
        let default = gpu.storage(None, None).unwrap().0;
        assert_eq!(default, gpu.storage(Some("marshal"), None).unwrap().0);
        assert!(on(DeviceChoice::Cpu).storage(None, Some(bytes)).is_err());
        assert!(gpu.storage(Some("nonsense"), None).is_err());
    }
}
