//! `cvt`: the frequent forms as loops of their own, all others through one exact routine that reads types and modes from a code.

use super::float::{clamp, zero};
use super::half::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16, relu};
use super::rounding::{BF16, F16, F32, Format, Mode, pack, to_odd};
use super::{Class, Operation, lanes};

pub(super) fn find(opcode: &str) -> Option<Operation> {
    let rest = opcode.strip_prefix("cvt.")?;
    frequent(rest).or_else(|| general(rest))
}

fn frequent(form: &str) -> Option<Operation> {
    match form {
        "u64.u32" | "s64.u32" => lanes!(Integer, "lw", map1, |a: u32| u64::from(a)),
        "s64.s32" | "u64.s32" => lanes!(Integer, "lw", map1, |a: i32| i64::from(a)),
        "u32.u64" | "s32.s64" | "u32.s64" | "s32.u64" => lanes!(Integer, "wl", map1, |a: u64| a as u32),
        "u32.u16" | "s32.u16" => lanes!(Integer, "wh", map1, |a: u16| u32::from(a)),
        "s32.s16" | "u32.s16" => lanes!(Integer, "wh", map1, |a: i16| i32::from(a)),
        "u16.u32" | "u16.s32" => lanes!(Integer, "hw", map1, |a: u32| a as u16),
        // The register may be wider than the result, which then fills it with its sign.
        "s16.s32" | "s16.u32" => lanes!(Integer, "hw", map1, |a: u32| i32::from(a as i16)),
        "rn.f32.s32" => lanes!(Special, "fw", map1, |a: i32| a as f32),
        "rn.f32.u32" => lanes!(Special, "fw", map1, |a: u32| a as f32),
        "rzi.s32.f32" => lanes!(Special, "wf", map1, |a: f32| a as i32),
        "rzi.u32.f32" => lanes!(Special, "wf", map1, |a: f32| a as u32),
        "rzi.ftz.s32.f32" => lanes!(Special, "wf", map1, |a: f32| a as i32),
        "rzi.ftz.u32.f32" => lanes!(Special, "wf", map1, |a: f32| a as u32),
        "f32.f16" => lanes!(Special, "fh", map1, |a: u16| quiet(f16_to_f32(a))),
        "f32.bf16" => lanes!(Special, "fh", map1, |a: u16| quiet(bf16_to_f32(a))),
        "rn.f16.f32" => lanes!(Special, "hf", map1, |a: f32| f32_to_f16(a)),
        "rn.bf16.f32" => lanes!(Special, "hf", map1, |a: f32| f32_to_bf16(a)),
        "rn.f16x2.f32" => lanes!(Special, "wff", map2, |a: f32, b: f32| join(f32_to_f16(a), f32_to_f16(b))),
        "rn.bf16x2.f32" => lanes!(Special, "wff", map2, |a: f32, b: f32| join(f32_to_bf16(a), f32_to_bf16(b))),
        "rn.relu.f16x2.f32" => {
            lanes!(Special, "wff", map2, |a: f32, b: f32| join(relu(f32_to_f16(a), 0x7c00), relu(f32_to_f16(b), 0x7c00)))
        }
        "rn.relu.bf16x2.f32" => {
            lanes!(Special, "wff", map2, |a: f32, b: f32| join(relu(f32_to_bf16(a), 0x7f80), relu(f32_to_bf16(b), 0x7f80)))
        }
        "rz.f16x2.f32" => {
            lanes!(Special, "wff", map2, |a: f32, b: f32| {
                join(pack(f64::from(a), F16, Mode::Zero) as u16, pack(f64::from(b), F16, Mode::Zero) as u16)
            })
        }
        "rz.bf16x2.f32" => {
            lanes!(Special, "wff", map2, |a: f32, b: f32| {
                join(pack(f64::from(a), BF16, Mode::Zero) as u16, pack(f64::from(b), BF16, Mode::Zero) as u16)
            })
        }
        "rna.tf32.f32" => lanes!(Special, "wf", map1, |a: f32| {
            let bits = a.to_bits();
            if a.is_finite() { bits.wrapping_add(0x1000) & !0x1fff } else { bits & !0x1fff | u32::from(a.is_nan()) << 22 }
        }),
        "rn.tf32.f32" => lanes!(Special, "wf", map1, |a: f32| {
            let bits = a.to_bits();
            if a.is_finite() { bits.wrapping_add(0xfff + (bits >> 13 & 1)) & !0x1fff } else { bits & !0x1fff | u32::from(a.is_nan()) << 22 }
        }),
        "sat.f32.f32" => lanes!(Fp32, "ff", map1, |a: f32| clamp(a)),
        "ftz.sat.f32.f32" => lanes!(Fp32, "ff", map1, |a: f32| clamp(zero(a))),
        "f64.f32" => lanes!(Fp64, "df", map1, |a: f32| f64::from(a)),
        "rn.f32.f64" => lanes!(Fp64, "fd", map1, |a: f64| quiet(a as f32)),
        _ => None,
    }
}

