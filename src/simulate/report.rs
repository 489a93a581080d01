//! The bounds of all launches of a picture, kernel by kernel.

use super::bound::{Bound, Limit, Work, bound};
use super::gpu::Gpu;
use super::residency::Residency;
use super::stages::{Goal, Stage, stages};
use super::table::{Counted, Tables, specialisation};
use crate::Result;
use crate::device::Target;
use crate::graph::lower;
use serde::Serialize;
use std::collections::BTreeMap;

/// A kernel of at least this share of its stage is looked at for flaws.
const LOOKED_AT: f64 = 0.01;
/// Of the sectors that a kernel asks for, so many should be needed.
const USEFUL: f64 = 0.95;
/// Wavefronts over the fewest, beyond which lanes wait for each other.
const CONFLICTING: f64 = 1.001;
/// Bytes over the compulsory ones, beyond which a kernel that does little else moves too many.
const TOO_MANY: f64 = 1.1;

/// Simulated bounds of everything that makes a picture.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Always "simulated bound, not a measurement".
    pub kind: &'static str,
    /// Name of the device.
    pub device: &'static str,
    /// What was simulated.
    pub subject: &'static str,
    /// Stages in the order in which a picture is made.
    pub stages: Vec<StageFigures>,
    /// Milliseconds of a picture: each stage as often as it is needed.
    pub picture_ms: f64,
}

/// One run of a stage.
#[derive(Clone, Debug, Serialize)]
pub struct StageFigures {
    /// As `bench` names it.
    pub stage: &'static str,
    /// How often a picture runs it.
    pub runs: usize,
    /// Launches of a run.
    pub launches: usize,
    /// Milliseconds of a run, at the least.
    pub bound_ms: f64,
    /// What a run should take at most.
    pub target_ms: Option<f64>,
    /// What others have published.
    pub published: &'static str,
    /// Floating-point operations of a run.
    pub flops: u64,
    /// Kernels, the slowest first.
    pub kernels: Vec<KernelFigures>,
}

/// All launches of one specialisation in one stage.
#[derive(Clone, Debug, Serialize)]
pub struct KernelFigures {
    /// Specialisation, as the tables in `kernels/` spell it.
    pub kernel: String,
    /// Launches.
    pub launches: usize,
    /// Microseconds of them all, at the least.
    pub bound_us: f64,
    /// Of the stage.
    pub share: f64,
    /// What binds, by time.
    pub limit: Limit,
    /// Mean over launches, by time: resident warps over the most possible.
    pub occupancy: f64,
    /// Mean over launches, by time: blocks over those that the device holds at once.
    pub waves: f64,
    /// Mean over launches, by time: blocks of the fullest multiprocessor over the average.
    pub tail: f64,
    /// Bytes read and written at least once.
    pub bytes: u64,
    /// Inputs, parameters and outputs, each once.
    pub compulsory_bytes: u64,
    /// Of the sectors asked for, those that would do.
    pub useful: f64,
    /// Shared-memory wavefronts over the fewest; 1 is without conflicts.
    pub conflicts: f64,
    /// What should be better.
    pub flaws: Vec<Flaw>,
}

/// What a kernel that matters should do better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Flaw {
    /// Less than 95 % of the sectors asked for are needed.
    Sectors,
    /// Lanes wait for each other in shared memory.
    Conflicts,
    /// An elementwise kernel or a norm touches over 10 % more bytes than the operation has, or reads them from device memory twice.
    Bytes,
}

/// The bounds on `gpu` of every launch of Stable Diffusion 2.1-base at 512x512. A launch that the tables do not know is an error.
pub fn simulate(gpu: &Gpu, tables: &Tables) -> Result<Report> {
    let stages: Vec<StageFigures> = stages()?.iter().map(|stage| stage_figures(gpu, tables, stage)).collect::<Result<_>>()?;
    Ok(Report {
        kind: "simulated bound, not a measurement",
        device: gpu.name,
        subject: "Stable Diffusion 2.1-base, one picture of 512x512, 30 guided steps, bf16",
        picture_ms: stages.iter().map(|s| s.runs as f64 * s.bound_ms).sum(),
        stages,
    })
}

