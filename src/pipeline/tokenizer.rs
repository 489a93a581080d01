//! CLIP's byte-pair tokenizer, from the `vocab.json` and `merges.txt` of a model folder.
//!
//! By default the ids are those of transformers' `CLIPTokenizer`. Two traps of Stable Diffusion 2 live here:
//!
//! - The text encoder was trained with padding 0, which is also the id of `!`. `special_tokens_map.json` says so; `tokenizer_config.json`
//!   of the published folder contradicts it, and loses.
//! - Since `!` is the padding token there, transformers turns a literal `!` of a prompt into id 0, as does this tokenizer; open_clip,
//!   with which the model was trained, gives the ordinary word `!</w>` (256). [`Dialect::OpenClip`] does the latter.

use crate::models::ModelFolder;
use crate::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::normalizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, Tokenizer as Bpe};

const WORDS: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
const FILE: &str = "tokenizer";

/// Whose reading of a prompt is followed where libraries differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// transformers: special tokens are recognised inside prompts, a literal padding token (`!` in Stable Diffusion 2) among them.
    #[default]
    Transformers,
    /// open_clip: prompts hold words only, HTML entities for `& < > " '` and curly quotes are undone. (It also repairs broken Unicode, which is not done here.)
    OpenClip,
}

/// The files that make a tokenizer, as bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenizerFiles<'a> {
    /// `vocab.json`: words to ids.
    pub vocab: &'a [u8],
    /// `merges.txt`: pairs in the order in which they merge.
    pub merges: &'a [u8],
    /// `special_tokens_map.json`, if there is one.
    pub special_tokens_map: Option<&'a [u8]>,
    /// `tokenizer_config.json`, if there is one.
    pub config: Option<&'a [u8]>,
}

/// A prompt to token ids. Immutable and shared freely between threads.
#[derive(Debug)]
pub struct Tokenizer {
    bpe: Bpe,
    dialect: Dialect,
    bos: i32,
    eos: i32,
    pad: i32,
    context: usize,
}

/// One token of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: i32,
    /// The bytes of the text that it stands for.
    pub bytes: Range<usize>,
}

impl Tokenizer {
    /// A tokenizer from its files; errors name the file at fault.
    pub fn new(files: TokenizerFiles<'_>, dialect: Dialect) -> Result<Self> {
        let special = Special::read(&files)?;
        let model = BPE::builder()
            .vocab_and_merges(vocabulary(files.vocab)?, merges(files.merges)?)
            .end_of_word_suffix("</w>".into())
            .continuing_subword_prefix(String::new())
            .unk_token(special.unk.clone())
            .build()
            .map_err(|e| Error::config("tokenizer/merges.txt", format!("does not fit vocab.json: {e}")))?;
        let mut bpe = Bpe::new(model);
        let id = |word: &str| {
            let id = bpe.token_to_id(word);
            id.map(|id| id as i32).ok_or_else(|| Error::config("tokenizer/vocab.json", format!("has no token `{word}`")))
        };
        let (bos, eos, pad) = (id(&special.bos)?, id(&special.eos)?, id(&special.pad)?);
        bpe.with_normalizer(Some(Normalizers::new(vec![NFC.into(), replace_spaces()?.into(), Lowercase.into()])));
        bpe.with_pre_tokenizer(Some(PreTokenizers::new(vec![split_words()?.into(), ByteLevel::new(false, true, true).into()])));
        if dialect == Dialect::Transformers {
            bpe.add_special_tokens(&special.added());
        }
        Ok(Self { bpe, dialect, bos, eos, pad, context: special.context })
    }

    /// The tokenizer of a model.
    pub fn of_model(model: &ModelFolder, dialect: Dialect) -> Result<Self> {
        let optional = |name: &str| if model.exists(name) { model.read(name).map(Some) } else { Ok(None) };
        let (vocab, merges) = (model.read("tokenizer/vocab.json")?, model.read("tokenizer/merges.txt")?);
        let (map, config) = (optional("tokenizer/special_tokens_map.json")?, optional("tokenizer/tokenizer_config.json")?);
        let files = TokenizerFiles { vocab: &vocab, merges: &merges, special_tokens_map: map.as_deref(), config: config.as_deref() };
        Self::new(files, dialect)
    }

    /// The same for a text encoder that takes `context` ids; at least 3.
    #[must_use]
    pub fn with_context(mut self, context: usize) -> Self {
        self.context = context.max(3);
        self
    }

    /// Tokens of a text, without start, end and padding.
    pub fn tokens(&self, text: &str) -> Result<Vec<Token>> {
        let cleaned = if self.dialect == Dialect::OpenClip { clean(text) } else { text.to_owned() };
        let encoding = self.bpe.encode(cleaned.as_str(), false).map_err(|e| Error::Prompt(format!("cannot be tokenized: {e}")))?;
        let whole = cleaned == text;
        let tokens = encoding.get_ids().iter().zip(encoding.get_offsets()).map(|(&id, &(start, end))| Token {
            id: id as i32,
            // where entities were undone the bytes are no longer the caller's: the nearest that is surely inside the text
            bytes: if whole { start..end } else { start.min(text.len())..end.min(text.len()) },
        });
        Ok(tokens.collect())
    }

