//! Gradient of group normalisation with an optional SiLU. With `n = (x − mean) · r`, `u = n · weight + bias`, `g = dy · silu′(u)`:
//! `dx = r · (g · weight − mean(g · weight) − n · mean(g · weight · n))` with means over each image and group, `dweight = Σ g · n` and
//! `dbias = Σ g` over images and rows.
//!
//! Two reads after the statistics of the forward pass, which are computed again: one adds up `g · n` and `g` for each channel, from
//! which all means and the parameters' gradients follow; one computes dx. Blocks of rows are cut by shape alone and merged in f64.

use super::Cpu;
use super::group_norm::{Shape, statistics};
use super::math::silu_derivative;
use super::simd::{Elem, Simd, Task, dispatch, load_some, store_some};
use super::split::rows_per_task;

/// Gradients of x and, if they are there, of weight and bias. x is `[images, rows, weight.len()]`.
pub(crate) fn group_norm_grad<T: Elem>(
    cpu: &Cpu,
    shape: Shape,
    [x, dy]: [&[T]; 2],
    [weight, bias]: [&[f32]; 2],
    dx: &mut [T],
    parameters: Option<[&mut [f32]; 2]>,
) {
    let c = weight.len();
    let image = x.len() / shape.images;
    let block = rows_per_task(c) * c;
    let blocks = image.div_ceil(block);
    let unit = vec![1.0; c];
    let mut tables = vec![0.0; shape.images * 3 * c];
    statistics(cpu, &shape, &[x], image / c, [&unit, &vec![0.0; c]], &mut tables);
    let channels = |i: usize| Channels { normal: &tables[i * 3 * c..][..3 * c], weight, bias, silu: shape.silu };
    let mut partial = vec![0.0; shape.images * blocks * 2 * c];
    cpu.parallel_blocks(&mut partial, 1, 2 * c, |sums, _, start| {
        let (i, from) = (start / (2 * c) / blocks, start / (2 * c) % blocks * block);
        let part = i * image + from..i * image + image.min(from + block);
        // SAFETY: the device has its instruction set; x and dy are whole rows of c values, the sums two rows.
        unsafe { dispatch(cpu.isa(), Sums { channels: channels(i), x: &x[part.clone()], dy: &dy[part], sums }) }
    });
    let mut shifts = vec![0.0; shape.images * 2 * c];
    cpu.parallel_blocks(&mut shifts, shape.images, 2 * c, |shifts, i, _| {
        means(&shape, weight, &partial[i * blocks * 2 * c..][..blocks * 2 * c], image / c, shifts);
    });
    cpu.parallel_blocks(dx, shape.images, block, |dx, i, start| {
        let from = i * image + start;
        let (x, dy) = (&x[from..][..dx.len()], &dy[from..][..dx.len()]);
        // SAFETY: the device has its instruction set; x, dy and dx are the same whole rows, the shifts two rows.
        unsafe { dispatch(cpu.isa(), Apply { channels: channels(i), shifts: &shifts[i * 2 * c..][..2 * c], x, dy, dx }) }
    });
    if let Some([dweight, dbias]) = parameters {
        super::layer_norm_grad::merge(&partial, dweight, dbias);
    }
}

/// The two means of each channel's group, of one image: of `g · weight · n` and of `g · weight`.
fn means(shape: &Shape, weight: &[f32], partial: &[f32], rows: usize, shifts: &mut [f32]) {
    let c = weight.len();
    let mut sums = vec![0.0_f64; 2 * c];
    for block in partial.chunks_exact(2 * c) {
        sums.iter_mut().zip(block).for_each(|(total, &part)| *total += f64::from(part));
    }
    let width = c / shape.groups;
    for group in (0..c).step_by(width) {
        for half in [0, c] {
            let total: f64 = (group..group + width).map(|i| sums[half + i] * f64::from(weight[i])).sum();
            shifts[half + group..half + group + width].fill((total / (rows * width) as f64) as f32);
        }
    }
}

