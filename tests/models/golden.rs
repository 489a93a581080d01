//! Expected tensors, and how close a result must be.

use dreamid_engine::device::Device;
use dreamid_engine::exec::Executable;
use dreamid_engine::graph::Graph;
use dreamid_engine::models::ModelFolder;
use dreamid_engine::weights::Weights;
use dreamid_engine::{DType, Shape, Tensor};
use std::path::PathBuf;

/// Pipelines of unusual shapes, stored as f32, f16 and bf16.
pub(crate) const PIPELINES: [&str; 3] = ["tiny-a", "tiny-b", "tiny-c"];

/// Largest difference allowed, over the largest expected value, with f32 storage.
pub(crate) const TOLERANCE: f32 = 1e-4;

pub(crate) fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub(crate) fn model(name: &str) -> ModelFolder {
    ModelFolder::open(fixture(name)).unwrap()
}

/// A fixture's expected.safetensors.
pub(crate) struct Golden {
    folder: String,
    tensors: Weights,
}

impl Golden {
    pub(crate) fn of(folder: &str) -> Self {
        Self { folder: folder.to_owned(), ..Self::open(fixture(folder).join("expected.safetensors")) }
    }

    /// Another file of the fixture.
    pub(crate) fn named(folder: &str, file: &str) -> Self {
        Self { folder: folder.to_owned(), ..Self::open(fixture(folder).join(file).with_extension("safetensors")) }
    }

    pub(crate) fn open(path: PathBuf) -> Self {
        Self { folder: path.file_stem().unwrap().to_string_lossy().into_owned(), tensors: Weights::open(&path).unwrap() }
    }

    /// What the file says of itself.
    pub(crate) fn facts(&self) -> serde_json::Value {
        serde_json::from_str(self.tensors.metadata("facts").unwrap()).unwrap()
    }

    pub(crate) fn get(&self, name: &str) -> Tensor {
        self.tensors.tensor(name).unwrap()
    }

    /// A tensor, if there is one of this name.
    pub(crate) fn find(&self, name: &str) -> Option<Tensor> {
        self.tensors.names().contains(&name).then(|| self.get(name))
    }

    /// A picture or latents, channels-last.
    pub(crate) fn image(&self, name: &str) -> Tensor {
        self.get(name).nchw_to_nhwc().unwrap()
    }

    /// Integers as f32, which is how timesteps enter.
    pub(crate) fn float(&self, name: &str) -> Tensor {
        let tensor = self.get(name);
        Tensor::from_f32(tensor.shape(), &tensor.to_f32_vec()).unwrap()
    }

    /// Fails unless `got` is within the tolerance of the expected tensor; four axes are a picture, stored channels-first.
    pub(crate) fn check(&self, name: &str, got: &Tensor) {
        let want = self.get(name);
        let want = if want.shape().len() == 4 { want.nchw_to_nhwc().unwrap() } else { want };
        let error = relative(got, &want);
        println!("{}/{name} {}: {error:.1e}", self.folder, got.shape());
        assert!(error <= TOLERANCE, "{}/{name}: error {error:e} of the largest value", self.folder);
    }
}

/// Largest difference over the largest value of `want`.
pub(crate) fn relative(got: &Tensor, want: &Tensor) -> f32 {
    assert_eq!(got.shape(), want.shape());
    let (got, want) = (got.to_f32_vec(), want.to_f32_vec());
    assert!(got.iter().all(|v| v.is_finite()), "a result is not finite");
    let top = want.iter().fold(0.0, |a: f32, v| a.max(v.abs()));
    got.iter().zip(&want).fold(0.0, |a: f32, (g, w)| a.max((g - w).abs())) / top
}

pub(crate) fn device() -> Device {
    Device::parse("cpu", Some(2)).unwrap()
}

/// Compiles, runs, and gives the outputs in the order of the graph.
pub(crate) fn run(graph: Graph, weights: &Weights, inputs: &[(&str, &Tensor)]) -> Vec<Tensor> {
    let mut executable = Executable::compile(graph, weights, &device()).unwrap();
    executable.watch_non_finite(true);
    executable.call(inputs).unwrap().into_iter().map(|(_, t)| t).collect()
}

/// Smooth values that repeat nowhere, for inputs that need no fixture.
pub(crate) fn waves(shape: impl Into<Shape>) -> Tensor {
    let shape = shape.into();
    let values: Vec<f32> = (0..shape.elements()).map(|i| (i as f32 * 0.731).sin() + 0.3 * (i as f32 * 0.117).cos()).collect();
    Tensor::from_f32(shape, &values).unwrap()
}

/// Both storage types that the CPU computes in.
pub(crate) const DTYPES: [DType; 2] = [DType::F32, DType::Bf16];
