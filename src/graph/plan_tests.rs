//! Random graphs: plans are sound, and what runs in a planned arena equals what runs without sharing memory, bit for bit.

use super::plan::Place;
use super::{Builder, Graph, Plan, Value, verify};
use crate::device::Device;
use crate::exec::Executable;
use crate::ops::{Activate, Activation, Add, Concat, Repeat, Reshape, SelectRows};
use crate::weights::Weights;
use crate::{DType, Shape, Tensor};
use proptest::prelude::*;

/// One step of a random graph: which operation, and two numbers that choose its operands among the values so far.
type Step = (u8, usize, usize);

fn random_graph(steps: &[Step], outputs: &[usize]) -> Graph {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, DType::F32);
    let mut values: Vec<Value> = vec![b.input("a", DType::F32, [2, 3, 8]), b.input("b", DType::F32, [1, 4, 16]), b.param("p", [2, 3, 8])];
    for &(kind, i, j) in steps {
        values.push(step(&mut b, kind, values[i % values.len()], &values, j));
    }
    let made: Vec<Value> = values[3..].to_vec();
    for (n, o) in outputs.iter().enumerate() {
        b.output(&format!("out{n}"), made[o % made.len()]).unwrap();
    }
    graph
}

fn step(b: &mut Builder<'_>, kind: u8, x: Value, values: &[Value], j: usize) -> Value {
    let shape = b.shape(x);
    let act = Activation::Silu;
    match kind {
        0 => b.op(Activate { act }, &[Some(x)]),
        1 => {
            let same: Vec<Value> = values.iter().copied().filter(|v| b.shape(*v) == shape).collect();
            b.op(Add { act: Activation::None }, &[Some(x), Some(same[j % same.len()])])
        }
        2 if shape[0] <= 4 => b.op(Repeat { times: 2 }, &[Some(x)]),
        3 if shape[1] > 1 => b.op(SelectRows { start: j % shape[1], count: 1 }, &[Some(x)]),
        4 if shape[2] <= 64 => b.op(Concat { count: 2 }, &[Some(x), Some(x)]),
        _ => b.op(Reshape { shape: Shape::from([shape[0] * shape[1], 1, shape[2]]) }, &[Some(x)]),
    }
    .unwrap()
}

fn run(graph: Graph, plan: Plan, fill: f32) -> Vec<Vec<u8>> {
    let mut exe = Executable::with_plan(graph, plan, &Weights::random(1), &Device::parse("cpu", Some(1)).unwrap()).unwrap();
    let mut results = Vec::new();
    for round in 0..2 {
        exe.poison().unwrap();
        let inputs: Vec<_> = exe.graph().inputs().map(|(n, v)| (n.to_owned(), exe.graph().ty(v))).collect();
        for (name, ty) in inputs {
            let values: Vec<f32> = (0..ty.shape.elements()).map(|i| ((i * 37 + round) % 101) as f32 * fill - 1.0).collect();
            exe.write(&name, &Tensor::from_f32(ty.shape, &values).unwrap()).unwrap();
        }
        exe.run().unwrap();
        let names: Vec<_> = exe.graph().outputs().iter().map(|(n, _)| n.clone()).collect();
        results.extend(names.iter().map(|n| exe.read(n).unwrap().bytes().to_vec()));
    }
    results
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec((0u8..6, 0usize..64, 0usize..64), 1..24)
}

proptest! {
    #[test]
    fn planned_equals_unplanned(steps in steps(), outputs in prop::collection::vec(0usize..64, 1..4)) {
        let graph = random_graph(&steps, &outputs);
        let (plan, loose) = (Plan::new(&graph), Plan::without_reuse(&graph));
        verify(&graph, &plan).unwrap();
        verify(&graph, &loose).unwrap();
        prop_assert!(plan.least_bytes() <= plan.arena_bytes() && plan.arena_bytes() <= plan.temporary_bytes());
        prop_assert_eq!(loose.arena_bytes(), loose.temporary_bytes());
        prop_assert_eq!(&plan, &Plan::new(&graph));
        prop_assert_eq!(run(graph.clone(), plan, 0.02), run(graph, loose, 0.02));
    }

    /// The checker must not pass everything: any two temporaries that are alive together, put in one place, are found.
    #[test]
    fn a_broken_plan_is_found(steps in steps(), outputs in prop::collection::vec(0usize..64, 1..4), pick in 0usize..64) {
        let graph = random_graph(&steps, &outputs);
        let mut plan = Plan::new(&graph);
        let clashing = clashing_pairs(&graph, &plan);
        prop_assume!(!clashing.is_empty());
        let (a, b) = clashing[pick % clashing.len()];
        plan.move_to(&graph, b, plan.place(a));
        prop_assert!(verify(&graph, &plan).is_err());
    }
}

/// Pairs of temporaries of which the first is read at or after the node that writes the second.
fn clashing_pairs(graph: &Graph, plan: &Plan) -> Vec<(Value, Value)> {
    let in_arena = |v: Value| matches!(plan.place(v), Place::Arena(_));
    let mut pairs = Vec::new();
    for (i, node) in graph.nodes().iter().enumerate().filter(|(_, n)| !n.op.is_view()) {
        for &written in node.outputs.iter().filter(|v| in_arena(**v)) {
            for reader in &graph.nodes()[i..] {
                for &read in reader.inputs.iter().flatten() {
                    let made_before = graph.info(read).producer.is_some_and(|p| p < i && !graph.nodes()[p].op.is_view());
                    if in_arena(read) && made_before && graph.ty(read).bytes() > 0 {
                        pairs.push((read, written));
                    }
                }
            }
        }
    }
    pairs
}

#[test]
fn a_chain_needs_two_places() {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, DType::F32);
    let mut x = b.input("x", DType::F32, [1, 1000]);
    for _ in 0..10 {
        x = b.op(Activate { act: Activation::Silu }, &[Some(x)]).unwrap();
    }
    b.output("y", x).unwrap();
    let plan = Plan::new(&graph);
    verify(&graph, &plan).unwrap();
    let one = 4000_usize.next_multiple_of(64);
    assert_eq!((plan.arena_bytes(), plan.temporary_bytes()), (2 * one, 9 * one));
}

#[test]
fn an_output_that_views_an_input_is_read_from_it() {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, DType::F32);
    let x = b.input("x", DType::F32, [2, 3]);
    let y = b.op(Reshape { shape: Shape::from([6]) }, &[Some(x)]).unwrap();
    b.output("y", y).unwrap();
    verify(&graph, &Plan::new(&graph)).unwrap();
    let mut exe = Executable::compile(graph, &Weights::random(0), &Device::cpu().unwrap()).unwrap();
    let out = exe.call(&[("x", &Tensor::from_f32([2, 3], &[1., 2., 3., 4., 5., 6.]).unwrap())]).unwrap();
    assert_eq!(out[0].1.to_f32_vec(), [1., 2., 3., 4., 5., 6.]);
    assert_eq!(*out[0].1.shape(), [6]);
}
