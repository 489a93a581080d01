//! Multi-head scaled dot-product attention that never holds the score matrix.

use super::lowering::count;
use super::{AttentionGrad, Case, Cost, HostArray, HostIo, Ins, Op, Fill, each_dtype, filled, normal, unsupported};
use crate::device::cpu::attention::{self, Element, Rows};
use crate::device::{Arch, KernelFile, KernelKey, Launch, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Ty};
use half::bf16;

/// `softmax(q · kᵀ / √head_dim) · v` for each head.
///
/// Heads lie side by side in the last axis. Inputs by [`Heads`]: three tensors `q [B,S,C]`, `k [B,T,C]`, `v [B,T,C]`; or `q [B,S,C]`
/// and `kv [B,T,2C]` (k first); or `qkv [B,S,3C]`. All of one type, `C = heads · head_dim`. Output: `[B,S,C]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// Number of heads.
    pub heads: usize,
    /// A query sees its own position and earlier ones only.
    pub causal: bool,
    /// How q, k and v are stored.
    pub packing: Heads,
}

/// How [`Attention`] finds q, k and v.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    /// Three inputs.
    Separate,
    /// q, and k and v side by side in the last axis.
    PackedKv,
    /// One input with q, k and v side by side in the last axis.
    PackedQkv,
}

/// Where one of q, k, v lies: input, row length of that input, first column, rows per image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) input: usize,
    pub(crate) stride: usize,
    pub(crate) column: usize,
    pub(crate) rows: usize,
}

impl Heads {
    /// Inputs of an attention.
    pub(crate) fn inputs(self) -> usize {
        match self {
            Self::Separate => 3,
            Self::PackedKv => 2,
            Self::PackedQkv => 1,
        }
    }
}

impl Attention {
    /// Spans of q, k and v for an output of `channels` channels.
    pub(crate) fn spans(&self, rows: impl Fn(usize) -> usize, channels: usize) -> [Span; 3] {
        let at = |input, parts, part| Span { input, stride: parts * channels, column: part * channels, rows: rows(input) };
        match self.packing {
            Heads::Separate => [at(0, 1, 0), at(1, 1, 0), at(2, 1, 0)],
            Heads::PackedKv => [at(0, 1, 0), at(1, 2, 0), at(1, 2, 1)],
            Heads::PackedQkv => [at(0, 3, 0), at(0, 3, 1), at(0, 3, 2)],
        }
    }
}

