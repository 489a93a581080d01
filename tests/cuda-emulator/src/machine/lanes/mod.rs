//! What one instruction does to the 32 lanes of a warp: the operations that touch registers only.
//!
//! Each is a plain loop over lanes, compiled twice: for any x86-64 (or other) host, and with AVX2 and FMA where the host has them. Both give
//! the same bits: nothing here is contracted or reassociated, and `mul_add` is the exact fused operation on either.

#![allow(clippy::needless_range_loop, reason = "loops over lanes that index several rows are what the compiler vectorises")]

mod compare;
mod convert;
mod float;
mod half;
mod integer;
mod rounding;
mod special;

use crate::ptx::program::Factor;

pub(crate) use compare::NEGATED;
pub(crate) use float::add_f32;
pub(crate) use half::{add_bf16x2, add_f16x2, bf16_to_f32, f16_to_f32};
pub(crate) use integer::lane_mask;

/// Lanes of a warp.
pub(crate) const LANES: usize = 32;
/// All lanes.
pub(crate) const FULL: u32 = u32::MAX;

/// The lanes of a mask, lowest first.
#[inline(always)]
pub(crate) fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        let lane = left.trailing_zeros() as usize;
        left &= left.wrapping_sub(1);
        (lane < LANES).then_some(lane)
    })
}

/// The operand that holds an operation's code.
pub(crate) const CODE: usize = 13;
/// Row numbers of an instruction's operands, results first.
pub(crate) type Operands = [u16; 14];
/// An operation on rows. `unsafe` only because of the instruction set it may be compiled for, which [`pick`] has checked.
pub(crate) type Alu = unsafe fn(&mut Rows, &Operands, u32);

/// The registers of a warp: a row of 32 lanes each. Constants and special registers are rows too.
#[derive(Clone, Default)]
pub(crate) struct Rows {
    pub(crate) b32: Vec<[u32; LANES]>,
    pub(crate) b64: Vec<[u64; LANES]>,
    /// Predicates, a bit per lane.
    pub(crate) p: Vec<u32>,
}

/// Which unit of a multiprocessor an instruction is counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Fp32,
    Fp64,
    Integer,
    /// A register to a register, or two as one: nothing that the assembler would keep.
    Move,
    Special,
    Memory,
    Control,
    /// Type of the factors, depth of the product.
    Tensor(Factor, u8),
    Warp,
}

/// A register-only operation: its loop, its unit, and the types of its operands, results first, one letter each:
/// `w` 32 bits, `h` 16 bits, `l` 64 bits, `f` f32, `d` f64, `p` predicate, `P` optional second predicate result.
#[derive(Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) run: Alu,
    pub(crate) class: Class,
    pub(crate) types: &'static str,
    /// A modifier that the operation reads at run time, in the last operand.
    pub(crate) code: u16,
}

/// The operation of an opcode like `add.s32`, if it is one that touches registers only.
pub(crate) fn find(opcode: &str) -> Option<Operation> {
    integer::find(opcode)
        .or_else(|| float::find(opcode))
        .or_else(|| half::find(opcode))
        .or_else(|| special::find(opcode))
        .or_else(|| compare::find(opcode))
        .or_else(|| convert::find(opcode))
}

