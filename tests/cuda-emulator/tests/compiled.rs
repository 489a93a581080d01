//! Kernels as NVRTC compiled them (`data/kernels.cu`, `data/kernels.ptx`) against the same in f64.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::{Rig, bytes};
use cuda_emulator::{Counters, Fault, FaultKind, Launch, run};

const PTX: &str = include_str!("data/kernels.ptx");

fn launch(rig: &Rig, entry: &str, grid: [u32; 3], block: u32, shared: u32, params: &[u8]) -> Result<Counters, Fault> {
    let launch = Launch { module: &rig.module, entry, grid, block: [block, 1, 1], dynamic_shared: shared, params };
    run(&rig.device, &rig.memory, &launch, 2)
}

/// A cheap generator of numbers in [-1, 1).
fn random(seed: u32) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    }
}

fn bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

fn wide(x: u16) -> f64 {
    f64::from(f32::from_bits(u32::from(x) << 16))
}

const TILES: u32 = 2 * 8192;

fn gemm(rig: &Rig, m: usize, n: usize, k: usize) -> (Result<Counters, Fault>, Vec<f32>, Vec<f64>) {
    let mut next = random(7);
    let a: Vec<u16> = (0..m * k).map(|_| bf16(next())).collect();
    let b: Vec<u16> = (0..n * k).map(|_| bf16(next())).collect();
    let c = rig.memory.alloc((4 * m * n) as u64).unwrap();
    let mut params = bytes(&[rig.upload(&a), rig.upload(&b), c]);
    params.extend(bytes(&[m as u32, n as u32, k as u32, 0]));
    let grid = [n.div_ceil(64) as u32, m.div_ceil(64) as u32, 1];
    let result = launch(rig, "gemm", grid, 128, TILES, &params);
    let exact = (0..m * n).map(|i| (0..k).map(|j| wide(a[i / n * k + j]) * wide(b[i % n * k + j])).sum()).collect();
    let found = if result.is_ok() { rig.floats(c, m * n) } else { Vec::new() };
    (result, found, exact)
}

#[test]
fn a_tensor_core_product() {
    let rig = Rig::new(PTX);
    for (m, n, k) in [(64, 64, 32), (128, 64, 96), (100, 73, 160)] {
        let (result, found, exact) = gemm(&rig, m, n, k);
        let counters = result.unwrap_or_else(|f| panic!("{f}"));
        for (i, (x, y)) in found.iter().zip(&exact).enumerate() {
            assert!((f64::from(*x) - y).abs() < 1e-5 * k as f64, "{m} x {n} x {k}, element {i}: {x}, not {y}");
        }
        let blocks = (m.div_ceil(64) * n.div_ceil(64)) as u64;
        assert_eq!(counters.mma_bf16, blocks * 64 * 64 * k as u64);
        // The swizzle leaves no bank conflict.
        assert_eq!(counters.shared_wavefronts, counters.shared_wavefronts_min);
    }
    // Rows of 64 bytes are whole sectors: nothing is read that is not needed, except where rows lie outside.
    let counters = gemm(&rig, 128, 128, 64).0.unwrap();
    assert_eq!(counters.unique_load_bytes, 2 * 128 * 64 * 2);
    assert_eq!(counters.load_sectors, counters.load_sectors_min);
}

#[test]
fn results_and_counts_do_not_depend_on_threads() {
    let (m, n, k) = (200usize, 130usize, 64usize);
    let mut next = random(3);
    let a: Vec<u16> = (0..m * k).map(|_| bf16(next())).collect();
    let b: Vec<u16> = (0..n * k).map(|_| bf16(next())).collect();
    let mut seen: Vec<(Vec<u32>, Counters)> = Vec::new();
    for threads in [1, 2, 5] {
        let rig = Rig::new(PTX);
        let c = rig.memory.alloc((4 * m * n) as u64).unwrap();
        let mut params = bytes(&[rig.upload(&a), rig.upload(&b), c]);
        params.extend(bytes(&[m as u32, n as u32, k as u32, 0]));
        let grid = [n.div_ceil(64) as u32, m.div_ceil(64) as u32, 1];
        let launch = Launch { module: &rig.module, entry: "gemm", grid, block: [128, 1, 1], dynamic_shared: TILES, params: &params };
        let counters = run(&rig.device, &rig.memory, &launch, threads).unwrap_or_else(|f| panic!("{f}"));
        seen.push((rig.words(c, m * n), counters));
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0], seen[2]);
}

