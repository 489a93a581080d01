//! From a graph to CUDA launches: pure data, without a device.

use super::ir::{Graph, Node};
use crate::device::{Lowered, Target};
use crate::{Result, Ty};

/// The launches of every node, in the graph's order. An error names the operation and its place in the model.
pub fn lower(graph: &Graph, target: &Target) -> Result<Vec<Lowered>> {
    graph.nodes().iter().map(|node| lower_node(graph, node, target)).collect()
}

/// The launches of one node.
pub(crate) fn lower_node(graph: &Graph, node: &Node, target: &Target) -> Result<Lowered> {
    let types: Vec<Option<Ty>> = node.inputs.iter().map(|v| v.map(|v| graph.ty(v))).collect();
    let outs: Vec<Ty> = node.outputs.iter().map(|&v| graph.ty(v)).collect();
    node.op.lower(&types, &outs, target).map_err(|e| e.at(&node.scope))
}
