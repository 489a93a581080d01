//! Writing tensors to a file.

use crate::{DType, Error, Result, Tensor};
use safetensors::{Dtype, tensor::TensorView};
use std::collections::HashMap;
use std::path::Path;

/// Writes named tensors and metadata as a safetensors file, whole or not at all.
///
/// The file appears under its name only once it is complete: it is written beside it and renamed.
pub fn save(path: impl AsRef<Path>, tensors: &[(&str, &Tensor)], metadata: &[(&str, &str)]) -> Result<()> {
    let path = path.as_ref();
    let mut views = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let view = TensorView::new(stored(tensor.ty().dtype), tensor.shape().to_vec(), tensor.bytes());
        views.push((*name, view.map_err(|e| Error::file(path, format!("cannot store `{name}`: {e}")))?));
    }
    let metadata: HashMap<String, String> = metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let bytes = safetensors::serialize(views, (!metadata.is_empty()).then_some(metadata))
        .map_err(|e| Error::file(path, format!("cannot be encoded: {e}")))?;
    crate::files::write_atomic(path, &bytes)
}

fn stored(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
        DType::I32 => Dtype::I32,
    }
}
