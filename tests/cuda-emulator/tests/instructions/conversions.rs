//! `cvt` between all types, in all modes.

use crate::common::thread;

const INTEGERS: [(&str, u32); 8] = [("u8", 8), ("s8", 8), ("u16", 16), ("s16", 16), ("u32", 32), ("s32", 32), ("u64", 64), ("s64", 64)];
/// A float format: its name, width, stored bits of the significand and bias of the exponent.
const FLOATS: [(&str, u32, u32, u64); 4] = [("f16", 16, 10, 15), ("bf16", 16, 7, 127), ("f32", 32, 23, 127), ("f64", 64, 52, 1023)];
const MODES: [&str; 4] = ["rn", "rz", "rm", "rp"];

/// `cvt.<form>` of bits, with registers of the widths: 64, 32, or 16 for all less.
fn convert(form: &str, to: u32, from: u32, bits: u64) -> u64 {
    let (setup, source) = match from {
        64 => ("", "%a"),
        32 => ("", "%ra"),
        _ => ("cvt.u16.u32 %h0, %ra;", "%h0"),
    };
    let (result, after) = match to {
        64 => ("%x", ""),
        32 => ("%rx", ""),
        _ => ("%h1", "mov.b32 %rx, {%h1, %h1};"),
    };
    let out = thread(&format!("{setup} cvt.{form} {result}, {source}; {after}"), [bits, 0, 0, 0]);
    match to {
        64 => out.wide,
        32 => out.word.into(),
        _ => (out.word & 0xffff).into(),
    }
}

/// The value of an integer's low bits.
fn value(kind: &str, width: u32, bits: u64) -> i128 {
    let unsigned = i128::from(bits & (u64::MAX >> (64 - width)));
    let negative = kind.starts_with('s') && unsigned >> (width - 1) == 1;
    if negative { unsigned - (1 << width) } else { unsigned }
}

/// The register that holds an integer: extended by its sign to the width of the register.
fn register(value: i128, width: u32) -> u64 {
    value as u64 & (u64::MAX >> (64 - width.max(16)))
}

fn ends(kind: &str, width: u32) -> (i128, i128) {
    if kind.starts_with('s') { (-(1 << (width - 1)), (1 << (width - 1)) - 1) } else { (0, (1 << width) - 1) }
}

#[test]
fn between_integers() {
    for (from, n) in INTEGERS {
        for (to, m) in INTEGERS {
            for bits in [0, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0x8001_8081, 0x7fff_ffff, 0xffff_ffff, 0x1_0000_0005, 1 << 63, u64::MAX] {
                let x = value(from, n, bits);
                let wrapped = register(value(to, m, x as u64), m);
                assert_eq!(convert(&format!("{to}.{from}"), m, n, bits), wrapped, "cvt.{to}.{from} of {bits:#x}");
                let (least, greatest) = ends(to, m);
                let clamped = register(x.clamp(least, greatest), m);
                assert_eq!(convert(&format!("sat.{to}.{from}"), m, n, bits), clamped, "cvt.sat.{to}.{from} of {bits:#x}");
            }
        }
    }
    // A narrow result in a wide register is extended by its sign.
    for (form, expected) in [("s8.s32", 0xffff_ff85), ("u8.s32", 0x85), ("s16.s32", 0xffff_8485), ("u16.u32", 0x8485)] {
        assert_eq!(convert(form, 32, 32, 0x8685_8485), expected, "{form}");
    }
    assert_eq!(convert("s16.s64", 32, 64, 0x1_8485), 0xffff_8485);
}

/// A whole number `(2^precision + last) * sign`: the numbers nearby that the format has are even.
#[test]
fn from_integers() {
    for (to, width, significand, bias) in FLOATS {
        for (from, n) in INTEGERS {
            let precision = significand + 1;
            let sign = 1u64 << (width - 1);
            // 100 = 1.5625 * 2^6 is exact in all formats.
            let hundred = (bias + 6) << significand | 0x90 << significand >> 8;
            let minus = (from.starts_with('s'), (-100i64) as u64);
            for (mode, at) in MODES.into_iter().zip(0..) {
                let form = format!("{mode}.{to}.{from}");
                assert_eq!(convert(&form, width, n, 100), hundred, "cvt.{form} of 100");
                if minus.0 {
                    assert_eq!(convert(&form, width, n, minus.1), sign | hundred, "cvt.{form} of -100");
                }
                if n <= precision + 1 {
                    continue;
                }
                let base = (bias + u64::from(precision)) << significand;
                for (last, expected) in [(1, [0, 0, 0, 1]), (3, [2, 1, 1, 2])] {
                    let x = (1u64 << precision) + last;
                    assert_eq!(convert(&form, width, n, x), base + expected[at], "cvt.{form} of {x}");
                    if minus.0 {
                        let expected = [expected[0], expected[1], expected[3], expected[2]];
                        assert_eq!(convert(&form, width, n, x.wrapping_neg()), sign | (base + expected[at]), "cvt.{form} of -{x}");
                    }
                }
            }
        }
    }
    assert_eq!(convert("rz.f16.u32", 16, 32, 65520), 0x7bff);
    assert_eq!(convert("rn.f16.u32", 16, 32, 65520), 0x7c00);
    assert_eq!(convert("rp.f64.u64", 64, 64, u64::MAX), 2f64.powi(64).to_bits());
    assert_eq!(convert("rz.f64.u64", 64, 64, u64::MAX), 2f64.powi(64).to_bits() - 1);
}

