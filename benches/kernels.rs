//! Matrix products and convolutions of Stable Diffusion 2.1, beside the arithmetic peak of the machine.
//!
//! `cargo bench --bench kernels -- "conv 320"` runs some of them. `DREAMID_THREADS` sets the number of threads (default: all cores).
//! Throughput is printed in elements a second; an element is one floating-point operation.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Call, cpu, group, measure};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dreamid_engine::ops::{Activation, Conv2d, Linear};
use dreamid_engine::{DType, Ty};

criterion_group!(benches, products, peak::ceilings);
criterion_main!(benches);

fn products(criterion: &mut Criterion) {
    let cpu = cpu();
    for dtype in [DType::F32, DType::Bf16] {
        let mut group = group(criterion, &dtype.to_string());
        for (name, product) in shapes(dtype) {
            measure(&mut group, &cpu, name, product, |bound| Throughput::Elements(bound.cost.flops));
        }
    }
}

fn shapes(t: DType) -> Vec<(&'static str, Call)> {
    let f32s = |n: usize| Some(Ty::new(DType::F32, [n]));
    let conv = |b: usize, size: usize, c: usize, o: usize, k: usize| -> Call {
        let (x, w) = (Ty::new(t, [b, size, size, c]), Ty::new(t, [o, k, k, c]));
        (Conv2d::same(k / 2).into(), vec![Some(x), Some(w), f32s(o)])
    };
    let linear = |op: Linear, m: usize, k: usize, n: usize| -> Call {
        (op.into(), vec![Some(Ty::new(t, [m, k])), Some(Ty::new(t, [n, k])), f32s(n)])
    };
    let depthwise = |size: usize, c: usize| -> Call {
        let op = Conv2d { groups: c, ..Conv2d::same(1) };
        (op.into(), vec![Some(Ty::new(t, [1, size, size, c])), Some(Ty::new(t, [c, 3, 3, 1])), f32s(c)])
    };
    vec![
        ("conv 320 at 64, batch 2", conv(2, 64, 320, 320, 3)),
        ("conv 640 at 32, batch 2", conv(2, 32, 640, 640, 3)),
        ("conv 1280 at 16, batch 2", conv(2, 16, 1280, 1280, 3)),
        ("conv 1280 at 8, batch 2", conv(2, 8, 1280, 1280, 3)),
        ("conv 4 to 320 at 64, batch 2", conv(2, 64, 4, 320, 3)),
        ("conv 3 to 128 at 256", conv(1, 256, 3, 128, 3)),
        ("conv 128 at 256", conv(1, 256, 128, 128, 3)),
        ("linear 8192 rows, 320 to 2560, gated", linear(Linear::geglu(), 8192, 320, 2560)),
        ("linear 8192 rows, 1280 to 320", linear(Linear::plain(), 8192, 1280, 320)),
        ("linear 512 rows, 1280 to 10240, gated", linear(Linear::geglu(), 512, 1280, 10240)),
        ("linear 154 rows, 1024 to 4096, gelu", linear(Linear::with(Activation::Gelu), 154, 1024, 4096)),
        ("linear 154 rows, 4096 to 1024", linear(Linear::plain(), 154, 4096, 1024)),
        ("linear 1 row, 1280 to 1280", linear(Linear::plain(), 1, 1280, 1280)),
        ("depthwise 128 at 56", depthwise(56, 128)),
    ]
}

/// What the processor can do at the most: products of registers, without any memory.
mod peak {
    use super::{Criterion, Throughput, cpu};

    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn ceilings(_: &mut Criterion) {}

    #[cfg(target_arch = "x86_64")]
    pub(super) fn ceilings(criterion: &mut Criterion) {
        const ROUNDS: usize = 1 << 20;
        let cpu = cpu();
        let mut group = criterion.benchmark_group("peak");
        // name, whether it is there, operations of a round, the rounds
        type Peak = (&'static str, bool, usize, unsafe fn(usize));
        let sets: [Peak; 3] = [
            ("fma, avx2", is_x86_feature_detected!("fma"), 12 * 16, x86::fma_avx2),
            ("fma, avx512", is_x86_feature_detected!("avx512f"), 12 * 32, x86::fma_avx512),
            ("bf16 dot, avx512", is_x86_feature_detected!("avx512bf16"), 12 * 64, x86::dot_avx512),
        ];
        for (name, supported, flops, run) in sets {
            if !supported {
                continue;
            }
            group.sample_size(10).throughput(Throughput::Elements((flops * ROUNDS * cpu.threads()) as u64));
            // SAFETY: supported.
            group.bench_function(name, |b| b.iter(|| cpu.parallel(cpu.threads(), |_| unsafe { run(ROUNDS) })));
        }
    }

    // In assembly, because the compiler moves registers about in such loops. Twelve sums hide the latency of two units, and no sum is the operand of another.
    #[cfg(target_arch = "x86_64")]
    mod x86 {
        use std::arch::asm;

        macro_rules! loop_of {
            ($name:ident, $op:literal, $zero:literal, $r:literal, [$($i:literal)*]) => {
                /// `rounds` times one instruction for each sum.
                ///
                /// # Safety
                /// The processor has the instruction.
                pub(super) unsafe fn $name(rounds: usize) {
                    // SAFETY: registers only, all of them declared.
                    unsafe {
                        asm!(
                            $(concat!($zero, " ", $r, $i, ", ", $r, $i, ", ", $r, $i),)*
                            concat!($zero, " ", $r, "12, ", $r, "12, ", $r, "12"),
                            "2:",
                            $(concat!($op, " ", $r, $i, ", ", $r, "12, ", $r, "12"),)*
                            "dec {n}",
                            "jnz 2b",
                            n = inout(reg) rounds => _,
                            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _,
                            out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _,
                            options(nostack, nomem),
                        );
                    }
                }
            };
        }
        loop_of!(fma_avx2, "vfmadd231ps", "vpxor", "ymm", ["0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11"]);
        loop_of!(fma_avx512, "vfmadd231ps", "vpxord", "zmm", ["0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11"]);
        loop_of!(dot_avx512, "vdpbf16ps", "vpxord", "zmm", ["0" "1" "2" "3" "4" "5" "6" "7" "8" "9" "10" "11"]);
    }
}
