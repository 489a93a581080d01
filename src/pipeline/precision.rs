//! Which network computes in which type.

use crate::DType;
use std::fmt;

/// The networks of a request, as far as they may differ in precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    Text,
    Unet,
    Vae,
    Identity,
}

/// All networks compute in the type that was asked for, but those that leave the range of f16, which ends at 65504: they compute in f32.
#[derive(Clone, Debug)]
pub(super) struct Precisions {
    asked: DType,
    raised: Vec<Network>,
}

impl Precisions {
    /// `known` networks are known to leave the range.
    pub(super) fn new(asked: DType, known: &[Network]) -> Self {
        Self { asked, raised: if asked == DType::F16 { known.to_vec() } else { Vec::new() } }
    }

    pub(super) fn of(&self, network: Network) -> DType {
        if self.raised.contains(&network) { DType::F32 } else { self.asked }
    }

    /// Raises `network` to f32. False if a wider range is of no use to it.
    pub(super) fn raise(&mut self, network: Network) -> bool {
        let narrow = self.of(network) == DType::F16;
        if narrow {
            self.raised.push(network);
        }
        narrow
    }
}

/// `f16`, or `f16, vae in f32`.
impl fmt::Display for Precisions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.asked)?;
        self.raised.iter().try_for_each(|network| write!(f, ", {network} in f32"))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text encoder",
            Self::Unet => "unet",
            Self::Vae => "vae",
            Self::Identity => "face encoder",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_f16_is_raised_and_only_once() {
        let mut half = Precisions::new(DType::F16, &[]);
        assert!(half.raise(Network::Vae) && !half.raise(Network::Vae));
        assert_eq!((half.of(Network::Vae), half.of(Network::Unet)), (DType::F32, DType::F16));
        assert_eq!(half.to_string(), "f16, vae in f32");
        for wide in [DType::Bf16, DType::F32] {
            let mut wide = Precisions::new(wide, &[Network::Vae]);
            assert!(!wide.raise(Network::Vae) && wide.to_string() == wide.of(Network::Vae).to_string());
        }
        assert_eq!(Precisions::new(DType::F16, &[Network::Vae]).of(Network::Vae), DType::F32);
    }
}