impl Op for Attention {
    const NAME: &'static str = "attention";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let q = ins.float(0, "q")?;
        ins.ensure(q.shape.len() == 3, || format!("q is {q}, expected [B,S,C]"))?;
        let parts = if self.packing == Heads::PackedQkv { 3 } else { 1 };
        ins.ensure(q.shape[2] % parts == 0, || format!("qkv is {q}, its last axis is not a multiple of 3"))?;
        let channels = q.shape[2] / parts;
        ins.ensure(self.heads > 0 && channels % self.heads == 0, || format!("{channels} channels do not split into {} heads", self.heads))?;
        let inputs = self.packing.inputs();
        let width = if self.packing == Heads::PackedKv { 2 * channels } else { channels };
        for i in 1..inputs {
            let ty = ins.float(i, "k, v")?;
            let fits = ty.dtype == q.dtype && ty.shape.len() == 3 && ty.shape[0] == q.shape[0] && ty.shape[2] == width;
            ins.ensure(fits, || format!("k, v is {ty}, expected {}[{},T,{width}]", q.dtype, q.shape[0]))?;
        }
        if self.packing == Heads::Separate {
            let (k, v) = (ins.get(1, "k")?, ins.get(2, "v")?);
            ins.ensure(k == v, || format!("k is {k} but v is {v}"))?;
        }
        if self.causal {
            let keys = if inputs > 1 { ins.get(1, "k")?.shape[1] } else { q.shape[1] };
            ins.ensure(keys == q.shape[1], || format!("causal attention of {} queries over {keys} keys", q.shape[1]))?;
        }
        ins.at_most(inputs)?;
        Ok(vec![Ty { dtype: q.dtype, shape: q.shape.with_last(channels) }])
    }

    fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let &[batch, queries, channels] = &*outs[0].shape else { return Err(super::op_error::<Self>("output is not [B,S,C]")) };
        let array = |i: usize| ins.get(i).and_then(Option::as_ref);
        let spans = self.spans(|i| array(i).map_or(0, |a| a.shape()[1]), channels);
        let [Some(q), Some(k), Some(v)] = spans.map(|s| array(s.input)) else {
            return Err(super::op_error::<Self>("an input is missing"));
        };
        let head_dim = channels / self.heads;
        let row = |a: &HostArray, s: Span, b: usize, r: usize, h: usize| {
            let start = (b * s.rows + r) * s.stride + s.column + h * head_dim;
            a.data[start..start + head_dim].to_vec()
        };
        let mut y = vec![0.0; outs[0].shape.elements()];
        for (b, h, i) in (0..batch).flat_map(|b| (0..self.heads).flat_map(move |h| (0..queries).map(move |i| (b, h, i)))) {
            let qi = row(q, spans[0], b, i, h);
            let keys = if self.causal { i + 1 } else { spans[1].rows };
            let scores: Vec<f64> = (0..keys)
                .map(|j| qi.iter().zip(row(k, spans[1], b, j, h)).map(|(a, b)| a * b).sum::<f64>() / (head_dim as f64).sqrt())
                .collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            let out = &mut y[(b * queries + i) * channels + h * head_dim..][..head_dim];
            for (j, s) in scores.iter().enumerate() {
                let p = (s - top).exp() / total;
                out.iter_mut().zip(row(v, spans[2], b, j, h)).for_each(|(o, v)| *o += p * v);
            }
        }
        Ok(vec![y])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        match io.out_ty(0).dtype {
            DType::F32 => self.run::<f32>(io),
            DType::Bf16 => self.run::<bf16>(io),
            other => Err(unsupported(other)),
        }
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], target: &Target) -> Result<Lowered> {
        let &[images, queries, channels] = &*outs[0].shape else { return Err(super::op_error::<Self>("output is not [B,S,C]")) };
        let (dtype, head_dim) = (outs[0].dtype, channels / self.heads);
        let [q, k, v] = self.spans(|i| ins.get(i).copied().flatten().map_or(0, |t| t.shape[1]), channels);
        for ty in ins.iter().flatten() {
            count(ty.shape.elements())?;
        }
        let at = |s: Span| Slot::In(s.input).at((s.column * dtype.size()) as u64);
        let params = AttentionParams {
            q: at(q),
            k: at(k),
            v: at(v),
            y: Slot::Out(0),
            log_sum: Slot::Null,
            queries: count(queries)?,
            keys: count(k.rows)?,
            heads: count(self.heads)?,
            head_dim: count(head_dim)?,
            q_pitch: count(q.stride)?,
            kv_pitch: count(k.stride)?,
            scale: std::f32::consts::LOG2_E / (head_dim as f32).sqrt(),
        };
        let variant = Variant::of(dtype, head_dim, k.rows, queries * self.heads * images, target.arch)?;
        let unit = if dtype == DType::F32 { 4 } else { 8 };
        let key = KernelKey::new(&FILE, variant.entry).define("T", kernel_type(dtype));
        let key = key.define("ALIGNED", u8::from(head_dim.is_multiple_of(unit))).define("CAUSAL", u8::from(self.causal));
        let kernel = variant.defines.iter().fold(key, |key, &(name, value)| key.define(name, value));
        let grid = [queries.div_ceil(variant.queries) as u32, params.heads, count(images)?];
        let (block, shared) = ([variant.threads as u32, 1, 1], variant.shared as u32);
        Ok(Launch { kernel, grid, block, shared, params: params.pack() }.into())
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        AttentionGrad::append(self, g, cx)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        let channels = outs[0].shape.last_axis();
        let keys = self.spans(|i| ins.get(i).copied().flatten().map_or(0, |t| t.shape[1]), channels)[1].rows;
        // q·kᵀ and p·v; the softmax is not counted, as is the custom of the field
        Cost::touching(4 * (outs[0].shape.elements() * keys) as u64, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let separate = |heads, causal| Attention { heads, causal, packing: Heads::Separate };
        each_dtype(|t| {
            // name, batch, queries, keys, heads, head_dim, causal
            let shapes = [
                ("self 64", [2, 128, 128, 2, 64], false),
                ("text", [2, 77, 77, 3, 64], true),
                ("cross", [1, 200, 77, 2, 64], false),
                ("one key", [2, 3, 1, 2, 8], false),
                ("one query", [1, 1, 130, 2, 16], false),
                ("head_dim 40", [1, 70, 70, 2, 40], false),
                ("head_dim 80", [1, 33, 50, 2, 80], false),
                ("head_dim 160", [1, 20, 101, 1, 160], false),
                ("head_dim 512", [1, 65, 65, 1, 512], false),
                ("odd head_dim", [1, 35, 37, 3, 7], false),
                ("head_dim 1", [1, 5, 6, 2, 1], false),
                ("many keys", [1, 10, 700, 1, 64], false),
                ("causal over blocks", [1, 300, 300, 1, 32], true),
            ];
            let mut cases: Vec<Case> = shapes
                .into_iter()
                .map(|(name, [b, s, k, h, d], causal)| {
                    Case::new(name, separate(h, causal), vec![normal(t, [b, s, h * d]), normal(t, [b, k, h * d]), normal(t, [b, k, h * d])])
                })
                .collect();
            let packed = |packing| Attention { heads: 2, causal: false, packing };
            cases.push(Case::new("packed kv", packed(Heads::PackedKv), vec![normal(t, [2, 50, 48]), normal(t, [2, 77, 96])]));
            cases.push(Case::new("packed qkv", packed(Heads::PackedQkv), vec![normal(t, [2, 50, 144])]));
            let causal = Attention { heads: 3, causal: true, packing: Heads::PackedQkv };
            cases.push(Case::new("packed qkv causal", causal, vec![normal(t, [1, 61, 3 * 3 * 10])]));
            // scores of several hundred: the softmax must not overflow
            let large = filled(t, [1, 64, 128], Fill::Normal(8.0));
            cases.push(Case::new("large scores", separate(2, false), vec![large, large, normal(t, [1, 64, 128])]));
            let keys = filled(t, [1, 300, 128], Fill::Normal(4.0));
            cases.push(Case::new("large scores over blocks", separate(2, false), vec![large, keys, normal(t, [1, 300, 128])]));
            cases
        })
    }
}

