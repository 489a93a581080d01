//! Gradient of choosing one row of a table.

use super::host::by_reference;
use super::lowering::{count, flat};
use super::{AnyOp, Case, Cost, HostArray, HostIo, Ins, Op, TableRow, no_second_gradient, normal};
use crate::graph::{Builder, GradCx, Grads};
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params};
use crate::{DType, Result, Shape, Ty};

/// `dtable[index] = Σ over rows of dy`, 0 elsewhere, and everywhere if the index is outside.
///
/// Inputs: `dy [B]` or `[B,M]` f32, `index [1]` i32. Output: `[rows]` or `[rows,M]` f32.
#[derive(Clone, Debug, PartialEq)]
pub struct TableRowGrad {
    /// Rows of the table.
    pub rows: usize,
}

impl Op for TableRowGrad {
    const NAME: &'static str = "table_row_grad";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let dy = ins.get(0, "dy")?;
        ins.get(1, "index")?;
        ins.dtype(0, "dy", DType::F32)?;
        ins.dtype(1, "index", DType::I32)?;
        ins.shape(1, "index", [1])?;
        ins.ensure(matches!(dy.shape.len(), 1 | 2), || format!("dy is {dy}, expected [B] or [B,M]"))?;
        ins.ensure(self.rows > 0, || "the table is empty".into())?;
        ins.at_most(2)?;
        let mut extents = dy.shape.to_vec();
        extents[0] = self.rows;
        Ok(vec![Ty { dtype: DType::F32, shape: Shape::new(&extents) }])
    }

    fn reference(&self, ins: &[Option<HostArray>], outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(dy), Some(index)] = ins else { return Err(super::op_error::<Self>("dy and index are required")) };
        let m = outs[0].shape.elements() / self.rows;
        let mut grad = vec![0.0; self.rows * m];
        if index.data[0] >= 0.0 && (index.data[0] as usize) < self.rows {
            let row = &mut grad[index.data[0] as usize * m..][..m];
            dy.data.chunks_exact(m).for_each(|dy| row.iter_mut().zip(dy).for_each(|(g, d)| *g += d));
        }
        Ok(vec![grad])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io)
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        no_second_gradient(cx)
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (values, rows) = (outs[0].shape.elements(), count(self.rows)?);
        let batch = count(ins[0].map_or(0, |dy| dy.shape[0]))?;
        let (dy, index, dtable) = (Slot::In(0), Slot::In(1), Slot::Out(0));
        let params = TableRowGradParams { dy, index, dtable, rows, width: count(values)? / rows, batch };
        flat(KernelKey::new(&FILE, "table_row_grad_table"), values, 1, params.pack())
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::touching(0, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let gradient = |case: Case| {
            let (AnyOp::TableRow(TableRow { batch, .. }), &[index, Some(table)]) = (case.op, case.inputs.as_slice()) else { return None };
            let mut extents = table.ty.shape.to_vec();
            let rows = std::mem::replace(&mut extents[0], batch);
            Some(Case::new(case.name, Self { rows }, vec![normal(DType::F32, Shape::new(&extents)), index]))
        };
        TableRow::cases().into_iter().filter_map(gradient).collect()
    }
}

kernel_params! {
    /// Of `table_row_grad_table`.
    struct TableRowGradParams { dy: ptr, index: ptr, dtable: ptr, rows: u32, width: u32, batch: u32 }
}
static FILE: KernelFile = kernel_file!("table_row_grad", [TableRowGradParams]);

#[cfg(test)]
mod tests {
    use super::super::rejects::{assert_rejects, bf16, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |rows| AnyOp::from(TableRowGrad { rows });
        assert_rejects(vec![
            (op(5), vec![], "input 0 (dy) is missing"),
            (op(5), vec![f32([2])], "(index) is missing"),
            (op(5), vec![bf16([2]), i32([1])], "dy is bf16[2], expected f32"),
            (op(5), vec![f32([2]), f32([1])], "index is f32[1], expected i32"),
            (op(5), vec![f32([2]), i32([2])], "expected shape [1]"),
            (op(5), vec![f32([2, 2, 2]), i32([1])], "expected [B] or [B,M]"),
            (op(0), vec![f32([2]), i32([1])], "the table is empty"),
            (op(5), vec![f32([2]), i32([1]), i32([1])], "at most 2 inputs"),
        ]);
    }
}
