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
    /// Instead of the output, of the same shape: its gradient. What is written then is the gradient of the sum with its bias, before
    /// activation and gate: with gates, rows of `2 · channels`, the values' gradients first. There is no row bias, residual or slope.
    pub(crate) gradient: Option<&'a [T]>,
}

impl<'a, T> Epilogue<'a, T> {
    /// Bias and activation alone.
    pub(crate) fn plain(channels: usize, bias: Option<&'a [f32]>, act: Activation) -> Self {
        Self {
            bias,
            row_bias: None,
            rows_per_image: 1,
            residual: None,
            residual_first: false,
            act,
            slope: None,
            gated: false,
            channels,
            gradient: None,
        }
    }

    /// Row length of what is written.
    pub(super) fn row_len(&self) -> usize {
        if self.gated && self.gradient.is_some() { 2 * self.channels } else { self.channels }
    }
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

// By reference: see the micro-kernels.
impl<T: Elem> Task for &Finish<'_, T> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let sums_only = self.epilogue.act == Activation::None && !self.epilogue.gated;
        for column in (0..self.width).step_by(2 * S::LANES) {
            let width = (self.width - column).min(2 * S::LANES);
            // SAFETY: as the maker of the task promises.
            unsafe {
                match (sums_only, width == 2 * S::LANES) {
                    _ if self.epilogue.gradient.is_some() => self.gradients::<S>(column, width),
                    (true, true) => self.pair::<S>(column),
                    (true, false) => self.vectors::<S, true>(column, width),
                    _ => self.vectors::<S, false>(column, width),
                }
            }
        }
    }
}

impl<T: Elem> Finish<'_, T> {
    /// Two whole vectors of each row, without gate and activation: what most layers need, and all that counts where K is small.
    #[inline(always)]
    unsafe fn pair<S: Simd>(&self, column: usize) {
        let e = self.epilogue;
        let channel = self.channel + column;
        // SAFETY: the tile lies in the output, and sums are readable by whole vectors; the slices have the lengths that their docs state.
        unsafe {
            let bias = match e.bias {
                Some(bias) => load_pair::<S, f32>(bias.as_ptr().add(channel)),
                None => [S::splat(0.0); 2],
            };
            for r in 0..self.rows {
                let row = self.row + r;
                let [mut a, mut b] = load_pair::<S, f32>(self.sums.add(r * self.ld + column));
                (a, b) = (S::add(a, bias[0]), S::add(b, bias[1]));
                if let Some(more) = e.row_bias {
                    let more = load_pair::<S, T>(more.as_ptr().add(row / e.rows_per_image * e.channels + channel));
                    (a, b) = (S::add(a, more[0]), S::add(b, more[1]));
                }
                if let Some(residual) = e.residual {
                    let residual = load_pair::<S, T>(residual.as_ptr().add(row * e.channels + channel));
                    (a, b) = (S::add(a, residual[0]), S::add(b, residual[1]));
                }
                let to = self.out.at(row * e.channels + channel);
                T::store::<S>(to, a);
                T::store::<S>(to.add(S::LANES), b);
            }
        }
    }

    /// Everything, one vector at a time.
    #[inline(always)]
    unsafe fn vectors<S: Simd, const SUMS_ONLY: bool>(&self, column: usize, width: usize) {
        let e = self.epilogue;
        for r in 0..self.rows {
            let row = self.row + r;
            let image = if e.row_bias.is_some() { row / e.rows_per_image } else { 0 };
            for v in (column..column + width).step_by(S::LANES) {
                let place = Place { row, image, channel: self.channel + v, n: (column + width - v).min(S::LANES) };
                // SAFETY: as in `pair`.
                unsafe {
                    let from = self.sums.add(r * self.ld + v);
                    let gate = if e.gated && !SUMS_ONLY { S::load(from.add(self.gate)) } else { S::splat(0.0) };
                    let y = e.apply::<S, SUMS_ONLY>(&place, S::load(from), gate);
                    store_some::<S, T>(self.out.at(row * e.channels + place.channel), place.n, y);
                }
            }
        }
    }
}

