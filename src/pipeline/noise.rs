//! Initial noise that depends on nothing but the seed and the element.
//!
//! [`Noise::Philox`] (the default) draws each element from its own block of Philox4x32-10 (Salmon et al. 2011), keyed by the seed,
//! so no element depends on how many others are drawn, nor on threads or batches. [`Noise::Torch`] repeats what PyTorch draws on a
//! CPU from `torch.Generator().manual_seed(seed)`, for comparisons with other tools.

use crate::{Error, Result, Shape, Tensor};

/// Where initial noise comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Noise {
    /// Counter-based: element `e` of seed `s` is the same number everywhere.
    #[default]
    Philox,
    /// PyTorch's Mersenne Twister on a CPU, to about 1e-6. Seeds above 2^32 are cut to their lower 32 bits, as PyTorch does.
    Torch,
}

impl Noise {
    /// Normal noise of `shape`, whose first axis counts pictures: picture `i` is drawn from `seed + i` alone.
    ///
    /// Elements are drawn in the order of the shape, so draw `[B,C,H,W]` to agree with other tools.
    pub fn draw(self, seed: u64, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        let count = shape.first().copied().unwrap_or(1);
        let each = shape.elements() / count.max(1);
        if self == Self::Torch && each < 16 {
            return Err(Error::input(format!(
                "PyTorch's noise of fewer than 16 elements is not supported, {shape} has {each} for each picture"
            )));
        }
        let mut values = Vec::with_capacity(shape.elements());
        for i in 0..count as u64 {
            let seed = seed.wrapping_add(i);
            match self {
                Self::Philox => values.extend((0..each as u64).map(|e| philox_normal(seed, e) as f32)),
                Self::Torch => values.extend(torch_normals(seed as u32, each)),
            }
        }
        Tensor::from_f32(shape, &values)
    }
}

/// The normal number at `element` under `seed`: Box and Muller's sine of the first two words of the element's block.
pub(crate) fn philox_normal(seed: u64, element: u64) -> f64 {
    let counter = [0, 0, element as u32, (element >> 32) as u32];
    let [a, b, _, _] = philox4x32([seed as u32, (seed >> 32) as u32], counter);
    let unit = |x: u32| (f64::from(x) + 0.5) / 2f64.powi(32);
    (-2.0 * unit(a).ln()).sqrt() * (std::f64::consts::TAU * unit(b)).sin()
}

