//! What the benchmarks share: one operation with inputs, run as an executable runs it.

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use dreamid_engine::device::cpu::{Cpu, Packed};
use dreamid_engine::ops::{AnyOp, Cost, HostIn, HostIo, HostOut};
use dreamid_engine::{DType, Tensor, Ty};
use std::time::Duration;

/// The device: `DREAMID_THREADS` threads, or one for each core.
pub(crate) fn cpu() -> Cpu {
    Cpu::new(std::env::var("DREAMID_THREADS").ok().and_then(|n| n.parse().ok())).unwrap()
}

/// A group of benchmarks with few samples: an operation takes milliseconds.
pub(crate) fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    group
}

/// An operation and the types of its inputs.
pub(crate) type Call = (AnyOp, Vec<Option<Ty>>);

/// Measures one operation.
pub(crate) fn measure(group: &mut BenchmarkGroup<'_, WallTime>, cpu: &Cpu, name: &str, call: Call, work: impl Fn(&Bound) -> Throughput) {
    let bound = Bound::new(cpu, call);
    group.throughput(work(&bound));
    group.bench_function(name, |bencher| {
        let mut output = Tensor::zeros(bound.out);
        bencher.iter(|| bound.run(cpu, &mut output));
    });
}

/// An operation with inputs, its weights packed.
pub(crate) struct Bound {
    op: AnyOp,
    inputs: Vec<Option<Tensor>>,
    packed: Vec<Option<Packed>>,
    out: Ty,
    /// What the operation costs.
    pub(crate) cost: Cost,
}

impl Bound {
    fn new(cpu: &Cpu, (op, types): Call) -> Self {
        let inputs: Vec<Option<Tensor>> = types.iter().map(|ty| ty.map(random)).collect();
        let pack = |(i, tensor): (usize, &Option<Tensor>)| {
            let (spec, tensor) = (op.packing(i, &types)?, tensor.as_ref()?);
            Some(Packed::new(cpu, spec, tensor.ty().dtype, tensor.bytes()).unwrap())
        };
        let packed = inputs.iter().enumerate().map(pack).collect();
        let out = op.infer(&types).unwrap()[0];
        let cost = op.cost(&types, &[out]);
        Self { op, inputs, packed, out, cost }
    }

    fn run(&self, cpu: &Cpu, output: &mut Tensor) {
        let mut ins: Vec<Option<HostIn<'_>>> = Vec::new();
        for (tensor, packed) in self.inputs.iter().zip(&self.packed) {
            ins.push(tensor.as_ref().map(|t| HostIn { ty: t.ty(), data: t.bytes(), packed: packed.as_ref() }));
        }
        let mut outs = [HostOut { ty: self.out, data: output.bytes_mut() }];
        self.op.cpu(&mut HostIo { ins: &ins, outs: &mut outs, cpu }).unwrap();
    }
}

/// Values between -1 and 1.
fn random(ty: Ty) -> Tensor {
    let mut state = 1_u32;
    let values: Vec<f32> = (0..ty.shape.elements())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    if ty.dtype == DType::I32 {
        return Tensor::zeros(ty);
    }
    Tensor::from_f32(ty.shape, &values).unwrap().cast(ty.dtype)
}
