//! An artifact: behind the hashes too, which stop an accident but not an author.

use crate::model;
use q35_artifact::{Artifact, Section};
use q35_fuzz::{fuzz, mutate};
use std::ops::Range;

/// Where the header has its own hash.
const OWN: Range<usize> = 46..46 + 64;

fn artifacts() -> Vec<Vec<u8>> {
    model::configs().iter().map(|(text, config)| model::compile(text, config).to_bytes()).collect()
}

#[test]
fn damage_is_noticed() {
    let artifacts = artifacts();
    fuzz("artifact", &artifacts, |bytes| {
        if Artifact::from_bytes(bytes).is_ok() {
            assert!(artifacts.iter().any(|a| a == bytes), "a changed file is not the file");
        }
    });
}

/// A section is changed and all hashes are made to fit.
#[test]
fn a_sound_file_is_read_or_refused() {
    let artifacts: Vec<Vec<(String, Vec<u8>)>> =
        artifacts().iter().map(|bytes| contents(bytes)).collect();
    // One seed a section that is parsed; its number goes before it, so that the claim knows where it belongs.
    let mut seeds = vec![];
    let places: Vec<(usize, usize)> = (0..artifacts.len())
        .flat_map(|a| (0..artifacts[a].len()).map(move |s| (a, s)))
        .filter(|&(a, s)| !artifacts[a][s].0.starts_with("code."))
        .collect();
    for (number, &(a, s)) in places.iter().enumerate() {
        let mut seed = vec![u8::try_from(number).expect("few sections")];
        seed.extend(&artifacts[a][s].1);
        seeds.push(seed);
    }
    fuzz("section", &seeds, |bytes| {
        let Some((&number, content)) = bytes.split_first() else { return };
        let (a, s) = places[usize::from(number) % places.len()];
        let mut contents = artifacts[a].clone();
        contents[s].1 = content.to_vec();
        let file = seal(&contents);
        if let Ok(artifact) = Artifact::from_bytes(&file) {
            assert_eq!(artifact.to_bytes(), file, "an artifact has one file");
            for target in &artifact.targets {
                let _ = target.plan.to_text();
            }
        }
    });
}

/// The list of sections is changed and the header made to fit.
#[test]
fn a_sound_header_is_read_or_refused() {
    let artifact = artifacts().remove(0);
    let contents = contents(&artifact);
    let list = serde_json::to_vec(&sections(&contents)).expect("a list has a JSON form");
    let data: Vec<u8> = contents.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    fuzz("sections", &[list], |list| {
        let Ok(sections) = serde_json::from_slice::<Vec<Section>>(list) else { return };
        let mut file = header(&sections);
        file.extend(&data);
        let _ = Artifact::from_bytes(&file);
    });
}

#[test]
fn seals_fit() {
    for artifact in artifacts() {
        assert_eq!(seal(&contents(&artifact)), artifact);
    }
    let seeds = artifacts();
    assert_ne!(mutate(&seeds, &[0, 0, 1, 2, 3, 0, 1]), seeds[0]);
}

fn contents(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let sections = Artifact::from_bytes(bytes).expect("a whole artifact").sections();
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    let mut rest = &bytes[8 + length as usize..];
    let mut out = vec![];
    for section in sections {
        let (own, after) = rest.split_at(section.bytes as usize);
        out.push((section.name, own.to_vec()));
        rest = after;
    }
    out
}

fn sections(contents: &[(String, Vec<u8>)]) -> Vec<Section> {
    let section = |(name, bytes): &(String, Vec<u8>)| Section {
        name: name.clone(),
        bytes: bytes.len() as u64,
        blake3: blake3::hash(bytes).to_hex().to_string(),
    };
    contents.iter().map(section).collect()
}

/// The file with these sections and true hashes.
fn seal(contents: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut file = header(&sections(contents));
    contents.iter().for_each(|(_, bytes)| file.extend(bytes));
    file
}

/// As an author without this crate's help would write it.
fn header(sections: &[Section]) -> Vec<u8> {
    let text = |value: &str| serde_json::to_string(value).expect("a string has a JSON form");
    let list = serde_json::to_string(sections).expect("a list has a JSON form");
    let about = format!(r#"{{"blake3":"{}","version":1,"sections":{list}}}"#, "0".repeat(64));
    let mut json = format!(r#"{{"__metadata__":{{"q35":{}}}"#, text(&about));
    let mut from = 0u64;
    for s in sections {
        let to = from.saturating_add(s.bytes);
        let (name, bytes) = (text(&s.name), s.bytes);
        json +=
            &format!(r#",{name}:{{"dtype":"U8","shape":[{bytes}],"data_offsets":[{from},{to}]}}"#);
        from = to;
    }
    json.push('}');
    let end = (8 + json.len()).next_multiple_of(64);
    let mut file = (end as u64 - 8).to_le_bytes().to_vec();
    file.extend(json.bytes());
    file.resize(end, b' ');
    let hash = blake3::hash(&file).to_hex();
    file[OWN].copy_from_slice(hash.as_bytes());
    file
}