/// Bits of 2.5 and 3.5 in a format: 1.01 and 1.11 times 2.
fn halves(significand: u32, bias: u64) -> [u64; 2] {
    let base = (bias + 1) << significand;
    [base | 1 << (significand - 2), base | 3 << (significand - 2)]
}

#[test]
fn to_integers() {
    for (from, width, significand, bias) in FLOATS {
        let sign = 1u64 << (width - 1);
        let infinity = (2 * bias + 1) << significand;
        let [two, three] = halves(significand, bias);
        for (to, n) in INTEGERS {
            let (least, greatest) = ends(to, n);
            for (mode, at) in ["rni", "rzi", "rmi", "rpi"].into_iter().zip(0..) {
                let rows = [(two, [2, 2, 2, 3]), (three, [4, 3, 3, 4]), (sign | two, [-2, -2, -3, -2]), (sign | three, [-4, -3, -4, -3])];
                let forms = if from == "f32" { vec![mode.to_owned(), format!("{mode}.ftz")] } else { vec![mode.to_owned()] };
                for form in forms {
                    let form = format!("{form}.{to}.{from}");
                    for (bits, expected) in rows {
                        let expected = register(i128::clamp(expected[at], least, greatest), n);
                        assert_eq!(convert(&form, n, width, bits), expected, "cvt.{form} of {bits:#x}");
                    }
                    assert_eq!(convert(&form, n, width, infinity), register(greatest, n), "cvt.{form} of infinity");
                    assert_eq!(convert(&form, n, width, sign | infinity), register(least, n), "cvt.{form} of -infinity");
                    // By the ISA, of NaN: zero, but the upper bit alone where source or result has 64 bits.
                    let nan = if from == "f64" || n == 64 { 1i128 << (n - 1) } else { 0 };
                    let nan = register(value(to, n, nan as u64), n);
                    assert_eq!(convert(&form, n, width, infinity | 1), nan, "cvt.{form} of NaN");
                }
            }
        }
    }
    assert_eq!(convert("rpi.s32.f32", 32, 32, 1), 1);
    assert_eq!(convert("rpi.ftz.s32.f32", 32, 32, 1), 0);
}

#[test]
fn to_integral_floats() {
    for (kind, width, significand, bias) in FLOATS.into_iter().filter(|format| format.0 != "bf16") {
        let sign = 1u64 << (width - 1);
        let [two, three] = halves(significand, bias);
        let whole = |n: i32| {
            let magnitude = match n.abs() {
                2 => (bias + 1) << significand,
                3 => (bias + 1) << significand | 1 << (significand - 1),
                _ => (bias + 2) << significand,
            };
            if n < 0 { sign | magnitude } else { magnitude }
        };
        let one = bias << significand;
        for (mode, at) in ["rni", "rzi", "rmi", "rpi"].into_iter().zip(0..) {
            let flushes = if kind == "f32" { vec!["", ".ftz"] } else { vec![""] };
            for flush in flushes {
                for (bits, expected) in [(two, [2, 2, 2, 3]), (three, [4, 3, 3, 4]), (sign | two, [-2, -2, -3, -2])] {
                    let form = format!("{mode}{flush}.{kind}.{kind}");
                    assert_eq!(convert(&form, width, width, bits), whole(expected[at]), "cvt.{form} of {bits:#x}");
                    let form = format!("{mode}{flush}.sat.{kind}.{kind}");
                    let expected = if expected[at] > 0 { one } else { 0 };
                    assert_eq!(convert(&form, width, width, bits), expected, "cvt.{form} of {bits:#x}");
                }
                // -0.5 keeps its sign where it becomes zero; a subnormal is something or nothing.
                let expected = [sign, sign, sign | one, sign][at];
                assert_eq!(convert(&format!("{mode}{flush}.{kind}.{kind}"), width, width, sign | (bias - 1) << significand), expected);
                let expected = if mode == "rpi" && flush.is_empty() { one } else { 0 };
                assert_eq!(convert(&format!("{mode}{flush}.{kind}.{kind}"), width, width, 1), expected);
            }
        }
    }
}

