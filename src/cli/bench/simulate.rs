//! `bench --simulate`: bounds of the CUDA kernels, without a device.

use super::super::format::table;
use super::super::show;
use clap::ValueEnum;
use dreamid_engine::simulate::{Flaw, Gpu, KernelFigures, Report, StageFigures, Tables, simulate};
use dreamid_engine::{Error, Result};
use std::path::Path;

const COUNTERS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/counters.csv"));
const RESOURCES: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/resources.csv"));

/// Devices whose published figures are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Simulated {
    /// NVIDIA A100 SXM 40 GB
    A100,
    /// NVIDIA H100 SXM 80 GB
    H100,
}

/// Prints the bounds on a device; `json` is where they are also written.
pub(super) fn run(device: Simulated, json: Option<&Path>) -> Result<()> {
    let gpu = match device {
        Simulated::A100 => Gpu::A100,
        Simulated::H100 => Gpu::H100,
    };
    let report = simulate(&gpu, &Tables::new(COUNTERS, RESOURCES)?)?;
    show(&text(&report))?;
    json.map_or(Ok(()), |path| {
        let text = serde_json::to_string_pretty(&report).map_err(|e| Error::input(e.to_string()))?;
        std::fs::write(path, text + "\n").map_err(|e| Error::io(path, "write", e))
    })
}

fn text(report: &Report) -> String {
    let stages: String = report.stages.iter().map(stage).collect();
    format!("{} ({})\n{}\n\n{stages}{}", report.kind, report.device, report.subject, overview(report))
}

fn stage(figures: &StageFigures) -> String {
    let header = ["kernel", "n", "us", "share", "binds", "occupancy", "waves", "tail", "MB", "of least", "useful", "conflicts", ""];
    let rows: Vec<Vec<String>> = figures.kernels.iter().map(kernel).collect();
    format!("{}: {} launches, at least {:.3} ms\n{}\n", figures.stage, figures.launches, figures.bound_ms, table(&header, &rows))
}

fn kernel(figures: &KernelFigures) -> Vec<String> {
    let flaw = |flaw: &Flaw| match flaw {
        Flaw::Sectors => "! sectors",
        Flaw::Conflicts => "! conflicts",
        Flaw::Bytes => "! bytes",
    };
    vec![
        figures.kernel.clone(),
        figures.launches.to_string(),
        format!("{:.1}", figures.bound_us),
        format!("{:.1} %", 100.0 * figures.share),
        format!("{:?}", figures.limit).to_lowercase(),
        format!("{:.0} %", 100.0 * figures.occupancy),
        format!("{:.2}", figures.waves),
        format!("{:.2}", figures.tail),
        format!("{:.1}", figures.bytes as f64 / 1e6),
        format!("{:.2} x", figures.bytes as f64 / figures.compulsory_bytes.max(1) as f64),
        format!("{:.1} %", 100.0 * figures.useful),
        format!("{:.3}", figures.conflicts),
        figures.flaws.iter().map(flaw).collect::<Vec<_>>().join(" "),
    ]
}

fn overview(report: &Report) -> String {
    let row = |s: &StageFigures| {
        vec![
            s.stage.to_owned(),
            s.launches.to_string(),
            format!("{:.3}", s.bound_ms),
            s.runs.to_string(),
            format!("{:.1}", s.flops as f64 / s.bound_ms / 1e9),
            s.target_ms.map_or("-".to_owned(), |ms| format!("{ms:.1}")),
            s.target_ms.map_or("", |ms| if s.bound_ms <= ms { "within" } else { "MISSED" }).to_owned(),
            s.published.to_owned(),
        ]
    };
    let header = ["stage", "launches", "ms", "runs", "TFLOP/s", "target ms", "", "published by others"];
    let rows: Vec<Vec<String>> = report.stages.iter().map(row).collect();
    format!(
        "{}a picture in all: {:.0} ms\n\n\
         binds: what takes longest; occupancy: warps that a multiprocessor holds; waves: blocks over those that the device holds at once;\n\
         tail: blocks of the fullest multiprocessor over the average; of least: bytes touched over inputs, weights and outputs;\n\
         useful: sectors that would do over those asked for; conflicts: wavefronts of shared memory over the fewest\n\
         {}; docs/simulated-bounds.md says what it rests on\n",
        table(&header, &rows),
        report.picture_ms,
        report.kind
    )
}
