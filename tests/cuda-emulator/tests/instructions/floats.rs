//! Floating-point instructions: rounding in every mode, conversions, packed halves against values computed by hand; approximate functions
//! against the error that the PTX ISA states.

use crate::common::{thread, threads};

fn float(body: &str, a: f32, b: f32, c: f32) -> f32 {
    f32::from_bits(word(body, a.to_bits(), b.to_bits(), c.to_bits()))
}

fn word(body: &str, a: u32, b: u32, c: u32) -> u32 {
    thread(body, [a.into(), b.into(), c.into(), 0]).word
}

const TINY: f32 = f32::from_bits(1);
const NAN: u32 = 0x7fff_ffff;
/// The spacing of floats just above 1.
const ULP: f32 = f32::EPSILON;

#[test]
fn arithmetic_of_f32() {
    for (body, a, b, c, expected) in [
        ("add.f32 %rx, %ra, %rb;", 1.0, ULP / 2.0, 0.0, 1.0),
        ("add.rz.f32 %rx, %ra, %rb;", 1.0, -TINY, 0.0, 1.0 - ULP / 2.0),
        ("add.rm.f32 %rx, %ra, %rb;", 1.0, TINY, 0.0, 1.0),
        ("add.rp.f32 %rx, %ra, %rb;", 1.0, TINY, 0.0, 1.0 + ULP),
        ("sub.f32 %rx, %ra, %rb;", 3.0, 5.0, 0.0, -2.0),
        ("sub.rp.f32 %rx, %ra, %rb;", 1.0, TINY, 0.0, 1.0),
        ("sub.rm.f32 %rx, %ra, %rb;", 1.0, TINY, 0.0, 1.0 - ULP / 2.0),
        ("mul.f32 %rx, %ra, %rb;", 1.0 + ULP, 1.0 + ULP, 0.0, 1.0 + 2.0 * ULP),
        ("mul.rp.f32 %rx, %ra, %rb;", 1.0 + ULP, 1.0 + ULP, 0.0, 1.0 + 3.0 * ULP),
        ("mul.rm.f32 %rx, %ra, %rb;", -1.0 - ULP, 1.0 + ULP, 0.0, -1.0 - 3.0 * ULP),
        // One rounding only: the product alone would round to 1 + 2 ulp.
        ("fma.rn.f32 %rx, %ra, %rb, %rc;", 1.0 + ULP, 1.0 + ULP, -1.0 - 2.0 * ULP, ULP * ULP),
        ("fma.rm.f32 %rx, %ra, %rb, %rc;", 1.0, 1.0, -TINY, 1.0 - ULP / 2.0),
        ("fma.rz.f32 %rx, %ra, %rb, %rc;", -1.0, 1.0, TINY, -1.0 + ULP / 2.0),
        ("fma.rp.f32 %rx, %ra, %rb, %rc;", 2.0, 3.0, TINY, 6.0 + 4.0 * ULP),
        ("div.rn.f32 %rx, %ra, %rb;", 1.0, 3.0, 0.0, 1.0 / 3.0),
        ("div.rm.f32 %rx, %ra, %rb;", 1.0, 3.0, 0.0, f32::from_bits((1f32 / 3.0).to_bits() - 1)),
        ("div.rp.f32 %rx, %ra, %rb;", 1.0, 3.0, 0.0, 1.0 / 3.0),
        ("rcp.rn.f32 %rx, %ra;", 4.0, 0.0, 0.0, 0.25),
        ("rcp.rz.f32 %rx, %ra;", 3.0, 0.0, 0.0, f32::from_bits((1f32 / 3.0).to_bits() - 1)),
        ("sqrt.rn.f32 %rx, %ra;", 2.0, 0.0, 0.0, std::f32::consts::SQRT_2),
        // The root of 2 is 1.41421356237, the nearest float 1.41421354.
        ("sqrt.rm.f32 %rx, %ra;", 2.0, 0.0, 0.0, std::f32::consts::SQRT_2),
        ("sqrt.rp.f32 %rx, %ra;", 2.0, 0.0, 0.0, std::f32::consts::SQRT_2 + ULP),
        ("neg.f32 %rx, %ra;", 2.0, 0.0, 0.0, -2.0),
        ("abs.f32 %rx, %ra;", -2.0, 0.0, 0.0, 2.0),
        ("min.f32 %rx, %ra, %rb;", f32::NAN, 2.0, 0.0, 2.0),
        ("max.f32 %rx, %ra, %rb;", -1.0, f32::NAN, 0.0, -1.0),
        ("add.sat.f32 %rx, %ra, %rb;", 0.75, 0.75, 0.0, 1.0),
        ("fma.rn.sat.f32 %rx, %ra, %rb, %rc;", 1.0, -1.0, 0.5, 0.0),
        ("copysign.f32 %rx, %ra, %rb;", -1.0, 5.0, 0.0, -5.0),
        ("mul.f32 %rx, %ra, 0f3F000000;", TINY * 4.0, 0.0, 0.0, TINY * 2.0),
        ("mul.ftz.f32 %rx, %ra, 0f3F000000;", TINY * 4.0, 0.0, 0.0, 0.0),
        ("add.ftz.f32 %rx, %ra, %rb;", f32::MIN_POSITIVE, -f32::MIN_POSITIVE / 2.0, 0.0, f32::MIN_POSITIVE),
        ("selp.f32 %rx, %ra, %rb, %p;", 1.0, 2.0, 0.0, 2.0),
    ] {
        let found = float(body, a, b, c);
        assert_eq!(found.to_bits(), expected.to_bits(), "{body} of {a:?}, {b:?}, {c:?}: {found:?}, not {expected:?}");
    }
    // NaN results are canonical; zeros order below.
    assert_eq!(word("add.f32 %rx, %ra, %rb;", 0xff80_0001, 0, 0), NAN);
    assert_eq!(word("min.f32 %rx, %ra, %rb;", 0, 0x8000_0000, 0), 0x8000_0000);
    assert_eq!(word("max.f32 %rx, %ra, %rb;", 0x8000_0000, 0, 0), 0);
    assert_eq!(word("max.NaN.f32 %rx, %ra, %rb;", NAN, 0, 0), NAN);
    assert_eq!(word("max.NaN.f32 %rx, %ra, %rb;", 0x8000_0000, 0, 0), 0);
    assert_eq!(word("min.NaN.f32 %rx, %ra, %rb;", 0, 0xff80_0001, 0), NAN);
    assert_eq!(word("min.NaN.f32 %rx, %ra, %rb;", 0, 0x8000_0000, 0), 0x8000_0000);
    assert_eq!(word("add.rm.f32 %rx, %ra, %rb;", 1f32.to_bits(), (-1f32).to_bits(), 0), 0x8000_0000);
    // Overflow goes to infinity or to the greatest number, by mode.
    let max = f32::MAX.to_bits();
    assert_eq!(word("add.rn.f32 %rx, %ra, %rb;", max, max, 0), 0x7f80_0000);
    assert_eq!(word("add.rz.f32 %rx, %ra, %rb;", max, max, 0), max);
}

