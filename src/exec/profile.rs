//! Time by operation.

use crate::graph::{Graph, Node};
use crate::ops::Cost;
use std::collections::BTreeMap;
use std::time::Duration;

/// Time, calls and work of each operation since profiling was switched on.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    by_shape: BTreeMap<(&'static str, String), OpTime>,
}

/// Totals of one operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpTime {
    /// Number of nodes run.
    pub calls: usize,
    /// Wall time; on a CUDA device time by its own clock.
    pub time: Duration,
    /// Operations and compulsory bytes.
    pub cost: Cost,
}

impl Profile {
    /// Operations with their totals, the slowest first.
    pub fn by_time(&self) -> Vec<(&'static str, OpTime)> {
        let mut by_op: BTreeMap<&'static str, OpTime> = BTreeMap::new();
        self.by_shape.iter().for_each(|((op, _), time)| by_op.entry(op).or_default().add(time));
        slowest_first(by_op.into_iter().collect())
    }

    /// The same, told apart by the types of the first two inputs.
    pub fn by_shape(&self) -> Vec<((&'static str, &str), OpTime)> {
        slowest_first(self.by_shape.iter().map(|((op, shape), time)| ((*op, shape.as_str()), *time)).collect())
    }

    pub(super) fn add(&mut self, graph: &Graph, node: &Node, time: Duration) {
        let inputs: Vec<String> = node.inputs.iter().flatten().take(2).map(|&v| graph.ty(v).to_string()).collect();
        let total = self.by_shape.entry((node.op.name(), inputs.join(" "))).or_default();
        total.add(&OpTime { calls: 1, time, cost: graph.cost(node) });
    }
}

impl OpTime {
    fn add(&mut self, other: &Self) {
        *self = Self { calls: self.calls + other.calls, time: self.time + other.time, cost: self.cost + other.cost };
    }
}

fn slowest_first<T>(mut all: Vec<(T, OpTime)>) -> Vec<(T, OpTime)> {
    all.sort_by_key(|(_, total)| std::cmp::Reverse(total.time));
    all
}
