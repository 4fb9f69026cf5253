//! Where something is computed, and how exactly.

use clap::{Args as ClapArgs, ValueEnum};

use crate::device::DeviceChoice;

/// `--device`, `--precision`
#[derive(Debug, Clone, Copy, ClapArgs)]
pub struct DeviceArgs {
    /// Where it is computed: cpu, cuda or cuda:N, the number of a GPU (for a program built with the feature cuda)
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: DeviceChoice,
    /// How a GPU multiplies matrices. Sums are in f32 in any case, and so is everything else; packed weights are multiplied by few tokens in f32
    #[arg(long, value_enum, default_value_t = PrecisionChoice::F32)]
    pub precision: PrecisionChoice,
}

/// `--precision`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PrecisionChoice {
    /// In f32
    F32,
    /// On tensor cores, each operand cut to TF32: off by up to 2^-9 of the sum of the terms' magnitudes
    Tf32,
    /// On tensor cores, each operand scaled as a whole and rounded to f16: off by up to 2^-10 of the sum of the terms' magnitudes
    F16,
}
