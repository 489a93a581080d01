//! Special registers.

use crate::common::{HEAD, Rig, thread, threads};

#[test]
fn lanes_and_warps() {
    let rows = [[0; 4]; 70];
    let of = |name: &str| threads(&format!("mov.u32 %rx, {name};"), &rows).iter().map(|out| out.word).collect::<Vec<_>>();
    let by_lane = |f: &dyn Fn(u32) -> u32| (0..70).map(|thread| f(thread % 32)).collect::<Vec<_>>();
    assert_eq!(of("%laneid"), by_lane(&|lane| lane));
    assert_eq!(of("%warpid"), (0..70).map(|thread| thread / 32).collect::<Vec<_>>());
    assert_eq!(of("%lanemask_eq"), by_lane(&|lane| 1 << lane));
    assert_eq!(of("%lanemask_lt"), by_lane(&|lane| (1 << lane) - 1));
    assert_eq!(of("%lanemask_le"), by_lane(&|lane| ((1u64 << (lane + 1)) - 1) as u32));
    assert_eq!(of("%lanemask_gt"), by_lane(&|lane| !(((1u64 << (lane + 1)) - 1) as u32)));
    assert_eq!(of("%lanemask_ge"), by_lane(&|lane| !((1 << lane) - 1)));
}

#[test]
fn the_device_and_clusters_of_one() {
    // An A100 has 108 multiprocessors of 64 warps.
    for (name, expected) in [
        ("%nsmid", 108),
        ("%nwarpid", 64),
        ("%smid", 0),
        ("%cluster_ctarank", 0),
        ("%cluster_nctarank", 1),
        ("%cluster_ctaid.x", 0),
        ("%cluster_ctaid.y", 0),
        ("%cluster_ctaid.z", 0),
        ("%cluster_nctaid.x", 1),
        ("%cluster_nctaid.y", 1),
        ("%cluster_nctaid.z", 1),
        ("%ntid.z", 1),
        ("%nctaid.z", 1),
    ] {
        assert_eq!(thread(&format!("mov.u32 %rx, {name};"), [0; 4]).word, expected, "{name}");
    }
}

/// The clock of a block counts the instructions that it has issued.
#[test]
fn clocks() {
    let three = "add.u32 %w2, %ra, 1; add.u32 %w2, %ra, 2; add.u32 %w2, %ra, 3;";
    for name in ["%clock", "%globaltimer_lo"] {
        let out = thread(&format!("mov.u32 %w0, {name}; {three} mov.u32 %w1, {name}; sub.u32 %rx, %w1, %w0;"), [0; 4]);
        assert_eq!(out.word, 4, "{name}");
    }
    for name in ["%clock64", "%globaltimer"] {
        let out = thread(&format!("mov.u64 %l0, {name}; {three} mov.u64 %l1, {name}; sub.u64 %x, %l1, %l0;"), [0; 4]);
        assert_eq!(out.wide, 4, "{name}");
    }
    for name in ["%clock_hi", "%globaltimer_hi"] {
        assert_eq!(thread(&format!("mov.u32 %rx, {name};"), [0; 4]).word, 0, "{name}");
    }
}

/// 100 bytes of the kernel's own and 1000 given at the launch; the total comes in units of 128.
#[test]
fn sizes_of_shared_memory() {
    let ptx = format!(
        "{HEAD}.visible .entry k(.param .u64 p)
{{
.shared .align 4 .b8 own[100];
.reg .b32 %r<3>; .reg .b64 %p;
ld.param.u64 %p, [p];
mov.u32 %r2, own; st.shared.u32 [%r2], 1;
mov.u32 %r0, %dynamic_smem_size;
mov.u32 %r1, %total_smem_size;
st.global.v2.u32 [%p], {{%r0, %r1}};
ret;
}}
"
    );
    let rig = Rig::new(&ptx);
    let p = rig.upload(&[0u32; 2]);
    rig.launch("k", 1, 1, 1000, &[p]).unwrap();
    assert_eq!(rig.words(p, 2), [1000, 1152]);
}

#[test]
fn registers_that_are_not_emulated_are_refused() {
    for name in ["%envreg1", "%gridid", "%laneid.x", "%tid.w", "%clock32", "%pm0"] {
        let ptx = format!("{HEAD}.visible .entry k() {{ .reg .b32 %r; mov.u32 %r, {name}; ret; }}");
        let fault = cuda_emulator::Module::parse(&ptx).err().unwrap();
        assert!(fault.detail.contains(name), "{fault}");
    }
}
