//! How a group normalisation is cut into blocks: which channels one takes, and whether it takes all pixels of them.

use super::GroupNorm;
use crate::device::{Arch, KernelFile, KernelKey, Launch, Lowered, Slot, kernel_file, kernel_params, kernel_type};
use crate::ops::lowering::{ENOUGH_BLOCKS, count, power_dividing};
use crate::{Result, Ty};

kernel_params! {
    /// Of all entries of `group_norm`: a block takes `chunk` channels, in groups of `width`, and `span` pixels.
    struct GroupNormParams {
        x: ptr, beside: ptr, weight: ptr, bias: ptr, y: ptr, partial: ptr,
        pixels: u32, channels: u32, first: u32, chunk: u32, width: u32, span: u32, slab_bytes: u32, eps: f32,
    }
}
static FILE: KernelFile = kernel_file!("group_norm", [GroupNormParams]);

/// Bytes that memory moves at a time.
const SECTOR: usize = 32;
/// Threads of a block that keeps its slab, and of one that does not.
const SLAB_THREADS: usize = 512;
const SPAN_THREADS: usize = 384;

/// For `x` of all channels, of which `first` are in the first input.
///
/// One launch if all pixels of a block's channels fit into shared memory, else one for the statistics and one that applies them.
pub(super) fn launches(op: &GroupNorm, x: &Ty, first: usize, arch: Arch) -> Result<Lowered> {
    count(x.shape.elements())?;
    let sizes = Sizes::new(op, x, first);
    let slab = divisors(op.groups).filter(|&g| sizes.useful(g) >= 0.8).max_by(|&a, &b| {
        // the widest whole sectors that fit; a chunk that does not fit is worth nothing
        let worth = |g| if sizes.slab(g).shared(&sizes) <= shared_limit(arch) { sizes.useful(g) } else { 0.0 };
        worth(a).total_cmp(&worth(b)).then(b.cmp(&a))
    });
    match slab.map(|g| sizes.slab(g)).filter(|cut| cut.shared(&sizes) <= shared_limit(arch)) {
        Some(cut) => Ok(launch(op, x, &sizes, &cut, "group_norm_slab", cut.shared(&sizes)).into()),
        None => {
            let cut = sizes.spans();
            let apply = launch(op, x, &sizes, &cut, "group_norm_apply", 4 * cut.constants(&sizes));
            Ok(Lowered::new(vec![statistics(op, x, &sizes, &cut), apply], cut.pairs(&sizes)))
        }
    }
}

/// The launch that writes mean and squared distances of each group and span to the start of the workspace.
pub(in crate::ops) fn statistics(op: &GroupNorm, x: &Ty, sizes: &Sizes, cut: &Cut) -> Launch {
    launch(op, x, sizes, cut, "group_norm_statistics", 4 * (cut.constants(sizes) + 2 * cut.sums()))
}

/// Shared memory that a block can ask for: CUDA C++ programming guide, technical specifications per compute capability.
fn shared_limit(arch: Arch) -> usize {
    1024 * match arch.0 {
        90 | 100 | 103 => 227,
        86 | 89 | 120 | 121 => 99,
        _ => 163,
    }
}

pub(in crate::ops) struct Sizes {
    /// First axis.
    pub(in crate::ops) images: usize,
    /// All axes between the first and the last.
    pub(in crate::ops) pixels: usize,
    /// Last axis.
    pub(in crate::ops) channels: usize,
    /// Channels of the first of two inputs; all where there is one.
    first: usize,
    groups: usize,
    /// Channels of a group.
    pub(in crate::ops) width: usize,
    /// Bytes of a value.
    bytes: usize,
}

/// What a block takes, and its threads.
pub(in crate::ops) struct Cut {
    /// Channels.
    pub(in crate::ops) chunk: usize,
    /// Pixels.
    pub(in crate::ops) span: usize,
    /// Channels of a thread.
    pub(in crate::ops) vector: usize,
    /// Threads over channels.
    pub(in crate::ops) lanes: usize,
    /// Threads over pixels.
    pub(in crate::ops) rows: usize,
    /// Bytes of its pixels in shared memory.
    slab: usize,
}

impl Sizes {
    pub(in crate::ops) fn new(op: &GroupNorm, x: &Ty, first: usize) -> Self {
        let (images, channels) = (x.shape[0], x.shape.last_axis());
        let pixels = x.shape.elements() / images / channels;
        Self { images, pixels, channels, first, groups: op.groups, width: channels / op.groups, bytes: x.dtype.size() }
    }

    /// Share of the moved sectors that a row of chunks of `groups` groups needs.
    fn useful(&self, groups: usize) -> f64 {
        if groups == self.groups {
            return 1.0; // whole pixels lie beside each other
        }
        let (row, chunk) = (self.channels * self.bytes, groups * self.width * self.bytes);
        let sectors = |start: usize| (start + chunk - 1) / SECTOR - start / SECTOR + 1;
        let moved: usize = (0..row / chunk).map(|i| sectors(i * chunk)).sum();
        row as f64 / (moved * SECTOR) as f64
    }

    /// A block with `groups` groups and all pixels.
    fn slab(&self, groups: usize) -> Cut {
        let cut = self.cut(groups, self.pixels, SLAB_THREADS);
        Cut { slab: (cut.chunk * self.pixels * self.bytes).next_multiple_of(16), ..cut }
    }

