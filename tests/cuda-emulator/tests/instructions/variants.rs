//! The forms of arithmetic instructions that `arithmetic.rs` and `floats.rs` leave out: 16-bit types, names for the same bits, packed halves.

use crate::common::thread;

/// An instruction on 16-bit registers, by its operands.
fn halves(opcode: &str, operands: &[u16]) -> u16 {
    let mut body = String::new();
    for (i, (name, _)) in ["%ra", "%rb", "%rc"].iter().zip(operands).enumerate() {
        body += &format!("cvt.u16.u32 %h{i}, {name}; ");
    }
    let list: Vec<String> = (0..operands.len()).map(|i| format!("%h{i}")).collect();
    body += &format!("{opcode} %h7, {}; cvt.u32.u16 %rx, %h7;", list.join(", "));
    let mut row = [0; 4];
    for (word, &operand) in row.iter_mut().zip(operands) {
        *word = operand.into();
    }
    thread(&body, row).word as u16
}

fn table(rows: &[(&str, &[u16], u16)]) {
    for (opcode, operands, expected) in rows {
        let found = halves(opcode, operands);
        assert_eq!(found, *expected, "{opcode} of {operands:x?}: {found:#x}, not {expected:#x}");
    }
}

const NEG: u16 = u16::MAX;

#[test]
fn integers_of_16_bits() {
    table(&[
        ("add.u16", &[NEG, 3], 2),
        ("sub.s16", &[3, 5], 0xfffe),
        ("sub.u16", &[3, 5], 0xfffe),
        ("mul.lo.s16", &[0x101, 0x101], 0x201),
        ("mul.lo.u16", &[NEG, NEG], 1),
        ("mul.hi.s16", &[NEG, 5], NEG),
        ("mul.hi.u16", &[NEG, 5], 4),
        ("mad.lo.s16", &[7, 6, NEG], 41),
        ("mad.lo.u16", &[7, 6, 1], 43),
        ("div.s16", &[0xfff9, 2], 0xfffd),
        ("div.u16", &[0xfff9, 2], 0x7ffc),
        ("rem.s16", &[0xfff9, 3], NEG),
        ("rem.u16", &[17, 5], 2),
        ("neg.s16", &[5], 0xfffb),
        ("abs.s16", &[0xfffb], 5),
        ("min.s16", &[NEG, 1], NEG),
        ("min.u16", &[NEG, 1], 1),
        ("max.s16", &[NEG, 1], 1),
        ("max.u16", &[NEG, 1], NEG),
        ("and.b16", &[12, 10], 8),
        ("or.b16", &[12, 10], 14),
        ("xor.b16", &[12, 10], 6),
        ("not.b16", &[12], 0xfff3),
        ("cnot.b16", &[0], 1),
        ("mov.b16", &[77], 77),
        ("mov.u16", &[78], 78),
        ("mov.s16", &[79], 79),
        ("mov.f16", &[80], 80),
        ("mov.bf16", &[81], 81),
    ]);
    let word = |body: &str, a: u32, b: u32| thread(body, [a.into(), b.into(), 0, 0]).word;
    let load = "cvt.u16.u32 %h0, %ra; cvt.u16.u32 %h1, %rb; ";
    let given = |body: &str, a: u32, b: u32| word(&format!("{load}{body}"), a, b);
    assert_eq!(given("shl.b16 %h2, %h0, 4; cvt.u32.u16 %rx, %h2;", 0xf00f, 0), 0x00f0);
    assert_eq!(given("shl.b16 %h2, %h0, 16; cvt.u32.u16 %rx, %h2;", 0xf00f, 0), 0);
    assert_eq!(given("shr.u16 %h2, %h0, 4; cvt.u32.u16 %rx, %h2;", 0xf00f, 0), 0x0f00);
    assert_eq!(given("shr.b16 %h2, %h0, 4; cvt.u32.u16 %rx, %h2;", 0xf00f, 0), 0x0f00);
    assert_eq!(given("mul.wide.u16 %rx, %h0, %h1;", 0xffff, 0xffff), 0xfffe_0001);
    assert_eq!(given("mad.wide.s16 %rx, %h0, %h1, %rb;", 0xffff, 7), 0);
    assert_eq!(given("mad.wide.u16 %rx, %h0, %h1, %rb;", 0xffff, 2), 0x2_0000);
    assert_eq!(given("cvt.u32.s16 %rx, %h0;", 0x8000, 0), 0xffff_8000);
    assert_eq!(given("cvt.s32.u16 %rx, %h0;", 0x8000, 0), 0x8000);
    for form in ["s16.s32", "s16.u32", "u16.s32"] {
        assert_eq!(word(&format!("cvt.{form} %h2, %ra; cvt.u32.u16 %rx, %h2;"), 0x1_2345, 0), 0x2345, "{form}");
    }
    for form in ["b16", "u16", "s16", "f16", "bf16"] {
        assert_eq!(given(&format!("selp.{form} %h2, %h0, %h1, %p; cvt.u32.u16 %rx, %h2;"), 5, 7), 7, "{form}");
    }
}

