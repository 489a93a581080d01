//! Executables on the CPU against the reference of every operation, and what they refuse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use dreamid_engine::device::Device;
use dreamid_engine::exec::Executable;
use dreamid_engine::graph::{Builder, Graph};
use dreamid_engine::models::graphs::{self, UnetSize};
use dreamid_engine::models::{Component, ModelFolder};
use dreamid_engine::ops::{Activation, Add, Conv2d, Linear, Reshape};
use dreamid_engine::weights::Weights;
use dreamid_engine::{DType, Error, Shape, Tensor};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// conv 3x3 + SiLU, then a linear layer over the channels, then the sum with a second input.
fn small_graph(dtype: DType) -> Graph {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, dtype);
    let x = b.input("x", dtype, [1, 4, 4, 3]);
    let extra = b.input("extra", dtype, [1, 16, 5]);
    let mut s = b.scope("block.0");
    let (w, bias) = (s.param_conv("conv.weight", [8, 3, 3, 3]), s.param_f32("conv.bias", [8]));
    let h = s.op(Conv2d { act: Activation::Silu, ..Conv2d::same(1) }, &[Some(x), Some(w), Some(bias)]).unwrap();
    let h = s.op(Reshape { shape: Shape::from([1, 16, 8]) }, &[Some(h)]).unwrap();
    let w = s.param("out.weight", [5, 8]);
    let h = s.op(Linear::plain(), &[Some(h), Some(w)]).unwrap();
    let y = b.op(Add { act: Activation::None }, &[Some(h), Some(extra)]).unwrap();
    b.output("y", y).unwrap();
    graph
}

fn ramp(shape: impl Into<Shape>, step: f32) -> Tensor {
    let shape = shape.into();
    let values: Vec<f32> = (0..shape.elements()).map(|i| (i % 17) as f32 * step - 0.5).collect();
    Tensor::from_f32(shape, &values).unwrap()
}

fn small_weights() -> Vec<(&'static str, Tensor)> {
    vec![
        ("block.0.conv.weight", ramp([8, 3, 3, 3], 0.05)),
        ("block.0.conv.bias", ramp([8], 0.1)),
        ("block.0.out.weight", ramp([5, 8], 0.07)),
    ]
}

fn stored(tensors: &[(&str, Tensor)]) -> Weights {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    let refs: Vec<(&str, &Tensor)> = tensors.iter().map(|(n, t)| (*n, t)).collect();
    dreamid_engine::weights::save(&path, &refs, &[("licence", "none")]).unwrap();
    Weights::from_bytes("test", std::fs::read(&path).unwrap()).unwrap()
}

/// The same in plain f64 loops, straight from the definition: weights in the file's order `[O,I,kh,kw]`.
fn by_hand(x: &Tensor, extra: &Tensor) -> Vec<f64> {
    let weights = small_weights();
    let get = |t: &Tensor| t.to_f32_vec().into_iter().map(f64::from).collect::<Vec<f64>>();
    let (x, extra, w, bias, out) = (get(x), get(extra), get(&weights[0].1), get(&weights[1].1), get(&weights[2].1));
    let mut y = extra;
    for pixel in 0..16usize {
        let (row, column) = (pixel / 4, pixel % 4);
        let hidden: Vec<f64> = (0..8)
            .map(|o| {
                let mut sum = bias[o];
                for (i, ky, kx) in (0..3).flat_map(|i| (0..3).flat_map(move |ky| (0..3).map(move |kx| (i, ky, kx)))) {
                    let (sy, sx) = ((row + ky).wrapping_sub(1), (column + kx).wrapping_sub(1));
                    if sy < 4 && sx < 4 {
                        sum += x[(sy * 4 + sx) * 3 + i] * w[((o * 3 + i) * 3 + ky) * 3 + kx];
                    }
                }
                sum / (1.0 + (-sum).exp())
            })
            .collect();
        for n in 0..5 {
            y[pixel * 5 + n] += (0..8).map(|k| hidden[k] * out[n * 8 + k]).sum::<f64>();
        }
    }
    y
}

