//! Operation and byte counts.

use crate::Ty;
use std::iter::Sum;
use std::ops::Add;

/// What a node must do at the least.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations; a multiply-add counts as two.
    pub flops: u64,
    /// Bytes that have to be read and written once: inputs, parameters and outputs.
    pub bytes: u64,
}

impl Cost {
    /// `flops` operations on inputs and outputs that are each touched once.
    pub fn touching(flops: u64, ins: &[Option<Ty>], outs: &[Ty]) -> Self {
        let bytes: usize = ins.iter().flatten().chain(outs).map(Ty::bytes).sum();
        Self { flops, bytes: bytes as u64 }
    }

    /// `per_element` operations for each element of the first output.
    pub fn elementwise(per_element: u64, ins: &[Option<Ty>], outs: &[Ty]) -> Self {
        let elements = outs.first().map_or(0, |ty| ty.shape.elements());
        Self::touching(per_element * elements as u64, ins, outs)
    }
}

impl Add for Cost {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { flops: self.flops + other.flops, bytes: self.bytes + other.bytes }
    }
}

impl Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(costs: I) -> Self {
        costs.fold(Self::default(), Add::add)
    }
}
