//! Barriers, and instructions in which the lanes of a warp take part together.

use super::allocate::Slot;
use super::forms::{ZERO, operand};
use super::lower::{Frame, Lowering, parse, unsupported};
use super::program::{AtomicOp, BarrierKind, Op, ShuffleMode, VoteMode};
use super::syntax::{Bank, Inst, Operand};
use crate::Fault;
use crate::machine::Class;

impl<'a> Lowering<'a> {
    pub(super) fn barrier(&mut self, frame: &Frame<'a>, inst: &Inst) -> Result<(), Fault> {
        let words: Vec<&str> = inst.opcode.split('.').skip(1).filter(|w| !matches!(*w, "cta" | "aligned")).collect();
        let kind = match words.as_slice() {
            ["warp", "sync"] => {
                let mask = self.slot(frame, inst, operand(inst, 0)?, 'w')?;
                self.emit(Op::WarpBarrier, Class::Warp, vec![mask], 0, inst);
                return Ok(());
            }
            ["sync"] => BarrierKind::Sync,
            ["arrive"] => BarrierKind::Arrive,
            ["red", "popc", "u32"] => BarrierKind::Count,
            ["red", "and", "pred"] => BarrierKind::And,
            ["red", "or", "pred"] => BarrierKind::Or,
            _ => return Err(unsupported(inst.opcode.clone(), inst.line)),
        };
        let reduces = words[0] == "red";
        let mut given: Vec<&Operand> = inst.operands.iter().collect();
        let result = match kind {
            _ if !reduces => Slot::Sink(Bank::P),
            BarrierKind::Count => self.slot(frame, inst, given.remove(0), 'w')?,
            _ => self.slot(frame, inst, given.remove(0), 'p')?,
        };
        let predicate = if reduces { given.pop() } else { None };
        let predicate = match predicate {
            Some(p) => self.slot(frame, inst, p, 'p')?,
            None => Slot::Sink(Bank::P),
        };
        let [id, threads @ ..] = given.as_slice() else { return Err(parse("a barrier needs its number".into(), inst.line)) };
        let id = self.slot(frame, inst, id, 'w')?;
        let counted = !threads.is_empty();
        let threads = if counted { self.slot(frame, inst, threads[0], 'w')? } else { ZERO };
        let op = Op::Barrier { kind, counted };
        self.emit(op, Class::Control, vec![result, id, threads, predicate], usize::from(reduces), inst);
        Ok(())
    }

    pub(super) fn shuffle(&mut self, frame: &Frame<'a>, inst: &Inst) -> Result<(), Fault> {
        let mode = match inst.opcode.as_str() {
            "shfl.sync.up.b32" => ShuffleMode::Up,
            "shfl.sync.down.b32" => ShuffleMode::Down,
            "shfl.sync.bfly.b32" => ShuffleMode::Butterfly,
            "shfl.sync.idx.b32" => ShuffleMode::Index,
            _ => return Err(unsupported(inst.opcode.clone(), inst.line)),
        };
        let mut slots = self.pair(frame, inst, 'w')?;
        for at in 1..5 {
            slots.push(self.slot(frame, inst, operand(inst, at)?, 'w')?);
        }
        self.emit(Op::Shuffle(mode), Class::Warp, slots, 2, inst);
        Ok(())
    }

    pub(super) fn vote(&mut self, frame: &Frame<'a>, inst: &Inst) -> Result<(), Fault> {
        let (mode, kind) = match inst.opcode.as_str() {
            "vote.sync.ballot.b32" => (VoteMode::Ballot, 'w'),
            "vote.sync.all.pred" => (VoteMode::All, 'p'),
            "vote.sync.any.pred" => (VoteMode::Any, 'p'),
            "vote.sync.uni.pred" => (VoteMode::Uniform, 'p'),
            _ => return Err(unsupported(inst.opcode.clone(), inst.line)),
        };
        let (p, negated) = match operand(inst, 1)? {
            Operand::NotReg(reg) => (Operand::Reg(*reg), true),
            other => (other.clone(), false),
        };
        let d = self.slot(frame, inst, operand(inst, 0)?, kind)?;
        let p = self.slot(frame, inst, &p, 'p')?;
        let mask = self.slot(frame, inst, operand(inst, 2)?, 'w')?;
        self.emit(Op::Vote { mode, negated }, Class::Warp, vec![d, p, mask], 1, inst);
        Ok(())
    }

    pub(super) fn matching(&mut self, frame: &Frame<'a>, inst: &Inst) -> Result<(), Fault> {
        let (all, wide) = match inst.opcode.as_str() {
            "match.any.sync.b32" => (false, false),
            "match.all.sync.b32" => (true, false),
            "match.any.sync.b64" => (false, true),
            "match.all.sync.b64" => (true, true),
            _ => return Err(unsupported(inst.opcode.clone(), inst.line)),
        };
        let mut slots = self.pair(frame, inst, 'w')?;
        slots.push(self.slot(frame, inst, operand(inst, 1)?, if wide { 'l' } else { 'w' })?);
        slots.push(self.slot(frame, inst, operand(inst, 2)?, 'w')?);
        self.emit(Op::Match { all, wide }, Class::Warp, slots, 2, inst);
        Ok(())
    }

    pub(super) fn reduce(&mut self, frame: &Frame<'a>, inst: &Inst) -> Result<(), Fault> {
        let words: Vec<&str> = inst.opcode.split('.').collect();
        let op = match words.as_slice() {
            ["redux", "sync", "add", _] => AtomicOp::Add,
            ["redux", "sync", "min", _] => AtomicOp::Min,
            ["redux", "sync", "max", _] => AtomicOp::Max,
            ["redux", "sync", "and", "b32"] => AtomicOp::And,
            ["redux", "sync", "or", "b32"] => AtomicOp::Or,
            ["redux", "sync", "xor", "b32"] => AtomicOp::Xor,
            _ => return Err(unsupported(inst.opcode.clone(), inst.line)),
        };
        if !matches!(words[3], "u32" | "s32" | "b32") {
            return Err(unsupported(inst.opcode.clone(), inst.line));
        }
        let mut slots = Vec::new();
        for at in 0..3 {
            slots.push(self.slot(frame, inst, operand(inst, at)?, 'w')?);
        }
        self.emit(Op::Reduce { op, signed: words[3] == "s32" }, Class::Warp, slots, 1, inst);
        Ok(())
    }

    /// A result and its optional predicate.
    pub(super) fn pair(&mut self, frame: &Frame<'a>, inst: &Inst, kind: char) -> Result<Vec<Slot>, Fault> {
        Ok(match operand(inst, 0)? {
            Operand::Pair(d, p) => vec![self.slot(frame, inst, d, kind)?, self.slot(frame, inst, p, 'p')?],
            d => vec![self.slot(frame, inst, d, kind)?, Slot::Sink(Bank::P)],
        })
    }
}
