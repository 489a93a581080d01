//! Rows for virtual registers: liveness over basic blocks, then one scan over intervals.
//!
//! A row holds the same register for all lanes, and every write goes to the active lanes only, so what is right for each thread on its own is
//! right for a warp whose lanes have parted.

use std::collections::HashMap;

use super::program::{Instr, Op, Preset32, Program, UNGUARDED};
use super::syntax::{Bank, VReg};
use crate::machine::{Class, Operands};
use crate::{Fault, FaultKind};

/// What an operand is, before it has a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Slot {
    Reg(VReg),
    /// A result that nobody wants.
    Sink(Bank),
    Preset(Preset32),
    Wide(u64),
    /// Address of a module's variable.
    Variable(usize, i64),
}

/// An instruction with virtual registers; branches name labels.
#[derive(Clone)]
pub(super) struct Ir {
    pub(super) op: Op,
    pub(super) class: Class,
    pub(super) guard: Option<(VReg, bool)>,
    pub(super) slots: Vec<Slot>,
    /// How many of the slots are results.
    pub(super) results: usize,
    pub(super) code: u16,
    pub(super) line: u32,
    pub(super) location: (u32, u32),
}

/// The instructions of a kernel and where its labels stand.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) code: Vec<Ir>,
    /// Instruction of each label.
    pub(super) labels: Vec<u32>,
    pub(super) tables: Vec<Vec<u32>>,
    pub(super) registers: [u32; 3],
}

/// Rows of each bank: what their numbers can name.
const ROWS: usize = UNGUARDED as usize;

/// Compiles a draft; one that needs more than [`ROWS`] rows is refused.
pub(super) fn allocate(draft: &Draft) -> Result<Program, Fault> {
    let target = |label: u32| draft.labels[label as usize];
    let mut program =
        Program { tables: draft.tables.iter().map(|t| t.iter().map(|&l| target(l)).collect()).collect(), ..Program::default() };
    let mut rows = Rows::new(draft);
    rows.presets(draft, &mut program);
    rows.scan(draft);
    if let Some(most) = rows.count.iter().max().filter(|most| **most > ROWS) {
        let detail = format!("{most} values of one width are live at once or constant; the emulator has rows for {ROWS}");
        return Err(Fault::new(FaultKind::RegisterLimit, detail));
    }
    for ir in &draft.code {
        let mut o: Operands = [0; 14];
        for (at, slot) in ir.slots.iter().enumerate() {
            o[at] = rows.row(slot);
        }
        if ir.slots.len() < 14 {
            o[13] = ir.code;
        }
        let op = match ir.op {
            Op::Branch(label) => Op::Branch(target(label)),
            op => op,
        };
        let (guard, negated) = ir.guard.map_or((UNGUARDED, false), |(reg, negated)| (rows.row(&Slot::Reg(reg)), negated));
        program.code.push(Instr { op, guard, negated, class: ir.class, o });
        program.lines.push((ir.line, ir.location));
    }
    program.rows = rows.count;
    Ok(program)
}

struct Rows {
    /// Row of each virtual register, by bank.
    given: [Vec<u16>; 3],
    preset32: HashMap<Preset32, u16>,
    wide: HashMap<u64, u16>,
    variables: HashMap<(usize, i64), u16>,
    sinks: [u16; 3],
    count: [usize; 3],
}

impl Rows {
    fn new(draft: &Draft) -> Self {
        Self {
            given: draft.registers.map(|n| vec![0; n as usize]),
            preset32: HashMap::new(),
            wide: HashMap::new(),
            variables: HashMap::new(),
            sinks: [0; 3],
            count: [0; 3],
        }
    }

    fn row(&self, slot: &Slot) -> u16 {
        match slot {
            Slot::Reg(reg) => self.given[reg.bank as usize][reg.id as usize],
            Slot::Sink(bank) => self.sinks[*bank as usize],
            Slot::Preset(preset) => self.preset32[preset],
            Slot::Wide(value) => self.wide[value],
            Slot::Variable(variable, offset) => self.variables[&(*variable, *offset)],
        }
    }

    /// Constants first: they are written once per kernel.
    fn presets(&mut self, draft: &Draft, program: &mut Program) {
        for slot in draft.code.iter().flat_map(|ir| &ir.slots) {
            match *slot {
                Slot::Preset(preset) => {
                    self.preset32.entry(preset).or_insert_with(|| {
                        program.preset32.push(preset);
                        (program.preset32.len() - 1) as u16
                    });
                }
                Slot::Wide(value) => {
                    self.wide.entry(value).or_insert_with(|| {
                        program.preset64.push(value);
                        (program.preset64.len() - 1) as u16
                    });
                }
                Slot::Variable(variable, offset) => {
                    self.variables.entry((variable, offset)).or_insert_with(|| {
                        program.preset64.push(0);
                        let row = (program.preset64.len() - 1) as u16;
                        program.relocations.push((row, variable, offset));
                        row
                    });
                }
                _ => {}
            }
        }
        let fixed = [program.preset32.len(), program.preset64.len(), 0];
        for (bank, fixed) in fixed.into_iter().enumerate() {
            self.sinks[bank] = fixed as u16;
            self.count[bank] = fixed + 1;
        }
    }

