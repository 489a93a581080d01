//! Exact rounding: sums with the error that rounding left, and any small format from f64.

/// Rounding modes, in the order of their codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// To nearest, ties to even.
    Nearest,
    Zero,
    Down,
    Up,
    /// To nearest, ties away from zero.
    Away,
}

impl Mode {
    pub(super) const ALL: [Mode; 5] = [Mode::Nearest, Mode::Zero, Mode::Down, Mode::Up, Mode::Away];

    /// `rn`, `rz`, `rm`, `rp`, `rna`.
    pub(super) fn named(name: &str) -> Option<Mode> {
        ["rn", "rz", "rm", "rp", "rna"].iter().position(|&n| n == name).map(|i| Self::ALL[i])
    }
}

/// A binary floating-point format: stored bits of the significand, and exponents of the least and greatest normal numbers.
#[derive(Clone, Copy)]
pub(super) struct Format {
    pub(super) significand: u32,
    pub(super) least: i32,
    pub(super) greatest: i32,
}

pub(super) const F16: Format = Format { significand: 10, least: -14, greatest: 15 };
pub(super) const BF16: Format = Format { significand: 7, least: -126, greatest: 127 };
pub(super) const F32: Format = Format { significand: 23, least: -126, greatest: 127 };

/// `a + b`, and what rounding took away (Knuth's two-sum: exact unless something overflows).
#[inline(always)]
pub(super) fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let part = sum - a;
    (sum, (a - (sum - part)) + (b - part))
}

/// A value that lies between two doubles, rounded to the one whose last bit is odd: rounding it again, to two bits less or fewer, is exact.
pub(super) fn to_odd(sum: f64, error: f64) -> f64 {
    if error == 0.0 || error.is_nan() || !sum.is_finite() || sum.to_bits() & 1 == 1 {
        return sum;
    }
    if sum == 0.0 {
        return error;
    }
    // Even and inexact: the neighbour on the error's side is odd.
    let away = (error > 0.0) == (sum > 0.0);
    f64::from_bits(if away { sum.to_bits() + 1 } else { sum.to_bits() - 1 })
}

/// The bits of `x` in a smaller format. NaN becomes the canonical one, all ones but the sign.
pub(super) fn pack(x: f64, format: Format, mode: Mode) -> u32 {
    let Format { significand, least, greatest } = format;
    let infinity = (((greatest - least + 2) as u64) << significand) as u32;
    let sign_at = 32 - (infinity.leading_zeros() - 1) - 1;
    let sign = ((x.to_bits() >> 63) as u32) << sign_at;
    if x.is_nan() {
        return infinity | ((1 << significand) - 1);
    }
    if x.is_infinite() {
        return sign | infinity;
    }
    let negative = x.is_sign_negative();
    let field = (x.to_bits() >> 52 & 0x7ff) as i32;
    let fraction = x.to_bits() & ((1 << 52) - 1);
    let (m, e) = if field == 0 { (fraction, -1022) } else { (fraction | 1 << 52, field - 1023) };
    // In units of 2^q: the last bit of the result.
    let lowest = least - significand as i32;
    let q = (e - significand as i32).max(lowest);
    let shift = (q - (e - 52)).clamp(0, 63) as u32;
    let kept = m >> shift;
    let rest = m & ((1u64 << shift) - 1);
    let half = if shift == 0 { 0 } else { 1u64 << (shift - 1) };
    let up = match mode {
        Mode::Nearest => rest > half || (rest == half && rest != 0 && kept & 1 == 1),
        Mode::Away => rest >= half && rest != 0,
        Mode::Zero => false,
        Mode::Down => rest != 0 && negative,
        Mode::Up => rest != 0 && !negative,
    };
    let bits = (((q - lowest) as u64) << significand) + kept + u64::from(up);
    if bits < u64::from(infinity) {
        return sign | bits as u32;
    }
    let to_infinity = match mode {
        Mode::Nearest | Mode::Away => true,
        Mode::Zero => false,
        Mode::Down => negative,
        Mode::Up => !negative,
    };
    sign | if to_infinity { infinity } else { infinity - 1 }
}

/// Exact `a * b + c` of f32 values, rounded once.
pub(super) fn fma_f32(a: f32, b: f32, c: f32, mode: Mode) -> f32 {
    let product = f64::from(a) * f64::from(b);
    let (sum, error) = two_sum(product, f64::from(c));
    if sum == 0.0 && error == 0.0 {
        let opposite = product.is_sign_negative() != c.is_sign_negative();
        return if opposite && mode == Mode::Down { -0.0 } else { sum as f32 };
    }
    f32::from_bits(pack(to_odd(sum, error), F32, mode))
}

/// `a / b` of f32 values, rounded once.
pub(super) fn div_f32(a: f32, b: f32, mode: Mode) -> f32 {
    let (x, y) = (f64::from(a), f64::from(b));
    let q = x / y;
    if !q.is_finite() || q == 0.0 {
        return q as f32;
    }
    // The remainder is exact; its sign, taken with the divisor's, is that of the error of q.
    let remainder = (-q).mul_add(y, x);
    f32::from_bits(pack(to_odd(q, remainder * y.signum()), F32, mode))
}

/// The square root of an f32 value, rounded once.
pub(super) fn sqrt_f32(a: f32, mode: Mode) -> f32 {
    let x = f64::from(a);
    let root = x.sqrt();
    if !root.is_finite() || root == 0.0 {
        return root as f32;
    }
    f32::from_bits(pack(to_odd(root, (-root).mul_add(root, x)), F32, mode))
}