#[test]
fn to_wider_and_equal_floats() {
    let (f, d) = (|x: f32| u64::from(x.to_bits()), |x: f64| x.to_bits());
    for (form, to, from, bits, expected) in [
        ("f16.f16", 16, 16, 0xc100, 0xc100),
        ("sat.f16.f16", 16, 16, 0xc100, 0),
        ("sat.f16.f16", 16, 16, 0x4100, 0x3c00),
        ("f32.f32", 32, 32, f(-2.5), f(-2.5)),
        ("f32.f32", 32, 32, 1, 1),
        ("ftz.f32.f32", 32, 32, 0x8000_0001, 0x8000_0000),
        ("ftz.sat.f32.f32", 32, 32, f(0.75), f(0.75)),
        ("sat.f32.f32", 32, 32, f(0.75), f(0.75)),
        ("f64.f64", 64, 64, d(-2.5), d(-2.5)),
        ("sat.f64.f64", 64, 64, d(2.5), d(1.0)),
        ("sat.f64.f64", 64, 64, 0x7ff8 << 48, 0),
        ("f32.f16", 32, 16, 0x0001, f(5.9604645e-8)),
        ("sat.f32.f16", 32, 16, 0x4100, f(1.0)),
        ("ftz.f32.f16", 32, 16, 0x0001, f(5.9604645e-8)),
        ("ftz.sat.f32.f16", 32, 16, 0x8001, 0),
        ("f32.bf16", 32, 16, 0xc020, f(-2.5)),
        ("sat.f32.bf16", 32, 16, 0xc020, 0),
        ("f64.f16", 64, 16, 0xc100, d(-2.5)),
        ("sat.f64.f16", 64, 16, 0x4100, d(1.0)),
        ("f64.f32", 64, 32, 1, d(2f64.powi(-149))),
        ("sat.f64.f32", 64, 32, f(2.5), d(1.0)),
        ("ftz.f64.f32", 64, 32, 0x8000_0001, d(-0.0)),
        ("ftz.sat.f64.f32", 64, 32, f(0.5), d(0.5)),
    ] {
        let found = convert(form, to, from, bits);
        assert_eq!(found, expected, "cvt.{form} of {bits:#x}: {found:#x}, not {expected:#x}");
    }
}

/// 1 and the number above it, with something between: a quarter of the way, half and three quarters.
#[test]
fn to_narrower_floats() {
    for (to, from, flushes) in [("f16", "f32", true), ("bf16", "f32", false), ("f16", "f64", false), ("f32", "f64", true)] {
        let format = |name: &str| FLOATS.into_iter().find(|format| format.0 == name).unwrap();
        let ((_, m, significand, bias), (_, n, wide, wide_bias)) = (format(to), format(from));
        let quarter = 1u64 << (wide - significand - 2);
        let (one, sign) = (wide_bias << wide, 1u64 << (n - 1));
        let result = |up: u64, negative: bool| (u64::from(negative) << (m - 1)) | ((bias << significand) + up);
        for (mode, at) in MODES.into_iter().zip(0..) {
            for flush in if flushes { vec!["", ".ftz"] } else { vec![""] } {
                let form = format!("{mode}{flush}.{to}.{from}");
                for (quarters, up) in [(1, [0, 0, 0, 1]), (2, [0, 0, 0, 1]), (3, [1, 0, 0, 1])] {
                    let bits = one + quarters * quarter;
                    assert_eq!(convert(&form, m, n, bits), result(up[at], false), "cvt.{form} of 1 and {quarters} quarters");
                    let up = [up[0], up[1], up[3], up[2]];
                    assert_eq!(convert(&form, m, n, sign | bits), result(up[at], true), "cvt.{form} of -1 and {quarters} quarters");
                }
                let form = format!("{mode}{flush}.sat.{to}.{from}");
                assert_eq!(convert(&form, m, n, one + quarter), result(0, false), "cvt.{form}");
                assert_eq!(convert(&form, m, n, sign | one), 0, "cvt.{form} of -1");
                assert_eq!(convert(&form, m, n, one - (1 << (wide - 1))), result(0, false) - (1 << (significand - 1)), "cvt.{form} of 3/4");
            }
        }
    }
    // 2^-127 is subnormal in f32: flushed as a source or as a result.
    assert_eq!(convert("rn.f32.f64", 32, 64, 2f64.powi(-127).to_bits()), 0x0040_0000);
    assert_eq!(convert("rn.ftz.f32.f64", 32, 64, 2f64.powi(-127).to_bits()), 0);
    assert_eq!(convert("rp.f16.f32", 16, 32, 0x0040_0000), 1);
    assert_eq!(convert("rp.ftz.f16.f32", 16, 32, 0x0040_0000), 0);
}
