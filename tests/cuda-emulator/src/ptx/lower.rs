//! A kernel's statements to a draft: symbols get addresses, labels numbers, and called functions are put in the place of their calls.

use std::collections::HashMap;

use super::allocate::{Draft, Ir, Slot};
use super::program::{Op, Preset32};
use super::supported;
use super::symbols::{Symbol, special};
use super::syntax::{Bank, Func, Inst, Operand, Stmt, Syntax, VReg};
use crate::machine::{Class, lane_operation};
use crate::{Fault, FaultKind};

/// Calls nest at most this deep; recursion would nest without end.
const DEPTH: usize = 40;

pub(super) struct Lowering<'a> {
    pub(super) syntax: &'a Syntax,
    pub(super) draft: Draft,
    /// Module variables in device memory, by name.
    pub(super) variables: &'a HashMap<String, usize>,
    pub(super) local_bytes: u32,
    pub(super) shared_bytes: u32,
    pub(super) dynamic_base: u32,
    pub(super) granule: u32,
    /// Where shared and local variables were put.
    pub(super) places: HashMap<String, u32>,
    depth: usize,
}

/// One instance of a function: its own registers, labels and variables.
pub(super) struct Frame<'a> {
    pub(super) func: &'a Func,
    registers: [u32; 3],
    labels: HashMap<(usize, String), u32>,
    tables: HashMap<(usize, String), u32>,
    pub(super) symbols: HashMap<(usize, String), Symbol>,
    pub(super) params: HashMap<String, Symbol>,
    pub(super) end: u32,
}

impl<'a> Lowering<'a> {
    pub(super) fn new(syntax: &'a Syntax, variables: &'a HashMap<String, usize>, dynamic_base: u32) -> Self {
        Self {
            syntax,
            draft: Draft::default(),
            variables,
            local_bytes: 0,
            shared_bytes: 0,
            dynamic_base,
            granule: 16,
            places: HashMap::new(),
            depth: 0,
        }
    }

    pub(super) fn entry(&mut self, func: &'a Func, offsets: &[u32]) -> Result<(), Fault> {
        let params = func.params.iter().zip(offsets).map(|(p, &at)| (p.name.clone(), Symbol::Param(at))).collect();
        self.function(func, params)?;
        // Whatever runs off the end has ended.
        self.push(Op::Exit, Class::Control, Vec::new(), 0, func.line);
        Ok(())
    }

    fn function(&mut self, func: &'a Func, params: HashMap<String, Symbol>) -> Result<(), Fault> {
        if self.depth == DEPTH {
            return Err(unsupported(format!("recursion through {}", func.name), func.line));
        }
        self.depth += 1;
        let Some(body) = &func.body else {
            return Err(unsupported(format!("function {} has no body", func.name), func.line));
        };
        let registers = self.draft.registers;
        for (all, own) in self.draft.registers.iter_mut().zip(func.registers) {
            *all += own;
        }
        let end = self.label();
        let mut frame = Frame { func, registers, labels: HashMap::new(), tables: HashMap::new(), symbols: HashMap::new(), params, end };
        for stmt in body {
            if let Stmt::Label(scope, name) = stmt {
                let label = self.label();
                frame.labels.insert((*scope, name.clone()), label);
            }
        }
        for stmt in body {
            if let Stmt::Targets(scope, name, labels) = stmt {
                let labels: Result<Vec<u32>, Fault> = labels.iter().map(|l| frame.target(*scope, l, func.line)).collect();
                self.draft.tables.push(labels?);
                frame.tables.insert((*scope, name.clone()), self.draft.tables.len() as u32 - 1);
            }
        }
        for stmt in body {
            match stmt {
                Stmt::Inst(inst) => self.inst(&mut frame, inst)?,
                Stmt::Label(scope, name) => {
                    let label = frame.target(*scope, name, func.line)?;
                    self.draft.labels[label as usize] = self.draft.code.len() as u32;
                }
                Stmt::Targets(..) => {}
            }
        }
        self.draft.labels[end as usize] = self.draft.code.len() as u32;
        self.depth -= 1;
        Ok(())
    }

