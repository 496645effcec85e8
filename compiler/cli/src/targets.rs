//! The list of targets and of their profiles: the one place that knows them all.

use crate::failure::Failure;
use q35_target::Target;
use q35_target_cpu::Cpu;
use q35_target_ptx::Ptx;
use q35_target_spirv::Spirv;

/// Each target with all the variants that any profile of it has, to look into artifacts.
pub const TARGETS: &[&dyn Target] = &[&Cpu, &Spirv::ALL, &Ptx::ALL];

/// What can be asked for; the first row of a name is what it means without a profile.
const CHOICES: [Choice; 9] = [
    Choice { name: "cpu", profile: None, subgroup: None, target: &Cpu },
    Choice { name: "spirv", profile: Some("baseline"), subgroup: None, target: &Spirv::BASELINE },
    Choice { name: "spirv", profile: Some("desktop"), subgroup: Some(32), target: &Spirv::DESKTOP },
    Choice {
        name: "spirv",
        profile: Some("desktop"),
        subgroup: Some(64),
        target: &Spirv::DESKTOP_64,
    },
    ptx("sm_80", &Ptx::SM_80),
    ptx("sm_89", &Ptx::SM_89),
    ptx("sm_90", &Ptx::SM_90),
    ptx("sm_100", &Ptx::SM_100),
    ptx("sm_120", &Ptx::SM_120),
];

const fn ptx(arch: &'static str, target: &'static Ptx) -> Choice {
    Choice { name: "ptx", profile: Some(arch), subgroup: None, target }
}

#[derive(Clone, Copy)]
struct Choice {
    name: &'static str,
    profile: Option<&'static str>,
    /// As in `--subgroup`, of which the first row of a profile is the default.
    subgroup: Option<u32>,
    target: &'static dyn Target,
}

/// The targets that `--target` and `--subgroup` ask for.
pub fn all(asked: &[String], subgroup: Option<u32>) -> Result<Vec<&'static dyn Target>, Failure> {
    let mut chosen: Vec<Choice> = vec![];
    for target in asked {
        let choice = find(target, subgroup)?;
        if chosen.iter().any(|c| c.name == choice.name) {
            let name = choice.name;
            let why = format!("`--target` names `{name}` twice, expected each target once");
            return Err(Failure::new(why));
        }
        chosen.push(choice);
    }
    match subgroup {
        Some(lanes) if chosen.iter().all(|c| c.subgroup.is_none()) => {
            let expected = listed(CHOICES.iter().filter(|c| c.subgroup.is_some()));
            Err(Failure::new(format!(
                "`--subgroup` is {lanes}, but no target has a choice of it, expected one of {expected}"
            )))
        }
        _ => Ok(chosen.iter().map(|c| c.target).collect()),
    }
}

/// The row for `NAME` or `NAME:PROFILE`.
fn find(asked: &str, subgroup: Option<u32>) -> Result<Choice, Failure> {
    let (name, profile) = match asked.split_once(':') {
        Some((name, profile)) => (name, Some(profile)),
        None => (asked, None),
    };
    let named: Vec<&Choice> = CHOICES.iter().filter(|c| c.name == name).collect();
    let Some(first) = named.first() else {
        let known = listed(&CHOICES);
        return Err(Failure::new(format!("`--target` is `{asked}`, expected one of {known}")));
    };
    let wanted = profile.or(first.profile);
    let mut rows = named.iter().filter(|c| c.profile == wanted);
    let Some(usual) = rows.clone().next() else {
        let why = match first.profile {
            Some(_) => format!("expected one of {}", listed(named)),
            None => format!("expected `{name}`, which has no profiles"),
        };
        return Err(Failure::new(format!("`--target` is `{asked}`, {why}")));
    };
    match (usual.subgroup, subgroup) {
        (Some(_), Some(lanes)) => {
            let sizes: Vec<_> = rows.clone().filter_map(|c| c.subgroup).collect();
            rows.find(|c| c.subgroup == subgroup).map(|c| **c).ok_or_else(|| {
                let sizes = sizes.iter().map(u32::to_string).collect::<Vec<_>>().join(" or ");
                Failure::new(format!("`--subgroup` is {lanes}, expected {sizes}"))
            })
        }
        _ => Ok(**usual),
    }
}

