//! What the second-level cache still holds: of all that launches touch, what was touched last.

use super::bound::waits;
use super::table::Counted;
use crate::device::{Launch, Lowered, Slot};
use crate::graph::{Graph, Node, Value};
use std::collections::BTreeMap;

/// A thing in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// A value of the graph, under the name of the one that it is a view of.
    Value(usize),
    /// The workspace that all operations share.
    Scratch,
}

/// What a launch reads from device memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) bytes: u64,
    /// Of them those of a second reading.
    pub(super) again: u64,
}

/// A cache that keeps whole things and lets go of what was touched longest ago.
pub(super) struct Residency {
    capacity: u64,
    /// Things with their bytes, the last touched at the end.
    held: Vec<(Place, u64)>,
    views: BTreeMap<usize, usize>,
}

impl Residency {
    /// Holds nothing yet.
    pub(super) fn new(graph: &Graph, capacity: u64) -> Self {
        let mut views = BTreeMap::new();
        for node in graph.nodes().iter().filter(|node| node.op.is_view()) {
            if let (Some(Some(of)), Some(view)) = (node.inputs.first(), node.outputs.first()) {
                let of = views.get(&of.index()).copied().unwrap_or(of.index());
                views.insert(view.index(), of);
            }
        }
        Self { capacity, held: Vec::new(), views }
    }

    /// Bytes that the launch reads from device memory: of those that it reads at least once, what the cache does not hold, and `again`, which
    /// it reads a second time when the cache has let go of it. Afterwards the cache holds what the launch touched. The workspace was written
    /// right before, so it is there if it fits.
    pub(super) fn read(&mut self, graph: &Graph, node: &Node, lowered: &Lowered, launch: &Launch, counted: &Counted) -> Read {
        let touched = self.touched(graph, node, lowered, launch);
        // blocks that wait begin with a second reading when all others have done the first; what they write meanwhile has the part of
        // the cache that is not counted on
        let again =
            if waits(launch) && counted.loaded > self.capacity { (counted.load_sectors * 32).saturating_sub(counted.loaded) } else { 0 };
        let is_read = |place: &Place| node.inputs.iter().flatten().any(|v| self.place(*v) == *place);
        let held = |place: &Place| self.held.iter().any(|(held, _)| held == place);
        let hit: u64 = touched.iter().filter(|(place, _)| is_read(place) && held(place)).map(|(_, bytes)| *bytes).sum();
        let workspace = if lowered.scratch > self.capacity { counted.loaded_workspace } else { 0 };
        self.held.retain(|(place, _)| !touched.contains_key(place));
        self.held.extend(touched);
        let mut over = self.held.iter().map(|(_, bytes)| bytes).sum::<u64>().saturating_sub(self.capacity);
        while over > 0 && !self.held.is_empty() {
            over = over.saturating_sub(self.held.remove(0).1);
        }
        Read { bytes: (counted.loaded - counted.loaded_workspace).saturating_sub(hit) + workspace + again, again }
    }

    fn place(&self, value: Value) -> Place {
        Place::Value(self.views.get(&value.index()).copied().unwrap_or(value.index()))
    }

    fn touched(&self, graph: &Graph, node: &Node, lowered: &Lowered, launch: &Launch) -> BTreeMap<Place, u64> {
        let slots = launch.params.pointers.iter().map(|(_, slot)| *slot);
        let value = |value: Value| (self.place(value), graph.ty(value).bytes() as u64);
        let thing = |slot| match slot {
            Slot::In(i) | Slot::InAt(i, _) => node.inputs.get(i).copied().flatten().map(value),
            Slot::Out(i) | Slot::OutAt(i, _) => node.outputs.get(i).copied().map(value),
            Slot::Scratch(_) => Some((Place::Scratch, lowered.scratch)),
            _ => None,
        };
        slots.filter_map(thing).collect()
    }
}
