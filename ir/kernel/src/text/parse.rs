//! Reading. Total on any text: nesting is limited, and nothing is allocated that the text does
//! not pay for with its length.

use crate::inst::*;
use crate::verify::MAX_DEPTH;
use q35_types::DType;
use std::collections::HashMap;
use std::str::FromStr;

/// What is wrong with the text of a kernel; lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("line {line}: found {found}, expected {expected}")]
    Unexpected { line: usize, found: String, expected: &'static str },

    #[error("line {line}: `{name}` is no parameter or shared array of this kernel")]
    UnknownMemory { line: usize, name: String },

    #[error("line {line}: `{name}` is no accumulator of this kernel")]
    UnknownAccumulator { line: usize, name: String },

    #[error("line {line}: `{value}` is defined again")]
    Redefined { line: usize, value: Value },

    #[error("`%{missing}` is not defined, expected a definition of all values up to the highest")]
    Gap { missing: u32 },

    #[error("line {line}: {found} results, expected {expected}")]
    ResultCount { line: usize, found: usize, expected: usize },

    #[error("line {line}: a block in more than {MAX_DEPTH} others")]
    TooDeep { line: usize },
}

impl FromStr for Kernel {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        parse(text)
    }
}

/// Read one kernel; the text must hold nothing else.
pub fn parse(text: &str) -> Result<Kernel, ParseError> {
    let mut parser = Parser::new(text)?;
    let kernel = parser.kernel()?;
    match parser.token {
        Token::End => Ok(kernel),
        _ => Err(parser.unexpected("the end of the text")),
    }
}

