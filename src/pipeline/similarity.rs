//! Similarity transforms of the plane, and the landmarks that aligned faces have.
//!
//! Coordinates are f64 and name pixel centres by integers, as in OpenCV: (0, 0) is the centre of the top left pixel.

use crate::{Error, Result};

/// x and y in pixels.
pub type Point = [f64; 2];

/// (x, y) to (a x - b y + tx, b x + a y + ty): a rotation, one scale and a shift.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Similarity {
    a: f64,
    b: f64,
    tx: f64,
    ty: f64,
}

impl Similarity {
    /// The transform that takes the points `source` to `target` with the least sum of squared distances (Umeyama 1991, without
    /// reflection, in the closed form that it has in the plane). Fails unless there are as many of both, at least two apart in `source`.
    pub fn fit(source: &[Point], target: &[Point]) -> Result<Self> {
        let finite = source.iter().chain(target).flatten().all(|v| v.is_finite());
        if source.len() != target.len() || source.len() < 2 || !finite {
            return Err(Error::input(format!(
                "{} points cannot be brought to {}: as many finite ones are needed, at least 2",
                source.len(),
                target.len()
            )));
        }
        let (s0, t0) = (mean(source), mean(target));
        let (mut norm, mut dot, mut cross) = (0.0, 0.0, 0.0);
        for (s, t) in source.iter().zip(target) {
            let (x, y, u, v) = (s[0] - s0[0], s[1] - s0[1], t[0] - t0[0], t[1] - t0[1]);
            norm += x * x + y * y;
            dot += x * u + y * v;
            cross += x * v - y * u;
        }
        let (a, b) = (dot / norm, cross / norm);
        if !(a.hypot(b) > 0.0 && a.hypot(b).is_finite()) {
            return Err(Error::input("landmarks that fall on one point cannot be aligned"));
        }
        Ok(Self { a, b, tx: t0[0] - a * s0[0] + b * s0[1], ty: t0[1] - b * s0[0] - a * s0[1] })
    }

    /// The image of a point.
    pub fn apply(&self, [x, y]: Point) -> Point {
        [self.a * x - self.b * y + self.tx, self.b * x + self.a * y + self.ty]
    }

    /// The transform that undoes this one.
    pub fn inverse(&self) -> Self {
        let norm = self.a * self.a + self.b * self.b;
        let (a, b) = (self.a / norm, -self.b / norm);
        Self { a, b, tx: -a * self.tx + b * self.ty, ty: -b * self.tx - a * self.ty }
    }

    /// Length of the image of a segment of length 1.
    pub fn scale(&self) -> f64 {
        self.a.hypot(self.b)
    }

    /// Rows `[a, -b, tx]` and `[b, a, ty]`.
    pub fn matrix(&self) -> [[f64; 3]; 2] {
        [[self.a, -self.b, self.tx], [self.b, self.a, self.ty]]
    }
}

fn mean(points: &[Point]) -> Point {
    let n = points.len() as f64;
    [0, 1].map(|c| points.iter().map(|p| p[c]).sum::<f64>() / n)
}

/// Where the five landmarks of an aligned face lie: eyes, nose, mouth corners, left to right in the picture.
///
/// A network must be fed with the template that it was trained with.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    id: String,
    points: [Point; 5],
}

/// Side of the square that templates are stated in.
const BASE: f64 = 112.0;

impl Template {
    /// ArcFace's, `arcface-112`.
    pub fn arcface() -> Self {
        let points = [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]];
        Self { id: "arcface-112".into(), points }
    }

    /// ArcFace's as InsightFace uses it for sides that are multiples of 128, `arcface-128`: 8 of 128 pixels wider at each side.
    pub fn arcface_wide() -> Self {
        let points = Self::arcface().points.map(|[x, y]| [(x + 8.0) * BASE / 128.0, y * BASE / 128.0]);
        Self { id: "arcface-128".into(), points }
    }

    /// A looser one that keeps hair and chin in the picture, `dreamid-112`.
    pub fn dreamid() -> Self {
        Self { id: "dreamid-112".into(), points: [[43.0, 52.5], [69.0, 52.5], [56.0, 67.0], [46.5, 81.8], [65.5, 81.8]] }
    }

    /// A template as a face encoder's file states it: `id` (its `alignment`) and, unless the id is known here, the five points in a
    /// square of 112 pixels (its `alignment_points`). Points that are given are used as they are. `file` is for errors.
    pub fn from_config(file: &str, id: &str, points: Option<&[Point]>) -> Result<Self> {
        let known = [Self::arcface(), Self::arcface_wide(), Self::dreamid()];
        let Some(points) = points else {
            return known.into_iter().find(|t| t.id == id).ok_or_else(|| {
                Error::config(
                    file,
                    format!(
                        "alignment `{id}` is not known; known are arcface-112, arcface-128 and dreamid-112, others need alignment_points"
                    ),
                )
            });
        };
        match points.try_into() {
            Ok(points) if distinct(&points) => Ok(Self { id: id.to_owned(), points }),
            _ => Err(Error::config(file, "alignment_points must be five distinct points: two eyes, nose, two mouth corners")),
        }
    }

    /// The name that is stored with encoders and identities.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The landmarks in a square of `size` pixels.
    pub fn points(&self, size: usize) -> [Point; 5] {
        let scale = size as f64 / BASE;
        self.points.map(|p| p.map(|v| v * scale))
    }
}

fn distinct(points: &[Point; 5]) -> bool {
    points.iter().flatten().all(|v| v.is_finite()) && points.iter().enumerate().all(|(i, p)| !points[..i].contains(p))
}
