//! Operations on each row by itself: layer normalisation, softmax, unit length.

use super::Cpu;
use super::math::exp;
use super::simd::{Elem, Simd, Task, dispatch, load_some, store_some};
use super::split::rows_per_task;

/// `y = (x − mean) / √(variance + eps) · weight + bias` on rows as long as `weight`.
pub(crate) fn layer_norm<T: Elem>(cpu: &Cpu, eps: f32, x: &[T], weight: &[f32], bias: &[f32], y: &mut [T]) {
    let c = weight.len();
    cpu.parallel_blocks(y, 1, rows_per_task(c) * c, |y, _, start| {
        let x = &x[start..][..y.len()];
        // SAFETY: the device has its instruction set; x and y are as long, bias as long as weight.
        unsafe { dispatch(cpu.isa(), LayerNorm { eps, x, weight, bias, y }) }
    });
}

/// `y = exp(x − max) / Σ exp(x − max)` on rows of `c` values.
pub(crate) fn softmax<T: Elem>(cpu: &Cpu, c: usize, x: &[T], y: &mut [T]) {
    cpu.parallel_blocks(y, 1, rows_per_task(c) * c, |y, _, start| {
        let x = &x[start..][..y.len()];
        // SAFETY: the device has its instruction set; x and y are as long.
        unsafe { dispatch(cpu.isa(), Softmax { c, x, y }) }
    });
}

/// `y = x / max(‖x‖, eps)` on rows of `c` values.
pub(crate) fn normalize<T: Elem>(cpu: &Cpu, eps: f32, c: usize, x: &[T], y: &mut [T]) {
    cpu.parallel_blocks(y, 1, rows_per_task(c) * c, |y, _, start| {
        let x = &x[start..][..y.len()];
        // SAFETY: the device has its instruction set; x and y are as long.
        unsafe { dispatch(cpu.isa(), Normalize { eps, c, x, y }) }
    });
}

struct LayerNorm<'a, T> {
    eps: f32,
    x: &'a [T],
    weight: &'a [f32],
    bias: &'a [f32],
    y: &'a mut [T],
}

impl<T: Elem> Task for LayerNorm<'_, T> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let c = self.weight.len();
        let (w, b) = (self.weight.as_ptr(), self.bias.as_ptr());
        for (x, y) in self.x.chunks_exact(c).zip(self.y.chunks_exact_mut(c)) {
            // SAFETY: x, y, w and b hold c values.
            unsafe {
                let (mean, scale) = mean_and_scale::<S, T>(x, self.eps);
                let row = Row { mean: S::splat(mean), scale: S::splat(scale), x: x.as_ptr(), w, b };
                let full = c / S::LANES * S::LANES;
                for i in (0..full).step_by(S::LANES) {
                    T::store::<S>(y.as_mut_ptr().add(i), row.normalized::<S>(i, S::LANES));
                }
                store_some::<S, T>(y.as_mut_ptr().add(full), c - full, row.normalized::<S>(full, c - full));
            }
        }
    }
}

/// One row and its statistics.
struct Row<V, T> {
    mean: V,
    scale: V,
    x: *const T,
    w: *const f32,
    b: *const f32,
}

impl<V: Copy, T: Elem> Row<V, T> {
    /// `n` values from `i` on.
    #[inline(always)]
    unsafe fn normalized<S: Simd<V = V>>(&self, i: usize, n: usize) -> V {
        // SAFETY: as the caller promises: the row and its parameters hold i + n values.
        unsafe {
            let v = S::mul(S::sub(load_some::<S, T>(self.x.add(i), n), self.mean), self.scale);
            S::fma(v, load_some::<S, f32>(self.w.add(i), n), load_some::<S, f32>(self.b.add(i), n))
        }
    }
}

struct Softmax<'a, T> {
    c: usize,
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Elem> Task for Softmax<'_, T> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (x, y) in self.x.chunks_exact(self.c).zip(self.y.chunks_exact_mut(self.c)) {
            let mut top = f32::NEG_INFINITY;
            for v in x {
                top = top.max(v.widen());
            }
            // SAFETY: x and y hold c values, the buffer the widest vector.
            unsafe {
                let mut total = 0.0;
                for i in (0..self.c).step_by(S::LANES) {
                    let n = S::LANES.min(self.c - i);
                    let mut buffer = [0.0; 16];
                    S::store(buffer.as_mut_ptr(), exp::<S>(S::sub(load_some::<S, T>(x.as_ptr().add(i), n), S::splat(top))));
                    total += pairwise(&mut buffer, n);
                }
                let scale = S::splat(1.0 / total);
                for i in (0..self.c).step_by(S::LANES) {
                    let n = S::LANES.min(self.c - i);
                    let e = exp::<S>(S::sub(load_some::<S, T>(x.as_ptr().add(i), n), S::splat(top)));
                    store_some::<S, T>(y.as_mut_ptr().add(i), n, S::mul(e, scale));
                }
            }
        }
    }
}

