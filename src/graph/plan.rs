//! Where every value of a graph lives: one arena for all temporaries, planned before anything runs.
//!
//! A view shares the place of what it views. Inputs and parameters have their own memory, and so has every output; all other
//! values share the arena, each from the node that makes it to the last node that reads it or a view of it. Placement is greedy:
//! the largest value first, at the lowest free offset that fits best; the same graph always gives the same plan.

use super::ir::{Graph, Role, Value};

/// Every value starts at a multiple of this, in bytes: a cache line, and the widest vector.
pub(super) const ALIGNMENT: usize = 64;

/// Where a value lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the buffer of an input: the value that declares it.
    Input(Value),
    /// In the memory of a parameter: the value that declares it.
    Param(Value),
    /// In the buffer of an output: the value that a node makes. Several named outputs may share it.
    Output(Value),
    /// At an offset of the arena, in bytes.
    Arena(usize),
    /// Nowhere: no node reads or makes it.
    Unused,
}

/// The memory plan of one graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    places: Vec<Place>,
    arena: usize,
    temporaries: usize,
    alive: usize,
}

impl Plan {
    /// Plans a graph with as little memory as the greedy placement finds.
    pub fn new(graph: &Graph) -> Self {
        Self::with(graph, true)
    }

    /// Plans a graph so that no two values ever share memory: the oracle that [`Plan::new`] is tested against.
    pub fn without_reuse(graph: &Graph) -> Self {
        Self::with(graph, false)
    }

    /// Place of a value.
    pub fn place(&self, value: Value) -> Place {
        self.places[value.index()]
    }

    /// The values that have a buffer of their own: inputs and outputs.
    pub(crate) fn buffers(&self) -> impl Iterator<Item = Value> {
        self.places.iter().enumerate().filter_map(|(i, place)| match *place {
            Place::Input(base) | Place::Output(base) if base.index() == i => Some(base),
            _ => None,
        })
    }

    /// Size of the arena in bytes.
    pub fn arena_bytes(&self) -> usize {
        self.arena
    }

    /// What the arena would take if no memory were used twice, in bytes.
    pub fn temporary_bytes(&self) -> usize {
        self.temporaries
    }

    /// Puts a value and its views elsewhere: to break a plan on purpose.
    #[cfg(test)]
    pub(super) fn move_to(&mut self, graph: &Graph, value: Value, place: Place) {
        for (i, base) in bases(graph).into_iter().enumerate() {
            if base == value {
                self.places[i] = place;
            }
        }
    }

    /// What is alive at the busiest node, in bytes: no arena can be smaller.
    pub fn least_bytes(&self) -> usize {
        self.alive
    }

    fn with(graph: &Graph, reuse: bool) -> Self {
        let bases = bases(graph);
        let mut spans = spans(graph, &bases);
        let temporaries = spans.iter().map(|s| s.bytes).sum();
        let alive = most_alive(&spans, graph.nodes().len());
        if !reuse {
            spans.iter_mut().for_each(|s| (s.first, s.last) = (0, usize::MAX));
        }
        let (offsets, arena) = place(spans);
        let mut own: Vec<Place> = (0..graph.values().len()).map(|i| own_place(graph, Value(i as u32))).collect();
        for (_, value) in graph.outputs() {
            let base = bases[value.index()];
            if graph.info(base).producer.is_some() {
                own[base.index()] = Place::Output(base);
            }
        }
        for (value, offset) in offsets {
            own[value.index()] = Place::Arena(offset);
        }
        let places = bases.iter().map(|base| own[base.index()]).collect();
        Self { places, arena, temporaries, alive }
    }
}

/// For every value the one whose memory it shares: itself, unless a chain of views leads to it.
fn bases(graph: &Graph) -> Vec<Value> {
    let mut bases: Vec<Value> = (0..graph.values().len()).map(|i| Value(i as u32)).collect();
    for node in graph.nodes().iter().filter(|n| n.op.is_view()) {
        if let Some(Some(input)) = node.inputs.first() {
            node.outputs.iter().for_each(|o| bases[o.index()] = bases[input.index()]);
        }
    }
    bases
}

/// A temporary and the nodes between which its memory must not change.
#[derive(Clone, Copy, Debug)]
struct Span {
    value: Value,
    bytes: usize,
    first: usize,
    last: usize,
}

fn spans(graph: &Graph, bases: &[Value]) -> Vec<Span> {
    let mut last: Vec<Option<usize>> = vec![None; graph.values().len()];
    for (i, node) in graph.nodes().iter().enumerate() {
        for value in node.inputs.iter().flatten().chain(&node.outputs) {
            last[bases[value.index()].index()] = Some(i);
        }
    }
    let mut kept = vec![false; graph.values().len()];
    graph.outputs().iter().for_each(|(_, v)| kept[bases[v.index()].index()] = true);
    let temporary = |(i, info): (usize, &super::ir::ValueInfo)| {
        let value = Value(i as u32);
        if bases[i] != value || kept[i] {
            return None;
        }
        let bytes = info.ty.bytes().next_multiple_of(ALIGNMENT);
        Some(Span { value, bytes, first: info.producer?, last: last[i]? })
    };
    graph.values().iter().enumerate().filter_map(temporary).collect()
}

/// The largest sum of spans that are alive at one node.
fn most_alive(spans: &[Span], nodes: usize) -> usize {
    let mut change = vec![0isize; nodes + 1];
    for span in spans {
        change[span.first] += span.bytes as isize;
        change[span.last + 1] -= span.bytes as isize;
    }
    let sums = change.iter().scan(0, |sum, c| {
        *sum += c;
        Some(*sum)
    });
    sums.max().unwrap_or(0) as usize
}

/// Offsets for all spans, and the end of the highest one.
fn place(mut spans: Vec<Span>) -> (Vec<(Value, usize)>, usize) {
    spans.sort_by_key(|s| (std::cmp::Reverse(s.bytes), s.first, s.value));
    let mut placed: Vec<(usize, Span)> = Vec::with_capacity(spans.len()); // by offset
    let mut arena = 0;
    for span in spans {
        let offset = best_fit(&placed, &span);
        arena = arena.max(offset + span.bytes);
        let at = placed.partition_point(|(o, _)| *o <= offset);
        placed.insert(at, (offset, span));
    }
    (placed.into_iter().map(|(offset, span)| (span.value, offset)).collect(), arena)
}

/// The tightest gap between values that live at the same time, else the end of them.
fn best_fit(placed: &[(usize, Span)], span: &Span) -> usize {
    let mut end = 0;
    let mut best: Option<(usize, usize)> = None; // size of the gap, offset
    for (offset, other) in placed.iter().filter(|(_, o)| o.first <= span.last && span.first <= o.last) {
        if *offset > end {
            let gap = offset - end;
            if gap >= span.bytes && best.is_none_or(|(size, _)| gap < size) {
                best = Some((gap, end));
            }
        }
        end = end.max(offset + other.bytes);
    }
    best.map_or(end, |(_, offset)| offset)
}

fn own_place(graph: &Graph, value: Value) -> Place {
    match graph.info(value).role {
        Role::Input(_) => Place::Input(value),
        Role::Param(_) => Place::Param(value),
        Role::Temporary => Place::Unused,
    }
}
