//! Each arithmetic instruction against values computed by hand.

use crate::common::{thread, threads};

/// `%rx` of an instruction on 32-bit operands.
fn word(body: &str, a: u32, b: u32, c: u32) -> u32 {
    thread(body, [a.into(), b.into(), c.into(), 0]).word
}

/// `%x` of an instruction on 64-bit operands.
fn wide(body: &str, a: u64, b: u64, c: u64) -> u64 {
    thread(body, [a, b, c, 0]).wide
}

/// Checks rows of instruction, operands and expected `%rx`, each in a kernel of its own.
fn words(table: &[(&str, u32, u32, u32, u32)]) {
    for &(body, a, b, c, expected) in table {
        let found = word(body, a, b, c);
        assert_eq!(found, expected, "{body} of {a:#x}, {b:#x}, {c:#x}: {found:#x}, not {expected:#x}");
    }
}

fn wides(table: &[(&str, u64, u64, u64, u64)]) {
    for &(body, a, b, c, expected) in table {
        let found = wide(body, a, b, c);
        assert_eq!(found, expected, "{body} of {a:#x}, {b:#x}, {c:#x}: {found:#x}, not {expected:#x}");
    }
}

const NEG: u32 = u32::MAX;

#[test]
fn integers_of_32_bits() {
    words(&[
        ("add.s32 %rx, %ra, %rb;", 3, NEG, 0, 2),
        ("add.u32 %rx, %ra, -7;", 3, 0, 0, 0xffff_fffc),
        ("add.sat.s32 %rx, %ra, %rb;", 0x7fff_fff0, 0x20, 0, 0x7fff_ffff),
        ("sub.s32 %rx, %ra, %rb;", 3, 5, 0, 0xffff_fffe),
        ("sub.sat.s32 %rx, %ra, %rb;", 0x8000_0001, 5, 0, 0x8000_0000),
        ("mul.lo.s32 %rx, %ra, %rb;", 0x1_0001, 0x1_0001, 0, 0x2_0001),
        ("mul.hi.u32 %rx, %ra, %rb;", NEG, NEG, 0, 0xffff_fffe),
        ("mul.hi.s32 %rx, %ra, %rb;", NEG, NEG, 0, 0),
        ("mul.hi.s32 %rx, %ra, %rb;", 0x8000_0000, 2, 0, 0xffff_ffff),
        ("mul24.lo.u32 %rx, %ra, %rb;", 0xff00_0003, 5, 0, 15),
        ("mad.lo.s32 %rx, %ra, %rb, %rc;", 7, 6, NEG, 41),
        ("mad.hi.u32 %rx, %ra, %rb, %rc;", 0x8000_0000, 6, 4, 7),
        ("mad.hi.s32 %rx, %ra, %rb, %rc;", NEG, 6, 4, 3),
        ("div.s32 %rx, %ra, %rb;", (-7i32) as u32, 2, 0, (-3i32) as u32),
        ("div.u32 %rx, %ra, %rb;", 0xffff_fff9, 2, 0, 0x7fff_fffc),
        ("div.s32 %rx, %ra, %rb;", 0x8000_0000, NEG, 0, 0x8000_0000),
        ("rem.s32 %rx, %ra, %rb;", (-7i32) as u32, 3, 0, NEG),
        ("rem.u32 %rx, %ra, %rb;", 17, 5, 0, 2),
        ("neg.s32 %rx, %ra;", 5, 0, 0, 0xffff_fffb),
        ("abs.s32 %rx, %ra;", 0xffff_fffb, 0, 0, 5),
        ("min.s32 %rx, %ra, %rb;", NEG, 1, 0, NEG),
        ("min.u32 %rx, %ra, %rb;", NEG, 1, 0, 1),
        ("max.s32 %rx, %ra, %rb;", NEG, 1, 0, 1),
        ("max.u32 %rx, %ra, %rb;", NEG, 1, 0, NEG),
        ("sad.s32 %rx, %ra, %rb, %rc;", NEG, 4, 10, 15),
        ("dp4a.s32.s32 %rx, %ra, %rb, %rc;", 0x01ff_0203, 0x0405_0607, 100, 100 + 4 - 5 + 12 + 21),
        ("dp4a.u32.u32 %rx, %ra, %rb, %rc;", 0x01ff_0203, 0x0405_0607, 100, 100 + 4 + 1275 + 12 + 21),
    ]);
}

