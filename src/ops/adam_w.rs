//! One step of the AdamW optimizer.

use super::lowering::{access, count, flat, typed};
use super::{Activation, Case, Cost, Fill, HostArray, HostIo, Ins, Op, each_dtype, filled, normal, unsupported};
use crate::device::cpu::elementwise::map;
use crate::device::cpu::simd::Elem;
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params};
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Shape, Ty};
use half::bf16;

/// `m′ = β₁m + (1−β₁)g`, `v′ = β₂v + (1−β₂)g²`, `w′ = w − rate (m′/c₁ / (√(v′/c₂) + eps) + decay·w)` (Loshchilov and Hutter 2019).
///
/// Inputs: `master` f32, `gradient`, `first` moment f32, `second` moment f32, all of one shape, and `rates [4]` f32: the learning rate,
/// `c₁ = 1 − β₁ᵗ`, `c₂ = 1 − β₂ᵗ` of step t ≥ 1, and a factor of the gradient (1, or less to clip it).
/// Outputs: the next master, first and second moment in f32, and the weight as the model reads it in `dtype`.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first and of the second moment.
    pub betas: [f32; 2],
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Weight decay, times the learning rate.
    pub decay: f32,
    /// Type of the model's weight.
    pub dtype: DType,
}

impl Op for AdamW {
    const NAME: &'static str = "adam_w";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let (master, _) = (ins.get(0, "master")?, ins.float(1, "gradient")?);
        ins.dtype(0, "master", DType::F32)?;
        for (i, name) in [(1, "gradient"), (2, "first moment"), (3, "second moment")] {
            ins.get(i, name)?;
            ins.shape(i, name, master.shape)?;
        }
        for (i, name) in [(2, "first moment"), (3, "second moment"), (4, "rates")] {
            ins.get(i, name)?;
            ins.dtype(i, name, DType::F32)?;
        }
        ins.shape(4, "rates", [4])?;
        ins.ensure(self.dtype.is_float(), || format!("cannot store weights as {}", self.dtype))?;
        ins.at_most(5)?;
        Ok(vec![master, master, master, Ty { dtype: self.dtype, shape: master.shape }])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(w), Some(g), Some(m), Some(v), Some(rates)] = ins else {
            return Err(super::op_error::<Self>("master, gradient, moments and rates are required"));
        };
        let ([b1, b2], eps, decay) = (self.betas.map(f64::from), f64::from(self.eps), f64::from(self.decay));
        let [rate, c1, c2, factor] = [0, 1, 2, 3].map(|i| rates.data[i]);
        let mut next = [Vec::new(), Vec::new(), Vec::new()];
        for (i, w) in w.data.iter().enumerate() {
            let g = g.data[i] * factor;
            let m = b1 * m.data[i] + (1.0 - b1) * g;
            let v = b2 * v.data[i] + (1.0 - b2) * g * g;
            next[0].push(w - rate * (m / c1 / ((v / c2).sqrt() + eps) + decay * w));
            next[1].push(m);
            next[2].push(v);
        }
        let [w, m, v] = next;
        Ok(vec![w.clone(), m, v, w])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        match io.input(1)?.ty.dtype {
            DType::F32 => self.step::<f32>(io),
            DType::Bf16 => self.step::<bf16>(io),
            other => Err(unsupported(other)),
        }
    }

    fn lower(&self, ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let gradient = ins[1].map_or(DType::F32, |g| g.dtype);
        let (values, width) = (outs[0].shape.elements(), access(&[DType::F32], 16));
        let params = AdamWParams {
            master: Slot::In(0),
            gradient: Slot::In(1),
            first: Slot::In(2),
            second: Slot::In(3),
            rates: Slot::In(4),
            next_master: Slot::Out(0),
            next_first: Slot::Out(1),
            next_second: Slot::Out(2),
            weight: Slot::Out(3),
            count: count(values)?,
            beta1: self.betas[0],
            beta2: self.betas[1],
            eps: self.eps,
            decay: self.decay,
        };
        let kernel = typed(KernelKey::new(&FILE, "adam_w_forward"), gradient, self.dtype).define("V", width);
        flat(kernel, values, width, params.pack())
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        Err(cx.error("has no gradient: nothing is trained through a step of the optimizer".into()))
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        Cost::elementwise(16, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let rates = filled(DType::F32, [4], Fill::Uniform(0.01, 0.9));
        each_dtype(|t| {
            let case = |name: &str, dtype, decay, shape: &[usize]| {
                let (shape, f32) = (Shape::new(shape), DType::F32);
                let op = AdamW { betas: [0.9, 0.999], eps: 1e-8, decay, dtype };
                let second = filled(f32, shape, Fill::Uniform(0.0, 2.0));
                Case::new(name, op, vec![normal(f32, shape), normal(t, shape), normal(f32, shape), second, rates])
            };
            vec![
                case("matrix", t, 0.01, &[24, 40]),
                case("odd", t, 0.0, &[7, 3, 5]),
                case("many", DType::F32, 0.1, &[30_001]),
                case("bf16 weights", DType::Bf16, 0.1, &[130]),
            ]
        })
    }
}

