//! One row of a table, chosen on the device: what varies from step to step.

use super::host::by_reference;
use super::lowering::{count, flat, typed};
use super::{Cast, TableRowGrad, Case, Cost, HostArray, HostIo, Ins, Op, Fill, filled, normal};
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Shape, Ty};

/// `y_i[b] = table_i[index]` for each of `batch` rows, of several tables at once.
///
/// Inputs: `index [1]` i32 inside the tables (an index outside gives NaN), then one to [`TableRow::MOST`] tables `[N]` or `[N,M]` f32 of
/// one N. Outputs: one for each table, `[batch]` or `[batch,M]` as `dtype`.
#[derive(Clone, Debug, PartialEq)]
pub struct TableRow {
    /// Rows of each output, all equal.
    pub batch: usize,
    /// Type of the outputs.
    pub dtype: DType,
}

impl TableRow {
    /// Most tables of one node: what a launch has parameters for.
    pub const MOST: usize = 32;
}

impl Op for TableRow {
    const NAME: &'static str = "table_row";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        ins.get(0, "index")?;
        ins.dtype(0, "index", DType::I32)?;
        ins.shape(0, "index", [1])?;
        ins.at_most(1 + Self::MOST)?;
        ins.ensure(self.dtype.is_float(), || format!("rows cannot become {}", self.dtype))?;
        ins.ensure(self.batch > 0, || "the batch is empty".into())?;
        let first = ins.get(1, "table")?;
        let row = |i: usize| {
            let table = ins.get(i, "table")?;
            ins.dtype(i, "table", DType::F32)?;
            ins.ensure(matches!(table.shape.len(), 1 | 2), || format!("table is {table}, expected [N] or [N,M]"))?;
            ins.ensure(table.shape[0] == first.shape[0], || format!("table is {table}, expected {} rows as the first", first.shape[0]))?;
            let mut extents = table.shape.to_vec();
            extents[0] = self.batch;
            Ok(Ty { dtype: self.dtype, shape: Shape::new(&extents) })
        };
        (1..ins.count()).map(row).collect()
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let missing = || super::op_error::<Self>("index and tables are required");
        let index = ins[0].as_ref().ok_or_else(missing)?.data[0];
        let row = |table: &Option<HostArray>| {
            let table = table.as_ref().ok_or_else(missing)?;
            let (n, m) = (table.shape()[0], table.data.len() / table.shape()[0]);
            let inside = index >= 0.0 && (index as usize) < n;
            let row = if inside { table.data[index as usize * m..][..m].to_vec() } else { vec![f64::NAN; m] };
            Ok(row.repeat(self.batch))
        };
        ins[1..].iter().map(row).collect()
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io)
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let rows = count(ins[1].map_or(0, |table| table.shape[0]))?;
        let (mut tables, mut y, mut widths) = ([Slot::Null; Self::MOST], [Slot::Null; Self::MOST], [0; Self::MOST]);
        let mut widest = 0;
        for (i, out) in outs.iter().enumerate() {
            (tables[i], y[i]) = (Slot::In(1 + i), Slot::Out(i));
            widths[i] = count(out.shape.elements() / self.batch)?;
            widest = widest.max(out.shape.elements());
        }
        let params = TableRowParams { index: Slot::In(0), tables, y, widths, rows, batch: count(self.batch)? };
        let mut lowered = flat(typed(KernelKey::new(&FILE, "table_row_forward"), DType::F32, self.dtype), widest, 1, params.pack())?;
        lowered.launches.iter_mut().for_each(|launch| launch.grid[1] = outs.len() as u32);
        Ok(lowered)
    }

    fn backward(&self, g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        let index = Some(cx.input(0)?);
        let mut grads = vec![None];
        for i in 1..cx.inputs() {
            let Some(dy) = cx.gradient_of(i - 1).filter(|_| cx.wants(i)) else {
                grads.push(None);
                continue;
            };
            let dy = if self.dtype == DType::F32 { dy } else { g.op(Cast { dtype: DType::F32 }, &[Some(dy)])? };
            let rows = g.shape(cx.input(i)?)[0];
            grads.push(Some(g.op(TableRowGrad { rows }, &[Some(dy), index])?));
        }
        Ok(grads)
    }

    fn cost(&self, _ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost { flops: 0, bytes: outs.iter().map(|out| (out.bytes() + out.shape.elements() / self.batch * 4) as u64).sum() }
    }

    fn cases() -> Vec<Case> {
        let table = |shape: &[usize]| normal(DType::F32, Shape::new(shape));
        let index = |low, high| filled(DType::I32, [1], Fill::Uniform(low, high));
        let row = |batch| TableRow { batch, dtype: DType::F32 };
        let many = |dtype| {
            let tables = (0..TableRow::MOST).map(|i| table(&[3, 1 + 9 * i]));
            Case::new(format!("many tables {dtype}"), TableRow { batch: 2, dtype }, [index(0.0, 3.0)].into_iter().chain(tables).collect())
        };
        vec![
            Case::new("timesteps", row(3), vec![index(0.0, 30.0), table(&[30])]),
            Case::new("coefficients", row(1), vec![index(0.0, 30.0), table(&[30, 4])]),
            Case::new("past the end", row(2), vec![index(5.0, 9.0), table(&[5, 3])]),
            Case::new("below zero", row(2), vec![index(-9.0, -1.0), table(&[5, 3])]),
            many(DType::F32),
            many(DType::Bf16),
        ]
    }
}

kernel_params! {
    /// Of `table_row_forward`.
    struct TableRowParams { index: ptr, tables: [ptr; 32], y: [ptr; 32], widths: [u32; 32], rows: u32, batch: u32 }
}
static FILE: KernelFile = kernel_file!("table_row", [TableRowParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, bf16, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |batch| AnyOp::from(TableRow { batch, dtype: DType::F32 });
        let whole = AnyOp::from(TableRow { batch: 1, dtype: DType::I32 });
        let too_many = [i32([1])].into_iter().chain([f32([5]); TableRow::MOST + 1]).collect();
        assert_rejects(vec![
            (op(1), vec![], "input 0 (index) is missing"),
            (op(1), vec![i32([1])], "(table) is missing"),
            (op(1), vec![i32([1]), bf16([5])], "table is bf16[5], expected f32"),
            (op(1), vec![f32([1]), f32([5])], "index is f32[1], expected i32"),
            (op(1), vec![i32([2]), f32([5])], "expected shape [1]"),
            (op(1), vec![i32([1]), f32([5, 2, 2])], "expected [N] or [N,M]"),
            (op(1), vec![i32([1]), f32([5, 2]), f32([4, 2])], "expected 5 rows"),
            (op(0), vec![i32([1]), f32([5])], "the batch is empty"),
            (whole, vec![i32([1]), f32([5])], "cannot become i32"),
            (op(1), too_many, "at most 33 inputs"),
        ]);
    }
}
