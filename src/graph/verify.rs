//! Proves that a plan is sound, without trusting how it was made.
//!
//! The graph is walked as it will run, with a list of which value every piece of memory holds. Each read must find the value that
//! it means; each write takes the memory from whatever was there. The unsafe slices of the executor rest on this check.

use super::ir::{Graph, Node, Role, Value};
use super::plan::{ALIGNMENT, Place, Plan};
use crate::{Error, Result};
use std::ops::Range;

/// Fails unless, in the order of the nodes, every input of every node still holds its value when the node runs, a node's outputs
/// overlap neither its inputs nor each other, everything in the arena is aligned and inside it, every view lies where its source
/// lies, and every output of the graph keeps its value to the end in memory of its own.
pub fn verify(graph: &Graph, plan: &Plan) -> Result<()> {
    let mut walk = Walk { graph, plan, held: Vec::new() };
    for (index, node) in graph.nodes().iter().enumerate() {
        for value in node.inputs.iter().flatten() {
            walk.check_read(index, node, *value)?;
        }
        if node.op.is_view() {
            walk.check_view(node)?;
        } else {
            walk.write(node)?;
        }
    }
    graph.outputs().iter().try_for_each(|(name, value)| walk.check_output(name, *value))
}

struct Walk<'a> {
    graph: &'a Graph,
    plan: &'a Plan,
    /// Pieces of the arena and the values they hold now.
    held: Vec<(Range<usize>, Value)>,
}

impl Walk<'_> {
    /// Follows views back to the value whose bytes they show.
    fn source(&self, mut value: Value) -> Value {
        while let Some(node) = self.graph.info(value).producer.map(|i| &self.graph.nodes()[i]).filter(|n| n.op.is_view()) {
            match node.inputs.first() {
                Some(Some(input)) => value = *input,
                _ => break,
            }
        }
        value
    }

    fn check_read(&self, index: usize, node: &Node, value: Value) -> Result<()> {
        let source = self.source(value);
        let info = self.graph.info(source);
        let known = match self.plan.place(value) {
            Place::Input(v) => v == source && matches!(info.role, Role::Input(_)),
            Place::Param(v) => v == source && matches!(info.role, Role::Param(_)),
            Place::Output(v) => v == source && info.producer.is_some_and(|p| p < index),
            Place::Arena(offset) => {
                let want = offset..offset + self.graph.ty(value).bytes();
                info.producer.is_some_and(|p| p < index)
                    && self.held.iter().any(|(r, v)| *v == source && r.start == want.start && want.end <= r.end)
            }
            Place::Unused => false,
        };
        if known { Ok(()) } else { Err(broken(node, &format!("reads %{} where it no longer or not yet is", value.index()))) }
    }

    fn check_view(&self, node: &Node) -> Result<()> {
        let source = node.inputs.first().copied().flatten().map(|v| self.plan.place(v));
        let same = node.outputs.iter().all(|o| Some(self.plan.place(*o)) == source);
        if same { Ok(()) } else { Err(broken(node, "is a view that lies elsewhere than its source")) }
    }

    fn write(&mut self, node: &Node) -> Result<()> {
        let mut fresh: Vec<(Range<usize>, Value)> = Vec::new();
        for &value in &node.outputs {
            let offset = match self.plan.place(value) {
                Place::Arena(offset) => offset,
                Place::Output(own) if own == value => continue, // nothing else is ever put there
                _ => return Err(broken(node, &format!("writes %{}, which has no place of its own", value.index()))),
            };
            let range = offset..offset + self.graph.ty(value).bytes();
            if offset % ALIGNMENT != 0 || range.end > self.plan.arena_bytes() {
                return Err(broken(node, &format!("writes %{} at {range:?}, not aligned or outside the arena", value.index())));
            }
            if fresh.iter().any(|(r, _)| overlap(r, &range)) {
                return Err(broken(node, "has two outputs that overlap"));
            }
            fresh.push((range, value));
        }
        for input in node.inputs.iter().flatten() {
            if let Place::Arena(offset) = self.plan.place(*input) {
                let range = offset..offset + self.graph.ty(*input).bytes();
                if fresh.iter().any(|(r, _)| overlap(r, &range)) {
                    return Err(broken(node, &format!("overwrites its own input %{}", input.index())));
                }
            }
        }
        self.held.retain(|(held, _)| !fresh.iter().any(|(r, _)| overlap(r, held)));
        self.held.append(&mut fresh);
        Ok(())
    }

    fn check_output(&self, name: &str, value: Value) -> Result<()> {
        let source = self.source(value);
        let own = match self.plan.place(value) {
            Place::Output(v) | Place::Input(v) | Place::Param(v) => v == source,
            Place::Arena(_) | Place::Unused => false,
        };
        if own { Ok(()) } else { Err(Error::Graph(format!("plan: output `{name}` has no memory of its own"))) }
    }
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

fn broken(node: &Node, what: &str) -> Error {
    Error::Graph(format!("plan: {} at `{}` {what}", node.op.name(), node.scope))
}
