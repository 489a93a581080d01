//! Gradient of attention in tiles (FlashAttention-2, Dao 2023): neither scores nor their gradients are ever held whole.
//!
//! With `P = softmax(Q · Kᵀ / √d)`, `dP = dY · Vᵀ` and `δ = Σ dY · Y` of a query: `dS = P · (dP − δ)`, `dQ = dS · K / √d`,
//! `dK = dSᵀ · Q / √d`, `dV = Pᵀ · dY`.
//!
//! Two passes, each without sums between tasks. A task of the first takes a few queries and walks over all keys; it finds the largest
//! score and the sum of weights anew (rescaling what it has, as the forward pass does) and gives dQ. A task of the second takes a few
//! keys, walks over all queries with what the first pass found of them, and gives dK and dV. That forms seven products where five would
//! do, and in return no thread waits for another and each sum has one order. What a task owns stands in the lanes of vectors, what it
//! walks over is broadcast: both passes are the same few products.

use super::Cpu;
use super::attention::Rows;
use super::attention_grad_tiles::{LANES, Parts, Plan, scales};
use super::attention_words::TILE;
use super::math::exp2;
use super::simd::{Elem, Simd, Task, dispatch};
use super::split::SharedMut;
use super::with_scratch;

/// One call.
#[derive(Clone, Copy)]
pub(crate) struct AttentionGrad<'a, T> {
    pub(crate) q: Rows<'a, T>,
    pub(crate) k: Rows<'a, T>,
    pub(crate) v: Rows<'a, T>,
    /// What the forward pass gave, and its gradient.
    pub(crate) y: Rows<'a, T>,
    pub(crate) dy: Rows<'a, T>,
    pub(crate) images: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) causal: bool,
}

/// A gradient of q, k or v, maybe beside others in one tensor.
pub(crate) struct Target<'a, T> {
    pub(crate) data: &'a SharedMut<T>,
    /// Elements from a row to the next.
    pub(crate) stride: usize,
    /// First element within a row.
    pub(crate) column: usize,
    /// Rows of an image.
    pub(crate) count: usize,
}

/// Gradients of q, k and v. The targets are whole tensors of their own or distinct columns of one.
pub(crate) fn attention_grad<T: Elem>(cpu: &Cpu, call: &AttentionGrad<'_, T>, [dq, dk, dv]: [&Target<'_, T>; 3]) {
    let (parts, queries, keys) = (call.images * call.heads, call.q.count, call.k.count);
    let plan = Plan::new(call.head_dim);
    let mut found = vec![0.0_f32; parts * queries * 3];
    let shared = SharedMut::new(&mut found);
    each_block(cpu, parts, queries, plan.words(), |part, first, count, scratch| {
        let at = At { part, first, count };
        // SAFETY: the device has its instruction set; a task has its own queries in dq and in what is found of them.
        unsafe { dispatch(cpu.isa(), Block { call, plan, at, scratch, panel: Queries { found: &shared, dq } }) }
    });
    each_block(cpu, parts, keys, plan.words(), |part, first, count, scratch| {
        let at = At { part, first, count };
        let found = &found[part * queries * 3..][..queries * 3];
        // SAFETY: the device has its instruction set; a task has its own keys in dk and dv.
        unsafe { dispatch(cpu.isa(), Block { call, plan, at, scratch, panel: Keys { found, dk, dv } }) }
    });
}

/// Calls `task` with every image and head, first row and number of rows, and scratch memory.
fn each_block(cpu: &Cpu, parts: usize, rows: usize, words: usize, task: impl Fn(usize, usize, usize, &mut [f32]) + Sync + Send) {
    let blocks = rows.div_ceil(LANES);
    cpu.parallel(parts * blocks, |i| {
        let first = i % blocks * LANES;
        with_scratch(words * 4, |scratch| task(i / blocks, first, LANES.min(rows - first), bytemuck::cast_slice_mut(scratch)));
    });
}

/// What a task owns: an image and head, and rows.
#[derive(Clone, Copy)]
struct At {
    part: usize,
    first: usize,
    count: usize,
}

/// A task.
struct Block<'a, T, P> {
    call: &'a AttentionGrad<'a, T>,
    plan: Plan,
    at: At,
    scratch: &'a mut [f32],
    panel: P,
}

impl<T: Elem, P: Panel<T>> Task for Block<'_, T, P> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: as the caller promises. The branch is known when this is compiled.
        unsafe { if S::LANES == 16 { self.walk::<S, 4>() } else { self.walk::<S, 2>() } }
    }
}

