//! What names stand for: variables and parameters with their addresses, special registers.

use super::allocate::Slot;
use super::lower::{Frame, Lowering, parse, unsupported};
use super::program::{Preset32, Special};
use super::supported;
use super::syntax::{Decl, Func, Inst, Space};
use crate::Fault;

/// Where a symbol lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Symbol {
    Shared(u32),
    Local(u32),
    /// Parameters of the kernel.
    Param(u32),
    /// A parameter or result of a call: scratch memory of each thread.
    Scratch(u32),
    Variable(usize),
}

impl<'a> Lowering<'a> {
    /// The address of a symbol in its own space.
    pub(super) fn address(&mut self, frame: &Frame<'a>, inst: &Inst, name: &str, offset: i64, kind: char) -> Result<Slot, Fault> {
        let at = match self.symbol_of(frame, inst.scope, name, inst.line)? {
            Symbol::Variable(index) if kind == 'l' => return Ok(Slot::Variable(index, offset)),
            Symbol::Variable(_) => return Err(unsupported(format!("a 32-bit address of {name}"), inst.line)),
            Symbol::Shared(at) | Symbol::Local(at) | Symbol::Param(at) | Symbol::Scratch(at) => i64::from(at) + offset,
        };
        Ok(if kind == 'l' { Slot::Wide(at as u64) } else { Slot::Preset(Preset32::Constant(at as u32)) })
    }

    pub(super) fn symbol_of(&mut self, frame: &Frame<'a>, scope: usize, name: &str, line: u32) -> Result<Symbol, Fault> {
        if let Some(&known) = frame.func.resolve(&frame.symbols, scope, name) {
            return Ok(known);
        }
        if let Some(decl) = frame.func.resolve(&frame.func.variables, scope, name) {
            // One place per instance of the function; shared variables are the same for all.
            let key = format!("{}@{}", decl_key(frame.func, scope, name), frame.end);
            return Ok(match decl.space {
                Space::Shared => Symbol::Shared(self.place_shared(&decl_key(frame.func, scope, name), decl)),
                Space::Local => Symbol::Local(self.place_local(&key, decl)),
                _ => Symbol::Scratch(self.place_local(&key, decl)),
            });
        }
        if let Some(&param) = frame.params.get(name) {
            return Ok(param);
        }
        if let Some(&variable) = self.variables.get(name) {
            return Ok(Symbol::Variable(variable));
        }
        let decl = self.syntax.variables.iter().find(|d| d.name == name && d.space == Space::Shared);
        match decl {
            Some(decl) if decl.size == 0 => Ok(Symbol::Shared(self.dynamic_base)),
            Some(decl) => Ok(Symbol::Shared(self.place_shared(name, decl))),
            None => Err(parse(format!("unknown name {name}"), line)),
        }
    }

    fn place_shared(&mut self, key: &str, decl: &Decl) -> u32 {
        if let Some(&at) = self.places.get(key) {
            return at;
        }
        let at = self.shared_bytes.next_multiple_of(decl.align);
        self.shared_bytes = at + decl.size as u32;
        self.places.insert(key.to_string(), at);
        at
    }

    fn place_local(&mut self, key: &str, decl: &Decl) -> u32 {
        if let Some(&at) = self.places.get(key) {
            return at;
        }
        let at = self.local_bytes.next_multiple_of(decl.align);
        self.local_bytes = at + decl.size as u32;
        self.places.insert(key.to_string(), at);
        at
    }
}

fn decl_key(func: &Func, scope: usize, name: &str) -> String {
    let mut scope = scope;
    while !func.variables.contains_key(&(scope, name.to_string())) && func.scopes[scope] != scope {
        scope = func.scopes[scope];
    }
    format!("{}#{scope}#{name}", func.name)
}

/// The special register `name`, `%tid.x` and the like.
pub(super) fn special(name: &str, line: u32) -> Result<Special, Fault> {
    if supported::form_of(name).is_none() {
        return Err(unsupported(format!("special register {name}"), line));
    }
    let axis = |name: &str| match name {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    let (stem, part) = name[1..].split_once('.').unwrap_or((&name[1..], ""));
    let found = match (stem, axis(part)) {
        ("tid", Some(a)) => Special::Tid(a),
        ("ntid", Some(a)) => Special::Ntid(a),
        ("ctaid", Some(a)) => Special::Ctaid(a),
        ("nctaid", Some(a)) => Special::Nctaid(a),
        ("laneid", _) => Special::Lane,
        ("warpid", _) => Special::Warp,
        ("nwarpid", _) => Special::Warps,
        ("smid", _) => Special::Zero,
        ("nsmid", _) => Special::Sms,
        ("dynamic_smem_size", _) => Special::DynamicShared,
        ("total_smem_size", _) => Special::TotalShared,
        ("lanemask_eq", _) => Special::LaneMask("eq"),
        ("lanemask_lt", _) => Special::LaneMask("lt"),
        ("lanemask_le", _) => Special::LaneMask("le"),
        ("lanemask_gt", _) => Special::LaneMask("gt"),
        ("lanemask_ge", _) => Special::LaneMask("ge"),
        ("cluster_ctarank", _) | ("cluster_ctaid", Some(_)) => Special::Zero,
        ("cluster_nctarank", _) | ("cluster_nctaid", Some(_)) => Special::One,
        _ => return Err(unsupported(format!("special register {name}"), line)),
    };
    Ok(found)
}
