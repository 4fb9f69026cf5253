//! What a forward and backward pass takes of a device whose memory is its own.

use dfdx_edkm::device::{Copies, DeviceUsage};
use dfdx_edkm::EdkmDevice;
use serde::{Deserialize, Serialize};

use super::layer::device_error;
use crate::TrainError;

/// Memory and copies of one pass on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceFigures {
    /// The most that the process's numbers took of the GPU's memory in the pass, beyond the weights and their gradients; `null` where the driver
    /// does not tell.
    pub device_peak_bytes: Option<u64>,
    /// By how much they have grown there between the beginning of forward and that of backward; what is still on its way to the host counts.
    pub device_kept_bytes: Option<u64>,
    /// Memory of the GPU that is taken after the pass, by whomever. The driver keeps what was freed for later, so it is the most that was used.
    pub device_taken_bytes: Option<u64>,
    /// Copies from the GPU to the host in the pass, without those that dfdx makes.
    pub copies_to_host: u64,
    /// Their bytes.
    pub bytes_to_host: u64,
    /// Copies from the host to the GPU, likewise.
    pub copies_to_device: u64,
    /// Their bytes.
    pub bytes_to_device: u64,
}

/// A pass that is watched; nothing is to be seen where the device's memory is the host's.
pub(super) struct Watch {
    before: Option<DeviceUsage>,
    between: Option<DeviceUsage>,
}

impl Watch {
    /// From here on memory counts, and copies. The peak begins anew.
    pub(super) fn begin<D: EdkmDevice>(device: &D) -> Result<Self, TrainError> {
        device.reset_peak().map_err(device_error)?;
        Ok(Self {
            before: device.usage().map_err(device_error)?,
            between: None,
        })
    }

    /// From here on copies count: those before were not the pass's.
    pub(super) fn forget_copies<D: EdkmDevice>(&mut self, device: &D) -> Result<(), TrainError> {
        let now = device.usage().map_err(device_error)?;
        if let (Some(before), Some(now)) = (&mut self.before, now) {
            (before.to_host, before.to_device) = (now.to_host, now.to_device);
        }
        Ok(())
    }

    /// Whether there is anything to be seen.
    pub(super) fn sees_a_device(&self) -> bool {
        self.before.is_some()
    }

    /// Between forward and backward.
    pub(super) fn between<D: EdkmDevice>(&mut self, device: &D) -> Result<(), TrainError> {
        self.between = device.usage().map_err(device_error)?;
        Ok(())
    }

    /// After backward. The peak is what it is beyond `beyond` bytes of memory in use.
    pub(super) fn end<D: EdkmDevice>(self, device: &D, beyond: u64) -> Result<Option<DeviceFigures>, TrainError> {
        let (Some(before), Some(after)) = (self.before, device.usage().map_err(device_error)?) else {
            return Ok(None);
        };
        let used = |usage: Option<DeviceUsage>| Some(usage?.memory?.used_bytes);
        let peak = after.memory.map(|memory| memory.peak_bytes).max(used(Some(before)));
        let since = |after: Copies, before: Copies| (after.count - before.count, after.bytes - before.bytes);
        let (copies_to_host, bytes_to_host) = since(after.to_host, before.to_host);
        let (copies_to_device, bytes_to_device) = since(after.to_device, before.to_device);
        Ok(Some(DeviceFigures {
            device_peak_bytes: peak.map(|peak| peak.saturating_sub(beyond)),
            device_kept_bytes: used(self.between)
                .zip(used(Some(before)))
                .map(|(between, before)| between.saturating_sub(before)),
            device_taken_bytes: device.taken_bytes().map_err(device_error)?,
            copies_to_host,
            bytes_to_host,
            copies_to_device,
            bytes_to_device,
        }))
    }
}
