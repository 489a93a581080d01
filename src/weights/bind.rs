//! Gives every parameter of a graph its bytes, converted and repacked once.

use super::convert::{self, Values};
use super::file::Bytes;
use super::{Resolved, Source, Weights, WeightsReport, lock, random};
use crate::device::cpu::{Cpu, PackSpec, Packed, PackingKey};
use crate::device::cuda::{Cuda, DeviceMemory};
use crate::graph::{Graph, ParamSpec, Value, WeightLayout};
use crate::ops::HostIn;
use crate::{DType, Result, Tensor, Ty};
use std::ops::Range;
use std::sync::Arc;

/// A parameter that is ready to be used.
pub(crate) enum Bound {
    /// Converted.
    Owned(Tensor),
    /// Already in the right type and order in the file.
    Mapped { bytes: Arc<Bytes>, range: Range<usize> },
    /// As an operation asked for it.
    Packed(Packed),
    /// Converted, on a CUDA device.
    Device(DeviceMemory),
}

/// Who is to use the parameters.
#[derive(Clone, Copy)]
pub(crate) enum Target<'a> {
    Cpu(&'a Cpu),
    Cuda(&'a Cuda),
}

/// What makes two parameters the same bytes in memory.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct BoundKey {
    names: Vec<String>,
    layout: WeightLayout,
    dtype: DType,
    form: Form,
}

/// Where a parameter lies, and in which order.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Form {
    Plain,
    Packed(PackSpec, PackingKey),
    Device(usize),
}

impl Bound {
    /// The parameter as an operation of the CPU sees it.
    pub(crate) fn host_in(&self, ty: Ty) -> Option<HostIn<'_>> {
        match self {
            Self::Owned(tensor) => Some(HostIn { ty, data: tensor.bytes(), packed: None }),
            Self::Mapped { bytes, range } => Some(HostIn { ty, data: &bytes.get()[range.clone()], packed: None }),
            Self::Packed(packed) => Some(HostIn { ty, data: &[], packed: Some(packed) }),
            Self::Device(_) => None,
        }
    }

    /// Its memory on a CUDA device.
    pub(crate) fn on_device(&self) -> Option<&DeviceMemory> {
        match self {
            Self::Device(memory) => Some(memory),
            _ => None,
        }
    }
}

/// The parameters of a graph: each once for every form that a node asks for. A frozen weight that a gradient reads too is there twice,
/// in the order of the forward product and in that of the gradient; as it stood in the file, only if a node wants that.
pub(crate) struct Params {
    /// By value.
    forms: Vec<Vec<(Option<PackSpec>, Arc<Bound>)>>,
}

impl Params {
    /// A parameter in the form that a node asks for; none if nothing was loaded. CUDA devices have one form only: none.
    pub(crate) fn get(&self, value: Value, pack: Option<PackSpec>) -> Option<&Bound> {
        self.forms[value.index()].iter().find(|(form, _)| *form == pack).map(|(_, bound)| bound.as_ref())
    }
}

/// Binds all parameters of a graph. With no target, names and shapes are checked and nothing is loaded.
pub(crate) fn bind(graph: &Graph, weights: &Weights, target: Option<Target<'_>>) -> Result<Params> {
    let mut report = WeightsReport::new(weights.label());
    let found: Vec<_> =
        graph.params().filter_map(|(spec, value)| Some((spec, value, weights.resolve(spec, graph.ty(value), &mut report)?))).collect();
    weights.conclude(report)?;
    let mut params = Params { forms: vec![Vec::new(); graph.values().len()] };
    let Some(target) = target else { return Ok(params) };
    let asked = packings(graph, target);
    for (spec, value, resolved) in found {
        for &pack in &asked[value.index()] {
            params.forms[value.index()].push((pack, resolved.load(target, spec, graph.ty(value), pack)?));
        }
    }
    Ok(params)
}

/// The forms in which nodes want each value, without repeats. A view wants what it views as it is.
fn packings(graph: &Graph, target: Target<'_>) -> Vec<Vec<Option<PackSpec>>> {
    let mut asked: Vec<Vec<Option<PackSpec>>> = vec![Vec::new(); graph.values().len()];
    for node in graph.nodes() {
        let types: Vec<Option<Ty>> = node.inputs.iter().map(|v| v.map(|v| graph.ty(v))).collect();
        for (i, value) in node.inputs.iter().enumerate().filter_map(|(i, v)| v.map(|v| (i, v))) {
            let pack = if matches!(target, Target::Cpu(_)) { node.op.packing(i, &types) } else { None };
            let forms = &mut asked[value.index()];
            if !forms.contains(&pack) {
                forms.push(pack);
            }
        }
    }
    asked
}

impl Resolved<'_> {
    fn load(&self, target: Target<'_>, spec: &ParamSpec, ty: Ty, pack: Option<PackSpec>) -> Result<Arc<Bound>> {
        let form = match (target, pack) {
            (Target::Cuda(cuda), _) => Form::Device(cuda.id()),
            (Target::Cpu(cpu), Some(pack)) => Form::Packed(pack, cpu.packing_key()),
            (Target::Cpu(_), None) => Form::Plain,
        };
        let key = BoundKey { names: self.names.clone(), layout: spec.layout, dtype: ty.dtype, form };
        if let Some(known) = lock(&self.store.bound).get(&key).and_then(std::sync::Weak::upgrade) {
            return Ok(known);
        }
        let bound = Arc::new(self.bound(target, spec.layout, ty, pack)?);
        if !matches!(*bound, Bound::Mapped { .. }) {
            self.tensors.iter().for_each(|(file, info)| file.bytes.release(&info.range));
        }
        lock(&self.store.bound).insert(key, Arc::downgrade(&bound));
        Ok(bound)
    }

    fn bound(&self, target: Target<'_>, layout: WeightLayout, ty: Ty, pack: Option<PackSpec>) -> Result<Bound> {
        match (target, pack) {
            (Target::Cpu(cpu), None) => self.plain(cpu, layout, ty),
            (Target::Cpu(cpu), Some(pack)) => {
                let plain = self.plain(cpu, layout, ty)?;
                Ok(Bound::Packed(Packed::new(cpu, pack, ty.dtype, plain.host_in(ty).map_or(&[], |p| p.data))?))
            }
            (Target::Cuda(cuda), _) => {
                let plain = self.plain(cuda.host(), layout, ty)?;
                Ok(Bound::Device(cuda.upload(plain.host_in(ty).map_or(&[], |p| p.data), &self.names.join(" + "))?))
            }
        }
    }

    fn plain(&self, cpu: &Cpu, layout: WeightLayout, ty: Ty) -> Result<Bound> {
        if let Source::Random { seed } = &self.store.source {
            let name = self.names.join("+");
            let make = |start: usize, out: &mut [f32]| random::fill(*seed, &name, ty.shape, start, out);
            return convert::parameter(cpu, &self.names[..1], WeightLayout::Plain, ty, &[Values::Made(&make)]).map(Bound::Owned);
        }
        if let [(file, info)] = self.tensors.as_slice() {
            let bytes = file.bytes_of(info);
            if convert::usable_in_place(layout, ty, info.dtype, bytes) {
                convert::check_finite(cpu, &self.names[0], ty.dtype, bytes)?;
                return Ok(Bound::Mapped { bytes: file.bytes.clone(), range: info.range.clone() });
            }
        }
        let parts: Vec<Values<'_>> =
            self.tensors.iter().map(|(file, info)| Values::Stored { dtype: info.dtype, bytes: file.bytes_of(info) }).collect();
        convert::parameter(cpu, &self.names, layout, ty, &parts).map(Bound::Owned)
    }
}
