//! Planted faults: each must be reported with its kind, kernel, block, thread and line. Beside each stands the correct program, which runs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{HEAD, Rig};
use cuda_emulator::{Fault, FaultKind, Module};

/// A kernel that may use these registers, the shared array `tile` of 512 bytes and the parameters `a`, `b` (in `%a`, `%b`). `%t` is the
/// thread, `%s` the address of its 4 bytes of `tile`, `%at` that of its 4 bytes of `a`.
fn kernel(body: &str) -> String {
    format!(
        "{HEAD}.visible .entry planted(.param .u64 a, .param .u64 b)
{{
.shared .align 16 .b8 tile[512];
.local .align 8 .b8 own[16];
.reg .b64 %a, %b, %at, %l<8>; .reg .b32 %t, %s, %r<8>; .reg .pred %p, %q;
ld.param.u64 %a, [a]; ld.param.u64 %b, [b];
mov.u32 %t, %tid.x; mul.wide.u32 %at, %t, 4; add.s64 %at, %at, %a;
mov.u32 %s, tile; shl.b32 %r0, %t, 2; add.u32 %s, %s, %r0;
{body}
ret;
}}
"
    )
}

/// Runs 2 blocks of 64 threads with 256 bytes of `a`, all written, and 256 of `b`, of which nothing is.
fn launch(ptx: &str) -> Result<(), Fault> {
    let rig = Rig::new(ptx);
    let (a, b) = (rig.upload(&[7u32; 64]), rig.memory.alloc(256).unwrap());
    rig.launch("planted", 2, 64, 0, &[a, b]).map(|_| ())
}

/// The body must fail, at the line that says `HERE`, in block 0.
fn planted(body: &str, kind: FaultKind, thread: u32) -> Fault {
    let ptx = kernel(body);
    let line = ptx.lines().position(|l| l.contains("HERE")).expect("a line that says HERE") as u32 + 1;
    let fault = launch(&ptx).expect_err("a fault");
    assert_eq!(fault.kind, kind, "{fault}");
    assert_eq!((fault.kernel.as_str(), fault.line), ("planted", line), "{fault}");
    assert_eq!((fault.block, fault.thread), ([0; 3], [thread, 0, 0]), "{fault}");
    let text = fault.to_string();
    assert!(text.contains("planted") && text.contains(&format!("PTX line {line}")) && text.contains(&format!("thread ({thread},0,0)")));
    fault
}

fn sound(body: &str) {
    launch(&kernel(body)).unwrap_or_else(|f| panic!("{f}"));
}

const EXCHANGE: &str = "st.shared.u32 [%s], %t;
bar.sync 0;
xor.b32 %r1, %t, 32; shl.b32 %r1, %r1, 2; mov.u32 %r2, tile; add.u32 %r1, %r1, %r2;
ld.shared.u32 %r3, [%r1]; // HERE";

#[test]
fn a_removed_barrier() {
    sound(&format!("{EXCHANGE}\nbar.sync 0;\nst.shared.u32 [%s], %r3;"));
    // Warp 1 reads what warp 0 has overwritten since, with nothing between.
    let fault = planted(&format!("{EXCHANGE}\nst.shared.u32 [%s], %r3;"), FaultKind::SharedRace, 32);
    assert!(fault.detail.contains("written by warp 0 lane 0"), "{fault}");
    // Warp 1 overwrites what warp 0 has read.
    let fault = planted(
        "st.shared.u32 [%s], %t;\nbar.sync 0;\nsetp.lt.u32 %p, %t, 32;\n@%p ld.shared.u32 %r1, [%s+128];\n@!%p st.shared.u32 [%s], 9; // HERE",
        FaultKind::SharedRace,
        32,
    );
    assert!(fault.detail.contains("read by warp 0 lane 0"), "{fault}");
    // With the first barrier gone the other half of the tile was not written when warp 0 reads it.
    planted(&EXCHANGE.replace("bar.sync 0;\n", ""), FaultKind::Unwritten, 0);
    // Two warps write different values to the same place.
    planted("shr.u32 %r1, %t, 5; st.shared.u32 [tile], %r1; // HERE", FaultKind::SharedRace, 32);
    // The same value does no harm.
    sound("st.shared.u32 [tile], 5; bar.sync 0; ld.shared.u32 %r1, [tile];");
}

