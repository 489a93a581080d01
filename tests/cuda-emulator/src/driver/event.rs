//! Events. Their times are those of the host's clock when the emulator came to them: they measure the emulator, not a device.

use super::calls::Wait;
use super::state::Driver;
use super::status::{Answer, Status};
use super::table::Handle;
use super::work::Work;
use super::{exports, put};
use std::ffi::c_uint;
use std::time::Instant;

/// An event.
pub(super) struct Event {
    pub(super) context: Handle,
    timing: bool,
    last: Record,
}

/// What an event was last recorded in.
#[derive(Clone)]
enum Record {
    /// Nothing: it counts as complete.
    Never,
    Stream {
        stream: Handle,
        ticket: u64,
        at: Option<Instant>,
    },
    /// A capture, after these nodes of its graph.
    Capture {
        capture: Handle,
        after: Vec<usize>,
    },
}

impl Driver {
    fn new_event(&mut self, flags: c_uint) -> Answer<Handle> {
        let context = self.context()?;
        if flags > 3 {
            return self.refuse(Status::INVALID_VALUE, "cuEventCreate: events between processes are not emulated");
        }
        Ok(self.events.insert(Event { context, timing: flags & 2 == 0, last: Record::Never }))
    }

    fn record(&mut self, event: Handle, stream: Handle) -> Answer {
        let stream = self.stream(stream)?;
        let context = self.streams.get(stream)?.context;
        if self.events.get(event)?.context != context {
            return Err(Status::INVALID_HANDLE);
        }
        let captured = self.tips(stream)?;
        let last = match captured {
            Some((capture, after)) => Record::Capture { capture, after },
            None => {
                // The ticket is known before the work: running it early must find the event as it is to be.
                let last = Record::Stream { stream, ticket: u64::MAX, at: None };
                self.events.get_mut(event)?.last = last;
                let ticket = self.enqueue(stream, Work::Record { event })?;
                let found = self.events.get_mut(event)?;
                if let Record::Stream { ticket: unknown, .. } = &mut found.last {
                    *unknown = ticket;
                }
                return Ok(());
            }
        };
        self.events.get_mut(event)?.last = last;
        Ok(())
    }

    /// A stream has come to the record of an event; an event that was recorded again since keeps the later time.
    pub(super) fn complete(&mut self, event: Handle, now: Instant) {
        if let Ok(Event { last: Record::Stream { at, .. }, .. }) = self.events.get_mut(event) {
            *at = Some(now);
        }
    }

    /// What a stream must wait for before `event` is complete: `None` when nothing.
    fn unfinished(&self, event: Handle) -> Answer<Option<(Handle, u64)>> {
        let event = self.events.get(event)?;
        self.sound(event.context)?;
        match event.last {
            Record::Never => Ok(None),
            Record::Stream { stream, ticket, .. } => {
                Ok(self.streams.get(stream).is_ok_and(|s| s.done < ticket).then_some((stream, ticket)))
            }
            Record::Capture { .. } => Err(Status::CAPTURED_EVENT),
        }
    }

    /// Asking about an event that only a capture knows ends the capture.
    fn uncaptured(&mut self, event: Handle) -> Answer<Option<(Handle, u64)>> {
        let found = self.unfinished(event);
        if let Record::Capture { capture, .. } = self.events.get(event)?.last {
            self.invalidate(capture, "an event of a capture was asked about");
        }
        found
    }

    /// Makes a stream wait for an event, within captures as far as a capture allows.
    pub(super) fn wait_event(&mut self, stream: Handle, event: Handle) -> Answer {
        let last = self.events.get(event)?.last.clone();
        match last {
            Record::Never => Ok(()),
            Record::Capture { capture, after } => self.join_capture(stream, capture, &after),
            Record::Stream { stream: other, ticket, .. } => {
                if let Some(membership) = &self.streams.get(stream)?.capture {
                    let capture = membership.capture;
                    let why = "a capturing stream was told to wait for an event that was recorded outside of the capture";
                    self.invalidate(capture, why);
                    return Err(Status::STREAM_CAPTURE_ISOLATION);
                }
                self.enqueue(stream, Work::Wait { stream: other, ticket }).map(|_| ())
            }
        }
    }

    fn elapsed(&self, start: Handle, end: Handle) -> Answer<f32> {
        let time = |event: Handle| {
            let found = self.events.get(event)?;
            match found.last {
                Record::Stream { at, .. } if found.timing && self.unfinished(event)?.is_none() => at.ok_or(Status::INVALID_HANDLE),
                Record::Stream { .. } if found.timing => Err(Status::NOT_READY),
                Record::Capture { .. } => Err(Status::CAPTURED_EVENT),
                _ => Err(Status::INVALID_HANDLE),
            }
        };
        let (start, end) = (time(start)?, time(end)?);
        let ms = |later: Instant, earlier: Instant| later.duration_since(earlier).as_secs_f32() * 1e3;
        Ok(if end >= start { ms(end, start) } else { -ms(start, end) })
    }
}

exports! {
    fn cuEventCreate(out: *mut Handle, flags: c_uint) |d| {
        let event = d.new_event(flags)?;
        // SAFETY: the caller's pointer, by the contract of the C API; so in every function below.
        unsafe { put(out, event) }
    }
    fn cuEventDestroy_v2(event: Handle) |d| {
        let event = d.events.remove(event)?;
        d.sound(event.context)
    }
    fn cuEventRecord(event: Handle, stream: Handle) |d| { d.record(event, stream) }
    fn cuEventRecordWithFlags(event: Handle, stream: Handle, _flags: c_uint) |d| { d.record(event, stream) }
    fn cuEventQuery(event: Handle) |d| {
        d.calls.wait("cuEventQuery", Wait::Asks);
        let Some((stream, _)) = d.uncaptured(event)? else { return Ok(()) };
        d.nudge(stream)?;
        d.unfinished(event)?.map_or(Ok(()), |_| Err(Status::NOT_READY))
    }
    fn cuEventSynchronize(event: Handle) |d| {
        d.calls.wait("cuEventSynchronize", Wait::Always);
        match d.uncaptured(event)? {
            Some((stream, ticket)) => d.run_until(stream, ticket),
            None => Ok(()),
        }
    }
    fn cuEventElapsedTime(out: *mut f32, start: Handle, end: Handle) |d| {
        let ms = d.elapsed(start, end)?;
        unsafe { put(out, ms) }
    }
    fn cuEventElapsedTime_v2(out: *mut f32, start: Handle, end: Handle) |d| {
        let ms = d.elapsed(start, end)?;
        unsafe { put(out, ms) }
    }
}
