//! The launches of one operation on an emulated device, against the f64 reference.

use super::{bound, compiled, fill, lowering, tools};
use cuda_emulator::{Counters, DeviceModel, Memory, Module};
use dreamid_engine::device::cuda::Compiler;
use dreamid_engine::device::{Arch, Launch, Lowered, Slot};
use dreamid_engine::ops::{Case, HostArray};
use dreamid_engine::{Tensor, Ty};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

/// Largest error of the launches of a case on a device, as a share of what is allowed. `op` names the inputs' seeds.
pub(crate) fn compare(device: &DeviceModel, op: &str, case: &Case, lowered: &Lowered) -> Result<f64, String> {
    let inputs = fill::inputs(op, case);
    let (_, outs) = lowering::types(case);
    let arrays: Vec<Option<HostArray>> = inputs.iter().map(|t| t.as_ref().map(HostArray::from)).collect();
    let reference = case.op.reference(&arrays, &outs).map_err(|e| format!("reference: {e}"))?;
    let (got, _) = execute(device, lowered, &inputs, &outs)?;
    if lowered.counters() > 0 {
        // what comes last in one order of the blocks comes first in the other
        let backwards = DeviceModel { blocks_descend: true, ..device.clone() };
        let (again, _) = execute(&backwards, lowered, &inputs, &outs)?;
        if again.iter().zip(&got).any(|(a, b)| a.bytes() != b.bytes()) {
            return Err("bits depend on the order of the blocks".into());
        }
    }
    let mut worst: f64 = 0.0;
    for (want, got) in reference.iter().zip(&got) {
        let verdict = bound::compare(want, got);
        if verdict.ratio > 1.0 {
            return Err(format!("error is {:.2} of what is allowed; {}", verdict.ratio, verdict.worst));
        }
        worst = worst.max(verdict.ratio);
    }
    Ok(worst)
}

/// An emulated device of some kind: that of sm_80 with the shared memory of the kind.
pub(crate) fn posing(arch: Arch) -> DeviceModel {
    let max_shared_per_block_optin = lowering::most_shared(arch.0);
    let shared_per_sm = max_shared_per_block_optin + (1 << 10);
    DeviceModel { arch: arch.0, max_shared_per_block_optin, shared_per_sm, ..DeviceModel::a100() }
}

/// The emulated device's memory, shared by all cases: modules keep their variables in it.
fn memory() -> &'static Memory {
    static MEMORY: OnceLock<Memory> = OnceLock::new();
    MEMORY.get_or_init(|| Memory::new(8 << 30))
}

/// Allocations of one case, freed at its end.
#[derive(Default)]
struct Held(Vec<u64>);

impl Held {
    fn place(&mut self, bytes: usize) -> Result<u64, String> {
        let address = memory().alloc(bytes as u64).map_err(|e| e.to_string())?;
        self.0.push(address);
        Ok(address)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.iter().for_each(|&address| memory().free(address).unwrap());
    }
}

/// Outputs of the launches of one operation, and what each launch cost.
pub(crate) fn execute(
    device: &DeviceModel,
    lowered: &Lowered,
    inputs: &[Option<Tensor>],
    outs: &[Ty],
) -> Result<(Vec<Tensor>, Vec<Counters>), String> {
    let (mut held, mut ins) = (Held::default(), Vec::new());
    for tensor in inputs {
        let address = tensor.as_ref().map(|t| held.place(t.bytes().len())).transpose()?;
        if let (Some(tensor), Some(address)) = (tensor, address) {
            memory().write(address, tensor.bytes()).map_err(|e| e.to_string())?;
        }
        ins.push(address);
    }
    let written: Vec<u64> = outs.iter().map(|ty| held.place(ty.bytes())).collect::<Result<_, _>>()?;
    let scratch = if lowered.scratch > 0 { Some(held.place(lowered.scratch as usize)?) } else { None };
    let counters = if lowered.counters() > 0 { Some(held.place(lowered.counters() as usize)?) } else { None };
    counters.map_or(Ok(()), |at| memory().fill(at, &[0], lowered.counters())).map_err(|e| e.to_string())?;
    let address = |slot: Slot| match slot {
        Slot::Null => Some(0),
        Slot::Counters(_) => counters,
        Slot::In(i) => *ins.get(i)?,
        Slot::InAt(i, within) => ins.get(i)?.map(|a| a + within),
        Slot::Out(i) => written.get(i).copied(),
        Slot::OutAt(i, within) => written.get(i).map(|a| a + within),
        Slot::Scratch(within) => scratch.map(|a| a + within),
    };
    let mut counted = Vec::new();
    for launch in &lowered.launches {
        counted.push(run(device, launch, &address)?);
        let mut left = vec![0; counters.map_or(0, |_| lowered.counters() as usize)];
        counters.map_or(Ok(()), |at| memory().read(at, &mut left)).map_err(|e| e.to_string())?;
        if left.iter().any(|&byte| byte != 0) {
            return Err(format!("{} leaves counters that are not zero", launch.kernel));
        }
    }
    let read = |(&ty, &from): (&Ty, &u64)| {
        let mut tensor = Tensor::zeros(ty);
        memory().read(from, tensor.bytes_mut()).map_err(|e| format!("an output is not written whole: {e}"))?;
        Ok(tensor)
    };
    let got = outs.iter().zip(&written).map(read).collect::<Result<_, String>>()?;
    Ok((got, counted))
}

fn run(device: &DeviceModel, launch: &Launch, address: &dyn Fn(Slot) -> Option<u64>) -> Result<Counters, String> {
    let mut params = launch.params.bytes.clone();
    for &(offset, slot) in &launch.params.pointers {
        let address = address(slot).ok_or_else(|| format!("{}: {slot:?} does not exist", launch.kernel))?;
        params[offset..offset + 8].copy_from_slice(&address.to_le_bytes());
    }
    let module = module(launch, Arch(device.arch))?;
    let (grid, block, dynamic_shared) = (launch.grid, launch.block, launch.shared);
    let launched = cuda_emulator::Launch { module: &module, entry: launch.kernel.entry, grid, block, dynamic_shared, params: &params };
    cuda_emulator::run(device, memory(), &launched, 1 + usize::from(device.blocks_descend))
        .map_err(|fault| format!("{}: {fault}", launch.kernel))
}

/// The module of a launch, compiled, parsed and loaded once in the process.
fn module(launch: &Launch, arch: Arch) -> Result<Arc<Module>, String> {
    static COMPILER: OnceLock<Compiler> = OnceLock::new();
    static MODULES: Mutex<Option<HashMap<std::path::PathBuf, Arc<Module>>>> = Mutex::new(None);
    let compiler = COMPILER.get_or_init(|| Compiler::load(Some(&tools::nvrtc())).unwrap());
    let path = compiled::assembly(compiler, &launch.kernel, compiled::family(arch))?;
    let mut modules = MODULES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(known) = modules.get_or_insert_default().get(&path) {
        return Ok(known.clone());
    }
    let text = std::fs::read_to_string(&path).map_err(|e| e.to_string())?;
    let mut module = Module::parse(&text).map_err(|fault| format!("{}: {fault}", launch.kernel))?;
    module.load(memory()).map_err(|fault| format!("{}: {fault}", launch.kernel))?;
    let module = Arc::new(module);
    modules.get_or_insert_default().insert(path, module.clone());
    Ok(module)
}
