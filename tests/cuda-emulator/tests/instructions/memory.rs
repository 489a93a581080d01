//! Loads and stores of every type in every space, asynchronous copies, hints.

use crate::common::{HEAD, Rig, thread};
use cuda_emulator::FaultKind;

/// Types and their bytes.
const TYPES: [(&str, usize); 14] = [
    ("b8", 1),
    ("u8", 1),
    ("s8", 1),
    ("b16", 2),
    ("u16", 2),
    ("s16", 2),
    ("b32", 4),
    ("u32", 4),
    ("s32", 4),
    ("f32", 4),
    ("b64", 8),
    ("u64", 8),
    ("s64", 8),
    ("f64", 8),
];
/// Sixteen bytes with their upper bits set, so that signs show.
const BYTES: [u64; 2] = [0x8786_8584_8382_8180, 0x8f8e_8d8c_8b8a_8988];

/// Where the bytes are put for a space, and what addresses them there: `%l0`.
fn space(name: &str) -> (String, &'static str) {
    let stored = |at: &str, space: &str| format!("{at} st{space}.u64 [%l0], %a; st{space}.u64 [%l0+8], %b;");
    match name {
        ".shared" => (stored(".shared .align 16 .b8 cell[16]; mov.u64 %l0, cell;", ".shared"), "[%l0]"),
        ".local" => (stored(".local .align 16 .b8 cell[16]; mov.u64 %l0, cell;", ".local"), "[%l0]"),
        ".param" => (".param .align 16 .b8 cell[16]; st.param.u64 [cell], %a; st.param.u64 [cell+8], %b;".to_owned(), "[cell]"),
        // The operands of the thread lie in global memory.
        _ => ("mov.u64 %l0, %from;".to_owned(), "[%l0]"),
    }
}

fn element(kind: &str, bytes: usize, index: usize) -> u64 {
    let from = bytes * index;
    let raw = BYTES[from / 8] >> (8 * (from % 8)) & (u64::MAX >> (64 - 8 * bytes));
    let shift = 64 - 8 * bytes;
    if kind.starts_with('s') { ((raw << shift) as i64 >> shift) as u64 } else { raw }
}

fn vectors(bytes: usize) -> &'static [usize] {
    if bytes == 8 { &[1, 2] } else { &[1, 2, 4] }
}

/// `{%l1, %l2}` and the like.
fn list(stem: &str, count: usize) -> String {
    let names: Vec<String> = (1..=count).map(|i| format!("%{stem}{i}")).collect();
    if count == 1 { names[0].clone() } else { format!("{{{}}}", names.join(", ")) }
}

/// `.v2` and the like.
fn suffix(count: usize) -> String {
    if count == 1 { String::new() } else { format!(".v{count}") }
}

