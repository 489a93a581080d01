//! A small graph with everything that an executable has to deal with, and what it is run with on the emulated device.

use super::tools;
use dreamid_engine::device::cuda::CudaOptions;
use dreamid_engine::device::{Device, DeviceOptions};
use dreamid_engine::exec::Executable;
use dreamid_engine::graph::{Builder, Graph};
use dreamid_engine::ops::{Activation, Add, GroupNorm, LayerNorm, Reshape, TableRow};
use dreamid_engine::weights::Weights;
use dreamid_engine::{DType, Result, Shape, Tensor};
use std::path::Path;

/// Norms, a sum, a view, a table that is read by an index on the device: 4 launches at least.
pub(crate) fn graph(dtype: DType) -> Graph {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, dtype);
    let (x, table, index) = (b.input("x", dtype, [2, 6, 5, 32]), b.input("table", DType::F32, [7, 3]), b.input("index", DType::I32, [1]));
    let mut s = b.scope("block.0");
    let (gamma, beta) = (s.param_f32("norm1.weight", [32]), s.param_f32("norm1.bias", [32]));
    let h = s.op(GroupNorm { groups: 8, eps: 1e-5, silu: true }, &[Some(x), Some(gamma), Some(beta)]).unwrap();
    let tokens = s.op(Reshape { shape: Shape::from([2, 30, 32]) }, &[Some(h)]).unwrap();
    let (gamma, beta) = (s.param_f32("norm2.weight", [32]), s.param_f32("norm2.bias", [32]));
    let normed = s.op(LayerNorm { eps: 1e-5 }, &[Some(tokens), Some(gamma), Some(beta)]).unwrap();
    let sum = b.op(Add { act: Activation::Gelu }, &[Some(tokens), Some(normed)]).unwrap();
    let y = b.op(Reshape { shape: Shape::from([2, 6, 5, 32]) }, &[Some(sum)]).unwrap();
    let row = b.op(TableRow { batch: 2, dtype: DType::F32 }, &[Some(index), Some(table)]).unwrap();
    b.output("y", y).unwrap();
    b.output("row", row).unwrap();
    graph
}

/// A ramp of that step, a table, and which of its rows to take.
pub(crate) fn inputs(step: f32, index: i32) -> [(&'static str, Tensor); 3] {
    let ramp = |n: usize, step: f32| (0..n).map(|i| (i % 23) as f32 * step - 0.9).collect::<Vec<_>>();
    let table: Vec<f32> = (0..21).map(|i| i as f32).collect();
    [
        ("x", Tensor::from_f32([2, 6, 5, 32], &ramp(2 * 30 * 32, step)).unwrap()),
        ("table", Tensor::from_f32([7, 3], &table).unwrap()),
        ("index", Tensor::from_i32([1], &[index]).unwrap()),
    ]
}

pub(crate) fn weights() -> Weights {
    Weights::random(5)
}

pub(crate) fn options() -> DeviceOptions {
    // one cache for all processes: compiling takes longest
    let cache = Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel-cache"));
    DeviceOptions { threads: Some(2), cuda: CudaOptions { nvrtc: Some(tools::nvrtc()), cache, ..CudaOptions::default() } }
}

pub(crate) fn open() -> Result<Device> {
    Device::open("cuda:0", &options())
}

/// Outputs of one run.
pub(crate) fn call(exe: &mut Executable, inputs: &[(&str, Tensor)]) -> Result<Vec<Tensor>> {
    let refs: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (*n, t)).collect();
    Ok(exe.call(&refs)?.into_iter().map(|(_, t)| t).collect())
}

#[track_caller]
pub(crate) fn close(got: &[Tensor], want: &[Tensor], tolerance: f32) {
    for (got, want) in got.iter().zip(want) {
        for (a, b) in got.to_f32_vec().iter().zip(want.to_f32_vec()) {
            assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "{a} is not {b}");
        }
    }
}

pub(crate) fn bytes(tensors: &[Tensor]) -> Vec<Vec<u8>> {
    tensors.iter().map(|t| t.bytes().to_vec()).collect()
}

/// Outputs of an executable of [`graph`].
pub(crate) fn bytes_of(mut exe: Executable) -> Result<Vec<Vec<u8>>> {
    Ok(bytes(&call(&mut exe, &inputs(0.05, 4))?))
}
