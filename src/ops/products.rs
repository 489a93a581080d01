//! How matrix products are cut for CUDA: tiles from one table, parts of the depth where there are too few of them.
//!
//! Tiles are chosen by a count of cycles, or by what was measured on the device, and do not change results: every tile adds in the
//! order of the depth. Parts of the depth do, in the last bits; they follow from the shape of one image and the architecture, never from
//! the batch or from measured times, so that an image gives the same bits in any batch and on any device of its kind.

mod chip;

use self::chip::Chip;
use super::lowering::count;
use crate::device::{Arch, KernelFile, KernelKey, Launch, Lowered, Params, ProductTiles, Slot, Target, kernel_params, kernel_type};
use crate::{DType, Result, Ty};

/// A tile of the tensor-core product: rows and columns of a block, its warps, and stages of 32 of the depth in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    rows: usize,
    columns: usize,
    warps: [usize; 2],
    stages: usize,
}

const fn tile(rows: usize, columns: usize, warps: [usize; 2], stages: usize) -> Tile {
    Tile { rows, columns, warps, stages }
}

/// The one table of tiles. The first one serves rows that are not aligned, whose gathering needs many registers. All numbers of channels
/// of the full-size UNet are multiples of 320.
const TILES: [Tile; 8] = [
    tile(64, 64, [2, 2], 4),
    tile(32, 64, [2, 2], 4),
    tile(64, 128, [2, 2], 4),
    tile(128, 64, [2, 1], 3),
    tile(192, 64, [2, 2], 3),
    tile(128, 128, [2, 2], 4),
    tile(64, 160, [2, 2], 4),
    tile(128, 160, [2, 2], 4),
];

/// Rows, columns, depth of a step and threads of the plain product (`fma.cuh`).
const PLAIN: [usize; 4] = [64, 64, 16, 128];
/// Depth of a stage (`gemm.cuh`).
const DEPTH: usize = 32;
/// No part of the depth is shorter than this many steps, nor are there more parts.
const SHORTEST_PART: usize = 4;
const MOST_PARTS: usize = 16;

/// Rows of one image or sequence of `x [.., S, C]`; those of a plain matrix are one each.
pub(crate) fn rows_per_image(x: &Ty) -> usize {
    if x.shape.len() > 2 { x.shape[x.shape.len() - 2] } else { 1 }
}

/// One product: `rows` x `depth` times the transpose of `columns` x `depth`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product {
    pub(crate) rows: usize,
    /// Rows of one image or sequence: what parts of the depth are chosen by.
    pub(crate) rows_per_image: usize,
    pub(crate) classes: Classes,
    /// Columns of the result.
    pub(crate) columns: usize,
    pub(crate) depth: usize,
    /// Each column of the result has a gate, which is a column of the product.
    pub(crate) gated: bool,
    /// Every 8 values along the depth start at a multiple of 16 bytes.
    pub(crate) aligned: bool,
    /// The left operand is contiguous along the rows, and the right one along the columns, not along the depth.
    pub(crate) across: [bool; 2],
    /// Types of both operands; the first is the result's too.
    pub(crate) types: [DType; 2],
}

/// Rows that are several products with tiles of their own, all of at most the product's depth.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Classes {
    pub(crate) count: usize,
    /// Rows of an image, and of those the most that one class has.
    pub(crate) image: usize,
    pub(crate) each: usize,
}

impl Classes {
    pub(crate) const ONE: Self = Self { count: 1, image: 1, each: 1 };
}

/// Where the kernels of a product are written.
pub(crate) struct Entries {
    pub(crate) file: &'static KernelFile,
    pub(crate) tensor: &'static str,
    pub(crate) plain: &'static str,
}

kernel_params! {
    /// What the kernels of every product are told of it (`kernels/include/product.cuh`). `tiles_n` are tiles side by side.
    pub(crate) struct ProductParams {
        partial: ptr, counters: ptr, rows: u32, depth: u32, columns: u32, part_depth: u32, parts: u32, tiles_n: u32,
    }
}

impl ProductParams {
    /// Of a product that is not cut.
    pub(crate) fn whole(product: &Product) -> Result<Self> {
        Ok(Self {
            partial: Slot::Null,
            counters: Slot::Null,
            rows: count(product.rows)?,
            depth: count(product.depth)?,
            columns: count(product.columns)?,
            part_depth: count(product.depth)?,
            parts: 1,
            tiles_n: 1,
        })
    }
}

/// A product in tiles and parts of the depth.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    product: Product,
    /// None: the plain product.
    tile: Option<Tile>,
    /// Tiles along rows and columns.
    blocks: [usize; 2],
    parts: usize,
    part_depth: usize,
    tiles: Option<ProductTiles>,
}

