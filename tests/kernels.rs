//! Level 4: every kernel and specialisation that the full-size graphs use compiles for every kind of device, within the registers and
//! shared memory that `kernels/resources.csv` states. `UPDATE_RESOURCES=1` writes that table anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use common::{lowering, tools};
use dreamid_engine::DType;
use dreamid_engine::device::cuda::{Code, Compiler};
use dreamid_engine::device::{Arch, KernelKey};
use dreamid_engine::graph::lower;
use dreamid_engine::ops::all_cases;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

const ARCHS: [u32; 6] = [80, 86, 89, 90, 100, 120];

/// Kernels that may not spill: they would lose what tensor cores gain.
const WITHOUT_SPILLS: [&str; 3] = ["linear", "conv2d", "attention"];

#[test]
fn every_operation_has_kernels() {
    for (op, cases) in all_cases() {
        for case in cases {
            let (ins, outs) = lowering::types(&case);
            let lowered = case.op.lower(&ins, &outs, &Arch(80).into()).unwrap_or_else(|error| panic!("{op} `{}`: {error}", case.name));
            assert!(!lowered.launches.is_empty(), "{op} `{}` launches nothing", case.name);
        }
    }
}

/// What ptxas says of one kernel on one kind of device.
#[derive(Clone, Debug, PartialEq)]
struct Resources {
    registers: u32,
    stack: u32,
    spilled: u32,
    shared: u32,
}

#[test]
fn every_specialisation_compiles_within_its_resources() {
    let compiler = Compiler::load(Some(&tools::nvrtc())).unwrap();
    let mut wanted: BTreeMap<(u32, String), KernelKey> = BTreeMap::new();
    for dtype in [DType::Bf16, DType::F16] {
        for (_, graph) in lowering::full_size(dtype) {
            for arch in ARCHS.into_iter().filter(|&a| compiler.knows(Arch(a))) {
                let launches = lower(&graph, &Arch(arch).into()).unwrap().into_iter().flat_map(|lowered| lowered.launches);
                wanted.extend(launches.map(|launch| ((arch, launch.kernel.to_string()), launch.kernel)));
            }
        }
    }
    println!("NVRTC {:?}: {} kernels to compile", compiler.version(), wanted.len());
    let jobs: Vec<(&(u32, String), &KernelKey)> = wanted.iter().collect();
    let done: Mutex<BTreeMap<String, Resources>> = Mutex::default();
    let failures: Mutex<Vec<String>> = Mutex::default();
    on_all_cores(jobs.len(), |i| {
        let ((arch, name), key) = jobs[i];
        match resources(&compiler, key, Arch(*arch)) {
            Ok(found) => {
                if found.spilled > 0 && WITHOUT_SPILLS.contains(&key.file.stem) {
                    failures.lock().unwrap().push(format!("{name} spills {} bytes on sm_{arch}", found.spilled));
                }
                done.lock().unwrap().insert(row_name(name, *arch), found);
            }
            Err(what) => failures.lock().unwrap().push(format!("{name} on sm_{arch}: {what}")),
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} kernels fail:\n{}", failures.len(), failures.join("\n"));
    compare_with_table(&done.into_inner().unwrap());
}

fn row_name(kernel: &str, arch: u32) -> String {
    format!("{},{arch}", kernel.replace(',', " "))
}

fn compare_with_table(found: &BTreeMap<String, Resources>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/resources.csv");
    let rows = found.iter().map(|(name, r)| format!("{name},{},{},{},{}\n", r.registers, r.stack, r.spilled, r.shared));
    let text = format!("kernel,sm,registers,stack bytes,spilled bytes,static shared bytes\n{}", rows.collect::<String>());
    if std::env::var_os("UPDATE_RESOURCES").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let table = fs::read_to_string(&path).unwrap();
    let (known, new): (BTreeSet<&str>, BTreeSet<&str>) = (table.lines().collect(), text.lines().collect());
    let changed: Vec<&&str> = new.difference(&known).chain(known.difference(&new)).collect();
    assert!(
        changed.is_empty(),
        "kernels/resources.csv differs in {} rows (UPDATE_RESOURCES=1 writes it anew):\n{changed:#?}",
        changed.len()
    );
}

/// Compiles to assembly, then assembles it; both are kept in the target folder, because they take long and change seldom.
fn resources(compiler: &Compiler, key: &KernelKey, arch: Arch) -> Result<Resources, String> {
    let ptx = common::compiled::assembly(compiler, key, arch)?;
    let report = ptx.with_extension(format!("sm_{}.txt", arch.0));
    if !report.is_file() {
        let output = Command::new(tools::ptxas())
            .args(["--verbose", "--output-file", "/dev/null", "--gpu-name", &format!("sm_{}", arch.0)])
            .arg(&ptx)
            .output()
            .map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            return Err(text);
        }
        common::compiled::keep(&report, text.as_bytes());
    }
    parse(&fs::read_to_string(report).map_err(|e| e.to_string())?, key.entry)
}

/// The part of the report of ptxas that is about `entry`.
fn parse(report: &str, entry: &str) -> Result<Resources, String> {
    let start = report.find(&format!("Compiling entry function '{entry}'")).ok_or_else(|| format!("no entry {entry} in\n{report}"))?;
    let part = report[start..].split("Compiling entry").nth(1).unwrap_or_default();
    let before = |unit: &str| -> Option<u32> {
        let at = part.find(unit)?;
        part[..at].trim_end().rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let number = |unit: &str| before(unit).ok_or_else(|| format!("no {unit} in\n{part}"));
    Ok(Resources {
        registers: number("registers")?,
        stack: number("bytes stack frame")?,
        spilled: number("bytes spill stores")? + number("bytes spill loads")?,
        shared: before("bytes smem").unwrap_or(0),
    })
}

fn on_all_cores(jobs: usize, job: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(i) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&i| i < jobs) {
                    job(i);
                }
            });
        }
    });
}

