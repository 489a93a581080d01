//! Level 4: every kernel and specialisation that the full-size graphs use compiles for every kind of device, within the registers and
//! shared memory that `kernels/resources.csv` states, and the main loops of products are made of what `kernels/main_loops.csv` counts.
//! `UPDATE_RESOURCES=1` writes both tables anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use common::compiled::family;
use common::cores::on_all_cores;
use common::lowering::{self, ARCHS};
use common::sass::{Kind, Mix, main_loops};
use common::table::compare_with_table;
use common::tools;
use dreamid_engine::DType;
use dreamid_engine::device::cuda::{Code, Compiler};
use dreamid_engine::device::{Arch, KernelKey, Target};
use dreamid_engine::graph::{Graph, lower};
use dreamid_engine::ops::all_cases;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

/// Writes the tables anew.
const UPDATE: &str = "UPDATE_RESOURCES";

/// Kernels that are made for tensor cores, which may not spill, and the devices whose machine code is looked at. f16 differs from bf16 by the name of a type.
const PRODUCTS: [&str; 6] = ["linear", "conv2d", "attention", "linear_grad", "conv2d_grad", "attention_grad"];
const DISASSEMBLED: [u32; 2] = [80, 90];

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

/// What ptxas says of one kernel on one kind of device. `shared` is what the kernel declares itself.
#[derive(Clone, Debug, PartialEq)]
struct Resources {
    registers: u32,
    stack: u32,
    spilled: u32,
    shared: u32,
}

/// A specialisation with the largest shared memory, in bytes, that the full-size graphs launch it with.
struct Wanted {
    key: KernelKey,
    dynamic: u32,
}

impl Wanted {
    /// What must not be, whatever the table says.
    fn complaint(&self, arch: u32, found: &Resources) -> Option<String> {
        let (shared, most) = (found.shared + self.dynamic, lowering::most_shared(arch));
        if found.spilled > 0 && PRODUCTS.contains(&self.key.file.stem) {
            return Some(format!("spills {} bytes", found.spilled));
        }
        (shared > most).then(|| format!("takes {shared} bytes of shared memory, a block has {most}"))
    }
}

