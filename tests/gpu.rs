//! Level 10: every case of every operation, tiny models and whole requests on a real NVIDIA device. Without one they are skipped, counted
//! and said to be skipped: a skipped case is no pass.
//!
//! `DREAMID_GPU=require cargo test --test gpu [-- WORDS]` fails where there is no device. Without a device, a few of the cases run on the
//! emulated one, to show that these tests work; they are counted apart. `DREAMID_GPU=emulated` runs all of them there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

#[allow(unused_imports)] // a program without a test harness drops the tests of what it shares
mod common;

use common::networks::{MODELS, NETWORKS, error, expected, given, on_cpu, run, same_picture};
use common::operations::{cases_of, in_f16};
use common::{bound, emulated, fill, lowering, tools};
use dreamid_engine::Tensor;
use dreamid_engine::device::cuda::CudaOptions;
use dreamid_engine::device::{Device, DeviceOptions};
use dreamid_engine::exec::Executable;
use dreamid_engine::graph::{Builder, Graph};
use dreamid_engine::ops::{Case, HostArray, all_cases};
use dreamid_engine::weights::Weights;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Said by the parent of a process that has the emulated device.
const FEW: &str = "emulated-few";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if std::env::args().any(|a| a == "--list") {
        return ExitCode::SUCCESS; // one program, no tests that a runner could start by name
    }
    let mut checks = checks();
    checks.retain(|check| words.is_empty() || words.iter().any(|word| check.name.contains(word)));
    let wish = std::env::var("DREAMID_GPU").unwrap_or_default();
    let device = open();
    let reason = match &device {
        Ok(Device::Cuda(cuda)) if !cuda.is_emulated() || wish.starts_with("emulated") => return run_all(&device.unwrap(), checks, &wish),
        Ok(_) => "the driver is an emulated one".to_owned(),
        Err(error) => error.clone(),
    };
    println!("gpu (level 10): 0 passed, 0 failed, {} SKIPPED: {reason}", checks.len());
    match wish.as_str() {
        "require" => ExitCode::FAILURE,
        _ if checks.is_empty() => ExitCode::SUCCESS,
        "emulated" => on_the_emulated_device("emulated", &words),
        _ => on_the_emulated_device(FEW, &words),
    }
}

/// This program again, in a process that finds the emulated driver.
fn on_the_emulated_device(wish: &str, words: &[String]) -> ExitCode {
    let mut again = emulated::command(&std::env::current_exe().unwrap(), &[("DREAMID_GPU", wish)]);
    let status = again.args(words).status().unwrap();
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One thing to be tested.
struct Check {
    name: String,
    /// Among the few that run on the emulated device.
    few: bool,
    run: Box<Run>,
}

type Run = dyn Fn(&Device) -> Result<(), String>;

fn run_all(device: &Device, mut checks: Vec<Check>, wish: &str) -> ExitCode {
    let Device::Cuda(cuda) = device else { panic!("{}", device.name()) };
    let all = checks.len();
    if wish == FEW {
        checks.retain(|check| check.few);
    }
    println!("gpu (level 10): {} checks of {all} on {}", checks.len(), cuda.model());
    let mut failures = Vec::new();
    for check in &checks {
        let result = catch_unwind(AssertUnwindSafe(|| (check.run)(device)));
        let result = result.unwrap_or_else(|panic| Err(panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "panicked".into())));
        if let Err(what) = result {
            println!("FAILED {}: {what}", check.name);
            failures.push(&check.name);
        }
    }
    let passed = checks.len() - failures.len();
    let kind = if cuda.is_emulated() { "on the emulated device, which are no passes of level 10" } else { "on the device" };
    println!("gpu (level 10): {passed} passed, {} failed {kind}; {} skipped", failures.len(), all - checks.len());
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn options() -> DeviceOptions {
    let cuda = CudaOptions { nvrtc: Some(tools::nvrtc()), cache: Some(kernels_folder()), ..CudaOptions::default() };
    DeviceOptions { threads: None, cuda }
}

fn kernels_folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel-cache")
}

fn open() -> Result<Device, String> {
    Device::open("cuda:0", &DeviceOptions::default()).map_err(|e| e.to_string())?;
    // only now: where there is no device, nothing is installed for it
    Device::open("cuda:0", &options()).map_err(|e| e.to_string())
}

fn checks() -> Vec<Check> {
    const FEW_OPERATIONS: [&str; 6] = ["linear", "conv2d", "attention", "group_norm", "ddim_step", "linear_grad"];
    let mut all = Vec::new();
    for (op, _) in all_cases() {
        let cases = cases_of(op);
        let halves: Vec<Case> = cases.iter().filter_map(in_f16).collect();
        for (i, case) in cases.into_iter().chain(halves).enumerate() {
            let few = FEW_OPERATIONS.contains(&op) && i == 0;
            all.push(Check { name: format!("{op} `{}`", case.name), few, run: Box::new(move |device| operation(device, op, &case)) });
        }
    }
    for model in MODELS {
        for (i, network) in NETWORKS.iter().enumerate() {
            let name = format!("{model} {} on {}, input {i}", network.graph, network.case);
            all.push(Check {
                name,
                few: model == MODELS[0] && i == 0,
                run: Box::new(move |_| is_close(network.error(on_cuda, model, "f32"))),
            });
        }
    }
    all.push(Check { name: "16 bits are as good as on the processor".into(), few: false, run: Box::new(|_| in_16_bits()) });
    all.push(Check { name: "thirty replayed steps equal diffusers".into(), few: false, run: Box::new(|_| thirty_steps()) });
    all.push(Check { name: "auto takes the device".into(), few: true, run: Box::new(auto) });
    all.push(Check { name: "a whole request gives the picture of the processor".into(), few: false, run: Box::new(|_| request()) });
    all
}

