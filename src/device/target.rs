//! What graphs are lowered for: an architecture, and the tiles that were found fastest on a device of it.

use super::Arch;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What [`Op::lower`](crate::ops::Op::lower) may know of a device. Plain data: the same target gives the same launches anywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Compute capability.
    pub arch: Arch,
    /// Measured tiles; products that are not in it take those that the count of cycles says.
    pub tiles: Arc<Tiles>,
}

impl From<Arch> for Target {
    fn from(arch: Arch) -> Self {
        Self { arch, tiles: Arc::default() }
    }
}

/// Rows and columns of the blocks that matrix products are cut into, by the product's name
/// ([`Lowered::product`](super::Lowered::product)). They change the time of a product and not one bit of its result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tiles(pub BTreeMap<String, [u32; 2]>);

/// The product behind an operation's launches and how it may be cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProductTiles {
    /// Kernel, type and extents: all that the choice of a tile follows from.
    pub name: String,
    /// Rows and columns of the tile that was taken.
    pub chosen: [u32; 2],
    /// Those of every tile that fits, the chosen one included.
    pub choices: Vec<[u32; 2]>,
}
