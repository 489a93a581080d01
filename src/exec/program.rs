//! The seam between an executable and the device that it runs on.

use super::profile::Profile;
use crate::graph::{Graph, Node, Plan, Value};
use crate::weights::not_finite;
use crate::{DType, Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A planned graph on one device, with the memory of its inputs, outputs and temporaries.
pub(super) trait Program: Send + Sync {
    /// Sets an input; the bytes have its type. Nothing is waited for.
    fn write(&mut self, input: Value, bytes: &[u8]) -> Result<()>;

    /// Copies the output `from` to the input `to`, which has its type. Nothing is waited for.
    fn feed(&mut self, from: Value, to: Value) -> Result<()>;

    /// Runs all nodes in their order. A device may still be at it when this returns.
    fn run(&mut self, run: Run<'_>) -> Result<()>;

    /// True if a device may still be at a run when it returns.
    fn is_asynchronous(&self) -> bool;

    /// Time of `runs` runs by the device's own clock, as they are run or launch by launch; none if it has no clock.
    fn time(&mut self, _runs: usize, _replayed: bool) -> Result<Option<Duration>> {
        Ok(None)
    }

    /// Fills `bytes` with an output, once the last run is done.
    fn read(&self, output: Value, bytes: &mut [u8]) -> Result<()>;

    /// Fills all memory but the parameters with NaN.
    fn poison(&mut self) -> Result<()>;
}

/// What a run goes by.
pub(super) struct Run<'a> {
    pub(super) graph: &'a Graph,
    pub(super) plan: &'a Plan,
    /// Check the outputs of every node.
    pub(super) watch: bool,
    pub(super) cancel: Option<&'a AtomicBool>,
    pub(super) profile: Option<&'a mut Profile>,
}

impl Run<'_> {
    /// Fails once the caller has asked to stop.
    pub(super) fn go_on(&self) -> Result<()> {
        if self.cancel.is_some_and(|flag| flag.load(Ordering::Relaxed)) { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Fails if an output of `node` holds a value that is not finite.
pub(super) fn check_finite<'a>(node: &Node, outputs: impl Iterator<Item = (DType, &'a [u8])>) -> Result<()> {
    let count: usize = outputs.map(|(dtype, data)| not_finite(dtype, data)).sum();
    if count == 0 {
        return Ok(());
    }
    let at = format!("{} ({})", node.scope, node.op.name());
    Err(Error::NonFinite { at, count, advice: "this is the first place; try --dtype f32, and check the inputs and the weights" })
}

/// The error of a value that should have memory and has none: a plan that was not proved.
pub(super) fn lost(node: &Node) -> Error {
    Error::Graph(format!("{} at `{}` has a value without memory", node.op.name(), node.scope))
}