/// Largest error against the f64 reference within the common bound, NaN in everything that a kernel leaves unwritten; replayed twice, the
/// same bits.
fn operation(device: &Device, op: &str, case: &Case) -> Result<(), String> {
    let inputs = fill::inputs(op, case);
    let (types, outs) = lowering::types(case);
    let arrays: Vec<Option<HostArray>> = inputs.iter().map(|t| t.as_ref().map(HostArray::from)).collect();
    let reference = case.op.reference(&arrays, &outs).map_err(|e| e.to_string())?;
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, outs[0].dtype);
    let declare = |(i, ty): (usize, &Option<dreamid_engine::Ty>)| ty.map(|ty| b.input(&i.to_string(), ty.dtype, ty.shape));
    let values: Vec<_> = types.iter().enumerate().map(declare).collect();
    let made = b.op_many(case.op.clone(), &values).map_err(|e| e.to_string())?;
    made.iter().enumerate().try_for_each(|(i, &value)| b.output(&i.to_string(), value)).map_err(|e| e.to_string())?;
    let mut exe = Executable::compile(graph, &Weights::random(0), device).map_err(|e| e.to_string())?;
    let mut run = |poison: bool| -> dreamid_engine::Result<Vec<Tensor>> {
        if poison {
            exe.poison()?;
            for (i, tensor) in inputs.iter().enumerate() {
                tensor.as_ref().map_or(Ok(()), |tensor| exe.write(&i.to_string(), tensor))?;
            }
        }
        exe.run()?;
        outs.iter().enumerate().map(|(i, ty)| Ok(exe.read(&i.to_string())?.cast(ty.dtype))).collect()
    };
    let got = run(true).map_err(|e| e.to_string())?;
    for (want, got) in reference.iter().zip(&got) {
        let verdict = bound::compare(want, got);
        if verdict.ratio > 1.0 {
            return Err(format!("error is {:.2} of what is allowed; {}", verdict.ratio, verdict.worst));
        }
    }
    for poison in [false, true] {
        let again = run(poison).map_err(|e| e.to_string())?;
        if again.iter().zip(&got).any(|(a, b)| a.bytes() != b.bytes()) {
            return Err("a replay gives other bits".into());
        }
    }
    Ok(())
}

/// The program on the device; a process in which the emulated driver is found hands that on.
fn on_cuda(command: &[&str], dtype: &str) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_dreamid-engine"));
    program.args(command).args(["--device", "cuda", "--dtype", dtype]);
    program.arg("--nvrtc").arg(tools::nvrtc()).arg("--kernel-cache").arg(kernels_folder());
    program
}

fn is_close(off: f32) -> Result<(), String> {
    if off < 1e-4 { Ok(()) } else { Err(format!("differs by {off:.2e}")) }
}

fn in_16_bits() -> Result<(), String> {
    for network in &NETWORKS {
        let cpu = network.error(on_cpu, "tiny-b", "bf16");
        let (bf16, f16) = (network.error(on_cuda, "tiny-b", "bf16"), network.error(on_cuda, "tiny-b", "f16"));
        if !(bf16 < 2.0 * cpu && f16 < cpu) {
            return Err(format!("{}: bf16 is off by {bf16:.2e}, f16 by {f16:.2e}, bf16 on the processor by {cpu:.2e}", network.graph));
        }
    }
    Ok(())
}

fn thirty_steps() -> Result<(), String> {
    let want = expected("tiny-a");
    let given = given(&want, "ddim", &["latents", "context", "context_uncond"]);
    let got = run(on_cuda, "ddim", "tiny-a", "f32", &given, &["--steps", "30", "--guidance", "7.5"]);
    is_close(error(&got.tensor("final").unwrap(), &want.tensor("ddim.final").unwrap()))
}

/// A real device; the processor if the device is emulated.
fn auto(device: &Device) -> Result<(), String> {
    let Device::Cuda(cuda) = device else { return Err(format!("{} is no CUDA device", device.name())) };
    let want = if cuda.is_emulated() { "cpu" } else { cuda.name() };
    let choice = Device::choose(&options()).map_err(|e| e.to_string())?;
    if choice.device.name() == want { Ok(()) } else { Err(format!("{choice:?} instead of {want}")) }
}

fn request() -> Result<(), String> {
    let model = common::networks::folder("tiny-a");
    same_picture(on_cuda, &["--prompt", "oil painting style", "--size", "16x16", "--model", model.to_str().unwrap()]);
    Ok(())
}
