//! `tune`: the fastest tile of each matrix product on the device at hand, measured once and kept.

use super::format::table;
use super::graphs::{self, Sizes};
use super::{DeviceArgs, ModelArgs, precision_help, progress, show};
use clap::Args;
use dreamid_engine::device::cuda::{Cuda, Tuned, TunedProduct, tiles_file};
use dreamid_engine::device::{Device, Tiles};
use dreamid_engine::exec::tune::{self, Care, ProductSite};
use dreamid_engine::graph::Graph;
use dreamid_engine::models::gradients::{self, BatchSize};
use dreamid_engine::models::{Component, ModelFolder};
use dreamid_engine::{DType, Error, Result};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// Arguments of `tune`.
#[derive(Args)]
#[command(mut_arg("tiles", |arg| arg.hide(true)), mut_arg("no_tiles", |arg| arg.hide(true)))]
#[command(mut_arg("device", |arg| arg.default_value("cuda").help("The NVIDIA device: cuda for the first, or cuda:N")))]
#[command(mut_arg("dtype", |arg| precision_help(arg, "bf16")))]
pub(crate) struct TuneArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Size of the pictures [default: what the model was made for]
    #[arg(long, value_name = "WxH", value_parser = super::inspect::parse_size)]
    size: Option<[usize; 2]>,
    /// Pictures made together
    #[arg(long, value_name = "N", default_value = "1")]
    batch: std::num::NonZeroUsize,
    /// Also the products of training: the denoising loss and its gradients
    #[arg(long)]
    gradients: bool,
    /// Where choices are written [default: the folder tiles in that of the compiled kernels, where --device cuda looks for them]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Measure again what was measured before
    #[arg(long)]
    again: bool,
    /// Run every tile once and believe the clock: to try the command; an emulated device is never tuned otherwise
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Carries out `tune`.
pub(crate) fn run(args: &TuneArgs) -> Result<()> {
    if args.device.tiles.is_some() || args.device.no_tiles {
        return Err(Error::input(
            "--tiles and --no-tiles are for commands that use the choices; tune makes them, and writes them to --out",
        ));
    }
    // what the error advises instead, the processor, is none to tune
    let device = args.device.open().inspect_err(|_| eprintln!("tune needs an NVIDIA device; without one there is nothing to tune"))?;
    let Device::Cuda(cuda) = &device else {
        return Err(Error::input(format!("tune measures CUDA devices, not {}; use --device cuda", device.name())));
    };
    let path = args.out.clone().or_else(|| Some(tiles_file(&args.device.tiles_folder()?, cuda.model())));
    let path = path.ok_or_else(|| Error::input("there is no folder to keep choices in; name a file with --out"))?;
    let emulated = "This is the emulated device: its clock measures the emulator, and what is chosen is true of it alone. Tiles never\n\
                    change results, and choices of an emulated device are kept under its own name.\n";
    show(&format!("{}, driver {}\n{}", cuda.model(), cuda.facts().driver, if cuda.is_emulated() { emulated } else { "" }))?;
    let model = args.model.open()?;
    let sites = tune::products(&graphs_of(args, &model, args.device.dtype_or(&device, DType::Bf16)?)?, cuda)?;
    let before = if args.again { None } else { Tuned::load(&path, cuda) };
    let mut tuned = before.unwrap_or_else(|| Tuned::new(cuda));
    let care = if args.once || cuda.is_emulated() { Care::ONCE } else { Care::FULL };
    let complete = measure(&sites, cuda, care, &mut tuned, &path)?;
    let whose = if cuda.is_emulated() { "times are the emulator's, not those of a device\n" } else { "" };
    show(&format!("\n{}\n{whose}", summary(&sites, &tuned)))?;
    show(&format!("wrote {}{}\n", path.display(), if complete { "" } else { "; stopped before the end: run it again to go on" }))
}

