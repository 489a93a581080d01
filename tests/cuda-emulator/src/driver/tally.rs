//! `CUEMU_COUNTERS`: what each kernel asked of the machine, one line of JSON for each kernel, grid, block and size of shared memory.

use super::report;
use super::work::Kernel;
use crate::Counters;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Counters by launch shape. The file is written anew at every synchronisation of a stream or context, and when a context ends.
pub(super) struct Tally {
    file: Option<String>,
    rows: BTreeMap<Shape, (u64, Counters)>,
    changed: bool,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Shape {
    kernel: String,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    shape: &'a Shape,
    launches: u64,
    counters: &'a Counters,
}

impl Tally {
    pub(super) fn new(file: Option<String>) -> Self {
        Self { file, rows: BTreeMap::new(), changed: false }
    }

    /// Adds one launch.
    pub(super) fn add(&mut self, kernel: &Kernel, counters: &Counters) {
        if self.file.is_none() {
            return;
        }
        let name = kernel.function.entry.name.clone();
        let shape = Shape { kernel: name, grid: kernel.grid, block: kernel.block, dynamic_shared: kernel.shared };
        let row = self.rows.entry(shape).or_default();
        row.0 += 1;
        row.1.merge(counters);
        self.changed = true;
    }

    /// Brings the file up to date.
    pub(super) fn write(&mut self) {
        let Some(file) = self.file.as_ref().filter(|_| self.changed) else { return };
        self.changed = false;
        let mut text = String::new();
        for (shape, (launches, counters)) in &self.rows {
            match serde_json::to_string(&Row { shape, launches: *launches, counters }) {
                // Writing to a string does not fail.
                Ok(line) => drop(writeln!(text, "{line}")),
                Err(error) => report::line(&format!("CUEMU_COUNTERS: {error}")),
            }
        }
        if let Err(error) = std::fs::write(file, text) {
            report::line(&format!("CUEMU_COUNTERS: {file}: {error}"));
        }
    }
}
