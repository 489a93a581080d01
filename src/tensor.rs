//! Owned tensors on the host: what goes into an executable and comes out of it.

use crate::{DType, Error, Result, Shape, Ty};
use half::{bf16, f16};

/// A dense, row-major tensor in host memory.
#[derive(Clone, PartialEq)]
pub struct Tensor {
    ty: Ty,
    // u32 words keep every element type aligned.
    words: Vec<u32>,
}

impl Tensor {
    /// A tensor of zeros.
    pub fn zeros(ty: Ty) -> Self {
        Self { ty, words: vec![0; ty.bytes().div_ceil(4)] }
    }

    /// A tensor from raw little-endian bytes; fails unless their number fits `ty`.
    pub fn from_bytes(ty: Ty, bytes: &[u8]) -> Result<Self> {
        if bytes.len() != ty.bytes() {
            return Err(Error::input(format!("{ty} needs {} bytes, got {}", ty.bytes(), bytes.len())));
        }
        let mut tensor = Self::zeros(ty);
        tensor.bytes_mut().copy_from_slice(bytes);
        Ok(tensor)
    }

    /// An f32 tensor; fails unless the number of values fits `shape`.
    pub fn from_f32(shape: impl Into<Shape>, values: &[f32]) -> Result<Self> {
        Self::from_bytes(Ty::new(DType::F32, shape), bytemuck::cast_slice(values))
    }

    /// An i32 tensor; fails unless the number of values fits `shape`.
    pub fn from_i32(shape: impl Into<Shape>, values: &[i32]) -> Result<Self> {
        Self::from_bytes(Ty::new(DType::I32, shape), bytemuck::cast_slice(values))
    }

    /// Element type and shape.
    pub fn ty(&self) -> Ty {
        self.ty
    }

    /// Extents.
    pub fn shape(&self) -> Shape {
        self.ty.shape
    }

    /// The raw bytes.
    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.ty.bytes()]
    }

    /// The raw bytes, writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let n = self.ty.bytes();
        &mut bytemuck::cast_slice_mut(&mut self.words)[..n]
    }

    /// All values as f32, converted from whatever the storage is.
    pub fn to_f32_vec(&self) -> Vec<f32> {
        let bytes = self.bytes();
        match self.ty.dtype {
            DType::F32 => bytemuck::cast_slice::<u8, f32>(bytes).to_vec(),
            DType::F16 => bytemuck::cast_slice::<u8, f16>(bytes).iter().map(|x| x.to_f32()).collect(),
            DType::Bf16 => bytemuck::cast_slice::<u8, bf16>(bytes).iter().map(|x| x.to_f32()).collect(),
            DType::I32 => bytemuck::cast_slice::<u8, i32>(bytes).iter().map(|&x| x as f32).collect(),
        }
    }

    /// All values as i32; floats are rounded towards zero.
    pub fn to_i32_vec(&self) -> Vec<i32> {
        match self.ty.dtype {
            DType::I32 => bytemuck::cast_slice::<u8, i32>(self.bytes()).to_vec(),
            _ => self.to_f32_vec().into_iter().map(|x| x as i32).collect(),
        }
    }

    /// The same values in another element type, rounded to nearest even.
    pub fn cast(&self, dtype: DType) -> Self {
        if dtype == self.ty.dtype {
            return self.clone();
        }
        let mut out = Self::zeros(Ty { dtype, ..self.ty });
        let values = self.to_f32_vec();
        let bytes = out.bytes_mut();
        match dtype {
            DType::F32 => bytemuck::cast_slice_mut(bytes).copy_from_slice(&values),
            DType::F16 => write_all(bytemuck::cast_slice_mut(bytes), &values, f16::from_f32),
            DType::Bf16 => write_all(bytemuck::cast_slice_mut(bytes), &values, bf16::from_f32),
            DType::I32 => write_all(bytemuck::cast_slice_mut(bytes), &values, |x| x as i32),
        }
        out
    }

    /// The same elements under another shape of the same size.
    pub fn reshape(mut self, shape: impl Into<Shape>) -> Result<Self> {
        let shape = shape.into();
        if shape.elements() != self.ty.shape.elements() {
            return Err(Error::input(format!("cannot view {} as {shape}", self.ty)));
        }
        self.ty.shape = shape;
        Ok(self)
    }

    /// `[B,C,H,W]` to `[B,H,W,C]`.
    pub fn nchw_to_nhwc(&self) -> Result<Self> {
        let &[b, c, h, w] = &*self.ty.shape else {
            return Err(Error::input(format!("expected [B,C,H,W], got {}", self.ty)));
        };
        Ok(self.permuted([b, h, w, c], |out, i| {
            let (ci, rest) = (out % c, out / c);
            let (pixel, bi) = (rest % (h * w), rest / (h * w));
            *i = (bi * c + ci) * h * w + pixel;
        }))
    }

    /// `[B,H,W,C]` to `[B,C,H,W]`.
    pub fn nhwc_to_nchw(&self) -> Result<Self> {
        let &[b, h, w, c] = &*self.ty.shape else {
            return Err(Error::input(format!("expected [B,H,W,C], got {}", self.ty)));
        };
        Ok(self.permuted([b, c, h, w], |out, i| {
            let (pixel, rest) = (out % (h * w), out / (h * w));
            let (ci, bi) = (rest % c, rest / c);
            *i = (bi * h * w + pixel) * c + ci;
        }))
    }

    fn permuted<const N: usize>(&self, shape: [usize; N], source: impl Fn(usize, &mut usize)) -> Self {
        let mut out = Self::zeros(Ty::new(self.ty.dtype, shape));
        let size = self.ty.dtype.size();
        let from = self.bytes();
        for (o, chunk) in out.bytes_mut().chunks_exact_mut(size).enumerate() {
            let mut i = 0;
            source(o, &mut i);
            chunk.copy_from_slice(&from[i * size..(i + 1) * size]);
        }
        out
    }
}

fn write_all<T>(out: &mut [T], values: &[f32], convert: impl Fn(f32) -> T) {
    for (o, &x) in out.iter_mut().zip(values) {
        *o = convert(x);
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({})", self.ty)
    }
}
