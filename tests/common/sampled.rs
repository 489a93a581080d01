//! A few blocks of a launch on the emulated device, and what all of them would ask for.

use super::compiled;
use super::fill::Random;
use cuda_emulator::{Counters, DeviceModel, Memory, Module, Sampled, Touched};
use dreamid_engine::device::cuda::Compiler;
use dreamid_engine::device::{Arch, Launch, Lowered, Slot};
use dreamid_engine::simulate::Counted;
use dreamid_engine::{DType, Ty};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Places of a grid that are run, each with all of its blocks along z, which may be parts of one result.
const PLACES: u64 = 8;

/// Warp instructions of a launch up to which all of it is run.
const LIGHT: u64 = 500_000;

/// One operation.
pub(crate) struct Job {
    /// Stage that it is of.
    pub(crate) stage: &'static str,
    /// Names of the launches.
    pub(crate) keys: Vec<String>,
    pub(crate) inputs: Vec<Option<Ty>>,
    pub(crate) outputs: Vec<Ty>,
    pub(crate) lowered: Lowered,
}

/// An emulated device with what was compiled for it.
pub(crate) struct Device<'a> {
    model: DeviceModel,
    compiler: &'a Compiler,
    memory: Memory,
    modules: Mutex<HashMap<PathBuf, Arc<Module>>>,
}

impl<'a> Device<'a> {
    pub(crate) fn new(model: DeviceModel, compiler: &'a Compiler) -> Self {
        Self { model, compiler, memory: Memory::new(64 << 30), modules: Mutex::default() }
    }

    /// What each launch of an operation asks for, by its name.
    pub(crate) fn count(&self, job: &Job) -> Vec<(String, Counted)> {
        self.count_places(job, PLACES)
    }

    /// The same from `places` places of each grid.
    pub(crate) fn count_places(&self, job: &Job, places: u64) -> Vec<(String, Counted)> {
        let inputs: Vec<Option<u64>> = job.inputs.iter().map(|ty| ty.map(|ty| self.filled(ty))).collect();
        let outputs: Vec<u64> = job.outputs.iter().map(|ty| self.memory.alloc(ty.bytes() as u64).unwrap()).collect();
        // partial sums and statistics of blocks that are not run are zero
        let scratch = (job.lowered.scratch > 0).then(|| self.zeroed(job.lowered.scratch));
        let counters = (job.lowered.counters() > 0).then(|| self.zeroed(job.lowered.counters()));
        let address = |slot: Slot| match slot {
            Slot::Null => 0,
            Slot::Counters(_) => counters.unwrap(),
            Slot::In(i) => inputs[i].unwrap(),
            Slot::InAt(i, within) => inputs[i].unwrap() + within,
            Slot::Out(i) => outputs[i],
            Slot::OutAt(i, within) => outputs[i] + within,
            Slot::Scratch(within) => scratch.unwrap() + within,
        };
        let count = |(key, launch): (&String, &Launch)| (key.clone(), self.run(launch, &address, scratch, places));
        let counted = job.keys.iter().zip(&job.lowered.launches).map(count).collect();
        inputs.into_iter().flatten().chain(outputs).chain(scratch).chain(counters).for_each(|address| self.memory.free(address).unwrap());
        counted
    }

    fn run(&self, launch: &Launch, address: &dyn Fn(Slot) -> u64, scratch: Option<u64>, places: u64) -> Counted {
        let mut params = launch.params.bytes.clone();
        for &(offset, slot) in &launch.params.pointers {
            params[offset..offset + 8].copy_from_slice(&address(slot).to_le_bytes());
        }
        let module = self.module(launch);
        let (grid, block, dynamic_shared) = (launch.grid, launch.block, launch.shared);
        let launched = cuda_emulator::Launch { module: &module, entry: launch.kernel.entry, grid, block, dynamic_shared, params: &params };
        // parts of a result count themselves and lie along z; other blocks that count wait for all that count with them
        let counts = launch.params.pointers.iter().any(|(_, slot)| matches!(slot, Slot::Counters(_)));
        let places = if counts && grid[2] == 1 { u64::MAX } else { places };
        let all: u64 = grid.iter().map(|&n| u64::from(n)).product();
        let run = |places| {
            let sampled = cuda_emulator::run_blocks(&self.model, &self.memory, &launched, &sample(grid, places), 1);
            sampled.unwrap_or_else(|fault| panic!("{}: {fault}", launch.kernel))
        };
        let some = run(places);
        let whole = some.counters.issued * all / some.counters.blocks;
        // a light launch costs next to nothing, and its blocks may differ more
        let sampled = if some.counters.blocks < all && whole < LIGHT { run(u64::MAX) } else { some };
        scaled(&sampled, scratch, all)
    }

