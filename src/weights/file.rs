//! One safetensors file, mapped or in memory.

use crate::{Error, Result};
use safetensors::{Dtype, SafeTensors};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Header of a file and its bytes.
pub(crate) struct File {
    pub(crate) bytes: Arc<Bytes>,
    pub(crate) tensors: BTreeMap<String, TensorInfo>,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Type, extents and place of one tensor.
#[derive(Clone, Debug)]
pub(crate) struct TensorInfo {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) range: Range<usize>,
}

/// Contents of a file.
#[derive(Debug)]
pub(crate) enum Bytes {
    Mapped(memmap2::Mmap),
    Memory(Cow<'static, [u8]>),
}

impl Bytes {
    pub(crate) fn get(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Memory(bytes) => bytes,
        }
    }
}

impl Bytes {
    /// Gives the memory of a part that is not needed again soon back to the system; read again, it comes from the file again.
    pub(crate) fn release(&self, range: &Range<usize>) {
        #[cfg(target_os = "linux")]
        if let Self::Mapped(map) = self {
            // only whole pages: the neighbours' bytes may be in use
            const PAGE: usize = 1 << 16;
            let (start, end) = (range.start.next_multiple_of(PAGE), range.end / PAGE * PAGE);
            if start < end {
                // SAFETY: the map is read-only and backed by the file, so dropping its pages changes no byte that anybody reads.
                // That it may fail adds nothing: the pages then stay until the system needs them.
                let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = range;
    }
}

impl File {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        refuse_pickles(path)?;
        let file = std::fs::File::open(path).map_err(|e| Error::io(path, "open", e))?;
        // SAFETY: the map is read-only. Another process that truncates or rewrites the file while it is in use can make reads
        // fail or change; model files are written once and then renamed into place, and the same holds for every mmap loader.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, "map", e))?;
        Self::parse(&path.display().to_string(), Bytes::Mapped(map))
    }

    pub(crate) fn from_bytes(label: &str, bytes: Cow<'static, [u8]>) -> Result<Self> {
        Self::parse(label, Bytes::Memory(bytes))
    }

    pub(crate) fn bytes_of(&self, info: &TensorInfo) -> &[u8] {
        &self.bytes.get()[info.range.clone()]
    }

    fn parse(name: &str, bytes: Bytes) -> Result<Self> {
        let bad = |e: safetensors::SafeTensorError| Error::file(name, format!("is not a valid safetensors file ({e}); download it again"));
        let (header, meta) = SafeTensors::read_metadata(bytes.get()).map_err(bad)?;
        let data = header + 8; // the header's length is stored in front of it
        let place = |info: &safetensors::tensor::TensorInfo| TensorInfo {
            dtype: info.dtype,
            shape: info.shape.clone(),
            range: data + info.data_offsets.0..data + info.data_offsets.1,
        };
        let tensors = meta.tensors().into_iter().map(|(name, info)| (name, place(info))).collect();
        let metadata = meta.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        Ok(Self { bytes: Arc::new(bytes), tensors, metadata })
    }
}

/// The files of a component's folder; see [`super::Weights::open_dir`].
pub(crate) fn open_dir(dir: &Path, stems: &[&str]) -> Result<Vec<File>> {
    for stem in stems {
        for suffix in ["safetensors", "fp16.safetensors"] {
            let path = dir.join(format!("{stem}.{suffix}"));
            if path.is_file() {
                return Ok(vec![File::open(&path)?]);
            }
            let index = dir.join(format!("{stem}.{suffix}.index.json"));
            if index.is_file() {
                return open_shards(dir, &index);
            }
        }
    }
    for stem in stems {
        for suffix in ["bin", "ckpt", "pt", "pth"] {
            refuse_pickles(&dir.join(format!("{stem}.{suffix}")))?;
        }
    }
    let wanted: Vec<String> = stems.iter().map(|s| format!("{s}.safetensors")).collect();
    Err(Error::file(dir, format!("no weights here; expected {}", wanted.join(" or "))))
}

fn open_shards(dir: &Path, index: &Path) -> Result<Vec<File>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read(index).map_err(|e| Error::io(index, "read", e))?;
    let parsed: Index = serde_json::from_slice(&text).map_err(|e| Error::file(index, format!("is not an index of shards: {e}")))?;
    let shards: std::collections::BTreeSet<PathBuf> = parsed.weight_map.values().map(|name| dir.join(name)).collect();
    shards.iter().map(|path| File::open(path)).collect()
}

fn refuse_pickles(path: &Path) -> Result<()> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    if path.is_file() && matches!(extension, "bin" | "ckpt" | "pt" | "pth" | "pkl") {
        return Err(Error::file(path, "is a Python pickle, which can run code when it is loaded; convert it to .safetensors"));
    }
    Ok(())
}
