//! The reader: a line at a time.

use super::cursor::Cursor;
use super::print::{LAYOUTS, TRANSFORMS};
use crate::graph::{
    Entry, Graph, Node, Part, Port, Program, State, StateId, Type, Value, Weight, WeightId,
};
use crate::op::Op;
use q35_types::{DType, Dim};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

const PORTS: [Port; 10] = [
    Port::Ids,
    Port::Positions,
    Port::Rows,
    Port::Hidden,
    Port::Rope,
    Port::Logits,
    Port::ValidIds,
    Port::Likeliest,
    Port::Candidates,
    Port::CandidateLogits,
];

/// Text that is no graph, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {problem}")]
pub struct ParseError {
    pub file: String,
    /// From 1.
    pub line: usize,
    pub problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("found {found}, expected {expected}")]
    Expected { expected: &'static str, found: String },

    /// What [`Op::parse`] found, or an attribute that is none or stands twice.
    #[error("{0}")]
    Op(String),

    /// Tables are written in order.
    #[error("found `{found}`, expected `{expected}`, the next in order")]
    Order { expected: String, found: String },

    #[error("there is no block `{0}`")]
    Block(String),
}

/// Read one block. `file` is for the error.
pub fn graph(file: &str, text: &str) -> Result<Graph, ParseError> {
    Reader::new(file, text).graph()
}

/// Read a program and its blocks. `file` is for the error.
pub fn program(file: &str, text: &str) -> Result<Program, ParseError> {
    Reader::new(file, text).program()
}

struct Reader<'a> {
    file: &'a str,
    /// Lines that are not blank, with their numbers; the end is after the last.
    lines: Vec<(usize, &'a str)>,
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(file: &'a str, text: &'a str) -> Self {
        let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
        Reader { file, lines: lines.collect(), at: 0 }
    }

    fn graph(mut self) -> Result<Graph, ParseError> {
        let result = self.block().and_then(|g| self.end().map(|()| g));
        result.map_err(|problem| self.error(problem))
    }

    fn program(mut self) -> Result<Program, ParseError> {
        self.whole_program().map_err(|problem| self.error(problem))
    }

    fn error(&self, problem: Problem) -> ParseError {
        let line = self.lines.get(self.at).or(self.lines.last()).map_or(1, |(n, _)| *n);
        ParseError { file: self.file.into(), line, problem }
    }

    /// The current line, if it begins with `word`, after that word.
    fn keyword(&self, word: &str) -> Option<Cursor<'a>> {
        let mut line = self.cursor();
        (line.word("").ok()? == word).then_some(line)
    }

    fn cursor(&self) -> Cursor<'a> {
        Cursor::new(self.lines.get(self.at).map_or("", |(_, line)| line))
    }

    fn end(&self) -> Result<(), Problem> {
        match self.lines.get(self.at) {
            None => Ok(()),
            Some(_) => Err(self.cursor().expected("a weight, a state, a node or the end")),
        }
    }

    fn whole_program(&mut self) -> Result<Program, Problem> {
        let mut line =
            self.keyword("program").ok_or_else(|| self.cursor().expected("`program`"))?;
        let entries =
            [Entry::Prefill, Entry::Decode, Entry::Head, Entry::Greedy, Entry::Candidates];
        let entries = entries.map(|e| (e, e.name()));
        let entry = line.name(&entries, "`prefill`, `decode`, `head`, `greedy` or `candidates`")?;
        line.end()?;
        self.at += 1;

        let mut runs = vec![];
        while let Some(mut line) = self.keyword("run") {
            let name = line.word("a block")?;
            let attributes = Attributes::read(&mut line)?;
            let layer = match attributes.0.contains_key("layer") {
                true => Some(attributes.only(&["layer"])?.get("layer")?),
                false => attributes.only(&[]).map(|_| None)?,
            };
            line.end()?;
            runs.push((self.at, name, layer));
            self.at += 1;
        }
        let mut blocks = vec![];
        while self.at < self.lines.len() {
            blocks.push(self.block()?);
        }
        let mut index = BTreeMap::new();
        for (i, block) in blocks.iter().enumerate() {
            index.entry(block.name.as_str()).or_insert(i);
        }
        let mut sequence = vec![];
        for (at, name, layer) in runs {
            let Some(&i) = index.get(name) else {
                self.at = at;
                return Err(Problem::Block(name.into()));
            };
            sequence.push((i, layer));
        }
        Ok(Program { entry, blocks, sequence })
    }

    fn block(&mut self) -> Result<Graph, Problem> {
        let mut line = self.keyword("block").ok_or_else(|| self.cursor().expected("`block`"))?;
        let mut graph = Graph::new(line.word("a name")?);
        line.end()?;
        self.at += 1;
        while self.at < self.lines.len() {
            let mut line = self.cursor();
            let id = line.word("a weight, a state, a node, `return` or `block`")?;
            match id.as_bytes()[0] {
                _ if id == "block" => break,
                _ if id == "return" => {
                    graph.outputs = outputs(&mut line)?;
                    self.at += 1;
                    break;
                }
                b'w' => {
                    in_order(id, WeightId(graph.weights.len() as u32))?;
                    graph.weights.push(weight(&mut line)?);
                    self.at += 1;
                    graph.weights.last_mut().expect("just pushed").recipes = self.recipes()?;
                }
                b's' => {
                    in_order(id, StateId(graph.states.len() as u32))?;
                    graph.states.push(state(&mut line)?);
                    self.at += 1;
                }
                b'%' => {
                    in_order(id, Value(graph.nodes.len() as u32))?;
                    graph.nodes.push(node(&mut line)?);
                    self.at += 1;
                }
                _ => {
                    return Err(self.cursor().expected("a weight, a state, a node or `return`"));
                }
            }
        }
        Ok(graph)
    }

    fn recipes(&mut self) -> Result<Vec<Vec<Part>>, Problem> {
        let mut recipes = vec![];
        while let Some(line) = self.keyword("recipe") {
            line.end()?;
            self.at += 1;
            let mut parts = vec![];
            loop {
                let mut line = self.cursor();
                parts.push(match line.word("a part") {
                    Ok("rows") => rows(&mut line)?,
                    Ok("zeros") => zeros(&mut line)?,
                    Ok("values") => values(&mut line)?,
                    _ => break,
                });
                self.at += 1;
            }
            recipes.push(parts);
        }
        Ok(recipes)
    }
}

