//! From PTX text to bytecode.

use crate::{Fault, FaultKind, Memory};

/// A parsed module.
pub struct Module {
    entries: Vec<Entry>,
    variables: Vec<Variable>,
    target: u32,
}

/// A kernel of a module.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name in PTX.
    pub name: String,
    /// Its parameters in order.
    pub params: Vec<Param>,
    /// Size of all of its parameters.
    pub param_bytes: u32,
    /// Static shared memory, bytes.
    pub shared_bytes: u32,
    /// Local memory of each thread, bytes.
    pub local_bytes: u32,
    /// Threads of a block by `.maxntid` (the product), where given.
    pub max_threads: Option<u32>,
    /// An estimate of its 32-bit registers per thread; PTX has no allocation, so it is no measure of what `ptxas` gives.
    pub registers: u32,
}

/// A parameter of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name in PTX.
    pub name: String,
    /// Offset in the parameter bytes.
    pub offset: u32,
    /// Size in bytes.
    pub size: u32,
    /// Alignment in bytes.
    pub align: u32,
}

/// A `.global` or `.const` variable of a loaded module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name in PTX.
    pub name: String,
    /// Its device address; 0 before [`Module::load`].
    pub address: u64,
    /// Size in bytes.
    pub size: u64,
}

impl Module {
    /// Parses PTX text. Whatever is not understood or not emulated is a fault with its line.
    pub fn parse(_ptx: &str) -> Result<Self, Fault> {
        Err(Fault::new(FaultKind::Parse, "no parser yet"))
    }

    /// Gives the module's variables memory and their initial values. A module that is not loaded cannot be launched.
    pub fn load(&mut self, _memory: &Memory) -> Result<(), Fault> {
        Ok(())
    }

    /// Frees what [`Module::load`] allocated.
    pub fn unload(&mut self, _memory: &Memory) -> Result<(), Fault> {
        Ok(())
    }

    /// Its kernels.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The kernel of that name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.name == name)
    }

    /// Its variables in device memory.
    pub fn variables(&self) -> &[Variable] {
        &self.variables
    }

    /// The architecture of its `.target`: 80 for `sm_80`.
    pub fn target(&self) -> u32 {
        self.target
    }
}
