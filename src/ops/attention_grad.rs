//! Gradient of attention.

use super::attention::Span;
use super::{AnyOp, Attention, Case, Cost, HostArray, HostIo, HostOut, Ins, Op, no_second_gradient, normal, unsupported};
use crate::device::cpu::attention::Rows;
use crate::device::cpu::attention_grad::{self, Target};
use crate::device::cpu::simd::Elem;
use crate::device::cpu::split::SharedMut;
use crate::device::{self, Lowered};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Ty};
use half::bf16;

/// Gradients of [`Attention`] in all its inputs; the weights are computed again.
///
/// Inputs: those of the forward operation, then its output `y [B,S,C]` and `dy` of the same type. Outputs: one for each input of the
/// forward operation, of its type, packed as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionGrad {
    /// Attributes of the forward operation.
    pub forward: Attention,
}

impl AttentionGrad {
    /// Appends the gradients of an attention, by its inputs.
    pub(crate) fn append(forward: &Attention, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let mut inputs: Vec<_> = (0..forward.packing.inputs()).map(|i| cx.input(i).map(Some)).collect::<Result<_>>()?;
        inputs.extend([Some(cx.output()?), Some(cx.gradient()?)]);
        let all = g.op_many(Self { forward: forward.clone() }, &inputs)?;
        Ok(all.into_iter().map(Some).collect())
    }
}

impl Op for AttentionGrad {
    const NAME: &'static str = "attention_grad";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let count = self.forward.packing.inputs();
        let forward: Vec<Option<Ty>> = (0..count).map(|i| ins.opt(i)).collect();
        let y = self.forward.infer(Ins::new(Self::NAME, &forward))?[0];
        for (i, name) in [(count, "y"), (count + 1, "dy")] {
            let ty = ins.float(i, name)?;
            ins.ensure(ty == y, || format!("{name} is {ty}, expected {y}"))?;
        }
        ins.at_most(count + 2)?;
        Ok(forward.into_iter().flatten().collect())
    }

    fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let count = self.forward.packing.inputs();
        let array = |i: usize| ins.get(i).and_then(Option::as_ref).ok_or_else(|| super::op_error::<Self>("an input is missing"));
        let (y, dy) = (array(count)?, array(count + 1)?);
        let &[batch, queries, channels] = &*y.shape() else { return Err(super::op_error::<Self>("y is not [B,S,C]")) };
        let spans = self.forward.spans(|i| array(i).map_or(0, |a| a.shape()[1]), channels);
        let d = channels / self.forward.heads;
        let mut grads: Vec<Vec<f64>> = outs.iter().map(|ty| vec![0.0; ty.shape.elements()]).collect();
        let start = |s: Span, b: usize, r: usize, h: usize| (b * s.rows + r) * s.stride + s.column + h * d;
        let row = |s: Span, at: usize| array(s.input).map_or(&[][..], |a| &a.data[at..at + d]);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let add = |to: &mut [f64], factor: f64, from: &[f64]| to.iter_mut().zip(from).for_each(|(t, f)| *t += factor * f);
        let scale = 1.0 / (d as f64).sqrt();
        let heads = self.forward.heads;
        for (b, h, i) in (0..batch).flat_map(|b| (0..heads).flat_map(move |h| (0..queries).map(move |i| (b, h, i)))) {
            let (qi, at) = (start(spans[0], b, i, h), (b * queries + i) * channels + h * d);
            let (q, dyi) = (row(spans[0], qi), &dy.data[at..at + d]);
            let keys = if self.forward.causal { i + 1 } else { spans[1].rows };
            let scores: Vec<f64> = (0..keys).map(|j| dot(q, row(spans[1], start(spans[1], b, j, h))) * scale).collect();
            let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
            let delta = dot(&y.data[at..at + d], dyi);
            for (j, score) in scores.iter().enumerate() {
                let (kj, vj) = (start(spans[1], b, j, h), start(spans[2], b, j, h));
                let p = (score - top).exp() / total;
                let ds = p * (dot(dyi, row(spans[2], vj)) - delta) * scale;
                add(&mut grads[spans[0].input][qi..qi + d], ds, row(spans[1], kj));
                add(&mut grads[spans[1].input][kj..kj + d], ds, q);
                add(&mut grads[spans[2].input][vj..vj + d], p, dyi);
            }
        }
        Ok(grads)
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        match io.out_ty(0).dtype {
            DType::F32 => self.run::<f32>(io),
            DType::Bf16 => self.run::<bf16>(io),
            other => Err(unsupported(other)),
        }
    }

    fn lower(&self, ins: &[Option<Ty>], _outs: &[Ty], _target: &device::Target) -> Result<Lowered> {
        super::product_grads::attention(&self.forward, ins)
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        no_second_gradient(cx)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        let ty = |i: usize| ins.get(i).copied().flatten();
        let Some(y) = ty(self.forward.packing.inputs()) else { return Cost::default() };
        let keys = self.forward.spans(|i| ty(i).map_or(0, |t| t.shape[1]), y.shape.last_axis())[1].rows;
        // five products of the size of one: scores again, dP, dQ, dK, dV
        Cost::touching(10 * (y.shape.elements() * keys) as u64, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let gradient = |case: Case| {
            let AnyOp::Attention(forward) = case.op else { return None };
            let types: Vec<Option<Ty>> = case.inputs.iter().map(|i| i.map(|i| i.ty)).collect();
            let y = *forward.infer(Ins::new(Self::NAME, &types)).ok()?.first()?;
            let inputs = [case.inputs, vec![normal(y.dtype, y.shape); 2]].concat();
            Some(Case::new(case.name, Self { forward }, inputs))
        };
        Attention::cases().into_iter().filter_map(gradient).collect()
    }
}

