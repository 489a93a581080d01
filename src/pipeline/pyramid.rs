//! MTCNN in full: P-Net over a pyramid of sizes, R-Net, O-Net; for photographs with many or small faces.
//!
//! Follows facenet-pytorch's `detect_face` in thresholds, rounding and order; arithmetic is in f32 as there. Boxes are one-based.

use super::face_networks::FaceNetworks;
use super::faces::Face;
use super::photo::Image;
use super::similarity::Point;
use crate::Result;

/// Side in pixels of the smallest face looked for.
const MIN_FACE: f64 = 20.0;
/// Side of P-Net's window.
const WINDOW: f64 = 12.0;
/// Size of each level over the one before.
const FACTOR: f64 = 0.709;
/// Least probabilities of the three stages.
const THRESHOLDS: [f32; 3] = [0.6, 0.7, 0.7];
/// Most pixels of a level: in larger photographs the smallest face is larger, instead of memory running out.
const MAX_LEVEL: f64 = 4e6;
/// Most proposals of a level: faces are far fewer, noise could give hundreds of thousands.
const MAX_PROPOSALS: usize = 4096;

/// All faces found, most probable first.
pub(super) fn detect(networks: &FaceNetworks, image: &Image) -> Result<Vec<Face>> {
    let proposals = propose(networks, image)?;
    let refined = refine(networks, image, proposals)?;
    finish(networks, image, refined)
}

/// A box under refinement.
#[derive(Clone)]
struct Candidate {
    /// x0, y0, x1, y1.
    corners: [f32; 4],
    probability: f32,
    /// What the network would move the corners by, in units of the box.
    moves: [f32; 4],
    points: [[f32; 2]; 5],
}

/// P-Net at every level; squares.
fn propose(networks: &FaceNetworks, image: &Image) -> Result<Vec<Candidate>> {
    let (w, h) = (image.width() as f64, image.height() as f64);
    let mut scale = (WINDOW / MIN_FACE).min((MAX_LEVEL / (w * h)).sqrt());
    let mut found = Vec::new();
    while w.min(h) * scale >= WINDOW {
        let (height, width) = ((h * scale + 1.0) as usize, (w * scale + 1.0) as usize);
        let level = area_resize(image, Region::all(image), width, height);
        let outputs = networks.pnet(height, width)?.run(&level)?;
        let (face, moves) = (outputs.values("face")?, outputs.values("box")?);
        let columns = outputs.tensor("face")?.shape()[2];
        let at_level = face.chunks_exact(2).zip(moves.chunks_exact(4)).enumerate();
        let kept = at_level.filter(|(_, (face, _))| face[1] >= THRESHOLDS[0]);
        let boxes = kept.map(|(i, (face, moves))| proposal(i % columns, i / columns, scale as f32, face[1], moves));
        let mut boxes: Vec<Candidate> = boxes.collect();
        boxes.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        boxes.truncate(MAX_PROPOSALS);
        found.extend(suppress(boxes, 0.5, Overlap::Union));
        scale *= FACTOR;
    }
    let mut found = suppress(found, 0.7, Overlap::Union);
    found.iter_mut().for_each(|c| c.shift(0.0));
    found.iter_mut().for_each(Candidate::make_square);
    Ok(found)
}

/// The box of P-Net's cell (x, y).
fn proposal(x: usize, y: usize, scale: f32, probability: f32, moves: &[f32]) -> Candidate {
    let at = |cell: usize, offset: f32| ((2.0 * cell as f32 + offset) / scale).floor();
    let corners = [at(x, 1.0), at(y, 1.0), at(x, 12.0), at(y, 12.0)];
    Candidate { corners, probability, moves: four(moves), points: [[0.0; 2]; 5] }
}

/// R-Net; squares.
fn refine(networks: &FaceNetworks, image: &Image, candidates: Vec<Candidate>) -> Result<Vec<Candidate>> {
    let network = networks.rnet()?;
    let mut kept = Vec::new();
    for mut candidate in candidates {
        let Some(region) = candidate.region(image) else { continue };
        let outputs = network.run(&area_resize(image, region, network.size(), network.size()))?;
        candidate.probability = outputs.values("face")?[1];
        candidate.moves = four(&outputs.values("box")?);
        if candidate.probability > THRESHOLDS[1] {
            kept.push(candidate);
        }
    }
    let mut kept = suppress(kept, 0.7, Overlap::Union);
    kept.iter_mut().for_each(|c| c.shift(1.0));
    kept.iter_mut().for_each(Candidate::make_square);
    Ok(kept)
}

