//! Streams.

use super::calls::Wait;
use super::capture::Membership;
use super::state::Driver;
use super::status::{Answer, Status};
use super::table::Handle;
use super::work::{HostFunction, Work};
use super::{exports, put};
use std::collections::VecDeque;
use std::ffi::{c_int, c_uint, c_void};

/// A list of work, done in order.
pub(super) struct Stream {
    pub(super) context: Handle,
    /// Whether it and the legacy stream wait for one another.
    pub(super) blocking: bool,
    priority: c_int,
    pub(super) queue: VecDeque<(u64, Work)>,
    /// Ticket of the last piece that was enqueued, and of the last that was done.
    pub(super) last: u64,
    pub(super) done: u64,
    pub(super) capture: Option<Membership>,
}

impl Stream {
    /// The stream that a context has from the start.
    pub(super) fn legacy(context: Handle) -> Self {
        Self { context, blocking: true, priority: 0, queue: VecDeque::new(), last: 0, done: 0, capture: None }
    }
}

impl Driver {
    /// The stream that a handle names: 0 and 1 the legacy stream, 2 that of the calling thread. Its context must be sound.
    pub(super) fn stream(&mut self, handle: Handle) -> Answer<Handle> {
        let found = match handle {
            0 | 1 => {
                let context = self.context()?;
                let legacy = self.contexts.get(context)?.legacy;
                self.forbid_legacy_while_capturing(context)?;
                legacy
            }
            2 => self.per_thread_stream()?,
            _ => handle,
        };
        self.sound(self.streams.get(found)?.context)?;
        Ok(found)
    }

    fn per_thread_stream(&mut self) -> Answer<Handle> {
        let context = self.context()?;
        let thread = std::thread::current().id();
        if let Some(stream) = self.contexts.get(context)?.per_thread.get(&thread) {
            return Ok(*stream);
        }
        let stream = self.streams.insert(Stream::legacy(context));
        self.contexts.get_mut(context)?.per_thread.insert(thread, stream);
        Ok(stream)
    }

    /// Enqueues work, or adds it to the graph that the stream captures.
    pub(super) fn submit(&mut self, stream: Handle, work: Work) -> Answer {
        if self.streams.get(stream)?.capture.is_some() { self.capture(stream, work) } else { self.enqueue(stream, work).map(|_| ()) }
    }

    fn new_stream(&mut self, flags: c_uint, priority: c_int) -> Answer<Handle> {
        let context = self.context()?;
        if flags > 1 {
            return Err(Status::INVALID_VALUE);
        }
        // Priorities are clamped to the range of the device, as the API says.
        let stream = Stream { blocking: flags == 0, priority: priority.clamp(-5, 0), ..Stream::legacy(context) };
        Ok(self.streams.insert(stream))
    }

    fn destroy_stream(&mut self, handle: Handle) -> Answer {
        let stream = self.streams.get(handle)?;
        let context = stream.context;
        let by_definition = self.contexts.get(context)?.legacy == handle;
        if handle <= 2 || by_definition {
            return Err(Status::INVALID_HANDLE);
        }
        let allowed = self.forbid_in_capture(handle, "cuStreamDestroy");
        // The stream may go before its work is done; the work still happens.
        let ran = self.run_until(handle, u64::MAX);
        self.streams.remove(handle)?;
        allowed.and(ran).and(self.sound(context))
    }
}

exports! {
    fn cuStreamCreate(out: *mut Handle, flags: c_uint) |d| {
        let stream = d.new_stream(flags, 0)?;
        // SAFETY: the caller's pointer, by the contract of the C API; so in every function below.
        unsafe { put(out, stream) }
    }
    fn cuStreamCreateWithPriority(out: *mut Handle, flags: c_uint, priority: c_int) |d| {
        let stream = d.new_stream(flags, priority)?;
        unsafe { put(out, stream) }
    }
    fn cuStreamDestroy_v2(stream: Handle) |d| { d.destroy_stream(stream) }
    fn cuStreamSynchronize(stream: Handle) |d| {
        let stream = d.stream(stream)?;
        d.calls.wait("cuStreamSynchronize", Wait::Always);
        d.forbid_in_capture(stream, "cuStreamSynchronize")?;
        let context = d.streams.get(stream)?.context;
        if d.contexts.get(context)?.legacy == stream {
            // Waiting for the legacy stream is waiting for the blocking streams too.
            d.enqueue(stream, Work::Empty)?;
        }
        let done = d.run_until(stream, u64::MAX);
        d.tally.write();
        done
    }
    fn cuStreamQuery(stream: Handle) |d| {
        let stream = d.stream(stream)?;
        d.calls.wait("cuStreamQuery", Wait::Asks);
        d.forbid_in_capture(stream, "cuStreamQuery")?;
        if d.streams.get(stream)?.queue.is_empty() || d.nudge(stream)? { Ok(()) } else { Err(Status::NOT_READY) }
    }
    fn cuStreamWaitEvent(stream: Handle, event: Handle, _flags: c_uint) |d| {
        let stream = d.stream(stream)?;
        d.wait_event(stream, event)
    }
    fn cuStreamGetFlags(stream: Handle, out: *mut c_uint) |d| {
        let stream = d.stream(stream)?;
        unsafe { put(out, c_uint::from(!d.streams.get(stream)?.blocking)) }
    }
    fn cuStreamGetPriority(stream: Handle, out: *mut c_int) |d| {
        let stream = d.stream(stream)?;
        unsafe { put(out, d.streams.get(stream)?.priority) }
    }
    fn cuStreamGetCtx(stream: Handle, out: *mut Handle) |d| {
        let stream = d.stream(stream)?;
        unsafe { put(out, d.streams.get(stream)?.context) }
    }
    fn cuStreamGetId(stream: Handle, out: *mut u64) |d| {
        let stream = d.stream(stream)?;
        unsafe { put(out, stream as u64) }
    }
    fn cuLaunchHostFunc(stream: Handle, function: Option<HostFunction>, data: *mut c_void) |d| {
        let stream = d.stream(stream)?;
        d.submit(stream, Work::Host { function: function.ok_or(Status::INVALID_VALUE)?, data: data as usize })
    }
}
