//! Tensor-core products: `mma.sync`, and `ldmatrix`, which brings its operands.

use super::lanes::{Alu, LANES, Operands, Rows, bf16_to_f32, f16_to_f32};
use crate::ptx::program::Factor;

/// The products of one shape and type. Sums run over k in ascending order in f32, one rounding per addition, starting from C; products of
/// f16, bf16 and tf32 factors are exact in f32 short of over- and underflow.
pub(crate) fn product(factor: Factor, depth: u8) -> Alu {
    #[cfg(target_arch = "x86_64")]
    if super::lanes::wide() {
        macro_rules! wide {
            ($k:literal, $factor:ident) => {{
                #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,f16c")]
                fn run(rows: &mut Rows, o: &Operands, _mask: u32) {
                    super::tensor_wide::multiply::<$k>(rows, o, Factor::$factor)
                }
                return run;
            }};
        }
        match (factor, depth) {
            (Factor::F16, 16) => wide!(16, F16),
            (Factor::F16, _) => wide!(8, F16),
            (Factor::Bf16, 16) => wide!(16, Bf16),
            (Factor::Bf16, _) => wide!(8, Bf16),
            (Factor::Tf32, _) => {}
        }
    }
    plain(factor, depth)
}

fn plain(factor: Factor, depth: u8) -> Alu {
    match (factor, depth) {
        (Factor::F16, 16) => |rows, o, _| multiply::<16, true>(rows, o, f16_to_f32),
        (Factor::F16, _) => |rows, o, _| multiply::<8, true>(rows, o, f16_to_f32),
        (Factor::Bf16, 16) => |rows, o, _| multiply::<16, true>(rows, o, bf16_to_f32),
        (Factor::Bf16, _) => |rows, o, _| multiply::<8, true>(rows, o, bf16_to_f32),
        (Factor::Tf32, 8) => |rows, o, _| multiply::<8, false>(rows, o, f16_to_f32),
        (Factor::Tf32, _) => |rows, o, _| multiply::<4, false>(rows, o, f16_to_f32),
    }
}

/// D = A B + C with A 16 x K, B K x 8. In the ISA's fragments, with group g = lane / 4 and t = lane % 4:
/// registers of A hold rows g and g + 8 in turn, then the same rows of the next columns; of 16-bit factors columns 2t, 2t + 1, of tf32 column
/// t. B is laid out likewise by its columns g. C and D hold columns 2t, 2t + 1 of row g in their first two registers, of row g + 8 in the others.
#[inline(always)]
fn multiply<const K: usize, const PACKED: bool>(rows: &mut Rows, o: &Operands, f: impl Fn(u16) -> f32) {
    // Columns of A that a pair of its registers covers: two 16-bit factors in each, or one tf32.
    let span = if PACKED { 8 } else { 4 };
    let registers_a = 2 * K / span;
    let registers_b = K / span;
    let mut a = [[0f32; K]; 16];
    let mut b = [[0f32; 8]; K];
    for r in 0..registers_a {
        let row = &rows.b32[o[4 + r] as usize];
        let (half, from) = (r % 2 * 8, r / 2 * span);
        for g in 0..8 {
            unpack::<PACKED>(&row[4 * g..4 * g + 4], &mut a[g + half][from..from + span], &f);
        }
    }
    for r in 0..registers_b {
        let row = &rows.b32[o[4 + registers_a + r] as usize];
        for g in 0..8 {
            let mut column = [0f32; 8];
            unpack::<PACKED>(&row[4 * g..4 * g + 4], &mut column[..span], &f);
            for k in 0..span {
                b[r * span + k][g] = column[k];
            }
        }
    }
    let mut d = [[0f32; 8]; 16];
    let c = 4 + registers_a + registers_b;
    for half in 0..2 {
        let (even, odd) = (&rows.b32[o[c + 2 * half] as usize], &rows.b32[o[c + 2 * half + 1] as usize]);
        for g in 0..8 {
            for t in 0..4 {
                d[8 * half + g][2 * t] = f32::from_bits(even[4 * g + t]);
                d[8 * half + g][2 * t + 1] = f32::from_bits(odd[4 * g + t]);
            }
        }
    }
    for i in (0..16).step_by(4) {
        let mut sums = [d[i], d[i + 1], d[i + 2], d[i + 3]];
        for k in 0..K {
            for (j, sum) in sums.iter_mut().enumerate() {
                let x = a[i + j][k];
                for n in 0..8 {
                    sum[n] += x * b[k][n];
                }
            }
        }
        d[i..i + 4].copy_from_slice(&sums);
    }
    for r in 0..4 {
        let row = &mut rows.b32[o[r] as usize];
        for g in 0..8 {
            for t in 0..4 {
                let sum = d[g + r / 2 * 8][2 * t + r % 2];
                row[4 * g + t] = if sum.is_nan() { 0x7fff_ffff } else { sum.to_bits() };
            }
        }
    }
}

/// The factors of four registers, in order.
#[inline(always)]
fn unpack<const PACKED: bool>(words: &[u32], out: &mut [f32], f: &impl Fn(u16) -> f32) {
    for t in 0..4 {
        if PACKED {
            out[2 * t] = f(words[t] as u16);
            out[2 * t + 1] = f((words[t] >> 16) as u16);
        } else {
            out[t] = tf32(words[t]);
        }
    }
}

/// The hardware reads the upper 19 bits only.
#[inline(always)]
fn tf32(bits: u32) -> f32 {
    f32::from_bits(bits & !0x1fff)
}

/// The fragment of the transpose of an 8 x 8 matrix of 16-bit values. In a fragment lane l holds row l / 4, columns 2 (l % 4) and the next.
pub(super) fn transpose(fragment: &[u32; LANES]) -> [u32; LANES] {
    let element = |row: usize, column: usize| fragment[4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
    std::array::from_fn(|lane| {
        let (row, column) = (lane / 4, lane % 4 * 2);
        element(column, row) | element(column + 1, row) << 16
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ways through every shape, on any bits, infinities and NaN among them.
    #[test]
    fn the_two_instruction_sets_agree_to_the_bit() {
        let mut state = 1u64;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 32) as u32
        };
        let operands: Operands = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13];
        for round in 0..400 {
            let mut rows = Rows { b32: vec![[0; LANES]; 14], ..Rows::default() };
            // Half of the rounds without extremes, where sums stay finite.
            let keep = if round % 2 == 0 { u32::MAX } else { 0xbbff_bbff };
            rows.b32.iter_mut().flatten().for_each(|word| *word = next() & keep);
            for (factor, depth) in [(Factor::F16, 16), (Factor::F16, 8), (Factor::Bf16, 16), (Factor::Bf16, 8)] {
                let (mut a, mut b) = (rows.clone(), rows.clone());
                // SAFETY: `product` chooses for this host; the other needs nothing of it.
                unsafe {
                    product(factor, depth)(&mut a, &operands, u32::MAX);
                    plain(factor, depth)(&mut b, &operands, u32::MAX);
                }
                assert_eq!(a.b32, b.b32, "{factor:?}, k = {depth}");
            }
        }
    }
}
