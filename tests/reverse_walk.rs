//! The reverse walk over a graph: what it adds up, what it leaves out, what it refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use dreamid_engine::device::Device;
use dreamid_engine::exec::Executable;
use dreamid_engine::graph::{Builder, Graph, Value, grad, grad_from};
use dreamid_engine::ops::{Activate, Activation, Add, Embedding, Linear, Mse, NormLoss, Repeat, Reshape, TimestepEmbedding};
use dreamid_engine::weights::Weights;
use dreamid_engine::{DType, Tensor};

fn cpu() -> Device {
    Device::parse("cpu", Some(2)).unwrap()
}

fn run(graph: Graph, inputs: &[(&str, &Tensor)]) -> Vec<Vec<f32>> {
    let mut exe = Executable::compile(graph, &Weights::random(7), &cpu()).unwrap();
    exe.call(inputs).unwrap().into_iter().map(|(_, t)| t.to_f32_vec()).collect()
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_f32([values.len() / 2, 2], values).unwrap()
}

/// ‖x‖ of all rows of `x + x` repeated: five uses of one value, through views.
#[test]
fn several_uses_add_up() {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, DType::F32);
    let x = b.input("x", DType::F32, [2, 2]);
    let twice = b.op(Add { act: Activation::None }, &[Some(x), Some(x)]).unwrap();
    let flat = b.op(Reshape { shape: [1, 2, 2].into() }, &[Some(twice)]).unwrap();
    let again = b.op(Repeat { times: 3 }, &[Some(flat)]).unwrap();
    let loss = b.op(NormLoss, &[Some(again)]).unwrap();
    let dx = grad(&mut graph, loss, &[x]).unwrap()[0];
    graph.output("loss", loss).unwrap();
    graph.output("dx", dx).unwrap();
    let out = run(graph, &[("x", &tensor(&[3.0, 4.0, 0.0, -2.0]))]);
    assert_eq!(out[0], [6.0 * 7.0]);
    let want = [6.0 * 0.6, 6.0 * 0.8, 0.0, -6.0];
    assert!(out[1].iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-5), "{:?}", out[1]);
}

fn layers(b: &mut Builder<'_>, x: Value) -> Value {
    let mut h = x;
    for name in ["a", "b", "c"] {
        let mut b = b.scope(name);
        let (w, bias) = (b.param("weight", [2, 2]), b.param_f32("bias", [2]));
        h = b.op(Linear::with(Activation::Silu), &[Some(h), Some(w), Some(bias)]).unwrap();
    }
    b.op(NormLoss, &[Some(h)]).unwrap()
}

#[test]
fn only_what_is_asked_for_is_differentiated() {
    let count = |wrt: &dyn Fn(&Graph, Value) -> Value| {
        let mut graph = Graph::new();
        let mut b = Builder::new(&mut graph, DType::F32);
        let x = b.input("x", DType::F32, [3, 2]);
        let loss = layers(&mut b, x);
        let before = graph.nodes().len();
        let wrt = wrt(&graph, x);
        grad(&mut graph, loss, &[wrt]).unwrap();
        graph.nodes()[before..].iter().map(|n| format!("{} {}", n.scope, n.op.name())).collect::<Vec<_>>()
    };
    let weight = |name: &'static str| move |g: &Graph, _: Value| g.params().find(|(spec, _)| spec.names[0] == name).unwrap().1;
    let linear = "linear_grad";
    let last = ["loss.grad scale", "grad norm_loss_grad"];
    assert_eq!(count(&weight("c.weight")), [&last[..], &["c.grad linear_grad"; 2]].concat());
    // the sum, its input, twice over, and in the first layer the sum and the weight
    let first = count(&weight("a.weight"));
    assert_eq!(first.iter().filter(|n| n.ends_with(linear)).count(), 6, "{first:?}");
    assert_eq!(first.last().unwrap(), "a.grad linear_grad");
    let all = count(&|_: &Graph, x: Value| x);
    assert_eq!(all.len(), 2 + 6, "{all:?}");
}

#[test]
fn trained_and_frozen_weights_give_the_same_gradients() {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, DType::F32);
    let x = b.input("x", DType::F32, [2, 2]);
    let loss = layers(&mut b, x);
    let mut frozen = graph.clone();
    let dx = grad(&mut frozen, loss, &[x]).unwrap()[0];
    frozen.output("dx", dx).unwrap();
    let mut wrt = vec![x];
    wrt.extend(graph.params().map(|(_, v)| v));
    for (i, value) in grad(&mut graph, loss, &wrt).unwrap().into_iter().enumerate() {
        graph.output(&format!("{i}"), value).unwrap();
    }
    let x = tensor(&[0.3, -1.2, 0.7, 0.4]);
    assert_eq!(run(graph, &[("x", &x)])[0], run(frozen, &[("x", &x)])[0]);
}

#[test]
fn what_has_no_gradient_says_so() {
    let mut graph = Graph::new();
    let mut b = Builder::new(&mut graph, DType::F32);
    let (x, t) = (b.input("x", DType::F32, [1, 4]), b.input("t", DType::F32, [1]));
    let ids = b.input("ids", DType::I32, [1, 3]);
    let other = b.input("other", DType::F32, [1, 4]);
    let (table, positions) = (b.input("table", DType::F32, [5, 4]), b.input("positions", DType::F32, [3, 4]));
    let waves = TimestepEmbedding { dim: 4, flip_sin_to_cos: true, freq_shift: 0.0, dtype: DType::F32 };
    let time = b.scope("time").op(waves, &[Some(t)]).unwrap();
    let sum = b.op(Add { act: Activation::None }, &[Some(x), Some(time)]).unwrap();
    let words = b.op(Embedding, &[Some(ids), Some(table), Some(positions)]).unwrap();
    let smooth = b.op(Activate { act: Activation::Silu }, &[Some(words)]).unwrap();
    let length = b.op(NormLoss, &[Some(smooth)]).unwrap();
    let error = b.op(Mse, &[Some(sum), Some(other)]).unwrap();
    let loss = b.op(Add { act: Activation::None }, &[Some(length), Some(error)]).unwrap();
    let mut says = |loss, wrt, words: &str| {
        let e = grad(&mut graph, loss, &[wrt]).unwrap_err().to_string();
        assert!(e.contains(words), "`{e}` should say `{words}`");
    };
    says(loss, t, "timestep_embedding at `time`: has no gradient");
    says(loss, ids, "integers have no gradient");
    says(error, table, "does not depend on `table`");
    says(sum, x, "one f32, not of f32[1,4]");
    let e = grad_from(&mut graph, &[(sum, t)], &[x]).unwrap_err().to_string();
    assert!(e.contains("the gradient of a f32[1,4] cannot be a f32[1]"), "{e}");
    assert!(grad(&mut graph, loss, &[x, table, positions, other]).is_ok());
}
