//! Functions of f32 vectors, to about one unit in the last place, the same on every instruction set up to fused rounding.
//!
//! NaN stays NaN. The polynomials were fitted for this file (weighted least squares, relative error as weight).

use super::simd::Simd;
use crate::ops::Activation;

/// eˣ; x is clamped to ±86, beyond which nothing here needs it.
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // Adding 1.5 · 2²³ leaves the nearest integer in the low bits.
    const SHIFT: f32 = 12_582_912.0;
    // ln 2 in two parts: n · HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // eʳ = 1 + r + r² q(r) on |r| ≤ ln 2 / 2, relative error 4e-9
    const Q: [f32; 5] = [0.001_381_31, 0.008_369_42, 0.041_668_46, 0.166_665_15, 0.499_999_94];
    // SAFETY: as the caller promises.
    unsafe {
        let x = S::min(S::splat(86.0), S::max(S::splat(-86.0), x));
        let shifted = S::fma(x, S::splat(std::f32::consts::LOG2_E), S::splat(SHIFT));
        let n = S::sub(shifted, S::splat(SHIFT));
        let r = S::fma(n, S::splat(-LN2_LOW), S::fma(n, S::splat(-LN2_HIGH), x));
        let q = polynomial::<S, 5>(r, Q);
        let p = S::add(S::fma(S::mul(r, r), q, r), S::splat(1.0));
        S::scale(p, shifted)
    }
}

/// 2ˣ for x ≤ 0, to 2e-7; x below −125 counts as −125: next to nothing beside the largest weight, which is 1.
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
pub(crate) unsafe fn exp2<S: Simd>(x: S::V) -> S::V {
    // Adding 1.5 · 2²³ leaves the nearest integer in the low bits.
    const SHIFT: f32 = 12_582_912.0;
    // 2^f on |f| ≤ ½, fitted for this file
    const C: [f32; 6] = [0.001_327_647_1, 0.009_675_541, 0.055_507_13, 0.240_221_2, 0.693_146_94, 1.0];
    // SAFETY: as the caller promises.
    unsafe {
        let x = S::max(S::splat(-125.0), x);
        let shifted = S::add(x, S::splat(SHIFT));
        let f = S::sub(x, S::sub(shifted, S::splat(SHIFT)));
        S::scale(polynomial::<S, 6>(f, C), shifted)
    }
}

/// 1 / (1 + e⁻ˣ)
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
pub(crate) unsafe fn sigmoid<S: Simd>(x: S::V) -> S::V {
    // SAFETY: as the caller promises.
    unsafe {
        let e = exp::<S>(S::sub(S::splat(0.0), x));
        S::div(S::splat(1.0), S::add(S::splat(1.0), e))
    }
}

/// x · sigmoid(x)
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
pub(crate) unsafe fn silu<S: Simd>(x: S::V) -> S::V {
    // SAFETY: as the caller promises.
    unsafe { S::mul(x, sigmoid::<S>(x)) }
}

/// x · Φ(x), exact.
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
pub(crate) unsafe fn gelu<S: Simd>(x: S::V) -> S::V {
    // SAFETY: as the caller promises.
    unsafe { S::mul(x, normal::<S>(x).0) }
}

/// Φ(x) + x · φ(x)
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
pub(crate) unsafe fn gelu_derivative<S: Simd>(x: S::V) -> S::V {
    const INV_SQRT_TAU: f32 = 0.398_942_3;
    // SAFETY: as the caller promises.
    unsafe {
        let (below, bell) = normal::<S>(x);
        S::fma(S::mul(x, S::splat(INV_SQRT_TAU)), bell, below)
    }
}

/// Φ(x) and exp(−x²/2).
///
/// The tail Φ(−|x|) = ½ erfcx(|x|/√2) · exp(−x²/2) is computed without cancellation, so small results are right too.
#[inline(always)]
unsafe fn normal<S: Simd>(x: S::V) -> (S::V, S::V) {
    // ½ erfcx(z) as a polynomial in t = 1 / (1 + z/2) without constant term; relative error 8e-8 for z up to 10.
    const HALF_ERFCX: [f32; 9] = [
        -0.059_068_58 / 2.0,
        0.284_573_38 / 2.0,
        -0.487_197_2 / 2.0,
        0.278_064_67 / 2.0,
        -0.026_624_357 / 2.0,
        0.202_686_47 / 2.0,
        0.243_103_82 / 2.0,
        0.282_375_3 / 2.0,
        0.282_086_43 / 2.0,
    ];
    // SAFETY: as the caller promises.
    unsafe {
        let magnitude = S::max(S::sub(S::splat(0.0), x), x);
        let one = S::splat(1.0);
        let t = S::div(one, S::fma(magnitude, S::splat(0.5 * std::f32::consts::FRAC_1_SQRT_2), one));
        let scaled = S::mul(t, polynomial::<S, 9>(t, HALF_ERFCX));
        let bell = exp::<S>(S::mul(S::mul(x, x), S::splat(-0.5)));
        let tail = S::mul(scaled, bell);
        (S::if_positive(x, S::sub(one, tail), tail), bell)
    }
}

/// Any activation; `slope` is read by [`Activation::PRelu`] only.
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
pub(crate) unsafe fn activate<S: Simd>(act: Activation, x: S::V, slope: S::V) -> S::V {
    // SAFETY: as the caller promises.
    unsafe {
        match act {
            Activation::None => x,
            Activation::Relu => S::max(S::splat(0.0), x),
            Activation::Silu => silu::<S>(x),
            Activation::Gelu => gelu::<S>(x),
            Activation::QuickGelu => S::mul(x, sigmoid::<S>(S::mul(x, S::splat(1.702)))),
            Activation::LeakyRelu(negative) => S::if_positive(x, x, S::mul(x, S::splat(negative))),
            Activation::PRelu => S::if_positive(x, x, S::mul(x, slope)),
            Activation::Sigmoid => sigmoid::<S>(x),
        }
    }
}

