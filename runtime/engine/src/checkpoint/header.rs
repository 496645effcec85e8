//! The header of a safetensors file: which tensors lie where.
//!
//! ```text
//! u64: length of the header │ JSON: name → dtype, shape, [begin, end] │ data
//! ```
//!
//! The format has no gaps and no overlaps, and that is checked here, with the tensor named in
//! each refusal; all offsets that come out lie inside the file. The header is the only part
//! of a checkpoint that is parsed, so this is where hostile files end.

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// The longest header that the format allows.
const LONGEST: u64 = 100_000_000;

/// What is wrong with a file's header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The file ends before or within the header.
    #[error("the file has {found} bytes, expected at least {expected} for its header")]
    Truncated { found: u64, expected: u64 },

    /// A length that no header has: most likely the file is something else.
    #[error("the header has {found} bytes, expected at most {LONGEST}")]
    TooLong { found: u64 },

    /// Not JSON, not of the right form, or a name twice.
    #[error("the header is not one of safetensors: {reason}")]
    Syntax { reason: String },

    /// More elements than can be counted, or a part of a byte.
    #[error("`{tensor}` has the shape {shape:?} of {dtype}, which has no size in bytes")]
    Size { tensor: String, shape: Vec<usize>, dtype: Dtype },

    /// The offsets do not agree with shape and type.
    #[error("`{tensor}` lies in bytes {begin}..{end}, expected {bytes} bytes for {dtype}{shape:?}")]
    Extent {
        tensor: String,
        begin: usize,
        end: usize,
        bytes: usize,
        dtype: Dtype,
        shape: Vec<usize>,
    },

    /// Two tensors share bytes.
    #[error("`{tensor}` begins at byte {begin}, inside `{other}`, which ends at {end}")]
    Overlap { tensor: String, begin: usize, other: String, end: usize },

    /// Bytes that belong to no tensor.
    #[error("bytes {begin}..{end} of the data belong to no tensor")]
    Gap { begin: usize, end: usize },

    /// The data is shorter than the offsets say.
    #[error("`{tensor}` ends at byte {end} of the data, which has {bytes} bytes")]
    OutOfRange { tensor: String, end: usize, bytes: usize },
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub dtype: Dtype,
    /// Outermost axis first.
    pub shape: Vec<usize>,
    /// Its bytes, counted from the beginning of the file.
    pub range: Range<usize>,
}

/// Every tensor of the safetensors file that is `bytes`.
///
/// # Errors
///
/// Any bytes that are no such file give a [`HeaderError`].
pub fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Entry>, HeaderError> {
    let found = bytes.len() as u64;
    let truncated = |expected| HeaderError::Truncated { found, expected };
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or(truncated(8))?;
    let length = u64::from_le_bytes(*length);
    if length > LONGEST {
        return Err(HeaderError::TooLong { found: length });
    }
    let (header, data) = rest.split_at_checked(length as usize).ok_or(truncated(8 + length))?;
    let Tensors(tensors) = serde_json::from_slice(header)
        .map_err(|e| HeaderError::Syntax { reason: e.to_string() })?;
    for (tensor, info) in &tensors {
        check_size(tensor, info)?;
    }
    check_places(&tensors, data.len())?;
    let base = 8 + header.len();
    let entry = |info: TensorInfo| Entry {
        range: base + info.data_offsets.0..base + info.data_offsets.1,
        dtype: info.dtype,
        shape: info.shape,
    };
    Ok(tensors.into_iter().map(|(name, info)| (name, entry(info))).collect())
}

/// Offsets, shape and type of a tensor agree.
fn check_size(tensor: &str, info: &TensorInfo) -> Result<(), HeaderError> {
    let bits = info
        .shape
        .iter()
        .try_fold(info.dtype.bitsize(), |bits, &n| bits.checked_mul(n))
        .filter(|bits| bits.is_multiple_of(8));
    let (tensor, dtype, shape) = (tensor.to_owned(), info.dtype, info.shape.clone());
    let Some(bits) = bits else {
        return Err(HeaderError::Size { tensor, shape, dtype });
    };
    let ((begin, end), bytes) = (info.data_offsets, bits / 8);
    match end.checked_sub(begin) {
        Some(found) if found == bytes => Ok(()),
        _ => Err(HeaderError::Extent { tensor, begin, end, bytes, dtype, shape }),
    }
}

/// Tensors lie one after another and fill the data.
fn check_places(tensors: &BTreeMap<String, TensorInfo>, data: usize) -> Result<(), HeaderError> {
    let mut places: Vec<_> = tensors.iter().map(|(name, info)| (info.data_offsets, name)).collect();
    places.sort_unstable();
    let (mut reached, mut last) = (0, "");
    for ((begin, end), name) in places {
        if begin < reached {
            let (tensor, other) = (name.clone(), last.to_owned());
            return Err(HeaderError::Overlap { tensor, begin, other, end: reached });
        }
        if begin > reached {
            return Err(HeaderError::Gap { begin: reached, end: begin });
        }
        if end > data {
            return Err(HeaderError::OutOfRange { tensor: name.clone(), end, bytes: data });
        }
        (reached, last) = (end, name);
    }
    if reached < data {
        return Err(HeaderError::Gap { begin: reached, end: data });
    }
    Ok(())
}