#[test]
fn a_race_within_a_warp() {
    let exchange = "st.shared.u32 [%s], %t;
bar.warp.sync 0xffffffff;
xor.b32 %r1, %t, 1; shl.b32 %r1, %r1, 2; mov.u32 %r2, tile; add.u32 %r1, %r1, %r2;
ld.shared.u32 %r3, [%r1]; // HERE";
    sound(exchange);
    sound(&exchange.replace("bar.warp.sync 0xffffffff;", "shfl.sync.bfly.b32 %r5, %t, 1, 31, -1;"));
    planted(&exchange.replace("bar.warp.sync 0xffffffff;", ""), FaultKind::SharedRace, 0);
    // Halves of a word: the record is as fine as the smallest access.
    let halves = "shr.u32 %r1, %t, 0; shl.b32 %r1, %t, 1; mov.u32 %r2, tile; add.u32 %r1, %r1, %r2;
st.shared.u16 [%r1], %t; ld.shared.u16 %r3, [%r1];";
    sound(halves);
}

#[test]
fn an_early_exit_before_a_barrier() {
    let body = "setp.eq.u32 %p, %t, 40;
@%p bra gone;
bar.sync 0; // HERE
gone:";
    let fault = planted(body, FaultKind::EarlyExit, 40);
    assert!(fault.detail.contains("63 threads wait"), "{fault}");
    sound(&body.replace("%t, 40", "%t, 400"));
    // A whole warp too.
    planted("setp.ge.u32 %p, %t, 32;\n@%p exit;\nbar.sync 0; // HERE", FaultKind::EarlyExit, 32);
}

#[test]
fn a_barrier_in_a_branch() {
    let body = "setp.lt.u32 %p, %t, 10;
@%p bra few;
bar.sync 0;
bra join;
few:
bar.sync 0; // HERE
join:";
    let fault = planted(body, FaultKind::DivergentBarrier, 0);
    assert!(fault.detail.contains("10 threads") && fault.detail.contains("54 threads"), "{fault}");
    planted("setp.lt.u32 %p, %t, 10;\n@%p bar.sync 0; // HERE", FaultKind::EarlyExit, 10);
    // A number of threads that never comes.
    planted("setp.lt.u32 %p, %t, 32;\n@!%p bra out;\nbar.sync 1, 64; // HERE\nout:\nbar.sync 2, 32;", FaultKind::EarlyExit, 32);
    sound("setp.lt.u32 %p, %t, 32;\n@!%p bra out;\nbar.sync 1, 32;\nout:\nbar.sync 0;");
}

#[test]
fn accesses_out_of_bounds() {
    let fault = planted("st.global.u32 [%at+4], %t; // HERE", FaultKind::OutOfBounds, 63);
    assert!(fault.detail.contains("0 bytes behind the end of the 256 bytes"), "{fault}");
    sound("st.global.u32 [%at], %t;");
    planted("ld.global.u32 %r1, [%at+-4]; // HERE", FaultKind::OutOfBounds, 0);
    planted("mov.u64 %l0, 16; ld.global.u32 %r1, [%l0]; // HERE", FaultKind::OutOfBounds, 0);
    planted("st.shared.u32 [%s+260], %t; // HERE", FaultKind::OutOfBounds, 63);
    planted("st.shared.u32 [%s+-4], %t; // HERE", FaultKind::OutOfBounds, 0);
    planted("st.local.u32 [own+16], %t; // HERE", FaultKind::OutOfBounds, 0);
    planted("mov.u64 %l0, 16; ld.param.u64 %l1, [%l0]; // HERE", FaultKind::OutOfBounds, 0);
    planted("atom.global.add.u32 %r1, [%at+4], 1; // HERE", FaultKind::OutOfBounds, 63);
    planted("cp.async.ca.shared.global [%s], [%at+4], 4; // HERE\ncp.async.wait_all;", FaultKind::OutOfBounds, 63);
    // A part of a copy that is beyond the source's end is not read.
    sound("mov.u32 %r1, 0; cp.async.ca.shared.global [%s], [%at+400], 4, %r1; cp.async.wait_all; ld.shared.u32 %r2, [%s];");
}

