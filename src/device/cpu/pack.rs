//! Weights, repacked once at load into the order in which the kernels read them.
//!
//! A matrix `[n, k]` becomes panels of `nr` rows (outputs of the layer, columns of the product), zero-padded. In a panel, f32 values
//! stand `[k][nr]`; bf16 values stand in pairs `[k/2][nr][2]`: what VDPBF16PS and the tile unit multiply, and easy to widen to f32.
//! A gated layer's panel holds `nr/2` values followed by their `nr/2` gates, so that the two meet in one register tile.

use super::buffer::AlignedBuffer;
use super::{Cpu, blocking};
use crate::{DType, Error, Result};
use bytemuck::Pod;

/// How a parameter is repacked once at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PackSpec {
    /// The weight `[n, k]` of `x · Wᵀ`.
    Linear {
        /// Rows: outputs; of a gated layer, values and gates together.
        n: usize,
        /// Columns: inputs.
        k: usize,
        /// Whether the second half of the rows gates the first.
        gated: bool,
    },
    /// The weight `[outputs, taps, inputs]` of a convolution.
    Conv {
        /// Output channels of all groups.
        outputs: usize,
        /// Height times width of the kernel.
        taps: usize,
        /// Input channels of one group.
        inputs: usize,
        /// Channel groups.
        groups: usize,
    },
    /// The weight `[n, k]` of `x · Wᵀ` turned round, for the gradient `y · W` of x.
    LinearInput {
        /// Rows of the weight: what is summed over.
        n: usize,
        /// Columns of the weight: outputs of this product.
        k: usize,
    },
    /// The weight `[outputs, taps, inputs]` of a convolution turned round, for the gradient of its input: windows of
    /// the output's gradient, mirrored in both directions.
    ConvInput {
        /// Output channels: what is summed over, with the taps.
        outputs: usize,
        /// Height times width of the kernel.
        taps: usize,
        /// Input channels of one group: outputs of this product.
        inputs: usize,
        /// Channel groups.
        groups: usize,
    },
}

impl PackSpec {
    /// Number of values of the parameter.
    pub fn elements(&self) -> usize {
        match *self {
            Self::Linear { n, k, .. } => n * k,
            Self::Conv { outputs, taps, inputs, .. } | Self::ConvInput { outputs, taps, inputs, .. } => outputs * taps * inputs,
            Self::LinearInput { n, k } => n * k,
        }
    }

    /// One input and one output channel in each group: no matrix product at all.
    fn is_depthwise(&self) -> bool {
        matches!(*self, Self::Conv { outputs, inputs: 1, groups, .. } if groups > 1 && outputs == groups)
    }
}

/// A repacked parameter.
#[derive(Debug)]
pub struct Packed {
    pub(super) form: Form,
    pub(super) dtype: DType,
    data: AlignedBuffer,
}

/// What the bytes of a [`Packed`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Panels of a matrix, for each group one after the other.
    Panels(Panels),
    /// f32 `[taps][channels]`.
    Depthwise { taps: usize, channels: usize },
}

/// Extents of a matrix in panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Panels {
    /// Columns of a panel.
    pub(super) nr: usize,
    /// Rows of one group's matrix; gated: values and gates.
    pub(super) n: usize,
    /// Columns of one group's matrix.
    pub(super) k: usize,
    /// `k` with the zeros at its end.
    pub(super) k_padded: usize,
    /// Values and gates interleaved.
    pub(super) gated: bool,
    /// Matrices. Fewer than the convolution's groups where small groups share a block-diagonal matrix.
    pub(super) groups: usize,
}

impl Panels {
    /// Outputs in a panel.
    pub(super) fn width(&self) -> usize {
        if self.gated { self.nr / 2 } else { self.nr }
    }

    /// Outputs of one group.
    pub(super) fn outputs(&self) -> usize {
        if self.gated { self.n / 2 } else { self.n }
    }

    /// Panels of one group.
    pub(super) fn count(&self) -> usize {
        self.outputs().div_ceil(self.width())
    }

    /// Row of the matrix that stands in column `j` of a panel; none for padding.
    fn row(&self, panel: usize, j: usize) -> Option<usize> {
        let width = self.width();
        let output = panel * width + j % width;
        let gate = if j >= width { self.outputs() } else { 0 };
        (output < self.outputs()).then_some(output + gate)
    }
}

