//! Reverse-mode differentiation: appends to a graph the nodes that compute gradients of one of its values.
//!
//! The walk goes once over the nodes, backwards, and looks only at those that lie between what is asked for and what is differentiated:
//! a frozen network costs gradients of its activations and none of its weights. Each operation says with which nodes its gradients are
//! computed ([`crate::ops::Op::backward`]); a value that is used several times gets the sum of what its uses give, in the order of the walk.
//!
//! Nothing is stored by the forward pass for the backward pass. A gradient node reads the activations that it needs, which keeps them
//! alive until then (the planner sees to it), or computes them again where that is one product against a tensor several times as large.

use super::builder::Builder;
use super::ir::{Graph, Node, Value};
use crate::ops::{Activation, Add, Cast, Scale};
use crate::{DType, Error, Result};
use std::collections::HashMap;

/// Gradients of the inputs of a node, in their order; none where none is wanted.
pub type Grads = Vec<Option<Value>>;

/// One application of an operation that is to be differentiated.
pub struct GradCx<'a> {
    op: &'static str,
    inputs: &'a [Option<Value>],
    outputs: &'a [Value],
    gradients: &'a [Option<Value>],
    wanted: &'a [bool],
}

impl GradCx<'_> {
    /// Number of inputs, absent ones included.
    pub fn inputs(&self) -> usize {
        self.inputs.len()
    }

    /// A required input.
    pub fn input(&self, index: usize) -> Result<Value> {
        self.opt(index).ok_or_else(|| self.error(format!("input {index} is missing")))
    }

    /// An optional input.
    pub fn opt(&self, index: usize) -> Option<Value> {
        self.inputs.get(index).copied().flatten()
    }

    /// The only output.
    pub fn output(&self) -> Result<Value> {
        self.outputs.first().copied().ok_or_else(|| self.error("there is no output".into()))
    }

    /// Gradient of the only output, of its type.
    pub fn gradient(&self) -> Result<Value> {
        self.gradients.first().copied().flatten().ok_or_else(|| self.error("the output has no gradient".into()))
    }

    /// Gradient of one of several outputs, of its type; none if nothing depends on it.
    pub fn gradient_of(&self, output: usize) -> Option<Value> {
        self.gradients.get(output).copied().flatten()
    }

    /// Whether a gradient is wanted of an input.
    pub fn wants(&self, index: usize) -> bool {
        self.wanted.get(index).copied().unwrap_or(false)
    }

    /// What `make` gives if a gradient is wanted of an input.
    pub fn when(&self, index: usize, make: impl FnOnce() -> Result<Value>) -> Result<Option<Value>> {
        if self.wants(index) { make().map(Some) } else { Ok(None) }
    }

    /// Fails if a gradient is wanted of an input that has none; `why` says what it is instead.
    pub fn refuse(&self, index: usize, why: &str) -> Result<()> {
        if self.wants(index) { Err(self.error(format!("input {index} has no gradient: {why}"))) } else { Ok(()) }
    }

    /// An error of this operation.
    pub fn error(&self, what: String) -> Error {
        Error::Op { op: self.op, at: String::new(), what }
    }
}

/// Appends the gradient of `loss`, one f32, with respect to each of `wrt`.
///
/// Gradients of activations have the type of the activation; those of weights are f32. Fails if `loss` is not one f32, if it does not
/// depend on one of `wrt`, or if an operation in between has no gradient: the error names its place.
pub fn grad(graph: &mut Graph, loss: Value, wrt: &[Value]) -> Result<Vec<Value>> {
    let ty = graph.ty(loss);
    if ty.dtype != DType::F32 || ty.shape.elements() != 1 {
        return Err(Error::Graph(format!("a gradient is taken of one f32, not of {ty}; use `grad_from` with the gradient of that value")));
    }
    // one; and NaN where the loss is NaN
    let one = Scale { factor: 0.0, offset: 1.0, ..Scale::by(0.0, DType::F32) };
    let one = graph.node(one, &[Some(loss)], "loss.grad")?[0];
    grad_from(graph, &[(loss, one)], wrt)
}

/// [`grad`] of values with given gradients: pairs of a value and the gradient of the loss with respect to it, of the same type.
pub fn grad_from(graph: &mut Graph, seeds: &[(Value, Value)], wrt: &[Value]) -> Result<Vec<Value>> {
    if let Some((value, gradient)) = seeds.iter().find(|(v, g)| graph.ty(*v) != graph.ty(*g)) {
        return Err(Error::Graph(format!("the gradient of a {} cannot be a {}", graph.ty(*value), graph.ty(*gradient))));
    }
    if let Some(value) = wrt.iter().find(|v| !graph.ty(**v).dtype.is_float()) {
        return Err(Error::Graph(format!("`{}` is {}: integers have no gradient", graph.info(*value).scope, graph.ty(*value))));
    }
    let mut walk = Walk { wanted: depending(graph, wrt), gradients: HashMap::new(), graph };
    let end = walk.graph.nodes().len();
    for &(value, gradient) in seeds {
        walk.add(value, gradient, "loss")?;
    }
    for index in (0..end).rev() {
        walk.step(index)?;
    }
    wrt.iter().map(|v| walk.result(*v)).collect()
}

