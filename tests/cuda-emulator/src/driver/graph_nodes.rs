//! The nodes of graphs: which there are, what they are, and new parameters for those of an executable graph.

use super::graph::{kind, node_handle, node_of};
use super::launch::{KernelParams, LaunchShape};
use super::state::Driver;
use super::status::{Answer, Status};
use super::table::Handle;
use super::work::Work;
use super::{exports, put};
use std::ffi::c_int;

impl Driver {
    /// The work of a node.
    fn node(&self, handle: usize) -> Answer<&Work> {
        let (graph, number) = node_of(handle).ok_or(Status::INVALID_VALUE)?;
        self.graphs.get(graph)?.nodes.get(number).map(|node| &node.work).ok_or(Status::INVALID_VALUE)
    }

    fn set_kernel(&mut self, exec: Handle, node: usize, params: &KernelParams) -> Answer {
        let (graph, number) = node_of(node).ok_or(Status::INVALID_VALUE)?;
        let shape = LaunchShape { grid: params.grid, block: params.block, shared: params.shared };
        // SAFETY: the caller's parameter arrays, by the contract of the C API.
        let kernel = unsafe { self.kernel(params.function, &shape, params.params, params.extra) }?;
        let exec = self.execs.get_mut(exec)?;
        if exec.graph != graph {
            return Err(Status::INVALID_VALUE);
        }
        let found = exec.nodes.get_mut(number).ok_or(Status::INVALID_VALUE)?;
        if !matches!(found.work, Work::Kernel(_)) {
            return Err(Status::INVALID_VALUE);
        }
        found.work = Work::Kernel(kernel);
        Ok(())
    }
}

/// Writes up to `count` handles and then the number that there are, as the list calls of the API do.
///
/// # Safety
/// `out` is null or has room for `count` handles; `count` is valid.
unsafe fn put_list(handles: &[usize], out: *mut usize, count: *mut usize) -> Answer {
    // SAFETY: by the contract of this function.
    let wanted = unsafe { count.as_mut() }.ok_or(Status::INVALID_VALUE)?;
    if !out.is_null() {
        for place in 0..*wanted {
            // SAFETY: `place` is below the room that the caller gave.
            unsafe { out.add(place).write(handles.get(place).copied().unwrap_or(0)) };
        }
    }
    *wanted = handles.len();
    Ok(())
}

exports! {
    fn cuGraphGetNodes(graph: Handle, out: *mut usize, count: *mut usize) |d| {
        let nodes = d.graphs.get(graph)?.nodes.len();
        let handles: Vec<usize> = (0..nodes).map(|node| node_handle(graph, node)).collect();
        // SAFETY: the caller's pointers, by the contract of the C API; so in every function below.
        unsafe { put_list(&handles, out, count) }
    }
    fn cuGraphGetRootNodes(graph: Handle, out: *mut usize, count: *mut usize) |d| {
        let roots = d.graphs.get(graph)?.nodes.iter().enumerate().filter(|(_, node)| node.after.is_empty());
        let handles: Vec<usize> = roots.map(|(number, _)| node_handle(graph, number)).collect();
        unsafe { put_list(&handles, out, count) }
    }
    fn cuGraphNodeGetDependencies(node: usize, out: *mut usize, count: *mut usize) |d| {
        let (graph, number) = node_of(node).ok_or(Status::INVALID_VALUE)?;
        let found = d.graphs.get(graph)?.nodes.get(number).ok_or(Status::INVALID_VALUE)?;
        let handles: Vec<usize> = found.after.iter().map(|before| node_handle(graph, *before)).collect();
        unsafe { put_list(&handles, out, count) }
    }
    fn cuGraphNodeGetType(node: usize, out: *mut c_int) |d| {
        let kind = kind(d.node(node)?);
        unsafe { put(out, kind) }
    }
    fn cuGraphKernelNodeGetParams_v2(node: usize, out: *mut KernelParams) |d| {
        let Work::Kernel(kernel) = d.node(node)? else { return Err(Status::INVALID_VALUE) };
        let function = d.functions.iter().find(|(_, f)| std::sync::Arc::ptr_eq(&f.of, &kernel.function)).map(|(handle, _)| handle);
        // The values of the parameters are not handed out: the node keeps them packed.
        let params = KernelParams {
            function: function.ok_or(Status::INVALID_HANDLE)?,
            grid: kernel.grid,
            block: kernel.block,
            shared: kernel.shared,
            params: std::ptr::null_mut(),
            extra: std::ptr::null_mut(),
            library_kernel: 0,
            context: kernel.function.context,
        };
        unsafe { put(out, params) }
    }
    fn cuGraphExecKernelNodeSetParams_v2(exec: Handle, node: usize, params: *const KernelParams) |d| {
        let params = unsafe { params.as_ref() }.ok_or(Status::INVALID_VALUE)?;
        d.set_kernel(exec, node, params)
    }
}
