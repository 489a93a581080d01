//! Builds a graph under dotted scopes that mirror the names of the checkpoint.

use super::ir::{Graph, ParamSpec, Value, WeightLayout};
use crate::ops::AnyOp;
use crate::{DType, Error, Result, Shape, Ty};

/// A graph under construction, a scope path and a storage precision.
///
/// [`Builder::scope`] borrows the builder for a deeper path, so construction reads like the checkpoint:
/// `b.scope("down_blocks.0").scope("resnets.1")`.
pub struct Builder<'g> {
    graph: &'g mut Graph,
    path: String,
    dtype: DType,
}

impl<'g> Builder<'g> {
    /// A builder at the root of `graph`; activations and large weights are stored as `dtype`.
    pub fn new(graph: &'g mut Graph, dtype: DType) -> Self {
        Self { graph, path: String::new(), dtype }
    }

    /// The same builder one scope deeper.
    pub fn scope(&mut self, name: impl std::fmt::Display) -> Builder<'_> {
        let path = self.name(name);
        Builder { path, dtype: self.dtype, graph: self.graph }
    }

    /// The same builder and scope with another storage precision.
    pub fn with_dtype(&mut self, dtype: DType) -> Builder<'_> {
        Builder { path: self.path.clone(), dtype, graph: self.graph }
    }

    /// Storage type of activations and large weights.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dotted path of the current scope.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// `name` below the current scope.
    pub fn name(&self, name: impl std::fmt::Display) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }

    /// Type of a value.
    pub fn ty(&self, value: Value) -> Ty {
        self.graph.ty(value)
    }

    /// Shape of a value.
    pub fn shape(&self, value: Value) -> Shape {
        self.graph.ty(value).shape
    }

    /// Declares an input of the graph.
    pub fn input(&mut self, name: &str, dtype: DType, shape: impl Into<Shape>) -> Value {
        self.graph.input(name, Ty::new(dtype, shape))
    }

    /// A parameter of the current precision, stored in the file in the engine's order.
    pub fn param(&mut self, name: &str, shape: impl Into<Shape>) -> Value {
        self.declare(&[name], WeightLayout::Plain, self.dtype, shape.into())
    }

    /// A parameter that is kept in f32 whatever the precision: biases, norms, small tables.
    pub fn param_f32(&mut self, name: &str, shape: impl Into<Shape>) -> Value {
        self.declare(&[name], WeightLayout::Plain, DType::F32, shape.into())
    }

    /// Several tensors stacked along the first axis, such as the q, k and v projections.
    /// `dtype` none: the current precision.
    pub fn param_stacked(&mut self, names: &[&str], dtype: Option<DType>, shape: impl Into<Shape>) -> Value {
        self.declare(names, WeightLayout::Plain, dtype.unwrap_or(self.dtype), shape.into())
    }

    /// A convolution weight: `[O,I,kh,kw]` in the file, `[O,kh,kw,I]` here.
    pub fn param_conv(&mut self, name: &str, shape: impl Into<Shape>) -> Value {
        self.declare(&[name], WeightLayout::Oihw, self.dtype, shape.into())
    }

    /// Appends a node that has one output.
    pub fn op(&mut self, op: impl Into<AnyOp>, inputs: &[Option<Value>]) -> Result<Value> {
        let op = op.into();
        let name = op.name();
        match self.graph.node(op, inputs, &self.path)?.as_slice() {
            [value] => Ok(*value),
            values => Err(Error::Graph(format!("{name} at `{}` has {} outputs, not one", self.path, values.len()))),
        }
    }

    /// Appends a node and gives all its outputs.
    pub fn op_many(&mut self, op: impl Into<AnyOp>, inputs: &[Option<Value>]) -> Result<Vec<Value>> {
        self.graph.node(op, inputs, &self.path)
    }

    /// Declares a named output.
    pub fn output(&mut self, name: &str, value: Value) -> Result<()> {
        self.graph.output(name, value)
    }

    fn declare(&mut self, names: &[&str], layout: WeightLayout, dtype: DType, shape: Shape) -> Value {
        let names = names.iter().map(|n| self.name(n)).collect();
        self.graph.param(ParamSpec { names, layout }, Ty { dtype, shape })
    }
}
