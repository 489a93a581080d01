//! Lays the emulator out as a driver, in a folder of its own.

use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

/// What cargo calls the C library of this crate. It is not called `libcuda.so`: cargo puts its target folders on the loader's path, where
/// that name would hide a real driver.
const BUILT: &str = "libcuda_emulator.so";

/// Makes `into` a folder that a program finds as the CUDA driver when it is first on `LD_LIBRARY_PATH`: `libcuda.so` and `libcuda.so.1`, both
/// links to the built emulator. Returns the folder, absolute.
///
/// The emulator is looked for beside the running program and in the folders above it, where cargo puts the libraries that its tests and
/// examples depend on. The loader reads `LD_LIBRARY_PATH` when a process starts, so it has to be set for a new process.
pub fn install(into: &Path) -> Result<PathBuf> {
    let built = find(&std::env::current_exe()?)?;
    std::fs::create_dir_all(into)?;
    let into = into.canonicalize()?;
    for name in ["libcuda.so", "libcuda.so.1"] {
        let link = into.join(name);
        if link.symlink_metadata().is_ok() {
            std::fs::remove_file(&link)?;
        }
        std::os::unix::fs::symlink(&built, &link)?;
    }
    Ok(into)
}

/// Of the libraries near the program, the one that was built last.
fn find(program: &Path) -> Result<PathBuf> {
    let folders = program.ancestors().skip(1).take(3);
    let candidates = folders.flat_map(|folder| [folder.join(BUILT), folder.join("deps").join(BUILT)]);
    let built = candidates.filter_map(|file| Some((file.metadata().ok()?.modified().ok()?, file)));
    let newest = built.max_by_key(|(time, _)| *time).map(|(_, file)| file);
    newest.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no {BUILT} near {}: build the package cuda-emulator", program.display())))
}
