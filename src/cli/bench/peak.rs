//! The most that a device can do on paper.

use dreamid_engine::device::cuda::Cuda;
use serde::Serialize;

/// Rates of a device that are not measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Peak {
    /// Dense bf16 products on the tensor cores with f32 sums.
    pub(super) tensor_tflop_per_s: f64,
    pub(super) memory_gb_per_s: f64,
    /// Where the figures are from.
    pub(super) source: &'static str,
}

/// Name, dense TFLOP/s, GB/s, from the data sheets of NVIDIA. Names are those that the driver gives.
const PUBLISHED: [(&str, f64, f64); 7] = [
    ("NVIDIA A100-SXM4-40GB", 312.0, 1555.0),
    ("NVIDIA A100-PCIE-40GB", 312.0, 1555.0),
    ("NVIDIA A100-SXM4-80GB", 312.0, 2039.0),
    ("NVIDIA A100 80GB PCIe", 312.0, 1935.0),
    ("NVIDIA H100 80GB HBM3", 989.4, 3352.0),
    ("NVIDIA H100 PCIe", 756.0, 2039.0),
    ("NVIDIA H200", 989.4, 4800.0),
];

impl Peak {
    /// Published figures where the device is known, else what follows from its clocks and widths; zeros where the driver does not say.
    pub(super) fn of(cuda: &Cuda) -> Self {
        let name = cuda.model().trim_end_matches(" (emulated)");
        if let Some((_, tensor_tflop_per_s, memory_gb_per_s)) = PUBLISHED.into_iter().find(|(known, ..)| *known == name) {
            return Self { tensor_tflop_per_s, memory_gb_per_s, source: "data sheet" };
        }
        let facts = cuda.facts();
        let cycles = f64::from(facts.multiprocessors) * f64::from(facts.clock_khz) * 1e3;
        Self {
            tensor_tflop_per_s: 2.0 * cycles * products_per_cycle(cuda.arch().0, name) / 1e12,
            memory_gb_per_s: facts.memory_bandwidth().unwrap_or(0.0) / 1e9,
            source: "clocks and widths that the driver states",
        }
    }
}

/// 16-bit multiply-adds of a multiprocessor in a cycle with f32 sums, from the white papers of the architectures. Consumer cards of sm_86
/// and newer do half of what others do.
fn products_per_cycle(arch: u32, name: &str) -> f64 {
    match arch {
        80 => 1024.0,
        90 => 2048.0,
        100..120 => 4096.0,
        _ if name.contains("GeForce") => 256.0,
        _ => 512.0,
    }
}
