//! Kernels compiled to assembly, kept in the target folder by the hash of their text.

use dreamid_engine::device::cuda::{Code, Compiler};
use dreamid_engine::device::{Arch, HEADERS, KernelKey};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// File with the assembly of the kernel file of `key` under its definitions.
pub(crate) fn assembly(compiler: &Compiler, key: &KernelKey, arch: Arch) -> Result<PathBuf, String> {
    let mut hash = Sha256::new();
    for (name, text) in included(key.file.text).into_iter().chain([("file", key.file.text), ("params.cuh", &key.file.params_header())]) {
        hash.update(format!("{name} {} {text}", text.len()));
    }
    hash.update(format!("{:?} {} {:?}", key.defines, arch.0, compiler.version()));
    let hex: String = hash.finalize().iter().take(12).map(|b| format!("{b:02x}")).collect();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernels").join(format!("{}-{hex}.ptx", key.file.stem));
    if !path.is_file() {
        let mut code = compiler.compile(key, arch, Code::Ptx).map_err(|e| e.to_string())?;
        while code.last() == Some(&0) {
            code.pop();
        }
        keep(&path, &code);
    }
    Ok(path)
}

/// The oldest kind of device whose assembly is that of `arch`, its target's name aside: compiling takes longer than assembling.
pub(crate) fn family(arch: Arch) -> Arch {
    match arch.0 {
        80 | 89 | 90 => Arch(80),
        100 | 120 => Arch(100),
        _ => arch,
    }
}

/// The headers that a text includes, and those that they include, by name: a change of any other one costs no time.
fn included(text: &str) -> BTreeMap<&'static str, &'static str> {
    let mut found = BTreeMap::new();
    let mut texts = vec![text];
    while let Some(text) = texts.pop() {
        let named = |header: &&(&'static str, &'static str)| text.contains(&format!("\"{}\"", header.0));
        for (name, text) in HEADERS.iter().filter(named) {
            if found.insert(*name, *text).is_none() {
                texts.push(text);
            }
        }
    }
    found
}

/// Writes a file whole or not at all: several tests may be at it.
pub(crate) fn keep(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let part = path.with_extension(format!("{}-{:?}", std::process::id(), std::thread::current().id()));
    fs::write(&part, bytes).unwrap();
    fs::rename(&part, path).unwrap();
}
