//! Bytecode: what the machine runs.

use crate::machine::{Alu, Class, LANES, Operands};

/// Where an access goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Generic,
    Global,
    /// Constant memory: device memory that a kernel may not write and whose reads are not counted as traffic.
    Const,
    Shared,
    Local,
    /// The parameters of the kernel.
    Param,
}

/// A load or store of `lanes` elements of `bytes` each, from `[base + offset]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) place: Place,
    pub(crate) bytes: u8,
    pub(crate) elements: u8,
    pub(crate) signed: bool,
    /// Data registers are 64-bit.
    pub(crate) wide: bool,
    /// The base register is 64-bit.
    pub(crate) base64: bool,
    pub(crate) offset: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtomicOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    CompareExchange,
    Increment,
    Decrement,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Number {
    U32,
    S32,
    U64,
    S64,
    F32,
    F64,
    F16x2,
    Bf16x2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VoteMode {
    Ballot,
    All,
    Any,
    Uniform,
}

/// Types of the factors of `mma.sync`; sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Factor {
    F16,
    Bf16,
    Tf32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarrierKind {
    Sync,
    Arrive,
    Count,
    And,
    Or,
}

/// An instruction's operation. The comments list its operands.
#[derive(Clone, Copy)]
pub(crate) enum Op {
    Alu(Alu),
    /// To an instruction.
    Branch(u32),
    /// To the entry of a table that `[index]` names.
    Table(u32),
    Exit,
    Trap,
    /// Fences, prefetches, controls of dependent grids: the README says of each why nothing is what it does.
    Nop,
    /// Waits for what other warps or blocks do.
    Sleep,
    /// `[result, id, threads, predicate]`; `counted` tells whether a number of threads was given.
    Barrier {
        kind: BarrierKind,
        counted: bool,
    },
    /// `[mask]`
    WarpBarrier,
    /// `[d, p, a, b, c, mask]`
    Shuffle(ShuffleMode),
    /// `[d, p, mask]`, `negated` for `!p`
    Vote {
        mode: VoteMode,
        negated: bool,
    },
    /// `[d, p, a, mask]`
    Match {
        all: bool,
        wide: bool,
    },
    /// `[d, a, mask]`
    Reduce {
        op: AtomicOp,
        signed: bool,
    },
    /// `[d]`
    ActiveMask,
    /// `[d]`: instructions that the block has issued, or the upper half of their number.
    Clock {
        wide: bool,
        upper: bool,
    },
    /// `[d.., base]`
    Load(Access),
    /// `[base, a..]`
    Store(Access),
    /// `[d, base, a, b]`
    Atomic {
        access: Access,
        op: AtomicOp,
        number: Number,
    },
    /// `[to, from, size]`; offsets of both addresses.
    AsyncCopy {
        bytes: u8,
        sized: bool,
        to64: bool,
        to: i64,
        from: i64,
    },
    AsyncCommit,
    /// Until at most so many groups are pending.
    AsyncWait(u32),
    AsyncWaitAll,
    /// `[d.., base]`
    LoadMatrix {
        count: u8,
        transposed: bool,
        base64: bool,
        offset: i64,
    },
    /// `[d x4, a x2 or x4, b x1 or x2, c x4]`: 16 x k times k x 8.
    Mma(Alu),
}

/// One instruction.
#[derive(Clone, Copy)]
pub(crate) struct Instr {
    pub(crate) op: Op,
    /// Row of the predicate that guards it, [`UNGUARDED`] for none.
    pub(crate) guard: u16,
    pub(crate) negated: bool,
    pub(crate) class: Class,
    pub(crate) o: Operands,
}

pub(crate) const UNGUARDED: u16 = u16::MAX;

/// A special register that has a row of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Lane,
    Warp,
    Warps,
    Zero,
    One,
    Sms,
    DynamicShared,
    TotalShared,
    LaneMask(&'static str),
}

/// What a row holds before a thread starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Preset32 {
    Constant(u32),
    Special(Special),
}

/// A kernel, compiled.
#[derive(Clone, Default)]
pub(crate) struct Program {
    pub(crate) code: Vec<Instr>,
    /// Line of PTX, and file and line of the source, of each instruction.
    pub(crate) lines: Vec<(u32, (u32, u32))>,
    pub(crate) tables: Vec<Vec<u32>>,
    /// The first rows of each bank; the others start as zero.
    pub(crate) preset32: Vec<Preset32>,
    pub(crate) preset64: Vec<u64>,
    /// Rows 64-bit constants that are addresses of module variables: row, variable, offset.
    pub(crate) relocations: Vec<(u16, usize, i64)>,
    pub(crate) rows: [usize; 3],
    pub(crate) local_bytes: u32,
    pub(crate) static_shared: u32,
    /// Bytes of the smallest access that may touch shared memory: what the race detector keeps a record for.
    pub(crate) granule: u32,
}

const _: () = assert!(LANES == 32);
