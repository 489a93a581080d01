//! Four lanes in plain Rust: the compiler turns them into whatever its baseline has.

use super::simd::Simd;
use half::bf16;

/// No instruction set beyond the baseline.
#[derive(Clone, Copy)]
pub(super) struct Portable;

const LANES: usize = 4;

#[inline(always)]
fn map(a: [f32; LANES], b: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

#[inline(always)]
fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

// SAFETY of every block: the pointers are valid as the trait asks.
impl Simd for Portable {
    type V = [f32; LANES];
    const LANES: usize = LANES;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        unsafe { to.cast::<Self::V>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self::V {
        unsafe { from.cast::<[u16; LANES]>().read_unaligned() }.map(widen)
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut bf16, v: Self::V) {
        unsafe { to.cast::<[bf16; LANES]>().write_unaligned(v.map(bf16::from_f32)) }
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const bf16) -> [Self::V; 2] {
        let pairs = unsafe { from.cast::<[u32; LANES]>().read_unaligned() };
        [pairs.map(|p| f32::from_bits(p << 16)), pairs.map(|p| f32::from_bits(p & 0xffff_0000))]
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        map(a, b, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        map(a, b, |x, y| x - y)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        map(a, b, |x, y| x * y)
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        map(a, b, |x, y| x / y)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // f32::mul_add without the instruction is a call into the C library
        map(map(a, b, |x, y| x * y), c, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        map(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        map(a, b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    unsafe fn if_positive(x: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        std::array::from_fn(|i| if x[i] > 0.0 { yes[i] } else { no[i] })
    }
    #[inline(always)]
    unsafe fn scale(p: Self::V, shifted: Self::V) -> Self::V {
        map(p, shifted, |p, n| f32::from_bits(p.to_bits().wrapping_add(n.to_bits() << 23)))
    }
}
