//! Which tile of each matrix product is fastest on the device at hand: every one that fits is timed.
//!
//! Tiles change time and nothing else: all of them add in the same order, and parts of the depth are not touched. So results stay the
//! same bits with and without what is found here.

use super::Executable;
use crate::device::cuda::{Cuda, TunedProduct};
use crate::device::{Device, ProductTiles, Tiles};
use crate::graph::{Builder, Graph, Role, Value, lower_node};
use crate::ops::AnyOp;
use crate::weights::Weights;
use crate::{DType, Error, Result, Ty};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How carefully tiles are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Care {
    /// Samples of each tile, taken in turns.
    pub rounds: usize,
    /// Each sample lasts about this long at the least.
    pub sample: Duration,
    /// The same product with other weights, in a row, until the second-level cache cannot hold them: in a network weights come from memory.
    pub cold_weights: bool,
}

impl Care {
    /// For results that are kept.
    pub const FULL: Self = Self { rounds: 11, sample: Duration::from_millis(2), cold_weights: true };
    /// Once each: enough to see that everything runs, for emulated devices.
    pub const ONCE: Self = Self { rounds: 1, sample: Duration::ZERO, cold_weights: false };
}

/// A matrix product of some graph, by itself.
#[derive(Clone, Debug)]
pub struct ProductSite {
    tiles: ProductTiles,
    op: AnyOp,
    /// Types of the inputs, and whether they are weights.
    inputs: Vec<Option<(Ty, bool)>>,
    out: Ty,
    /// Nodes like it in the graphs.
    pub nodes: usize,
}

/// The distinct products of some graphs that can be cut in more than one way, those that occur most often first.
pub fn products(graphs: &[Graph], cuda: &Cuda) -> Result<Vec<ProductSite>> {
    let plain = cuda.with_tiles(Tiles::default());
    let mut sites: BTreeMap<String, ProductSite> = BTreeMap::new();
    for graph in graphs {
        for node in graph.nodes() {
            let Some(tiles) = lower_node(graph, node, plain.target())?.product.filter(|t| t.choices.len() > 1) else { continue };
            let known = |&value: &Value| (graph.ty(value), matches!(graph.info(value).role, Role::Param(_)));
            let new = || ProductSite {
                inputs: node.inputs.iter().map(|v| v.as_ref().map(known)).collect(),
                out: graph.ty(node.outputs[0]),
                op: node.op.clone(),
                nodes: 0,
                tiles: tiles.clone(),
            };
            sites.entry(tiles.name.clone()).or_insert_with(new).nodes += 1;
        }
    }
    let mut sites: Vec<ProductSite> = sites.into_values().collect();
    sites.sort_by_key(|site| std::cmp::Reverse(site.nodes));
    Ok(sites)
}

impl ProductSite {
    /// The product's name, as [`Tiles`] has it.
    pub fn name(&self) -> &str {
        &self.tiles.name
    }

    /// Times every tile that fits, in turns, by the device's own clock.
    pub fn time(&self, cuda: &Cuda, care: Care) -> Result<TunedProduct> {
        let copies = if care.cold_weights { self.copies(cuda) } else { 1 };
        let weights = Weights::random(1);
        let mut tried =
            self.tiles.choices.iter().map(|&shape| Tried::new(self, shape, copies, &weights, cuda)).collect::<Result<Vec<_>>>()?;
        tried.iter_mut().try_for_each(|tile| tile.warm_up(care))?;
        for _ in 0..care.rounds.max(1) {
            tried.iter_mut().try_for_each(Tried::sample)?;
        }
        let microseconds = tried.iter().map(|tile| (tile_name(tile.shape), tile.quartiles(copies))).collect();
        Ok(choose(self.tiles.chosen, &self.tiles.choices, microseconds))
    }

    /// How many weights it takes to fill the second-level cache twice; results and weights together stay below a gigabyte for all tiles.
    fn copies(&self, cuda: &Cuda) -> usize {
        const MOST_BYTES: usize = 1 << 30;
        const MOST: usize = 64;
        let weights: usize = self.inputs.iter().flatten().filter(|(_, weight)| *weight).map(|(ty, _)| ty.bytes()).sum();
        let wanted = if weights > 0 { (2 * cuda.facts().l2_bytes as usize).div_ceil(weights) } else { 1 };
        let room = MOST_BYTES / (weights + self.tiles.choices.len() * self.out.bytes()).max(1);
        wanted.min(room).clamp(1, MOST)
    }

