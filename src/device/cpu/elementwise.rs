//! Operations that look at one element at a time, with or without parameters for each channel.

use super::Cpu;
use super::math::{activate, derivative};
use super::simd::{Elem, Simd, Task, dispatch, load_some, store_some};
use super::split::{GRAIN, rows_per_task};
use crate::ops::Activation;

/// `y = act(x)`, converted from one storage type to another.
pub(crate) fn map<X: Elem, Y: Elem>(cpu: &Cpu, act: Activation, x: &[X], y: &mut [Y]) {
    cpu.parallel_blocks(y, 1, GRAIN, |y, _, start| {
        // SAFETY: the device has its instruction set; x is as long as y.
        unsafe { dispatch(cpu.isa(), Map { act, x: &x[start..][..y.len()], y }) }
    });
}

/// `y = act(a + b)`.
pub(crate) fn add<A: Elem, B: Elem, Y: Elem>(cpu: &Cpu, act: Activation, a: &[A], b: &[B], y: &mut [Y]) {
    cpu.parallel_blocks(y, 1, GRAIN, |y, _, start| {
        let (a, b) = (&a[start..][..y.len()], &b[start..][..y.len()]);
        // SAFETY: the device has its instruction set; a and b are as long as y.
        unsafe { dispatch(cpu.isa(), Sum { act, a, b, y }) }
    });
}

/// Parameters of [`per_channel`], each as long as a row.
#[derive(Clone, Copy)]
pub(crate) struct Channels<'a> {
    pub(crate) mean: &'a [f32],
    pub(crate) scale: &'a [f32],
    pub(crate) shift: &'a [f32],
    /// For [`Activation::PRelu`].
    pub(crate) slope: Option<&'a [f32]>,
}

/// `y = act((x − mean) · scale + shift)` on the rows of several images, each with its own parameters. The channels of x lie in one array
/// or, those of the first part before those of the second, in several.
pub(crate) fn per_channel<'a, T: Elem>(
    cpu: &Cpu,
    act: Activation,
    parts: &[&[T]],
    images: usize,
    channels: impl Fn(usize) -> Channels<'a> + Sync + Send,
    y: &mut [T],
) {
    let (c, rows) = (channels(0).mean.len(), y.len() / channels(0).mean.len());
    cpu.parallel_blocks(y, images, rows_per_task(c) * c, |y, i, start| {
        let (first, some, mut from) = (i * (rows / images) + start / c, y.len() / c, 0);
        for x in parts {
            let width = x.len() / rows;
            let task = PerChannel { act, x: &x[first * width..][..some * width], width, from, channels: channels(i), y: &mut *y };
            // SAFETY: the device has its instruction set; x and y have as many rows, of `width` values and as many as the parameters,
            // of which `width` follow `from`: the widths of all parts add up to a row of y.
            unsafe { dispatch(cpu.isa(), task) }
            from += width;
        }
    });
}

/// `dx = dy · act′(x)`; slopes are those of the channels, the last axis.
pub(crate) fn activate_grad<T: Elem>(cpu: &Cpu, act: Activation, [x, dy]: [&[T]; 2], slope: Option<&[f32]>, dx: &mut [T]) {
    let c = slope.map_or(GRAIN, <[f32]>::len);
    cpu.parallel_blocks(dx, 1, rows_per_task(c) * c, |dx, _, start| {
        let task = Derivative { act, x: &x[start..][..dx.len()], dy: &dy[start..][..dx.len()], slope, c, dx };
        // SAFETY: the device has its instruction set; x and dy are as long as dx, whole rows of the slopes.
        unsafe { dispatch(cpu.isa(), task) }
    });
}

struct Derivative<'a, T> {
    act: Activation,
    x: &'a [T],
    dy: &'a [T],
    slope: Option<&'a [f32]>,
    c: usize,
    dx: &'a mut [T],
}

impl<T: Elem> Task for Derivative<'_, T> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for ((x, dy), dx) in self.x.chunks(self.c).zip(self.dy.chunks(self.c)).zip(self.dx.chunks_mut(self.c)) {
            for i in (0..dx.len()).step_by(S::LANES) {
                let n = S::LANES.min(dx.len() - i);
                // SAFETY: i + n values in each, and in a row's slopes.
                unsafe {
                    let slope = match self.slope {
                        Some(slope) => load_some::<S, f32>(slope.as_ptr().add(i), n),
                        None => S::splat(0.0),
                    };
                    let factor = derivative::<S>(self.act, load_some::<S, T>(x.as_ptr().add(i), n), slope);
                    store_some::<S, T>(dx.as_mut_ptr().add(i), n, S::mul(load_some::<S, T>(dy.as_ptr().add(i), n), factor));
                }
            }
        }
    }
}

struct Map<'a, X, Y> {
    act: Activation,
    x: &'a [X],
    y: &'a mut [Y],
}

impl<X: Elem, Y: Elem> Task for Map<'_, X, Y> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: as the caller promises.
        unsafe { if self.act == Activation::None { self.each::<S, false>() } else { self.each::<S, true>() } }
    }
}