/// Read kernels, one after another.
pub fn parse_all(text: &str) -> Result<Vec<Kernel>, ParseError> {
    let mut parser = Parser::new(text)?;
    let mut kernels = vec![];
    while parser.token != Token::End {
        kernels.push(parser.kernel()?);
    }
    Ok(kernels)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Token<'t> {
    Word(&'t str),
    /// `%7`
    Value(u32),
    /// Whatever starts with a digit or a minus sign.
    Number(&'t str),
    /// A sign, or `..`.
    Sign(&'t str),
    End,
}

struct Parser<'t> {
    rest: &'t str,
    /// Line of `token`.
    line: usize,
    token: Token<'t>,
    params: Vec<Param>,
    shared: Vec<Array>,
    accumulators: Vec<Accumulator>,
    memories: HashMap<&'t str, Mem>,
    sums: HashMap<&'t str, Acc>,
    types: HashMap<u32, Type>,
}

impl<'t> Parser<'t> {
    fn new(text: &'t str) -> Result<Self, ParseError> {
        let mut parser = Parser {
            rest: text,
            line: 1,
            token: Token::End,
            params: vec![],
            shared: vec![],
            accumulators: vec![],
            memories: HashMap::new(),
            sums: HashMap::new(),
            types: HashMap::new(),
        };
        parser.next()?;
        Ok(parser)
    }

    fn kernel(&mut self) -> Result<Kernel, ParseError> {
        self.memories.clear();
        self.sums.clear();
        self.types.clear();
        self.keyword("kernel")?;
        let name = self.word("a name")?.to_string();
        self.keyword("lanes")?;
        let lanes = self.number("a number of lanes")?;
        let subgroup = match self.takes_word("subgroup")? {
            true => self.number("a number of lanes")?,
            false => 1,
        };
        while self.takes_word("param")? {
            self.param()?;
        }
        while self.takes_word("shared")? {
            self.array()?;
        }
        while self.takes_word("accumulator")? {
            self.accumulator()?;
        }
        let body = self.block(0)?;
        let count = self.types.len() as u32;
        let types: Result<Vec<Type>, u32> =
            (0..count).map(|v| self.types.get(&v).copied().ok_or(v)).collect();
        let types = types.map_err(|missing| ParseError::Gap { missing })?;
        Ok(Kernel {
            name,
            lanes,
            subgroup,
            params: std::mem::take(&mut self.params),
            shared: std::mem::take(&mut self.shared),
            accumulators: std::mem::take(&mut self.accumulators),
            types,
            body,
        })
    }

    fn param(&mut self) -> Result<(), ParseError> {
        let name = self.word("a name")?;
        self.sign(":")?;
        let dtype = self.dtype()?;
        let access = self.one_of("`read`, `write` or `readwrite`", Access::from_name)?;
        let table = self.takes_word("table")?;
        self.memories.insert(name, Mem::Param(self.params.len() as u32));
        self.params.push(Param { name: name.to_string(), dtype, access, table });
        Ok(())
    }

    fn array(&mut self) -> Result<(), ParseError> {
        let name = self.word("a name")?;
        self.sign(":")?;
        let dtype = self.dtype()?;
        self.sign("[")?;
        let len = self.number("a number of elements")?;
        self.sign("]")?;
        self.memories.insert(name, Mem::Shared(self.shared.len() as u32));
        self.shared.push(Array { name: name.to_string(), dtype, len });
        Ok(())
    }

    fn accumulator(&mut self) -> Result<(), ParseError> {
        let name = self.word("a name")?;
        self.sign(":")?;
        self.keyword("f32")?;
        self.sign("[")?;
        let m = self.number("a number of rows")?;
        self.sign(",")?;
        let n = self.number("a number of columns")?;
        self.sign("]")?;
        self.sums.insert(name, Acc(self.accumulators.len() as u32));
        self.accumulators.push(Accumulator { name: name.to_string(), m, n });
        Ok(())
    }

    /// Statements up to what no statement starts with.
    fn block(&mut self, depth: usize) -> Result<Block, ParseError> {
        if depth > MAX_DEPTH {
            return Err(ParseError::TooDeep { line: self.line });
        }
        let mut block = Block::default();
        loop {
            match self.token {
                Token::Word("yield") => {
                    self.next()?;
                    block.yields = self.list(Self::value)?;
                    return Ok(block);
                }
                Token::Word("kernel") | Token::End | Token::Sign("}") => return Ok(block),
                _ => block.stmts.push(self.stmt(depth)?),
            }
        }
    }

    fn braces(&mut self, depth: usize) -> Result<Block, ParseError> {
        self.sign("{")?;
        let block = self.block(depth + 1)?;
        self.sign("}")?;
        Ok(block)
    }

    fn stmt(&mut self, depth: usize) -> Result<Stmt, ParseError> {
        let line = self.line;
        let mut defined = vec![];
        if let Token::Value(_) = self.token {
            defined = self.list(Self::definition)?;
            self.sign("=")?;
        }
        let found = defined.len();
        let exactly = |expected: usize| match found == expected {
            true => Ok(()),
            false => Err(ParseError::ResultCount { line, found, expected }),
        };
        let ty = defined.first().map_or(Type::I32, |d| d.1);
        let Token::Word(word) = self.token else {
            return Err(self.unexpected("an instruction"));
        };
        let expected = match word {
            "store" | "panel_dot" | "barrier" => 0,
            "mma_zero" | "mma" | "mma_load" | "mma_store" => 0,
            "for" | "if" => found,
            _ => 1,
        };
        self.next()?;
        let inst = match word {
            "const" => Inst::Const(self.literal(ty.scalar)?),
            "task" => Inst::Task,
            "lane" => Inst::Lane,
            "subgroup" => Inst::Subgroup,
            "fma" => {
                let (a, b, c) = self.three()?;
                Inst::Fma(a, b, c)
            }
            "select" => {
                let (cond, a, b) = self.three()?;
                Inst::Select(cond, a, b)
            }
            "splat" => Inst::Splat(self.value()?, ty.width),
            "vector" => Inst::Vector(self.list(Self::value)?),
            "extract" => {
                let a = self.value()?;
                self.sign(",")?;
                Inst::Extract(a, self.number("the number of an element")?)
            }
            "reduce" => Inst::Reduce(self.reduction()?, self.value()?),
            "load" => Inst::Load { at: self.place()?, width: ty.width },
            "store" => {
                let at = self.place()?;
                self.sign(",")?;
                Inst::Store { at, value: self.value()? }
            }
            "panel_dot" => Inst::PanelDot(self.panel_dot()?),
            "cluster" => {
                let op = self.reduction()?;
                let value = self.value()?;
                self.sign(",")?;
                Inst::Cluster { op, value, size: self.number("a number of lanes")? }
            }
            "group_scan" => Inst::GroupScan(self.value()?),
            "mma_zero" => Inst::MmaZero(self.acc()?),
            "mma" => Inst::Mma(self.mma()?),
            "mma_load" => {
                let (acc, at, row) = self.matrix()?;
                Inst::MmaLoad { acc, at, row }
            }
            "mma_store" => {
                let (acc, at, row) = self.matrix()?;
                Inst::MmaStore { acc, at, row }
            }
            "barrier" => Inst::Barrier,
            "for" => self.repeat(depth)?,
            "if" => {
                let cond = self.value()?;
                let then = self.braces(depth)?;
                let otherwise = match self.takes_word("else")? {
                    true => self.braces(depth)?,
                    false => Block::default(),
                };
                Inst::If { cond, then, otherwise }
            }
            _ => {
                if let Some(op) = UnaryOp::from_name(word) {
                    Inst::Unary(op, self.value()?)
                } else if let Some(op) = BinaryOp::from_name(word) {
                    let (a, b) = self.two()?;
                    Inst::Binary(op, a, b)
                } else if let Some(op) = CompareOp::from_name(word) {
                    let (a, b) = self.two()?;
                    Inst::Compare(op, a, b)
                } else {
                    let found = quoted(word);
                    return Err(ParseError::Unexpected { line, found, expected: "an instruction" });
                }
            }
        };
        exactly(expected)?;
        Ok(Stmt { results: defined.into_iter().map(|d| d.0).collect(), inst })
    }

    fn repeat(&mut self, depth: usize) -> Result<Inst, ParseError> {
        let (var, _) = self.definition()?;
        self.keyword("in")?;
        let start = self.value()?;
        self.sign("..")?;
        let end = self.value()?;
        self.keyword("step")?;
        let step = self.number("a step")?;
        let mut carried = vec![];
        let mut init = vec![];
        if self.takes_word("carry")? {
            for (c, i) in self.list(|p| {
                let (carried, _) = p.definition()?;
                p.sign("=")?;
                Ok((carried, p.value()?))
            })? {
                carried.push(c);
                init.push(i);
            }
        }
        let body = self.braces(depth)?;
        Ok(Inst::For { start, end, step, var, init, carried, body })
    }

    fn panel_dot(&mut self) -> Result<PanelDot, ParseError> {
        let x = self.operand("x", Self::place)?;
        let x_row = self.stride("row")?;
        let x_k = self.stride("k")?;
        self.sign(",")?;
        let w = self.operand("w", Self::place)?;
        let w_panel = self.stride("panel")?;
        self.sign(",")?;
        let out = self.operand("out", Self::place)?;
        let out_row = self.stride("row")?;
        self.sign(",")?;
        let rows = self.operand("rows", Self::value)?;
        self.sign(",")?;
        let panels = self.operand("panels", Self::value)?;
        self.sign(",")?;
        let k = self.operand("k", Self::value)?;
        let accumulate = self.takes(Token::Sign(","))?;
        if accumulate {
            self.keyword("accumulate")?;
        }
        Ok(PanelDot { x, x_row, x_k, w, w_panel, out, out_row, rows, panels, k, accumulate })
    }

    fn mma(&mut self) -> Result<Mma, ParseError> {
        let acc = self.acc()?;
        self.sign(",")?;
        let a = self.operand("a", Self::place)?;
        let a_row = self.stride("row")?;
        self.sign(",")?;
        let b = self.operand("b", Self::place)?;
        let b_columns = self.takes_word("column")?;
        let b_row = if b_columns { self.value()? } else { self.stride("row")? };
        self.sign(",")?;
        let k = self.operand("k", |p| p.number("a number of products"))?;
        Ok(Mma { acc, a, a_row, b, b_row, b_columns, k })
    }

    /// What `mma_load` and `mma_store` name.
    fn matrix(&mut self) -> Result<(Acc, Place, Value), ParseError> {
        let acc = self.acc()?;
        self.sign(",")?;
        let at = self.place()?;
        Ok((acc, at, self.stride("row")?))
    }

    fn acc(&mut self) -> Result<Acc, ParseError> {
        let line = self.line;
        let name = self.word("an accumulator")?;
        match self.sums.get(name) {
            Some(&acc) => Ok(acc),
            None => Err(ParseError::UnknownAccumulator { line, name: shortened(name) }),
        }
    }

    fn reduction(&mut self) -> Result<ReduceOp, ParseError> {
        self.one_of("`sum`, `min` or `max`", ReduceOp::from_name)
    }

    /// `name = …`
    fn operand<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&mut Self) -> Result<T, ParseError>,
    ) -> Result<T, ParseError> {
        self.keyword(name)?;
        self.sign("=")?;
        read(self)
    }

    fn stride(&mut self, name: &'static str) -> Result<Value, ParseError> {
        self.keyword(name)?;
        self.value()
    }

    fn place(&mut self) -> Result<Place, ParseError> {
        let line = self.line;
        let name = self.word("a parameter or shared array")?;
        let Some(&mem) = self.memories.get(name) else {
            return Err(ParseError::UnknownMemory { line, name: shortened(name) });
        };
        let first = self.index()?;
        match mem {
            Mem::Param(p) if self.token == Token::Sign("[") => {
                Ok(Place { mem: Mem::Entry(p, first), index: self.index()? })
            }
            _ => Ok(Place { mem, index: first }),
        }
    }

    fn index(&mut self) -> Result<Value, ParseError> {
        self.sign("[")?;
        let index = self.value()?;
        self.sign("]")?;
        Ok(index)
    }

    fn literal(&mut self, scalar: Scalar) -> Result<Literal, ParseError> {
        let text = match self.token {
            Token::Word(text) | Token::Number(text) => text,
            Token::Value(_) | Token::Sign(_) | Token::End => "",
        };
        let (literal, expected) = match scalar {
            Scalar::F32 => {
                let value = match text.strip_prefix("0x") {
                    Some(bits) => u32::from_str_radix(bits, 16).ok().map(f32::from_bits),
                    None => text.parse().ok(),
                };
                (value.map(Literal::F32), "an `f32`, or its bits after `0x`")
            }
            Scalar::I32 => (text.parse().ok().map(Literal::I32), "an `i32`"),
            Scalar::Bool => (text.parse().ok().map(Literal::Bool), "`true` or `false`"),
        };
        let literal = literal.ok_or_else(|| self.unexpected(expected))?;
        self.next()?;
        Ok(literal)
    }

    fn two(&mut self) -> Result<(Value, Value), ParseError> {
        let a = self.value()?;
        self.sign(",")?;
        Ok((a, self.value()?))
    }

    fn three(&mut self) -> Result<(Value, Value, Value), ParseError> {
        let (a, b) = self.two()?;
        self.sign(",")?;
        Ok((a, b, self.value()?))
    }

    /// `%7: f32`
    fn definition(&mut self) -> Result<(Value, Type), ParseError> {
        let line = self.line;
        let value = self.value()?;
        self.sign(":")?;
        let ty = self.one_of("a type", Type::from_name)?;
        match self.types.insert(value.0, ty) {
            None => Ok((value, ty)),
            Some(_) => Err(ParseError::Redefined { line, value }),
        }
    }

    fn dtype(&mut self) -> Result<DType, ParseError> {
        self.one_of("an element type", |word| word.parse().ok())
    }

    fn list<T>(
        &mut self,
        read: impl Fn(&mut Self) -> Result<T, ParseError>,
    ) -> Result<Vec<T>, ParseError> {
        let mut items = vec![read(self)?];
        while self.takes(Token::Sign(","))? {
            items.push(read(self)?);
        }
        Ok(items)
    }

    fn value(&mut self) -> Result<Value, ParseError> {
        let Token::Value(v) = self.token else {
            return Err(self.unexpected("a value"));
        };
        self.next()?;
        Ok(Value(v))
    }

    fn number<N: FromStr>(&mut self, expected: &'static str) -> Result<N, ParseError> {
        let Token::Number(text) = self.token else {
            return Err(self.unexpected(expected));
        };
        let number = text.parse().map_err(|_| self.unexpected(expected))?;
        self.next()?;
        Ok(number)
    }

    fn one_of<T>(
        &mut self,
        expected: &'static str,
        from_name: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ParseError> {
        let Token::Word(word) = self.token else {
            return Err(self.unexpected(expected));
        };
        let found = from_name(word).ok_or_else(|| self.unexpected(expected))?;
        self.next()?;
        Ok(found)
    }

    fn word(&mut self, expected: &'static str) -> Result<&'t str, ParseError> {
        let Token::Word(word) = self.token else {
            return Err(self.unexpected(expected));
        };
        self.next()?;
        Ok(word)
    }

    fn keyword(&mut self, word: &'static str) -> Result<(), ParseError> {
        match self.takes(Token::Word(word))? {
            true => Ok(()),
            false => Err(self.unexpected(word)),
        }
    }

    fn sign(&mut self, sign: &'static str) -> Result<(), ParseError> {
        match self.takes(Token::Sign(sign))? {
            true => Ok(()),
            false => Err(self.unexpected(sign)),
        }
    }

    fn takes_word(&mut self, word: &'static str) -> Result<bool, ParseError> {
        self.takes(Token::Word(word))
    }

    fn takes(&mut self, token: Token<'static>) -> Result<bool, ParseError> {
        let found = self.token == token;
        if found {
            self.next()?;
        }
        Ok(found)
    }

    fn unexpected(&self, expected: &'static str) -> ParseError {
        let found = match self.token {
            Token::Word(text) | Token::Number(text) | Token::Sign(text) => quoted(text),
            Token::Value(v) => quoted(&Value(v).to_string()),
            Token::End => "the end of the text".to_string(),
        };
        ParseError::Unexpected { line: self.line, found, expected }
    }

    /// Move to the next token.
    fn next(&mut self) -> Result<(), ParseError> {
        loop {
            let trimmed = self.rest.trim_start();
            let skipped = &self.rest[..self.rest.len() - trimmed.len()];
            self.line += skipped.matches('\n').count();
            self.rest = trimmed;
            match self.rest.strip_prefix("//") {
                Some(_) => {
                    self.rest = &self.rest[self.rest.find('\n').unwrap_or(self.rest.len())..]
                }
                None => break,
            }
        }
        let Some(first) = self.rest.chars().next() else {
            self.token = Token::End;
            return Ok(());
        };
        let text = self.rest;
        let run = |more: fn(char) -> bool| {
            let tail = text[first.len_utf8()..].find(|c| !more(c));
            &text[..tail.map_or(text.len(), |n| n + first.len_utf8())]
        };
        let (token, taken) = match first {
            'a'..='z' | 'A'..='Z' | '_' => {
                let word = run(|c| c.is_ascii_alphanumeric() || c == '_');
                (Some(Token::Word(word)), word)
            }
            '0'..='9' | '-' => {
                let number = number_at(text);
                (Some(Token::Number(number)), number)
            }
            '%' => {
                let value = run(|c| c.is_ascii_digit());
                (value[1..].parse().ok().map(Token::Value), value)
            }
            ':' | ',' | '=' | '[' | ']' | '{' | '}' => (Some(Token::Sign(&text[..1])), &text[..1]),
            '.' if text.starts_with("..") => (Some(Token::Sign("..")), ".."),
            _ => (None, &text[..first.len_utf8()]),
        };
        let Some(token) = token else {
            let (line, found) = (self.line, quoted(taken));
            return Err(ParseError::Unexpected { line, found, expected: "a part of a kernel" });
        };
        self.token = token;
        self.rest = &text[taken.len()..];
        Ok(())
    }
}

/// Letters, digits and dots, and signs before them and in exponents.
fn number_at(text: &str) -> &str {
    let mut before = 'e';
    let end = text.find(|c: char| {
        let part = c.is_ascii_alphanumeric()
            || c == '.'
            || matches!(c, '-' | '+') && matches!(before, 'e' | 'E');
        before = c;
        !part
    });
    &text[..end.unwrap_or(text.len())]
}

fn quoted(text: &str) -> String {
    format!("`{}`", shortened(text))
}

fn shortened(text: &str) -> String {
    const MOST: usize = 40;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}
