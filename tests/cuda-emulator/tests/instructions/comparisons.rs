//! `setp` and `testp` in all forms.

use crate::common::{thread, threads};

/// What each comparison says where the first operand is less, equal, greater, and where one is NaN.
const TRUTH: [(&str, [bool; 4]); 18] = [
    ("eq", [false, true, false, false]),
    ("ne", [true, false, true, false]),
    ("lt", [true, false, false, false]),
    ("le", [true, true, false, false]),
    ("gt", [false, false, true, false]),
    ("ge", [false, true, true, false]),
    ("lo", [true, false, false, false]),
    ("ls", [true, true, false, false]),
    ("hi", [false, false, true, false]),
    ("hs", [false, true, true, false]),
    ("equ", [false, true, false, true]),
    ("neu", [true, false, true, true]),
    ("ltu", [true, false, false, true]),
    ("leu", [true, true, false, true]),
    ("gtu", [false, false, true, true]),
    ("geu", [false, true, true, true]),
    ("num", [true, true, true, false]),
    ("nan", [false, false, false, true]),
];

/// A type, a lesser and a greater value of it, and a NaN where it has one. All ones are less than 1 with a sign and more without.
const TYPES: [(&str, u64, u64, Option<u64>); 13] = [
    ("b16", 1, 0xffff, None),
    ("u16", 1, 0xffff, None),
    ("s16", 0xffff, 1, None),
    ("b32", 1, 0xffff_ffff, None),
    ("u32", 1, 0xffff_ffff, None),
    ("s32", 0xffff_ffff, 1, None),
    ("b64", 1, u64::MAX, None),
    ("u64", 1, u64::MAX, None),
    ("s64", u64::MAX, 1, None),
    ("f16", 0xbc00, 0x3c00, Some(0x7e00)),
    ("bf16", 0xbf80, 0x3f80, Some(0x7fc0)),
    ("f32", 0xbf80_0000, 0x3f80_0000, Some(0x7fc0_0000)),
    ("f64", 0xbff0_0000_0000_0000, 0x3ff0_0000_0000_0000, Some(0x7ff8_0000_0000_0000)),
];

/// Predicates of `setp.<form>` on the four orders, each with a false and a true predicate to combine with.
fn compare(form: &str, combines: bool, (kind, less, greater, nan): (&str, u64, u64, Option<u64>)) -> Vec<(bool, bool)> {
    let (setup, a, b) = match &kind[1..] {
        "16" | "f16" => ("cvt.u16.u32 %h0, %ra; cvt.u16.u32 %h1, %rb;", "%h0", "%h1"),
        "64" => ("", "%a", "%b"),
        _ => ("", "%ra", "%rb"),
    };
    let third = if combines { ", %s" } else { "" };
    let mut orders = vec![(less, greater), (greater, greater), (greater, less)];
    orders.extend(nan.map(|nan| (nan, less)));
    let rows: Vec<[u64; 4]> = orders.iter().flat_map(|&(a, b)| [[a, b, 0, 0], [a, b, 1, 0]]).collect();
    let body = format!("{setup} setp.ne.u32 %s, %rc, 0; setp.{form}.{kind} %p|%q, {a}, {b}{third};");
    threads(&body, &rows).iter().map(|out| (out.p, out.q)).collect()
}

#[test]
fn comparisons_of_every_type() {
    for kind in TYPES {
        let float = kind.3.is_some();
        let unsigned = kind.0.starts_with('u');
        for (name, truth) in TRUTH {
            let exists = match name {
                "eq" | "ne" => true,
                "lt" | "le" | "gt" | "ge" => !kind.0.starts_with("b16") && kind.0 != "b32" && kind.0 != "b64",
                "lo" | "ls" | "hi" | "hs" => unsigned,
                _ => float,
            };
            if exists {
                check(name, &truth, kind, "");
                if kind.0 == "f32" {
                    check(name, &truth, kind, ".ftz");
                }
            }
        }
    }
}

fn check(name: &str, truth: &[bool; 4], kind: (&str, u64, u64, Option<u64>), flush: &str) {
    for combination in ["", ".and", ".or", ".xor"] {
        let form = format!("{name}{combination}{flush}");
        let found = compare(&form, !combination.is_empty(), kind);
        for (row, found) in found.iter().enumerate() {
            let (holds, other) = (truth[row / 2], row % 2 == 1);
            let join = |holds: bool| match combination {
                "" => holds,
                ".and" => holds && other,
                ".or" => holds || other,
                _ => holds != other,
            };
            // The second result is that of the opposite comparison.
            assert_eq!(*found, (join(holds), join(!holds)), "setp.{form}.{} of order {} with {other}", kind.0, row / 2);
        }
    }
}

#[test]
fn zeros_and_subnormals_compare() {
    let minus = 1 << 31;
    for (body, a, b, p) in [
        ("setp.eq.f32 %p, %ra, %rb;", 0, minus, true),
        ("setp.lt.f32 %p, %ra, %rb;", minus, 0, false),
        ("setp.eq.f32 %p, %ra, %rb;", 1, minus | 1, false),
        ("setp.eq.ftz.f32 %p, %ra, %rb;", 1, minus | 1, true),
        ("setp.gt.ftz.f32 %p, %ra, %rb;", 0x0080_0000, 0x007f_ffff, true),
        ("setp.eq.f64 %p, %a, %b;", 0, 1 << 63, true),
    ] {
        assert_eq!(thread(body, [a, b, 0, 0]).p, p, "{body} of {a:#x}, {b:#x}");
    }
}

#[test]
fn kinds_of_numbers() {
    // A NaN, an infinity, a normal number, a subnormal one, a zero: to `testp`, zeros are normal.
    let single = [0x7fc0_0000, 0xff80_0000, 0x3f80_0000, 0x8000_0001, 0x8000_0000u64];
    let double = [0x7ff8 << 48, 0xfff0 << 48, 0x3ff0 << 48, 1 << 63 | 1, 1 << 63];
    for (name, expected) in [
        ("finite", [false, false, true, true, true]),
        ("infinite", [false, true, false, false, false]),
        ("number", [false, true, true, true, true]),
        ("notanumber", [true, false, false, false, false]),
        ("normal", [false, false, true, false, true]),
        ("subnormal", [false, false, false, true, false]),
    ] {
        for (kind, values, register) in [("f32", single, "%ra"), ("f64", double, "%a")] {
            for (value, expected) in values.iter().zip(expected) {
                let found = thread(&format!("testp.{name}.{kind} %p, {register};"), [*value, 0, 0, 0]).p;
                assert_eq!(found, expected, "testp.{name}.{kind} of {value:#x}");
            }
        }
    }
}
