//! `inspect`: what a model or a file consists of.

use super::format::{grouped, mib, table};
use super::graphs::{self, Named, Sizes};
use super::{ModelArgs, Precision, show};
use clap::{Args, ValueEnum};
use dreamid_engine::graph::dump::{self, Total};
use dreamid_engine::graph::{Graph, Plan};
use dreamid_engine::models::{Component, ModelFolder};
use dreamid_engine::weights::Weights;
use dreamid_engine::{DType, Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Arguments of `inspect`.
#[derive(Args)]
pub(crate) struct InspectArgs {
    /// A safetensors file to list instead of a model
    #[arg(conflicts_with_all = ["model", "graph", "dump", "count", "size", "dtype"])]
    file: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    /// One graph in detail: identity, text, context, time, unet, ddim-step, vae-decode, vae-encode
    #[arg(long, value_name = "NAME")]
    graph: Option<String>,
    /// Print every node of the graph: as lines of text, or for Graphviz
    #[arg(long, value_enum, requires = "graph")]
    dump: Option<Dump>,
    /// Pictures made together
    #[arg(long, value_name = "N", default_value = "1")]
    count: std::num::NonZeroUsize,
    /// Size of the pictures [default: what the model was made for]
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    size: Option<[usize; 2]>,
    /// Storage of weights and activations that bytes and memory are counted for; auto: f32
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    dtype: Precision,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dump {
    Text,
    Dot,
}

/// Carries out `inspect`.
pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    if let Some(file) = &args.file {
        return show(&file_listing(&Weights::open(file)?));
    }
    let model = args.model.open()?;
    let dtype = args.dtype.or(DType::F32);
    let sizes = Sizes { images: args.count.get(), picture: args.size, steps: 30 };
    match &args.graph {
        None => show(&overview(&model, dtype, sizes)?),
        Some(name) => {
            let named = graphs::build(&model, name, dtype, sizes)?;
            let named = named.ok_or_else(|| Error::input(format!("the model {} has no {name}: it lacks a component", model.name())))?;
            show(&match args.dump {
                None => details(name, &named),
                Some(Dump::Text) => dump::text(&named.graph, &Plan::new(&named.graph)),
                Some(Dump::Dot) => dump::dot(&named.graph),
            })
        }
    }
}

/// `512x768` as height 768, width 512.
pub(crate) fn parse_size(text: &str) -> std::result::Result<[usize; 2], String> {
    let parts = text.split_once('x').and_then(|(w, h)| Some([h.trim().parse().ok()?, w.trim().parse().ok()?]));
    parts.ok_or_else(|| format!("`{text}` is not WIDTHxHEIGHT, such as 512x512"))
}

fn overview(model: &ModelFolder, dtype: DType, sizes: Sizes) -> Result<String> {
    let mut built = Vec::new();
    for name in graphs::NAMES {
        built.extend(graphs::build(model, name, dtype, sizes)?.map(|named| (name, named)));
    }
    let mut out = format!("model {}\n\n", model.name());
    out += &components(model, &built)?;
    out += "\nconfigurations\n";
    for component in model.components() {
        out += &format!("{component}: {}\n", config(model, component)?);
    }
    let rows: Vec<Vec<String>> = built.iter().map(|(name, named)| graph_row(name, &named.graph)).collect();
    out += &format!("\ngraphs in {dtype}, {} picture(s) made together\n", sizes.images);
    out += &table(&["graph", "operations", "GFLOP", "MB moved", "parameters", "arena", "without reuse"], &rows);
    Ok(out)
}

fn components(model: &ModelFolder, built: &[(&str, Named)]) -> Result<String> {
    let (mut rows, mut reports) = (Vec::new(), String::new());
    for component in model.components() {
        let fits = match model.check_weights(component) {
            Ok(()) => "all tensors fit",
            Err(error) => {
                reports += &format!("\n{error}\n");
                "do not fit"
            }
        };
        let weights = model.weights(component)?;
        let dtypes: BTreeSet<String> = weights.names().iter().filter_map(|n| Some(weights.describe(n)?.0)).collect();
        let stored = if weights.is_random() { "made up".to_owned() } else { dtypes.into_iter().collect::<Vec<_>>().join(" ") };
        let licence = licence(&weights).unwrap_or_else(|| "not stated".to_owned());
        let count = parameters(component, built).map_or("-".into(), grouped);
        rows.push(vec![component.to_string(), count, stored, fits.to_owned(), licence, weights.label()]);
    }
    Ok(table(&["component", "parameters", "stored as", "weights", "licence", "from"], &rows) + &reports)
}

/// What a file says of its licence: in its metadata, or in the configuration that it carries there.
fn licence(weights: &Weights) -> Option<String> {
    const KEYS: [&str; 2] = ["licence", "license"];
    let stated = KEYS.iter().find_map(|k| weights.metadata(k)).map(str::to_owned);
    stated.or_else(|| {
        let config: serde_json::Value = serde_json::from_str(weights.metadata("config")?).ok()?;
        KEYS.iter().find_map(|k| config[*k].as_str()).map(str::to_owned)
    })
}

/// Weights of a component that any graph uses, each counted once; none if no graph here uses it.
fn parameters(component: Component, built: &[(&str, Named)]) -> Option<usize> {
    let scope = format!("{component}.");
    let mut sizes: BTreeMap<&[String], usize> = BTreeMap::new();
    for (_, named) in built.iter().filter(|(_, n)| n.components.contains(&component)) {
        for (spec, value) in named.graph.params().filter(|(spec, _)| spec.names.iter().all(|n| n.starts_with(&scope))) {
            sizes.insert(&spec.names, named.graph.ty(value).shape.elements());
        }
    }
    (!sizes.is_empty()).then(|| sizes.values().sum())
}

fn config(model: &ModelFolder, component: Component) -> Result<String> {
    Ok(match component {
        Component::TextEncoder => format!("{:?}", model.text_config()?),
        Component::Unet => format!("{:?}", model.unet_config()?),
        Component::Vae => format!("{:?}", model.vae_config()?),
        Component::FaceEncoder => format!("{:?}", model.face_config()?),
        Component::Projector => format!("{:?}", model.projector_config()?),
        Component::ImageEncoder => format!("{:?}", model.image_config()?),
    })
}

fn graph_row(name: &str, graph: &Graph) -> Vec<String> {
    let (plan, cost) = (Plan::new(graph), graph.total_cost());
    let operations = graph.nodes().iter().filter(|n| !n.op.is_view()).count();
    vec![
        name.to_owned(),
        operations.to_string(),
        format!("{:.2}", cost.flops as f64 / 1e9),
        format!("{:.1}", cost.bytes as f64 / 1e6),
        grouped(graph.parameter_count()),
        mib(plan.arena_bytes()),
        mib(plan.temporary_bytes()),
    ]
}

fn details(name: &str, named: &Named) -> String {
    let graph = &named.graph;
    let rows = |totals: Vec<(String, Total)>| -> Vec<Vec<String>> {
        let row = |(key, t): (String, Total)| {
            vec![key, t.nodes.to_string(), format!("{:.3}", t.cost.flops as f64 / 1e9), format!("{:.2}", t.cost.bytes as f64 / 1e6)]
        };
        totals.into_iter().map(row).collect()
    };
    let mut out = table(&["graph", "operations", "GFLOP", "MB moved", "parameters", "arena", "without reuse"], &[graph_row(name, graph)]);
    for (title, values) in
        [("input", graph.inputs().collect::<Vec<_>>()), ("output", graph.outputs().iter().map(|(n, v)| (n.as_str(), *v)).collect())]
    {
        out += "\n";
        for (name, value) in values {
            out += &format!("{title} {name} {}\n", graph.ty(value));
        }
    }
    out += "\n";
    out += &table(&["operation", "nodes", "GFLOP", "MB moved"], &rows(dump::by_op(graph)));
    out += "\n";
    out += &table(&["scope", "nodes", "GFLOP", "MB moved"], &rows(dump::by_scope(graph, 3)));
    out
}

fn file_listing(weights: &Weights) -> String {
    let mut out = format!("{}\n", weights.label());
    for (key, value) in weights.all_metadata() {
        out += &format!("metadata {key}: {value}\n");
    }
    let (mut total, mut rows) = (0, Vec::new());
    for name in weights.names() {
        let Some((dtype, shape)) = weights.describe(name) else { continue };
        let elements: usize = shape.iter().product();
        total += elements;
        rows.push(vec![name.to_owned(), dtype, format!("{shape:?}"), grouped(elements)]);
    }
    out += "\n";
    out += &table(&["tensor", "type", "shape", "elements"], &rows);
    out += &format!("\n{} tensors, {} elements\n", rows.len(), grouped(total));
    out
}
