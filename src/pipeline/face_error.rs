//! Why a photograph gave no usable face.

/// Why a photograph gave no usable face: a typed result, since callers decide what to do next.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FaceError {
    /// Nothing that looks like a face.
    #[error("no face found in the {width}x{height} photograph; use one where the face is upright, unobstructed and larger")]
    None {
        /// Width of the photograph in pixels.
        width: usize,
        /// Height of the photograph in pixels.
        height: usize,
    },
    /// The chosen face is too small to carry an identity.
    #[error("the face is {found:.0} pixels on its short side, at least {needed:.0} are needed; use a closer or larger photograph")]
    TooSmall {
        /// Short side of the face box in pixels.
        found: f32,
        /// Smallest accepted.
        needed: f32,
    },
    /// Several faces, and the caller asked to be told.
    #[error("{count} faces found; choose one by index (0 is the largest) or take the largest")]
    Several {
        /// How many.
        count: usize,
    },
    /// The caller asked for a face that is not there.
    #[error("face {index} asked for, but only {count} found; indices start at 0, the largest")]
    NoSuchIndex {
        /// The index asked for.
        index: usize,
        /// How many were found.
        count: usize,
    },
}
