//! Level 5: whole executables on the emulated driver, through everything that ships: probing, NVRTC, the cache, memory, captured launches.
//!
//! The emulated driver can only be loaded by a process that starts with it, so each test starts itself again in a process of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use common::emulated::calls;
use common::small::{bytes, bytes_of, call, close, graph, inputs, open, options, weights};
use common::tools;
use dreamid_engine::device::cuda::{self, CudaOptions};
use dreamid_engine::device::{Arch, Choice, Device, DeviceOptions};
use dreamid_engine::exec::Executable;
use dreamid_engine::graph::{Builder, Graph, lower};
use dreamid_engine::models::ModelFolder;
use dreamid_engine::ops::{Embedding, GroupNorm, Linear};
use dreamid_engine::pipeline::{About, Control, FaceAnalyser, Identity, Image, Pipeline, Request, Search};
use dreamid_engine::{DType, Error, Tensor};
use std::path::Path;

on_the_emulated_driver! {
    executables_compute_what_the_processor_computes [] => values;
    /// Work that starts at once, instead of when somebody waits for it.
    executables_do_not_depend_on_when_work_starts [CUEMU_SCHEDULE = "early"] => values;
    executables_run_on_a_newer_device [CUEMU_DEVICE = "h100"] => values;
    a_kernel_gets_the_shared_memory_of_its_largest_launch [] => shared_memory;
    parts_of_products_are_counted_anew_in_every_launch [] => counters;
    engines_and_threads_do_not_disturb_each_other [] => engines;
    a_step_is_captured_once_and_nothing_waits_between_steps [] => steps;
    weights_larger_than_both_halves_of_the_staging_memory_arrive_whole [] => staging;
    photographs_of_one_size_share_their_networks [] => photographs;
    every_device_is_found_by_its_number [CUEMU_DEVICE = "a100,h100"] => numbers;
    kernels_are_kept_and_a_broken_cache_costs_only_time [] => kept_kernels;
}

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
fn shared_memory() {
    const SIZES: [(usize, usize); 2] = [(45, 512), (40, 512)]; // side, channels
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

/// A table that goes to the device in five pieces, the last a part of one, through memory for two: rows from every piece and both sides
/// of their borders. Memory that is filled again before its copy is done is a fault of the emulated driver, which copies as late as it may.
fn staging() {
    const ROWS_OF_A_PIECE: usize = 4096; // of 16 MiB
    let rows = 4 * ROWS_OF_A_PIECE + 100;
    let ids: Vec<i32> =
        (1..=4).flat_map(|piece| [piece * ROWS_OF_A_PIECE - 1, piece * ROWS_OF_A_PIECE]).chain([0, rows - 1]).map(|i| i as i32).collect();
    let graph = || {
        let mut graph = Graph::new();
        let mut b = Builder::new(&mut graph, DType::F32);
        let x = b.input("ids", DType::I32, [1, ids.len()]);
        let (table, positions) = (b.param("table.weight", [rows, 1024]), b.param("positions.weight", [ids.len(), 1024]));
        let y = b.op(Embedding, &[Some(x), Some(table), Some(positions)]).unwrap();
        b.output("y", y).unwrap();
        graph
    };
    let ids = Tensor::from_i32([1, ids.len()], &ids).unwrap();
    let run = |device: &Device| {
        let mut exe = Executable::compile(graph(), &weights(), device).unwrap();
        let compiled = calls().len();
        (call(&mut exe, &[("ids", ids.clone())]).unwrap(), compiled)
    };
    let ((on_device, compiled), (on_host, _)) = (run(&open().unwrap()), run(&Device::cpu().unwrap()));
    assert_eq!(bytes(&on_device), bytes(&on_host));
    let waits = |name: &str| calls()[..compiled].iter().filter(|call| call.name == name).count();
    // each of the six pieces waits for its half alone, and nothing for everything
    assert_eq!((waits("cuEventSynchronize"), waits("cuStreamSynchronize")), (6, 0), "{:?}", calls());
}

/// Two requests through one pipeline, with other words, other people, other noise: one step is captured and replayed for both, and between
/// a request's first step and its last the host makes no call at which it might wait.
fn steps() {
    const STEPS: usize = 4;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-a");
    let pipeline = |device| Pipeline::new(ModelFolder::open(&folder).unwrap(), device, DType::F32).unwrap();
    let request = |prompt: &str, seed: u64| {
        let words: Vec<f32> = (0..2 * 32).map(|i| ((i as f32 + seed as f32) * 0.7).sin() * 0.5).collect();
        let identity = Identity::new(&Tensor::from_f32([2, 32], &words).unwrap(), About::default()).unwrap();
        let size = Some([8, 8]);
        Request { prompt: prompt.into(), identity: Some(identity), seed, steps: STEPS, size, capture: true, ..Request::default() }
    };
    let requests = [request("oil painting style, S* face", 3), request("S* face", 8)];
    let (mut cuda, mut cpu) = (pipeline(open().unwrap()), pipeline(Device::cpu().unwrap()));
    let latents = |pipeline: &mut Pipeline, request: &Request| {
        let made = pipeline.generate(request, &mut |_| Control::Continue).unwrap();
        made.captured.unwrap().get("latents_final").unwrap().clone()
    };
    let mut graphs = Vec::new();
    for request in &requests {
        let before = calls().len();
        let got = latents(&mut cuda, request);
        let during = calls().split_off(before);
        close(&[got], &[latents(&mut cpu, request)], 1e-4);
        let launches: Vec<(usize, u64)> = during.iter().enumerate().filter_map(|(at, c)| Some((at, c.launched()?))).collect();
        let count = |graph: u64| launches.iter().filter(|launch| launch.1 == graph).count();
        let &(first, graph) = launches.iter().find(|launch| count(launch.1) == STEPS).unwrap_or_else(|| panic!("{during:?}"));
        assert!(during[first..first + STEPS].iter().all(|call| call.launched() == Some(graph)), "{during:?}");
        graphs.push(graph);
        let made = during.iter().filter(|call| call.name == "cuGraphInstantiate").count();
        assert_eq!(made, if graphs.len() == 1 { launches.len() + 1 - STEPS } else { 0 }, "{during:?}");
    }
    assert_eq!(graphs[0], graphs[1], "the second request replays the step of the first");
}

/// The search for small faces runs a network at each of many sizes, which follow from the photograph's: the second of a size finds them made.
fn photographs() {
    let photograph = |shift: usize| Image::from_fn(64, 48, |x, y| [0, 1, 2].map(|c| ((x * 5 + y * 3 + c * 40 + shift) % 251) as u8));
    let analyser = FaceAnalyser::new(&open().unwrap()).unwrap();
    let made = |shift: usize| {
        let before = calls().len();
        analyser.detect(&photograph(shift), Search::Pyramid).unwrap();
        let during = calls().split_off(before);
        let count = |name: &str| during.iter().filter(|call| call.name == name).count();
        (count("cuGraphInstantiate"), count("cuMemAlloc"), count("cuGraphLaunch"))
    };
    let (first, second) = (made(0), made(40));
    assert!(first.0 >= 3 && first.1 >= 3 * first.0, "a network for each size: {first:?}");
    assert!(second.0 == 0 && second.1 == 0 && second.2 >= 3, "none made, all run: {second:?}");
}

fn numbers() {
    assert_eq!(cuda::count().unwrap(), 2);
    for (name, arch) in [("cuda", 80), ("cuda:0", 80), ("cuda:1", 90)] {
        let Device::Cuda(device) = Device::open(name, &options()).unwrap() else { panic!("{name}") };
        assert_eq!(device.arch().0, arch);
        let (free, total) = device.memory().unwrap();
        assert!(free <= total && total > 0, "{free} of {total}");
    }
    // both are emulated
    let Choice { device, passed_over } = Device::choose(&options()).unwrap();
    assert!(device.name() == "cpu" && passed_over.len() == 2, "{device:?}, {passed_over:?}");
    assert_eq!(Device::open("auto", &options()).unwrap().name(), "cpu");
    let error = Device::open("cuda:2", &options()).unwrap_err().to_string();
    assert!(error.contains("cuda:2") && error.contains("CUDA_ERROR_INVALID_DEVICE") && error.contains("nvidia-smi"), "{error}");
}

fn kept_kernels() {
    let dir = tempfile::tempdir().unwrap();
    let run = |folder: &Path, nvrtc: bool| {
        let nvrtc = if nvrtc { tools::nvrtc() } else { tools::ptxas() };
        let cuda = CudaOptions { nvrtc: Some(nvrtc), cache: Some(folder.to_path_buf()), ptx: true, tiles: None };
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
