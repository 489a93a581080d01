//! Control flow, calls, memory spaces, warp-wide instructions, barriers with answers, atomics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{HEAD, Rig, threads};
use cuda_emulator::FaultKind;

fn rows(n: u64) -> Vec<[u64; 4]> {
    (0..n).map(|i| [i, 0, 0, 0]).collect()
}

/// `%rx` of each of `n` threads, where `%ra` is the thread.
fn each(n: u64, body: &str) -> Vec<u32> {
    threads(body, &rows(n)).iter().map(|o| o.word).collect()
}

#[test]
fn loops_of_different_lengths_and_nested_branches() {
    let body = "
    mov.u32 %w0, 0;
loop:
    setp.ge.u32 %p, %w0, %ra;
    @%p bra done;
    and.b32 %w1, %w0, 1;
    setp.eq.u32 %q, %w1, 1;
    @%q bra odd;
    add.u32 %rx, %rx, %w0;
    bra next;
odd:
    setp.gt.u32 %s, %ra, 20;
    @%s add.u32 %rx, %rx, 1000;
next:
    add.u32 %w0, %w0, 1;
    bra loop;
done:
    add.u32 %rx, %rx, 1;
";
    for (n, &found) in each(40, body).iter().enumerate() {
        let n = n as u32;
        let even: u32 = (0..n).filter(|i| i % 2 == 0).sum();
        assert_eq!(found, even + if n > 20 { n / 2 * 1000 } else { 0 } + 1, "thread {n}");
    }
}

#[test]
fn tables_of_branches() {
    let body = "
    and.b32 %w0, %ra, 3;
ts: .branchtargets zero, one, two, three;
    brx.idx %w0, ts;
zero: mov.u32 %rx, 10; bra.uni end;
one: mov.u32 %rx, 11; bra.uni end;
two: mov.u32 %rx, 12; bra.uni end;
three: mov.u32 %rx, 13;
end:
";
    assert!(each(32, body).iter().enumerate().all(|(i, &x)| x == 10 + i as u32 % 4));
}

#[test]
fn lanes_meet_again_after_a_branch() {
    // All 32 lanes must be back together for activemask and the vote.
    let body = "
    setp.lt.u32 %p, %ra, 7;
    @%p bra small;
    mul.lo.u32 %w0, %ra, 3;
    activemask.b32 %w1;
    bra join;
small:
    mul.lo.u32 %w0, %ra, 5;
    activemask.b32 %w1;
join:
    activemask.b32 %w2;
    popc.b32 %w1, %w1;
    popc.b32 %w2, %w2;
    mad.lo.u32 %rx, %w2, 100, %w1;
";
    let found = each(32, body);
    assert!(found.iter().enumerate().all(|(i, &x)| x == 3200 + if i < 7 { 7 } else { 25 }), "{found:?}");
}

#[test]
fn lanes_wait_for_others_that_come_from_elsewhere() {
    // Half of the warp comes to the shuffle at once, the other half from further down.
    let body = "
    setp.lt.u32 %p, %ra, 16;
    @!%p bra late;
again:
    shfl.sync.bfly.b32 %rx, %ra, 16, 31, -1;
    bra end;
late:
    add.u32 %ra, %ra, 100;
    bra again;
end:
    bar.warp.sync -1;
";
    assert!(each(32, body).iter().enumerate().all(|(i, &x)| x == if i < 16 { i as u32 + 116 } else { i as u32 - 16 }));
}

#[test]
fn shuffles() {
    let shuffle = |form: &str, operands: &str| {
        threads(&format!("add.u32 %w0, %ra, 100; shfl.sync.{form}.b32 %rx|%p, %w0, {operands}, -1;"), &rows(32))
    };
    for (lane, out) in shuffle("bfly", "5, 31").iter().enumerate() {
        assert_eq!((out.word, out.p), (100 + (lane as u32 ^ 5), true));
    }
    for (lane, out) in shuffle("idx", "9, 31").iter().enumerate() {
        assert_eq!((out.word, out.p), (109, true), "lane {lane}");
    }
    // Up stops at lane 0, down at lane 31: those keep their own value.
    for (lane, out) in shuffle("up", "3, 0").iter().enumerate() {
        let lane = lane as u32;
        assert_eq!((out.word, out.p), (if lane >= 3 { 97 + lane } else { 100 + lane }, lane >= 3));
    }
    for (lane, out) in shuffle("down", "3, 31").iter().enumerate() {
        let lane = lane as u32;
        assert_eq!((out.word, out.p), (if lane < 29 { 103 + lane } else { 100 + lane }, lane < 29));
    }
    // Segments of 8: mask 0x18 in bits 8 to 12, clamp 31.
    for (lane, out) in shuffle("idx", "10, 0x181f").iter().enumerate() {
        assert_eq!((out.word, out.p), (100 + (lane as u32 & 24 | 2), true));
    }
    for (lane, out) in shuffle("down", "4, 0x1807").iter().enumerate() {
        let lane = lane as u32;
        let inside = lane % 8 < 4;
        assert_eq!((out.word, out.p), (100 + lane + if inside { 4 } else { 0 }, inside), "lane {lane}");
    }
}

