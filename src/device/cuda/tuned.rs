//! Measured tiles on disk. A file that is damaged or of another device costs a warning, never a result.

use super::Cuda;
use crate::device::{HEADERS, Tiles};
use crate::files::{prepare_folder, write_atomic};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What was measured on one device with one driver and one set of kernels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    /// The device's name.
    pub device: String,
    /// Version of the driver as it spells it.
    pub driver: u32,
    /// Hash of the kernels that were timed.
    pub kernels: String,
    /// By the product's name ([`crate::device::ProductTiles`]).
    pub products: BTreeMap<String, TunedProduct>,
}

/// What was measured of one product.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunedProduct {
    /// Rows and columns of the tile that is taken without measurement.
    pub default: [u32; 2],
    /// The tile that was faster by more than noise; none: the default.
    pub chosen: Option<[u32; 2]>,
    /// Microseconds of each tile (`128x64`): lower quartile, median, upper quartile.
    pub microseconds: BTreeMap<String, [f64; 3]>,
}

impl Tuned {
    /// Nothing measured yet.
    pub fn new(cuda: &Cuda) -> Self {
        let (device, driver) = (cuda.model().to_owned(), cuda.facts().driver);
        Self { device, driver, kernels: kernels_hash(), products: BTreeMap::new() }
    }

    /// What was stored for this device, driver and kernels; none if there is nothing, or, with the reason in the log, nothing of use.
    pub fn load(path: &Path, cuda: &Cuda) -> Option<Self> {
        let warn = |what: &str| {
            log::warn!("measured tiles: {} {what}; it is ignored", path.display());
            None
        };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
            Err(e) => return warn(&format!("cannot be read: {e}")),
        };
        let Ok(found) = serde_json::from_slice::<Self>(&bytes) else { return warn("is damaged or no such file") };
        let own = Self::new(cuda);
        match () {
            () if found.device != own.device => warn(&format!("was measured on {}, this is {}", found.device, own.device)),
            () if found.driver != own.driver => warn("was measured under another driver: run `tune` again"),
            () if found.kernels != own.kernels => warn("was measured with other kernels: run `tune` again"),
            () => Some(found),
        }
    }

    /// Writes the file whole or not at all, and its folder if there is none.
    pub fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::input(e.to_string()))?;
        prepare_folder(path.parent().unwrap_or(Path::new(".")))?;
        write_atomic(path, (text + "\n").as_bytes())
    }

    /// The tiles that were found faster than the default.
    pub fn tiles(&self) -> Tiles {
        Tiles(self.products.iter().filter_map(|(name, product)| Some((name.clone(), product.chosen?))).collect())
    }
}

/// Where the tiles of a device of this name are kept in `folder`.
pub fn tiles_file(folder: &Path, model: &str) -> PathBuf {
    let slug: String = model.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let words: Vec<&str> = slug.split('-').filter(|w| !w.is_empty()).collect();
    folder.join(words.join("-") + ".json")
}

/// Of all that the time of a product depends on.
fn kernels_hash() -> String {
    const PRODUCTS: [&str; 4] = [
        include_str!("../../../kernels/linear.cu"),
        include_str!("../../../kernels/conv2d.cu"),
        include_str!("../../../kernels/linear_grad.cu"),
        include_str!("../../../kernels/conv2d_grad.cu"),
    ];
    let mut hash = Sha256::new();
    let texts = HEADERS.iter().map(|(_, text)| *text).chain(PRODUCTS);
    texts.for_each(|text| hash.update(text));
    hash.finalize()[..8].iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_files_of_their_own() {
        let name = |model: &str| tiles_file(Path::new("x"), model);
        assert_eq!(name("NVIDIA A100-SXM4-40GB"), Path::new("x/nvidia-a100-sxm4-40gb.json"));
        assert_eq!(name("NVIDIA A100-SXM4-40GB (emulated)"), Path::new("x/nvidia-a100-sxm4-40gb-emulated.json"));
        assert_eq!(name("../../etc"), Path::new("x/etc.json"));
    }

    #[test]
    fn only_what_beats_the_default_is_a_choice() {
        let product = |chosen| TunedProduct { default: [64, 64], chosen, microseconds: BTreeMap::new() };
        let products = [("a".to_owned(), product(None)), ("b".to_owned(), product(Some([128, 64])))].into();
        let tuned = Tuned { device: "d".into(), driver: 12090, kernels: kernels_hash(), products };
        assert_eq!(tuned.tiles(), Tiles([("b".to_owned(), [128, 64])].into()));
    }
}
