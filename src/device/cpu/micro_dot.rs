//! The micro-kernel on VDPBF16PS: each instruction adds two bf16 products to an f32 sum.

use super::blocking::ROW_BYTES;
use super::micro::{Step, for_rows};
use std::arch::x86_64::*;

/// Runs a step whose x and weights are both bf16.
///
/// # Safety
/// The processor has AVX512_BF16; the step's pointers are valid for what its fields say.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn run(step: &Step) {
    // SAFETY: as the caller promises.
    unsafe {
        if step.columns <= 16 {
            for_rows!(step.rows, [12 11 10 9 8 7 6 5 4 3 2 1], MR => tile::<MR, 1>(step));
        } else {
            for_rows!(step.rows, [12 11 10 9 8 7 6 5 4 3 2 1], MR => tile::<MR, 2>(step));
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn tile<const MR: usize, const V: usize>(step: &Step) {
    // SAFETY: as the caller of the step promises.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); V]; MR];
        if !step.first {
            for (i, row) in sums.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(step.sums.add(i * step.ld + v * 16));
                }
            }
        }
        for pair in 0..step.k / 2 {
            let mut w = [pairs(_mm512_setzero_si512()); V];
            for (v, w) in w.iter_mut().enumerate() {
                *w = pairs(_mm512_loadu_si512(step.weights.add(pair * 128 + v * 64).cast()));
            }
            for (i, sum) in sums.iter_mut().enumerate() {
                let x = step.x.add(i * ROW_BYTES + pair * 4).cast::<i32>().read_unaligned();
                let x = pairs(_mm512_set1_epi32(x));
                for v in 0..V {
                    sum[v] = _mm512_dpbf16_ps(sum[v], x, w[v]);
                }
            }
        }
        for (i, row) in sums.iter().enumerate() {
            for (v, &sum) in row.iter().enumerate() {
                _mm512_storeu_ps(step.sums.add(i * step.ld + v * 16), sum);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn pairs(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 plain bits.
    unsafe { std::mem::transmute(bits) }
}