impl<T: Elem, P: Panel<T>> Block<'_, T, P> {
    #[inline(always)]
    unsafe fn walk<S: Simd, const NV: usize>(self) {
        let width = NV * S::LANES;
        for first in (0..self.at.count).step_by(width) {
            let at = At { first: self.at.first + first, count: width.min(self.at.count - first), ..self.at };
            // SAFETY: as the caller promises: the scratch is as large as the plan says.
            unsafe { self.panel.run::<S, NV>(self.call, self.plan, at, self.plan.parts(self.scratch)) };
        }
    }
}

/// What a pass does for as many of its rows as `NV` vectors have lanes.
trait Panel<T> {
    /// # Safety
    /// The processor has `S`, and `parts` are as large as the plan says.
    unsafe fn run<S: Simd, const NV: usize>(&self, call: &AttentionGrad<'_, T>, plan: Plan, at: At, parts: Parts);
}

/// The first pass.
struct Queries<'a, T> {
    /// For each image, head and query: largest score, 1 over the sum of weights, δ.
    found: &'a SharedMut<f32>,
    dq: &'a Target<'a, T>,
}

impl<T: Elem> Panel<T> for Queries<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Simd, const NV: usize>(&self, call: &AttentionGrad<'_, T>, plan: Plan, at: At, parts: Parts) {
        let (width, place) = (NV * S::LANES, [at.part / call.heads, at.part % call.heads]);
        let [scale, factor] = scales(plan.d);
        // SAFETY: every place below lies in the part of the scratch that `Plan::words` counts for it.
        unsafe {
            plan.turn(&call.q, place, at.first, at.count, width, parts.turned[0]);
            plan.turn(&call.dy, place, at.first, at.count, width, parts.turned[1]);
            std::slice::from_raw_parts_mut(parts.sums[0], plan.channels * width).fill(0.0);
            let [top, total, delta] = parts.running;
            for (numbers, start) in [(top, f32::NEG_INFINITY), (total, 0.0), (delta, 0.0)] {
                std::slice::from_raw_parts_mut(numbers, width).fill(start);
            }
            for lane in 0..at.count {
                let rows = [call.y, call.dy].map(|r| r.row(place[0], at.first + lane, place[1], plan.d));
                let sum: f64 = rows[0].iter().zip(rows[1]).map(|(y, dy)| f64::from(y.widen()) * f64::from(dy.widen())).sum();
                *delta.add(lane) = sum as f32;
            }
            for from in (0..call.k.count).step_by(plan.rows) {
                if call.causal && from >= at.first + at.count {
                    break;
                }
                let count = plan.rows.min(call.k.count - from);
                plan.read::<S, T>(&call.k, place, from, count, parts.rows[0]);
                plan.read::<S, T>(&call.v, place, from, count, parts.rows[1]);
                plan.multiply::<S, NV>(count, parts.rows[0], parts.turned[0], parts.products[0]);
                plan.multiply::<S, NV>(count, parts.rows[1], parts.turned[1], parts.products[1]);
                for key in 0..count.next_multiple_of(TILE) {
                    let hidden = match (key < count, call.causal) {
                        (false, _) => width,
                        (true, true) => (from + key).saturating_sub(at.first).min(width),
                        (true, false) => 0,
                    };
                    std::slice::from_raw_parts_mut(parts.products[0].add(key * width), hidden).fill(f32::NEG_INFINITY);
                }
                Self::weigh::<S, NV>(count.next_multiple_of(TILE), factor, parts);
                // the decay stands where the second sums would
                plan.gather::<S, NV>(count, parts.rows[0], parts.products[0], Some(parts.sums[1]), parts.sums[0]);
            }
            for lane in 0..at.count {
                let query = at.first + lane;
                let share = 1.0 / *total.add(lane);
                let kept = self.found.slice((at.part * call.q.count + query) * 3, 3);
                kept.copy_from_slice(&[*top.add(lane), share, *delta.add(lane)]);
                plan.write::<S, T>(parts.sums[0], width, lane, share * scale, self.dq, [place[0] * self.dq.count + query, place[1]]);
            }
        }
    }
}

