//! `atom` and `red` in all forms.

use crate::common::{HEAD, Rig, thread};

/// Operation, what is in memory, operands, what is in memory afterwards.
type Row = (&'static str, u64, u64, u64, u64);

const MINUS: u64 = u32::MAX as u64;
const MINUS64: u64 = u64::MAX;

/// Those that `red` has too.
const BOTH: [Row; 36] = [
    ("add.u32", MINUS, 3, 0, 2),
    ("add.s32", MINUS, 3, 0, 2),
    ("add.u64", MINUS, 3, 0, 0x1_0000_0002),
    ("add.f32", 0x3f80_0000, 0x4000_0000, 0, 0x4040_0000),
    ("add.f32", 0xff80_0001, 0, 0, 0x7fff_ffff),
    ("add.f64", 0x3ff0 << 48, 0x4000 << 48, 0, 0x4008 << 48),
    // 1 and 2 plus 2 and -2.
    ("add.noftz.f16x2", 0x4000_3c00, 0xc000_4000, 0, 0x0000_4200),
    ("add.noftz.bf16x2", 0x4000_3f80, 0xc000_4000, 0, 0x0000_4040),
    ("add.noftz.f16x2", 0x0001_0001, 0x0001_0002, 0, 0x0002_0003),
    ("min.u32", MINUS, 3, 0, 3),
    ("min.u32", 2, 3, 0, 2),
    ("min.s32", MINUS, 3, 0, MINUS),
    ("min.s32", 3, MINUS, 0, MINUS),
    ("min.u64", MINUS64, 3, 0, 3),
    ("min.s64", MINUS64, 3, 0, MINUS64),
    ("max.u32", 3, MINUS, 0, MINUS),
    ("max.s32", 3, MINUS, 0, 3),
    ("max.s32", MINUS, 3, 0, 3),
    ("max.u64", 3, MINUS64, 0, MINUS64),
    ("max.s64", 3, MINUS64, 0, 3),
    ("max.s64", 1 << 40, 3, 0, 1 << 40),
    ("and.b32", 12, 10, 0, 8),
    ("and.b64", 12 << 40, 10 << 40, 0, 8 << 40),
    ("or.b32", 12, 10, 0, 14),
    ("or.b64", 12 << 40, 10 << 40, 0, 14 << 40),
    ("xor.b32", 12, 10, 0, 6),
    ("xor.b64", 12 << 40, 10 << 40, 0, 6 << 40),
    ("inc.u32", 4, 5, 0, 5),
    ("inc.u32", 5, 5, 0, 0),
    ("inc.u32", 9, 5, 0, 0),
    ("dec.u32", 4, 5, 0, 3),
    ("dec.u32", 0, 5, 0, 5),
    ("dec.u32", 6, 5, 0, 5),
    ("dec.u32", 5, 5, 0, 4),
    ("add.s32", 0x7fff_ffff, 1, 0, 0x8000_0000),
    ("add.u64", MINUS64, 1, 0, 0),
];

const ATOM: [Row; 6] = [
    ("exch.b32", 5, 7, 0, 7),
    ("exch.b64", 5 << 40, 7 << 40, 0, 7 << 40),
    ("cas.b32", 5, 5, 7, 7),
    ("cas.b32", 5, 6, 7, 5),
    ("cas.b64", 5 << 40, 5 << 40, 7 << 40, 7 << 40),
    ("cas.b64", 5 << 40, 5, 7 << 40, 5 << 40),
];

/// What `<instruction>.<space>.<operation>` returns and leaves.
fn update(instruction: &str, space: &str, (operation, old, x, y, _): Row) -> (u64, u64) {
    let wide = operation.ends_with("64");
    let (d, b, c, word) = if wide { ("%x", "%b", "%c", "u64") } else { ("%rx", "%rb", "%rc", "u32") };
    let third = if operation.starts_with("cas") { format!(", {c}") } else { String::new() };
    let result = if instruction == "red" { String::new() } else { format!("{d}, ") };
    // A cell in shared memory, by its address there or by a generic one; or the thread's own operands in global memory.
    let (before, cell) = match space {
        ".shared" => (".shared .align 8 .b8 cell[8]; mov.u64 %l0, cell; st.shared.u64 [%l0], %a;", ".shared"),
        "shared" => (".shared .align 8 .b8 cell[8]; mov.u64 %l0, cell; st.shared.u64 [%l0], %a; cvta.shared.u64 %l0, %l0;", ""),
        _ => ("mov.u64 %l0, %from;", ""),
    };
    let named = if space == "shared" { "" } else { space };
    let body = format!("{before} {instruction}{named}.{operation} {result}[%l0], {b}{third};");
    let row = [old, x, y, 0];
    let of = |body: &str| {
        let out = thread(body, row);
        if wide { out.wide } else { out.word.into() }
    };
    (of(&body), of(&format!("{body} ld{cell}.{word} {d}, [%l0];")))
}

#[test]
fn atomics_in_every_space() {
    for space in ["", ".global", ".shared", "shared"] {
        for row in BOTH.into_iter().chain(ATOM) {
            let (returned, left) = update("atom", space, row);
            assert_eq!((returned, left), (row.1, row.4), "atom{space}.{} of {:#x} and {:#x}, {:#x}", row.0, row.1, row.2, row.3);
        }
        for row in BOTH {
            let (_, left) = update("red", space, row);
            assert_eq!(left, row.4, "red{space}.{} of {:#x} and {:#x}", row.0, row.1, row.2);
        }
    }
}

/// In global memory sums of f32 flush subnormal operands and results, in shared memory they do not.
#[test]
fn sums_flush_in_global_memory_only() {
    let tiny = 0x8000_1000;
    for (space, expected) in [(".global", 1 << 31), ("", 1 << 31), (".shared", 0x8000_2000), ("shared", 0x8000_2000)] {
        assert_eq!(update("atom", space, ("add.f32", tiny, tiny, 0, 0)).1, expected, "{space}");
    }
    // 1.5 * 2^-126 - 2^-126.
    for (space, expected) in [(".global", 0), (".shared", 0x0040_0000)] {
        assert_eq!(update("red", space, ("add.f32", 0x00c0_0000, 0x8080_0000, 0, 0)).1, expected, "{space}");
    }
}

#[test]
fn atomics_that_the_isa_does_not_have_are_refused() {
    for form in ["atom.add.s64", "atom.add.f16x2", "atom.inc.u64", "red.exch.b32", "atom.min.f32", "atom.and.u32"] {
        let ptx = format!("{}.visible .entry k() {{ .reg .b64 %a, %b; {form} %a, [%a], %b; ret; }}", HEAD);
        let fault = cuda_emulator::Module::parse(&ptx).err().unwrap();
        assert!(fault.detail.contains(form), "{fault}");
    }
}

/// Lanes go one after the other, the lowest first: each gets what those before it left.
#[test]
fn lanes_go_in_order() {
    let ptx = format!(
        "{}.visible .entry k(.param .u64 p) {{
.reg .b64 %p, %at; .reg .b32 %t, %r; .reg .f32 %f;
ld.param.u64 %p, [p]; mov.u32 %t, %tid.x; mul.wide.u32 %at, %t, 4; add.s64 %at, %at, %p;
atom.global.add.u32 %r, [%p], %t; st.global.u32 [%at+4], %r; ret; }}",
        HEAD
    );
    let rig = Rig::new(&ptx);
    let p = rig.upload(&[100u32; 33]);
    rig.launch("k", 1, 32, 0, &[p]).unwrap();
    let expected: Vec<u32> = (0..32).map(|t| 100 + t * (t.max(1) - 1) / 2).collect();
    assert_eq!(rig.words(p, 33)[1..], expected);
}

