//! Level 7: each face network on stored inputs, against the original runtimes; IResNet against arcface_torch.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use dreamid_engine::device::Device;
use dreamid_engine::exec::Executable;
use dreamid_engine::models::blazeface::{self, BlazeFaceConfig};
use dreamid_engine::models::iresnet::{self, IresnetConfig};
use dreamid_engine::models::mobilefacenet::{self, MobileFaceNetConfig};
use dreamid_engine::models::mtcnn::{self, MtcnnConfig, Stage};
use dreamid_engine::weights::Weights;
use dreamid_engine::{EmbeddedNetwork, Tensor};

fn path(name: &str) -> String {
    format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn steps(name: &str) -> Tensor {
    Weights::open(path("faces_steps.safetensors")).unwrap().tensor(name).unwrap()
}

/// Largest difference over largest magnitude.
fn relative(got: &[f32], want: &Tensor) -> f32 {
    let want = want.to_f32_vec();
    assert_eq!(got.len(), want.len());
    let largest = want.iter().map(|v| v.abs()).fold(0.0, f32::max);
    got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / largest
}

fn output(outputs: &[(String, Tensor)], name: &str) -> Tensor {
    outputs.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no output {name}")).1.clone()
}

/// Values of `name.0`, `name.1` one after the other.
fn joined(outputs: &[(String, Tensor)], name: &str) -> Vec<f32> {
    [0, 1].iter().flat_map(|i| output(outputs, &format!("{name}.{i}")).to_f32_vec()).collect()
}

#[test]
fn blazeface_equals_onnxruntime() {
    let weights = EmbeddedNetwork::BlazeFaceFront.weights().unwrap();
    let config = BlazeFaceConfig::of(&weights).unwrap();
    let graph = blazeface::graph(&config, 1).unwrap();
    weights.check(&[&graph], &[]).unwrap();
    let mut network = Executable::compile(graph, &weights, &Device::cpu().unwrap()).unwrap();
    let image = Tensor::from_f32([1, 128, 128, 3], &config.input.normalise(&steps("view_128").to_f32_vec())).unwrap();
    let outputs = network.call(&[("image", &image)]).unwrap();
    for name in ["scores", "boxes"] {
        let off = relative(&joined(&outputs, name), &steps(&format!("blazeface.{name}")));
        println!("blazeface {name}: {off:.2e}");
        assert!(off < 1e-4, "{name}: {off}");
    }
    let centres = config.anchor_centres();
    assert_eq!(centres.len(), 896);
    assert_eq!(
        (centres[0], centres[3], centres[512], centres[895]),
        ([1.0 / 32.0; 2], [3.0 / 32.0, 1.0 / 32.0], [1.0 / 16.0; 2], [15.0 / 16.0; 2])
    );
}

#[test]
fn onet_equals_onnxruntime() {
    let weights = EmbeddedNetwork::ONet.weights().unwrap();
    let graph = mtcnn::graph(Stage::ONet, 1, 48, 48).unwrap();
    weights.check(&[&graph], &[]).unwrap();
    let mut network = Executable::compile(graph, &weights, &Device::cpu().unwrap()).unwrap();
    let input = MtcnnConfig::of(&weights, Stage::ONet).unwrap().input;
    let image = Tensor::from_f32([1, 48, 48, 3], &input.normalise(&steps("view_48").to_f32_vec())).unwrap();
    let outputs = network.call(&[("image", &image)]).unwrap();
    let probability = output(&outputs, "face").to_f32_vec()[1];
    assert!((probability - steps("onet.probability").to_f32_vec()[0]).abs() < 1e-4, "{probability}");
    // float16 weights against float32 ones: at most 3.5e-3 by the converter
    for name in ["box", "points"] {
        let off = relative(&output(&outputs, name).to_f32_vec(), &steps(&format!("onet.{name}")));
        println!("onet {name}: {off:.2e}");
        assert!(off < 4e-3, "{name}: {off}");
    }
}

#[test]
fn mobilefacenet_equals_litert() {
    let weights = EmbeddedNetwork::MobileFaceNet.weights().unwrap();
    let config = MobileFaceNetConfig::of(&weights).unwrap();
    assert_eq!(config.template, "arcface-112");
    let graph = mobilefacenet::graph(&config, 1).unwrap();
    weights.check(&[&graph], &[]).unwrap();
    let mut network = Executable::compile(graph, &weights, &Device::cpu().unwrap()).unwrap();
    let image = Tensor::from_f32([1, 112, 112, 3], &config.input.normalise(&steps("aligned_112").to_f32_vec())).unwrap();
    let outputs = network.call(&[("image", &image)]).unwrap();
    let off = relative(&output(&outputs, "embedding").to_f32_vec(), &steps("mobilefacenet.embedding"));
    println!("mobilefacenet embedding: {off:.2e}");
    assert!(off < 5e-3, "{off}");
    for (tap, shape) in [("taps.0", [1, 28, 28, 64]), ("taps.1", [1, 14, 14, 128]), ("taps.2", [1, 7, 7, 128])] {
        assert_eq!(*output(&outputs, tap).shape(), shape, "{tap}");
    }
}

#[test]
fn iresnet_equals_arcface_torch() {
    let weights = Weights::open(path("iresnet/model.safetensors")).unwrap();
    let stated: IresnetConfig = serde_json::from_slice(&std::fs::read(path("iresnet/config.json")).unwrap()).unwrap();
    let config = IresnetConfig::of(&weights).unwrap();
    assert_eq!(config, stated, "the shapes in the file tell the configuration");
    let expected = Weights::open(path("iresnet/expected.safetensors")).unwrap();
    let graph = iresnet::graph(&config, 2).unwrap();
    weights.check(&[&graph], &["num_batches_tracked"]).unwrap();
    let mut network = Executable::compile(graph, &weights, &Device::cpu().unwrap()).unwrap();
    let image = expected.tensor("pixel_values").unwrap().nchw_to_nhwc().unwrap();
    let outputs = network.call(&[("image", &image)]).unwrap();
    for stage in 0..4 {
        let got = output(&outputs, &format!("stages.{stage}")).nhwc_to_nchw().unwrap().to_f32_vec();
        let off = relative(&got, &expected.tensor(&format!("stage_{stage}")).unwrap());
        assert!(off < 1e-4, "stage {stage}: {off}");
    }
    let off = relative(&output(&outputs, "embedding").to_f32_vec(), &expected.tensor("embedding").unwrap());
    println!("iresnet embedding: {off:.2e}");
    assert!(off < 1e-4, "embedding: {off}");
}

#[test]
fn published_iresnets_have_their_published_sizes() {
    // as torch counts them in the network of tests/make_fixtures/towers.py
    for (config, parameters) in [(IresnetConfig::ir50(), 43_590_848), (IresnetConfig::ir100(), 65_156_160)] {
        let graph = iresnet::graph(&config, 1).unwrap();
        // running statistics are no parameters in torch's count
        let learned = graph.params().filter(|(spec, _)| !spec.names[0].contains("running"));
        let count: usize = learned.map(|(_, value)| graph.ty(value).shape.elements()).sum();
        assert_eq!(count, parameters);
    }
}

#[test]
fn other_files_are_refused_by_name() {
    let weights = EmbeddedNetwork::ONet.weights().unwrap();
    let wrong = MobileFaceNetConfig::of(&weights).unwrap_err().to_string();
    assert!(wrong.contains("mtcnn-onet") && wrong.contains("mobilefacenet"), "{wrong}");
    let wrong = IresnetConfig::of(&weights).unwrap_err().to_string();
    assert!(wrong.contains("not an IResNet"), "{wrong}");
}
