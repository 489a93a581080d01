//! From a photograph to the face of one person: find, choose, align, recognise.

use super::align::align;
use super::face_networks::FaceNetworks;
use super::photo::Image;
use super::similarity::{Point, Template};
use super::{FaceError, detect, pyramid};
use crate::device::Device;
use crate::ops::Cost;
use crate::{EmbeddedNetwork, Result};

/// A face in a photograph, in pixels of the upright photograph; (0, 0) is the centre of the top left pixel.
#[derive(Clone, Debug, PartialEq)]
pub struct Face {
    /// x0, y0, x1, y1; may reach beyond the photograph.
    pub bbox: [f64; 4],
    /// The detector's score, 0 to 1.
    pub score: f64,
    /// O-Net's probability that this is a face, 0 to 1.
    pub probability: f64,
    /// Left eye in the picture, right eye, nose, left and right mouth corner.
    pub points: [Point; 5],
}

impl Face {
    /// Shorter side of the box in pixels.
    pub fn short_side(&self) -> f64 {
        let [x0, y0, x1, y1] = self.bbox;
        (x1 - x0).min(y1 - y0)
    }

    fn area(&self) -> f64 {
        let [x0, y0, x1, y1] = self.bbox;
        (x1 - x0) * (y1 - y0)
    }
}

/// How hard to look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Search {
    /// The whole photograph; if nothing is there, padded for tight crops; if still nothing, small faces anywhere.
    #[default]
    Portrait,
    /// Also small faces anywhere: for groups.
    Everywhere,
    /// MTCNN in full, from 20 pixels: a second opinion on groups.
    Pyramid,
}

/// Which of the faces is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// The largest.
    #[default]
    Largest,
    /// By position in the order of size, from 0.
    Index(usize),
    /// The only one; several are refused.
    Only,
}

/// Smallest short side of a face that is used. Below it, the recogniser's picture would be the photograph enlarged more than threefold.
pub const MIN_FACE_SIDE: f64 = 28.0;

/// Numbers of an embedding of the built-in recogniser.
pub const EMBEDDING: usize = 192;

/// Detector, landmarks and recogniser, ready on one device. Share it: calls of several threads take turns at each network.
pub struct FaceAnalyser {
    networks: FaceNetworks,
}

impl FaceAnalyser {
    /// Compiles the embedded networks, with BlazeFace front (128x128 views), the one whose thresholds are tuned.
    pub fn new(device: &Device) -> Result<Self> {
        Self::with_detector(EmbeddedNetwork::BlazeFaceFront, device)
    }

    /// The same with the other BlazeFace ([`EmbeddedNetwork::BlazeFaceBack`]: 256x256 views, four times the work in each).
    /// Fails for networks that are no BlazeFace.
    pub fn with_detector(detector: EmbeddedNetwork, device: &Device) -> Result<Self> {
        Ok(Self { networks: FaceNetworks::embedded(detector, device)? })
    }

    /// All faces, largest first. None found is not an error here.
    pub fn detect(&self, image: &Image, search: Search) -> Result<Vec<Face>> {
        let mut faces = match search {
            Search::Portrait | Search::Everywhere => detect::detect(&self.networks, image, search == Search::Everywhere)?,
            Search::Pyramid => pyramid::detect(&self.networks, image)?,
        };
        faces.sort_by(|a, b| b.area().total_cmp(&a.area()));
        Ok(faces)
    }

    /// The face that is meant: [`FaceAnalyser::detect`], then [`choose`]. For [`Selection::Largest`] small faces are looked for only if
    /// there is no large one; the other two need all faces.
    pub fn find(&self, image: &Image, selection: Selection) -> Result<Face> {
        let search = if selection == Selection::Largest { Search::Portrait } else { Search::Everywhere };
        let faces = self.detect(image, search)?;
        Ok(choose(&faces, selection, image)?.clone())
    }

    /// Operations and bytes of everything that was run so far, MTCNN's pyramid left out.
    pub fn work(&self) -> Cost {
        self.networks.work()
    }

    /// The unit-length embedding of a face, [`EMBEDDING`] numbers; the dot product of two is their similarity.
    pub fn recognise(&self, image: &Image, face: &Face) -> Result<Vec<f32>> {
        self.recognise_aligned(&self.align_for_recognition(image, face)?)
    }

    /// The picture that [`FaceAnalyser::recognise`] shows to the recogniser: 112x112 pixels by ArcFace's template.
    pub fn align_for_recognition(&self, image: &Image, face: &Face) -> Result<Image<f32>> {
        align(image, &face.points, &Template::arcface(), self.networks.mobilefacenet.size())
    }

    /// The embedding of a face that is already aligned: 112x112 pixels by ArcFace's template.
    pub fn recognise_aligned(&self, crop: &Image<f32>) -> Result<Vec<f32>> {
        self.networks.mobilefacenet.run(crop)?.values("unit")
    }
}

/// The face that is meant among `faces`, which are sorted by size, found in `image`.
pub fn choose<'a>(faces: &'a [Face], selection: Selection, image: &Image) -> Result<&'a Face, FaceError> {
    let count = faces.len();
    let Some(largest) = faces.first() else {
        return Err(FaceError::None { width: image.width(), height: image.height() });
    };
    let face = match selection {
        Selection::Largest => largest,
        Selection::Only if count > 1 => return Err(FaceError::Several { count }),
        Selection::Only => largest,
        Selection::Index(index) => faces.get(index).ok_or(FaceError::NoSuchIndex { index, count })?,
    };
    if face.short_side() < MIN_FACE_SIDE {
        return Err(FaceError::TooSmall { found: face.short_side() as f32, needed: MIN_FACE_SIDE as f32 });
    }
    Ok(face)
}
