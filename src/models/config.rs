//! Reading `config.json` as diffusers and transformers write it.

use crate::ops::Activation;
use crate::{Error, Result};
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Largest width of anything.
pub(crate) const WIDTH: usize = 1 << 16;
/// Largest side of a picture.
pub(crate) const SIDE: usize = 1 << 13;
/// Largest number of layers, levels, words.
pub(crate) const LAYERS: usize = 256;
/// Largest vocabulary.
pub(crate) const WORDS: usize = 1 << 20;

/// A configuration file as JSON, with the name that errors give it.
pub(crate) struct ConfigFile<'a> {
    file: &'a str,
    json: Value,
}

impl<'a> ConfigFile<'a> {
    /// Parses the text of `file`, which must be a JSON object.
    pub(crate) fn parse(file: &'a str, text: &str) -> Result<Self> {
        let json: Value = serde_json::from_str(text).map_err(|e| Error::config(file, format!("is not valid JSON: {e}")))?;
        if !json.is_object() {
            return Err(Error::config(file, "is not a JSON object"));
        }
        Ok(Self { file, json })
    }

    /// Replaces the configuration by the object under `key`, if there is one: CLIP models nest their two towers.
    pub(crate) fn enter(mut self, key: &str) -> Self {
        if let Some(inner) = self.json.get_mut(key).filter(|v| v.is_object()) {
            let mut inner = inner.take();
            if let (Some(dim), Some(object)) = (self.json.get("projection_dim"), inner.as_object_mut()) {
                object.insert("projection_dim".to_owned(), dim.clone());
            }
            self.json = inner;
        }
        self
    }

    /// The value of `key`, unless it is absent or null.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.json.get(key).filter(|v| !v.is_null())
    }

    /// Fails unless the text under `key`, if present, is one of `known`.
    pub(crate) fn class(&self, key: &str, known: &[&str]) -> Result<()> {
        match self.get(key) {
            Some(v) if !v.as_str().is_some_and(|s| known.contains(&s)) => {
                Err(self.error(format!("{key} is {v}, which is not supported; supported: {}", known.join(", "))))
            }
            _ => Ok(()),
        }
    }

    /// Fails if an option is present with another value than the one that the engine implements.
    pub(crate) fn only(&self, options: &[(&str, Value)]) -> Result<()> {
        for (key, want) in options {
            let equal = |v: &Value| v == want || v.as_f64().is_some_and(|v| want.as_f64() == Some(v));
            if let Some(v) = self.get(key).filter(|v| !equal(v)) {
                let accepted = if want.is_null() { "absent or null".to_owned() } else { want.to_string() };
                return Err(self.error(format!("{key} is {v}, which is not supported; it must be {accepted}")));
            }
        }
        Ok(())
    }

    /// The whole configuration as `T`.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T> {
        // null means the default, as absence does
        let mut json = self.json.clone();
        if let Some(object) = json.as_object_mut() {
            object.retain(|_, v| !v.is_null());
        }
        serde_json::from_value(json).map_err(|e| self.error(e.to_string()))
    }

    /// Fails with `what` unless `condition` holds.
    pub(crate) fn ensure(&self, condition: bool, what: impl FnOnce() -> String) -> Result<()> {
        if condition { Ok(()) } else { Err(self.error(what())) }
    }

    /// Fails unless each size is from 1 to its limit: a damaged file must not ask for all of memory.
    pub(crate) fn sizes(&self, all: &[(&str, usize, usize)]) -> Result<()> {
        for &(key, size, limit) in all {
            self.ensure((1..=limit).contains(&size), || format!("{key} is {size}; it must be from 1 to {limit}"))?;
        }
        Ok(())
    }

    /// Fails unless these sizes of a transformer are possible and its width splits into its heads.
    pub(crate) fn transformer(&self, hidden_size: usize, intermediate_size: usize, layers: usize, heads: usize) -> Result<()> {
        self.sizes(&[
            ("hidden_size", hidden_size, WIDTH),
            ("intermediate_size", intermediate_size, WIDTH),
            ("num_hidden_layers", layers, LAYERS),
            ("num_attention_heads", heads, WIDTH),
        ])?;
        self.ensure(hidden_size.is_multiple_of(heads), || format!("hidden_size {hidden_size} does not split into {heads} heads"))
    }

    /// An error of this file.
    pub(crate) fn error(&self, what: impl Into<String>) -> Error {
        Error::config(self.file, what)
    }
}

/// One value for all levels of a network, or one for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerLevel {
    /// The same everywhere.
    All(usize),
    /// From the first level down to the last.
    Each(Vec<usize>),
}

impl PerLevel {
    /// One value for each of `levels`; none if the list has another length.
    pub fn expand(&self, levels: usize) -> Option<Vec<usize>> {
        match self {
            Self::All(one) => Some(vec![*one; levels]),
            Self::Each(list) => (list.len() == levels).then(|| list.clone()),
        }
    }
}

/// Reads an activation by the name that transformers gives it.
pub(crate) fn activation<'de, D: Deserializer<'de>>(source: D) -> Result<Activation, D::Error> {
    match String::deserialize(source)?.as_str() {
        "gelu" => Ok(Activation::Gelu),
        "quick_gelu" => Ok(Activation::QuickGelu),
        "relu" => Ok(Activation::Relu),
        "silu" | "swish" => Ok(Activation::Silu),
        other => Err(D::Error::custom(format!(
            "hidden_act is \"{other}\", which is not supported; supported: gelu (exact), quick_gelu, relu, silu"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn refusals_name_the_option_its_value_and_what_is_accepted() {
        let file = ConfigFile::parse("unet/config.json", r#"{"a": true, "b": 1, "_class_name": "Other"}"#).unwrap();
        let text = |r: Result<()>| r.unwrap_err().to_string();
        assert_eq!(
            text(file.only(&[("b", json!(1.0)), ("a", json!(false))])),
            "configuration unet/config.json: a is true, which is not supported; it must be false"
        );
        assert!(text(file.class("_class_name", &["Known"])).contains("\"Other\""));
        assert!(file.only(&[("absent", json!(3))]).is_ok());
    }

    #[test]
    fn what_is_not_json_is_refused() {
        assert!(ConfigFile::parse("x", "{").is_err());
        assert!(ConfigFile::parse("x", "[]").is_err());
    }
}
