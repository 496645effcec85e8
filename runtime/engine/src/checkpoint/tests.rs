//! Index and shards that agree, and every way in which they do not.

use super::*;
use crate::testing::{Folder, safetensors};

fn shard(names: &[&str]) -> Vec<u8> {
    let tensors: Vec<_> = names.iter().map(|&n| (n, Dtype::U8, vec![2], vec![1, 2])).collect();
    safetensors(&tensors)
}

fn index(map: &[(&str, &str)]) -> Vec<u8> {
    let map: BTreeMap<_, _> = map.iter().copied().collect();
    serde_json::to_vec(&serde_json::json!({"metadata": {"total_size": 4}, "weight_map": map}))
        .unwrap()
}

/// Shards `1` and `2` with the given tensors, and an index.
fn refusal(one: &[&str], two: &[&str], map: &[(&str, &str)]) -> String {
    let folder = Folder::new();
    folder.write("1", &shard(one));
    folder.write("2", &shard(two));
    folder.write(INDEX, &index(map));
    Checkpoint::open(folder.path()).unwrap_err().to_string()
}

#[test]
fn shards_make_up_one_checkpoint() {
    let folder = Folder::new();
    folder.write("1", &shard(&["a", "b"]));
    folder.write("2", &shard(&["c"]));
    folder.write(INDEX, &index(&[("a", "1"), ("b", "1"), ("c", "2")]));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let names: Vec<_> = checkpoint.tensors().map(|(name, _)| name).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(checkpoint.get("c").unwrap().bytes(), [1, 2]);
}

#[test]
fn a_single_file_is_a_checkpoint_by_itself_and_in_a_folder() {
    let folder = Folder::new();
    folder.write(SINGLE, &shard(&["a"]));
    for path in [folder.path().to_owned(), folder.path().join(SINGLE)] {
        assert!(Checkpoint::open(&path).unwrap().get("a").is_some());
    }
}

#[test]
fn a_folder_without_weights_is_refused() {
    let folder = Folder::new();
    assert!(matches!(Checkpoint::open(folder.path()), Err(CheckpointError::NoWeights { .. })));
}

#[test]
fn a_broken_file_is_named() {
    let folder = Folder::new();
    folder.write(SINGLE, &shard(&["a"])[..20]);
    let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains(SINGLE) && error.contains("20 bytes"), "{error}");
}

#[test]
fn a_missing_shard_is_refused() {
    let folder = Folder::new();
    folder.write("1", &shard(&["a"]));
    folder.write(INDEX, &index(&[("a", "1"), ("b", "2")]));
    let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert_eq!(error, "shard `2` is missing, expected beside the index, which assigns it `b`");
}

#[test]
fn an_index_that_names_an_absent_tensor_is_refused() {
    let error = refusal(&["a"], &["c"], &[("a", "1"), ("b", "1"), ("c", "2")]);
    assert_eq!(error, "`b` is not in `1`, where the index says it is");
}

#[test]
fn a_tensor_that_the_index_lacks_is_refused() {
    let error = refusal(&["a", "b"], &["c"], &[("a", "1"), ("c", "2")]);
    assert_eq!(error, "`b` in `1` is not in the index");
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let error = refusal(&["a", "c"], &["c"], &[("a", "1"), ("c", "2")]);
    assert_eq!(error, "`c` is in both `2` and `1`");
}

#[test]
fn a_tensor_in_another_shard_than_the_index_says_is_refused() {
    let error = refusal(&["a", "b"], &["c"], &[("a", "1"), ("b", "2"), ("c", "2")]);
    assert_eq!(error, "`b` is in `1`, but the index says it is in `2`");
}

#[test]
fn an_index_that_leads_out_of_its_folder_or_is_none_is_refused() {
    for name in ["../1", "/etc/passwd", "a/b", "..", ""] {
        let folder = Folder::new();
        folder.write(INDEX, &index(&[("a", name)]));
        let error = Checkpoint::open(folder.path()).unwrap_err();
        assert!(matches!(error, CheckpointError::Index { .. }), "{name}: {error}");
    }
    for text in ["", "[]", "{}", r#"{"weight_map":{}}"#, r#"{"weight_map":{"a":1}}"#] {
        let folder = Folder::new();
        folder.write(INDEX, text.as_bytes());
        let error = Checkpoint::open(folder.path()).unwrap_err();
        assert!(matches!(error, CheckpointError::Index { .. }), "{text}: {error}");
    }
}
