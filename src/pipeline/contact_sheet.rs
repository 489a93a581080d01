//! Several pictures on one sheet.

use super::Image;
use crate::{Error, Result};

/// Pixels between pictures and around them.
const GAP: usize = 4;
/// Grey of the gaps.
const PAPER: u8 = 255;

/// All pictures, in reading order, on a grid as close to square as it gets; all must have one size.
pub fn contact_sheet(pictures: &[Image]) -> Result<Image> {
    let Some(first) = pictures.first() else { return Err(Error::input("a contact sheet needs at least one picture")) };
    let (w, h) = (first.width(), first.height());
    if let Some(other) = pictures.iter().find(|p| (p.width(), p.height()) != (w, h)) {
        return Err(Error::input(format!("a contact sheet of {w}x{h} pictures cannot take one of {}x{}", other.width(), other.height())));
    }
    let columns = (1..).find(|c| c * c >= pictures.len()).unwrap_or(1);
    let rows = pictures.len().div_ceil(columns);
    let width = columns * (w + GAP) + GAP;
    let height = rows * (h + GAP) + GAP;
    let mut pixels = vec![PAPER; 3 * width * height];
    for (i, picture) in pictures.iter().enumerate() {
        let (left, top) = ((i % columns) * (w + GAP) + GAP, (i / columns) * (h + GAP) + GAP);
        for (y, row) in picture.pixels().chunks_exact(3 * w).enumerate() {
            pixels[3 * ((top + y) * width + left)..][..3 * w].copy_from_slice(row);
        }
    }
    Image::from_pixels(width, height, pixels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_stand_in_reading_order() {
        let picture = |v: u8| Image::from_pixels(3, 2, vec![v; 18]).unwrap();
        let sheet = contact_sheet(&(1..=5).map(picture).collect::<Vec<_>>()).unwrap();
        assert_eq!((sheet.width(), sheet.height()), (3 * 7 + 4, 2 * 6 + 4));
        let at = |x: usize, y: usize| sheet.pixels()[3 * (y * sheet.width() + x)];
        assert_eq!([at(4, 4), at(11, 4), at(18, 5), at(4, 10), at(13, 11)], [1, 2, 3, 4, 5]);
        assert_eq!([at(0, 0), at(7, 4), at(18, 10)], [PAPER; 3]);
    }

    #[test]
    fn sizes_must_agree() {
        let (a, b) = (Image::from_pixels(1, 1, vec![0; 3]).unwrap(), Image::from_pixels(2, 1, vec![0; 6]).unwrap());
        assert!(contact_sheet(&[a, b]).is_err());
        assert!(contact_sheet(&[]).is_err());
    }
}
