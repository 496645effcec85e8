//! What the runtime takes for granted of an artifact.
//!
//! The runtime indexes, multiplies and allocates by the numbers in an artifact without looking
//! twice. So everything that it relies on is checked here, once, when the file is read: indices,
//! sizes and the sums of sizes, what is bound to what, and which names exist. What is left is
//! the code itself, which only its maker can vouch for.

mod manifest;
mod plan;

use crate::{Artifact, ModelFacts, Plan, TargetSection};
use q35_types::DType;
use q35_types::step::PAGE;
use std::collections::HashSet;
use std::fmt;

/// No memory that one name stands for is larger (1 TiB), and no sum of them above 64 TiB.
const MAX_BYTES: u64 = 1 << 40;
const MAX_TOTAL: u64 = 1 << 46;
/// No size of an axis, count of ids or number of tokens is larger.
const MAX_COUNT: u64 = 1 << 28;
/// No model is deeper.
const MAX_LAYERS: u64 = 1 << 12;

/// Something that an artifact gets wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("section `{section}`: `{place}` {fault}")]
pub struct CheckError {
    pub section: String,
    /// The path of the value, such as `entries[0].blocks[1].launches[2].args[3]`.
    pub place: String,
    pub fault: Fault,
}

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("is missing")]
    Missing,
    #[error("is empty")]
    Empty,
    #[error("is there twice")]
    Duplicate,
    /// Names become names of sections and files.
    #[error("is {found:?}, expected at most 128 letters, digits, `_`, `-` and inner `.`")]
    Name { found: String },
    #[error("is {found}, expected {least} to {most}")]
    Range { found: u64, least: u64, most: u64 },
    #[error("is {found}, expected {expected}")]
    Not { found: String, expected: String },
    #[error("is index {index} into {len} {into}")]
    Index { index: u32, len: usize, into: &'static str },
    #[error("is bytes {offset} to {offset} + {bytes} of an arena of {arena} bytes")]
    Arena { offset: u64, bytes: u64, arena: u64 },
    /// An argument that the kernel's parameter does not take.
    #[error("is {found}, but `{param}` is {expected}")]
    Argument { found: &'static str, param: String, expected: &'static str },
    #[error("is of `{name}`, which {}, but the block runs for {}", lacks(.layer), of(.layer))]
    Layer { name: String, layer: Option<u32> },
    /// Rows that lie outside of a tensor.
    #[error("ends at row {end} of a tensor of {rows} rows")]
    Rows { end: u64, rows: u64 },
    #[error("has {found} rows, expected {expected}")]
    Sum { found: u64, expected: u64 },
    #[error("holds a number that is negative or not finite")]
    Cost,
}

fn lacks(layer: &Option<u32>) -> &'static str {
    match layer {
        Some(_) => "has none for it",
        None => "belongs to layers",
    }
}

fn of(layer: &Option<u32>) -> String {
    match layer {
        Some(l) => format!("layer {l}"),
        None => "no layer".into(),
    }
}

impl Artifact {
    /// Check everything that the runtime relies on. An artifact that has been read is checked.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), CheckError> {
        model(&self.model).map_err(|f| f.of("model"))?;
        manifest::check(&self.manifest, &self.model).map_err(|f| f.of("manifest"))?;
        let graphs = self.graphs.iter().map(|(name, _)| name.as_str());
        names("graphs", graphs).map_err(|f| f.of("graph"))?;
        let targets = self.targets.iter().map(|t| t.name.as_str());
        names("targets", targets).map_err(|f| f.of("target"))?;

        let mut files = HashSet::new();
        for target in &self.targets {
            let name = &target.name;
            plan::check(&target.plan, &self.manifest, &self.model)
                .map_err(|f| f.of(&format!("plan.{name}")))?;
            code(target, &mut files).map_err(|f| f.of(&format!("target.{name}")))?;
        }
        Ok(())
    }
}

/// A fault and the path to it within its section.
struct Flaw {
    place: String,
    fault: Fault,
}

type Checked = Result<(), Flaw>;

impl Flaw {
    fn of(self, section: &str) -> CheckError {
        CheckError { section: section.into(), place: self.place, fault: self.fault }
    }

    /// The same, seen from outside of `outer`.
    fn within(self, outer: impl fmt::Display) -> Flaw {
        let place = match self.place.as_str() {
            "" => outer.to_string(),
            inner if inner.starts_with('[') => format!("{outer}{inner}"),
            inner => format!("{outer}.{inner}"),
        };
        Flaw { place, ..self }
    }
}

fn flaw(place: impl fmt::Display, fault: Fault) -> Flaw {
    Flaw { place: place.to_string(), fault }
}

