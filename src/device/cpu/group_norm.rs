//! Group normalisation: one read for the statistics, one read and write to apply them.
//!
//! Statistics: the rows of an image are cut into blocks by shape alone. For each block and channel, f32 sums of `d` and `d²` with
//! `d = x − pivot`, where the pivot is the channel's first value: near enough to the mean that nothing is lost when the mean is far
//! from zero. The blocks' sums are merged in f64, in the order of blocks.

use super::Cpu;
use super::elementwise::{Channels, per_channel};
use super::simd::{Elem, Simd, Task, dispatch, load_some, store_some};
use super::split::rows_per_task;
use crate::ops::Activation;

/// Sizes and attributes of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) images: usize,
    pub(crate) groups: usize,
    pub(crate) eps: f32,
    pub(crate) silu: bool,
}

/// `y = silu?((x − mean) / √(variance + eps) · weight + bias)`; y is `[images, rows, weight.len()]`, x the same or in parts that hold
/// the channels one after the other.
pub(crate) fn group_norm<T: Elem>(cpu: &Cpu, shape: Shape, x: &[&[T]], weight: &[f32], bias: &[f32], y: &mut [T]) {
    let c = weight.len();
    let mut tables = vec![0.0; shape.images * 3 * c];
    statistics(cpu, &shape, x, y.len() / shape.images / c, [weight, bias], &mut tables);
    let act = if shape.silu { Activation::Silu } else { Activation::None };
    let channels = |i: usize| {
        let table = &tables[i * 3 * c..][..3 * c];
        Channels { mean: &table[..c], scale: &table[c..2 * c], shift: &table[2 * c..], slope: None }
    };
    per_channel(cpu, act, x, shape.images, channels, y);
}

/// Mean, scale and shift of each image and channel, `[images][3][c]`: `y = (x − mean) · scale + shift` before the SiLU.
pub(super) fn statistics<T: Elem>(cpu: &Cpu, shape: &Shape, parts: &[&[T]], rows: usize, [weight, bias]: [&[f32]; 2], tables: &mut [f32]) {
    let moments: Vec<Moments<'_, T>> = parts.iter().map(|&x| Moments::new(cpu, x, shape.images, rows)).collect();
    cpu.parallel_blocks(tables, shape.images, 3 * weight.len(), |table, i, _| {
        let of_parts: Vec<_> = moments.iter().map(|m| m.of_image(i)).collect();
        let [sums, squares, pivot] = [0, 1, 2].map(|k| of_parts.iter().flat_map(|m| m[k].iter().copied()).collect::<Vec<f64>>());
        merge(shape, [&sums, &squares, &pivot], rows, table, [weight, bias]);
    });
}

/// Sums of `d` and `d²` for each channel, over blocks of rows of each image.
struct Moments<'a, T> {
    x: &'a [T],
    channels: usize,
    /// Values of an image.
    image: usize,
    /// Blocks of an image.
    blocks: usize,
    /// `[images][blocks][2][channels]`
    partial: Vec<f32>,
}

impl<'a, T: Elem> Moments<'a, T> {
    fn new(cpu: &Cpu, x: &'a [T], images: usize, rows: usize) -> Self {
        let (image, c) = (x.len() / images, x.len() / images / rows);
        let block = rows_per_task(c) * c;
        let blocks = image.div_ceil(block);
        let mut partial = vec![0.0; images * blocks * 2 * c];
        cpu.parallel_blocks(&mut partial, 1, 2 * c, |sums, _, start| {
            let task = start / (2 * c);
            let x = &x[task / blocks * image..][..image];
            let from = task % blocks * block;
            let rows = &x[from..image.min(from + block)];
            // SAFETY: the device has its instruction set; rows are a multiple of c values, the pivot c, the sums 2c.
            unsafe { dispatch(cpu.isa(), Sums { rows, pivot: &x[..c], sums }) }
        });
        Self { x, channels: c, image, blocks, partial }
    }

