//! How much of what is saved for backward stays on the device.

use dfdx_edkm::{DeviceBudget, EdkmDevice};
use edkm_store::Bytes;

use crate::TrainError;

/// How much of what ops save for backward stays in the memory of the device; the rest goes to the store. Of no meaning for the CPU, whose memory is the
/// store's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceShare {
    /// What fits: half of the memory that is free beside the model, its gradients and its moments.
    #[default]
    WhatFits,
    /// So much.
    AtMost(Bytes),
    /// Nothing.
    Nothing,
}

impl DeviceShare {
    /// The budget of a run on `device`, where a model of so many parameters lies already.
    ///
    /// # Errors
    /// A device that does not tell how much memory is free.
    pub(crate) fn budget<D: EdkmDevice>(self, device: &D, parameters: u64) -> Result<Option<DeviceBudget>, TrainError> {
        /// A gradient and two moments, f32.
        const BYTES_TO_COME: u64 = 12;
        match self {
            DeviceShare::Nothing => Ok(None),
            DeviceShare::AtMost(bytes) => Ok(Some(DeviceBudget::new(bytes))),
            DeviceShare::WhatFits => {
                let free = device.free_bytes().map_err(|error| TrainError::Device {
                    reason: error.to_string(),
                })?;
                Ok(free.map(|free| {
                    let bytes = free.saturating_sub(parameters.saturating_mul(BYTES_TO_COME)) / 2;
                    tracing::debug!(bytes, "may stay on the device of what is saved for backward");
                    DeviceBudget::new(bytes)
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use dfdx::prelude::*;

    use super::*;

    #[test]
    fn the_host_has_no_memory_of_its_own_to_share() {
        let budget = |share: DeviceShare| share.budget(&Cpu::default(), 1000).unwrap();
        assert!(budget(DeviceShare::WhatFits).is_none());
        assert!(budget(DeviceShare::Nothing).is_none());
        assert!(budget(DeviceShare::AtMost(Bytes(1))).is_some());
    }
}
