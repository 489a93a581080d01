//! A graph in words: one line for each node, a drawing for Graphviz, totals by operation and by scope.

use super::{Graph, Node, Place, Plan, Value};
use crate::ops::Cost;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Nodes and work under one heading of a summary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// Number of nodes.
    pub nodes: usize,
    /// Operations and compulsory bytes.
    pub cost: Cost,
}

/// One line for each node: index, operation, attributes, inputs, outputs with their place in the arena, scope, work.
pub fn text(graph: &Graph, plan: &Plan) -> String {
    let mut out = String::new();
    for (name, value) in graph.inputs() {
        line(&mut out, format_args!("input  %{} {} `{name}`", value.index(), graph.ty(value)));
    }
    for (index, node) in graph.nodes().iter().enumerate() {
        let ins: Vec<String> = node.inputs.iter().map(|v| v.map_or("-".into(), |v| operand(graph, v))).collect();
        let outs: Vec<String> = node.outputs.iter().map(|&v| format!("%{} {}{}", v.index(), graph.ty(v), placed(plan, v))).collect();
        let cost = graph.cost(node);
        let work = format!("{:.3} GFLOP, {:.3} MB", cost.flops as f64 / 1e9, cost.bytes as f64 / 1e6);
        let (name, attributes) = (node.op.name(), attributes(node));
        line(&mut out, format_args!("{index:4} {name}{attributes} ({}) -> {} | {} | {work}", ins.join(", "), outs.join(", "), node.scope));
    }
    for (name, value) in graph.outputs() {
        line(&mut out, format_args!("output %{} {} `{name}`", value.index(), graph.ty(*value)));
    }
    let (arena, least, sum) = (plan.arena_bytes(), plan.least_bytes(), plan.temporary_bytes());
    line(&mut out, format_args!("arena {arena} bytes; {least} are alive at once; {sum} without reuse"));
    out
}

/// The graph in the language of Graphviz: values along the edges, parameters left out.
pub fn dot(graph: &Graph) -> String {
    let mut out = String::from("digraph {\n  node [shape=box, fontname=monospace];\n");
    for (name, value) in graph.inputs() {
        line(&mut out, format_args!("  v{} [shape=oval, label=\"{name}\"];", value.index()));
    }
    for (index, node) in graph.nodes().iter().enumerate() {
        line(&mut out, format_args!("  n{index} [label=\"{}\\n{}\"];", node.op.name(), node.scope));
        for value in node.inputs.iter().flatten() {
            let from = match graph.info(*value).producer {
                Some(producer) => format!("n{producer}"),
                None if graph.inputs().any(|(_, v)| v == *value) => format!("v{}", value.index()),
                None => continue,
            };
            line(&mut out, format_args!("  {from} -> n{index} [label=\"{}\"];", graph.ty(*value)));
        }
    }
    for (name, value) in graph.outputs() {
        line(&mut out, format_args!("  \"out {name}\" [shape=oval, label=\"{name}\"];"));
        if let Some(producer) = graph.info(*value).producer {
            line(&mut out, format_args!("  n{producer} -> \"out {name}\" [label=\"{}\"];", graph.ty(*value)));
        }
    }
    out.push_str("}\n");
    out
}

/// Totals by operation, the most work first.
pub fn by_op(graph: &Graph) -> Vec<(String, Total)> {
    totals(graph, |node| node.op.name().to_owned())
}

/// Totals by the first `depth` parts of the scope, the most work first.
pub fn by_scope(graph: &Graph, depth: usize) -> Vec<(String, Total)> {
    totals(graph, |node| node.scope.split('.').take(depth).collect::<Vec<_>>().join("."))
}

fn totals(graph: &Graph, key: impl Fn(&Node) -> String) -> Vec<(String, Total)> {
    let mut all: BTreeMap<String, Total> = BTreeMap::new();
    for node in graph.nodes().iter().filter(|n| !n.op.is_view()) {
        let total = all.entry(key(node)).or_default();
        *total = Total { nodes: total.nodes + 1, cost: total.cost + graph.cost(node) };
    }
    let mut sorted: Vec<_> = all.into_iter().collect();
    sorted.sort_by_key(|(_, total)| std::cmp::Reverse((total.cost.flops, total.cost.bytes)));
    sorted
}

fn operand(graph: &Graph, value: Value) -> String {
    let info = graph.info(value);
    match info.role {
        super::Role::Param(_) => format!("`{}` {}", info.scope, info.ty),
        _ => format!("%{} {}", value.index(), info.ty),
    }
}

fn placed(plan: &Plan, value: Value) -> String {
    match plan.place(value) {
        Place::Arena(offset) => format!(" @{offset}"),
        _ => String::new(),
    }
}

/// ` {stride: 1, ...}` of `Conv2d(Conv2d { stride: 1, ... })`; nothing for an operation without attributes.
fn attributes(node: &Node) -> String {
    let debug = format!("{:?}", node.op);
    debug.split_once(" { ").and_then(|(_, rest)| rest.strip_suffix(" })")).map_or(String::new(), |inner| format!(" {{{inner}}}"))
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // writing to a string cannot fail
    let _ = writeln!(out, "{text}");
}
