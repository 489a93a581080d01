//! NVRTC, ptxas and nvdisasm of pinned versions: installed once into the target folder, from whatever package index pip is set up to use.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The library of NVRTC.
pub(crate) fn nvrtc() -> PathBuf {
    packages().join("nvidia/cuda_nvrtc/lib/libnvrtc.so.12")
}

/// The assembler.
pub(crate) fn ptxas() -> PathBuf {
    packages().join("nvidia/cuda_nvcc/bin/ptxas")
}

/// The disassembler.
pub(crate) fn nvdisasm() -> PathBuf {
    packages().join("nvidia/cu13/bin/nvdisasm")
}

/// The folder that the packages of `tests/cuda-tools.txt` are in. `CUDA_TOOLS` names one that has them already.
fn packages() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| std::env::var_os("CUDA_TOOLS").map_or_else(install, PathBuf::from))
}

const LIST: &str = include_str!("../cuda-tools.txt");

fn install() -> PathBuf {
    // another list is another folder
    let mut hash = DefaultHasher::new();
    LIST.hash(&mut hash);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cuda-tools-{:016x}", hash.finish()));
    if folder.is_dir() {
        return folder;
    }
    // under a name of its own first: several tests may be at it
    let part = folder.with_extension(std::process::id().to_string());
    fs::create_dir_all(&part).unwrap();
    let list = part.join("cuda-tools.txt");
    fs::write(&list, LIST).unwrap();
    let pip = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", "--target"])
        .arg(&part)
        .arg("--requirement")
        .arg(&list)
        .output();
    let hint =
        "these tests need NVRTC: install pip, or set CUDA_TOOLS to a site-packages folder that holds what tests/cuda-tools.txt lists";
    let output = pip.unwrap_or_else(|e| panic!("cannot run python3: {e}; {hint}"));
    assert!(output.status.success(), "{}\n{hint}", String::from_utf8_lossy(&output.stderr));
    if fs::rename(&part, &folder).is_err() {
        // another test was first
        assert!(folder.is_dir(), "cannot make {}", folder.display());
        fs::remove_dir_all(&part).unwrap();
    }
    folder
}
