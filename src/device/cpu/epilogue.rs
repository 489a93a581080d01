//! What follows a product, applied to each tile of sums while it is in the first cache level.

use super::math;
use super::pack::Shared;
use super::simd::{Elem, Simd, Task, load_some, store_some};
use crate::ops::Activation;

/// Everything between a sum and the stored output, in this order: bias, gate, row bias, residual (if first), activation, residual.
pub(crate) struct Epilogue<'a, T> {
    /// Added to each output channel; gated: biases of the values, then of the gates.
    pub(crate) bias: Option<&'a [f32]>,
    /// `[B, channels]`, added to all rows of an image.
    pub(crate) row_bias: Option<&'a [T]>,
    /// Rows of an image, for `row_bias`.
    pub(crate) rows_per_image: usize,
    /// Same shape as the output.
    pub(crate) residual: Option<&'a [T]>,
    /// Whether the residual is added before the activation.
    pub(crate) residual_first: bool,
    /// Applied to every output.
    pub(crate) act: Activation,
    /// Slopes of the output channels, for PReLU.
    pub(crate) slope: Option<&'a [f32]>,
    /// Whether sums come with gates.
    pub(crate) gated: bool,
    /// Output channels: row length of output, residual and `row_bias`.
    pub(crate) channels: usize,
}

/// A tile of sums to be finished and written.
pub(super) struct Finish<'a, T> {
    pub(super) epilogue: &'a Epilogue<'a, T>,
    pub(super) out: &'a Shared<T>,
    /// `[rows][ld]`, readable up to the next whole vector of each row.
    pub(super) sums: *const f32,
    pub(super) ld: usize,
    pub(super) rows: usize,
    /// First row and channel of the tile in the output.
    pub(super) row: usize,
    pub(super) channel: usize,
    /// Channels of the tile.
    pub(super) width: usize,
    /// Distance from a value to its gate.
    pub(super) gate: usize,
}

impl<T: Elem> Task for Finish<'_, T> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let e = self.epilogue;
        for r in 0..self.rows {
            let row = self.row + r;
            let image = if e.row_bias.is_some() { row / e.rows_per_image } else { 0 };
            let mut v = 0;
            while v < self.width {
                let n = (self.width - v).min(S::LANES);
                let place = Place { row, image, channel: self.channel + v, n };
                // SAFETY: the tile lies in the output, and sums are readable by whole vectors, as the maker of the task promises.
                unsafe {
                    let from = self.sums.add(r * self.ld + v);
                    let gate = if e.gated { S::load(from.add(self.gate)) } else { S::splat(0.0) };
                    let y = e.apply::<S>(&place, S::load(from), gate);
                    store_some::<S, T>(self.out.at(row * e.channels + place.channel), n, y);
                }
                v += S::LANES;
            }
        }
    }
}

/// A vector of the output.
struct Place {
    row: usize,
    image: usize,
    channel: usize,
    n: usize,
}

impl<T: Elem> Epilogue<'_, T> {
    #[inline(always)]
    unsafe fn apply<S: Simd>(&self, at: &Place, sum: S::V, gate: S::V) -> S::V {
        let mut x = sum;
        // SAFETY: the slices have the lengths that their docs state, and the place lies in the output.
        unsafe {
            if let Some(bias) = self.bias {
                x = S::add(x, load_some::<S, f32>(bias.as_ptr().add(at.channel), at.n));
            }
            if self.gated {
                let mut g = gate;
                if let Some(bias) = self.bias {
                    g = S::add(g, load_some::<S, f32>(bias.as_ptr().add(self.channels + at.channel), at.n));
                }
                x = S::mul(x, math::gelu::<S>(g));
            }
            if let Some(bias) = self.row_bias {
                x = S::add(x, load_some::<S, T>(bias.as_ptr().add(at.image * self.channels + at.channel), at.n));
            }
            let residual = match self.residual {
                Some(residual) => load_some::<S, T>(residual.as_ptr().add(at.row * self.channels + at.channel), at.n),
                None => S::splat(0.0),
            };
            if self.residual.is_some() && self.residual_first {
                x = S::add(x, residual);
            }
            let slope = match self.slope {
                Some(slope) => load_some::<S, f32>(slope.as_ptr().add(at.channel), at.n),
                None => S::splat(0.0),
            };
            x = math::activate::<S>(self.act, x, slope);
            if self.residual.is_some() && !self.residual_first { S::add(x, residual) } else { x }
        }
    }
}