#[test]
fn every_specialisation_compiles_within_its_resources() {
    let compiler = Compiler::load(Some(&tools::nvrtc())).unwrap();
    let archs: Vec<u32> = ARCHS.into_iter().filter(|&a| compiler.knows(Arch(a))).collect();
    let wanted = every_specialisation(&archs);
    println!("NVRTC {:?}: {} kernels to compile", compiler.version(), wanted.len());
    let jobs: Vec<(&(u32, String), &Wanted)> = wanted.iter().collect();
    let done: Mutex<BTreeMap<String, String>> = Mutex::default();
    let failures: Mutex<Vec<String>> = Mutex::default();
    on_all_cores(jobs.len(), |i| {
        let ((arch, name), wanted) = jobs[i];
        let wrong = match resources(&compiler, &wanted.key, Arch(*arch)) {
            Ok(found) => {
                let Resources { registers, stack, spilled, shared } = found;
                let row = format!("{},{registers},{stack},{spilled},{shared},{}\n", row_name(name, *arch), wanted.dynamic);
                done.lock().unwrap().insert(row_name(name, *arch), row);
                wanted.complaint(*arch, &found)
            }
            Err(what) => Some(what),
        };
        failures.lock().unwrap().extend(wrong.map(|what| format!("{name} on sm_{arch}: {what}")));
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} kernels fail:\n{}", failures.len(), failures.join("\n"));
    let rows: String = done.into_inner().unwrap().into_values().collect();
    let title = "kernel,sm,registers,stack bytes,spilled bytes,static shared bytes,dynamic shared bytes";
    compare_with_table("resources.csv", title, &rows, UPDATE);
}

/// Those of the graphs in every type that they are run in, training in 16 bits only; in bf16 with every tile that `tune` may choose.
fn every_specialisation(archs: &[u32]) -> BTreeMap<(u32, String), Wanted> {
    let mut found = BTreeMap::new();
    for (_, graph) in [lowering::full_size(DType::F16), lowering::inference(DType::F32)].into_iter().flatten() {
        archs.iter().for_each(|&arch| gather(&mut found, &graph, &Arch(arch).into()));
    }
    for (_, graph) in lowering::full_size(DType::Bf16) {
        for &arch in archs {
            gather(&mut found, &graph, &Arch(arch).into());
            lowering::tuned(&graph, Arch(arch)).iter().for_each(|target| gather(&mut found, &graph, target));
        }
    }
    found
}

/// What a graph launches on a device, by the number of the device and the kernel's name.
fn gather(found: &mut BTreeMap<(u32, String), Wanted>, graph: &Graph, target: &Target) {
    for launch in lower(graph, target).unwrap().into_iter().flat_map(|lowered| lowered.launches) {
        let new = || Wanted { key: launch.kernel.clone(), dynamic: 0 };
        let known = found.entry((target.arch.0, launch.kernel.to_string())).or_insert_with(new);
        known.dynamic = known.dynamic.max(launch.shared);
    }
}

fn in_bf16(archs: &[u32]) -> BTreeMap<(u32, String), Wanted> {
    let mut found = BTreeMap::new();
    for (_, graph) in lowering::full_size(DType::Bf16) {
        archs.iter().for_each(|&arch| gather(&mut found, &graph, &Arch(arch).into()));
    }
    found
}

/// The main loops of all products, from their machine code: what runs on tensor cores, by accesses of which width it is fed, and how many
/// instructions that takes. `kernels/main_loops.csv` holds the counts.
#[test]
fn products_run_on_tensor_cores_fed_by_wide_accesses() {
    let compiler = Compiler::load(Some(&tools::nvrtc())).unwrap();
    let wanted = in_bf16(&DISASSEMBLED);
    let jobs: Vec<_> = wanted.iter().map(|(name, wanted)| (name, &wanted.key)).filter(|(_, key)| is_tensor_product(key)).collect();
    let done: Mutex<BTreeMap<String, String>> = Mutex::default();
    let failures: Mutex<Vec<String>> = Mutex::default();
    on_all_cores(jobs.len(), |i| {
        let ((arch, name), key) = jobs[i];
        let found = disassembled(&compiler, key, Arch(*arch)).and_then(|text| main_loops(&text, key.entry));
        let wrong = match found {
            Ok((loops, whole)) => {
                let lines = loops.iter().enumerate().map(|(i, mix)| format!("{},{}\n", row_name(name, *arch), row(i, mix)));
                done.lock().unwrap().insert(row_name(name, *arch), lines.collect());
                complaint(key, &loops, &whole)
            }
            Err(what) => Some(what),
        };
        failures.lock().unwrap().extend(wrong.map(|what| format!("{name} on sm_{arch}: {what}")));
    });
    let titles: Vec<&str> = Kind::ALL.iter().map(|(_, title)| *title).collect();
    let title = format!("kernel,sm,loop,instructions,for each HMMA,{}", titles.join(","));
    let rows: String = done.into_inner().unwrap().into_values().collect();
    println!("{title}\n{rows}");
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} kernels fail:\n{}", failures.len(), failures.join("\n"));
    compare_with_table("main_loops.csv", &title, &rows, UPDATE);
}

fn row(number: usize, mix: &Mix) -> String {
    let counts: Vec<String> = Kind::ALL.iter().map(|(kind, _)| mix.count(*kind).to_string()).collect();
    let for_each = mix.instructions() as f64 / mix.count(Kind::Tensor) as f64;
    format!("{},{},{for_each:.1},{}", number + 1, mix.instructions(), counts.join(","))
}

/// Products of 16-bit values; those of f32 do without tensor cores.
fn is_tensor_product(key: &KernelKey) -> bool {
    PRODUCTS.contains(&key.file.stem) && key.defines.contains(&("T", "bf16".into()))
}