fn in_order(found: &str, expected: impl Display) -> Result<(), Problem> {
    let expected = expected.to_string();
    if found == expected { Ok(()) } else { Err(Problem::Order { expected, found: found.into() }) }
}

/// ` hidden %9, rope %2`
fn outputs(line: &mut Cursor<'_>) -> Result<Vec<(Port, Value)>, Problem> {
    let mut outputs = vec![];
    loop {
        let port = line.name(&PORTS.map(|port| (port, port.name())), "a port")?;
        outputs.push((port, line.parse("a value")?));
        if !line.eat(',') {
            return line.end().map(|()| outputs);
        }
    }
}

/// `: bf16[64] rows "name"`
fn weight(line: &mut Cursor<'_>) -> Result<Weight, Problem> {
    line.mark(':', "`:`")?;
    let at = line.expected("a fixed type of 1 to 3 axes");
    let ty = ty(line)?;
    let fixed: Option<Vec<u32>> = ty.shape.iter().map(|dim| dim.fixed()).collect();
    let (experts, rows, cols) = match fixed.as_deref() {
        Some(&[cols]) => (None, 1, cols),
        Some(&[rows, cols]) => (None, rows, cols),
        Some(&[experts, rows, cols]) => (Some(experts), rows, cols),
        _ => return Err(at),
    };
    let layout = line.name(&LAYOUTS, "`rows`, `columns` or `panels`")?;
    let name = line.string()?;
    line.end()?;
    let vector = ty.shape.len() == 1;
    Ok(Weight { name, dtype: ty.dtype, experts, rows, cols, vector, layout, recipes: vec![] })
}

/// ` "tensor" [128, 64] {first: 0, ..}`
fn rows(line: &mut Cursor<'_>) -> Result<Part, Problem> {
    let tensor = line.string()?;
    let shape = line.list(|line| line.parse("a size"))?;
    let at = line.expected("a transform");
    let all = Attributes::read(line)?.only(&["first", "rows", "per_expert", "transform"])?;
    let transform = all.get::<String>("transform")?;
    let known = TRANSFORMS.iter().find(|(_, name)| *name == transform);
    let (first, rows, per_expert) = (all.get("first")?, all.get("rows")?, all.get("per_expert")?);
    let transform = known.ok_or(at)?.0;
    line.end()?;
    Ok(Part::Rows { tensor, shape, first, per_expert, rows, transform })
}

