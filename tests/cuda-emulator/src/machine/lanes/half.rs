//! f16 and bf16, single and packed in pairs.
//!
//! Sums and fused products are taken exactly (f64 with the rounding error carried along) and rounded once.

use super::rounding::{BF16, F16, Format, Mode, pack, to_odd, two_sum};
use super::{Operation, lanes};

pub(super) fn find(opcode: &str) -> Option<Operation> {
    match opcode.replace(".rn", "").as_str() {
        "add.f16" => lanes!(Fp32, "hhh", map2, |a: u16, b: u16| f16(a, ONE16, b)),
        "sub.f16" => lanes!(Fp32, "hhh", map2, |a: u16, b: u16| f16(a, ONE16, b ^ 0x8000)),
        "mul.f16" => lanes!(Fp32, "hhh", map2, |a: u16, b: u16| f16(a, b, minus_zero(a, b))),
        "fma.f16" => lanes!(Fp32, "hhhh", map3, |a: u16, b: u16, c: u16| f16(a, b, c)),
        "add.bf16" => lanes!(Fp32, "hhh", map2, |a: u16, b: u16| bf16(a, ONEB16, b)),
        "sub.bf16" => lanes!(Fp32, "hhh", map2, |a: u16, b: u16| bf16(a, ONEB16, b ^ 0x8000)),
        "mul.bf16" => lanes!(Fp32, "hhh", map2, |a: u16, b: u16| bf16(a, b, minus_zero(a, b))),
        "fma.bf16" => lanes!(Fp32, "hhhh", map3, |a: u16, b: u16, c: u16| bf16(a, b, c)),
        "add.f16x2" => lanes!(Fp32, "www", map2, |a: u32, b: u32| add_f16x2(a, b)),
        "sub.f16x2" => lanes!(Fp32, "www", map2, |a: u32, b: u32| both2(a, b, |a, b| f16(a, ONE16, b ^ 0x8000))),
        "mul.f16x2" => lanes!(Fp32, "www", map2, |a: u32, b: u32| both2(a, b, |a, b| f16(a, b, minus_zero(a, b)))),
        "fma.f16x2" => lanes!(Fp32, "wwww", map3, |a: u32, b: u32, c: u32| both3(a, b, c, f16)),
        "fma.relu.f16x2" => lanes!(Fp32, "wwww", map3, |a: u32, b: u32, c: u32| both3(a, b, c, |a, b, c| relu(f16(a, b, c), 0x7c00))),
        "add.bf16x2" => lanes!(Fp32, "www", map2, |a: u32, b: u32| add_bf16x2(a, b)),
        "sub.bf16x2" => lanes!(Fp32, "www", map2, |a: u32, b: u32| both2(a, b, |a, b| bf16(a, ONEB16, b ^ 0x8000))),
        "mul.bf16x2" => lanes!(Fp32, "www", map2, |a: u32, b: u32| both2(a, b, |a, b| bf16(a, b, minus_zero(a, b)))),
        "fma.bf16x2" => lanes!(Fp32, "wwww", map3, |a: u32, b: u32, c: u32| both3(a, b, c, bf16)),
        "fma.relu.bf16x2" => lanes!(Fp32, "wwww", map3, |a: u32, b: u32, c: u32| both3(a, b, c, |a, b, c| relu(bf16(a, b, c), 0x7f80))),
        "neg.f16" | "neg.bf16" => lanes!(Fp32, "hh", map1, |a: u16| a ^ 0x8000),
        "abs.f16" | "abs.bf16" => lanes!(Fp32, "hh", map1, |a: u16| a & 0x7fff),
        "neg.f16x2" | "neg.bf16x2" => lanes!(Fp32, "ww", map1, |a: u32| a ^ 0x8000_8000),
        "abs.f16x2" | "abs.bf16x2" => lanes!(Fp32, "ww", map1, |a: u32| a & 0x7fff_7fff),
        "min.f16" => lanes!(Fp32, "hhh", map2, |a: u16, b: u16| least(a, b, 0x7c00)),
        "max.f16" => lanes!(Fp32, "hhh", map2, |a: u16, b: u16| greatest(a, b, 0x7c00)),
        "min.bf16" => lanes!(Fp32, "hhh", map2, |a: u16, b: u16| least(a, b, 0x7f80)),
        "max.bf16" => lanes!(Fp32, "hhh", map2, |a: u16, b: u16| greatest(a, b, 0x7f80)),
        "min.f16x2" => lanes!(Fp32, "www", map2, |a: u32, b: u32| both2(a, b, |a, b| least(a, b, 0x7c00))),
        "max.f16x2" => lanes!(Fp32, "www", map2, |a: u32, b: u32| both2(a, b, |a, b| greatest(a, b, 0x7c00))),
        "min.bf16x2" => lanes!(Fp32, "www", map2, |a: u32, b: u32| both2(a, b, |a, b| least(a, b, 0x7f80))),
        "max.bf16x2" => lanes!(Fp32, "www", map2, |a: u32, b: u32| both2(a, b, |a, b| greatest(a, b, 0x7f80))),
        _ => None,
    }
}

