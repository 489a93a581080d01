//! A graph with its weights and its memory, ready to run.

mod arena;
mod cpu;
mod cuda;
mod profile;
mod program;
pub mod tune;

pub use profile::{OpTime, Profile};

use crate::device::Device;
use crate::graph::{Graph, Plan, Value, verify};
use crate::weights::{Target, Weights, bind};
use crate::{DType, Error, Result, Tensor, Ty};
use cpu::CpuProgram;
use cuda::CudaProgram;
use program::{Program, Run};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// A compiled graph: weights bound, memory planned and allocated. Running it allocates nothing that grows with the model.
///
/// Write the inputs, run, read the outputs; inputs keep their values between runs.
pub struct Executable {
    graph: Graph,
    plan: Plan,
    /// None on the null device.
    program: Option<Box<dyn Program>>,
    written: Vec<Value>,
    runs: u64,
    watch: bool,
    cancel: Option<Arc<AtomicBool>>,
    profile: Option<Profile>,
}

impl Executable {
    /// Binds the weights, plans and allocates. Fails with one report of every tensor that does not fit; on a CUDA device also with the
    /// first operation that has no kernel for its types.
    ///
    /// On [`Device::Null`] names and shapes are checked and memory is planned, but nothing is loaded or allocated.
    pub fn compile(graph: Graph, weights: &Weights, device: &Device) -> Result<Self> {
        let plan = Plan::new(&graph);
        Self::with_plan(graph, plan, weights, device)
    }

