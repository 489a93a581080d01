//! What this machine can do at most: arithmetic by a large matrix product, memory by a copy.

use dreamid_engine::device::Device;
use dreamid_engine::exec::Executable;
use dreamid_engine::graph::{Builder, Graph};
use dreamid_engine::ops::Linear;
use dreamid_engine::weights::Weights;
use dreamid_engine::{DType, Result, Tensor};
use serde::Serialize;
use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Rates that no stage can exceed by much.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Ceilings {
    /// Of the fastest of a few matrix products in the same precision, on the same threads.
    pub(super) gemm_gflops: f64,
    /// Read and written by a copy of 256 MiB, on the same threads.
    pub(super) memory_gb_per_s: f64,
}

impl Ceilings {
    /// The higher of both.
    pub(super) fn or_better(self, other: Self) -> Self {
        Self { gemm_gflops: self.gemm_gflops.max(other.gemm_gflops), memory_gb_per_s: self.memory_gb_per_s.max(other.memory_gb_per_s) }
    }
}

impl fmt::Display for Ceilings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GEMM {:.0} GFLOP/s, memory {:.1} GB/s", self.gemm_gflops, self.memory_gb_per_s)
    }
}

/// The best of a few tries of each.
pub(super) fn measure(device: &Device, dtype: DType) -> Result<Ceilings> {
    let memory = match device {
        Device::Cuda(cuda) => cuda.copy_rate(if cuda.is_emulated() { COPY >> 4 } else { COPY }, 5)? / 1e9,
        _ => copy(device),
    };
    Ok(Ceilings { gemm_gflops: gemm(device, dtype)?, memory_gb_per_s: memory })
}

/// Bytes of the copy: more than any cache holds.
const COPY: usize = 256 << 20;

/// Rows, inputs and outputs: of a large picture, of a small one with wide layers, of a prompt.
const PRODUCTS: [[usize; 3]; 3] = [[2048, 1024, 2048], [256, 1280, 5120], [256, 256, 256]];
/// The same for a CUDA device, which needs more to be filled.
const LARGE_PRODUCTS: [[usize; 3]; 3] = [[8192, 8192, 8192], [8192, 1280, 5120], [8192, 320, 2560]];

fn gemm(device: &Device, dtype: DType) -> Result<f64> {
    let products = match device {
        Device::Cuda(cuda) if cuda.is_emulated() => &PRODUCTS[2..],
        Device::Cuda(_) => &LARGE_PRODUCTS,
        _ => &PRODUCTS,
    };
    let rates = products.iter().map(|&shape| product(device, dtype, shape)).collect::<Result<Vec<f64>>>()?;
    Ok(rates.into_iter().fold(0.0, f64::max))
}

fn product(device: &Device, dtype: DType, [rows, inputs, outputs]: [usize; 3]) -> Result<f64> {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, dtype);
    let x = b.input("x", dtype, [rows, inputs]);
    let w = b.param("w.weight", [outputs, inputs]);
    let y = b.op(Linear::plain(), &[Some(x), Some(w)])?;
    b.output("y", y)?;
    let flops = graph.total_cost().flops as f64;
    let mut exe = Executable::compile(graph, &Weights::random(0), device)?;
    exe.write("x", &Tensor::from_f32([rows, inputs], &vec![0.5; rows * inputs])?)?;
    let (begin, mut seconds) = (Instant::now(), f64::INFINITY);
    while begin.elapsed() < Duration::from_millis(300) {
        let start = Instant::now();
        exe.run()?;
        let took = exe.device_time(1, true)?.unwrap_or_else(|| start.elapsed());
        seconds = seconds.min(took.as_secs_f64());
    }
    Ok(flops / 1e9 / seconds)
}

fn copy(device: &Device) -> f64 {
    const CHUNK: usize = 1 << 20;
    let Device::Cpu(cpu) = device else { return f64::NAN };
    let from = vec![1u8; COPY];
    let mut to = vec![2u8; COPY];
    let mut seconds = f64::INFINITY;
    for _ in 0..5 {
        let chunks: Vec<Mutex<(&[u8], &mut [u8])>> = from.chunks(CHUNK).zip(to.chunks_mut(CHUNK)).map(Mutex::new).collect();
        let start = Instant::now();
        cpu.parallel(chunks.len(), |i| {
            if let Ok(mut pair) = chunks[i].lock() {
                let (from, to) = &mut *pair;
                to.copy_from_slice(from);
            }
        });
        seconds = seconds.min(start.elapsed().as_secs_f64());
    }
    std::hint::black_box(&to);
    2.0 * COPY as f64 / 1e9 / seconds
}