/// What is known of the channels of one image.
#[derive(Clone, Copy)]
struct Channels<'a> {
    /// Mean, r, and what rounding the mean lost: `n = (x − mean) · r + rest`.
    normal: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    silu: bool,
}

/// A vector of channels.
struct Vector<V> {
    normal: V,
    /// Gradient before the SiLU.
    g: V,
    weight: V,
    r: V,
}

impl Channels<'_> {
    /// `n` channels from `i` on of a row; 0 beyond.
    #[inline(always)]
    unsafe fn at<S: Simd, T: Elem>(&self, x: *const T, dy: *const T, i: usize, n: usize) -> Vector<S::V> {
        let c = self.weight.len();
        // SAFETY: as the caller promises: the rows hold i + n ≤ c values.
        unsafe {
            let table = self.normal.as_ptr();
            let (mean, r) = (load_some::<S, f32>(table.add(i), n), load_some::<S, f32>(table.add(c + i), n));
            let rest = load_some::<S, f32>(table.add(2 * c + i), n);
            let normal = S::fma(S::sub(load_some::<S, T>(x.add(i), n), mean), r, rest);
            let weight = load_some::<S, f32>(self.weight.as_ptr().add(i), n);
            let mut g = load_some::<S, T>(dy.add(i), n);
            if self.silu {
                let u = S::fma(normal, weight, load_some::<S, f32>(self.bias.as_ptr().add(i), n));
                g = S::mul(g, silu_derivative::<S>(u));
            }
            Vector { normal, g, weight, r }
        }
    }
}

/// Sums of `g · n` and `g` over a block of rows.
struct Sums<'a, T> {
    channels: Channels<'a>,
    x: &'a [T],
    dy: &'a [T],
    sums: &'a mut [f32],
}

impl<T: Elem> Task for Sums<'_, T> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let c = self.channels.weight.len();
        for i in (0..c).step_by(S::LANES) {
            let n = S::LANES.min(c - i);
            // SAFETY: i + n ≤ c values of each row, and of both sums.
            unsafe {
                let (mut along, mut plain) = (S::splat(0.0), S::splat(0.0));
                for (x, dy) in self.x.chunks_exact(c).zip(self.dy.chunks_exact(c)) {
                    let v = self.channels.at::<S, T>(x.as_ptr(), dy.as_ptr(), i, n);
                    along = S::fma(v.g, v.normal, along);
                    plain = S::add(plain, v.g);
                }
                store_some::<S, f32>(self.sums.as_mut_ptr().add(i), n, along);
                store_some::<S, f32>(self.sums.as_mut_ptr().add(c + i), n, plain);
            }
        }
    }
}

/// dx of a block of rows.
struct Apply<'a, T> {
    channels: Channels<'a>,
    /// As [`means`] gives them.
    shifts: &'a [f32],
    x: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
}

impl<T: Elem> Task for Apply<'_, T> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let c = self.channels.weight.len();
        let rows = self.x.chunks_exact(c).zip(self.dy.chunks_exact(c)).zip(self.dx.chunks_exact_mut(c));
        for ((x, dy), dx) in rows {
            for i in (0..c).step_by(S::LANES) {
                let n = S::LANES.min(c - i);
                // SAFETY: i + n ≤ c values of each row.
                unsafe {
                    let v = self.channels.at::<S, T>(x.as_ptr(), dy.as_ptr(), i, n);
                    let along = load_some::<S, f32>(self.shifts.as_ptr().add(i), n);
                    let plain = load_some::<S, f32>(self.shifts.as_ptr().add(c + i), n);
                    let left = S::sub(S::sub(S::mul(v.g, v.weight), plain), S::mul(v.normal, along));
                    store_some::<S, T>(dx.as_mut_ptr().add(i), n, S::mul(left, v.r));
                }
            }
        }
    }
}