/// Derivative of any activation; `slope` as in [`activate`].
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
pub(crate) unsafe fn derivative<S: Simd>(act: Activation, x: S::V, slope: S::V) -> S::V {
    // SAFETY: as the caller promises.
    unsafe {
        let one = S::splat(1.0);
        match act {
            Activation::None => one,
            Activation::Relu => S::if_positive(x, one, S::splat(0.0)),
            Activation::Silu => silu_derivative::<S>(x),
            Activation::Gelu => gelu_derivative::<S>(x),
            Activation::QuickGelu => silu_derivative::<S>(S::mul(x, S::splat(1.702))),
            Activation::LeakyRelu(negative) => S::if_positive(x, one, S::splat(negative)),
            Activation::PRelu => S::if_positive(x, one, slope),
            Activation::Sigmoid => {
                let s = sigmoid::<S>(x);
                S::mul(s, S::sub(one, s))
            }
        }
    }
}

/// sigmoid(x) · (1 + x · (1 − sigmoid(x)))
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
pub(crate) unsafe fn silu_derivative<S: Simd>(x: S::V) -> S::V {
    // SAFETY: as the caller promises.
    unsafe {
        let (one, s) = (S::splat(1.0), sigmoid::<S>(x));
        S::mul(s, S::fma(x, S::sub(one, s), one))
    }
}

/// Horner's rule, the highest power first.
#[inline(always)]
unsafe fn polynomial<S: Simd, const N: usize>(x: S::V, coefficients: [f32; N]) -> S::V {
    // SAFETY: as the caller promises.
    unsafe {
        let mut sum = S::splat(coefficients[0]);
        for &c in &coefficients[1..] {
            sum = S::fma(sum, x, S::splat(c));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::super::Isa;
    use super::super::simd::{Task, dispatch, load_some, store_some};
    use super::*;
    use half::bf16;

    struct Map<'a> {
        act: Activation,
        values: &'a mut [f32],
    }

    impl Task for Map<'_> {
        type Out = ();
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            for chunk in self.values.chunks_mut(S::LANES) {
                let n = chunk.len();
                // SAFETY: the chunk holds n values.
                unsafe {
                    let x = load_some::<S, f32>(chunk.as_ptr(), n);
                    store_some::<S, f32>(chunk.as_mut_ptr(), n, activate::<S>(self.act, x, S::splat(0.25)));
                }
            }
        }
    }

    fn supported() -> impl Iterator<Item = Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_supported())
    }

    #[test]
    fn activations_are_exact_to_a_few_units_in_the_last_place() {
        let acts =
            [Activation::Silu, Activation::Gelu, Activation::QuickGelu, Activation::LeakyRelu(0.1), Activation::PRelu, Activation::Sigmoid];
        let inputs: Vec<f32> = (-1300..1301).map(|i| i as f32 * 0.01).chain([0.0, -0.0, 40.0, -40.0, 1e4, -1e4, 1e-20]).collect();
        for isa in supported() {
            for act in acts {
                let mut got = inputs.clone();
                // SAFETY: supported.
                unsafe { dispatch(isa, Map { act, values: &mut got }) };
                for (&x, &y) in inputs.iter().zip(&got) {
                    let want = act.eval(f64::from(x), 0.25);
                    // the f64 reference cancels in the negative tail of GELU
                    let tolerance = 6e-6 * want.abs() + 2e-15;
                    assert!((f64::from(y) - want).abs() <= tolerance, "{isa:?} {act:?}({x}) = {y}, not {want}");
                }
            }
        }
    }

    #[test]
    fn nan_is_not_hidden() {
        for isa in supported() {
            for act in [Activation::Relu, Activation::Silu, Activation::Gelu, Activation::LeakyRelu(0.1), Activation::Sigmoid] {
                let mut values = [f32::NAN; 16];
                // SAFETY: supported.
                unsafe { dispatch(isa, Map { act, values: &mut values }) };
                assert!(values.iter().all(|v| v.is_nan()), "{isa:?} {act:?}");
            }
        }
    }

    struct Round<'a>(&'a [f32], &'a mut [bf16]);

    impl Task for Round<'_> {
        type Out = ();
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            for (from, to) in self.0.chunks(S::LANES).zip(self.1.chunks_mut(S::LANES)) {
                // SAFETY: both chunks hold as many values.
                unsafe { store_some::<S, bf16>(to.as_mut_ptr(), to.len(), load_some::<S, f32>(from.as_ptr(), from.len())) };
            }
        }
    }

    #[test]
    fn rounding_to_bf16_is_that_of_the_half_crate() {
        let mut bits = 1_u32;
        let values: Vec<f32> = (0..10_001)
            .map(|_| {
                bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f32::from_bits(bits)
            })
            .chain([f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::from_bits(0x7fff_ffff), f32::from_bits(0x3f80_8000), 1e-42])
            .collect();
        for isa in supported() {
            let mut got = vec![bf16::ZERO; values.len()];
            // SAFETY: supported.
            unsafe { dispatch(isa, Round(&values, &mut got)) };
            for (&v, &g) in values.iter().zip(&got) {
                assert_eq!(g.to_bits(), bf16::from_f32(v).to_bits(), "{isa:?} {v}");
            }
        }
    }
}
