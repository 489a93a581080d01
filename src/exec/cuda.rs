//! Graphs on an NVIDIA device: lowered to launches once, captured at the first run, replayed from then on.

use super::profile::Profile;
use super::program::{Program, Run, check_finite, lost};
use crate::device::cuda::{Cuda, DeviceMemory, Tape};
use crate::device::{Launch, Slot};
use crate::graph::{Graph, Node, Place, Plan, Value, lower_node};
use crate::weights::Params;
use crate::{Error, Result, Ty};
use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

/// Where scratch memory starts: a multiple of this, in bytes.
const ALIGNMENT: usize = 256;

/// A planned graph on a CUDA device.
pub(super) struct CudaProgram {
    tape: Tape,
    /// The nodes that launch anything, with their launches.
    steps: Vec<(usize, Range<usize>)>,
    memory: DeviceBuffers,
}

impl CudaProgram {
    /// Lowers every node, allocates, and loads the kernels. Fails at the first operation that has none for its types.
    pub(super) fn new(graph: &Graph, plan: &Plan, params: Params, cuda: &Cuda) -> Result<Self> {
        let lowered = graph.nodes().iter().map(|node| lower_node(graph, node, cuda.target())).collect::<Result<Vec<_>>>()?;
        let scratch = lowered.iter().map(|l| l.scratch as usize).max().unwrap_or(0);
        let counters = lowered.iter().map(|l| l.counters() as usize).max().unwrap_or(0);
        let memory = DeviceBuffers::new(graph, plan, params, [scratch, counters], cuda)?;
        let (mut launches, mut steps) = (Vec::new(), Vec::new());
        for (i, (node, lowered)) in graph.nodes().iter().zip(lowered).enumerate() {
            let start = launches.len();
            for launch in lowered.launches {
                let params = memory.filled(graph, plan, node, &launch)?;
                let label = format!("{} at `{}` ({})", node.op.name(), node.scope, launch.kernel);
                launches.push((launch, params, label));
            }
            if launches.len() > start {
                steps.push((i, start..launches.len()));
            }
        }
        Ok(Self { tape: cuda.tape(launches)?, steps, memory })
    }

    /// Node by node, waiting for each.
    fn run_watched(&self, run: &Run<'_>) -> Result<()> {
        self.steps.iter().try_for_each(|(index, launches)| {
            run.go_on()?;
            self.tape.step(launches.clone())?;
            self.check_finite(run, &run.graph.nodes()[*index])
        })
    }

    /// Launch by launch with the clock read between nodes: they follow each other without a wait, as in a replay.
    fn run_profiled(&self, graph: &Graph, profile: &mut Profile) -> Result<()> {
        let groups: Vec<Range<usize>> = self.steps.iter().map(|(_, launches)| launches.clone()).collect();
        for ((index, _), time) in self.steps.iter().zip(self.tape.time_each(&groups)?) {
            profile.add(graph, &graph.nodes()[*index], time);
        }
        Ok(())
    }

    fn check_finite(&self, run: &Run<'_>, node: &Node) -> Result<()> {
        let read = |&value: &Value| {
            let ty: Ty = run.graph.ty(value);
            let mut data = vec![0; ty.bytes()];
            let (memory, offset) = self.memory.locate(run.plan.place(value)).ok_or_else(|| lost(node))?;
            memory.read(offset, &mut data, &node.scope)?;
            Ok((ty.dtype, data))
        };
        let outputs = node.outputs.iter().map(read).collect::<Result<Vec<_>>>()?;
        check_finite(node, outputs.iter().map(|(dtype, data)| (*dtype, data.as_slice())))
    }
}

impl Program for CudaProgram {
    fn write(&mut self, input: Value, bytes: &[u8]) -> Result<()> {
        self.memory.buffer(input)?.write(bytes, "an input")
    }

    fn feed(&mut self, from: Value, to: Value) -> Result<()> {
        let to = self.memory.buffer(to)?;
        to.copy(self.memory.output(from)?, to.bytes(), "an output to an input")
    }

    fn run(&mut self, mut run: Run<'_>) -> Result<()> {
        run.go_on()?;
        match &mut run.profile {
            _ if run.watch => self.run_watched(&run),
            Some(profile) => self.run_profiled(run.graph, profile),
            None => self.tape.replay(),
        }
    }

    fn is_asynchronous(&self) -> bool {
        true
    }

