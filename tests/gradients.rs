//! Level 3: every operation's gradient against differences of its reference, in f64, on every case and every differentiable input.
//!
//! For an input x, a random direction v and random weights r of the outputs, the slope of `Σ r · y(x + h v)` at h = 0 is what
//! `backward` says it is: `Σ v · dx`. The slope is a difference of four points, whose error falls with h⁴. A direction that has all
//! coordinates at once finds any wrong one; a few directions along a single coordinate find what would cancel.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use common::fill::{self, Random};
use dreamid_engine::graph::{Graph, Value, grad_from};
use dreamid_engine::ops::{Case, HostArray, all_cases};
use dreamid_engine::{Tensor, Ty};

/// Operations without gradients, with the reason that the error has to give.
const NO_GRADIENT: [(&str, &str); 3] =
    [("timestep_embedding", "place in the schedule"), ("adam_w", "step of the optimizer"), ("resample", "rounded to bytes")];

/// Cases at a place where the operation has no derivative.
const KINKS: [(&str, &str, &str); 2] = [
    ("normalize", "zero f32", "the length of a row of zeros is below eps, and any step is far beyond it"),
    ("normalize", "zero bf16", "the length of a row of zeros is below eps, and any step is far beyond it"),
];

/// Directions of all coordinates, and of a single one.
const DIRECTIONS: [usize; 2] = [2, 3];

/// Steps, as shares of the size of the input. The second is for a first one that went across a kink: what is wrong stays wrong.
const STEPS: [f64; 2] = [1e-6, 3e-8];

/// Largest difference of the two slopes, as a share of the size that a slope in the direction could have.
const TOLERANCE: f64 = 1e-6;

