//! Points in the stream's time: the device's clock, and what the host waits for.

use super::context::{Context, Turn};
use crate::Result;
use cudarc::driver::sys::{self, CUevent};
use std::sync::Arc;
use std::time::Duration;

/// A point in the stream's time.
pub(super) struct Event {
    context: Arc<Context>,
    handle: CUevent,
}

// SAFETY: the driver's handles may be used from any thread that has the context's turn.
unsafe impl Send for Event {}

impl Event {
    /// One whose time is kept.
    pub(super) fn new(context: &Arc<Context>) -> Result<Self> {
        Self::with_flags(context, 0)
    }

    /// One that is only waited for, which costs the device less.
    pub(super) fn without_time(context: &Arc<Context>) -> Result<Self> {
        Self::with_flags(context, sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as u32)
    }

    fn with_flags(context: &Arc<Context>, flags: u32) -> Result<Self> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: a context is current; the pointer is to a local.
        context.turn()?.call("make an event", || unsafe { sys::cuEventCreate(&raw mut handle, flags) })?;
        Ok(Self { context: context.clone(), handle })
    }

    /// Puts the point after everything asked for so far.
    pub(super) fn record(&self) -> Result<()> {
        self.record_in(&mut self.context.turn()?)
    }

    /// [`Event::record`] by who has the turn.
    pub(super) fn record_in(&self, turn: &mut Turn<'_>) -> Result<()> {
        let stream = turn.stream();
        // SAFETY: the event and the stream are alive.
        turn.call("record an event", || unsafe { sys::cuEventRecord(self.handle, stream) })
    }

    /// Waits until the device has come to this point, not longer. A point that was never recorded is no wait.
    pub(super) fn wait(&self, turn: &mut Turn<'_>, doing: &str) -> Result<()> {
        // SAFETY: the event is alive.
        turn.call(doing, || unsafe { sys::cuEventSynchronize(self.handle) })
    }

    /// [`Event::wait`] in whatever state the context is; in a lost one there is nothing to wait for.
    pub(super) fn wait_at_the_end(&self) {
        // SAFETY: the event is alive.
        self.context.release(|| unsafe { sys::cuEventSynchronize(self.handle) });
    }

    /// Time from this point to a later one; both have been reached.
    pub(super) fn until(&self, later: &Self) -> Result<Duration> {
        let mut milliseconds = 0.0;
        // SAFETY: both events are alive; the pointer is to a local.
        let read = || unsafe { sys::cuEventElapsedTime(&raw mut milliseconds, self.handle, later.handle) };
        self.context.turn()?.call("read the clock", read)?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: created in `with_flags`, destroyed once.
        self.context.release(|| unsafe { sys::cuEventDestroy_v2(self.handle) });
    }
}
