//! Tokens to a module. Directives that only inform debuggers or `ptxas` are read over.

use crate::ast::{Ast, Function, Init, Inst, Operand, Param, Stmt, Variable};
use crate::error::Error;
use crate::lex::{Kind, Token, tokens};
use crate::types::{Space, Ty};

/// Blocks within blocks: far more than compilers nest, and few enough for any stack.
const DEEPEST: u32 = 24;
/// No variable is larger than this, in bytes.
const LARGEST: u64 = 1 << 28;

pub(crate) fn parse(text: &str) -> Result<Ast, Error> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0 };
    let mut ast = Ast::default();
    while parser.at < parser.tokens.len() {
        parser.top(&mut ast)?;
    }
    if ast.target.is_empty() {
        return Err(Error::Parse {
            line: 1,
            message: "no `.target`: this is no PTX module".into(),
        });
    }
    Ok(ast)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

type Parsed<T> = Result<T, Error>;

impl Parser {
    fn top(&mut self, ast: &mut Ast) -> Parsed<()> {
        let mut external = false;
        loop {
            let word = self.word("a directive")?;
            match word.as_str() {
                ".version" => {
                    self.next();
                    return Ok(());
                }
                ".target" => {
                    ast.target = self.word("an architecture")?;
                    while self.eat(',') {
                        self.word("a target option")?;
                    }
                    return Ok(());
                }
                ".address_size" => {
                    let size = self.int()?;
                    return if size == 64 {
                        Ok(())
                    } else {
                        Err(self.error("addresses of other than 64 bits"))
                    };
                }
                ".visible" | ".weak" | ".common" => {}
                ".extern" => external = true,
                ".section" => {
                    self.next();
                    return self.skip_braces();
                }
                ".pragma" | ".alias" => {
                    while !self.eat(';') {
                        self.some("`;`")?;
                    }
                    return Ok(());
                }
                ".entry" | ".func" => {
                    ast.functions.push(self.function(word == ".entry")?);
                    return Ok(());
                }
                ".global" | ".const" | ".shared" => {
                    let space = Space::parse(&word[1..]).expect("matched above");
                    ast.variables.extend(self.variables(space, external)?);
                    return Ok(());
                }
                other => return Err(self.before(format!("unknown directive `{other}`"))),
            }
        }
    }

    fn function(&mut self, entry: bool) -> Parsed<Function> {
        let line = self.line();
        let returns = if !entry && self.peek_is('(') { self.params()? } else { vec![] };
        let name = self.word("a name")?;
        let params = if self.peek_is('(') { self.params()? } else { vec![] };
        let mut function =
            Function { entry, name, params, returns, body: None, required: None, most: None, line };
        loop {
            if self.eat(';') {
                return Ok(function);
            }
            if self.eat('{') {
                function.body = Some(self.body(0)?);
                return Ok(function);
            }
            let word = self.word("`{`")?;
            match word.as_str() {
                ".reqntid" => function.required = Some(self.extents()?),
                ".maxntid" => {
                    let [x, y, z] = self.extents()?;
                    function.most = u64::from(x)
                        .checked_mul(u64::from(y))
                        .and_then(|n| n.checked_mul(z.into()));
                }
                ".minnctapersm" | ".maxnreg" | ".maxnctapersm" | ".maxclusterrank" => {
                    self.int()?;
                }
                ".reqnctapercluster" => {
                    self.extents()?;
                }
                ".noreturn" | ".explicitcluster" | ".blocksareclusters" => {}
                ".pragma" => {
                    while !self.eat(';') {
                        self.some("`;`")?;
                    }
                }
                other => return Err(self.before(format!("unknown directive `{other}`"))),
            }
        }
    }

    fn extents(&mut self) -> Parsed<[u32; 3]> {
        let mut out = [1; 3];
        for (i, extent) in out.iter_mut().enumerate() {
            if i > 0 && !self.eat(',') {
                break;
            }
            *extent = u32::try_from(self.int()?).map_err(|_| self.before("an extent too large"))?;
        }
        Ok(out)
    }

