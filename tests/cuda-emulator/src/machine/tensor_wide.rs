//! The products of `tensor.rs` with AVX2: the same sums in the same order, eight columns at a time, so the same bits.

use std::arch::x86_64::*;

use super::lanes::{LANES, Operands, Rows};
use crate::ptx::program::Factor;

/// 16-bit factors, k a multiple of 8.
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,f16c")]
#[inline]
pub(super) fn multiply<const K: usize>(rows: &mut Rows, o: &Operands, factor: Factor) {
    let blocks = K / 8;
    // A by rows, B by columns first: the fragments hold eight factors in a row, two to a word.
    let mut a = [[0f32; K]; 16];
    let mut b = [[0f32; 8]; K];
    for r in 0..2 * blocks {
        let row = &rows.b32[o[4 + r] as usize];
        for g in 0..8 {
            store(&mut a[g + r % 2 * 8], r / 2 * 8, unpack(row, g, factor));
        }
    }
    for r in 0..blocks {
        let row = &rows.b32[o[4 + 2 * blocks + r] as usize];
        let mut columns = [_mm256_setzero_ps(); 8];
        for (g, column) in columns.iter_mut().enumerate() {
            *column = unpack(row, g, factor);
        }
        for (k, line) in transpose(columns).into_iter().enumerate() {
            store(&mut b[8 * r + k], 0, line);
        }
    }
    let c = 4 + 3 * blocks;
    for half in 0..2 {
        let (even, odd) = (rows.b32[o[c + 2 * half] as usize], rows.b32[o[c + 2 * half + 1] as usize]);
        let mut sums = [_mm256_setzero_ps(); 8];
        for (g, sum) in sums.iter_mut().enumerate() {
            let (x, y) = (quarter(&even, g), quarter(&odd, g));
            *sum = _mm256_set_m128(_mm_unpackhi_ps(x, y), _mm_unpacklo_ps(x, y));
        }
        for k in 0..K {
            let line = load(&b[k]);
            for (g, sum) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_ps(a[8 * half + g][k]);
                *sum = _mm256_add_ps(*sum, _mm256_mul_ps(x, line));
            }
        }
        let (mut even, mut odd) = ([0f32; LANES], [0f32; LANES]);
        for (g, sum) in sums.into_iter().enumerate() {
            let sum = canonical(sum);
            let (low, high) = (_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
            store4(&mut even, 4 * g, _mm_shuffle_ps::<0b10_00_10_00>(low, high));
            store4(&mut odd, 4 * g, _mm_shuffle_ps::<0b11_01_11_01>(low, high));
        }
        rows.b32[o[2 * half] as usize] = even.map(f32::to_bits);
        rows.b32[o[2 * half + 1] as usize] = odd.map(f32::to_bits);
    }
}

/// Eight factors: the four words of a group.
#[target_feature(enable = "avx2,f16c")]
#[inline]
fn unpack(row: &[u32; LANES], group: usize, factor: Factor) -> __m256 {
    let halves = _mm_castps_si128(quarter(row, group));
    match factor {
        Factor::F16 => _mm256_cvtph_ps(halves),
        _ => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves))),
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn quarter(row: &[u32; LANES], group: usize) -> __m128 {
    let words: &[u32] = &row[4 * group..4 * group + 4];
    // SAFETY: four words, as the slice has just shown; any bits are floats.
    unsafe { _mm_loadu_ps(words.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn load(line: &[f32; 8]) -> __m256 {
    // SAFETY: eight floats.
    unsafe { _mm256_loadu_ps(line.as_ptr()) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store(to: &mut [f32], at: usize, value: __m256) {
    let to = &mut to[at..at + 8];
    // SAFETY: eight floats.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), value) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn store4(to: &mut [f32; LANES], at: usize, value: __m128) {
    let to = &mut to[at..at + 4];
    // SAFETY: four floats.
    unsafe { _mm_storeu_ps(to.as_mut_ptr(), value) }
}

#[target_feature(enable = "avx2")]
#[inline]
fn canonical(x: __m256) -> __m256 {
    let nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff));
    _mm256_blendv_ps(x, nan, _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x))
}

#[target_feature(enable = "avx2")]
#[inline]
fn transpose(r: [__m256; 8]) -> [__m256; 8] {
    let mut pairs = [_mm256_setzero_ps(); 8];
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    let mut fours = [_mm256_setzero_ps(); 8];
    for i in 0..2 {
        let (low, high) = (pairs[4 * i], pairs[4 * i + 2]);
        fours[4 * i] = _mm256_shuffle_ps::<0x44>(low, high);
        fours[4 * i + 1] = _mm256_shuffle_ps::<0xee>(low, high);
        let (low, high) = (pairs[4 * i + 1], pairs[4 * i + 3]);
        fours[4 * i + 2] = _mm256_shuffle_ps::<0x44>(low, high);
        fours[4 * i + 3] = _mm256_shuffle_ps::<0xee>(low, high);
    }
    let mut out = [_mm256_setzero_ps(); 8];
    for i in 0..4 {
        out[i] = _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
        out[i + 4] = _mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
    }
    out
}
