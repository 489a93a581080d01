//! Depthwise convolution: no products between channels, so vectors run over channels.

use super::Cpu;
use super::buffer::with_scratch;
use super::epilogue::{Epilogue, Finish};
use super::gather::Windows;
use super::pack::{Packed, Shared};
use super::simd::{Elem, Simd, Task, dispatch, load_some};
use crate::Result;

/// `out = epilogue(windows ∗ weights)`, one output row of the image at a time.
pub(super) fn run<T: Elem>(cpu: &Cpu, windows: &Windows<'_, T>, weights: &Packed, epilogue: &Epilogue<'_, T>, out: &mut [T]) -> Result<()> {
    let channels = windows.channels;
    let width = windows.output[1];
    let ld = channels.next_multiple_of(16);
    let out = Shared(out.as_mut_ptr());
    let lines = windows.lines();
    cpu.parallel(lines, |line| {
        with_scratch(width * ld * 4, |scratch| {
            let sums = bytemuck::cast_slice_mut(scratch);
            let finish = Finish {
                epilogue,
                out: &out,
                sums: sums.as_ptr(),
                ld,
                rows: width,
                row: line * width,
                channel: 0,
                width: channels,
                gate: 0,
            };
            // SAFETY: weights hold [taps][channels]; each task writes its own line of the output; the device has made sure of its
            // instruction set.
            unsafe {
                let weights = weights.as_ptr().cast();
                dispatch(cpu.isa(), Line { windows, weights, line, sums, ld });
                dispatch(cpu.isa(), &finish);
            }
        });
    });
    Ok(())
}

/// Sums of one output row of an image.
struct Line<'a, T> {
    windows: &'a Windows<'a, T>,
    weights: *const f32,
    /// Image times height plus row.
    line: usize,
    /// `[width][ld]`
    sums: &'a mut [f32],
    ld: usize,
}

impl<T: Elem> Task for Line<'_, T> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let w = self.windows;
        let [height, width] = w.output;
        let (image, y) = (self.line / height, self.line % height);
        let mut taps = Vec::with_capacity(w.kernel[0] * w.kernel[1]);
        for x in 0..width {
            w.taps(image, y, x, &mut taps);
            let sums = &mut self.sums[x * self.ld..][..self.ld];
            let mut c = 0;
            while c < w.channels {
                // SAFETY: sources lie in the image, weights hold [taps][channels], and sums are padded to whole vectors.
                unsafe {
                    let (data, weights, sums) = (w.data.as_ptr().add(c), self.weights.add(c), sums.as_mut_ptr().add(c));
                    let left = w.channels - c;
                    c += if left >= 4 * S::LANES {
                        channels::<S, T, 4, true>(&taps, data, weights, S::LANES, sums)
                    } else if left >= S::LANES {
                        channels::<S, T, 1, true>(&taps, data, weights, S::LANES, sums)
                    } else {
                        channels::<S, T, 1, false>(&taps, data, weights, left, sums)
                    };
                }
            }
        }
    }
}

/// Sums of `N` vectors of channels over the taps, given as places in the image and in the weights; `n` lanes of each are valid.
/// Gives the number of channels.
#[inline(always)]
unsafe fn channels<S: Simd, T: Elem, const N: usize, const WHOLE: bool>(
    taps: &[(usize, usize)],
    data: *const T,
    weights: *const f32,
    n: usize,
    sums: *mut f32,
) -> usize {
    let n = if WHOLE { S::LANES } else { n };
    // SAFETY: as the caller promises.
    unsafe {
        let mut acc = [S::splat(0.0); N];
        for &(at, tap) in taps {
            for (i, acc) in acc.iter_mut().enumerate() {
                let pixel = load_some::<S, T>(data.add(at + i * S::LANES), n);
                let weight = load_some::<S, f32>(weights.add(tap + i * S::LANES), n);
                *acc = S::fma(pixel, weight, *acc);
            }
        }
        for (i, acc) in acc.iter().enumerate() {
            S::store(sums.add(i * S::LANES), *acc);
        }
    }
    N * n
}
