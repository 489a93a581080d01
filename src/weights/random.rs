//! Weights made up from a name and a counter: same name and seed, same numbers, on any number of threads.

use crate::Shape;

/// Fills a block of the tensor `name` of extents `shape` that starts at index `start`.
pub(crate) fn fill(seed: u64, name: &str, shape: Shape, start: usize, out: &mut [f32]) {
    let key = seed ^ name.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let (centre, spread) = scale(name, shape);
    let (first, end) = (start as u64 / 4, (start + out.len()) as u64);
    let mut index = start as u64;
    for block in first..end.div_ceil(4) {
        let bits = mixed(key.wrapping_add(block));
        for lane in index % 4..(end - 4 * block).min(4) {
            let unit = f32::from((bits >> (16 * lane)) as u16 as i16) / 32768.0; // uniform in [-1, 1)
            out[index as usize - start] = centre + spread * unit;
            index += 1;
        }
    }
}

/// Matrices keep the variance of what they are applied to; norms are near 1; biases are small.
fn scale(name: &str, shape: Shape) -> (f32, f32) {
    let fan_in = shape.elements() / shape.first().copied().unwrap_or(1).max(1);
    match shape.iter().filter(|&&n| n > 1).count() {
        0 | 1 if name.ends_with("weight") || name.ends_with("running_var") => (1.0, 0.1),
        0 | 1 => (0.0, 0.02),
        _ => (0.0, (3.0 / fan_in as f32).sqrt()),
    }
}

/// The finaliser of SplitMix64 (Steele et al. 2014).
fn mixed(counter: u64) -> u64 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