#[test]
fn threads_and_blocks_add_up() {
    let ptx = format!(
        "{HEAD}.visible .entry k(.param .u64 p)
{{
.shared .align 8 .b8 sum[8];
.reg .b32 %t, %r<9>; .reg .b64 %p, %l<4>; .reg .pred %q;
mov.u32 %t, %tid.x; ld.param.u64 %p, [p];
setp.eq.u32 %q, %t, 0;
@%q st.shared.u32 [sum], 0;
bar.sync 0;
atom.shared.add.u32 %r0, [sum], %t;
bar.sync 0;
ld.shared.u32 %r1, [sum];
red.global.add.u32 [%p], 1;
atom.global.max.s32 %r2, [%p+4], %t;
atom.global.min.u32 %r2, [%p+8], %t;
cvt.rn.f32.u32 %r3, %t; red.global.add.f32 [%p+12], %r3;
atom.global.exch.b32 %r4, [%p+16], %r1;
atom.global.cas.b32 %r4, [%p+20], 7, 9;
atom.global.inc.u32 %r4, [%p+24], 9;
cvt.u64.u32 %l0, %t; atom.global.add.u64 %l1, [%p+32], %l0;
atom.global.or.b32 %r4, [%p+28], %t;
red.global.add.noftz.bf16x2 [%p+40], 0x3f804000;
ret;
}}
"
    );
    let rig = Rig::new(&ptx);
    let p = rig.upload(&[0u32, 0, 1000, 0, 0, 7, 0, 0, 0xffff_ffff, 0, 0, 0]);
    let counters = rig.launch("k", 4, 64, 0, &[p]).unwrap_or_else(|f| panic!("{f}"));
    let found = rig.words(p, 11);
    let sum = 63 * 64 / 2;
    assert_eq!(found[..3], [256, 63, 0]);
    assert_eq!(f32::from_bits(found[3]), 4.0 * sum as f32);
    assert_eq!(found[4..8], [sum, 9, 256 % 10, 63]);
    assert_eq!(u64::from(found[8]) | u64::from(found[9]) << 32, 0xffff_ffff + 4 * u64::from(sum));
    assert_eq!(found[10], 0x4380_4400);
    assert_eq!(counters.atomics, 4 * 64 * 11);
}