/// Where accesses of less than 16 bytes are right: a definition or an entry, and the reason.
const NARROW: [(&str, &str, &str); 3] = [
    ("ALIGNED", "0", "rows of 3 or 4 channels, those of the first convolution, begin anywhere"),
    ("entry", "attention_wide", "warps hand each other scores as mma has them: two neighbours of a row in each lane"),
    ("entry", "attention_grad_keys", "two statistics of each query are read beside the products, one value for each row of a fragment"),
];

/// What they must not do.
fn complaint(key: &KernelKey, loops: &[Mix], whole: &Mix) -> Option<String> {
    let count = |kind| loops.iter().map(|mix| mix.count(kind)).sum::<usize>();
    let narrow = count(Kind::AsyncNarrow) + count(Kind::GlobalNarrow) + count(Kind::SharedNarrow);
    if loops.is_empty() {
        return Some("has no loop with tensor-core instructions".into());
    }
    if whole.count(Kind::Local) > 0 {
        return Some(format!("has {} accesses of local memory", whole.count(Kind::Local)));
    }
    let excused =
        NARROW.iter().any(|(what, value, _)| *what == "entry" && *value == key.entry || key.defines.contains(&(what, (*value).into())));
    (narrow > 0 && !excused).then(|| format!("has {narrow} accesses of less than 16 bytes in its main loop"))
}

/// What [`family`] says, for one kernel of every file; names of devices and of the folder that the text was compiled in aside.
#[test]
fn assembly_is_the_same_within_a_family() {
    let compiler = Compiler::load(Some(&tools::nvrtc())).unwrap();
    let archs: Vec<u32> = ARCHS.into_iter().filter(|&a| compiler.knows(Arch(a))).collect();
    let keys: BTreeMap<&str, KernelKey> = in_bf16(&archs).into_values().map(|wanted| (wanted.key.file.stem, wanted.key)).collect();
    let keys: Vec<&KernelKey> = keys.values().collect();
    let failures: Mutex<Vec<String>> = Mutex::default();
    on_all_cores(keys.len(), |i| {
        let named = |line: &&str| [".target", ".file"].iter().any(|name| line.trim_start().starts_with(name));
        let text = |arch: u32| {
            let path = common::compiled::assembly(&compiler, keys[i], Arch(arch)).unwrap();
            let text = fs::read_to_string(path).unwrap();
            text.lines().filter(|line| !named(line)).map(str::to_owned).collect::<Vec<_>>()
        };
        for arch in archs.iter().filter(|&&a| text(a) != text(family(Arch(a)).0)) {
            failures.lock().unwrap().push(format!("{} on sm_{arch}", keys[i]));
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "assembly differs from that of the family: {failures:#?}");
}

fn row_name(kernel: &str, arch: u32) -> String {
    format!("{},{arch}", kernel.replace(',', " "))
}

/// Compiles to assembly, then assembles it; both are kept in the target folder, because they take long and change seldom.
fn resources(compiler: &Compiler, key: &KernelKey, arch: Arch) -> Result<Resources, String> {
    let ptx = common::compiled::assembly(compiler, key, family(arch))?;
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

/// The machine code of a kernel as text, likewise kept.
fn disassembled(compiler: &Compiler, key: &KernelKey, arch: Arch) -> Result<String, String> {
    let ptx = common::compiled::assembly(compiler, key, family(arch))?;
    let listing = ptx.with_extension(format!("sm_{}.sass", arch.0));
    if !listing.is_file() {
        let code = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
        run(Command::new(tools::ptxas()).args(["--gpu-name", &format!("sm_{}", arch.0), "--output-file"]).arg(code.path()).arg(&ptx))?;
        let text = run(Command::new(tools::nvdisasm()).arg("--print-code").arg(code.path()))?;
        common::compiled::keep(&listing, text.as_bytes());
    }
    fs::read_to_string(listing).map_err(|e| e.to_string())
}

/// What a program prints, or what it complains of.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
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