#[test]
fn faults_planted_into_a_compiled_kernel() {
    // Each change is one that a programmer makes; the line is that of the CUDA source.
    let without = |what: &str, nth: usize| {
        let (at, _) = PTX.match_indices(what).nth(nth).unwrap();
        format!("{}{}", &PTX[..at], &PTX[at + what.len()..])
    };
    let fault = |ptx: &str| gemm(&Rig::new(ptx), 64, 64, 96).0.expect_err("a fault");
    let source = include_str!("data/kernels.cu");
    let says = |fault: &Fault, text: &str| {
        let (file, line) = fault.source.clone().unwrap();
        assert_eq!(file, "kernels.cu");
        let found = source.lines().nth(line as usize - 1).unwrap();
        assert!(found.contains(text), "{fault}: {found}");
    };
    // The barrier after the wait.
    let first = fault(&without("bar.sync \t0;", 0));
    assert!(matches!(first.kind, FaultKind::PendingCopy | FaultKind::SharedRace | FaultKind::Unwritten), "{first}");
    says(&first, "ldmatrix");
    // The barrier before the next stage is filled.
    let second = fault(&without("bar.sync \t0;", 1));
    assert!(matches!(second.kind, FaultKind::PendingCopy | FaultKind::SharedRace), "{second}");
    // The wait itself.
    let third = fault(&without("cp.async.wait_group 0;", 0));
    assert_eq!(third.kind, FaultKind::PendingCopy, "{third}");
    says(&third, "ldmatrix");
    assert_eq!(third.kernel, "gemm");
}

#[test]
fn the_math_library() {
    let rig = Rig::new(PTX);
    let x: Vec<f32> = (0..1000).map(|i| (i as f32 - 500.5) * 0.0171).collect();
    let y = rig.memory.alloc(16 * 4 * 1000).unwrap();
    let mut params = bytes(&[rig.upload(&x), y]);
    params.extend(1000u32.to_le_bytes());
    launch(&rig, "functions", [8, 1, 1], 128, 0, &params).unwrap_or_else(|f| panic!("{f}"));
    let found = rig.floats(y, 16 * 1000);
    for (i, (&x, row)) in x.iter().zip(found.chunks_exact(16)).enumerate() {
        let v = f64::from(x);
        let times = x * 1000.0;
        // The error that the CUDA programming guide states for each function, in units of the last place.
        let rows: [(f64, f64); 12] = [
            (v.exp(), 2.0),
            (v.abs().ln(), 1.0),
            (v.sin(), 2.0),
            (f64::from(times).cos(), 2.0),
            (v.tanh(), 2.0),
            (f64::NAN, 0.0),
            (v.abs().sqrt(), 0.5),
            (1.0 / v, 0.5),
            (v.abs().powf(1.5), 4.0),
            (v / 3.0, 0.5),
            (v * v * v * 0.5, 2.0),
            (v.exp(), 1.0),
        ];
        for (f, (&found, (exact, ulps))) in row.iter().zip(rows).enumerate() {
            let place = f64::from((exact as f32).abs().to_bits().max(0x0080_0000) >> 23) - 127.0 - 23.0;
            let error = (f64::from(found) - exact).abs() / place.exp2();
            assert!(exact.is_nan() || error <= ulps + 0.5, "function {f} of {x}: {found}, not {exact}: {error} ulp");
        }
        let whole = ((times as i64) / 7) as f32;
        assert_eq!(row[12..15], [whole, ((i as u32 + 5) % 7) as f32, x.round_ties_even()], "{x}");
        assert_eq!(row[15], x % 0.3f32, "{x}");
    }
    // erf, at values from a table.
    for (x, erf) in [(0.5f32, 0.520_499_9f32), (1.0, 0.842_700_8), (-2.0, -0.995_322_3)] {
        let mut params = bytes(&[rig.upload(&[x]), y]);
        params.extend(1u32.to_le_bytes());
        launch(&rig, "functions", [1, 1, 1], 32, 0, &params).unwrap_or_else(|f| panic!("{f}"));
        assert!((rig.floats(y, 16)[5] - erf).abs() < 2e-7, "erf({x})");
    }
}

#[test]
fn a_softmax() {
    let rig = Rig::new(PTX);
    let (rows, n) = (3, 1000);
    let mut next = random(1);
    let x: Vec<f32> = (0..rows * n).map(|_| 10.0 * next()).collect();
    let y = rig.memory.alloc((4 * rows * n) as u64).unwrap();
    let mut params = bytes(&[rig.upload(&x), y]);
    params.extend((n as u32).to_le_bytes());
    let counters = launch(&rig, "softmax", [rows as u32, 1, 1], 256, 0, &params).unwrap_or_else(|f| panic!("{f}"));
    for (x, y) in x.chunks_exact(n).zip(rig.floats(y, rows * n).chunks_exact(n)) {
        let sum: f64 = x.iter().map(|&v| f64::from(v).exp()).sum();
        for (&x, &y) in x.iter().zip(y) {
            let exact = f64::from(x).exp() / sum;
            assert!((f64::from(y) - exact).abs() < 2e-6 * exact.max(1e-6), "{y}, not {exact}");
        }
    }
    // Three passes over the rows, one of them new.
    assert_eq!(counters.unique_load_bytes, (4 * rows * n) as u64);
    assert_eq!(counters.load_sectors, 3 * (rows * n / 8) as u64);
    assert_eq!(counters.unique_store_bytes, (4 * rows * n) as u64);
}

/// The known answer of Random123 for counter 0 and key 0.
#[test]
fn philox() {
    let rig = Rig::new(PTX);
    let y = rig.memory.alloc(16 * 100).unwrap();
    let mut params = bytes(&[y, 0]);
    params.extend(100u32.to_le_bytes());
    launch(&rig, "philox", [1, 1, 1], 128, 0, &params).unwrap_or_else(|f| panic!("{f}"));
    assert_eq!(rig.words(y, 4), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
}