/// The header's JSON; a name that stands twice is refused.
struct Tensors(BTreeMap<String, TensorInfo>);

impl<'de> Deserialize<'de> for Tensors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Tensors;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tensors, A::Error> {
                let mut tensors = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    let info: TensorInfo =
                        map.next_value().map_err(|e| A::Error::custom(format!("`{name}`: {e}")))?;
                    if tensors.contains_key(&name) {
                        return Err(A::Error::custom(format!("`{name}` stands twice")));
                    }
                    tensors.insert(name, info);
                }
                Ok(Tensors(tensors))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 7);
        bytes
    }

    fn refusal(header: &str, data: usize) -> String {
        parse(&file(header, data)).unwrap_err().to_string()
    }

    const TWO: &str = r#"{"__metadata__":{"format":"pt"},
        "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]},
        "a":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}}"#;

    #[test]
    fn tensors_come_with_their_place_in_the_file() {
        let tensors = parse(&file(TWO, 12)).unwrap();
        let base = 8 + TWO.len();
        assert_eq!(tensors.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(tensors["a"].shape, [1, 2]);
        assert_eq!(tensors["b"].range, base + 4..base + 12);
        assert_eq!(tensors["b"].dtype, Dtype::F32);
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let whole = file(TWO, 12);
        for cut in 0..whole.len() {
            assert!(parse(&whole[..cut]).is_err(), "{cut} bytes");
        }
    }

    #[test]
    fn a_header_longer_than_the_file_or_the_format_is_refused_before_it_is_read() {
        let claims = |n: u64| parse(&[n.to_le_bytes().as_slice(), b"{}"].concat());
        assert!(matches!(claims(3), Err(HeaderError::Truncated { found: 10, expected: 11 })));
        assert!(matches!(claims(LONGEST), Err(HeaderError::Truncated { .. })));
        assert!(matches!(claims(LONGEST + 1), Err(HeaderError::TooLong { .. })));
        assert!(matches!(claims(u64::MAX), Err(HeaderError::TooLong { .. })));
    }

    #[test]
    fn overlaps_gaps_and_ends_are_refused_by_name() {
        let two = |a: (u32, u32), b: (u32, u32)| {
            let tensor = |(begin, end): (u32, u32)| {
                let n = end.wrapping_sub(begin);
                format!(r#"{{"dtype":"U8","shape":[{n}],"data_offsets":[{begin},{end}]}}"#)
            };
            format!(r#"{{"a":{},"b":{}}}"#, tensor(a), tensor(b))
        };
        let overlap = refusal(&two((0, 8), (6, 12)), 12);
        assert_eq!(overlap, "`b` begins at byte 6, inside `a`, which ends at 8");
        assert_eq!(
            refusal(&two((0, 8), (0, 8)), 8),
            "`b` begins at byte 0, inside `a`, which ends at 8"
        );
        assert_eq!(
            refusal(&two((0, 4), (6, 12)), 12),
            "bytes 4..6 of the data belong to no tensor"
        );
        assert_eq!(refusal(&two((0, 4), (4, 8)), 9), "bytes 8..9 of the data belong to no tensor");
        let end = refusal(&two((0, 4), (4, 8)), 7);
        assert_eq!(end, "`b` ends at byte 8 of the data, which has 7 bytes");
        assert!(refusal(&two((0, 4), (8, 4)), 8).starts_with("`b` lies in bytes 8..4"));
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused_by_name() {
        let one = |dtype: &str, shape: &str, end: u64| {
            let header = format!(
                r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{end}]}}}}"#
            );
            refusal(&header, 16)
        };
        let extent = one("BF16", "[2,3]", 16);
        assert_eq!(extent, "`w` lies in bytes 0..16, expected 12 bytes for BF16[2, 3]");
        assert!(one("F32", "[4294967296,4294967296]", 16).contains("has no size in bytes"));
        assert!(one("U8", "[18446744073709551615]", u64::MAX).contains("has no size in bytes"));
        assert!(one("F4", "[3]", 1).contains("has no size in bytes"));
        assert!(one("F33", "[1]", 4).contains("`w`: unknown variant `F33`"));
        assert!(one("F32", "[-1]", 4).contains("`w`: invalid value"));
    }

    #[test]
    fn a_header_that_is_no_table_of_tensors_is_refused() {
        let nested = "[".repeat(100_000);
        for header in ["", "[]", "{", "null", r#"{"a":1}"#, nested.as_str()] {
            assert!(matches!(parse(&file(header, 0)), Err(HeaderError::Syntax { .. })));
        }
        let w = r#""w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}"#;
        let twice = refusal(&format!("{{{w},{w}}}"), 1);
        assert!(twice.contains("`w` stands twice"), "{twice}");
    }

    #[test]
    fn a_tensor_may_have_no_elements() {
        let header = r#"{"a":{"dtype":"F32","shape":[0,5],"data_offsets":[0,0]}}"#;
        assert_eq!(parse(&file(header, 0)).unwrap()["a"].range.len(), 0);
    }
}
