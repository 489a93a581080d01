//! What a module says, before instructions are understood: functions, variables, statements with their operands.

use std::collections::HashMap;

/// Register files: 32 bits (16-bit registers live there too), 64 bits, predicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Bank {
    B32,
    B64,
    P,
}

/// A virtual register of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct VReg {
    pub(crate) bank: Bank,
    pub(crate) id: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// A variable or parameter.
#[derive(Clone, Debug)]
pub(super) struct Decl {
    pub(super) name: String,
    pub(super) space: Space,
    pub(super) align: u32,
    /// Size in bytes; of an `extern` array without bounds, 0.
    pub(super) size: u64,
    pub(super) initial: Vec<Initial>,
}

#[derive(Clone, Debug)]
pub(super) enum Initial {
    Bytes(Vec<u8>),
    /// Address of another variable plus an offset, in so many bytes; generic or not is the same for device memory.
    Address(String, i64, u32),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operand {
    Reg(VReg),
    /// `!p`
    NotReg(VReg),
    /// `-r`
    Special(String),
    /// An integer literal, as its 64 bits.
    Int(i64),
    F32(u32),
    F64(u64),
    Symbol(String),
    /// `[base + offset]`, base a register, symbol or number; or symbol + offset.
    Address(Box<Operand>, i64),
    Vector(Vec<Operand>),
    /// `d|p`
    Pair(Box<Operand>, Box<Operand>),
    Sink,
}

#[derive(Clone, Debug)]
pub(super) struct Inst {
    pub(super) guard: Option<(VReg, bool)>,
    /// `ld.global.v4.f32`
    pub(super) opcode: String,
    pub(super) operands: Vec<Operand>,
    /// The names of `call`: results, function, arguments.
    pub(super) call: Option<(Vec<String>, String, Vec<String>)>,
    pub(super) scope: usize,
    pub(super) line: u32,
    pub(super) location: (u32, u32),
}

#[derive(Clone, Debug)]
pub(super) enum Stmt {
    Inst(Inst),
    Label(usize, String),
    Targets(usize, String, Vec<String>),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Func {
    pub(super) name: String,
    pub(super) entry: bool,
    pub(super) results: Vec<Decl>,
    pub(super) params: Vec<Decl>,
    pub(super) body: Option<Vec<Stmt>>,
    /// Parent of each scope; the first is the body, its own parent.
    pub(super) scopes: Vec<usize>,
    /// `.local`, `.shared` and `.param` variables of each scope.
    pub(super) variables: HashMap<(usize, String), Decl>,
    pub(super) registers: [u32; 3],
    pub(super) max_threads: Option<u32>,
    pub(super) line: u32,
}

#[derive(Debug, Default)]
pub(super) struct Syntax {
    pub(super) target: u32,
    pub(super) functions: Vec<Func>,
    pub(super) variables: Vec<Decl>,
    pub(super) files: HashMap<u32, String>,
}

impl Func {
    /// Looks a name up in a scope and those around it.
    pub(super) fn resolve<'m, V>(&self, map: &'m HashMap<(usize, String), V>, scope: usize, name: &str) -> Option<&'m V> {
        let mut scope = scope;
        loop {
            if let Some(found) = map.get(&(scope, name.to_string())) {
                return Some(found);
            }
            if self.scopes[scope] == scope {
                return None;
            }
            scope = self.scopes[scope];
        }
    }
}
