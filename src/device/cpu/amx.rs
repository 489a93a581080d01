//! The tile unit (AMX-BF16): products of 16 × 32 by 32 × 16 bf16 tiles, summed in f32 tiles.
//!
//! The micro-kernel is written over [`Tiles`], which has two implementations: [`Hardware`] in inline assembly, because the intrinsics
//! are not stable, and [`Emulated`], which computes what the manual says the instructions do. Packing, blocking and tails are tested on
//! the emulation everywhere; **the assembly itself was not executed where this was written**, for want of a machine with tiles.

use super::blocking::ROW_BYTES;
use super::micro::Step;

/// Rows of a micro-kernel: two tiles.
pub(super) const MR: usize = 32;
/// Columns of a micro-kernel, and of a panel: two tiles.
pub(super) const NR: usize = 32;
/// Values of K in a tile.
pub(super) const KR: usize = 32;

/// Eight registers of 16 rows by 64 bytes. Strides are in bytes.
pub(super) trait Tiles {
    /// Fills register `T` with zeros.
    unsafe fn zero<const T: usize>(&mut self);
    /// Reads 16 rows of 64 bytes into register `T`.
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize);
    /// Adds to the f32 register `D` the product of the bf16 registers `A` (rows of k) and `B` (rows of pairs of k).
    unsafe fn dot<const D: usize, const A: usize, const B: usize>(&mut self);
    /// Writes 16 rows of 64 bytes from register `T`.
    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize);
}

/// Runs a step on tiles.
///
/// # Safety
/// `x` and `sums` of the step hold a multiple of 16 rows; the tile unit is there and configured.
#[inline(always)]
pub(super) unsafe fn run<T: Tiles>(tiles: &mut T, step: &Step) {
    // SAFETY: as the caller promises.
    unsafe { if step.rows > 16 { run_rows::<T, true>(tiles, step) } else { run_rows::<T, false>(tiles, step) } }
}

/// One or two tiles of rows by two tiles of columns. Registers 0 to 3 sum, 4 and 5 hold x, 6 and 7 weights.
#[inline(always)]
unsafe fn run_rows<T: Tiles, const BOTH: bool>(t: &mut T, step: &Step) {
    const PANEL_STRIDE: usize = NR * 4;
    let sums = step.sums.cast::<u8>();
    let (ld, below) = (step.ld * 4, 16 * step.ld * 4);
    // SAFETY: as the caller promises.
    unsafe {
        if step.first {
            t.zero::<0>();
            t.zero::<1>();
            t.zero::<2>();
            t.zero::<3>();
        } else {
            t.load::<0>(sums, ld);
            t.load::<1>(sums.add(64), ld);
            if BOTH {
                t.load::<2>(sums.add(below), ld);
                t.load::<3>(sums.add(below + 64), ld);
            }
        }
        for k in (0..step.k).step_by(KR) {
            let x = step.x.add(k * 2);
            let w = step.weights.add(k / 2 * PANEL_STRIDE);
            t.load::<4>(x, ROW_BYTES);
            t.load::<6>(w, PANEL_STRIDE);
            t.load::<7>(w.add(64), PANEL_STRIDE);
            t.dot::<0, 4, 6>();
            t.dot::<1, 4, 7>();
            if BOTH {
                t.load::<5>(x.add(16 * ROW_BYTES), ROW_BYTES);
                t.dot::<2, 5, 6>();
                t.dot::<3, 5, 7>();
            }
        }
        t.store::<0>(sums, ld);
        t.store::<1>(sums.add(64), ld);
        if BOTH {
            t.store::<2>(sums.add(below), ld);
            t.store::<3>(sums.add(below + 64), ld);
        }
    }
}

/// Runs a step on emulated tiles. Apart, because eight tiles are much for a stack frame.
///
/// # Safety
/// `x` and `sums` of the step hold a multiple of 16 rows.
#[inline(never)]
pub(super) unsafe fn emulate(step: &Step) {
    // SAFETY: as the caller promises.
    unsafe { run(&mut Emulated::new(), step) }
}

/// Tiles in plain Rust, for tests on machines without a tile unit.
pub(super) struct Emulated([[u8; 1024]; 8]);

impl Emulated {
    pub(super) fn new() -> Self {
        Self([[0xff; 1024]; 8])
    }
}

