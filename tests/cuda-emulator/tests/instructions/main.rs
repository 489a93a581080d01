//! Each instruction form that is emulated against values computed by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod arithmetic;
mod atomics;
mod blocks;
#[path = "../common/mod.rs"]
mod common;
mod comparisons;
mod control;
mod conversions;
mod coverage;
mod floats;
mod memory;
mod registers;
mod rounding;
mod tensor;
mod variants;
mod warps;