#[test]
fn other_names_for_the_same_bits() {
    let word = |body: &str, a: u32, b: u32, c: u32| thread(body, [a.into(), b.into(), c.into(), 0]).word;
    for form in ["s32", "f32", "f16x2", "bf16x2"] {
        assert_eq!(word(&format!("mov.{form} %rx, %ra;"), 0x1234_5678, 0, 0), 0x1234_5678, "{form}");
    }
    for form in ["s64", "f64"] {
        assert_eq!(thread(&format!("mov.{form} %x, %a;"), [1 << 60 | 5, 0, 0, 0]).wide, 1 << 60 | 5, "{form}");
    }
    assert_eq!(word("selp.s32 %rx, %ra, %rb, %p;", 5, 7, 0), 7);
    for form in ["u64", "s64", "f64"] {
        assert_eq!(thread(&format!("selp.{form} %x, %a, %b, %p;"), [5, 7, 0, 0]).wide, 7, "{form}");
    }
    for form in ["slct.b32.s32", "slct.u32.s32", "slct.f32.s32"] {
        assert_eq!(word(&format!("{form} %rx, %ra, %rb, %rc;"), 5, 7, 0x8000_0000), 7, "{form}");
    }
    assert_eq!(word("slct.f32.f32 %rx, %ra, %rb, %rc;", 5, 7, (-0.0f32).to_bits()), 5);
    for form in ["slct.b64.s32", "slct.s64.s32"] {
        assert_eq!(thread(&format!("{form} %x, %a, %b, %rc;"), [5, 7, 1, 0]).wide, 5, "{form}");
    }
    assert_eq!(word("shr.b32 %rx, %ra, 31;", 0x8000_0000, 0, 0), 1);
    let wide = |body: &str, a: u64, b: u64, c: u64| thread(body, [a, b, c, 0]).wide;
    assert_eq!(wide("shr.b64 %x, %a, 63;", 1 << 63, 0, 0), 1);
    assert_eq!(wide("and.b64 %x, %a, %b;", 12 << 40, 10 << 40, 0), 8 << 40);
    assert_eq!(wide("or.b64 %x, %a, %b;", 12 << 40, 10 << 40, 0), 14 << 40);
    assert_eq!(wide("xor.b64 %x, %a, %b;", 12 << 40, 10 << 40, 0), 6 << 40);
    assert_eq!(wide("cnot.b64 %x, %a;", 0, 0, 0), 1);
    assert_eq!(wide("mul.lo.u64 %x, %a, %b;", u64::MAX, 3, 0), u64::MAX - 2);
    assert_eq!(wide("mad.lo.u64 %x, %a, %b, %c;", u64::MAX, 3, 4), 1);
    assert_eq!(wide("min.u64 %x, %a, %b;", u64::MAX, 3, 0), 3);
    assert_eq!(wide("max.s64 %x, %a, %b;", u64::MAX, 3, 0), 3);
    assert_eq!(wide("cvt.s64.u32 %x, %ra;", 0xffff_ffff, 0, 0), 0xffff_ffff);
    assert_eq!(wide("cvt.u64.s32 %x, %ra;", 0xffff_ffff, 0, 0), u64::MAX);
    for form in ["s32.s64", "s32.u64", "u32.s64"] {
        assert_eq!(thread(&format!("cvt.{form} %rx, %a;"), [7 << 32 | 9, 0, 0, 0]).word, 9, "{form}");
    }
    let four = "mov.b32 {%h0, %h1}, %ra; mov.b32 {%h2, %h3}, %rb; mov.b64 %x, {%h0, %h1, %h2, %h3};";
    assert_eq!(wide(four, 0x2222_1111, 0x4444_3333, 0), 0x4444_3333_2222_1111);
    let out = thread("setp.eq.u32 %q, %ra, 5; setp.eq.u32 %s, %rb, 5; xor.pred %p, %q, %s;", [5, 6, 0, 0]);
    assert!(out.p);
    assert!(thread("setp.eq.u32 %q, %ra, 5; setp.eq.u32 %s, %rb, 5; or.pred %p, %q, %s;", [5, 6, 0, 0]).p);
    assert!(!thread("setp.eq.u32 %q, %ra, 5; setp.eq.u32 %s, %rb, 5; or.pred %p, %q, %s;", [6, 6, 0, 0]).p);
    assert_eq!(word("sad.u32 %rx, %ra, %rb, %rc;", 3, 10, 1), 8);
    assert_eq!(word("mul24.lo.s32 %rx, %ra, %rb;", 0xff_ffff, 5, 0), (-5i32) as u32);
    assert_eq!(word("bmsk.clamp.b32 %rx, %ra, %rb;", 4, 3, 0), 0x70);
    assert_eq!(word("bmsk.clamp.b32 %rx, %ra, %rb;", 4, 40, 0), 0xffff_fff0);
    assert_eq!(word("szext.clamp.u32 %rx, %ra, %rb;", 0xffff, 5, 0), 31);
    assert_eq!(word("prmt.b32.f4e %rx, %ra, %rb, %rc;", 0x4433_2211, 0x8877_6655, 1), 0x5544_3322);
    assert_eq!(word("bfind.shiftamt.s32 %rx, %ra;", 0xffff_fffd, 0, 0), 30);
    assert_eq!(thread("bfind.shiftamt.u64 %rx, %a;", [1, 0, 0, 0]).word, 63);
    assert_eq!(thread("bfind.shiftamt.s64 %rx, %a;", [u64::MAX - 4, 0, 0, 0]).word, 61);
    assert_eq!(thread("bfind.shiftamt.s64 %rx, %a;", [u64::MAX, 0, 0, 0]).word, u32::MAX);
    assert_eq!(thread("bfind.s64 %rx, %a;", [u64::MAX - 4, 0, 0, 0]).word, 2);
}

