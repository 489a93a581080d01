//! Stream capture: work becomes nodes of a graph instead of running, and most else is forbidden.

use super::graph::{Graph, Node};
use super::state::Driver;
use super::status::{Answer, Status};
use super::table::Handle;
use super::work::Work;
use super::{exports, put, put_if_wanted};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::{c_int, c_void};
use std::thread::ThreadId;

/// `CUstreamCaptureMode`.
const GLOBAL: c_int = 0;
const THREAD_LOCAL: c_int = 1;
const RELAXED: c_int = 2;

/// A capture under way, or one that failed and waits for its end.
pub(super) struct Capture {
    pub(super) context: Handle,
    origin: Handle,
    mode: c_int,
    thread: ThreadId,
    graph: Handle,
    valid: bool,
}

impl Capture {
    /// Whether it still fills that graph.
    pub(super) fn holds(&self, graph: Handle) -> bool {
        self.graph == graph
    }
}

/// A stream's part in a capture: which one, and the nodes that its next work comes after.
pub(super) struct Membership {
    pub(super) capture: Handle,
    tips: Vec<usize>,
}

thread_local! {
    /// What `cuThreadExchangeStreamCaptureMode` set.
    static THREAD_MODE: Cell<c_int> = const { Cell::new(GLOBAL) };
}

impl Driver {
    fn begin_capture(&mut self, stream: Handle, mode: c_int) -> Answer {
        let stream = self.stream(stream)?;
        let found = self.streams.get(stream)?;
        let context = found.context;
        if found.capture.is_some() {
            return Err(Status::ILLEGAL_STATE);
        }
        if self.contexts.get(context)?.legacy == stream {
            return self.refuse(Status::STREAM_CAPTURE_UNSUPPORTED, "the legacy stream cannot capture");
        }
        if !(GLOBAL..=RELAXED).contains(&mode) {
            return Err(Status::INVALID_VALUE);
        }
        let graph = self.graphs.insert(Graph::default());
        let thread = std::thread::current().id();
        let capture = self.captures.insert(Capture { context, origin: stream, mode, thread, graph, valid: true });
        self.streams.get_mut(stream)?.capture = Some(Membership { capture, tips: Vec::new() });
        Ok(())
    }

    /// Ends a capture, whatever state it is in, and gives its graph.
    fn end_capture(&mut self, stream: Handle) -> Answer<Handle> {
        let stream = self.stream(stream)?;
        let handle = self.streams.get(stream)?.capture.as_ref().ok_or(Status::ILLEGAL_STATE)?.capture;
        let capture = self.captures.get(handle)?;
        if capture.origin != stream {
            return Err(Status::STREAM_CAPTURE_UNMATCHED);
        }
        if capture.mode != RELAXED && capture.thread != std::thread::current().id() {
            return Err(Status::STREAM_CAPTURE_WRONG_THREAD);
        }
        let joined = self.unjoined_stream(handle, stream)?.is_none();
        let Capture { graph, valid, .. } = self.captures.remove(handle)?;
        for stream in self.streams.values_mut() {
            stream.capture.take_if(|membership| membership.capture == handle);
        }
        if !valid || !joined {
            self.graphs.remove(graph)?;
            if !valid {
                return Err(Status::STREAM_CAPTURE_INVALIDATED);
            }
            return self.refuse(Status::STREAM_CAPTURE_UNJOINED, "a stream that joined the capture was not waited for before its end");
        }
        Ok(graph)
    }

    /// A stream of the capture with nodes that the origin's last nodes do not come after.
    fn unjoined_stream(&self, capture: Handle, origin: Handle) -> Answer<Option<Handle>> {
        let graph = self.graphs.get(self.captures.get(capture)?.graph)?;
        let tips =
            |stream: Handle| self.streams.get(stream).ok().and_then(|s| s.capture.as_ref()).map(|m| m.tips.clone()).unwrap_or_default();
        let mut reached = BTreeSet::new();
        let mut open = tips(origin);
        while let Some(node) = open.pop() {
            if reached.insert(node) {
                open.extend(&graph.nodes[node].after);
            }
        }
        let members = self.streams.iter().filter(|(_, s)| s.capture.as_ref().is_some_and(|m| m.capture == capture));
        Ok(members.map(|(handle, _)| handle).find(|handle| tips(*handle).iter().any(|node| !reached.contains(node))))
    }