impl Product {
    /// The cut for a device; fails where a kernel cannot count the values.
    pub(crate) fn cut(&self, target: &Target, entries: &Entries) -> Result<Cut> {
        let arch = target.arch;
        let weight_rows = self.columns * if self.gated { 2 } else { 1 };
        for values in [self.rows * self.depth, weight_rows * self.depth, self.rows * weight_rows] {
            count(values)?;
        }
        let chip = Chip::of(arch);
        // two images: both halves of the guidance
        let parts = self.tiles(arch).flat_map(|t| (1..=self.most_parts()).map(move |parts| (t, parts)));
        let (_, parts) = cheapest(parts, |&(t, parts)| chip.cycles(self, 2 * self.rows_per_image, t, parts)).unwrap_or((None, 1));
        let name = self.name(entries);
        let measured = target.tiles.0.get(&name).and_then(|&shape| self.tiles(arch).flatten().find(|t| t.shape() == shape));
        let tile = measured.or_else(|| cheapest(self.tiles(arch), |&t| chip.cycles(self, self.rows, t, parts)).flatten());
        let choices = self.tiles(arch).flatten().map(|t| t.shape()).collect();
        let tiles = tile.map(|t| ProductTiles { name, chosen: t.shape(), choices });
        let step = tile.map_or(PLAIN[2], |_| DEPTH);
        let part_depth = self.depth.div_ceil(step).div_ceil(parts) * step;
        let blocks = self.blocks(tile, self.rows);
        Ok(Cut { product: *self, tile, blocks, parts: self.depth.div_ceil(part_depth), part_depth, tiles })
    }

    /// All that the choice of a tile follows from, in words.
    fn name(&self, entries: &Entries) -> String {
        let flags = [("gated", self.gated), ("unaligned", !self.aligned), ("across", self.across != [false; 2])];
        let flags: String = flags.iter().filter(|f| f.1).map(|f| format!(" {}", f.0)).collect();
        let flags = if self.classes.count > 1 { format!("{flags} in {} classes", self.classes.count) } else { flags };
        let Self { rows, rows_per_image, columns, depth, types, .. } = self;
        format!("{} {} {rows}({rows_per_image})x{columns}x{depth}{flags}", entries.file.stem, types[0])
    }

    /// Plain arithmetic makes it: tensor cores want both operands of one 16-bit type.
    pub(crate) fn is_plain(&self) -> bool {
        self.types[0] == DType::F32 || self.types[0] != self.types[1]
    }

    fn tiles(&self, arch: Arch) -> impl Iterator<Item = Option<Tile>> + use<> {
        let (plain, across, gated, few) = (self.is_plain(), self.across, self.gated, if self.aligned { TILES.len() } else { 1 });
        // where blocks can only have 99 KiB, one stage less lets two of the largest run beside each other
        let fit = move |t: Tile| if Chip::of(arch).shared < 128 << 10 && t.columns >= 128 { Tile { stages: 3, ..t } } else { t };
        let table = TILES.into_iter().take(if plain { 0 } else { few });
        let table = table.filter(move |t| t.brings(across) && !(gated && t.warp()[1] % 32 != 0));
        table.map(move |t| Some(fit(t))).chain(plain.then_some(None))
    }

    fn most_parts(&self) -> usize {
        (self.depth.div_ceil(DEPTH) / SHORTEST_PART).clamp(1, MOST_PARTS)
    }

    /// Tiles along rows and columns.
    fn blocks(&self, tile: Option<Tile>, rows: usize) -> [usize; 2] {
        let [m, n] = tile.map_or([PLAIN[0], PLAIN[1]], |t| [t.rows, t.columns]);
        let Classes { count, image, each } = self.classes;
        [count * (rows / image * each).div_ceil(m), self.columns.div_ceil(if self.gated { n / 2 } else { n })]
    }
}

impl Cut {
    /// What the kernel's parameter struct says of the product.
    pub(crate) fn params(&self) -> Result<ProductParams> {
        let split = self.parts > 1;
        Ok(ProductParams {
            partial: if split { Slot::Scratch(0) } else { Slot::Null },
            counters: if split { Slot::Counters(self.tile_count()?) } else { Slot::Null },
            rows: count(self.product.rows)?,
            depth: count(self.product.depth)?,
            columns: count(self.product.columns)?,
            part_depth: count(self.part_depth)?,
            parts: count(self.parts)?,
            tiles_n: count(self.blocks[1])?,
        })
    }

    /// The launch. `special` defines what only this operation's kernels know.
    pub(crate) fn lower(&self, entries: &Entries, params: Params, special: impl FnOnce(KernelKey) -> KernelKey) -> Result<Lowered> {
        let [t, w] = self.product.types.map(kernel_type);
        let base =
            |entry| KernelKey::new(entries.file, entry).define("T", t).define("WIDE", u8::from(self.product.columns.is_multiple_of(8)));
        let key = match self.tile {
            Some(tile) => tile.define(base(entries.tensor)),
            None => base(entries.plain).define("TX", t).define("TW", w),
        };
        let kernel = special(key.define("ALIGNED", u8::from(self.product.aligned)).define("SPLIT", u8::from(self.parts > 1)));
        let (threads, shared) = self.tile.map_or((PLAIN[3], 0), |t| (t.threads(), t.shared()));
        let (grid, block) = ([self.tile_count()?, 1, self.parts as u32], [threads as u32, 1, 1]);
        let launches = vec![Launch { kernel, grid, block, shared: shared as u32, params }];
        Ok(Lowered { product: self.tiles.clone(), ..Lowered::new(launches, self.scratch()) })
    }