    /// Sums of `d`, of `d²`, and the pivots of each channel of an image.
    fn of_image(&self, i: usize) -> [Vec<f64>; 3] {
        let c = self.channels;
        let mut sums = vec![0.0_f64; 2 * c];
        for block in self.partial[i * self.blocks * 2 * c..][..self.blocks * 2 * c].chunks_exact(2 * c) {
            sums.iter_mut().zip(block).for_each(|(total, &part)| *total += f64::from(part));
        }
        let squares = sums.split_off(c);
        [sums, squares, self.x[i * self.image..][..c].iter().map(|v| f64::from(v.widen())).collect()]
    }
}

/// Merges the sums of one image of `rows` rows, and its pivots, into mean, scale and shift of each channel.
fn merge(shape: &Shape, [sums, squares, pivot]: [&[f64]; 3], rows: usize, table: &mut [f32], [weight, bias]: [&[f32]; 2]) {
    let c = weight.len();
    let (mean_table, rest) = table.split_at_mut(c);
    let (scale_table, shift_table) = rest.split_at_mut(c);
    let (width, n) = (c / shape.groups, rows as f64);
    for group in (0..c).step_by(width) {
        let channel_mean = |i: usize| pivot[i] + sums[i] / n;
        let mean = (group..group + width).map(channel_mean).sum::<f64>() / width as f64;
        // squares around each channel's mean, and those of the channels' means around the group's
        let spread = |i: usize| squares[i] - sums[i] * sums[i] / n + n * (channel_mean(i) - mean).powi(2);
        let variance = (group..group + width).map(spread).sum::<f64>().max(0.0) / (n * width as f64);
        let deviation = 1.0 / (variance + f64::from(shape.eps)).sqrt();
        for i in group..group + width {
            let scale = deviation * f64::from(weight[i]);
            mean_table[i] = mean as f32;
            scale_table[i] = scale as f32;
            // what rounding the mean lost is put back here
            shift_table[i] = (f64::from(bias[i]) - (mean - f64::from(mean as f32)) * scale) as f32;
        }
    }
}

/// Sums of `d` and `d²` for each channel over a block of rows.
struct Sums<'a, T> {
    rows: &'a [T],
    pivot: &'a [T],
    sums: &'a mut [f32],
}

impl<T: Elem> Task for Sums<'_, T> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // Rows at a time: the sums are read and written once for all of them.
        const TOGETHER: usize = 8;
        let c = self.pivot.len();
        let (first, second) = self.sums.split_at_mut(c);
        let mut groups = self.rows.chunks_exact(TOGETHER * c);
        for rows in &mut groups {
            // SAFETY: TOGETHER rows of c values, as long as the pivot and both sums.
            unsafe { add_rows::<S, T, TOGETHER>(rows, self.pivot, first, second) };
        }
        for row in groups.remainder().chunks_exact(c) {
            // SAFETY: one row of c values.
            unsafe { add_rows::<S, T, 1>(row, self.pivot, first, second) };
        }
    }
}

#[inline(always)]
unsafe fn add_rows<S: Simd, T: Elem, const R: usize>(rows: &[T], pivot: &[T], first: &mut [f32], second: &mut [f32]) {
    let c = pivot.len();
    for i in (0..c).step_by(S::LANES) {
        let n = S::LANES.min(c - i);
        // SAFETY: as the caller promises: R rows of c values, and c values in the others.
        unsafe {
            let p = load_some::<S, T>(pivot.as_ptr().add(i), n);
            let mut s = load_some::<S, f32>(first.as_ptr().add(i), n);
            let mut q = load_some::<S, f32>(second.as_ptr().add(i), n);
            for r in 0..R {
                let d = S::sub(load_some::<S, T>(rows.as_ptr().add(r * c + i), n), p);
                s = S::add(s, d);
                q = S::fma(d, d, q);
            }
            store_some::<S, f32>(first.as_mut_ptr().add(i), n, s);
            store_some::<S, f32>(second.as_mut_ptr().add(i), n, q);
        }
    }
}