#[test]
fn arithmetic_of_f64() {
    let double = |body: &str, a: f64, b: f64, c: f64| f64::from_bits(thread(body, [a.to_bits(), b.to_bits(), c.to_bits(), 0]).wide);
    let ulp = f64::EPSILON;
    // Half an ulp of 1 is a tie and goes to even, down from 1 and up from the next.
    for mode in ["", ".rn"] {
        assert_eq!(double(&format!("add{mode}.f64 %x, %a, %b;"), 1.0, ulp / 2.0, 0.0), 1.0);
        assert_eq!(double(&format!("add{mode}.f64 %x, %a, %b;"), 1.0 + ulp, ulp / 2.0, 0.0), 1.0 + 2.0 * ulp);
        assert_eq!(double(&format!("sub{mode}.f64 %x, %a, %b;"), 1.0, -0.75 * ulp, 0.0), 1.0 + ulp);
        assert_eq!(double(&format!("sub{mode}.f64 %x, %a, %b;"), 3.0, 5.0, 0.0), -2.0);
        assert_eq!(double(&format!("mul{mode}.f64 %x, %a, %b;"), 1.0 + ulp, 1.0 + ulp, 0.0), 1.0 + 2.0 * ulp);
    }
    assert_eq!(double("mad.rn.f64 %x, %a, %b, %c;", 1.0 + ulp, 1.0 - ulp, -1.0), -ulp * ulp);
    assert_eq!(double("rcp.rn.f64 %x, %a;", 3.0, 0.0, 0.0), f64::from_bits(0x3fd5_5555_5555_5555));
    assert_eq!(double("abs.f64 %x, %a;", -2.5, 0.0, 0.0), 2.5);
    assert_eq!(double("copysign.f64 %x, %a, %b;", -1.0, 5.0, 0.0), -5.0);
    let zeros = |body: &str, a: f64, b: f64| double(body, a, b, 0.0).to_bits();
    assert_eq!(zeros("min.f64 %x, %a, %b;", 0.0, -0.0), 1 << 63);
    assert_eq!(zeros("max.f64 %x, %a, %b;", -0.0, 0.0), 0);
    assert_eq!(double("min.f64 %x, %a, %b;", -1.5, 2.0, 0.0), -1.5);
    assert_eq!(double("min.f64 %x, %a, %b;", f64::NAN, 2.0, 0.0), 2.0);
    assert_eq!(double("min.f64 %x, %a, %b;", 2.0, f64::NAN, 0.0), 2.0);
    assert!(double("min.f64 %x, %a, %b;", f64::NAN, f64::NAN, 0.0).is_nan());
    assert_eq!(double("fma.rn.f64 %x, %a, %b, %c;", 1.0 + f64::EPSILON, 1.0 - f64::EPSILON, -1.0), -f64::EPSILON * f64::EPSILON);
    assert_eq!(double("div.rn.f64 %x, %a, %b;", 1.0, 3.0, 0.0), 1.0 / 3.0);
    assert_eq!(double("sqrt.rn.f64 %x, %a;", 2.0, 0.0, 0.0), std::f64::consts::SQRT_2);
    assert_eq!(double("neg.f64 %x, %a;", 2.0, 0.0, 0.0), -2.0);
    assert_eq!(double("max.f64 %x, %a, %b;", f64::NAN, 2.0, 0.0), 2.0);
    assert_eq!(double("cvt.f64.f32 %x, %ra; add.f64 %x, %x, 0d3FF0000000000000;", f64::from_bits(0x4000_0000), 0.0, 0.0), 3.0);
}