#[test]
fn integers_of_other_widths() {
    wides(&[
        ("add.s64 %x, %a, %b;", u64::MAX, 3, 0, 2),
        ("sub.u64 %x, %a, %b;", 1, 3, 0, u64::MAX - 1),
        ("sub.s64 %x, %a, %b;", 1 << 40, 3 << 40, 0, (-2i64 << 40) as u64),
        ("mul.lo.s64 %x, %a, %b;", 0x1_0000_0001, 0x1_0000_0001, 0, 0x2_0000_0001),
        ("mul.hi.u64 %x, %a, %b;", u64::MAX, u64::MAX, 0, u64::MAX - 1),
        ("mul.hi.s64 %x, %a, %b;", u64::MAX, 5, 0, u64::MAX),
        ("mul.wide.s32 %x, %ra, %rb;", 0xffff_ffff, 5, 0, (-5i64) as u64),
        ("mul.wide.u32 %x, %ra, %rb;", 0xffff_ffff, 5, 0, 0x4_ffff_fffb),
        ("mad.wide.s32 %x, %ra, %rb, %c;", 0xffff_ffff, 5, 7, 2),
        ("mad.wide.u32 %x, %ra, %rb, %c;", 0xffff_ffff, 2, 2, 0x2_0000_0000),
        ("mad.lo.s64 %x, %a, %b, %c;", 1 << 40, 3, 9, (3 << 40) + 9),
        ("div.s64 %x, %a, %b;", (-9i64) as u64, 2, 0, (-4i64) as u64),
        ("div.u64 %x, %a, %b;", u64::MAX, 1 << 32, 0, 0xffff_ffff),
        ("rem.u64 %x, %a, %b;", 1 << 40, 1000, 0, (1u64 << 40) % 1000),
        ("rem.s64 %x, %a, %b;", (-9i64) as u64, 4, 0, u64::MAX),
        ("neg.s64 %x, %a;", 1, 0, 0, u64::MAX),
        ("abs.s64 %x, %a;", u64::MAX, 0, 0, 1),
        ("min.s64 %x, %a, %b;", u64::MAX, 1, 0, u64::MAX),
        ("max.u64 %x, %a, %b;", u64::MAX, 1, 0, u64::MAX),
        ("shl.b64 %x, %a, %rb;", 1, 63, 0, 1 << 63),
        ("shl.b64 %x, %a, %rb;", 1, 64, 0, 0),
        ("shr.u64 %x, %a, %rb;", 1 << 63, 63, 0, 1),
        ("shr.s64 %x, %a, %rb;", 1 << 63, 200, 0, u64::MAX),
        ("not.b64 %x, %a;", 1, 0, 0, u64::MAX - 1),
        ("brev.b64 %x, %a;", 1, 0, 0, 1 << 63),
        ("mov.b64 %x, {%ra, %rb};", 7, 9, 0, 9 << 32 | 7),
        ("mov.b64 {%w0, %w1}, %a; mov.b64 %x, {%w1, %w0};", 9 << 32 | 7, 0, 0, 7 << 32 | 9),
        ("bfe.u64 %x, %a, 60, 8;", 0xf << 60, 0, 0, 15),
        ("bfe.s64 %x, %a, 60, 2;", 0xf << 60, 0, 0, u64::MAX),
        ("bfi.b64 %x, %a, %b, 32, 32;", 5, 7, 0, 5 << 32 | 7),
        ("selp.b64 %x, %a, %b, %p;", 5, 7, 0, 7),
        ("slct.u64.s32 %x, %a, %b, %rc;", 5, 7, 0xffff_ffff, 7),
    ]);
    words(&[
        ("cvt.u16.u32 %h0, %ra; cvt.u16.u32 %h1, %rb; mul.wide.s16 %rx, %h0, %h1;", 0xffff, 3, 0, (-3i32) as u32),
        ("cvt.u16.u32 %h0, %ra; cvt.u16.u32 %h1, %rb; add.s16 %h2, %h0, %h1; cvt.u32.u16 %rx, %h2;", 0xffff, 3, 0, 2),
        ("cvt.u16.u32 %h0, %ra; shr.s16 %h1, %h0, 4; cvt.u32.u16 %rx, %h1;", 0x8000, 0, 0, 0xf800),
        ("cvt.u16.u32 %h0, %ra; cvt.u16.u32 %h1, %rb; mov.b32 %rx, {%h0, %h1};", 0x1234, 0x5678, 0, 0x5678_1234),
        ("mov.b32 {%h0, %h1}, %ra; mov.b32 %rx, {%h1, %h0};", 0x1234_5678, 0, 0, 0x5678_1234),
        ("popc.b64 %rx, %a;", NEG, 0, 0, 32),
        ("clz.b64 %rx, %a;", 1, 0, 0, 63),
        ("bfind.u64 %rx, %a;", 0x100, 0, 0, 8),
    ]);
}

