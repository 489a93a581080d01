//! Where the rows of x in a product come from: a matrix, or the windows of an image (implicit GEMM: only a block of them ever exists).

use half::bf16;
use std::ops::Range;

/// The left side of a product.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a, T> {
    /// A row-major matrix of `k` columns.
    Rows { data: &'a [T], k: usize },
    /// Two row-major matrices side by side, of so many columns each.
    Beside { data: [&'a [T]; 2], k: [usize; 2] },
    /// Windows of a channels-last image.
    Windows(Windows<'a, T>),
}

/// The windows that a convolution multiplies with its weights; K runs over rows, columns and channels of a window.
#[derive(Clone, Copy)]
pub(crate) struct Windows<'a, T> {
    /// `[B, height, width, channels]`
    pub(crate) data: &'a [T],
    /// Height and width as stored.
    pub(crate) stored: [usize; 2],
    /// Height and width that are convolved, by nearest-neighbour resize.
    pub(crate) size: [usize; 2],
    /// Channels of the image.
    pub(crate) channels: usize,
    /// Height and width of the output.
    pub(crate) output: [usize; 2],
    /// Height and width of the kernel.
    pub(crate) kernel: [usize; 2],
    /// Step in both directions.
    pub(crate) stride: usize,
    /// Zero rows above, zero columns to the left; negative where rows or columns are left out.
    pub(crate) padding: [isize; 2],
    /// Distance of the pixels, with zeros between them: 1, or the stride of the convolution whose input's gradient this is.
    pub(crate) spread: usize,
}

impl<T: Copy> Source<'_, T> {
    /// Writes the slice `ks` of rows `rows` to `out`, `ld` elements apart; `k` beyond the matrix is 0.
    /// `channels` are those of the group at hand (windows only).
    pub(super) fn pack<D: Widens<T>>(&self, rows: Range<usize>, ks: Range<usize>, channels: Range<usize>, out: &mut [D], ld: usize) {
        let len = ks.len();
        match self {
            Self::Rows { data, k } => {
                let inside = ks.end.min(*k) - ks.start.min(*k);
                for (row, out) in rows.zip(out.chunks_mut(ld)) {
                    D::widen(&data[row * k + ks.start..][..inside], &mut out[..inside]);
                    out[inside..len].fill(D::ZERO);
                }
            }
            Self::Beside { data: [a, b], k: [k, l] } => {
                let [of_a, of_b] = [ks.start.min(*k)..ks.end.min(*k), ks.start.clamp(*k, k + l) - k..ks.end.clamp(*k, k + l) - k];
                for (row, out) in rows.zip(out.chunks_mut(ld)) {
                    let (first, rest) = out[..len].split_at_mut(of_a.len());
                    let (second, rest) = rest.split_at_mut(of_b.len());
                    D::widen(&a[row * k..][of_a.clone()], first);
                    D::widen(&b[row * l..][of_b.clone()], second);
                    rest.fill(D::ZERO);
                }
            }
            Self::Windows(windows) => windows.pack(rows, ks, channels, out, ld),
        }
    }
}

/// A pixel of the output.
struct Pixel {
    image: usize,
    y: usize,
    x: usize,
}

impl<T: Copy> Windows<'_, T> {
    /// Output rows of all images.
    pub(super) fn lines(&self) -> usize {
        let image = self.stored[0] * self.stored[1] * self.channels;
        self.data.len() / image.max(1) * self.output[0]
    }

    fn pack<D: Widens<T>>(&self, rows: Range<usize>, ks: Range<usize>, channels: Range<usize>, out: &mut [D], ld: usize) {
        let [height, width] = self.output;
        let first = rows.start;
        let mut pixel = Pixel { image: first / (height * width), y: first / width % height, x: first % width };
        // Without a resize, groups and zeros in between, a row of the window is contiguous in the image.
        let by_row = self.size == self.stored && channels.len() == self.channels && self.spread == 1 && self.padding[1] >= 0;
        let inside = ks.start..ks.end.min(self.kernel[0] * self.kernel[1] * channels.len());
        for out in out.chunks_mut(ld).take(rows.len()) {
            if by_row {
                self.window_rows(&pixel, inside.clone(), out);
            } else {
                self.window_taps(&pixel, inside.clone(), channels.clone(), out);
            }
            out[inside.len()..ks.len()].fill(D::ZERO);
            pixel.x += 1;
            if pixel.x == width {
                pixel.x = 0;
                pixel.y += 1;
                if pixel.y == height {
                    pixel.y = 0;
                    pixel.image += 1;
                }
            }
        }
    }

    /// Copies row by row of the window, clipped at the sides of the image.
    #[inline]
    fn window_rows<D: Widens<T>>(&self, pixel: &Pixel, ks: Range<usize>, out: &mut [D]) {
        let [height, width] = self.stored;
        let (row_len, segment) = (width * self.channels, self.kernel[1] * self.channels);
        let (mut ky, mut offset) = (ks.start / segment, ks.start % segment);
        let mut out = &mut out[..ks.len()];
        while !out.is_empty() {
            let (piece, rest) = out.split_at_mut((segment - offset).min(out.len()));
            let y = (pixel.y * self.stride + ky).wrapping_add_signed(-self.padding[0]);
            if y < height {
                let row = &self.data[(pixel.image * height + y) * row_len..][..row_len];
                // place of the piece in the row, shifted by the padding so that it is not negative
                let shift = self.padding[1].unsigned_abs() * self.channels;
                let start = pixel.x * self.stride * self.channels + offset;
                let left = shift.saturating_sub(start).min(piece.len());
                let from = (start + left).saturating_sub(shift).min(row_len);
                let count = (piece.len() - left).min(row_len - from);
                piece[..left].fill(D::ZERO);
                D::widen(&row[from..from + count], &mut piece[left..left + count]);
                piece[left + count..].fill(D::ZERO);
            } else {
                piece.fill(D::ZERO);
            }
            (ky, offset, out) = (ky + 1, 0, rest);
        }
    }

    /// Copies pixel by pixel of the window: of a resized image, or the channels of one group.
    #[inline]
    fn window_taps<D: Widens<T>>(&self, pixel: &Pixel, ks: Range<usize>, channels: Range<usize>, out: &mut [D]) {
        let segment = channels.len();
        let (mut tap, mut offset) = (ks.start / segment, ks.start % segment);
        let mut out = &mut out[..ks.len()];
        while !out.is_empty() {
            let (piece, rest) = out.split_at_mut((segment - offset).min(out.len()));
            match self.source(pixel.image, pixel.y, pixel.x, tap) {
                Some(at) => D::widen(&self.data[at * self.channels + channels.start + offset..][..piece.len()], piece),
                None => piece.fill(D::ZERO),
            }
            (tap, offset, out) = (tap + 1, 0, rest);
        }
    }

    /// Taps of a window that are not padding, of an image without zeros in between: where each starts in the image, and in weights `[taps][channels]`.
    /// `taps` holds those of the window to the left of it, if there is one.
    pub(super) fn taps(&self, image: usize, y: usize, x: usize, taps: &mut Vec<(usize, usize)>) {
        if x > 0 && self.size == self.stored && self.is_inside(x - 1) && self.is_inside(x) {
            return taps.iter_mut().for_each(|(at, _)| *at += self.stride * self.channels);
        }
        taps.clear();
        for tap in 0..self.kernel[0] * self.kernel[1] {
            if let Some(at) = self.source(image, y, x, tap) {
                taps.push((at * self.channels, tap * self.channels));
            }
        }
    }

    /// Whether no column of the windows at `x` is padding.
    fn is_inside(&self, x: usize) -> bool {
        let left = (x * self.stride).wrapping_add_signed(-self.padding[1]);
        left < self.size[1] && left + self.kernel[1] <= self.size[1]
    }

    /// Index of the stored pixel that a tap of a window reads; none in the padding.
    #[inline]
    fn source(&self, image: usize, y: usize, x: usize, tap: usize) -> Option<usize> {
        let [height, width] = self.stored;
        let y = (y * self.stride + tap / self.kernel[1]).wrapping_add_signed(-self.padding[0]);
        let x = (x * self.stride + tap % self.kernel[1]).wrapping_add_signed(-self.padding[1]);
        if self.spread > 1 {
            let on_pixel = y.is_multiple_of(self.spread) && x.is_multiple_of(self.spread);
            let (y, x) = (y / self.spread, x / self.spread);
            return (on_pixel && y < height && x < width).then(|| (image * height + y) * width + x);
        }
        if y >= self.size[0] || x >= self.size[1] {
            return None;
        }
        if self.size == self.stored {
            return Some((image * height + y) * width + x);
        }
        // nearest neighbour, as torch computes it: floor(i · in / out)
        let (y, x) = (y * height / self.size[0], x * width / self.size[1]);
        Some((image * height + y) * width + x)
    }
}

/// Copies; a call of the C library costs more than a short loop.
#[inline]
fn copy<T: Copy>(from: &[T], to: &mut [T]) {
    if from.len() > 24 {
        return to.copy_from_slice(from);
    }
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// A type that values of `T` are packed to.
pub(crate) trait Widens<T>: Copy {
    /// 0
    const ZERO: Self;
    /// Converts as many values as both slices hold.
    fn widen(from: &[T], to: &mut [Self]);
}

impl Widens<f32> for f32 {
    const ZERO: Self = 0.0;
    #[inline]
    fn widen(from: &[f32], to: &mut [Self]) {
        copy(from, to);
    }
}

impl Widens<bf16> for bf16 {
    const ZERO: Self = bf16::ZERO;
    #[inline]
    fn widen(from: &[bf16], to: &mut [Self]) {
        copy(from, to);
    }
}

impl Widens<bf16> for f32 {
    const ZERO: Self = 0.0;
    #[inline]
    fn widen(from: &[bf16], to: &mut [Self]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = Self::from_bits(u32::from(from.to_bits()) << 16);
        }
    }
}