    fn label(&mut self) -> u32 {
        self.draft.labels.push(0);
        self.draft.labels.len() as u32 - 1
    }

    fn push(&mut self, op: Op, class: Class, slots: Vec<Slot>, results: usize, line: u32) {
        self.draft.code.push(Ir { op, class, guard: None, slots, results, code: 0, line, location: (0, 0) });
    }

    fn inst(&mut self, frame: &mut Frame<'a>, inst: &'a Inst) -> Result<(), Fault> {
        let from = self.draft.code.len();
        if let Some((results, name, arguments)) = &inst.call {
            return self.call(frame, inst, results, name, arguments);
        }
        if supported::form_of(&inst.opcode).is_none() {
            return Err(unsupported(inst.opcode.clone(), inst.line));
        }
        let base = inst.opcode.split('.').next().unwrap_or_default();
        match base {
            "bra" | "brx" | "ret" | "exit" | "trap" | "brkpt" => self.control(frame, inst, base)?,
            "mov" | "cvta" => self.moves(frame, inst)?,
            _ => {
                if !self.special_form(frame, inst, base)? {
                    self.lanes(frame, inst, &inst.opcode)?;
                }
            }
        }
        let guard = inst.guard.map(|(reg, negated)| (frame.reg(reg), negated));
        for ir in &mut self.draft.code[from..] {
            (ir.guard, ir.line, ir.location) = (guard, inst.line, inst.location);
        }
        Ok(())
    }

    fn control(&mut self, frame: &Frame<'a>, inst: &Inst, base: &str) -> Result<(), Fault> {
        let op = match (base, inst.operands.as_slice()) {
            ("bra", [Operand::Symbol(name)]) => Op::Branch(frame.target(inst.scope, name, inst.line)?),
            ("brx", [index, Operand::Symbol(name)]) => {
                let Some(&table) = frame.func.resolve(&frame.tables, inst.scope, name) else {
                    return Err(parse(format!("unknown targets {name}"), inst.line));
                };
                let index = self.slot(frame, inst, index, 'w')?;
                self.push(Op::Table(table), Class::Control, vec![index], 0, inst.line);
                return Ok(());
            }
            ("ret", []) if self.depth > 1 => Op::Branch(frame.end),
            ("ret" | "exit", []) => Op::Exit,
            ("trap" | "brkpt", []) => Op::Trap,
            _ => return Err(unsupported(inst.opcode.clone(), inst.line)),
        };
        self.push(op, Class::Control, Vec::new(), 0, inst.line);
        Ok(())
    }

    /// Arguments and results are scratch memory of the caller; the callee's parameters are other names for it.
    fn call(&mut self, frame: &mut Frame<'a>, inst: &'a Inst, results: &[String], name: &str, arguments: &[String]) -> Result<(), Fault> {
        if name == "__assertfail" {
            self.push(Op::Trap, Class::Control, Vec::new(), 0, inst.line);
            if let Some(ir) = self.draft.code.last_mut() {
                ir.guard = inst.guard.map(|(reg, negated)| (frame.reg(reg), negated));
                ir.location = inst.location;
            }
            return Ok(());
        }
        let Some(callee) = self.syntax.functions.iter().find(|f| f.name == name && f.body.is_some()) else {
            return Err(unsupported(format!("call of {name}, which has no body here"), inst.line));
        };
        let skip = self.label();
        if let Some((reg, negated)) = inst.guard {
            self.push(Op::Branch(skip), Class::Control, Vec::new(), 0, inst.line);
            if let Some(ir) = self.draft.code.last_mut() {
                ir.guard = Some((frame.reg(reg), !negated));
            }
        }
        let mut params = HashMap::new();
        for (decls, names) in [(&callee.results, results), (&callee.params, arguments)] {
            if decls.len() != names.len() {
                return Err(parse(format!("{name} takes {} values, not {}", decls.len(), names.len()), inst.line));
            }
            for (decl, given) in decls.iter().zip(names) {
                let symbol = self.symbol_of(frame, inst.scope, given, inst.line)?;
                params.insert(decl.name.clone(), symbol);
            }
        }
        self.function(callee, params)?;
        self.draft.labels[skip as usize] = self.draft.code.len() as u32;
        Ok(())
    }

