//! Checkpoints: safetensors files, the names in them, and one report of everything that does not fit.

mod aliases;
mod bind;
mod convert;
mod file;
mod fingerprint;
mod random;
mod report;
mod save;

pub(crate) use bind::{Params, Target, bind};
pub(crate) use convert::not_finite;
pub use report::{Misshapen, Missing, WeightsReport};
pub use save::save;

use crate::graph::{Graph, ParamSpec};
use crate::{Error, Result, Tensor, Ty};
use bind::{Bound, BoundKey};
use file::{File, TensorInfo};
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Named tensors that parameters of graphs are bound to. Cheap to clone; clones share what is loaded.
///
/// Files are mapped, not read: a tensor is converted when a graph is compiled and shared by all executables of these weights
/// for as long as one of them lives.
#[derive(Clone)]
pub struct Weights {
    parts: Vec<Part>,
}

/// A store and the scope under which graphs know it.
#[derive(Clone)]
struct Part {
    scope: String,
    store: Arc<Store>,
}

struct Store {
    label: String,
    source: Source,
    used: Mutex<BTreeSet<String>>,
    bound: Mutex<HashMap<BoundKey, Weak<Bound>>>,
}

enum Source {
    Files(Vec<File>),
    Random { seed: u64 },
}

impl Weights {
    /// Maps one `.safetensors` file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Ok(Self::from_files(path.display().to_string(), vec![File::open(path)?]))
    }

    /// Maps the weights in a folder: the first of `STEM.safetensors`, `STEM.fp16.safetensors` or the shards that
    /// `STEM.safetensors.index.json` lists, over all `stems`.
    pub fn open_dir(dir: impl AsRef<Path>, stems: &[&str]) -> Result<Self> {
        let dir = dir.as_ref();
        Ok(Self::from_files(dir.display().to_string(), file::open_dir(dir, stems)?))
    }

    /// Takes a safetensors file that is already in memory; `label` names it in errors.
    pub fn from_bytes(label: impl Into<String>, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        let label = label.into();
        let file = File::from_bytes(&label, bytes.into())?;
        Ok(Self::from_files(label, vec![file]))
    }

    /// Makes up any tensor that is asked for, of a sensible scale, the same for the same name and seed: for benchmarks.
    pub fn random(seed: u64) -> Self {
        Self::from_store(Store::new(format!("random weights of seed {seed}"), Source::Random { seed }))
    }

    /// The same weights as graphs see them that put the model under `scope`: `scope.conv_in.weight` finds `conv_in.weight`.
    #[must_use]
    pub fn under(mut self, scope: &str) -> Self {
        for part in &mut self.parts {
            part.scope = if part.scope.is_empty() { scope.to_owned() } else { format!("{scope}.{}", part.scope) };
        }
        self
    }

    /// Both together: for a graph that spans several models.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.parts.extend(other.parts);
        self
    }

    /// Names of all tensors, sorted within each file. Random weights have none.
    pub fn names(&self) -> Vec<&str> {
        self.files().flat_map(|f| f.tensors.keys().map(String::as_str)).collect()
    }

    /// Element type as the file spells it, and extents, of a tensor.
    pub fn describe(&self, name: &str) -> Option<(String, Vec<usize>)> {
        self.files().find_map(|f| f.tensors.get(name)).map(|info| (format!("{:?}", info.dtype), info.shape.clone()))
    }

    /// A value of the file's own metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.files().find_map(|f| f.metadata.get(key)).map(String::as_str)
    }

    /// All of the file's own metadata.
    pub fn all_metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files().flat_map(|f| f.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())))
    }

    /// Where the weights come from, for messages.
    pub fn label(&self) -> String {
        self.parts.iter().map(|p| p.store.label.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// True for [`Weights::random`].
    pub fn is_random(&self) -> bool {
        self.parts.iter().any(|p| matches!(p.store.source, Source::Random { .. }))
    }

    /// Number of parameters that executables hold at the moment.
    pub fn loaded(&self) -> usize {
        self.parts.iter().map(|p| lock(&p.store.bound).values().filter(|b| b.strong_count() > 0).count()).sum()
    }

    /// One tensor as it is stored: floats in their own type (f64 as f32), integers as i32.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let found = self.files().find_map(|f| f.tensors.get(name).map(|info| (f, info)));
        let (file, info) = found.ok_or_else(|| Error::input(format!("{} holds no tensor `{name}`", self.label())))?;
        convert::tensor_as_stored(name, info, file.bytes_of(info))
    }

    /// Fails with one report unless these graphs together find every tensor they need and use every tensor there is.
    ///
    /// Names that start or end with one of `ignore`, and those known to be of no use (`position_ids`), may stay unused.
    pub fn check(&self, graphs: &[&Graph], ignore: &[&str]) -> Result<()> {
        let mut report = WeightsReport::new(self.label());
        for (spec, ty) in graphs.iter().flat_map(|g| g.params().map(|(spec, v)| (spec, g.ty(v)))) {
            self.resolve(spec, ty, &mut report);
        }
        self.add_unused(ignore, &mut report);
        self.conclude(report)
    }

    /// Fails with one report if tensors of the files have not been asked for by any graph compiled so far; `ignore` as in [`Weights::check`].
    pub fn check_unused(&self, ignore: &[&str]) -> Result<()> {
        let mut report = WeightsReport::new(self.label());
        self.add_unused(ignore, &mut report);
        self.conclude(report)
    }

    fn from_files(label: String, files: Vec<File>) -> Self {
        Self::from_store(Store::new(label, Source::Files(files)))
    }

    fn from_store(store: Store) -> Self {
        Self { parts: vec![Part { scope: String::new(), store: Arc::new(store) }] }
    }

    fn files(&self) -> impl Iterator<Item = &File> {
        self.parts.iter().flat_map(|p| match &p.store.source {
            Source::Files(files) => files.as_slice(),
            Source::Random { .. } => &[],
        })
    }

    fn add_unused(&self, ignore: &[&str], report: &mut WeightsReport) {
        for part in &self.parts {
            let used = lock(&part.store.used);
            let Source::Files(files) = &part.store.source else { continue };
            let names = files.iter().flat_map(|f| f.tensors.keys());
            report.unused.extend(names.filter(|n| !used.contains(*n) && !aliases::ignorable(n, ignore)).cloned());
        }
    }

    fn conclude(&self, mut report: WeightsReport) -> Result<()> {
        if report.is_empty() {
            return Ok(());
        }
        let shapes: HashMap<&str, &[usize]> =
            self.files().flat_map(|f| f.tensors.iter().map(|(name, info)| (name.as_str(), info.shape.as_slice()))).collect();
        report.explain(&shapes);
        Err(Error::Weights(Box::new(report)))
    }

    /// Finds the tensors of a parameter, marks them used, and adds what does not fit to the report.
    fn resolve(&self, spec: &ParamSpec, ty: Ty, report: &mut WeightsReport) -> Option<Resolved<'_>> {
        let first = spec.names.first()?;
        let inside = |part: &&Part| part.scope.is_empty() || strip_scope(first, &part.scope).is_some();
        let part = self.parts.iter().filter(inside).max_by_key(|p| p.scope.len());
        let Some(part) = part else {
            report.missing.extend(spec.names.iter().map(|n| Missing::new(n.clone())));
            return None;
        };
        let local: Vec<String> = spec.names.iter().map(|n| strip_scope(n, &part.scope).unwrap_or(n).to_owned()).collect();
        let Source::Files(files) = &part.store.source else {
            return Some(Resolved { store: &part.store, names: local, tensors: Vec::new() });
        };
        let found: Vec<Option<Vec<String>>> = local.iter().map(|name| find(files, name)).collect();
        let lost = local.iter().zip(&found).filter(|(_, f)| f.is_none());
        report.missing.extend(lost.map(|(n, _)| Missing::new(n.clone())));
        let names: Vec<String> = found.into_iter().collect::<Option<Vec<_>>>()?.concat();
        lock(&part.store.used).extend(names.iter().cloned());
        let tensors: Vec<(&File, &TensorInfo)> = names.iter().filter_map(|n| lookup(files, n)).collect();
        let shapes: Vec<&[usize]> = tensors.iter().map(|(_, info)| info.shape.as_slice()).collect();
        if !convert::fits(spec.layout, ty.shape, &shapes) {
            let found = shapes.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(" + ");
            report.misshapen.push(Misshapen { name: names.join(" + "), found, expected: convert::in_file(spec.layout, ty.shape) });
            return None;
        }
        Some(Resolved { store: &part.store, names, tensors })
    }
}

/// Where the bytes of one parameter are.
struct Resolved<'a> {
    store: &'a Store,
    names: Vec<String>,
    /// In stacking order; empty for random weights.
    tensors: Vec<(&'a File, &'a TensorInfo)>,
}

impl Store {
    fn new(label: String, source: Source) -> Self {
        Self { label, source, used: Mutex::default(), bound: Mutex::default() }
    }
}

/// Names in the files that stand for `name`: itself, or another spelling of it.
fn find(files: &[File], name: &str) -> Option<Vec<String>> {
    let known = |n: &String| lookup(files, n).is_some();
    aliases::spellings(name).into_iter().find(|names| names.iter().all(known))
}

fn lookup<'a>(files: &'a [File], name: &str) -> Option<(&'a File, &'a TensorInfo)> {
    files.iter().find_map(|f| f.tensors.get(name).map(|info| (f, info)))
}

fn strip_scope<'a>(name: &'a str, scope: &str) -> Option<&'a str> {
    if scope.is_empty() { Some(name) } else { name.strip_prefix(scope)?.strip_prefix('.') }
}

/// A poisoned lock only means that another thread failed: the sets and caches stay valid.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Weights({})", self.label())
    }
}
