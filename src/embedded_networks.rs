//! The small published networks that travel inside the library: detectors, landmarks, a recogniser.
//!
//! Sources and licences are in `assets/networks/NOTICE`.

use crate::Result;
use crate::weights::Weights;

/// One of the files under `assets/networks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EmbeddedNetwork {
    /// BlazeFace for faces that are large in a picture of 128x128.
    BlazeFaceFront,
    /// BlazeFace for pictures of 256x256.
    BlazeFaceBack,
    /// MTCNN's proposals.
    PNet,
    /// MTCNN's refinement.
    RNet,
    /// MTCNN's landmarks.
    ONet,
    /// The recogniser MobileFaceNet.
    MobileFaceNet,
}

impl EmbeddedNetwork {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::BlazeFaceFront, Self::BlazeFaceBack, Self::PNet, Self::RNet, Self::ONet, Self::MobileFaceNet];

    /// Name of the file.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::BlazeFaceFront => "blazeface_front.safetensors",
            Self::BlazeFaceBack => "blazeface_back.safetensors",
            Self::PNet => "pnet.safetensors",
            Self::RNet => "rnet.safetensors",
            Self::ONet => "onet.safetensors",
            Self::MobileFaceNet => "mobilefacenet.safetensors",
        }
    }

    /// The file.
    pub fn bytes(self) -> &'static [u8] {
        match self {
            Self::BlazeFaceFront => include_bytes!("../assets/networks/blazeface_front.safetensors"),
            Self::BlazeFaceBack => include_bytes!("../assets/networks/blazeface_back.safetensors"),
            Self::PNet => include_bytes!("../assets/networks/pnet.safetensors"),
            Self::RNet => include_bytes!("../assets/networks/rnet.safetensors"),
            Self::ONet => include_bytes!("../assets/networks/onet.safetensors"),
            Self::MobileFaceNet => include_bytes!("../assets/networks/mobilefacenet.safetensors"),
        }
    }

    /// Its weights, converted when a graph is compiled.
    pub fn weights(self) -> Result<Weights> {
        Weights::from_bytes(self.file_name(), self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    #[test]
    fn embedded_files_have_their_published_hashes() {
        let sums = include_str!("../assets/networks/SHA256SUMS");
        for network in EmbeddedNetwork::ALL {
            let hash: String = Sha256::digest(network.bytes()).iter().map(|b| format!("{b:02x}")).collect();
            let line = format!("{hash}  {}", network.file_name());
            assert!(sums.lines().any(|l| l == line), "SHA256SUMS has no line `{line}`");
        }
        assert_eq!(sums.lines().count(), EmbeddedNetwork::ALL.len());
    }
}