/// `cpu`, `spirv:baseline`, ...
fn listed<'a>(choices: impl IntoIterator<Item = &'a Choice>) -> String {
    let mut names: Vec<String> = choices
        .into_iter()
        .map(|c| match c.profile {
            Some(profile) => format!("`{}:{profile}`", c.name),
            None => format!("`{}`", c.name),
        })
        .collect();
    names.dedup();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of the variants of each target.
    fn chosen(asked: &[&str], subgroup: Option<u32>) -> Vec<Vec<&'static str>> {
        let asked: Vec<String> = asked.iter().map(ToString::to_string).collect();
        let targets = all(&asked, subgroup).unwrap_or_else(|e| panic!("{}", e.render()));
        targets.iter().map(|t| t.variants().iter().map(|v| v.name).collect()).collect()
    }

    fn refused(asked: &[&str], subgroup: Option<u32>) -> String {
        let asked: Vec<String> = asked.iter().map(ToString::to_string).collect();
        all(&asked, subgroup).map(|_| ()).expect_err("it cannot be had").render()
    }

    #[test]
    fn a_profile_decides_which_variants_an_artifact_gets() {
        assert_eq!(chosen(&["spirv"], None), [["baseline"]]);
        assert_eq!(chosen(&["spirv:baseline"], None), [["baseline"]]);
        assert_eq!(chosen(&["spirv:desktop"], None), [["desktop", "desktop-coop"]]);
        assert_eq!(chosen(&["spirv:desktop"], Some(32)), [["desktop", "desktop-coop"]]);
        assert_eq!(chosen(&["spirv:desktop"], Some(64)), [["desktop-64", "desktop-64-coop"]]);
        assert_eq!(chosen(&["ptx"], None), [["sm_80"]]);
        assert_eq!(chosen(&["ptx:sm_120"], None), [["sm_120"]]);
        let both = chosen(&["cpu", "spirv:desktop"], Some(64));
        assert!(both[0].contains(&"avx2"));
        assert_eq!(both[1], ["desktop-64", "desktop-64-coop"]);
    }

    #[test]
    fn what_cannot_be_had_is_refused_with_what_can() {
        let profiles = "`spirv:baseline`, `spirv:desktop`";
        let archs = "`ptx:sm_80`, `ptx:sm_89`, `ptx:sm_90`, `ptx:sm_100`, `ptx:sm_120`";
        for (asked, subgroup, said) in [
            (&["tpu"][..], None, format!("`--target` is `tpu`, expected one of `cpu`, {profiles}, {archs}")),
            (&["ptx:sm_70"], None, format!("`--target` is `ptx:sm_70`, expected one of {archs}")),
            (&["spirv:fast"], None, format!("`--target` is `spirv:fast`, expected one of {profiles}")),
            (&["spirv:"], None, format!("`--target` is `spirv:`, expected one of {profiles}")),
            (
                &["cpu:fast"],
                None,
                "`--target` is `cpu:fast`, expected `cpu`, which has no profiles".into(),
            ),
            (
                &["spirv", "cpu", "spirv:desktop"],
                None,
                "`--target` names `spirv` twice, expected each target once".into(),
            ),
            (&["spirv:desktop"], Some(16), "`--subgroup` is 16, expected 32 or 64".into()),
            (
                &["cpu", "spirv"],
                Some(64),
                "`--subgroup` is 64, but no target has a choice of it, expected one of `spirv:desktop`"
                    .into(),
            ),
        ] {
            assert_eq!(refused(asked, subgroup), format!("error: {said}"));
        }
    }

    #[test]
    fn every_variant_of_a_profile_can_be_looked_into() {
        for choice in CHOICES {
            let known = TARGETS.iter().find(|t| t.name() == choice.name).expect("it is listed");
            assert_eq!(choice.target.name(), choice.name);
            for variant in choice.target.variants() {
                assert!(known.variants().contains(variant), "{variant}");
            }
        }
    }
}