#[test]
fn the_report_of_the_assembler_is_understood() {
    let report = "ptxas info    : Compiling entry function 'a' for 'sm_80'\nptxas info    : Function properties for a\n    \
                  8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\nptxas info    : Used 40 registers, used 1 barriers, \
                  384 bytes smem, 400 bytes cmem[0]\nptxas info    : Compiling entry function 'b' for 'sm_80'\n    \
                  0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\nptxas info    : Used 255 registers, 400 bytes cmem[0]\n";
    assert_eq!(parse(report, "a").unwrap(), Resources { registers: 40, stack: 8, spilled: 16, shared: 384 });
    assert_eq!(parse(report, "b").unwrap(), Resources { registers: 255, stack: 0, spilled: 0, shared: 0 });
    assert!(parse(report, "c").is_err());
}

/// Parameters have the same layout on both sides, and NVRTC works at all: a file made here, with one field of each kind.
#[test]
fn a_wrong_kernel_is_refused_with_its_line() {
    use dreamid_engine::device::{FieldKind, KernelFile, ParamsLayout};
    static LAYOUT: ParamsLayout = ParamsLayout {
        name: "Mixed",
        fields: &[
            ("rows", FieldKind::U32),
            ("x", FieldKind::Address),
            ("eps", FieldKind::F32),
            ("seed", FieldKind::U64),
            ("shift", FieldKind::I32),
        ],
    };
    static GOOD: KernelFile = KernelFile {
        stem: "good",
        text: "#include \"params.cuh\"\nextern \"C\" __global__ void fill(const __grid_constant__ Mixed p) {\n\
               float* x = p.x;\n if (p.x && threadIdx.x < p.rows) x[threadIdx.x] = p.eps * VALUE + p.shift + float(p.seed);\n}\n",
        params: &[&LAYOUT],
    };
    static BAD: KernelFile = KernelFile { stem: "bad", text: "int ok;\nint wrong = nothing;\n", params: &[] };
    let compiler = Compiler::load(Some(&tools::nvrtc())).unwrap();
    let key = KernelKey::new(&GOOD, "fill").define("VALUE", 3);
    let cubin = compiler.compile(&key, Arch(80), Code::Cubin).unwrap();
    assert!(cubin.starts_with(b"\x7fELF"));
    let ptx = String::from_utf8(compiler.compile(&key, Arch(90), Code::Ptx).unwrap()).unwrap();
    assert!(ptx.contains(".target sm_90") && ptx.contains(".param .align 8 .b8 fill_param_0[40]") && ptx.ends_with('\0'), "{ptx}");
    let error = compiler.compile(&KernelKey::new(&BAD, "none"), Arch(80), Code::Ptx).unwrap_err().to_string();
    assert!(error.contains("bad.cu(2)") && error.contains("nothing"), "{error}");
    assert!(Compiler::load(Some(Path::new("nowhere.so"))).err().unwrap().to_string().contains("nowhere.so"));
}
