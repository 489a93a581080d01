//! Control flow, calls, memory spaces.

use crate::common::{HEAD, Rig, each};
use cuda_emulator::FaultKind;

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
    BRANCH %w0, ts;
zero: mov.u32 %rx, 10; bra.uni end;
one: mov.u32 %rx, 11; bra.uni end;
two: mov.u32 %rx, 12; bra.uni end;
three: mov.u32 %rx, 13;
end:
";
    let found = each(32, &body.replace("BRANCH", "brx.idx"));
    assert!(found.iter().enumerate().all(|(i, &x)| x == 10 + i as u32 % 4));
    // Uniform: all lanes name the same entry.
    let found = each(32, &body.replace("BRANCH", "brx.idx.uni").replace("and.b32 %w0, %ra, 3", "mov.u32 %w0, 2"));
    assert!(found.iter().all(|&x| x == 12));
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

/// `exit` ends a thread from within a function, `ret` the function; `ret.uni` and `call` are `ret` and `call.uni` for a convergent warp.
#[test]
fn threads_end_and_functions_return() {
    let ptx = format!(
        "{HEAD}.func (.param .b32 result) half(.param .b32 x)
{{
.reg .b32 %x; .reg .pred %p;
ld.param.u32 %x, [x];
setp.eq.u32 %p, %x, 3;
@%p exit;
shr.u32 %x, %x, 1;
st.param.b32 [result], %x;
ret.uni;
}}
.visible .entry k(.param .u64 out)
{{
.reg .b64 %out, %at; .reg .b32 %t;
ld.param.u64 %out, [out]; mov.u32 %t, %tid.x; mul.wide.u32 %at, %t, 4; add.s64 %out, %out, %at;
{{
.param .b32 x; st.param.b32 [x], %t;
.param .b32 result;
call (result), half, (x);
ld.param.b32 %t, [result];
}}
st.global.u32 [%out], %t;
ret;
}}
"
    );
    let rig = Rig::new(&ptx);
    let out = rig.upload(&[99u32; 6]);
    rig.launch("k", 1, 6, 0, &[out]).unwrap();
    assert_eq!(rig.words(out, 6), [0, 0, 1, 99, 2, 2]);
}

/// Without a debugger a breakpoint ends the kernel as a trap does.
#[test]
fn breakpoints_are_traps() {
    for instruction in ["trap", "brkpt"] {
        let rig = Rig::new(&format!("{HEAD}.visible .entry k()\n{{\n{instruction};\nret;\n}}\n"));
        let fault = rig.launch("k", 1, 1, 0, &[]).unwrap_err();
        assert_eq!((fault.kind, fault.kernel.as_str(), fault.line), (FaultKind::Trap, "k", 7), "{fault}");
    }
}
