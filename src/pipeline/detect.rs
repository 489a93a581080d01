//! Faces and their landmarks: BlazeFace looks at square views of the photograph, then closer at each hit; O-Net places the landmarks.
//!
//! The procedure in words, and where its numbers come from, is `assets/networks/README.md`.

use super::face_networks::FaceNetworks;
use super::faces::Face;
use super::photo::Image;
use super::resize::{Square, view};
use super::similarity::Point;
use crate::Result;
use crate::models::blazeface::BOX_VALUES;

/// BlazeFace score of a hit.
const MIN_SCORE: f64 = 0.5;
/// O-Net probability that confirms a hit in the whole photograph.
const MIN_PROBABILITY: f64 = 0.5;
/// The same for a hit in a retry or a tile, where false hits are likelier.
const TILE_PROBABILITY: f64 = 0.97;
/// BlazeFace score of a hit in the whole photograph that needs no confirmation.
const SURE_SCORE: f64 = 0.75;
/// Intersection over union of two boxes of one face.
const SAME_FACE: f64 = 0.3;
/// Share of the smaller box inside the larger one, of one face seen twice.
const INSIDE: f64 = 0.6;
/// Side of the second view over the larger side of the first box.
const CLOSE_UP: f64 = 2.0;
/// Half side of O-Net's square in eye distances.
const EYE_MARGIN: f64 = 1.25;
/// Retries for tight crops: sides of the view over the photograph's.
const PAD: [f64; 2] = [1.5, 2.0];
/// Smallest tile in pixels.
const MIN_TILE: usize = 128;
/// Mouth width over eye distance in ArcFace's template.
const MOUTH: f64 = 0.8281;

/// How much a hit must be confirmed.
#[derive(Clone, Copy, PartialEq)]
enum Trust {
    Whole,
    Retry,
}

/// All faces found, in no particular order. `everywhere` also searches tiles, for small faces; otherwise they are the last resort.
pub(super) fn detect(networks: &FaceNetworks, image: &Image, everywhere: bool) -> Result<Vec<Face>> {
    let detector = Detector { networks, image };
    let mut found = detector.look(&[whole_view(image, 1.0)], Trust::Whole)?;
    for factor in PAD {
        if found.is_empty() {
            found = detector.look(&[whole_view(image, factor)], Trust::Retry)?;
        }
    }
    if everywhere || found.is_empty() {
        found.extend(detector.look(&tiles(image), Trust::Retry)?);
    }
    Ok(unique(found))
}

struct Detector<'a> {
    networks: &'a FaceNetworks,
    image: &'a Image,
}

