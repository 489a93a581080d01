//! How fast the CUDA kernels can be at most, without a device: what each launch of Stable Diffusion 2.1-base at 512x512 asks of the machine,
//! against a device's published figures. A simulated bound, not a measurement; `docs/simulated-bounds.md` tells what it rests on.
//!
//! The launches are lowered here. What each asks for was counted on the emulated device (`kernels/counters.csv`), registers and shared
//! memory come from the assembler (`kernels/resources.csv`); the program carries both tables.

mod bound;
mod gpu;
mod report;
mod residency;
mod stages;
mod table;

pub use bound::{Bound, Limit, Work, bound};
pub use gpu::Gpu;
pub use report::{Flaw, KernelFigures, Report, StageFigures, simulate};
pub use stages::{Goal, Stage, stages};
pub use table::{Counted, Tables, launch_key};