impl Packed {
    /// Repacks a parameter of element type `dtype` (f32 or bf16), given as its raw bytes.
    pub fn new(cpu: &Cpu, spec: PackSpec, dtype: DType, bytes: &[u8]) -> Result<Self> {
        if bytes.len() != spec.elements() * dtype.size() {
            let what = format!("{spec:?} of {dtype} needs {} bytes, got {}", spec.elements() * dtype.size(), bytes.len());
            return Err(Error::Graph(what));
        }
        match dtype {
            DType::F32 => Self::pack::<f32>(cpu, spec, dtype, &aligned(bytes)),
            DType::Bf16 => Self::pack::<half::bf16>(cpu, spec, dtype, &aligned(bytes)),
            other => Err(crate::ops::unsupported(other)),
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.data.bytes().len()
    }

    fn pack<T: Packable>(cpu: &Cpu, spec: PackSpec, dtype: DType, values: &[T]) -> Result<Self> {
        if let (true, PackSpec::Conv { outputs, taps, .. }) = (spec.is_depthwise(), spec) {
            let mut data = AlignedBuffer::zeroed(outputs * taps * 4)?;
            let packed: &mut [f32] = bytemuck::cast_slice_mut(data.bytes_mut());
            for (i, value) in values.iter().enumerate() {
                packed[i % taps * outputs + i / taps] = value.widen();
            }
            return Ok(Self { form: Form::Depthwise { taps, channels: outputs }, dtype, data });
        }
        let nr = blocking::panel_width(cpu, dtype);
        let matrix = Matrix::new(spec, nr, values);
        let panels = matrix.panels(nr, blocking::k_multiple(cpu, dtype));
        let panel_len = panels.nr * panels.k_padded;
        let mut data = AlignedBuffer::zeroed(panels.groups * panels.count() * panel_len * size_of::<T>())?;
        let out = Shared(bytemuck::cast_slice_mut::<u8, T>(data.bytes_mut()).as_mut_ptr());
        cpu.parallel(panels.groups * panels.count(), |task| {
            // SAFETY: each task has its own panel of the buffer.
            let panel = unsafe { std::slice::from_raw_parts_mut(out.at(task * panel_len), panel_len) };
            matrix.write_panel(&panels, task / panels.count(), task % panels.count(), panel);
        });
        Ok(Self { form: Form::Panels(panels), dtype, data })
    }

    /// First byte of the packed values.
    pub(super) fn as_ptr(&self) -> *const u8 {
        self.data.bytes().as_ptr()
    }
}

/// The bytes as values; copied only if they are not aligned.
fn aligned<T: Pod>(bytes: &[u8]) -> std::borrow::Cow<'_, [T]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(values) => values.into(),
        Err(_) => bytemuck::pod_collect_to_vec(bytes).into(),
    }
}

/// A pointer that tasks write through, each to its own part.
pub(super) struct Shared<T>(pub(super) *mut T);

// SAFETY: the tasks that share it write to disjoint parts.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// # Safety
    /// `offset` is within the allocation.
    pub(super) unsafe fn at(&self, offset: usize) -> *mut T {
        // SAFETY: as the caller promises.
        unsafe { self.0.add(offset) }
    }
}

/// A value that panels are made of.
pub(super) trait Packable: Pod + Send + Sync {
    /// Consecutive k of one column that stand together.
    const PAIR: usize;
    fn widen(self) -> f32;
}

impl Packable for f32 {
    const PAIR: usize = 1;
    fn widen(self) -> f32 {
        self
    }
}

impl Packable for half::bf16 {
    const PAIR: usize = 2;
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// A parameter seen as one matrix for each group.
struct Matrix<'a, T> {
    values: &'a [T],
    n: usize,
    gated: bool,
    taps: usize,
    /// Input channels of one original group.
    inputs: usize,
    /// Matrices, after merging.
    groups: usize,
    /// Original groups on the diagonal of one matrix.
    merged: usize,
    /// Outputs of one group of the layer, if its weight is read turned round: rows are its inputs, columns its mirrored taps and outputs.
    turned: Option<usize>,
}

impl<'a, T: Packable> Matrix<'a, T> {
    fn new(spec: PackSpec, nr: usize, values: &'a [T]) -> Self {
        match spec {
            PackSpec::Linear { n, k, gated } => Self { values, n, gated, taps: 1, inputs: k, groups: 1, merged: 1, turned: None },
            PackSpec::LinearInput { n, k } => {
                Self { values, n: k, gated: false, taps: 1, inputs: n, groups: 1, merged: 1, turned: Some(n) }
            }
            PackSpec::ConvInput { outputs, taps, inputs, groups } => {
                let outputs = outputs / groups;
                Self { values, n: inputs, gated: false, taps, inputs: outputs, groups, merged: 1, turned: Some(outputs) }
            }
            PackSpec::Conv { outputs, taps, inputs, groups } => {
                let merged = merged_groups(groups, outputs / groups, nr);
                let groups = groups / merged;
                Self { values, n: outputs / groups, gated: false, taps, inputs, groups, merged, turned: None }
            }
        }
    }

    fn panels(&self, nr: usize, k_multiple: usize) -> Panels {
        let k = self.taps * self.inputs * self.merged;
        Panels { nr, n: self.n, k, k_padded: k.next_multiple_of(k_multiple), gated: self.gated, groups: self.groups }
    }

