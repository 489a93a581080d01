//! f32 vectors of one instruction set behind one trait, so that a kernel is written once.
//!
//! A kernel is a [`Task`]: its `run` is generic over [`Simd`] and inlined into a function that is compiled for the instruction
//! set, which [`dispatch`] picks. Every function of `run` down to the intrinsics has to be `#[inline(always)]`, or it is compiled for
//! the baseline. Closures do not inherit the instruction set: use loops.

use super::Isa;
use half::bf16;

/// Vectors of [`Simd::LANES`] f32 values.
///
/// # Safety
/// All functions need a processor with the instruction set, and pointers valid for the whole vector (no alignment is asked for).
pub(crate) trait Simd: Copy {
    /// A vector.
    type V: Copy;
    /// Values in a vector; 16 at most.
    const LANES: usize;

    /// All lanes equal.
    unsafe fn splat(x: f32) -> Self::V;
    /// Reads `LANES` values.
    unsafe fn load(from: *const f32) -> Self::V;
    /// Writes `LANES` values.
    unsafe fn store(to: *mut f32, v: Self::V);
    /// Reads `LANES` bf16 values.
    unsafe fn load_bf16(from: *const bf16) -> Self::V;
    /// Writes `LANES` values rounded to nearest even.
    unsafe fn store_bf16(to: *mut bf16, v: Self::V);
    /// Reads `2 · LANES` bf16 values: those at even and those at odd places.
    unsafe fn load_pairs(from: *const bf16) -> [Self::V; 2];
    /// a + b
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// a − b
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// a · b
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// a / b
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c, rounded once where the instruction set can
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; b where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; b where either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// yes where x > 0, no elsewhere
    unsafe fn if_positive(x: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// p · 2ⁿ where `shifted` is n + 1.5 · 2²³ and nothing over- or underflows
    unsafe fn scale(p: Self::V, shifted: Self::V) -> Self::V;
    /// Transposes a square of `LANES` rows; strides count values.
    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for row in 0..Self::LANES {
            for column in 0..Self::LANES {
                // SAFETY: as the caller promises.
                unsafe { *to.add(column * to_stride + row) = *from.add(row * from_stride + column) };
            }
        }
    }
}

/// Work that is compiled once for each instruction set.
pub(crate) trait Task {
    /// Result.
    type Out;

    /// The work; must be `#[inline(always)]`.
    ///
    /// # Safety
    /// The processor has the instruction set `S`, and what the task itself asks for.
    unsafe fn run<S: Simd>(self) -> Self::Out;
}

/// Runs a task with the vectors of `isa`.
///
/// # Safety
/// The processor has `isa` (a [`super::Cpu`] has made sure), and what the task itself asks for.
#[inline(always)]
pub(crate) unsafe fn dispatch<T: Task>(isa: Isa, task: T) -> T::Out {
    // SAFETY: passed on to the caller.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => with_avx512(task),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => with_avx2(task),
            _ => with_portable(task),
        }
    }
}

#[inline(never)]
unsafe fn with_portable<T: Task>(task: T) -> T::Out {
    // SAFETY: as the caller promises.
    unsafe { task.run::<super::simd_portable::Portable>() }
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
#[target_feature(enable = "avx2,fma")]
unsafe fn with_avx2<T: Task>(task: T) -> T::Out {
    // SAFETY: as the caller promises.
    unsafe { task.run::<super::simd_avx2::Avx2>() }
}

#[cfg(target_arch = "x86_64")]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn with_avx512<T: Task>(task: T) -> T::Out {
    // SAFETY: as the caller promises.
    unsafe { task.run::<super::simd_avx512::Avx512>() }
}

/// Storage types that vectors are read from and written to.
pub(crate) trait Elem: Copy + Send + Sync + bytemuck::Pod {
    /// The element type.
    const DTYPE: crate::DType;
    /// Reads `S::LANES` values.
    ///
    /// # Safety
    /// As [`Simd::load`].
    unsafe fn load<S: Simd>(from: *const Self) -> S::V;
    /// Writes `S::LANES` values, rounded to nearest even.
    ///
    /// # Safety
    /// As [`Simd::store`].
    unsafe fn store<S: Simd>(to: *mut Self, v: S::V);
    /// The value as f32.
    fn widen(self) -> f32;
}

impl Elem for f32 {
    const DTYPE: crate::DType = crate::DType::F32;
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::V {
        // SAFETY: as the caller promises.
        unsafe { S::load(from) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut Self, v: S::V) {
        // SAFETY: as the caller promises.
        unsafe { S::store(to, v) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Elem for bf16 {
    const DTYPE: crate::DType = crate::DType::Bf16;
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::V {
        // SAFETY: as the caller promises.
        unsafe { S::load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut Self, v: S::V) {
        // SAFETY: as the caller promises.
        unsafe { S::store_bf16(to, v) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

const MAX_LANES: usize = 16;

/// Reads `n` values, `n ≤ LANES`; the other lanes are 0.
///
/// # Safety
/// The processor has `S`; `from` is valid for `n` values.
#[inline(always)]
pub(crate) unsafe fn load_some<S: Simd, T: Elem>(from: *const T, n: usize) -> S::V {
    // SAFETY: as the caller promises; the buffer holds the widest vector.
    unsafe {
        if n == S::LANES {
            return T::load::<S>(from);
        }
        let mut buffer = [T::zeroed(); MAX_LANES];
        std::ptr::copy_nonoverlapping(from, buffer.as_mut_ptr(), n);
        T::load::<S>(buffer.as_ptr())
    }
}

/// Writes the first `n` lanes, `n ≤ LANES`.
///
/// # Safety
/// The processor has `S`; `to` is valid for `n` values.
#[inline(always)]
pub(crate) unsafe fn store_some<S: Simd, T: Elem>(to: *mut T, n: usize, v: S::V) {
    // SAFETY: as the caller promises; the buffer holds the widest vector.
    unsafe {
        if n == S::LANES {
            return T::store::<S>(to, v);
        }
        let mut buffer = [T::zeroed(); MAX_LANES];
        T::store::<S>(buffer.as_mut_ptr(), v);
        std::ptr::copy_nonoverlapping(buffer.as_ptr(), to, n);
    }
}