impl Attention {
    fn run<T: Element>(&self, io: &mut HostIo<'_>) -> Result<()> {
        let channels = io.out_ty(0).shape.last_axis();
        let spans = self.spans(|i| io.opt(i).map_or(0, |t| t.ty.shape[1]), channels);
        let rows = |s: Span| -> Result<Rows<'_, T>> {
            Ok(Rows { data: io.input(s.input)?.values::<T>()?, stride: s.stride, column: s.column, count: s.rows })
        };
        let call = attention::Attention {
            q: rows(spans[0])?,
            k: rows(spans[1])?,
            v: rows(spans[2])?,
            images: io.out_ty(0).shape[0],
            heads: self.heads,
            head_dim: channels / self.heads,
            causal: self.causal,
        };
        attention::attention(io.cpu, &call, io.outs[0].values::<T>()?);
        Ok(())
    }
}

kernel_params! {
    /// Of all entries of `attention`. `scale` is 1 / (√head_dim · ln 2), for powers of two.
    struct AttentionParams {
        q: ptr, k: ptr, v: ptr, y: ptr, log_sum: ptr,
        queries: u32, keys: u32, heads: u32, head_dim: u32, q_pitch: u32, kv_pitch: u32, scale: f32,
    }
}
static FILE: KernelFile = kernel_file!("attention", [AttentionParams]);

/// An entry of the kernel with its specialisation.
struct Variant {
    entry: &'static str,
    defines: Vec<(&'static str, usize)>,
    /// Queries and threads of a block, and its bytes of shared memory.
    queries: usize,
    threads: usize,
    shared: usize,
}

impl Variant {
    /// `rows`: queries of all heads and images, which decide how many a block gets; results do not depend on that.
    fn of(dtype: DType, head_dim: usize, keys: usize, rows: usize, arch: Arch) -> Result<Self> {
        match head_dim {
            513.. => Err(super::op_error::<Attention>(format!("has no CUDA lowering for heads of {head_dim} values, only up to 512"))),
            _ if dtype == DType::F32 => Ok(Self::plain(head_dim)),
            257.. => Ok(Self::wide(head_dim, arch)),
            _ => Ok(Self::tensor(head_dim, keys, rows)),
        }
    }