    fn moves(&mut self, frame: &mut Frame<'a>, inst: &Inst) -> Result<(), Fault> {
        if let Some(window) = inst.opcode.strip_prefix("cvta.") {
            return self.window(frame, inst, window);
        }
        let [to, from] = inst.operands.as_slice() else { return Err(parse("mov takes two operands".into(), inst.line)) };
        let form = match (to, from) {
            (Operand::Vector(parts), _) => match (parts.len(), inst.opcode.as_str()) {
                (2, "mov.b32" | "mov.u32") => "mov.split.hhw",
                (2, "mov.b64" | "mov.u64") => "mov.split.wwl",
                _ => return Err(unsupported(format!("{} into {} parts", inst.opcode, parts.len()), inst.line)),
            },
            (_, Operand::Vector(parts)) => match (parts.len(), inst.opcode.as_str()) {
                (2, "mov.b32" | "mov.u32") => "mov.pack.whh",
                (2, "mov.b64" | "mov.u64") => "mov.pack.lww",
                (4, "mov.b64" | "mov.u64") => "mov.pack.lhhhh",
                _ => return Err(unsupported(format!("{} of {} parts", inst.opcode, parts.len()), inst.line)),
            },
            (Operand::Reg(reg), Operand::Special(name)) if name.starts_with("%clock") || name.starts_with("%globaltimer") => {
                return self.clock(frame, inst, *reg, name);
            }
            (Operand::Reg(_), Operand::Int(value)) if inst.opcode == "mov.pred" => {
                let operands = vec![to.clone(), Operand::Int(*value), Operand::Int(0)];
                return self.lanes(frame, &Inst { operands, ..inst.clone() }, "setp.ne.u32");
            }
            _ => inst.opcode.as_str(),
        };
        self.lanes(frame, inst, form)
    }

    /// The registers that count time.
    fn clock(&mut self, frame: &Frame<'a>, inst: &Inst, to: VReg, name: &str) -> Result<(), Fault> {
        let wide = matches!(name, "%clock64" | "%globaltimer");
        if supported::form_of(name).is_none() || wide != (to.bank == Bank::B64) {
            return Err(unsupported(format!("{} of {name} into this register", inst.opcode), inst.line));
        }
        let op = Op::Clock { wide, upper: name.ends_with("_hi") };
        self.push(op, Class::Integer, vec![Slot::Reg(frame.reg(to))], 1, inst.line);
        Ok(())
    }

    /// `cvta.shared.u64`, `cvta.to.shared.u64`: generic addresses are those of a space plus the start of its window.
    fn window(&mut self, frame: &mut Frame<'a>, inst: &Inst, form: &str) -> Result<(), Fault> {
        use crate::machine::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
        let (form, back) = form.strip_prefix("to.").map_or((form, false), |f| (f, true));
        let start = match form {
            "global.u64" | "const.u64" => 0,
            "shared.u64" | "shared::cta.u64" => SHARED_WINDOW,
            "local.u64" => LOCAL_WINDOW,
            "param.u64" => PARAM_WINDOW,
            _ => return Err(unsupported(inst.opcode.clone(), inst.line)),
        };
        let start = if back { start.wrapping_neg() } else { start };
        let [to, from] = inst.operands.as_slice() else { return Err(parse("cvta takes two operands".into(), inst.line)) };
        let operands = vec![to.clone(), from.clone(), Operand::Int(start as i64)];
        self.lanes(frame, &Inst { operands, ..inst.clone() }, "add.u64")
    }