const TYPES: [&str; 12] = ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64", "f16", "bf16", "f32", "f64"];
const FLUSH: u16 = 1 << 12;
const SATURATE: u16 = 1 << 13;
/// Rounds to an integer, in the mode that the code names.
const INTEGRAL: u16 = 1 << 11;

fn general(form: &str) -> Option<Operation> {
    let parts: Vec<&str> = form.split('.').collect();
    let [modifiers @ .., to, from] = parts.as_slice() else { return None };
    let kind = |name: &str| TYPES.iter().position(|&t| t == name).map(|i| i as u16);
    let (to, from) = (kind(to)?, kind(from)?);
    let mut code = from | to << 4;
    for modifier in modifiers {
        code |= match *modifier {
            "ftz" => FLUSH,
            "sat" => SATURATE,
            "rni" | "rzi" | "rmi" | "rpi" => INTEGRAL | (Mode::named(&modifier[..2])? as u16) << 8,
            name => (Mode::named(name)? as u16) << 8,
        };
    }
    let mut found = match (from_wide(from), from_wide(to)) {
        (false, false) => lanes!(Special, "ww", coded, |a: u32, _b: u32, _c: u32, code: u16| convert(u64::from(a), code) as u32),
        (true, false) => lanes!(Special, "wl", coded, |a: u64, _b: u64, _c: u64, code: u16| convert(a, code) as u32),
        (false, true) => lanes!(Special, "lw", coded, |a: u32, _b: u32, _c: u32, code: u16| convert(u64::from(a), code)),
        (true, true) => lanes!(Special, "ll", coded, |a: u64, _b: u64, _c: u64, code: u16| convert(a, code)),
    }?;
    if from < 8 && to < 8 {
        found.class = Class::Integer;
    }
    found.code = code;
    Some(found)
}

fn from_wide(kind: u16) -> bool {
    matches!(TYPES[kind as usize], "u64" | "s64" | "f64")
}

fn join(high: u16, low: u16) -> u32 {
    u32::from(high) << 16 | u32::from(low)
}

fn quiet(x: f32) -> f32 {
    super::float::canonical(x)
}