#[test]
fn misaligned_accesses() {
    planted("st.global.u32 [%at+2], %t; // HERE", FaultKind::Misaligned, 0);
    planted("ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%at]; // HERE", FaultKind::Misaligned, 1);
    planted("st.shared.v2.u32 [%s], {%t, %t}; // HERE", FaultKind::Misaligned, 1);
    planted("st.local.u64 [own+4], %a; // HERE", FaultKind::Misaligned, 0);
    let copy = "cp.async.cg.shared.global [%s], [%at], 16; // HERE";
    planted(copy, FaultKind::Misaligned, 1);
}

#[test]
fn memory_that_was_freed() {
    let ptx = kernel("ld.global.u32 %r1, [%at];");
    let rig = Rig::new(&ptx);
    let a = rig.upload(&[7u32; 64]);
    rig.launch("planted", 1, 64, 0, &[a, a]).unwrap();
    rig.memory.free(a).unwrap();
    let fault = rig.launch("planted", 1, 64, 0, &[a, a]).unwrap_err();
    assert_eq!((fault.kind, fault.line, fault.thread), (FaultKind::UseAfterFree, 13, [0; 3]), "{fault}");
    assert_eq!(rig.memory.free(a).unwrap_err().kind, FaultKind::InvalidFree);
    assert_eq!(rig.memory.read(a, &mut [0; 4]).unwrap_err().kind, FaultKind::UseAfterFree);
}

#[test]
fn reads_of_what_nothing_wrote() {
    let read = "mul.wide.u32 %l0, %t, 4; add.s64 %l0, %l0, %b;\nld.global.u32 %r1, [%l0]; // HERE";
    planted(read, FaultKind::Unwritten, 0);
    // One thread of 64 has not written.
    let body = "mul.wide.u32 %l0, %t, 4; add.s64 %l0, %l0, %b; setp.ne.u32 %p, %t, 33;
@%p st.global.u32 [%l0], %t;
ld.global.u32 %r1, [%l0]; // HERE";
    planted(body, FaultKind::Unwritten, 33);
    sound(&body.replace("%t, 33;", "%t, 133;"));
    planted("ld.shared.u32 %r1, [%s]; // HERE", FaultKind::Unwritten, 0);
    planted("st.shared.u16 [%s], 1; ld.shared.u32 %r1, [%s]; // HERE", FaultKind::Unwritten, 0);
    planted("st.local.u32 [own], %t; ld.local.u64 %l0, [own]; // HERE", FaultKind::Unwritten, 0);
    planted("atom.shared.add.u32 %r1, [tile], 1; // HERE", FaultKind::Unwritten, 0);
    // The host may not read it either, and a copy does not hide it.
    let rig = Rig::new(&kernel(""));
    let (b, c) = (rig.memory.alloc(64).unwrap(), rig.upload(&[1u32; 16]));
    assert_eq!(rig.memory.read(b, &mut [0; 4]).unwrap_err().kind, FaultKind::Unwritten);
    rig.memory.copy(c, b, 8).unwrap();
    assert_eq!(rig.memory.read(c, &mut [0; 16]).unwrap_err().kind, FaultKind::Unwritten);
    rig.memory.read(c + 8, &mut [0; 8]).unwrap();
}

