//! Gradient of layer normalisation. With `n = (x − mean) · r`, `r = 1 / √(variance + eps)` and `g = dy · weight`:
//! `dx = r · (g − mean(g) − n · mean(g · n))`, `dweight = Σ dy · n` and `dbias = Σ dy` over rows.
//!
//! Rows are cut into blocks by shape alone. A block adds up its rows' parts of the parameters' gradients in f32; blocks are merged in
//! f64 in their order.

use super::Cpu;
use super::rows::{mean_and_scale, pairwise};
use super::simd::{Elem, Simd, Task, dispatch, load_some, store_some};
use super::split::{SharedMut, rows_per_task};

/// Gradients of x and, into the f32 pair if it is there, of weight and bias. Rows are as long as `weight`.
pub(crate) fn layer_norm_grad<T: Elem>(
    cpu: &Cpu,
    eps: f32,
    [x, dy]: [&[T]; 2],
    weight: &[f32],
    dx: &mut [T],
    parameters: Option<[&mut [f32]; 2]>,
) {
    let c = weight.len();
    let block = rows_per_task(c) * c;
    let blocks = x.len().div_ceil(block);
    let mut partial = vec![0.0_f32; if parameters.is_some() { blocks * 2 * c } else { 0 }];
    let sums = SharedMut::new(&mut partial);
    let with_sums = parameters.is_some();
    cpu.parallel_blocks(dx, 1, block, |dx, _, start| {
        // SAFETY: each block has its own part of the sums.
        let sums = if with_sums { unsafe { sums.slice(start / block * 2 * c, 2 * c) } } else { &mut [] };
        let task = Rows { eps, x: &x[start..][..dx.len()], dy: &dy[start..][..dx.len()], weight, dx, sums };
        // SAFETY: the device has its instruction set; all hold the same whole rows, the sums two rows or nothing.
        unsafe { dispatch(cpu.isa(), task) }
    });
    if let Some([dweight, dbias]) = parameters {
        merge(&partial, dweight, dbias);
    }
}

/// Sums of blocks `[blocks][2][c]`, in their order.
pub(super) fn merge(partial: &[f32], first: &mut [f32], second: &mut [f32]) {
    let c = first.len();
    for (i, (a, b)) in first.iter_mut().zip(second).enumerate() {
        let total = |at: usize| partial.chunks_exact(2 * c).map(|block| f64::from(block[at])).sum::<f64>() as f32;
        (*a, *b) = (total(i), total(c + i));
    }
}

struct Rows<'a, T> {
    eps: f32,
    x: &'a [T],
    dy: &'a [T],
    weight: &'a [f32],
    dx: &'a mut [T],
    /// Sums for weight and bias, or nothing.
    sums: &'a mut [f32],
}

impl<T: Elem> Task for Rows<'_, T> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let c = self.weight.len();
        let rows = self.x.chunks_exact(c).zip(self.dy.chunks_exact(c)).zip(self.dx.chunks_exact_mut(c));
        for ((x, dy), dx) in rows {
            // SAFETY: x, dy, dx and the weight hold c values, the sums twice as many.
            unsafe {
                let (mean, scale) = mean_and_scale::<S, T>(x, self.eps);
                let row = Row { mean: S::splat(mean), scale: S::splat(scale), x: x.as_ptr(), dy: dy.as_ptr(), w: self.weight.as_ptr() };
                let [plain, along] = row.sums::<S>(c);
                if !self.sums.is_empty() {
                    row.add_to::<S>(self.sums.as_mut_ptr(), c);
                }
                let (plain, along) = (S::splat(plain / c as f32), S::splat(along / c as f32));
                for i in (0..c).step_by(S::LANES) {
                    let n = S::LANES.min(c - i);
                    let (normal, g) = row.at::<S>(i, n);
                    let left = S::sub(S::sub(g, plain), S::mul(normal, along));
                    store_some::<S, T>(dx.as_mut_ptr().add(i), n, S::mul(left, row.scale));
                }
            }
        }
    }
}

/// One row, its statistics and its gradient.
struct Row<V, T> {
    mean: V,
    scale: V,
    x: *const T,
    dy: *const T,
    w: *const f32,
}

impl<V: Copy, T: Elem> Row<V, T> {
    /// Normalised values and gradients times the weight; 0 and 0 beyond `n`.
    #[inline(always)]
    unsafe fn at<S: Simd<V = V>>(&self, i: usize, n: usize) -> (V, V) {
        // SAFETY: as the caller promises: the row holds i + n values.
        unsafe {
            let normal = S::mul(S::sub(load_some::<S, T>(self.x.add(i), n), self.mean), self.scale);
            (normal, S::mul(load_some::<S, T>(self.dy.add(i), n), load_some::<S, f32>(self.w.add(i), n)))
        }
    }

    /// Σ g and Σ g · n
    #[inline(always)]
    unsafe fn sums<S: Simd<V = V>>(&self, c: usize) -> [f32; 2] {
        // SAFETY: as the caller promises; the buffers hold the widest vector.
        unsafe {
            let (mut plain, mut along) = (S::splat(0.0), S::splat(0.0));
            for i in (0..c).step_by(S::LANES) {
                // beyond the row g is 0
                let (normal, g) = self.at::<S>(i, S::LANES.min(c - i));
                plain = S::add(plain, g);
                along = S::fma(g, normal, along);
            }
            let mut buffers = [[0.0; 16]; 2];
            S::store(buffers[0].as_mut_ptr(), plain);
            S::store(buffers[1].as_mut_ptr(), along);
            [pairwise(&mut buffers[0], S::LANES), pairwise(&mut buffers[1], S::LANES)]
        }
    }

    /// Adds `dy · n` and `dy` to two rows of sums.
    #[inline(always)]
    unsafe fn add_to<S: Simd<V = V>>(&self, sums: *mut f32, c: usize) {
        for i in (0..c).step_by(S::LANES) {
            let n = S::LANES.min(c - i);
            // SAFETY: as the caller promises: i + n values of the row, and two rows of sums.
            unsafe {
                let (normal, _) = self.at::<S>(i, n);
                let dy = load_some::<S, T>(self.dy.add(i), n);
                let (weight, bias) = (sums.add(i), sums.add(c + i));
                store_some::<S, f32>(weight, n, S::fma(dy, normal, load_some::<S, f32>(weight, n)));
                store_some::<S, f32>(bias, n, S::add(dy, load_some::<S, f32>(bias, n)));
            }
        }
    }
}
