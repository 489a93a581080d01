//! The device's clock.

use super::context::Context;
use crate::Result;
use cudarc::driver::sys::{self, CUevent};
use std::sync::Arc;
use std::time::Duration;

/// A point in the stream's time.
pub(super) struct Event {
    context: Arc<Context>,
    handle: CUevent,
}

impl Event {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: a context is current; the pointer is to a local.
        context.turn()?.call("make an event", || unsafe { sys::cuEventCreate(&raw mut handle, 0) })?;
        Ok(Self { context: context.clone(), handle })
    }

    pub(super) fn record(&self) -> Result<()> {
        let mut turn = self.context.turn()?;
        let stream = turn.stream();
        // SAFETY: the event and the stream are alive.
        turn.call("record an event", || unsafe { sys::cuEventRecord(self.handle, stream) })
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
        // SAFETY: created in `new`, destroyed once.
        self.context.release(|| unsafe { sys::cuEventDestroy_v2(self.handle) });
    }
}