kernel_params! {
    /// Of `adam_w_forward`.
    struct AdamWParams {
        master: ptr, gradient: ptr, first: ptr, second: ptr, rates: ptr, next_master: ptr, next_first: ptr, next_second: ptr, weight: ptr,
        count: u32, beta1: f32, beta2: f32, eps: f32, decay: f32,
    }
}
static FILE: KernelFile = kernel_file!("adam_w", [AdamWParams]);

impl AdamW {
    /// The moments first, then the master from them, then its copy in the model's type.
    fn step<T: Elem>(&self, io: &mut HostIo<'_>) -> Result<()> {
        let (w, g, rates) = (io.input(0)?.f32()?, io.input(1)?, io.input(4)?.f32()?);
        let (m, v) = (io.input(2)?.f32()?, io.input(3)?.f32()?);
        let mut gradient = vec![0.0_f32; w.len()];
        map(io.cpu, Activation::None, g.values::<T>()?, &mut gradient);
        let ([b1, b2], [rate, c1, c2, factor]) = (self.betas, [rates[0], rates[1], rates[2], rates[3]]);
        for (next, (m, g)) in io.outs[1].f32()?.iter_mut().zip(m.iter().zip(&gradient)) {
            *next = b1 * m + (1.0 - b1) * g * factor;
        }
        for (next, (v, g)) in io.outs[2].f32()?.iter_mut().zip(v.iter().zip(&gradient)) {
            let g = g * factor;
            *next = b2 * v + (1.0 - b2) * g * g;
        }
        let [master, first, second, weight] = &mut *io.outs else { return Err(super::op_error::<Self>("has four outputs")) };
        let (m, v) = (first.f32()?, second.f32()?);
        let master = master.f32()?;
        for (i, (next, w)) in master.iter_mut().zip(w).enumerate() {
            *next = w - rate * (m[i] / c1 / ((v[i] / c2).sqrt() + self.eps) + self.decay * w);
        }
        match self.dtype {
            DType::F32 => weight.f32()?.copy_from_slice(master),
            DType::Bf16 => weight.bf16()?.iter_mut().zip(master).for_each(|(y, w)| *y = bf16::from_f32(*w)),
            other => return Err(unsupported(other)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, bf16, f32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |dtype| AnyOp::from(AdamW { betas: [0.9, 0.999], eps: 1e-8, decay: 0.0, dtype });
        let with = |bad: usize, ty| {
            let mut ins = vec![f32([3, 5]), f32([3, 5]), f32([3, 5]), f32([3, 5]), f32([4])];
            ins[bad] = ty;
            ins
        };
        assert_rejects(vec![
            (op(DType::F32), with(0, None), "input 0 (master) is missing"),
            (op(DType::F32), with(0, bf16([3, 5])), "master is bf16[3,5], expected f32"),
            (op(DType::F32), with(1, f32([3, 4])), "expected shape [3,5]"),
            (op(DType::F32), with(3, None), "(second moment) is missing"),
            (op(DType::F32), with(4, f32([3])), "expected shape [4]"),
            (op(DType::I32), with(1, f32([3, 5])), "cannot store weights as i32"),
            (op(DType::F32), [with(0, f32([3, 5])), vec![None]].concat(), "at most 5 inputs"),
        ]);
    }

    #[test]
    fn the_first_step_is_that_of_torch() {
        // torch.optim.AdamW(lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01): w = 1, gradient 0.5, then
        // w (1 - lr decay) - lr sign(g), because the corrected moments of a first step are g and g^2
        let op = AdamW { betas: [0.9, 0.999], eps: 1e-8, decay: 0.01, dtype: DType::F32 };
        let array = |data: Vec<f64>| Some(HostArray { ty: Ty::new(DType::F32, [data.len()]), data });
        let ins = [array(vec![1.0]), array(vec![0.5]), array(vec![0.0]), array(vec![0.0]), array(vec![0.1, 0.1, 0.001, 1.0])];
        let next = op.reference(&ins, &[]).unwrap();
        assert!((next[0][0] - (1.0 - 0.1 * 0.01 - 0.1)).abs() < 1e-6, "{}", next[0][0]);
        // to the rounding of the two betas, which are f32
        assert!((next[1][0] - 0.05).abs() < 1e-7 && (next[2][0] - 0.000_25).abs() < 1e-8);
    }
}
