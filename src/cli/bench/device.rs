//! A CUDA device as a whole: what it is, its memory, and what a cold start costs.

use super::super::DeviceArgs;
use super::memory::mib;
use super::peak::Peak;
use dreamid_engine::Result;
use dreamid_engine::device::cuda::Cuda;
use dreamid_engine::device::{Device, KernelKey, Launch};
use serde::Serialize;
use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// What `--json` says of a CUDA device beside its stages.
#[derive(Serialize)]
pub(super) struct DeviceReport {
    name: String,
    /// True: times are those of an emulator and say nothing of any device.
    emulated: bool,
    driver: u32,
    multiprocessors: u32,
    peak: Peak,
    /// Products that run with another tile than the count of cycles chooses.
    measured_tiles: usize,
    memory_mib: f64,
    free_mib: f64,
    /// Through page-locked memory, as weights are brought there.
    upload_gb_per_s: f64,
    cold_start: ColdStart,
}

/// What comes before the first run, apart from weights: `load_ms` and `first_run_ms` of the stages tell the rest.
#[derive(Serialize)]
struct ColdStart {
    /// Driver, context, stream, for the first time in this process.
    open_ms: f64,
    /// Kernels of all measured stages.
    kernels: usize,
    /// Compiled by NVRTC and loaded, with an empty cache.
    compile_ms: f64,
    /// Loaded from the cache on disk.
    from_cache_ms: f64,
}

impl DeviceReport {
    /// Measures what is not known. The kernels of `launches` are compiled into a folder that goes again. `opened`: how long opening took.
    pub(super) fn measure(args: &DeviceArgs, cuda: &Cuda, opened: Duration, launches: &[Launch]) -> Result<Self> {
        const UPLOAD: usize = 256 << 20;
        let (free, total) = cuda.memory()?;
        Ok(Self {
            name: cuda.model().to_owned(),
            emulated: cuda.is_emulated(),
            driver: cuda.facts().driver,
            multiprocessors: cuda.facts().multiprocessors,
            peak: Peak::of(cuda),
            measured_tiles: cuda.target().tiles.0.len(),
            memory_mib: mib(total),
            free_mib: mib(free),
            upload_gb_per_s: cuda.upload_rate(UPLOAD, 3)? / 1e9,
            cold_start: ColdStart::measure(args, cuda, opened, launches)?,
        })
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let (peak, cold) = (&self.peak, &self.cold_start);
        let emulated =
            if self.emulated { "EMULATED: every time below is that of an emulator and says nothing of any device\n" } else { "" };
        format!(
            "{emulated}{}, driver {}, {} multiprocessors, {:.0} MiB of memory, {:.0} free, {} measured tiles\n\
             peak ({}): {:.1} TFLOP/s, {:.0} GB/s; upload {:.1} GB/s\n\
             cold start: open {:.1} ms, {} kernels compiled in {:.0} ms, from the cache in {:.0} ms\n\n",
            self.name,
            self.driver,
            self.multiprocessors,
            self.memory_mib,
            self.free_mib,
            self.measured_tiles,
            peak.source,
            peak.tensor_tflop_per_s,
            peak.memory_gb_per_s,
            self.upload_gb_per_s,
            cold.open_ms,
            cold.kernels,
            cold.compile_ms,
            cold.from_cache_ms
        )
    }
}

impl ColdStart {
    fn measure(args: &DeviceArgs, cuda: &Cuda, opened: Duration, launches: &[Launch]) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("dreamid-engine-cold-{}", std::process::id()));
        let load = || load_kernels(args, cuda.name(), launches, &folder);
        let found = load().and_then(|compiled| Ok([compiled, load()?]));
        let _ = std::fs::remove_dir_all(&folder); // a few megabytes of the system's temporary files at worst
        let [open_ms, compile_ms, from_cache_ms] =
            found.map(|[compiled, cached]| [opened, compiled, cached].map(|t| t.as_secs_f64() * 1e3))?;
        let kernels: HashSet<&KernelKey> = launches.iter().map(|launch| &launch.kernel).collect();
        Ok(Self { open_ms, kernels: kernels.len(), compile_ms, from_cache_ms })
    }
}

/// Time that it takes to have all kernels on a device that has none yet, with a cache in `folder`.
fn load_kernels(args: &DeviceArgs, device: &str, launches: &[Launch], folder: &Path) -> Result<Duration> {
    let mut options = args.options()?;
    options.cuda.cache = Some(folder.to_path_buf());
    let device = Device::open(device, &options)?;
    let start = Instant::now();
    if let Device::Cuda(cuda) = &device {
        cuda.load_kernels(launches.iter())?;
    }
    Ok(start.elapsed())
}
