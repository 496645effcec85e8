//! What `--target` and `--gpu` choose of an artifact.

use super::ExplainError;
use super::gpus::{GPUS, Gpu, capability, dotted};
use q35_artifact::{Artifact, TargetSection, Variant};
use q35_target::Target as _;
use q35_target_ptx::Ptx;

/// Code of an artifact, and a GPU that runs it.
#[derive(Debug, Clone, Copy)]
pub struct Choice<'a> {
    pub section: &'a TargetSection,
    pub variant: &'a Variant,
    pub gpu: Option<Gpu>,
}

impl<'a> Choice<'a> {
    /// `target` is a name or `NAME:VARIANT`; without one, the first of the artifact, and of each target the
    /// first variant.
    ///
    /// # Errors
    ///
    /// The artifact does not have it, or the GPU is not known or does not run it.
    pub fn of(
        artifact: &'a Artifact,
        target: Option<&str>,
        gpu: Option<&str>,
    ) -> Result<Self, ExplainError> {
        let found = match target.map(|name| name.split_once(':').unwrap_or((name, ""))) {
            Some((name, "")) => artifact.target(name).and_then(first),
            Some((name, variant)) => {
                let section = artifact.target(name);
                section.and_then(|s| s.variant(variant).map(|variant| (s, variant)))
            }
            None => artifact.targets.first().and_then(first),
        };
        let (section, variant) = found.ok_or_else(|| unknown(artifact, target))?;
        let gpu = gpu.map(named).transpose()?;
        let choice = Choice { section, variant, gpu };
        if let Some(gpu) = gpu {
            choice.runs_on(gpu)?;
        }
        Ok(choice)
    }

    /// 90 of `sm_90`; none if the target is not PTX.
    pub fn capability(&self) -> Option<u32> {
        let is_ptx = self.section.name == Ptx::ALL.name();
        capability(&self.variant.name).filter(|_| is_ptx)
    }

    fn runs_on(&self, gpu: Gpu) -> Result<(), ExplainError> {
        let target = self.section.name.clone();
        match self.capability() {
            None => Err(ExplainError::NotForGpu { gpu: gpu.name, target }),
            Some(least) if gpu.capability < least => Err(ExplainError::OlderGpu {
                gpu: gpu.name,
                found: dotted(gpu.capability),
                code: format!("{target}:{}", self.variant.name),
                least: dotted(least),
            }),
            Some(_) => Ok(()),
        }
    }
}

fn first(section: &TargetSection) -> Option<(&TargetSection, &Variant)> {
    Some((section, section.variants.first()?))
}

fn named(name: &str) -> Result<Gpu, ExplainError> {
    Gpu::named(name).ok_or_else(|| ExplainError::UnknownGpu {
        gpu: name.into(),
        known: GPUS.iter().map(|gpu| gpu.name).collect(),
    })
}

/// Where a variant was asked for, known are variants.
fn unknown(artifact: &Artifact, asked: Option<&str>) -> ExplainError {
    let asked = asked.unwrap_or("any target");
    let variants = |t: &TargetSection| -> Vec<String> {
        match asked.contains(':') {
            true => t.variants.iter().map(|v| format!("{}:{}", t.name, v.name)).collect(),
            false => vec![t.name.clone()],
        }
    };
    let known = artifact.targets.iter().flat_map(variants).collect();
    ExplainError::UnknownTarget { target: asked.into(), known }
}
