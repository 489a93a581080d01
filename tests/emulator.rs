//! Level 5: the launches of every operation, compiled by NVRTC and executed on the emulated device, against the f64 reference.
//!
//! The emulator refuses what a GPU would let pass: every byte outside of an input or output is out of bounds, and so is every read of
//! what nothing wrote. Outputs start unwritten, so an element that a kernel forgets is an error too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use common::executed::{compare, execute};
use common::operations::{cases_of, check_cases, in_f16};
use common::{fill, lowering};
use cuda_emulator::DeviceModel;
use dreamid_engine::device::{Arch, Target, Tiles};
use dreamid_engine::ops::{
    Activate, Activation, Attention, AttentionGrad, Case, Cast, Concat, Conv2d, Conv2dGrad, GroupNorm, Heads, LayerNorm, Linear,
    LinearGrad, normal, vector,
};
use dreamid_engine::{DType, Ty};
use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, OnceLock};

test_every_operation!(check_all);

fn check_all(op: &str) {
    let cases = cases_of(op);
    let halves: Vec<Case> = cases.iter().filter_map(in_f16).collect();
    check_cases(op, &[cases, halves].concat(), check);
}

/// Largest error of a case as a share of what is allowed.
fn check(op: &str, case: &Case) -> Result<f64, String> {
    let (types, outs) = lowering::types(case);
    let lowered = case.op.lower(&types, &outs, &Arch(device().arch).into()).map_err(|e| e.to_string())?;
    compare(device(), op, case, &lowered)
}

/// The cases above add parts of the depth in every kernel that can: on tensor cores and plainly, gated, and in every gradient.
#[test]
fn parts_of_the_depth_are_tested() {
    let mut split = BTreeSet::new();
    for case in PRODUCTS.iter().flat_map(|op| cases_of(op)) {
        let (types, outs) = lowering::types(&case);
        let lowered = case.op.lower(&types, &outs, &Arch(device().arch).into()).unwrap();
        for kernel in lowered.launches.iter().map(|l| &l.kernel).filter(|_| lowered.counters() > 0) {
            let kind = kernel.defines.iter().filter(|d| d.0 == "PART" || *d == &("GATED", "1".into()));
            split.insert(kind.fold(kernel.entry.to_owned(), |name, (key, value)| format!("{name} {key}={value}")));
        }
    }
    let wanted =
        ["linear", "linear_grad PART=SUM", "linear_grad PART=INPUT", "linear_grad PART=WEIGHT", "conv2d", "conv2d_grad PART=INPUT"];
    let gated = ["linear GATED=1", "linear_grad PART=SUM GATED=1", "conv2d_grad PART=WEIGHT"];
    for wanted in wanted.into_iter().chain(gated) {
        let (file, kind) = wanted.split_once(' ').map_or((wanted, String::new()), |(file, kind)| (file, format!(" {kind}")));
        for way in ["tensor", "plain"] {
            assert!(split.contains(&format!("{file}_{way}{kind}")), "{file}_{way}{kind} is not among {split:#?}");
        }
    }
}

const PRODUCTS: [&str; 4] = ["linear", "conv2d", "linear_grad", "conv2d_grad"];

