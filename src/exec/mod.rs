//! A graph with its weights and its memory, ready to run.

mod arena;
mod profile;

pub use profile::{OpTime, Profile};

use crate::device::Device;
use crate::device::cpu::Cpu;
use crate::graph::{Graph, Node, Place, Plan, Value, verify};
use crate::ops::{HostIn, HostIo, HostOut};
use crate::weights::{Bound, Weights, bind, not_finite};
use crate::{DType, Error, Result, Tensor, Ty};
use arena::{Arena, Memory};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A compiled graph: weights bound, memory planned and allocated. Running it allocates nothing that grows with the model.
///
/// Write the inputs, run, read the outputs; inputs keep their values between runs.
pub struct Executable {
    graph: Graph,
    plan: Plan,
    device: Device,
    params: Vec<Option<Arc<Bound>>>,
    buffers: HashMap<Value, Arena>,
    arena: Arena,
    written: Vec<Value>,
    runs: u64,
    watch: bool,
    cancel: Option<Arc<AtomicBool>>,
    profile: Option<Profile>,
}

impl Executable {
    /// Binds the weights, plans and allocates. Fails with one report of every tensor that does not fit.
    ///
    /// On [`Device::Null`] names and shapes are checked and memory is planned, but nothing is loaded or allocated.
    pub fn compile(graph: Graph, weights: &Weights, device: &Device) -> Result<Self> {
        let plan = Plan::new(&graph);
        Self::with_plan(graph, plan, weights, device)
    }

    /// [`Executable::compile`] with a plan of one's own, for tests of the planner.
    pub fn with_plan(graph: Graph, plan: Plan, weights: &Weights, device: &Device) -> Result<Self> {
        let cpu = match device {
            Device::Cpu(cpu) => Some(cpu.as_ref()),
            Device::Null => None,
        };
        verify(&graph, &plan)?;
        let params = bind(&graph, weights, cpu)?;
        let mut buffers = HashMap::new();
        if cpu.is_some() {
            for i in 0..graph.values().len() {
                let value = Value(i as u32);
                if matches!(plan.place(value), Place::Input(v) | Place::Output(v) if v == value) {
                    buffers.insert(value, Arena::new(graph.ty(value).bytes())?);
                }
            }
        }
        let arena = Arena::new(if cpu.is_some() { plan.arena_bytes() } else { 0 })?;
        let device = device.clone();
        Ok(Self { graph, plan, device, params, buffers, arena, written: Vec::new(), runs: 0, watch: false, cancel: None, profile: None })
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The memory plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// After each node, check its outputs and fail at the first value that is not finite, naming the place in the model.
    pub fn watch_non_finite(&mut self, on: bool) {
        self.watch = on;
    }

    /// Between nodes, look at this flag and fail with [`Error::Cancelled`] once it is set.
    pub fn cancel_on(&mut self, flag: Arc<AtomicBool>) {
        self.cancel = Some(flag);
    }

    /// Start to add up the time of each operation, or stop and forget.
    pub fn profile(&mut self, on: bool) {
        self.profile = on.then(Profile::default);
    }

    /// Times since [`Executable::profile`] was switched on.
    pub fn times(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }

    /// Number of runs that were completed.
    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// Fills the arena and all inputs and outputs with NaN, for tests: whatever is read before it is written then shows.
    pub fn poison(&mut self) {
        self.written.clear();
        self.buffers.values_mut().chain([&mut self.arena]).for_each(|memory| memory.bytes_mut().fill(0xff));
    }

    /// Sets an input. Floats are converted to the type of the input; extents must be equal.
    pub fn write(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let Some(value) = self.graph.inputs().find(|(n, _)| *n == name).map(|(_, v)| v) else {
            return Err(Error::input(format!("there is no input `{name}`; the graph takes {}", self.input_list())));
        };
        let (want, got) = (self.graph.ty(value), tensor.ty());
        if got.shape != want.shape || got.dtype.is_float() != want.dtype.is_float() {
            return Err(Error::input(format!("input `{name}` is {got}, expected {want}")));
        }
        let Some(buffer) = self.buffers.get_mut(&value) else { return Err(computes_nothing()) };
        if got.dtype == want.dtype {
            buffer.bytes_mut().copy_from_slice(tensor.bytes());
        } else {
            buffer.bytes_mut().copy_from_slice(tensor.cast(want.dtype).bytes());
        }
        if !self.written.contains(&value) {
            self.written.push(value);
        }
        Ok(())
    }

    /// Runs all nodes. Every input must have been written.
    pub fn run(&mut self) -> Result<()> {
        let Device::Cpu(cpu) = self.device.clone() else { return Err(computes_nothing()) };
        let lacking: Vec<&str> = self.graph.inputs().filter(|(_, v)| !self.written.contains(v)).map(|(n, _)| n).collect();
        if !lacking.is_empty() {
            return Err(Error::input(format!("inputs not written: {}", lacking.join(", "))));
        }
        let memory = Memory::new(&mut self.arena, &mut self.buffers);
        for node in self.graph.nodes().iter().filter(|n| !n.op.is_view()) {
            if self.cancel.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
                return Err(Error::Cancelled);
            }
            let start = self.profile.is_some().then(Instant::now);
            let step = Step { graph: &self.graph, plan: &self.plan, params: &self.params, memory: &memory, cpu: &cpu, node };
            step.run(self.watch)?;
            if let (Some(profile), Some(start)) = (&mut self.profile, start) {
                profile.add(node.op.name(), start.elapsed(), self.graph.cost(node));
            }
        }
        self.runs += 1;
        Ok(())
    }