#[test]
fn the_space_of_an_address() {
    let spaces = ["global", "shared", "local", "param"];
    let made =
        ["mov.u64 %l0, %from;", "cvta.shared.u64 %l0, 16;", "cvta.local.u64 %l0, 16;", "mov.u64 %l0, from; cvta.param.u64 %l0, %l0;"];
    for (i, make) in made.iter().enumerate() {
        for (j, space) in spaces.iter().enumerate() {
            assert_eq!(thread(&format!("{make} isspacep.{space} %p, %l0;"), [0; 4]).p, i == j, "{make} in {space}");
        }
    }
    // To generic and back; addresses of device memory are generic ones.
    for space in ["shared", "local", "param", "global", "const"] {
        assert_eq!(thread(&format!("cvta.{space}.u64 %l0, 48; cvta.to.{space}.u64 %x, %l0;"), [0; 4]).wide, 48, "{space}");
    }
    for space in ["global", "const"] {
        assert_eq!(thread(&format!("cvta.{space}.u64 %x, %a;"), [1 << 40, 0, 0, 0]).wide, 1 << 40, "{space}");
    }
}

#[test]
fn halves_one_at_a_time() {
    // 1, 2, 3, -1 and NaN of either type.
    const F: [u16; 5] = [0x3c00, 0x4000, 0x4200, 0xbc00, 0x7fff];
    const B: [u16; 5] = [0x3f80, 0x4000, 0x4040, 0xbf80, 0x7fff];
    for (name, [one, two, three, minus, nan]) in [("f16", F), ("bf16", B)] {
        let of = |opcode: &str, operands: &[u16]| halves(&format!("{opcode}.{name}"), operands);
        assert_eq!(of("add", &[one, two]), three);
        assert_eq!(of("add.rn", &[one, minus]), 0);
        assert_eq!(of("sub", &[two, three]), minus);
        assert_eq!(of("sub.rn", &[two, three]), minus);
        assert_eq!(of("mul", &[three, one]), three);
        assert_eq!(of("mul.rn", &[three, one]), three);
        assert_eq!(of("mul", &[minus, minus]), one);
        assert_eq!(of("mul", &[minus, 0]), 0x8000);
        assert_eq!(of("fma.rn", &[two, two, minus]), three);
        assert_eq!(of("neg", &[one]), minus);
        assert_eq!(of("abs", &[minus]), one);
        assert_eq!(of("min", &[minus, two]), minus);
        assert_eq!(of("max", &[minus, two]), two);
        assert_eq!(of("max", &[minus, nan]), minus);
        assert_eq!(of("min", &[nan, nan]), nan);
        let pairs = |opcode: &str, a: [u16; 2], b: [u16; 2], c: Option<[u16; 2]>| {
            let join = |x: [u16; 2]| u64::from(x[1]) << 16 | u64::from(x[0]);
            let third = if c.is_some() { ", %rc" } else { "" };
            let body = format!("{opcode}.{name}x2 %rx, %ra, %rb{third};");
            let found = thread(&body, [join(a), join(b), c.map_or(0, join), 0]).word;
            [found as u16, (found >> 16) as u16]
        };
        for mode in ["", ".rn"] {
            assert_eq!(pairs(&format!("add{mode}"), [one, two], [two, one], None), [three, three]);
            assert_eq!(pairs(&format!("sub{mode}"), [two, three], [three, two], None), [minus, one]);
            assert_eq!(pairs(&format!("mul{mode}"), [minus, three], [minus, one], None), [one, three]);
        }
        assert_eq!(pairs("fma.rn", [two, one], [two, one], Some([minus, two])), [three, three]);
        assert_eq!(pairs("fma.rn.relu", [two, one], [minus, one], Some([one, one])), [0, two]);
        assert_eq!(pairs("max", [minus, two], [one, nan], None), [one, two]);
        assert_eq!(pairs("min", [minus, two], [one, nan], None), [minus, two]);
        let single = |opcode: &str, a: u32| thread(&format!("{opcode}.{name}x2 %rx, %ra;"), [a.into(), 0, 0, 0]).word;
        let both = u32::from(minus) << 16 | u32::from(one);
        assert_eq!(single("neg", both), both ^ 0x8000_8000);
        assert_eq!(single("abs", both), both & 0x7fff_7fff);
        let flush = if name == "bf16" { ".ftz" } else { "" };
        // 2^1 and 2^-1; tanh of 0 and of 40.
        let half = if name == "f16" { 0x3800 } else { 0x3f00 };
        assert_eq!(halves(&format!("ex2.approx{flush}.{name}"), &[one]), two);
        assert_eq!(single(&format!("ex2.approx{flush}"), both), half << 16 | u32::from(two));
        let forty = if name == "f16" { 0x5100 } else { 0x4220 };
        assert_eq!(halves(&format!("tanh.approx.{name}"), &[forty]), one);
        assert_eq!(single("tanh.approx", u32::from(forty)), u32::from(one));
    }
}

