//! How a group normalisation is cut into blocks: which channels one takes, and how many pixels of them.

use super::GroupNorm;
use crate::device::{KernelFile, KernelKey, Launch, Lowered, Slot, kernel_file, kernel_params, kernel_type};
use crate::ops::lowering::{ENOUGH_BLOCKS, count, power_dividing};
use crate::{Result, Ty};

kernel_params! {
    /// Of all entries of `group_norm`: a block takes `chunk` channels, in groups of `width`, and `span` pixels.
    struct GroupNormParams {
        x: ptr, beside: ptr, weight: ptr, bias: ptr, y: ptr, partial: ptr, counters: ptr,
        pixels: u32, channels: u32, first: u32, chunk: u32, width: u32, span: u32, spans: u32, pitch: u32, slab_bytes: u32, eps: f32,
    }
}
static FILE: KernelFile = kernel_file!("group_norm", [GroupNormParams]);

/// Bytes that memory moves at a time.
const SECTOR: usize = 32;
/// Bytes that a block keeps at most: it reads and computes alone what others could share.
const SLAB: usize = 64 << 10;
/// Threads of a block that keeps its slab, and of one that does not.
const SLAB_THREADS: usize = 512;
const SPAN_THREADS: usize = 384;
/// Images for which there are to be enough blocks: those of a guided step. How pixels are cut, and so the order of sums, must not
/// follow from the batch.
const IMAGES: usize = 2;

/// One launch, for `x` of all channels, of which `first` are in the first input.
pub(super) fn launches(op: &GroupNorm, x: &Ty, first: usize) -> Result<Lowered> {
    count(x.shape.elements())?;
    let sizes = Sizes::new(op, x, first);
    if let Some(cut) = sizes.slab() {
        return Ok(launch(op, x, &sizes, &cut, "group_norm_slab").into());
    }
    let cut = sizes.spans();
    Ok(Lowered::new(vec![launch(op, x, &sizes, &cut, "group_norm_spans")], cut.pairs(&sizes)))
}

