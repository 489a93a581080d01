//! Operations that only move bytes, whatever they are.

use super::Cpu;
use super::split::{GRAIN, rows_per_task};

/// Rows side by side: input i has rows of `widths[i]` bytes, zeros fill the rows of y that are `width` bytes long.
pub(crate) fn beside(cpu: &Cpu, inputs: &[(&[u8], usize)], width: usize, y: &mut [u8]) {
    cpu.parallel_blocks(y, 1, rows_per_task(width) * width, |y, _, start| {
        for (i, out) in y.chunks_exact_mut(width).enumerate() {
            let row = start / width + i;
            let mut rest = out;
            for &(x, n) in inputs {
                let (here, after) = rest.split_at_mut(n);
                here.copy_from_slice(&x[row * n..][..n]);
                rest = after;
            }
            rest.fill(0);
        }
    });
}

/// The same columns of every row: `x` has rows of `row` bytes, y their `width` bytes from `start` on.
pub(crate) fn columns(cpu: &Cpu, x: &[u8], row: usize, start: usize, width: usize, y: &mut [u8]) {
    cpu.parallel_blocks(y, 1, rows_per_task(width) * width, |y, _, at| {
        for (i, out) in y.chunks_exact_mut(width).enumerate() {
            out.copy_from_slice(&x[(at / width + i) * row + start..][..width]);
        }
    });
}

/// The reverse of [`part`]: the bytes of each image of `x` from `start` on in an image of `y`, zeros around them.
pub(crate) fn among_zeros(cpu: &Cpu, x: &[u8], images: usize, start: usize, y: &mut [u8]) {
    let (part, image) = (x.len() / images, y.len() / images);
    cpu.parallel_blocks(y, images, image, |y, i, _| {
        y.fill(0);
        y[start..start + part].copy_from_slice(&x[i * part..][..part]);
    });
}

/// The same part of each of several images: `x` holds images of `image` bytes, y their bytes from `start` on.
pub(crate) fn part(cpu: &Cpu, x: &[u8], images: usize, start: usize, y: &mut [u8]) {
    let image = x.len() / images;
    cpu.parallel_blocks(y, images, GRAIN, |y, i, at| y.copy_from_slice(&x[i * image + start + at..][..y.len()]));
}

/// x again and again until y is full.
pub(crate) fn repeat(cpu: &Cpu, x: &[u8], y: &mut [u8]) {
    let times = y.len() / x.len();
    cpu.parallel_blocks(y, times, GRAIN, |y, _, at| y.copy_from_slice(&x[at..][..y.len()]));
}