#[test]
fn bits() {
    words(&[
        ("and.b32 %rx, %ra, %rb;", 12, 10, 0, 8),
        ("or.b32 %rx, %ra, %rb;", 12, 10, 0, 14),
        ("xor.b32 %rx, %ra, %rb;", 12, 10, 0, 6),
        ("not.b32 %rx, %ra;", 12, 0, 0, !12),
        ("cnot.b32 %rx, %ra;", 0, 0, 0, 1),
        ("shl.b32 %rx, %ra, %rb;", 3, 31, 0, 0x8000_0000),
        ("shl.b32 %rx, %ra, %rb;", 3, 32, 0, 0),
        ("shr.u32 %rx, %ra, %rb;", 0x8000_0000, 31, 0, 1),
        ("shr.s32 %rx, %ra, %rb;", 0x8000_0000, 40, 0, NEG),
        ("shf.l.wrap.b32 %rx, %ra, %rb, %rc;", 0x8000_0000, 1, 33, 3),
        ("shf.r.wrap.b32 %rx, %ra, %rb, %rc;", 2, 1, 1, 0x8000_0001),
        ("shf.l.clamp.b32 %rx, %ra, %rb, %rc;", 5, 1, 40, 5),
        ("shf.r.clamp.b32 %rx, %ra, %rb, %rc;", 5, 9, 40, 9),
        // Tables of a & b ^ c, of a majority, of the third operand alone.
        ("lop3.b32 %rx, %ra, %rb, %rc, 0x6a;", 0b1111_0000, 0b1100_1100, 0b1010_1010, 0b0110_1010),
        ("lop3.b32 %rx, %ra, %rb, %rc, 0xe8;", 0b1111_0000, 0b1100_1100, 0b1010_1010, 0b1110_1000),
        ("lop3.b32 %rx, %ra, %rb, %rc, 0xaa;", 1, 2, 77, 77),
        ("prmt.b32 %rx, %ra, %rb, 0x7531;", 0x4433_2211, 0x8877_6655, 0, 0x8866_4422),
        // With the top bit of a nibble a byte's sign is repeated.
        ("prmt.b32 %rx, %ra, %rb, 0xb0f8;", 0x8033_2211, 0x8877_6655, 0, 0xff11_ff00),
        ("bfe.u32 %rx, %ra, 4, 8;", 0x1234_5678, 0, 0, 0x67),
        ("bfe.s32 %rx, %ra, 4, 4;", 0x0000_00f0, 0, 0, NEG),
        ("bfe.s32 %rx, %ra, 28, 8;", 0x8000_0000, 0, 0, 0xffff_fff8),
        ("bfe.s32 %rx, %ra, 3, 0;", NEG, 0, 0, 0),
        ("bfi.b32 %rx, %ra, %rb, 8, 4;", 0xff, 0, 0, 0xf00),
        ("bfi.b32 %rx, %ra, %rb, 28, 8;", 0xff, 1, 0, 0xf000_0001),
        ("popc.b32 %rx, %ra;", 0xf0f0, 0, 0, 8),
        ("clz.b32 %rx, %ra;", 1, 0, 0, 31),
        ("clz.b32 %rx, %ra;", 0, 0, 0, 32),
        ("brev.b32 %rx, %ra;", 1, 0, 0, 0x8000_0000),
        ("bfind.u32 %rx, %ra;", 0x800, 0, 0, 11),
        ("bfind.u32 %rx, %ra;", 0, 0, 0, NEG),
        ("bfind.s32 %rx, %ra;", 0xffff_fffd, 0, 0, 1),
        ("bfind.shiftamt.u32 %rx, %ra;", 0x800, 0, 0, 20),
        ("slct.s32.s32 %rx, %ra, %rb, %rc;", 5, 7, 0, 5),
    ]);
}

