//! The artifact and its file: a safetensors file whose tensors are byte strings, *sections*.
//!
//! ```text
//! code.<target>.<variant>    machine code of the plan's kernels, each at a multiple of 64 bytes
//! config                     the `config.json` that was compiled, as it was given
//! model                      JSON: `ModelFacts`
//! graph.<entry>              text of the graph after the last pass
//! manifest                   JSON: `Manifest`, of all targets together
//! target.<target>            JSON: activations and, per variant, the kernels in its code
//! plan.<target>              JSON: `Plan`
//! ```
//!
//! They lie in this order. Code comes first because safetensors allows no gaps: code is padded
//! to multiples of 64 bytes by itself, text is not, so all code is aligned and all text is exact.
//!
//! An artifact has exactly one file. JSON has the fields in the order of the types and no spaces,
//! the header is written by hand, and reading refuses a file that would be written in another way.
//! So the same inputs give the same bytes on any host, and what [`Artifact::sections`] says of an
//! artifact is true of the file that it came from.

mod error;
mod facts;
mod file;
mod header;
mod read;

pub use error::ArtifactError;
pub use facts::*;

use crate::{Manifest, Plan};
use q35_types::DType;
use serde::{Deserialize, Serialize};

/// The format that this crate writes, and the only one that it reads.
pub const VERSION: u32 = 1;

/// Kernels begin at multiples of this in a code section, and code sections in the file.
pub const ALIGN: usize = 64;

/// What `q35c` makes of a config.
#[derive(Debug, Clone, PartialEq)]
pub struct Artifact {
    /// The text of the `config.json`, byte for byte.
    pub config: String,
    pub model: ModelFacts,
    /// Text of the graph of each entry point, by name.
    pub graphs: Vec<(String, String)>,
    pub manifest: Manifest,
    pub targets: Vec<TargetSection>,
}

/// A plan and the code for it.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetSection {
    /// As in `--target`.
    pub name: String,
    /// How activations lie in memory.
    pub activations: DType,
    pub plan: Plan,
    /// Code for different machines, most portable first.
    pub variants: Vec<Variant>,
}

/// The code of every kernel of a plan, for one kind of machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Variant {
    pub name: String,
    /// Ending of a file that holds one kernel's code, as other tools know it.
    pub extension: String,
    /// Name and code of each of [`Plan::kernels`], in that order.
    pub kernels: Vec<(String, Vec<u8>)>,
}

/// A part of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    pub name: String,
    pub bytes: u64,
    /// Hexadecimal BLAKE3 of its bytes.
    pub blake3: String,
}

impl Artifact {
    /// The file's bytes. Any artifact has some; only one that passes [`check`](Self::check) can be
    /// read back.
    pub fn to_bytes(&self) -> Vec<u8> {
        let contents = self.contents();
        let sections: Vec<_> = contents.iter().map(described).collect();
        let mut out = header::write(&sections);
        for (_, bytes) in contents {
            out.extend(bytes);
        }
        out
    }

    /// The parts of the file, in order.
    pub fn sections(&self) -> Vec<Section> {
        self.contents().iter().map(described).collect()
    }

    pub fn target(&self, name: &str) -> Option<&TargetSection> {
        self.targets.iter().find(|t| t.name == name)
    }

    /// Names and bytes of the sections, in the order of the file.
    fn contents(&self) -> Vec<(String, Vec<u8>)> {
        let code = self.targets.iter().flat_map(|t| {
            let name = |v: &Variant| format!("code.{}.{}", t.name, v.name);
            t.variants.iter().map(move |v| (name(v), v.code()))
        });
        let model = [
            ("config".into(), self.config.clone().into_bytes()),
            ("model".into(), json(&self.model)),
        ];
        let graphs = self
            .graphs
            .iter()
            .map(|(name, text)| (format!("graph.{name}"), text.clone().into_bytes()));
        let manifest = ("manifest".into(), json(&self.manifest));
        let plans = self.targets.iter().flat_map(|t| {
            [
                (format!("target.{}", t.name), json(&t.index())),
                (format!("plan.{}", t.name), json(&t.plan)),
            ]
        });
        code.chain(model).chain(graphs).chain([manifest]).chain(plans).collect()
    }
}

impl TargetSection {
    pub fn variant(&self, name: &str) -> Option<&Variant> {
        self.variants.iter().find(|v| v.name == name)
    }

    fn index(&self) -> Index {
        let kernels = |v: &Variant| {
            let length = |(name, code): &(String, Vec<u8>)| (name.clone(), code.len() as u64);
            v.kernels.iter().map(length).collect()
        };
        let variant = |v: &Variant| VariantIndex {
            name: v.name.clone(),
            extension: v.extension.clone(),
            kernels: kernels(v),
        };
        Index {
            activations: self.activations,
            variants: self.variants.iter().map(variant).collect(),
        }
    }
}

impl Variant {
    /// The kernels' code, one after another, each padded with zeros.
    fn code(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (_, code) in &self.kernels {
            out.extend(code);
            out.resize(out.len().next_multiple_of(ALIGN), 0);
        }
        out
    }
}

/// The section `target.<target>`.
#[derive(Serialize, Deserialize)]
struct Index {
    activations: DType,
    variants: Vec<VariantIndex>,
}

#[derive(Serialize, Deserialize)]
struct VariantIndex {
    name: String,
    extension: String,
    /// Name and bytes of code. Each begins at the first multiple of [`ALIGN`] after the one before.
    kernels: Vec<(String, u64)>,
}

fn described((name, bytes): &(String, Vec<u8>)) -> Section {
    Section {
        name: name.clone(),
        bytes: bytes.len() as u64,
        blake3: blake3::hash(bytes).to_hex().to_string(),
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("structs of numbers and strings have a JSON form")
}

#[cfg(test)]
mod tests;
