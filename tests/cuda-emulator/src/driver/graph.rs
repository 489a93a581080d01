//! Graphs: captured work with its order, and the executable forms that streams replay.

use super::state::Driver;
use super::status::{Answer, Status};
use super::table::Handle;
use super::work::Work;
use super::{exports, put, put_if_wanted};
use std::ffi::{c_char, c_int, c_uint, c_ulonglong};

/// A graph.
#[derive(Default)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
}

/// A node: its work, and the nodes that come before it, all with smaller numbers.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) work: Work,
    pub(super) after: Vec<usize>,
}

/// An executable graph. It owns its nodes: what happens to the graph afterwards is of no concern.
pub(super) struct Exec {
    pub(super) context: Handle,
    pub(super) graph: Handle,
    pub(super) nodes: Vec<Node>,
}

/// `CUgraphExecUpdateResultInfo`.
#[repr(C)]
pub(super) struct UpdateResult {
    result: c_int,
    error_node: usize,
    error_from: usize,
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[repr(C)]
pub(super) struct InstantiateParams {
    flags: u64,
    upload: Handle,
    error_node: usize,
    result: c_int,
}

/// A node's handle: its graph and its number. Graph handles are multiples of 16 and small, so both fit.
pub(super) fn node_handle(graph: Handle, node: usize) -> usize {
    graph << 24 | (node + 1)
}

/// The inverse of [`node_handle`].
pub(super) fn node_of(handle: usize) -> Option<(Handle, usize)> {
    Some((handle >> 24, (handle & 0xff_ffff).checked_sub(1)?))
}

/// `CUgraphNodeType`.
pub(super) fn kind(work: &Work) -> c_int {
    match work {
        Work::Kernel(_) => 0,
        Work::Fill { .. } => 2,
        Work::Host { .. } => 3,
        Work::Graph(_) => 4,
        Work::Empty | Work::Record { .. } | Work::Wait { .. } => 5,
        Work::Free { .. } => 11,
        _ => 1,
    }
}

/// An order in which the nodes may run. Of those that may come next it takes the one that was made last: where a dependency is missing, this
/// is the order that shows it.
fn latest_first(nodes: &[Node]) -> Vec<usize> {
    let mut missing: Vec<usize> = nodes.iter().map(|node| node.after.len()).collect();
    let mut followers = vec![Vec::new(); nodes.len()];
    for (number, node) in nodes.iter().enumerate() {
        node.after.iter().for_each(|before| followers[*before].push(number));
    }
    let mut ready: std::collections::BTreeSet<usize> = (0..nodes.len()).filter(|n| missing[*n] == 0).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(next) = ready.pop_last() {
        order.push(next);
        for follower in &followers[next] {
            missing[*follower] -= 1;
            if missing[*follower] == 0 {
                ready.insert(*follower);
            }
        }
    }
    order
}

impl Driver {
    fn instantiate(&mut self, graph: Handle, flags: u64) -> Answer<Handle> {
        let context = self.context()?;
        // AUTO_FREE_ON_LAUNCH, UPLOAD and USE_NODE_PRIORITY change nothing here; a graph that the device launches is not emulated.
        if flags & !0b1111 != 0 || flags & 0b101 == 0b101 {
            return Err(Status::INVALID_VALUE);
        }
        if flags & 0b100 != 0 {
            return self.refuse(Status::NOT_SUPPORTED, "graphs that a device launches are not emulated");
        }
        if self.captures.iter().any(|(_, capture)| capture.holds(graph)) {
            return Err(Status::ILLEGAL_STATE);
        }
        let nodes = self.graphs.get(graph)?.nodes.clone();
        let exec = self.execs.insert(Exec { context, graph, nodes });
        self.calls.graph("cuGraphInstantiate", exec);
        Ok(exec)
    }

    fn launch_graph(&mut self, handle: Handle, stream: Handle) -> Answer {
        let stream = self.stream(stream)?;
        self.forbid_in_capture(stream, "launch of a graph (child graphs are not emulated)")?;
        let exec = self.execs.get(handle)?;
        if exec.context != self.streams.get(stream)?.context {
            return Err(Status::INVALID_HANDLE);
        }
        let order = if self.runs_early() { (0..exec.nodes.len()).collect() } else { latest_first(&exec.nodes) };
        let mut steps = order.into_iter().map(|node| exec.nodes[node].work.clone()).collect::<Vec<_>>();
        for step in &steps {
            self.still_pinned(step)?;
        }
        self.watch(&mut steps);
        self.calls.graph("cuGraphLaunch", handle);
        self.enqueue(stream, Work::Graph(steps.into())).map(|_| ())
    }

