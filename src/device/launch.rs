//! What an operation is lowered to: CUDA launches as pure data. Nothing here needs a driver.

use super::params::{Params, ParamsLayout, Slot};
use super::target::ProductTiles;
use crate::DType;
use std::fmt;
use std::hash::{Hash, Hasher};

/// Compute capability of a CUDA device times ten: 80, 86, 89, 90, 100, 120.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Arch(pub u32);

/// A file of `kernels/` and the parameter structs that its entries take.
#[derive(Debug)]
pub struct KernelFile {
    /// Name without the ending: the operation's.
    pub stem: &'static str,
    /// CUDA C++ text.
    pub text: &'static str,
    /// Declared once in Rust; their C declarations are generated as the header `params.cuh`.
    pub params: &'static [&'static ParamsLayout],
}

macro_rules! headers {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/include/", $name)))),*]
    };
}

/// Names and texts of the headers that kernels may include: all of `kernels/include`.
pub const HEADERS: &[(&str, &str)] = headers![
    "act.cuh",
    "attention_grad_plain.cuh",
    "attention_grad_tensor.cuh",
    "attention_plain.cuh",
    "attention_tensor.cuh",
    "attention_wide.cuh",
    "block_sum.cuh",
    "column_sums.cuh",
    "columns.cuh",
    "copy.cuh",
    "dense.cuh",
    "epilogue.cuh",
    "few_rows.cuh",
    "fma.cuh",
    "gemm.cuh",
    "group_norm.cuh",
    "head_rows.cuh",
    "philox.cuh",
    "product.cuh",
    "ptx.cuh",
    "reduce.cuh",
    "rows.cuh",
    "softmax_rows.cuh",
    "source.cuh",
    "tile.cuh",
    "trig.cuh",
    "types.cuh",
    "windows.cuh",
];

impl KernelFile {
    /// Text of the generated header `params.cuh`.
    pub fn params_header(&self) -> String {
        let declarations: Vec<String> = self.params.iter().map(|p| p.c_declaration()).collect();
        format!("#pragma once\n{POINTER}{}", declarations.concat())
    }
}

/// Type of the addresses in parameter structs: becomes any pointer it is assigned to, and tells whether it is null.
const POINTER: &str = "struct Address {
    void* address;
    template <class T> __device__ operator T*() const { return static_cast<T*>(address); }
    __device__ explicit operator bool() const { return address != nullptr; }
};
static_assert(sizeof(Address) == 8 && alignof(Address) == 8 && alignof(unsigned long long) == 8, \"64 bits\");
static_assert(sizeof(unsigned int) == 4 && sizeof(int) == 4 && sizeof(float) == 4 && alignof(float) == 4, \"32 bits\");
";

/// One specialisation of one entry of a kernel file. Two are equal when file, entry and definitions are.
#[derive(Clone)]
pub struct KernelKey {
    /// Where it is written.
    pub file: &'static KernelFile,
    /// Name of the `extern "C" __global__` function.
    pub entry: &'static str,
    /// Preprocessor definitions, in the order of the operation's own making.
    pub defines: Vec<(&'static str, String)>,
}

impl KernelKey {
    /// An entry without definitions.
    pub fn new(file: &'static KernelFile, entry: &'static str) -> Self {
        Self { file, entry, defines: Vec::new() }
    }

    /// The same with one more definition.
    #[must_use]
    pub fn define(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.defines.push((name, value.to_string()));
        self
    }

    fn identity(&self) -> (&'static str, &'static str, &[(&'static str, String)]) {
        (self.file.stem, self.entry, &self.defines)
    }
}

impl PartialEq for KernelKey {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for KernelKey {}

impl Hash for KernelKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

/// `group_norm::group_norm_forward<T=bf16,SILU=1>`.
impl fmt::Display for KernelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.file.stem, self.entry)?;
        if self.defines.is_empty() {
            return Ok(());
        }
        let defines: Vec<String> = self.defines.iter().map(|(name, value)| format!("{name}={value}")).collect();
        write!(f, "<{}>", defines.join(","))
    }
}

impl fmt::Debug for KernelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One kernel launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// What runs.
    pub kernel: KernelKey,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block in bytes.
    pub shared: u32,
    /// The one parameter, a struct passed by value.
    pub params: Params,
}

/// The launches of one operation, in their order. A view has none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lowered {
    /// Launches; each sees what the ones before it wrote.
    pub launches: Vec<Launch>,
    /// Bytes of workspace, aligned to 256, shared by the launches. Its contents are undefined before the first one.
    pub scratch: u64,
    /// For matrix products: how they are cut, and how else they could be.
    pub product: Option<ProductTiles>,
}

impl Lowered {
    /// Launches with the bytes of workspace that they share.
    pub fn new(launches: Vec<Launch>, scratch: u64) -> Self {
        Self { launches, scratch, product: None }
    }

    /// Bytes of counters that the launches need, see [`Slot::Counters`]; all of them can have the same ones.
    pub fn counters(&self) -> u64 {
        let slots = self.launches.iter().flat_map(|launch| &launch.params.pointers);
        let bytes = slots.map(|(_, slot)| if let Slot::Counters(count) = slot { 4 * u64::from(*count) } else { 0 });
        bytes.max().unwrap_or(0)
    }
}

impl From<Launch> for Lowered {
    fn from(launch: Launch) -> Self {
        Self::new(vec![launch], 0)
    }
}

/// Name of a storage type in kernels: the value of the definition `T`.
pub fn kernel_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::Bf16 => "bf16",
        DType::F16 => "f16",
        DType::I32 => "i32",
    }
}

/// `kernel_file!("cast", [CastParams])`: the [`KernelFile`] of `kernels/cast.cu`, for a static of the operation's module.
macro_rules! kernel_file {
    ($stem:literal, [$($params:ident),* $(,)?]) => {
        $crate::device::KernelFile {
            stem: $stem,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/", $stem, ".cu")),
            params: &[$(&$params::LAYOUT),*],
        }
    };
}
pub(crate) use kernel_file;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    static FILE: KernelFile = KernelFile { stem: "scale", text: "", params: &[] };

    #[test]
    fn kernels_are_told_apart_by_their_definitions() {
        let key = |t: DType| KernelKey::new(&FILE, "scale_forward").define("T", kernel_type(t)).define("VECTOR", 8);
        let keys: HashSet<KernelKey> = [key(DType::Bf16), key(DType::F16), key(DType::Bf16)].into();
        assert_eq!(keys.len(), 2);
        assert_eq!(key(DType::F32).to_string(), "scale::scale_forward<T=f32,VECTOR=8>");
        assert_ne!(KernelKey::new(&FILE, "a"), KernelKey::new(&FILE, "b"));
    }

    #[test]
    fn the_header_declares_addresses_that_become_pointers() {
        assert!(FILE.params_header().contains("operator T*()"));
    }
}
