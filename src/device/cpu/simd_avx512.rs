//! Sixteen lanes: AVX-512 F, BW, DQ and VL.

use super::simd::Simd;
use half::bf16;
use std::arch::x86_64::*;

/// AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy)]
pub(super) struct Avx512;

// SAFETY of every block: the trait asks the caller for the instruction set and for valid pointers.
impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        unsafe { _mm512_storeu_ps(to, v) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self::V {
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast())))) }
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut bf16, v: Self::V) {
        unsafe {
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            // rounding could carry a NaN into infinity: keep its upper half, made quiet
            let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let safe = _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x0040_0000));
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(safe)));
        }
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const bf16) -> [Self::V; 2] {
        unsafe {
            let pairs = _mm512_loadu_si512(from.cast());
            let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(odd)]
        }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn if_positive(x: Self::V, yes: Self::V, no: Self::V) -> Self::V {
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, _mm512_setzero_ps()), no, yes) }
    }
    #[inline(always)]
    unsafe fn scale(p: Self::V, shifted: Self::V) -> Self::V {
        unsafe {
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), exponent))
        }
    }
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        unsafe {
            for column in (0..16).step_by(4) {
                let mut rows = [_mm512_setzero_ps(); 4];
                for (i, row) in rows.iter_mut().enumerate() {
                    // a quarter each of rows i, i + 4, i + 8 and i + 12: what is left is four 4 × 4 transposes, side by side
                    let from = from.add(i * from_stride + column);
                    *row = _mm512_castps128_ps512(_mm_loadu_ps(from));
                    *row = _mm512_insertf32x4::<1>(*row, _mm_loadu_ps(from.add(4 * from_stride)));
                    *row = _mm512_insertf32x4::<2>(*row, _mm_loadu_ps(from.add(8 * from_stride)));
                    *row = _mm512_insertf32x4::<3>(*row, _mm_loadu_ps(from.add(12 * from_stride)));
                }
                let [a, b, c, d] = rows;
                let low = [_mm512_castps_pd(_mm512_unpacklo_ps(a, b)), _mm512_castps_pd(_mm512_unpacklo_ps(c, d))];
                let high = [_mm512_castps_pd(_mm512_unpackhi_ps(a, b)), _mm512_castps_pd(_mm512_unpackhi_ps(c, d))];
                let to = to.add(column * to_stride);
                _mm512_storeu_ps(to, _mm512_castpd_ps(_mm512_unpacklo_pd(low[0], low[1])));
                _mm512_storeu_ps(to.add(to_stride), _mm512_castpd_ps(_mm512_unpackhi_pd(low[0], low[1])));
                _mm512_storeu_ps(to.add(2 * to_stride), _mm512_castpd_ps(_mm512_unpacklo_pd(high[0], high[1])));
                _mm512_storeu_ps(to.add(3 * to_stride), _mm512_castpd_ps(_mm512_unpackhi_pd(high[0], high[1])));
            }
        }
    }
}
