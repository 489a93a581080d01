//! Scratch memory of the gradient of attention, and the products on it.

use super::attention::Rows;
use super::attention_grad::Target;
use super::attention_words::{Single, TILE, multiply};
use super::simd::{Elem, Simd, load_some, store_some};

/// Most lanes of a task: 4 vectors of 16.
pub(super) const LANES: usize = 64;

/// Sizes of the blocks, by shape alone.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    /// Rows walked over at a time: a multiple of [`TILE`].
    pub(super) rows: usize,
    /// Channels of a head.
    pub(super) d: usize,
    /// The same up to a multiple of [`TILE`].
    pub(super) channels: usize,
}

impl Plan {
    pub(super) fn new(d: usize) -> Self {
        Self { rows: if d > 128 { 48 } else { 96 }, d, channels: d.next_multiple_of(TILE) }
    }

    /// Words of scratch: two turned panels, two sums, two blocks of rows, two products, three numbers for each lane.
    pub(super) fn words(&self) -> usize {
        4 * self.channels * LANES + 2 * self.rows * self.channels + 2 * self.rows * LANES + 3 * LANES
    }
}

/// Parts of the scratch memory.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    /// What the lanes are, `[channel][lane]`.
    pub(super) turned: [*mut f32; 2],
    /// Sums `[channel][lane]`.
    pub(super) sums: [*mut f32; 2],
    /// What is walked over, `[row][channel]`, zeros up to whole tiles.
    pub(super) rows: [*mut f32; 2],
    /// Products `[row][lane]`.
    pub(super) products: [*mut f32; 2],
    /// Numbers of the lanes.
    pub(super) running: [*mut f32; 3],
}

impl Plan {
    pub(super) fn parts(&self, scratch: &mut [f32]) -> Parts {
        debug_assert!(scratch.len() >= self.words());
        let (panel, block, product) = (self.channels * LANES, self.rows * self.channels, self.rows * LANES);
        let start = scratch.as_mut_ptr();
        let at = |offset: usize| start.wrapping_add(offset);
        let (rows, products) = (4 * panel, 4 * panel + 2 * block);
        let running = products + 2 * product;
        Parts {
            turned: [at(0), at(panel)],
            sums: [at(2 * panel), at(3 * panel)],
            rows: [at(rows), at(rows + block)],
            products: [at(products), at(products + product)],
            running: [at(running), at(running + LANES), at(running + 2 * LANES)],
        }
    }

    /// Rows `from..from + count` of a head, turned: zeros for the other lanes.
    #[inline(always)]
    pub(super) unsafe fn turn<T: Elem>(
        &self,
        rows: &Rows<'_, T>,
        [image, head]: [usize; 2],
        from: usize,
        count: usize,
        width: usize,
        to: *mut f32,
    ) {
        // SAFETY: `to` holds `channels` rows of `width` lanes.
        unsafe {
            std::slice::from_raw_parts_mut(to, self.channels * width).fill(0.0);
            for lane in 0..count {
                for (c, v) in rows.row(image, from + lane, head, self.d).iter().enumerate() {
                    *to.add(c * width + lane) = v.widen();
                }
            }
        }
    }

    /// Rows of a head, widened.
    #[inline(always)]
    pub(super) unsafe fn read<S: Simd, T: Elem>(
        &self,
        rows: &Rows<'_, T>,
        [image, head]: [usize; 2],
        from: usize,
        count: usize,
        to: *mut f32,
    ) {
        // SAFETY: `to` holds as many rows of `channels` values as a block has.
        unsafe {
            std::slice::from_raw_parts_mut(to, count.next_multiple_of(TILE) * self.channels).fill(0.0);
            for i in 0..count {
                let row = rows.row(image, from + i, head, self.d);
                for c in (0..self.d).step_by(S::LANES) {
                    let n = S::LANES.min(self.d - c);
                    store_some::<S, f32>(to.add(i * self.channels + c), n, load_some::<S, T>(row.as_ptr().add(c), n));
                }
            }
        }
    }

    /// `products[row][lane] = rows · turned` for whole tiles of rows.
    #[inline(always)]
    pub(super) unsafe fn multiply<S: Simd, const NV: usize>(&self, count: usize, rows: *const f32, turned: *const f32, to: *mut f32) {
        // SAFETY: as the caller promises: the parts of the scratch have these sizes.
        unsafe {
            for row in (0..count).step_by(TILE) {
                let mut sums = [[S::splat(0.0); NV]; TILE];
                multiply::<S, f32, Single, NV>(self.d, rows.add(row * self.channels), [self.channels, 1], turned, &mut sums);
                for (r, sums) in sums.iter().enumerate() {
                    for (v, &sum) in sums.iter().enumerate() {
                        S::store(to.add(((row + r) * NV + v) * S::LANES), sum);
                    }
                }
            }
        }
    }

    /// `sums[channel][lane] = sums · decay + Σ over rows of rows[row][channel] · weights[row][lane]`.
    #[inline(always)]
    pub(super) unsafe fn gather<S: Simd, const NV: usize>(
        &self,
        count: usize,
        rows: *const f32,
        weights: *const f32,
        decay: Option<*const f32>,
        to: *mut f32,
    ) {
        // SAFETY: as above.
        unsafe {
            for channel in (0..self.channels).step_by(TILE) {
                let mut sums = [[S::splat(0.0); NV]; TILE];
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = S::load(to.add(((channel + r) * NV + v) * S::LANES));
                        if let Some(decay) = decay {
                            *sum = S::mul(*sum, S::load(decay.add(v * S::LANES)));
                        }
                    }
                }
                multiply::<S, f32, Single, NV>(count.next_multiple_of(TILE), rows.add(channel), [1, self.channels], weights, &mut sums);
                for (r, sums) in sums.iter().enumerate() {
                    for (v, &sum) in sums.iter().enumerate() {
                        S::store(to.add(((channel + r) * NV + v) * S::LANES), sum);
                    }
                }
            }
        }
    }

    /// Writes `sums · scale` of one lane as a row of a target.
    #[inline(always)]
    pub(super) unsafe fn write<S: Simd, T: Elem>(
        &self,
        sums: *const f32,
        width: usize,
        lane: usize,
        scale: f32,
        target: &Target<'_, T>,
        [row, head]: [usize; 2],
    ) {
        let mut buffer = [0.0; 16];
        // SAFETY: as the caller promises: the row and the columns of the head belong to this task.
        unsafe {
            let out = target.data.slice(row * target.stride + target.column + head * self.d, self.d);
            for c in (0..self.d).step_by(S::LANES) {
                let n = S::LANES.min(self.d - c);
                for (i, v) in buffer.iter_mut().enumerate().take(n) {
                    *v = *sums.add((c + i) * width + lane) * scale;
                }
                store_some::<S, T>(out.as_mut_ptr().add(c), n, S::load(buffer.as_ptr()));
            }
        }
    }
}

/// 1 / √d, and the same for powers of two.
pub(super) fn scales(d: usize) -> [f32; 2] {
    let scale = 1.0 / (d as f64).sqrt();
    [scale as f32, (scale * std::f64::consts::LOG2_E) as f32]
}