#[test]
fn async_copies_without_their_wait() {
    let copy = "cp.async.ca.shared.global [%s], [%at], 4;
cp.async.commit_group;
WAIT
ld.shared.u32 %r1, [%s]; // HERE
cp.async.wait_all;";
    sound(&copy.replace("WAIT", "cp.async.wait_group 0;"));
    planted(&copy.replace("WAIT", ""), FaultKind::PendingCopy, 0);
    planted(&copy.replace("WAIT", "cp.async.wait_group 1;"), FaultKind::PendingCopy, 0);
    // A group that was not committed is not waited for, except by wait_all.
    planted(&copy.replace("cp.async.commit_group;\n", "").replace("WAIT", "cp.async.wait_group 0;"), FaultKind::PendingCopy, 0);
    sound(&copy.replace("cp.async.commit_group;\n", "").replace("WAIT", "cp.async.wait_all;"));
    // Nobody may write there either, and no thread may end with one.
    planted("cp.async.ca.shared.global [%s], [%at], 4; st.shared.u32 [%s], %t; // HERE", FaultKind::PendingCopy, 0);
    planted("cp.async.ca.shared.global [%s], [%at], 4; cp.async.commit_group;\nexit; // HERE", FaultKind::PendingCopy, 0);
    // The older of two groups.
    let two = "cp.async.ca.shared.global [%s], [%at], 4; cp.async.commit_group;
cp.async.ca.shared.global [%s+256], [%at], 4; cp.async.commit_group;
cp.async.wait_group 1;
ld.shared.u32 %r1, [%s];
WAIT
ld.shared.u32 %r1, [%s+256]; // HERE";
    planted(&two.replace("WAIT", ""), FaultKind::PendingCopy, 0);
    sound(&two.replace("WAIT", "cp.async.wait_group 0;"));
}

#[test]
fn async_copies_of_other_threads() {
    // A thread's wait makes its own copies visible to itself; to others after a barrier.
    let share = "cp.async.ca.shared.global [%s], [%at], 4; cp.async.wait_all;
BARRIER
xor.b32 %r1, %t, 1; shl.b32 %r1, %r1, 2; mov.u32 %r2, tile; add.u32 %r1, %r1, %r2;
ld.shared.u32 %r3, [%r1]; // HERE";
    planted(&share.replace("BARRIER", ""), FaultKind::SharedRace, 0);
    sound(&share.replace("BARRIER", "bar.sync 0;"));
    // A stage of a pipeline is filled again while another warp may still read it.
    let refill = format!("{EXCHANGE}\nBARRIER\ncp.async.ca.shared.global [%s], [%at], 4;\ncp.async.wait_all;");
    planted(&refill.replace("BARRIER", ""), FaultKind::SharedRace, 32);
    sound(&refill.replace("BARRIER", "bar.sync 0;"));
}

#[test]
fn warp_wide_instructions_without_all_their_lanes() {
    let body = "setp.lt.u32 %p, %t, 5;
@!%p bra other;
shfl.sync.idx.b32 %r1, %t, 0, 31, -1; // HERE
bar.warp.sync 31;
other:
bar.sync 0;";
    planted(body, FaultKind::DivergentWarp, 5);
    sound(&body.replace("31, -1;", "31, 31;"));
    planted("shfl.sync.idx.b32 %r1, %t, 0, 31, 1; // HERE", FaultKind::DivergentWarp, 1);
    // Lanes below 20 exchange; one of them asks a lane that is not among them, then one that was, but has left.
    let apart = "setp.lt.u32 %p, %t, 20; setp.eq.u32 %q, %t, 7; selp.u32 %r2, 25, 3, %q;
@%p shfl.sync.idx.b32 %r1, %t, %r2, 31, 0xfffff; // HERE";
    assert!(planted(apart, FaultKind::DivergentWarp, 7).detail.contains("reads lane 25, which takes no part"));
    sound(&apart.replace("25, 3", "19, 3").replace("%p, %t, 20;", "%p, %t, 20; @!%p exit;"));
    let left = "setp.eq.u32 %p, %t, 9; setp.eq.u32 %q, %t, 4; selp.u32 %r2, 9, 3, %q;
@%p exit;
shfl.sync.idx.b32 %r1, %t, %r2, 31, -1; // HERE";
    assert!(planted(left, FaultKind::DivergentWarp, 4).detail.contains("reads lane 9, which takes no part"));
    let matrix = "st.shared.u32 [%s], %t; bar.sync 0; setp.ne.u32 %p, %t, 3; shl.b32 %r1, %t, 4; and.b32 %r1, %r1, 240;
@%p ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r2}, [%r1]; // HERE";
    planted(matrix, FaultKind::DivergentWarp, 3);
}

