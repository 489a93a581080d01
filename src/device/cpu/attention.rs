//! Attention in tiles: the score matrix is never held.
//!
//! A task takes one image, one head and a block of queries, and walks over blocks of keys with a running maximum and sum (online
//! softmax, Milakov and Gimelshein 2018; FlashAttention, Dao et al. 2022). Everything is held transposed, a query in each lane:
//! scores `[key][query]` = K · Qᵀ, outputs `[channel][query]` = Vᵀ · P. So maxima, sums and rescaling are plain vector operations,
//! K and V are read in the order they have, and both products are one kernel: a tile of [`TILE`] broadcast values by a few vectors
//! of queries, summed in registers.
//!
//! Queries, keys, values and probabilities are held as 32-bit words: one f32, or two bf16 that VDPBF16PS multiplies at once.
//! Sums are f32 in both. Padding (queries, keys, channels) is zeros; scores of keys that must not be seen are −∞.

use super::Cpu;
pub(crate) use super::attention_words::Element;
use super::attention_words::{Single, TILE, Words, multiply};
use super::math::exp2;
use super::simd::{Elem, Simd, Task, store_some};
use super::split::SharedMut;
use super::with_scratch;

/// q, k or v of all images and heads.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a, T> {
    /// The tensor that holds it, maybe beside others.
    pub(crate) data: &'a [T],
    /// Elements from a row to the next.
    pub(crate) stride: usize,
    /// First element within a row.
    pub(crate) column: usize,
    /// Rows of an image.
    pub(crate) count: usize,
}

impl<'a, T> Rows<'a, T> {
    /// One row of one head.
    #[inline(always)]
    pub(super) fn row(&self, image: usize, row: usize, head: usize, head_dim: usize) -> &'a [T] {
        &self.data[(image * self.count + row) * self.stride + self.column + head * head_dim..][..head_dim]
    }
}

/// One call of attention.
#[derive(Clone, Copy)]
pub(crate) struct Attention<'a, T> {
    pub(crate) q: Rows<'a, T>,
    pub(crate) k: Rows<'a, T>,
    pub(crate) v: Rows<'a, T>,
    pub(crate) images: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) causal: bool,
}

/// `y [images, queries, heads · head_dim]`.
pub(crate) fn attention<T: Element>(cpu: &Cpu, call: &Attention<'_, T>, y: &mut [T]) {
    let plan = Plan::new(call.head_dim, call.k.count);
    let blocks = call.q.count.div_ceil(plan.queries);
    let out = SharedMut::new(y);
    cpu.parallel(call.images * call.heads * blocks, |i| {
        let (image, head, first) = (i / blocks / call.heads, i / blocks % call.heads, i % blocks * plan.queries);
        let count = plan.queries.min(call.q.count - first);
        with_scratch(plan.words() * 4, |scratch| {
            let task = Block { call, plan, image, head, first, count, out: &out, scratch: bytemuck::cast_slice_mut(scratch) };
            // SAFETY: the device has its instruction set; each task has its own part of the output.
            unsafe { T::run(cpu.isa(), task) }
        });
    });
}

/// Sizes of the blocks, by shape alone.
#[derive(Clone, Copy)]
struct Plan {
    /// Queries of a task.
    queries: usize,
    /// Keys of a block: a multiple of [`TILE`], and so even.
    keys: usize,
    /// Channels of a head, padded to a multiple of [`TILE`].
    channels: usize,
}

impl Plan {
    fn new(head_dim: usize, keys: usize) -> Self {
        // Queries, outputs and a block of keys and values should stay in the second level of cache, better half in the first.
        let (queries, most) = if head_dim > 128 { (64, 48) } else { (256, 96) };
        // not so few that queries, a vector of rows at a time, would not fit where keys are held
        let keys = keys.next_multiple_of(TILE).clamp(3 * TILE, most);
        Self { queries, keys, channels: head_dim.next_multiple_of(TILE) }
    }

    /// Words of scratch: queries and outputs, keys and values, scores and probabilities, three numbers for each query.
    fn words(&self) -> usize {
        2 * self.queries * self.channels + 2 * self.keys * self.channels + 2 * self.keys * 64 + 3 * self.queries
    }
}