/// `check` each, in its place in the list.
fn each<'a, T>(list: &str, items: &'a [T], mut check: impl FnMut(&'a T) -> Checked) -> Checked {
    for (i, item) in items.iter().enumerate() {
        check(item).map_err(|f| f.within(format_args!("{list}[{i}]")))?;
    }
    Ok(())
}

/// Plain names, each there once.
fn names<'a>(list: &str, items: impl IntoIterator<Item = &'a str>) -> Checked {
    let mut seen = HashSet::new();
    for (i, name) in items.into_iter().enumerate() {
        let place = format_args!("{list}[{i}].name").to_string();
        if !is_plain(name) {
            let found = name.chars().take(128).collect();
            return Err(flaw(place, Fault::Name { found }));
        }
        if !seen.insert(name) {
            return Err(flaw(place, Fault::Duplicate));
        }
    }
    Ok(())
}

/// Safe as the name of a file and of a section.
fn is_plain(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    (1..=128).contains(&name.len())
        && name.chars().all(allowed)
        && !name.starts_with(['.', '-'])
        && !name.ends_with('.')
}

fn range(place: &str, found: impl Into<u64>, least: u64, most: u64) -> Checked {
    let found = found.into();
    if (least..=most).contains(&found) {
        return Ok(());
    }
    Err(flaw(place, Fault::Range { found, least, most }))
}

fn same<T: PartialEq + fmt::Display>(place: &str, found: T, expected: T) -> Checked {
    if found == expected {
        return Ok(());
    }
    let (found, expected) = (found.to_string(), expected.to_string());
    Err(flaw(place, Fault::Not { found, expected }))
}

/// Ascending numbers of layers of the model.
fn layers(place: &str, layers: &[u32], model: &ModelFacts) -> Checked {
    let depth = model.layers.len();
    if let Some(&index) = layers.iter().find(|&&l| l as usize >= depth) {
        return Err(flaw(place, Fault::Index { index, len: depth, into: "layers" }));
    }
    if !layers.is_sorted_by(|a, b| a < b) {
        let (found, expected) = (format!("{layers:?}"), "ascending numbers".into());
        return Err(flaw(place, Fault::Not { found, expected }));
    }
    Ok(())
}

fn float(place: &str, dtype: DType) -> Checked {
    match dtype {
        DType::F32 | DType::F16 | DType::Bf16 => Ok(()),
        DType::I32 => {
            let (found, expected) = (dtype.to_string(), "f32, f16 or bf16".into());
            Err(flaw(place, Fault::Not { found, expected }))
        }
    }
}

fn model(m: &ModelFacts) -> Checked {
    range("layers", m.layers.len() as u64, 1, MAX_LAYERS)?;
    range("hidden_size", m.hidden_size, 1, MAX_COUNT)?;
    range("vocab_size", m.vocab_size, 1, MAX_COUNT)?;
    range("context", m.context, 1, MAX_COUNT)?;
    range("max_batch", m.max_batch, 1, MAX_COUNT)?;
    range("max_chunk", m.max_chunk, u64::from(PAGE), MAX_COUNT)?;
    same("max_chunk", m.max_chunk, m.max_chunk.next_multiple_of(PAGE))?;
    range("max_context", m.max_context, 1, MAX_COUNT)?;
    if let Some(e) = m.experts {
        range("experts.count", e.count, 1, 1 << 16)?;
        range("experts.chosen", e.chosen, 1, u64::from(e.count))?;
    }
    each("eos", &m.eos, |&id| range("", id, 0, u64::from(m.vocab_size) - 1))?;
    float("dtype", m.dtype)?;
    float("kv", m.kv)
}

/// Code for every kernel of the plan, in files that do not overwrite each other (`files` has the
/// endings of those of other targets).
fn code<'a>(target: &'a TargetSection, files: &mut HashSet<(&'a str, &'a str)>) -> Checked {
    float("activations", target.activations)?;
    let variants = target.variants.iter().map(|v| v.name.as_str());
    names("variants", variants)?;
    if target.variants.is_empty() {
        return Err(flaw("variants", Fault::Empty));
    }
    each("variants", &target.variants, |v| {
        let extension = &v.extension;
        if !is_plain(extension) {
            return Err(flaw("extension", Fault::Name { found: extension.clone() }));
        }
        if !files.insert((&v.name, extension)) {
            return Err(flaw("extension", Fault::Duplicate));
        }
        kernels(&v.kernels, &target.plan)
    })
}

fn kernels(code: &[(String, Vec<u8>)], plan: &Plan) -> Checked {
    same("kernels.len", code.len(), plan.kernels.len())?;
    for (i, ((name, code), kernel)) in code.iter().zip(&plan.kernels).enumerate() {
        let place = format!("kernels[{i}]");
        same(&place, name, &kernel.name)?;
        if code.is_empty() {
            return Err(flaw(place, Fault::Empty));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
