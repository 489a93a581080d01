//! Directives, functions and statements.

use super::cursor::Parser;
use super::lexer::{Token, tokens};
use super::operands::Names;
use super::syntax::{Bank, Decl, Func, Initial, Inst, Operand, Space, Stmt, Syntax, VReg};
use crate::Fault;

pub(super) fn parse(text: &str) -> Result<Syntax, Fault> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, syntax: Syntax::default(), location: (0, 0) };
    while parser.at < parser.tokens.len() {
        parser.directive()?;
    }
    Ok(parser.syntax)
}

/// Size in bytes of a fundamental type, and whether a register of it is a predicate.
pub(super) fn type_bytes(name: &str) -> Option<u32> {
    Some(match name {
        "pred" => 1,
        "b8" | "u8" | "s8" => 1,
        "b16" | "u16" | "s16" | "f16" | "bf16" => 2,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" | "tf32" => 4,
        "b64" | "u64" | "s64" | "f64" => 8,
        _ => return None,
    })
}

impl<'a> Parser<'a> {
    fn directive(&mut self) -> Result<(), Fault> {
        let word = self.word()?;
        match word {
            ".version" => drop(self.next()),
            ".target" => {
                let name = self.word()?;
                let digits: String = name.chars().filter(char::is_ascii_digit).collect();
                self.syntax.target = digits.parse().map_err(|_| self.error(format!("target {name}")))?;
                while self.accept(',') {
                    self.word()?;
                }
            }
            ".address_size" => drop(self.next()),
            ".file" => {
                let id = self.integer()? as u32;
                if let Some(&(Token::Text(name), _)) = self.tokens.get(self.at) {
                    self.at += 1;
                    self.syntax.files.insert(id, name.to_string());
                }
                while self.accept(',') {
                    self.integer()?;
                }
            }
            ".section" => {
                self.word()?;
                self.skip_braces()?;
            }
            ".visible" | ".extern" | ".weak" | ".common" => {}
            ".entry" | ".func" => self.function(word == ".entry")?,
            ".global" | ".const" | ".shared" => {
                for decl in self.variables(word)? {
                    self.syntax.variables.push(decl);
                }
            }
            ".pragma" => self.skip_to(';'),
            other => return Err(self.unsupported(format!("directive {other}"))),
        }
        Ok(())
    }

    fn function(&mut self, entry: bool) -> Result<(), Fault> {
        let mut func = Func { entry, scopes: vec![0], line: self.line(), ..Func::default() };
        if !entry && self.peek() == Some(Token::Sign('(')) {
            func.results = self.params()?;
        }
        func.name = self.word()?.to_string();
        if self.peek() == Some(Token::Sign('(')) {
            func.params = self.params()?;
        }
        loop {
            match self.next() {
                Some(Token::Sign(';')) => break,
                Some(Token::Sign('{')) => {
                    func.body = Some(self.body(&mut func)?);
                    break;
                }
                Some(Token::Word(".maxntid")) => {
                    let mut product = self.integer()? as u32;
                    while self.accept(',') {
                        product *= self.integer()? as u32;
                    }
                    func.max_threads = Some(product);
                }
                Some(Token::Word(".minnctapersm" | ".maxnreg" | ".reqntid" | ".maxclusterrank")) => {
                    self.integer()?;
                    while self.accept(',') {
                        self.integer()?;
                    }
                }
                Some(Token::Word(".noreturn")) => {}
                other => return Err(self.unsupported(format!("{other:?} after the head of {}", func.name))),
            }
        }
        // A declaration is followed by its definition, or is never called.
        self.syntax.functions.retain(|f| f.name != func.name || f.body.is_some());
        if !self.syntax.functions.iter().any(|f| f.name == func.name) {
            self.syntax.functions.push(func);
        }
        Ok(())
    }

    fn params(&mut self) -> Result<Vec<Decl>, Fault> {
        self.expect('(')?;
        let mut params = Vec::new();
        while !self.accept(')') {
            match self.word()? {
                ".param" => params.extend(self.variable(Space::Param)?),
                ".reg" => return Err(self.unsupported("register parameters".into())),
                other => return Err(self.unsupported(format!("parameter {other}"))),
            }
            self.accept(',');
        }
        Ok(params)
    }