impl Tiles for Emulated {
    unsafe fn zero<const T: usize>(&mut self) {
        self.0[T].fill(0);
    }

    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize) {
        for (i, row) in self.0[T].chunks_exact_mut(64).enumerate() {
            // SAFETY: the caller promises 16 rows of 64 bytes.
            row.copy_from_slice(unsafe { std::slice::from_raw_parts(from.add(i * stride), 64) });
        }
    }

    unsafe fn dot<const D: usize, const A: usize, const B: usize>(&mut self) {
        let value = |tile: usize, row: usize, i: usize| {
            let at = row * 64 + 2 * i;
            f32::from_bits(u32::from(u16::from_le_bytes([self.0[tile][at], self.0[tile][at + 1]])) << 16)
        };
        let mut sums = self.0[D];
        for m in 0..16 {
            for n in 0..16 {
                // even and odd places of K are summed apart; a product of two bf16 is exact
                let mut parts = [0.0_f32; 2];
                for k in 0..16 {
                    parts[0] += value(A, m, 2 * k) * value(B, k, 2 * n);
                    parts[1] += value(A, m, 2 * k + 1) * value(B, k, 2 * n + 1);
                }
                let at = m * 64 + n * 4;
                let sum = f32::from_le_bytes([sums[at], sums[at + 1], sums[at + 2], sums[at + 3]]) + (parts[0] + parts[1]);
                sums[at..at + 4].copy_from_slice(&sum.to_le_bytes());
            }
        }
        self.0[D] = sums;
    }

    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize) {
        for (i, row) in self.0[T].chunks_exact(64).enumerate() {
            // SAFETY: the caller promises 16 rows of 64 bytes.
            unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), to.add(i * stride), 64) };
        }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) use hardware::{Configured, Hardware, is_supported};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod hardware {
    use super::Tiles;
    use std::arch::asm;
    use std::sync::OnceLock;

    /// The processor's own tile registers, from now until the [`Configured`] of this thread is dropped.
    pub(in super::super) struct Hardware;

    /// All eight tile registers of this thread set to 16 rows of 64 bytes; given back when dropped.
    pub(in super::super) struct Configured;

    impl Configured {
        /// # Safety
        /// [`is_supported`] said so.
        pub(in super::super) unsafe fn new() -> Self {
            // Intel's manual, LDTILECFG: palette, start row, 14 zeros, 16 two-byte widths, 16 one-byte heights.
            let mut config = [0_u8; 64];
            config[0] = 1;
            for tile in 0..8 {
                config[16 + 2 * tile] = 64;
                config[48 + tile] = 16;
            }
            // SAFETY: the configuration is valid and 64 bytes long.
            unsafe { asm!("ldtilecfg [{}]", in(reg) config.as_ptr(), options(nostack, preserves_flags, readonly)) };
            Self
        }
    }

    impl Drop for Configured {
        fn drop(&mut self) {
            // SAFETY: tiles are supported, or there would be no value to drop.
            unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
        }
    }

    // SAFETY of every block: the caller of the micro-kernel holds a `Configured`; pointers are valid as it promises. The compiler itself
    // never uses tile registers, so they keep their values between the blocks.
    impl Tiles for Hardware {
        #[inline(always)]
        unsafe fn zero<const T: usize>(&mut self) {
            unsafe { asm!("tilezero tmm{t}", t = const T, options(nostack, preserves_flags, nomem)) };
        }
        #[inline(always)]
        unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize) {
            unsafe {
                asm!("tileloadd tmm{t}, [{p} + {s}*1]", t = const T, p = in(reg) from, s = in(reg) stride,
                    options(nostack, preserves_flags, readonly));
            }
        }
        #[inline(always)]
        unsafe fn dot<const D: usize, const A: usize, const B: usize>(&mut self) {
            unsafe {
                asm!("tdpbf16ps tmm{d}, tmm{a}, tmm{b}", d = const D, a = const A, b = const B,
                    options(nostack, preserves_flags, nomem));
            }
        }
        #[inline(always)]
        unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize) {
            unsafe {
                asm!("tilestored [{p} + {s}*1], tmm{t}", t = const T, p = in(reg) to, s = in(reg) stride,
                    options(nostack, preserves_flags));
            }
        }
    }

    /// Whether the processor has bf16 tiles and the system lets this process use them. Asks the system once.
    pub(in super::super) fn is_supported() -> bool {
        static SUPPORTED: OnceLock<bool> = OnceLock::new();
        *SUPPORTED.get_or_init(|| has_tiles() && ask_permission())
    }

    /// CPUID leaf 7: AMX-BF16 and AMX-TILE.
    fn has_tiles() -> bool {
        const BITS: u32 = (1 << 22) | (1 << 24);
        std::arch::x86_64::__cpuid(0).eax >= 7 && std::arch::x86_64::__cpuid_count(7, 0).edx & BITS == BITS
    }

    /// arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA): the state of tiles is large, so Linux grants it on demand.
    fn ask_permission() -> bool {
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const XFEATURE_XTILEDATA: i64 = 18;
        let mut result = ARCH_PRCTL;
        // SAFETY: a system call by its documented convention; it touches no memory of ours.
        unsafe {
            asm!("syscall", inlateout("rax") result, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XFEATURE_XTILEDATA,
                lateout("rcx") _, lateout("r11") _, options(nostack, nomem));
        }
        result == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use half::bf16;

    /// A step of 20 rows, 32 columns and two tiles of K, with every value known.
    fn products_of<T: Tiles>(tiles: &mut T) -> Vec<f32> {
        let k = 2 * KR;
        let x: Vec<bf16> =
            (0..MR * ROW_BYTES / 2).map(|i| bf16::from_f32((i % (ROW_BYTES / 2) % 7) as f32 + (i / (ROW_BYTES / 2)) as f32)).collect();
        let weights: Vec<bf16> = (0..k * NR).map(|i| bf16::from_f32((i % 5) as f32 - 2.0)).collect();
        let mut sums = vec![1.0_f32; MR * NR];
        let step = Step {
            k,
            x: x.as_ptr().cast(),
            weights: weights.as_ptr().cast(),
            dtype: DType::Bf16,
            panel_width: NR,
            columns: NR,
            sums: sums.as_mut_ptr(),
            ld: NR,
            rows: 20,
            first: false,
        };
        // SAFETY: the buffers are as large as the step says.
        unsafe { run(tiles, &step) };
        for m in 0..20 {
            for n in 0..NR {
                let product = |i: usize| x[m * ROW_BYTES / 2 + i].to_f32() * weights[(i / 2 * NR + n) * 2 + i % 2].to_f32();
                assert_eq!(sums[m * NR + n], 1.0 + (0..k).map(product).sum::<f32>(), "{m} {n}");
            }
        }
        sums
    }

    #[test]
    fn emulated_tiles_multiply() {
        products_of(&mut Emulated::new());
    }

    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    #[test]
    fn real_tiles_equal_emulated_ones() {
        if !is_supported() {
            println!("skipped: this machine has no tile unit");
            return;
        }
        // SAFETY: supported.
        let _configured = unsafe { Configured::new() };
        assert_eq!(products_of(&mut Hardware), products_of(&mut Emulated::new()));
    }
}