/// Every tile of the table, also those that are meant for larger products: in shared memory no lane waits for another one.
#[test]
fn no_tile_makes_lanes_wait() {
    let t = DType::Bf16;
    let layer = |op: Linear, x: [usize; 2], w: [usize; 2]| {
        Case::new("layer", op, vec![normal(t, x), normal(t, w), vector(w[0]), normal(t, [x[0], w[0]])])
    };
    let gates = Case::new("gates", Linear::geglu(), vec![normal(t, [70, 64]), normal(t, [240, 64]), vector(240)]);
    let image = [normal(t, [1, 12, 13, 16]), normal(t, [168, 3, 3, 16]), normal(t, [1, 12, 13, 168])];
    let (conv, same) = (Conv2d::same(1), [12, 13]);
    let cases = [
        layer(Linear::plain(), [150, 96], [200, 96]),
        layer(Linear::with(Activation::Silu), [20, 1120], [180, 1120]),
        gates,
        Case::new("dx", LinearGrad::Input, vec![normal(t, [150, 96]), normal(t, [96, 200])]),
        Case::new("dw", LinearGrad::Weight, vec![normal(t, [96, 136]), normal(t, [96, 72])]),
        Case::new("windows", conv.clone(), vec![image[0], image[1], vector(168), None, image[2]]),
        Case::new("dx of windows", Conv2dGrad::Input { conv: conv.clone(), size: same }, vec![image[2], image[1]]),
        Case::new("dw of windows", Conv2dGrad::Weight { conv, kernel: [3, 3] }, vec![image[2], image[0]]),
    ];
    let mut taken = BTreeSet::new();
    for case in cases {
        let (types, outs) = lowering::types(&case);
        let inputs = fill::inputs("tiles", &case);
        let with = |tiles| {
            let target = Target { arch: Arch(device().arch), tiles: Arc::new(tiles) };
            let lowered = case.op.lower(&types, &outs, &target).unwrap();
            let (_, counted) = execute(device(), &lowered, &inputs, &outs).unwrap();
            assert!(counted.iter().all(|c| c.shared_wavefronts == c.shared_wavefronts_min), "conflicts of {}", lowered.launches[0].kernel);
            lowered.product.unwrap()
        };
        let product = with(Tiles::default());
        for choice in product.choices {
            assert_eq!(with(Tiles([(product.name.clone(), choice)].into())).chosen, choice);
            taken.insert(choice);
        }
    }
    assert_eq!(taken.len(), 8, "{taken:?}");
}

/// Layers like those of the full-size networks, in small numbers: tensor cores do all of the arithmetic that they can, shared memory
/// never makes a lane wait for another one, and nearly everything that is asked of memory is used.
#[test]
fn tensor_cores_are_fed_without_waste() {
    let t = DType::Bf16;
    let conv = |resize| Conv2d { resize, ..Conv2d::same(1) };
    let attention = |packing| Attention { heads: 2, causal: false, packing };
    let cases = [
        Case::new("linear", Linear::plain(), vec![normal(t, [2, 256, 320]), normal(t, [320, 320]), vector(320), normal(t, [2, 256, 320])]),
        Case::new("gates", Linear::geglu(), vec![normal(t, [2, 128, 320]), normal(t, [512, 320]), vector(512)]),
        Case::new("parts of the depth", Linear::plain(), vec![normal(t, [2, 64, 1280]), normal(t, [320, 1280]), vector(320)]),
        Case::new("3x3", conv(None), vec![normal(t, [1, 16, 16, 64]), normal(t, [128, 3, 3, 64]), vector(128)]),
        Case::new("3x3 after upsampling", conv(Some([16, 16])), vec![normal(t, [1, 8, 8, 64]), normal(t, [64, 3, 3, 64]), vector(64)]),
        Case::new("self attention", attention(Heads::PackedQkv), vec![normal(t, [1, 256, 3 * 128])]),
        Case::new("cross attention", attention(Heads::PackedKv), vec![normal(t, [1, 128, 128]), normal(t, [1, 77, 256])]),
    ];
    for case in cases.into_iter().chain(gradients_of_products()) {
        let (types, outs) = lowering::types(&case);
        let inputs = fill::inputs("counted", &case);
        let lowered = case.op.lower(&types, &outs, &Arch(device().arch).into()).unwrap();
        let (_, counted) = execute(device(), &lowered, &inputs, &outs).unwrap();
        for (launch, c) in lowered.launches.iter().zip(counted) {
            println!("{}: {} {c:?}", case.name, launch.kernel);
            assert_eq!(c.shared_wavefronts, c.shared_wavefronts_min, "{}: conflicts of {}", case.name, launch.kernel);
            assert!(c.load_sectors_min * 100 >= c.load_sectors * 95, "{}: loads of {}", case.name, launch.kernel);
            // gradients of weights are f32: a lane stores its 8 in two accesses, each of which is half of a sector
            let useful = if outs[0].dtype == DType::F32 { 50 } else { 95 };
            assert!(c.store_sectors_min * 100 >= c.store_sectors * useful, "{}: stores of {}", case.name, launch.kernel);
        }
    }
}

