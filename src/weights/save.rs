//! Writing tensors to a file.

use crate::{DType, Error, Result, Tensor};
use safetensors::{Dtype, tensor::TensorView};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

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
    let part = part_name(path);
    let written = std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, path));
    written.map_err(|e| {
        // nothing half-written stays behind; that this fails too adds nothing to the error
        let _ = std::fs::remove_file(&part);
        Error::io(path, "write", e)
    })
}

/// A name beside `path`, so that renaming stays on one file system.
fn part_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    path.with_file_name(name)
}

fn stored(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
        DType::I32 => Dtype::I32,
    }
}
