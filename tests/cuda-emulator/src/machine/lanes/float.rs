//! f32 and f64 arithmetic: IEEE, all rounding modes for f32, with flushing of subnormals and saturation where asked.
//! A NaN result is the canonical one.

use super::rounding::{Mode, div_f32, fma_f32, sqrt_f32};
use super::{Operation, lanes};

pub(super) fn find(opcode: &str) -> Option<Operation> {
    let mut parts = opcode.split('.');
    let base = parts.next()?;
    let (mut flush, mut saturate, mut mode, mut kind) = (false, false, Mode::Nearest, "");
    let mut rest = Vec::new();
    for part in parts {
        match part {
            "ftz" => flush = true,
            "sat" => saturate = true,
            "rn" | "rz" | "rm" | "rp" => mode = Mode::named(part)?,
            "f32" | "f64" => kind = part,
            other => rest.push(other),
        }
    }
    if kind == "f64" {
        return if flush || saturate || mode != Mode::Nearest { None } else { double(base, &rest) };
    }
    if kind != "f32" {
        return None;
    }
    let frequent = match (mode, saturate, flush) {
        (Mode::Nearest, false, true) => flushed(base, &rest),
        (Mode::Nearest, false, false) => single(base, &rest),
        _ => None,
    };
    frequent.or_else(|| if rest.is_empty() { general(base, flush, saturate, mode) } else { None })
}

fn single(base: &str, rest: &[&str]) -> Option<Operation> {
    match (base, rest) {
        ("add", []) => lanes!(Fp32, "fff", map2, |a: f32, b: f32| canonical(a + b)),
        ("sub", []) => lanes!(Fp32, "fff", map2, |a: f32, b: f32| canonical(a - b)),
        ("mul", []) => lanes!(Fp32, "fff", map2, |a: f32, b: f32| canonical(a * b)),
        ("fma" | "mad", []) => lanes!(Fp32, "ffff", map3, |a: f32, b: f32, c: f32| canonical(a.mul_add(b, c))),
        ("div", []) | ("div", ["full"]) => lanes!(Fp32, "fff", map2, |a: f32, b: f32| canonical(a / b)),
        ("sqrt", []) => lanes!(Fp32, "ff", map1, |a: f32| canonical(a.sqrt())),
        ("rcp", []) => lanes!(Fp32, "ff", map1, |a: f32| canonical(1.0 / a)),
        ("neg", []) => lanes!(Fp32, "ff", map1, |a: f32| -a),
        ("abs", []) => lanes!(Fp32, "ff", map1, |a: f32| a.abs()),
        ("min", []) => lanes!(Fp32, "fff", map2, |a: f32, b: f32| least(a, b)),
        ("max", []) => lanes!(Fp32, "fff", map2, |a: f32, b: f32| greatest(a, b)),
        ("min", ["NaN"]) => lanes!(Fp32, "fff", map2, |a: f32, b: f32| if a.is_nan() || b.is_nan() { NAN } else { least(a, b) }),
        ("max", ["NaN"]) => lanes!(Fp32, "fff", map2, |a: f32, b: f32| if a.is_nan() || b.is_nan() { NAN } else { greatest(a, b) }),
        ("copysign", []) => lanes!(Fp32, "fff", map2, |a: f32, b: f32| b.copysign(a)),
        ("testp", ["finite"]) => lanes!(Fp32, "pf", test1, |a: f32| a.is_finite()),
        ("testp", ["infinite"]) => lanes!(Fp32, "pf", test1, |a: f32| a.is_infinite()),
        ("testp", ["number"]) => lanes!(Fp32, "pf", test1, |a: f32| !a.is_nan()),
        ("testp", ["notanumber"]) => lanes!(Fp32, "pf", test1, |a: f32| a.is_nan()),
        // By the ISA zeros count as normal.
        ("testp", ["normal"]) => lanes!(Fp32, "pf", test1, |a: f32| a.is_normal() || a == 0.0),
        ("testp", ["subnormal"]) => lanes!(Fp32, "pf", test1, |a: f32| a.is_subnormal()),
        _ => None,
    }
}

fn flushed(base: &str, rest: &[&str]) -> Option<Operation> {
    match (base, rest) {
        ("add", []) => lanes!(Fp32, "fff", map2, |a: f32, b: f32| canonical(zero(zero(a) + zero(b)))),
        ("sub", []) => lanes!(Fp32, "fff", map2, |a: f32, b: f32| canonical(zero(zero(a) - zero(b)))),
        ("mul", []) => lanes!(Fp32, "fff", map2, |a: f32, b: f32| canonical(zero(zero(a) * zero(b)))),
        ("fma" | "mad", []) => {
            lanes!(Fp32, "ffff", map3, |a: f32, b: f32, c: f32| canonical(zero(zero(a).mul_add(zero(b), zero(c)))))
        }
        ("div", []) | ("div", ["full"]) => lanes!(Fp32, "fff", map2, |a: f32, b: f32| canonical(zero(zero(a) / zero(b)))),
        ("sqrt", []) => lanes!(Fp32, "ff", map1, |a: f32| canonical(zero(a).sqrt())),
        ("rcp", []) => lanes!(Fp32, "ff", map1, |a: f32| canonical(zero(1.0 / zero(a)))),
        ("neg", []) => lanes!(Fp32, "ff", map1, |a: f32| -zero(a)),
        ("abs", []) => lanes!(Fp32, "ff", map1, |a: f32| zero(a).abs()),
        ("min", []) => lanes!(Fp32, "fff", map2, |a: f32, b: f32| least(zero(a), zero(b))),
        ("max", []) => lanes!(Fp32, "fff", map2, |a: f32, b: f32| greatest(zero(a), zero(b))),
        _ => None,
    }
}

