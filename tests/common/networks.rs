//! Whole networks of tiny models through the program, against what public Python libraries compute on the same weights; and whole requests.

use dreamid_engine::Tensor;
use dreamid_engine::weights::{Weights, save};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program on some device: command and precision in.
pub(crate) type Program = fn(&[&str], &str) -> Command;

/// Stored as f32, f16 and bf16; of unusual shapes.
pub(crate) const MODELS: [&str; 3] = ["tiny-a", "tiny-b", "tiny-c"];

pub(crate) fn folder(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(model)
}

pub(crate) fn expected(model: &str) -> Weights {
    Weights::open(folder(model).join("expected.safetensors")).unwrap()
}

pub(crate) fn on_cpu(command: &[&str], dtype: &str) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_dreamid-engine"));
    program.args(command).args(["--device", "cpu", "--dtype", dtype]);
    program
}

pub(crate) fn succeed(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&output.stderr));
}

/// What `run GRAPH` gives for some tensors.
pub(crate) fn run(program: Program, graph: &str, model: &str, dtype: &str, tensors: &[(&str, Tensor)], extra: &[&str]) -> Weights {
    let dir = tempfile::tempdir().unwrap();
    let (inputs, outputs) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
    let refs: Vec<(&str, &Tensor)> = tensors.iter().map(|(n, t)| (*n, t)).collect();
    save(&inputs, &refs, &[]).unwrap();
    let mut command = program(&["run", graph], dtype);
    command.args(extra).arg("--model").arg(folder(model)).arg("--inputs").arg(&inputs).arg("--outputs").arg(&outputs);
    succeed(command);
    // read now: the folder goes
    Weights::from_bytes(format!("{graph} of {model}"), std::fs::read(&outputs).unwrap()).unwrap()
}

/// Largest difference over largest value.
pub(crate) fn error(got: &Tensor, want: &Tensor) -> f32 {
    assert_eq!(got.shape(), want.shape());
    let (got, want) = (got.to_f32_vec(), want.to_f32_vec());
    let scale = want.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    got.iter().zip(&want).fold(0.0f32, |m, (a, b)| if (a - b).is_finite() { m.max((a - b).abs()) } else { f32::INFINITY }) / scale
}

/// A network with a case of the fixture: its name, what it takes, what it gives under which name of the fixture.
pub(crate) struct Network {
    pub(crate) graph: &'static str,
    pub(crate) case: &'static str,
    takes: &'static [&'static str],
    gives: &'static [(&'static str, &'static str)],
}

const UNET: &[&str] = &["latents", "timesteps", "context"];
pub(crate) const NETWORKS: [Network; 6] = [
    Network { graph: "text", case: "text", takes: &["input_ids"], gives: &[("hidden", "hidden")] },
    Network { graph: "text", case: "text", takes: &["input_ids", "positions", "embeds"], gives: &[("hidden", "hidden_injected")] },
    Network { graph: "unet", case: "unet.0", takes: UNET, gives: &[("eps", "eps")] },
    Network { graph: "unet", case: "unet.2", takes: UNET, gives: &[("eps", "eps")] },
    Network { graph: "vae-decode", case: "vae", takes: &["latents"], gives: &[("image", "decoded")] },
    Network { graph: "vae-encode", case: "vae", takes: &["image"], gives: &[("mean", "mean"), ("logvar", "logvar")] },
];

impl Network {
    /// Largest difference to the fixture, over the largest value.
    pub(crate) fn error(&self, program: Program, model: &str, dtype: &str) -> f32 {
        let want = expected(model);
        let got = run(program, self.graph, model, dtype, &given(&want, self.case, self.takes), &[]);
        let errors = self
            .gives
            .iter()
            .map(|(name, known)| error(&got.tensor(name).unwrap(), &want.tensor(&format!("{}.{known}", self.case)).unwrap()));
        errors.fold(0.0, f32::max)
    }
}

/// Tensors of a case of the fixture by name.
pub(crate) fn given(want: &Weights, case: &str, names: &[&'static str]) -> Vec<(&'static str, Tensor)> {
    names.iter().map(|name| (*name, want.tensor(&format!("{case}.{name}")).unwrap())).collect()
}

/// Three steps of `generate` in f32 on both devices: no byte of the picture may differ by more than one.
pub(crate) fn same_picture(on_cuda: Program, arguments: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let picture = |program: Program, name: &str| {
        let path = dir.path().join(name);
        let mut command = program(&["generate", "--steps", "3"], "f32");
        command.args(arguments).arg("--out").arg(&path);
        succeed(command);
        image::open(&path).unwrap().to_rgb8().into_raw()
    };
    let (cuda, cpu) = (picture(on_cuda, "cuda.png"), picture(on_cpu, "cpu.png"));
    assert_eq!(cuda.len(), cpu.len());
    let off = cuda.iter().zip(&cpu).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(off <= 1, "a byte of the picture differs by {off}");
    assert!(cpu.iter().any(|b| *b != cpu[0]), "the picture is of one colour");
}
