//! What a CUDA device's own clock says of a stage: replays against single launches, and each operation.

use super::super::format::table;
use super::memory::mib;
use super::peak::Peak;
use super::stage::quantile;
use dreamid_engine::Result;
use dreamid_engine::device::cuda::Cuda;
use dreamid_engine::exec::Executable;
use dreamid_engine::graph::lower;
use serde::Serialize;
use std::time::Duration;

/// Figures of one stage by the device's clock.
#[derive(Serialize)]
pub(super) struct OnDevice {
    /// One replay of the captured graph, median.
    pub(super) replay_ms: f64,
    /// The same launches asked for one by one, median.
    pub(super) single_launches_ms: f64,
    pub(super) launches: usize,
    pub(super) weights_mib: f64,
    /// Left on the device with this stage loaded.
    pub(super) free_mib: f64,
    /// By operation and the types of its first two inputs, those that take longest first; launched one by one without waiting.
    pub(super) kernels: Vec<Kernel>,
}

/// All nodes of one operation on the same types, in one run.
#[derive(Serialize)]
pub(super) struct Kernel {
    operation: String,
    inputs: String,
    nodes: usize,
    ms: f64,
    /// Of all operations' time.
    share: f64,
    tflop_per_s: f64,
    gb_per_s: f64,
    /// Of the device's peak, as the report states it.
    share_of_tensor_peak: f64,
    share_of_bandwidth: f64,
}

/// Measures a compiled stage that has run before.
pub(super) fn measure(exe: &mut Executable, cuda: &Cuda, peak: &Peak, runs: usize) -> Result<OnDevice> {
    let mut median = |replayed| -> Result<f64> {
        let mut times = (0..runs).map(|_| Ok(exe.device_time(1, replayed)?.unwrap_or_default())).collect::<Result<Vec<Duration>>>()?;
        times.sort();
        Ok(quantile(&times, 0.5).as_secs_f64() * 1e3)
    };
    let (replay_ms, single_launches_ms) = (median(true)?, median(false)?);
    exe.profile(true);
    (0..runs).try_for_each(|_| exe.run())?;
    let kernels = kernels(exe, peak, runs);
    exe.profile(false);
    let weights: usize = exe.graph().params().map(|(_, value)| exe.graph().ty(value).bytes()).sum();
    Ok(OnDevice {
        replay_ms,
        single_launches_ms,
        launches: lower(exe.graph(), cuda.target())?.iter().map(|node| node.launches.len()).sum(),
        weights_mib: mib(weights as u64),
        free_mib: mib(cuda.memory()?.0),
        kernels,
    })
}

fn kernels(exe: &Executable, peak: &Peak, runs: usize) -> Vec<Kernel> {
    let all = exe.times().map(|profile| profile.by_shape()).unwrap_or_default();
    let total: f64 = all.iter().map(|(_, t)| t.time.as_secs_f64()).sum();
    let kernel = |((operation, inputs), t): ((&'static str, &str), dreamid_engine::exec::OpTime)| {
        let seconds = t.time.as_secs_f64();
        let (flops, bytes) = (t.cost.flops as f64 / seconds, t.cost.bytes as f64 / seconds);
        Kernel {
            operation: operation.to_owned(),
            inputs: inputs.to_owned(),
            nodes: t.calls / runs,
            ms: seconds * 1e3 / runs as f64,
            share: seconds / total,
            tflop_per_s: flops / 1e12,
            gb_per_s: bytes / 1e9,
            share_of_tensor_peak: flops / 1e12 / peak.tensor_tflop_per_s,
            share_of_bandwidth: bytes / 1e9 / peak.memory_gb_per_s,
        }
    };
    all.into_iter().filter(|(_, t)| !t.time.is_zero()).map(kernel).collect()
}

/// The stages beside each other.
pub(super) fn overview(stages: &[(&str, f64, &OnDevice)]) -> String {
    let row = |(name, arena, stage): &(&str, f64, &OnDevice)| {
        let numbers = [stage.replay_ms, stage.single_launches_ms].map(|ms| format!("{ms:.3}"));
        let sizes = [*arena, stage.weights_mib, stage.free_mib].map(|mib| format!("{mib:.0}"));
        [vec![(*name).to_owned()], numbers.to_vec(), vec![stage.launches.to_string()], sizes.to_vec()].concat()
    };
    let header = ["stage", "replay ms", "single ms", "launches", "arena MiB", "weights MiB", "free MiB"];
    table(&header, &stages.iter().map(row).collect::<Vec<_>>())
        + "\nreplay, single: the captured graph, and its launches one by one, by the device's clock\n"
}

/// The operations of a stage that take longest.
pub(super) fn longest(stage: &str, on_device: &OnDevice) -> String {
    const SHOWN: usize = 12;
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let row = |k: &Kernel| {
        vec![
            k.operation.clone(),
            k.inputs.clone(),
            k.nodes.to_string(),
            format!("{:.3}", k.ms),
            percent(k.share),
            format!("{:.2}", k.tflop_per_s),
            format!("{:.1}", k.gb_per_s),
            percent(k.share_of_tensor_peak),
            percent(k.share_of_bandwidth),
        ]
    };
    let header = ["operation", "inputs", "nodes", "ms", "share", "TFLOP/s", "GB/s", "of tensor peak", "of bandwidth"];
    let rows: Vec<Vec<String>> = on_device.kernels.iter().take(SHOWN).map(row).collect();
    format!("{stage}\n{}\n", table(&header, &rows))
}
