//! Integers, bits, moves.

use super::{Operation, lanes};
use crate::machine::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW};

pub(super) fn find(opcode: &str) -> Option<Operation> {
    arithmetic(opcode).or_else(|| multiply(opcode)).or_else(|| bits(opcode)).or_else(|| shifts(opcode)).or_else(|| moves(opcode))
}

fn arithmetic(opcode: &str) -> Option<Operation> {
    match opcode {
        "add.s16" | "add.u16" => lanes!(Integer, "hhh", map2, |a: u16, b: u16| a.wrapping_add(b)),
        "add.s32" | "add.u32" => lanes!(Integer, "www", map2, |a: u32, b: u32| a.wrapping_add(b)),
        "add.s64" | "add.u64" => lanes!(Integer, "lll", map2, |a: u64, b: u64| a.wrapping_add(b)),
        "add.sat.s32" => lanes!(Integer, "www", map2, |a: i32, b: i32| a.saturating_add(b)),
        "sub.s16" | "sub.u16" => lanes!(Integer, "hhh", map2, |a: u16, b: u16| a.wrapping_sub(b)),
        "sub.s32" | "sub.u32" => lanes!(Integer, "www", map2, |a: u32, b: u32| a.wrapping_sub(b)),
        "sub.s64" | "sub.u64" => lanes!(Integer, "lll", map2, |a: u64, b: u64| a.wrapping_sub(b)),
        "sub.sat.s32" => lanes!(Integer, "www", map2, |a: i32, b: i32| a.saturating_sub(b)),
        // The ISA leaves division by zero open; all ones is what the hardware's sequences give.
        "div.u16" => lanes!(Integer, "hhh", map2, |a: u16, b: u16| a.checked_div(b).unwrap_or(u16::MAX)),
        "div.s16" => lanes!(Integer, "hhh", map2, |a: i16, b: i16| if b == 0 { -1 } else { a.wrapping_div(b) }),
        "div.u32" => lanes!(Integer, "www", map2, |a: u32, b: u32| a.checked_div(b).unwrap_or(u32::MAX)),
        "div.s32" => lanes!(Integer, "www", map2, |a: i32, b: i32| if b == 0 { -1 } else { a.wrapping_div(b) }),
        "div.u64" => lanes!(Integer, "lll", map2, |a: u64, b: u64| a.checked_div(b).unwrap_or(u64::MAX)),
        "div.s64" => lanes!(Integer, "lll", map2, |a: i64, b: i64| if b == 0 { -1 } else { a.wrapping_div(b) }),
        "rem.u16" => lanes!(Integer, "hhh", map2, |a: u16, b: u16| a.checked_rem(b).unwrap_or(a)),
        "rem.s16" => lanes!(Integer, "hhh", map2, |a: i16, b: i16| if b == 0 { a } else { a.wrapping_rem(b) }),
        "rem.u32" => lanes!(Integer, "www", map2, |a: u32, b: u32| a.checked_rem(b).unwrap_or(a)),
        "rem.s32" => lanes!(Integer, "www", map2, |a: i32, b: i32| if b == 0 { a } else { a.wrapping_rem(b) }),
        "rem.u64" => lanes!(Integer, "lll", map2, |a: u64, b: u64| a.checked_rem(b).unwrap_or(a)),
        "rem.s64" => lanes!(Integer, "lll", map2, |a: i64, b: i64| if b == 0 { a } else { a.wrapping_rem(b) }),
        "neg.s16" => lanes!(Integer, "hh", map1, |a: i16| a.wrapping_neg()),
        "neg.s32" => lanes!(Integer, "ww", map1, |a: i32| a.wrapping_neg()),
        "neg.s64" => lanes!(Integer, "ll", map1, |a: i64| a.wrapping_neg()),
        "abs.s16" => lanes!(Integer, "hh", map1, |a: i16| a.wrapping_abs()),
        "abs.s32" => lanes!(Integer, "ww", map1, |a: i32| a.wrapping_abs()),
        "abs.s64" => lanes!(Integer, "ll", map1, |a: i64| a.wrapping_abs()),
        "min.s16" => lanes!(Integer, "hhh", map2, |a: i16, b: i16| a.min(b)),
        "min.u16" => lanes!(Integer, "hhh", map2, |a: u16, b: u16| a.min(b)),
        "min.s32" => lanes!(Integer, "www", map2, |a: i32, b: i32| a.min(b)),
        "min.u32" => lanes!(Integer, "www", map2, |a: u32, b: u32| a.min(b)),
        "min.s64" => lanes!(Integer, "lll", map2, |a: i64, b: i64| a.min(b)),
        "min.u64" => lanes!(Integer, "lll", map2, |a: u64, b: u64| a.min(b)),
        "max.s16" => lanes!(Integer, "hhh", map2, |a: i16, b: i16| a.max(b)),
        "max.u16" => lanes!(Integer, "hhh", map2, |a: u16, b: u16| a.max(b)),
        "max.s32" => lanes!(Integer, "www", map2, |a: i32, b: i32| a.max(b)),
        "max.u32" => lanes!(Integer, "www", map2, |a: u32, b: u32| a.max(b)),
        "max.s64" => lanes!(Integer, "lll", map2, |a: i64, b: i64| a.max(b)),
        "max.u64" => lanes!(Integer, "lll", map2, |a: u64, b: u64| a.max(b)),
        "sad.s32" => lanes!(Integer, "wwww", map3, |a: i32, b: i32, c: u32| c.wrapping_add(a.abs_diff(b))),
        "sad.u32" => lanes!(Integer, "wwww", map3, |a: u32, b: u32, c: u32| c.wrapping_add(a.abs_diff(b))),
        _ => None,
    }
}