    fn variables(&mut self, space: &str) -> Result<Vec<Decl>, Fault> {
        let space = match space {
            ".global" => Space::Global,
            ".const" => Space::Const,
            ".shared" => Space::Shared,
            ".local" => Space::Local,
            _ => Space::Param,
        };
        let found = self.variable(space)?;
        self.expect(';')?;
        Ok(found)
    }

    /// `.align 16 .b8 name[64] = {..}`, more names after commas except among parameters.
    fn variable(&mut self, space: Space) -> Result<Vec<Decl>, Fault> {
        let (mut align, mut element, mut vector) = (0, 0, 1);
        while let Some(Token::Word(word)) = self.peek() {
            if !word.starts_with('.') {
                break;
            }
            self.at += 1;
            match &word[1..] {
                "align" => align = self.integer()? as u32,
                "ptr" | "global" | "const" | "shared" | "local" => {}
                "v2" => vector = 2,
                "v4" => vector = 4,
                "attribute" => {
                    self.expect('(')?;
                    self.skip_to(')');
                }
                "space" => drop(self.next()),
                name => element = type_bytes(name).ok_or_else(|| self.unsupported(format!("type {word}")))?,
            }
        }
        let mut found = Vec::new();
        loop {
            let name = self.word()?.to_string();
            let (mut count, mut bounded) = (1, true);
            while self.accept('[') {
                if self.accept(']') {
                    bounded = false;
                    continue;
                }
                count *= self.integer()? as u64;
                self.expect(']')?;
            }
            let size = u64::from(element * vector) * count;
            let mut initial = Vec::new();
            if self.accept('=') {
                self.initial(element, &mut initial)?;
            }
            let size = if bounded { size } else { initial.iter().map(Initial::bytes).sum() };
            found.push(Decl { name, space, align: align.max(element * vector).max(1), size, initial });
            if space == Space::Param || !self.accept(',') {
                return Ok(found);
            }
        }
    }

    fn initial(&mut self, element: u32, found: &mut Vec<Initial>) -> Result<(), Fault> {
        if self.accept('{') {
            while !self.accept('}') {
                self.initial(element, found)?;
                self.accept(',');
            }
            return Ok(());
        }
        if let Some(Token::Word(mut word)) = self.peek() {
            self.at += 1;
            let generic = word == "generic";
            if generic {
                self.expect('(')?;
                word = self.word()?;
            }
            let offset = if self.accept('+') { self.integer()? } else { 0 };
            if generic {
                self.expect(')')?;
            }
            found.push(Initial::Address(word.to_string(), offset, element));
            return Ok(());
        }
        let bits = match self.constant()? {
            Operand::Int(v) => v as u64,
            Operand::F32(v) => u64::from(v),
            Operand::F64(v) => v,
            _ => return Err(self.error("initial value".into())),
        };
        found.push(Initial::Bytes(bits.to_le_bytes()[..element as usize].to_vec()));
        Ok(())
    }

    fn body(&mut self, func: &mut Func) -> Result<Vec<Stmt>, Fault> {
        let mut names = Names::default();
        let mut scope = 0;
        let mut stmts = Vec::new();
        loop {
            match self.next() {
                Some(Token::Sign('}')) if scope == 0 => return Ok(stmts),
                Some(Token::Sign('}')) => scope = func.scopes[scope],
                Some(Token::Sign('{')) => {
                    func.scopes.push(scope);
                    scope = func.scopes.len() - 1;
                }
                Some(Token::Sign(';')) => {}
                Some(Token::Sign('@')) => {
                    let negated = self.accept('!');
                    let word = self.word()?;
                    let guard = names.find(func, scope, word).ok_or_else(|| self.error(format!("unknown register {word}")))?;
                    let opcode = self.word()?;
                    stmts.push(self.instruction(func, &names, scope, opcode, Some((guard, negated)))?);
                }
                Some(Token::Word(word)) if word.starts_with('.') => self.local_directive(func, &mut names, scope, word)?,
                Some(Token::Word(word)) if self.accept(':') => {
                    if self.peek() == Some(Token::Word(".branchtargets")) {
                        self.at += 1;
                        let mut targets = vec![self.word()?.to_string()];
                        while self.accept(',') {
                            targets.push(self.word()?.to_string());
                        }
                        self.expect(';')?;
                        stmts.push(Stmt::Targets(scope, word.to_string(), targets));
                    } else if self.peek() == Some(Token::Word(".callprototype")) {
                        return Err(self.unsupported("calls through pointers".into()));
                    } else {
                        stmts.push(Stmt::Label(scope, word.to_string()));
                    }
                }
                Some(Token::Word(word)) => stmts.push(self.instruction(func, &names, scope, word, None)?),
                other => return Err(self.error(format!("unexpected {other:?}"))),
            }
        }
    }

