//! Runs tests in processes that load the emulator, and what they share.

use cudarc::driver::{CudaContext, CudaModule, CudaStream, DriverError, sys};
use cudarc::nvrtc::Ptx;
use std::process::Command;
use std::sync::Arc;

const CHILD: &str = "CUEMU_TEST_CHILD";
/// Where the loader looks: for the emulator first, then where a test says.
const LIBRARIES: &str = "LD_LIBRARY_PATH";

/// Defines a test that runs under the emulator, with further environment variables, and may look at what the process wrote to its error
/// stream.
macro_rules! emulated {
    ($(#[$doc:meta])* fn $name:ident() $body:block $(then |$stderr:ident| $check:block)?) => {
        emulated! { $(#[$doc])* fn $name() with [] $body $(then |$stderr| $check)? }
    };
    ($(#[$doc:meta])* fn $name:ident() with [$($var:literal = $value:expr),*] $body:block $(then |$stderr:ident| $check:block)?) => {
        $(#[$doc])*
        #[test]
        fn $name() {
            #[allow(unused_variables)]
            if let Some(stderr) = $crate::harness::child(concat!(module_path!(), "::", stringify!($name)), &[$(($var, &$value)),*], || $body) {
                $(let $stderr = stderr.as_str(); $check)?
            }
        }
    };
}

/// In the child: runs `body`. In the parent: runs the child, expects it to pass, and returns its error stream.
pub(crate) fn child(test: &str, variables: &[(&str, &str)], body: impl FnOnce()) -> Option<String> {
    if std::env::var_os(CHILD).is_some() {
        body();
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let driver = cuda_emulator::install(&folder.path().join("driver")).unwrap();
    let (_, name) = test.split_once("::").unwrap();
    let further = variables.iter().find(|(name, _)| *name == LIBRARIES).map_or("", |(_, folder)| folder);
    let path = format!("{}:{further}", driver.display());
    let mut command = Command::new(std::env::current_exe().unwrap());
    // Settings of whoever runs the tests are not theirs.
    for (setting, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CUEMU_")) {
        command.env_remove(setting);
    }
    command.env_remove("CUDA_LAUNCH_BLOCKING");
    command.args([name, "--exact", "--nocapture"]).env(CHILD, "1").envs(variables.iter().copied()).env(LIBRARIES, path);
    let output = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("1 passed"), "{name}\n{stdout}\n{stderr}");
    Some(stderr.into_owned())
}

/// A context without cudarc's event tracking, and a stream of its own.
pub(crate) fn start() -> (Arc<CudaContext>, Arc<CudaStream>) {
    let context = CudaContext::new(0).unwrap();
    // SAFETY: the tests order their streams themselves.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().unwrap();
    (context, stream)
}

/// The kernels of `data/driver.cu`.
pub(crate) fn kernels(context: &Arc<CudaContext>) -> Arc<CudaModule> {
    context.load_module(Ptx::from_src(include_str!("../data/driver.ptx"))).unwrap()
}

/// Checks the status of a failed call.
pub(crate) fn fails<T>(with: sys::CUresult, result: Result<T, DriverError>) {
    assert_eq!(result.err().map(|error| error.0), Some(with));
}

/// The text of the last fault.
pub(crate) fn last_fault() -> String {
    emulator_text(b"cuemuLastFault\0")
}

/// The text that an exported function of the emulator gives.
pub(crate) fn emulator_text(function: &[u8]) -> String {
    type Query = unsafe extern "C" fn(*mut u8, usize) -> usize;
    // SAFETY: the emulator exports these with this signature, and writes no more than the size that it is given.
    unsafe {
        let query = sys::culib().get::<Query>(function).unwrap();
        let mut text = vec![0; query(std::ptr::null_mut(), 0)];
        query(text.as_mut_ptr(), text.len());
        text.pop();
        String::from_utf8(text).unwrap()
    }
}

/// The parameters of `axpy`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Axpy {
    pub(crate) y: u64,
    pub(crate) x: u64,
    pub(crate) a: f32,
    pub(crate) n: i32,
}

// SAFETY: plain numbers in the layout of C.
unsafe impl cudarc::driver::DeviceRepr for Axpy {}