#[test]
fn loads_extend_by_type() {
    for (instruction, names) in [("ld", &["", ".global", ".shared", ".local", ".param"][..]), ("ldu", &["", ".global"])] {
        for name in names {
            let (before, at) = space(name);
            for (kind, bytes) in TYPES {
                for &count in vectors(bytes) {
                    for index in 0..count {
                        let form = format!("{instruction}{name}{}.{kind}", suffix(count));
                        // Into registers of 64 bits; those of 32 for what fits.
                        let body = format!("{before} {form} {}, {at}; mov.b64 %x, %l{};", list("l", count), index + 1);
                        let found = thread(&body, [BYTES[0], BYTES[1], 0, 0]).wide;
                        assert_eq!(found, element(kind, bytes, index), "{form}, part {index}: {found:#x}");
                        if bytes < 8 {
                            let body = format!("{before} {form} {}, {at}; mov.b32 %rx, %w{};", list("w", count), index + 1);
                            let found = thread(&body, [BYTES[0], BYTES[1], 0, 0]).word;
                            assert_eq!(found, element(kind, bytes, index) as u32, "{form}, part {index}: {found:#x}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn constants_are_loaded() {
    let bytes: Vec<String> = (0x80..0x90).map(|byte: u8| byte.to_string()).collect();
    for (kind, size) in TYPES {
        for &count in vectors(size) {
            let form = format!("ld.const{}.{kind}", suffix(count));
            let ptx = format!(
                "{HEAD}.const .align 16 .b8 table[16] = {{{}}};
.visible .entry k(.param .u64 p) {{ .reg .b64 %p, %t, %l<5>; ld.param.u64 %p, [p]; mov.u64 %t, table; {form} {}, [%t]; st.global.u64 [%p], %l{count}; ret; }}",
                bytes.join(", "),
                list("l", count)
            );
            let rig = Rig::new(&ptx);
            let p = rig.upload(&[0u64]);
            rig.launch("k", 1, 1, 0, &[p]).unwrap();
            let found = rig.words(p, 2);
            let found = u64::from(found[0]) | u64::from(found[1]) << 32;
            assert_eq!(found, element(kind, size, count - 1), "{form}: {found:#x}");
        }
    }
}

/// Each part of a store goes to its own bytes, no further; the rest of the sixteen stays zero.
#[test]
fn stores_write_their_bytes_only() {
    for name in ["", ".global", ".shared", ".local", ".param"] {
        let (before, at) = space(name);
        let back = if name == ".param" { "[cell" } else { "[%l0" };
        for (kind, bytes) in TYPES {
            for &count in vectors(bytes) {
                let form = format!("st{name}{}.{kind}", suffix(count));
                let values: String = (1..=count).map(|i| format!("mov.u64 %l{i}, 0x{:x}; ", 0xa7a6_a5a4_a3a2_a1a0u64 + i as u64)).collect();
                for half in 0..2 {
                    let body = format!("{before} {values} {form} {at}, {}; ld{name}.u64 %x, {back}+{}];", list("l", count), 8 * half);
                    let found = thread(&body, [0; 4]).wide;
                    let mut expected = [0u8; 16];
                    for (i, part) in expected.chunks_exact_mut(bytes).take(count).enumerate() {
                        part.copy_from_slice(&(0xa7a6_a5a4_a3a2_a1a1u64 + i as u64).to_le_bytes()[..bytes]);
                    }
                    let expected = u64::from_le_bytes(expected[8 * half..8 * half + 8].try_into().unwrap());
                    assert_eq!(found, expected, "{form}, half {half}: {found:#x}, not {expected:#x}");
                }
            }
        }
    }
}

/// Copies of 4, 8 and 16 bytes; with a size the rest is zero.
#[test]
fn asynchronous_copies() {
    let start = ".shared .align 16 .b8 cell[16]; mov.u32 %w0, cell; st.shared.u64 [%w0], -1; st.shared.u64 [%w0+8], -1;";
    let row = [BYTES[0], BYTES[1], 6, 0];
    for wait in ["cp.async.wait_all;", "cp.async.commit_group; cp.async.wait_group 0;"] {
        for (copy, expected) in [
            ("cp.async.ca.shared.global [%w0], [%from], 4;", [0xffff_ffff_8382_8180, u64::MAX]),
            ("cp.async.ca.shared.global [%w0+8], [%from], 8;", [u64::MAX, BYTES[0]]),
            ("cp.async.ca.shared.global [%w0], [%from], 16;", BYTES),
            ("cp.async.cg.shared.global [%w0], [%from], 16;", BYTES),
            ("cp.async.cg.shared.global.L2::128B [%w0], [%from], 16, %rc;", [0x8584_8382_8180, 0]),
            ("cp.async.ca.shared.global [%w0], [%from], 8, 0;", [0, u64::MAX]),
        ] {
            let body = |at: u32| format!("{start} {copy} {wait} ld.shared.u64 %x, [%w0+{at}];");
            assert_eq!([thread(&body(0), row).wide, thread(&body(8), row).wide], expected, "{copy} {wait}");
        }
    }
}

/// What orders memory or warms caches leaves registers and memory as they are. A prefetch reads nothing, so no address is wrong.
#[test]
fn fences_and_hints_change_nothing() {
    let fences =
        ["fence", "fence.sc", "fence.acq_rel"].map(|fence| ["cta", "cluster", "gpu", "sys"].map(|scope| format!("{fence}.{scope};")));
    let others = ["membar.cta;", "membar.gl;", "membar.sys;", "prefetchu.L1 [%from];"].map(str::to_owned);
    let prefetches = ["global", "local"].map(|space| ["L1", "L2"].map(|level| format!("prefetch.{space}.{level} [%a];")));
    for body in fences.into_iter().flatten().chain(others).chain(prefetches.into_iter().flatten()) {
        let out = thread(&format!("st.global.u64 [%from], %b; {body} ld.global.u64 %x, [%from]; add.u32 %rx, %rb, 1;"), [1, 41, 0, 0]);
        assert_eq!((out.wide, out.word), (41, 42), "{body}");
    }
}

/// A launch has no other to wait for, so the controls of dependent grids are nothing; on sm_80 they do not exist.
#[test]
fn controls_of_dependent_grids() {
    let kernel = ".visible .entry k(.param .u64 p) {
.reg .b64 %p; ld.param.u64 %p, [p]; griddepcontrol.wait; st.global.u32 [%p], 7; griddepcontrol.launch_dependents; ret; }";
    let mut rig = Rig::new(&format!("{}{kernel}", HEAD.replace("sm_80", "sm_90")));
    rig.device = cuda_emulator::DeviceModel::h100();
    let p = rig.upload(&[0u32]);
    rig.launch("k", 1, 32, 0, &[p]).unwrap();
    assert_eq!(rig.words(p, 1), [7]);
    let fault = cuda_emulator::Module::parse(&format!("{HEAD}{kernel}")).err().unwrap();
    assert!(fault.kind == FaultKind::Unsupported && fault.detail.contains("griddepcontrol"), "{fault}");
}
