//! A cudarc program that knows nothing of the emulator, except that it can start itself again under it:
//!
//! ```text
//! cargo run -p cuda-emulator --example axpy            # on the CUDA driver of this machine, if there is one
//! cargo run -p cuda-emulator --example axpy emulated   # on the emulator
//! CUEMU_DEVICE=h100 CUEMU_COUNTERS=counters.json cargo run -p cuda-emulator --example axpy emulated
//! ```

use cudarc::driver::{CudaContext, DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use std::error::Error;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The parameters of the kernel, by value.
#[repr(C)]
#[derive(Clone, Copy)]
struct Axpy {
    y: u64,
    x: u64,
    a: f32,
    n: i32,
}

// SAFETY: plain numbers in the layout of C.
unsafe impl DeviceRepr for Axpy {}

fn main() -> Result<(), Box<dyn Error>> {
    if std::env::args().nth(1).as_deref() == Some("emulated") {
        return restart_emulated();
    }
    // SAFETY: only asks the loader; without a driver cudarc would panic below.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Err("no CUDA driver; try the argument `emulated`".into());
    }
    let context = CudaContext::new(0)?;
    let stream = context.new_stream()?;
    let axpy = context.load_module(Ptx::from_src(include_str!("../tests/data/driver.ptx")))?.load_function("axpy")?;

    let n = 10_000;
    let x = stream.clone_htod(&(0..n).map(|i| i as f32).collect::<Vec<_>>())?;
    let mut y = stream.alloc_zeros::<f32>(n)?;
    let params = Axpy { y: y.device_ptr_mut(&stream).0, x: x.device_ptr(&stream).0, a: 0.5, n: n as i32 };
    let shape = LaunchConfig { grid_dim: (n.div_ceil(128) as u32, 1, 1), block_dim: (128, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the parameters are those of the kernel, and the memory that they name outlives the launch.
    unsafe { stream.launch_builder(&axpy).arg(&params).launch(shape) }?;
    let y = stream.clone_dtoh(&y)?;
    context.synchronize()?;
    writeln!(std::io::stdout(), "{}: y[9999] = {}", context.name()?, y[9999])?;
    Ok(())
}

/// Lays the emulator out in a folder and starts this program again with that folder first on the loader's path.
fn restart_emulated() -> Result<(), Box<dyn Error>> {
    let program = std::env::current_exe()?;
    let folder = cuda_emulator::install(&program.with_file_name("cuda-emulator"))?;
    let path = std::env::var("LD_LIBRARY_PATH").map_or(folder.display().to_string(), |rest| format!("{}:{rest}", folder.display()));
    Err(Command::new(program).env("LD_LIBRARY_PATH", path).exec().into())
}