/// The launch that writes mean and squared distances of each group and span to the start of the workspace.
pub(in crate::ops) fn statistics(op: &GroupNorm, x: &Ty, sizes: &Sizes, cut: &Cut) -> Launch {
    launch(op, x, sizes, cut, "group_norm_statistics")
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

    /// Whether blocks of `groups` groups take whole sectors.
    fn is_whole(&self, groups: usize) -> bool {
        groups == self.groups || (groups * self.width * self.bytes).is_multiple_of(SECTOR)
    }

    /// A block with all pixels of as few channels as make whole sectors, if it can keep them.
    fn slab(&self) -> Option<Cut> {
        let groups = divisors(self.groups).find(|&g| self.is_whole(g))?;
        let cut = self.cut(groups, self.pixels, SLAB_THREADS);
        let slab = (cut.chunk * self.pixels * self.bytes).next_multiple_of(16);
        (slab <= SLAB).then_some(Cut { slab, ..cut })
    }

    /// Blocks of whole sectors, at least four where there are as many, and of enough spans to fill the device.
    pub(in crate::ops) fn spans(&self) -> Cut {
        let wide = |g: &usize| self.is_whole(*g) && g * self.width * self.bytes >= 4 * SECTOR;
        let groups = divisors(self.groups).find(wide).unwrap_or(self.groups);
        let cut = self.cut(groups, self.pixels, SPAN_THREADS);
        let spans = (ENOUGH_BLOCKS * cut.chunk / self.channels / IMAGES).max(1);
        // whole turns of the threads, and not so short that what a block reads beside its pixels weighs much
        let span = self.pixels.div_ceil(spans).max(64).next_multiple_of(cut.rows).max(4 * cut.rows);
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
    /// Floats that the rows of threads of a gradient sum in.
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

    /// Floats from one row of threads to the next: neighbouring threads use neighbouring banks across rows too.
    fn pitch(&self) -> usize {
        self.chunk + (self.lanes + 32 - self.chunk % 32) % 32
    }

    /// Bytes of shared memory.
    fn shared(&self, sizes: &Sizes) -> usize {
        self.slab + 4 * (4 * self.chunk + 3 * (self.chunk / sizes.width) + 2 * self.rows * self.pitch())
    }
}

/// Threads over the vectors of a pixel and over `pixels`: whole warps, at most `threads`, none idle if there is a way, and no more than
/// finish the pixels in as few turns.
fn block(vectors: usize, pixels: usize, threads: usize) -> (usize, usize) {
    let lanes = vectors.min(threads / 2);
    let whole = |rows: &usize| (lanes * rows).is_multiple_of(32);
    let all = |most: usize| (1..=most).filter(whole);
    if let Some(most) = all((threads / lanes).min(pixels.next_multiple_of(32))).next_back() {
        let turns = pixels.div_ceil(most);
        return (lanes, all(most).find(|rows| pixels.div_ceil(*rows) == turns).unwrap_or(most));
    }
    let lanes = lanes.next_multiple_of(32);
    (lanes, (threads / lanes).clamp(1, pixels))
}

fn divisors(n: usize) -> impl Iterator<Item = usize> {
    (1..=n).filter(move |d| n.is_multiple_of(*d))
}

fn launch(op: &GroupNorm, x: &Ty, sizes: &Sizes, cut: &Cut, entry: &'static str) -> Launch {
    let [spans, chunks, images] = cut.grid(sizes);
    let (parts, together) = (spans * chunks * images, entry == "group_norm_spans");
    let params = GroupNormParams {
        x: Slot::In(0),
        beside: if sizes.first < sizes.channels { Slot::In(3) } else { Slot::Null },
        weight: Slot::In(1),
        bias: Slot::In(2),
        y: Slot::Out(0),
        partial: if cut.slab > 0 { Slot::Null } else { Slot::Scratch(0) },
        // the numbers drawn, and the blocks of each chunk
        counters: if together { Slot::Counters(1 + chunks * images) } else { Slot::Null },
        pixels: sizes.pixels as u32,
        channels: sizes.channels as u32,
        first: sizes.first as u32,
        chunk: cut.chunk as u32,
        width: sizes.width as u32,
        span: cut.span as u32,
        spans,
        pitch: cut.pitch() as u32,
        slab_bytes: cut.slab as u32,
        eps: op.eps,
    };
    Launch {
        kernel: KernelKey::new(&FILE, entry)
            .define("T", kernel_type(x.dtype))
            .define("V", cut.vector)
            .define("SILU", u32::from(op.silu)),
        grid: [if together { 2 * parts } else { parts }, 1, 1],
        block: [cut.lanes as u32, cut.rows as u32, 1],
        shared: cut.shared(sizes) as u32,
        params: params.pack(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    fn lowered(shape: [usize; 3]) -> Lowered {
        let op = GroupNorm { groups: 32, eps: 1e-5, silu: true };
        launches(&op, &Ty::new(DType::Bf16, shape), shape[2]).unwrap()
    }

    #[test]
    fn one_launch_does_it_and_small_images_need_no_workspace() {
        for (pixels, channels, alone) in [(64, 1280, true), (64, 2560, true), (256, 1280, true), (256, 2560, true), (256, 1920, false), (1024, 960, false), (4096, 320, false)] {
            let lowered = lowered([2, pixels, channels]);
            assert_eq!((lowered.launches.len(), lowered.scratch == 0), (1, alone), "{pixels} pixels of {channels} channels");
        }
    }

    #[test]
    fn blocks_are_whole_warps_and_fit_every_device() {
        for (pixels, channels) in [(1, 64), (63, 320), (64, 1280), (1000, 96), (1024, 1920), (4096, 320), (4096, 960), (20_000, 224)] {
            for launch in lowered([2, pixels, channels]).launches {
                let threads = launch.block[0] * launch.block[1];
                assert!(threads.is_multiple_of(32) && threads <= if launch.kernel.entry == "group_norm_slab" { 512 } else { 384 }, "{launch:?}");
                assert!(launch.shared <= 99 << 10, "{launch:?}");
            }
        }
    }

    #[test]
    fn how_pixels_are_cut_does_not_follow_from_the_batch() {
        let op = GroupNorm { groups: 32, eps: 1e-5, silu: true };
        let span = |images| Sizes::new(&op, &Ty::new(DType::Bf16, [images, 4096, 320]), 320).spans().span;
        assert!(span(1) == span(2) && span(2) == span(16) && span(1) < 4096);
    }
}