    /// Host memory of a captured copy must still be there at each launch.
    fn still_pinned(&self, work: &Work) -> Answer {
        let (address, bytes) = match work {
            Work::UploadPinned { from, bytes, .. } => (*from, *bytes),
            Work::Download { to, bytes, .. } => (*to, *bytes),
            _ => return Ok(()),
        };
        if self.is_pinned(address, bytes) {
            return Ok(());
        }
        self.refuse(
            Status::INVALID_VALUE,
            &format!("a graph copies {bytes} bytes of host memory at {address:#x}, which was pinned at capture and is not now"),
        )
    }

    /// `cuGraphExecUpdate`: the same shape with other parameters. The number is `CUgraphExecUpdateResult`.
    fn update(&mut self, exec: Handle, graph: Handle) -> Answer<Result<(), c_int>> {
        const TOPOLOGY: c_int = 2;
        const NODE_TYPE: c_int = 3;
        let nodes = self.graphs.get(graph)?.nodes.clone();
        let old = &mut self.execs.get_mut(exec)?.nodes;
        if old.len() != nodes.len() || old.iter().zip(&nodes).any(|(a, b)| a.after != b.after) {
            return Ok(Err(TOPOLOGY));
        }
        if old.iter().zip(&nodes).any(|(a, b)| kind(&a.work) != kind(&b.work)) {
            return Ok(Err(NODE_TYPE));
        }
        *old = nodes;
        self.calls.graph("cuGraphExecUpdate", exec);
        Ok(Ok(()))
    }
}

exports! {
    fn cuGraphCreate(out: *mut Handle, _flags: c_uint) |d| {
        let graph = d.graphs.insert(Graph::default());
        // SAFETY: the caller's pointer, by the contract of the C API; so in every function below.
        unsafe { put(out, graph) }
    }
    fn cuGraphDestroy(graph: Handle) |d| { d.graphs.remove(graph).map(|_| ()) }
    fn cuGraphInstantiateWithFlags(out: *mut Handle, graph: Handle, flags: c_ulonglong) |d| {
        let exec = d.instantiate(graph, flags)?;
        unsafe { put(out, exec) }
    }
    fn cuGraphInstantiate_v2(out: *mut Handle, graph: Handle, error: *mut usize, log: *mut c_char, size: usize) |d| {
        let exec = d.instantiate(graph, 0)?;
        unsafe {
            put_if_wanted(error, 0);
            if size > 0 {
                put_if_wanted(log, 0);
            }
            put(out, exec)
        }
    }
    fn cuGraphInstantiateWithParams(out: *mut Handle, graph: Handle, params: *mut InstantiateParams) |d| {
        let params = unsafe { params.as_mut() }.ok_or(Status::INVALID_VALUE)?;
        (params.result, params.error_node) = (1, 0);
        let exec = d.instantiate(graph, params.flags)?;
        params.result = 0;
        unsafe { put(out, exec) }
    }
    fn cuGraphExecDestroy(exec: Handle) |d| { d.execs.remove(exec).map(|_| ()) }
    fn cuGraphUpload(exec: Handle, stream: Handle) |d| {
        d.stream(stream)?;
        d.execs.get(exec).map(|_| ())
    }
    fn cuGraphLaunch(exec: Handle, stream: Handle) |d| { d.launch_graph(exec, stream) }
    fn cuGraphExecUpdate_v2(exec: Handle, graph: Handle, info: *mut UpdateResult) |d| {
        let updated = d.update(exec, graph)?;
        let result = updated.err().unwrap_or(0);
        unsafe { put_if_wanted(info, UpdateResult { result, error_node: 0, error_from: 0 }) };
        updated.map_err(|_| Status::GRAPH_EXEC_UPDATE_FAILURE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_respects_dependencies_and_is_late() {
        let node = |after: &[usize]| Node { work: Work::Empty, after: after.to_vec() };
        // 0 -> 1 -> 3, 0 -> 2 -> 3, and 4 alone.
        let nodes = [node(&[]), node(&[0]), node(&[0]), node(&[1, 2]), node(&[])];
        assert_eq!(latest_first(&nodes), [4, 0, 2, 1, 3]);
    }

    #[test]
    fn node_handles_are_unambiguous() {
        assert_eq!(node_of(node_handle(0x1230, 7)), Some((0x1230, 7)));
        assert_eq!(node_of(0x1230 << 24), None);
    }
}