#[test]
fn writes_where_none_may_go_and_traps() {
    planted("mov.u64 %l0, a; cvta.param.u64 %l0, %l0; st.u64 [%l0], %a; // HERE", FaultKind::ReadOnly, 0);
    planted("setp.eq.u32 %p, %t, 50;\n@%p trap; // HERE", FaultKind::Trap, 50);
}

#[test]
fn assertions() {
    let ptx = format!(
        "{HEAD}.extern .func __assertfail
(
.param .b64 p0
)
.noreturn;
.visible .entry planted(.param .u64 a)
{{
.reg .b32 %t; .reg .b64 %a; .reg .pred %p;
mov.u32 %t, %tid.x; setp.eq.u32 %p, %t, 37;
ld.param.u64 %a, [a];
{{
.param .b64 param0; st.param.b64 [param0+0], %a;
@%p call.uni __assertfail, (param0);
}}
ret;
}}
"
    );
    let fault = Rig::new(&ptx).launch("planted", 1, 64, 0, &[0]).unwrap_err();
    assert_eq!((fault.kind, fault.thread, fault.line), (FaultKind::Trap, [37, 0, 0], 17), "{fault}");
}

#[test]
fn constants_and_endless_loops() {
    let ptx = |body: &str| {
        format!(
            "{HEAD}.const .align 4 .b8 fixed[8] = {{1}};\n.visible .entry planted()\n{{\n.reg .b64 %l; .reg .b32 %r; .reg .pred %p;\n{body}\nret;\n}}\n"
        )
    };
    let fault = |body: &str| {
        let mut rig = Rig::new(&ptx(body));
        rig.device.watchdog = 10_000;
        rig.launch("planted", 1, 64, 0, &[]).map(|_| ()).map_err(|f| (f.kind, f.line, f.thread[0]))
    };
    assert_eq!(fault("mov.u64 %l, fixed;\nld.const.u32 %r, [%l];"), Ok(()));
    assert_eq!(fault("mov.u64 %l, fixed;\nst.global.u32 [%l], 5;"), Err((FaultKind::ReadOnly, 10, 0)));
    assert_eq!(fault("mov.u64 %l, fixed;\natom.global.add.u32 %r, [%l], 5;"), Err((FaultKind::ReadOnly, 10, 0)));
    let (kind, line, _) = fault("again:\nmov.u32 %r, 1;\nbra again;").unwrap_err();
    assert!(kind == FaultKind::Hang && (9..=11).contains(&line), "{kind:?} at {line}");
    // A loop that ends is none.
    assert_eq!(fault("mov.u32 %r, 0;\nagain:\nadd.u32 %r, %r, 1;\nsetp.lt.u32 %p, %r, 3000;\n@%p bra again;"), Ok(()));
    // Lanes that wait for one another within a warp never will: the one with the lower line runs for ever.
    let spin = "mov.u32 %r, %tid.x;\nsetp.eq.u32 %p, %r, 0;\nagain:\n@!%p bra again;";
    assert_eq!(fault(spin).unwrap_err().0, FaultKind::Hang);
}