const ONE16: u16 = 0x3c00;
const ONEB16: u16 = 0x3f80;
const CANONICAL: u16 = 0x7fff;

pub(crate) fn add_f16x2(a: u32, b: u32) -> u32 {
    both2(a, b, |a, b| f16(a, ONE16, b))
}

pub(crate) fn add_bf16x2(a: u32, b: u32) -> u32 {
    both2(a, b, |a, b| bf16(a, ONEB16, b))
}

/// The f32 of the same value; NaN keeps its payload.
#[inline(always)]
pub(crate) fn f16_to_f32(h: u16) -> f32 {
    let magnitude = u32::from(h & 0x7fff) << 13;
    // Subnormals and normals alike: the exponent's bias is changed by a product with a power of two.
    let finite = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let bits = if magnitude >= 0x0f80_0000 { magnitude | 0x7f80_0000 } else { finite };
    f32::from_bits(bits | u32::from(h & 0x8000) << 16)
}

/// The f32 of the same value.
#[inline(always)]
pub(crate) fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits(u32::from(h) << 16)
}

/// To f16, nearest even.
#[inline(always)]
pub(super) fn f32_to_f16(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16 & 0x8000) as u16;
    let magnitude = x.to_bits() & 0x7fff_ffff;
    // Below 2^-14 a sum with 0.5 leaves the 10-bit subnormal in the low bits, rounded by the addition itself.
    let small = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let normal = magnitude.wrapping_add(0xc800_0fff).wrapping_add(magnitude >> 13 & 1) >> 13;
    let bits = if magnitude < 0x3880_0000 { small } else { normal };
    let bits = if magnitude >= 0x4780_0000 { 0x7c00 } else { bits };
    if magnitude > 0x7f80_0000 { CANONICAL } else { bits as u16 | sign }
}

/// To bf16, nearest even.
#[inline(always)]
pub(super) fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { CANONICAL } else { rounded as u16 }
}

fn f16(a: u16, b: u16, c: u16) -> u16 {
    fused(f16_to_f32(a), f16_to_f32(b), f16_to_f32(c), F16)
}

fn bf16(a: u16, b: u16, c: u16) -> u16 {
    fused(bf16_to_f32(a), bf16_to_f32(b), bf16_to_f32(c), BF16)
}

fn fused(a: f32, b: f32, c: f32, format: Format) -> u16 {
    let (sum, error) = two_sum(f64::from(a) * f64::from(b), f64::from(c));
    pack(to_odd(sum, error), format, Mode::Nearest) as u16
}

/// The zero that leaves a product's sign alone when added to it.
fn minus_zero(a: u16, b: u16) -> u16 {
    (a ^ b) & 0x8000
}

pub(super) fn both2(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    u32::from(f(a as u16, b as u16)) | u32::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
}

fn both3(a: u32, b: u32, c: u32, f: impl Fn(u16, u16, u16) -> u16) -> u32 {
    u32::from(f(a as u16, b as u16, c as u16)) | u32::from(f((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16)) << 16
}

fn nan(a: u16, infinity: u16) -> bool {
    a & 0x7fff > infinity
}

pub(super) fn relu(a: u16, infinity: u16) -> u16 {
    if nan(a, infinity) {
        CANONICAL
    } else if a & 0x8000 != 0 {
        0
    } else {
        a
    }
}

/// The bits of a 16-bit float in an order that is that of their values.
fn ordered(a: u16) -> i16 {
    let a = a as i16;
    if a < 0 { !(a & 0x7fff) } else { a }
}

fn least(a: u16, b: u16, infinity: u16) -> u16 {
    match (nan(a, infinity), nan(b, infinity)) {
        (true, true) => CANONICAL,
        (true, false) => b,
        (false, true) => a,
        (false, false) => {
            if ordered(a) < ordered(b) {
                a
            } else {
                b
            }
        }
    }
}

fn greatest(a: u16, b: u16, infinity: u16) -> u16 {
    match (nan(a, infinity), nan(b, infinity)) {
        (true, true) => CANONICAL,
        (true, false) => b,
        (false, true) => a,
        (false, false) => {
            if ordered(a) > ordered(b) {
                a
            } else {
                b
            }
        }
    }
}
