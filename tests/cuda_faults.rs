//! Level 5: what goes wrong with a device, planned in the emulated driver: each fault gives its error, leaves the process alive and loses
//! nothing that was written. First the library, then the program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use common::small::{bytes, bytes_of, call, close, graph, inputs, open, weights};
use common::{emulated, tools};
use dreamid_engine::device::cuda::{self, CudaFailure, CudaOptions};
use dreamid_engine::device::{Device, DeviceOptions};
use dreamid_engine::exec::Executable;
use dreamid_engine::graph::{Builder, Graph};
use dreamid_engine::ops::{Activation, Add};
use dreamid_engine::{DType, Error};
use std::path::Path;
use std::process::{Command, Output};

on_the_emulated_driver! {
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
    memory_for_a_capture_is_lacking_once [CUEMU_FAIL = "cuStreamBeginCapture:1=CUDA_ERROR_OUT_OF_MEMORY"] => memory_at_run;
    memory_for_a_captured_graph_is_lacking_once [CUEMU_FAIL = "cuGraphInstantiateWithFlags:1=CUDA_ERROR_OUT_OF_MEMORY"] => memory_at_run;
    memory_for_a_replay_is_lacking_once [CUEMU_FAIL = "cuGraphLaunch:1=CUDA_ERROR_OUT_OF_MEMORY"] => memory_at_run;
    memory_for_reading_a_result_is_lacking_once [CUEMU_FAIL = "cuMemcpyDtoHAsync:1=CUDA_ERROR_OUT_OF_MEMORY"] => memory_at_run;
    /// The first four are those of the parameters.
    memory_for_writing_an_input_is_lacking_once [CUEMU_FAIL = "cuMemcpyHtoDAsync:5=CUDA_ERROR_OUT_OF_MEMORY"] => memory_at_run;
    memory_for_a_module_is_lacking_once [CUEMU_FAIL = "cuModuleLoadData:2=CUDA_ERROR_OUT_OF_MEMORY"] => memory_at_load;
    memory_for_an_upload_is_lacking_once [CUEMU_FAIL = "cuMemcpyHtoDAsync:3=CUDA_ERROR_OUT_OF_MEMORY"] => memory_at_load;
    page_locked_memory_is_lacking_once [CUEMU_FAIL = "cuMemHostAlloc:1=CUDA_ERROR_OUT_OF_MEMORY"] => locked_memory;
    a_compiler_that_is_too_old_says_so [CUEMU_NVRTC_VERSION = "11.8"] => old_compiler;
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

fn no_device() {
    refused(&["--device cpu", "nvidia-smi"]);
}

fn old_driver() {
    refused(&["CUDA 11.4", "12.0", "--device cpu"]);
}

fn broken_driver() {
    refused(&["start the driver", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "--device cpu"]);
}

fn old_assembler() {
    let error = Executable::compile(graph(DType::F32), &weights(), &open().unwrap()).err().unwrap().to_string();
    assert!(error.contains("CUDA_ERROR_UNSUPPORTED_PTX_VERSION") && error.contains("older than NVRTC"), "{error}");
}

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

fn too_little_memory() {
    let device = open().unwrap();
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, DType::F32);
    let x = b.input("x", DType::F32, [1, 1_000_000]);
    let y = b.op(Add { act: Activation::None }, &[Some(x), Some(x)]).unwrap();
    b.output("y", y).unwrap();
    match Executable::compile(graph, &weights(), &device).err().unwrap() {
        Error::OutOfMemory { device, asked, free, total, .. } => {
            assert_eq!((device.as_str(), asked, total), ("cuda:0", Some(4_000_000), 3_000_000));
            assert!(free <= total, "{free}");
        }
        other => panic!("{other}"),
    }
    // what fits still runs
    bytes_of(Executable::compile(self::graph(DType::F32), &weights(), &device).unwrap()).unwrap();
}

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

