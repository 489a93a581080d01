//! From the bytes of a file to a tensor in the engine's type and order.

use super::file::TensorInfo;
use crate::device::cpu::Cpu;
use crate::graph::WeightLayout;
use crate::{DType, Error, Result, Shape, Tensor, Ty};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use safetensors::Dtype;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Values handled at once by one task: small enough for the cache, large enough to share out.
const BLOCK: usize = 1 << 16;

/// Where the values of a parameter come from, one part for each stacked tensor.
pub(crate) enum Values<'a> {
    /// Bytes of a file.
    Stored { dtype: Dtype, bytes: &'a [u8] },
    /// A function of the position: fills a block of values that starts at an index.
    Made(&'a (dyn Fn(usize, &mut [f32]) + Sync)),
}

/// A tensor as the file has it: floats in their own type, f64 as f32, integers as i32.
pub(crate) fn tensor_as_stored(name: &str, info: &TensorInfo, bytes: &[u8]) -> Result<Tensor> {
    let shape = Shape::new(&info.shape);
    let copy = |dtype| Tensor::from_bytes(Ty::new(dtype, shape), bytes);
    match info.dtype {
        Dtype::F32 => copy(DType::F32),
        Dtype::F16 => copy(DType::F16),
        Dtype::BF16 => copy(DType::Bf16),
        Dtype::I32 => copy(DType::I32),
        Dtype::F64 => {
            let values: Vec<f32> = words::<8>(bytes).map(|w| f64::from_le_bytes(w) as f32).collect();
            Tensor::from_f32(shape, &values)
        }
        Dtype::I64 => {
            let narrow =
                |w| i32::try_from(i64::from_le_bytes(w)).map_err(|_| Error::input(format!("`{name}` holds integers beyond 32 bits")));
            let values: Vec<i32> = words::<8>(bytes).map(narrow).collect::<Result<_>>()?;
            Tensor::from_i32(shape, &values)
        }
        Dtype::U8 | Dtype::BOOL => {
            let values: Vec<i32> = bytes.iter().map(|&b| i32::from(b)).collect();
            Tensor::from_i32(shape, &values)
        }
        other => Err(Error::input(format!("`{name}` is stored as {other:?}, which this engine does not read"))),
    }
}

/// Whether tensors of these shapes, stacked along the first axis, make a parameter of `shape` in the engine's order.
/// Axes of extent 1 may be there or not: `[512,512,1,1]` and `[512,512]` are one matrix. A convolution as large as its image may be
/// stored as the matrix of a linear layer: `[O,I*kh*kw]`.
pub(crate) fn fits(layout: WeightLayout, shape: Shape, parts: &[&[usize]]) -> bool {
    let want = in_file(layout, shape);
    let squeezed = |extents: &[usize]| extents.iter().copied().filter(|&n| n != 1).collect::<Vec<_>>();
    if let [one] = parts {
        let flat = layout == WeightLayout::Oihw && **one == [want[0], want[1..].iter().product()];
        return flat || squeezed(one) == squeezed(&want);
    }
    let tail = |extents: &[usize]| squeezed(extents.get(1..).unwrap_or_default());
    let first = |extents: &[usize]| extents.first().copied().unwrap_or(1);
    parts.iter().all(|p| tail(p) == tail(&want)) && parts.iter().map(|p| first(p)).sum::<usize>() == first(&want)
}

/// Extents of a parameter as the file has them.
pub(crate) fn in_file(layout: WeightLayout, shape: Shape) -> Vec<usize> {
    match (layout, &*shape) {
        (WeightLayout::Oihw, &[o, kh, kw, i]) => vec![o, i, kh, kw],
        (_, extents) => extents.to_vec(),
    }
}

/// Whether the bytes of a file can be used as they are: right type, right order, aligned to 4.
pub(crate) fn usable_in_place(layout: WeightLayout, ty: Ty, stored: Dtype, bytes: &[u8]) -> bool {
    let same = matches!((stored, ty.dtype), (Dtype::F32, DType::F32) | (Dtype::F16, DType::F16) | (Dtype::BF16, DType::Bf16));
    same && window(layout, ty.shape).is_none() && bytes.as_ptr().addr().is_multiple_of(4)
}

/// Fails, naming the tensor, if a value is not finite.
pub(crate) fn check_finite(cpu: &Cpu, name: &str, dtype: DType, bytes: &[u8]) -> Result<()> {
    let bad = AtomicUsize::new(0);
    let blocks: Vec<&[u8]> = bytes.chunks(BLOCK * dtype.size()).collect();
    cpu.parallel(blocks.len(), |t| {
        bad.fetch_add(not_finite(dtype, blocks[t]), Ordering::Relaxed);
    });
    refuse_non_finite(name, bad.into_inner())
}

fn refuse_non_finite(name: &str, count: usize) -> Result<()> {
    let advice = "the file is damaged or was saved from a broken run; get it again";
    if count == 0 { Ok(()) } else { Err(Error::NonFinite { at: name.to_owned(), count, advice }) }
}

/// Converts stacked tensors to `ty`. Fails, naming the tensor, if a value is not finite.
pub(crate) fn parameter(cpu: &Cpu, names: &[String], layout: WeightLayout, ty: Ty, parts: &[Values<'_>]) -> Result<Tensor> {
    if !ty.dtype.is_float() {
        return Err(Error::Graph(format!("parameter `{}` is declared as {ty}; parameters are floating point", names.join(" + "))));
    }
    let mut out = Tensor::zeros(ty);
    let total = ty.shape.elements();
    let mut rest = out.bytes_mut();
    for (i, part) in parts.iter().enumerate() {
        let elements = match part {
            Values::Stored { dtype, bytes } => bytes.len() / stored_size(*dtype, &names[i])?,
            Values::Made(_) => total / parts.len().max(1),
        };
        let (mine, others) = rest.split_at_mut(elements * ty.dtype.size());
        rest = others;
        refuse_non_finite(&names[i], fill(cpu, window(layout, ty.shape), ty.dtype, part, mine))?;
    }
    Ok(out)
}

/// Bytes of one stored element of a floating-point type.
fn stored_size(dtype: Dtype, name: &str) -> Result<usize> {
    match dtype {
        Dtype::F64 => Ok(8),
        Dtype::F32 => Ok(4),
        Dtype::F16 | Dtype::BF16 => Ok(2),
        other => Err(Error::input(format!("weight `{name}` is stored as {other:?}; this engine reads F64, F32, F16 and BF16 weights"))),
    }
}

/// Inputs and kernel positions of a convolution whose axes have to change places.
fn window(layout: WeightLayout, shape: Shape) -> Option<[usize; 2]> {
    match (layout, &*shape) {
        (WeightLayout::Oihw, &[_, kh, kw, i]) if kh * kw > 1 && i > 1 => Some([i, kh * kw]),
        _ => None,
    }
}

/// Fills `out` with the values in the engine's order; gives the number of values that are not finite.
fn fill(cpu: &Cpu, window: Option<[usize; 2]>, dtype: DType, part: &Values<'_>, out: &mut [u8]) -> usize {
    // a task never splits the window of an output, so that it can be turned in place
    let unit = window.map_or(1, |[i, k]| i * k);
    let block = (BLOCK / unit).max(1) * unit;
    let tasks: Vec<Mutex<(usize, &mut [u8])>> =
        out.chunks_mut(block * dtype.size()).enumerate().map(|(t, chunk)| Mutex::new((t * block, chunk))).collect();
    let bad = AtomicUsize::new(0);
    cpu.parallel(tasks.len(), |t| {
        let mut task = super::lock(&tasks[t]);
        let (start, chunk) = (task.0, &mut *task.1);
        let mut values = vec![0.0; chunk.len() / dtype.size()];
        decode(part, start, &mut values);
        if let Some(window) = window {
            values = turned(&values, window);
        }
        bad.fetch_add(encode(&values, dtype, chunk), Ordering::Relaxed);
    });
    bad.into_inner()
}

fn decode(part: &Values<'_>, start: usize, values: &mut [f32]) {
    let n = values.len();
    match part {
        Values::Made(make) => make(start, values),
        Values::Stored { dtype: Dtype::F32, bytes } => assign(values, words::<4>(&bytes[start * 4..][..n * 4]).map(f32::from_le_bytes)),
        Values::Stored { dtype: Dtype::F64, bytes } => {
            assign(values, words::<8>(&bytes[start * 8..][..n * 8]).map(|w| f64::from_le_bytes(w) as f32))
        }
        Values::Stored { dtype: Dtype::BF16, bytes } => {
            assign(values, words::<2>(&bytes[start * 2..][..n * 2]).map(|w| bf16::from_le_bytes(w).to_f32()));
        }
        Values::Stored { bytes, .. } => {
            let halves: Vec<f16> = words::<2>(&bytes[start * 2..][..n * 2]).map(f16::from_le_bytes).collect();
            halves.convert_to_f32_slice(values);
        }
    }
}

/// Writes the values in `dtype`; gives the number of values that are not finite there (overflow of f16 included).
fn encode(values: &[f32], dtype: DType, out: &mut [u8]) -> usize {
    match dtype {
        DType::F32 => bytemuck::cast_slice_mut(out).copy_from_slice(values),
        DType::F16 => bytemuck::cast_slice_mut::<u8, f16>(out).convert_from_f32_slice(values),
        DType::Bf16 => assign(bytemuck::cast_slice_mut(out), values.iter().map(|&x| to_bf16(x))),
        DType::I32 => assign(bytemuck::cast_slice_mut(out), values.iter().map(|&x| x as i32)),
    }
    not_finite(dtype, out)
}

/// Bits of the nearest bf16, ties to even: without branches, so that the compiler makes vectors of it.
fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    (if x.is_nan() { (bits >> 16) | 0x40 } else { nearest }) as u16
}

/// How many values are NaN or infinite: all bits of the exponent are set.
pub(crate) fn not_finite(dtype: DType, bytes: &[u8]) -> usize {
    let halves = |mask: u16| words::<2>(bytes).filter(|w| u16::from_le_bytes(*w) & mask == mask).count();
    match dtype {
        DType::F32 => words::<4>(bytes).filter(|w| u32::from_le_bytes(*w) & 0x7f80_0000 == 0x7f80_0000).count(),
        DType::F16 => halves(0x7c00),
        DType::Bf16 => halves(0x7f80),
        DType::I32 => 0,
    }
}

/// `[.., I, window]` to `[.., window, I]`.
fn turned(values: &[f32], [inputs, positions]: [usize; 2]) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    for (from, to) in values.chunks_exact(inputs * positions).zip(out.chunks_exact_mut(inputs * positions)) {
        for p in 0..positions {
            for i in 0..inputs {
                to[p * inputs + i] = from[i * positions + p];
            }
        }
    }
    out
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

fn assign<T>(out: &mut [T], values: impl Iterator<Item = T>) {
    out.iter_mut().zip(values).for_each(|(o, v)| *o = v);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_is_rounded_to_nearest_even() {
        let special =
            [0.0, -0.0, f32::NAN, -f32::NAN, f32::INFINITY, f32::MAX, f32::MIN_POSITIVE, f32::from_bits(1), f32::from_bits(0x7f80_0001)];
        let spread = (0..=u32::MAX).step_by(65_521).map(f32::from_bits);
        let ties = (0..0x7f80_u32).step_by(37).map(|high| f32::from_bits(high << 16 | 0x8000));
        for x in special.into_iter().chain(spread).chain(ties) {
            let (got, want) = (bf16::from_bits(to_bf16(x)), bf16::from_f32(x));
            assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{x}: {got} is not {want}");
        }
    }
}