#[test]
fn gradients_are_the_slopes_of_the_references() {
    let mut failures = Vec::new();
    let mut checked = 0;
    for (op, cases) in all_cases() {
        // the gradients themselves are what is checked here
        if op.ends_with("_grad") {
            continue;
        }
        let (mut slopes, mut worst) = (0, 0.0_f64);
        for case in cases.iter().filter(|c| !KINKS.iter().any(|k| (k.0, k.1) == (op, c.name.as_str()))) {
            match check(op, case) {
                Ok(errors) => {
                    slopes += errors.len();
                    worst = errors.into_iter().fold(worst, f64::max);
                }
                Err(e) => failures.push(format!("{op} `{}`: {e}", case.name)),
            }
        }
        println!("{op}: {} cases, {slopes} slopes, largest error {worst:.1e}", cases.len());
        checked += slopes;
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(checked > 1000, "only {checked} slopes were compared");
}

#[test]
fn kinks_are_cases_that_exist() {
    for (op, case, _) in KINKS {
        let (_, cases) = all_cases().into_iter().find(|(name, _)| *name == op).unwrap();
        assert!(cases.iter().any(|c| c.name == case), "{op} has no case `{case}`");
    }
}

#[test]
fn gradients_have_no_gradients_and_say_so() {
    for (op, cases) in all_cases().into_iter().filter(|(op, _)| op.ends_with("_grad")) {
        let case = &cases[0];
        let mut graph = Graph::new();
        let inputs: Vec<Option<Value>> =
            case.inputs.iter().enumerate().map(|(i, c)| c.map(|c| graph.input(&format!("x{i}"), c.ty))).collect();
        let outs = graph.node(case.op.clone(), &inputs, "here").unwrap();
        let seed = graph.input("seed", graph.ty(outs[0]));
        let float = inputs.iter().flatten().copied().find(|v| graph.ty(*v).dtype.is_float()).unwrap();
        let error = grad_from(&mut graph, &[(outs[0], seed)], &[float]).unwrap_err().to_string();
        assert!(error.contains(op) && error.contains("here") && error.contains("gradients of gradients"), "{error}");
    }
}

/// Errors of all slopes of a case.
fn check(op: &str, case: &Case) -> Result<Vec<f64>, String> {
    let mut random = Random::named(&format!("gradient/{op}/{}", case.name));
    let tensors = fill::inputs(op, case);
    let inputs: Vec<Option<HostArray>> = tensors.iter().map(|t| t.as_ref().map(|t| unrounded(t, &mut random))).collect();
    let types: Vec<Option<Ty>> = inputs.iter().map(|a| a.as_ref().map(|a| a.ty)).collect();
    let outs = case.op.infer(&types).map_err(|e| e.to_string())?;
    let value = |inputs: &[Option<HostArray>]| case.op.reference(inputs, &outs).unwrap();
    // rows that the operation marks as bad have no slope
    let mut weight = |y: &f64| if y.is_nan() { 0.0 } else { random.normal() };
    let weights: Vec<Vec<f64>> = value(&inputs).iter().map(|y| y.iter().map(&mut weight).collect()).collect();
    let mut errors = Vec::new();
    for (i, x) in inputs.iter().enumerate().filter_map(|(i, x)| x.as_ref().map(|x| (i, x))).filter(|(_, x)| x.ty.dtype.is_float()) {
        let gradient = match (backward(case, &inputs, &weights, &outs, i), NO_GRADIENT.iter().find(|n| n.0 == op)) {
            (Err(e), Some((_, words))) if e.contains(words) => continue,
            (Ok(_), Some(_)) => return Err(format!("input {i} has a gradient after all")),
            (result, _) => result.map_err(|e| format!("input {i}: {e}"))?,
        };
        if gradient.len() != x.data.len() || gradient.iter().any(|g| !g.is_finite()) {
            return Err(format!("input {i}: the gradient is not finite, or has other elements"));
        }
        for direction in directions(x.data.len(), &mut random) {
            let want: f64 = direction.iter().zip(&gradient).map(|(v, g)| v * g).sum();
            // lengths: a slope along one coordinate may be small where the others are not
            let scale = norm(&direction) * norm(&gradient) / (gradient.len() as f64).sqrt();
            let error = |step: f64| {
                let (slope, noise) = difference(&value, &inputs, &weights, i, &direction, step);
                if slope == want { 0.0 } else { (slope - want).abs() / (scale + noise / TOLERANCE) }
            };
            let error = STEPS.into_iter().map(error).find(|e| *e <= TOLERANCE);
            errors.push(error.ok_or_else(|| {
                let slopes = STEPS.map(|step| difference(&value, &inputs, &weights, i, &direction, step).0);
                format!("input {i}: slopes are {slopes:?}, backward says {want}; the scale is {scale}")
            })?);
        }
    }
    Ok(errors)
}

/// The values of a tensor as they might have been before they were rounded to its type: rounded ones tie, and a maximum has no slope there.
fn unrounded(tensor: &Tensor, random: &mut Random) -> HostArray {
    let mut array = HostArray::from(tensor);
    if array.ty.dtype.is_float() {
        let size = norm(&array.data) / (array.data.len() as f64).sqrt();
        array.data.iter_mut().for_each(|v| *v += 1e-3 * size * random.normal());
    }
    array
}

fn norm(a: &[f64]) -> f64 {
    a.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// Random directions, then single coordinates.
fn directions(n: usize, random: &mut Random) -> Vec<Vec<f64>> {
    let mut all: Vec<Vec<f64>> = (0..DIRECTIONS[0]).map(|_| (0..n).map(|_| random.normal()).collect()).collect();
    for _ in 0..DIRECTIONS[1] {
        let mut unit = vec![0.0; n];
        unit[(random.uniform() * n as f64) as usize] = 1.0;
        all.push(unit);
    }
    all
}

type Outputs = Vec<Vec<f64>>;

/// Slope of the weighted sum of outputs along a direction of one input, by four points, and how far rounding alone may move it.
fn difference(
    value: &dyn Fn(&[Option<HostArray>]) -> Outputs,
    inputs: &[Option<HostArray>],
    weights: &[Vec<f64>],
    index: usize,
    direction: &[f64],
    step: f64,
) -> (f64, f64) {
    let x = inputs[index].as_ref().unwrap();
    let size = norm(&x.data) / (x.data.len() as f64).sqrt();
    // a power of two, so that x + h loses nothing to h itself
    let h = 2.0_f64.powi((if size > 0.0 { size * step } else { step }).log2().round() as i32);
    let at = |steps: f64| -> Vec<f64> {
        let mut moved = inputs.to_vec();
        moved[index].as_mut().unwrap().data.iter_mut().zip(direction).for_each(|(x, v)| *x += steps * h * v);
        value(&moved).concat()
    };
    let points = [at(-2.0), at(-1.0), at(1.0), at(2.0)];
    let (mut slope, mut noise) = (0.0, 0.0);
    // output by output: those that do not change cancel exactly
    for (i, r) in weights.iter().flatten().enumerate().filter(|(_, r)| **r != 0.0) {
        let [a, b, c, d] = [0, 1, 2, 3].map(|p: usize| points[p][i]);
        let change = 8.0 * (c - b) - (d - a);
        if change != 0.0 {
            slope += r * change / (12.0 * h);
            noise += (r * b).powi(2);
        }
    }
    // and the gradient is rounded beside what cancels in it
    let rounded = if size > 0.0 { norm(direction) * norm(&weights.concat()) / size } else { 0.0 };
    (slope, 4.0 * f64::EPSILON * (noise.sqrt() / h + rounded))
}

/// What `backward` gives for one input, computed by references alone.
fn backward(case: &Case, inputs: &[Option<HostArray>], weights: &[Vec<f64>], outs: &[Ty], index: usize) -> Result<Vec<f64>, String> {
    let mut graph = Graph::new();
    let mut values: Vec<(Value, HostArray)> = Vec::new();
    let mut bound = Vec::new();
    for (i, x) in inputs.iter().enumerate() {
        let value = x.as_ref().map(|x| graph.input(&format!("x{i}"), x.ty));
        values.extend(value.zip(x.clone()));
        bound.push(value);
    }
    let made = graph.node(case.op.clone(), &bound, "here").map_err(|e| e.to_string())?;
    let mut seeds = Vec::new();
    for ((value, ty), data) in made.iter().zip(outs).zip(weights) {
        let seed = graph.input(&format!("seed{}", seeds.len()), *ty);
        values.push((seed, HostArray { ty: *ty, data: data.clone() }));
        seeds.push((*value, seed));
    }
    let gradient = grad_from(&mut graph, &seeds, &[bound[index].unwrap()]).map_err(|e| e.to_string())?[0];
    run(&graph, values, gradient)
}

/// Runs a graph by its references, in f64 throughout.
fn run(graph: &Graph, given: Vec<(Value, HostArray)>, result: Value) -> Result<Vec<f64>, String> {
    let mut held: Vec<Option<HostArray>> = vec![None; graph.values().len()];
    given.into_iter().for_each(|(value, array)| held[value.index()] = Some(array));
    for node in graph.nodes() {
        let ins: Vec<Option<HostArray>> = node.inputs.iter().map(|v| v.map(|v| held[v.index()].clone().unwrap())).collect();
        let outs: Vec<Ty> = node.outputs.iter().map(|v| graph.ty(*v)).collect();
        let made = node.op.reference(&ins, &outs).map_err(|e| e.to_string())?;
        for ((value, ty), data) in node.outputs.iter().zip(outs).zip(made) {
            held[value.index()] = Some(HostArray { ty, data });
        }
    }
    let array = held[result.index()].take().unwrap();
    assert_eq!(array.data.len(), array.ty.shape.elements(), "a reference gives other elements than its type says");
    Ok(array.data)
}
