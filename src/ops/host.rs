//! How operations see their inputs and outputs: as types, as f64 arrays, as host slices.

use crate::device::cpu::simd::Elem;
use crate::device::cpu::split::GRAIN;
use crate::device::cpu::{Cpu, PackSpec, Packed};
use crate::{DType, Error, Result, Shape, Tensor, Ty};
use half::bf16;

/// Input types of an operation under [`super::Op::infer`], with checks that name what is wrong.
#[derive(Clone, Copy)]
pub struct Ins<'a> {
    op: &'static str,
    types: &'a [Option<Ty>],
}

impl<'a> Ins<'a> {
    /// Input types of the operation called `op`.
    pub fn new(op: &'static str, types: &'a [Option<Ty>]) -> Self {
        Self { op, types }
    }

    /// Number of inputs, absent ones included.
    pub fn count(&self) -> usize {
        self.types.len()
    }

    /// Type of a required input; it must not be empty.
    pub fn get(&self, index: usize, name: &str) -> Result<Ty> {
        let ty = self.opt(index).ok_or_else(|| self.error(format!("input {index} ({name}) is missing")))?;
        self.ensure(ty.shape.elements() > 0, || format!("{name} is {ty}, which has no elements"))?;
        Ok(ty)
    }

    /// Type of an optional input.
    pub fn opt(&self, index: usize) -> Option<Ty> {
        self.types.get(index).copied().flatten()
    }

    /// Fails with `what` unless `condition` holds.
    pub fn ensure(&self, condition: bool, what: impl FnOnce() -> String) -> Result<()> {
        if condition { Ok(()) } else { Err(self.error(what())) }
    }

    /// For a gradient of `forward` in its one input: `x`, then `dy` of what it makes of x. The output is like x.
    pub(crate) fn gradient_of(&self, forward: &impl super::Op) -> Result<Vec<Ty>> {
        let x = self.float(0, "x")?;
        let y = forward.infer(Ins::new(self.op, &[Some(x)]))?[0];
        let dy = self.float(1, "dy")?;
        self.ensure(dy == y, || format!("dy is {dy}, expected {y}"))?;
        self.at_most(2)?;
        Ok(vec![x])
    }

    /// Fails unless an input, if present, has exactly this shape.
    pub fn shape(&self, index: usize, name: &str, want: impl Into<Shape>) -> Result<()> {
        let want = want.into();
        match self.opt(index) {
            Some(ty) if ty.shape != want => Err(self.error(format!("{name} is {ty}, expected shape {want}"))),
            _ => Ok(()),
        }
    }

    /// Fails unless an input, if present, has this element type.
    pub fn dtype(&self, index: usize, name: &str, want: DType) -> Result<()> {
        match self.opt(index) {
            Some(ty) if ty.dtype != want => Err(self.error(format!("{name} is {ty}, expected {want}"))),
            _ => Ok(()),
        }
    }

    /// Type of a required floating-point input.
    pub fn float(&self, index: usize, name: &str) -> Result<Ty> {
        let ty = self.get(index, name)?;
        self.ensure(ty.dtype.is_float(), || format!("{name} is {ty}, expected floating point"))?;
        Ok(ty)
    }

    /// Type of `x` together with the channels that an optional input holds of the same pixels.
    pub(crate) fn beside(&self, index: usize, x: Ty) -> Result<Ty> {
        if self.opt(index).is_none() {
            return Ok(x);
        }
        let second = self.float(index, "beside")?;
        let fits = second.dtype == x.dtype && second.shape.with_last(1) == x.shape.with_last(1);
        self.ensure(fits, || format!("beside is {second}, which does not stand beside {x}"))?;
        Ok(Ty { dtype: x.dtype, shape: x.shape.with_last(x.shape.last_axis() + second.shape.last_axis()) })
    }

    /// Fails if there are more inputs than the operation knows.
    pub fn at_most(&self, count: usize) -> Result<()> {
        self.ensure(self.types.len() <= count, || format!("takes at most {count} inputs, got {}", self.types.len()))
    }

    /// An error of this operation.
    pub fn error(&self, what: String) -> Error {
        Error::Op { op: self.op, at: String::new(), what }
    }
}

/// An input of the reference path.
#[derive(Clone, Debug)]
pub struct HostArray {
    /// Type it was converted from.
    pub ty: Ty,
    /// Values, row-major.
    pub data: Vec<f64>,
}

impl HostArray {
    /// Extents.
    pub fn shape(&self) -> Shape {
        self.ty.shape
    }
}