struct Normalize<'a, T> {
    eps: f32,
    c: usize,
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Elem> Task for Normalize<'_, T> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for (x, y) in self.x.chunks_exact(self.c).zip(self.y.chunks_exact_mut(self.c)) {
            // f64, because the squares of small or large f32 values leave the range of f32
            let mut total = 0.0;
            for v in x {
                total += f64::from(v.widen()) * f64::from(v.widen());
            }
            let length = total.sqrt().max(f64::from(self.eps));
            for (x, y) in x.iter().zip(y) {
                // SAFETY: x and y are one value each.
                unsafe { store_some::<S, T>(y, 1, S::splat((f64::from(x.widen()) / length) as f32)) };
            }
        }
    }
}

/// Mean and 1 / √(variance + eps).
///
/// # Safety
/// The processor has `S`.
#[inline(always)]
pub(super) unsafe fn mean_and_scale<S: Simd, T: Elem>(x: &[T], eps: f32) -> (f32, f32) {
    // SAFETY: as the caller promises.
    unsafe {
        let mean = sum::<S, T>(x) / x.len() as f32;
        let variance = squares::<S, T>(x, mean) / x.len() as f32;
        (mean, 1.0 / (variance + eps).sqrt())
    }
}

/// Σ x
#[inline(always)]
unsafe fn sum<S: Simd, T: Elem>(x: &[T]) -> f32 {
    // SAFETY: as the caller promises; all places are inside x.
    unsafe { reduce::<S, T, false>(x, 0.0) }
}

/// Σ (x − mean)²
#[inline(always)]
unsafe fn squares<S: Simd, T: Elem>(x: &[T], mean: f32) -> f32 {
    // SAFETY: as the caller promises; all places are inside x.
    unsafe { reduce::<S, T, true>(x, mean) }
}

#[inline(always)]
unsafe fn reduce<S: Simd, T: Elem, const SQUARED: bool>(x: &[T], centre: f32) -> f32 {
    // independent sums, because each addition waits for the one before
    const CHAINS: usize = 4;
    // SAFETY: as the caller promises; all places are inside x, and the buffer holds the widest vector.
    unsafe {
        let c = S::splat(centre);
        let mut sums = [S::splat(0.0); CHAINS];
        let vectors = x.len() / S::LANES;
        let together = vectors / CHAINS * CHAINS;
        for i in (0..together).step_by(CHAINS) {
            for (j, sum) in sums.iter_mut().enumerate() {
                *sum = accumulate::<S, SQUARED>(*sum, S::sub(T::load::<S>(x.as_ptr().add((i + j) * S::LANES)), c));
            }
        }
        for i in together..vectors {
            sums[0] = accumulate::<S, SQUARED>(sums[0], S::sub(T::load::<S>(x.as_ptr().add(i * S::LANES)), c));
        }
        let mut buffer = [0.0; 16];
        S::store(buffer.as_mut_ptr(), S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])));
        let mut total = pairwise(&mut buffer, S::LANES);
        for v in &x[vectors * S::LANES..] {
            let v = v.widen() - centre;
            total += if SQUARED { v * v } else { v };
        }
        total
    }
}

/// sum + v, or sum + v²
#[inline(always)]
unsafe fn accumulate<S: Simd, const SQUARED: bool>(sum: S::V, v: S::V) -> S::V {
    // SAFETY: as the caller promises.
    unsafe { if SQUARED { S::fma(v, v, sum) } else { S::add(sum, v) } }
}

/// Sum of the first `n` values, in a tree.
#[inline(always)]
pub(super) fn pairwise(values: &mut [f32; 16], n: usize) -> f32 {
    for v in &mut values[n..] {
        *v = 0.0;
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            values[i] += values[i + half];
        }
    }
    values[0]
}
