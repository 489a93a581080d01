//! What went wrong, and where: kernel, block, thread, line of PTX and, where the compiler kept it, line of source.

use std::fmt;

/// The kinds of error that the emulator reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// The text is not PTX that this parser understands.
    Parse,
    /// An instruction, type or directive that is valid PTX but not emulated.
    Unsupported,
    /// An access outside of every allocation, or beyond a shared, local, constant or parameter window.
    OutOfBounds,
    /// An access whose address is not a multiple of its size.
    Misaligned,
    /// An access to memory that was freed.
    UseAfterFree,
    /// A read of bytes that nothing ever wrote.
    Unwritten,
    /// A write to constant memory or to parameters.
    ReadOnly,
    /// Two threads touched the same shared byte, one of them writing, with nothing between that orders them.
    SharedRace,
    /// Threads wait at different barriers, or at a barrier inside of code that only some of them reached.
    DivergentBarrier,
    /// A thread left before a barrier at which others wait.
    EarlyExit,
    /// `cp.async` data was touched before the thread waited for it, or never waited for.
    PendingCopy,
    /// A warp-wide instruction was executed without all the lanes that its mask names.
    DivergentWarp,
    /// More shared memory than the device has.
    SharedLimit,
    /// More threads, or a larger grid, than the device or the kernel allows.
    ThreadLimit,
    /// More values live at once, or constant, than the emulator has rows for: 65,535 of 32 bits, of 64 and of predicates. PTX does not say
    /// what registers a device would need, so a device's limit is never meant.
    RegisterLimit,
    /// The launch does not fit the entry: unknown name, parameter bytes, module not loaded.
    BadLaunch,
    /// Device memory is exhausted.
    OutOfMemory,
    /// A free of an address that no allocation starts at.
    InvalidFree,
    /// The kernel executed `trap`, or failed an assertion.
    Trap,
    /// The block made no progress any more, or exceeded the instruction limit.
    Hang,
}

/// One error, with its place. `kernel` is empty for errors outside of a launch; `line` is 0 where no PTX line is to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind of error it is.
    pub kind: FaultKind,
    /// Name of the entry that was running.
    pub kernel: String,
    /// Index of the block in its grid.
    pub block: [u32; 3],
    /// Index of the thread in its block.
    pub thread: [u32; 3],
    /// Line of the PTX text, counted from 1.
    pub line: u32,
    /// File and line of the CUDA source, from `.loc`.
    pub source: Option<(String, u32)>,
    /// The numbers: addresses, sizes, the instruction.
    pub detail: String,
}

impl Fault {
    /// An error that no thread is to blame for.
    pub fn new(kind: FaultKind, detail: impl Into<String>) -> Self {
        Self { kind, kernel: String::new(), block: [0; 3], thread: [0; 3], line: 0, source: None, detail: detail.into() }
    }

    pub(crate) fn at_line(mut self, line: u32) -> Self {
        self.line = line;
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.detail)?;
        if !self.kernel.is_empty() {
            let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
            write!(f, "; kernel {}, block ({bx},{by},{bz}), thread ({tx},{ty},{tz})", self.kernel)?;
        }
        if self.line > 0 {
            write!(f, ", PTX line {}", self.line)?;
        }
        if let Some((file, line)) = &self.source {
            write!(f, ", {file}:{line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}
