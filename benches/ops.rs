//! Everything of Stable Diffusion 2.1 that is neither a matrix product nor a convolution: attention, norms, elementwise operations.
//!
//! `cargo bench --bench ops -- attention` runs some of them. `DREAMID_THREADS` sets the number of threads (default: all cores).
//! Attention counts floating-point operations as elements; the others count the bytes that have to move.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Call, cpu, group, measure};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dreamid_engine::ops::{Activate, Activation, Add, Attention, Cast, Concat, GroupNorm, Heads, LayerNorm, Pool2d, Pooling, Softmax};
use dreamid_engine::{DType, Shape, Ty};

criterion_group!(benches, attention, memory_bound);
criterion_main!(benches);

fn attention(criterion: &mut Criterion) {
    let cpu = cpu();
    for dtype in [DType::F32, DType::Bf16] {
        let mut group = group(criterion, &format!("attention {dtype}"));
        // name, batch, queries, keys, heads, head_dim, causal
        let shapes = [
            ("unet 64x64", [2, 4096, 4096, 5, 64], false),
            ("unet 32x32", [2, 1024, 1024, 10, 64], false),
            ("unet 16x16", [2, 256, 256, 20, 64], false),
            ("unet 8x8", [2, 64, 64, 20, 64], false),
            ("unet 64x64, text", [2, 4096, 77, 5, 64], false),
            ("unet 32x32, text", [2, 1024, 77, 10, 64], false),
            ("vae", [1, 4096, 4096, 1, 512], false),
            ("text", [2, 77, 77, 16, 64], true),
            ("face", [1, 197, 197, 12, 64], false),
        ];
        for (name, [b, s, t, heads, head_dim], causal) in shapes {
            let op = Attention { heads, causal, packing: Heads::Separate };
            let [q, k] = [s, t].map(|rows| Some(Ty::new(dtype, [b, rows, heads * head_dim])));
            measure(&mut group, &cpu, name, (op.into(), vec![q, k, k]), |bound| Throughput::Elements(bound.cost.flops));
        }
    }
}

fn memory_bound(criterion: &mut Criterion) {
    let cpu = cpu();
    for dtype in [DType::F32, DType::Bf16] {
        let mut group = group(criterion, &format!("memory {dtype}"));
        for (name, call) in calls(dtype) {
            measure(&mut group, &cpu, name, call, |bound| Throughput::Bytes(bound.cost.bytes));
        }
    }
}

fn calls(t: DType) -> Vec<(&'static str, Call)> {
    let x = |shape: &[usize]| Some(Ty::new(t, Shape::new(shape)));
    let p = |n: usize| Some(Ty::new(DType::F32, [n]));
    let norm = |silu| GroupNorm { groups: 32, eps: 1e-5, silu };
    let other = if t == DType::F32 { DType::Bf16 } else { DType::F32 };
    let pool = Pool2d { kind: Pooling::Max, kernel: [2, 2], stride: 2, padding: [0; 4] };
    vec![
        ("group_norm + silu 64x64x320", (norm(true).into(), vec![x(&[2, 64, 64, 320]), p(320), p(320)])),
        ("group_norm 64x64x320", (norm(false).into(), vec![x(&[2, 64, 64, 320]), p(320), p(320)])),
        ("group_norm + silu 16x16x1280", (norm(true).into(), vec![x(&[2, 16, 16, 1280]), p(1280), p(1280)])),
        ("group_norm + silu 512x512x128", (norm(true).into(), vec![x(&[1, 512, 512, 128]), p(128), p(128)])),
        ("layer_norm 4096x320", (LayerNorm { eps: 1e-5 }.into(), vec![x(&[2, 4096, 320]), p(320), p(320)])),
        ("layer_norm 77x1024", (LayerNorm { eps: 1e-5 }.into(), vec![x(&[2, 77, 1024]), p(1024), p(1024)])),
        ("gelu 64x64x1280", (Activate { act: Activation::Gelu }.into(), vec![x(&[2, 64, 64, 1280])])),
        ("silu 64x64x320", (Activate { act: Activation::Silu }.into(), vec![x(&[2, 64, 64, 320])])),
        ("add 64x64x320", (Add { act: Activation::None }.into(), vec![x(&[2, 64, 64, 320]); 2])),
        ("concat 64x64x640", (Concat { count: 2 }.into(), vec![x(&[2, 64, 64, 320]); 2])),
        ("cast 64x64x320", (Cast { dtype: other }.into(), vec![x(&[2, 64, 64, 320])])),
        ("softmax 1000", (Softmax.into(), vec![x(&[256, 1000])])),
        ("pool 56x56x64", (pool.into(), vec![x(&[4, 56, 56, 64])])),
    ]
}
