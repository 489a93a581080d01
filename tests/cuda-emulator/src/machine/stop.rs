//! A fault before it knows its kernel, block and line.

use crate::{Fault, FaultKind};

#[derive(Debug)]
pub(super) struct Stop {
    pub(super) kind: FaultKind,
    pub(super) lane: u32,
    pub(super) detail: String,
}

impl Stop {
    #[cold]
    pub(super) fn new(kind: FaultKind, lane: u32, detail: String) -> Box<Self> {
        Box::new(Self { kind, lane, detail })
    }

    #[cold]
    pub(super) fn from_fault(fault: Fault, lane: u32) -> Box<Self> {
        Self::new(fault.kind, lane, fault.detail)
    }
}