fn gradients_of_products() -> Vec<Case> {
    let t = DType::Bf16;
    let (conv, size, kernel) = (Conv2d::same(1), [16, 16], [3, 3]);
    let (x, z, w) = (normal(t, [1, 16, 16, 64]), normal(t, [1, 16, 16, 128]), normal(t, [128, 3, 3, 64]));
    let forward = Attention { heads: 2, causal: false, packing: Heads::PackedKv };
    let (q, kv) = (normal(t, [1, 128, 128]), normal(t, [1, 192, 256]));
    vec![
        Case::new("linear, x", LinearGrad::Input, vec![normal(t, [2, 256, 320]), normal(t, [320, 640])]),
        Case::new("linear, weight", LinearGrad::Weight, vec![normal(t, [2, 256, 320]), normal(t, [2, 256, 640])]),
        Case::new("3x3, x", Conv2dGrad::Input { conv: conv.clone(), size }, vec![z, w]),
        Case::new("3x3, weight", Conv2dGrad::Weight { conv, kernel }, vec![z, x]),
        Case::new("attention, q and kv", AttentionGrad { forward }, vec![q, kv, q, q]),
    ]
}

/// The gradient of an image whose convolution leaves out pixels multiplies as often as the convolution: only the taps that reach a pixel.
#[test]
fn gradients_of_strided_convolutions_multiply_only_what_meets() {
    let t = DType::Bf16;
    let conv = Conv2d { stride: 2, padding: [0, 0, 1, 1], ..Conv2d::same(0) };
    let (x, w, z) = (normal(t, [1, 32, 32, 64]), normal(t, [64, 3, 3, 64]), normal(t, [1, 16, 16, 64]));
    let back = Conv2dGrad::Input { conv: conv.clone(), size: [32, 32] };
    let products = [Case::new("forward", conv, vec![x, w]), Case::new("backward", back, vec![z, w])].map(|case| {
        let (types, outs) = lowering::types(&case);
        let lowered = case.op.lower(&types, &outs, &Arch(device().arch).into()).unwrap();
        let (_, counted) = execute(device(), &lowered, &fill::inputs("counted", &case), &outs).unwrap();
        counted.iter().map(|c| c.tensor).sum::<u64>()
    });
    assert!(products[0] > 0);
    assert_eq!(products[0], products[1]);
}

/// Norms and copies at sizes of the full-size networks: each byte that must move is touched once, and what is asked of memory is used.
/// Where a group norm does not fit into blocks of its own, it reads x twice, the second time from the second-level cache: it is requested
/// 1.5 times, and touched once.
#[test]
fn light_operations_touch_what_they_must() {
    let t = DType::Bf16;
    let group_norm = |pixels: usize, c: usize| {
        let op = GroupNorm { groups: 32, eps: 1e-5, silu: true };
        Case::new(format!("group_norm {pixels}x{c}"), op, vec![normal(t, [2, pixels, c]), vector(c), vector(c)])
    };
    let layer_norm = |rows: usize, c: usize| {
        Case::new(format!("layer_norm {rows}x{c}"), LayerNorm { eps: 1e-5 }, vec![normal(t, [rows, c]), vector(c), vector(c)])
    };
    let silu = Activate { act: Activation::Silu };
    // with the most that may be requested of what must be moved, in per cent
    let cases = [
        (group_norm(4096, 320), 158),
        (group_norm(1024, 320), 158),
        (group_norm(1024, 960), 158),
        (group_norm(1024, 640), 158),
        (group_norm(256, 1280), 102),
        (group_norm(64, 2560), 102),
        (layer_norm(8192, 320), 107),
        (layer_norm(2048, 640), 110),
        (layer_norm(154, 1024), 131),
        (Case::new("concat", Concat { count: 2 }, vec![normal(t, [2, 1024, 640]), normal(t, [2, 1024, 320])]), 101),
        (Case::new("silu", silu, vec![normal(t, [2, 1024, 640])]), 101),
        (Case::new("cast", Cast { dtype: t }, vec![normal(DType::F32, [2, 1024, 320])]), 101),
    ];
    for (case, most) in cases {
        let (types, outs) = lowering::types(&case);
        let inputs = fill::inputs("counted", &case);
        let lowered = case.op.lower(&types, &outs, &Arch(device().arch).into()).unwrap();
        let (_, counted) = execute(device(), &lowered, &inputs, &outs).unwrap();
        let compulsory = types.iter().flatten().chain(&outs).map(Ty::bytes).sum::<usize>() as u64;
        let mut requested = 0;
        for (launch, c) in lowered.launches.iter().zip(counted) {
            let (asked, needed) = (c.load_sectors + c.store_sectors, c.load_sectors_min + c.store_sectors_min);
            let touched = c.unique_load_bytes + c.unique_store_bytes;
            println!(
                "{}: {} asked {asked} sectors, {needed} would do, touched {touched} of {compulsory} bytes, {} instructions, wavefronts {} / {}",
                case.name, launch.kernel, c.issued, c.shared_wavefronts, c.shared_wavefronts_min
            );
            assert!(needed * 100 >= asked * 95, "{}: {} wastes sectors", case.name, launch.kernel);
            assert!(touched * 100 <= compulsory * 101, "{}: {} touches too much", case.name, launch.kernel);
            requested += 32 * asked;
        }
        println!("{}: {:.3} of the compulsory bytes requested", case.name, requested as f64 / compulsory as f64);
        assert!(requested * 100 <= compulsory * most, "{}: {requested} bytes requested, {compulsory} must be", case.name);
    }
}

