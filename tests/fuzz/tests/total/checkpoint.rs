//! Checkpoints: the header of a safetensors file and the index of shards.

use q35_fuzz::{file, folder, fuzz};
use q35_runtime::checkpoint::{Checkpoint, parse_header};
use std::fs;

/// The header of a golden checkpoint and as much data as it speaks of.
fn seed() -> Vec<u8> {
    let bytes = file("golden/checkpoints/dense-tied-odd/model.safetensors");
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    bytes[..8 + length as usize].to_vec()
}

/// Only headers change, so that mutations do not get lost in the data.
#[test]
fn a_header_is_read_or_refused() {
    let whole = file("golden/checkpoints/dense-tied-odd/model.safetensors");
    let header = seed();
    let data = &whole[header.len()..];
    let json = header[8..].to_vec();
    fuzz("safetensors", &[header.clone(), json], |bytes| {
        let as_given = [bytes, data].concat();
        let length = (bytes.len() as u64).to_le_bytes();
        let with_length = [&length, bytes, data].concat();
        for file in [as_given, with_length] {
            for entry in parse_header(&file).unwrap_or_default().values() {
                let bits = entry.shape.iter().product::<usize>() * entry.dtype.bitsize();
                assert_eq!(
                    file[entry.range.clone()].len() * 8,
                    bits,
                    "a tensor lies in the file, whole"
                );
            }
        }
    });
}

#[test]
fn an_index_is_read_or_refused() {
    let name = "model.safetensors.index.json";
    let source = "golden/checkpoints/moe-perexpert-f16";
    let shard = "model.safetensors-00001-of-00001.safetensors";
    let folder = folder("index");
    fs::write(folder.join(shard), file(&format!("{source}/{shard}"))).expect("a copy of the shard");
    let index = file(&format!("{source}/{name}"));
    fuzz("index", &[index], |bytes| {
        fs::write(folder.join(name), bytes).expect("a temporary file");
        if let Ok(checkpoint) = Checkpoint::open(&folder) {
            assert!(checkpoint.tensors().all(|(_, t)| t.range.end <= t.file.bytes().len()));
        }
    });
    fs::remove_dir_all(folder).expect("the folder is ours");
}
