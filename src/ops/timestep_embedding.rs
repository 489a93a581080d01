//! Sinusoidal embedding of the timestep.

use super::host::by_reference;
use super::lowering::count;
use super::{Case, Cost, HostArray, HostIo, Ins, Op, Fill, each_dtype, filled};
use crate::device::{KernelFile, KernelKey, Launch, Lowered, Slot, Target, kernel_file, kernel_params, kernel_type};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Ty};

/// `[cos(t·f), sin(t·f)]` (or sine first) with `f_i = 10000^(−i / (dim/2 − shift))`.
///
/// Input: `t [B]` f32. Output: `[B, dim]` of `dtype`.
#[derive(Clone, Debug, PartialEq)]
pub struct TimestepEmbedding {
    /// Length of the embedding; even.
    pub dim: usize,
    /// Cosines first, as every Stable Diffusion model has it.
    pub flip_sin_to_cos: bool,
    /// Subtracted from dim/2 in the exponent.
    pub freq_shift: f32,
    /// Type of the output.
    pub dtype: DType,
}

impl Op for TimestepEmbedding {
    const NAME: &'static str = "timestep_embedding";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let t = ins.get(0, "t")?;
        ins.dtype(0, "t", DType::F32)?;
        ins.ensure(t.shape.len() == 1, || format!("t is {t}, expected [B]"))?;
        ins.ensure(self.dim > 0 && self.dim.is_multiple_of(2), || format!("the dimension {} is not even", self.dim))?;
        ins.ensure(self.dtype.is_float(), || format!("{} is not a floating-point type", self.dtype))?;
        ins.at_most(1)?;
        Ok(vec![Ty::new(self.dtype, [t.shape[0], self.dim])])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(t)] = ins else { return Err(super::op_error::<Self>("t is required")) };
        let half = self.dim / 2;
        let mut y = Vec::with_capacity(t.data.len() * self.dim);
        for &t in &t.data {
            // the frequencies are rounded to f32 as the published models were trained with them
            let angle = |i: usize| {
                let exponent = -(10000f32.ln()) * i as f32 / (half as f32 - self.freq_shift);
                f64::from(t as f32 * exponent.exp())
            };
            for cosines in [self.flip_sin_to_cos, !self.flip_sin_to_cos] {
                y.extend((0..half).map(angle).map(|a| if cosines { a.cos() } else { a.sin() }));
            }
        }
        Ok(vec![y])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io)
    }

    fn lower(&self, ins: &[Option<Ty>], _outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let images = count(ins[0].map_or(0, |t| t.shape[0]))?;
        let kernel = KernelKey::new(&FILE, "timestep_embedding_forward").define("T", kernel_type(self.dtype));
        let half = count(self.dim / 2)?;
        let params = TimestepEmbeddingParams {
            t: Slot::In(0),
            y: Slot::Out(0),
            images,
            half,
            cosine_first: u32::from(self.flip_sin_to_cos),
            shift: self.freq_shift,
            log_base: 10000f32.ln(),
        };
        let blocks = count(images as usize * half as usize)?.div_ceil(128);
        Ok(Launch { kernel, grid: [blocks, 1, 1], block: [128, 1, 1], shared: 0, params: params.pack() }.into())
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        Err(cx.error("has no gradient: a timestep is a place in the schedule".into()))
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(4, ins, outs)
    }

    fn cases() -> Vec<Case> {
        each_dtype(|t| {
            let times = filled(DType::F32, [7], Fill::Index(1000));
            let case = |name: &str, dim, flip_sin_to_cos, freq_shift| {
                Case::new(name, TimestepEmbedding { dim, flip_sin_to_cos, freq_shift, dtype: t }, vec![times])
            };
            vec![case("stable diffusion", 320, true, 0.0), case("sine first", 64, false, 1.0), case("small", 2, true, 0.0)]
        })
    }
}

kernel_params! {
    /// Of `timestep_embedding_forward`.
    struct TimestepEmbeddingParams { t: ptr, y: ptr, images: u32, half: u32, cosine_first: u32, shift: f32, log_base: f32 }
}
static FILE: KernelFile = kernel_file!("timestep_embedding", [TimestepEmbeddingParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, bf16};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |dim, dtype| AnyOp::from(TimestepEmbedding { dim, flip_sin_to_cos: true, freq_shift: 0.0, dtype });
        assert_rejects(vec![
            (op(4, DType::F32), vec![], "input 0 (t) is missing"),
            (op(4, DType::F32), vec![bf16([2])], "t is bf16[2], expected f32"),
            (op(4, DType::F32), vec![f32([2, 1])], "expected [B]"),
            (op(5, DType::F32), vec![f32([2])], "dimension 5 is not even"),
            (op(0, DType::F32), vec![f32([2])], "dimension 0 is not even"),
            (op(4, DType::I32), vec![f32([2])], "i32 is not a floating-point type"),
            (op(4, DType::F32), vec![f32([2]); 2], "at most 1 inputs"),
        ]);
    }

    #[test]
    fn values_are_those_of_diffusers() {
        // get_timestep_embedding(t, 320, flip_sin_to_cos=True, downscale_freq_shift=0) of diffusers in float32, some columns
        const COLUMNS: [usize; 8] = [0, 1, 40, 159, 160, 161, 200, 319];
        let published = [
            (1.0, [0.540_302_3, 0.586_503_8, 0.995_004_2, 1.0, 0.841_470_96, 0.809_946_5, 0.099_833_414, 0.000_105_925_37]),
            (34.0, [-0.848_570_3, 0.776_224_26, -0.966_798_25, 0.999_993_5, 0.529_082_7, 0.630_456_9, -0.255_540_97, 0.003_601_455]),
            (999.0, [0.999_649_8, 0.802_677_5, 0.807_455_06, 0.994_406_34, -0.026_460_752, 0.596_413_3, -0.589_929_1, 0.105_622_06]),
        ];
        let op = TimestepEmbedding { dim: 320, flip_sin_to_cos: true, freq_shift: 0.0, dtype: DType::F32 };
        for (t, want) in published {
            let input = HostArray { ty: Ty::new(DType::F32, [1]), data: vec![t] };
            let got = op.reference(&[Some(input)], &[]).unwrap().remove(0);
            for (column, want) in COLUMNS.into_iter().zip(want) {
                // a unit in the last place of a frequency, times t, is what two exponential functions may differ by
                assert!((got[column] - want).abs() < 1e-6 + t * 1.2e-7, "t = {t}, column {column}: {} not {want}", got[column]);
            }
        }
    }
}