    /// An output of the last run; floats come as f32.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        let Some((_, value)) = self.graph.outputs().iter().find(|(n, _)| n == name) else {
            return Err(Error::input(format!("there is no output `{name}`; the graph gives {}", self.output_list())));
        };
        let ty = self.graph.ty(*value);
        let bytes = match self.plan.place(*value) {
            Place::Input(base) | Place::Output(base) => self.buffers.get(&base).map(Arena::bytes),
            Place::Param(base) => self.params[base.index()].as_ref().map(|p| p.host_in(ty).data),
            Place::Arena(_) | Place::Unused => None,
        };
        let tensor = Tensor::from_bytes(ty, bytes.ok_or_else(computes_nothing)?)?;
        Ok(if ty.dtype.is_float() { tensor.cast(DType::F32) } else { tensor })
    }

    /// Writes all inputs, runs, and reads all outputs.
    pub fn call(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Vec<(String, Tensor)>> {
        for (name, tensor) in inputs {
            self.write(name, tensor)?;
        }
        self.run()?;
        let names: Vec<String> = self.graph.outputs().iter().map(|(n, _)| n.clone()).collect();
        names.into_iter().map(|name| Ok((name.clone(), self.read(&name)?))).collect()
    }

    fn input_list(&self) -> String {
        self.graph.inputs().map(|(n, v)| format!("`{n}` {}", self.graph.ty(v))).collect::<Vec<_>>().join(", ")
    }

    fn output_list(&self) -> String {
        self.graph.outputs().iter().map(|(n, v)| format!("`{n}` {}", self.graph.ty(*v))).collect::<Vec<_>>().join(", ")
    }
}

/// One node about to run.
struct Step<'a> {
    graph: &'a Graph,
    plan: &'a Plan,
    params: &'a [Option<Arc<Bound>>],
    memory: &'a Memory<'a>,
    cpu: &'a Cpu,
    node: &'a Node,
}

impl Step<'_> {
    fn run(&self, watch: bool) -> Result<()> {
        let ins: Vec<Option<HostIn<'_>>> = self.node.inputs.iter().map(|v| v.map(|v| self.input(v)).transpose()).collect::<Result<_>>()?;
        let mut outs: Vec<HostOut<'_>> = self.node.outputs.iter().map(|&v| self.output(v)).collect::<Result<_>>()?;
        let mut io = HostIo { ins: &ins, outs: &mut outs, cpu: self.cpu };
        self.node.op.cpu(&mut io).map_err(|e| e.at(&self.node.scope))?;
        if watch { self.check_finite() } else { Ok(()) }
    }

    fn input(&self, value: Value) -> Result<HostIn<'_>> {
        let ty = self.graph.ty(value);
        if let Place::Param(base) = self.plan.place(value) {
            let bound = self.params[base.index()].as_ref();
            return bound.map(|b| b.host_in(ty)).ok_or_else(|| lost(self.node));
        }
        // SAFETY: the plan gives a node's inputs and outputs places that do not overlap, and `verify` has proved it for this plan.
        let data = unsafe { self.memory.read(self.plan.place(value), ty.bytes()) };
        Ok(HostIn { ty, data: data.ok_or_else(|| lost(self.node))?, packed: None })
    }

    fn output(&self, value: Value) -> Result<HostOut<'_>> {
        let ty: Ty = self.graph.ty(value);
        // SAFETY: as for inputs; and the outputs of one node do not overlap each other, which `verify` has proved too.
        let data = unsafe { self.memory.write(self.plan.place(value), ty.bytes()) };
        Ok(HostOut { ty, data: data.ok_or_else(|| lost(self.node))? })
    }

    fn check_finite(&self) -> Result<()> {
        let mut count = 0;
        for &value in &self.node.outputs {
            let ty = self.graph.ty(value);
            // SAFETY: the node is done; no slice that it wrote through is alive any more.
            let data = unsafe { self.memory.read(self.plan.place(value), ty.bytes()) };
            count += data.map_or(0, |data| not_finite(ty.dtype, data));
        }
        if count == 0 {
            return Ok(());
        }
        let at = format!("{} ({})", self.node.scope, self.node.op.name());
        Err(Error::NonFinite { at, count, advice: "this is the first place; try --dtype f32, and check the inputs and the weights" })
    }
}

fn lost(node: &Node) -> Error {
    Error::Graph(format!("{} at `{}` has a value without memory", node.op.name(), node.scope))
}

fn computes_nothing() -> Error {
    Error::Device { device: "null".into(), what: "plans and counts but computes nothing; use --device cpu".into() }
}
