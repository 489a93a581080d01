//! An input in two parts: `x` has the first channels of each pixel, `beside` the others. Operations that read both where they lie need
//! nobody to put them beside each other.
//!
//! Their gradients are computed for all channels at once, and cut afterwards: for each part one copy of its size, and one of x where
//! the gradient reads it. A step without gradients has none of them.

use super::{Concat, ConcatGrad};
use crate::Result;
use crate::graph::{Builder, GradCx, Value};

/// The two parts of x in a backward pass.
pub(crate) struct Parts {
    x: Value,
    /// The second part and the input that it is.
    beside: Option<(usize, Value)>,
}

impl Parts {
    /// Input 0 and, if there is one, input `index`.
    pub(crate) fn of(cx: &GradCx<'_>, index: usize) -> Result<Self> {
        Ok(Self { x: cx.input(0)?, beside: cx.opt(index).map(|value| (index, value)) })
    }

    /// Whether the gradient of any part is asked for.
    pub(crate) fn wanted(&self, cx: &GradCx<'_>) -> bool {
        cx.wants(0) || self.beside.is_some_and(|(index, _)| cx.wants(index))
    }

    /// All channels.
    pub(crate) fn joined(&self, g: &mut Builder<'_>) -> Result<Value> {
        match self.beside {
            Some((_, second)) => g.op(Concat { count: 2 }, &[Some(self.x), Some(second)]),
            None => Ok(self.x),
        }
    }

    /// The gradient of each part from that of all channels.
    pub(crate) fn cut(&self, g: &mut Builder<'_>, cx: &GradCx<'_>, dx: Value) -> Result<[Option<Value>; 2]> {
        let Some((index, second)) = self.beside else { return Ok([Some(dx), None]) };
        let [first, second] = [self.x, second].map(|part| g.shape(part).last_axis());
        Ok([
            cx.when(0, || g.op(ConcatGrad { start: 0, width: first }, &[Some(dx)]))?,
            cx.when(index, || g.op(ConcatGrad { start: first, width: second }, &[Some(dx)]))?,
        ])
    }
}
