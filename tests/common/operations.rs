//! Every operation under test, one test each, on the device that a test file brings.

use dreamid_engine::ops::Case;
use dreamid_engine::{DType, Ty};

/// One test for each operation, which calls `$check_all(name)`, and one that none is missing.
#[macro_export]
macro_rules! test_every_operation {
    ($check_all:path) => {
        $crate::test_every_operation! { $check_all =>
            linear conv2d attention group_norm layer_norm embedding timestep_embedding activate add affine concat pool2d pad_channels
            prepend_token select_rows mean_rows normalize softmax cast repeat scale resample table_row ddim_step noise adam_w add_noise mse norm_loss
            sum_rows linear_grad conv2d_grad attention_grad group_norm_grad layer_norm_grad embedding_grad activate_grad concat_grad
            resize_grad affine_grad pool2d_grad select_rows_grad mean_rows_grad normalize_grad softmax_grad scale_grad table_row_grad
            ddim_step_grad add_noise_grad mse_grad norm_loss_grad
        }
    };
    ($check_all:path => $($op:ident)*) => {
        $(#[test] fn $op() { $check_all(stringify!($op)); })*

        #[test]
        fn every_operation_is_tested() {
            const TESTED: &[&str] = &[$(stringify!($op)),*];
            for (op, cases) in dreamid_engine::ops::all_cases() {
                assert!(TESTED.contains(&op) || cases.is_empty(), "{op} is missing from tests/common/operations.rs");
            }
        }
    };
}

/// Checks every case with `check`, which gives the largest error as a share of what is allowed; fails with all that failed.
pub(crate) fn check_cases(op: &str, cases: &[Case], check: impl Fn(&str, &Case) -> Result<f64, String>) {
    let results: Vec<Result<f64, String>> = cases.iter().map(|case| check(op, case).map_err(|e| format!("`{}`: {e}", case.name))).collect();
    let worst = results.iter().flatten().fold(0.0, |a: f64, &b| a.max(b));
    println!("{op}: {} cases, largest error {worst:.2} of what is allowed", cases.len());
    let failures: Vec<&String> = results.iter().filter_map(|r| r.as_ref().err()).collect();
    assert!(failures.is_empty(), "{op}: {} of {} cases failed:\n{failures:#?}", failures.len(), cases.len());
}

/// The cases of the operation called `op`.
pub(crate) fn cases_of(op: &str) -> Vec<Case> {
    dreamid_engine::ops::all_cases().into_iter().find(|(name, _)| *name == op).unwrap().1
}

/// A case of bf16 in f16, which the processor does not compute in; none if the operation does not take it.
pub(crate) fn in_f16(case: &Case) -> Option<Case> {
    let mut half = Case { name: format!("{} as f16", case.name), ..case.clone() };
    let bf16 = half.inputs.iter_mut().flatten().filter(|i| i.ty.dtype == DType::Bf16);
    let swapped = bf16.map(|i| i.ty.dtype = DType::F16).count();
    let types: Vec<Option<Ty>> = half.inputs.iter().map(|i| i.map(|i| i.ty)).collect();
    (swapped > 0 && half.op.infer(&types).is_ok()).then_some(half)
}
