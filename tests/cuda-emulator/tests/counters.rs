//! What is counted, on access patterns whose traffic is known.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{HEAD, Rig};
use cuda_emulator::{Counters, Launch, Touched, run_blocks};

/// Runs a body in 2 blocks of 64 threads. `%at` is `a` plus `stride` bytes per thread of the grid; shared memory `tile` has 8192 bytes, all
/// of which is written beforehand by the 4-byte stores that the returned counts include: 32 a warp.
fn count(stride: u32, body: &str) -> Counters {
    let ptx = format!(
        "{HEAD}.visible .entry k(.param .u64 a)
{{
.shared .align 16 .b8 tile[8192];
.reg .b64 %a, %at; .reg .b32 %t, %g, %s, %i, %r<8>; .reg .pred %p;
ld.param.u64 %a, [a];
mov.u32 %t, %tid.x; mad.lo.u32 %g, %ctaid.x, 64, %t; mul.wide.u32 %at, %g, {stride}; add.s64 %at, %at, %a;
mov.u32 %s, tile; mov.u32 %i, 0;
fill:
shl.b32 %r0, %t, 2; mad.lo.u32 %r0, %i, 256, %r0; st.shared.u32 [%r0], %t;
add.u32 %i, %i, 1; setp.lt.u32 %p, %i, 32;
@%p bra fill;
bar.sync 0;
{body}
ret;
}}
"
    );
    let rig = Rig::new(&ptx);
    let a = rig.upload(&vec![1u32; 1 << 16]);
    rig.launch("k", 2, 64, 0, &[a]).unwrap_or_else(|f| panic!("{f}"))
}

#[test]
fn sectors_of_device_memory() {
    // Stride 4: a warp's 128 bytes are 4 sectors, as few as can be; four warps in all.
    let c = count(4, "ld.global.u32 %r1, [%at];");
    assert_eq!((c.global_loads, c.load_sectors, c.load_sectors_min, c.unique_load_bytes), (4, 16, 16, 512));
    // Stride 32: a sector each.
    let c = count(32, "ld.global.u32 %r1, [%at];");
    assert_eq!((c.load_sectors, c.load_sectors_min, c.unique_load_bytes), (128, 16, 4096));
    // The same word for all lanes of all warps: one sector a warp, one in all.
    let c = count(0, "ld.global.u32 %r1, [%at];");
    assert_eq!((c.load_sectors, c.load_sectors_min, c.unique_load_bytes), (4, 4, 32));
    // 16 bytes each; twice, which is not new.
    let c = count(16, "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%at];\nld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%at];");
    assert_eq!((c.global_loads, c.load_sectors, c.load_sectors_min, c.unique_load_bytes), (8, 128, 128, 2048));
    // One word over a sector's end costs a fifth sector.
    let c = count(4, "ld.global.u32 %r1, [%at+4];");
    assert_eq!((c.load_sectors, c.load_sectors_min), (20, 16));
    let c = count(8, "st.global.u32 [%at], %t;");
    assert_eq!((c.global_stores, c.store_sectors, c.store_sectors_min, c.unique_store_bytes), (4, 32, 16, 1024));
    // In descending order it is the same.
    let c = count(4, "shl.b32 %r1, %t, 3; cvt.u64.u32 %a, %r1; sub.s64 %at, %at, %a; ld.global.u32 %r1, [%at+252];");
    assert_eq!((c.load_sectors, c.load_sectors_min), (16, 16));
    // cp.async is traffic like any other.
    let c = count(16, "shl.b32 %r1, %t, 4; cp.async.cg.shared.global [%r1], [%at], 16; cp.async.wait_all;");
    assert_eq!((c.load_sectors, c.load_sectors_min, c.unique_load_bytes), (64, 64, 2048));
}

#[test]
fn wavefronts_of_shared_memory() {
    let fill = 4 * 32;
    for (body, passes, least) in [
        // Words in a row, one word for all, a stride of 2 words, of 32 words, of 33 words.
        ("shl.b32 %r1, %t, 2; ld.shared.u32 %r2, [%r1];", 1, 1),
        ("ld.shared.u32 %r2, [tile];", 1, 1),
        ("shl.b32 %r1, %t, 3; ld.shared.u32 %r2, [%r1];", 2, 1),
        ("and.b32 %r1, %t, 31; shl.b32 %r1, %r1, 7; ld.shared.u32 %r2, [%r1];", 32, 1),
        ("and.b32 %r1, %t, 31; mul.lo.u32 %r1, %r1, 132; ld.shared.u32 %r2, [%r1];", 1, 1),
        // Halves of words share them.
        ("shl.b32 %r1, %t, 1; ld.shared.u16 %r2, [%r1];", 1, 1),
        // 16 bytes go in quarters of a warp: in a row, then at a stride of 128 bytes, where all eight of a quarter meet.
        ("shl.b32 %r1, %t, 4; ld.shared.v4.u32 {%r2, %r3, %r4, %r5}, [%r1];", 4, 4),
        ("shl.b32 %r1, %t, 7; ld.shared.v4.u32 {%r2, %r3, %r4, %r5}, [%r1];", 32, 4),
        // 8 bytes in halves.
        ("shl.b32 %r1, %t, 3; ld.shared.v2.u32 {%r2, %r3}, [%r1];", 2, 2),
        // ldmatrix: rows of 16 bytes at a stride of 128 collide, at 144 they do not.
        ("and.b32 %r1, %t, 31; shl.b32 %r1, %r1, 7; ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r2, %r3, %r4, %r5}, [%r1];", 32, 4),
        ("and.b32 %r1, %t, 31; mul.lo.u32 %r1, %r1, 144; ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r2, %r3, %r4, %r5}, [%r1];", 4, 4),
    ] {
        let c = count(0, body);
        let found = (c.shared_wavefronts - fill, c.shared_wavefronts_min - fill);
        assert_eq!(found, (4 * passes, 4 * least), "{body}");
    }
}

