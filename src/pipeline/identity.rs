//! An identity is data: k word embeddings of a person, a few kilobytes that can be kept, mixed and used elsewhere.

use super::picture::check_finite;
use crate::files::write_atomic;
use crate::weights::Weights;
use crate::{DType, Error, Result, Tensor};
use safetensors::{Dtype, tensor::TensorView};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;

/// Name of the tensor, by which other tools know textual inversions.
const TENSOR: &str = "emb_params";
/// Key of our own metadata.
const ABOUT: &str = "dreamid.identity";

/// A person as `k` word embeddings, each of the text encoder's width.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    embeds: Tensor,
    about: About,
}

/// Where an identity comes from. Embeddings made by different networks do not mix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// Fingerprint of the face encoder's weights; empty if unknown.
    pub face_encoder: String,
    /// Fingerprint of the projector's weights; empty if unknown.
    pub projector: String,
    /// Alignment that the face was brought to.
    pub alignment: String,
    /// Licence of the face encoder, if its file states one.
    pub licence: Option<String>,
    /// Name and version of the program that made it.
    pub engine: String,
}

impl Identity {
    /// An identity from embeddings `[k, H]`; fails if they are not finite.
    pub fn new(embeds: &Tensor, about: About) -> Result<Self> {
        let &[words, width] = &*embeds.shape() else {
            return Err(Error::input(format!("an identity is [k,H] embeddings, got {}", embeds.ty())));
        };
        if words == 0 || width == 0 || !embeds.ty().dtype.is_float() {
            return Err(Error::input(format!("an identity is [k,H] floating-point embeddings, got {}", embeds.ty())));
        }
        let embeds = embeds.cast(DType::F32);
        check_finite("identity", &embeds.to_f32_vec())?;
        Ok(Self { embeds, about })
    }

    /// Word embeddings `[k, H]`, f32.
    pub fn embeds(&self) -> &Tensor {
        &self.embeds
    }

    /// Where it comes from.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Number of words, k.
    pub fn words(&self) -> usize {
        self.embeds.shape()[0]
    }

    /// Width of a word, H.
    pub fn width(&self) -> usize {
        self.embeds.shape()[1]
    }

    /// SHA-256 of the embeddings in hexadecimal: what pictures are marked with.
    pub fn hash(&self) -> String {
        hex(&Sha256::digest(self.embeds.bytes()))
    }

