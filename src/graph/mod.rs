//! The static graph: built once per configuration, then run, lowered, planned, counted and printed.

mod builder;
pub mod dump;
mod grad;
mod ir;
mod lower;
mod plan;
#[cfg(test)]
mod plan_tests;
mod verify;

pub use builder::Builder;
pub use grad::{GradCx, Grads, grad, grad_from};
pub use ir::{Graph, Node, ParamSpec, Role, Value, ValueInfo, WeightLayout};
pub use lower::lower;
pub(crate) use lower::lower_node;
pub use plan::{Place, Plan};
pub use verify::verify;
