//! The static graph: built once per configuration, then run, lowered, planned, counted and printed.

mod builder;
mod ir;
mod plan;

pub use builder::Builder;
pub use ir::{Graph, Node, ParamSpec, Role, Value, ValueInfo, WeightLayout};
pub use plan::{Place, Plan};
