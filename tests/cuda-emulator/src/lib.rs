//! A CUDA device on the CPU: it executes the PTX that a compiler really emits, one warp instruction at a time, refuses what a GPU would
//! let pass, and counts what a kernel asks of the machine.
//!
//! [`Module::parse`] turns PTX into bytecode, [`Module::load`] gives its variables memory, [`run`] executes one grid, [`run_blocks`] some of it.

mod counters;
mod device;
mod driver;
mod fault;
mod install;
mod machine;
mod memory;
mod ptx;

pub use counters::Counters;
pub use device::DeviceModel;
pub use fault::{Fault, FaultKind};
pub use install::install;
pub use machine::{Launch, Sampled, Touched, run, run_blocks};
pub use memory::Memory;
pub use ptx::{Entry, Module, Param, Variable, form_of, forms};
