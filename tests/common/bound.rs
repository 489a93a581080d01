//! The one bound of all comparisons with a reference.

use dreamid_engine::{DType, Tensor, Ty};

/// How far a result is from its reference, against what is allowed.
pub(crate) struct Verdict {
    /// Largest error over the largest allowed one; at most 1 is a pass.
    pub(crate) ratio: f64,
    /// Where the error is largest, with both values.
    pub(crate) worst: String,
}

/// error(got) ≤ 2 · error(naive) + 1e-5 · scale, where naive is the reference rounded once to the type of the result, error is the
/// largest over the tensor and scale is the largest absolute value of the reference. NaN must stand exactly where the reference has it.
pub(crate) fn compare(reference: &[f64], got: &Tensor) -> Verdict {
    let naive = rounded(reference, got.ty());
    let allowed =
        2.0 * largest(reference, &naive).0 + 1e-5 * reference.iter().filter(|v| v.is_finite()).fold(0.0, |a: f64, v| a.max(v.abs()));
    let values: Vec<f64> = got.to_f32_vec().into_iter().map(f64::from).collect();
    assert_eq!(values.len(), reference.len(), "number of values");
    let (error, at) = largest(reference, &values);
    // a scale of zero allows no error at all
    let ratio = if error == 0.0 { 0.0 } else { error / allowed };
    Verdict { ratio, worst: format!("element {at} of {}: got {}, expected {}", got.ty(), values[at], reference[at]) }
}

/// Largest absolute difference and where; infinite where only one of two is NaN or they differ in an infinity.
fn largest(want: &[f64], got: &[f64]) -> (f64, usize) {
    let difference = |(a, b): (&f64, &f64)| match (a.is_nan(), b.is_nan()) {
        (true, true) => 0.0,
        (false, false) if a == b => 0.0,
        (false, false) => (a - b).abs(),
        _ => f64::INFINITY,
    };
    want.iter().zip(got).map(difference).enumerate().fold((0.0, 0), |worst, (i, e)| if e > worst.0 { (e, i) } else { worst })
}

fn rounded(reference: &[f64], ty: Ty) -> Vec<f64> {
    let tensor = Tensor::from_f32(ty.shape, &reference.iter().map(|&v| v as f32).collect::<Vec<_>>()).unwrap();
    let dtype = if ty.dtype == DType::I32 { DType::F32 } else { ty.dtype };
    tensor.cast(dtype).to_f32_vec().into_iter().map(f64::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_tells_good_from_bad() {
        let tensor = |values: &[f32]| Tensor::from_f32([values.len()], values).unwrap();
        assert!(compare(&[1.0, 2.0], &tensor(&[1.0, 2.0])).ratio == 0.0);
        assert!(compare(&[1.0, 2.0], &tensor(&[1.0, 2.00001])).ratio <= 1.0);
        assert!(compare(&[1.0, 2.0], &tensor(&[1.0001, 2.0])).ratio > 1.0);
        assert!(compare(&[1.0, 2.0], &tensor(&[1.0, f32::NAN])).ratio > 1.0);
        assert!(compare(&[1.0, f64::NAN], &tensor(&[1.0, 2.0])).ratio > 1.0);
        assert!(compare(&[1.0, f64::NAN], &tensor(&[1.0, f32::NAN])).ratio == 0.0);
        assert!(compare(&[0.0, 0.0], &tensor(&[0.0, 1e-30])).ratio > 1.0);
        let bf16 = |values: &[f32]| tensor(values).cast(DType::Bf16);
        assert!(compare(&[1.0, 1.0 + 1.0 / 256.0], &bf16(&[1.0, 1.0])).ratio <= 1.0);
        assert!(compare(&[1.0, 1.0 + 1.0 / 256.0], &bf16(&[1.03, 1.0])).ratio > 1.0);
    }
}