    fn plain(head_dim: usize) -> Self {
        let (head, keys, queries) = (head_dim.next_multiple_of(4), 32, 16);
        let shared = ((queries + keys) * (head + 4) + queries * keys) * 4;
        Self { entry: "attention_plain", defines: vec![("PLAIN", 1), ("HEAD", head), ("KEYS", keys)], queries, threads: 128, shared }
    }

    fn wide(head_dim: usize, arch: Arch) -> Self {
        // eight warps need more shared memory than the consumer chips have
        let warps = if matches!(arch.0, 80 | 90 | 100) { 8 } else { 4 };
        let (head, keys, queries) = (head_dim.next_multiple_of(16 * warps), 32, 8 * warps);
        let shared = row_bytes(head) * (queries + keys) + row_bytes(keys) * queries + queries * (keys + 8) * 4 + queries * 4;
        let defines = vec![("HEAD", head), ("KEYS", keys), ("WARPS", warps)];
        Self { entry: "attention_wide", defines, queries, threads: 32 * warps, shared }
    }

    fn tensor(head_dim: usize, keys: usize, rows: usize) -> Self {
        /// Queries that give every multiprocessor two blocks of the larger kind.
        const MANY: usize = 2 * 108 * 128;
        let head = head_dim.next_multiple_of(16);
        let pieces = if head <= 64 && rows >= MANY { 2 } else { 1 };
        let (step, stages) = match head {
            // the 77 tokens of a prompt in one step
            0..=64 if (65..=80).contains(&keys) => (80, 2),
            0..=128 => (64, 2),
            129..=160 => (64, 1),
            _ => (32, 1),
        };
        let queries = 64 * pieces;
        let shared = row_bytes(head) * (queries + 2 * stages * step);
        let defines = vec![("HEAD", head), ("KEYS", step), ("PIECES", pieces), ("STAGES", stages)];
        Self { entry: "attention_tensor", defines, queries, threads: 128, shared }
    }
}

/// Bytes of a row of 16-bit values in shared memory (`Tile` of `tile.cuh`).
pub(super) fn row_bytes(values: usize) -> usize {
    match values / 8 {
        chunks if chunks % 8 == 0 || chunks == 4 || chunks == 2 => 16 * chunks,
        chunks => 16 * (chunks | 1),
    }
}

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, bf16, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |heads, causal, packing| AnyOp::from(Attention { heads, causal, packing });
        let plain = op(2, false, Heads::Separate);
        assert_rejects(vec![
            (plain.clone(), vec![], "input 0 (q) is missing"),
            (plain.clone(), vec![i32([1, 4, 8]); 3], "expected floating point"),
            (plain.clone(), vec![f32([4, 8]); 3], "expected [B,S,C]"),
            (op(3, false, Heads::Separate), vec![f32([1, 4, 8]); 3], "do not split into 3 heads"),
            (op(0, false, Heads::Separate), vec![f32([1, 4, 8]); 3], "do not split into 0 heads"),
            (plain.clone(), vec![f32([1, 4, 8]), bf16([1, 4, 8]), bf16([1, 4, 8])], "expected f32[1,T,8]"),
            (plain.clone(), vec![f32([1, 4, 8]), f32([2, 4, 8]), f32([2, 4, 8])], "expected f32[1,T,8]"),
            (plain.clone(), vec![f32([1, 4, 8]), f32([1, 5, 8]), f32([1, 6, 8])], "but v is"),
            (plain.clone(), vec![f32([1, 4, 8]), f32([1, 0, 8]), f32([1, 0, 8])], "has no elements"),
            (plain, vec![f32([1, 4, 8]); 4], "at most 3 inputs"),
            (op(2, false, Heads::PackedKv), vec![f32([1, 4, 8]), f32([1, 4, 8])], "expected f32[1,T,16]"),
            (op(2, false, Heads::PackedQkv), vec![f32([1, 4, 8])], "not a multiple of 3"),
            (op(2, true, Heads::Separate), vec![f32([1, 4, 8]), f32([1, 5, 8]), f32([1, 5, 8])], "4 queries over 5 keys"),
        ]);
    }
}