    fn time(&mut self, runs: usize, replayed: bool) -> Result<Option<Duration>> {
        self.tape.time(runs, replayed).map(Some)
    }

    fn read(&self, output: Value, bytes: &mut [u8]) -> Result<()> {
        self.memory.output(output)?.read(0, bytes, "an output")
    }

    fn poison(&mut self) -> Result<()> {
        self.memory.buffers.values().chain([&self.memory.arena]).try_for_each(|memory| memory.fill(0xff))
    }
}

/// All memory of a program: parameters are shared with other executables, the rest is its own.
struct DeviceBuffers {
    params: Params,
    outputs: HashMap<Value, Place>,
    buffers: HashMap<Value, DeviceMemory>,
    /// Temporaries, then the scratch memory that all nodes share one after the other.
    arena: DeviceMemory,
    scratch: usize,
    /// Zero between launches. What ends a launch before its counters are zero again ends the context with all its memory.
    counters: Option<DeviceMemory>,
}

impl DeviceBuffers {
    fn new(graph: &Graph, plan: &Plan, params: Params, [scratch, counters]: [usize; 2], cuda: &Cuda) -> Result<Self> {
        let start = plan.arena_bytes().next_multiple_of(ALIGNMENT);
        let arena = cuda.allocate(start + scratch, "the arena")?;
        let mut buffers = HashMap::new();
        for value in plan.buffers() {
            buffers.insert(value, cuda.allocate(graph.ty(value).bytes(), "an input or output")?);
        }
        let counters = (counters > 0).then(|| cuda.allocate(counters, "counters")).transpose()?;
        counters.iter().try_for_each(|memory| memory.fill(0))?;
        let outputs = graph.outputs().iter().map(|&(_, v)| (v, plan.place(v))).collect();
        Ok(Self { params, outputs, buffers, arena, scratch: start, counters })
    }

    /// The parameter bytes of a launch with all addresses in them.
    fn filled(&self, graph: &Graph, plan: &Plan, node: &Node, launch: &Launch) -> Result<Vec<u8>> {
        let mut bytes = launch.params.bytes.clone();
        for &(offset, slot) in &launch.params.pointers {
            let address = self.address(graph, plan, node, slot)?;
            let Some(place) = bytes.get_mut(offset..offset + 8) else { return Err(lost(node)) };
            place.copy_from_slice(&address.to_le_bytes());
        }
        Ok(bytes)
    }

    fn address(&self, graph: &Graph, plan: &Plan, node: &Node, slot: Slot) -> Result<u64> {
        let of = |value: Option<Value>, within: u64| {
            let value = value?;
            let (memory, offset) = self.locate(plan.place(value))?;
            let rest = graph.ty(value).bytes().checked_sub(within as usize)?;
            memory.address(offset + within as usize, rest)
        };
        let input = |i: usize| node.inputs.get(i).copied().flatten();
        let output = |i: usize| node.outputs.get(i).copied();
        let found = match slot {
            Slot::Null => Some(0),
            Slot::In(i) => of(input(i), 0),
            Slot::InAt(i, within) => of(input(i), within),
            Slot::Out(i) => of(output(i), 0),
            Slot::OutAt(i, within) => of(output(i), within),
            Slot::Counters(count) => self.counters.as_ref().and_then(|memory| memory.address(0, 4 * count as usize)),
            Slot::Scratch(within) => self.arena.address(self.scratch + within as usize, 0),
        };
        found.ok_or_else(|| lost(node))
    }

    /// The memory of a place, and the offset in it.
    fn locate(&self, place: Place) -> Option<(&DeviceMemory, usize)> {
        match place {
            Place::Arena(offset) => Some((&self.arena, offset)),
            Place::Input(value) | Place::Output(value) => self.buffers.get(&value).map(|memory| (memory, 0)),
            Place::Param(value) => self.params.get(value, None)?.on_device().map(|memory| (memory, 0)),
            Place::Unused => None,
        }
    }

    fn buffer(&self, input: Value) -> Result<&DeviceMemory> {
        self.buffers.get(&input).ok_or_else(no_buffer)
    }

    fn output(&self, output: Value) -> Result<&DeviceMemory> {
        let place = self.outputs.get(&output).ok_or_else(no_buffer)?;
        self.locate(*place).map(|(memory, _)| memory).ok_or_else(no_buffer)
    }
}

fn no_buffer() -> Error {
    Error::Graph("an input or output has no memory of its own".into())
}
