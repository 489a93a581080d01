//! The 32-bit words that attention multiplies, an f32 or two bf16, and the register tile that multiplies them.

use super::Isa;
use super::attention::Block;
use super::simd::{Elem, Simd, dispatch, load_some, store_some};
use half::bf16;

/// Broadcast values of a register tile: 6 × 4 vectors of sums leave room for the operands in 32 registers, 6 × 2 in 16.
pub(super) const TILE: usize = 6;

/// Storage types of attention, each with the best words for it.
pub(crate) trait Element: Elem {
    /// Runs a task.
    ///
    /// # Safety
    /// The processor has `isa`; no other task that runs has the same part of the output.
    unsafe fn run(isa: Isa, task: Block<'_, Self>);
}

impl Element for f32 {
    unsafe fn run(isa: Isa, task: Block<'_, Self>) {
        // SAFETY: as the caller promises.
        unsafe { dispatch(isa, task) }
    }
}

impl Element for bf16 {
    unsafe fn run(isa: Isa, task: Block<'_, Self>) {
        // SAFETY: as the caller promises.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if isa >= Isa::Avx512Bf16 {
                return pairs::run(task);
            }
            dispatch(isa, task);
        }
    }
}

/// How queries, keys, values and weights are held.
///
/// # Safety
/// All functions need a processor with `S` and what the implementation asks for, and pointers valid for all that is written.
pub(super) trait Words<S: Simd, T: Elem> {
    /// Values in a word; 1 or 2.
    const PER_WORD: usize;

    /// All words of a row, zeros after its end.
    unsafe fn copy_row(row: &[T], to: *mut f32);
    /// For each channel the word of the first row, or of both where a word has two values; a missing row is zeros.
    /// With no row at all, `to` is left as it is.
    unsafe fn value_rows(rows: [Option<&[T]>; 2], to: *mut f32);
    /// Weights of one key, or of two where a word has two values.
    unsafe fn join(weights: [S::V; 2]) -> S::V;
    /// a · b + sum, over all values of the words
    unsafe fn mac(a: S::V, b: S::V, sum: S::V) -> S::V;
}

/// `sums[r][v] += Σ over steps of a[r · strides[0] + step · strides[1]] · b[step][v]`.
#[inline(always)]
pub(super) unsafe fn multiply<S: Simd, T: Elem, W: Words<S, T>, const NV: usize>(
    steps: usize,
    a: *const f32,
    strides: [usize; 2],
    b: *const f32,
    sums: &mut [[S::V; NV]; TILE],
) {
    // SAFETY: as the caller promises: a and b are valid for all steps.
    unsafe {
        let mut held = *sums;
        for step in 0..steps {
            let mut right = [S::splat(0.0); NV];
            for (v, vector) in right.iter_mut().enumerate() {
                *vector = S::load(b.add((step * NV + v) * S::LANES));
            }
            for (r, row) in held.iter_mut().enumerate() {
                let left = S::splat(*a.add(r * strides[0] + step * strides[1]));
                for (sum, &vector) in row.iter_mut().zip(&right) {
                    *sum = W::mac(left, vector, *sum);
                }
            }
        }
        *sums = held;
    }
}

/// One f32 in a word: any storage type on any instruction set.
pub(super) struct Single;

impl<S: Simd, T: Elem> Words<S, T> for Single {
    const PER_WORD: usize = 1;

    #[inline(always)]
    unsafe fn copy_row(row: &[T], to: *mut f32) {
        for i in (0..row.len()).step_by(S::LANES) {
            let n = S::LANES.min(row.len() - i);
            // SAFETY: i + n values of the row, and as many at `to`.
            unsafe { store_some::<S, f32>(to.add(i), n, load_some::<S, T>(row.as_ptr().add(i), n)) };
        }
    }

    #[inline(always)]
    unsafe fn value_rows(rows: [Option<&[T]>; 2], to: *mut f32) {
        if let [Some(row), _] = rows {
            // SAFETY: as the caller promises.
            unsafe { <Self as Words<S, T>>::copy_row(row, to) };
        }
    }

    #[inline(always)]
    unsafe fn join(weights: [S::V; 2]) -> S::V {
        weights[0]
    }

    #[inline(always)]
    unsafe fn mac(a: S::V, b: S::V, sum: S::V) -> S::V {
        // SAFETY: as the caller promises.
        unsafe { S::fma(a, b, sum) }
    }
}

/// Two bf16 in a word, multiplied by VDPBF16PS. Weights are rounded to bf16, as every framework does in this type.
#[cfg(target_arch = "x86_64")]
mod pairs {
    use super::super::attention::Block;
    use super::super::simd_avx512::Avx512;
    use super::Words;
    use half::bf16;
    use std::arch::x86_64::*;
    use std::mem::transmute;

    /// # Safety
    /// The processor has AVX-512 and its bf16 dot products.
    #[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub(super) unsafe fn run(task: Block<'_, bf16>) {
        // SAFETY: as the caller promises.
        unsafe { task.walk::<Avx512, Pairs, 4>() }
    }

    struct Pairs;

    /// The first value is the lower half.
    #[inline(always)]
    fn pair(first: bf16, second: bf16) -> f32 {
        f32::from_bits(u32::from(first.to_bits()) | u32::from(second.to_bits()) << 16)
    }

    // SAFETY of every block: the caller has the instruction set, `to` is valid for all words.
    impl Words<Avx512, bf16> for Pairs {
        const PER_WORD: usize = 2;

        #[inline(always)]
        unsafe fn copy_row(row: &[bf16], to: *mut f32) {
            unsafe {
                if row.len() % 2 == 1 {
                    *to.add(row.len() / 2) = pair(row[row.len() - 1], bf16::ZERO);
                }
                std::ptr::copy_nonoverlapping(row.as_ptr(), to.cast(), row.len() / 2 * 2);
            }
        }

        #[inline(always)]
        unsafe fn value_rows(rows: [Option<&[bf16]>; 2], to: *mut f32) {
            unsafe {
                match rows {
                    [Some(first), Some(second)] => {
                        for (i, (&a, &b)) in first.iter().zip(second).enumerate() {
                            *to.add(i) = pair(a, b);
                        }
                    }
                    [Some(first), None] => {
                        for (i, &a) in first.iter().enumerate() {
                            *to.add(i) = pair(a, bf16::ZERO);
                        }
                    }
                    _ => {}
                }
            }
        }

        #[inline(always)]
        unsafe fn join(weights: [__m512; 2]) -> __m512 {
            // word i of the result: value i of the first (lower half of the rounded vector), value i of the second
            const ORDER: [u16; 32] = {
                let mut order = [0; 32];
                let mut i = 0;
                while i < 16 {
                    order[2 * i] = i as u16;
                    order[2 * i + 1] = i as u16 + 16;
                    i += 1;
                }
                order
            };
            unsafe {
                let rounded: __m512i = transmute(_mm512_cvtne2ps_pbh(weights[1], weights[0]));
                let order = _mm512_loadu_si512(ORDER.as_ptr().cast());
                _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, rounded))
            }
        }

        #[inline(always)]
        unsafe fn mac(a: __m512, b: __m512, sum: __m512) -> __m512 {
            unsafe { _mm512_dpbf16_ps(sum, transmute::<__m512, __m512bh>(a), transmute::<__m512, __m512bh>(b)) }
        }
    }
}
