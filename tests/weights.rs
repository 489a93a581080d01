//! Checkpoints: element types, orders, spellings, and the one report of all that does not fit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use dreamid_engine::device::Device;
use dreamid_engine::exec::Executable;
use dreamid_engine::graph::{Builder, Graph, Value};
use dreamid_engine::ops::{Activation, Add};
use dreamid_engine::weights::{Weights, WeightsReport, save};
use dreamid_engine::{DType, Error, Result, Shape, Tensor, Ty};
use std::path::Path;

fn counting(shape: impl Into<Shape>, start: f32) -> Tensor {
    let shape = shape.into();
    let values: Vec<f32> = (0..shape.elements()).map(|i| start + i as f32).collect();
    Tensor::from_f32(shape, &values).unwrap()
}

fn stored(tensors: &[(&str, Tensor)]) -> Weights {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    write(&path, tensors);
    Weights::from_bytes("test", std::fs::read(&path).unwrap()).unwrap()
}

fn write(path: &Path, tensors: &[(&str, Tensor)]) {
    let refs: Vec<(&str, &Tensor)> = tensors.iter().map(|(n, t)| (*n, t)).collect();
    save(path, &refs, &[]).unwrap();
}

/// A graph that gives one parameter back.
fn echo(param: impl FnOnce(&mut Builder<'_>) -> Value, dtype: DType) -> Graph {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, dtype);
    let p = param(&mut b);
    let zero = b.input("zero", b.ty(p).dtype, b.shape(p));
    let y = b.op(Add { act: Activation::None }, &[Some(p), Some(zero)]).unwrap();
    b.output("y", y).unwrap();
    graph
}

fn loaded(weights: &Weights, dtype: DType, param: impl FnOnce(&mut Builder<'_>) -> Value) -> Result<Vec<f32>> {
    let mut exe = Executable::compile(echo(param, dtype), weights, &Device::cpu()?)?;
    let ty = exe.graph().inputs().next().map(|(_, v)| exe.graph().ty(v)).unwrap();
    let out = exe.call(&[("zero", &Tensor::zeros(Ty { dtype: DType::F32, ..ty }))])?;
    Ok(out[0].1.to_f32_vec())
}

fn report(error: Error) -> WeightsReport {
    match error {
        Error::Weights(report) => *report,
        other => panic!("not a report: {other}"),
    }
}

#[test]
fn every_stored_type_becomes_the_asked_one() {
    let base = counting([3, 4], -5.5);
    for from in [DType::F32, DType::F16, DType::Bf16] {
        let weights = stored(&[("w", base.cast(from))]);
        for to in [DType::F32, DType::Bf16] {
            assert_eq!(loaded(&weights, to, |b| b.param("w", [3, 4])).unwrap(), base.to_f32_vec(), "{from} to {to}");
        }
    }
}

#[test]
fn convolutions_are_turned_to_channels_last() {
    let file = counting([2, 3, 2, 2], 0.0);
    let got = loaded(&stored(&[("w", file)]), DType::F32, |b| b.param_conv("w", [2, 2, 2, 3])).unwrap();
    let want: Vec<f32> = (0..2).flat_map(|o| (0..4).flat_map(move |p| (0..3).map(move |i| (o * 12 + i * 4 + p) as f32))).collect();
    assert_eq!(got, want);
}

#[test]
fn unit_axes_do_not_matter() {
    let weights = stored(&[("conv", counting([4, 6, 1, 1], 0.0)), ("linear", counting([4, 6], 0.0)), ("token", counting([1, 1, 6], 0.0))]);
    let matrix = counting([4, 6], 0.0).to_f32_vec();
    assert_eq!(loaded(&weights, DType::F32, |b| b.param("conv", [4, 6])).unwrap(), matrix);
    assert_eq!(loaded(&weights, DType::F32, |b| b.param_conv("linear", [4, 1, 1, 6])).unwrap(), matrix);
    assert_eq!(loaded(&weights, DType::F32, |b| b.param("token", [6])).unwrap().len(), 6);
    assert!(loaded(&weights, DType::F32, |b| b.param("linear", [6, 4])).is_err());
}

#[test]
fn several_tensors_are_stacked() {
    let weights = stored(&[("q", counting([2, 3], 0.0)), ("k", counting([1, 3], 6.0)), ("v", counting([2, 3], 9.0))]);
    let got = loaded(&weights, DType::F32, |b| b.param_stacked(&["q", "k", "v"], None, [5, 3])).unwrap();
    assert_eq!(got, counting([5, 3], 0.0).to_f32_vec());
    assert!(loaded(&weights, DType::F32, |b| b.param_stacked(&["q", "k"], None, [5, 3])).is_err());
}

#[test]
fn other_spellings_are_found() {
    let vae = stored(&[("encoder.mid_block.attentions.0.query.weight", counting([2, 2, 1, 1], 0.0))]);
    assert!(loaded(&vae, DType::F32, |b| b.param("encoder.mid_block.attentions.0.to_q.weight", [2, 2])).is_ok());
    let text = stored(&[("final_layer_norm.weight", counting([2], 0.0))]);
    assert!(loaded(&text, DType::F32, |b| b.param("text_model.final_layer_norm.weight", [2])).is_ok());
    let parallel = stored(&[("module.norm.weight", counting([2], 0.0))]);
    assert!(loaded(&parallel, DType::F32, |b| b.param("norm.weight", [2])).is_ok());
    let name = |p: &str| format!("vit.encoder.layer.3.attention.attention.{p}.weight");
    let (q, k, v) = (name("query"), name("key"), name("value"));
    let vit = stored(&[(&q, counting([2, 2], 0.0)), (&k, counting([2, 2], 4.0)), (&v, counting([2, 2], 8.0))]);
    let got = loaded(&vit, DType::F32, |b| b.param("blocks.3.attn.qkv.weight", [6, 2])).unwrap();
    assert_eq!(got, counting([6, 2], 0.0).to_f32_vec());
    vit.check_unused(&[]).unwrap();
}

#[test]
fn all_that_does_not_fit_is_in_one_report() {
    let tensors = [
        ("conv_in.weight", counting([4, 9, 3, 3], 0.0)),
        ("conv_in.bais", counting([4], 0.0)),
        ("left.over", counting([1], 0.0)),
        ("position_ids", counting([7], 0.0)),
    ];
    let weights = stored(&tensors);
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, DType::F32);
    b.param_conv("conv_in.weight", [4, 3, 3, 4]);
    b.param_f32("conv_in.bias", [4]);
    b.param_f32("far.away.from.anything", [4]);
    let found = report(weights.check(&[&graph], &[]).unwrap_err());
    let missing: Vec<_> = found.missing.iter().map(|m| (m.name.as_str(), m.similar.as_deref())).collect();
    assert_eq!(missing, [("conv_in.bias", Some("conv_in.bais")), ("far.away.from.anything", None)]);
    assert_eq!(found.unused, ["conv_in.bais", "left.over"]);
    assert_eq!((found.misshapen[0].found.as_str(), found.misshapen[0].expected.as_slice()), ("[4, 9, 3, 3]", &[4, 4, 3, 3][..]));
    assert!(found.advice[0].contains("inpainting"), "{:?}", found.advice);
    let text = found.to_string();
    for part in ["conv_in.bias (the file has `conv_in.bais`)", "unused: left.over", "wrong shape: conv_in.weight"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(weights.check(&[&graph], &["left."]).unwrap_err().to_string().matches("unused: ").count() == 1);
}

#[test]
fn unused_is_judged_over_all_graphs() {
    let weights = stored(&[("a", counting([2], 0.0)), ("b", counting([2], 0.0))]);
    let graph = |name: &str| echo(|b| b.param(name, [2]), DType::F32);
    let (a, b) = (graph("a"), graph("b"));
    assert_eq!(report(stored(&[("a", counting([2], 0.0)), ("b", counting([2], 0.0))]).check(&[&a], &[]).unwrap_err()).unused, ["b"]);
    weights.check(&[&a, &b], &[]).unwrap();
    weights.check_unused(&[]).unwrap();
}

#[test]
fn common_wrong_checkpoints_are_recognised() {
    let cases: [(&str, &[usize], &str); 6] = [
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", &[3, 768], "Stable Diffusion 1.x"),
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", &[3, 2048], "SDXL"),
        ("controlnet_cond_embedding.conv_in.bias", &[2], "ControlNet"),
        ("model.diffusion_model.out.2.bias", &[2], "single-file"),
        ("text_model.embeddings.token_embedding.weight", &[2, 768], "ViT-H"),
        ("x.lora_A.weight", &[2, 2], "LoRA"),
    ];
    for (name, shape, expected) in cases {
        let weights = stored(&[(name, counting(Shape::new(shape), 0.0))]);
        let error = weights.check(&[&echo(|b| b.param("conv_in.weight", [2]), DType::F32)], &[]).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn weights_that_are_not_finite_are_refused_by_name() {
    for bad in [f32::NAN, f32::INFINITY] {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            let weights = stored(&[("w", Tensor::from_f32([3], &[1.0, bad, bad]).unwrap().cast(dtype))]);
            match loaded(&weights, DType::F32, |b| b.param("w", [3])).unwrap_err() {
                Error::NonFinite { at, count, .. } => assert_eq!((at.as_str(), count), ("w", 2)),
                other => panic!("{other}"),
            }
        }
    }
}

#[test]
fn folders_with_shards_variants_and_pickles() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Weights::open_dir(dir.path(), &["model"]);
    assert!(open().unwrap_err().to_string().contains("model.safetensors"));
    std::fs::write(dir.path().join("model.bin"), [0]).unwrap();
    assert!(open().unwrap_err().to_string().contains("pickle"));
    write(&dir.path().join("s1.safetensors"), &[("a", counting([2], 0.0))]);
    write(&dir.path().join("s2.safetensors"), &[("b", counting([2], 0.0))]);
    let index = r#"{"metadata": {}, "weight_map": {"a": "s1.safetensors", "b": "s2.safetensors"}}"#;
    std::fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    assert_eq!(open().unwrap().names(), ["a", "b"]);
    write(&dir.path().join("model.fp16.safetensors"), &[("c", counting([2], 0.0).cast(DType::F16))]);
    assert_eq!(open().unwrap().names(), ["a", "b"], "full precision comes first");
    write(&dir.path().join("model.safetensors"), &[("d", counting([2], 0.0))]);
    assert_eq!(open().unwrap().names(), ["d"]);
}

#[test]
fn damaged_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    write(&path, &[("a", counting([64], 0.0))]);
    let whole = std::fs::read(&path).unwrap();
    for cut in [0, 4, 8, 20, whole.len() - 1] {
        assert!(Weights::from_bytes("cut", whole[..cut].to_vec()).is_err(), "{cut} bytes of {}", whole.len());
    }
    std::fs::write(&path, &whole[..30]).unwrap();
    assert!(Weights::open(&path).unwrap_err().to_string().contains("w.safetensors"));
    assert!(Weights::open(dir.path().join("none.safetensors")).is_err());
}

#[test]
fn scopes_join_several_models() {
    let unet = stored(&[("conv.weight", counting([2], 1.0))]).under("unet");
    let vae = stored(&[("conv.weight", counting([2], 5.0))]).under("vae");
    let both = unet.and(vae);
    assert_eq!(loaded(&both, DType::F32, |b| b.param("vae.conv.weight", [2])).unwrap(), [5.0, 6.0]);
    assert_eq!(loaded(&both, DType::F32, |b| b.param("unet.conv.weight", [2])).unwrap(), [1.0, 2.0]);
    assert_eq!(report(loaded(&both, DType::F32, |b| b.param("text.conv.weight", [2])).unwrap_err()).missing[0].name, "text.conv.weight");
}

#[test]
fn random_weights_are_the_same_each_time_and_well_scaled() {
    let get = |seed| loaded(&Weights::random(seed), DType::F32, |b| b.param("a.weight", [64, 1000])).unwrap();
    let values = get(1);
    assert_eq!(values, get(1));
    assert_ne!(values, get(2));
    let variance = values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / values.len() as f64;
    assert!((variance * 1000.0 - 1.0).abs() < 0.02, "{variance}");
}

#[test]
fn tensors_are_read_as_stored() {
    let weights = Weights::open("tests/fixtures/tiny-a/expected.safetensors").unwrap();
    let ids = weights.tensor("text.input_ids").unwrap();
    assert_eq!((ids.ty().dtype, &*ids.shape()), (DType::I32, &[2, 77][..]));
    assert!(weights.tensor("nothing").is_err());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    save(&path, &[("a", &counting([2], 0.0).cast(DType::F16))], &[("licence", "MIT")]).unwrap();
    let weights = Weights::open(&path).unwrap();
    assert_eq!((weights.metadata("licence"), weights.metadata("other")), (Some("MIT"), None));
    assert_eq!(weights.tensor("a").unwrap().ty().dtype, DType::F16);
    assert_eq!(weights.describe("a").unwrap(), ("F16".to_owned(), vec![2]));
}

proptest::proptest! {
    /// Whatever the bytes, a file is read or refused: no panic, no read outside of it.
    #[test]
    fn damaged_bytes_never_panic(flips in proptest::collection::vec((0usize..2000, 0u8..8), 1..6), cut in 0usize..400) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.safetensors");
        write(&path, &[("w", counting([2, 3, 2, 2], 0.0)), ("ids", Tensor::from_i32([3], &[1, 2, 3]).unwrap())]);
        let mut bytes = std::fs::read(&path).unwrap();
        for (at, bit) in flips {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
        }
        bytes.truncate(bytes.len().saturating_sub(cut.saturating_sub(200)));
        if let Ok(weights) = Weights::from_bytes("damaged", bytes) {
            for name in weights.names() {
                let _ = weights.tensor(name);
            }
            let _ = loaded(&weights, DType::Bf16, |b| b.param_conv("w", [2, 2, 2, 3]));
            let _ = loaded(&weights, DType::F32, |b| b.param("ids", [3]));
        }
    }
}
