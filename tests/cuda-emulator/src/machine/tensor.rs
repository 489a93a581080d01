//! Tensor-core products: `mma.sync`, and `ldmatrix`, which brings its operands.

use super::lanes::{Alu, LANES, Operands, Rows, bf16_to_f32, f16_to_f32};
use crate::ptx::program::Factor;

/// The products of one shape and type. Sums run over k in ascending order in f32, one rounding per addition, starting from C; products of
/// f16, bf16 and tf32 factors are exact in f32 short of over- and underflow.
pub(crate) fn product(factor: Factor, depth: u8) -> Alu {
    macro_rules! choose {
        ($f:expr, $k:literal, $packed:literal) => {{
            #[inline(always)]
            fn body(rows: &mut Rows, o: &Operands, _mask: u32) {
                multiply::<$k, $packed>(rows, o, $f)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,f16c")]
            fn wide(rows: &mut Rows, o: &Operands, mask: u32) {
                body(rows, o, mask)
            }
            #[cfg(not(target_arch = "x86_64"))]
            use body as wide;
            if super::lanes::wide() { wide } else { body }
        }};
    }
    match (factor, depth) {
        (Factor::F16, 16) => choose!(f16_to_f32, 16, true),
        (Factor::F16, _) => choose!(f16_to_f32, 8, true),
        (Factor::Bf16, 16) => choose!(bf16_to_f32, 16, true),
        (Factor::Bf16, _) => choose!(bf16_to_f32, 8, true),
        (Factor::Tf32, 8) => choose!(f16_to_f32, 8, false),
        (Factor::Tf32, _) => choose!(f16_to_f32, 4, false),
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
                row[4 * g + t] = d[g + r / 2 * 8][2 * t + r % 2].to_bits();
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

/// The fragment of an 8 x 8 matrix of 16-bit values whose rows are given: lane l holds row l / 4, columns 2 (l % 4) and the next; transposed,
/// the same of the transpose.
pub(super) fn fragment(matrix: &[[u16; 8]; 8], transposed: bool) -> [u32; LANES] {
    let mut found = [0; LANES];
    for (lane, value) in found.iter_mut().enumerate() {
        let (g, t) = (lane / 4, lane % 4 * 2);
        let (low, high) = if transposed { (matrix[t][g], matrix[t + 1][g]) } else { (matrix[g][t], matrix[g][t + 1]) };
        *value = u32::from(low) | u32::from(high) << 16;
    }
    found
}