    /// Adds work to the graph that a stream captures.
    pub(super) fn capture(&mut self, stream: Handle, work: Work) -> Answer {
        let handle = self.streams.get(stream)?.capture.as_ref().ok_or(Status::ILLEGAL_STATE)?.capture;
        let capture = self.captures.get(handle)?;
        if !capture.valid {
            return Err(Status::STREAM_CAPTURE_INVALIDATED);
        }
        let graph = self.graphs.get_mut(capture.graph)?;
        let node = graph.nodes.len();
        if let Some(membership) = &mut self.streams.get_mut(stream)?.capture {
            let after = std::mem::replace(&mut membership.tips, vec![node]);
            graph.nodes.push(Node { work, after });
        }
        Ok(())
    }

    /// The capture of a stream and the nodes that its next work comes after.
    pub(super) fn tips(&self, stream: Handle) -> Answer<Option<(Handle, Vec<usize>)>> {
        let Some(membership) = &self.streams.get(stream)?.capture else { return Ok(None) };
        if !self.captures.get(membership.capture)?.valid {
            return Err(Status::STREAM_CAPTURE_INVALIDATED);
        }
        Ok(Some((membership.capture, membership.tips.clone())))
    }

    /// A stream waits for an event of a capture: it joins that capture, or its part in it grows.
    pub(super) fn join_capture(&mut self, stream: Handle, capture: Handle, after: &[usize]) -> Answer {
        let Ok(found) = self.captures.get(capture) else {
            return self.refuse(Status::CAPTURED_EVENT, "a stream was told to wait for an event of a capture that has ended");
        };
        if !found.valid {
            return Err(Status::STREAM_CAPTURE_INVALIDATED);
        }
        let own = self.streams.get_mut(stream)?;
        match &mut own.capture {
            Some(membership) if membership.capture == capture => {
                let new: Vec<usize> = after.iter().copied().filter(|node| !membership.tips.contains(node)).collect();
                membership.tips.extend(new);
                Ok(())
            }
            Some(membership) => {
                let other = membership.capture;
                self.invalidate(other, "two captures were to be merged");
                self.invalidate(capture, "two captures were to be merged");
                Err(Status::STREAM_CAPTURE_MERGE)
            }
            None => {
                own.capture = Some(Membership { capture, tips: after.to_vec() });
                Ok(())
            }
        }
    }

    /// Makes a capture fail at its end.
    pub(super) fn invalidate(&mut self, capture: Handle, why: &str) {
        if let Ok(capture) = self.captures.get_mut(capture)
            && std::mem::replace(&mut capture.valid, false)
        {
            super::report::fault(&format!("a capture became invalid: {why}"));
        }
    }

