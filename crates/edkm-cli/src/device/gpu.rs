//! A program that was built with the feature `cuda`.

use dfdx_edkm::device::{open_gpu, set_precision, Precision};

use super::OnDevice;
use crate::args::PrecisionChoice;
use crate::commands::Failure;

pub(super) fn run<W: OnDevice>(ordinal: usize, precision: PrecisionChoice, work: W) -> Result<W::Output, Failure> {
    let device = open_gpu(ordinal, 0)?;
    let precision = match precision {
        PrecisionChoice::F32 => Precision::F32,
        PrecisionChoice::Tf32 => Precision::Tf32,
        PrecisionChoice::F16 => Precision::F16,
    };
    set_precision(&device, precision)?;
    work.run(&device)
}
