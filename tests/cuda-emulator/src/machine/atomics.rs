//! Atomics on global and shared memory.

use super::access::Addresses;
use super::block::Block;
use super::lanes::{add_bf16x2, add_f16x2, add_f32, lanes_of};
use super::stop::Stop;
use crate::FaultKind;
use crate::ptx::program::{Access, AtomicOp, Instr, Number, Place};

impl Block<'_> {
    /// Lanes go one after the other, the lowest first.
    pub(super) fn atomic(
        &mut self,
        w: usize,
        pc: u32,
        instr: &Instr,
        (access, op, number): (Access, AtomicOp, Number),
        at: &Addresses,
        mask: u32,
    ) -> Result<(), Box<Stop>> {
        let bytes = u32::from(access.bytes);
        let [d, _, a, b] = [0, 1, 2, 3].map(|i| instr.o[i] as usize);
        let mut hint = self.hints[pc as usize];
        for lane in lanes_of(mask) {
            let n = lane as u32;
            let operand = |row: usize| match access.wide {
                true => self.rows[w].b64[row][lane],
                false => u64::from(self.rows[w].b32[row][lane]),
            };
            let (x, y) = (operand(a), operand(b));
            let new = |old: u64| match (op, number) {
                // By the ISA sums in global memory flush subnormal numbers, those in shared memory do not.
                (AtomicOp::Add, Number::F32) => u64::from(add_f32(old as u32, x as u32, access.place == Place::Global)),
                _ => changed(op, number, old, x, y),
            };
            let old = match access.place {
                Place::Shared => {
                    self.shared.check(at[lane], bytes, n)?;
                    self.shared.update(at[lane], bytes, w, n)?;
                    let old = self.shared.element(at[lane], access.bytes);
                    self.shared.put(at[lane], &new(old).to_le_bytes()[..bytes as usize]);
                    old
                }
                Place::Global => {
                    let found = self.global.locate(at[lane], bytes, n, &mut hint)?;
                    self.global.require_variable(found.0, n)?;
                    self.global.require_written(found, bytes, n)?;
                    found.0.update(found.1, access.bytes, new)
                }
                place => {
                    let detail = format!("an atomic on {place:?} memory at {:#x}", at[lane]);
                    return Err(Stop::new(FaultKind::ReadOnly, n, detail));
                }
            };
            match access.wide {
                true => self.rows[w].b64[d][lane] = old,
                false => self.rows[w].b32[d][lane] = old as u32,
            }
        }
        self.hints[pc as usize] = hint;
        self.counters.atomics += u64::from(mask.count_ones());
        match access.place {
            Place::Global => self.global.count(&mut self.counters, at, mask, bytes, true, hint),
            _ => self.count_shared(at, mask, bytes),
        }
        Ok(())
    }
}

/// What an atomic leaves in memory; sums of f32 apart.
fn changed(op: AtomicOp, number: Number, old: u64, x: u64, y: u64) -> u64 {
    match (op, number) {
        (AtomicOp::Add, Number::F64) => (f64::from_bits(old) + f64::from_bits(x)).to_bits(),
        (AtomicOp::Add, Number::F16x2) => u64::from(add_f16x2(old as u32, x as u32)),
        (AtomicOp::Add, Number::Bf16x2) => u64::from(add_bf16x2(old as u32, x as u32)),
        (AtomicOp::Add, Number::U64 | Number::S64) => old.wrapping_add(x),
        (AtomicOp::Add, _) => u64::from((old as u32).wrapping_add(x as u32)),
        (AtomicOp::Min, Number::S32) => u64::from((old as i32).min(x as i32) as u32),
        (AtomicOp::Max, Number::S32) => u64::from((old as i32).max(x as i32) as u32),
        (AtomicOp::Min, Number::S64) => (old as i64).min(x as i64) as u64,
        (AtomicOp::Max, Number::S64) => (old as i64).max(x as i64) as u64,
        (AtomicOp::Min, _) => old.min(x),
        (AtomicOp::Max, _) => old.max(x),
        (AtomicOp::And, _) => old & x,
        (AtomicOp::Or, _) => old | x,
        (AtomicOp::Xor, _) => old ^ x,
        (AtomicOp::Exchange, _) => x,
        (AtomicOp::CompareExchange, _) => {
            if old == x {
                y
            } else {
                old
            }
        }
        (AtomicOp::Increment, _) => {
            if old >= x {
                0
            } else {
                old + 1
            }
        }
        (AtomicOp::Decrement, _) => {
            if old == 0 || old > x {
                x
            } else {
                old - 1
            }
        }
    }
}
