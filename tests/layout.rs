//! Level 1: the tree keeps its promises. Each check reads the files themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

const RUST_LINES: usize = 400;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}

#[test]
fn every_operation_has_a_file_of_its_name() {
    let ops = dreamid_engine::ops::all_cases();
    assert!(ops.len() > 20, "only {} operations are registered", ops.len());
    for (name, _) in ops {
        let file = root().join("src/ops").join(format!("{name}.rs"));
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert!(text.contains(&format!("const NAME: &'static str = \"{name}\"")), "{} does not declare {name}", file.display());
    }
}

/// Gradients of what is no operation of its own, with the reason.
const GRADIENTS_OF_PARTS: [(&str, &str); 1] = [("resize_grad", "the resize is folded into the reads of conv2d")];

#[test]
fn every_gradient_stands_beside_its_operation() {
    let ops: Vec<&str> = dreamid_engine::ops::all_cases().into_iter().map(|(name, _)| name).collect();
    let gradients: Vec<&str> = ops.iter().copied().filter(|name| name.ends_with("_grad")).collect();
    assert!(gradients.len() > 15, "only {} gradients are registered", gradients.len());
    for gradient in gradients {
        let forward = gradient.trim_end_matches("_grad");
        assert!(
            ops.contains(&forward) || GRADIENTS_OF_PARTS.iter().any(|(name, _)| *name == gradient),
            "{gradient} is the gradient of nothing"
        );
    }
}

#[test]
fn every_kernel_has_its_operation_and_its_row() {
    let table = fs::read_to_string(root().join("kernels/README.md")).unwrap();
    let ops: Vec<&str> = dreamid_engine::ops::all_cases().into_iter().map(|(name, _)| name).collect();
    for kernel in files("kernels", "cu") {
        let name = stem(&kernel);
        let known = ops.iter().any(|op| name == *op || name.starts_with(&format!("{op}_")));
        assert!(known, "kernels/{name}.cu has no operation");
        assert!(table.contains(&format!("| `{name}` |")), "kernels/README.md has no row for {name}");
    }
}

/// What the header of a kernel file states, in this order.
const HEADER: [&str; 9] =
    ["Computes", "Shapes and layout", "Work split", "Shared memory", "Numerics", "Specialised by", "Entries", "Gradient", "Sources"];

/// The parts of [`HEADER`] that lines of a comment begin with, each with the text that follows in its line, in their order.
fn stated(text: &str) -> Vec<(&'static str, String)> {
    let comment = text.lines().map_while(|line| line.strip_prefix("// "));
    let part = |line: &str| {
        let name = HEADER.into_iter().find(|name| line.starts_with(name))?;
        Some((name, line[name.len()..].trim_start_matches(':').trim().to_owned()))
    };
    comment.filter_map(part).collect()
}

#[test]
fn every_kernel_starts_with_the_header_form() {
    let kernels = files("kernels", "cu");
    assert!(kernels.len() > 40, "only {} kernels", kernels.len());
    for kernel in kernels {
        let text = fs::read_to_string(&kernel).unwrap();
        let found = stated(&text);
        assert_eq!(found.iter().map(|(name, _)| *name).collect::<Vec<_>>(), HEADER, "{}", kernel.display());
        for (name, says) in &found {
            assert!(!says.is_empty(), "{} says nothing of `{name}`", kernel.display());
        }
        // entries that are named are there, and those that are there are named
        let entries = text.lines().filter(|line| line.contains("extern \"C\" __global__"));
        let header: String = text.lines().take_while(|line| line.starts_with("//")).collect();
        for entry in entries {
            let name = entry.split('(').rev().nth(1).and_then(|before| before.split_whitespace().last()).unwrap();
            assert!(header.contains(name), "{}: the header does not name {name}", kernel.display());
        }
    }
}

#[test]
fn inline_assembly_is_in_one_header() {
    let is_asm = |line: &str| {
        line.split("//").next().unwrap().split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "asm" || word == "__asm__")
    };
    let mut inside = 0;
    for file in [files("kernels", "cu"), files("kernels", "cuh")].concat() {
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().filter(|line| is_asm(line)).count();
        if file.ends_with("include/ptx.cuh") {
            inside = lines;
        } else {
            assert_eq!(lines, 0, "{} has inline assembly, which belongs into kernels/include/ptx.cuh", file.display());
        }
    }
    assert!(inside > 5, "only {inside} lines of inline assembly were recognised");
}

#[test]
fn kernels_can_include_every_header() {
    let known: Vec<&str> = dreamid_engine::device::HEADERS.iter().map(|(name, _)| *name).collect();
    for header in files("kernels/include", "cuh") {
        let name = header.file_name().unwrap().to_string_lossy().into_owned();
        assert!(known.contains(&name.as_str()), "kernels/include/{name} is missing from HEADERS in src/device/launch.rs");
    }
}

#[test]
fn rust_files_stay_readable() {
    for file in ["src", "tests", "benches"].iter().flat_map(|f| files(f, "rs")) {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= RUST_LINES, "{} has {lines} lines: split it by idea", file.display());
    }
}

#[test]
fn unsafe_code_stays_in_its_rooms_and_gives_its_reason() {
    let rooms = ["src/device", "src/exec/arena.rs", "src/exec/cpu.rs", "src/weights/file.rs"];
    for file in files("src", "rs") {
        let text = fs::read_to_string(&file).unwrap();
        let name = file.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap();
            if !code.contains("unsafe {") && !code.contains("unsafe impl") {
                continue;
            }
            assert!(rooms.iter().any(|r| name.starts_with(r)), "{name}:{} has unsafe code outside {rooms:?}", i + 1);
            let nearby = &lines[i.saturating_sub(6)..=i];
            // an implementation of one-line intrinsics may give the reason once, above all of them
            let reason = nearby.iter().any(|l| l.contains("SAFETY")) || lines[..i].iter().any(|l| l.contains("SAFETY of every block"));
            assert!(reason, "{name}:{} has an unsafe block without its SAFETY reason", i + 1);
        }
    }
}

#[test]
fn third_party_files_carry_their_licence_and_hash() {
    use sha2::{Digest, Sha256};
    for folder in ["assets/networks", "assets/photos", "assets/miniature"] {
        let folder = root().join(folder);
        assert!(folder.join("NOTICE").is_file(), "{} has no NOTICE", folder.display());
        let sums = fs::read_to_string(folder.join("SHA256SUMS")).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut listed = 0;
        for line in sums.lines() {
            let (want, name) = line.split_once(char::is_whitespace).unwrap();
            let bytes = fs::read(folder.join(name.trim_start_matches([' ', '*']))).unwrap_or_else(|e| panic!("{name}: {e}"));
            let got: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(got, want, "{name} in {} is not the file of its SHA-256", folder.display());
            listed += 1;
        }
        assert!(listed > 0, "{} lists no file", folder.display());
    }
}
