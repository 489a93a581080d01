//! `tune` and `bench` on the emulated device: what is kept, who believes it, that tiles change no result, that every figure is there and
//! said to be an emulator's; and the script that runs both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use common::{emulated, tools};
use serde_json::Value;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The smallest model, with a cache folder of its own.
struct Tuning {
    folder: tempfile::TempDir,
}

impl Tuning {
    /// With what a first run of `tune` has kept, kernels and choices.
    fn new() -> Self {
        static FIRST: OnceLock<(Tuning, String)> = OnceLock::new();
        let (first, log) = FIRST.get_or_init(|| {
            let first = Self { folder: tempfile::tempdir().unwrap() };
            let log = first.run(&["tune", "--once"]);
            (first, log)
        });
        assert!(log.contains("emulated device") && log.contains("products run faster"), "{log}");
        let own = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(own.folder.path().join("tiles")).unwrap();
        std::fs::copy(first.file(), own.file()).unwrap();
        for file in std::fs::read_dir(first.folder.path()).unwrap().map(|f| f.unwrap()) {
            if file.path().extension().is_some_and(|e| e == "ptx") {
                std::fs::copy(file.path(), own.folder.path().join(file.file_name())).unwrap();
            }
        }
        own
    }

    fn program(&self, command: &[&str]) -> Command {
        let counters = self.counters().display().to_string();
        let mut program = emulated::command(Path::new(env!("CARGO_BIN_EXE_dreamid-engine")), &[("CUEMU_COUNTERS", &counters)]);
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiny-a");
        program.args(command).args(["--device", "cuda", "--size", "16x16", "--model"]).arg(model);
        program.arg("--nvrtc").arg(tools::nvrtc()).arg("--kernel-cache").arg(self.folder.path());
        program
    }

    /// Standard output and error of a run that must succeed.
    fn run(&self, command: &[&str]) -> String {
        let output = self.program(command).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{text}");
        text
    }

    /// The bytes of a picture, and what the program said.
    fn picture(&self, extra: &[&str]) -> (Vec<u8>, String) {
        let path = self.folder.path().join("picture.png");
        let common = ["generate", "--prompt", "oil painting", "--steps", "2", "--dtype", "bf16", "--out", path.to_str().unwrap()];
        let log = self.run(&[&common, extra].concat());
        (image::open(&path).unwrap().to_rgb8().into_raw(), log)
    }

    fn counters(&self) -> PathBuf {
        self.folder.path().join("counters.jsonl")
    }

    /// Kernel, grid, block and shared memory of all launches of the last run.
    fn launches(&self) -> HashSet<String> {
        let launch = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            assert!(line["kernel"].is_string() && line["grid"].is_array() && line["block"].is_array(), "{line}");
            format!("{} {} {} {}", line["kernel"], line["grid"], line["block"], line["dynamic_shared"])
        };
        std::fs::read_to_string(self.counters()).unwrap().lines().map(launch).collect()
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("tiles/nvidia-a100-sxm4-40gb-emulated.json")
    }

    fn kept(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.file()).unwrap()).unwrap()
    }
}

/// Every product gets a tile that the count of cycles did not choose; the picture has the same bytes.
#[test]
fn measured_tiles_change_launches_and_no_bit() {
    let tuning = Tuning::new();
    let mut kept = tuning.kept();
    assert_eq!(kept["device"], "NVIDIA A100-SXM4-40GB (emulated)");
    let products = kept["products"].as_object_mut().unwrap();
    assert!(products.len() > 20, "{} products", products.len());
    for product in products.values_mut() {
        let times = product["microseconds"].as_object().unwrap();
        assert!(times.len() > 1 && times.values().all(|t| t[1].as_f64().unwrap() > 0.0), "{times:?}");
        let default = format!("{}x{}", product["default"][0], product["default"][1]);
        let other = times.keys().filter(|&name| *name != default).max().unwrap();
        let shape: Vec<u32> = other.split('x').map(|n| n.parse().unwrap()).collect();
        product["chosen"] = shape.into();
    }
    let named = tuning.folder.path().join("named.json");
    std::fs::write(&named, kept.to_string()).unwrap();
    let (plain, _) = tuning.picture(&["--no-tiles"]);
    let usual = tuning.launches();
    let (tiled, _) = tuning.picture(&["--tiles", named.to_str().unwrap()]);
    let others = tuning.launches();
    assert!(others.difference(&usual).count() > 5, "{others:?} are those without measured tiles");
    std::fs::rename(&named, tuning.file()).unwrap();
    let (by_itself, _) = tuning.picture(&[]);
    assert_eq!(tuning.launches(), others, "what is kept is loaded by itself");
    assert!(plain == tiled && plain == by_itself, "tiles change the picture");
}

#[test]
fn a_second_run_goes_on_where_the_first_stopped() {
    let tuning = Tuning::new();
    let mut kept = tuning.kept();
    let products = kept["products"].as_object_mut().unwrap();
    let (count, first) = (products.len(), products.keys().next().unwrap().clone());
    products.remove(&first);
    products.values_mut().for_each(|p| p["microseconds"] = serde_json::json!({"64x64": [1.5, 2.5, 3.5]}));
    std::fs::write(tuning.file(), kept.to_string()).unwrap();
    tuning.run(&["tune", "--once"]);
    let again = tuning.kept();
    let products = again["products"].as_object().unwrap();
    assert_eq!(products.len(), count);
    for (name, product) in products {
        assert_eq!(product["microseconds"] == serde_json::json!({"64x64": [1.5, 2.5, 3.5]}), *name != first, "{name}");
    }
}