    /// Refuses what no capturing stream may be asked for.
    pub(super) fn forbid_in_capture(&mut self, stream: Handle, what: &str) -> Answer {
        let Some(membership) = &self.streams.get(stream)?.capture else { return Ok(()) };
        let capture = membership.capture;
        self.invalidate(capture, &format!("{what} in a capturing stream"));
        Err(Status::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Refuses copies of pageable memory in captures: at replay the memory may be gone. (Drivers may let it pass.)
    pub(super) fn forbid_pageable(&mut self, stream: Handle) -> Answer {
        self.forbid_in_capture(stream, "a copy of pageable memory")
    }

    /// Refuses what waits for a whole context while any stream of it captures.
    pub(super) fn forbid_while_capturing(&mut self, context: Handle, what: &str) -> Answer {
        let captures: Vec<Handle> = self.captures.iter().filter(|(_, c)| c.context == context).map(|(handle, _)| handle).collect();
        if captures.is_empty() {
            return Ok(());
        }
        for capture in captures {
            self.invalidate(capture, what);
        }
        Err(Status::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Refuses calls that may synchronise (allocation, synchronous copies, loading) as the capture modes say.
    pub(super) fn forbid_unsafe_call(&mut self, what: &str) -> Answer {
        let (mode, thread) = (THREAD_MODE.get(), std::thread::current().id());
        let forbids = |capture: &Capture| match mode {
            RELAXED => false,
            _ if capture.thread == thread => capture.mode != RELAXED,
            THREAD_LOCAL => false,
            _ => capture.mode == GLOBAL,
        };
        let captures: Vec<Handle> = self.captures.iter().filter(|(_, c)| forbids(c)).map(|(handle, _)| handle).collect();
        if captures.is_empty() {
            return Ok(());
        }
        for capture in captures {
            self.invalidate(capture, &format!("{what}, which may synchronise"));
        }
        Err(Status::STREAM_CAPTURE_UNSUPPORTED)
    }

    /// Refuses the legacy stream while a stream that waits for it captures.
    pub(super) fn forbid_legacy_while_capturing(&mut self, context: Handle) -> Answer {
        let captures: Vec<Handle> = self
            .streams
            .iter()
            .filter(|(_, s)| s.context == context && s.blocking)
            .filter_map(|(_, s)| s.capture.as_ref().map(|m| m.capture))
            .collect();
        if captures.is_empty() {
            return Ok(());
        }
        for capture in captures {
            self.invalidate(capture, "the legacy stream was used while a blocking stream captures");
        }
        Err(Status::STREAM_CAPTURE_IMPLICIT)
    }

    /// `CUstreamCaptureStatus`, and the capture where there is one.
    fn capture_state(&mut self, stream: Handle) -> Answer<(c_int, Handle)> {
        let stream = self.stream(stream)?;
        let Some(membership) = &self.streams.get(stream)?.capture else { return Ok((0, 0)) };
        let valid = self.captures.get(membership.capture)?.valid;
        Ok((if valid { 1 } else { 2 }, membership.capture))
    }
}

exports! {
    fn cuStreamBeginCapture_v2(stream: Handle, mode: c_int) |d| { d.begin_capture(stream, mode) }
    fn cuStreamEndCapture(stream: Handle, out: *mut Handle) |d| {
        // SAFETY: the caller's pointer, by the contract of the C API; so in every function below.
        unsafe { put(out, 0) }?;
        let graph = d.end_capture(stream)?;
        unsafe { put(out, graph) }
    }
    fn cuStreamIsCapturing(stream: Handle, out: *mut c_int) |d| {
        let (state, _) = d.capture_state(stream)?;
        unsafe { put(out, state) }
    }
    fn cuStreamGetCaptureInfo_v2(
        stream: Handle, state: *mut c_int, id: *mut u64, graph: *mut Handle, after: *mut *const c_void, count: *mut usize,
    ) |d| {
        if !after.is_null() || !count.is_null() {
            return d.refuse(Status::NOT_SUPPORTED, "cuStreamGetCaptureInfo: dependencies are not emulated");
        }
        let (found, capture) = d.capture_state(stream)?;
        unsafe {
            put(state, found)?;
            if found == 1 {
                put_if_wanted(id, capture as u64);
                put_if_wanted(graph, d.captures.get(capture)?.graph);
            }
        }
        Ok(())
    }
    fn cuThreadExchangeStreamCaptureMode(mode: *mut c_int) |_d| {
        let wanted = unsafe { mode.as_mut() }.ok_or(Status::INVALID_VALUE)?;
        if !(GLOBAL..=RELAXED).contains(wanted) {
            return Err(Status::INVALID_VALUE);
        }
        *wanted = THREAD_MODE.replace(*wanted);
        Ok(())
    }
}