/// O-Net: final boxes and landmarks.
fn finish(networks: &FaceNetworks, image: &Image, candidates: Vec<Candidate>) -> Result<Vec<Face>> {
    let network = &networks.onet;
    let mut kept = Vec::new();
    for mut candidate in candidates {
        let Some(region) = candidate.region(image) else { continue };
        let outputs = network.run(&area_resize(image, region, network.size(), network.size()))?;
        candidate.probability = outputs.values("face")?[1];
        candidate.moves = four(&outputs.values("box")?);
        let (fractions, [width, height]) = (outputs.values("points")?, candidate.size(1.0));
        let [x0, y0, ..] = candidate.corners;
        candidate.points = [0, 1, 2, 3, 4].map(|i| [fractions[i] * width + x0 - 1.0, fractions[i + 5] * height + y0 - 1.0]);
        if candidate.probability > THRESHOLDS[2] {
            candidate.shift(1.0);
            kept.push(candidate);
        }
    }
    Ok(suppress(kept, 0.7, Overlap::Smaller).into_iter().map(Candidate::into_face).collect())
}

impl Candidate {
    /// Width and height plus `extra`.
    fn size(&self, extra: f32) -> [f32; 2] {
        let [x0, y0, x1, y1] = self.corners;
        [x1 - x0 + extra, y1 - y0 + extra]
    }

    /// Moves the corners as the network said, in units of the box's size plus `extra`.
    fn shift(&mut self, extra: f32) {
        let size = self.size(extra);
        for (i, corner) in self.corners.iter_mut().enumerate() {
            *corner += self.moves[i] * size[i % 2];
        }
    }

    /// The square of the larger side about the same centre.
    fn make_square(&mut self) {
        let size = self.size(0.0);
        let side = size[0].max(size[1]);
        for (c, length) in size.into_iter().enumerate() {
            self.corners[c] = self.corners[c] + length * 0.5 - side * 0.5;
            self.corners[c + 2] = self.corners[c] + side;
        }
    }

    /// The part inside the photograph; none if that is empty.
    fn region(&self, image: &Image) -> Option<Region> {
        let [x0, y0, x1, y1] = self.corners.map(|v| v as i64);
        let (left, top) = (x0.max(1) - 1, y0.max(1) - 1);
        let (right, bottom) = (x1.min(image.width() as i64), y1.min(image.height() as i64));
        (right > left && bottom > top).then_some(Region {
            left: left as usize,
            top: top as usize,
            right: right as usize,
            bottom: bottom as usize,
        })
    }

    fn into_face(self) -> Face {
        let probability = f64::from(self.probability);
        let points: [Point; 5] = self.points.map(|p| p.map(f64::from));
        Face { bbox: self.corners.map(f64::from), score: probability, probability, points }
    }
}

/// What an intersection is measured against.
#[derive(Clone, Copy, PartialEq)]
enum Overlap {
    /// The union, of plain areas.
    Union,
    /// The smaller box, of sides that count one more.
    Smaller,
}

/// Best first; drops what overlaps a kept box by more than `threshold`. Equal probabilities keep their order.
fn suppress(mut rest: Vec<Candidate>, threshold: f32, kind: Overlap) -> Vec<Candidate> {
    rest.sort_by(|a, b| b.probability.total_cmp(&a.probability));
    let extra = if kind == Overlap::Smaller { 1.0 } else { 0.0 };
    let area = |c: &Candidate| c.size(extra)[0] * c.size(extra)[1];
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in rest {
        let covered = kept.iter().any(|best| {
            let (a, b) = (best.corners, candidate.corners);
            let both = (a[2].min(b[2]) - a[0].max(b[0]) + extra).max(0.0) * (a[3].min(b[3]) - a[1].max(b[1]) + extra).max(0.0);
            let whole = if kind == Overlap::Smaller { area(best).min(area(&candidate)) } else { area(best) + area(&candidate) - both };
            both > threshold * whole
        });
        if !covered {
            kept.push(candidate);
        }
    }
    kept
}

/// Columns `left..right` and rows `top..bottom`.
#[derive(Clone, Copy)]
struct Region {
    left: usize,
    top: usize,
    right: usize,
    bottom: usize,
}

impl Region {
    fn all(image: &Image) -> Self {
        Self { left: 0, top: 0, right: image.width(), bottom: image.height() }
    }
}

/// The region at another size: each pixel is the mean of the pixels that it covers in part or whole (torch's adaptive average).
fn area_resize(image: &Image, region: Region, width: usize, height: usize) -> Image<f32> {
    let span = |i: usize, input: usize, output: usize| (i * input / output, ((i + 1) * input).div_ceil(output));
    let (w, h) = (region.right - region.left, region.bottom - region.top);
    Image::from_fn(width, height, |x, y| {
        let ((left, right), (top, bottom)) = (span(x, w, width), span(y, h, height));
        let mut sums = [0_u32; 3];
        for row in region.top + top..region.top + bottom {
            for pixel in image.row(row, region.left + left, region.left + right).chunks_exact(3) {
                sums.iter_mut().zip(pixel).for_each(|(sum, &v)| *sum += u32::from(v));
            }
        }
        sums.map(|sum| sum as f32 / (bottom - top) as f32 / (right - left) as f32)
    })
}

fn four(values: &[f32]) -> [f32; 4] {
    [values[0], values[1], values[2], values[3]]
}