#[test]
fn conversions() {
    let f = |x: f32| x.to_bits();
    for (body, a, expected) in [
        ("cvt.rn.f32.s32 %rx, %ra;", 0xffff_fffe, f(-2.0)),
        ("cvt.rn.f32.u32 %rx, %ra;", 0xffff_ffff, f(4294967296.0)),
        ("cvt.rz.f32.u32 %rx, %ra;", 0xffff_ffff, f(4294967040.0)),
        ("cvt.rp.f32.s32 %rx, %ra;", 16_777_217, f(16_777_218.0)),
        ("cvt.rm.f32.s32 %rx, %ra;", 16_777_217, f(16_777_216.0)),
        ("cvt.rzi.s32.f32 %rx, %ra;", f(-2.7), (-2i32) as u32),
        ("cvt.rni.s32.f32 %rx, %ra;", f(2.5), 2),
        ("cvt.rni.s32.f32 %rx, %ra;", f(3.5), 4),
        ("cvt.rmi.s32.f32 %rx, %ra;", f(-2.1), (-3i32) as u32),
        ("cvt.rpi.s32.f32 %rx, %ra;", f(2.1), 3),
        ("cvt.rzi.u32.f32 %rx, %ra;", f(-5.0), 0),
        ("cvt.rzi.s32.f32 %rx, %ra;", f(1e20), 0x7fff_ffff),
        ("cvt.rzi.s32.f32 %rx, %ra;", NAN, 0),
        ("cvt.rni.f32.f32 %rx, %ra;", f(-2.5), f(-2.0)),
        ("cvt.rmi.f32.f32 %rx, %ra;", f(-2.5), f(-3.0)),
        ("cvt.rpi.f32.f32 %rx, %ra;", f(2.5), f(3.0)),
        ("cvt.rzi.f32.f32 %rx, %ra;", f(-2.5), f(-2.0)),
        ("cvt.sat.f32.f32 %rx, %ra;", f(1.5), f(1.0)),
        ("cvt.sat.f32.f32 %rx, %ra;", NAN, 0),
        ("cvt.u16.u32 %h0, %ra; cvt.s32.s16 %rx, %h0;", 0x1_8000, 0xffff_8000),
        ("cvt.s32.s8 %rx, %ra;", 0x1ff, 0xffff_ffff),
        ("cvt.u32.u8 %rx, %ra;", 0x1ff, 0xff),
        ("cvt.sat.s8.s32 %h0, %ra; cvt.s32.s8 %rx, %h0;", 1000, 127),
        ("cvt.sat.u8.s32 %h0, %ra; cvt.u32.u8 %rx, %h0;", 0xffff_fff0, 0),
        ("cvt.s64.s32 %l0, %ra; cvt.rn.f32.s64 %rx, %l0;", 0xffff_fff0, f(-16.0)),
        ("cvt.rn.f64.s32 %l0, %ra; cvt.rn.f32.f64 %rx, %l0;", 7, f(7.0)),
        ("cvt.rn.f64.s32 %l0, %ra; cvt.rzi.s32.f64 %rx, %l0;", 0xffff_fff9, 0xffff_fff9),
        // Halves: ties to even, subnormals, overflow, NaN.
        ("cvt.rn.f16.f32 %h0, %ra; cvt.u32.u16 %rx, %h0;", f(1.0 + 1.0 / 2048.0), 0x3c00),
        ("cvt.rn.f16.f32 %h0, %ra; cvt.u32.u16 %rx, %h0;", f(1.0 + 3.0 / 2048.0), 0x3c02),
        ("cvt.rz.f16.f32 %h0, %ra; cvt.u32.u16 %rx, %h0;", f(1.0 + 3.0 / 2048.0), 0x3c01),
        ("cvt.rn.f16.f32 %h0, %ra; cvt.u32.u16 %rx, %h0;", f(5.9604645e-8), 1),
        ("cvt.rn.f16.f32 %h0, %ra; cvt.u32.u16 %rx, %h0;", f(2.9802322e-8), 0),
        ("cvt.rn.f16.f32 %h0, %ra; cvt.u32.u16 %rx, %h0;", f(-6.1e-5), 0x83ff),
        ("cvt.rn.f16.f32 %h0, %ra; cvt.u32.u16 %rx, %h0;", f(65519.0), 0x7bff),
        ("cvt.rn.f16.f32 %h0, %ra; cvt.u32.u16 %rx, %h0;", f(65520.0), 0x7c00),
        ("cvt.rn.f16.f32 %h0, %ra; cvt.u32.u16 %rx, %h0;", NAN, 0x7fff),
        ("cvt.rn.bf16.f32 %h0, %ra; cvt.u32.u16 %rx, %h0;", 0x3f80_8000, 0x3f80),
        ("cvt.rn.bf16.f32 %h0, %ra; cvt.u32.u16 %rx, %h0;", 0x3f81_8000, 0x3f82),
        ("cvt.rn.bf16.f32 %h0, %ra; cvt.u32.u16 %rx, %h0;", 0x7f7f_ffff, 0x7f80),
        ("cvt.rz.bf16.f32 %h0, %ra; cvt.u32.u16 %rx, %h0;", 0x3f81_ffff, 0x3f81),
        ("cvt.u16.u32 %h0, %ra; cvt.f32.f16 %rx, %h0;", 0x0001, f(5.9604645e-8)),
        ("cvt.u16.u32 %h0, %ra; cvt.f32.f16 %rx, %h0;", 0xc400, f(-4.0)),
        ("cvt.u16.u32 %h0, %ra; cvt.f32.f16 %rx, %h0;", 0x7c00, f(f32::INFINITY)),
        ("cvt.u16.u32 %h0, %ra; cvt.f32.bf16 %rx, %h0;", 0xc080, f(-4.0)),
        ("cvt.rna.tf32.f32 %rx, %ra;", 0x3f80_1000, 0x3f80_2000),
    ] {
        let found = word(body, a, 0, 0);
        assert_eq!(found, expected, "{body} of {a:#x}: {found:#x}, not {expected:#x}");
    }
    // The first operand goes into the upper half.
    assert_eq!(word("cvt.rn.bf16x2.f32 %rx, %ra, %rb;", f(1.0), f(-2.0), 0), 0x3f80_c000);
    assert_eq!(word("cvt.rn.f16x2.f32 %rx, %ra, %rb;", f(1.0), f(-2.0), 0), 0x3c00_c000);
    assert_eq!(word("cvt.rn.relu.bf16x2.f32 %rx, %ra, %rb;", f(1.0), f(-2.0), 0), 0x3f80_0000);
}