    fn params(&mut self) -> Parsed<Vec<Param>> {
        self.expect('(')?;
        let mut out = vec![];
        while !self.eat(')') {
            if !out.is_empty() {
                self.expect(',')?;
            }
            let mut align = 0;
            let mut ty = None;
            let mut register = false;
            let name = loop {
                let word = self.word("a parameter")?;
                match word.as_str() {
                    ".param" | ".ptr" | ".global" | ".const" | ".shared" | ".local"
                    | ".volatile" | ".restrict" => {}
                    ".reg" => register = true,
                    ".align" => {
                        let given = self.align()?;
                        // `.ptr .align` speaks of what is pointed to.
                        if ty.is_none() {
                            align = given;
                        }
                    }
                    word if word.starts_with('.') => ty = Some(self.ty(word)?),
                    _ => break word,
                }
            };
            let ty = ty.ok_or_else(|| self.before("a parameter without a type"))?;
            let mut bytes = ty.bytes();
            if self.eat('[') {
                bytes = self.extent(bytes)?;
            }
            let align = align.max(ty.bytes()).max(1);
            out.push(Param { name, bytes, align, register: register.then_some(ty) });
        }
        Ok(out)
    }

    /// The rest of `[n]`, times `bytes`; 0 for `[]`.
    fn extent(&mut self, bytes: u64) -> Parsed<u64> {
        if self.eat(']') {
            return Ok(0);
        }
        let count = self.int()?;
        self.expect(']')?;
        let total = count.checked_mul(bytes).filter(|total| *total <= LARGEST);
        total.ok_or_else(|| self.before("a variable too large"))
    }

    fn variables(&mut self, space: Space, external: bool) -> Parsed<Vec<Variable>> {
        let mut align = 0;
        let mut lanes = 1;
        let ty = loop {
            let word = self.word("a type")?;
            match word.as_str() {
                ".align" => align = self.align()?,
                ".v2" => lanes = 2,
                ".v4" => lanes = 4,
                ".attribute" => return Err(self.before("attributes are not known")),
                word => break self.ty(word)?,
            }
        };
        let mut out = vec![];
        loop {
            let line = self.line();
            let name = self.word("a name")?;
            let mut bytes = ty.bytes() * lanes;
            while self.eat('[') {
                bytes = self.extent(bytes)?;
            }
            let init = if self.eat('=') { self.init(ty)? } else { vec![] };
            let given: u64 = init
                .iter()
                .map(|i| match i {
                    Init::Bytes(b) => b.len() as u64,
                    Init::Address { bytes, .. } => *bytes as u64,
                })
                .sum();
            if bytes == 0 && given > 0 {
                bytes = given;
            }
            if given > bytes {
                return Err(
                    self.before(format!("`{name}` has {bytes} bytes, but {given} are given"))
                );
            }
            out.push(Variable {
                space,
                name,
                align: align.max(ty.bytes()).max(1),
                bytes,
                init,
                external,
                line,
            });
            if self.eat(';') {
                return Ok(out);
            }
            self.expect(',')?;
        }
    }