/// What `tune` may choose from: each kind of product with every tile that fits, whole and in parts of the depth, to the last bit.
#[test]
fn every_tile_gives_the_same_bits() {
    let (t, mut kinds) = (DType::Bf16, HashSet::new());
    let large = |op: &str| match op {
        "linear" => vec![
            Case::new("gates", Linear::geglu(), vec![normal(t, [2, 64, 64]), normal(t, [128, 64]), vector(128)]),
            Case::new("parts", Linear::plain(), vec![normal(t, [2, 64, 1280]), normal(t, [320, 1280]), vector(320)]),
        ],
        "conv2d" => {
            vec![Case::new("parts", Conv2d::same(1), vec![normal(t, [1, 8, 8, 160]), normal(t, [64, 3, 3, 160]), vector(64)])]
        }
        _ => vec![],
    };
    for op in ["linear", "conv2d", "linear_grad", "conv2d_grad"] {
        for case in [cases_of(op), large(op)].concat() {
            let (types, outs) = lowering::types(&case);
            let mut target = Target::from(Arch(device().arch));
            let lowered = case.op.lower(&types, &outs, &target).unwrap();
            let Some(product) = lowered.product.as_ref().filter(|p| p.choices.len() > 1) else { continue };
            let flags = product.name.split_once('x').unwrap().1.split_once(' ').map_or("", |(_, flags)| flags).to_owned();
            if !kinds.insert((op, flags, lowered.scratch > 0)) {
                continue;
            }
            let inputs = fill::inputs(op, &case);
            let (want, _) = execute(device(), &lowered, &inputs, &outs).unwrap();
            for &shape in product.choices.iter().filter(|&&shape| shape != product.chosen) {
                target.tiles = Arc::new(Tiles([(product.name.clone(), shape)].into()));
                let tiled = case.op.lower(&types, &outs, &target).unwrap();
                assert_eq!((tiled.product.as_ref().unwrap().chosen, tiled.scratch > 0), (shape, lowered.scratch > 0));
                let (got, _) = execute(device(), &tiled, &inputs, &outs).unwrap();
                let same = want.iter().zip(&got).all(|(want, got)| want.bytes() == got.bytes());
                assert!(same, "{op} `{}`: {shape:?} gives other bits than {:?}", case.name, product.chosen);
            }
        }
    }
    for kind in [("linear", "gated", false), ("linear", "", true), ("conv2d", "", true), ("linear_grad", "across", false)] {
        assert!(kinds.contains(&(kind.0, kind.1.to_owned(), kind.2)), "{kind:?} is not among {kinds:?}");
    }
}

fn device() -> &'static DeviceModel {
    static DEVICE: OnceLock<DeviceModel> = OnceLock::new();
    DEVICE.get_or_init(DeviceModel::a100)
}
