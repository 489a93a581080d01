//! Micro-kernels: a few rows of packed x times one panel of weights, summed in registers over a slice of K.

use super::Isa;
use super::blocking::ROW_BYTES;
use super::simd::{Simd, Task, dispatch};
use crate::DType;
use half::bf16;

/// How products are formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// x as f32 times weights as f32, widened in registers where they are bf16.
    Widen,
    /// Pairs of bf16 by VDPBF16PS.
    Dot,
}

impl Kernel {
    /// The fastest one for the types of x and of the weights.
    pub(super) fn choose(isa: Isa, x: DType, weight: DType) -> Self {
        match (x, weight) {
            (DType::Bf16, DType::Bf16) if isa >= Isa::Avx512Bf16 => Self::Dot,
            _ => Self::Widen,
        }
    }

    /// Rows of x that are summed at a time; every instruction set divides it.
    pub(super) fn mr(self) -> usize {
        12
    }

    /// Slices of K are multiples of this.
    pub(super) fn k_step(self) -> usize {
        2
    }
}

/// One call of a micro-kernel.
#[derive(Clone, Copy)]
pub(super) struct Step {
    /// Length of the slice of K, a multiple of the padding of K.
    pub(super) k: usize,
    /// Packed rows of x, [`ROW_BYTES`] apart.
    pub(super) x: *const u8,
    /// The slice of a panel of weights.
    pub(super) weights: *const u8,
    /// Element type of the weights.
    pub(super) dtype: DType,
    /// Sums, `[rows][ld]`.
    pub(super) sums: *mut f32,
    /// Distance of rows of the sums.
    pub(super) ld: usize,
    /// Rows, at most [`Kernel::mr`].
    pub(super) rows: usize,
    /// Whether sums start from zero.
    pub(super) first: bool,
}

impl Step {
    /// Adds the products of the slice to the sums.
    ///
    /// # Safety
    /// The processor has `isa`; the pointers are valid for what the fields say.
    pub(super) unsafe fn run(self, kernel: Kernel, isa: Isa) {
        // SAFETY: as the caller promises.
        unsafe {
            match (kernel, self.dtype) {
                #[cfg(target_arch = "x86_64")]
                (Kernel::Dot, _) => super::micro_dot::run(self),
                (_, DType::Bf16) => dispatch(isa, Widen::<bf16>(self, std::marker::PhantomData)),
                _ => dispatch(isa, Widen::<f32>(self, std::marker::PhantomData)),
            }
        }
    }
}

/// Calls `$f::<.., MR>` for the number of rows at hand.
macro_rules! for_rows {
    ($rows:expr, [$($mr:literal)*], $mr_name:ident => $call:expr) => {
        match $rows {
            $($mr => { const $mr_name: usize = $mr; $call })*
            _ => {}
        }
    };
}
pub(super) use for_rows;

struct Widen<B>(Step, std::marker::PhantomData<B>);

impl<B: Weights> Task for Widen<B> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let Self(mut step, _) = self;
        // Rows in registers: 12 · 2 sums of 32 registers, 6 · 2 or 4 · 2 of 16.
        let most = match S::LANES {
            16 => 12,
            8 => 6,
            _ => 4,
        };
        let mut left = step.rows;
        while left > 0 {
            let rows = left.min(most);
            // SAFETY: as the caller of the task promises.
            unsafe {
                if S::LANES == 16 {
                    for_rows!(rows, [12 11 10 9 8 7], MR => tile::<S, B, MR>(&step));
                }
                if S::LANES >= 8 {
                    for_rows!(rows, [6 5], MR => tile::<S, B, MR>(&step));
                }
                for_rows!(rows, [4 3 2 1], MR => tile::<S, B, MR>(&step));
                step.x = step.x.add(rows * ROW_BYTES);
                step.sums = step.sums.add(rows * step.ld);
            }
            left -= rows;
        }
    }
}

/// `MR` rows by two vectors.
#[inline(always)]
unsafe fn tile<S: Simd, B: Weights, const MR: usize>(step: &Step) {
    // SAFETY: as the caller of the step promises.
    unsafe {
        let mut sums = [[S::splat(0.0); 2]; MR];
        if !step.first {
            for (i, row) in sums.iter_mut().enumerate() {
                let from = step.sums.add(i * step.ld);
                *row = [S::load(from), S::load(from.add(S::LANES))];
            }
        }
        B::accumulate::<S, MR>(step.k, step.x.cast(), step.weights.cast(), &mut sums);
        for (i, row) in sums.iter().enumerate() {
            let to = step.sums.add(i * step.ld);
            S::store(to, row[0]);
            S::store(to.add(S::LANES), row[1]);
        }
    }
}

/// Weights of a panel as the vectors they are widened to.
trait Weights: Copy {
    unsafe fn accumulate<S: Simd, const MR: usize>(k: usize, x: *const f32, panel: *const Self, sums: &mut [[S::V; 2]; MR]);
}

const ROW: usize = ROW_BYTES / 4;

#[inline(always)]
unsafe fn multiply<S: Simd, const MR: usize>(x: *const f32, w: [S::V; 2], sums: &mut [[S::V; 2]; MR]) {
    for (i, sum) in sums.iter_mut().enumerate() {
        // SAFETY: as the caller of the step promises.
        unsafe {
            let xi = S::splat(*x.add(i * ROW));
            sum[0] = S::fma(xi, w[0], sum[0]);
            sum[1] = S::fma(xi, w[1], sum[1]);
        }
    }
}

impl Weights for f32 {
    #[inline(always)]
    unsafe fn accumulate<S: Simd, const MR: usize>(k: usize, x: *const f32, panel: *const Self, sums: &mut [[S::V; 2]; MR]) {
        for p in 0..k {
            // SAFETY: as the caller of the step promises.
            unsafe {
                let w = panel.add(p * 2 * S::LANES);
                multiply::<S, MR>(x.add(p), [S::load(w), S::load(w.add(S::LANES))], sums);
            }
        }
    }
}

impl Weights for bf16 {
    #[inline(always)]
    unsafe fn accumulate<S: Simd, const MR: usize>(k: usize, x: *const f32, panel: *const Self, sums: &mut [[S::V; 2]; MR]) {
        for p in (0..k).step_by(2) {
            // SAFETY: as the caller of the step promises; k is even.
            unsafe {
                let w = panel.add(p * 2 * S::LANES);
                let ([even0, odd0], [even1, odd1]) = (S::load_pairs(w), S::load_pairs(w.add(2 * S::LANES)));
                multiply::<S, MR>(x.add(p), [even0, even1], sums);
                multiply::<S, MR>(x.add(p + 1), [odd0, odd1], sums);
            }
        }
    }
}