    fn init(&mut self, ty: Ty) -> Parsed<Vec<Init>> {
        if self.peek_is('{') {
            let mut out = vec![];
            let mut depth = 0;
            loop {
                if self.eat('{') {
                    depth += 1;
                } else if self.eat('}') {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(out);
                    }
                } else if !self.eat(',') {
                    self.value(ty, &mut out)?;
                }
            }
        }
        let mut out = vec![];
        self.value(ty, &mut out)?;
        Ok(out)
    }

    fn value(&mut self, ty: Ty, out: &mut Vec<Init>) -> Parsed<()> {
        let bytes = ty.bytes() as usize;
        let mut operand = self.operand()?;
        if operand == Operand::Name("generic".into()) && self.eat('(') {
            operand = self.operand()?;
            self.expect(')')?;
        }
        let bits = match operand {
            Operand::Int(v) => v as u64,
            Operand::F32(v) if ty == Ty::F64 => f64::from(f32::from_bits(v)).to_bits(),
            Operand::F32(v) => u64::from(v),
            Operand::F64(v) if ty == Ty::F32 => u64::from((f64::from_bits(v) as f32).to_bits()),
            Operand::F64(v) => v,
            Operand::Name(symbol) => {
                out.push(Init::Address { symbol, addend: 0, bytes });
                return Ok(());
            }
            Operand::Sum(symbol, addend) => {
                out.push(Init::Address { symbol, addend, bytes });
                return Ok(());
            }
            _ => return Err(self.before("expected a value")),
        };
        let bits = bits.to_le_bytes();
        let bits = bits.get(..bytes).ok_or_else(|| self.before("values of this type"))?;
        match out.last_mut() {
            Some(Init::Bytes(last)) => last.extend_from_slice(bits),
            _ => out.push(Init::Bytes(bits.to_vec())),
        }
        Ok(())
    }

    /// Statements up to the closing brace.
    fn body(&mut self, depth: u32) -> Parsed<Vec<Stmt>> {
        if depth > DEEPEST {
            return Err(self.before("blocks nested too deep"));
        }
        let mut out = vec![];
        loop {
            if self.eat('}') {
                return Ok(out);
            }
            if self.eat('{') {
                out.push(Stmt::Block(self.body(depth + 1)?));
                continue;
            }
            if self.eat(';') {
                continue;
            }
            let line = self.line();
            if self.eat('@') {
                let negated = self.eat('!');
                let guard = self.word("a predicate")?;
                let name = self.word("an instruction")?;
                out.push(Stmt::Inst(self.inst(line, Some((guard, negated)), name)?));
                continue;
            }
            let word = self.word("a statement or `}`")?;
            match word.as_str() {
                ".reg" => out.push(self.registers()?),
                ".local" | ".shared" | ".param" | ".global" | ".const" => {
                    let space = Space::parse(&word[1..]).expect("matched above");
                    out.extend(self.variables(space, false)?.into_iter().map(Stmt::Variable));
                }
                ".pragma" => {
                    while !self.eat(';') {
                        self.some("`;`")?;
                    }
                }
                ".section" => {
                    self.next();
                    self.skip_braces()?;
                }
                word if word.starts_with('.') => {
                    return Err(self.before(format!("unknown directive `{word}`")));
                }
                _ if self.eat(':') => out.push(self.label(word)?),
                _ => out.push(Stmt::Inst(self.inst(line, None, word)?)),
            }
        }
    }

    fn label(&mut self, name: String) -> Parsed<Stmt> {
        match self.peek() {
            Some(Kind::Word(next)) if next == ".branchtargets" => {
                self.next();
                let mut targets = vec![self.word("a label")?];
                while self.eat(',') {
                    targets.push(self.word("a label")?);
                }
                self.expect(';')?;
                Ok(Stmt::Targets(name, targets))
            }
            Some(Kind::Word(next)) if next == ".callprototype" || next == ".calltargets" => {
                while !self.eat(';') {
                    self.some("`;`")?;
                }
                Ok(Stmt::Label(name))
            }
            _ => Ok(Stmt::Label(name)),
        }
    }

    fn registers(&mut self) -> Parsed<Stmt> {
        let mut word = self.word("a type")?;
        if word == ".v2" || word == ".v4" {
            return Err(self.before("registers that are vectors"));
        }
        if word == ".align" {
            self.align()?;
            word = self.word("a type")?;
        }
        let ty = self.ty(&word)?;
        let mut names = vec![];
        loop {
            let name = self.word("a register")?;
            let count = if self.eat('<') {
                let count = self.int()?;
                self.expect('>')?;
                Some(u32::try_from(count).map_err(|_| self.before("too many registers"))?)
            } else {
                None
            };
            names.push((name, count));
            if self.eat(';') {
                return Ok(Stmt::Registers { ty, names });
            }
            self.expect(',')?;
        }
    }

    fn inst(&mut self, line: u32, guard: Option<(String, bool)>, name: String) -> Parsed<Inst> {
        let mut operands = vec![];
        while !self.eat(';') {
            if !operands.is_empty() {
                self.expect(',')?;
            }
            let operand = if self.eat('(') {
                let mut group = vec![];
                while !self.eat(')') {
                    if !group.is_empty() {
                        self.expect(',')?;
                    }
                    group.push(self.operand()?);
                }
                Operand::Group(group)
            } else {
                self.operand()?
            };
            operands.push(operand);
        }
        Ok(Inst { line, guard, name, operands })
    }

    fn operand(&mut self) -> Parsed<Operand> {
        if self.eat('[') {
            let address = match self.operand()? {
                Operand::Name(name) => Operand::Address(Some(name), 0),
                Operand::Sum(name, offset) => Operand::Address(Some(name), offset),
                Operand::Int(offset) => Operand::Address(None, offset as i64),
                _ => return Err(self.before("expected an address")),
            };
            self.expect(']')?;
            return Ok(address);
        }
        if self.eat('{') {
            let mut out = vec![];
            while !self.eat('}') {
                if !out.is_empty() {
                    self.expect(',')?;
                }
                out.push(self.scalar()?);
            }
            return Ok(Operand::Vector(out));
        }
        let first = self.scalar()?;
        if self.eat('|') {
            return Ok(Operand::Pair(first.into(), self.scalar()?.into()));
        }
        Ok(first)
    }

    fn scalar(&mut self) -> Parsed<Operand> {
        if self.eat('!') {
            return Ok(Operand::Not(self.word("a predicate")?));
        }
        let mut negative = false;
        while self.eat('-') {
            negative = !negative;
        }
        let token = self.some("an operand")?;
        Ok(match token {
            Kind::Word(name) if !negative => {
                let sign = if self.eat('+') {
                    1
                } else if self.eat('-') {
                    -1
                } else {
                    return Ok(Operand::Name(name));
                };
                let minus = if self.eat('-') { -sign } else { sign };
                let offset = self.int()? as i64;
                Operand::Sum(name, offset.wrapping_mul(minus))
            }
            Kind::Int(v) => Operand::Int(if negative { -i128::from(v) } else { v.into() }),
            Kind::F32(v) => Operand::F32(if negative { v ^ 1 << 31 } else { v }),
            Kind::F64(v) => Operand::F64(if negative { v ^ 1 << 63 } else { v }),
            _ => return Err(self.before("expected an operand")),
        })
    }

    fn ty(&self, word: &str) -> Parsed<Ty> {
        let ty = word.strip_prefix('.').and_then(Ty::parse);
        ty.ok_or_else(|| self.before(format!("unknown type `{word}`")))
    }

    fn align(&mut self) -> Parsed<u64> {
        let align = self.int()?;
        if align.is_power_of_two() && align <= 4096 {
            Ok(align)
        } else {
            Err(self.before("an alignment that is no power of two up to 4096"))
        }
    }

    fn skip_braces(&mut self) -> Parsed<()> {
        self.expect('{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.some("`}`")? {
                Kind::Punct('{') => depth += 1,
                Kind::Punct('}') => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    fn peek(&self) -> Option<&Kind> {
        self.tokens.get(self.at).map(|t| &t.kind)
    }

    fn peek_is(&self, c: char) -> bool {
        self.peek() == Some(&Kind::Punct(c))
    }

    fn next(&mut self) -> Option<Kind> {
        let kind = self.peek().cloned();
        self.at += 1;
        kind
    }

    fn some(&mut self, what: &str) -> Parsed<Kind> {
        self.next().ok_or_else(|| self.before(format!("the text ends where {what} was expected")))
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.peek_is(c);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, c: char) -> Parsed<()> {
        if self.eat(c) { Ok(()) } else { Err(self.error(format!("expected `{c}`"))) }
    }

    fn word(&mut self, what: &str) -> Parsed<String> {
        match self.peek() {
            Some(Kind::Word(word)) => {
                let word = word.clone();
                self.at += 1;
                Ok(word)
            }
            _ => Err(self.error(format!("expected {what}"))),
        }
    }

    fn int(&mut self) -> Parsed<u64> {
        match self.peek() {
            Some(&Kind::Int(value)) => {
                self.at += 1;
                Ok(value)
            }
            _ => Err(self.error("expected an integer")),
        }
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |t| t.line)
    }

    /// An error at the token that comes next.
    fn error(&self, message: impl Into<String>) -> Error {
        let found = match self.peek() {
            None => "the end of the text".to_owned(),
            Some(Kind::Word(word)) => format!("`{word}`"),
            Some(Kind::Int(value)) => format!("`{value}`"),
            Some(Kind::F32(_) | Kind::F64(_)) => "a float".to_owned(),
            Some(Kind::Text) => "a string".to_owned(),
            Some(Kind::Punct(c)) => format!("`{c}`"),
        };
        Error::Parse { line: self.line(), message: format!("{}, found {found}", message.into()) }
    }

    /// An error at the token just read.
    fn before(&self, message: impl Into<String>) -> Error {
        let at = self.at.saturating_sub(1);
        let line = self.tokens.get(at).or(self.tokens.last()).map_or(1, |t| t.line);
        Error::Parse { line, message: message.into() }
    }
}