#[test]
fn comparisons_and_predicates() {
    let nan = u64::from(f32::NAN.to_bits());
    let one = u64::from(1f32.to_bits());
    for (body, a, b, p) in [
        ("setp.lt.s32 %p, %ra, %rb;", 0xffff_ffff, 0, true),
        ("setp.lt.u32 %p, %ra, %rb;", 0xffff_ffff, 0, false),
        ("setp.hs.u32 %p, %ra, %rb;", 5, 5, true),
        ("setp.ne.s64 %p, %a, %b;", 1 << 40, 0, true),
        ("setp.gt.s64 %p, %a, %b;", 1 << 63, 0, false),
        ("setp.eq.b32 %p, %ra, 5;", 5, 0, true),
        ("setp.eq.f32 %p, %ra, %rb;", nan, nan, false),
        ("setp.ne.f32 %p, %ra, %rb;", nan, one, false),
        ("setp.neu.f32 %p, %ra, %rb;", nan, one, true),
        ("setp.ltu.f32 %p, %ra, %rb;", nan, one, true),
        ("setp.lt.f32 %p, %ra, %rb;", nan, one, false),
        ("setp.geu.f32 %p, %ra, %rb;", one, nan, true),
        ("setp.nan.f32 %p, %ra, %rb;", one, nan, true),
        ("setp.num.f32 %p, %ra, %rb;", one, one, true),
        // A subnormal is zero where subnormals are flushed.
        ("setp.gt.f32 %p, %ra, 0f00000000;", 1, 0, true),
        ("setp.gt.ftz.f32 %p, %ra, 0f00000000;", 1, 0, false),
        ("setp.lt.f64 %p, %a, %b;", (-1f64).to_bits(), 0, true),
        ("setp.eq.s32 %s, %ra, %rb; setp.lt.and.s32 %p, %ra, %rb, %s;", 3, 4, false),
        ("setp.eq.s32 %s, %ra, %rb; setp.lt.and.s32 %p, %ra, %rb, !%s;", 3, 4, true),
        ("setp.eq.s32 %s, %ra, %rb; setp.gt.or.s32 %p, %ra, %rb, !%s;", 3, 4, true),
        ("setp.lt.s32 %s, %ra, %rb; setp.lt.xor.s32 %p, %ra, %rb, %s;", 3, 4, false),
        ("setp.lt.s32 %s, %ra, %rb; not.pred %p, %s;", 3, 4, false),
        ("setp.lt.s32 %s, %ra, %rb; mov.pred %q, -1; and.pred %p, %s, %q;", 3, 4, true),
        ("testp.infinite.f32 %p, %ra;", 0x7f80_0000, 0, true),
        ("testp.subnormal.f32 %p, %ra;", 1, 0, true),
    ] {
        assert_eq!(thread(body, [a, b, 0, 0]).p, p, "{body} of {a:#x}, {b:#x}");
    }
    // The second result is the opposite of the first.
    let out = thread("setp.lt.s32 %p|%q, %ra, %rb;", [1, 2, 0, 0]);
    assert!(out.p && !out.q);
    // A guard that is false leaves the register alone; so it does lane by lane.
    let rows: Vec<[u64; 4]> = (0..40).map(|i| [i, 0, 0, 0]).collect();
    let body = "mov.u32 %rx, 100; setp.gt.u32 %s, %ra, 20; @%s mov.u32 %rx, %ra; @!%s add.u32 %rx, %rx, %ra;";
    for (i, out) in threads(body, &rows).iter().enumerate() {
        let i = i as u32;
        assert_eq!(out.word, if i > 20 { i } else { 100 + i });
    }
}

#[test]
fn an_unsupported_instruction_is_named_with_its_line() {
    for (body, name) in [
        ("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%ra], {%rb};", "stmatrix"),
        ("add.f16x3 %rx, %ra, %rb;", "add.f16x3"),
        ("wgmma.fence.sync.aligned;", "wgmma"),
        ("add.rn.ftz.f64 %x, %a, %b;", "add.rn.ftz.f64"),
    ] {
        let ptx = format!(
            "{}.visible .entry k(.param .u64 p)\n{{\n.reg .b32 %ra, %rb, %rx, %w<4>;\n.reg .b64 %a, %b, %x;\n{body}\nret;\n}}\n",
            crate::common::HEAD
        );
        let fault = cuda_emulator::Module::parse(&ptx).err().unwrap();
        assert!(fault.kind == cuda_emulator::FaultKind::Unsupported, "{fault}");
        assert_eq!((fault.kernel.as_str(), fault.line), ("k", 9), "{fault}");
        assert!(fault.detail.contains(name), "{fault}");
    }
}
