//! Graphs on the processor: node by node.

use super::arena::{Arena, Memory};
use super::program::{Program, Run, check_finite, lost};
use crate::device::cpu::{Cpu, PackSpec};
use crate::graph::{Graph, Node, Place, Plan, Value};
use crate::ops::{HostIn, HostIo, HostOut};
use crate::weights::Params;
use crate::{Error, Result, Ty};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// A planned graph on the CPU.
pub(super) struct CpuProgram {
    cpu: Arc<Cpu>,
    params: Params,
    /// Places and types of all outputs.
    outputs: HashMap<Value, (Place, Ty)>,
    buffers: HashMap<Value, Arena>,
    arena: Arena,
}

impl CpuProgram {
    /// Allocates what the plan asks for.
    pub(super) fn new(graph: &Graph, plan: &Plan, params: Params, cpu: Arc<Cpu>) -> Result<Self> {
        let mut buffers = HashMap::new();
        for value in plan.buffers() {
            buffers.insert(value, Arena::new(graph.ty(value).bytes())?);
        }
        let outputs = graph.outputs().iter().map(|&(_, v)| (v, (plan.place(v), graph.ty(v)))).collect();
        Ok(Self { cpu, params, outputs, buffers, arena: Arena::new(plan.arena_bytes())? })
    }

    fn output(&self, output: Value) -> Option<&[u8]> {
        let (place, ty) = self.outputs.get(&output)?;
        match place {
            Place::Input(base) | Place::Output(base) => self.buffers.get(base).map(Arena::bytes),
            Place::Param(base) => self.params.get(*base, None)?.host_in(*ty).map(|p| p.data),
            Place::Arena(_) | Place::Unused => None,
        }
    }
}

impl Program for CpuProgram {
    fn write(&mut self, input: Value, bytes: &[u8]) -> Result<()> {
        let buffer = self.buffers.get_mut(&input).ok_or_else(no_buffer)?;
        buffer.bytes_mut().copy_from_slice(bytes);
        Ok(())
    }

    fn feed(&mut self, from: Value, to: Value) -> Result<()> {
        let bytes = self.output(from).ok_or_else(no_buffer)?.to_vec();
        self.write(to, &bytes)
    }

    fn run(&mut self, mut run: Run<'_>) -> Result<()> {
        let memory = Memory::new(&mut self.arena, &mut self.buffers);
        for node in run.graph.nodes().iter().filter(|n| !n.op.is_view()) {
            run.go_on()?;
            let start = run.profile.is_some().then(Instant::now);
            let step = Step { graph: run.graph, plan: run.plan, params: &self.params, memory: &memory, cpu: &self.cpu, node };
            step.run(run.watch)?;
            if let (Some(profile), Some(start)) = (&mut run.profile, start) {
                profile.add(run.graph, node, start.elapsed());
            }
        }
        Ok(())
    }

    fn is_asynchronous(&self) -> bool {
        false
    }

    fn read(&self, output: Value, bytes: &mut [u8]) -> Result<()> {
        bytes.copy_from_slice(self.output(output).ok_or_else(no_buffer)?);
        Ok(())
    }

    fn poison(&mut self) -> Result<()> {
        self.buffers.values_mut().chain([&mut self.arena]).for_each(|memory| memory.bytes_mut().fill(0xff));
        Ok(())
    }
}

fn no_buffer() -> Error {
    Error::Graph("an input or output has no memory of its own".into())
}

/// One node about to run.
struct Step<'a> {
    graph: &'a Graph,
    plan: &'a Plan,
    params: &'a Params,
    memory: &'a Memory<'a>,
    cpu: &'a Cpu,
    node: &'a Node,
}

impl Step<'_> {
    fn run(&self, watch: bool) -> Result<()> {
        let types: Vec<Option<Ty>> = self.node.inputs.iter().map(|v| v.map(|v| self.graph.ty(v))).collect();
        let input = |(i, v): (usize, &Option<Value>)| v.map(|v| self.input(v, self.node.op.packing(i, &types))).transpose();
        let ins: Vec<Option<HostIn<'_>>> = self.node.inputs.iter().enumerate().map(input).collect::<Result<_>>()?;
        let mut outs: Vec<HostOut<'_>> = self.node.outputs.iter().map(|&v| self.output(v)).collect::<Result<_>>()?;
        let mut io = HostIo { ins: &ins, outs: &mut outs, cpu: self.cpu };
        self.node.op.cpu(&mut io).map_err(|e| e.at(&self.node.scope))?;
        if watch { self.check_finite() } else { Ok(()) }
    }

    fn input(&self, value: Value, pack: Option<PackSpec>) -> Result<HostIn<'_>> {
        let ty = self.graph.ty(value);
        if let Place::Param(base) = self.plan.place(value) {
            // a view's source is bound as it stands in the file, and packed on the way
            let bound = self.params.get(base, pack.filter(|_| base == value));
            return bound.and_then(|b| b.host_in(ty)).ok_or_else(|| lost(self.node));
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
        let outputs = self.node.outputs.iter().filter_map(|&value| {
            let ty = self.graph.ty(value);
            // SAFETY: the node is done; no slice that it wrote through is alive any more.
            unsafe { self.memory.read(self.plan.place(value), ty.bytes()) }.map(|data| (ty.dtype, data))
        });
        check_finite(self.node, outputs)
    }
}
