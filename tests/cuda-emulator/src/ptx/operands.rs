//! Operands of instructions: registers, addresses, vectors, constants.

use std::collections::HashMap;

use super::cursor::Parser;
use super::lexer::Token;
use super::syntax::{Bank, Func, Operand, VReg};
use crate::Fault;

/// The registers of a function while it is read: name to register by scope, and families declared as `%r<9>`.
#[derive(Default)]
pub(super) struct Names {
    pub(super) single: HashMap<(usize, String), VReg>,
    pub(super) family: HashMap<(usize, String), (Bank, u32, u32)>,
}

impl Parser<'_> {
    pub(super) fn operand(&mut self, func: &Func, names: &Names, scope: usize) -> Result<Operand, Fault> {
        if self.accept('[') {
            let base = self.operand(func, names, scope)?;
            let (base, mut offset) = match base {
                Operand::Address(base, offset) => (*base, offset),
                Operand::Int(at) => (Operand::Int(0), at),
                other => (other, 0),
            };
            // `+8`, `+-8` or `-8`.
            if self.accept('+') || self.peek() == Some(Token::Sign('-')) {
                offset += self.integer()?;
            }
            self.expect(']')?;
            return Ok(Operand::Address(Box::new(base), offset));
        }
        if self.accept('{') {
            let mut parts = Vec::new();
            while !self.accept('}') {
                parts.push(self.operand(func, names, scope)?);
                self.accept(',');
            }
            return Ok(Operand::Vector(parts));
        }
        if self.accept('!') {
            let word = self.word()?;
            let reg = names.find(func, scope, word).ok_or_else(|| self.error(format!("unknown register {word}")))?;
            return Ok(Operand::NotReg(reg));
        }
        let Some(Token::Word(word)) = self.peek() else { return self.constant() };
        self.at += 1;
        if word == "_" {
            return Ok(Operand::Sink);
        }
        if let Some(reg) = names.find(func, scope, word) {
            return Ok(Operand::Reg(reg));
        }
        if word == "WARP_SZ" {
            return Ok(Operand::Int(32));
        }
        if word.starts_with('%') {
            return Ok(Operand::Special(word.to_string()));
        }
        if self.accept('+') {
            let offset = self.integer()?;
            return Ok(Operand::Address(Box::new(Operand::Symbol(word.to_string())), offset));
        }
        Ok(Operand::Symbol(word.to_string()))
    }

    pub(super) fn constant(&mut self) -> Result<Operand, Fault> {
        let negative = self.accept('-');
        let Some(Token::Number(text)) = self.next() else { return Err(self.error("operand expected".into())) };
        let bad = |_| self.error(format!("number {text}"));
        let lower = text.to_ascii_lowercase();
        if let Some(hex) = lower.strip_prefix("0f") {
            let bits = u32::from_str_radix(hex, 16).map_err(bad)?;
            return Ok(Operand::F32(bits ^ (u32::from(negative) << 31)));
        }
        if let Some(hex) = lower.strip_prefix("0d") {
            let bits = u64::from_str_radix(hex, 16).map_err(bad)?;
            return Ok(Operand::F64(bits ^ (u64::from(negative) << 63)));
        }
        if lower.contains('.') {
            let value: f64 = lower.parse().map_err(|_| self.error(format!("number {text}")))?;
            return Ok(Operand::F64(if negative { -value } else { value }.to_bits()));
        }
        let digits = lower.trim_end_matches('u');
        let value = if let Some(hex) = digits.strip_prefix("0x") {
            u64::from_str_radix(hex, 16)
        } else if let Some(binary) = digits.strip_prefix("0b") {
            u64::from_str_radix(binary, 2)
        } else if digits.len() > 1 && digits.starts_with('0') {
            u64::from_str_radix(digits, 8)
        } else {
            digits.parse()
        }
        .map_err(bad)?;
        Ok(Operand::Int(if negative { value.wrapping_neg() } else { value } as i64))
    }

    pub(super) fn integer(&mut self) -> Result<i64, Fault> {
        match self.constant()? {
            Operand::Int(value) => Ok(value),
            other => Err(self.error(format!("integer expected, not {other:?}"))),
        }
    }
}

impl Names {
    pub(super) fn find(&self, func: &Func, scope: usize, word: &str) -> Option<VReg> {
        if let Some(&reg) = func.resolve(&self.single, scope, word) {
            return Some(reg);
        }
        let stem = word.trim_end_matches(|c: char| c.is_ascii_digit());
        let index: u32 = word[stem.len()..].parse().ok()?;
        let &(bank, first, count) = func.resolve(&self.family, scope, stem)?;
        (index < count).then_some(VReg { bank, id: first + index })
    }
}
