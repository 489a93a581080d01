//! Multi-head scaled dot-product attention that never holds the score matrix.

use super::host::by_reference;
use super::{Case, Cost, HostArray, HostIo, Ins, Op};
use crate::{Result, Ty};

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
        let (inputs, width) = match self.packing {
            Heads::Separate => (3, channels),
            Heads::PackedKv => (2, 2 * channels),
            Heads::PackedQkv => (1, 3 * channels),
        };
        for i in 1..inputs {
            let ty = ins.float(i, "k, v")?;
            let fits = ty.dtype == q.dtype && ty.shape.len() == 3 && ty.shape[0] == q.shape[0] && ty.shape[2] == width;
            ins.ensure(fits, || format!("k, v is {ty}, expected {}[{},T,{width}]", q.dtype, q.shape[0]))?;
            ins.ensure(ty.shape[1] > 0, || "there are no keys".into())?;
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
        by_reference(self, io)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        let channels = outs[0].shape.last_axis();
        let keys = self.spans(|i| ins.get(i).copied().flatten().map_or(0, |t| t.shape[1]), channels)[1].rows;
        // q·kᵀ and p·v; the softmax is not counted, as is the custom of the field
        Cost::touching(4 * (outs[0].shape.elements() * keys) as u64, ins, outs)
    }

    fn cases() -> Vec<Case> {
        vec![]
    }
}
