//! From a graph to CUDA launches: pure data, without a device.

use super::ir::{Graph, Node};
use crate::device::{Arch, Lowered};
use crate::{Result, Ty};

/// The launches of every node, in the graph's order. An error names the operation and its place in the model.
pub fn lower(graph: &Graph, arch: Arch) -> Result<Vec<Lowered>> {
    graph.nodes().iter().map(|node| lower_node(graph, node, arch)).collect()
}

/// The launches of one node.
pub(crate) fn lower_node(graph: &Graph, node: &Node, arch: Arch) -> Result<Lowered> {
    let types: Vec<Option<Ty>> = node.inputs.iter().map(|v| v.map(|v| graph.ty(v))).collect();
    let outs: Vec<Ty> = node.outputs.iter().map(|&v| graph.ty(v)).collect();
    node.op.lower(&types, &outs, arch).map_err(|e| e.at(&node.scope))
}
