//! f32 arithmetic in every rounding mode, with and without flushing and saturation.

use crate::common::thread;

const ULP: f32 = f32::EPSILON;
/// Far less than half an ulp of 1.
const LITTLE: f32 = 9.313226e-10;
const MODES: [&str; 4] = [".rn", ".rz", ".rm", ".rp"];

fn float(opcode: &str, operands: &[f32]) -> f32 {
    let list = &["%ra", "%rb", "%rc"][..operands.len()];
    let mut row = [0; 4];
    row.iter_mut().zip(operands).for_each(|(word, x)| *word = u64::from(x.to_bits()));
    f32::from_bits(thread(&format!("{opcode} %rx, {};", list.join(", ")), row).word)
}

#[track_caller]
fn same(found: f32, expected: f32, what: &str) {
    assert_eq!(found.to_bits(), expected.to_bits(), "{what}: {found:e}, not {expected:e}");
}

/// Operands, and the result to nearest, to zero, down and up.
type Row<'a> = (&'a str, &'a [f32], [f32; 4]);

/// 1/3 lies between these: the upper one is nearer.
const THIRDS: [f32; 2] = [f32::from_bits(0x3eaa_aaaa), f32::from_bits(0x3eaa_aaab)];
/// The root of 2 lies between these: the lower one is nearer.
const ROOTS: [f32; 2] = [f32::from_bits(0x3fb5_04f3), f32::from_bits(0x3fb5_04f4)];

const ROUNDED: [Row; 16] = [
    ("add", &[1.0, LITTLE], [1.0, 1.0, 1.0, 1.0 + ULP]),
    ("add", &[-1.0, -LITTLE], [-1.0, -1.0, -1.0 - ULP, -1.0]),
    ("add", &[1.0, 0.75 * ULP], [1.0 + ULP, 1.0, 1.0, 1.0 + ULP]),
    // A sum of zero is negative only downwards.
    ("add", &[0.25, -0.25], [0.0, 0.0, -0.0, 0.0]),
    ("sub", &[1.0, -LITTLE], [1.0, 1.0, 1.0, 1.0 + ULP]),
    ("sub", &[-1.0, LITTLE], [-1.0, -1.0, -1.0 - ULP, -1.0]),
    ("mul", &[1.0 + ULP, 0.5 + ULP], [0.5 + 1.5 * ULP, 0.5 + 1.5 * ULP, 0.5 + 1.5 * ULP, 0.5 + 2.0 * ULP]),
    ("mul", &[-1.0 - ULP, 1.0 + ULP], [-1.0 - 2.0 * ULP, -1.0 - 2.0 * ULP, -1.0 - 3.0 * ULP, -1.0 - 2.0 * ULP]),
    ("fma", &[0.5, 1.0, LITTLE / 4.0], [0.5, 0.5, 0.5, 0.5 + ULP / 2.0]),
    ("fma", &[-1.0, 1.0, LITTLE], [-1.0, -1.0 + ULP / 2.0, -1.0, -1.0 + ULP / 2.0]),
    ("mad", &[0.5, 1.0, LITTLE / 4.0], [0.5, 0.5, 0.5, 0.5 + ULP / 2.0]),
    ("div", &[1.0, 3.0], [THIRDS[1], THIRDS[0], THIRDS[0], THIRDS[1]]),
    ("div", &[-1.0, 3.0], [-THIRDS[1], -THIRDS[0], -THIRDS[1], -THIRDS[0]]),
    ("rcp", &[3.0], [THIRDS[1], THIRDS[0], THIRDS[0], THIRDS[1]]),
    ("rcp", &[-3.0], [-THIRDS[1], -THIRDS[0], -THIRDS[1], -THIRDS[0]]),
    ("sqrt", &[2.0], [ROOTS[0], ROOTS[0], ROOTS[0], ROOTS[1]]),
];

/// Operands with results, kept and flushed: of subnormal operands, and of subnormal results.
const SMALL: [(&str, &[f32], f32, f32); 11] = [
    ("add", &[-1e-39, -1e-39], -2e-39, -0.0),
    ("add", &[1.5 * f32::MIN_POSITIVE, -f32::MIN_POSITIVE], 0.5 * f32::MIN_POSITIVE, 0.0),
    ("sub", &[f32::MIN_POSITIVE, 1.5 * f32::MIN_POSITIVE], -0.5 * f32::MIN_POSITIVE, -0.0),
    ("mul", &[1e-39, 16777216.0], 1e-39 * 16777216.0, 0.0),
    ("mul", &[2.0 * f32::MIN_POSITIVE, 0.25], 0.5 * f32::MIN_POSITIVE, 0.0),
    ("fma", &[1e-39, 16777216.0, 0.5], 0.5, 0.5),
    ("fma", &[1.0, 1e-39, 1e-39], 2e-39, 0.0),
    ("mad", &[1.0, 1e-39, 1e-39], 2e-39, 0.0),
    ("div", &[f32::MIN_POSITIVE, 4.0], 0.25 * f32::MIN_POSITIVE, 0.0),
    ("rcp", &[1.7014118e38], 0.5 * f32::MIN_POSITIVE, 0.0),
    ("sqrt", &[5.877472e-39], 7.666467e-20, 0.0),
];