/// Which values depend on one of `wrt` through floating-point values.
fn depending(graph: &Graph, wrt: &[Value]) -> Vec<bool> {
    let mut wanted = vec![false; graph.values().len()];
    wrt.iter().for_each(|v| wanted[v.index()] = true);
    for node in graph.nodes() {
        if node.inputs.iter().flatten().any(|v| wanted[v.index()]) {
            let floats = node.outputs.iter().filter(|v| graph.ty(**v).dtype.is_float());
            floats.for_each(|v| wanted[v.index()] = true);
        }
    }
    wanted
}

struct Walk<'g> {
    graph: &'g mut Graph,
    wanted: Vec<bool>,
    gradients: HashMap<Value, Value>,
}

impl Walk<'_> {
    /// Differentiates one node, if what it makes has a gradient and what it reads wants one.
    fn step(&mut self, index: usize) -> Result<()> {
        let node = self.graph.nodes()[index].clone();
        let wanted: Vec<bool> = node.inputs.iter().map(|v| v.is_some_and(|v| self.wanted[v.index()])).collect();
        if !wanted.contains(&true) || !node.outputs.iter().any(|v| self.gradients.contains_key(v)) {
            return Ok(());
        }
        let scope = if node.scope.is_empty() { "grad".to_owned() } else { format!("{}.grad", node.scope) };
        let gradients = node.outputs.iter().map(|v| self.typed(*v, &scope)).collect::<Result<Vec<_>>>()?;
        let grads = self.backward(&node, &gradients, &wanted, &scope).map_err(|e| e.at(&node.scope))?;
        for (i, value) in node.inputs.iter().enumerate().filter(|(i, _)| wanted[*i]) {
            let (Some(value), Some(gradient)) = (value, grads.get(i).copied().flatten()) else {
                let what = format!("gives no gradient for its input {i}");
                return Err(Error::Op { op: node.op.name(), at: node.scope, what });
            };
            self.add(*value, gradient, &scope)?;
        }
        Ok(())
    }

    fn backward(&mut self, node: &Node, gradients: &[Option<Value>], wanted: &[bool], scope: &str) -> Result<Grads> {
        let cx = GradCx { op: node.op.name(), inputs: &node.inputs, outputs: &node.outputs, gradients, wanted };
        let mut root = Builder::new(self.graph, DType::F32);
        node.op.backward(&mut root.scope(scope), &cx)
    }

    /// One more part of a value's gradient.
    fn add(&mut self, value: Value, gradient: Value, scope: &str) -> Result<()> {
        let (want, got) = (self.graph.ty(value), self.graph.ty(gradient));
        if want.shape != got.shape {
            return Err(Error::Graph(format!("gradient at `{scope}` is {got}, but the value is {want}")));
        }
        let Some(before) = self.gradients.get(&value).copied() else {
            self.gradients.insert(value, gradient);
            return Ok(());
        };
        // one part in f32 makes the sum f32
        let dtype = if self.graph.ty(before).dtype == got.dtype { got.dtype } else { DType::F32 };
        let parts = [self.cast(before, dtype, scope)?, self.cast(gradient, dtype, scope)?];
        let sum = self.graph.node(Add { act: Activation::None }, &parts.map(Some), scope)?[0];
        self.gradients.insert(value, sum);
        Ok(())
    }

    /// The gradient of an output in the type of the output.
    fn typed(&mut self, value: Value, scope: &str) -> Result<Option<Value>> {
        let Some(gradient) = self.gradients.get(&value).copied() else { return Ok(None) };
        self.cast(gradient, self.graph.ty(value).dtype, scope).map(Some)
    }

    fn cast(&mut self, value: Value, dtype: DType, scope: &str) -> Result<Value> {
        if self.graph.ty(value).dtype == dtype {
            return Ok(value);
        }
        Ok(self.graph.node(Cast { dtype }, &[Some(value)], scope)?[0])
    }

    fn result(&self, value: Value) -> Result<Value> {
        let unknown = || Error::Graph(format!("the loss does not depend on `{}`", self.graph.info(value).scope));
        self.gradients.get(&value).copied().ok_or_else(unknown)
    }
}
