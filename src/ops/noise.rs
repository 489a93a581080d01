//! Normal noise drawn on the device.

use super::host::by_reference;
use super::lowering::{count, flat};
use super::{Case, Cost, Fill, HostArray, HostIo, Ins, Op, filled};
use crate::device::{KernelFile, KernelKey, Lowered, Slot, Target, kernel_file, kernel_params};
use crate::pipeline::philox_normal;
use crate::graph::{Builder, GradCx, Grads};
use crate::{DType, Result, Ty};

/// Normal noise: image `b` is a function of its seed and the element alone, the same on every device and in every batch.
///
/// Input: `seed [B,2]` i32, the low and the high word of each image's seed. Output: `[B,H,W,C]` f32, elements numbered as in
/// `[C,H,W]`: the noise of [`crate::pipeline::Noise::Philox`] under another layout.
#[derive(Clone, Debug, PartialEq)]
pub struct Noise {
    /// Height, width and channels of an image.
    pub size: [usize; 3],
}

impl Op for Noise {
    const NAME: &'static str = "noise";

    fn infer(&self, ins: Ins<'_>) -> Result<Vec<Ty>> {
        let seed = ins.get(0, "seed")?;
        ins.dtype(0, "seed", DType::I32)?;
        let &[b, 2] = &*seed.shape else { return Err(ins.error(format!("seed is {seed}, expected [B,2]"))) };
        let [h, w, c] = self.size;
        ins.ensure(h * w * c > 0, || format!("an image of {:?} has no elements", self.size))?;
        ins.at_most(1)?;
        Ok(vec![Ty::new(DType::F32, [b, h, w, c])])
    }

    fn reference(&self, ins: &[Option<HostArray>], _outs: &[Ty]) -> Result<Vec<Vec<f64>>> {
        let [Some(seed)] = ins else { return Err(super::op_error::<Self>("seed is required")) };
        let [h, w, c] = self.size;
        let word = |v: f64| u64::from(v as i32 as u32);
        let image = |seed: &[f64]| {
            let seed = word(seed[0]) | word(seed[1]) << 32;
            (0..h * w * c).map(move |i| philox_normal(seed, (i % c * h * w + i / c) as u64))
        };
        Ok(vec![seed.data.chunks_exact(2).flat_map(image).collect()])
    }

    fn cpu(&self, io: &mut HostIo<'_>) -> Result<()> {
        by_reference(self, io)
    }

    fn lower(&self, _ins: &[Option<Ty>], outs: &[Ty], _target: &Target) -> Result<Lowered> {
        let (images, [h, w, c], values) = (outs[0].shape[0], self.size, outs[0].shape.elements());
        let (pixels, channels) = (count(h * w)?, count(c)?);
        let params = NoiseParams { seed: Slot::In(0), y: Slot::Out(0), images: count(images)?, pixels, channels };
        flat(KernelKey::new(&FILE, "noise_forward"), values, 1, params.pack())
    }

    fn backward(&self, _g: &mut Builder<'_>, cx: &GradCx<'_>) -> Result<Grads> {
        Err(cx.error("has no gradient: noise is drawn, from integers".into()))
    }

    fn cost(&self, ins: &[Option<Ty>], outs: &[Ty]) -> Cost {
        // ten rounds of six integer operations and some twenty of a normal number
        Cost::elementwise(80, ins, outs)
    }

    fn cases() -> Vec<Case> {
        let seeds = |b| filled(DType::I32, [b, 2], Fill::Uniform(-2e9, 2e9));
        vec![
            Case::new("latents", Noise { size: [16, 16, 4] }, vec![seeds(1)]),
            Case::new("batch of odd images", Noise { size: [5, 7, 3] }, vec![seeds(3)]),
            Case::new("many", Noise { size: [64, 65, 4] }, vec![seeds(2)]),
        ]
    }
}

kernel_params! {
    /// Of `noise_forward`.
    struct NoiseParams { seed: ptr, y: ptr, images: u32, pixels: u32, channels: u32 }
}
static FILE: KernelFile = kernel_file!("noise", [NoiseParams]);

#[cfg(test)]
mod tests {
    use super::super::AnyOp;
    use super::super::rejects::{assert_rejects, f32, i32};
    use super::*;

    #[test]
    fn bad_inputs_are_refused() {
        let op = |size| AnyOp::from(Noise { size });
        assert_rejects(vec![
            (op([2, 2, 4]), vec![], "input 0 (seed) is missing"),
            (op([2, 2, 4]), vec![f32([1, 2])], "seed is f32[1,2], expected i32"),
            (op([2, 2, 4]), vec![i32([2])], "expected [B,2]"),
            (op([2, 2, 4]), vec![i32([1, 3])], "expected [B,2]"),
            (op([2, 0, 4]), vec![i32([1, 2])], "has no elements"),
            (op([2, 2, 4]), vec![i32([1, 2]); 2], "at most 1 inputs"),
        ]);
    }

    #[test]
    fn it_is_the_noise_that_pictures_start_from() {
        let (h, w, c) = (3, 5, 4);
        let seeds = [7_u64, 0x1234_5678_9abc_def0];
        let words = seeds.iter().flat_map(|s| [*s as u32, (s >> 32) as u32]).map(|v| f64::from(v as i32)).collect();
        let seed = HostArray { ty: Ty::new(DType::I32, [2, 2]), data: words };
        let got = Noise { size: [h, w, c] }.reference(&[Some(seed)], &[]).unwrap().remove(0);
        for (b, seed) in seeds.into_iter().enumerate() {
            let drawn = crate::pipeline::Noise::Philox.draw(seed, [1, c, h, w]).unwrap().to_f32_vec();
            for i in 0..h * w * c {
                let (pixel, channel) = (i / c, i % c);
                assert_eq!(got[b * h * w * c + i] as f32, drawn[channel * h * w + pixel]);
            }
        }
    }
}
