//! A stream beside the null stream, and the events that order the two.
#![allow(unsafe_code)]

use std::sync::Arc;

use cudarc::driver::{result, sys, CudaDevice, DriverError};

/// A queue of copies that runs beside the null stream: nothing orders the two but events.
pub(super) struct Stream {
    device: Arc<CudaDevice>,
    handle: sys::CUstream,
}

// SAFETY: a stream is a handle that any thread may use, once the device's context is bound to it (which every use does).
unsafe impl Send for Stream {}
// SAFETY: as for `Send`; the driver takes calls for one stream from several threads in some order.
unsafe impl Sync for Stream {}

impl Stream {
    pub(super) fn new(device: &Arc<CudaDevice>) -> Result<Self, DriverError> {
        device.bind_to_thread()?;
        // one that waits for the null stream by itself would run nothing beside it
        let handle = result::stream::create(result::stream::StreamKind::NonBlocking)?;
        Ok(Self {
            device: device.clone(),
            handle,
        })
    }

    /// The handle, with the device's context bound to this thread.
    pub(super) fn handle(&self) -> Result<sys::CUstream, DriverError> {
        self.device.bind_to_thread()?;
        Ok(self.handle)
    }

    /// A mark behind all that this stream was given.
    pub(super) fn mark(&self) -> Result<Event, DriverError> {
        Event::on(&self.device, self.handle)
    }

    /// What this stream is given from now on runs after `event`.
    pub(super) fn wait_for(&self, event: &Event) -> Result<(), DriverError> {
        event.hold_up(self.handle)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made by `new` and destroyed here alone; the driver ends what it was given first. A failure has nobody to go to.
        let _ = self
            .device
            .bind_to_thread()
            .and_then(|()| unsafe { result::stream::destroy(self.handle) });
    }
}

/// A mark in a stream.
pub(super) struct Event {
    device: Arc<CudaDevice>,
    handle: sys::CUevent,
}

// SAFETY: as for `Stream`.
unsafe impl Send for Event {}
// SAFETY: as for `Stream`; an event is recorded once, when it is made.
unsafe impl Sync for Event {}

impl Event {
    /// A mark behind all that the null stream was given.
    pub(super) fn on_null_stream(device: &Arc<CudaDevice>) -> Result<Self, DriverError> {
        Self::on(device, result::stream::null())
    }

    fn on(device: &Arc<CudaDevice>, stream: sys::CUstream) -> Result<Self, DriverError> {
        device.bind_to_thread()?;
        let event = Self {
            device: device.clone(),
            handle: result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?,
        };
        // SAFETY: both are live handles of the bound context.
        unsafe { result::event::record(event.handle, stream) }?;
        Ok(event)
    }

    /// What the null stream is given from now on runs after this mark.
    pub(super) fn hold_up_null_stream(&self) -> Result<(), DriverError> {
        self.hold_up(result::stream::null())
    }

    fn hold_up(&self, stream: sys::CUstream) -> Result<(), DriverError> {
        self.device.bind_to_thread()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both are live handles of the bound context.
        unsafe { result::stream::wait_event(stream, self.handle, flags) }
    }

    /// Waits for all that stands before this mark.
    pub(super) fn wait(&self) -> Result<(), DriverError> {
        self.device.bind_to_thread()?;
        // SAFETY: a live handle of the bound context.
        unsafe { sys::cuEventSynchronize(self.handle) }.result()
    }

    /// Whether all that stands before this mark is done, or failed.
    pub(super) fn is_over(&self) -> bool {
        // SAFETY: a live handle of the bound context.
        let query = || unsafe { sys::cuEventQuery(self.handle) };
        self.device.bind_to_thread().is_err() || query() != sys::CUresult::CUDA_ERROR_NOT_READY
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `on` and destroyed here alone; who waits for it already is not affected. A failure has nobody to go to.
        let _ = self
            .device
            .bind_to_thread()
            .and_then(|()| unsafe { result::event::destroy(self.handle) });
    }
}
