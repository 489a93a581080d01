//! The emulated driver under cudarc, as any program would use it. Every test runs in a process of its own that finds the emulator as
//! `libcuda.so`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[macro_use]
mod harness;
mod calls;
mod captures;
mod failures;
mod kernels;
mod memory;
mod streams;
#[allow(dead_code)] // the engine's tests use the rest
#[path = "../../../common/tools.rs"]
mod tools;