#[test]
fn votes_matches_and_reductions() {
    let ballot = each(32, "setp.gt.u32 %p, %ra, 27; vote.sync.ballot.b32 %rx, %p, -1;");
    assert!(ballot.iter().all(|&x| x == 0xf000_0000));
    let ballot = each(32, "setp.gt.u32 %p, %ra, 27; vote.sync.ballot.b32 %rx, !%p, -1;");
    assert!(ballot.iter().all(|&x| x == 0x0fff_ffff));
    for (form, limit, expected) in [("any", 31, false), ("any", 30, true), ("all", 0, false), ("all", 40, false), ("uni", 40, true)] {
        let body = format!("setp.gt.u32 %s, %ra, {limit}; vote.sync.{form}.pred %p, %s, -1;");
        assert!(threads(&body, &rows(32)).iter().all(|o| o.p == expected), "{form} of lanes beyond {limit}");
    }
    let any = each(32, "and.b32 %w0, %ra, 3; match.any.sync.b32 %rx, %w0, -1;");
    assert!(any.iter().enumerate().all(|(i, &x)| x == 0x1111_1111 << (i % 4)));
    let all = threads("match.all.sync.b32 %rx|%p, %ra, -1;", &rows(32));
    assert!(all.iter().all(|o| o.word == 0 && !o.p));
    for (form, expected) in [("add.u32", 496), ("max.u32", 31), ("min.s32", 0), ("or.b32", 31), ("xor.b32", 0), ("and.b32", 0)] {
        assert!(each(32, &format!("redux.sync.{form} %rx, %ra, -1;")).iter().all(|&x| x == expected), "{form}");
    }
    // Two halves of a warp, each with its own mask.
    let body = "setp.lt.u32 %p, %ra, 16; selp.b32 %w0, 0xffff, 0xffff0000, %p; redux.sync.add.u32 %rx, %ra, %w0;";
    assert!(each(32, body).iter().enumerate().all(|(i, &x)| x == if i < 16 { 120 } else { 376 }));
}

#[test]
fn barriers_that_answer_and_count() {
    let body = "
    setp.lt.u32 %s, %ra, 50;
    bar.red.popc.u32 %rx, 0, %s;
    bar.red.and.pred %p, 0, %s;
    bar.red.or.pred %q, 0, %s;
";
    assert!(threads(body, &rows(96)).iter().all(|o| o.word == 50 && !o.p && o.q));
    // Producer and consumer: warp 1 arrives at barrier 1 and goes on; warp 0 waits for it.
    let ptx = format!(
        "{HEAD}.visible .entry k(.param .u64 out)
{{
.shared .align 4 .b8 tile[128];
.reg .b32 %t, %l, %v; .reg .b64 %o, %at; .reg .pred %p;
mov.u32 %t, %tid.x; and.b32 %l, %t, 31; shl.b32 %l, %l, 2; mov.u32 %v, tile; add.u32 %l, %l, %v;
setp.lt.u32 %p, %t, 32;
@%p bra consume;
st.shared.u32 [%l], %t;
bar.arrive 1, 64;
bra end;
consume:
bar.sync 1, 64;
ld.shared.u32 %v, [%l];
ld.param.u64 %o, [out]; mul.wide.u32 %at, %t, 4; add.s64 %o, %o, %at;
st.global.u32 [%o], %v;
end:
ret;
}}
"
    );
    let rig = Rig::new(&ptx);
    let out = rig.memory.alloc(128).unwrap();
    rig.launch("k", 1, 64, 0, &[out]).unwrap_or_else(|f| panic!("{f}"));
    assert!(rig.words(out, 32).iter().enumerate().all(|(i, &x)| x == 32 + i as u32));
}