#[test]
fn every_half_survives_the_way_through_f32() {
    let rows: Vec<[u64; 4]> = (0..=0xffffu64).collect::<Vec<_>>().chunks(1024).map(|c| [c[0], 0, 0, 0]).collect();
    let body = "
    mov.u32 %w0, 0;
    mov.u32 %rx, 0;
loop:
    add.u32 %w1, %ra, %w0;
    cvt.u16.u32 %h0, %w1;
    cvt.f32.FORMAT %w2, %h0;
    cvt.rn.FORMAT.f32 %h1, %w2;
    cvt.u32.u16 %w3, %h1;
    cvt.u32.u16 %w4, %h0;
    setp.ne.u32 %p, %w3, %w4;
    setp.num.and.f32 %p, %w2, %w2, %p;
    @%p add.u32 %rx, %rx, 1;
    add.u32 %w0, %w0, 1;
    setp.lt.u32 %s, %w0, 1024;
    @%s bra loop;
";
    for format in ["f16", "bf16"] {
        let out = threads(&body.replace("FORMAT", format), &rows);
        assert_eq!(out.len(), 64);
        assert!(out.iter().all(|o| o.word == 0), "{format}: {out:?}");
    }
}

#[test]
fn packed_halves() {
    for (body, a, b, c, expected) in [
        // 1 + 2^-11 is a tie, 1 + 3 * 2^-11 too; each half on its own.
        ("add.f16x2 %rx, %ra, %rb;", 0x3c00_3c01, 0x1000_1000, 0, 0x3c00_3c02),
        ("mul.f16x2 %rx, %ra, %rb;", 0x4000_c000, 0x4200_4200, 0, 0x4600_c600),
        // 1.0009765625 squared minus 1 is 2^-9 + 2^-20: only a fused product keeps the second term.
        ("fma.rn.f16x2 %rx, %ra, %ra, %rc;", 0x3c01_3c01, 0, 0xbc00_bc02, 0x1800_0010),
        ("sub.bf16x2 %rx, %ra, %rb;", 0x3f80_4000, 0x3f80_3f80, 0, 0x0000_3f80),
        ("fma.rn.bf16x2 %rx, %ra, %rb, %rc;", 0x4000_4040, 0x4040_4040, 0x3f80_bf80, 0x40e0_4100),
        ("max.bf16x2 %rx, %ra, %rb;", 0xbf80_4000, 0xc000_7fc0, 0, 0xbf80_4000),
        ("min.f16x2 %rx, %ra, %rb;", 0xbc00_0000, 0xc000_8000, 0, 0xc000_8000),
        ("neg.bf16x2 %rx, %ra;", 0x3f80_bf80, 0, 0, 0xbf80_3f80),
        ("abs.f16x2 %rx, %ra;", 0xbc00_3c00, 0, 0, 0x3c00_3c00),
    ] {
        let found = word(body, a, b, c);
        assert_eq!(found, expected, "{body} of {a:#x}, {b:#x}, {c:#x}: {found:#x}, not {expected:#x}");
    }
}

