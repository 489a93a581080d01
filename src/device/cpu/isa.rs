//! Instruction sets, chosen at run time.

/// What the CPU kernels may use, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Whatever the compiler's baseline gives.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// [`Isa::Avx512`] and bf16 dot products (VDPBF16PS).
    Avx512Bf16,
    /// [`Isa::Avx512Bf16`] and bf16 tiles (TDPBF16PS).
    Amx,
}

impl Isa {
    /// All of them, the least first.
    pub const ALL: [Self; 5] = [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];

    /// The best one that this machine has.
    pub fn detect() -> Self {
        Self::ALL.into_iter().rev().find(|isa| isa.is_supported()).unwrap_or(Self::Portable)
    }

    /// Whether this machine has it.
    pub fn is_supported(self) -> bool {
        self == Self::Portable || supported(self)
    }
}

#[cfg(target_arch = "x86_64")]
fn supported(isa: Isa) -> bool {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    let bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
    match isa {
        Isa::Portable => true,
        Isa::Avx2 => avx2,
        Isa::Avx512 => avx512,
        Isa::Avx512Bf16 => bf16,
        Isa::Amx => bf16 && has_tiles(),
    }
}

/// Tiles are known to work under Linux only, which grants them on request.
#[cfg(target_arch = "x86_64")]
fn has_tiles() -> bool {
    #[cfg(target_os = "linux")]
    let has = super::amx::is_supported();
    #[cfg(not(target_os = "linux"))]
    let has = false;
    has
}

#[cfg(not(target_arch = "x86_64"))]
fn supported(_isa: Isa) -> bool {
    false
}