impl Detector<'_> {
    /// The faces in these views.
    fn look(&self, views: &[Square], trust: Trust) -> Result<Vec<Face>> {
        let found: Vec<Option<Face>> = self.hits(views)?.into_iter().map(|hit| self.confirm(hit, trust)).collect::<Result<_>>()?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Every BlazeFace hit in the views, after suppression.
    fn hits(&self, views: &[Square]) -> Result<Vec<Hit>> {
        let (network, config) = (&self.networks.blazeface, &self.networks.blazeface_config);
        let centres = config.anchor_centres();
        let mut found = Vec::new();
        for &square in views {
            let outputs = network.run(&view(self.image, square, network.size()))?;
            let (scores, boxes) = (outputs.joined("scores", config.anchors.len())?, outputs.joined("boxes", config.anchors.len())?);
            let anchors = centres.iter().zip(&scores).zip(boxes.chunks_exact(BOX_VALUES));
            let hits = anchors.filter_map(|((&centre, &score), raw)| Hit::decode(score, raw, centre, network.size(), square));
            found.extend(suppress(hits.collect()));
        }
        Ok(suppress(found))
    }

    /// The face of a hit, seen from close up, if O-Net agrees that it is one.
    fn confirm(&self, hit: Hit, trust: Trust) -> Result<Option<Face>> {
        let hit = self.close_up(hit)?;
        let (probability, mut points) = self.landmarks(&hit)?;
        let needed = if trust == Trust::Whole { MIN_PROBABILITY } else { TILE_PROBABILITY };
        if probability < needed {
            if trust == Trust::Retry || hit.score < SURE_SCORE {
                return Ok(None);
            }
            points = hit.five_points();
        }
        let usable = points.iter().flatten().chain(&hit.corners()).all(|v| v.is_finite());
        Ok(usable.then(|| Face { bbox: hit.corners(), score: hit.score, probability, points }))
    }

    /// The hit seen again in a square [`CLOSE_UP`] times its box; the old one if it is not seen there.
    fn close_up(&self, hit: Hit) -> Result<Hit> {
        let [x0, y0, x1, y1] = hit.corners();
        let side = self.side(CLOSE_UP * (x1 - x0).max(y1 - y0));
        let centre = [(x0 + x1) / 2.0, (y0 + y1) / 2.0];
        let [x, y] = centre.map(|c| round_half_up(c - side as f64 / 2.0));
        let inside = |h: &Hit| {
            let [a0, b0, a1, b1] = h.corners();
            let (cx, cy) = ((a0 + a1) / 2.0, (b0 + b1) / 2.0);
            x0 <= cx && cx <= x1 && y0 <= cy && cy <= y1
        };
        Ok(self.hits(&[Square { x, y, side }])?.into_iter().find(inside).unwrap_or(hit))
    }

    /// O-Net's probability and landmarks in the square round the hit's eyes, nose and mouth.
    fn landmarks(&self, hit: &Hit) -> Result<(f64, [Point; 5])> {
        let keys: [Point; 4] = [0, 1, 2, 3].map(|i| hit.keypoint(i));
        let half = EYE_MARGIN * (keys[1][0] - keys[0][0]).hypot(keys[1][1] - keys[0][1]);
        let side = self.side(2.0 * half);
        let [x, y] = [0, 1].map(|c| round_half_up(keys.iter().map(|k| k[c]).sum::<f64>() / 4.0 - half));
        let network = &self.networks.onet;
        let outputs = network.run(&view(self.image, Square { x, y, side }, network.size()))?;
        let (face, fractions) = (outputs.values("face")?, outputs.values("points")?);
        let place = |fraction: f32, start: i64| f64::from(fraction) * side as f64 + (start as f64 - 0.5);
        let points = [0, 1, 2, 3, 4].map(|i| [place(fractions[i], x), place(fractions[i + 5], y)]);
        Ok((f64::from(face[1]), points))
    }

    /// A side in pixels, at least 2. No face is much larger than the photograph, whatever a network says.
    fn side(&self, length: f64) -> usize {
        (round_half_up(length).max(2) as usize).min(8 * self.image.width().max(self.image.height()) + 8)
    }
}

/// What BlazeFace says of one face, in pixels of the photograph.
#[derive(Clone)]
struct Hit {
    score: f64,
    /// x0, y0, x1, y1 of the box, then x and y of right eye, left eye, nose, mouth centre, right ear, left ear (the person's own right).
    values: [f64; BOX_VALUES],
}

impl Hit {
    fn decode(logit: f32, raw: &[f32], centre: Point, size: usize, square: Square) -> Option<Self> {
        let score = 1.0 / (1.0 + (-f64::from(logit).clamp(-80.0, 80.0)).exp());
        if score.is_nan() || score < MIN_SCORE {
            return None;
        }
        // pixel coordinates name centres, hence the half
        let place = |unit: f64, c: usize| unit * square.side as f64 + ([square.x, square.y][c] as f64 - 0.5);
        let raw = |i: usize| f64::from(raw[i]) / size as f64;
        let mut values = [0.0; BOX_VALUES];
        for c in 0..2 {
            let (middle, half) = (centre[c] + raw(c), raw(2 + c) / 2.0);
            values[c] = place(middle - half, c);
            values[2 + c] = place(middle + half, c);
            for i in (4 + c..BOX_VALUES).step_by(2) {
                values[i] = place(centre[c] + raw(i), c);
            }
        }
        Some(Self { score, values })
    }

