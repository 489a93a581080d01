//! When work runs: not before something waits for it.
//!
//! Every piece of work gets a ticket; tickets grow over all streams. Waiting for a ticket of a stream runs that stream up to it, in order, and
//! on the way whatever those pieces wait for in other streams. A wait always names a smaller ticket than its own, so this ends. Work that
//! nobody waits for runs at the next synchronisation of its context, the youngest stream first: an order that hardware may choose, and the
//! one in which a forgotten wait shows.

use super::state::Driver;
use super::status::Answer;
use super::table::Handle;
use super::work::Work;

/// Pageable memory that uploads may hold before they run; the driver's staging buffers are small too.
const STAGED_LIMIT: usize = 64 << 20;

impl Driver {
    /// Appends work to a stream, after what the legacy stream makes it wait for, and returns its ticket. Not for capturing streams.
    pub(super) fn enqueue(&mut self, stream: Handle, work: Work) -> Answer<u64> {
        for (other, ticket) in self.implicit_waits(stream)? {
            self.append(stream, Work::Wait { stream: other, ticket })?;
        }
        if let Work::UploadStaged { from, .. } = &work {
            self.staged += from.len();
        }
        let ticket = self.append(stream, work)?;
        if self.runs_early() || self.staged > STAGED_LIMIT {
            self.run_until(stream, ticket)?;
        }
        Ok(ticket)
    }

    fn append(&mut self, stream: Handle, work: Work) -> Answer<u64> {
        self.ticket += 1;
        let ticket = self.ticket;
        let stream = self.streams.get_mut(stream)?;
        stream.queue.push_back((ticket, work));
        stream.last = ticket;
        Ok(ticket)
    }

    /// The legacy stream waits for every blocking stream of its context, and they for it.
    fn implicit_waits(&self, stream: Handle) -> Answer<Vec<(Handle, u64)>> {
        let own = self.streams.get(stream)?;
        if !own.blocking {
            return Ok(Vec::new());
        }
        let legacy = self.contexts.get(own.context)?.legacy;
        let others = self.streams.iter().filter(|(handle, other)| {
            let ordered = stream == legacy || *handle == legacy;
            ordered && *handle != stream && other.blocking && other.context == own.context && !other.queue.is_empty()
        });
        Ok(others.map(|(handle, other)| (handle, other.last)).collect())
    }

    /// Runs a stream up to and including `ticket`. A stream that is gone has run.
    pub(super) fn run_until(&mut self, stream: Handle, ticket: u64) -> Answer {
        while let Ok(found) = self.streams.get_mut(stream) {
            let context = found.context;
            if found.queue.front().is_none_or(|(next, _)| *next > ticket) {
                break;
            }
            self.run_next(stream, context)?;
        }
        Ok(())
    }

    fn run_next(&mut self, stream: Handle, context: Handle) -> Answer {
        let Some((ticket, work)) = self.streams.get_mut(stream)?.queue.pop_front() else { return Ok(()) };
        self.perform(context, &work)?;
        let found = self.streams.get_mut(stream)?;
        found.done = found.done.max(ticket);
        Ok(())
    }

    /// Runs one piece of work of a stream, so that a program which only ever asks gets on; whether the stream is then empty.
    pub(super) fn nudge(&mut self, stream: Handle) -> Answer<bool> {
        let Ok(found) = self.streams.get(stream) else { return Ok(true) };
        let context = found.context;
        self.run_next(stream, context)?;
        Ok(self.streams.get(stream)?.queue.is_empty())
    }

    /// Runs all that a context holds.
    pub(super) fn synchronise(&mut self, context: Handle) -> Answer {
        for stream in self.streams_of(context).into_iter().rev() {
            self.run_until(stream, u64::MAX)?;
        }
        self.sound(context)
    }

    /// Forgets the work of a stream: its context is poisoned.
    pub(super) fn drop_work(&mut self, stream: Handle) {
        let Ok(found) = self.streams.get_mut(stream) else { return };
        found.done = found.last;
        for (_, work) in found.queue.drain(..) {
            if let Work::UploadStaged { from, .. } = work {
                self.staged -= from.len();
            }
        }
    }

    /// Whether any work that is still to come satisfies `test`, also inside of graphs.
    pub(super) fn pending(&self, test: impl Fn(&Work) -> bool) -> bool {
        fn any(work: &Work, test: &impl Fn(&Work) -> bool) -> bool {
            if let Work::Graph(steps) = work { steps.iter().any(|step| any(step, test)) } else { test(work) }
        }
        self.streams.iter().any(|(_, stream)| stream.queue.iter().any(|(_, work)| any(work, &test)))
    }

    /// Runs everything on a device, so that memory whose release is pending becomes free.
    pub(super) fn drain_device(&mut self, device: usize) -> Answer {
        let contexts: Vec<Handle> = self.contexts.iter().filter(|(_, c)| c.device == device).map(|(handle, _)| handle).collect();
        contexts.into_iter().try_for_each(|context| match self.synchronise(context) {
            // A poisoned neighbour holds no work.
            Err(status) if self.context().is_ok() => {
                super::report::line(&format!("another context of the device has status {}", status.0));
                Ok(())
            }
            other => other,
        })
    }
}