    /// Ids of a text as the text encoder takes them: start, words, end, padding; cut to [`Tokenizer::context`] with the end kept.
    pub fn ids(&self, text: &str) -> Result<Vec<i32>> {
        let words: Vec<i32> = self.tokens(text)?.into_iter().map(|t| t.id).collect();
        Ok(self.frame(&words))
    }

    /// Start, as many of `words` as fit, end, padding.
    pub fn frame(&self, words: &[i32]) -> Vec<i32> {
        let kept = &words[..words.len().min(self.room())];
        let mut ids = Vec::with_capacity(self.context);
        ids.push(self.bos);
        ids.extend(kept);
        ids.push(self.eos);
        ids.resize(self.context, self.pad);
        ids
    }

    /// Number of ids that the text encoder takes: 77.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Number of words that fit between start and end: 75.
    pub fn room(&self) -> usize {
        self.context - 2
    }

    /// Id of the end.
    pub fn eos(&self) -> i32 {
        self.eos
    }

    /// Id of the padding: 0 for Stable Diffusion 2, the end for Stable Diffusion 1.
    pub fn pad(&self) -> i32 {
        self.pad
    }
}

/// Special tokens and length by the two optional files.
struct Special {
    bos: String,
    eos: String,
    unk: String,
    pad: String,
    context: usize,
}

impl Special {
    fn read(files: &TokenizerFiles<'_>) -> Result<Self> {
        let parse = |bytes: Option<&[u8]>, name: &str| match bytes {
            None => Ok(serde_json::Value::Null),
            Some(bytes) => serde_json::from_slice(bytes).map_err(|e| Error::config(format!("{FILE}/{name}"), format!("is not JSON: {e}"))),
        };
        let map = parse(files.special_tokens_map, "special_tokens_map.json")?;
        let config = parse(files.config, "tokenizer_config.json")?;
        let token = |key: &str| {
            let text = |v: &serde_json::Value| v.as_str().or_else(|| v["content"].as_str()).map(str::to_owned);
            text(&map[key]).or_else(|| text(&config[key]))
        };
        let eos = token("eos_token").unwrap_or_else(|| "<|endoftext|>".into());
        let length = config["model_max_length"].as_u64().unwrap_or(77) as usize;
        if !(3..=4096).contains(&length) {
            return Err(Error::config(format!("{FILE}/tokenizer_config.json"), format!("model_max_length is {length}, 77 is usual")));
        }
        Ok(Self {
            bos: token("bos_token").unwrap_or_else(|| "<|startoftext|>".into()),
            unk: token("unk_token").unwrap_or_else(|| eos.clone()),
            pad: token("pad_token").unwrap_or_else(|| eos.clone()),
            eos,
            context: length,
        })
    }

    /// Start and end are found after lower-casing, the padding token is taken literally.
    fn added(&self) -> Vec<AddedToken> {
        let normalized = [&self.bos, &self.eos].map(|t| AddedToken::from(t.clone(), true).normalized(true));
        let mut added = normalized.to_vec();
        if self.pad != self.eos {
            added.push(AddedToken::from(self.pad.clone(), true).normalized(false));
        }
        added
    }
}

fn vocabulary(json: &[u8]) -> Result<Vocab> {
    let words: HashMap<String, u32> =
        serde_json::from_slice(json).map_err(|e| Error::config("tokenizer/vocab.json", format!("is not a map of words to ids: {e}")))?;
    Ok(words.into_iter().collect())
}

fn merges(text: &[u8]) -> Result<Vec<(String, String)>> {
    let fail = |what: String| Error::config("tokenizer/merges.txt", what);
    let text = std::str::from_utf8(text).map_err(|e| fail(format!("is not UTF-8: {e}")))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with("#version"));
    let pair = |(i, line): (usize, &str)| match line.split_once(' ') {
        Some((a, b)) if !b.contains(' ') => Ok((a.to_owned(), b.to_owned())),
        _ => Err(fail(format!("line {} is `{line}`, expected two words", i + 1))),
    };
    lines.map(pair).collect()
}

fn replace_spaces() -> Result<Replace> {
    let pattern = tokenizers::normalizers::replace::ReplacePattern::Regex(r"\s+".into());
    Replace::new(pattern, " ").map_err(|e| Error::config(FILE, e.to_string()))
}

fn split_words() -> Result<Split> {
    Split::new(SplitPattern::Regex(WORDS.into()), SplitDelimiterBehavior::Removed, true).map_err(|e| Error::config(FILE, e.to_string()))
}

/// HTML entities twice over, as open_clip does, then straight quotes.
fn clean(text: &str) -> String {
    let entities = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&apos;", "'"), ("&amp;", "&")];
    let quotes = [('\u{2018}', '\''), ('\u{2019}', '\''), ('\u{201c}', '"'), ('\u{201d}', '"')];
    let unescape = |text: String| entities.iter().fold(text, |t, (from, to)| t.replace(from, to));
    let text = unescape(unescape(text.to_owned()));
    text.chars().map(|c| quotes.iter().find(|(from, _)| *from == c).map_or(c, |(_, to)| *to)).collect()
}