fn stage_figures(gpu: &Gpu, tables: &Tables, stage: &Stage) -> Result<StageFigures> {
    let mut kernels: BTreeMap<String, Sum> = BTreeMap::new();
    let lowered = lower(&stage.graph, &Target::from(gpu.arch))?;
    let mut cache = Residency::new(&stage.graph, gpu.kept);
    for (node, lowered) in stage.graph.nodes().iter().zip(&lowered) {
        let mut found = Vec::new();
        for launch in &lowered.launches {
            let (counted, resources) = tables.of(launch, gpu.arch)?;
            let read = cache.read(&stage.graph, node, lowered, launch, &counted);
            let bytes = counted.loaded + counted.stored + read.again;
            found.push((launch, counted, bytes, bound(gpu, &Work::new(launch, counted, resources, read.bytes))));
        }
        // what the operation must move is shared by its launches as what they do move is
        let compulsory = stage.graph.cost(node).bytes as f64;
        let moved: u64 = found.iter().map(|(_, _, bytes, _)| bytes).sum();
        for (launch, counted, bytes, bound) in found {
            let part = compulsory * bytes as f64 / moved.max(1) as f64;
            kernels.entry(specialisation(launch)).or_default().add(&counted, bytes, &bound, part);
        }
    }
    let seconds: f64 = kernels.values().map(|sum| sum.seconds).sum();
    let mut figures: Vec<KernelFigures> = kernels.into_iter().map(|(kernel, sum)| sum.figures(kernel, seconds)).collect();
    figures.sort_by(|a, b| b.bound_us.total_cmp(&a.bound_us));
    Ok(StageFigures {
        stage: stage.name,
        runs: stage.runs,
        launches: figures.iter().map(|k| k.launches).sum(),
        bound_ms: seconds * 1e3,
        target_ms: stage.goal.of(gpu),
        published: stage.goal.published,
        flops: stage.graph.total_cost().flops,
        kernels: figures,
    })
}

impl Goal {
    fn of(&self, gpu: &Gpu) -> Option<f64> {
        if *gpu == Gpu::A100 { self.a100 } else { self.h100 }
    }
}

/// Sums over the launches of a specialisation; those of `Bound` are weighted by time.
#[derive(Default)]
struct Sum {
    launches: usize,
    seconds: f64,
    limits: BTreeMap<Limit, f64>,
    occupancy: f64,
    waves: f64,
    tail: f64,
    bytes: u64,
    compulsory: f64,
    mma: u64,
    sectors: [u64; 2],
    wavefronts: [u64; 2],
}

impl Sum {
    fn add(&mut self, counted: &Counted, bytes: u64, bound: &Bound, compulsory: f64) {
        self.launches += 1;
        self.seconds += bound.seconds;
        *self.limits.entry(bound.limit).or_default() += bound.seconds;
        self.occupancy += bound.seconds * bound.occupancy;
        self.waves += bound.seconds * bound.waves;
        self.tail += bound.seconds * bound.tail;
        self.bytes += bytes;
        self.mma += counted.mma;
        self.compulsory += compulsory;
        self.sectors[0] += counted.load_sectors + counted.store_sectors;
        self.sectors[1] += counted.load_sectors_min + counted.store_sectors_min;
        self.wavefronts[0] += counted.wavefronts;
        self.wavefronts[1] += counted.wavefronts_min;
    }

    fn figures(self, kernel: String, all: f64) -> KernelFigures {
        let ratio = |[a, b]: [u64; 2]| if b == 0 { 1.0 } else { a as f64 / b as f64 };
        let (useful, conflicts, share) = (1.0 / ratio(self.sectors), ratio(self.wavefronts), self.seconds / all);
        // parts of a product pass through memory by design
        let moves = self.mma == 0 && !kernel.contains("SPLIT");
        let too_many = moves && self.bytes as f64 > TOO_MANY * self.compulsory;
        let flaws = [(Flaw::Sectors, useful < USEFUL), (Flaw::Conflicts, conflicts > CONFLICTING), (Flaw::Bytes, too_many)];
        let limit = self.limits.iter().max_by(|a, b| a.1.total_cmp(b.1)).map_or(Limit::Launch, |(limit, _)| *limit);
        KernelFigures {
            kernel,
            launches: self.launches,
            bound_us: self.seconds * 1e6,
            share,
            limit,
            occupancy: self.occupancy / self.seconds,
            waves: self.waves / self.seconds,
            tail: self.tail / self.seconds,
            bytes: self.bytes,
            compulsory_bytes: self.compulsory as u64,
            useful,
            conflicts,
            flaws: flaws.into_iter().filter(|(_, is)| share >= LOOKED_AT && *is).map(|(flaw, _)| flaw).collect(),
        }
    }
}