impl AttentionGrad {
    fn run<T: Elem>(&self, io: &mut HostIo<'_>) -> Result<()> {
        let count = self.forward.packing.inputs();
        let y = io.input(count)?;
        let channels = y.ty.shape.last_axis();
        let spans = self.forward.spans(|i| io.opt(i).map_or(0, |t| t.ty.shape[1]), channels);
        let rows = |s: Span| -> Result<Rows<'_, T>> {
            Ok(Rows { data: io.input(s.input)?.values::<T>()?, stride: s.stride, column: s.column, count: s.rows })
        };
        let like_y = |input: usize| rows(Span { input, stride: channels, column: 0, rows: y.ty.shape[1] });
        let call = attention_grad::AttentionGrad {
            q: rows(spans[0])?,
            k: rows(spans[1])?,
            v: rows(spans[2])?,
            y: like_y(count)?,
            dy: like_y(count + 1)?,
            images: y.ty.shape[0],
            heads: self.forward.heads,
            head_dim: channels / self.forward.heads,
            causal: self.forward.causal,
        };
        let outs: Vec<SharedMut<T>> =
            io.outs.iter_mut().map(|out: &mut HostOut<'_>| out.values::<T>().map(SharedMut::new)).collect::<Result<_>>()?;
        let [dq, dk, dv] = spans.map(|s| Target { data: &outs[s.input], stride: s.stride, column: s.column, count: s.rows });
        attention_grad::attention_grad(io.cpu, &call, [&dq, &dk, &dv]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Heads;
    use super::super::rejects::{assert_rejects, bf16, f32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |heads, packing| AnyOp::from(AttentionGrad { forward: Attention { heads, causal: false, packing } });
        let (q, kv) = (f32([1, 4, 8]), f32([1, 5, 16]));
        let packed = op(2, Heads::PackedKv);
        assert_rejects(vec![
            (packed.clone(), vec![], "input 0 (q) is missing"),
            (packed.clone(), vec![q, f32([1, 5, 8]), q, q], "expected f32[1,T,16]"),
            (op(3, Heads::PackedKv), vec![q, kv, q, q], "do not split into 3 heads"),
            (packed.clone(), vec![q, kv], "input 2 (y) is missing"),
            (packed.clone(), vec![q, kv, q], "input 3 (dy) is missing"),
            (packed.clone(), vec![q, kv, q, bf16([1, 4, 8])], "dy is bf16[1,4,8], expected f32[1,4,8]"),
            (packed, vec![q, kv, q, q, q], "at most 4 inputs"),
            (op(2, Heads::PackedQkv), vec![f32([1, 4, 24]), f32([1, 4, 24]), q], "y is f32[1,4,24], expected f32[1,4,8]"),
        ]);
    }
}