#[test]
fn files_that_are_damaged_or_of_another_device_are_ignored_with_a_warning() {
    let tuning = Tuning::new();
    let (plain, log) = tuning.picture(&[]);
    assert!(!log.contains("tiles"), "{log}");
    let kept = tuning.kept();
    let changed = |key: &str, value: &str| {
        let mut other = kept.clone();
        other[key] = value.into();
        other.to_string()
    };
    let mut driver = kept.clone();
    driver["driver"] = 12000.into();
    let cases = [
        ("{\"device\": 3".to_owned(), "is damaged"),
        (String::new(), "is damaged"),
        (changed("device", "NVIDIA H100 80GB HBM3"), "was measured on NVIDIA H100"),
        (changed("kernels", "0123456789abcdef"), "other kernels"),
        (driver.to_string(), "another driver"),
    ];
    for (text, warning) in cases {
        std::fs::write(tuning.file(), text).unwrap();
        let (picture, log) = tuning.picture(&[]);
        assert!(log.contains(warning) && log.contains("ignored") && picture == plain, "expected `{warning}`: {log}");
    }
    let missing = tuning.program(&["bench", "--stages", "text", "--tiles", "nowhere.json"]).output().unwrap();
    let text = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(!missing.status.success() && text.contains("nowhere.json") && text.contains("no such file"), "{text}");
}

#[test]
fn the_processor_is_not_tuned() {
    let output = Command::new(env!("CARGO_BIN_EXE_dreamid-engine")).args(["tune", "--device", "cpu"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("--device cuda"), "{text}");
    let output = Command::new(env!("CARGO_BIN_EXE_dreamid-engine")).args(["tune", "--no-tiles"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("tune makes them"), "{text}");
}

#[test]
fn bench_fills_in_every_figure_and_says_that_the_device_is_emulated() {
    let tuning = Tuning::new();
    let json = tuning.folder.path().join("bench.json");
    let common = ["bench", "--stages", "text", "--repeat", "2", "--profile", "--json", json.to_str().unwrap()];
    let text = tuning.run(&common);
    assert!(text.contains("EMULATED") && text.contains("replay ms") && text.contains("of tensor peak"), "{text}");
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let positive = |of: &Value, keys: &[&str]| {
        for key in keys {
            assert!(of[key].as_f64().is_some_and(|x| x > 0.0), "{key} in {of}");
        }
    };
    let cuda = &report["cuda"];
    assert_eq!((&cuda["emulated"], &cuda["name"]), (&Value::Bool(true), &"NVIDIA A100-SXM4-40GB (emulated)".into()));
    positive(cuda, &["driver", "multiprocessors", "memory_mib", "free_mib", "upload_gb_per_s"]);
    positive(&cuda["peak"], &["tensor_tflop_per_s", "memory_gb_per_s"]);
    positive(&cuda["cold_start"], &["open_ms", "kernels", "compile_ms", "from_cache_ms"]);
    positive(&report["ceilings"], &["gemm_gflops", "memory_gb_per_s"]);
    let stages = report["stages"].as_array().unwrap();
    assert_eq!(stages.iter().map(|s| s["stage"].as_str().unwrap()).collect::<Vec<_>>(), ["text"]);
    let figures = ["median_ms", "p95_ms", "gflop", "bytes", "load_ms", "first_run_ms", "share_of_arithmetic", "share_of_bandwidth"];
    positive(&stages[0], &figures);
    let device = &stages[0]["on_device"];
    positive(device, &["replay_ms", "single_launches_ms", "launches", "weights_mib", "free_mib"]);
    let kernels = device["kernels"].as_array().unwrap();
    let operations: HashSet<&str> = kernels.iter().map(|k| k["operation"].as_str().unwrap()).collect();
    assert!(operations.is_superset(&["linear", "attention", "layer_norm", "embedding"].into()), "{operations:?}");
    kernels.iter().for_each(|kernel| positive(kernel, &["nodes", "ms", "share", "gb_per_s", "share_of_bandwidth"]));
    let shares: f64 = kernels.iter().map(|k| k["share"].as_f64().unwrap()).sum();
    assert!((shares - 1.0).abs() < 1e-6, "shares add up to {shares}");
}

/// The script only ever runs where there is a GPU, or by hand: what it would do must at least be something that the program knows.
#[test]
fn the_script_for_devices_calls_what_there_is() {
    for mode in [&["--dry-run"][..], &["--dry-run", "--emulated"]] {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/gpu.sh");
        // where nothing was done before
        let target = tempfile::tempdir().unwrap();
        let output = Command::new("bash").arg(script).args(mode).env("CARGO_TARGET_DIR", target.path()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && text.contains("== results"), "{text}");
        let calls: Vec<Vec<&str>> =
            text.lines().filter(|l| l.contains("release/dreamid-engine ")).map(|l| l.split(' ').collect()).collect();
        assert!(calls.len() >= 2, "{text}");
        for call in calls {
            let help = Command::new(env!("CARGO_BIN_EXE_dreamid-engine")).args([call[2], "--help"]).output().unwrap();
            let help = String::from_utf8_lossy(&help.stdout).into_owned();
            assert!(help.contains("Usage"), "{call:?}");
            for flag in call.iter().filter(|word| word.starts_with("--")) {
                assert!(help.split_whitespace().any(|word| word == *flag), "{} does not take {flag}", call[2]);
            }
        }
    }
}