#[test]
fn calls_structures_local_arrays_and_variables() {
    let ptx = format!(
        "{HEAD}.global .align 4 .u32 total = 5;
.const .align 4 .b8 table[16] = {{1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4}};
.global .align 8 .u64 pointer = total;
.func (.param .align 4 .b8 result[8]) twice(.param .b32 x, .param .align 4 .b8 pair[8])
{{
.reg .b32 %x, %y, %z; .reg .pred %p;
ld.param.u32 %x, [x]; ld.param.u32 %y, [pair]; ld.param.u32 %z, [pair+4];
setp.gt.u32 %p, %x, 10;
@%p bra big;
add.u32 %y, %y, %x;
st.param.b32 [result+0], %y; st.param.b32 [result+4], %z;
ret;
big:
sub.u32 %z, %z, %x;
st.param.b32 [result+0], %y; st.param.b32 [result+4], %z;
ret;
}}
.visible .entry k(.param .align 8 .b8 p[24])
{{
.local .align 16 .b8 depot[32];
.reg .b64 %SP, %out, %at, %g; .reg .b32 %t, %r<12>;
mov.u64 %SP, depot; cvta.local.u64 %SP, %SP;
mov.u32 %t, %tid.x;
ld.param.u32 %r0, [p+8];
ld.param.v2.u32 {{%r1, %r2}}, [p+16];
{{
.param .b32 param0; st.param.b32 [param0+0], %t;
.param .align 4 .b8 param1[8]; st.param.b32 [param1+0], %r0; st.param.b32 [param1+4], %r1;
.param .align 4 .b8 retval0[8];
call.uni (retval0), twice, (param0, param1);
ld.param.b32 %r3, [retval0+0]; ld.param.b32 %r4, [retval0+4];
}}
{{
.param .b32 param0; st.param.b32 [param0+0], %r3;
.param .align 4 .b8 param1[8]; st.param.b32 [param1+0], %r4; st.param.b32 [param1+4], %r2;
.param .align 4 .b8 retval0[8];
call.uni (retval0), twice, (param0, param1);
ld.param.b32 %r5, [retval0+0]; ld.param.b32 %r6, [retval0+4];
}}
st.v2.u32 [%SP+8], {{%r5, %r6}};
and.b32 %r7, %t, 1; mul.wide.u32 %at, %r7, 4; add.s64 %g, %SP, %at;
ld.u32 %r8, [%g+8];
and.b32 %r7, %t, 3; mul.wide.u32 %at, %r7, 4; mov.u64 %g, table; add.s64 %g, %g, %at; ld.const.u32 %r9, [%g];
ld.global.u64 %g, [pointer]; ld.global.u32 %r10, [%g];
mad.lo.u32 %r8, %r9, 10000, %r8; mad.lo.u32 %r8, %r10, 100000, %r8;
ld.param.u64 %out, [p]; mul.wide.u32 %at, %t, 4; add.s64 %out, %out, %at;
st.global.u32 [%out], %r8;
ret;
}}
"
    );
    let rig = Rig::new(&ptx);
    let out = rig.memory.alloc(128).unwrap();
    rig.launch("k", 1, 32, 0, &[out, 100, 200 | 300 << 32]).unwrap_or_else(|f| panic!("{f}"));
    let twice = |x: u32, (y, z): (u32, u32)| if x > 10 { (y, z - x) } else { (y + x, z) };
    for (t, &found) in rig.words(out, 32).iter().enumerate() {
        let (r3, r4) = twice(t as u32, (100, 200));
        let (r5, r6) = twice(r3, (r4, 300));
        let expected = if t % 2 == 0 { r5 } else { r6 } + 10_000 * (t as u32 % 4 + 1) + 500_000;
        assert_eq!(found, expected, "thread {t}");
    }
    let variable = rig.module.variables().iter().find(|v| v.name == "total").unwrap();
    assert_eq!(rig.words(variable.address, 1), [5]);
    let params = &rig.module.entry("k").unwrap().params;
    assert_eq!((params[0].offset, params[0].size, params[0].align), (0, 24, 8));
}

#[test]
fn special_registers_in_three_dimensions() {
    let ptx = format!(
        "{HEAD}.visible .entry k(.param .u64 out)
{{
.reg .b32 %r<9>; .reg .b64 %o, %at;
mad.lo.u32 %r0, %tid.z, %ntid.y, %tid.y; mad.lo.u32 %r0, %r0, %ntid.x, %tid.x;
mad.lo.u32 %r1, %ctaid.z, %nctaid.y, %ctaid.y; mad.lo.u32 %r1, %r1, %nctaid.x, %ctaid.x;
mad.lo.u32 %r2, %r1, 24, %r0;
mad.lo.u32 %r3, %warpid, 32, %laneid;
sub.u32 %r3, %r3, %r0;
popc.b32 %r4, %lanemask_lt; sub.u32 %r4, %r4, %laneid;
or.b32 %r3, %r3, %r4;
ld.param.u64 %o, [out]; mul.wide.u32 %at, %r2, 4; add.s64 %o, %o, %at;
add.u32 %r2, %r2, %r3;
st.global.u32 [%o], %r2;
ret;
}}
"
    );
    let rig = Rig::new(&ptx);
    let out = rig.memory.alloc(4 * 24 * 12).unwrap();
    let params = out.to_le_bytes();
    let launch =
        cuda_emulator::Launch { module: &rig.module, entry: "k", grid: [2, 3, 2], block: [2, 3, 4], dynamic_shared: 0, params: &params };
    cuda_emulator::run(&rig.device, &rig.memory, &launch, 2).unwrap_or_else(|f| panic!("{f}"));
    assert!(rig.words(out, 24 * 12).iter().enumerate().all(|(i, &x)| x == i as u32));
}