    /// An operation on registers only.
    fn lanes(&mut self, frame: &mut Frame<'a>, inst: &Inst, opcode: &str) -> Result<(), Fault> {
        let Some(found) = lane_operation(opcode) else { return Err(unsupported(inst.opcode.clone(), inst.line)) };
        let mut code = found.code;
        let mut given = Vec::new();
        for operand in &inst.operands {
            match operand {
                Operand::Pair(p, q) => given.extend([(**p).clone(), (**q).clone()]),
                Operand::Vector(parts) => given.extend(parts.iter().cloned()),
                Operand::NotReg(reg) if opcode.starts_with("setp") && code != 0 => {
                    code |= crate::machine::NEGATED;
                    given.push(Operand::Reg(*reg));
                }
                other => given.push(other.clone()),
            }
        }
        if found.types.as_bytes().get(1) == Some(&b'P') && !matches!(inst.operands.first(), Some(Operand::Pair(..))) {
            given.insert(1, Operand::Sink);
        }
        if given.len() != found.types.len() {
            let detail = format!("{} takes {} operands, not {}", inst.opcode, found.types.len(), given.len());
            return Err(parse(detail, inst.line));
        }
        let results = 1 + usize::from(found.types.starts_with("pP") || opcode.starts_with("mov.split"));
        let slots: Result<Vec<Slot>, Fault> =
            given.iter().zip(found.types.chars()).map(|(operand, kind)| self.slot(frame, inst, operand, kind)).collect();
        self.push(Op::Alu(found.run), found.class, slots?, results, inst.line);
        if let Some(ir) = self.draft.code.last_mut() {
            ir.code = code;
        }
        Ok(())
    }

    /// An operand of a type, by its letter (see [`crate::machine::Operation`]).
    pub(super) fn slot(&mut self, frame: &Frame<'a>, inst: &Inst, operand: &Operand, kind: char) -> Result<Slot, Fault> {
        let bank = match kind {
            'w' | 'h' | 'f' => Bank::B32,
            'l' | 'd' => Bank::B64,
            _ => Bank::P,
        };
        let narrow = |value: u32| Slot::Preset(Preset32::Constant(value));
        Ok(match (operand, kind) {
            (Operand::Reg(reg), _) if reg.bank == bank => Slot::Reg(frame.reg(*reg)),
            (Operand::Sink, _) => Slot::Sink(bank),
            (Operand::Special(name), 'w' | 'f') => Slot::Preset(Preset32::Special(special(name, inst.line)?)),
            (Operand::Int(value), 'w') => narrow(*value as u32),
            (Operand::Int(value), 'h') => narrow(*value as u32 & 0xffff),
            (Operand::Int(value), 'l') => Slot::Wide(*value as u64),
            (Operand::F32(bits), 'w' | 'f') => narrow(*bits),
            (Operand::F64(bits), 'f') => narrow((f64::from_bits(*bits) as f32).to_bits()),
            (Operand::F64(bits), 'd' | 'l') => Slot::Wide(*bits),
            (Operand::Symbol(name), 'w' | 'l') => self.address(frame, inst, name, 0, kind)?,
            (Operand::Address(base, offset), 'w' | 'l') => match &**base {
                Operand::Symbol(name) => self.address(frame, inst, name, *offset, kind)?,
                _ => return Err(parse(format!("operand {operand:?} of {}", inst.opcode), inst.line)),
            },
            _ => return Err(unsupported(format!("operand {operand:?} of {}", inst.opcode), inst.line)),
        })
    }

    pub(super) fn emit(&mut self, op: Op, class: Class, slots: Vec<Slot>, results: usize, inst: &Inst) {
        self.push(op, class, slots, results, inst.line);
    }
}

impl Frame<'_> {
    pub(super) fn reg(&self, reg: VReg) -> VReg {
        VReg { bank: reg.bank, id: reg.id + self.registers[reg.bank as usize] }
    }

    fn target(&self, scope: usize, name: &str, line: u32) -> Result<u32, Fault> {
        self.func.resolve(&self.labels, scope, name).copied().ok_or_else(|| parse(format!("unknown label {name}"), line))
    }
}

pub(super) fn unsupported(detail: String, line: u32) -> Fault {
    Fault::new(FaultKind::Unsupported, detail).at_line(line)
}

pub(super) fn parse(detail: String, line: u32) -> Fault {
    Fault::new(FaultKind::Parse, detail).at_line(line)
}
