//! The header: a safetensors header in which everything follows from the list of sections.
//!
//! ```text
//! u64   bytes of the JSON
//! JSON  {"__metadata__":{"q35":"{\"blake3\":\"<64 digits>\",\"version\":1,\"sections\":[…]}"},
//!        "<section>":{"dtype":"U8","shape":[<bytes>],"data_offsets":[<from>,<to>]},…}
//!       and spaces up to a multiple of 64 bytes, where the first section begins
//! ```
//!
//! The digits are the hash of the header, length and spaces included, with `0` in their own
//! place. They stand at the same place in every version, so that damage is told from a version that
//! this program does not know. Offsets are never taken from a file: the list says how
//! long the sections are, and the header must be the one that is written for this list.

use super::{ALIGN, ArtifactError, Section, VERSION};
use serde::Deserialize;

/// What every header begins with, up to its own hash.
const FRAME: &[u8] = br#"{"__metadata__":{"q35":"{\"blake3\":\""#;
/// Digits of a hash.
const DIGITS: usize = 64;
/// Bytes before the JSON.
const LENGTH: usize = 8;
/// Where the header's own hash stands.
const OWN: std::ops::Range<usize> = LENGTH + FRAME.len()..LENGTH + FRAME.len() + DIGITS;
/// No header is longer: sections are few and their names short.
const LIMIT: u64 = 1 << 20;

/// Enough of a file for [`recognise`].
pub(super) const START: usize = OWN.end;

/// The header of a file with these sections.
pub(super) fn write(sections: &[Section]) -> Vec<u8> {
    let list = serde_json::to_string(sections).expect("sections are strings and numbers");
    let zeros = "0".repeat(DIGITS);
    let about = format!(r#"{{"blake3":"{zeros}","version":{VERSION},"sections":{list}}}"#);
    let mut json = format!(r#"{{"__metadata__":{{"q35":{}}}"#, quoted(&about));
    let mut from = 0u64;
    for s in sections {
        let to = from.saturating_add(s.bytes);
        json += &format!(
            r#",{}:{{"dtype":"U8","shape":[{}],"data_offsets":[{from},{to}]}}"#,
            quoted(&s.name),
            s.bytes
        );
        from = to;
    }
    json.push('}');
    let end = (LENGTH + json.len()).next_multiple_of(ALIGN);

    let mut out = ((end - LENGTH) as u64).to_le_bytes().to_vec();
    out.extend(json.bytes());
    out.resize(end, b' ');
    let hash = hash(&out);
    out[OWN].copy_from_slice(hash.as_bytes());
    out
}

/// Whether the first [`START`] bytes of a file, or all if it has fewer, are those of an artifact.
pub(super) fn recognise(start: &[u8]) -> Result<(), ArtifactError> {
    let frame = start.get(LENGTH..).unwrap_or_default();
    let same = frame.iter().zip(FRAME).all(|(a, b)| a == b);
    if !same {
        let found = if frame[0] == b'{' {
            "looks like a safetensors file with something else in it"
        } else {
            "neither its format nor its name is there"
        };
        return Err(ArtifactError::Foreign { found });
    }
    if start.len() < START {
        return Err(truncated(start, START as u64));
    }
    Ok(())
}

/// The sections of a file, all of them found whole.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<(Section, &[u8])>, ArtifactError> {
    recognise(&bytes[..bytes.len().min(START)])?;
    let (length, _) = bytes.split_first_chunk().expect("recognised");
    let length = u64::from_le_bytes(*length);
    if !(START as u64..=LIMIT).contains(&length) {
        return Err(damaged("header"));
    }
    let end = LENGTH + length as usize;
    let Some((header, mut rest)) = bytes.split_at_checked(end) else {
        return Err(truncated(bytes, end as u64));
    };
    if hash(header).as_bytes() != &header[OWN] {
        return Err(damaged("header"));
    }

    let sections = list(&header[LENGTH..])?;
    if write(&sections) != header {
        let why = "it is not the one that q35c writes for its sections".into();
        return Err(ArtifactError::Header { why });
    }
    let all = sections.iter().try_fold(end as u64, |n, s| n.checked_add(s.bytes));
    let expected = all.unwrap_or(u64::MAX);
    let found = bytes.len() as u64;
    if found < expected {
        return Err(truncated(bytes, expected));
    }
    if found > expected {
        return Err(ArtifactError::TooLong { found, expected });
    }

    let mut out = Vec::with_capacity(sections.len());
    for section in sections {
        let (content, after) = rest.split_at(section.bytes as usize);
        rest = after;
        if blake3::hash(content).to_hex().as_str() != section.blake3 {
            return Err(ArtifactError::Damaged { part: section.name });
        }
        out.push((section, content));
    }
    Ok(out)
}

/// The list of sections in the JSON of a header.
fn list(json: &[u8]) -> Result<Vec<Section>, ArtifactError> {
    #[derive(Deserialize)]
    struct Header {
        __metadata__: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        q35: String,
    }
    #[derive(Deserialize)]
    struct Format {
        version: u64,
    }
    #[derive(Deserialize)]
    struct About {
        sections: Vec<Section>,
    }

    let wrong = |e: serde_json::Error| ArtifactError::Header { why: e.to_string() };
    let header: Header = serde_json::from_slice(json).map_err(wrong)?;
    let about = header.__metadata__.q35;
    let format: Format = serde_json::from_str(&about).map_err(wrong)?;
    if format.version != u64::from(VERSION) {
        let found = format.version;
        return Err(ArtifactError::Version { found, supported: VERSION });
    }
    let about: About = serde_json::from_str(&about).map_err(wrong)?;
    Ok(about.sections)
}

/// The hash of a header, with zeros for its own digits.
fn hash(header: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&header[..OWN.start]);
    hasher.update(&[b'0'; DIGITS]);
    hasher.update(&header[OWN.end..]);
    hasher.finalize().to_hex().to_string()
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string has a JSON form")
}

fn truncated(bytes: &[u8], expected: u64) -> ArtifactError {
    ArtifactError::Truncated { found: bytes.len() as u64, expected }
}

fn damaged(part: &str) -> ArtifactError {
    ArtifactError::Damaged { part: part.into() }
}