#[test]
fn instructions_by_unit() {
    let empty = count(0, "");
    let c = count(
        0,
        "cvt.rn.f32.u32 %r1, %t; add.f32 %r1, %r1, %r1; fma.rn.f32 %r1, %r1, %r1, %r1; ex2.approx.f32 %r2, %r1;
add.u32 %r3, %r3, 1; mov.b32 %r5, %r4; shfl.sync.idx.b32 %r4, %t, 0, 31, -1; bar.sync 0;
mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r0, %r1, %r2, %r3}, {%r4, %r4, %r4, %r4}, {%r4, %r4}, {%r0, %r1, %r2, %r3};
ld.global.u32 %r1, [%at];",
    );
    let more = |f: fn(&Counters) -> u64| f(&c) - f(&empty);
    assert_eq!((c.blocks, c.warps), (2, 4));
    assert_eq!(more(|c| c.fp32), 4 * 2);
    assert_eq!(more(|c| c.special), 4 * 2);
    assert_eq!((more(|c| c.integer), more(|c| c.moves)), (4, 4));
    assert_eq!(more(|c| c.warp_wide), 4);
    assert_eq!(more(|c| c.tensor), 4);
    assert_eq!(more(|c| c.mma_bf16), 4 * 16 * 8 * 16);
    assert_eq!(more(|c| c.memory), 4);
    assert_eq!(more(|c| c.barriers), 4);
    assert_eq!(more(|c| c.issued), 4 * 10);
    let sum = c.fp32 + c.fp64 + c.integer + c.moves + c.special + c.memory + c.control + c.tensor + c.warp_wide;
    assert_eq!(c.issued, sum);
    let mut twice = c.clone();
    twice.merge(&c);
    assert!(twice.fields().iter().zip(c.fields()).all(|(a, b)| a.0 == b.0 && a.1 == 2 * b.1));
}

#[test]
fn some_blocks_of_a_grid() {
    let rig = Rig::new(&format!(
        "{HEAD}.visible .entry k(.param .u64 a, .param .u64 b)
{{
.reg .b64 %a, %b, %o; .reg .b32 %t, %r;
ld.param.u64 %a, [a]; ld.param.u64 %b, [b];
mov.u32 %t, %tid.x; mad.lo.u32 %t, %ctaid.x, 64, %t; mul.wide.u32 %o, %t, 4;
add.s64 %a, %a, %o; add.s64 %b, %b, %o;
ld.global.u32 %r, [%a]; st.global.u32 [%b], %r;
ret;
}}
"
    ));
    let (a, b, other) = (rig.upload(&[1u32; 640]), rig.memory.alloc(2560).unwrap(), rig.upload(&[1u32; 64]));
    let params = common::bytes(&[a, b]);
    let launch = Launch { module: &rig.module, entry: "k", grid: [10, 1, 1], block: [64, 1, 1], dynamic_shared: 0, params: &params };
    let some = run_blocks(&rig.device, &rig.memory, &launch, &[9, 2, 2], 1).unwrap();
    assert_eq!((some.counters.blocks, some.counters.load_sectors, some.counters.unique_load_bytes), (3, 24, 512));
    let of = |address| some.touched.iter().find(|t| t.address == address).copied();
    assert_eq!(of(a), Some(Touched { address: a, bytes: 2560, loaded: 512, stored: 0 }));
    assert_eq!(of(b), Some(Touched { address: b, bytes: 2560, loaded: 0, stored: 512 }));
    assert_eq!(of(other), None);
    // what was not asked for did not happen
    assert!(rig.memory.read(b + 9 * 256, &mut [0; 256]).is_ok() && rig.memory.read(b, &mut [0; 4]).is_err());
    let beyond = run_blocks(&rig.device, &rig.memory, &launch, &[10], 1).unwrap_err();
    assert!(beyond.to_string().contains("block 10 of a grid of 10"), "{beyond}");
    assert!(run_blocks(&rig.device, &rig.memory, &launch, &[], 1).unwrap().touched.is_empty());
}
