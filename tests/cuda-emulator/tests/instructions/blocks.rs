//! Blocks that hand data to one another.

use crate::common::{HEAD, Rig};
use cuda_emulator::FaultKind;

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
