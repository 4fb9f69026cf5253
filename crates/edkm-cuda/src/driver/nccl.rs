//! Collectives of the GPUs of one machine by NCCL, whose library is linked.
#![allow(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cudarc::driver::CudaDevice;
use cudarc::nccl::{group_end, group_start, result::NcclError, Comm};

use super::meeting::{Meeting, GATE};
use super::pool::MemoryPool;
use super::stream::Event;
use super::{Gpu, GpuError};

/// What a collective can fail with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// The GPU.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// NCCL.
    #[error("NCCL failed: {0}")]
    Nccl(String),
    /// The caller did not wait any longer.
    #[error("{0}")]
    GivenUp(String),
    /// It was aborted before.
    #[error("it was aborted before")]
    Aborted,
}

impl From<NcclError> for CollectiveError {
    fn from(NcclError(code): NcclError) -> Self {
        Self::Nccl(format!("{code:?}"))
    }
}

/// One GPU of a group.
pub struct Communicator {
    /// None once it was aborted.
    comm: Mutex<Option<Connected>>,
    device: Arc<CudaDevice>,
    rank: usize,
    world: usize,
    meeting: Arc<Meeting>,
}

/// Gathers a byte of each, so that the GPUs are connected. NCCL does that within the first collective, and by default lets the host wait there for
/// the others: nobody could give it up.
fn connect(comms: &[Comm]) -> Result<(), CollectiveError> {
    let driver = GpuError::from;
    let memory = |comm: &Comm, bytes| comm.device().alloc_zeros::<u8>(bytes).map_err(driver);
    let mut buffers = comms
        .iter()
        .map(|comm| Ok((memory(comm, 1)?, memory(comm, comms.len())?)))
        .collect::<Result<Vec<_>, CollectiveError>>()?;
    GATE.launch(|| {
        group_start()?;
        let gathered = comms
            .iter()
            .zip(&mut buffers)
            .try_for_each(|(comm, (own, all))| comm.all_gather(own, all).map(drop));
        // a group that was begun must end
        group_end()?;
        gathered
    })?;
    for comm in comms {
        comm.device().synchronize().map_err(driver)?;
    }
    Ok(())
}

struct Connected(Comm);

// SAFETY: a communicator is a handle that any thread may use, one at a time: the mutex around it sees to that. The device's context is bound in every call.
unsafe impl Send for Connected {}

impl Communicator {
    /// One for each of these GPUs, each of which stands there once, in this order.
    ///
    /// # Errors
    /// GPUs that there are not; NCCL.
    pub fn for_gpus(ordinals: &[usize]) -> Result<Vec<Self>, CollectiveError> {
        let gpus = ordinals
            .iter()
            .map(|&ordinal| Gpu::of(ordinal))
            .collect::<Result<Vec<_>, _>>()?;
        let devices: Vec<_> = gpus.iter().map(|gpu| gpu.device().clone()).collect();
        let world = devices.len();
        let ids: Vec<_> = devices.iter().map(|device| *device.cu_device()).collect();
        for (device, &id) in devices.iter().zip(&ids) {
            let opened = MemoryPool::of(device).and_then(|pool| pool.map_or(Ok(()), |pool| pool.open_to(id, &ids)));
            opened.map_err(GpuError::from)?;
        }
        let comms = Comm::from_devices(devices.clone())?;
        connect(&comms)?;
        let meeting = Arc::new(Meeting::new(world, &GATE));
        let members = comms.into_iter().zip(devices).enumerate();
        Ok(members
            .map(|(rank, (comm, device))| Self {
                comm: Mutex::new(Some(Connected(comm))),
                device,
                rank,
                world,
                meeting: meeting.clone(),
            })
            .collect())
    }

    /// This GPU's place in the group.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// GPUs in the group.
    pub fn world(&self) -> usize {
        self.world
    }

    /// Gives `part` to all and returns everybody's, one behind the other by rank. All call it with parts of one length, at the same point of their
    /// programs. Runs behind what the null stream was given. While it waits for the others, `give_up` is asked now and then whether to go on, and if not,
    /// why; the communicator is aborted then, as after any error.
    ///
    /// Memory on the GPU: (1 + world) parts.
    ///
    /// # Errors
    /// The driver's, NCCL's, and what `give_up` says.
    pub fn all_gather(
        &self,
        part: &[u8],
        mut give_up: impl FnMut() -> Option<String>,
    ) -> Result<Vec<u8>, CollectiveError> {
        /// Between two looks whether the others have come.
        const PAUSE: Duration = Duration::from_micros(50);
        let mut comm = self.comm.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Connected(connected)) = &*comm else {
            return Err(CollectiveError::Aborted);
        };
        // where memory is not freed in the order of the stream, freeing it waits for the collective, which the end of the communicator alone may end
        let mut buffers = None;
        let mut gather = || -> Result<Vec<u8>, CollectiveError> {
            let driver = GpuError::from;
            self.device.bind_to_thread().map_err(driver)?;
            let own = self.device.htod_sync_copy(part).map_err(driver)?;
            let all = self.device.alloc_zeros::<u8>(part.len() * self.world).map_err(driver)?;
            let (own, all) = buffers.insert((own, all));
            self.meeting
                .launch(&mut give_up, || connected.all_gather(own, all))
                .map_err(CollectiveError::GivenUp)??;
            let event = Event::on_null_stream(&self.device).map_err(driver)?;
            while !event.is_over() {
                if let Some(reason) = give_up() {
                    return Err(CollectiveError::GivenUp(reason));
                }
                std::thread::sleep(PAUSE);
            }
            Ok(self.device.dtoh_sync_copy(&*all).map_err(driver)?)
        };
        let outcome = gather();
        if outcome.is_err() {
            *comm = None;
        }
        drop(buffers);
        outcome
    }

    /// Ends the communicator: what it is doing, and what it is asked for from now on, is an error. One that waits in [`Self::all_gather`] ends itself
    /// when its `give_up` says so.
    pub fn abort(&self) {
        if let Ok(mut comm) = self.comm.try_lock() {
            *comm = None;
        }
    }
}