fn zeros(line: &mut Cursor<'_>) -> Result<Part, Problem> {
    let all = Attributes::read(line)?.only(&["rows"])?;
    line.end()?;
    Ok(Part::Zeros { rows: all.get("rows")? })
}

/// ` [1.0, 0.5]`
fn values(line: &mut Cursor<'_>) -> Result<Part, Problem> {
    let bits = line.list(|line| {
        let at = line.expected("a finite number");
        let value = line.parse("a finite number").ok().filter(|v: &f32| v.is_finite());
        value.map(f32::to_bits).ok_or(at)
    })?;
    line.end()?;
    Ok(Part::Values { bits })
}

/// `: conv {taps: 4, channels: 256}`
fn state(line: &mut Cursor<'_>) -> Result<State, Problem> {
    line.mark(':', "`:`")?;
    let at = line.expected("`conv`, `delta` or `kv`");
    let kind = line.word("`conv`, `delta` or `kv`")?;
    let all = Attributes::read(line)?;
    line.end()?;
    match kind {
        "conv" => {
            let all = all.only(&["taps", "channels"])?;
            Ok(State::Conv { taps: all.get("taps")?, channels: all.get("channels")? })
        }
        "delta" => {
            let all = all.only(&["heads", "dk", "dv"])?;
            Ok(State::Delta { heads: all.get("heads")?, dk: all.get("dk")?, dv: all.get("dv")? })
        }
        "kv" => {
            let all = all.only(&["dtype", "heads", "head_dim"])?;
            let (heads, head_dim) = (all.get("heads")?, all.get("head_dim")?);
            Ok(State::Kv { dtype: all.get("dtype")?, heads, head_dim })
        }
        _ => Err(at),
    }
}

/// `: bf16[T, 192] = swiglu %0, %1 {width: 64, up: 64}`
fn node(line: &mut Cursor<'_>) -> Result<Node, Problem> {
    line.mark(':', "`:`")?;
    let ty = ty(line)?;
    line.mark('=', "`=`")?;
    let name = line.word("an op")?;
    let mut operands = vec![];
    if let Ok(first) = line.parse("a value") {
        operands.push(first);
        while line.eat(',') {
            operands.push(line.parse("a value")?);
        }
    }
    let attributes = line.attributes()?;
    line.end()?;
    let op = Op::parse(name, &attributes).map_err(Problem::Op)?;
    Ok(Node { op, operands, ty })
}

/// `bf16[T, 64]`
fn ty(line: &mut Cursor<'_>) -> Result<Type, Problem> {
    let dtype: DType = line.parse("`f32`, `f16`, `bf16` or `i32`")?;
    let shape = line.list(|line| {
        let at = line.expected("a size, `T`, `R` or `2T+3`");
        dim(line.word("a size")?).ok_or(at)
    })?;
    Ok(Type { dtype, shape })
}

fn dim(word: &str) -> Option<Dim> {
    match word {
        "T" => Some(Dim::Tokens),
        "R" => Some(Dim::Rows),
        _ => match word.split_once("T+") {
            Some((times, plus)) => {
                Some(Dim::PerToken { times: number(times)?, plus: number(plus)? })
            }
            None => number(word).map(Dim::Fixed),
        },
    }
}

/// Digits; Rust would take a sign too.
fn number(digits: &str) -> Option<u32> {
    digits.parse().ok().filter(|_| digits.starts_with(|c: char| c.is_ascii_digit()))
}

struct Attributes<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Attributes<'a> {
    fn read(line: &mut Cursor<'a>) -> Result<Self, Problem> {
        line.attributes().map(Attributes)
    }

    fn only(self, known: &[&str]) -> Result<Self, Problem> {
        match self.0.keys().find(|name| !known.contains(name)) {
            Some(extra) => Err(Problem::Op(format!("there is no attribute `{extra}` here"))),
            None => Ok(self),
        }
    }

    fn get<T: FromStr>(&self, name: &str) -> Result<T, Problem> {
        let text = self.0.get(name);
        let text = text.ok_or_else(|| Problem::Op(format!("attribute `{name}` is missing")))?;
        text.parse().map_err(|_| Problem::Op(format!("attribute `{name}` is {text}")))
    }
}
