//! A program that was built with the feature `cuda`.

use dfdx_edkm::device::open_gpu;

use super::OnDevice;
use crate::commands::Failure;

pub(super) fn run<W: OnDevice>(ordinal: usize, work: W) -> Result<W::Output, Failure> {
    work.run(&open_gpu(ordinal, 0)?)
}
