//! Tokens one after the other, with the line for errors.

use super::lexer::Token;
use super::syntax::Syntax;
use crate::{Fault, FaultKind};

/// Where the reader of a module is.
pub(super) struct Parser<'a> {
    pub(super) tokens: Vec<(Token<'a>, u32)>,
    pub(super) at: usize,
    pub(super) syntax: Syntax,
    pub(super) location: (u32, u32),
}

impl<'a> Parser<'a> {
    pub(super) fn skip_braces(&mut self) -> Result<(), Fault> {
        self.expect('{')?;
        self.skip_to('}');
        Ok(())
    }

    pub(super) fn skip_to(&mut self, sign: char) {
        while self.next().is_some_and(|t| t != Token::Sign(sign)) {}
    }

    pub(super) fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|t| t.0)
    }

    pub(super) fn next(&mut self) -> Option<Token<'a>> {
        let token = self.peek();
        self.at += 1;
        token
    }

    pub(super) fn word(&mut self) -> Result<&'a str, Fault> {
        match self.next() {
            Some(Token::Word(word)) => Ok(word),
            other => Err(self.error(format!("name expected, not {other:?}"))),
        }
    }

    pub(super) fn accept(&mut self, sign: char) -> bool {
        let found = self.peek() == Some(Token::Sign(sign));
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, sign: char) -> Result<(), Fault> {
        match self.accept(sign) {
            true => Ok(()),
            false => Err(self.error(format!("{sign:?} expected, not {:?}", self.peek()))),
        }
    }

    pub(super) fn line(&self) -> u32 {
        let last = self.at.saturating_sub(1).min(self.tokens.len().saturating_sub(1));
        self.tokens.get(last).map_or(0, |t| t.1)
    }

    pub(super) fn error(&self, detail: String) -> Fault {
        Fault::new(FaultKind::Parse, detail).at_line(self.line())
    }

    pub(super) fn unsupported(&self, detail: String) -> Fault {
        Fault::new(FaultKind::Unsupported, detail).at_line(self.line())
    }
}
