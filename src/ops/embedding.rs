//! Token embedding with pseudo-word slots.

use super::lowering::{count, flat, access};
use super::{EmbeddingGrad, Activation, Case, Cost, HostArray, HostIo, Ins, Op, Fill, each_dtype, filled, normal, unsupported};
use crate::device::cpu::elementwise::add;
use crate::device::cpu::simd::Elem;
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Ty};
use half::bf16;

/// Row `ids[b,t]` of the table, replaced by `embeds[b,i]` where `t = slots[b,i]`, plus row `t` of the position table.
///
/// This is where an identity enters: pseudo-words take their slots before positions are added, and no weight changes.
/// Inputs: `ids [B,T]` i32, `table [V,C]`, `positions [P,C]` (P ≥ T), `slots [B,k]` i32 (optional; −1 leaves a slot unused),
/// `embeds [B,k,C]` f32 (with slots). Output: `[B,T,C]` of the table's type. Ids outside the table give NaN rows: callers check them.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding;

impl Op for Embedding {
    const NAME: &'static str = "embedding";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let (ids, table, positions) = (ins.get(0, "ids")?, ins.float(1, "table")?, ins.float(2, "positions")?);
        ins.dtype(0, "ids", DType::I32)?;
        ins.ensure(ids.shape.len() == 2, || format!("ids is {ids}, expected [B,T]"))?;
        ins.ensure(table.shape.len() == 2, || format!("table is {table}, expected [V,C]"))?;
        let (b, t, c) = (ids.shape[0], ids.shape[1], table.shape[1]);
        let fits = positions.shape.len() == 2 && positions.shape[0] >= t && positions.shape[1] == c && positions.dtype == table.dtype;
        ins.ensure(fits, || format!("positions is {positions}, expected at least {}[{t},{c}]", table.dtype))?;
        ins.ensure(ins.opt(3).is_some() == ins.opt(4).is_some(), || "slots and embeds go together".into())?;
        if let Some(slots) = ins.opt(3) {
            ins.ensure(slots.shape.len() == 2 && slots.shape[0] == b, || format!("slots is {slots}, expected [{b},k]"))?;
            ins.dtype(3, "slots", DType::I32)?;
            ins.shape(4, "embeds", [b, slots.shape[1], c])?;
            ins.dtype(4, "embeds", DType::F32)?;
        }
        ins.at_most(5)?;
        Ok(vec![Ty::new(table.dtype, [b, t, c])])
    }

    fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(ids), Some(table), Some(positions), rest @ ..] = ins else {
            return Err(super::op_error::<Self>("ids, table and positions are required"));
        };
        let &[batch, t, c] = &*outs[0].shape else { return Err(super::op_error::<Self>("output is not [B,T,C]")) };
        let vocabulary = table.shape()[0];
        let mut y = Vec::with_capacity(batch * t * c);
        for (b, i) in (0..batch).flat_map(|b| (0..t).map(move |i| (b, i))) {
            let slot = match rest {
                [Some(slots), Some(embeds), ..] => {
                    let k = slots.shape()[1];
                    (0..k).rev().find(|s| slots.data[b * k + s] == i as f64).map(|s| &embeds.data[(b * k + s) * c..][..c])
                }
                _ => None,
            };
            let id = ids.data[b * t + i];
            let known = id >= 0.0 && (id as usize) < vocabulary;
            let word = slot.or_else(|| known.then(|| &table.data[id as usize * c..][..c]));
            y.extend((0..c).map(|j| word.map_or(f64::NAN, |w| w[j]) + positions.data[i * c + j]));
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

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (&[images, tokens, channels], Some(table)) = (&*outs[0].shape, ins[1]) else {
            return Err(super::op_error::<Self>("table or output is missing"));
        };
        let width = access(&[table.dtype], channels);
        let kernel = KernelKey::new(&FILE, "embedding_forward").define("T", kernel_type(table.dtype)).define("V", width);
        let params = EmbeddingParams {
            ids: Slot::In(0),
            table: Slot::In(1),
            positions: Slot::In(2),
            slots: Slot::optional(ins, 3),
            embeds: Slot::optional(ins, 4),
            y: Slot::Out(0),
            images: count(images)?,
            tokens: count(tokens)?,
            channels: count(channels)?,
            vocabulary: count(table.shape[0])?,
            slot_count: ins.get(3).copied().flatten().map_or(0, |slots| slots.shape[1] as u32),
        };
        flat(kernel, outs[0].shape.elements(), width, params.pack())
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        EmbeddingGrad::append(g, cx)
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        // only the rows that are read count, not the whole table
        let rows = Cost::touching(0, &ins[..1], outs).bytes + 2 * outs[0].bytes() as u64;
        Cost { flops: outs[0].shape.elements() as u64, bytes: rows }
    }

    fn cases() -> Vec<Case> {
        each_dtype(|t| {
            let ids = |b, n, low, high| filled(DType::I32, [b, n], Fill::Uniform(low, high));
            let tables = [normal(t, [50, 24]), normal(t, [77, 24])];
            let slots = |b, low| filled(DType::I32, [b, 2], Fill::Uniform(low, 9.0));
            let words = |b| normal(DType::F32, [b, 2, 24]);
            vec![
                Case::new("words", Embedding, vec![ids(2, 77, 0.0, 50.0), tables[0], tables[1]]),
                Case::new("shorter than the positions", Embedding, vec![ids(1, 5, 0.0, 50.0), tables[0], tables[1]]),
                Case::new("pseudo-words", Embedding, vec![ids(3, 9, 0.0, 50.0), tables[0], tables[1], slots(3, 0.0), words(3)]),
                Case::new("unused slots", Embedding, vec![ids(6, 9, 0.0, 50.0), tables[0], tables[1], slots(6, -9.0), words(6)]),
                Case::new("ids outside the table", Embedding, vec![ids(2, 20, -20.0, 90.0), tables[0], tables[1]]),
            ]
        })
    }
}