    /// [`Executable::compile`] with a plan of one's own, for tests of the planner.
    pub fn with_plan(graph: Graph, plan: Plan, weights: &Weights, device: &Device) -> Result<Self> {
        verify(&graph, &plan)?;
        let target = match device {
            Device::Cpu(cpu) => Some(Target::Cpu(cpu)),
            Device::Cuda(cuda) => Some(Target::Cuda(cuda)),
            Device::Null => None,
        };
        let params = bind(&graph, weights, target)?;
        let program: Option<Box<dyn Program>> = match device {
            Device::Cpu(cpu) => Some(Box::new(CpuProgram::new(&graph, &plan, params, cpu.clone())?)),
            Device::Cuda(cuda) => Some(Box::new(CudaProgram::new(&graph, &plan, params, cuda)?)),
            Device::Null => None,
        };
        Ok(Self { graph, plan, program, written: Vec::new(), runs: 0, watch: false, cancel: None, profile: None })
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

    /// Start to add up the time of each operation, or stop and forget. On a CUDA device not while values are watched.
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
    pub fn poison(&mut self) -> Result<()> {
        self.written.clear();
        self.program()?.poison()
    }

    /// Sets an input. Floats are converted to the type of the input; extents must be equal.
    pub fn write(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let value = self.find_input(name)?;
        let (want, got) = (self.graph.ty(value), tensor.ty());
        if got.shape != want.shape || got.dtype.is_float() != want.dtype.is_float() {
            return Err(Error::input(format!("input `{name}` is {got}, expected {want}")));
        }
        let program = self.program()?;
        if got.dtype == want.dtype {
            program.write(value, tensor.bytes())?;
        } else {
            program.write(value, tensor.cast(want.dtype).bytes())?;
        }
        self.mark_written(value);
        Ok(())
    }

    /// Sets an input to what an output of the same type was in the last run, without a way through the host.
    pub fn feed(&mut self, output: &str, input: &str) -> Result<()> {
        let (from, to) = (self.find_output(output)?, self.find_input(input)?);
        let (have, want) = (self.graph.ty(from), self.graph.ty(to));
        if have != want {
            return Err(Error::input(format!("output `{output}` is {have}, input `{input}` takes {want}")));
        }
        self.program()?.feed(from, to)?;
        self.mark_written(to);
        Ok(())
    }

    /// True on a device that may still be at a run when [`Executable::run`] returns.
    pub fn is_asynchronous(&self) -> bool {
        self.program.as_ref().is_some_and(|program| program.is_asynchronous())
    }

    /// Runs all nodes. Every input must have been written. A CUDA device may still be at it when this returns; [`Executable::read`] waits.
    pub fn run(&mut self) -> Result<()> {
        self.ready()?;
        let program = self.program.as_mut().ok_or_else(computes_nothing)?;
        let (cancel, profile) = (self.cancel.as_deref(), self.profile.as_mut());
        program.run(Run { graph: &self.graph, plan: &self.plan, watch: self.watch, cancel, profile })?;
        self.runs += 1;
        Ok(())
    }

    /// Time of `runs` runs in a row by the device's own clock; none where it has none. `replayed` runs are those of [`Executable::run`];
    /// else every launch is asked for by itself, on devices where that makes a difference.
    pub fn device_time(&mut self, runs: usize, replayed: bool) -> Result<Option<Duration>> {
        self.ready()?.time(runs, replayed)
    }

    /// Writes all inputs for a measurement: numbers that are no zeros to skip and lead to nothing that overflows.
    pub fn write_ordinary_inputs(&mut self) -> Result<()> {
        let inputs: Vec<(String, Ty)> = self.graph.inputs().map(|(name, value)| (name.to_owned(), self.graph.ty(value))).collect();
        inputs.into_iter().try_for_each(|(name, ty)| self.write(&name, &ordinary(ty)?))
    }

    /// An output of the last run; floats come as f32.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        let value = self.find_output(name)?;
        let ty = self.graph.ty(value);
        let mut tensor = Tensor::zeros(ty);
        self.program.as_ref().ok_or_else(computes_nothing)?.read(value, tensor.bytes_mut())?;
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

    fn find_input(&self, name: &str) -> Result<Value> {
        let found = self.graph.inputs().find(|(n, _)| *n == name).map(|(_, v)| v);
        found.ok_or_else(|| Error::input(format!("there is no input `{name}`; the graph takes {}", self.input_list())))
    }

    fn find_output(&self, name: &str) -> Result<Value> {
        let found = self.graph.outputs().iter().find(|(n, _)| n == name).map(|(_, v)| *v);
        found.ok_or_else(|| Error::input(format!("there is no output `{name}`; the graph gives {}", self.output_list())))
    }

    fn mark_written(&mut self, input: Value) {
        if !self.written.contains(&input) {
            self.written.push(input);
        }
    }

    fn program(&mut self) -> Result<&mut Box<dyn Program>> {
        self.program.as_mut().ok_or_else(computes_nothing)
    }

    /// The program, if every input has been written.
    fn ready(&mut self) -> Result<&mut Box<dyn Program>> {
        let program = self.program.as_mut().ok_or_else(computes_nothing)?;
        let lacking: Vec<&str> = self.graph.inputs().filter(|(_, v)| !self.written.contains(v)).map(|(n, _)| n).collect();
        if lacking.is_empty() { Ok(program) } else { Err(Error::input(format!("inputs not written: {}", lacking.join(", ")))) }
    }

    fn input_list(&self) -> String {
        self.graph.inputs().map(|(n, v)| format!("`{n}` {}", self.graph.ty(v))).collect::<Vec<_>>().join(", ")
    }

    fn output_list(&self) -> String {
        self.graph.outputs().iter().map(|(n, v)| format!("`{n}` {}", self.graph.ty(*v))).collect::<Vec<_>>().join(", ")
    }
}

fn ordinary(ty: Ty) -> Result<Tensor> {
    let n = ty.shape.elements();
    match ty.dtype {
        DType::I32 => Tensor::from_i32(ty.shape, &(0..n).map(|i| 1 + (i % 77) as i32 % 20).collect::<Vec<_>>()),
        _ => {
            let scattered = |i: usize| 0.25 + (i.wrapping_mul(2_654_435_761) >> 8 & 0xff) as f32 / 512.0;
            Tensor::from_f32(ty.shape, &(0..n).map(scattered).collect::<Vec<_>>())
        }
    }
}

fn computes_nothing() -> Error {
    Error::Device { device: "null".into(), what: "plans and counts but computes nothing; use --device cpu".into() }
}