    /// Gives each register the lowest row that is free over its whole life.
    fn scan(&mut self, draft: &Draft) {
        let lives = lives(draft);
        for (bank, lives) in lives.iter().enumerate() {
            let mut order: Vec<(u32, u32, usize)> =
                lives.iter().enumerate().filter_map(|(id, life)| life.map(|(from, to)| (from, to, id))).collect();
            order.sort_unstable();
            let mut busy = std::collections::BinaryHeap::new();
            let mut free: Vec<u16> = Vec::new();
            for (from, to, id) in order {
                while let Some(&std::cmp::Reverse((end, row))) = busy.peek() {
                    if end >= from {
                        break;
                    }
                    busy.pop();
                    free.push(row);
                }
                let row = free.pop().unwrap_or_else(|| {
                    self.count[bank] += 1;
                    (self.count[bank] - 1) as u16
                });
                self.given[bank][id] = row;
                busy.push(std::cmp::Reverse((to, row)));
            }
        }
    }
}

type Lives = [Vec<Option<(u32, u32)>>; 3];

/// First and last instruction at which each register holds a value that is still wanted.
fn lives(draft: &Draft) -> Lives {
    let blocks = blocks(draft);
    let base = [0, draft.registers[0], draft.registers[0] + draft.registers[1]];
    let total: u32 = draft.registers.iter().sum();
    let words = total.div_ceil(64) as usize;
    let index = |reg: &VReg| (base[reg.bank as usize] + reg.id) as usize;

    let mut wanted = vec![vec![0u64; words]; blocks.len()];
    let mut written = vec![vec![0u64; words]; blocks.len()];
    for (b, block) in blocks.iter().enumerate() {
        for ir in &draft.code[block.from..block.to] {
            each(ir, |reg, result| {
                let (word, bit) = (index(reg) / 64, 1u64 << (index(reg) % 64));
                if !result && written[b][word] & bit == 0 {
                    wanted[b][word] |= bit;
                } else if result && ir.guard.is_none() {
                    written[b][word] |= bit;
                } else if result && written[b][word] & bit == 0 {
                    // Where the guard is false the old value stays.
                    wanted[b][word] |= bit;
                }
            });
        }
    }
    let (mut live_in, mut live_out) = (wanted.clone(), vec![vec![0u64; words]; blocks.len()]);
    let mut changed = true;
    while changed {
        changed = false;
        for b in (0..blocks.len()).rev() {
            for w in 0..words {
                let out = blocks[b].next.iter().fold(0, |all, &n| all | live_in[n][w]);
                let inside = wanted[b][w] | out & !written[b][w];
                changed |= inside != live_in[b][w];
                (live_out[b][w], live_in[b][w]) = (out, inside);
            }
        }
    }

    let mut flat: Vec<Option<(u32, u32)>> = vec![None; total as usize];
    let mut extend = |at: usize, point: u32| {
        let life = flat[at].get_or_insert((point, point));
        *life = (life.0.min(point), life.1.max(point));
    };
    for (b, block) in blocks.iter().enumerate() {
        for (bits, point) in [(&live_in[b], block.from), (&live_out[b], block.to.max(1) - 1)] {
            for (w, &word) in bits.iter().enumerate() {
                let mut word = word;
                while word != 0 {
                    extend(w * 64 + word.trailing_zeros() as usize, point as u32);
                    word &= word - 1;
                }
            }
        }
        for (i, ir) in draft.code[block.from..block.to].iter().enumerate() {
            each(ir, |reg, _| extend(index(reg), (block.from + i) as u32));
        }
    }
    let ends = [base[1] as usize, base[2] as usize, total as usize];
    [0, 1, 2].map(|bank| flat[base[bank] as usize..ends[bank]].to_vec())
}

/// Calls with each register of an instruction, operands before results.
fn each(ir: &Ir, mut f: impl FnMut(&VReg, bool)) {
    if let Some((reg, _)) = &ir.guard {
        f(reg, false);
    }
    for (at, slot) in ir.slots.iter().enumerate().rev() {
        if let Slot::Reg(reg) = slot {
            f(reg, at < ir.results);
        }
    }
}

struct Block {
    from: usize,
    to: usize,
    next: Vec<usize>,
}

fn blocks(draft: &Draft) -> Vec<Block> {
    let n = draft.code.len();
    let mut starts = vec![false; n + 1];
    starts[0] = true;
    for &label in &draft.labels {
        starts[(label as usize).min(n)] = true;
    }
    for (i, ir) in draft.code.iter().enumerate() {
        if matches!(ir.op, Op::Branch(_) | Op::Table(_) | Op::Exit) {
            starts[i + 1] = true;
        }
    }
    let heads: Vec<usize> = (0..n).filter(|&i| starts[i]).collect();
    let block_of = |at: u32| heads.binary_search(&(at as usize)).ok();
    let mut found = Vec::new();
    for (b, &from) in heads.iter().enumerate() {
        let to = heads.get(b + 1).copied().unwrap_or(n);
        let last = &draft.code[to - 1];
        let mut next = Vec::new();
        let falls = match last.op {
            Op::Branch(label) => {
                next.extend(block_of(draft.labels[label as usize]));
                last.guard.is_some()
            }
            Op::Table(table) => {
                next.extend(draft.tables[table as usize].iter().filter_map(|&l| block_of(draft.labels[l as usize])));
                last.guard.is_some()
            }
            Op::Exit => last.guard.is_some(),
            _ => true,
        };
        if falls && to < n {
            next.push(b + 1);
        }
        found.push(Block { from, to, next });
    }
    found
}
