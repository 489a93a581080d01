//! Lists the files of the embedded default, so that they need no list kept by hand: see `src/embedded.rs`.
#![allow(clippy::print_stdout)] // this is how a build script talks to cargo

use std::path::{Path, PathBuf};
use std::{env, fs, io};

const MODEL: &str = "assets/miniature";
/// What a model folder consists of; recipes, reports and figures beside them stay out of the program.
const PARTS: [&str; 8] = ["scheduler", "tokenizer", "text_encoder", "unet", "vae", "face_encoder", "projector", "photos"];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    // a path that does not exist counts as changed, always
    let watched = if Path::new(MODEL).exists() { MODEL } else { "assets" };
    println!("cargo::rerun-if-changed={watched}");
    println!("cargo::rustc-check-cfg=cfg(has_miniature)");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?).join(MODEL);
    let mut files = Vec::new();
    if root.join("model_index.json").is_file() {
        // for the tests of the embedded default
        println!("cargo::rustc-cfg=has_miniature");
        files.push(root.join("model_index.json"));
        for part in PARTS {
            collect(&root.join(part), &mut files)?;
        }
    }
    files.sort();
    let mut list = String::from("&[\n");
    for file in &files {
        let name = file.strip_prefix(&root).map_err(io::Error::other)?.to_string_lossy().replace('\\', "/");
        list += &format!("    ({name:?}, include_bytes!({:?})),\n", file.to_string_lossy());
    }
    let out = PathBuf::from(env::var("OUT_DIR").map_err(io::Error::other)?);
    fs::write(out.join("miniature.rs"), list + "]\n")
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| ["json", "txt", "safetensors", "png"].iter().any(|known| e == *known)) {
            files.push(path);
        }
    }
    Ok(())
}
