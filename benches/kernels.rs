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
        type Peak = (&'static str, bool, usize, unsafe fn(usize) -> f32);
        let sets: [Peak; 3] = [
            ("fma, avx2", is_x86_feature_detected!("fma"), 12 * 16, x86::fma_avx2),
            ("fma, avx512", is_x86_feature_detected!("avx512f"), 24 * 32, x86::fma_avx512),
            ("bf16 dot, avx512", is_x86_feature_detected!("avx512bf16"), 24 * 64, x86::dot_avx512),
        ];
        for (name, supported, flops, run) in sets {
            if !supported {
                continue;
            }
            group.sample_size(10).throughput(Throughput::Elements((flops * ROUNDS * cpu.threads()) as u64));
            // SAFETY: supported.
            group.bench_function(name, |b| b.iter(|| cpu.parallel(cpu.threads(), |_| _ = std::hint::black_box(unsafe { run(ROUNDS) }))));
        }
    }

    #[cfg(target_arch = "x86_64")]
    mod x86 {
        use std::arch::x86_64::*;
        use std::hint::black_box;

        #[target_feature(enable = "avx2,fma")]
        pub(super) unsafe fn fma_avx2(rounds: usize) -> f32 {
            let (a, mut sums) = (_mm256_set1_ps(black_box(0.5)), black_box([_mm256_set1_ps(1.0); 12]));
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = _mm256_fmadd_ps(a, *sum, a);
                }
            }
            sums.iter().map(|s| _mm256_cvtss_f32(*s)).sum()
        }

        #[target_feature(enable = "avx512f")]
        pub(super) unsafe fn fma_avx512(rounds: usize) -> f32 {
            let (a, mut sums) = (_mm512_set1_ps(black_box(0.5)), black_box([_mm512_set1_ps(1.0); 24]));
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = _mm512_fmadd_ps(a, *sum, a);
                }
            }
            sums.iter().map(|s| _mm512_cvtss_f32(*s)).sum()
        }

        #[target_feature(enable = "avx512f,avx512bf16")]
        pub(super) unsafe fn dot_avx512(rounds: usize) -> f32 {
            // SAFETY: both are 512 plain bits.
            let a: __m512bh = unsafe { std::mem::transmute(_mm512_set1_epi32(black_box(0x3c00_3c00))) };
            let mut sums = black_box([_mm512_set1_ps(1.0); 24]);
            for _ in 0..rounds {
                for sum in &mut sums {
                    *sum = _mm512_dpbf16_ps(*sum, a, a);
                }
            }
            sums.iter().map(|s| _mm512_cvtss_f32(*s)).sum()
        }
    }
}