#[test]
fn atomics() {
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

/// What the last of several blocks reads is what the others wrote before they counted themselves, whichever comes last: every block
/// leaves 64 words, a fence, a count that wraps around; the last one adds all words.
#[test]
fn the_last_block_sees_what_the_others_wrote() {
    let ptx = format!(
        "{HEAD}.visible .entry k(.param .u64 words, .param .u64 sums)
{{
.reg .b32 %t, %b, %n, %r<9>; .reg .b64 %w, %s, %l<4>; .reg .pred %p, %q;
mov.u32 %t, %tid.x; mov.u32 %b, %ctaid.x; mov.u32 %n, %nctaid.x; ld.param.u64 %w, [words]; ld.param.u64 %s, [sums];
mad.lo.u32 %r0, %b, 64, %t; mul.wide.u32 %l0, %r0, 4; add.u64 %l0, %l0, %w;
ld.global.u32 %r1, [%l0]; add.u32 %r1, %r1, %r0; st.global.u32 [%l0], %r1;
bar.sync 0;
setp.eq.u32 %q, %t, 0;
sub.u32 %r2, %n, 1; mov.u32 %r3, 0;
@!%q bra counted;
membar.gl; atom.global.inc.u32 %r3, [%s], %r2; membar.gl;
counted:
setp.eq.and.u32 %p, %r3, %r2, %q;
bar.red.or.pred %p, 0, %p;
@!%p bra done;
mov.u32 %r4, 0; mov.u32 %r5, 0;
next:
mad.lo.u32 %r6, %r5, 64, %t; mul.wide.u32 %l1, %r6, 4; add.u64 %l1, %l1, %w;
ld.global.u32 %r7, [%l1]; add.u32 %r4, %r4, %r7; add.u32 %r5, %r5, 1;
setp.lt.u32 %p, %r5, %n; @%p bra next;
mul.wide.u32 %l2, %t, 4; add.u64 %l2, %l2, %s; st.global.u32 [%l2+4], %r4;
done:
ret;
}}
"
    );
    let mut rig = Rig::new(&ptx);
    let (blocks, rounds) = (7, 100);
    let (words, sums) = (rig.upload(&vec![0u32; 64 * blocks]), rig.upload(&[0u32; 65]));
    for round in 1..=rounds {
        rig.device.blocks_descend = round % 2 == 0;
        rig.launch("k", blocks as u32, 64, 0, &[words, sums]).unwrap_or_else(|f| panic!("{f}"));
        let want = (0..64).map(|t| (0..blocks as u32).map(|b| round * (64 * b + t)).sum());
        let want: Vec<u32> = [0].into_iter().chain(want).collect();
        assert_eq!(rig.words(sums, 65), want, "round {round}");
    }
}

/// Block 0 of two stores and raises a flag, after `before`; block 1 waits for the flag and copies what was stored.
fn handed_over(before: &str) -> String {
    format!(
        "{HEAD}.visible .entry waits(.param .u64 to)
{{
.reg .b64 %p; .reg .b32 %r<4>; .reg .pred %q;
ld.param.u64 %p, [to];
mov.u32 %r0, %ctaid.x;
setp.ne.u32 %q, %r0, 0;
@%q bra WAIT;
{before}
st.global.u32 [%p+4], 77;
membar.gl;
atom.global.inc.u32 %r1, [%p], 3;
ret;
WAIT:
ld.volatile.global.u32 %r1, [%p];
setp.ne.u32 %q, %r1, 0;
@%q bra READ;
nanosleep.u32 40;
bra WAIT;
READ:
membar.gl;
ld.global.u32 %r2, [%p+4];
st.global.u32 [%p+8], %r2;
ret;
}}
"
    )
}

#[test]
fn a_block_may_wait_for_one_before_it() {
    let rig = Rig::new(&handed_over("nanosleep.u32 1000;"));
    let to = rig.upload(&[0u32; 3]);
    rig.launch("waits", 2, 1, 0, &[to]).unwrap();
    assert_eq!(rig.words(to, 3), [1, 77, 77]);
}

#[test]
fn who_waits_for_a_block_that_fails_is_let_go() {
    let rig = Rig::new(&handed_over("nanosleep.u32 1000; trap;"));
    let to = rig.upload(&[0u32; 3]);
    let fault = rig.launch("waits", 2, 1, 0, &[to]).unwrap_err();
    assert_eq!((fault.kind, fault.block), (FaultKind::Trap, [0; 3]), "{fault}");
}
