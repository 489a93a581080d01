//! Calls at which the host waits for the device, or may have to, and those that make and start graphs, in the order in which they were made:
//! from these a test sees that a loop never waits and that a graph is made once and replayed.

use super::report;
use super::state::Driver;
use super::status::Answer;
use super::table::Handle;
use serde::Serialize;
use std::ffi::c_char;
use std::fs::File;
use std::io::Write;

/// What a call does to the host.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Wait {
    /// It returns when the device has done what was asked.
    Always,
    /// The API lets a driver wait there.
    May,
    /// It only asks whether something is done; a loop of such calls is a wait.
    Asks,
}

#[derive(Serialize)]
struct Row<'a> {
    call: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait: Option<Wait>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    graph: Option<Handle>,
}

/// The calls so far, one line of JSON each.
pub(super) struct Calls {
    text: String,
    file: Option<File>,
}

impl Calls {
    /// With a file, the lines go there as well, each at once.
    pub(super) fn new(file: Option<&str>) -> Self {
        let opened = file.map(|name| File::create(name).inspect_err(|error| report::line(&format!("CUEMU_CALLS: {name}: {error}"))));
        Self { text: String::new(), file: opened.and_then(Result::ok) }
    }

    /// A call at which the host waits.
    pub(super) fn wait(&mut self, call: &str, wait: Wait) {
        self.add(&Row { call, wait: Some(wait), bytes: None, graph: None });
    }

    /// A copy at which the host waits.
    pub(super) fn copy(&mut self, call: &str, wait: Wait, bytes: usize) {
        self.add(&Row { call, wait: Some(wait), bytes: Some(bytes), graph: None });
    }

    /// A call on an executable graph.
    pub(super) fn graph(&mut self, call: &str, graph: Handle) {
        self.add(&Row { call, wait: None, bytes: None, graph: Some(graph) });
    }

    fn add(&mut self, row: &Row) {
        let line = match serde_json::to_string(row) {
            Ok(line) => line + "\n",
            Err(error) => return report::line(&format!("CUEMU_CALLS: {error}")),
        };
        self.text += &line;
        if let Some(Err(error)) = self.file.as_mut().map(|file| file.write_all(line.as_bytes())) {
            report::line(&format!("CUEMU_CALLS: {error}"));
            self.file = None;
        }
    }
}

impl Driver {
    /// A call that may make the host wait: noted, and refused where a capture forbids it.
    pub(super) fn may_wait(&mut self, call: &str) -> Answer {
        self.calls.wait(call, Wait::May);
        self.forbid_unsafe_call(call)
    }
}

/// Copies the calls so far (of the whole process) to `out`, at most `size` bytes with the closing zero, and returns the bytes that the whole
/// text needs. Not part of the driver API.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
unsafe extern "C" fn cuemuCalls(out: *mut c_char, size: usize) -> usize {
    // SAFETY: the caller gives `size` writable bytes.
    unsafe { report::hand_out(&super::state::lock().calls.text, out, size) }
}
