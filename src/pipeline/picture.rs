//! From the decoder's numbers to pixels.

use super::Image;
use crate::{Error, Result, Tensor};

/// Pictures from `[B,H,W,3]`, values from −1 to 1: halved, clamped, rounded half to even, as diffusers does.
///
/// Fails if a value is not finite: a black picture would hide it.
pub fn pictures(decoded: &Tensor) -> Result<Vec<Image>> {
    let &[_, height, width, 3] = &*decoded.shape() else {
        return Err(Error::input(format!("pictures are [B,H,W,3], got {}", decoded.ty())));
    };
    let values = decoded.to_f32_vec();
    check_finite("image", &values)?;
    let each = (3 * height * width).max(1);
    values.chunks_exact(each).map(|one| Image::from_pixels(width, height, one.iter().map(|&x| level(x)).collect())).collect()
}

/// −1..1 to 0..255.
fn level(x: f32) -> u8 {
    ((x / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8
}

/// Fails if a value is NaN or infinite, and says what usually helps.
pub(super) fn check_finite(name: &str, values: &[f32]) -> Result<()> {
    match values.iter().filter(|v| !v.is_finite()).count() {
        0 => Ok(()),
        count => Err(Error::NonFinite {
            at: name.to_owned(),
            count,
            advice: "try --dtype f32; if it stays, the weights are damaged or the guidance is far too large",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_round_half_to_even() {
        let from = |x: f32| level(x);
        assert_eq!([from(-1.0), from(1.0), from(-7.0), from(7.0)], [0, 255, 0, 255]);
        // 127.5, exactly between two levels
        assert_eq!(from(0.0), 128);
        // 0.5 and 1.5 and 2.5 levels, exact in f32 through the scaling
        for (tie, even) in [(0.5f64, 0u8), (1.5, 2), (2.5, 2)] {
            let x = (tie / 255.0 * 2.0 - 1.0) as f32;
            let scaled = f64::from((x / 2.0 + 0.5) * 255.0);
            let expected = if scaled == tie { even } else { scaled.round() as u8 };
            assert_eq!(from(x), expected, "{tie} became {scaled}");
        }
    }

    #[test]
    fn what_is_not_finite_is_an_error() {
        let mut values = vec![0.0; 12];
        values[5] = f32::NAN;
        let error = pictures(&Tensor::from_f32([1, 2, 2, 3], &values).unwrap()).unwrap_err();
        assert!(matches!(error, Error::NonFinite { count: 1, .. }), "{error}");
        assert!(pictures(&Tensor::from_f32([1, 2, 6], &[0.0; 12]).unwrap()).is_err());
    }

    #[test]
    fn a_batch_gives_its_pictures_in_order() {
        let values: Vec<f32> = [vec![-1.0; 6], vec![1.0; 6]].concat();
        let two = pictures(&Tensor::from_f32([2, 1, 2, 3], &values).unwrap()).unwrap();
        assert_eq!((two.len(), two[0].pixels(), two[1].pixels()), (2, &[0; 6][..], &[255; 6][..]));
        assert_eq!((two[0].width(), two[0].height()), (2, 1));
    }
}