/// A run that lacks memory once; what is there before and after it is not disturbed.
fn memory_at_run() {
    let (device, weights) = (open().unwrap(), weights());
    let mut exe = Executable::compile(graph(DType::F32), &weights, &device).unwrap();
    let error = call(&mut exe, &inputs(0.05, 4)).unwrap_err();
    let Error::OutOfMemory { device: name, asked, free, total, .. } = &error else { panic!("{error}") };
    assert_eq!((name.as_str(), *asked), ("cuda:0", None), "the driver does not say how much it wanted: {error}");
    assert!(free <= total && *total > 0 && error.to_string().contains("free"), "{error}");
    let want = call(&mut Executable::compile(graph(DType::F32), &weights, &Device::cpu().unwrap()).unwrap(), &inputs(0.05, 4)).unwrap();
    let got = call(&mut exe, &inputs(0.05, 4)).unwrap();
    close(&got, &want, 2e-5);
    let other = Executable::compile(graph(DType::F32), &weights, &device).unwrap();
    assert_eq!(bytes_of(other).unwrap(), bytes(&got));
}

/// Loading that lacks memory once: an error, and the same again goes well.
fn memory_at_load() {
    let (device, weights) = (open().unwrap(), weights());
    let error = Executable::compile(graph(DType::F32), &weights, &device).err().unwrap();
    assert!(matches!(error, Error::OutOfMemory { asked: None, .. }), "{error}");
    assert_eq!(weights.loaded(), 0, "what was loaded until then is let go of");
    bytes_of(Executable::compile(graph(DType::F32), &weights, &device).unwrap()).unwrap();
}

fn locked_memory() {
    let device = open().unwrap();
    let error = Executable::compile(graph(DType::F32), &weights(), &device).err().unwrap().to_string();
    assert!(error.contains("32 MiB of the machine's own memory") && error.contains("page-locked"), "{error}");
    bytes_of(Executable::compile(graph(DType::F32), &weights(), &device).unwrap()).unwrap();
}

/// The emulated driver as NVRTC: it exports its version.
fn old_compiler() {
    let cuda = CudaOptions { nvrtc: Some("libcuda.so".into()), ..CudaOptions::default() };
    let device = Device::open("cuda:0", &DeviceOptions { threads: Some(1), cuda }).unwrap();
    let error = Executable::compile(graph(DType::F32), &weights(), &device).err().unwrap().to_string();
    assert!(error.contains("NVRTC is of version 11.8") && error.contains("12.0 or newer"), "{error}");
}

/// The error of a run that goes wrong, after one that went well.
fn second_run_fails(device: &Device) -> (Error, Executable, Vec<Vec<u8>>) {
    let mut exe = Executable::compile(graph(DType::F32), &weights(), device).unwrap();
    let want = bytes(&call(&mut exe, &inputs(0.05, 4)).unwrap());
    (call(&mut exe, &inputs(0.05, 4)).unwrap_err(), exe, want)
}

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

fn failed_capture() {
    let mut exe = Executable::compile(graph(DType::F32), &weights(), &open().unwrap()).unwrap();
    let error = call(&mut exe, &inputs(0.05, 4)).unwrap_err().to_string();
    assert!(error.contains("capture") && error.contains("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"), "{error}");
}

/// `generate` of two pictures on a device, one after the other.
fn generate(settings: &[(&str, &str)], extra: &[&str]) -> (Output, tempfile::TempDir) {
    let program = Path::new(env!("CARGO_BIN_EXE_dreamid-engine"));
    finish(emulated::command(program, settings), &tools::nvrtc(), extra)
}

fn finish(mut command: Command, nvrtc: &Path, extra: &[&str]) -> (Output, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-a");
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel-cache");
    command.args(["generate", "--device", "cuda", "--dtype", "f32", "--prompt", "oil painting style", "--size", "16x16", "--steps", "2"]);
    command.args(["--count", "2", "--batch", "1"]).arg("--model").arg(model).arg("--out").arg(dir.path().join("p.png"));
    command.arg("--nvrtc").arg(nvrtc).args(extra);
    if !extra.contains(&"--kernel-cache") {
        command.arg("--kernel-cache").arg(cache);
    }
    (command.output().unwrap(), dir)
}