    fn local_directive(&mut self, func: &mut Func, names: &mut Names, scope: usize, word: &str) -> Result<(), Fault> {
        match word {
            ".reg" => self.registers(func, names, scope),
            ".local" | ".shared" | ".param" => {
                // A list of one: parameters of a call are declared one by one.
                for decl in self.variables(word)? {
                    func.variables.insert((scope, decl.name.clone()), decl);
                }
                Ok(())
            }
            ".loc" => {
                self.location = (self.integer()? as u32, self.integer()? as u32);
                self.integer()?;
                if self.accept(',') {
                    // `function_name F, inlined_at file line column`
                    while !matches!(self.peek(), Some(Token::Word(w)) if w.starts_with("inlined_at")) {
                        self.at += 1;
                    }
                    self.at += 1;
                    for _ in 0..3 {
                        self.integer()?;
                    }
                }
                Ok(())
            }
            ".pragma" => {
                self.skip_to(';');
                Ok(())
            }
            other => Err(self.unsupported(format!("directive {other}"))),
        }
    }

    fn registers(&mut self, func: &mut Func, names: &mut Names, scope: usize) -> Result<(), Fault> {
        let kind = self.word()?;
        let bytes = type_bytes(&kind[1..]).ok_or_else(|| self.unsupported(format!("register type {kind}")))?;
        let bank = match (kind, bytes) {
            (".pred", _) => Bank::P,
            (_, 8) => Bank::B64,
            _ => Bank::B32,
        };
        loop {
            let name = self.word()?.to_string();
            let next = &mut func.registers[bank as usize];
            if self.accept('<') {
                let count = self.integer()? as u32;
                self.expect('>')?;
                let next = &mut func.registers[bank as usize];
                names.family.insert((scope, name), (bank, *next, count));
                *next += count;
            } else {
                names.single.insert((scope, name), VReg { bank, id: *next });
                *next += 1;
            }
            if !self.accept(',') {
                return self.expect(';');
            }
        }
    }

    fn instruction(&mut self, func: &Func, names: &Names, scope: usize, opcode: &str, guard: Option<(VReg, bool)>) -> Result<Stmt, Fault> {
        let line = self.tokens[self.at - 1].1;
        let mut inst = Inst { guard, opcode: opcode.to_string(), operands: Vec::new(), call: None, scope, line, location: self.location };
        if opcode == "call" || opcode == "call.uni" {
            inst.call = Some(self.call()?);
            return Ok(Stmt::Inst(inst));
        }
        if !self.accept(';') {
            loop {
                let operand = self.operand(func, names, scope)?;
                let operand =
                    if self.accept('|') { Operand::Pair(Box::new(operand), Box::new(self.operand(func, names, scope)?)) } else { operand };
                inst.operands.push(operand);
                if self.accept(';') {
                    break;
                }
                self.expect(',')?;
            }
        }
        Ok(Stmt::Inst(inst))
    }

    /// `(retval0), name, (param0, param1);`, each list optional.
    fn call(&mut self) -> Result<(Vec<String>, String, Vec<String>), Fault> {
        let mut results = Vec::new();
        if self.peek() == Some(Token::Sign('(')) {
            results = self.name_list()?;
            self.expect(',')?;
        }
        let name = self.word()?.to_string();
        let mut arguments = Vec::new();
        if self.accept(',') && self.peek() == Some(Token::Sign('(')) {
            arguments = self.name_list()?;
        }
        if name.starts_with('%') || !self.accept(';') {
            return Err(self.unsupported("calls through pointers".into()));
        }
        Ok((results, name, arguments))
    }

    fn name_list(&mut self) -> Result<Vec<String>, Fault> {
        self.expect('(')?;
        let mut names = Vec::new();
        while !self.accept(')') {
            names.push(self.word()?.to_string());
            self.accept(',');
        }
        Ok(names)
    }
}

impl Initial {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Initial::Bytes(bytes) => bytes.len() as u64,
            Initial::Address(_, _, bytes) => u64::from(*bytes),
        }
    }
}