/// Measures what is missing, and keeps each product as soon as it is measured. False if stopped.
fn measure(sites: &[ProductSite], cuda: &Cuda, care: Care, tuned: &mut Tuned, path: &std::path::Path) -> Result<bool> {
    let stop = progress::stop_flag();
    tuned.save(path)?;
    for (i, site) in sites.iter().enumerate() {
        if tuned.products.contains_key(site.name()) {
            continue;
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        match site.time(cuda, care) {
            Ok(product) => {
                show(&format!("{}/{} {}: {}\n", i + 1, sites.len(), site.name(), describe(&product)))?;
                tuned.products.insert(site.name().to_owned(), product);
                tuned.save(path)?;
            }
            Err(error @ Error::OutOfMemory { .. }) => log::warn!("{} is left out: {error}", site.name()),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// The graphs that pictures are made with, and on demand those of training.
fn graphs_of(args: &TuneArgs, model: &ModelFolder, dtype: DType) -> Result<Vec<Graph>> {
    let sizes = Sizes { images: args.batch.get(), picture: args.size, steps: 30 };
    let mut all = Vec::new();
    for name in graphs::NAMES.into_iter().filter(|&name| name != "unet") {
        all.extend(graphs::build(model, name, dtype, sizes)?.map(|named| named.graph));
    }
    if args.gradients {
        if !model.has(Component::Unet) || !model.has(Component::TextEncoder) {
            return Err(Error::input(format!("the model {} lacks a UNet or a text encoder: it cannot be trained", model.name())));
        }
        let [height, width] = graphs::latent_size(model, args.size)?;
        let size = BatchSize { batch: args.batch.get(), height, width, words: 2 };
        let mut loss = gradients::denoising_loss(&model.text_config()?, &model.unet_config()?, dtype, size)?;
        let found = dreamid_engine::graph::grad(&mut loss.graph, loss.loss, &[loss.embeds])?;
        loss.graph.output("grad_embeds", found[0])?;
        all.push(loss.graph);
    }
    Ok(all)
}

fn describe(product: &TunedProduct) -> String {
    let [rows, columns] = product.chosen.unwrap_or(product.default);
    let time = |[rows, columns]: [u32; 2]| product.microseconds.get(&format!("{rows}x{columns}")).map_or(f64::NAN, |t| t[1]);
    let (chosen, default) = (time([rows, columns]), time(product.default));
    match product.chosen {
        None => format!("{rows}x{columns} as it was, {default:.1} us"),
        Some(_) => {
            format!("{rows}x{columns}, {chosen:.1} us instead of {default:.1} with {}x{}", product.default[0], product.default[1])
        }
    }
}

/// What was gained, over all nodes of the graphs.
fn summary(sites: &[ProductSite], tuned: &Tuned) -> String {
    let Tiles(choices) = tuned.tiles();
    let (mut before, mut after) = (0.0, 0.0);
    let mut rows = Vec::new();
    for site in sites {
        let Some(product) = tuned.products.get(site.name()) else { continue };
        let time = |[rows, columns]: [u32; 2]| product.microseconds.get(&format!("{rows}x{columns}")).map_or(0.0, |t| t[1]);
        let (default, chosen) = (time(product.default), time(product.chosen.unwrap_or(product.default)));
        before += default * site.nodes as f64;
        after += chosen * site.nodes as f64;
        if product.chosen.is_some() {
            rows.push(vec![site.name().to_owned(), site.nodes.to_string(), format!("{default:.1}"), format!("{chosen:.1}")]);
        }
    }
    let faster = format!("{} of {} products run faster with another tile", choices.len(), tuned.products.len());
    let total = format!("all products of the graphs, once each node: {:.3} ms instead of {:.3}", after / 1e3, before / 1e3);
    if rows.is_empty() { faster } else { format!("{}\n{faster}\n{total}", table(&["product", "nodes", "us before", "us now"], &rows)) }
}