fn double(base: &str, rest: &[&str]) -> Option<Operation> {
    match (base, rest) {
        ("add", []) => lanes!(Fp64, "ddd", map2, |a: f64, b: f64| a + b),
        ("sub", []) => lanes!(Fp64, "ddd", map2, |a: f64, b: f64| a - b),
        ("mul", []) => lanes!(Fp64, "ddd", map2, |a: f64, b: f64| a * b),
        ("fma" | "mad", []) => lanes!(Fp64, "dddd", map3, |a: f64, b: f64, c: f64| a.mul_add(b, c)),
        ("div", []) => lanes!(Fp64, "ddd", map2, |a: f64, b: f64| a / b),
        ("sqrt", []) => lanes!(Fp64, "dd", map1, |a: f64| a.sqrt()),
        ("rcp", []) => lanes!(Fp64, "dd", map1, |a: f64| 1.0 / a),
        ("neg", []) => lanes!(Fp64, "dd", map1, |a: f64| -a),
        ("abs", []) => lanes!(Fp64, "dd", map1, |a: f64| a.abs()),
        ("min", []) => {
            lanes!(Fp64, "ddd", map2, |a: f64, b: f64| if b.is_nan() || a < b || (a == b && a.is_sign_negative()) { a } else { b })
        }
        ("max", []) => {
            lanes!(Fp64, "ddd", map2, |a: f64, b: f64| if b.is_nan() || a > b || (a == b && b.is_sign_negative()) { a } else { b })
        }
        ("copysign", []) => lanes!(Fp64, "ddd", map2, |a: f64, b: f64| b.copysign(a)),
        ("testp", ["finite"]) => lanes!(Fp64, "pd", test1, |a: f64| a.is_finite()),
        ("testp", ["infinite"]) => lanes!(Fp64, "pd", test1, |a: f64| a.is_infinite()),
        ("testp", ["number"]) => lanes!(Fp64, "pd", test1, |a: f64| !a.is_nan()),
        ("testp", ["notanumber"]) => lanes!(Fp64, "pd", test1, |a: f64| a.is_nan()),
        ("testp", ["normal"]) => lanes!(Fp64, "pd", test1, |a: f64| a.is_normal() || a == 0.0),
        ("testp", ["subnormal"]) => lanes!(Fp64, "pd", test1, |a: f64| a.is_subnormal()),
        _ => None,
    }
}

/// Any rounding mode, flushing and saturation: decided at run time, by the code.
fn general(base: &str, flush: bool, saturate: bool, mode: Mode) -> Option<Operation> {
    let base = if base == "mad" { "fma" } else { base };
    let kinds = ["add", "sub", "mul", "fma", "div", "sqrt", "rcp"];
    let kind = kinds.iter().position(|&k| k == base)? as u16;
    let mut found = lanes!(Fp32, "ffff", coded, |a: f32, b: f32, c: f32, code: u16| {
        let (mode, flush, saturate) = (Mode::ALL[(code & 7) as usize], code & 8 != 0, code & 16 != 0);
        let (a, b, c) = if flush { (zero(a), zero(b), zero(c)) } else { (a, b, c) };
        let d = match code >> 5 {
            0 => fma_f32(a, 1.0, b, mode),
            1 => fma_f32(a, 1.0, -b, mode),
            2 => fma_f32(a, b, if (a * b).is_sign_negative() { -0.0 } else { 0.0 }, mode),
            3 => fma_f32(a, b, c, mode),
            4 => div_f32(a, b, mode),
            5 => sqrt_f32(a, mode),
            _ => div_f32(1.0, a, mode),
        };
        let d = if flush { zero(d) } else { d };
        canonical(if saturate { clamp(d) } else { d })
    })?;
    found.types = match base {
        "sqrt" | "rcp" => "ff",
        "fma" => "ffff",
        _ => "fff",
    };
    found.code = mode as u16 | u16::from(flush) << 3 | u16::from(saturate) << 4 | kind << 5;
    Some(found)
}

/// The addition of atomics.
pub(crate) fn add_f32(a: u32, b: u32, flush: bool) -> u32 {
    let (a, b) = (f32::from_bits(a), f32::from_bits(b));
    canonical(if flush { zero(zero(a) + zero(b)) } else { a + b }).to_bits()
}

const NAN: f32 = f32::from_bits(0x7fff_ffff);

#[inline(always)]
pub(super) fn canonical(x: f32) -> f32 {
    // By the bits: a comparison of floats may be folded into the operation before it, and then its NaN passes.
    if x.to_bits() & 0x7fff_ffff > 0x7f80_0000 { NAN } else { x }
}

/// A subnormal becomes the zero of its sign.
#[inline(always)]
pub(super) fn zero(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

/// To [0, 1]; NaN becomes 0.
#[inline(always)]
pub(super) fn clamp(x: f32) -> f32 {
    if x >= 1.0 {
        1.0
    } else if x > 0.0 {
        x
    } else {
        0.0
    }
}

/// The smaller; the number where the other is NaN; -0 before +0.
#[inline(always)]
fn least(a: f32, b: f32) -> f32 {
    let smaller = if b.is_nan() || a < b || (a == b && a.is_sign_negative()) { a } else { b };
    canonical(smaller)
}

#[inline(always)]
fn greatest(a: f32, b: f32) -> f32 {
    let greater = if b.is_nan() || a > b || (a == b && b.is_sign_negative()) { a } else { b };
    canonical(greater)
}