/// Compiles a loop over lanes for both instruction sets and picks the one for this host.
macro_rules! lanes {
    ($class:ident, $types:literal, $shape:ident, $f:expr) => {{
        #[inline(always)]
        fn body(rows: &mut $crate::machine::lanes::Rows, o: &$crate::machine::lanes::Operands, mask: u32) {
            $crate::machine::lanes::$shape(rows, o, mask, $f)
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,f16c")]
        fn wide(rows: &mut $crate::machine::lanes::Rows, o: &$crate::machine::lanes::Operands, mask: u32) {
            body(rows, o, mask)
        }
        #[cfg(not(target_arch = "x86_64"))]
        use body as wide;
        let run: $crate::machine::lanes::Alu = if $crate::machine::lanes::wide() { wide } else { body };
        Some($crate::machine::lanes::Operation { run, class: $crate::machine::lanes::Class::$class, types: $types, code: 0 })
    }};
}
pub(crate) use lanes;

/// Whether the host has what the wide versions are compiled for.
pub(crate) fn wide() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        has!("avx2") && has!("fma") && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("popcnt") && has!("f16c")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// A stored word: 32 or 64 bits.
pub(crate) trait Word: Copy + Default {
    fn row(rows: &Rows, at: u16) -> &[Self; LANES];
    fn row_mut(rows: &mut Rows, at: u16) -> &mut [Self; LANES];
}

impl Word for u32 {
    #[inline(always)]
    fn row(rows: &Rows, at: u16) -> &[u32; LANES] {
        &rows.b32[at as usize]
    }
    #[inline(always)]
    fn row_mut(rows: &mut Rows, at: u16) -> &mut [u32; LANES] {
        &mut rows.b32[at as usize]
    }
}

impl Word for u64 {
    #[inline(always)]
    fn row(rows: &Rows, at: u16) -> &[u64; LANES] {
        &rows.b64[at as usize]
    }
    #[inline(always)]
    fn row_mut(rows: &mut Rows, at: u16) -> &mut [u64; LANES] {
        &mut rows.b64[at as usize]
    }
}

/// A value as an operation sees it, and the word that holds it.
pub(crate) trait Value: Copy {
    type Word: Word;
    fn of(word: Self::Word) -> Self;
    fn word(self) -> Self::Word;
}

macro_rules! value {
    ($($t:ty, $w:ty, |$x:ident| $of:expr, |$y:ident| $word:expr;)*) => {$(
        impl Value for $t {
            type Word = $w;
            #[inline(always)]
            fn of($x: $w) -> $t { $of }
            #[inline(always)]
            fn word(self) -> $w { let $y = self; $word }
        }
    )*};
}
value! {
    u8, u32, |x| x as u8, |y| u32::from(y);
    i8, u32, |x| x as i8, |y| y as u32;
    u16, u32, |x| x as u16, |y| u32::from(y);
    i16, u32, |x| x as i16, |y| u32::from(y as u16);
    u32, u32, |x| x, |y| y;
    i32, u32, |x| x as i32, |y| y as u32;
    f32, u32, |x| f32::from_bits(x), |y| y.to_bits();
    u64, u64, |x| x, |y| y;
    i64, u64, |x| x as i64, |y| y as u64;
    f64, u64, |x| f64::from_bits(x), |y| y.to_bits();
}

#[inline(always)]
pub(crate) fn store<W: Word>(rows: &mut Rows, at: u16, values: &[W; LANES], mask: u32) {
    let row = W::row_mut(rows, at);
    if mask == FULL {
        *row = *values;
        return;
    }
    for lane in 0..LANES {
        row[lane] = if mask >> lane & 1 == 1 { values[lane] } else { row[lane] };
    }
}

#[inline(always)]
pub(crate) fn map1<D: Value, A: Value>(rows: &mut Rows, o: &Operands, mask: u32, f: impl Fn(A) -> D) {
    let a = A::Word::row(rows, o[1]);
    let mut d = [D::Word::default(); LANES];
    for lane in 0..LANES {
        d[lane] = f(A::of(a[lane])).word();
    }
    store(rows, o[0], &d, mask);
}

#[inline(always)]
pub(crate) fn map2<D: Value, A: Value, B: Value>(rows: &mut Rows, o: &Operands, mask: u32, f: impl Fn(A, B) -> D) {
    let (a, b) = (A::Word::row(rows, o[1]), B::Word::row(rows, o[2]));
    let mut d = [D::Word::default(); LANES];
    for lane in 0..LANES {
        d[lane] = f(A::of(a[lane]), B::of(b[lane])).word();
    }
    store(rows, o[0], &d, mask);
}

#[inline(always)]
pub(crate) fn map3<D: Value, A: Value, B: Value, C: Value>(rows: &mut Rows, o: &Operands, mask: u32, f: impl Fn(A, B, C) -> D) {
    let (a, b, c) = (A::Word::row(rows, o[1]), B::Word::row(rows, o[2]), C::Word::row(rows, o[3]));
    let mut d = [D::Word::default(); LANES];
    for lane in 0..LANES {
        d[lane] = f(A::of(a[lane]), B::of(b[lane]), C::of(c[lane])).word();
    }
    store(rows, o[0], &d, mask);
}

#[inline(always)]
pub(crate) fn map4<D: Value, A: Value, B: Value, C: Value, E: Value>(
    rows: &mut Rows,
    o: &Operands,
    mask: u32,
    f: impl Fn(A, B, C, E) -> D,
) {
    let (a, b) = (A::Word::row(rows, o[1]), B::Word::row(rows, o[2]));
    let (c, e) = (C::Word::row(rows, o[3]), E::Word::row(rows, o[4]));
    let mut d = [D::Word::default(); LANES];
    for lane in 0..LANES {
        d[lane] = f(A::of(a[lane]), B::of(b[lane]), C::of(c[lane]), E::of(e[lane])).word();
    }
    store(rows, o[0], &d, mask);
}

/// Three operands and the operation's code; those of fewer ignore the rest.
#[inline(always)]
pub(crate) fn coded<D: Value, A: Value>(rows: &mut Rows, o: &Operands, mask: u32, f: impl Fn(A, A, A, u16) -> D) {
    let (a, b, c) = (A::Word::row(rows, o[1]), A::Word::row(rows, o[2]), A::Word::row(rows, o[3]));
    let mut d = [D::Word::default(); LANES];
    for lane in 0..LANES {
        d[lane] = f(A::of(a[lane]), A::of(b[lane]), A::of(c[lane]), o[CODE]).word();
    }
    store(rows, o[0], &d, mask);
}

/// Two results of one operand.
#[inline(always)]
pub(crate) fn split<D: Value, E: Value, A: Value>(rows: &mut Rows, o: &Operands, mask: u32, f: impl Fn(A) -> (D, E)) {
    let a = A::Word::row(rows, o[2]);
    let (mut d, mut e) = ([D::Word::default(); LANES], [E::Word::default(); LANES]);
    for lane in 0..LANES {
        let (x, y) = f(A::of(a[lane]));
        (d[lane], e[lane]) = (x.word(), y.word());
    }
    store(rows, o[0], &d, mask);
    store(rows, o[1], &e, mask);
}

/// A choice by predicate: `d = p ? a : b`.
#[inline(always)]
pub(crate) fn select<V: Value>(rows: &mut Rows, o: &Operands, mask: u32, f: impl Fn(V) -> V) {
    let p = rows.p[o[3] as usize];
    let (a, b) = (V::Word::row(rows, o[1]), V::Word::row(rows, o[2]));
    let mut d = [V::Word::default(); LANES];
    for lane in 0..LANES {
        d[lane] = f(V::of(if p >> lane & 1 == 1 { a[lane] } else { b[lane] })).word();
    }
    store(rows, o[0], &d, mask);
}

/// Logic on predicates, all lanes at once.
#[inline(always)]
pub(crate) fn logic2(rows: &mut Rows, o: &Operands, mask: u32, f: impl Fn(u32, u32) -> u32) {
    let value = f(rows.p[o[1] as usize], rows.p[o[2] as usize]);
    let row = &mut rows.p[o[0] as usize];
    *row = *row & !mask | value & mask;
}

#[inline(always)]
pub(crate) fn logic1(rows: &mut Rows, o: &Operands, mask: u32, f: impl Fn(u32) -> u32) {
    let value = f(rows.p[o[1] as usize]);
    let row = &mut rows.p[o[0] as usize];
    *row = *row & !mask | value & mask;
}

/// A comparison: operands are `p`, `q`, `a`, `b` and a predicate to combine with; see [`compare`] for the codes.
#[inline(always)]
pub(crate) fn test2<A: Value, B: Value>(rows: &mut Rows, o: &Operands, mask: u32, f: impl Fn(A, B) -> bool) {
    let (a, b) = (A::Word::row(rows, o[2]), B::Word::row(rows, o[3]));
    let mut bits = 0u32;
    for lane in 0..LANES {
        bits |= u32::from(f(A::of(a[lane]), B::of(b[lane]))) << lane;
    }
    compare::combine(rows, o, mask, bits);
}

/// A test of one operand.
#[inline(always)]
pub(crate) fn test1<A: Value>(rows: &mut Rows, o: &Operands, mask: u32, f: impl Fn(A) -> bool) {
    let a = A::Word::row(rows, o[1]);
    let mut bits = 0u32;
    for lane in 0..LANES {
        bits |= u32::from(f(A::of(a[lane]))) << lane;
    }
    let row = &mut rows.p[o[0] as usize];
    *row = *row & !mask | bits & mask;
}
