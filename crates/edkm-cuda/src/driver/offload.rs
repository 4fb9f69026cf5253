//! Copies between a GPU and page-locked memory of the host, on a stream of their own beside the computation.
//!
//! | copy | runs after | who runs after it |
//! |---|---|---|
//! | [`Download`] | all that the null stream was given before, which wrote the numbers | the host, which waits before it reads; the memory is freed later than that |
//! | [`Upload`] | all that the null stream was given before, which may still use the memory | what the null stream is given after [`Upload::join`] |
#![allow(unsafe_code)]

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{result, CudaDevice, DriverError};

use super::pinned::{in_words, Pinned, Pool};
use super::stream::{Event, Stream};
use super::traffic::TrafficMeter;
use super::GpuError;
use crate::{Slice, SliceMut};

/// Page-locked memory of each [`Offload`] at most. Beyond it copies go to and from ordinary memory, and the host waits for them.
pub const MOST_PINNED_BYTES: u64 = 4 << 30;

/// The copies of one GPU.
pub struct Offload {
    device: Arc<CudaDevice>,
    stream: Stream,
    pool: Arc<Pool>,
    /// What uploads read, until they are done.
    read: Mutex<Vec<(Event, Source)>>,
    counts: [AtomicU64; 4],
    traffic: Arc<TrafficMeter>,
}

/// What was copied so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyReport {
    /// Copies to the host beside the computation.
    pub downloads: u64,
    /// Copies to the GPU beside the computation.
    pub uploads: u64,
    /// Copies that the host waited for, since page-locked memory was short.
    pub waited_for: u64,
    /// Bytes of all copies.
    pub bytes: u64,
    /// Page-locked bytes at present.
    pub pinned_bytes: u64,
    /// Page-locked bytes at the most.
    pub pinned_peak_bytes: u64,
}

#[derive(Clone, Copy)]
enum Count {
    Downloads,
    Uploads,
    WaitedFor,
    Bytes,
}

/// What keeps memory from being freed or written.
pub type Keep = Box<dyn Any + Send>;

enum Source {
    Downloaded(Arc<Download>),
    Staged(Pinned),
}

impl Offload {
    pub(super) fn new(device: &Arc<CudaDevice>, traffic: Arc<TrafficMeter>) -> Result<Arc<Self>, GpuError> {
        Ok(Arc::new(Self {
            device: device.clone(),
            stream: Stream::new(device)?,
            pool: Pool::new(device, MOST_PINNED_BYTES),
            read: Mutex::default(),
            counts: Default::default(),
            traffic,
        }))
    }

    /// What was copied so far.
    pub fn report(&self) -> CopyReport {
        let count = |what: Count| self.counts[what as usize].load(Relaxed);
        let (pinned_bytes, pinned_peak_bytes) = self.pool.bytes();
        CopyReport {
            downloads: count(Count::Downloads),
            uploads: count(Count::Uploads),
            waited_for: count(Count::WaitedFor),
            bytes: count(Count::Bytes),
            pinned_bytes,
            pinned_peak_bytes,
        }
    }

    fn count(&self, what: Count, bytes: usize) {
        self.counts[what as usize].fetch_add(1, Relaxed);
        self.counts[Count::Bytes as usize].fetch_add(bytes as u64, Relaxed);
    }

    /// Begins to copy numbers to the host, behind all that writes to them. `keep` is dropped when they have arrived.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Safety
    /// `from` lies on this GPU, and as long as `keep` is there it is neither freed nor written by what is launched from now on.
    pub unsafe fn download<T>(&self, from: Slice<'_, T>, keep: Keep) -> Result<Download, GpuError> {
        self.sweep();
        let len = from.len() * size_of::<T>();
        let Some(mut pinned) = self.pool.take(len) else {
            let mut bytes = vec![0u8; len];
            self.device.bind_to_thread()?;
            // SAFETY: the caller's contract. On the null stream, so behind all that was launched.
            unsafe { result::memcpy_dtoh_sync(&mut bytes, from.address()) }?;
            self.count(Count::WaitedFor, len);
            self.traffic.to_host(len);
            return Ok(Download {
                place: Place::Ordinary(bytes),
                state: Mutex::new(State::Arrived),
            });
        };
        self.stream.wait_for(&Event::on_null_stream(&self.device)?)?;
        // SAFETY: both have `len` bytes. `from` stays as it is by the caller's contract; the buffer is neither read nor dropped before the event.
        unsafe { result::memcpy_dtoh_async(pinned.bytes_mut(), from.address(), self.stream.handle()?) }?;
        let event = match self.stream.mark() {
            Ok(event) => event,
            // what was begun must end before its memory goes
            Err(error) => return Err(self.end(error)),
        };
        self.count(Count::Downloads, len);
        self.traffic.to_host(len);
        Ok(Download {
            place: Place::Pinned(pinned),
            state: Mutex::new(State::Coming { event, keep }),
        })
    }