    /// The node alone, `copies` times with weights of their own.
    fn graph(&self, copies: usize) -> Result<Graph> {
        let mut graph = Graph::new();
        let mut b = Builder::new(&mut graph, DType::F32);
        let shared: Vec<Option<Value>> = self
            .inputs
            .iter()
            .enumerate()
            .map(|(i, input)| input.filter(|(_, weight)| !weight).map(|(ty, _)| b.input(&format!("input{i}"), ty.dtype, ty.shape)))
            .collect();
        for copy in 0..copies {
            let mut b = b.scope(copy);
            let weight = |(i, input): (usize, &Option<(Ty, bool)>)| {
                let (ty, _) = input.filter(|(_, weight)| *weight)?;
                Some(b.with_dtype(ty.dtype).param(&format!("input{i}.weight"), ty.shape))
            };
            let weights: Vec<Option<Value>> = self.inputs.iter().enumerate().map(weight).collect();
            let inputs: Vec<Option<Value>> = shared.iter().zip(weights).map(|(input, weight)| input.or(weight)).collect();
            let out = b.op(self.op.clone(), &inputs)?;
            b.output(&format!("{copy}"), out)?;
        }
        Ok(graph)
    }
}

/// One tile under the clock.
struct Tried {
    shape: [u32; 2],
    exe: Executable,
    runs: usize,
    /// Seconds of one run.
    samples: Vec<f64>,
}

impl Tried {
    fn new(site: &ProductSite, shape: [u32; 2], copies: usize, weights: &Weights, cuda: &Cuda) -> Result<Self> {
        let tiles = Tiles([(site.name().to_owned(), shape)].into());
        let device = Device::Cuda(Arc::new(cuda.with_tiles(tiles)));
        let mut exe = Executable::compile(site.graph(copies)?, weights, &device)?;
        exe.write_ordinary_inputs()?;
        Ok(Self { shape, exe, runs: 1, samples: Vec::new() })
    }

    /// Runs until clocks have risen, and finds how many runs make a sample.
    fn warm_up(&mut self, care: Care) -> Result<()> {
        self.exe.run()?;
        while !care.sample.is_zero() {
            let took = self.clock()?;
            if took >= care.sample {
                break;
            }
            self.runs *= 2;
        }
        Ok(())
    }

    fn sample(&mut self) -> Result<()> {
        let seconds = self.clock()?.as_secs_f64() / self.runs as f64;
        self.samples.push(seconds);
        Ok(())
    }

    fn clock(&mut self) -> Result<Duration> {
        const STANDS_STILL: usize = 1 << 20;
        match self.exe.device_time(self.runs, true)? {
            Some(time) if !time.is_zero() => Ok(time),
            _ if self.runs < STANDS_STILL => Ok(Duration::from_nanos(1)),
            _ => Err(Error::input("the device's clock stands still: there is nothing to choose tiles by")),
        }
    }

    /// Of one product in microseconds.
    fn quartiles(&self, copies: usize) -> [f64; 3] {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        [0.25, 0.5, 0.75].map(|share| sorted[((sorted.len() - 1) as f64 * share).round() as usize] * 1e6 / copies as f64)
    }
}

/// `128x64`.
fn tile_name([rows, columns]: [u32; 2]) -> String {
    format!("{rows}x{columns}")
}

/// The tile of the lowest median, if three quarters of its samples are below three quarters of the default's: what chance could have
/// made is not kept.
fn choose(default: [u32; 2], choices: &[[u32; 2]], microseconds: BTreeMap<String, [f64; 3]>) -> TunedProduct {
    let times = |shape: [u32; 2]| microseconds.get(&tile_name(shape)).copied().unwrap_or([f64::INFINITY; 3]);
    let best = choices.iter().copied().min_by(|&a, &b| times(a)[1].total_cmp(&times(b)[1]));
    let chosen = best.filter(|&best| best != default && times(best)[2] < times(default)[0]);
    TunedProduct { default, chosen, microseconds }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(times: [(&str, [f64; 3]); 3]) -> Option<[u32; 2]> {
        let times = times.map(|(name, quartiles)| (name.to_owned(), quartiles)).into();
        choose([64, 64], &[[64, 64], [128, 64], [128, 128]], times).chosen
    }

    #[test]
    fn a_tile_is_chosen_only_where_it_is_faster_by_more_than_noise() {
        let default = ("64x64", [9.8, 10.0, 10.2]);
        assert_eq!(chosen([default, ("128x64", [8.9, 9.0, 9.1]), ("128x128", [9.2, 9.3, 9.4])]), Some([128, 64]));
        assert_eq!(chosen([default, ("128x64", [8.9, 9.5, 9.9]), ("128x128", [12.0; 3])]), None);
        assert_eq!(chosen([default, ("128x64", [11.0; 3]), ("128x128", [12.0; 3])]), None);
    }
}
