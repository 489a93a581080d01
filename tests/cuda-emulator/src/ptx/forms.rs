//! Instructions that touch more than registers: memory, tensor cores; barriers and warp-wide operations are in `forms_warp.rs`.

use super::allocate::Slot;
use super::lower::{Frame, Lowering, parse, unsupported};
use super::parser::type_bytes;
use super::program::{Access, AtomicOp, Factor, Number, Op, Place, Preset32};
use super::symbols::Symbol;
use super::syntax::{Bank, Inst, Operand};
use crate::Fault;
use crate::machine::{Class, product};

pub(super) const ZERO: Slot = Slot::Preset(Preset32::Constant(0));

impl<'a> Lowering<'a> {
    /// Lowers an instruction of this file; false for any other.
    pub(super) fn special_form(&mut self, frame: &mut Frame<'a>, inst: &Inst, base: &str) -> Result<bool, Fault> {
        match base {
            "ld" | "ldu" => self.load(frame, inst)?,
            "st" => self.store(frame, inst)?,
            "atom" | "red" => self.atomic(frame, inst, base == "red")?,
            "cp" => self.async_copy(frame, inst)?,
            "ldmatrix" => self.load_matrix(frame, inst)?,
            "mma" => self.mma(frame, inst)?,
            "bar" | "barrier" => self.barrier(frame, inst)?,
            "shfl" => self.shuffle(frame, inst)?,
            "vote" => self.vote(frame, inst)?,
            "match" => self.matching(frame, inst)?,
            "redux" => self.reduce(frame, inst)?,
            "activemask" => {
                let d = self.slot(frame, inst, operand(inst, 0)?, 'w')?;
                self.emit(Op::ActiveMask, Class::Warp, vec![d], 1, inst);
            }
            "nanosleep" => self.emit(Op::Sleep, Class::Control, Vec::new(), 0, inst),
            "membar" | "fence" => self.emit(Op::Nop, Class::Control, Vec::new(), 0, inst),
            "prefetch" | "prefetchu" => self.emit(Op::Nop, Class::Memory, Vec::new(), 0, inst),
            "griddepcontrol" if self.syntax.target >= 90 => self.emit(Op::Nop, Class::Control, Vec::new(), 0, inst),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn load(&mut self, frame: &Frame<'a>, inst: &Inst) -> Result<(), Fault> {
        let mut access = self.access(inst)?;
        let parts = parts(operand(inst, 0)?);
        let (base, place) = self.base(frame, inst, operand(inst, 1)?, &mut access)?;
        access.place = place;
        let mut slots = self.data(frame, inst, &parts, &mut access)?;
        let results = slots.len();
        slots.push(base);
        self.note(access);
        self.emit(Op::Load(access), Class::Memory, slots, results, inst);
        Ok(())
    }

    fn store(&mut self, frame: &Frame<'a>, inst: &Inst) -> Result<(), Fault> {
        let mut access = self.access(inst)?;
        let parts = parts(operand(inst, 1)?);
        let (base, place) = self.base(frame, inst, operand(inst, 0)?, &mut access)?;
        access.place = place;
        let mut slots = vec![base];
        slots.extend(self.data(frame, inst, &parts, &mut access)?);
        self.note(access);
        self.emit(Op::Store(access), Class::Memory, slots, 0, inst);
        Ok(())
    }

    /// The qualifiers of a load or store; those that order or cache are of no consequence here.
    fn access(&self, inst: &Inst) -> Result<Access, Fault> {
        let mut access = Access { place: Place::Generic, bytes: 0, elements: 1, signed: false, wide: false, base64: true, offset: 0 };
        for word in inst.opcode.split('.').skip(1) {
            match word {
                "global" => access.place = Place::Global,
                "const" => access.place = Place::Const,
                "shared" | "shared::cta" => access.place = Place::Shared,
                "local" => access.place = Place::Local,
                "param" | "param::entry" | "param::func" => access.place = Place::Param,
                "v2" => access.elements = 2,
                "v4" => access.elements = 4,
                "volatile" | "weak" | "relaxed" | "acquire" | "release" | "cta" | "cluster" | "gpu" | "sys" => {}
                "nc" | "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" => {}
                "L1::evict_normal" | "L1::evict_unchanged" | "L1::evict_first" | "L1::evict_last" | "L1::no_allocate" => {}
                "L2::64B" | "L2::128B" | "L2::256B" => {}
                kind => {
                    let bytes = type_bytes(kind).filter(|_| kind != "pred");
                    access.bytes = bytes.ok_or_else(|| unsupported(inst.opcode.clone(), inst.line))? as u8;
                    access.signed = kind.starts_with('s');
                }
            }
        }
        if access.bytes == 0 || access.bytes * access.elements > 16 {
            return Err(unsupported(inst.opcode.clone(), inst.line));
        }
        Ok(access)
    }

    /// The base register of an address, and the space, which a symbol may decide.
    fn base(&mut self, frame: &Frame<'a>, inst: &Inst, at: &Operand, access: &mut Access) -> Result<(Slot, Place), Fault> {
        let Operand::Address(base, offset) = at else {
            return Err(parse(format!("{} needs an address", inst.opcode), inst.line));
        };
        access.offset = *offset;
        match &**base {
            Operand::Reg(reg) => {
                access.base64 = reg.bank == Bank::B64;
                Ok((Slot::Reg(frame.reg(*reg)), access.place))
            }
            Operand::Int(at) => {
                access.offset += at;
                Ok((Slot::Wide(0), access.place))
            }
            Operand::Symbol(name) => {
                let symbol = self.symbol_of(frame, inst.scope, name, inst.line)?;
                let (slot, place) = match symbol {
                    Symbol::Variable(index) => (Slot::Variable(index, 0), access.place),
                    Symbol::Scratch(at) | Symbol::Local(at) => (Slot::Wide(u64::from(at)), Place::Local),
                    Symbol::Param(at) => (Slot::Wide(u64::from(at)), Place::Param),
                    Symbol::Shared(at) => (Slot::Wide(u64::from(at)), Place::Shared),
                };
                Ok((slot, place))
            }
            other => Err(unsupported(format!("address {other:?} of {}", inst.opcode), inst.line)),
        }
    }

    /// The registers of the elements; they may be wider than the elements.
    fn data(&mut self, frame: &Frame<'a>, inst: &Inst, parts: &[&Operand], access: &mut Access) -> Result<Vec<Slot>, Fault> {
        if parts.len() != access.elements as usize {
            return Err(parse(format!("{} with {} registers", inst.opcode, parts.len()), inst.line));
        }
        let wide = |part: &&&Operand| matches!(part, Operand::Reg(reg) if reg.bank == Bank::B64);
        access.wide = access.bytes == 8 || parts.iter().any(|part| wide(&part));
        let kind = if access.wide { 'l' } else { 'w' };
        parts.iter().map(|part| self.slot(frame, inst, part, kind)).collect()
    }

    /// Remembers the smallest access that may reach shared memory.
    fn note(&mut self, access: Access) {
        if matches!(access.place, Place::Shared | Place::Generic) {
            self.granule = self.granule.min(u32::from(access.bytes * access.elements));
        }
    }

    fn atomic(&mut self, frame: &Frame<'a>, inst: &Inst, reduction: bool) -> Result<(), Fault> {
        let mut access = Access { place: Place::Generic, bytes: 0, elements: 1, signed: false, wide: false, base64: true, offset: 0 };
        let (mut op, mut number) = (None, None);
        let bad = || unsupported(inst.opcode.clone(), inst.line);
        for word in inst.opcode.split('.').skip(1) {
            match word {
                "global" => access.place = Place::Global,
                "shared" | "shared::cta" => access.place = Place::Shared,
                "relaxed" | "acquire" | "release" | "acq_rel" | "cta" | "cluster" | "gpu" | "sys" | "noftz" => {}
                "add" => op = Some(AtomicOp::Add),
                "min" => op = Some(AtomicOp::Min),
                "max" => op = Some(AtomicOp::Max),
                "and" => op = Some(AtomicOp::And),
                "or" => op = Some(AtomicOp::Or),
                "xor" => op = Some(AtomicOp::Xor),
                "exch" => op = Some(AtomicOp::Exchange),
                "cas" => op = Some(AtomicOp::CompareExchange),
                "inc" => op = Some(AtomicOp::Increment),
                "dec" => op = Some(AtomicOp::Decrement),
                "u32" | "b32" => number = Some(Number::U32),
                "s32" => number = Some(Number::S32),
                "u64" | "b64" => number = Some(Number::U64),
                "s64" => number = Some(Number::S64),
                "f32" => number = Some(Number::F32),
                "f64" => number = Some(Number::F64),
                "f16x2" => number = Some(Number::F16x2),
                "bf16x2" => number = Some(Number::Bf16x2),
                _ => return Err(bad()),
            }
        }
        let (op, number) = (op.ok_or_else(bad)?, number.ok_or_else(bad)?);
        let float = matches!(number, Number::F32 | Number::F64 | Number::F16x2 | Number::Bf16x2);
        if float && op != AtomicOp::Add {
            return Err(bad());
        }
        access.wide = matches!(number, Number::U64 | Number::S64 | Number::F64);
        access.bytes = if access.wide { 8 } else { 4 };
        let kind = if access.wide { 'l' } else { 'w' };
        let bank = if access.wide { Bank::B64 } else { Bank::B32 };
        let at = usize::from(!reduction);
        let (base, place) = self.base(frame, inst, operand(inst, at)?, &mut access)?;
        access.place = place;
        let d = if reduction { Slot::Sink(bank) } else { self.slot(frame, inst, operand(inst, 0)?, kind)? };
        let float_kind = if number == Number::F32 { 'f' } else { kind };
        let a = self.slot(frame, inst, operand(inst, at + 1)?, float_kind)?;
        let b = match op {
            AtomicOp::CompareExchange => self.slot(frame, inst, operand(inst, at + 2)?, kind)?,
            _ => a,
        };
        self.note(access);
        self.emit(Op::Atomic { access, op, number }, Class::Memory, vec![d, base, a, b], 1, inst);
        Ok(())
    }

    fn async_copy(&mut self, frame: &Frame<'a>, inst: &Inst) -> Result<(), Fault> {
        let words: Vec<&str> = inst.opcode.split('.').collect();
        let op = match words.as_slice() {
            ["cp", "async", "commit_group"] => Op::AsyncCommit,
            ["cp", "async", "wait_all"] => Op::AsyncWaitAll,
            ["cp", "async", "wait_group"] => match operand(inst, 0)? {
                Operand::Int(n) => Op::AsyncWait(*n as u32),
                _ => return Err(unsupported(inst.opcode.clone(), inst.line)),
            },
            ["cp", "async", "ca" | "cg", "shared" | "shared::cta", "global", hints @ ..]
                if hints.iter().all(|h| matches!(*h, "L2::64B" | "L2::128B" | "L2::256B")) =>
            {
                return self.async_transfer(frame, inst, words[2] == "cg");
            }
            _ => return Err(unsupported(inst.opcode.clone(), inst.line)),
        };
        self.emit(op, Class::Memory, Vec::new(), 0, inst);
        Ok(())
    }

    fn async_transfer(&mut self, frame: &Frame<'a>, inst: &Inst, cached_global: bool) -> Result<(), Fault> {
        let bytes = match operand(inst, 2)? {
            Operand::Int(16) => 16,
            Operand::Int(n @ (4 | 8)) if !cached_global => *n as u8,
            other => return Err(unsupported(format!("{} of {other:?} bytes", inst.opcode), inst.line)),
        };
        let mut to = Access { place: Place::Shared, bytes, elements: 1, signed: false, wide: false, base64: true, offset: 0 };
        let mut from = Access { place: Place::Global, ..to };
        let (to_base, _) = self.base(frame, inst, operand(inst, 0)?, &mut to)?;
        let (from_base, _) = self.base(frame, inst, operand(inst, 1)?, &mut from)?;
        let sized = inst.operands.len() == 4;
        let size = if sized { self.slot(frame, inst, operand(inst, 3)?, 'w')? } else { ZERO };
        if inst.operands.len() > 4 || !from.base64 {
            return Err(unsupported(format!("{} with {} operands", inst.opcode, inst.operands.len()), inst.line));
        }
        self.granule = self.granule.min(u32::from(bytes));
        let op = Op::AsyncCopy { bytes, sized, to64: to.base64, to: to.offset, from: from.offset };
        self.emit(op, Class::Memory, vec![to_base, from_base, size], 0, inst);
        Ok(())
    }

    fn load_matrix(&mut self, frame: &Frame<'a>, inst: &Inst) -> Result<(), Fault> {
        let (mut count, mut transposed) = (0, false);
        for word in inst.opcode.split('.').skip(1) {
            match word {
                "sync" | "aligned" | "m8n8" | "shared" | "shared::cta" | "b16" => {}
                "x1" => count = 1,
                "x2" => count = 2,
                "x4" => count = 4,
                "trans" => transposed = true,
                _ => return Err(unsupported(inst.opcode.clone(), inst.line)),
            }
        }
        let parts = parts(operand(inst, 0)?);
        if count == 0 || parts.len() != count as usize || !inst.opcode.contains(".m8n8.") {
            return Err(unsupported(inst.opcode.clone(), inst.line));
        }
        let mut access = Access { place: Place::Shared, bytes: 16, elements: 1, signed: false, wide: false, base64: true, offset: 0 };
        let (base, _) = self.base(frame, inst, operand(inst, 1)?, &mut access)?;
        let mut slots = Vec::new();
        for part in &parts {
            slots.push(self.slot(frame, inst, part, 'w')?);
        }
        slots.push(base);
        let op = Op::LoadMatrix { count, transposed, base64: access.base64, offset: access.offset };
        self.emit(op, Class::Memory, slots, count as usize, inst);
        Ok(())
    }

    fn mma(&mut self, frame: &Frame<'a>, inst: &Inst) -> Result<(), Fault> {
        let bad = || unsupported(inst.opcode.clone(), inst.line);
        let form = inst.opcode.strip_prefix("mma.sync.aligned.m16n8k").ok_or_else(bad)?;
        let (factor, depth, a, b) = match form {
            "16.row.col.f32.f16.f16.f32" => (Factor::F16, 16, 4, 2),
            "16.row.col.f32.bf16.bf16.f32" => (Factor::Bf16, 16, 4, 2),
            "8.row.col.f32.f16.f16.f32" => (Factor::F16, 8, 2, 1),
            "8.row.col.f32.bf16.bf16.f32" => (Factor::Bf16, 8, 2, 1),
            "8.row.col.f32.tf32.tf32.f32" => (Factor::Tf32, 8, 4, 2),
            "4.row.col.f32.tf32.tf32.f32" => (Factor::Tf32, 4, 2, 1),
            _ => return Err(bad()),
        };
        let mut slots = Vec::new();
        for (at, (count, kind)) in [(4, 'f'), (a, 'w'), (b, 'w'), (4, 'f')].into_iter().enumerate() {
            let parts = parts(operand(inst, at)?);
            if parts.len() != count {
                return Err(parse(format!("{} with {} registers in operand {at}", inst.opcode, parts.len()), inst.line));
            }
            for part in &parts {
                slots.push(self.slot(frame, inst, part, kind)?);
            }
        }
        self.emit(Op::Mma(product(factor, depth)), Class::Tensor(factor, depth), slots, 4, inst);
        Ok(())
    }
}

pub(super) fn operand(inst: &Inst, at: usize) -> Result<&Operand, Fault> {
    inst.operands.get(at).ok_or_else(|| parse(format!("{} lacks an operand", inst.opcode), inst.line))
}

/// The parts of a vector operand, or the operand itself.
fn parts(operand: &Operand) -> Vec<&Operand> {
    match operand {
        Operand::Vector(parts) => parts.iter().collect(),
        other => vec![other],
    }
}
