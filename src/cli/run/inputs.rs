//! Named tensors of a file, taken one by one; what is left over or wrong is an error that says what is expected.

use dreamid_engine::weights::Weights;
use dreamid_engine::{DType, Error, Result, Tensor};
use std::collections::BTreeSet;
use std::path::Path;

/// The tensors of one file.
pub(super) struct Inputs {
    file: Weights,
    left: BTreeSet<String>,
    /// Sentence that says what is expected.
    expected: String,
}

impl Inputs {
    pub(super) fn open(path: &Path, expected: String) -> Result<Self> {
        let file = Weights::open(path)?;
        let left = file.names().into_iter().map(str::to_owned).collect();
        Ok(Self { file, left, expected })
    }

    /// A floating-point tensor of so many axes, as f32. Integers are taken too.
    pub(super) fn float(&mut self, name: &str, axes: usize) -> Result<Tensor> {
        Ok(self.take(name, axes)?.cast(DType::F32))
    }

    /// An integer tensor of so many axes.
    pub(super) fn integer(&mut self, name: &str, axes: usize) -> Result<Tensor> {
        let tensor = self.take(name, axes)?;
        if tensor.ty().dtype.is_float() {
            return Err(self.error(format!("`{name}` is {}, expected integers", tensor.ty())));
        }
        Ok(tensor)
    }

    /// A picture or latents `[B,C,H,W]` of so many channels, as `[B,H,W,C]`.
    pub(super) fn picture(&mut self, name: &str, channels: usize) -> Result<Tensor> {
        let tensor = self.float(name, 4)?;
        if tensor.shape()[1] != channels {
            return Err(self.error(format!("`{name}` is {}, expected {channels} channels on the second axis", tensor.ty())));
        }
        tensor.nchw_to_nhwc()
    }

    /// Whether there is such a tensor.
    pub(super) fn has(&self, name: &str) -> bool {
        self.left.contains(name)
    }

    /// Fails unless all tensors were taken.
    pub(super) fn finish(&self) -> Result<()> {
        let left: Vec<&str> = self.left.iter().map(String::as_str).collect();
        if left.is_empty() { Ok(()) } else { Err(self.error(format!("`{}` is not an input", left.join("`, `")))) }
    }

    /// Fails with what is wrong unless `condition` holds.
    pub(super) fn ensure(&self, condition: bool, what: impl FnOnce() -> String) -> Result<()> {
        if condition { Ok(()) } else { Err(self.error(what())) }
    }

    fn take(&mut self, name: &str, axes: usize) -> Result<Tensor> {
        if !self.left.remove(name) {
            return Err(self.error(format!("`{name}` is missing")));
        }
        let tensor = self.file.tensor(name)?;
        self.ensure(tensor.shape().len() == axes, || format!("`{name}` is {}, expected {axes} axes", tensor.ty()))?;
        self.ensure(tensor.shape().elements() > 0, || format!("`{name}` is {}: it is empty", tensor.ty()))?;
        Ok(tensor)
    }

    fn error(&self, what: String) -> Error {
        Error::file(self.file.label(), format!("{what}; {}", self.expected))
    }
}
