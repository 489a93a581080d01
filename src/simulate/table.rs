//! The two tables of the launches: what each was counted to ask for, and what the assembler gave it.

use crate::device::{Arch, Launch, Slot};
use crate::{Error, Result};
use std::collections::HashMap;

macro_rules! counted {
    ($($(#[$doc:meta])* $field:ident),* $(,)?) => {
        /// What all blocks of a launch together ask of the machine, estimated from the blocks that were run on the emulated device.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counted { $($(#[$doc])* pub $field: u64),* }

        impl Counted {
            const COLUMNS: &'static [&'static str] = &[$(stringify!($field)),*];

            fn values(&self) -> Vec<u64> {
                vec![$(self.$field),*]
            }

            fn from_values(values: &[u64]) -> Option<Self> {
                let mut values = values.iter().copied();
                let counted = Self { $($field: values.next()?),* };
                values.next().is_none().then_some(counted)
            }
        }
    };
}

counted! {
    /// Blocks that were run; the rest was inferred from them.
    sampled,
    /// Warp instructions of the assembly that NVRTC makes, without moves of whole registers.
    issued,
    /// Of them those of the f32 pipe.
    fp32,
    /// Of the integer pipe.
    integer,
    /// Of the special-function unit, conversions included.
    special,
    /// Shuffles, votes, reductions within a warp.
    warp_wide,
    /// Arrivals of warps at barriers.
    barriers,
    /// Reads of device memory, in warp instructions.
    global_loads,
    /// Multiply-adds on tensor cores, of 16-bit values.
    mma,
    /// 32-byte sectors that reads ask for.
    load_sectors,
    /// The fewest that would do.
    load_sectors_min,
    /// 32-byte sectors that writes ask for.
    store_sectors,
    /// The fewest that would do.
    store_sectors_min,
    /// Passes over the banks of shared memory.
    wavefronts,
    /// The fewest that would do.
    wavefronts_min,
    /// Bytes read at least once.
    loaded,
    /// Of them those of the workspace, which the operation wrote itself.
    loaded_workspace,
    /// Bytes written at least once.
    stored,
}

impl Counted {
    /// First line of `kernels/counters.csv`.
    pub fn header() -> String {
        format!("kernel,sm,grid,block,dynamic shared,parameters,{}", Self::COLUMNS.join(","))
    }

    /// The columns after those of [`launch_key`].
    pub fn row(&self) -> String {
        self.values().iter().map(u64::to_string).collect::<Vec<_>>().join(",")
    }

    fn parse(text: &str) -> Option<Self> {
        let values: Option<Vec<u64>> = text.split(',').map(|cell| cell.parse().ok()).collect();
        Self::from_values(&values?)
    }
}

/// What tells a launch from every other, as the first columns of `kernels/counters.csv`: specialisation, architecture, grid, block, shared
/// memory, and the words of its parameters (`p`: an address, `-`: none).
pub fn launch_key(launch: &Launch, arch: Arch) -> String {
    let extents = |of: [u32; 3]| of.map(|n| n.to_string()).join("x");
    let pointer = |at: usize| launch.params.pointers.iter().find(|(offset, _)| *offset == at);
    let words =
        launch.params.bytes.chunks(4).enumerate().filter_map(|(i, word)| match (pointer(4 * i), pointer((4 * i).wrapping_sub(4))) {
            (Some((_, Slot::Null)), _) => Some("-".to_owned()),
            (Some(_), _) => Some("p".to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(word.iter().rev().fold(0u32, |n, byte| n << 8 | u32::from(*byte)).to_string()),
        });
    let words: Vec<String> = words.collect();
    let (grid, block) = (extents(launch.grid), extents(launch.block));
    format!("{},{},{grid},{block},{},{}", specialisation(launch), arch.0, launch.shared, words.join(" "))
}

/// The kernel as both tables spell it.
pub(super) fn specialisation(launch: &Launch) -> String {
    launch.kernel.to_string().replace(',', " ")
}

/// What a block holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Resources {
    /// 32-bit registers of a thread.
    pub(super) registers: u32,
    /// Bytes of static shared memory.
    pub(super) shared: u32,
}

/// Both tables, by launch.
pub struct Tables {
    counted: HashMap<String, Counted>,
    resources: HashMap<String, Resources>,
}

impl Tables {
    /// From the texts of `kernels/counters.csv` and `kernels/resources.csv`.
    pub fn new(counters: &str, resources: &str) -> Result<Self> {
        let counted = rows("kernels/counters.csv", counters, 6, Counted::parse)?;
        let resources = rows("kernels/resources.csv", resources, 2, |cells| {
            let cells: Vec<u32> = cells.split(',').map(|c| c.parse().ok()).collect::<Option<_>>()?;
            let [registers, _, _, shared, _] = cells[..] else { return None };
            Some(Resources { registers, shared })
        })?;
        Ok(Self { counted, resources })
    }

    pub(super) fn of(&self, launch: &Launch, arch: Arch) -> Result<(Counted, Resources)> {
        let key = launch_key(launch, arch);
        let counted = self.counted.get(&key).ok_or_else(|| missing("counters", &key, "UPDATE_COUNTERS=1 cargo test --test counters"))?;
        let key = format!("{},{}", specialisation(launch), arch.0);
        let resources = self.resources.get(&key);
        let resources = resources.ok_or_else(|| missing("resources", &key, "UPDATE_RESOURCES=1 cargo test --test kernels"))?;
        Ok((*counted, *resources))
    }
}

fn missing(table: &str, key: &str, remedy: &str) -> Error {
    Error::Graph(format!("kernels/{table}.csv has no row `{key}`; in the sources, `{remedy}` makes it"))
}

/// Rows by their first `keys` columns.
fn rows<T>(name: &str, text: &str, keys: usize, parse: impl Fn(&str) -> Option<T>) -> Result<HashMap<String, T>> {
    let row = |line: &str| {
        let at = line.match_indices(',').nth(keys - 1).map(|(at, _)| at)?;
        Some((line[..at].to_owned(), parse(&line[at + 1..])?))
    };
    let wrong = |line: &str| Error::file(name, format!("has a line that is no row: `{line}`"));
    text.lines().skip(1).map(|line| row(line).ok_or_else(|| wrong(line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{KernelFile, KernelKey, Params};

    static FILE: KernelFile = KernelFile { stem: "some", text: "", params: &[] };

    #[test]
    fn launches_are_told_apart_by_all_that_counts() {
        let params = Params {
            bytes: [[7u8, 1, 0, 0], [0; 4], [0; 4], [0; 4], [0; 4], [0; 4]].concat(),
            pointers: vec![(8, Slot::In(0)), (16, Slot::Null)],
        };
        let kernel = KernelKey::new(&FILE, "entry").define("T", "bf16").define("V", 8);
        let launch = Launch { kernel, grid: [5, 2, 1], block: [128, 1, 1], shared: 1024, params };
        assert_eq!(launch_key(&launch, Arch(80)), "some::entry<T=bf16 V=8>,80,5x2x1,128x1x1,1024,263 0 p -");
    }

    #[test]
    fn rows_survive_being_written() {
        let counted = Counted { sampled: 3, mma: 1 << 40, stored: 5, ..Counted::default() };
        assert_eq!(Counted::parse(&counted.row()), Some(counted));
        assert_eq!(Counted::header().split(',').count(), 6 + counted.row().split(',').count());
        assert!(Counted::parse("1,2").is_none() && Counted::parse(&(counted.row() + ",1")).is_none());
    }

    fn launch(entry: &'static str) -> Launch {
        Launch { kernel: KernelKey::new(&FILE, entry), grid: [1; 3], block: [32, 1, 1], shared: 0, params: Params::default() }
    }

    #[test]
    fn rows_are_found_by_launch_and_a_missing_one_says_how_to_make_it() {
        let counted = Counted { sampled: 1, issued: 77, ..Counted::default() };
        let counters = format!("{}\nsome::here,80,1x1x1,32x1x1,0,,{}\n", Counted::header(), counted.row());
        let tables = Tables::new(&counters, "header\nsome::here,80,40,0,0,128,0\nsome::nowhere,80,1,0,0,0,0\n").unwrap();
        assert_eq!(tables.of(&launch("here"), Arch(80)).unwrap(), (counted, Resources { registers: 40, shared: 128 }));
        let error = tables.of(&launch("nowhere"), Arch(80)).unwrap_err().to_string();
        assert!(error.contains("some::nowhere,80,1x1x1") && error.contains("UPDATE_COUNTERS=1 cargo test --test counters"), "{error}");
        let tables = Tables::new(&counters, "header\n").unwrap();
        let error = tables.of(&launch("here"), Arch(80)).unwrap_err().to_string();
        assert!(error.contains("some::here,80") && error.contains("UPDATE_RESOURCES=1 cargo test --test kernels"), "{error}");
    }

    #[test]
    fn a_damaged_table_is_refused_with_its_line() {
        let error = Tables::new("header\na,80,1x1x1,32x1x1,0,,1,2\n", "header\n").err().unwrap().to_string();
        assert!(error.contains("kernels/counters.csv") && error.contains("a,80,1x1x1"), "{error}");
        assert!(Tables::new("header\n", "header\na,80,many,0,0,0,0\n").is_err());
    }
}