    fn write_panel(&self, panels: &Panels, group: usize, panel: usize, out: &mut [T]) {
        // A few k of all rows at a time keeps the scattered writes in the first cache level.
        const STEP: usize = 64;
        let columns: Vec<(usize, usize)> = (0..panels.nr).filter_map(|j| Some((j, panels.row(panel, j)?))).collect();
        for k0 in (0..panels.k).step_by(STEP) {
            for &(j, row) in &columns {
                for k in k0..(k0 + STEP).min(panels.k) {
                    let (step, part) = (k / T::PAIR, k % T::PAIR);
                    out[(step * panels.nr + j) * T::PAIR + part] = self.get(group, row, k);
                }
            }
        }
    }

    #[inline]
    fn get(&self, group: usize, row: usize, k: usize) -> T {
        if let Some(outputs) = self.turned {
            let (tap, output) = (self.taps - 1 - k / outputs, group * outputs + k % outputs);
            return self.values[(output * self.taps + tap) * self.n + row];
        }
        let output = group * self.n + row;
        if self.merged == 1 {
            return self.values[output * self.taps * self.inputs + k];
        }
        let channels = self.inputs * self.merged;
        let (tap, channel) = (k / channels, k % channels);
        if channel / self.inputs != row / (self.n / self.merged) {
            return T::zeroed();
        }
        self.values[(output * self.taps + tap) * self.inputs + channel % self.inputs]
    }
}

/// How many groups to put on the diagonal of one matrix, so that it fills a panel: the largest divisor that does.
fn merged_groups(groups: usize, group_outputs: usize, nr: usize) -> usize {
    (1..=groups).rev().find(|m| groups.is_multiple_of(*m) && m * group_outputs <= nr).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::super::Isa;
    use super::*;

    fn cpu() -> Cpu {
        Cpu::with_isa(Some(1), Isa::Portable).unwrap()
    }

    fn panels(packed: &Packed) -> Panels {
        match packed.form {
            Form::Panels(panels) => panels,
            form => panic!("{form:?}"),
        }
    }

    #[test]
    fn panels_hold_every_weight_once() {
        let (n, k) = (11, 5);
        let values: Vec<f32> = (1..=n * k).map(|i| i as f32).collect();
        let spec = PackSpec::Linear { n, k, gated: false };
        let packed = Packed::new(&cpu(), spec, DType::F32, bytemuck::cast_slice(&values)).unwrap();
        let nr = panels(&packed).nr;
        let out: &[f32] = bytemuck::cast_slice(packed.data.bytes());
        for row in 0..n.next_multiple_of(nr) {
            for c in 0..k {
                let want = if row < n { values[row * k + c] } else { 0.0 };
                assert_eq!(out[row / nr * nr * k + c * nr + row % nr], want);
            }
        }
    }

    #[test]
    fn gates_stand_beside_their_values() {
        let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let spec = PackSpec::Linear { n: 12, k: 1, gated: true };
        let packed = Packed::new(&cpu(), spec, DType::F32, bytemuck::cast_slice(&values)).unwrap();
        assert_eq!(panels(&packed).nr, 8);
        let out: &[f32] = bytemuck::cast_slice(packed.data.bytes());
        assert_eq!(out, [0., 1., 2., 3., 6., 7., 8., 9., 4., 5., 0., 0., 10., 11., 0., 0.]);
    }

    #[test]
    fn bf16_stands_in_pairs() {
        let values: Vec<half::bf16> = (0..6).map(|i| half::bf16::from_f32(i as f32)).collect();
        let spec = PackSpec::Linear { n: 2, k: 3, gated: false };
        let packed = Packed::new(&cpu(), spec, DType::Bf16, bytemuck::cast_slice(&values)).unwrap();
        let out: Vec<f32> = bytemuck::cast_slice::<u8, half::bf16>(packed.data.bytes()).iter().map(|v| v.to_f32()).collect();
        assert_eq!(panels(&packed).k_padded, 4);
        assert_eq!(out[..4], [0., 1., 3., 4.]);
        assert_eq!(out[16..20], [2., 0., 5., 0.]);
    }

    #[test]
    fn small_groups_share_a_matrix() {
        let spec = PackSpec::Conv { outputs: 8, taps: 1, inputs: 2, groups: 4 };
        let values: Vec<f32> = (1..=16).map(|i| i as f32).collect();
        let packed = Packed::new(&cpu(), spec, DType::F32, bytemuck::cast_slice(&values)).unwrap();
        let p = panels(&packed);
        assert_eq!((p.groups, p.n, p.k), (1, 8, 8));
        let out: &[f32] = bytemuck::cast_slice(packed.data.bytes());
        // output 3 belongs to group 1, which reads channels 2 and 3
        assert_eq!([out[2 * 8 + 3], out[3 * 8 + 3], out[3], out[8 + 3]], [7., 8., 0., 0.]);
    }

    #[test]
    fn wrong_size_is_refused() {
        let spec = PackSpec::Linear { n: 2, k: 3, gated: false };
        assert!(Packed::new(&cpu(), spec, DType::F32, &[0; 20]).is_err());
    }
}