    fn corners(&self) -> [f64; 4] {
        [self.values[0], self.values[1], self.values[2], self.values[3]]
    }

    fn keypoint(&self, i: usize) -> Point {
        [self.values[4 + 2 * i], self.values[5 + 2 * i]]
    }

    /// Landmarks without O-Net: the mouth corners are put round the mouth's centre, along the eyes.
    fn five_points(&self) -> [Point; 5] {
        let (first, second, nose, mouth) = (self.keypoint(0), self.keypoint(1), self.keypoint(2), self.keypoint(3));
        let half = [0, 1].map(|c| (second[c] - first[c]) * (MOUTH / 2.0));
        [first, second, nose, [mouth[0] - half[0], mouth[1] - half[1]], [mouth[0] + half[0], mouth[1] + half[1]]]
    }
}

/// Best first; each hit becomes the score-weighted mean of the hits that overlap it by [`SAME_FACE`] or more, which it uses up.
fn suppress(mut rest: Vec<Hit>) -> Vec<Hit> {
    rest.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept = Vec::new();
    while let Some(best) = rest.first().cloned() {
        let (mut weight, mut values) = (0.0, [0.0; BOX_VALUES]);
        let mut first = true;
        rest.retain(|hit| {
            let same = std::mem::take(&mut first) || overlap(&best.corners(), &hit.corners()).0 >= SAME_FACE;
            if same {
                weight += hit.score;
                values.iter_mut().zip(hit.values).for_each(|(sum, v)| *sum += hit.score * v);
            }
            !same
        });
        kept.push(Hit { score: best.score, values: values.map(|v| v / weight) });
    }
    kept
}

/// Intersection over union, and intersection over the smaller, of two boxes.
fn overlap(a: &[f64; 4], b: &[f64; 4]) -> (f64, f64) {
    let width = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let height = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let (both, one, other) = (width * height, (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]));
    (both / (one + other - both).max(1e-9), both / one.min(other).max(1e-9))
}

/// Each face once: the most probable of those that overlap.
fn unique(mut found: Vec<Face>) -> Vec<Face> {
    found.sort_by(|a, b| (b.score + b.probability).total_cmp(&(a.score + a.probability)));
    let mut kept: Vec<Face> = Vec::new();
    for face in found {
        let known = kept.iter().map(|k| overlap(&face.bbox, &k.bbox)).any(|(iou, inside)| iou >= SAME_FACE || inside >= INSIDE);
        if !known {
            kept.push(face);
        }
    }
    kept
}

/// The centred square that holds the photograph, enlarged by `factor`.
fn whole_view(image: &Image, factor: f64) -> Square {
    let (w, h) = (image.width(), image.height());
    let side = (w.max(h) as f64 * factor).ceil();
    let start = |length: usize| ((length as f64 - side) / 2.0).floor() as i64;
    Square { x: start(w), y: start(h), side: side as usize }
}

/// Half-overlapping squares of a half, a quarter, ... of the longer side, down to [`MIN_TILE`] pixels.
fn tiles(image: &Image) -> Vec<Square> {
    let (w, h) = (image.width(), image.height());
    let mut found = Vec::new();
    let mut side = w.max(h).div_ceil(2);
    while side >= MIN_TILE {
        let columns = steps(w, side);
        found.extend(steps(h, side).into_iter().flat_map(|y| columns.iter().map(move |&x| Square { x, y, side })));
        side = side.div_ceil(2);
    }
    found
}

/// Starts of the fewest tiles that cover `length` pixels with at most half a side between them; one centred tile if it is longer.
fn steps(length: usize, side: usize) -> Vec<i64> {
    let free = length as f64 - side as f64;
    if free <= 0.0 {
        return vec![(free / 2.0).floor() as i64];
    }
    let gaps = (free / (side as f64 / 2.0)).ceil();
    (0..=gaps as usize).map(|i| round_half_up(i as f64 * free / gaps)).collect()
}

fn round_half_up(value: f64) -> i64 {
    (value + 0.5).floor() as i64
}