    /// Rows of tiles of one class.
    pub(crate) fn class_tiles(&self) -> Result<u32> {
        count(self.blocks[0] / self.product.classes.count)
    }

    fn tile_count(&self) -> Result<u32> {
        count(self.blocks[0] * self.blocks[1])
    }

    /// Bytes of the sums of all parts.
    fn scratch(&self) -> u64 {
        let tile = self.tile.map_or(PLAIN[0] * PLAIN[1], |t| t.rows * t.columns);
        if self.parts > 1 { (4 * self.parts * self.blocks[0] * self.blocks[1] * tile) as u64 } else { 0 }
    }
}

impl Tile {
    fn shape(&self) -> [u32; 2] {
        [self.rows as u32, self.columns as u32]
    }

    fn threads(&self) -> usize {
        32 * self.warps[0] * self.warps[1]
    }

    /// True when each thread has the same chunk of every row that it brings of the tiles [k][row] and [k][column] that there are, as
    /// `source.cuh` wants it.
    fn brings(&self, across: [bool; 2]) -> bool {
        let fits = |extent: usize| self.threads().is_multiple_of(extent / 8) && (self.threads() / (extent / 8)).is_multiple_of(8);
        (!across[0] || fits(self.rows)) && (!across[1] || fits(self.columns))
    }

    /// Rows and columns of one warp.
    fn warp(&self) -> [usize; 2] {
        [self.rows / self.warps[0], self.columns / self.warps[1]]
    }

    /// Bytes of shared memory: the stages, or two rows of pieces of each warp on their way out.
    fn shared(&self) -> usize {
        let [m, n] = self.warp();
        (self.stages * (self.rows + self.columns) * DEPTH * 2).max(self.threads() / 32 * m.min(32) * n * 4)
    }

    fn define(&self, key: KernelKey) -> KernelKey {
        let key = key.define("TILE_M", self.rows).define("TILE_N", self.columns);
        key.define("WARPS_M", self.warps[0]).define("WARPS_N", self.warps[1]).define("STAGES", self.stages)
    }
}

/// The first of the candidates that cost least.
fn cheapest<T>(candidates: impl Iterator<Item = T>, cost: impl Fn(&T) -> usize) -> Option<T> {
    candidates.min_by_key(cost)
}

#[cfg(test)]
mod tests {
    use super::*;

    static FILE: KernelFile = KernelFile { stem: "linear", text: "", params: &[] };
    const ENTRIES: Entries = Entries { file: &FILE, tensor: "", plain: "" };

    fn product(rows: usize, rows_per_image: usize, columns: usize, depth: usize) -> Product {
        Product {
            rows,
            rows_per_image,
            classes: Classes::ONE,
            columns,
            depth,
            gated: false,
            aligned: true,
            across: [false; 2],
            types: [DType::Bf16; 2],
        }
    }

    #[test]
    fn parts_of_the_depth_do_not_follow_from_the_batch() {
        for (image, columns, depth) in [(64, 1280, 11520), (77, 1280, 1024), (256, 1280, 5760), (4096, 320, 2880), (1, 1280, 320)] {
            let cuts: Vec<Cut> =
                [1, 2, 8].map(|batch| product(batch * image, image, columns, depth).cut(&Arch(80).into(), &ENTRIES).unwrap()).into();
            assert!(cuts.iter().all(|c| (c.parts, c.part_depth) == (cuts[0].parts, cuts[0].part_depth)), "{cuts:?}");
        }
    }

    #[test]
    fn few_tiles_are_cut_along_the_depth_and_many_are_not() {
        let parts = |rows, image, columns, depth| product(rows, image, columns, depth).cut(&Arch(80).into(), &ENTRIES).unwrap().parts;
        assert!(parts(128, 64, 1280, 11520) > 1);
        assert_eq!(parts(8192, 4096, 320, 2880), 1);
        assert_eq!(parts(4, 2, 3, 40), 1);
    }

    #[test]
    fn every_part_has_some_of_the_depth() {
        for depth in [1, 31, 33, 320, 321, 1000, 2880, 11520, 23040] {
            for rows in [1, 64, 154, 1024] {
                let cut = product(rows, rows, 1280, depth).cut(&Arch(90).into(), &ENTRIES).unwrap();
                assert!((cut.parts - 1) * cut.part_depth < depth && cut.parts * cut.part_depth >= depth, "{cut:?}");
            }
        }
    }

    #[test]
    fn stages_fit_every_chip() {
        for (arch, most) in [(80, 163), (86, 99), (89, 99), (90, 227), (100, 227), (120, 99)] {
            for tile in product(128, 64, 1280, 1280).tiles(Arch(arch)).flatten() {
                assert!(tile.shared() <= most << 10, "{tile:?} on sm_{arch}");
            }
        }
    }

    #[test]
    fn what_kernels_cannot_count_is_refused() {
        let error = product(1 << 20, 1 << 20, 4096, 4096).cut(&Arch(80).into(), &ENTRIES).unwrap_err().to_string();
        assert!(error.contains("more than a CUDA kernel counts"), "{error}");
    }
}