#[test]
fn flushing_forms() {
    let tiny = 0x0000_1000u32;
    let one = 1f32.to_bits();
    for (body, a, b, expected) in [
        ("cvt.ftz.sat.f32.f32 %rx, %ra;", tiny, 0, 0),
        ("cvt.rzi.ftz.s32.f32 %rx, %ra;", (-7.9f32).to_bits(), 0, (-7i32) as u32),
        ("cvt.rzi.ftz.u32.f32 %rx, %ra;", 7.9f32.to_bits(), 0, 7),
        ("div.approx.ftz.f32 %rx, %ra, %rb;", tiny, one, 0),
        ("div.full.ftz.f32 %rx, %ra, %rb;", one, 4f32.to_bits(), 0.25f32.to_bits()),
        ("rcp.approx.ftz.f32 %rx, %ra;", tiny, 0, f32::INFINITY.to_bits()),
        ("rcp.approx.ftz.f32 %rx, %ra;", f32::MAX.to_bits(), 0, 0),
        ("rsqrt.approx.ftz.f32 %rx, %ra;", tiny, 0, f32::INFINITY.to_bits()),
        ("sqrt.approx.ftz.f32 %rx, %ra;", tiny, 0, 0),
        ("lg2.approx.ftz.f32 %rx, %ra;", tiny, 0, f32::NEG_INFINITY.to_bits()),
        ("sin.approx.ftz.f32 %rx, %ra;", tiny, 0, 0),
        ("cos.approx.ftz.f32 %rx, %ra;", tiny, 0, one),
        ("sub.ftz.f32 %rx, %ra, %rb;", one, tiny, one),
        ("fma.rn.ftz.f32 %rx, %ra, %rb, %ra;", tiny, one, 0),
        ("min.ftz.f32 %rx, %ra, %rb;", tiny, one, 0),
        ("max.ftz.f32 %rx, %ra, %rb;", tiny | 1 << 31, (-1f32).to_bits(), 1 << 31),
        ("neg.ftz.f32 %rx, %ra;", tiny, 0, 1 << 31),
        ("abs.ftz.f32 %rx, %ra;", tiny, 0, 0),
        ("div.rn.ftz.f32 %rx, %ra, %rb;", one, 2f32.to_bits(), 0.5f32.to_bits()),
        ("rcp.rn.ftz.f32 %rx, %ra;", 2f32.to_bits(), 0, 0.5f32.to_bits()),
        ("sqrt.rn.ftz.f32 %rx, %ra;", tiny, 0, 0),
        ("add.rz.ftz.f32 %rx, %ra, %rb;", one, tiny, one),
        ("cvt.rn.tf32.f32 %rx, %ra;", 0x3f80_1000, 0, 0x3f80_0000),
        ("cvt.rn.tf32.f32 %rx, %ra;", 0x3f80_3000, 0, 0x3f80_4000),
        // 1 + 2^-9 in the upper half, to zero; a negative one in the lower.
        ("cvt.rz.bf16x2.f32 %rx, %ra, %rb;", 0x3f80_ffff, 0xbf80_ffff, 0x3f80_bf80),
        ("cvt.rz.f16x2.f32 %rx, %ra, %rb;", 0x3f80_1fff, 0xbf80_1fff, 0x3c00_bc00),
        ("cvt.rn.relu.f16x2.f32 %rx, %ra, %rb;", one, (-1f32).to_bits(), 0x3c00_0000),
    ] {
        let found = thread(body, [a.into(), b.into(), 0, 0]).word;
        assert_eq!(found, expected, "{body} of {a:#x}, {b:#x}: {found:#x}, not {expected:#x}");
    }
    let double = |body: &str, a: f64| f64::from_bits(thread(body, [a.to_bits(), 0, 0, 0]).wide);
    assert_eq!(double("rcp.approx.ftz.f64 %x, %a;", 4.0), 0.25);
    let third = double("rcp.approx.ftz.f64 %x, %a;", 3.0);
    assert!((third * 3.0 - 1.0).abs() < 2f64.powi(-19) && third.to_bits() as u32 == 0);
    assert_eq!(double("rsqrt.approx.ftz.f64 %x, %a;", 16.0), 0.25);
    assert_eq!(double("rsqrt.approx.f64 %x, %a;", 16.0), 0.25);
}