fn multiply(opcode: &str) -> Option<Operation> {
    match opcode {
        "mul.lo.s16" | "mul.lo.u16" => lanes!(Integer, "hhh", map2, |a: u16, b: u16| a.wrapping_mul(b)),
        "mul.lo.s32" | "mul.lo.u32" => lanes!(Integer, "www", map2, |a: u32, b: u32| a.wrapping_mul(b)),
        "mul.lo.s64" | "mul.lo.u64" => lanes!(Integer, "lll", map2, |a: u64, b: u64| a.wrapping_mul(b)),
        "mul.hi.s16" => lanes!(Integer, "hhh", map2, |a: i16, b: i16| ((i32::from(a) * i32::from(b)) >> 16) as i16),
        "mul.hi.u16" => lanes!(Integer, "hhh", map2, |a: u16, b: u16| ((u32::from(a) * u32::from(b)) >> 16) as u16),
        "mul.hi.s32" => lanes!(Integer, "www", map2, |a: i32, b: i32| ((i64::from(a) * i64::from(b)) >> 32) as i32),
        "mul.hi.u32" => lanes!(Integer, "www", map2, |a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        "mul.hi.s64" => lanes!(Integer, "lll", map2, |a: i64, b: i64| ((i128::from(a) * i128::from(b)) >> 64) as i64),
        "mul.hi.u64" => lanes!(Integer, "lll", map2, |a: u64, b: u64| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        "mul.wide.s16" => lanes!(Integer, "whh", map2, |a: i16, b: i16| i32::from(a) * i32::from(b)),
        "mul.wide.u16" => lanes!(Integer, "whh", map2, |a: u16, b: u16| u32::from(a) * u32::from(b)),
        "mul.wide.s32" => lanes!(Integer, "lww", map2, |a: i32, b: i32| i64::from(a) * i64::from(b)),
        "mul.wide.u32" => lanes!(Integer, "lww", map2, |a: u32, b: u32| u64::from(a) * u64::from(b)),
        "mul24.lo.s32" => lanes!(Integer, "www", map2, |a: i32, b: i32| ((a << 8) >> 8).wrapping_mul((b << 8) >> 8)),
        "mul24.lo.u32" => lanes!(Integer, "www", map2, |a: u32, b: u32| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff)),
        "mad.lo.s16" | "mad.lo.u16" => lanes!(Integer, "hhhh", map3, |a: u16, b: u16, c: u16| a.wrapping_mul(b).wrapping_add(c)),
        "mad.lo.s32" | "mad.lo.u32" => lanes!(Integer, "wwww", map3, |a: u32, b: u32, c: u32| a.wrapping_mul(b).wrapping_add(c)),
        "mad.lo.s64" | "mad.lo.u64" => lanes!(Integer, "llll", map3, |a: u64, b: u64, c: u64| a.wrapping_mul(b).wrapping_add(c)),
        "mad.hi.s32" => {
            lanes!(Integer, "wwww", map3, |a: i32, b: i32, c: i32| (((i64::from(a) * i64::from(b)) >> 32) as i32).wrapping_add(c))
        }
        "mad.hi.u32" => {
            lanes!(Integer, "wwww", map3, |a: u32, b: u32, c: u32| (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c))
        }
        "mad.wide.s16" => lanes!(Integer, "whhw", map3, |a: i16, b: i16, c: i32| (i32::from(a) * i32::from(b)).wrapping_add(c)),
        "mad.wide.u16" => lanes!(Integer, "whhw", map3, |a: u16, b: u16, c: u32| (u32::from(a) * u32::from(b)).wrapping_add(c)),
        "mad.wide.s32" => lanes!(Integer, "lwwl", map3, |a: i32, b: i32, c: i64| (i64::from(a) * i64::from(b)).wrapping_add(c)),
        "mad.wide.u32" => lanes!(Integer, "lwwl", map3, |a: u32, b: u32, c: u64| (u64::from(a) * u64::from(b)).wrapping_add(c)),
        "dp4a.s32.s32" => lanes!(Integer, "wwww", map3, |a: u32, b: u32, c: i32| {
            let (x, y) = (a.to_le_bytes(), b.to_le_bytes());
            (0..4).fold(c, |sum, i| sum.wrapping_add(i32::from(x[i] as i8) * i32::from(y[i] as i8)))
        }),
        "dp4a.u32.u32" => lanes!(Integer, "wwww", map3, |a: u32, b: u32, c: u32| {
            let (x, y) = (a.to_le_bytes(), b.to_le_bytes());
            (0..4).fold(c, |sum, i| sum.wrapping_add(u32::from(x[i]) * u32::from(y[i])))
        }),
        _ => None,
    }
}

fn bits(opcode: &str) -> Option<Operation> {
    match opcode {
        "and.b16" => lanes!(Integer, "hhh", map2, |a: u16, b: u16| a & b),
        "and.b32" => lanes!(Integer, "www", map2, |a: u32, b: u32| a & b),
        "and.b64" => lanes!(Integer, "lll", map2, |a: u64, b: u64| a & b),
        "or.b16" => lanes!(Integer, "hhh", map2, |a: u16, b: u16| a | b),
        "or.b32" => lanes!(Integer, "www", map2, |a: u32, b: u32| a | b),
        "or.b64" => lanes!(Integer, "lll", map2, |a: u64, b: u64| a | b),
        "xor.b16" => lanes!(Integer, "hhh", map2, |a: u16, b: u16| a ^ b),
        "xor.b32" => lanes!(Integer, "www", map2, |a: u32, b: u32| a ^ b),
        "xor.b64" => lanes!(Integer, "lll", map2, |a: u64, b: u64| a ^ b),
        "not.b16" => lanes!(Integer, "hh", map1, |a: u16| !a),
        "not.b32" => lanes!(Integer, "ww", map1, |a: u32| !a),
        "not.b64" => lanes!(Integer, "ll", map1, |a: u64| !a),
        "cnot.b16" => lanes!(Integer, "hh", map1, |a: u16| u16::from(a == 0)),
        "cnot.b32" => lanes!(Integer, "ww", map1, |a: u32| u32::from(a == 0)),
        "cnot.b64" => lanes!(Integer, "ll", map1, |a: u64| u64::from(a == 0)),
        "and.pred" => lanes!(Integer, "ppp", logic2, |a, b| a & b),
        "or.pred" => lanes!(Integer, "ppp", logic2, |a, b| a | b),
        "xor.pred" => lanes!(Integer, "ppp", logic2, |a, b| a ^ b),
        "not.pred" => lanes!(Integer, "pp", logic1, |a| !a),
        "popc.b32" => lanes!(Integer, "ww", map1, |a: u32| a.count_ones()),
        "popc.b64" => lanes!(Integer, "wl", map1, |a: u64| a.count_ones()),
        "clz.b32" => lanes!(Integer, "ww", map1, |a: u32| a.leading_zeros()),
        "clz.b64" => lanes!(Integer, "wl", map1, |a: u64| a.leading_zeros()),
        "brev.b32" => lanes!(Integer, "ww", map1, |a: u32| a.reverse_bits()),
        "brev.b64" => lanes!(Integer, "ll", map1, |a: u64| a.reverse_bits()),
        "bfind.u32" => lanes!(Integer, "ww", map1, |a: u32| 31u32.wrapping_sub(a.leading_zeros())),
        "bfind.s32" => lanes!(Integer, "ww", map1, |a: i32| 31u32.wrapping_sub(magnitude(a).leading_zeros())),
        "bfind.u64" => lanes!(Integer, "wl", map1, |a: u64| 63u32.wrapping_sub(a.leading_zeros())),
        "bfind.s64" => lanes!(Integer, "wl", map1, |a: i64| 63u32.wrapping_sub((a ^ a >> 63).leading_zeros())),
        "bfind.shiftamt.u32" => lanes!(Integer, "ww", map1, |a: u32| count_leading(a)),
        "bfind.shiftamt.s32" => lanes!(Integer, "ww", map1, |a: i32| count_leading(magnitude(a))),
        "bfind.shiftamt.u64" => lanes!(Integer, "wl", map1, |a: u64| if a == 0 { u32::MAX } else { a.leading_zeros() }),
        "bfind.shiftamt.s64" => lanes!(Integer, "wl", map1, |a: i64| match a ^ a >> 63 {
            0 => u32::MAX,
            magnitude => magnitude.leading_zeros(),
        }),
        "lop3.b32" => lanes!(Integer, "wwwww", map4, |a: u32, b: u32, c: u32, table: u32| {
            let mut d = 0;
            for row in 0..8u32 {
                let pick = |x: u32, bit: u32| if row >> bit & 1 == 1 { x } else { !x };
                let on = (table >> row & 1).wrapping_neg();
                d |= pick(a, 2) & pick(b, 1) & pick(c, 0) & on;
            }
            d
        }),
        "prmt.b32" => lanes!(Integer, "wwww", map3, |a: u32, b: u32, s: u32| permute(a, b, s)),
        "prmt.b32.f4e" => lanes!(Integer, "wwww", map3, |a: u32, b: u32, s: u32| permute(a, b, 0x3210 + (s & 3) * 0x1111)),
        _ => fields(opcode),
    }
}

/// Fields of bits, and the spaces of addresses.
fn fields(opcode: &str) -> Option<Operation> {
    match opcode {
        "bfe.u32" => lanes!(Integer, "wwww", map3, |a: u32, at: u32, n: u32| extract(u64::from(a), at, n, 32) as u32),
        "bfe.s32" => lanes!(Integer, "wwww", map3, |a: i32, at: u32, n: u32| extract_signed(i64::from(a), at, n, 32) as i32),
        "bfe.u64" => lanes!(Integer, "llww", map3, |a: u64, at: u32, n: u32| extract(a, at, n, 64)),
        "bfe.s64" => lanes!(Integer, "llww", map3, |a: i64, at: u32, n: u32| extract_signed(a, at, n, 64)),
        "bfi.b32" => {
            lanes!(Integer, "wwwww", map4, |a: u32, b: u32, at: u32, n: u32| insert(u64::from(a), u64::from(b), at, n, 32) as u32)
        }
        "bfi.b64" => lanes!(Integer, "lllww", map4, |a: u64, b: u64, at: u32, n: u32| insert(a, b, at, n, 64)),
        "bmsk.clamp.b32" => lanes!(Integer, "www", map2, |at: u32, n: u32| if at > 31 { 0 } else { ones(n) << at }),
        "isspacep.shared" | "isspacep.shared::cta" => {
            lanes!(Integer, "pl", test1, |a: u64| a.wrapping_sub(SHARED_WINDOW) < WINDOW)
        }
        "isspacep.local" => lanes!(Integer, "pl", test1, |a: u64| a.wrapping_sub(LOCAL_WINDOW) < WINDOW),
        "isspacep.param" => lanes!(Integer, "pl", test1, |a: u64| a.wrapping_sub(PARAM_WINDOW) < WINDOW),
        "isspacep.global" => lanes!(Integer, "pl", test1, |a: u64| a >= PARAM_WINDOW + WINDOW),
        "szext.clamp.u32" => lanes!(Integer, "www", map2, |a: u32, n: u32| a & ones(n)),
        _ => None,
    }
}

fn shifts(opcode: &str) -> Option<Operation> {
    match opcode {
        "shl.b16" => lanes!(Integer, "hhw", map2, |a: u16, n: u32| a.checked_shl(n).unwrap_or(0)),
        "shl.b32" => lanes!(Integer, "www", map2, |a: u32, n: u32| if n > 31 { 0 } else { a << (n & 31) }),
        "shl.b64" => lanes!(Integer, "llw", map2, |a: u64, n: u32| if n > 63 { 0 } else { a << (n & 63) }),
        "shr.u16" | "shr.b16" => lanes!(Integer, "hhw", map2, |a: u16, n: u32| a.checked_shr(n).unwrap_or(0)),
        "shr.s16" => lanes!(Integer, "hhw", map2, |a: i16, n: u32| a >> n.min(15)),
        "shr.u32" | "shr.b32" => lanes!(Integer, "www", map2, |a: u32, n: u32| if n > 31 { 0 } else { a >> (n & 31) }),
        "shr.s32" => lanes!(Integer, "www", map2, |a: i32, n: u32| a >> n.min(31)),
        "shr.u64" | "shr.b64" => lanes!(Integer, "llw", map2, |a: u64, n: u32| if n > 63 { 0 } else { a >> (n & 63) }),
        "shr.s64" => lanes!(Integer, "llw", map2, |a: i64, n: u32| a >> n.min(63)),
        "shf.l.wrap.b32" => lanes!(Integer, "wwww", map3, |a: u32, b: u32, n: u32| (pair(a, b) << (n & 31) >> 32) as u32),
        "shf.r.wrap.b32" => lanes!(Integer, "wwww", map3, |a: u32, b: u32, n: u32| (pair(a, b) >> (n & 31)) as u32),
        "shf.l.clamp.b32" => lanes!(Integer, "wwww", map3, |a: u32, b: u32, n: u32| (pair(a, b) << n.min(32) >> 32) as u32),
        "shf.r.clamp.b32" => lanes!(Integer, "wwww", map3, |a: u32, b: u32, n: u32| (pair(a, b) >> n.min(32)) as u32),
        _ => None,
    }
}

fn moves(opcode: &str) -> Option<Operation> {
    match opcode {
        "mov.b16" | "mov.u16" | "mov.s16" | "mov.f16" | "mov.bf16" => lanes!(Move, "hh", map1, |a: u16| a),
        "mov.b32" | "mov.u32" | "mov.s32" | "mov.f16x2" | "mov.bf16x2" => lanes!(Move, "ww", map1, |a: u32| a),
        "mov.f32" => lanes!(Move, "ff", map1, |a: u32| a),
        "mov.b64" | "mov.u64" | "mov.s64" => lanes!(Move, "ll", map1, |a: u64| a),
        "mov.f64" => lanes!(Move, "dd", map1, |a: u64| a),
        "mov.pred" => lanes!(Move, "pp", logic1, |a| a),
        // Packing and unpacking, named by the types of their parts.
        "mov.pack.whh" => lanes!(Integer, "whh", map2, |a: u16, b: u16| u32::from(a) | u32::from(b) << 16),
        "mov.pack.lww" => lanes!(Move, "lww", map2, |a: u32, b: u32| pair(a, b)),
        "mov.pack.lhhhh" => {
            lanes!(Integer, "lhhhh", map4, |a: u16, b: u16, c: u16, d: u16| {
                u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48
            })
        }
        "mov.split.hhw" => lanes!(Integer, "hhw", split, |a: u32| (a as u16, (a >> 16) as u16)),
        "mov.split.wwl" => lanes!(Move, "wwl", split, |a: u64| (a as u32, (a >> 32) as u32)),
        "selp.b16" | "selp.u16" | "selp.s16" | "selp.f16" | "selp.bf16" => lanes!(Integer, "hhhp", select, |a: u16| a),
        "selp.b32" | "selp.u32" | "selp.s32" => lanes!(Integer, "wwwp", select, |a: u32| a),
        "selp.f32" => lanes!(Integer, "fffp", select, |a: u32| a),
        "selp.b64" | "selp.u64" | "selp.s64" => lanes!(Integer, "lllp", select, |a: u64| a),
        "selp.f64" => lanes!(Integer, "dddp", select, |a: u64| a),
        "slct.b32.s32" | "slct.u32.s32" | "slct.s32.s32" => {
            lanes!(Integer, "wwww", map3, |a: u32, b: u32, c: i32| if c >= 0 { a } else { b })
        }
        "slct.f32.s32" => lanes!(Integer, "fffw", map3, |a: u32, b: u32, c: i32| if c >= 0 { a } else { b }),
        "slct.b64.s32" | "slct.u64.s32" | "slct.s64.s32" => {
            lanes!(Integer, "lllw", map3, |a: u64, b: u64, c: i32| if c >= 0 { a } else { b })
        }
        "slct.f32.f32" => lanes!(Integer, "ffff", map3, |a: u32, b: u32, c: f32| if c >= 0.0 { a } else { b }),
        _ => None,
    }
}

/// Leading zeros, all ones for zero.
fn count_leading(a: u32) -> u32 {
    if a == 0 { u32::MAX } else { a.leading_zeros() }
}

/// The lanes that `%lanemask_*` names for a lane.
pub(crate) fn lane_mask(name: &str, lane: u32) -> u32 {
    let equal = 1u32 << lane;
    match name {
        "eq" => equal,
        "lt" => equal - 1,
        "le" => equal | (equal - 1),
        "gt" => !(equal | (equal - 1)),
        _ => !(equal - 1),
    }
}

#[inline(always)]
fn magnitude(a: i32) -> u32 {
    (a ^ a >> 31) as u32
}

#[inline(always)]
fn ones(n: u32) -> u32 {
    if n > 31 { u32::MAX } else { (1 << n) - 1 }
}

#[inline(always)]
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// The generic mode of `prmt`: each nibble of the selector picks a byte of `b:a`, or, with its top bit, that byte's sign.
#[inline(always)]
fn permute(a: u32, b: u32, selector: u32) -> u32 {
    let bytes = pair(a, b);
    let mut d = 0;
    for i in 0..4 {
        let nibble = selector >> (4 * i) & 15;
        let byte = (bytes >> (8 * (nibble & 7)) & 255) as u32;
        let byte = if nibble & 8 == 0 { byte } else { (byte >> 7) * 255 };
        d |= byte << (8 * i);
    }
    d
}

#[inline(always)]
fn extract(a: u64, at: u32, n: u32, width: u32) -> u64 {
    let (at, n) = (at & 255, n & 255);
    let shifted = if at >= width { 0 } else { a >> at };
    if n >= 64 { shifted } else { shifted & ((1 << n) - 1) }
}

/// Beyond the top, and for a field that reaches beyond it, the sign of the operand fills.
#[inline(always)]
fn extract_signed(a: i64, at: u32, n: u32, width: u32) -> i64 {
    let (at, n) = (at & 255, n & 255);
    if n == 0 {
        return 0;
    }
    let shifted = a >> at.min(63);
    if n >= width.saturating_sub(at).max(1) { shifted } else { shifted << (64 - n) >> (64 - n) }
}

#[inline(always)]
fn insert(a: u64, b: u64, at: u32, n: u32, width: u32) -> u64 {
    let (at, n) = (at & 255, n & 255);
    if at >= width || n == 0 {
        return b;
    }
    let field = if n >= 64 { u64::MAX } else { (1 << n) - 1 } << at;
    b & !field | a << at & field
}
