//! Gradients of the token embedding: of the pseudo-words, of the token table, of the positions.

use super::host::{View, by_each, unsupported};
use super::lowering::{access, count, flat};
use super::{AnyOp, Case, Cost, Embedding, HostArray, HostIo, Ins, Op, no_second_gradient, normal};
use crate::device::cpu::simd::Elem;
use crate::graph::{Builder, GradCx, Grads};
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::{DType, Result, Ty};
use half::bf16;

/// One gradient of [`Embedding`].
///
/// Inputs: `dy [B,T,C]`, `ids [B,T]` i32, `slots [B,k]` i32 (required for pseudo-words, otherwise as in the forward operation). Output: f32.
#[derive(Clone, Debug, PartialEq)]
pub enum EmbeddingGrad {
    /// `[B,k,C]`: what stands at each slot; 0 for an unused slot, and for one whose place a later slot took.
    Words,
    /// `[rows,C]`: sums over the places of each token that no slot took.
    Table {
        /// Rows of the table.
        rows: usize,
    },
    /// `[rows,C]`: sums over the batch.
    Positions {
        /// Rows of the table of positions.
        rows: usize,
    },
}

impl EmbeddingGrad {
    /// Appends the gradients of an embedding: ids, table, positions, slots, pseudo-words.
    pub(crate) fn append(g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let inputs = [Some(cx.gradient()?), Some(cx.input(0)?), cx.opt(3)];
        let rows = [1, 2].map(|i| cx.opt(i).map_or(0, |v| g.shape(v)[0]));
        Ok(vec![
            None,
            cx.when(1, || g.op(Self::Table { rows: rows[0] }, &inputs))?,
            cx.when(2, || g.op(Self::Positions { rows: rows[1] }, &inputs))?,
            None,
            cx.when(4, || g.op(Self::Words, &inputs))?,
        ])
    }
}

/// The slot that takes place `token` of an image: the last of those that name it.
fn slot_at(slots: impl Fn(usize) -> f64, count: usize, token: usize) -> Option<usize> {
    (0..count).rev().find(|&s| slots(s) == token as f64)
}

impl Op for EmbeddingGrad {
    const NAME: &'static str = "embedding_grad";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let (dy, ids) = (ins.float(0, "dy")?, ins.get(1, "ids")?);
        let &[b, t, c] = &*dy.shape else { return Err(ins.error(format!("dy is {dy}, expected [B,T,C]"))) };
        ins.ensure(*ids.shape == [b, t], || format!("ids is {ids}, expected [{b},{t}]"))?;
        ins.dtype(1, "ids", DType::I32)?;
        ins.dtype(2, "slots", DType::I32)?;
        if let Some(slots) = ins.opt(2) {
            ins.ensure(slots.shape.len() == 2 && slots.shape[0] == b, || format!("slots is {slots}, expected [{b},k]"))?;
        }
        ins.at_most(3)?;
        Ok(vec![match self {
            Self::Words => Ty::new(DType::F32, [b, ins.get(2, "slots")?.shape[1], c]),
            Self::Table { rows } => Ty::new(DType::F32, [*rows, c]),
            Self::Positions { rows } => {
                ins.ensure(*rows >= t, || format!("{rows} positions for {t} tokens"))?;
                Ty::new(DType::F32, [*rows, c])
            }
        }])
    }

    fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(dy), Some(ids), rest @ ..] = ins else { return Err(super::op_error::<Self>("dy and ids are required")) };
        let &[batch, tokens, c] = &*dy.shape() else { return Err(super::op_error::<Self>("dy is not [B,T,C]")) };
        let slots = rest.first().and_then(Option::as_ref);
        let k = slots.map_or(0, |s| s.shape()[1]);
        let mut grad = vec![0.0; outs[0].shape.elements()];
        for (b, t) in (0..batch).flat_map(|b| (0..tokens).map(move |t| (b, t))) {
            let slot = slots.and_then(|s| slot_at(|i| s.data[b * k + i], k, t));
            let id = ids.data[b * tokens + t];
            let row = match (self, slot) {
                (Self::Words, slot) => slot.map(|s| b * k + s),
                (Self::Table { rows }, None) if id >= 0.0 && (id as usize) < *rows => Some(id as usize),
                (Self::Table { .. }, _) => None,
                (Self::Positions { .. }, _) => Some(t),
            };
            if let Some(row) = row {
                grad[row * c..(row + 1) * c].iter_mut().zip(&dy.data[(b * tokens + t) * c..][..c]).for_each(|(g, d)| *g += d);
            }
        }
        Ok(vec![grad])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        let dy = io.input(0)?.ty;
        let (batch, tokens, c) = (dy.shape[0], dy.shape[1], dy.shape[2]);
        match self {
            Self::Words => {
                let k = io.out_ty(0).shape[1];
                by_each(io, |ins, i| {
                    let (row, b) = (i / c, i / c / k);
                    let taken = |t: usize| slot_at(|s| f64::from(ins[2].at(b * k + s)), k, t) == Some(row % k);
                    let token = ins[2].at(row);
                    let inside = token >= 0.0 && (token as usize) < tokens && taken(token as usize);
                    if inside { ins[0].at((b * tokens + token as usize) * c + i % c) } else { 0.0 }
                })
            }
            Self::Positions { .. } => by_each(io, |ins, i| {
                let sum = |ins: &[View<'_>]| (0..batch).map(|b| ins[0].at((b * tokens) * c + i)).sum();
                if i / c < tokens { sum(ins) } else { 0.0 }
            }),
            Self::Table { .. } => match dy.dtype {
                DType::F32 => table::<f32>(io),
                DType::Bf16 => table::<bf16>(io),
                other => Err(unsupported(other)),
            },
        }
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        no_second_gradient(cx)
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let Some(Some(dy)) = ins.first() else { return Err(super::op_error::<Self>("dy is required")) };
        let (values, channels) = (outs[0].shape.elements(), dy.shape[2]);
        let width = access(&[dy.dtype, DType::F32], channels);
        let entry = match self {
            Self::Words => "embedding_grad_words",
            Self::Table { .. } => "embedding_grad_table",
            Self::Positions { .. } => "embedding_grad_positions",
        };
        let params = EmbeddingGradParams {
            dy: Slot::In(0),
            ids: Slot::In(1),
            slots: Slot::optional(ins, 2),
            grad: Slot::Out(0),
            images: count(dy.shape[0])?,
            tokens: count(dy.shape[1])?,
            channels: count(channels)?,
            rows: count(values / channels)?,
            slot_count: ins.get(2).copied().flatten().map_or(0, |slots| slots.shape[1] as u32),
        };
        flat(KernelKey::new(&FILE, entry).define("T", kernel_type(dy.dtype)).define("V", width), values, width, params.pack())
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        let elements = ins.first().copied().flatten().map_or(0, |x| x.shape.elements());
        Cost::touching(elements as u64, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let parts = |case: Case| {
            let (AnyOp::Embedding(Embedding), Some(ids), Some(table), Some(positions)) =
                (case.op, case.inputs[0], case.inputs[1], case.inputs[2])
            else {
                return vec![];
            };
            let slots = case.inputs.get(3).copied().flatten();
            let dy = normal(table.ty.dtype, [ids.ty.shape[0], ids.ty.shape[1], table.ty.shape[1]]);
            let inputs = vec![dy, Some(ids), slots];
            let one = |part: &str, op: Self| Case::new(format!("{}, {part}", case.name), op, inputs.clone());
            let mut cases = vec![
                one("table", Self::Table { rows: table.ty.shape[0] }),
                one("positions", Self::Positions { rows: positions.ty.shape[0] }),
            ];
            cases.extend(slots.map(|_| one("words", Self::Words)));
            cases
        };
        Embedding::cases().into_iter().flat_map(parts).collect()
    }
}