    fn module(&self, launch: &Launch) -> Arc<Module> {
        let path = compiled::assembly(self.compiler, &launch.kernel, Arch(self.model.arch)).unwrap();
        let mut modules = self.modules.lock().unwrap();
        let load = || {
            let mut module =
                Module::parse(&fs::read_to_string(&path).unwrap()).unwrap_or_else(|fault| panic!("{}: {fault}", launch.kernel));
            module.load(&self.memory).unwrap();
            Arc::new(module)
        };
        modules.entry(path.clone()).or_insert_with(load).clone()
    }

    /// Memory with ordinary numbers: whole ones that are the index of something for integers.
    fn filled(&self, ty: Ty) -> u64 {
        let mut random = Random::named("ordinary numbers");
        let mut value = || (random.uniform() * 2.0 - 1.0) as f32;
        let chunk: Vec<u8> = match ty.dtype {
            DType::F32 => (0..16 << 10).flat_map(|_| value().to_le_bytes()).collect(),
            DType::Bf16 => (0..32 << 10).flat_map(|_| half::bf16::from_f32(value()).to_le_bytes()).collect(),
            DType::F16 => (0..32 << 10).flat_map(|_| half::f16::from_f32(value()).to_le_bytes()).collect(),
            DType::I32 => (0..16 << 10).flat_map(|i| (1 + i % 20i32).to_le_bytes()).collect(),
        };
        self.repeated(&chunk, ty.bytes() as u64)
    }

    fn zeroed(&self, bytes: u64) -> u64 {
        self.repeated(&[0; 1 << 16], bytes)
    }

    fn repeated(&self, chunk: &[u8], bytes: u64) -> u64 {
        let address = self.memory.alloc(bytes).unwrap();
        let mut done = 0;
        while done < bytes {
            let now = (bytes - done).min(chunk.len() as u64);
            self.memory.write(address + done, &chunk[..now as usize]).unwrap();
            done += now;
        }
        address
    }
}

/// Indices of the blocks that are run: all z of places that a golden-ratio sequence spreads over the plane of x and y, so that edges come
/// up as often as they are there, whatever the number of tiles in a row.
fn sample(grid: [u32; 3], places: u64) -> Vec<u64> {
    let [x, y, z] = grid.map(u64::from);
    let plane = x * y;
    let chosen: BTreeSet<u64> = match plane <= places {
        true => (0..plane).collect(),
        false => (0..places).map(|i| (plane as f64 * (0.5 + i as f64 * 0.618_033_988_749_895).fract()) as u64).collect(),
    };
    (0..z).flat_map(|part| chosen.iter().map(move |place| part * plane + place)).collect()
}

/// Counts of a whole grid from those of some of its blocks. Memory that is touched at all is touched once: no more than an allocation has.
fn scaled(sampled: &Sampled, scratch: Option<u64>, blocks: u64) -> Counted {
    let c: &Counters = &sampled.counters;
    let scale = |count: u64| (u128::from(count) * u128::from(blocks) + u128::from(c.blocks / 2)) / u128::from(c.blocks);
    let all = |count: u64| scale(count) as u64;
    let whole = |touched: u64, t: &Touched| all(touched).min(t.bytes.next_multiple_of(32));
    let loaded = |t: &Touched| whole(t.loaded, t);
    Counted {
        sampled: c.blocks,
        issued: all(c.issued - c.moves),
        fp32: all(c.fp32),
        integer: all(c.integer),
        special: all(c.special),
        warp_wide: all(c.warp_wide),
        barriers: all(c.barriers),
        global_loads: all(c.global_loads),
        mma: all(c.mma_bf16 + c.mma_f16),
        load_sectors: all(c.load_sectors),
        load_sectors_min: all(c.load_sectors_min),
        store_sectors: all(c.store_sectors),
        store_sectors_min: all(c.store_sectors_min),
        wavefronts: all(c.shared_wavefronts),
        wavefronts_min: all(c.shared_wavefronts_min),
        loaded: sampled.touched.iter().map(loaded).sum(),
        loaded_workspace: sampled.touched.iter().filter(|t| Some(t.address) == scratch).map(loaded).sum(),
        stored: sampled.touched.iter().map(|t| whole(t.stored, t)).sum(),
    }
}