    /// Writes a safetensors file, whole or not at all; tools that take textual inversions read it too.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let fail = |e: &dyn std::fmt::Display| Error::file(path, format!("cannot be encoded: {e}"));
        let view = TensorView::new(Dtype::F32, self.embeds.shape().to_vec(), self.embeds.bytes()).map_err(|e| fail(&e))?;
        let about = serde_json::to_string(&self.about).map_err(|e| fail(&e))?;
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned()), (ABOUT.to_owned(), about)]);
        let bytes = safetensors::serialize([(TENSOR, view)], Some(metadata)).map_err(|e| fail(&e))?;
        write_atomic(path, &bytes)
    }

    /// Reads a file of [`Identity::save`], or any textual inversion in safetensors form: one tensor `[k,H]` or `[H]` of any name.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = Weights::open(path)?;
        let names = file.names();
        let name = match names.as_slice() {
            [one] => one,
            many if many.contains(&TENSOR) => TENSOR,
            many => return Err(Error::file(path, format!("holds {} tensors and no `{TENSOR}`: it is not an identity", many.len()))),
        };
        let tensor = file.tensor(name)?;
        let tensor = if let &[width] = &*tensor.shape() { tensor.reshape([1, width])? } else { tensor };
        let about = match file.metadata(ABOUT) {
            Some(json) => serde_json::from_str(json).map_err(|e| Error::file(path, format!("has damaged metadata: {e}")))?,
            None => About::default(),
        };
        Self::new(&tensor, about).map_err(|e| Error::file(path, format!("is not an identity: {e}")))
    }

    /// Fails unless a text encoder of this width can take it.
    pub fn check_width(&self, width: usize) -> Result<()> {
        if self.width() == width {
            return Ok(());
        }
        let own = self.width();
        Err(Error::input(format!(
            "the identity has words of {own} numbers, but the model's text encoder takes {width}: it was made for another model"
        )))
    }

    /// Weighted mean of several people (or photographs of one). Weights are divided by their sum, which must be positive;
    /// negative ones lead away from a person.
    pub fn mix(parts: &[(Self, f32)]) -> Result<Self> {
        let Some((first, _)) = parts.first() else { return Err(Error::input("nothing to mix")) };
        let total: f64 = parts.iter().map(|(_, w)| f64::from(*w)).sum();
        if !(total.is_finite() && total > 1e-6) {
            return Err(Error::input(format!("the weights of a mixture must have a positive sum, not {total}")));
        }
        let mut sum = vec![0.0; first.embeds.shape().elements()];
        for (part, weight) in parts {
            first.check_mixes(part)?;
            let share = f64::from(*weight) / total;
            sum.iter_mut().zip(part.embeds.to_f32_vec()).for_each(|(s, v)| *s += share * f64::from(v));
        }
        let values: Vec<f32> = sum.into_iter().map(|s| s as f32).collect();
        Self::new(&Tensor::from_f32(first.embeds.shape(), &values)?, first.about.clone())
    }

    fn check_mixes(&self, other: &Self) -> Result<()> {
        if self.embeds.shape() != other.embeds.shape() {
            let (a, b) = (self.embeds.shape(), other.embeds.shape());
            return Err(Error::input(format!("identities of {a} and {b} do not mix: they were made for different models")));
        }
        let differ = |a: &str, b: &str| !a.is_empty() && !b.is_empty() && a != b;
        if differ(&self.about.projector, &other.about.projector) || differ(&self.about.face_encoder, &other.about.face_encoder) {
            return Err(Error::input(
                "these identities were made by different encoders and do not mix: encode the photographs again with one model",
            ));
        }
        Ok(())
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(values: &[f32], projector: &str) -> Identity {
        let about = About { projector: projector.into(), alignment: "arcface-112".into(), licence: Some("MIT".into()), ..About::default() };
        Identity::new(&Tensor::from_f32([2, values.len() / 2], values).unwrap(), about).unwrap()
    }

    #[test]
    fn a_file_gives_it_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("me.safetensors");
        let me = identity(&[1.0, -2.5, 3.25, 0.0, 5.0, 6.0], "p");
        me.save(&path).unwrap();
        assert_eq!(Identity::load(&path).unwrap(), me);
        assert_eq!((me.words(), me.width(), me.hash().len()), (2, 3, 64));
        assert!(me.check_width(3).is_ok() && me.check_width(4).unwrap_err().to_string().contains("another model"));
    }

    #[test]
    fn textual_inversions_of_other_tools() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ti.safetensors");
        let tensor = Tensor::from_f32([3], &[1.0, 2.0, 3.0]).unwrap();
        crate::weights::save(&path, &[("<cat-toy>", &tensor)], &[]).unwrap();
        let loaded = Identity::load(&path).unwrap();
        assert_eq!((loaded.words(), loaded.width(), loaded.about()), (1, 3, &About::default()));
        crate::weights::save(&path, &[("a", &tensor), ("b", &tensor)], &[]).unwrap();
        assert!(Identity::load(&path).unwrap_err().to_string().contains("not an identity"));
        std::fs::write(&path, b"junk").unwrap();
        assert!(Identity::load(&path).is_err());
    }

    #[test]
    fn mixtures() {
        let (a, b) = (identity(&[1.0, 2.0, 3.0, 4.0], "p"), identity(&[3.0, 2.0, 1.0, 0.0], "p"));
        let even = Identity::mix(&[(a.clone(), 2.0), (b.clone(), 2.0)]).unwrap();
        assert_eq!(even.embeds().to_f32_vec(), [2.0; 4]);
        let away = Identity::mix(&[(a.clone(), 2.0), (b.clone(), -1.0)]).unwrap();
        assert_eq!(away.embeds().to_f32_vec(), [-1.0, 2.0, 5.0, 8.0]);
        assert_eq!(Identity::mix(&[(a.clone(), 0.3)]).unwrap().embeds(), a.embeds());
        for bad in [vec![], vec![(a.clone(), 1.0), (b.clone(), -1.0)], vec![(a.clone(), f32::NAN)]] {
            assert!(Identity::mix(&bad).is_err());
        }
        let other = identity(&[0.0; 4], "q");
        assert!(Identity::mix(&[(a.clone(), 1.0), (other, 1.0)]).unwrap_err().to_string().contains("different encoders"));
        assert!(Identity::mix(&[(a, 1.0), (identity(&[0.0; 6], "p"), 1.0)]).is_err());
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        let tensor = Tensor::from_f32([1, 2], &[1.0, f32::INFINITY]).unwrap();
        assert!(matches!(Identity::new(&tensor, About::default()), Err(Error::NonFinite { .. })));
    }
}
