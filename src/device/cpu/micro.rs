//! Micro-kernels: a few rows of packed x times one panel of weights, summed in registers over a slice of K.

use super::blocking::ROW_BYTES;
use super::simd::{Simd, Task, dispatch};
use super::{Cpu, Isa, TileUnit, amx};
use crate::DType;
use half::bf16;

/// How products are formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// x as f32 times weights as f32, widened in registers where they are bf16.
    Widen,
    /// Pairs of bf16 by VDPBF16PS.
    Dot,
    /// Tiles of bf16.
    Tiles,
}

impl Kernel {
    /// The fastest one for the types of x and of the weights.
    pub(super) fn choose(cpu: &Cpu, x: DType, weights: DType) -> Self {
        match (x, weights) {
            (DType::Bf16, DType::Bf16) if cpu.tiles() != TileUnit::None => Self::Tiles,
            (DType::Bf16, DType::Bf16) if cpu.isa() >= Isa::Avx512Bf16 => Self::Dot,
            _ => Self::Widen,
        }
    }

    /// Rows of x that are summed at a time; every instruction set divides it.
    pub(super) fn mr(self) -> usize {
        match self {
            Self::Widen | Self::Dot => 12,
            Self::Tiles => amx::MR,
        }
    }

    /// Slices of K are multiples of this.
    pub(super) fn k_step(self) -> usize {
        match self {
            Self::Widen | Self::Dot => 2,
            Self::Tiles => amx::KR,
        }
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
    /// Columns of the panel.
    pub(super) panel_width: usize,
    /// Columns of the panel that are not padding.
    pub(super) columns: usize,
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
    /// The pointers are valid for what the fields say, rounded up to [`Kernel::mr`] rows; for [`Kernel::Tiles`], the thread holds a
    /// [`TileGuard`].
    pub(super) unsafe fn run(&self, kernel: Kernel, cpu: &Cpu) {
        // SAFETY: as the caller promises; the device has made sure of its instruction set.
        unsafe {
            match (kernel, self.dtype) {
                #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
                (Kernel::Tiles, _) if cpu.tiles() == TileUnit::Real => amx::run(&mut amx::Hardware, self),
                (Kernel::Tiles, _) => amx::emulate(self),
                #[cfg(target_arch = "x86_64")]
                (Kernel::Dot, _) => super::micro_dot::run(self),
                (_, DType::Bf16) => dispatch(cpu.isa(), Widen::<bf16>(self, std::marker::PhantomData)),
                _ => dispatch(cpu.isa(), Widen::<f32>(self, std::marker::PhantomData)),
            }
        }
    }
}

/// Keeps the tile registers of this thread configured, where the kernel needs them.
pub(super) struct TileGuard {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    _configured: Option<amx::Configured>,
}

impl TileGuard {
    pub(super) fn new(kernel: Kernel, cpu: &Cpu) -> Self {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        {
            let real = kernel == Kernel::Tiles && cpu.tiles() == TileUnit::Real;
            // SAFETY: the device has made sure of its tile unit.
            Self { _configured: real.then(|| unsafe { amx::Configured::new() }) }
        }
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        {
            let _ = (kernel, cpu);
            Self {}
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

// A task by reference: a copy of a step that was just written would wait for all stores before it.
struct Widen<'a, B>(&'a Step, std::marker::PhantomData<B>);

impl<B: Weights> Task for Widen<'_, B> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // Rows in registers: 12 · 2 sums of 32 registers, 6 · 2 or 4 · 2 of 16.
        let most = match S::LANES {
            16 => 12,
            8 => 6,
            _ => 4,
        };
        for row in (0..self.0.rows).step_by(most) {
            let rows = (self.0.rows - row).min(most);
            // Panels are two vectors wide, unless they were packed for tiles.
            for column in (0..self.0.columns).step_by(2 * S::LANES) {
                let one = self.0.columns - column <= S::LANES;
                // SAFETY: as the caller of the task promises.
                unsafe {
                    let step = Step {
                        x: self.0.x.add(row * ROW_BYTES),
                        weights: self.0.weights.cast::<B>().add(column * B::PAIR).cast(),
                        sums: self.0.sums.add(row * self.0.ld + column),
                        ..*self.0
                    };
                    if one { rows_of::<S, B, 1>(rows, &step) } else { rows_of::<S, B, 2>(rows, &step) }
                }
            }
        }
    }
}

/// `rows` rows by `V` vectors.
#[inline(always)]
unsafe fn rows_of<S: Simd, B: Weights, const V: usize>(rows: usize, step: &Step) {
    // SAFETY: as the caller of the step promises.
    unsafe {
        if S::LANES == 16 {
            for_rows!(rows, [12 11 10 9 8 7], MR => tile::<S, B, MR, V>(step));
        }
        if S::LANES >= 8 {
            for_rows!(rows, [6 5], MR => tile::<S, B, MR, V>(step));
        }
        for_rows!(rows, [4 3 2 1], MR => tile::<S, B, MR, V>(step));
    }
}

#[inline(always)]
unsafe fn tile<S: Simd, B: Weights, const MR: usize, const V: usize>(step: &Step) {
    // SAFETY: as the caller of the step promises.
    unsafe {
        let mut sums = [[S::splat(0.0); V]; MR];
        if !step.first {
            for (i, row) in sums.iter_mut().enumerate() {
                for (v, sum) in row.iter_mut().enumerate() {
                    *sum = S::load(step.sums.add(i * step.ld + v * S::LANES));
                }
            }
        }
        B::accumulate::<S, MR, V>(step, &mut sums);
        for (i, row) in sums.iter().enumerate() {
            for (v, &sum) in row.iter().enumerate() {
                S::store(step.sums.add(i * step.ld + v * S::LANES), sum);
            }
        }
    }
}

/// Weights of a panel, widened to vectors of f32.
trait Weights: Copy {
    /// Values of one column that stand together.
    const PAIR: usize;
    unsafe fn accumulate<S: Simd, const MR: usize, const V: usize>(step: &Step, sums: &mut [[S::V; V]; MR]);
}

impl Weights for f32 {
    const PAIR: usize = 1;
    #[inline(always)]
    unsafe fn accumulate<S: Simd, const MR: usize, const V: usize>(step: &Step, sums: &mut [[S::V; V]; MR]) {
        let (x, mut w) = (step.x.cast::<f32>(), step.weights.cast::<f32>());
        for k in 0..step.k {
            // SAFETY: as the caller of the step promises.
            unsafe {
                let mut vectors = [S::splat(0.0); V];
                for (v, vector) in vectors.iter_mut().enumerate() {
                    *vector = S::load(w.add(v * S::LANES));
                }
                multiply::<S, MR, V>(x.add(k), vectors, sums);
                w = w.add(step.panel_width);
            }
        }
    }
}

impl Weights for bf16 {
    const PAIR: usize = 2;
    #[inline(always)]
    unsafe fn accumulate<S: Simd, const MR: usize, const V: usize>(step: &Step, sums: &mut [[S::V; V]; MR]) {
        let (x, mut w) = (step.x.cast::<f32>(), step.weights.cast::<bf16>());
        for k in (0..step.k).step_by(2) {
            // SAFETY: as the caller of the step promises; k is even.
            unsafe {
                let (mut even, mut odd) = ([S::splat(0.0); V], [S::splat(0.0); V]);
                for v in 0..V {
                    [even[v], odd[v]] = S::load_pairs(w.add(2 * v * S::LANES));
                }
                multiply::<S, MR, V>(x.add(k), even, sums);
                multiply::<S, MR, V>(x.add(k + 1), odd, sums);
                w = w.add(2 * step.panel_width);
            }
        }
    }
}

/// One value of K of each row times the vectors of weights.
#[inline(always)]
unsafe fn multiply<S: Simd, const MR: usize, const V: usize>(x: *const f32, w: [S::V; V], sums: &mut [[S::V; V]; MR]) {
    const ROW: usize = ROW_BYTES / 4;
    for (i, sum) in sums.iter_mut().enumerate() {
        // SAFETY: as the caller of the step promises.
        unsafe {
            let xi = S::splat(*x.add(i * ROW));
            for v in 0..V {
                sum[v] = S::fma(xi, w[v], sum[v]);
            }
        }
    }
}