/// Ten rounds of Philox4x32.
fn philox4x32(mut key: [u32; 2], mut counter: [u32; 4]) -> [u32; 4] {
    let multiply = |a: u32, b: u32| {
        let product = u64::from(a) * u64::from(b);
        ((product >> 32) as u32, product as u32)
    };
    for _ in 0..10 {
        let (high0, low0) = multiply(0xD251_1F53, counter[0]);
        let (high1, low1) = multiply(0xCD9E_8D57, counter[2]);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

/// PyTorch's `randn` for at least 16 elements: uniforms for all, then Box and Muller on groups of 8 and 8; a ragged end redraws its last 16.
fn torch_normals(seed: u32, count: usize) -> Vec<f32> {
    let mut twister = Twister::new(seed);
    let mut values: Vec<f32> = (0..count).map(|_| twister.uniform()).collect();
    values.chunks_exact_mut(16).for_each(box_muller_16);
    if !count.is_multiple_of(16) {
        let last = &mut values[count - 16..];
        last.iter_mut().for_each(|v| *v = twister.uniform());
        box_muller_16(last);
    }
    values
}

fn box_muller_16(values: &mut [f32]) {
    let (first, second) = values.split_at_mut(8);
    for (a, b) in first.iter_mut().zip(second) {
        let radius = (-2.0 * f64::from(1.0 - *a).ln()).sqrt();
        let angle = std::f64::consts::TAU * f64::from(*b);
        (*a, *b) = ((radius * angle.cos()) as f32, (radius * angle.sin()) as f32);
    }
}

/// MT19937 (Matsumoto and Nishimura 1998).
struct Twister {
    state: [u32; 624],
    next: usize,
}

impl Twister {
    fn new(seed: u32) -> Self {
        let mut state = [seed; 624];
        for i in 1..624 {
            let before = state[i - 1];
            state[i] = 1_812_433_253_u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(i as u32);
        }
        Self { state, next: 624 }
    }

    /// 24 random bits over 2^24.
    fn uniform(&mut self) -> f32 {
        (self.word() & 0x00FF_FFFF) as f32 / 16_777_216.0
    }

    fn word(&mut self) -> u32 {
        if self.next == 624 {
            self.twist();
        }
        let mut x = self.state[self.next];
        self.next += 1;
        x ^= x >> 11;
        x ^= (x << 7) & 0x9D2C_5680;
        x ^= (x << 15) & 0xEFC6_0000;
        x ^ (x >> 18)
    }

    fn twist(&mut self) {
        for i in 0..624 {
            let x = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % 624] & 0x7FFF_FFFF);
            self.state[i] = self.state[(i + 397) % 624] ^ (x >> 1) ^ if x & 1 == 1 { 0x9908_B0DF } else { 0 };
        }
        self.next = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_known_answers() {
        // the test vectors of Random123
        assert_eq!(philox4x32([0; 2], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([u32::MAX; 2], [u32::MAX; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = philox4x32([0xa409_3822, 0x299f_31d0], [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]);
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn noise_is_normal() {
        let x = Noise::Philox.draw(7, [1, 4, 64, 64]).unwrap().to_f32_vec();
        let moment = |p: i32| x.iter().map(|&v| f64::from(v).powi(p)).sum::<f64>() / x.len() as f64;
        let bound = 5.0 / (x.len() as f64).sqrt();
        assert!(moment(1).abs() < bound && (moment(2) - 1.0).abs() < 1.5 * bound, "{} {}", moment(1), moment(2));
        assert!(moment(3).abs() < 4.0 * bound && (moment(4) - 3.0).abs() < 10.0 * bound, "{} {}", moment(3), moment(4));
    }

    #[test]
    fn a_picture_depends_on_its_own_seed_only() {
        for noise in [Noise::Philox, Noise::Torch] {
            let batch = noise.draw(40, [3, 4, 5, 7]).unwrap().to_f32_vec();
            for i in 0..3 {
                let alone = noise.draw(40 + i, [1, 4, 5, 7]).unwrap().to_f32_vec();
                assert_eq!(alone, batch[i as usize * 140..(i as usize + 1) * 140]);
            }
            assert_ne!(batch[..140], batch[140..280]);
        }
    }

    #[test]
    fn philox_does_not_depend_on_how_much_is_drawn() {
        let (large, small) = (Noise::Philox.draw(3, [1, 4096]).unwrap(), Noise::Philox.draw(3, [1, 5]).unwrap());
        assert_eq!(large.to_f32_vec()[..5], small.to_f32_vec()[..]);
    }

    #[test]
    fn torch_golden_values() {
        // torch.randn(count, generator=torch.Generator().manual_seed(seed)): the first, second and last two
        for (seed, count, want) in TORCH {
            let got = Noise::Torch.draw(seed, [1, count]).unwrap().to_f32_vec();
            let got = [got[0], got[1], got[count - 2], got[count - 1]];
            for (g, w) in got.iter().zip(want) {
                assert!((g - w).abs() < 3e-6, "seed {seed}, {count} elements: {got:?} {want:?}");
            }
        }
    }

    const TORCH: [(u64, usize, [f32; 4]); 4] = [
        (0, 16, [-1.12584, -1.15236, 1.116777, -0.2472782]),
        (42, 4096, [1.926915, 1.487284, 0.9416195, -0.01184288]),
        (123456789012, 35, [-0.3533599, -0.2634964, -0.3731579, 0.1199325]),
        (7, 1000, [-0.8201345, 0.3956312, 0.169216, -0.8487755]),
    ];
}