#[test]
fn launches_beyond_the_limits() {
    let ptx = format!(
        "{HEAD}.extern .shared .align 16 .b8 more[];\n.visible .entry planted(.param .u64 a)\n.maxntid 128, 1, 1\n{{\n.shared .b8 tile[1024];\n.reg .b32 %r;\nmov.u32 %r, tile;\nret;\n}}\n"
    );
    let rig = Rig::new(&ptx);
    rig.launch("planted", 1, 128, 162 << 10, &[0]).unwrap();
    // What is refused, the kernel and the numbers that the account of it names.
    for (kernel, grid, block, shared, params, kind, numbers) in [
        ("planted", 1, 128, (162 << 10) + 1, &[0][..], FaultKind::SharedLimit, &["1024", "165889", "166912"][..]),
        ("planted", 1, 129, 0, &[0], FaultKind::ThreadLimit, &["129", "128"]),
        ("planted", 1, 0, 0, &[0], FaultKind::ThreadLimit, &["[0, 1, 1]"]),
        ("planted", 0, 32, 0, &[0], FaultKind::ThreadLimit, &["[0, 1, 1]", "2147483647"]),
        ("planted", 1, 32, 0, &[0, 0], FaultKind::BadLaunch, &["16 bytes", "takes 8"]),
        ("absent", 1, 32, 0, &[], FaultKind::BadLaunch, &["no such kernel"]),
    ] {
        let fault = rig.launch(kernel, grid, block, shared, params).unwrap_err();
        let text = fault.to_string();
        assert_eq!((fault.kind, fault.kernel.as_str()), (kind, kernel), "{text}");
        assert!(text.contains(&format!("kernel {kernel}")) && numbers.iter().all(|number| text.contains(number)), "{text}");
    }
    let fault = rig.memory.alloc(2 << 30).unwrap_err();
    assert!(fault.kind == FaultKind::OutOfMemory && fault.detail.contains("2147483648"), "{fault}");
}

/// The emulator numbers 65,535 values of a width. Constants count as well, registers only while they are live.
#[test]
fn more_registers_than_there_are_rows() {
    let kernel = |count: u32, each: &str, then: &str| {
        let lines = |pattern: &str| (0..count).map(|n| pattern.replace('N', &n.to_string()) + "\n").collect::<String>();
        format!("{HEAD}.visible .entry planted()\n{{\n.reg .b32 %r<{count}>;\n{}{}ret;\n}}\n", lines(each), lines(then))
    };
    let fault = |ptx: &str| Module::parse(ptx).map(drop).unwrap_err();
    for (each, then) in [("mov.u32 %rN, 1;", "add.u32 %rN, %rN, 1;"), ("mov.u32 %r0, N;", "")] {
        let fault = fault(&kernel(65_600, each, then));
        assert_eq!((fault.kind, fault.kernel.as_str(), fault.line), (FaultKind::RegisterLimit, "planted", 5), "{fault}");
        assert!(fault.detail.contains("65535"), "{fault}");
    }
    // As many, one after the other.
    Module::parse(&kernel(65_600, "mov.u32 %rN, 1; add.u32 %rN, %rN, 1;", "")).unwrap();
}

#[test]
fn a_fault_names_its_block_thread_and_source() {
    // Thread (3, 1, 0) of block (2, 1, 0).
    let ptx = format!(
        "{HEAD}.visible .entry planted(.param .u64 a)
{{
.reg .b32 %r<9>; .reg .b64 %l; .reg .pred %p;
mov.u32 %r0, %tid.x; mov.u32 %r1, %tid.y; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ctaid.y;
mad.lo.u32 %r4, %r1, 10, %r0; mad.lo.u32 %r4, %r2, 100, %r4; mad.lo.u32 %r4, %r3, 1000, %r4;
setp.eq.u32 %p, %r4, 1213; mov.u64 %l, 0;
.loc 1 42 7
@%p ld.global.u32 %r5, [%l];
ret;
}}
.file 1 \"kernel.cu\"
"
    );
    let rig = Rig::new(&ptx);
    let params = 0u64.to_le_bytes();
    let launch = cuda_emulator::Launch {
        module: &rig.module,
        entry: "planted",
        grid: [3, 2, 1],
        block: [8, 4, 1],
        dynamic_shared: 0,
        params: &params,
    };
    for threads in [1, 2, 3] {
        let fault = cuda_emulator::run(&rig.device, &rig.memory, &launch, threads).unwrap_err();
        assert_eq!((fault.block, fault.thread, fault.line), ([2, 1, 0], [3, 1, 0], 12), "{fault}");
        assert_eq!(fault.source, Some(("kernel.cu".to_string(), 42)));
    }
}
