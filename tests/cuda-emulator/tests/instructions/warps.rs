//! Warp-wide instructions, lanes that part and meet, barriers with answers.

use crate::common::{HEAD, Rig, each, numbered, threads};

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
        threads(&format!("add.u32 %w0, %ra, 100; shfl.sync.{form}.b32 %rx|%p, %w0, {operands}, -1;"), &numbered(32))
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
        assert!(threads(&body, &numbered(32)).iter().all(|o| o.p == expected), "{form} of lanes beyond {limit}");
    }
    let any = each(32, "and.b32 %w0, %ra, 3; match.any.sync.b32 %rx, %w0, -1;");
    assert!(any.iter().enumerate().all(|(i, &x)| x == 0x1111_1111 << (i % 4)));
    let all = threads("match.all.sync.b32 %rx|%p, %ra, -1;", &numbered(32));
    assert!(all.iter().all(|o| o.word == 0 && !o.p));
    // Of 64 bits the upper half counts too: lanes of a quarter share it, all lanes share the lower.
    let any = each(32, "shr.u32 %w0, %ra, 3; mov.b64 %l0, {%rb, %w0}; match.any.sync.b64 %rx, %l0, -1;");
    assert!(any.iter().enumerate().all(|(i, &x)| x == 0xff << (i / 8 * 8)));
    let all = threads("shr.u32 %w0, %ra, 3; mov.b64 %l0, {%rb, %w0}; match.all.sync.b64 %rx|%p, %l0, -1;", &numbered(32));
    assert!(all.iter().all(|o| o.word == 0 && !o.p));
    let all = threads("mov.b64 %l0, {%rb, 7}; match.all.sync.b64 %rx|%p, %l0, -1;", &numbered(32));
    assert!(all.iter().all(|o| o.word == u32::MAX && o.p));
    // Lanes give their number less 16.
    for (form, expected) in [
        ("add.u32", (-16i32) as u32),
        ("add.s32", (-16i32) as u32),
        ("max.u32", u32::MAX),
        ("max.s32", 15),
        ("min.u32", 0),
        ("min.s32", (-16i32) as u32),
        ("or.b32", u32::MAX),
        ("xor.b32", 0),
        ("and.b32", 0),
    ] {
        let found = each(32, &format!("sub.u32 %ra, %ra, 16; redux.sync.{form} %rx, %ra, -1;"));
        assert!(found.iter().all(|&x| x == expected), "{form}: {found:x?}");
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
    assert!(threads(body, &numbered(96)).iter().all(|o| o.word == 50 && !o.p && o.q));
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