fn modes(base: &str) -> Vec<(&'static str, usize)> {
    let mut modes: Vec<(&str, usize)> = MODES.into_iter().zip(0..).collect();
    // Sums and products without a mode are rounded to nearest.
    if matches!(base, "add" | "sub" | "mul") {
        modes.push(("", 0));
    }
    modes
}

fn saturations(base: &str) -> &'static [&'static str] {
    if matches!(base, "div" | "rcp" | "sqrt") { &[""] } else { &["", ".sat"] }
}

fn saturated(x: f32, how: &str) -> f32 {
    match how {
        "" => x,
        _ if x > 1.0 => 1.0,
        _ if x > 0.0 => x,
        _ => 0.0,
    }
}

#[test]
fn every_mode_rounds() {
    for (base, operands, expected) in ROUNDED {
        for (mode, at) in modes(base) {
            for flush in ["", ".ftz"] {
                for saturation in saturations(base) {
                    let opcode = format!("{base}{mode}{flush}{saturation}.f32");
                    let expected = saturated(expected[at], saturation);
                    same(float(&opcode, operands), expected, &format!("{opcode} of {operands:?}"));
                }
            }
        }
    }
}

/// All operands and results here are exact, so no mode changes them; the root is the exception, and is left to the nearest.
#[test]
fn subnormals_are_kept_or_flushed() {
    for (base, operands, kept, flushed) in SMALL {
        for (mode, at) in modes(base) {
            if (base == "sqrt" || (operands == [1e-39, 16777216.0, 0.5])) && at != 0 {
                continue;
            }
            for saturation in saturations(base) {
                let opcode = format!("{base}{mode}{saturation}.f32");
                same(float(&opcode, operands), saturated(kept, saturation), &format!("{opcode} of {operands:?}"));
                let opcode = format!("{base}{mode}.ftz{saturation}.f32");
                same(float(&opcode, operands), saturated(flushed, saturation), &format!("{opcode} of {operands:?}"));
            }
        }
    }
}

#[test]
fn nan_is_canonical_or_saturates_to_zero() {
    let nan = f32::from_bits(0xff80_0001);
    for base in ["add", "sub", "mul", "fma", "mad", "div", "rcp", "sqrt"] {
        let operands = match base {
            "rcp" | "sqrt" => vec![nan],
            "fma" | "mad" => vec![1.0, nan, 1.0],
            _ => vec![1.0, nan],
        };
        for (mode, _) in modes(base) {
            for flush in ["", ".ftz"] {
                for saturation in saturations(base) {
                    let opcode = format!("{base}{mode}{flush}{saturation}.f32");
                    let expected = if saturation.is_empty() { f32::from_bits(0x7fff_ffff) } else { 0.0 };
                    same(float(&opcode, &operands), expected, &opcode);
                }
            }
        }
    }
}

/// Approximate functions of operands whose results are exact, at the ends of their ranges, and of subnormal operands and results.
#[test]
fn approximations_at_their_ends() {
    const TINY: f32 = 1e-39;
    let inf = f32::INFINITY;
    for (form, operands, kept, flushed) in [
        ("div.approx", &[3.0, 2.0][..], 1.5, 1.5),
        ("div.approx", &[f32::MIN_POSITIVE, 4.0], 0.25 * f32::MIN_POSITIVE, 0.0),
        ("div.full", &[3.0, 2.0], 1.5, 1.5),
        ("div.full", &[f32::MIN_POSITIVE, 4.0], 0.25 * f32::MIN_POSITIVE, 0.0),
        ("rcp.approx", &[-0.0], -inf, -inf),
        ("rcp.approx", &[1.7014118e38], 0.5 * f32::MIN_POSITIVE, 0.0),
        ("rsqrt.approx", &[-0.0], -inf, -inf),
        ("rsqrt.approx", &[4.0], 0.5, 0.5),
        ("sqrt.approx", &[-0.0], -0.0, -0.0),
        ("sqrt.approx", &[4.0], 2.0, 2.0),
        ("ex2.approx", &[3.0], 8.0, 8.0),
        ("ex2.approx", &[-127.0], 0.5 * f32::MIN_POSITIVE, 0.0),
        ("lg2.approx", &[0.25], -2.0, -2.0),
        ("lg2.approx", &[0.5 * f32::MIN_POSITIVE], -127.0, -inf),
        ("sin.approx", &[-TINY], -TINY, -0.0),
        ("cos.approx", &[TINY], 1.0, 1.0),
    ] {
        same(float(&format!("{form}.f32"), operands), kept, &format!("{form} of {operands:?}"));
        same(float(&format!("{form}.ftz.f32"), operands), flushed, &format!("{form}.ftz of {operands:?}"));
    }
}
