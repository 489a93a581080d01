//! `encode`: the person in a photograph, to a file of a few kilobytes.

use super::generate::shown;
use super::{DeviceArgs, FaceArgs, ModelArgs, precision_help, show};
use clap::Args;
use dreamid_engine::pipeline::{Encoded, Pipeline, prepare_file};
use dreamid_engine::{DType, Result};
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `encode`.
#[derive(Args)]
#[command(mut_arg("dtype", |arg| precision_help(arg, "f32")))]
pub(crate) struct EncodeArgs {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    face: FaceArgs,
    /// The file to write (.safetensors); `generate --identity` takes it, as do tools for textual inversions
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Carries out `encode`.
pub(crate) fn run(args: &EncodeArgs) -> Result<()> {
    prepare_file(&args.out)?;
    let photo = args.face.photo()?;
    let device = args.device.open()?;
    let dtype = args.device.dtype_or(&device, DType::F32)?;
    let encoded = Pipeline::new(args.model.open()?, device, dtype)?.encode(&photo, args.face.selection())?;
    encoded.identity.save(&args.out)?;
    let (identity, about) = (&encoded.identity, encoded.identity.about());
    let licence = about.licence.as_deref().unwrap_or("not stated");
    show(&format!(
        "{}identity: {} words of {} numbers, {}\nface encoder's licence: {licence}\nwrote {}\n",
        describe(&args.face, &encoded),
        identity.words(),
        identity.width(),
        identity.hash(),
        args.out.display()
    ))
}

/// The face that was found and the time that it took.
pub(super) fn describe(args: &FaceArgs, encoded: &Encoded) -> String {
    let ([x0, y0, x1, y1], times) = (encoded.face.bbox, &encoded.times);
    let ms = |t: Duration| t.as_secs_f64() * 1e3;
    format!(
        "face: {}, box {x0:.0},{y0:.0} to {x1:.0},{y1:.0} ({:.0}x{:.0} pixels), score {:.3}\nencoded in {:.1} ms: detection {:.1}, alignment {:.1}, encoder {:.1} (and loading {:.0} ms)\n",
        shown(args.face.as_deref()),
        x1 - x0,
        y1 - y0,
        encoded.face.score,
        ms(times.detect + times.align + times.encode),
        ms(times.detect),
        ms(times.align),
        ms(times.encode),
        ms(times.load)
    )
}