/// One task.
pub(crate) struct Block<'a, T> {
    call: &'a Attention<'a, T>,
    plan: Plan,
    image: usize,
    head: usize,
    first: usize,
    count: usize,
    out: &'a SharedMut<T>,
    scratch: &'a mut [f32],
}

impl<T: Elem> Task for Block<'_, T> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: as the caller promises. The branch is known when this is compiled.
        unsafe { if S::LANES == 16 { self.walk::<S, Single, 4>() } else { self.walk::<S, Single, 2>() } }
    }
}

/// Parts of the scratch memory.
#[derive(Clone, Copy)]
struct Parts {
    /// `[panel][word][query]`
    queries: *mut f32,
    /// `[panel][channel][query]`
    outputs: *mut f32,
    /// `[key][word]`
    keys: *mut f32,
    /// `[key or pair of keys][channel]`
    values: *mut f32,
    /// `[key][query]` of one panel
    scores: *mut f32,
    /// `[key or pair of keys][query]` of one panel
    weights: *mut f32,
    /// Largest score so far, sum of weights so far, factor for what was summed before; for each query
    running: [*mut f32; 3],
}

impl<T: Elem> Block<'_, T> {
    fn parts(&mut self) -> Parts {
        let Plan { queries, keys, channels } = self.plan;
        let mut rest = &mut *self.scratch;
        let mut take = |n: usize| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(n);
            rest = after;
            part.as_mut_ptr()
        };
        Parts {
            queries: take(queries * channels),
            outputs: take(queries * channels),
            keys: take(keys * channels),
            values: take(keys * channels),
            scores: take(keys * 64),
            weights: take(keys * 64),
            running: [take(queries), take(queries), take(queries)],
        }
    }

    /// The whole task, with panels of `NV` vectors of queries.
    ///
    /// # Safety
    /// The processor has `S` and what `W` asks for.
    #[inline(always)]
    pub(super) unsafe fn walk<S: Simd, W: Words<S, T>, const NV: usize>(mut self) {
        let parts = self.parts();
        let width = NV * S::LANES;
        let words = self.call.head_dim.div_ceil(W::PER_WORD);
        let panels = self.count.div_ceil(width);
        // SAFETY: every place below lies in the part of the scratch that `Plan::words` counts for it.
        unsafe {
            self.read_queries::<S, W>(parts, width, words);
            std::slice::from_raw_parts_mut(parts.outputs, panels * width * self.plan.channels).fill(0.0);
            std::slice::from_raw_parts_mut(parts.running[0], panels * width).fill(f32::NEG_INFINITY);
            std::slice::from_raw_parts_mut(parts.running[1], panels * width).fill(0.0);
            for from in (0..self.call.k.count).step_by(self.plan.keys) {
                if self.call.causal && from >= self.first + self.count {
                    break;
                }
                let count = self.plan.keys.min(self.call.k.count - from);
                self.read_keys::<S, W>(parts, words, from, count);
                for panel in 0..panels {
                    if self.call.causal && from >= self.first + (panel + 1) * width {
                        continue;
                    }
                    let at = Panel { parts, words, from, count, panel };
                    self.scores::<S, W, NV>(at);
                    self.softmax::<S, W, NV>(at);
                    self.weigh::<S, W, NV>(at);
                }
            }
            for panel in 0..panels {
                self.write::<S, NV>(parts, panel);
            }
        }
    }

    /// Queries into `[panel][word][query]`, zeros after the last one.
    #[inline(always)]
    unsafe fn read_queries<S: Simd, W: Words<S, T>>(&self, parts: Parts, width: usize, words: usize) {
        // SAFETY: as `walk` says. Rows are laid where keys come later: there is room for the most lanes.
        unsafe {
            let rows = parts.keys;
            for first in (0..self.count.next_multiple_of(width)).step_by(S::LANES) {
                for i in 0..S::LANES {
                    let row = std::slice::from_raw_parts_mut(rows.add(i * words), words);
                    if first + i < self.count {
                        W::copy_row(self.call.q.row(self.image, self.first + first + i, self.head, self.call.head_dim), row.as_mut_ptr());
                    } else {
                        row.fill(0.0);
                    }
                }
                let to = parts.queries.add(first / width * width * words + first % width);
                let full = words / S::LANES * S::LANES;
                for w in (0..full).step_by(S::LANES) {
                    S::transpose(rows.add(w), words, to.add(w * width), width);
                }
                for w in full..words {
                    for i in 0..S::LANES {
                        *to.add(w * width + i) = *rows.add(i * words + w);
                    }
                }
            }
        }
    }

    /// A block of keys and values, zeros after the last one up to whole tiles.
    #[inline(always)]
    unsafe fn read_keys<S: Simd, W: Words<S, T>>(&self, parts: Parts, words: usize, from: usize, count: usize) {
        let (call, channels) = (self.call, self.plan.channels);
        let padded = count.next_multiple_of(TILE);
        // SAFETY: as `walk` says.
        unsafe {
            for i in 0..count {
                W::copy_row(call.k.row(self.image, from + i, self.head, call.head_dim), parts.keys.add(i * words));
            }
            std::slice::from_raw_parts_mut(parts.keys.add(count * words), (padded - count) * words).fill(0.0);
            for i in (0..padded).step_by(W::PER_WORD) {
                let to = parts.values.add(i / W::PER_WORD * channels);
                let row = |j: usize| (j < count).then(|| call.v.row(self.image, from + j, self.head, call.head_dim));
                std::slice::from_raw_parts_mut(to, channels).fill(0.0);
                W::value_rows([row(i), row(i + 1)], to);
            }
        }
    }

    /// `scores = K · Qᵀ`, −∞ where a key must not be seen.
    #[inline(always)]
    unsafe fn scores<S: Simd, W: Words<S, T>, const NV: usize>(&self, at: Panel) {
        let width = NV * S::LANES;
        // SAFETY: as `walk` says.
        unsafe {
            let queries = at.parts.queries.add(at.panel * width * at.words);
            for key in (0..at.count).step_by(TILE) {
                let mut sums = [[S::splat(0.0); NV]; TILE];
                multiply::<S, T, W, NV>(at.words, at.parts.keys.add(key * at.words), [at.words, 1], queries, &mut sums);
                for (r, row) in sums.iter().enumerate() {
                    for (v, &sum) in row.iter().enumerate() {
                        S::store(at.parts.scores.add((key + r) * width + v * S::LANES), sum);
                    }
                }
            }
            for key in 0..at.count.next_multiple_of(TILE) {
                let first_query = self.first + at.panel * width;
                let hidden = match (key < at.count, self.call.causal) {
                    (false, _) => width,
                    (true, true) => (at.from + key).saturating_sub(first_query).min(width),
                    (true, false) => 0,
                };
                std::slice::from_raw_parts_mut(at.parts.scores.add(key * width), hidden).fill(f32::NEG_INFINITY);
            }
        }
    }

    /// `weights = exp((scores − max) / √head_dim)` and the running numbers.
    #[inline(always)]
    unsafe fn softmax<S: Simd, W: Words<S, T>, const NV: usize>(&self, at: Panel) {
        let width = NV * S::LANES;
        let keys = at.count.next_multiple_of(TILE);
        // exp(s / √d) = 2^(s · factor)
        let factor = (std::f64::consts::LOG2_E / (self.call.head_dim as f64).sqrt()) as f32;
        // SAFETY: as `walk` says.
        unsafe {
            let [top, total, decay] = at.parts.running.map(|p| p.add(at.panel * width));
            let factor = S::splat(factor);
            let mut tops = [factor; NV];
            let mut sums = [factor; NV];
            for v in 0..NV {
                let before = S::load(top.add(v * S::LANES));
                let mut highest = before;
                for key in 0..keys {
                    highest = S::max(highest, S::load(at.parts.scores.add(key * width + v * S::LANES)));
                }
                tops[v] = highest;
                let shrink = exp2::<S>(S::mul(S::sub(before, highest), factor));
                sums[v] = S::mul(S::load(total.add(v * S::LANES)), shrink);
                S::store(top.add(v * S::LANES), highest);
                S::store(decay.add(v * S::LANES), shrink);
            }
            for key in (0..keys).step_by(W::PER_WORD) {
                for v in 0..NV {
                    let mut pair = [factor; 2];
                    for (i, p) in pair.iter_mut().enumerate().take(W::PER_WORD) {
                        let score = S::load(at.parts.scores.add((key + i) * width + v * S::LANES));
                        *p = exp2::<S>(S::mul(S::sub(score, tops[v]), factor));
                        sums[v] = S::add(sums[v], *p);
                    }
                    S::store(at.parts.weights.add(key / W::PER_WORD * width + v * S::LANES), W::join(pair));
                }
            }
            for (v, &sum) in sums.iter().enumerate() {
                S::store(total.add(v * S::LANES), sum);
            }
        }
    }

    /// `outputs = outputs · decay + Vᵀ · weights`.
    #[inline(always)]
    unsafe fn weigh<S: Simd, W: Words<S, T>, const NV: usize>(&self, at: Panel) {
        let width = NV * S::LANES;
        let channels = self.plan.channels;
        let steps = at.count.next_multiple_of(TILE) / W::PER_WORD;
        // SAFETY: as `walk` says.
        unsafe {
            let outputs = at.parts.outputs.add(at.panel * width * channels);
            let decay = at.parts.running[2].add(at.panel * width);
            for channel in (0..channels).step_by(TILE) {
                let mut sums = [[S::splat(0.0); NV]; TILE];
                for v in 0..NV {
                    let decay = S::load(decay.add(v * S::LANES));
                    for (r, row) in sums.iter_mut().enumerate() {
                        row[v] = S::mul(S::load(outputs.add((channel + r) * width + v * S::LANES)), decay);
                    }
                }
                multiply::<S, T, W, NV>(steps, at.parts.values.add(channel), [1, channels], at.parts.weights, &mut sums);
                for (r, row) in sums.iter().enumerate() {
                    for (v, &sum) in row.iter().enumerate() {
                        S::store(outputs.add((channel + r) * width + v * S::LANES), sum);
                    }
                }
            }
        }
    }

    /// Divides by the sum of weights and writes rows of the output.
    #[inline(always)]
    unsafe fn write<S: Simd, const NV: usize>(&self, parts: Parts, panel: usize) {
        let width = NV * S::LANES;
        let (call, d) = (self.call, self.call.head_dim);
        let count = width.min(self.count - panel * width);
        // SAFETY: as `walk` says; each task writes its own rows and columns of the output.
        unsafe {
            let outputs = parts.outputs.add(panel * width * self.plan.channels);
            let totals = parts.running[1].add(panel * width);
            for (first, channel) in blocks(count, d, S::LANES) {
                let (rows, n) = (S::LANES.min(count - first), S::LANES.min(d - channel));
                let mut square = [0.0; 16 * 16];
                let from = outputs.add(channel * width + first);
                if n == S::LANES {
                    S::transpose(from, width, square.as_mut_ptr(), S::LANES);
                } else {
                    for (q, j) in blocks(rows, n, 1) {
                        square[q * S::LANES + j] = *from.add(j * width + q);
                    }
                }
                for q in 0..rows {
                    let query = self.first + panel * width + first + q;
                    let row = self.out.slice((self.image * call.q.count + query) * call.heads * d + self.head * d + channel, n);
                    let share = S::splat(1.0 / *totals.add(first + q));
                    store_some::<S, T>(row.as_mut_ptr(), n, S::mul(S::load(square.as_ptr().add(q * S::LANES)), share));
                }
            }
        }
    }
}

/// Upper left corners of the squares of `side` that cover a rectangle, row by row.
#[inline(always)]
fn blocks(rows: usize, columns: usize, side: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).step_by(side).flat_map(move |r| (0..columns).step_by(side).map(move |c| (r, c)))
}

/// One panel of queries and one block of keys.
#[derive(Clone, Copy)]
struct Panel {
    parts: Parts,
    words: usize,
    from: usize,
    count: usize,
    panel: usize,
}
