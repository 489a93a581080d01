//! What several test files share: inputs from fixed seeds, the one error bound, running one operation on the CPU.
#![allow(dead_code)] // each test file uses its part of it

pub(crate) mod bound;
pub(crate) mod compiled;
pub(crate) mod cores;
pub(crate) mod emulated;
pub(crate) mod executed;
pub(crate) mod fill;
pub(crate) mod host;
pub(crate) mod lowering;
pub(crate) mod networks;
pub(crate) mod operations;
pub(crate) mod sampled;
pub(crate) mod sass;
pub(crate) mod shrunk;
pub(crate) mod small;
pub(crate) mod table;
pub(crate) mod tools;
pub(crate) mod training;
