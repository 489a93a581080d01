//! Level 5: what ships is what is compared. Every specialisation that a full-size graph launches on any kind of device was executed on
//! the emulated device and compared with the f64 reference: by a case of its operation (`tests/emulator.rs`), or here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use common::cores::on_all_cores;
use common::executed::{compare, posing};
use common::lowering;
use common::shrunk::Large;
use dreamid_engine::device::{Arch, KernelKey, Lowered, Target};
use dreamid_engine::graph::lower;
use dreamid_engine::ops::{AnyOp, Attention, Case, Heads, normal};
use dreamid_engine::{DType, Ty};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

/// A specialisation with the operations that are lowered to it: for which device, by the bytes that they touch.
struct Shipped {
    kernel: KernelKey,
    arch: Arch,
    op: AnyOp,
    inputs: Vec<Option<Ty>>,
    bytes: usize,
    is_product: bool,
}

#[test]
fn every_shipped_specialisation_is_compared() {
    let (regular, made) = (lowered(dreamid_engine::ops::all_cases().into_iter().flat_map(|(_, cases)| cases)), lowered(made()));
    let compared: BTreeSet<&str> = regular.iter().filter(|c| c.arch == Arch(80)).flat_map(|c| &c.kernels).map(String::as_str).collect();
    let shipped = shipped();
    // products of more than a tile; the others once
    let wanted: Vec<&Shipped> = shipped.values().filter(|s| s.is_product || !compared.contains(s.kernel.to_string().as_str())).collect();
    println!("{} specialisations, {} of them compared here", shipped.len(), wanted.len());
    let results: Mutex<Vec<Result<f64, String>>> = Mutex::default();
    on_all_cores(wanted.len(), |i| {
        let result = wanted[i].compare(&[&made[..], &regular]);
        results.lock().unwrap().push(result);
    });
    let results = results.into_inner().unwrap();
    println!("largest error {:.2} of what is allowed", results.iter().flatten().fold(0.0, |a: f64, &b| a.max(b)));
    let failures: Vec<&String> = results.iter().filter_map(|r| r.as_ref().err()).collect();
    assert!(failures.is_empty(), "{} fail:\n{failures:#?}", failures.len());
}

/// f16 differs from bf16 by the name of a type, of which each case is run (`tests/emulator.rs`).
#[test]
fn f16_ships_the_specialisations_of_bf16() {
    let kernels = |dtype| -> BTreeSet<String> { launched(dtype, &[]).map(|s| s.kernel.to_string().replace("=f16", "=bf16")).collect() };
    assert_eq!(kernels(DType::F16), kernels(DType::Bf16));
}

/// Every launch of the full-size graphs; on devices of the kinds `tuned` with every tile that `tune` may choose.
fn launched(dtype: DType, tuned: &'static [u32]) -> impl Iterator<Item = Shipped> {
    lowering::full_size(dtype).into_iter().flat_map(move |(_, graph)| {
        let tuned = tuned.iter().flat_map(|&arch| lowering::tuned(&graph, Arch(arch)));
        let targets: Vec<Target> = lowering::ARCHS.into_iter().map(|arch| Arch(arch).into()).chain(tuned).collect();
        let each = targets.into_iter().map(|target| (target.arch, lower(&graph, &target).unwrap()));
        let nodes = each.flat_map(|(arch, all)| all.into_iter().enumerate().map(move |(node, lowered)| (arch, node, lowered)));
        let found = nodes.flat_map(|(arch, node, lowered)| {
            let node = &graph.nodes()[node];
            let inputs: Vec<Option<Ty>> = node.inputs.iter().map(|v| v.map(|v| graph.ty(v))).collect();
            let bytes = inputs.iter().flatten().map(Ty::bytes).sum();
            let is_product = |kernel: &KernelKey| TILED.contains(&kernel.entry);
            let shipped =
                |kernel| Shipped { is_product: is_product(&kernel), kernel, arch, op: node.op.clone(), inputs: inputs.clone(), bytes };
            lowered.launches.into_iter().map(|launch| shipped(launch.kernel)).collect::<Vec<_>>()
        });
        found.collect::<Vec<_>>()
    })
}