impl Embedding {
    fn run<T: Elem>(&self, io: &mut HostIo<'_>) -> Result<()> {
        let (ids, positions) = (io.input(0)?, io.input(2)?.values::<T>()?);
        let (table, c) = (io.input(1)?.values::<T>()?, io.out_ty(0).shape.last_axis());
        let tokens = ids.ty.shape[1];
        let ids = ids.i32()?;
        let slots = io.opt(3).map(|s| s.i32()).transpose()?.unwrap_or(&[]);
        let embeds = io.opt(4).map(|e| e.f32()).transpose()?.unwrap_or(&[]);
        let k = slots.len() / (ids.len() / tokens);
        let cpu = io.cpu;
        for (i, y) in io.outs[0].values::<T>()?.chunks_exact_mut(c).enumerate() {
            let (image, token) = (i / tokens, i % tokens);
            let position = &positions[token * c..][..c];
            let slot = (image * k..(image + 1) * k).rev().find(|&s| usize::try_from(slots[s]) == Ok(token));
            let word = usize::try_from(ids[i]).ok().and_then(|id| table.get(id * c..(id + 1) * c));
            match (slot, word) {
                (Some(s), _) => add(cpu, Activation::None, &embeds[s * c..][..c], position, y),
                (None, Some(word)) => add(cpu, Activation::None, word, position, y),
                (None, None) => add(cpu, Activation::None, &vec![f32::NAN; c], position, y),
            }
        }
        Ok(())
    }
}

kernel_params! {
    /// Of `embedding_forward`.
    struct EmbeddingParams {
        ids: ptr, table: ptr, positions: ptr, slots: ptr, embeds: ptr, y: ptr,
        images: u32, tokens: u32, channels: u32, vocabulary: u32, slot_count: u32,
    }
}
static FILE: KernelFile = kernel_file!("embedding", [EmbeddingParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, bf16, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = AnyOp::from(Embedding);
        let with = |bad: usize, ty| {
            let mut ins = vec![i32([2, 5]), f32([50, 8]), f32([77, 8]), i32([2, 3]), f32([2, 3, 8])];
            ins[bad] = ty;
            ins
        };
        assert_rejects(vec![
            (op.clone(), with(0, None), "input 0 (ids) is missing"),
            (op.clone(), with(0, f32([2, 5])), "ids is f32[2,5], expected i32"),
            (op.clone(), with(0, i32([5])), "expected [B,T]"),
            (op.clone(), with(1, f32([50])), "expected [V,C]"),
            (op.clone(), with(1, i32([50, 8])), "expected floating point"),
            (op.clone(), with(2, f32([4, 8])), "expected at least f32[5,8]"),
            (op.clone(), with(2, bf16([77, 8])), "expected at least f32[5,8]"),
            (op.clone(), with(3, None), "slots and embeds go together"),
            (op.clone(), with(4, None), "slots and embeds go together"),
            (op.clone(), with(3, i32([1, 3])), "expected [2,k]"),
            (op.clone(), with(3, f32([2, 3])), "slots is f32[2,3], expected i32"),
            (op.clone(), with(4, f32([2, 2, 8])), "expected shape [2,3,8]"),
            (op.clone(), with(4, bf16([2, 3, 8])), "embeds is bf16[2,3,8], expected f32"),
            (op, [with(0, i32([2, 5])), vec![None]].concat(), "at most 5 inputs"),
        ]);
    }
}