impl HostArray {
    /// The rows of this array with those of another one after them.
    pub(crate) fn beside(&self, second: Option<&Self>) -> Self {
        let Some(second) = second else { return self.clone() };
        let [a, b] = [self, second].map(|part| part.shape().last_axis());
        let rows = self.data.chunks_exact(a).zip(second.data.chunks_exact(b));
        let data = rows.flat_map(|(a, b)| a.iter().chain(b)).copied().collect();
        Self { ty: Ty { dtype: self.ty.dtype, shape: self.shape().with_last(a + b) }, data }
    }
}

impl From<&Tensor> for HostArray {
    fn from(tensor: &Tensor) -> Self {
        let data = match tensor.ty().dtype {
            DType::I32 => tensor.to_i32_vec().into_iter().map(f64::from).collect(),
            _ => tensor.to_f32_vec().into_iter().map(f64::from).collect(),
        };
        Self { ty: tensor.ty(), data }
    }
}

/// An input on the CPU device.
#[derive(Clone, Copy)]
pub struct HostIn<'a> {
    /// Element type and shape.
    pub ty: Ty,
    /// Raw bytes, aligned to 4 at least. Empty for a parameter that exists in packed form only.
    pub data: &'a [u8],
    /// The parameter as [`super::Op::packing`] asked for it.
    pub packed: Option<&'a Packed>,
}

/// An output on the CPU device. Its contents are arbitrary until written.
pub struct HostOut<'a> {
    /// Element type and shape.
    pub ty: Ty,
    /// Raw bytes, aligned to 4 at least.
    pub data: &'a mut [u8],
}

/// Inputs and outputs of one node on the CPU device.
pub struct HostIo<'a> {
    /// Inputs in the operation's order.
    pub ins: &'a [Option<HostIn<'a>>],
    /// Outputs in the operation's order.
    pub outs: &'a mut [HostOut<'a>],
    /// Threads and instruction set.
    pub cpu: &'a Cpu,
}

impl<'a> HostIo<'a> {
    /// An input that [`super::Op::infer`] has made sure of.
    pub fn input(&self, index: usize) -> Result<HostIn<'a>> {
        self.opt(index).ok_or_else(|| Error::Graph(format!("input {index} of a node is not bound")))
    }

    /// An optional input.
    pub fn opt(&self, index: usize) -> Option<HostIn<'a>> {
        self.ins.get(index).copied().flatten()
    }

    /// Type of an output.
    pub fn out_ty(&self, index: usize) -> Ty {
        self.outs[index].ty
    }
}

impl<'a> HostIn<'a> {
    /// The values as f32; fails for other element types.
    pub fn f32(&self) -> Result<&'a [f32]> {
        self.check(DType::F32)?;
        Ok(bytemuck::cast_slice(self.data))
    }

    /// The values as bf16; fails for other element types.
    pub fn bf16(&self) -> Result<&'a [bf16]> {
        self.check(DType::Bf16)?;
        Ok(bytemuck::cast_slice(self.data))
    }

    /// The values as i32; fails for other element types.
    pub fn i32(&self) -> Result<&'a [i32]> {
        self.check(DType::I32)?;
        Ok(bytemuck::cast_slice(self.data))
    }

    /// The values as `T`; fails for other element types.
    pub(crate) fn values<T: Elem>(&self) -> Result<&'a [T]> {
        self.check(T::DTYPE)?;
        Ok(bytemuck::cast_slice(self.data))
    }

    fn check(&self, dtype: DType) -> Result<()> {
        if self.ty.dtype == dtype { Ok(()) } else { Err(unsupported(self.ty.dtype)) }
    }
}

impl HostOut<'_> {
    /// The values as `T`; fails for other element types.
    pub(crate) fn values<T: Elem>(&mut self) -> Result<&mut [T]> {
        if self.ty.dtype != T::DTYPE {
            return Err(unsupported(self.ty.dtype));
        }
        Ok(bytemuck::cast_slice_mut(self.data))
    }

    /// The values as f32; fails for other element types.
    pub fn f32(&mut self) -> Result<&mut [f32]> {
        if self.ty.dtype != DType::F32 {
            return Err(unsupported(self.ty.dtype));
        }
        Ok(bytemuck::cast_slice_mut(self.data))
    }

    /// The values as bf16; fails for other element types.
    pub fn bf16(&mut self) -> Result<&mut [bf16]> {
        if self.ty.dtype != DType::Bf16 {
            return Err(unsupported(self.ty.dtype));
        }
        Ok(bytemuck::cast_slice_mut(self.data))
    }
}