fn pictures(dir: &tempfile::TempDir) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|f| f.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The program ends by itself, with the status of an error, and says what `words` say. Nothing is written.
#[track_caller]
fn refuses((output, dir): (Output, tempfile::TempDir), words: &[&str]) {
    let text = emulated::text(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("error: device cuda") && words.iter().all(|w| text.contains(w)) && !text.contains("panicked"), "{text}");
    assert_eq!(pictures(&dir), Vec::<String>::new());
}

#[test]
fn the_program_says_why_there_is_no_device() {
    refuses(generate(&[("CUEMU_DEVICE", "none")], &[]), &["nvidia-smi", "--device cpu"]);
    refuses(generate(&[("CUEMU_DRIVER_VERSION", "11040")], &[]), &["CUDA 11.4", "Update it"]);
    refuses(generate(&[("CUEMU_FAIL", "cuInit=CUDA_ERROR_SYSTEM_DRIVER_MISMATCH")], &[]), &["start the driver", "--device cpu"]);
    refuses(generate(&[("CUEMU_DRIVER_VERSION", "12000")], &[]), &["CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "older than NVRTC"]);
    if cuda::count().is_err_and(|e| e.to_string().contains("no NVIDIA driver is installed")) {
        let program = Command::new(env!("CARGO_BIN_EXE_dreamid-engine"));
        refuses(finish(program, &tools::nvrtc(), &[]), &["no NVIDIA driver is installed", "--device cpu"]);
    } else {
        println!("skipped: this machine has a driver");
    }
}

/// `generate` on the device that it takes by itself. Gives what it said of it, and the bytes of the picture.
fn unasked(mut command: Command, extra: &[&str]) -> (String, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-a");
    command.args(["generate", "--prompt", "oil painting style", "--size", "8x8", "--steps", "1"]).args(extra);
    let output = command.arg("--model").arg(model).arg("--out").arg(dir.path().join("p.png")).output().unwrap();
    let text = emulated::text(&output);
    assert!(output.status.success() && !text.contains("panicked"), "{text}");
    let said = text.lines().find(|line| line.starts_with("device: ")).unwrap_or_default().to_owned();
    (said, image::open(dir.path().join("p.png")).unwrap().to_rgb8().into_raw())
}

#[test]
fn auto_takes_no_emulated_device_and_says_why_a_driver_is_of_no_use() {
    let program = Path::new(env!("CARGO_BIN_EXE_dreamid-engine"));
    let nvrtc = tools::nvrtc().display().to_string();
    let (none, picture) = unasked(Command::new(program), &["--device", "cpu"]);
    assert_eq!(none, "", "whoever names a device knows which it is");
    for (settings, nvrtc, why) in [
        (&[][..], nvrtc.as_str(), "device cuda:0: is emulated, and emulated devices are taken by name only"),
        (&[("CUEMU_DEVICE", "none")], &nvrtc, "CUDA_ERROR_NO_DEVICE"),
        (&[("CUEMU_DRIVER_VERSION", "11040")], &nvrtc, "CUDA 11.4"),
        (&[("CUEMU_FAIL", "cuInit=CUDA_ERROR_SYSTEM_DRIVER_MISMATCH")], &nvrtc, "start the driver"),
        (&[], "nowhere/libnvrtc.so", "cannot load NVRTC from nowhere/libnvrtc.so"),
    ] {
        let (said, made) = unasked(emulated::command(program, settings), &["--nvrtc", nvrtc]);
        assert!(said.starts_with("device: cpu; passed over: ") && said.contains(why), "expected `{why}`: {said}");
        assert_eq!(made, picture, "{why}");
    }
    if cuda::has_driver() {
        println!("skipped: this machine has a driver");
    } else {
        assert_eq!(unasked(Command::new(program), &[]), ("device: cpu".to_owned(), picture));
    }
    // by name the emulated device is taken, by `tune` unasked
    let refused = emulated::command(program, &[("CUEMU_DEVICE", "none")]).arg("tune").output().unwrap();
    let text = emulated::text(&refused);
    assert!(!refused.status.success() && text.contains("error: device cuda") && text.contains("nothing to tune"), "{text}");
}

#[test]
fn the_program_says_what_is_wrong_with_the_compiler() {
    let with = |settings: &[(&str, &str)], nvrtc: &str| {
        let program = Path::new(env!("CARGO_BIN_EXE_dreamid-engine"));
        finish(emulated::command(program, settings), Path::new(nvrtc), &[])
    };
    refuses(with(&[], "nowhere/libnvrtc.so"), &["cannot load NVRTC from nowhere/libnvrtc.so"]);
    refuses(with(&[("CUEMU_NVRTC_VERSION", "11.8")], "libcuda.so"), &["NVRTC is of version 11.8", "12.0"]);
}

#[test]
fn the_program_goes_on_without_a_sound_cache() {
    let dir = tempfile::tempdir().unwrap();
    let (file, folder) = (dir.path().join("file"), dir.path().join("folder"));
    std::fs::write(&file, b"").unwrap();
    let with = |cache: &Path| generate(&[], &["--kernel-cache", cache.to_str().unwrap()]);
    let (output, made) = with(&file);
    let text = emulated::text(&output);
    assert!(output.status.success() && text.contains("kernel cache:") && text.contains("cannot be"), "{text}");
    assert_eq!(pictures(&made), ["p-1.png", "p-2.png", "p-sheet.png"]);
    // half a kernel
    assert!(with(&folder).0.status.success());
    for kernel in std::fs::read_dir(&folder).unwrap() {
        let kernel = kernel.unwrap().path();
        std::fs::write(&kernel, &std::fs::read(&kernel).unwrap()[..100]).unwrap();
    }
    let (output, again) = with(&folder);
    let text = emulated::text(&output);
    assert!(output.status.success() && text.contains("is damaged"), "{text}");
    let picture = |dir: &tempfile::TempDir| image::open(dir.path().join("p-2.png")).unwrap().to_rgb8().into_raw();
    assert_eq!(picture(&again), picture(&made));
}

#[test]
fn the_program_has_too_little_memory_from_the_start() {
    refuses(generate(&[("CUEMU_MEMORY", "1000000")], &[]), &["out of memory", "needs", "0 MiB are free", "smaller picture"]);
}

/// Replays of prompt, keys and values, time tables, two steps and the decoder; the seventh is of the second picture.
#[test]
fn a_picture_that_is_done_is_kept_whatever_happens_to_the_next() {
    let whole = generate(&[], &[]);
    assert!(whole.0.status.success(), "{}", emulated::text(&whole.0));
    for (fault, words) in [
        ("cuGraphLaunch:7=CUDA_ERROR_OUT_OF_MEMORY", "out of memory"),
        ("cuGraphLaunch:7=CUDA_ERROR_ECC_UNCORRECTABLE", "the device is gone"),
        ("cuGraphLaunch:7=CUDA_ERROR_ILLEGAL_ADDRESS", "a kernel failed"),
    ] {
        let (output, dir) = generate(&[("CUEMU_FAIL", fault)], &[]);
        let text = emulated::text(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(words) && text.contains("written before that: ") && !text.contains("panicked"), "{fault}: {text}");
        assert_eq!(pictures(&dir), ["p-1.png"], "{fault}");
        let bytes = |dir: &tempfile::TempDir| std::fs::read(dir.path().join("p-1.png")).unwrap();
        assert_eq!(bytes(&dir), bytes(&whole.1), "{fault}");
    }
}