/// Products in tiles, of which a case may have one where a network has many.
const TILED: [&str; 8] = [
    "linear_tensor",
    "linear_plain",
    "conv2d_tensor",
    "conv2d_plain",
    "linear_grad_tensor",
    "linear_grad_plain",
    "conv2d_grad_tensor",
    "conv2d_grad_plain",
];

/// One launch of each specialisation: the smallest one on the first kind of device that has it, of products one with all that may follow.
fn shipped() -> BTreeMap<String, Shipped> {
    let mut found: BTreeMap<String, Shipped> = BTreeMap::new();
    for new in launched(DType::Bf16, &lowering::ARCHS).chain(launched(DType::F32, &[])) {
        let rank = |s: &Shipped| (s.arch, std::cmp::Reverse(if s.is_product { s.inputs.iter().flatten().count() } else { 0 }), s.bytes);
        let name = new.kernel.to_string();
        if found.get(&name).is_none_or(|known| rank(&new) < rank(known)) {
            found.insert(name, new);
        }
    }
    found
}

/// A case of an operation, lowered for some kind of device.
struct Known {
    arch: Arch,
    case: Case,
    lowered: Lowered,
    kernels: Vec<String>,
}

/// Cases, for every kind of device.
fn lowered(cases: impl IntoIterator<Item = Case>) -> Vec<Known> {
    let each = cases.into_iter().flat_map(|case| {
        let (types, outs) = lowering::types(&case);
        lowering::ARCHS.map(|arch| {
            let lowered = case.op.lower(&types, &outs, &Arch(arch).into()).unwrap();
            let kernels = lowered.launches.iter().map(|l| l.kernel.to_string()).collect();
            Known { arch: Arch(arch), case: case.clone(), lowered, kernels }
        })
    });
    each.collect()
}

/// Cases for kernels that only many queries are worth: large for their kind, small beside those of the networks.
fn made() -> Vec<Case> {
    let t = DType::Bf16;
    let attention = Attention { heads: 3, causal: false, packing: Heads::PackedKv };
    let case = |name: &str, keys: usize| Case::new(name, attention.clone(), vec![normal(t, [9, 1030, 192]), normal(t, [9, keys, 384])]);
    vec![case("many queries", 150), case("many queries of a prompt", 77)]
}

impl Shipped {
    /// Bytes of inputs up to which an operation is run as the network has it.
    const SMALL: usize = 24 << 20;

    /// Largest error as a share of what is allowed.
    fn compare(&self, cases: &[&[Known]]) -> Result<f64, String> {
        let found = self.case(cases);
        let (case, lowered) = found.ok_or_else(|| format!("nothing compares {} of sm_{}: {:?}", self.kernel, self.arch.0, self.op))?;
        compare(&posing(self.arch), self.op.name(), &case, &lowered).map_err(|what| format!("`{}` for {}: {what}", case.name, self.kernel))
    }

    /// Something that runs the kernel on the same kind of device and can be compared within seconds.
    fn case(&self, cases: &[&[Known]]) -> Option<(Case, Lowered)> {
        if self.is_product {
            return Large { op: &self.op, inputs: &self.inputs, kernel: &self.kernel }.shrunk(self.arch);
        }
        let name = self.kernel.to_string();
        let known = cases.iter().copied().flatten().find(|c| c.arch == self.arch && c.kernels.contains(&name));
        known.map(|c| (c.case.clone(), c.lowered.clone())).or_else(|| self.natural())
    }

    /// The operation of the network itself.
    fn natural(&self) -> Option<(Case, Lowered)> {
        let numbers = self.inputs.iter().flatten().all(|ty| ty.dtype != DType::I32);
        let inputs = self.inputs.iter().map(|ty| ty.and_then(|ty| normal(ty.dtype, ty.shape))).collect();
        let case = Case::new(format!("{:?}", self.op), self.op.clone(), inputs);
        let (types, outs) = lowering::types(&case);
        let lowered = case.op.lower(&types, &outs, &self.arch.into()).ok()?;
        (numbers && self.bytes <= Self::SMALL).then_some((case, lowered))
    }
}