#[test]
fn a_graph_computes_what_its_definition_says() {
    let (x, extra) = (ramp([1, 4, 4, 3], 0.11), ramp([1, 16, 5], 0.03));
    let want = by_hand(&x, &extra);
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::Bf16, 3e-2)] {
        let mut exe = Executable::compile(small_graph(dtype), &stored(&small_weights()), &Device::cpu().unwrap()).unwrap();
        exe.profile(true);
        let out = exe.call(&[("x", &x), ("extra", &extra)]).unwrap();
        assert_eq!((out.len(), out[0].0.as_str(), out[0].1.ty().dtype), (1, "y", DType::F32));
        for (got, want) in out[0].1.to_f32_vec().iter().zip(&want) {
            assert!((f64::from(*got) - want).abs() < tolerance * (1.0 + want.abs()), "{dtype}: {got} is not {want}");
        }
        let times = exe.times().unwrap().by_time();
        assert_eq!(times.iter().map(|(_, t)| t.calls).sum::<usize>(), 3, "{times:?}");
    }
}

#[test]
fn bad_inputs_are_named() {
    let mut exe = Executable::compile(small_graph(DType::F32), &stored(&small_weights()), &Device::cpu().unwrap()).unwrap();
    let text = |e: Error| e.to_string();
    assert!(text(exe.write("z", &ramp([1], 1.0)).unwrap_err()).contains("`x` f32[1,4,4,3], `extra`"));
    assert!(text(exe.write("x", &ramp([1, 3, 4, 4], 1.0)).unwrap_err()).contains("expected f32[1,4,4,3]"));
    assert!(exe.write("x", &Tensor::from_i32([1, 4, 4, 3], &[0; 48]).unwrap()).is_err());
    exe.write("x", &ramp([1, 4, 4, 3], 1.0)).unwrap();
    assert_eq!(text(exe.run().unwrap_err()), "inputs not written: extra");
    assert!(text(exe.read("q").unwrap_err()).contains("`y` f32[1,16,5]"));
}

