//! Shapes and types of values.

use crate::DType;
use std::fmt;
use std::ops::Deref;

/// Largest number of axes of any tensor.
pub const MAX_RANK: usize = 5;

/// Extents of a dense, row-major tensor; the last axis is contiguous.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// A shape of the given extents.
    ///
    /// More than [`MAX_RANK`] axes are folded into the last one, which keeps the number of elements.
    pub fn new(extents: &[usize]) -> Self {
        let mut dims = [1; MAX_RANK];
        let rank = extents.len().min(MAX_RANK);
        dims[..rank].copy_from_slice(&extents[..rank]);
        if extents.len() > MAX_RANK {
            dims[MAX_RANK - 1] = extents[MAX_RANK - 1..].iter().product();
        }
        Self { dims, rank: rank as u8 }
    }

    /// Number of elements; 1 for a scalar.
    pub fn elements(&self) -> usize {
        self.iter().product()
    }

    /// Extent of the last axis; 1 for a scalar.
    pub fn last_axis(&self) -> usize {
        self.last().copied().unwrap_or(1)
    }

    /// Product of all axes but the last: the rows of the tensor seen as a matrix.
    pub fn rows(&self) -> usize {
        self.elements() / self.last_axis().max(1)
    }

    /// The same shape with another last axis.
    pub fn with_last(&self, extent: usize) -> Self {
        let mut shape = *self;
        if shape.rank > 0 {
            shape.dims[shape.rank as usize - 1] = extent;
        }
        shape
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(extents: [usize; N]) -> Self {
        Self::new(&extents)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, extent) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{extent}")?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Element type and shape of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ty {
    /// Element type.
    pub dtype: DType,
    /// Extents.
    pub shape: Shape,
}

impl Ty {
    /// A type from its parts.
    pub fn new(dtype: DType, shape: impl Into<Shape>) -> Self {
        Self { dtype, shape: shape.into() }
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.shape.elements() * self.dtype.size()
    }
}

impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}