fn convert(bits: u64, code: u16) -> u64 {
    let (from, to) = (TYPES[(code & 15) as usize], TYPES[(code >> 4 & 15) as usize]);
    let mode = Mode::ALL[(code >> 8 & 7) as usize];
    let value = match from {
        "u8" => return from_integer(i128::from(bits as u8), to, mode, code),
        "s8" => return from_integer(i128::from(bits as i8), to, mode, code),
        "u16" => return from_integer(i128::from(bits as u16), to, mode, code),
        "s16" => return from_integer(i128::from(bits as i16), to, mode, code),
        "u32" => return from_integer(i128::from(bits as u32), to, mode, code),
        "s32" => return from_integer(i128::from(bits as i32), to, mode, code),
        "u64" => return from_integer(i128::from(bits), to, mode, code),
        "s64" => return from_integer(i128::from(bits as i64), to, mode, code),
        "f16" => f64::from(f16_to_f32(bits as u16)),
        "bf16" => f64::from(bf16_to_f32(bits as u16)),
        "f32" if code & FLUSH != 0 => f64::from(zero(f32::from_bits(bits as u32))),
        "f32" => f64::from(f32::from_bits(bits as u32)),
        _ => f64::from_bits(bits),
    };
    let value = if code & INTEGRAL != 0 { integral(value, mode) } else { value };
    match range(to) {
        // NaN becomes 0, but the upper bit alone where either type has 64 bits; what is beyond the range, its nearest end.
        Some(_) if value.is_nan() => not_a_number(from, to),
        Some((least, greatest)) => (value.clamp(-1e30, 1e30) as i128).clamp(least, greatest) as u64,
        None => to_float(value, to, mode, code),
    }
}

fn not_a_number(from: &str, to: &str) -> u64 {
    let upper = |width: u32| 1u64 << (width - 1);
    match to {
        "u64" | "s64" => upper(64),
        _ if from != "f64" => 0,
        "u32" | "s32" => upper(32),
        "u16" => upper(16),
        "s16" => i16::MIN as u64,
        "u8" => upper(8),
        _ => i8::MIN as u64,
    }
}

fn from_integer(value: i128, to: &str, mode: Mode, code: u16) -> u64 {
    match range(to) {
        Some((least, greatest)) if code & SATURATE != 0 => value.clamp(least, greatest) as u64,
        Some(_) => match to {
            "u8" => u64::from(value as u8),
            "s8" => value as i8 as u64,
            "u16" => u64::from(value as u16),
            "s16" => value as i16 as u64,
            _ => value as u64,
        },
        None => {
            let nearest = value as f64;
            let error = value - nearest as i128;
            match to {
                "f64" => toward(nearest, error, mode).to_bits(),
                _ => to_float(to_odd(nearest, error as f64), to, mode, code),
            }
        }
    }
}

/// The double on the side of the mode, of a whole number and what it is more than its nearest double.
fn toward(nearest: f64, error: i128, mode: Mode) -> f64 {
    match mode {
        Mode::Zero if nearest > 0.0 && error < 0 => nearest.next_down(),
        Mode::Zero if nearest < 0.0 && error > 0 => nearest.next_up(),
        Mode::Down if error < 0 => nearest.next_down(),
        Mode::Up if error > 0 => nearest.next_up(),
        _ => nearest,
    }
}

fn range(kind: &str) -> Option<(i128, i128)> {
    Some(match kind {
        "u8" => (0, u8::MAX.into()),
        "s8" => (i8::MIN.into(), i8::MAX.into()),
        "u16" => (0, u16::MAX.into()),
        "s16" => (i16::MIN.into(), i16::MAX.into()),
        "u32" => (0, u32::MAX.into()),
        "s32" => (i32::MIN.into(), i32::MAX.into()),
        "u64" => (0, u64::MAX.into()),
        "s64" => (i64::MIN.into(), i64::MAX.into()),
        _ => return None,
    })
}

fn integral(x: f64, mode: Mode) -> f64 {
    match mode {
        Mode::Nearest => x.round_ties_even(),
        Mode::Zero => x.trunc(),
        Mode::Down => x.floor(),
        Mode::Up => x.ceil(),
        Mode::Away => x.round(),
    }
}

fn to_float(value: f64, to: &str, mode: Mode, code: u16) -> u64 {
    let value = match code & SATURATE != 0 {
        true if value >= 1.0 => 1.0,
        true if value > 0.0 => value,
        true => 0.0,
        false => value,
    };
    let small = |format: Format| u64::from(pack(value, format, mode));
    match to {
        "f16" => small(F16),
        "bf16" => small(BF16),
        "f32" if code & FLUSH != 0 => u64::from(zero(f32::from_bits(small(F32) as u32)).to_bits()),
        "f32" => small(F32),
        _ => value.to_bits(),
    }
}
