//! One row of a table, chosen on the device: what varies from step to step.

use super::host::by_reference;
use super::lowering::{count, flat};
use super::{TableRowGrad, Case, Cost, HostArray, HostIo, Ins, Op, Fill, filled, normal};
use crate::device::{Arch, KernelFile, KernelKey, Lowered, Slot, kernel_file, kernel_params};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Shape, Ty};

/// `y[b] = table[index]` for each of `batch` rows.
///
/// Inputs: `table [N]` or `[N,M]` f32, `index [1]` i32 inside the table (an index outside gives NaN).
/// Output: `[batch]` or `[batch,M]` f32.
#[derive(Clone, Debug, PartialEq)]
pub struct TableRow {
    /// Rows of the output, all equal.
    pub batch: usize,
}

impl Op for TableRow {
    const NAME: &'static str = "table_row";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let table = ins.get(0, "table")?;
        ins.get(1, "index")?;
        ins.dtype(0, "table", DType::F32)?;
        ins.dtype(1, "index", DType::I32)?;
        ins.shape(1, "index", [1])?;
        ins.ensure(matches!(table.shape.len(), 1 | 2) && table.shape[0] > 0, || format!("table is {table}, expected [N] or [N,M]"))?;
        ins.ensure(self.batch > 0, || "the batch is empty".into())?;
        ins.at_most(2)?;
        let mut extents = table.shape.to_vec();
        extents[0] = self.batch;
        Ok(vec![Ty { dtype: DType::F32, shape: Shape::new(&extents) }])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(table), Some(index)] = ins else { return Err(super::op_error::<Self>("table and index are required")) };
        let (n, m) = (table.shape()[0], table.data.len() / table.shape()[0]);
        let i = index.data[0];
        let row = if i >= 0.0 && (i as usize) < n { table.data[i as usize * m..][..m].to_vec() } else { vec![f64::NAN; m] };
        Ok(vec![row.repeat(self.batch)])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io)
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _arch: Arch) -> Result<Lowered> {
        let rows = count(ins[0].map_or(0, |table| table.shape[0]))?;
        let (values, batch) = (outs[0].shape.elements(), count(self.batch)?);
        let (table, index, y) = (Slot::In(0), Slot::In(1), Slot::Out(0));
        let params = TableRowParams { table, index, y, rows, width: count(values)? / batch, batch };
        flat(KernelKey::new(&FILE, "table_row_forward"), values, 1, params.pack())
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let rows = g.shape(cx.input(0)?)[0];
        Ok(vec![cx.when(0, || g.op(TableRowGrad { rows }, &[Some(cx.gradient()?), Some(cx.input(1)?)]))?, None])
    }

    fn cost(&self, _ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost { flops: 0, bytes: 2 * outs[0].bytes() as u64 }
    }

    fn cases() -> Vec<Case> {
        let table = |shape: &[usize]| normal(DType::F32, Shape::new(shape));
        let index = |low, high| filled(DType::I32, [1], Fill::Uniform(low, high));
        vec![
            Case::new("timesteps", TableRow { batch: 3 }, vec![table(&[30]), index(0.0, 30.0)]),
            Case::new("coefficients", TableRow { batch: 1 }, vec![table(&[30, 4]), index(0.0, 30.0)]),
            Case::new("past the end", TableRow { batch: 2 }, vec![table(&[5, 3]), index(5.0, 9.0)]),
            Case::new("below zero", TableRow { batch: 2 }, vec![table(&[5, 3]), index(-9.0, -1.0)]),
        ]
    }
}

kernel_params! {
    /// Of `table_row_forward`.
    struct TableRowParams { table: ptr, index: ptr, y: ptr, rows: u32, width: u32, batch: u32 }
}
static FILE: KernelFile = kernel_file!("table_row", [TableRowParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, bf16, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |batch| AnyOp::from(TableRow { batch });
        assert_rejects(vec![
            (op(1), vec![], "input 0 (table) is missing"),
            (op(1), vec![f32([5])], "(index) is missing"),
            (op(1), vec![bf16([5]), i32([1])], "table is bf16[5], expected f32"),
            (op(1), vec![f32([5]), f32([1])], "index is f32[1], expected i32"),
            (op(1), vec![f32([5]), i32([2])], "expected shape [1]"),
            (op(1), vec![f32([5, 2, 2]), i32([1])], "expected [N] or [N,M]"),
            (op(0), vec![f32([5]), i32([1])], "the batch is empty"),
            (op(1), vec![f32([5]), i32([1]), i32([1])], "at most 2 inputs"),
        ]);
    }
}
