//! Sum over the middle axis: gradients of what is added to many rows.

use super::lowering::{Spans, count, typed};
use super::{Case, Cost, HostArray, HostIo, Ins, MeanRowsGrad, Op, each_dtype, normal, unsupported};
use crate::device::cpu::pool::sum_rows;
use crate::device::cpu::simd::Elem;
use crate::graph::{Builder, GradCx, Grads, Value};
use crate::ops::Reshape;
use crate::device::{KernelFile, KernelKey, Launch, Lowered, Slot, Target, kernel_file, kernel_params};
use crate::{DType, Result, Shape, Ty};
use half::bf16;

/// `y[b,c] = Σ over s of x[b,s,c]`. Input `[B,S,C]`, output `[B,C]` of `dtype`.
#[derive(Clone, Debug, PartialEq)]
pub struct SumRows {
    /// Type of the output.
    pub dtype: DType,
}

impl SumRows {
    /// Appends the sums of `x` over the rows of each of `parts` equal parts. `shape` is that of the result: that of a row, repeated for
    /// each part.
    pub(crate) fn over(g: &mut Builder<'_>, x: Value, parts: usize, shape: &[usize], dtype: DType) -> Result<Value> {
        let shape = Shape::new(shape);
        let width = shape.elements() / parts.max(1);
        let rows = g.shape(x).elements() / shape.elements().max(1);
        let rows = g.op(Reshape { shape: [parts, rows, width].into() }, &[Some(x)])?;
        let sum = g.op(Self { dtype }, &[Some(rows)])?;
        g.op(Reshape { shape }, &[Some(sum)])
    }
}

impl Op for SumRows {
    const NAME: &'static str = "sum_rows";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let x = ins.float(0, "x")?;
        let &[b, _, c] = &*x.shape else { return Err(ins.error(format!("x is {x}, expected [B,S,C]"))) };
        ins.ensure(self.dtype.is_float(), || format!("cannot store a sum as {}", self.dtype))?;
        ins.at_most(1)?;
        Ok(vec![Ty::new(self.dtype, [b, c])])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(x)] = ins else { return Err(super::op_error::<Self>("x is required")) };
        let (s, c) = (x.shape()[1], x.shape()[2]);
        let sum = |image: &[f64]| (0..c).map(|j| (0..s).map(|i| image[i * c + j]).sum::<f64>()).collect::<Vec<_>>();
        Ok(vec![x.data.chunks_exact(s * c).flat_map(sum).collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        match (io.input(0)?.ty.dtype, self.dtype) {
            (DType::F32, DType::F32) => run::<f32, f32>(io),
            (DType::F32, DType::Bf16) => run::<f32, bf16>(io),
            (DType::Bf16, DType::F32) => run::<bf16, f32>(io),
            (DType::Bf16, DType::Bf16) => run::<bf16, bf16>(io),
            (DType::F32 | DType::Bf16, other) | (other, _) => Err(unsupported(other)),
        }
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        // every row has its share of a mean's gradient; of a sum's gradient it has the whole
        let x = g.ty(cx.input(0)?);
        let dy = cx.gradient()?;
        Ok(vec![cx.when(0, || g.op(MeanRowsGrad { rows: x.shape[1], scale: 1.0, dtype: x.dtype }, &[Some(dy)]))?])
    }

    fn lower(&self, ins: &[Option<Ty>], _outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let Some(Some(x)) = ins.first() else { return Err(super::op_error::<Self>("x is required")) };
        let (images, rows, channels) = (count(x.shape[0])?, count(x.shape[1])?, count(x.shape[2])?);
        let spans = Spans::new(&[x.dtype, DType::F32], rows as usize, channels as usize, images as usize);
        let params = SumRowsParams {
            x: Slot::In(0),
            partial: Slot::Scratch(0),
            y: Slot::Out(0),
            images,
            rows,
            channels,
            span: spans.span as u32,
            spans: spans.count as u32,
        };
        let kernel = |entry| typed(KernelKey::new(&FILE, entry), x.dtype, self.dtype).define("V", spans.vector);
        let parts = spans.launch(kernel("sum_rows_spans"), params.pack());
        let blocks = (images * channels).div_ceil(256);
        let total = Launch { kernel: kernel("sum_rows_total"), grid: [blocks, 1, 1], block: [256, 1, 1], shared: 0, params: params.pack() };
        Ok(Lowered::new(vec![parts, total], spans.scratch(1)))
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        let flops = ins.first().copied().flatten().map_or(0, |x| x.shape.elements()) as u64;
        Cost::touching(flops, ins, outs)
    }

    fn cases() -> Vec<Case> {
        each_dtype(|t| {
            let case = |name: &str, dtype, shape: [usize; 3]| Case::new(name, SumRows { dtype }, vec![normal(t, shape)]);
            vec![
                case("biases", DType::F32, [1, 197, 130]),
                case("as bf16", DType::Bf16, [2, 30, 40]),
                case("odd", DType::F32, [3, 5, 7]),
                case("one row", DType::F32, [2, 1, 33]),
                case("long", DType::F32, [1, 4096, 65]),
            ]
        })
    }
}

fn run<T: Elem, Y: Elem>(io: &mut HostIo<'_>) -> Result<()> {
    let x = io.input(0)?;
    sum_rows(io.cpu, x.ty.shape[0], x.ty.shape[2], x.values::<T>()?, io.outs[0].values::<Y>()?);
    Ok(())
}

kernel_params! {
    /// Of both entries of `sum_rows`.
    struct SumRowsParams { x: ptr, partial: ptr, y: ptr, images: u32, rows: u32, channels: u32, span: u32, spans: u32 }
}
static FILE: KernelFile = kernel_file!("sum_rows", [SumRowsParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |dtype| AnyOp::from(SumRows { dtype });
        assert_rejects(vec![
            (op(DType::F32), vec![], "input 0 (x) is missing"),
            (op(DType::F32), vec![f32([4, 8])], "expected [B,S,C]"),
            (op(DType::F32), vec![i32([1, 4, 8])], "expected floating point"),
            (op(DType::I32), vec![f32([1, 4, 8])], "cannot store a sum as i32"),
            (op(DType::F32), vec![f32([1, 4, 8]); 2], "at most 1 inputs"),
        ]);
    }
}
