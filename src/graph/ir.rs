//! Append-only intermediate representation: values and the nodes that make them.

use crate::ops::{AnyOp, Cost};
use crate::{Error, Result, Ty};

/// A value of one [`Graph`]: the index of its [`ValueInfo`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub(crate) u32);

impl Value {
    /// Position among the graph's values.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// How a tensor of a checkpoint is laid out in its file, before it is brought into the engine's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightLayout {
    /// As the engine has it.
    Plain,
    /// Convolution `[O,I,kh,kw]`; the engine holds `[O,kh,kw,I]`.
    Oihw,
}

/// Where a parameter comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamSpec {
    /// Dotted names in the checkpoint. Several are stacked along the first axis (fused projections).
    pub names: Vec<String>,
    /// Order of axes in the file.
    pub layout: WeightLayout,
}

/// Part a value plays. Only [`Role::Temporary`] values live in the arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Written by the caller before a run.
    Input(String),
    /// Bound once from a checkpoint.
    Param(ParamSpec),
    /// Made by a node and read by later nodes.
    Temporary,
}

/// What is known of a value.
#[derive(Clone, Debug)]
pub struct ValueInfo {
    /// Element type and shape.
    pub ty: Ty,
    /// Input, parameter or temporary.
    pub role: Role,
    /// Index of the node that makes it; none for inputs and parameters.
    pub producer: Option<usize>,
    /// Place in the model.
    pub scope: String,
}

/// One application of an operation.
#[derive(Clone, Debug)]
pub struct Node {
    /// The operation and its attributes.
    pub op: AnyOp,
    /// Inputs in the operation's order; absent ones are `None`.
    pub inputs: Vec<Option<Value>>,
    /// Outputs in the operation's order.
    pub outputs: Vec<Value>,
    /// Place in the model, such as `unet.mid_block.attentions.0`.
    pub scope: String,
}

/// A static, append-only graph. Nodes stand in an order in which they can run.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    values: Vec<ValueInfo>,
    outputs: Vec<(String, Value)>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nodes in execution order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All values.
    pub fn values(&self) -> &[ValueInfo] {
        &self.values
    }

    /// What is known of one value.
    pub fn info(&self, value: Value) -> &ValueInfo {
        &self.values[value.index()]
    }

    /// Type of one value.
    pub fn ty(&self, value: Value) -> Ty {
        self.info(value).ty
    }

    /// Named outputs.
    pub fn outputs(&self) -> &[(String, Value)] {
        &self.outputs
    }

    /// Inputs with their names.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, Value)> {
        self.values.iter().enumerate().filter_map(|(i, info)| match &info.role {
            Role::Input(name) => Some((name.as_str(), Value(i as u32))),
            _ => None,
        })
    }

    /// Parameters with where they come from.
    pub fn params(&self) -> impl Iterator<Item = (&ParamSpec, Value)> {
        self.values.iter().enumerate().filter_map(|(i, info)| match &info.role {
            Role::Param(spec) => Some((spec, Value(i as u32))),
            _ => None,
        })
    }

    /// Declares an input of the graph.
    pub fn input(&mut self, name: &str, ty: Ty) -> Value {
        self.push_value(ValueInfo { ty, role: Role::Input(name.to_owned()), producer: None, scope: name.to_owned() })
    }

    /// Declares a parameter; the same spec and type twice gives the same value.
    pub fn param(&mut self, spec: ParamSpec, ty: Ty) -> Value {
        let known = self.params().find(|(s, v)| **s == spec && self.ty(*v) == ty).map(|(_, v)| v);
        known.unwrap_or_else(|| {
            let scope = spec.names.join("+");
            self.push_value(ValueInfo { ty, role: Role::Param(spec), producer: None, scope })
        })
    }

    /// Appends a node; its outputs have the types that the operation infers.
    pub fn node(&mut self, op: impl Into<AnyOp>, inputs: &[Option<Value>], scope: &str) -> Result<Vec<Value>> {
        let op = op.into();
        let types: Vec<Option<Ty>> = inputs.iter().map(|v| v.map(|v| self.ty(v))).collect();
        let outs = op.infer(&types).map_err(|e| e.at(scope))?;
        let producer = Some(self.nodes.len());
        let outputs: Vec<Value> = outs
            .into_iter()
            .map(|ty| self.push_value(ValueInfo { ty, role: Role::Temporary, producer, scope: scope.to_owned() }))
            .collect();
        self.nodes.push(Node { op, inputs: inputs.to_vec(), outputs: outputs.clone(), scope: scope.to_owned() });
        Ok(outputs)
    }

    /// Declares a value as a named output. Inputs and parameters cannot be outputs.
    pub fn output(&mut self, name: &str, value: Value) -> Result<()> {
        if self.info(value).producer.is_none() {
            return Err(Error::Graph(format!("output `{name}` is not made by any node")));
        }
        if self.outputs.iter().any(|(n, _)| n == name) {
            return Err(Error::Graph(format!("two outputs are named `{name}`")));
        }
        self.outputs.push((name.to_owned(), value));
        Ok(())
    }

    /// Number of weights in all parameters, each tensor of the checkpoint counted once.
    pub fn parameter_count(&self) -> usize {
        let mut seen = std::collections::HashSet::new();
        self.params().filter(|(spec, _)| seen.insert(&spec.names)).map(|(_, v)| self.ty(v).shape.elements()).sum()
    }

    /// Operations and compulsory bytes of one node.
    pub fn cost(&self, node: &Node) -> Cost {
        let types: Vec<Option<Ty>> = node.inputs.iter().map(|v| v.map(|v| self.ty(v))).collect();
        let outs: Vec<Ty> = node.outputs.iter().map(|&v| self.ty(v)).collect();
        node.op.cost(&types, &outs)
    }

    /// Sum of [`Graph::cost`] over all nodes.
    pub fn total_cost(&self) -> Cost {
        self.nodes.iter().map(|n| self.cost(n)).sum()
    }

    fn push_value(&mut self, info: ValueInfo) -> Value {
        let value = Value(self.values.len() as u32);
        self.values.push(info);
        value
    }
}
