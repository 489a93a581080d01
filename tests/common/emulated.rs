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

/// Set in processes that were started for one test.
const CHILD: &str = "DREAMID_TEST_OF_THE_EMULATED_DRIVER";

/// Runs `body` in a process of its own that finds the emulated driver: the test `name` of this test file, started again.
#[track_caller]
pub(crate) fn test(name: &str, settings: &[(&str, &str)], body: fn()) {
    if std::env::var_os(CHILD).is_some() {
        return body();
    }
    let program = std::env::current_exe().unwrap();
    let output = command(&program, settings).args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
    let text = text(&output);
    assert!(output.status.success() && text.contains("1 passed"), "{name} with {settings:?} failed:\n{text}");
}

/// A call of the driver at which the host waits or may wait, or one on a graph.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Call {
    #[serde(rename = "call")]
    pub(crate) name: String,
    graph: Option<u64>,
}

impl Call {
    /// The graph that it launches, if it launches one.
    pub(crate) fn launched(&self) -> Option<u64> {
        self.graph.filter(|_| self.name == "cuGraphLaunch")
    }
}

/// Such calls of this process so far, as the emulated driver tells them.
pub(crate) fn calls() -> Vec<Call> {
    type Query = unsafe extern "C" fn(*mut u8, usize) -> usize;
    // SAFETY: the emulator exports this with this signature, and writes no more than the size that it is given.
    let text = unsafe {
        let query = cudarc::driver::sys::culib().get::<Query>(b"cuemuCalls\0").unwrap();
        let mut text = vec![0; query(std::ptr::null_mut(), 0)];
        query(text.as_mut_ptr(), text.len());
        text.pop();
        String::from_utf8(text).unwrap()
    };
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Everything that a process wrote.
pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Tests `name [settings] => body`, each in a process of its own that finds the emulated driver.
#[macro_export]
macro_rules! on_the_emulated_driver {
    ($($(#[$doc:meta])* $name:ident [$($variable:ident = $value:literal),*] => $body:ident;)*) => {
        $($(#[$doc])* #[test] fn $name() {
            $crate::common::emulated::test(stringify!($name), &[$((stringify!($variable), $value)),*], $body);
        })*
    };
}