impl<T: Elem> Queries<'_, T> {
    /// Turns scores into `weight · (dP − δ)`, weights not yet divided by their sum, and brings the running numbers up to date.
    #[inline(always)]
    unsafe fn weigh<S: Simd, const NV: usize>(keys: usize, factor: f32, parts: Parts) {
        let width = NV * S::LANES;
        // SAFETY: as in `panel`.
        unsafe {
            let factor = S::splat(factor);
            for v in 0..NV {
                let [top, total, delta] = parts.running.map(|p| p.add(v * S::LANES));
                let before = S::load(top);
                let mut highest = before;
                for key in 0..keys {
                    highest = S::max(highest, S::load(parts.products[0].add(key * width + v * S::LANES)));
                }
                let shrink = exp2::<S>(S::mul(S::sub(before, highest), factor));
                let (mut sum, delta) = (S::mul(S::load(total), shrink), S::load(delta));
                for key in 0..keys {
                    let at = key * width + v * S::LANES;
                    let weight = exp2::<S>(S::mul(S::sub(S::load(parts.products[0].add(at)), highest), factor));
                    sum = S::add(sum, weight);
                    S::store(parts.products[0].add(at), S::mul(weight, S::sub(S::load(parts.products[1].add(at)), delta)));
                }
                S::store(top, highest);
                S::store(total, sum);
                S::store(parts.sums[1].add(v * S::LANES), shrink);
            }
        }
    }
}

/// The second pass.
struct Keys<'a, T> {
    /// What the first pass found of the queries of this image and head.
    found: &'a [f32],
    dk: &'a Target<'a, T>,
    dv: &'a Target<'a, T>,
}

impl<T: Elem> Panel<T> for Keys<'_, T> {
    #[inline(always)]
    unsafe fn run<S: Simd, const NV: usize>(&self, call: &AttentionGrad<'_, T>, plan: Plan, at: At, parts: Parts) {
        let (width, place) = (NV * S::LANES, [at.part / call.heads, at.part % call.heads]);
        let [scale, factor] = scales(plan.d);
        // SAFETY: every place below lies in the part of the scratch that `Plan::words` counts for it.
        unsafe {
            plan.turn(&call.k, place, at.first, at.count, width, parts.turned[0]);
            plan.turn(&call.v, place, at.first, at.count, width, parts.turned[1]);
            for sums in parts.sums {
                std::slice::from_raw_parts_mut(sums, plan.channels * width).fill(0.0);
            }
            // a query sees no later key
            let start = if call.causal { at.first / plan.rows * plan.rows } else { 0 };
            for from in (start..call.q.count).step_by(plan.rows) {
                let count = plan.rows.min(call.q.count - from);
                plan.read::<S, T>(&call.q, place, from, count, parts.rows[0]);
                plan.read::<S, T>(&call.dy, place, from, count, parts.rows[1]);
                plan.multiply::<S, NV>(count, parts.rows[0], parts.turned[0], parts.products[0]);
                plan.multiply::<S, NV>(count, parts.rows[1], parts.turned[1], parts.products[1]);
                for i in 0..count.next_multiple_of(TILE) {
                    let scores = std::slice::from_raw_parts_mut(parts.products[0].add(i * width), width);
                    let visible = match (i < count, call.causal) {
                        (false, _) => 0,
                        (true, true) => (from + i + 1).saturating_sub(at.first).min(width),
                        (true, false) => width,
                    };
                    scores[visible..].fill(f32::NEG_INFINITY);
                    let query = if i < count { std::array::from_fn(|n| self.found[(from + i) * 3 + n]) } else { [0.0; 3] };
                    Self::weigh::<S, NV>(i, query, factor, parts);
                }
                plan.gather::<S, NV>(count, parts.rows[0], parts.products[1], None, parts.sums[0]);
                plan.gather::<S, NV>(count, parts.rows[1], parts.products[0], None, parts.sums[1]);
            }
            for lane in 0..at.count {
                let row = at.first + lane;
                plan.write::<S, T>(parts.sums[0], width, lane, scale, self.dk, [place[0] * self.dk.count + row, place[1]]);
                plan.write::<S, T>(parts.sums[1], width, lane, 1.0, self.dv, [place[0] * self.dv.count + row, place[1]]);
            }
        }
    }
}

impl<T: Elem> Keys<'_, T> {
    /// Turns the scores of one query into weights, and `dP` into `dS`.
    #[inline(always)]
    unsafe fn weigh<S: Simd, const NV: usize>(row: usize, [top, share, delta]: [f32; 3], factor: f32, parts: Parts) {
        // SAFETY: as in `panel`.
        unsafe {
            let (top, share, delta, factor) = (S::splat(top), S::splat(share), S::splat(delta), S::splat(factor));
            for v in 0..NV {
                let at = (row * NV + v) * S::LANES;
                let (score, dp) = (parts.products[0].add(at), parts.products[1].add(at));
                // rounding may put a score of padding above the largest
                let x = S::min(S::splat(0.0), S::mul(S::sub(S::load(score), top), factor));
                let weight = S::mul(exp2::<S>(x), share);
                S::store(score, weight);
                S::store(dp, S::mul(weight, S::sub(S::load(dp), delta)));
            }
        }
    }
}
