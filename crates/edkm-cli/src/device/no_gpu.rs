//! A program that was built without the feature `cuda`.

use super::OnDevice;
use crate::args::PrecisionChoice;
use crate::commands::Failure;

pub(super) fn run<W: OnDevice>(ordinal: usize, _: PrecisionChoice, _: W) -> Result<W::Output, Failure> {
    Err(format!(
        "--device cuda:{ordinal}: this program was built without the feature `cuda`; build it on a machine with a CUDA 13.0 toolkit: \
         cargo build --release --features cuda --target-dir target/cuda"
    )
    .into())
}