/// [`EmbeddingGrad::Table`], one token after the other: a few hundred rows of a table of many thousands.
fn table<T: Elem>(io: &mut HostIo<'_>) -> Result<()> {
    let (dy, ids) = (io.input(0)?, io.input(1)?.i32()?);
    let (tokens, c) = (dy.ty.shape[1], dy.ty.shape[2]);
    let slots = io.opt(2).map(|s| s.i32()).transpose()?.unwrap_or(&[]);
    let k = slots.len() / dy.ty.shape[0];
    let grad = io.outs[0].f32()?;
    grad.fill(0.0);
    for (i, row) in dy.values::<T>()?.chunks_exact(c).enumerate() {
        let (image, token) = (i / tokens, i % tokens);
        let free = slot_at(|s| f64::from(slots[image * k + s]), k, token).is_none();
        let id = usize::try_from(ids[i]).ok().filter(|id| free && (id + 1) * c <= grad.len());
        if let Some(id) = id {
            grad[id * c..(id + 1) * c].iter_mut().zip(row).for_each(|(g, d)| *g += d.widen());
        }
    }
    Ok(())
}

kernel_params! {
    /// Of the entries of `embedding_grad`; `rows` are those of the result.
    struct EmbeddingGradParams {
        dy: ptr, ids: ptr, slots: ptr, grad: ptr, images: u32, tokens: u32, channels: u32, rows: u32, slot_count: u32,
    }
}
static FILE: KernelFile = kernel_file!("embedding_grad", [EmbeddingGradParams]);

#[cfg(test)]
mod tests {
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let (words, table) = (AnyOp::from(EmbeddingGrad::Words), AnyOp::from(EmbeddingGrad::Table { rows: 50 }));
        let (dy, ids, slots) = (f32([2, 5, 8]), i32([2, 5]), i32([2, 3]));
        assert_rejects(vec![
            (words.clone(), vec![], "input 0 (dy) is missing"),
            (words.clone(), vec![f32([5, 8]), ids, slots], "expected [B,T,C]"),
            (words.clone(), vec![dy, i32([2, 4]), slots], "expected [2,5]"),
            (words.clone(), vec![dy, f32([2, 5]), slots], "expected i32"),
            (words.clone(), vec![dy, ids], "input 2 (slots) is missing"),
            (words.clone(), vec![dy, ids, i32([1, 3])], "expected [2,k]"),
            (words, vec![dy, ids, slots, slots], "at most 3 inputs"),
            (table, vec![dy, ids, f32([2, 3])], "slots is f32[2,3], expected i32"),
            (EmbeddingGrad::Positions { rows: 4 }.into(), vec![dy, ids], "4 positions for 5 tokens"),
        ]);
    }
}