    /// Blocks of whole sectors, at least four where there are as many, and of enough spans to fill the device.
    pub(in crate::ops) fn spans(&self) -> Cut {
        let wide = |g: &usize| self.useful(*g) > 0.99 && g * self.width * self.bytes >= 4 * SECTOR;
        let groups = divisors(self.groups).find(wide).unwrap_or(self.groups);
        let cut = self.cut(groups, self.pixels, SPAN_THREADS);
        let spans = (ENOUGH_BLOCKS * cut.chunk / self.channels / self.images).max(1);
        // whole turns of the threads, and not so short that merging the spans costs more than reading them
        let span = self.pixels.div_ceil(spans).next_multiple_of(cut.rows).max(4 * cut.rows);
        Cut { span: span.min(self.pixels), ..cut }
    }

    fn cut(&self, groups: usize, span: usize, threads: usize) -> Cut {
        let chunk = groups * self.width;
        let vector = power_dividing(self.first, power_dividing(chunk, 16 / self.bytes));
        let (lanes, rows) = block(chunk / vector, span, threads);
        Cut { chunk, span, vector, lanes, rows, slab: 0 }
    }
}

impl Cut {
    /// Floats of a block per channel and per group.
    fn constants(&self, sizes: &Sizes) -> usize {
        4 * self.chunk + 3 * (self.chunk / sizes.width)
    }

    /// Floats that the rows of threads sum in.
    pub(in crate::ops) fn sums(&self) -> usize {
        self.rows * self.chunk
    }

    /// Blocks over pixels, channels and images.
    pub(in crate::ops) fn grid(&self, sizes: &Sizes) -> [u32; 3] {
        [sizes.pixels.div_ceil(self.span), sizes.channels / self.chunk, sizes.images].map(|n| n as u32)
    }

    /// Bytes of two floats for each group and span, a multiple of 256.
    pub(in crate::ops) fn pairs(&self, sizes: &Sizes) -> u64 {
        (8 * sizes.images * sizes.groups * sizes.pixels.div_ceil(self.span)).next_multiple_of(256) as u64
    }

    /// Bytes of shared memory of a block that keeps its slab.
    fn shared(&self, sizes: &Sizes) -> usize {
        self.slab + 4 * (self.constants(sizes) + self.sums())
    }
}

/// Threads over the vectors of a pixel and over `pixels`: whole warps, at most `threads`, none idle if there is a way.
fn block(vectors: usize, pixels: usize, threads: usize) -> (usize, usize) {
    let lanes = vectors.min(threads / 2);
    let whole = |rows: &usize| (lanes * rows).is_multiple_of(32);
    if let Some(rows) = (1..=(threads / lanes).min(pixels.next_multiple_of(32))).rev().find(whole) {
        return (lanes, rows);
    }
    let lanes = lanes.next_multiple_of(32);
    (lanes, (threads / lanes).clamp(1, pixels))
}

fn divisors(n: usize) -> impl Iterator<Item = usize> {
    (1..=n).filter(move |d| n.is_multiple_of(*d))
}

fn launch(op: &GroupNorm, x: &Ty, sizes: &Sizes, cut: &Cut, entry: &'static str, shared: usize) -> Launch {
    let params = GroupNormParams {
        x: Slot::In(0),
        beside: if sizes.first < sizes.channels { Slot::In(3) } else { Slot::Null },
        weight: Slot::In(1),
        bias: Slot::In(2),
        y: Slot::Out(0),
        partial: if entry == "group_norm_slab" { Slot::Null } else { Slot::Scratch(0) },
        pixels: sizes.pixels as u32,
        channels: sizes.channels as u32,
        first: sizes.first as u32,
        chunk: cut.chunk as u32,
        width: sizes.width as u32,
        span: cut.span as u32,
        slab_bytes: cut.slab as u32,
        eps: op.eps,
    };
    Launch {
        kernel: KernelKey::new(&FILE, entry)
            .define("T", kernel_type(x.dtype))
            .define("V", cut.vector)
            .define("SILU", u32::from(op.silu)),
        grid: cut.grid(sizes),
        block: [cut.lanes as u32, cut.rows as u32, 1],
        shared: shared as u32,
        params: params.pack(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    fn lowered(shape: [usize; 3], arch: u32) -> Vec<Launch> {
        let op = GroupNorm { groups: 32, eps: 1e-5, silu: true };
        launches(&op, &Ty::new(DType::Bf16, shape), shape[2], Arch(arch)).unwrap().launches
    }

    #[test]
    fn the_unets_lower_levels_take_one_launch_and_the_highest_two() {
        for (pixels, channels) in [(64, 1280), (64, 2560), (256, 1280), (256, 2560), (256, 1920), (1024, 320), (1024, 640), (1024, 960), (1024, 1920)] {
            assert_eq!(lowered([2, pixels, channels], 80).len(), 1, "{pixels} pixels of {channels} channels");
        }
        for channels in [320, 640, 960] {
            assert_eq!(lowered([2, 4096, channels], 80).len(), 2);
        }
        assert_eq!(lowered([1, 512 * 512, 128], 90).len(), 2);
    }

    #[test]
    fn blocks_are_whole_warps_and_cover_everything() {
        for (pixels, channels) in [(1, 64), (63, 320), (64, 1280), (1000, 96), (4096, 320), (4096, 960), (20_000, 224)] {
            for arch in [80, 86, 90] {
                for launch in lowered([2, pixels, channels], arch) {
                    let threads = launch.block[0] * launch.block[1];
                    assert!(threads.is_multiple_of(32) && threads <= 512, "{launch:?}");
                    assert!(launch.shared as usize <= shared_limit(Arch(arch)), "{launch:?}");
                }
            }
        }
    }
}
