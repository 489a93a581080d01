//! From PTX text to bytecode: tokens, syntax, lowering (calls put in place, symbols resolved), rows for registers.

mod allocate;
mod cursor;
mod forms;
mod forms_warp;
mod lexer;
mod lower;
mod operands;
mod parser;
pub(crate) mod program;
mod supported;
mod symbols;
mod syntax;

use std::collections::HashMap;

use crate::{Fault, FaultKind, Memory};
use lower::Lowering;
use program::Program;
pub use supported::{form_of, forms};
use syntax::{Decl, Func, Initial, Space, Syntax};

/// A parsed module.
pub struct Module {
    entries: Vec<Entry>,
    programs: Vec<Program>,
    variables: Vec<Variable>,
    initial: Vec<Decl>,
    files: HashMap<u32, String>,
    target: u32,
    loaded: bool,
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
    /// The 32-bit registers that are live at once in the PTX as it is written; `ptxas`, which reorders and shares, may need more or fewer.
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

/// A `.global` or `.const` variable of a module.
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
    pub fn parse(ptx: &str) -> Result<Self, Fault> {
        let mut syntax = parser::parse(ptx)?;
        let initial: Vec<Decl> = syntax.variables.iter().filter(|d| matches!(d.space, Space::Global | Space::Const)).cloned().collect();
        let by_name: HashMap<String, usize> = initial.iter().enumerate().map(|(i, d)| (d.name.clone(), i)).collect();
        let (mut entries, mut programs) = (Vec::new(), Vec::new());
        for func in syntax.functions.iter().filter(|f| f.entry) {
            let (entry, program) = compile(&syntax, &by_name, func).map_err(|mut fault| {
                fault.kernel = func.name.clone();
                fault
            })?;
            entries.push(entry);
            programs.push(program);
        }
        let variables = initial.iter().map(|d| Variable { name: d.name.clone(), address: 0, size: d.size }).collect();
        let files = std::mem::take(&mut syntax.files);
        Ok(Self { entries, programs, variables, initial, files, target: syntax.target, loaded: false })
    }

    /// Gives the module's variables memory and their initial values. A module that is not loaded cannot be launched.
    pub fn load(&mut self, memory: &Memory) -> Result<(), Fault> {
        for variable in &mut self.variables {
            variable.address = memory.alloc(variable.size)?;
        }
        for (decl, variable) in self.initial.iter().zip(&self.variables) {
            let mut bytes = Vec::with_capacity(decl.size as usize);
            for part in &decl.initial {
                match part {
                    Initial::Bytes(part) => bytes.extend(part),
                    Initial::Address(name, offset, size) => {
                        let of = self.variables.iter().find(|v| v.name == *name);
                        let of = of.ok_or_else(|| Fault::new(FaultKind::Unsupported, format!("the address of {name} in a variable")))?;
                        let value = of.address.wrapping_add_signed(*offset).to_le_bytes();
                        bytes.extend(&value[..*size as usize]);
                    }
                }
            }
            // What has no initial value starts as zero, as on a device.
            bytes.resize(decl.size as usize, 0);
            memory.write(variable.address, &bytes)?;
            if decl.space == Space::Const {
                memory.protect(variable.address)?;
            }
        }
        self.loaded = true;
        Ok(())
    }

    /// Frees what [`Module::load`] allocated.
    pub fn unload(&mut self, memory: &Memory) -> Result<(), Fault> {
        if std::mem::take(&mut self.loaded) {
            for variable in &mut self.variables {
                memory.free(std::mem::take(&mut variable.address))?;
            }
        }
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

    /// The bytecode of a kernel, if the module is loaded.
    pub(crate) fn program(&self, name: &str) -> Option<(&Entry, &Program)> {
        let at = self.entries.iter().position(|e| e.name == name)?;
        self.loaded.then(|| (&self.entries[at], &self.programs[at]))
    }

    /// A `.loc` as file and line.
    pub(crate) fn source(&self, location: (u32, u32)) -> Option<(String, u32)> {
        let name = self.files.get(&location.0)?;
        (location.1 > 0).then(|| (name.clone(), location.1))
    }
}

fn compile(syntax: &Syntax, variables: &HashMap<String, usize>, func: &Func) -> Result<(Entry, Program), Fault> {
    let mut params = Vec::new();
    let mut end = 0u32;
    for decl in &func.params {
        let offset = end.next_multiple_of(decl.align);
        end = offset + decl.size as u32;
        params.push(Param { name: decl.name.clone(), offset, size: decl.size as u32, align: decl.align });
    }
    let offsets: Vec<u32> = params.iter().map(|p| p.offset).collect();
    // Dynamic shared memory begins behind the static, whose size the first pass finds.
    let mut first = Lowering::new(syntax, variables, 0);
    first.entry(func, &offsets)?;
    let dynamic_align = syntax.variables.iter().filter(|d| d.space == Space::Shared && d.size == 0).map(|d| d.align).max();
    let dynamic_base = first.shared_bytes.next_multiple_of(dynamic_align.unwrap_or(16));
    let mut lowering = Lowering::new(syntax, variables, dynamic_base);
    lowering.entry(func, &offsets)?;
    let mut program = allocate::allocate(&lowering.draft).map_err(|f| f.at_line(func.line))?;
    program.local_bytes = lowering.local_bytes.next_multiple_of(16);
    program.static_shared = if dynamic_align.is_some() { dynamic_base } else { lowering.shared_bytes };
    program.granule = lowering.granule;
    let fixed = (program.preset32.len(), program.preset64.len());
    let registers = (program.rows[0] - fixed.0) + 2 * (program.rows[1] - fixed.1);
    let entry = Entry {
        name: func.name.clone(),
        params,
        param_bytes: end,
        shared_bytes: program.static_shared,
        local_bytes: program.local_bytes,
        max_threads: func.max_threads,
        registers: registers as u32,
    };
    Ok((entry, program))
}