/// The largest error over many operands, relative to `scale(exact)`.
fn worst(body: &str, from: f64, to: f64, exact: impl Fn(f64) -> f64, scale: impl Fn(f64) -> f64) -> f64 {
    let operands: Vec<f32> = (0..1000).map(|i| (from + (to - from) * f64::from(i) / 999.0) as f32).collect();
    let rows: Vec<[u64; 4]> = operands.iter().map(|x| [x.to_bits().into(), 0, 0, 0]).collect();
    let found = threads(body, &rows);
    let errors = operands.iter().zip(&found).map(|(&x, out)| {
        let exact = exact(x.into());
        (f64::from(f32::from_bits(out.word)) - exact).abs() / scale(exact)
    });
    errors.fold(0.0, f64::max)
}

#[test]
fn approximate_functions_are_within_the_stated_error() {
    let relative = |x: f64| x.abs();
    let absolute = |_: f64| 1.0;
    assert!(worst("ex2.approx.f32 %rx, %ra;", -120.0, 120.0, f64::exp2, relative) < 2f64.powi(-22));
    assert!(worst("ex2.approx.ftz.f32 %rx, %ra;", -1.0, 1.0, f64::exp2, relative) < 2f64.powi(-22));
    assert!(worst("lg2.approx.f32 %rx, %ra;", 0.5, 2.0, f64::log2, absolute) < 2f64.powi(-22));
    assert!(worst("lg2.approx.f32 %rx, %ra;", 2.5, 1e30, f64::log2, relative) < 2f64.powi(-22));
    assert!(worst("lg2.approx.f32 %rx, %ra;", 1e-30, 0.4, f64::log2, relative) < 2f64.powi(-22));
    assert!(worst("rcp.approx.f32 %rx, %ra;", 0.1, 1e9, |x| 1.0 / x, relative) < 2f64.powi(-23));
    assert!(worst("rsqrt.approx.f32 %rx, %ra;", 1e-9, 1e9, |x| 1.0 / x.sqrt(), relative) < 2f64.powi(-22));
    assert!(worst("sqrt.approx.f32 %rx, %ra;", 1e-9, 1e9, f64::sqrt, relative) < 2f64.powi(-23));
    assert!(worst("sin.approx.f32 %rx, %ra;", -3.1, 3.1, f64::sin, absolute) < 2f64.powi(-20));
    assert!(worst("cos.approx.f32 %rx, %ra;", -3.1, 3.1, f64::cos, absolute) < 2f64.powi(-20));
    assert!(worst("tanh.approx.f32 %rx, %ra;", -10.0, 10.01, f64::tanh, relative) < 2f64.powi(-11));
    for (body, a, expected) in [
        ("ex2.approx.f32 %rx, %ra;", f32::NEG_INFINITY, 0.0),
        ("ex2.approx.f32 %rx, %ra;", 1000.0, f32::INFINITY),
        ("ex2.approx.f32 %rx, %ra;", -140.0, 2f32.powi(-140)),
        ("ex2.approx.ftz.f32 %rx, %ra;", -140.0, 0.0),
        ("ex2.approx.f32 %rx, %ra;", 10.0, 1024.0),
        ("lg2.approx.f32 %rx, %ra;", 0.0, f32::NEG_INFINITY),
        ("lg2.approx.f32 %rx, %ra;", 8.0, 3.0),
        ("rcp.approx.f32 %rx, %ra;", 0.0, f32::INFINITY),
        ("rsqrt.approx.f32 %rx, %ra;", 0.25, 2.0),
        ("div.approx.f32 %rx, %ra, 0f7F000000;", 3.0, 0.0),
    ] {
        assert_eq!(float(body, a, 0.0, 0.0), expected, "{body} of {a}");
    }
    assert_eq!(word("lg2.approx.f32 %rx, %ra;", (-1f32).to_bits(), 0, 0), NAN);
}
