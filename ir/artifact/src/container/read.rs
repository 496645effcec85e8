//! From bytes to an artifact. Total: any bytes give one or an error, and what is allocated is in
//! proportion to the file.

use super::{ALIGN, Artifact, ArtifactError, Index, Section, TargetSection, Variant, header};
use serde::de::DeserializeOwned;
use std::collections::HashMap;

impl Artifact {
    /// Read a whole file. What comes back has passed [`check`](Self::check).
    ///
    /// # Errors
    ///
    /// Bytes that are not an artifact of this [`VERSION`](super::VERSION), or not a whole or sound
    /// one; see [`ArtifactError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Artifact, ArtifactError> {
        let sections = header::read(bytes)?;
        let artifact = Sections::of(&sections).artifact()?;
        artifact.check()?;
        written_so(&artifact, &sections)?;
        Ok(artifact)
    }
}

/// Refuse sections that q35c would not have written for this artifact.
fn written_so(artifact: &Artifact, sections: &[(Section, &[u8])]) -> Result<(), ArtifactError> {
    let ours = artifact.contents();
    for (i, (section, bytes)) in sections.iter().enumerate() {
        let name = section.name.clone();
        match ours.get(i) {
            Some((expected, content)) if *expected == name => {
                if content != bytes {
                    return Err(ArtifactError::NotCanonical { name });
                }
            }
            other => {
                let expected = match other {
                    Some((name, _)) => format!("`{name}`"),
                    None => "no more".into(),
                };
                return Err(ArtifactError::UnexpectedSection { name, expected });
            }
        }
    }
    Ok(())
}

struct Sections<'a> {
    order: Vec<&'a str>,
    bytes: HashMap<&'a str, &'a [u8]>,
}

impl<'a> Sections<'a> {
    fn of(sections: &'a [(Section, &'a [u8])]) -> Self {
        let named = sections.iter().map(|(s, bytes)| (s.name.as_str(), *bytes));
        Sections { order: named.clone().map(|(name, _)| name).collect(), bytes: named.collect() }
    }

    fn artifact(&self) -> Result<Artifact, ArtifactError> {
        let graph = |name: &str| -> Result<_, ArtifactError> {
            Ok((name.to_owned(), self.text(&format!("graph.{name}"))?))
        };
        Ok(Artifact {
            config: self.text("config")?,
            model: self.json("model")?,
            graphs: self.all("graph.").map(graph).collect::<Result<_, _>>()?,
            manifest: self.json("manifest")?,
            targets: self.all("target.").map(|name| self.target(name)).collect::<Result<_, _>>()?,
        })
    }

    fn target(&self, target: &str) -> Result<TargetSection, ArtifactError> {
        let index: Index = self.json(&format!("target.{target}"))?;
        let mut variants = Vec::with_capacity(index.variants.len());
        for variant in index.variants {
            let name = format!("code.{target}.{}", variant.name);
            let code = self.get(&name)?;
            variants.push(Variant {
                name: variant.name,
                extension: variant.extension,
                kernels: cut(&name, code, variant.kernels)?,
            });
        }
        Ok(TargetSection {
            name: target.into(),
            activations: index.activations,
            plan: self.json(&format!("plan.{target}"))?,
            variants,
        })
    }

    /// What follows `prefix` in the names of sections, in the order of the file.
    fn all(&self, prefix: &'static str) -> impl Iterator<Item = &'a str> {
        self.order.iter().filter_map(move |n| n.strip_prefix(prefix))
    }

    fn get(&self, name: &str) -> Result<&'a [u8], ArtifactError> {
        let missing = || ArtifactError::MissingSection { name: name.into() };
        self.bytes.get(name).copied().ok_or_else(missing)
    }

    fn text(&self, name: &str) -> Result<String, ArtifactError> {
        String::from_utf8(self.get(name)?.to_vec())
            .map_err(|_| ArtifactError::NotText { name: name.into() })
    }

    fn json<T: DeserializeOwned>(&self, name: &str) -> Result<T, ArtifactError> {
        serde_json::from_slice(self.get(name)?)
            .map_err(|why| ArtifactError::Json { name: name.into(), why })
    }
}

/// A code section as the kernels in it.
fn cut(
    section: &str,
    code: &[u8],
    kernels: Vec<(String, u64)>,
) -> Result<Vec<(String, Vec<u8>)>, ArtifactError> {
    let padded = |bytes: u64| bytes.checked_next_multiple_of(ALIGN as u64);
    let expected =
        kernels.iter().try_fold(0u64, |sum, (_, bytes)| sum.checked_add(padded(*bytes)?));
    if expected != Some(code.len() as u64) {
        return Err(ArtifactError::CodeLength {
            name: section.into(),
            found: code.len() as u64,
            expected: expected.unwrap_or(u64::MAX),
        });
    }
    let mut rest = code;
    let mut out = Vec::with_capacity(kernels.len());
    for (name, bytes) in kernels {
        let (own, after) = rest.split_at((bytes as usize).next_multiple_of(ALIGN));
        out.push((name, own[..bytes as usize].to_vec()));
        rest = after;
    }
    Ok(out)
}
