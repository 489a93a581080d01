//! Level 2: every operation's CPU path against its reference, on every case, instruction set and several numbers of threads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use common::operations::{cases_of, check_cases};
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

test_every_operation!(check_all);

fn check_all(op: &str) {
    check_cases(op, &cases_of(op), check);
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
