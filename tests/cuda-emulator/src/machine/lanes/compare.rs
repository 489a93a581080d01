//! `setp`: comparisons, optionally combined with a predicate, with an optional second result that is the opposite.

#![allow(clippy::neg_cmp_op_on_partial_ord, reason = "that NaN makes them true is what the unordered forms mean")]

use super::float::zero;
use super::half::{bf16_to_f32, f16_to_f32};
use super::{CODE, Operands, Operation, Rows, lanes};

/// Codes of the combination; [`NEGATED`] is added where the combined predicate is negated.
const COMBINATIONS: [&str; 4] = ["", "and", "or", "xor"];
pub(crate) const NEGATED: u16 = 4;

pub(super) fn find(opcode: &str) -> Option<Operation> {
    let mut parts: Vec<&str> = opcode.strip_prefix("setp.")?.split('.').collect();
    let kind = parts.pop()?;
    let flush = parts.last() == Some(&"ftz") && parts.pop().is_some();
    let combination = if parts.len() == 2 { COMBINATIONS.iter().position(|&c| c == parts[1])? } else { 0 };
    if parts.is_empty() || parts.len() > 2 {
        return None;
    }
    let mut found = match (flush, kind) {
        (false, _) => plain(kind, parts[0]),
        (true, "f32") => flushed(parts[0]),
        (true, _) => None,
    }?;
    if combination > 0 {
        found.types = match found.types {
            "pPhh" => "pPhhp",
            "pPww" => "pPwwp",
            "pPll" => "pPllp",
            "pPff" => "pPffp",
            _ => "pPddp",
        };
    }
    found.code = combination as u16;
    Some(found)
}

/// Writes the results of a comparison: bit `lane` of `bits` is that of the lane.
pub(super) fn combine(rows: &mut Rows, o: &Operands, mask: u32, bits: u32) {
    let other = match o[CODE] {
        0 => 0,
        code => rows.p[o[4] as usize] ^ if code & NEGATED != 0 { u32::MAX } else { 0 },
    };
    let join = |bits: u32| match o[CODE] & 3 {
        0 => bits,
        1 => bits & other,
        2 => bits | other,
        _ => bits ^ other,
    };
    for (at, value) in [(o[1], join(!bits)), (o[0], join(bits))] {
        let row = &mut rows.p[at as usize];
        *row = *row & !mask | value & mask;
    }
}

macro_rules! ordered {
    ($class:ident, $types:literal, $t:ty, $name:expr, |$x:ident| $of:expr) => {
        match $name {
            "eq" => lanes!($class, $types, test2, |a: $t, b: $t| {
                let f = |$x: $t| $of;
                f(a) == f(b)
            }),
            "ne" => lanes!($class, $types, test2, |a: $t, b: $t| {
                let f = |$x: $t| $of;
                f(a) != f(b)
            }),
            "lt" | "lo" => lanes!($class, $types, test2, |a: $t, b: $t| {
                let f = |$x: $t| $of;
                f(a) < f(b)
            }),
            "le" | "ls" => lanes!($class, $types, test2, |a: $t, b: $t| {
                let f = |$x: $t| $of;
                f(a) <= f(b)
            }),
            "gt" | "hi" => lanes!($class, $types, test2, |a: $t, b: $t| {
                let f = |$x: $t| $of;
                f(a) > f(b)
            }),
            "ge" | "hs" => lanes!($class, $types, test2, |a: $t, b: $t| {
                let f = |$x: $t| $of;
                f(a) >= f(b)
            }),
            _ => None,
        }
    };
}

/// The comparisons of floats: `ne` is false for NaN, the `u` forms are true for it.
macro_rules! floats {
    ($class:ident, $types:literal, $t:ty, $name:expr, |$x:ident| $of:expr) => {
        match $name {
            "ne" => lanes!($class, $types, test2, |a: $t, b: $t| {
                let f = |$x: $t| $of;
                f(a) < f(b) || f(a) > f(b)
            }),
            "equ" => lanes!($class, $types, test2, |a: $t, b: $t| {
                let f = |$x: $t| $of;
                !(f(a) < f(b) || f(a) > f(b))
            }),
            "neu" => lanes!($class, $types, test2, |a: $t, b: $t| {
                let f = |$x: $t| $of;
                f(a) != f(b)
            }),
            "ltu" => lanes!($class, $types, test2, |a: $t, b: $t| {
                let f = |$x: $t| $of;
                !(f(a) >= f(b))
            }),
            "leu" => lanes!($class, $types, test2, |a: $t, b: $t| {
                let f = |$x: $t| $of;
                !(f(a) > f(b))
            }),
            "gtu" => lanes!($class, $types, test2, |a: $t, b: $t| {
                let f = |$x: $t| $of;
                !(f(a) <= f(b))
            }),
            "geu" => lanes!($class, $types, test2, |a: $t, b: $t| {
                let f = |$x: $t| $of;
                !(f(a) < f(b))
            }),
            "num" => lanes!($class, $types, test2, |a: $t, b: $t| {
                let f = |$x: $t| $of;
                !f(a).is_nan() && !f(b).is_nan()
            }),
            "nan" => lanes!($class, $types, test2, |a: $t, b: $t| {
                let f = |$x: $t| $of;
                f(a).is_nan() || f(b).is_nan()
            }),
            "lo" | "ls" | "hi" | "hs" => None,
            name => ordered!($class, $types, $t, name, |$x| $of),
        }
    };
}

fn plain(kind: &str, name: &str) -> Option<Operation> {
    match kind {
        "s16" => ordered!(Integer, "pPhh", i16, name, |x| x),
        "u16" | "b16" => ordered!(Integer, "pPhh", u16, name, |x| x),
        "s32" => ordered!(Integer, "pPww", i32, name, |x| x),
        "u32" | "b32" => ordered!(Integer, "pPww", u32, name, |x| x),
        "s64" => ordered!(Integer, "pPll", i64, name, |x| x),
        "u64" | "b64" => ordered!(Integer, "pPll", u64, name, |x| x),
        "f32" => floats!(Fp32, "pPff", f32, name, |x| x),
        "f64" => floats!(Fp64, "pPdd", f64, name, |x| x),
        "f16" => floats!(Fp32, "pPhh", u16, name, |x| f16_to_f32(x)),
        "bf16" => floats!(Fp32, "pPhh", u16, name, |x| bf16_to_f32(x)),
        _ => None,
    }
}

fn flushed(name: &str) -> Option<Operation> {
    floats!(Fp32, "pPff", f32, name, |x| zero(x))
}
