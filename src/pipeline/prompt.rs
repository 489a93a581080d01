//! Prompts with a pseudo-word: where `S*` stands, which slots it takes, what did not fit.

use super::Tokenizer;
use crate::{Error, Result};
use std::ops::Range;

/// The placeholder used by the paper.
pub const PLACEHOLDER: &str = "S*";

/// A prompt as the text encoder takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedPrompt {
    /// Token ids: start, words, end, padding. Slots of the placeholder hold the end's id, which nothing reads.
    pub ids: Vec<i32>,
    /// Slots of the pseudo-words: `k` consecutive positions for each occurrence of the placeholder.
    pub slots: Vec<Vec<usize>>,
    /// The end of the prompt that did not fit, as written. Worth a warning.
    pub dropped: Option<String>,
}

impl EncodedPrompt {
    /// True if the identity enters this prompt.
    pub fn has_identity(&self) -> bool {
        !self.slots.is_empty()
    }
}

/// Tokenizes `prompt`; each occurrence of `placeholder` takes `words` slots. The same in positive and negative prompts.
///
/// A prompt that is too long loses its end, which is reported, but never a placeholder: that is an error that says how many words
/// to leave out before it.
pub fn encode_prompt(tokenizer: &Tokenizer, prompt: &str, placeholder: &str, words: usize) -> Result<EncodedPrompt> {
    let pieces = pieces(tokenizer, prompt, placeholder)?;
    let (mut ids, mut starts, mut slots) = (Vec::new(), Vec::new(), Vec::new());
    for piece in &pieces {
        match piece {
            Piece::Word { id, start } => {
                ids.push(*id);
                starts.push(*start);
            }
            Piece::Placeholder(bytes) => {
                // the start token comes first
                slots.push((0..words).map(|i| 1 + ids.len() + i).collect());
                ids.extend(std::iter::repeat_n(tokenizer.eos(), words));
                starts.extend(std::iter::repeat_n(bytes.start, words));
                if ids.len() > tokenizer.room() {
                    return Err(placeholder_cut(tokenizer, prompt, placeholder, &pieces, bytes, ids.len() - tokenizer.room()));
                }
            }
        }
    }
    let dropped = starts.get(tokenizer.room()).map(|&byte| prompt[word_start(prompt, byte)..].trim().to_owned());
    Ok(EncodedPrompt { ids: tokenizer.frame(&ids), slots, dropped })
}

enum Piece {
    Word { id: i32, start: usize },
    Placeholder(Range<usize>),
}

fn pieces(tokenizer: &Tokenizer, prompt: &str, placeholder: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut done = 0;
    for bytes in occurrences(prompt, placeholder) {
        words(tokenizer, prompt, done..bytes.start, &mut pieces)?;
        done = bytes.end;
        pieces.push(Piece::Placeholder(bytes));
    }
    words(tokenizer, prompt, done..prompt.len(), &mut pieces)?;
    Ok(pieces)
}

fn words(tokenizer: &Tokenizer, prompt: &str, bytes: Range<usize>, pieces: &mut Vec<Piece>) -> Result<()> {
    let offset = bytes.start;
    pieces.extend(tokenizer.tokens(&prompt[bytes])?.into_iter().map(|t| Piece::Word { id: t.id, start: offset + t.bytes.start }));
    Ok(())
}

/// Places where the placeholder stands as a word of its own: not inside `CLASS*` or `S*x`, but before `'s` and punctuation.
fn occurrences(prompt: &str, placeholder: &str) -> Vec<Range<usize>> {
    if placeholder.is_empty() {
        return Vec::new();
    }
    let alone = |&(start, _): &(usize, &str)| {
        let before = prompt[..start].chars().next_back();
        let after = prompt[start + placeholder.len()..].chars().next();
        ![before, after].into_iter().flatten().any(char::is_alphanumeric)
    };
    prompt.match_indices(placeholder).filter(alone).map(|(start, text)| start..start + text.len()).collect()
}

/// Counts the words before the placeholder that must go for `excess` tokens to fit.
fn placeholder_cut(tokenizer: &Tokenizer, prompt: &str, placeholder: &str, pieces: &[Piece], at: &Range<usize>, excess: usize) -> Error {
    let mut starts: Vec<usize> =
        pieces.iter().filter_map(|p| if let Piece::Word { start, .. } = p { Some(*start) } else { None }).collect();
    starts.retain(|&s| s < at.start);
    let Some(first) = starts.len().checked_sub(excess) else {
        return Error::Prompt(format!("`{placeholder}` appears too often: only {} tokens fit", tokenizer.room()));
    };
    let needless = prompt[word_start(prompt, starts[first])..at.start].split_whitespace().filter(|w| *w != placeholder).count().max(1);
    Error::Prompt(format!(
        "`{placeholder}` would be cut off, since only {} tokens fit: move it forward, or leave out {needless} word{} before it",
        tokenizer.room(),
        if needless == 1 { "" } else { "s" }
    ))
}

/// Start of the word that holds byte `at`.
fn word_start(prompt: &str, at: usize) -> usize {
    prompt[..floor_boundary(prompt, at)].rfind(char::is_whitespace).map_or(0, |i| i + prompt[i..].chars().next().map_or(1, char::len_utf8))
}

fn floor_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}
