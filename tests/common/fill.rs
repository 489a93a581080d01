//! Test inputs from fixed seeds.

use dreamid_engine::ops::{Case, Fill};
use dreamid_engine::{DType, Tensor, Ty};

/// The inputs of a case. The same case always gets the same values, already rounded to the types of the case.
pub(crate) fn inputs(op: &str, case: &Case) -> Vec<Option<Tensor>> {
    let fill = |(i, input): (usize, &Option<dreamid_engine::ops::CaseInput>)| {
        input.map(|input| tensor(input.ty, input.fill, &mut Random::named(&format!("{op}/{}/{i}", case.name))))
    };
    case.inputs.iter().enumerate().map(fill).collect()
}

/// One tensor.
pub(crate) fn tensor(ty: Ty, fill: Fill, random: &mut Random) -> Tensor {
    let n = ty.shape.elements();
    let values: Vec<f64> = (0..n)
        .map(|i| match fill {
            Fill::Normal(scale) => random.normal() * f64::from(scale),
            Fill::Uniform(low, high) => f64::from(low) + random.uniform() * f64::from(high - low),
            Fill::Index(bound) => (random.uniform() * f64::from(bound)).floor(),
            Fill::Counting => i as f64,
        })
        .collect();
    if ty.dtype == DType::I32 {
        return Tensor::from_i32(ty.shape, &values.iter().map(|v| v.floor() as i32).collect::<Vec<_>>()).unwrap();
    }
    Tensor::from_f32(ty.shape, &values.iter().map(|&v| v as f32).collect::<Vec<_>>()).unwrap().cast(ty.dtype)
}

/// SplitMix64 (Steele et al. 2014): small, and good enough to fill tensors.
pub(crate) struct Random(u64);

impl Random {
    /// Seeded by a name (FNV-1a), so that adding a case leaves the others as they are.
    pub(crate) fn named(name: &str) -> Self {
        Self(name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)))
    }

    /// Any 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let a = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        b ^ (b >> 31)
    }

    /// In [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Mean 0, variance 1 (Box and Muller 1958).
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}
