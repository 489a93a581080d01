//! Processes with the emulated device in place of the driver.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Where the emulated driver is laid out, for this process's children only.
fn driver() -> &'static Path {
    static FOLDER: OnceLock<std::path::PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulated-driver").join(std::process::id().to_string());
        cuda_emulator::install(&folder).unwrap()
    })
}

/// A command that finds the emulated driver. `settings` are the emulator's environment variables.
pub(crate) fn command(program: &Path, settings: &[(&str, &str)]) -> Command {
    let mut paths = vec![driver().to_path_buf()];
    paths.extend(std::env::split_paths(&std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default()));
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", std::env::join_paths(paths).unwrap());
    // what the pinned NVRTC makes is newer than the driver that is emulated by default
    command.env("CUEMU_DRIVER_VERSION", "12090").envs(settings.iter().copied());
    command
}

/// Runs the ignored test `name` of this test file in a process of its own.
#[track_caller]
pub(crate) fn run_test(name: &str, settings: &[(&str, &str)]) -> Output {
    let program = std::env::current_exe().unwrap();
    let output = command(&program, settings).args(["--ignored", "--exact", name, "--nocapture"]).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{name} with {settings:?} failed:\n{text}");
    output
}
