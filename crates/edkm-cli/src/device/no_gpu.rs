//! A program that was built without the feature `cuda`.

use edkm_llama::inference::InferenceModel;

use super::OnDevice;
use crate::args::PrecisionChoice;
use crate::commands::Failure;

pub(super) fn run<W: OnDevice>(ordinal: usize, _: PrecisionChoice, _: W) -> Result<W::Output, Failure> {
    Err(refusal(ordinal))
}

pub(super) fn check(ordinal: usize) -> Result<(), Failure> {
    Err(refusal(ordinal))
}

pub(super) fn place(ordinal: usize, _: PrecisionChoice, _: InferenceModel) -> Result<InferenceModel, Failure> {
    Err(refusal(ordinal))
}

fn refusal(ordinal: usize) -> Failure {
    format!(
        "--device cuda:{ordinal}: this program was built without the feature `cuda`; build it on a machine with a CUDA 13.0 toolkit: \
         cargo build --release --features cuda --target-dir target/cuda"
    )
    .into()
}
