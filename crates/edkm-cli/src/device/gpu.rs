//! A program that was built with the feature `cuda`.

use dfdx_edkm::device::{open_gpu, set_precision, Precision};
use edkm_llama::inference::InferenceModel;

use super::OnDevice;
use crate::args::PrecisionChoice;
use crate::commands::Failure;

pub(super) fn run<W: OnDevice>(ordinal: usize, precision: PrecisionChoice, work: W) -> Result<W::Output, Failure> {
    let device = open_gpu(ordinal, 0)?;
    set_precision(&device, precision.into())?;
    work.run(&device)
}

/// This program has what a GPU needs.
pub(super) fn check(_: usize) -> Result<(), Failure> {
    Ok(())
}

pub(super) fn place(
    ordinal: usize,
    precision: PrecisionChoice,
    model: InferenceModel,
) -> Result<InferenceModel, Failure> {
    Ok(model.on_gpu(ordinal, precision.into())?)
}

impl From<PrecisionChoice> for Precision {
    fn from(choice: PrecisionChoice) -> Self {
        match choice {
            PrecisionChoice::F32 => Self::F32,
            PrecisionChoice::Tf32 => Self::Tf32,
            PrecisionChoice::F16 => Self::F16,
        }
    }
}
