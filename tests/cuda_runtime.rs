//! Level 5: whole executables on the emulated driver, through everything that ships: probing, NVRTC, the cache, memory, captured launches.
//! And what goes wrong there: each fault gives its error, leaves the process alive and loses nothing that was written.
//!
//! The emulated driver can only be loaded by a process that starts with it, so each test starts an ignored one in a process of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use common::{emulated, tools};
use dreamid_engine::device::cuda::{self, CudaFailure, CudaOptions};
use dreamid_engine::device::{Arch, Device, DeviceOptions};
use dreamid_engine::exec::Executable;
use dreamid_engine::graph::{Builder, Graph, lower};
use dreamid_engine::ops::{Activation, Add, GroupNorm, LayerNorm, Linear, Reshape, TableRow};
use dreamid_engine::weights::Weights;
use dreamid_engine::{DType, Error, Result, Shape, Tensor};
use std::path::Path;

macro_rules! on_the_emulated_driver {
    ($($(#[$doc:meta])* $name:ident [$($variable:ident = $value:literal),*] => $body:ident;)*) => {
        $($(#[$doc])* #[test] fn $name() { emulated::run_test(stringify!($body), &[$((stringify!($variable), $value)),*]); })*
    };
}

on_the_emulated_driver! {
    executables_compute_what_the_processor_computes [] => values;
    /// Work that starts at once, instead of when somebody waits for it.
    executables_do_not_depend_on_when_work_starts [CUEMU_SCHEDULE = "early"] => values;
    executables_run_on_a_newer_device [CUEMU_DEVICE = "h100"] => values;
    a_kernel_gets_the_shared_memory_of_its_largest_launch [] => shared_memory;
    parts_of_products_are_counted_anew_in_every_launch [] => counters;
    engines_and_threads_do_not_disturb_each_other [] => engines;
    every_device_is_found_by_its_number [CUEMU_DEVICE = "a100,h100"] => numbers;
    kernels_are_kept_and_a_broken_cache_costs_only_time [] => kept_kernels;
    a_machine_without_a_device_says_so [CUEMU_DEVICE = "none"] => no_device;
    a_driver_that_is_too_old_says_so [CUEMU_DRIVER_VERSION = "11040"] => old_driver;
    a_driver_that_does_not_start_says_so [CUEMU_FAIL = "cuInit=CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"] => broken_driver;
    a_driver_older_than_the_compiler_says_so [CUEMU_DRIVER_VERSION = "12000"] => old_assembler;
    a_missing_compiler_says_what_to_install [] => no_compiler;
    too_little_memory_is_stated_in_numbers [CUEMU_MEMORY = "3000000"] => too_little_memory;
    memory_that_runs_out_at_a_second_executable_leaves_the_first [CUEMU_FAIL = "alloc:13=CUDA_ERROR_OUT_OF_MEMORY"] => memory_later;
    a_fault_of_a_kernel_is_the_context_s_end_not_the_process_s [CUEMU_FAIL = "kernel:6=CUDA_ERROR_ILLEGAL_ADDRESS"] => kernel_fault;
    a_device_lost_in_the_middle_is_an_error_from_then_on [CUEMU_FAIL = "kernel:6=CUDA_ERROR_ECC_UNCORRECTABLE"] => lost_device;
    a_capture_that_fails_is_not_hidden [CUEMU_FAIL = "cuStreamEndCapture:1=CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"] => failed_capture;
}

/// Norms, a sum, a view, a table that is read by an index on the device: 4 launches at least.
fn graph(dtype: DType) -> Graph {
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

fn inputs(step: f32, index: i32) -> [(&'static str, Tensor); 3] {
    let ramp = |n: usize, step: f32| (0..n).map(|i| (i % 23) as f32 * step - 0.9).collect::<Vec<_>>();
    let table: Vec<f32> = (0..21).map(|i| i as f32).collect();
    [
        ("x", Tensor::from_f32([2, 6, 5, 32], &ramp(2 * 30 * 32, step)).unwrap()),
        ("table", Tensor::from_f32([7, 3], &table).unwrap()),
        ("index", Tensor::from_i32([1], &[index]).unwrap()),
    ]
}

fn weights() -> Weights {
    Weights::random(5)
}

fn options() -> DeviceOptions {
    // one cache for all processes: compiling takes longest
    let cache = Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel-cache"));
    DeviceOptions { threads: Some(2), cuda: CudaOptions { nvrtc: Some(tools::nvrtc()), cache, ptx: false } }
}

fn open() -> Result<Device> {
    Device::open("cuda:0", &options())
}

fn call(exe: &mut Executable, inputs: &[(&str, Tensor)]) -> Result<Vec<Tensor>> {
    let refs: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (*n, t)).collect();
    Ok(exe.call(&refs)?.into_iter().map(|(_, t)| t).collect())
}

#[track_caller]
fn close(got: &[Tensor], want: &[Tensor], tolerance: f32) {
    for (got, want) in got.iter().zip(want) {
        for (a, b) in got.to_f32_vec().iter().zip(want.to_f32_vec()) {
            assert!((a - b).abs() <= tolerance * (1.0 + b.abs()), "{a} is not {b}");
        }
    }
}

fn bytes(tensors: &[Tensor]) -> Vec<Vec<u8>> {
    tensors.iter().map(|t| t.bytes().to_vec()).collect()
}

#[test]
#[ignore = "needs the emulated driver"]
fn values() {
    for (dtype, tolerance) in [(DType::F32, 2e-5), (DType::Bf16, 4e-2)] {
        let mut cpu = Executable::compile(graph(dtype), &weights(), &Device::cpu().unwrap()).unwrap();
        let weights = weights();
        let mut exe = Executable::compile(graph(dtype), &weights, &open().unwrap()).unwrap();
        exe.poison().unwrap();
        let first = call(&mut exe, &inputs(0.05, 4)).unwrap();
        close(&first, &call(&mut cpu, &inputs(0.05, 4)).unwrap(), tolerance);
        assert_eq!(first[1].to_f32_vec(), [12.0, 13.0, 14.0, 12.0, 13.0, 14.0]);
        // the same launches replayed on other inputs, and on the first again
        let second = call(&mut exe, &inputs(0.11, 2)).unwrap();
        close(&second, &call(&mut cpu, &inputs(0.11, 2)).unwrap(), tolerance);
        assert_eq!(bytes(&call(&mut exe, &inputs(0.05, 4)).unwrap()), bytes(&first));
        // node by node: the same bits
        exe.profile(true);
        assert_eq!(bytes(&call(&mut exe, &inputs(0.11, 2)).unwrap()), bytes(&second));
        assert!(exe.times().unwrap().by_time().iter().map(|(_, t)| t.calls).sum::<usize>() >= 4);
        exe.profile(false);
        exe.watch_non_finite(true);
        assert_eq!(bytes(&call(&mut exe, &inputs(0.11, 2)).unwrap()), bytes(&second));
        let mut bad = inputs(0.05, 4);
        bad[0].1.bytes_mut()[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        match call(&mut exe, &bad).unwrap_err() {
            Error::NonFinite { at, .. } => assert_eq!(at, "block.0 (group_norm)"),
            other => panic!("{other}"),
        }
        exe.watch_non_finite(false);
        assert_eq!(bytes(&call(&mut exe, &inputs(0.05, 4)).unwrap()), bytes(&first), "a NaN leaves nothing behind");
        // an output fed back without a way through the host
        exe.run().unwrap();
        if dtype == DType::F32 {
            exe.feed("y", "x").unwrap();
            exe.run().unwrap();
            let again = [("x", first[0].clone()), inputs(0.0, 4)[1].clone(), inputs(0.0, 4)[2].clone()];
            assert_eq!(exe.read("y").unwrap().bytes(), call(&mut exe, &again).unwrap()[0].bytes());
        }
        // parameters are on the device once, and go with the last executable
        assert_eq!(weights.loaded(), 4);
        let other = Executable::compile(graph(dtype), &weights, &Device::cpu().unwrap()).unwrap();
        assert_eq!(weights.loaded(), 8, "the processor has its own");
        drop((exe, other));
        assert_eq!(weights.loaded(), 0);
    }
}

/// One kernel at two sizes, the one with more shared memory first: what the second asks for must not take it from the first.
#[test]
#[ignore = "needs the emulated driver"]
fn shared_memory() {
    const SIZES: [(usize, usize); 2] = [(32, 320), (32, 256)]; // side, channels
    let graph = || {
        let mut graph = Graph::new();
        let mut b = Builder::new(&mut graph, DType::Bf16);
        for (side, channels) in SIZES {
            let x = b.input(&format!("x{side}-{channels}"), DType::Bf16, [1, side, side, channels]);
            let [gamma, beta] = ["weight", "bias"].map(|name| b.param_f32(&format!("norm{side}-{channels}.{name}"), [channels]));
            let y = b.op(GroupNorm { groups: 32, eps: 1e-5, silu: true }, &[Some(x), Some(gamma), Some(beta)]).unwrap();
            b.output(&format!("y{side}-{channels}"), y).unwrap();
        }
        graph
    };
    let launches: Vec<_> = lower(&graph(), &Arch(80).into()).unwrap().into_iter().flat_map(|l| l.launches).collect();
    assert!(launches.len() == 2 && launches[0].kernel == launches[1].kernel, "{launches:?}");
    assert!(launches[0].shared > launches[1].shared && launches[1].shared > 48 << 10, "{launches:?}");
    let inputs = SIZES.map(|(side, channels)| {
        let values: Vec<f32> = (0..side * side * channels).map(|i| (i % 37) as f32 * 0.1 - 1.7).collect();
        (format!("x{side}-{channels}"), Tensor::from_f32([1, side, side, channels], &values).unwrap())
    });
    let run = |device: &Device| {
        let mut exe = Executable::compile(graph(), &weights(), device).unwrap();
        call(&mut exe, &inputs.each_ref().map(|(name, tensor)| (name.as_str(), tensor.clone()))).unwrap()
    };
    close(&run(&open().unwrap()), &run(&Device::cpu().unwrap()), 2e-2);
}

/// Two products whose parts are added by the last block of a tile: counters start at zero and end there, in every way of running.
#[test]
#[ignore = "needs the emulated driver"]
fn counters() {
    let graph = || {
        let mut graph = Graph::new();
        let mut b = Builder::new(&mut graph, DType::F32);
        let x = b.input("x", DType::F32, [13, 1100]);
        let weights = [b.param("first.weight", [1100, 1100]), b.param("second.weight", [40, 1100])];
        let y = weights.into_iter().fold(x, |x, w| b.op(Linear::plain(), &[Some(x), Some(w)]).unwrap());
        b.output("y", y).unwrap();
        graph
    };
    assert!(lower(&graph(), &Arch(80).into()).unwrap().iter().filter(|l| l.counters() > 0).count() == 2);
    let (device, weights) = (open().unwrap(), weights());
    let inputs = [0.01, 0.02].map(|step| {
        let values: Vec<f32> = (0..13 * 1100).map(|i| (i % 29) as f32 * step - 0.2).collect();
        [("x", Tensor::from_f32([13, 1100], &values).unwrap())]
    });
    let mut cpu = Executable::compile(graph(), &weights, &Device::cpu().unwrap()).unwrap();
    let [mut one, mut other] = [(); 2].map(|()| Executable::compile(graph(), &weights, &device).unwrap());
    one.poison().unwrap();
    let want = inputs.each_ref().map(|x| call(&mut one, x).unwrap());
    inputs.iter().zip(&want).for_each(|(x, want)| close(want, &call(&mut cpu, x).unwrap(), 1e-4));
    for watched in [false, true, false] {
        one.watch_non_finite(watched);
        for (x, want) in inputs.iter().zip(&want) {
            assert_eq!((bytes(&call(&mut other, x).unwrap()), bytes(&call(&mut one, x).unwrap())), (bytes(want), bytes(want)));
        }
    }
}

#[test]
#[ignore = "needs the emulated driver"]
fn engines() {
    let one = open().unwrap();
    let want = call(&mut Executable::compile(graph(DType::F32), &weights(), &one).unwrap(), &inputs(0.05, 4)).unwrap();
    let shared = weights();
    std::thread::scope(|scope| {
        for i in 0..4 {
            let (one, shared, want) = (&one, &shared, &want);
            scope.spawn(move || {
                let other = open().unwrap();
                let device = if i % 2 == 0 { one } else { &other };
                let mut exe = Executable::compile(graph(DType::F32), shared, device).unwrap();
                for step in 0..4 {
                    if step == 2 {
                        call(&mut exe, &inputs(0.3, i)).unwrap();
                    }
                    assert_eq!(bytes(&call(&mut exe, &inputs(0.05, 4)).unwrap()), bytes(want));
                }
            });
        }
    });
}

#[test]
#[ignore = "needs the emulated driver"]
fn numbers() {
    assert_eq!(cuda::count().unwrap(), 2);
    for (name, arch) in [("cuda", 80), ("cuda:0", 80), ("cuda:1", 90)] {
        let Device::Cuda(device) = Device::open(name, &options()).unwrap() else { panic!("{name}") };
        assert_eq!(device.arch().0, arch);
        let (free, total) = device.memory().unwrap();
        assert!(free <= total && total > 0, "{free} of {total}");
    }
    let error = Device::open("cuda:2", &options()).unwrap_err().to_string();
    assert!(error.contains("cuda:2") && error.contains("CUDA_ERROR_INVALID_DEVICE") && error.contains("nvidia-smi"), "{error}");
}

#[test]
#[ignore = "needs the emulated driver"]
fn kept_kernels() {
    let dir = tempfile::tempdir().unwrap();
    let run = |folder: &Path, nvrtc: bool| {
        let nvrtc = if nvrtc { tools::nvrtc() } else { tools::ptxas() };
        let cuda = CudaOptions { nvrtc: Some(nvrtc), cache: Some(folder.to_path_buf()), ptx: true };
        let device = Device::open("cuda:0", &DeviceOptions { threads: Some(1), cuda })?;
        bytes_of(Executable::compile(graph(DType::F32), &weights(), &device)?)
    };
    let folder = dir.path().join("kernels");
    let want = run(&folder, true).unwrap();
    let files = |folder: &Path| {
        let all = std::fs::read_dir(folder).unwrap().map(|f| f.unwrap().path());
        let mut all: Vec<_> = all.map(|f| (f.clone(), f.metadata().unwrap().modified().unwrap())).collect();
        all.sort();
        all
    };
    let kept = files(&folder);
    assert!(kept.len() >= 4, "{kept:?}");
    assert_eq!(run(&folder, true).unwrap(), want);
    assert_eq!(files(&folder), kept, "nothing is compiled twice");
    // half a file, and one of other bytes
    std::fs::write(&kept[0].0, &std::fs::read(&kept[0].0).unwrap()[..40]).unwrap();
    std::fs::write(&kept[1].0, b"not a kernel").unwrap();
    assert_eq!(run(&folder, true).unwrap(), want);
    // a folder that cannot be one
    assert_eq!(run(&kept[0].0, true).unwrap(), want);
    let error = run(&dir.path().join("empty"), false).unwrap_err().to_string();
    assert!(error.contains("cannot load NVRTC"), "{error}");
}

fn bytes_of(mut exe: Executable) -> Result<Vec<Vec<u8>>> {
    Ok(bytes(&call(&mut exe, &inputs(0.05, 4))?))
}

#[track_caller]
fn refused(words: &[&str]) {
    let error = open().unwrap_err().to_string();
    assert!(words.iter().all(|w| error.contains(w)), "{error}");
    assert!(cuda::count().map_or(true, |n| n == 0), "devices are counted");
    // the process goes on
    let cpu = Executable::compile(graph(DType::F32), &weights(), &Device::cpu().unwrap()).unwrap();
    bytes_of(cpu).unwrap();
}

#[test]
#[ignore = "needs the emulated driver"]
fn no_device() {
    refused(&["--device cpu", "nvidia-smi"]);
}

#[test]
#[ignore = "needs the emulated driver"]
fn old_driver() {
    refused(&["CUDA 11.4", "12.0", "--device cpu"]);
}

#[test]
#[ignore = "needs the emulated driver"]
fn broken_driver() {
    refused(&["start the driver", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "--device cpu"]);
}

#[test]
#[ignore = "needs the emulated driver"]
fn old_assembler() {
    let error = Executable::compile(graph(DType::F32), &weights(), &open().unwrap()).err().unwrap().to_string();
    assert!(error.contains("CUDA_ERROR_UNSUPPORTED_PTX_VERSION") && error.contains("older than NVRTC"), "{error}");
}

#[test]
#[ignore = "needs the emulated driver"]
fn no_compiler() {
    let with = |nvrtc| DeviceOptions { threads: Some(1), cuda: CudaOptions { nvrtc, ..CudaOptions::default() } };
    let device = Device::open("cuda:0", &with(Some("nowhere/libnvrtc.so".into()))).unwrap();
    let error = Executable::compile(graph(DType::F32), &weights(), &device).err().unwrap().to_string();
    assert!(error.contains("nowhere/libnvrtc.so"), "{error}");
    let device = Device::open("cuda:0", &with(None)).unwrap();
    // where the machine has NVRTC among its libraries, it is found
    if let Err(error) = Executable::compile(graph(DType::F32), &weights(), &device) {
        assert!(error.to_string().contains("nvidia-cuda-nvrtc-cu12") && error.to_string().contains("--nvrtc"), "{error}");
    }
}

#[test]
#[ignore = "needs the emulated driver"]
fn too_little_memory() {
    let device = open().unwrap();
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, DType::F32);
    let x = b.input("x", DType::F32, [1, 1_000_000]);
    let y = b.op(Add { act: Activation::None }, &[Some(x), Some(x)]).unwrap();
    b.output("y", y).unwrap();
    match Executable::compile(graph, &weights(), &device).err().unwrap() {
        Error::OutOfMemory { device, asked, free, total, .. } => {
            assert_eq!((device.as_str(), asked, total), ("cuda:0", 4_000_000, 3_000_000));
            assert!(free <= total, "{free}");
        }
        other => panic!("{other}"),
    }
    // what fits still runs
    bytes_of(Executable::compile(self::graph(DType::F32), &weights(), &device).unwrap()).unwrap();
}

#[test]
#[ignore = "needs the emulated driver"]
fn memory_later() {
    let device = open().unwrap();
    let weights = weights();
    let mut first = Executable::compile(graph(DType::F32), &weights, &device).unwrap();
    let want = bytes(&call(&mut first, &inputs(0.05, 4)).unwrap());
    let mut refused = 0;
    for _ in 0..3 {
        // the parameters are shared, the rest is allocated for each
        match Executable::compile(graph(DType::F32), &weights, &device) {
            Err(Error::OutOfMemory { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
            Ok(other) => assert_eq!(bytes_of(other).unwrap(), want),
        }
    }
    assert_eq!(refused, 1);
    assert_eq!(bytes(&call(&mut first, &inputs(0.05, 4)).unwrap()), want);
}

/// The error of a run that goes wrong, after one that went well.
fn second_run_fails(device: &Device) -> (Error, Executable, Vec<Vec<u8>>) {
    let mut exe = Executable::compile(graph(DType::F32), &weights(), device).unwrap();
    let want = bytes(&call(&mut exe, &inputs(0.05, 4)).unwrap());
    (call(&mut exe, &inputs(0.05, 4)).unwrap_err(), exe, want)
}

#[test]
#[ignore = "needs the emulated driver"]
fn kernel_fault() {
    let device = open().unwrap();
    let (error, mut exe, want) = second_run_fails(&device);
    let Error::Cuda { status, .. } = &error else { panic!("{error}") };
    assert_eq!((status.failure(), status.code()), (CudaFailure::KernelFault, 700), "{error}");
    // everything on this context is lost, and says so
    for error in [call(&mut exe, &inputs(0.05, 4)).unwrap_err(), exe.read("y").unwrap_err()] {
        let text = error.to_string();
        assert!(text.contains("earlier fault") && text.contains("700") && text.contains("open the device again"), "{text}");
    }
    drop((exe, device));
    // a new one works
    assert_eq!(bytes_of(Executable::compile(graph(DType::F32), &weights(), &open().unwrap()).unwrap()).unwrap(), want);
}

#[test]
#[ignore = "needs the emulated driver"]
fn lost_device() {
    let device = open().unwrap();
    let (error, exe, want) = second_run_fails(&device);
    let Error::Cuda { status, .. } = &error else { panic!("{error}") };
    assert_eq!(status.failure(), CudaFailure::DeviceLost, "{error}");
    drop((exe, device));
    assert!(matches!(open(), Err(Error::Cuda { .. })), "a lost device does not come back by itself");
    // the process goes on without it
    let cpu = bytes_of(Executable::compile(graph(DType::F32), &weights(), &Device::cpu().unwrap()).unwrap()).unwrap();
    assert_eq!(cpu[1], want[1]);
}

#[test]
#[ignore = "needs the emulated driver"]
fn failed_capture() {
    let mut exe = Executable::compile(graph(DType::F32), &weights(), &open().unwrap()).unwrap();
    let error = call(&mut exe, &inputs(0.05, 4)).unwrap_err().to_string();
    assert!(error.contains("capture") && error.contains("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"), "{error}");
}
