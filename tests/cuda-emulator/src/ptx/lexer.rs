//! PTX text to tokens, each with its line.

use crate::{Fault, FaultKind};

/// A token. Words keep their dots: `ld.global.v4.f32`, `%tid.x` and `.reg` are one token each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Token<'a> {
    Word(&'a str),
    Number(&'a str),
    Text(&'a str),
    Sign(char),
}

pub(super) fn tokens(text: &str) -> Result<Vec<(Token<'_>, u32)>, Fault> {
    let bytes = text.as_bytes();
    let (mut at, mut line, mut found) = (0, 1, Vec::new());
    while at < bytes.len() {
        let start = at;
        match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
            }
            c if c.is_ascii_whitespace() || c == 0 => at += 1,
            b'/' if bytes.get(at + 1) == Some(&b'/') => at = find(bytes, at, b'\n'),
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                while at < bytes.len() && !bytes[at..].starts_with(b"*/") {
                    line += u32::from(bytes[at] == b'\n');
                    at += 1;
                }
                at += 2;
            }
            b'"' => {
                at = find(bytes, at + 1, b'"');
                found.push((Token::Text(&text[start + 1..at]), line));
                at += 1;
            }
            c if c.is_ascii_digit() => {
                at = word_end(bytes, at);
                found.push((Token::Number(&text[start..at]), line));
            }
            c if is_word(c) || c == b'.' || c == b'%' => {
                at = word_end(bytes, at + 1);
                found.push((Token::Word(&text[start..at]), line));
            }
            c if b"{}()[]<>,;:@!|=+-*&~^?".contains(&c) => {
                at += 1;
                found.push((Token::Sign(c as char), line));
            }
            c => return Err(Fault::new(FaultKind::Parse, format!("unexpected character {:?}", c as char)).at_line(line)),
        }
    }
    Ok(found)
}

fn find(bytes: &[u8], from: usize, wanted: u8) -> usize {
    bytes[from..].iter().position(|&b| b == wanted).map_or(bytes.len(), |n| from + n)
}

fn is_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_' || c == b'$'
}

/// The end of a word: letters, dots, and the `::` of qualifiers like `L2::128B`, but not the `:` of a label.
fn word_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        if is_word(bytes[at]) || bytes[at] == b'.' {
            at += 1;
        } else if bytes[at..].starts_with(b"::") {
            at += 2;
        } else {
            break;
        }
    }
    at
}
