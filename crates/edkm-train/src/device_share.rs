//! How much of what is saved for backward stays on the device.

use dfdx_edkm::{DeviceBudget, EdkmDevice};
use edkm_store::Bytes;

use crate::TrainError;

/// How much of what ops save for backward stays in the memory of the device; the rest goes to the store. Of no meaning for the CPU, whose memory is the
/// store's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceShare {
    /// What fits: half of the memory that is free beside the model, its gradients and its moments, and the model as it came if it is learned from.
    #[default]
    WhatFits,
    /// So much.
    AtMost(Bytes),
    /// Nothing.
    Nothing,
}

impl DeviceShare {
    /// The budget of a run on `device`, where the model lies already. `to_come`: what else the run will hold there throughout: gradients, moments, and
    /// what is copied when the first step changes the weights.
    ///
    /// # Errors
    /// A device that does not tell how much memory is free.
    pub(crate) fn budget<D: EdkmDevice>(
        self,
        device: &D,
        to_come: impl IntoIterator<Item = u64>,
    ) -> Result<Option<DeviceBudget>, TrainError> {
        match self {
            DeviceShare::Nothing => Ok(None),
            DeviceShare::AtMost(bytes) => Ok(Some(DeviceBudget::new(bytes))),
            DeviceShare::WhatFits => {
                let free = device.free_bytes().map_err(|error| TrainError::Device {
                    reason: error.to_string(),
                })?;
                Ok(free.map(|free| {
                    let to_come = to_come.into_iter().fold(0, u64::saturating_add);
                    let bytes = what_fits(free, to_come);
                    tracing::debug!(bytes, "may stay on the device of what is saved for backward");
                    DeviceBudget::new(bytes)
                }))
            }
        }
    }
}

/// [`DeviceShare::WhatFits`], where so many bytes are free and a run is still to take so many of them for what stays throughout.
pub(crate) fn what_fits(free: u64, to_come: u64) -> u64 {
    free.saturating_sub(to_come) / 2
}

#[cfg(test)]
mod tests {
    use dfdx::prelude::*;

    use super::*;

    #[test]
    fn the_host_has_no_memory_of_its_own_to_share() {
        let budget = |share: DeviceShare| share.budget(&Cpu::default(), []).unwrap();
        assert!(budget(DeviceShare::WhatFits).is_none());
        assert!(budget(DeviceShare::Nothing).is_none());
        assert!(budget(DeviceShare::AtMost(Bytes(1))).is_some());
    }
}
