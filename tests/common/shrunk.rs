//! Small products that run the kernels of large ones: same operation, tile and definitions, extents of little more than one tile.

use dreamid_engine::device::{Arch, KernelKey, Lowered, Target, Tiles};
use dreamid_engine::ops::{AnyOp, Case, CaseInput, Conv2d, Conv2dGrad, LinearGrad, normal, vector};
use dreamid_engine::{DType, Ty};
use std::sync::Arc;

/// A product of a large graph: what computes it, its inputs, and the kernel that it is lowered to.
pub(crate) struct Large<'a> {
    pub(crate) op: &'a AnyOp,
    pub(crate) inputs: &'a [Option<Ty>],
    pub(crate) kernel: &'a KernelKey,
}

/// Extents of a small product. There is a whole tile and a part of one along the rows, two and a part of a third along the columns.
#[derive(Clone, Copy, Debug)]
struct Extents {
    rows: usize,
    columns: usize,
    depth: usize,
}

/// Depths to be tried: more stages than are under way at once, but too short for parts; then what is cut into parts where rows are few.
const DEPTHS: [usize; 5] = [168, 165, 640, 1280, 2560];

impl Large<'_> {
    /// A small case whose launch for `arch` is of the same kernel; none where no depth gives it.
    pub(crate) fn shrunk(&self, arch: Arch) -> Option<(Case, Lowered)> {
        let cases = DEPTHS.into_iter().flat_map(|depth| self.cases(self.extents(depth)));
        cases.filter_map(|case| self.lower(&case, arch).map(|lowered| (case, lowered))).next()
    }

    fn defined(&self, name: &str) -> Option<&str> {
        self.kernel.defines.iter().find(|d| d.0 == name).map(|d| d.1.as_str())
    }

    fn is(&self, name: &str) -> bool {
        self.defined(name) == Some("1")
    }

    /// Rows and columns of a tile; those of the plain product are 64.
    fn tile(&self) -> [usize; 2] {
        ["TILE_M", "TILE_N"].map(|name| self.defined(name).map_or(64, |n| n.parse().unwrap()))
    }

    fn extents(&self, depth: usize) -> Extents {
        let [m, n] = self.tile();
        let n = if self.is("GATED") { n / 2 } else { n };
        Extents { rows: m + m / 2 + 8, columns: 2 * n + if self.is("WIDE") { 8 } else { 3 }, depth }
    }

    /// The launches of a case with the large product's tile, if they are of its kernel.
    fn lower(&self, case: &Case, arch: Arch) -> Option<Lowered> {
        let (types, outs) = super::lowering::types(case);
        let mut target = Target::from(arch);
        let usual = case.op.lower(&types, &outs, &target).ok()?;
        if let Some(product) = usual.product {
            target.tiles = Arc::new(Tiles([(product.name, self.tile().map(|n| n as u32))].into()));
        }
        let lowered = case.op.lower(&types, &outs, &target).ok()?;
        // tiles beside each other, and below where there are more rows than one has
        let [launch] = &lowered.launches[..] else { return None };
        (launch.kernel == *self.kernel && launch.grid[0] > 1).then_some(lowered)
    }

    fn cases(&self, extents: Extents) -> Vec<Case> {
        match self.op {
            AnyOp::Linear(_) => vec![self.linear(extents)],
            AnyOp::LinearGrad(op) => vec![self.linear_grad(op, extents)],
            AnyOp::Conv2d(conv) => self.conv2d(conv, extents),
            AnyOp::Conv2dGrad(op) => vec![self.conv2d_grad(op, extents)],
            _ => vec![],
        }
    }

    fn case(&self, inputs: Vec<Option<CaseInput>>) -> Case {
        self.case_of(self.op.clone(), inputs)
    }

    fn case_of(&self, op: AnyOp, mut inputs: Vec<Option<CaseInput>>) -> Case {
        // what the large one does without
        for (i, input) in inputs.iter_mut().enumerate() {
            *input = input.filter(|_| self.inputs.get(i).is_some_and(Option::is_some));
        }
        Case::new(self.kernel.to_string(), op, inputs)
    }

    fn dtype(&self, input: usize) -> DType {
        self.inputs[input].unwrap().dtype
    }

    /// Sequences of 17 rows, so that parts of the depth can be worth while.
    fn linear(&self, Extents { rows, columns, depth }: Extents) -> Case {
        let (x, w, images) = (self.dtype(0), self.dtype(1), rows.div_ceil(17));
        let outputs = if self.is("GATED") { 2 * columns } else { columns };
        self.case(vec![normal(x, [images, 17, depth]), normal(w, [outputs, depth]), vector(outputs), normal(x, [images, 17, columns])])
    }

    fn linear_grad(&self, op: &LinearGrad, Extents { rows, columns, depth }: Extents) -> Case {
        let (a, b, images) = (self.dtype(0), self.dtype(1), rows.div_ceil(17));
        match op {
            LinearGrad::Sum { .. } => {
                let outputs = if self.is("GATED") { 2 * columns } else { columns };
                self.case(vec![
                    normal(a, [images, 17, depth]),
                    normal(b, [outputs, depth]),
                    vector(outputs),
                    normal(a, [images, 17, columns]),
                ])
            }
            LinearGrad::Input => self.case(vec![normal(a, [images, 17, depth]), normal(b, [depth, columns])]),
            LinearGrad::Weight => self.case(vec![normal(a, [depth, rows]), normal(b, [depth, columns])]),
        }
    }

    /// With the kernel as it is, and for patches also with one of half the size, whose depth is less.
    fn conv2d(&self, conv: &Conv2d, extents: Extents) -> Vec<Case> {
        let w = self.inputs[1].unwrap().shape;
        let patches = w[1] == conv.stride && w[1] > 2;
        let halves = if patches { vec![1, 2] } else { vec![1] };
        let cases = halves.into_iter().map(|half| {
            let (kernel, conv) =
                ([w[1] / half, w[2] / half], Conv2d { stride: if patches { conv.stride / half } else { conv.stride }, ..conv.clone() });
            let channels = few_or(w[3], multiple_of_8(extents.depth / (kernel[0] * kernel[1])));
            self.convolution(&conv, kernel, channels, extents)
        });
        cases.collect()
    }

    fn convolution(&self, conv: &Conv2d, kernel: [usize; 2], channels: usize, Extents { rows, columns, .. }: Extents) -> Case {
        let (x, w, op, out, image) = self.images(conv, kernel);
        let images = rows.div_ceil(out[0] * out[1]);
        let each = [images, out[0], out[1], columns];
        // in two parts: the seam is no multiple of a stage
        let beside = if self.inputs.len() > 6 { multiple_of_8(channels / 3) } else { 0 };
        let picture = |channels| normal(x, [images, image[0], image[1], channels]);
        let weight = normal(w, [columns, kernel[0], kernel[1], channels]);
        let rest = [vector(columns), normal(x, [images, columns]), normal(x, each), vector(columns)];
        let inputs = [vec![picture(channels - beside), weight], rest.into(), vec![picture(beside.max(1))]].concat();
        self.case_of(op.into(), inputs)
    }

    /// Types of both operands, the convolution of a small image, and height and width of its output and its input.
    fn images(&self, conv: &Conv2d, kernel: [usize; 2]) -> (DType, DType, Conv2d, [usize; 2], [usize; 2]) {
        let out = if conv.resize.is_some() { [6, 8] } else { [4, 5] };
        let side = |i: usize| (out[i] - 1) * conv.stride + kernel[i] + conv.stride - 1 - conv.padding[i] - conv.padding[i + 2];
        let patches = conv.padding == [0; 4] && conv.stride == kernel[0];
        let seen = if patches { [out[0] * conv.stride, out[1] * conv.stride] } else { [side(0), side(1)] };
        let small = Conv2d { resize: conv.resize.map(|_| seen), ..conv.clone() };
        let stored = if conv.resize.is_some() { [seen[0] / 2, seen[1] / 2] } else { seen };
        (self.dtype(0), self.dtype(1), small, out, stored)
    }

    fn conv2d_grad(&self, op: &Conv2dGrad, Extents { rows, columns, depth }: Extents) -> Case {
        let (first, second) = (self.inputs[0].unwrap().shape, self.inputs[1].unwrap().shape);
        match op {
            Conv2dGrad::Input { conv, .. } => {
                let kernel = [second[1], second[2]];
                let (dz, w, conv, out, size) = self.images(conv, kernel);
                let taps = kernel[0].div_ceil(conv.stride) * kernel[1].div_ceil(conv.stride);
                let (outputs, images) = (few_or(first[3], multiple_of_8(depth / taps)), rows.div_ceil(size[0] * size[1]));
                let inputs = vec![normal(dz, [images, out[0], out[1], outputs]), normal(w, [outputs, kernel[0], kernel[1], columns])];
                self.case_of(Conv2dGrad::Input { conv, size }.into(), inputs)
            }
            &Conv2dGrad::Weight { ref conv, kernel } => {
                let (dz, x, conv, out, image) = self.images(conv, kernel);
                let images = (depth / (out[0] * out[1])).max(1);
                let channels = few_or(second[3], multiple_of_8(columns / (kernel[0] * kernel[1]) + 8));
                let rows = few_or(first[3], rows);
                let inputs = vec![normal(dz, [images, out[0], out[1], rows]), normal(x, [images, image[0], image[1], channels])];
                self.case_of(Conv2dGrad::Weight { conv, kernel }.into(), inputs)
            }
        }
    }
}

/// The channels of the latents and of pictures as they are, of which rows are not aligned; else `channels`.
fn few_or(large: usize, channels: usize) -> usize {
    if large < 8 { large } else { channels }
}

fn multiple_of_8(n: usize) -> usize {
    (n / 8 * 8).max(8)
}
