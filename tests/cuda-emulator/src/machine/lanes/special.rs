//! The approximate functions. Each is computed in f64 and rounded to f32 once, which is well within the error that the PTX ISA states
//! (2 ulp for rcp, rsqrt, ex2, lg2 away from 1; 2^-20.5 for sin and cos in [-pi, pi]; 2^-11 for tanh) and the same on every host.

use super::float::{canonical, zero};
use super::half::{bf16_to_f32, both2, f16_to_f32, f32_to_bf16, f32_to_f16};
use super::{Operation, lanes};

pub(super) fn find(opcode: &str) -> Option<Operation> {
    match opcode {
        "ex2.approx.f32" => lanes!(Special, "ff", map1, |a: f32| exp2(a)),
        "ex2.approx.ftz.f32" => lanes!(Special, "ff", map1, |a: f32| zero(exp2(zero(a)))),
        "lg2.approx.f32" => lanes!(Special, "ff", map1, |a: f32| log2(a)),
        "lg2.approx.ftz.f32" => lanes!(Special, "ff", map1, |a: f32| log2(zero(a))),
        "rcp.approx.f32" => lanes!(Special, "ff", map1, |a: f32| canonical(1.0 / a)),
        "rcp.approx.ftz.f32" => lanes!(Special, "ff", map1, |a: f32| canonical(zero(1.0 / zero(a)))),
        // Of the upper words only: the seeds of Newton iterations.
        "rcp.approx.ftz.f64" => lanes!(Special, "dd", map1, |a: f64| upper(1.0 / upper(a))),
        "rsqrt.approx.ftz.f64" => lanes!(Special, "dd", map1, |a: f64| upper(1.0 / upper(a).sqrt())),
        "rsqrt.approx.f32" => lanes!(Special, "ff", map1, |a: f32| inverse_root(a)),
        "rsqrt.approx.ftz.f32" => lanes!(Special, "ff", map1, |a: f32| inverse_root(zero(a))),
        "rsqrt.approx.f64" => lanes!(Special, "dd", map1, |a: f64| 1.0 / a.sqrt()),
        "sqrt.approx.f32" => lanes!(Special, "ff", map1, |a: f32| canonical(a.sqrt())),
        "sqrt.approx.ftz.f32" => lanes!(Special, "ff", map1, |a: f32| canonical(zero(a).sqrt())),
        "div.approx.f32" => lanes!(Special, "fff", map2, |a: f32, b: f32| quotient(a, b)),
        "div.approx.ftz.f32" => lanes!(Special, "fff", map2, |a: f32, b: f32| zero(quotient(zero(a), zero(b)))),
        "div.full.ftz.f32" => lanes!(Special, "fff", map2, |a: f32, b: f32| zero(canonical(zero(a) / zero(b)))),
        "sin.approx.f32" => lanes!(Special, "ff", map1, |a: f32| canonical(f64::from(a).sin() as f32)),
        "sin.approx.ftz.f32" => lanes!(Special, "ff", map1, |a: f32| canonical(zero(f64::from(zero(a)).sin() as f32))),
        "cos.approx.f32" => lanes!(Special, "ff", map1, |a: f32| canonical(f64::from(a).cos() as f32)),
        "cos.approx.ftz.f32" => lanes!(Special, "ff", map1, |a: f32| canonical(zero(f64::from(zero(a)).cos() as f32))),
        "tanh.approx.f32" => lanes!(Special, "ff", map1, |a: f32| tanh(a)),
        "tanh.approx.f16" => lanes!(Special, "hh", map1, |a: u16| f32_to_f16(tanh(f16_to_f32(a)))),
        "tanh.approx.bf16" => lanes!(Special, "hh", map1, |a: u16| f32_to_bf16(tanh(bf16_to_f32(a)))),
        "tanh.approx.f16x2" => lanes!(Special, "ww", map1, |a: u32| both2(a, a, |a, _| f32_to_f16(tanh(f16_to_f32(a))))),
        "tanh.approx.bf16x2" => lanes!(Special, "ww", map1, |a: u32| both2(a, a, |a, _| f32_to_bf16(tanh(bf16_to_f32(a))))),
        "ex2.approx.f16" => lanes!(Special, "hh", map1, |a: u16| f32_to_f16(exp2(f16_to_f32(a)))),
        "ex2.approx.f16x2" => lanes!(Special, "ww", map1, |a: u32| both2(a, a, |a, _| f32_to_f16(exp2(f16_to_f32(a))))),
        "ex2.approx.ftz.bf16" => lanes!(Special, "hh", map1, |a: u16| f32_to_bf16(zero(exp2(zero(bf16_to_f32(a)))))),
        "ex2.approx.ftz.bf16x2" => {
            lanes!(Special, "ww", map1, |a: u32| both2(a, a, |a, _| f32_to_bf16(zero(exp2(zero(bf16_to_f32(a)))))))
        }
        _ => None,
    }
}

/// 2^x: the integer part goes into the exponent, the rest, within half, through the Taylor series of e^(x ln 2) to the ninth power
/// (relative error 1e-11).
#[inline(always)]
fn exp2(x: f32) -> f32 {
    const ROUND: f64 = 6755399441055744.0; // 1.5 * 2^52: adding it leaves the nearest integer in the low bits
    let x64 = f64::from(if x.is_nan() { 0.0 } else { x.clamp(-200.0, 200.0) });
    let shifted = x64 + ROUND;
    let whole = shifted - ROUND;
    let t = (x64 - whole) * std::f64::consts::LN_2;
    let mut sum = 1.0 / 362_880.0;
    for factor in [40_320.0, 5_040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        sum = sum * t + 1.0 / factor;
    }
    let power = f64::from_bits((shifted.to_bits().wrapping_add(1023)) << 52);
    canonical(if x.is_nan() { x } else { (sum * power) as f32 })
}

/// Log base 2: the exponent, plus the series of the area tangent for a significand between the square roots of 1/2 and 2.
#[inline(always)]
fn log2(x: f32) -> f32 {
    let wide = f64::from(x);
    let bits = wide.to_bits();
    let centred = bits.wrapping_sub(std::f64::consts::FRAC_1_SQRT_2.to_bits());
    let exponent = centred as i64 >> 52;
    let m = f64::from_bits(bits.wrapping_sub((exponent as u64) << 52));
    let s = (m - 1.0) / (m + 1.0);
    let s2 = s * s;
    let mut sum = 1.0 / 17.0;
    for odd in [15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        sum = sum * s2 + 1.0 / odd;
    }
    let value = (exponent as i32 as f64 + 2.0 * s * sum * std::f64::consts::LOG2_E) as f32;
    if x == 0.0 {
        f32::NEG_INFINITY
    } else if x == f32::INFINITY {
        x
    } else if x > 0.0 {
        value
    } else {
        f32::from_bits(0x7fff_ffff)
    }
}

/// The upper word of a double, the lower zero.
fn upper(x: f64) -> f64 {
    f64::from_bits(x.to_bits() >> 32 << 32)
}

#[inline(always)]
fn inverse_root(x: f32) -> f32 {
    canonical((1.0 / f64::from(x).sqrt()) as f32)
}

/// Divisors beyond 2^126 give zero (NaN for an infinite dividend), as the ISA says of the approximate form.
#[inline(always)]
fn quotient(a: f32, b: f32) -> f32 {
    let large = b.abs() > f32::from_bits(0x7e80_0000) && b.is_finite();
    canonical(if large { a * 0.0 * b.signum() } else { a / b })
}

fn tanh(x: f32) -> f32 {
    canonical(f64::from(x).tanh() as f32)
}
