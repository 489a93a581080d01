//! The micro-kernel on VDPBF16PS: each instruction adds two bf16 products to an f32 sum.

use super::blocking::ROW_BYTES;
use super::micro::{Step, for_rows};
use std::arch::x86_64::*;

/// Runs a step whose x and weights are both bf16.
///
/// # Safety
/// The processor has AVX512_BF16; the step's pointers are valid for what its fields say.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn run(step: Step) {
    // SAFETY: as the caller promises.
    unsafe { for_rows!(step.rows, [12 11 10 9 8 7 6 5 4 3 2 1], MR => tile::<MR>(&step)) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn tile<const MR: usize>(step: &Step) {
    // SAFETY: as the caller of the step promises.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; MR];
        if !step.first {
            for (i, row) in sums.iter_mut().enumerate() {
                let from = step.sums.add(i * step.ld);
                *row = [_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16))];
            }
        }
        for pair in 0..step.k / 2 {
            let w = step.weights.add(pair * 128);
            let w = [pairs(_mm512_loadu_si512(w.cast())), pairs(_mm512_loadu_si512(w.add(64).cast()))];
            for (i, sum) in sums.iter_mut().enumerate() {
                let x = step.x.add(i * ROW_BYTES + pair * 4).cast::<i32>().read_unaligned();
                let x = pairs(_mm512_set1_epi32(x));
                sum[0] = _mm512_dpbf16_ps(sum[0], x, w[0]);
                sum[1] = _mm512_dpbf16_ps(sum[1], x, w[1]);
            }
        }
        for (i, row) in sums.iter().enumerate() {
            let to = step.sums.add(i * step.ld);
            _mm512_storeu_ps(to, row[0]);
            _mm512_storeu_ps(to.add(16), row[1]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn pairs(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 plain bits.
    unsafe { std::mem::transmute(bits) }
}