impl<T: Elem> Finish<'_, T> {
    /// Gradients of the sums, by [`Epilogue::gradient`].
    #[inline(always)]
    unsafe fn gradients<S: Simd>(&self, column: usize, width: usize) {
        let e = self.epilogue;
        let Some(gradient) = e.gradient else { return };
        for r in 0..self.rows {
            for v in (column..column + width).step_by(S::LANES) {
                let (row, channel, n) = (self.row + r, self.channel + v, (column + width - v).min(S::LANES));
                // SAFETY: as in `pair`; a gated layer has twice as many biases as channels, and outputs twice as long.
                unsafe {
                    let from = self.sums.add(r * self.ld + v);
                    let dy = load_some::<S, T>(gradient.as_ptr().add(row * e.channels + channel), n);
                    let x = e.biased::<S>(S::load(from), channel, n);
                    let to = self.out.at(row * e.row_len() + channel);
                    if !e.gated {
                        store_some::<S, T>(to, n, S::mul(dy, math::derivative::<S>(e.act, x, S::splat(0.0))));
                        continue;
                    }
                    let gate = e.biased::<S>(S::load(from.add(self.gate)), e.channels + channel, n);
                    store_some::<S, T>(to, n, S::mul(dy, math::gelu::<S>(gate)));
                    store_some::<S, T>(to.add(e.channels), n, S::mul(S::mul(dy, x), math::gelu_derivative::<S>(gate)));
                }
            }
        }
    }
}

/// Two neighbouring vectors.
#[inline(always)]
unsafe fn load_pair<S: Simd, T: Elem>(from: *const T) -> [S::V; 2] {
    // SAFETY: as the caller promises.
    unsafe { [T::load::<S>(from), T::load::<S>(from.add(S::LANES))] }
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
    unsafe fn apply<S: Simd, const SUMS_ONLY: bool>(&self, at: &Place, sum: S::V, gate: S::V) -> S::V {
        let mut x = sum;
        // SAFETY: the slices have the lengths that their docs state, and the place lies in the output.
        unsafe {
            if let Some(bias) = self.bias {
                x = S::add(x, load_some::<S, f32>(bias.as_ptr().add(at.channel), at.n));
            }
            if self.gated && !SUMS_ONLY {
                x = S::mul(x, self.gate::<S>(at, gate));
            }
            if let Some(bias) = self.row_bias {
                x = S::add(x, load_some::<S, T>(bias.as_ptr().add(at.image * self.channels + at.channel), at.n));
            }
            let residual = match self.residual {
                Some(residual) => load_some::<S, T>(residual.as_ptr().add(at.row * self.channels + at.channel), at.n),
                None => S::splat(0.0),
            };
            if self.residual.is_some() && (self.residual_first || SUMS_ONLY) {
                x = S::add(x, residual);
            }
            if SUMS_ONLY {
                return x;
            }
            let slope = match self.slope {
                Some(slope) => load_some::<S, f32>(slope.as_ptr().add(at.channel), at.n),
                None => S::splat(0.0),
            };
            x = math::activate::<S>(self.act, x, slope);
            if self.residual.is_some() && !self.residual_first { S::add(x, residual) } else { x }
        }
    }

    /// The sum of output `channel` with its bias, if there is one.
    #[inline(always)]
    unsafe fn biased<S: Simd>(&self, sum: S::V, channel: usize, n: usize) -> S::V {
        match self.bias {
            // SAFETY: as in `apply`.
            Some(bias) => unsafe { S::add(sum, load_some::<S, f32>(bias.as_ptr().add(channel), n)) },
            None => sum,
        }
    }

    /// gelu(gate + its bias)
    #[inline(always)]
    unsafe fn gate<S: Simd>(&self, at: &Place, gate: S::V) -> S::V {
        // SAFETY: as in `apply`; a gated layer has twice as many biases as channels.
        unsafe { math::gelu::<S>(self.biased::<S>(gate, self.channels + at.channel, at.n)) }
    }
}
