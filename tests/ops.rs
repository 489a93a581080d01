//! Level 2: every operation's CPU path against its reference, on every case, instruction set and several numbers of threads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use common::{bound, fill, host};
use dreamid_engine::device::cpu::{Cpu, Isa};
use dreamid_engine::ops::{Case, HostArray, all_cases};
use dreamid_engine::{Tensor, Ty};
use std::sync::OnceLock;

/// Operations without cases, each with its reason.
const NO_CASES: [(&str, &str); 1] = [("reshape", "moves no bytes; the tests of the plan cover it")];

#[test]
fn every_operation_has_cases_with_distinct_names() {
    for (op, cases) in all_cases() {
        let excused = NO_CASES.iter().any(|(name, _)| *name == op);
        assert!(!cases.is_empty() || excused, "{op} has no cases");
        let mut names: Vec<&str> = cases.iter().map(|c| c.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), cases.len(), "{op} has two cases of one name");
        assert!(cases.iter().all(|c| c.op.name() == op), "a case of {op} is of another operation");
    }
}

macro_rules! cpu_agrees_with_reference {
    ($($op:ident)*) => {
        /// Operations that have a test of their own below.
        const TESTED: &[&str] = &[$(stringify!($op)),*];
        $(#[test] fn $op() { check_all(stringify!($op)); })*
    };
}

cpu_agrees_with_reference! {
    linear conv2d attention group_norm layer_norm embedding timestep_embedding activate add affine concat pool2d pad_channels
    prepend_token select_rows mean_rows normalize softmax cast repeat scale table_row ddim_step noise adam_w add_noise mse norm_loss sum_rows
    linear_grad conv2d_grad attention_grad group_norm_grad layer_norm_grad embedding_grad activate_grad concat_grad resize_grad
    affine_grad pool2d_grad select_rows_grad mean_rows_grad normalize_grad softmax_grad scale_grad table_row_grad ddim_step_grad
    add_noise_grad mse_grad norm_loss_grad
}

#[test]
fn every_operation_is_tested() {
    for (op, cases) in all_cases() {
        assert!(TESTED.contains(&op) || cases.is_empty(), "{op} is missing from this file");
    }
}

fn check_all(op: &str) {
    let (_, cases) = all_cases().into_iter().find(|(name, _)| *name == op).unwrap();
    let results: Vec<Result<f64, String>> = cases.iter().map(|case| check(op, case).map_err(|e| format!("`{}`: {e}", case.name))).collect();
    let worst = results.iter().flatten().fold(0.0, |a: f64, &b| a.max(b));
    println!("{op}: {} cases, largest error {worst:.2} of what is allowed", cases.len());
    let failures: Vec<&String> = results.iter().filter_map(|r| r.as_ref().err()).collect();
    assert!(failures.is_empty(), "{op}: {} of {} cases failed:\n{failures:#?}", failures.len(), cases.len());
}

/// For each instruction set of this machine, and for emulated tiles: devices with one, two and three threads.
fn devices() -> &'static [[Cpu; 3]] {
    static DEVICES: OnceLock<Vec<[Cpu; 3]>> = OnceLock::new();
    DEVICES.get_or_init(|| {
        let sets = Isa::ALL.into_iter().filter(|isa| isa.is_supported());
        let real = sets.map(|isa| [1, 2, 3].map(|threads| Cpu::with_isa(Some(threads), isa).unwrap()));
        real.chain([[1, 2, 3].map(|threads| Cpu::with_emulated_tiles(Some(threads)).unwrap())]).collect()
    })
}

/// Largest error of a case as a share of what is allowed.
fn check(op: &str, case: &Case) -> Result<f64, String> {
    let inputs = fill::inputs(op, case);
    let types: Vec<Option<Ty>> = inputs.iter().map(|t| t.as_ref().map(Tensor::ty)).collect();
    let outs = case.op.infer(&types).map_err(|e| format!("infer: {e}"))?;
    let arrays: Vec<Option<HostArray>> = inputs.iter().map(|t| t.as_ref().map(HostArray::from)).collect();
    let reference = case.op.reference(&arrays, &outs).map_err(|e| format!("reference: {e}"))?;
    if reference.iter().zip(&outs).any(|(r, ty)| r.len() != ty.shape.elements()) || reference.len() != outs.len() {
        return Err("the reference does not fill the inferred outputs".into());
    }
    let mut worst: f64 = 0.0;
    for of_isa in devices() {
        let isa = of_isa[0].isa();
        let [one, others @ ..] = of_isa;
        let got = host::run(&case.op, &inputs, &outs, one).map_err(|e| format!("{isa:?}: {e}"))?;
        for cpu in others {
            let again = host::run(&case.op, &inputs, &outs, cpu).map_err(|e| format!("{isa:?}, {} threads: {e}", cpu.threads()))?;
            if again.iter().zip(&got).any(|(a, b)| a.bytes() != b.bytes()) {
                return Err(format!("{isa:?}: {} threads give other bits than one", cpu.threads()));
            }
        }
        for (want, got) in reference.iter().zip(&got) {
            let verdict = bound::compare(want, got);
            if verdict.ratio > 1.0 {
                return Err(format!("{isa:?}: error is {:.2} of what is allowed; {}", verdict.ratio, verdict.worst));
            }
            worst = worst.max(verdict.ratio);
        }
    }
    Ok(worst)
}
