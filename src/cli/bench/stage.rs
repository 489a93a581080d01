//! One stage: load, run again and again, count.

use super::super::format::table;
use super::super::graphs::{self, Sizes};
use super::ceilings::Ceilings;
use super::memory;
use super::on_device::{self, OnDevice};
use super::peak::Peak;
use dreamid_engine::device::Device;
use dreamid_engine::exec::{Executable, Profile};
use dreamid_engine::models::ModelFolder;
use dreamid_engine::ops::Cost;
use dreamid_engine::pipeline::{FaceAnalyser, Image, Selection};
use dreamid_engine::{DType, Result};
use serde::Serialize;
use std::time::{Duration, Instant};

/// How stages are run.
pub(super) struct Runs<'a> {
    pub(super) device: &'a Device,
    pub(super) dtype: DType,
    /// Number of runs after the first; none: by time.
    pub(super) repeat: Option<usize>,
    pub(super) profile: bool,
    /// Height and width of the pictures; none: what the model was made for.
    pub(super) size: Option<[usize; 2]>,
    /// Of a whole picture.
    pub(super) steps: usize,
}

impl Runs<'_> {
    /// Until the device has done what was asked of it.
    fn wait(&self) -> Result<()> {
        if let Device::Cuda(cuda) = self.device { cuda.synchronize() } else { Ok(()) }
    }
}

/// Figures of one stage.
#[derive(Serialize)]
pub(super) struct Measured {
    pub(super) stage: String,
    pub(super) median_ms: f64,
    pub(super) p95_ms: f64,
    pub(super) runs: usize,
    pub(super) gflop: f64,
    /// Inputs, weights and outputs of every operation, each once.
    pub(super) bytes: u64,
    pub(super) share_of_arithmetic: f64,
    pub(super) share_of_bandwidth: f64,
    /// Reading or making, converting and packing weights; planning.
    pub(super) load_ms: f64,
    pub(super) first_run_ms: f64,
    pub(super) arena_mib: f64,
    pub(super) peak_rss_mib: Option<f64>,
    /// On CUDA devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) on_device: Option<OnDevice>,
}

/// What was seen of a stage.
pub(super) struct Seen {
    pub(super) load: Duration,
    pub(super) first: Duration,
    pub(super) times: Vec<Duration>,
    pub(super) cost: Cost,
    pub(super) arena: usize,
    pub(super) on_device: Option<OnDevice>,
}

/// Measures a stage that is one graph and describes its profile; none if the model lacks a component.
pub(super) fn network(model: &ModelFolder, stage: &str, graph: &str, runs: &Runs<'_>) -> Result<Option<(Measured, String)>> {
    let sizes = Sizes { images: 1, picture: runs.size, steps: runs.steps };
    let Some(named) = graphs::build(model, graph, runs.dtype, sizes)? else { return Ok(None) };
    memory::reset_peak();
    let start = Instant::now();
    let mut exe = Executable::compile(named.graph, &model.weights_of(&named.components)?, runs.device)?;
    let load = start.elapsed();
    exe.write_ordinary_inputs()?;
    let first = timed(|| exe.run().and_then(|()| runs.wait()))?;
    if let Device::Cuda(cuda) = runs.device {
        let times = repeat(first, runs.repeat, || exe.run().and_then(|()| runs.wait()))?;
        let on_device = on_device::measure(&mut exe, cuda, &Peak::of(cuda), times.len())?;
        let text = if runs.profile { on_device::longest(stage, &on_device) } else { String::new() };
        let (cost, arena) = (exe.graph().total_cost(), exe.plan().arena_bytes());
        let seen = Seen { load, first, cost, arena, times, on_device: Some(on_device) };
        return Ok(Some((seen.figures(stage), text)));
    }
    exe.profile(runs.profile);
    let times = repeat(first, runs.repeat, || exe.run())?;
    let seen = Seen { load, first, cost: exe.graph().total_cost(), arena: exe.plan().arena_bytes(), times, on_device: None };
    let profile = exe.times().map_or(String::new(), |p| profile_table(stage, p, seen.times.len()));
    Ok(Some((seen.figures(stage), profile)))
}

/// Measures finding, choosing and aligning the largest face of a photograph that is decoded already.
pub(super) fn detect(photo: &Image, runs: &Runs<'_>) -> Result<Measured> {
    memory::reset_peak();
    let start = Instant::now();
    let analyser = FaceAnalyser::new(runs.device)?;
    let load = start.elapsed();
    let once = || {
        let face = analyser.find(photo, Selection::Largest)?;
        analyser.align_for_recognition(photo, &face).map(drop)
    };
    let first = timed(once)?;
    // what one search costs depends on the photograph: on how many views the face takes to be found
    let cost = analyser.work();
    let times = repeat(first, runs.repeat, once)?;
    Ok(Seen { load, first, times, cost, arena: 0, on_device: None }.figures("detect"))
}

impl Seen {
    pub(super) fn figures(mut self, stage: &str) -> Measured {
        self.times.sort();
        let (median, p95) = (quantile(&self.times, 0.5), quantile(&self.times, 0.95));
        Measured {
            stage: stage.to_owned(),
            median_ms: millis(median),
            p95_ms: millis(p95),
            runs: self.times.len(),
            gflop: self.cost.flops as f64 / 1e9,
            bytes: self.cost.bytes,
            share_of_arithmetic: f64::NAN,
            share_of_bandwidth: f64::NAN,
            load_ms: millis(self.load),
            first_run_ms: millis(self.first),
            arena_mib: memory::mib(self.arena as u64),
            peak_rss_mib: memory::peak_mib(),
            on_device: self.on_device,
        }
    }
}

impl Measured {
    /// Fills in the shares, once the ceilings are known.
    pub(super) fn against(&mut self, ceilings: &Ceilings) {
        let seconds = self.median_ms / 1e3;
        self.share_of_arithmetic = self.gflop / seconds / ceilings.gemm_gflops;
        self.share_of_bandwidth = self.bytes as f64 / 1e9 / seconds / ceilings.memory_gb_per_s;
    }
}

pub(super) fn timed(mut run: impl FnMut() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    run()?;
    Ok(start.elapsed())
}

pub(super) fn repeat(first: Duration, asked: Option<usize>, mut run: impl FnMut() -> Result<()>) -> Result<Vec<Duration>> {
    const ENOUGH: Duration = Duration::from_secs(3);
    let by_time = ENOUGH.as_nanos() / first.as_nanos().max(1);
    let count = asked.unwrap_or((by_time as usize).clamp(5, 50));
    (0..count).map(|_| timed(&mut run)).collect()
}

/// The smallest time that at least this share of the runs does not exceed.
pub(super) fn quantile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied().unwrap_or_default()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn profile_table(stage: &str, profile: &Profile, runs: usize) -> String {
    let total: f64 = profile.by_time().iter().map(|(_, t)| t.time.as_secs_f64()).sum();
    let rows: Vec<Vec<String>> = profile
        .by_time()
        .into_iter()
        .map(|(name, t)| {
            let seconds = t.time.as_secs_f64();
            vec![
                name.to_owned(),
                (t.calls / runs).to_string(),
                format!("{:.2}", seconds * 1e3 / runs as f64),
                format!("{:.1} %", 100.0 * seconds / total),
                format!("{:.1}", t.cost.flops as f64 / 1e9 / seconds),
                format!("{:.1}", t.cost.bytes as f64 / 1e9 / seconds),
            ]
        })
        .collect();
    format!("{stage}\n{}\n", table(&["operation", "nodes", "ms", "share", "GFLOP/s", "GB/s"], &rows))
}