    /// Begins to copy bytes to the GPU, behind all that was launched until now. Bytes that are no [`Download`] are copied to page-locked memory first.
    ///
    /// # Errors
    /// The driver's; a download that has not arrived and does not.
    ///
    /// # Panics
    /// If there are more or fewer bytes than `to` takes.
    ///
    /// # Safety
    /// `to` lies on this GPU. Until the upload is joined or dropped nothing reads, writes or frees it.
    pub unsafe fn upload<T>(
        self: &Arc<Self>,
        from: HostBytes<'_>,
        mut to: SliceMut<'_, T>,
    ) -> Result<Upload, GpuError> {
        self.sweep();
        let (address, len) = (to.address(), to.len() * size_of::<T>());
        let bytes = from.bytes()?;
        crate::check::len("bytes", bytes.len(), len);
        let source = match from {
            HostBytes::Downloaded(download) if matches!(download.place, Place::Pinned(_)) => {
                Some(Source::Downloaded(download.clone()))
            }
            _ => self.pool.take(len).map(|mut pinned| {
                pinned.bytes_mut().copy_from_slice(bytes);
                Source::Staged(pinned)
            }),
        };
        let Some(source) = source else {
            self.device.bind_to_thread()?;
            // SAFETY: the caller's contract. On the null stream, and done when the call returns.
            unsafe { result::memcpy_htod_sync(address, bytes) }?;
            self.count(Count::WaitedFor, len);
            self.traffic.to_gpu(len);
            return Ok(Upload {
                coming: None,
                offload: self.clone(),
            });
        };
        let bytes = match &source {
            Source::Downloaded(download) => download.bytes()?,
            Source::Staged(pinned) => pinned.bytes(),
        };
        self.stream.wait_for(&Event::on_null_stream(&self.device)?)?;
        // SAFETY: both have `len` bytes. `to` is left alone by the caller's contract; `source` is kept until the event.
        unsafe { result::memcpy_htod_async(address, bytes, self.stream.handle()?) }?;
        let event = match self.stream.mark() {
            Ok(event) => event,
            Err(error) => return Err(self.end(error)),
        };
        self.count(Count::Uploads, len);
        self.traffic.to_gpu(len);
        Ok(Upload {
            coming: Some((event, source)),
            offload: self.clone(),
        })
    }

    /// Waits for what was begun, after an error.
    fn end(&self, error: DriverError) -> GpuError {
        // SAFETY: a live handle of the bound context. The first error is the one that counts.
        let _ = self
            .stream
            .handle()
            .and_then(|stream| unsafe { result::stream::synchronize(stream) });
        error.into()
    }

    fn read(&self) -> MutexGuard<'_, Vec<(Event, Source)>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of what uploads have read.
    fn sweep(&self) {
        let mut read = self.read();
        // in the order in which they were joined, which need not be that of the stream
        let (over, rest) = read.drain(..).partition(|(event, _)| event.is_over());
        *read = rest;
        drop(read);
        drop::<Vec<_>>(over);
    }
}

impl Drop for Offload {
    fn drop(&mut self) {
        for (event, _source) in self.read().drain(..) {
            let _ = event.wait();
        }
    }
}

/// Bytes of the host that are to be uploaded.
#[derive(Clone, Copy)]
pub enum HostBytes<'a> {
    /// What came from a GPU, as it came: it is copied from where it lies.
    Downloaded(&'a Arc<Download>),
    /// Other bytes, which need not be aligned.
    Other(&'a [u8]),
}

impl<'a> HostBytes<'a> {
    fn bytes(self) -> Result<&'a [u8], GpuError> {
        match self {
            Self::Downloaded(download) => Ok(download.bytes()?),
            Self::Other(bytes) => Ok(bytes),
        }
    }
}

/// Numbers on their way to the host, or there.
pub struct Download {
    place: Place,
    state: Mutex<State>,
}

enum Place {
    Pinned(Pinned),
    Ordinary(Vec<u8>),
}

enum State {
    Coming {
        event: Event,
        #[expect(dead_code, reason = "kept until the event")]
        keep: Keep,
    },
    Arrived,
    Failed(DriverError),
}

impl Download {
    /// How many bytes they are, without waiting.
    pub fn byte_len(&self) -> usize {
        match &self.place {
            // the length is set when the buffer is taken, and no copy changes it
            Place::Pinned(pinned) => pinned.bytes().len(),
            Place::Ordinary(bytes) => bytes.len(),
        }
    }

    /// Waits until the numbers have arrived.
    ///
    /// # Errors
    /// The driver's, in words.
    pub fn arrive(&self) -> Result<(), String> {
        self.wait().map_err(in_words)
    }

    fn wait(&self) -> Result<(), DriverError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match &*state {
            State::Coming { event, .. } => event.wait(),
            State::Arrived => return Ok(()),
            State::Failed(error) => return Err(*error),
        };
        let before = std::mem::replace(
            &mut *state,
            match outcome {
                Ok(()) => State::Arrived,
                Err(error) => State::Failed(error),
            },
        );
        drop(state);
        // frees memory of the GPU, perhaps: not under the lock
        drop(before);
        outcome
    }

    pub(super) fn bytes(&self) -> Result<&[u8], DriverError> {
        self.wait()?;
        Ok(match &self.place {
            Place::Pinned(pinned) => pinned.bytes(),
            Place::Ordinary(bytes) => bytes,
        })
    }

    /// The numbers' bytes. Waits for them; there are none if they cannot arrive.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes().unwrap_or_default()
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // the buffer may serve others from here on
        let _ = self.wait();
    }
}

/// Numbers on their way to the GPU.
#[must_use = "what is launched before `join` does not wait for the numbers"]
pub struct Upload {
    coming: Option<(Event, Source)>,
    offload: Arc<Offload>,
}

impl Upload {
    /// Lets the null stream wait for the numbers: what is launched from now on may read, write and free them. The host does not wait.
    ///
    /// # Errors
    /// The driver's.
    pub fn join(mut self) -> Result<(), GpuError> {
        Ok(self.hand_over()?)
    }

    fn hand_over(&mut self) -> Result<(), DriverError> {
        let Some((event, source)) = self.coming.take() else {
            return Ok(());
        };
        let outcome = event.hold_up_null_stream();
        if outcome.is_err() {
            let _ = event.wait();
        }
        self.offload.read().push((event, source));
        outcome
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // the memory may be freed next, which is ordered by the null stream
        let _ = self.hand_over();
    }
}