impl<X: Elem, Y: Elem> Map<'_, X, Y> {
    #[inline(always)]
    unsafe fn each<S: Simd, const ACT: bool>(self) {
        let full = self.y.len() / S::LANES * S::LANES;
        let (x, y) = (self.x.as_ptr(), self.y.as_mut_ptr());
        // SAFETY: all places are inside x and y.
        unsafe {
            let zero = S::splat(0.0);
            for i in (0..full).step_by(S::LANES) {
                Y::store::<S>(y.add(i), finish::<S, ACT>(self.act, X::load::<S>(x.add(i)), zero));
            }
            let rest = self.y.len() - full;
            let v = load_some::<S, X>(x.add(full), rest);
            store_some::<S, Y>(y.add(full), rest, finish::<S, ACT>(self.act, v, zero));
        }
    }
}

struct Sum<'a, A, B, Y> {
    act: Activation,
    a: &'a [A],
    b: &'a [B],
    y: &'a mut [Y],
}

impl<A: Elem, B: Elem, Y: Elem> Task for Sum<'_, A, B, Y> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: as the caller promises.
        unsafe { if self.act == Activation::None { self.each::<S, false>() } else { self.each::<S, true>() } }
    }
}

impl<A: Elem, B: Elem, Y: Elem> Sum<'_, A, B, Y> {
    #[inline(always)]
    unsafe fn each<S: Simd, const ACT: bool>(self) {
        let full = self.y.len() / S::LANES * S::LANES;
        let (a, b, y) = (self.a.as_ptr(), self.b.as_ptr(), self.y.as_mut_ptr());
        // SAFETY: all places are inside a, b and y.
        unsafe {
            let zero = S::splat(0.0);
            for i in (0..full).step_by(S::LANES) {
                let v = S::add(A::load::<S>(a.add(i)), B::load::<S>(b.add(i)));
                Y::store::<S>(y.add(i), finish::<S, ACT>(self.act, v, zero));
            }
            let rest = self.y.len() - full;
            let v = S::add(load_some::<S, A>(a.add(full), rest), load_some::<S, B>(b.add(full), rest));
            store_some::<S, Y>(y.add(full), rest, finish::<S, ACT>(self.act, v, zero));
        }
    }
}

/// Rows of `width` channels, which are those from `from` on of the rows of y.
struct PerChannel<'a, T> {
    act: Activation,
    x: &'a [T],
    width: usize,
    from: usize,
    channels: Channels<'a>,
    y: &'a mut [T],
}

impl<T: Elem> Task for PerChannel<'_, T> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: as the caller promises.
        unsafe { if self.act == Activation::None { self.each::<S, false>() } else { self.each::<S, true>() } }
    }
}

impl<T: Elem> PerChannel<'_, T> {
    #[inline(always)]
    unsafe fn each<S: Simd, const ACT: bool>(self) {
        let (c, from) = (self.channels.mean.len(), self.from);
        let full = self.width / S::LANES * S::LANES;
        for (x, y) in self.x.chunks_exact(self.width).zip(self.y.chunks_exact_mut(c)) {
            // SAFETY: x holds `width` values, y and the parameters as many after `from`.
            unsafe {
                let (x, y) = (x.as_ptr(), y.as_mut_ptr().add(from));
                for i in (0..full).step_by(S::LANES) {
                    channel_vector::<S, T, ACT>(self.act, x.add(i), &self.channels, from + i, S::LANES, y.add(i));
                }
                channel_vector::<S, T, ACT>(self.act, x.add(full), &self.channels, from + full, self.width - full, y.add(full));
            }
        }
    }
}

/// `n` channels of one row from channel `at` on.
#[inline(always)]
unsafe fn channel_vector<S: Simd, T: Elem, const ACT: bool>(
    act: Activation,
    x: *const T,
    channels: &Channels<'_>,
    at: usize,
    n: usize,
    y: *mut T,
) {
    // SAFETY: as the caller promises: x and y are valid for n values, the parameters for at + n.
    unsafe {
        if n == 0 {
            return;
        }
        let slope = match channels.slope {
            Some(slope) => load_some::<S, f32>(slope.as_ptr().add(at), n),
            None => S::splat(0.0),
        };
        let centred = S::sub(load_some::<S, T>(x, n), load_some::<S, f32>(channels.mean.as_ptr().add(at), n));
        let scale = load_some::<S, f32>(channels.scale.as_ptr().add(at), n);
        let v = S::fma(centred, scale, load_some::<S, f32>(channels.shift.as_ptr().add(at), n));
        store_some::<S, T>(y, n, finish::<S, ACT>(act, v, slope));
    }
}

/// The activation, or nothing: the most frequent case should not look at each vector what to do.
#[inline(always)]
unsafe fn finish<S: Simd, const ACT: bool>(act: Activation, v: S::V, slope: S::V) -> S::V {
    // SAFETY: as the caller promises.
    unsafe { if ACT { activate::<S>(act, v, slope) } else { v } }
}