#[test]
fn a_nan_is_found_where_it_arises() {
    let mut exe = Executable::compile(small_graph(DType::F32), &stored(&small_weights()), &Device::cpu().unwrap()).unwrap();
    let mut x = ramp([1, 4, 4, 3], 0.1);
    x.bytes_mut()[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    exe.call(&[("x", &x), ("extra", &ramp([1, 16, 5], 0.1))]).unwrap();
    exe.watch_non_finite(true);
    match exe.run().unwrap_err() {
        Error::NonFinite { at, count, .. } => assert_eq!((at.as_str(), count), ("block.0 (conv2d)", 4 * 8)),
        other => panic!("{other}"),
    }
}

#[test]
fn a_set_flag_cancels_and_a_cleared_one_lets_run() {
    let mut exe = Executable::compile(small_graph(DType::F32), &stored(&small_weights()), &Device::cpu().unwrap()).unwrap();
    let flag = Arc::new(AtomicBool::new(true));
    exe.cancel_on(flag.clone());
    let (x, extra) = (ramp([1, 4, 4, 3], 0.1), ramp([1, 16, 5], 0.1));
    assert!(matches!(exe.call(&[("x", &x), ("extra", &extra)]), Err(Error::Cancelled)));
    flag.store(false, std::sync::atomic::Ordering::Relaxed);
    exe.run().unwrap();
}

#[test]
fn the_null_device_plans_and_refuses_to_compute() {
    let mut exe = Executable::compile(small_graph(DType::Bf16), &Weights::random(3), &Device::Null).unwrap();
    assert!(exe.plan().arena_bytes() > 0);
    assert_eq!(exe.graph().total_cost().flops, 2 * 16 * (8 * 27 + 5 * 8) + 80);
    assert!(matches!(exe.write("x", &ramp([1, 4, 4, 3], 1.0)), Err(Error::Device { .. })));
    assert!(matches!(exe.run(), Err(Error::Device { .. })));
}

#[test]
fn devices_are_named_with_what_to_use_instead() {
    assert_eq!(Device::parse("cpu", Some(1)).unwrap().name(), "cpu");
    let auto = Device::parse("auto", Some(1)).unwrap();
    assert!(matches!(auto, Device::Cpu(_)) || matches!(&auto, Device::Cuda(cuda) if !cuda.is_emulated()), "{auto:?}");
    assert_eq!(Device::parse("null", None).unwrap().name(), "null");
    match Device::parse("cuda:0", None) {
        Ok(device) => assert_eq!(device.name(), "cuda:0"),
        Err(error) => assert!(error.to_string().contains("--device cpu"), "{error}"),
    }
    assert!(Device::parse("cuda:first", None).unwrap_err().to_string().contains("cuda:0 for the first"));
    assert!(Device::parse("tpu", None).unwrap_err().to_string().contains("auto, cpu, cuda:N or null"));
}

#[test]
fn an_output_becomes_the_next_input() {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, DType::F32);
    let (x, by) = (b.input("x", DType::F32, [1, 2]), b.input("by", DType::F32, [1, 2]));
    let y = b.op(Add { act: Activation::None }, &[Some(x), Some(by)]).unwrap();
    b.output("y", y).unwrap();
    let mut exe = Executable::compile(graph, &Weights::random(0), &Device::cpu().unwrap()).unwrap();
    exe.write("x", &Tensor::from_f32([1, 2], &[1.0, 2.0]).unwrap()).unwrap();
    exe.write("by", &Tensor::from_f32([1, 2], &[10.0, 20.0]).unwrap()).unwrap();
    for _ in 0..3 {
        exe.run().unwrap();
        exe.feed("y", "x").unwrap();
    }
    assert_eq!(exe.read("y").unwrap().to_f32_vec(), [31.0, 62.0]);
    exe.run().unwrap();
    assert_eq!(exe.read("y").unwrap().to_f32_vec(), [41.0, 82.0]);
    assert!(exe.feed("y", "z").is_err() && exe.feed("z", "x").is_err());
}

/// Every operation of the UNet writes all of its output and reads nothing that was not written: poisoned memory changes no bit.
#[test]
fn poisoned_memory_does_not_show() {
    let model = ModelFolder::open("tests/fixtures/tiny-a").unwrap();
    let size = UnetSize { batch: 2, height: 9, width: 7, tokens: 77 };
    let graph = graphs::unet(&model.unet_config().unwrap(), DType::F32, size).unwrap();
    let weights = model.weights(Component::Unet).unwrap();
    let (latents, context) = (ramp([2, 9, 7, 4], 0.1), ramp([2, 77, 32], 0.1));
    let timesteps = Tensor::from_f32([2], &[1.0, 958.0]).unwrap();
    let mut results = Vec::new();
    for poison in [false, true] {
        let mut exe = Executable::compile(graph.clone(), &weights, &Device::cpu().unwrap()).unwrap();
        if poison {
            exe.poison().unwrap();
        }
        results.push(exe.call(&[("latents", &latents), ("timesteps", &timesteps), ("context", &context)]).unwrap());
    }
    assert!(results[0][0].1.to_f32_vec().iter().all(|x| x.is_finite()));
    assert_eq!(results[0][0].1.bytes(), results[1][0].1.bytes());
}

/// Two executables of one model hold its parameters once; when both are gone, so are they.
#[test]
fn executables_share_their_parameters() {
    let weights = Weights::random(1);
    let device = Device::cpu().unwrap();
    let first = Executable::compile(small_graph(DType::F32), &weights, &device).unwrap();
    let second = Executable::compile(small_graph(DType::F32), &weights, &device).unwrap();
    assert_eq!(weights.loaded(), 3);
    drop(first);
    assert_eq!(weights.loaded(), 3);
    let narrow = Executable::compile(small_graph(DType::Bf16), &weights, &device).unwrap();
    assert_eq!(weights.loaded(), 5, "the bias is f32 in both");
    drop((second, narrow));
    assert_eq!(weights.loaded(), 0);
}
