//! Time by operation.

use crate::ops::Cost;
use std::collections::BTreeMap;
use std::time::Duration;

/// Time, calls and work of each operation since profiling was switched on.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    by_op: BTreeMap<&'static str, OpTime>,
}

/// Totals of one operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpTime {
    /// Number of nodes run.
    pub calls: usize,
    /// Wall time.
    pub time: Duration,
    /// Operations and compulsory bytes.
    pub cost: Cost,
}

impl Profile {
    /// Operations with their totals, the slowest first.
    pub fn by_time(&self) -> Vec<(&'static str, OpTime)> {
        let mut all: Vec<_> = self.by_op.iter().map(|(name, total)| (*name, *total)).collect();
        all.sort_by_key(|(_, total)| std::cmp::Reverse(total.time));
        all
    }

    pub(super) fn add(&mut self, op: &'static str, time: Duration, cost: Cost) {
        let total = self.by_op.entry(op).or_default();
        *total = OpTime { calls: total.calls + 1, time: total.time + time, cost: total.cost + cost };
    }
}