/// A weight as the kernels read it: as it was packed at load, or packed now.
pub(crate) enum Weights<'a> {
    Bound(&'a Packed),
    Made(Packed),
}

impl<'a> Weights<'a> {
    /// The weight bound to `input`, packed as `spec` says.
    pub(crate) fn of(cpu: &Cpu, input: HostIn<'a>, spec: PackSpec) -> Result<Self> {
        match input.packed {
            Some(packed) => Ok(Self::Bound(packed)),
            None => Ok(Self::Made(Packed::new(cpu, spec, input.ty.dtype, input.data)?)),
        }
    }
}

impl std::ops::Deref for Weights<'_> {
    type Target = Packed;
    fn deref(&self) -> &Packed {
        match self {
            Self::Bound(packed) => packed,
            Self::Made(packed) => packed,
        }
    }
}

/// The CPU computes in f32 and bf16 storage only.
pub(crate) fn unsupported(dtype: DType) -> Error {
    Error::Device { device: "cpu".into(), what: format!("cannot compute with {dtype} values here; use --dtype f32 or bf16") }
}

/// Runs an operation's reference as its CPU path: for operations on a handful of numbers, where speed is no concern.
pub(crate) fn by_reference<O: super::Op>(op: &O, io: &mut HostIo<'_>) -> Result<()> {
    let ins: Vec<Option<HostArray>> = io.ins.iter().map(|i| i.map(|i| i.to_array())).collect::<Vec<_>>();
    let types: Vec<Ty> = io.outs.iter().map(|o| o.ty).collect();
    for (out, values) in io.outs.iter_mut().zip(op.reference(&ins, &types)?) {
        match out.ty.dtype {
            DType::F32 => out.f32()?.iter_mut().zip(values).for_each(|(o, v)| *o = v as f32),
            DType::Bf16 => out.bf16()?.iter_mut().zip(values).for_each(|(o, v)| *o = bf16::from_f64(v)),
            other => return Err(unsupported(other)),
        }
    }
    Ok(())
}

/// Values of an f32 or bf16 input, one at a time.
pub(crate) enum View<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    I32(&'a [i32]),
}

impl View<'_> {
    /// One value.
    #[inline]
    pub(crate) fn at(&self, index: usize) -> f32 {
        match self {
            Self::F32(values) => values[index],
            Self::Bf16(values) => values[index].to_f32(),
            Self::I32(values) => values[index] as f32,
        }
    }
}

/// Computes each element of the first output from the inputs that are present, on all threads: for operations on which no time is spent.
pub(crate) fn by_each(io: &mut HostIo<'_>, one: impl Fn(&[View<'_>], usize) -> f32 + Sync + Send) -> Result<()> {
    let ins = io.ins.iter().flatten().map(|x| match x.ty.dtype {
        DType::F32 => Ok(View::F32(x.f32()?)),
        DType::Bf16 => Ok(View::Bf16(x.bf16()?)),
        DType::I32 => Ok(View::I32(x.i32()?)),
        other => Err(unsupported(other)),
    });
    let ins: Vec<View<'_>> = ins.collect::<Result<_>>()?;
    let cpu = io.cpu;
    match io.outs[0].ty.dtype {
        DType::F32 => cpu.parallel_blocks(io.outs[0].f32()?, 1, GRAIN, |y, _, start| {
            y.iter_mut().enumerate().for_each(|(i, y)| *y = one(&ins, start + i));
        }),
        DType::Bf16 => cpu.parallel_blocks(io.outs[0].bf16()?, 1, GRAIN, |y, _, start| {
            y.iter_mut().enumerate().for_each(|(i, y)| *y = bf16::from_f32(one(&ins, start + i)));
        }),
        other => return Err(unsupported(other)),
    }
    Ok(())
}

impl HostIn<'_> {
    fn to_array(self) -> HostArray {
        let data = match self.ty.dtype {
            DType::F32 => bytemuck::cast_slice::<u8, f32>(self.data).iter().map(|&x| f64::from(x)).collect(),
            DType::Bf16 => bytemuck::cast_slice::<u8, bf16>(self.data).iter().map(|x| x.to_f64()).collect(),
            DType::F16 => bytemuck::cast_slice::<u8, half::f16>(self.data).iter().map(|x| x.to_f64()).collect(),
            DType::I32 => bytemuck::cast_slice::<u8, i32>(self.data).iter().map(|&x| f64::from(x)).collect(),
        };
        HostArray { ty: self.ty, data }
    }
}
