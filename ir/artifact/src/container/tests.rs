use super::*;
use crate::sample;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the header's JSON has its own hash.
const DIGITS: std::ops::Range<usize> = 38..38 + 64;

fn error(bytes: &[u8]) -> ArtifactError {
    let read = Artifact::from_bytes(bytes).map(drop);
    read.expect_err("not a sound artifact")
}

/// A file with sound hashes and any sections.
fn file(contents: &[(String, Vec<u8>)]) -> Vec<u8> {
    let sections: Vec<_> = contents.iter().map(described).collect();
    let mut out = header::write(&sections);
    contents.iter().for_each(|(_, bytes)| out.extend(bytes));
    out
}

/// The sample's file after `change` of one section.
fn with_section(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut contents = sample::artifact().contents();
    let section = contents.iter_mut().find(|(n, _)| n == name);
    change(&mut section.expect("a section of the sample").1);
    file(&contents)
}

/// An empty folder that is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("q35-artifact-{name}-{}", std::process::id()));
        fs::create_dir(&path).expect("a temporary folder");
        Folder(path)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("the folder");
        let name = |e: fs::DirEntry| e.file_name().to_string_lossy().into_owned();
        entries.map(|e| name(e.expect("an entry"))).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("the folder is ours");
    }
}

#[test]
fn what_is_written_is_read() {
    let artifact = sample::artifact();
    let bytes = artifact.to_bytes();
    assert_eq!(Artifact::from_bytes(&bytes).expect("ours"), artifact);
    assert_eq!(artifact.to_bytes(), bytes);
}

#[test]
fn the_header_is_what_the_module_says() {
    let sections = [Section { name: "config".into(), bytes: 2, blake3: "ab".into() }];
    let header = header::write(&sections);
    assert_eq!(header.len() % ALIGN, 0);
    assert_eq!(header[..8], (header.len() as u64 - 8).to_le_bytes());
    let text = String::from_utf8(header[8..].to_vec()).expect("JSON");
    let (start, end) = (&text[..DIGITS.start], &text[DIGITS.end..]);
    assert_eq!(start, r#"{"__metadata__":{"q35":"{\"blake3\":\""#);
    let digits = &text[DIGITS];
    assert_eq!(
        end.trim_end(),
        r#"\",\"version\":1,\"sections\":[{\"name\":\"config\",\"bytes\":2,\"blake3\":\"ab\"}]}"},"config":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#
    );
    let zeroed = [&header[..8], text.replace(digits, &"0".repeat(64)).as_bytes()].concat();
    assert_eq!(blake3::hash(&zeroed).to_hex().as_str(), digits);
}

#[test]
fn the_file_is_safetensors_and_code_is_aligned() {
    let artifact = sample::artifact();
    let bytes = artifact.to_bytes();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    assert_eq!(tensors.tensor("config").expect("there").data(), artifact.config.as_bytes());
    let code = tensors.tensor("code.cpu.avx2").expect("there").data();
    assert_eq!((code.as_ptr() as usize - bytes.as_ptr() as usize) % ALIGN, 0);
    let kernels = &artifact.targets[0].variants[1].kernels;
    assert_eq!(code[..60], kernels[0].1);
    assert_eq!(code[64..64 + 65], kernels[1].1);
    assert_eq!(code[64 + 65..192], [0; 63]);
}

#[test]
fn sections_are_those_of_the_file() {
    let artifact = sample::artifact();
    let names: Vec<_> = artifact.sections().into_iter().map(|s| s.name).collect();
    assert_eq!(
        names,
        [
            "code.cpu.sse2",
            "code.cpu.avx2",
            "config",
            "model",
            "graph.prefill",
            "graph.decode",
            "manifest",
            "target.cpu",
            "plan.cpu",
        ]
    );
    let config = &artifact.sections()[2];
    assert_eq!(config.bytes, artifact.config.len() as u64);
    assert_eq!(config.blake3, blake3::hash(artifact.config.as_bytes()).to_hex().to_string());
}

#[test]
fn a_file_cut_anywhere_is_called_truncated() {
    let bytes = sample::artifact().to_bytes();
    for n in 0..bytes.len() {
        let error = error(&bytes[..n]);
        assert!(
            matches!(error, ArtifactError::Truncated { found, expected }
                if found == n as u64 && expected > found),
            "{n}: {error}"
        );
    }
}

#[test]
fn any_flipped_bit_is_found() {
    let mut bytes = sample::artifact().to_bytes();
    for i in 0..bytes.len() {
        for bit in 0..8 {
            bytes[i] ^= 1 << bit;
            let error = error(&bytes);
            let expected = match i {
                0..8 => {
                    matches!(error, ArtifactError::Damaged { .. } | ArtifactError::Truncated { .. })
                }
                8..46 => matches!(error, ArtifactError::Foreign { .. }),
                _ => matches!(error, ArtifactError::Damaged { .. }),
            };
            assert!(expected, "byte {i}, bit {bit}: {error}");
            bytes[i] ^= 1 << bit;
        }
    }
}

#[test]
fn damage_is_named() {
    let mut bytes = sample::artifact().to_bytes();
    *bytes.last_mut().expect("not empty") ^= 1;
    assert_eq!(
        error(&bytes).to_string(),
        "`plan.cpu` of the artifact does not match its BLAKE3 hash: the file is damaged"
    );
    bytes.push(0);
    let n = bytes.len();
    assert_eq!(error(&bytes).to_string(), format!("artifact has {n} bytes, expected {}", n - 1));
}

#[test]
fn other_files_are_not_ours() {
    let checkpoint = safetensors::serialize(
        [(
            "weight",
            safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![2], &[1, 2])
                .expect("two bytes"),
        )],
        None,
    )
    .expect("a safetensors file");
    assert_eq!(
        error(&checkpoint).to_string(),
        "not an artifact of q35c: looks like a safetensors file with something else in it"
    );
    for other in [&b"\x7fELF\x02\x01\x01\0\0\0\0\0"[..], &[0xff; 300], b"{ \"model_type\": 1 }"] {
        assert_eq!(
            error(other).to_string(),
            "not an artifact of q35c: neither its format nor its name is there"
        );
    }
}

/// The sample's header as text with `from` replaced, rehashed, and the sections.
fn with_header(from: &str, to: &str) -> Vec<u8> {
    let artifact = sample::artifact();
    let (bytes, header) = (artifact.to_bytes(), header::write(&artifact.sections()));
    let text = std::str::from_utf8(&header[8..]).expect("JSON");
    assert!(text.contains(from), "{from} is in {text}");
    let mut text = text.replacen(from, to, 1);
    text.replace_range(DIGITS, &"0".repeat(64));
    let mut changed = (text.len() as u64).to_le_bytes().to_vec();
    changed.extend(text.bytes());
    let hash = blake3::hash(&changed).to_hex();
    changed[8..][DIGITS].copy_from_slice(hash.as_bytes());
    [&changed, &bytes[header.len()..]].concat()
}

#[test]
fn a_later_version_is_named_even_if_nothing_else_can_be_read() {
    let later = with_header(r#"version\":1,\"sections\":["#, r#"version\":2,\"new\":["#);
    assert_eq!(error(&later).to_string(), "artifact has format version 2, expected 1");
}

#[test]
fn a_header_is_believed_only_in_the_form_that_we_write() {
    assert!(Artifact::from_bytes(&with_header("}", "}")).is_ok(), "no change, no error");
    for (from, to) in [
        ("data_offsets\":[0,", "data_offsets\":[1,"),
        ("\"shape\":[", "\"shape\":[1,"),
        ("U8", "I8"),
        ("\"config\"", "\"confix\""),
        ("  ", " "),
        ("\\\"bytes\\\":", "\\\"bytes\\\":1"),
        ("\\\"bytes\\\":", "\\\"bytes\\\":-"),
        ("\\\"bytes\\\":", "\\\"bytes\\\":99999999999999999999"),
        ("\\\"sections\\\":", "\\\"sections\\\":1e9,\\\"x\\\":"),
    ] {
        let error = error(&with_header(from, to));
        assert!(matches!(error, ArtifactError::Header { .. }), "{from} {to}: {error}");
    }
}

#[test]
fn sizes_that_overflow_are_only_a_short_file() {
    let huge = |name: &str| Section { name: name.into(), bytes: u64::MAX, blake3: String::new() };
    let header = header::write(&[huge("a"), huge("b")]);
    assert!(matches!(error(&header), ArtifactError::Truncated { expected: u64::MAX, .. }));
}

#[test]
fn sections_are_all_there_and_no_others() {
    let contents = sample::artifact().contents();
    for i in 0..contents.len() {
        let mut less = contents.clone();
        let (name, _) = less.remove(i);
        if name.starts_with("graph.") {
            assert!(Artifact::from_bytes(&file(&less)).is_ok(), "no text is needed to run");
            continue;
        }
        let error = error(&file(&less));
        let expected = match name.split('.').next() {
            // Without a list of what should be there, its code and plan are what is too much.
            Some("target") => matches!(error, ArtifactError::UnexpectedSection { .. }),
            _ => matches!(&error, ArtifactError::MissingSection { name: n } if *n == name),
        };
        assert!(expected, "{name}: {error}");
    }
    let mut more = contents.clone();
    more.push(("plan.gpu".into(), vec![]));
    assert_eq!(
        error(&file(&more)).to_string(),
        "artifact has a section `plan.gpu`, expected no more"
    );
    let mut swapped = contents.clone();
    swapped.swap(2, 3);
    assert_eq!(
        error(&file(&swapped)).to_string(),
        "artifact has a section `model`, expected `config`"
    );
    let mut twice = contents;
    twice.push(twice[2].clone());
    assert_eq!(
        error(&file(&twice)).to_string(),
        "artifact has a section `config`, expected no more"
    );
}

#[test]
fn sections_have_one_form() {
    assert_eq!(
        error(&with_section("model", |b| b.push(b' '))).to_string(),
        "section `model` is not written as q35c writes it"
    );
    assert_eq!(
        error(&with_section("code.cpu.sse2", |b| b[63] = 1)).to_string(),
        "section `code.cpu.sse2` is not written as q35c writes it"
    );
    assert_eq!(
        error(&with_section("code.cpu.sse2", |b| b.truncate(64))).to_string(),
        "section `code.cpu.sse2` has 64 bytes of code, expected 448"
    );
    assert_eq!(
        error(&with_section("config", |b| b.push(0xff))).to_string(),
        "section `config` is not UTF-8"
    );
    assert_eq!(
        error(&with_section("plan.cpu", |b| b.truncate(20))).to_string(),
        "section `plan.cpu`: EOF while parsing a string at line 1 column 20"
    );
}

#[test]
fn tables_that_overflow_are_refused() {
    let most = u64::MAX.to_string();
    let changed = with_section("target.cpu", |b| {
        let text = String::from_utf8(std::mem::take(b)).expect("JSON");
        *b = text.replace("[\"mix\",65]", &format!("[\"mix\",{most}]")).into_bytes();
    });
    assert!(matches!(error(&changed), ArtifactError::CodeLength { expected: u64::MAX, .. }));
}

#[test]
fn what_is_read_is_checked() {
    let mut artifact = sample::artifact();
    artifact.targets[0].plan.entries[0].max_tokens = 0;
    assert_eq!(
        error(&artifact.to_bytes()).to_string(),
        "section `plan.cpu`: `entries[0].max_tokens` is 0, expected 1 to 64"
    );
}

/// The same numbers on every host.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) % n as u64) as usize
    }
}

/// Change one value somewhere inside.
fn mutate(value: &mut serde_json::Value, random: &mut Random) {
    use serde_json::{Value, json};
    let inside = match value {
        Value::Array(items) if !items.is_empty() => {
            let i = random.below(items.len());
            match random.below(12) {
                0 => drop(items.remove(i)),
                1 => items.insert(i, items[i].clone()),
                2 => items.reverse(),
                _ => return mutate(&mut items[i], random),
            }
            true
        }
        Value::Object(fields) if !fields.is_empty() => {
            let i = random.below(fields.len());
            let key = fields.keys().nth(i).expect("in range").clone();
            if random.below(30) > 0 {
                return mutate(&mut fields[&key], random);
            }
            fields.remove(&key);
            true
        }
        _ => false,
    };
    if inside {
        return;
    }
    let numbers =
        [0, 1, 2, 3, 63, 64, 65, 1 << 20, 1 << 28, (1 << 31) - 1, 1 << 31, u64::from(u32::MAX)];
    let large = [1 << 32, 1 << 40, 1 << 47, i64::MAX as u64, u64::MAX];
    *value = match (&*value, random.below(8)) {
        (_, 0) => json!(null),
        (_, 1) => json!("decode"),
        (Value::Number(_), 2) => json!(large[random.below(large.len())]),
        (Value::Number(n), 3) if n.is_u64() => json!(n.as_u64().map(|n| n.wrapping_add(1))),
        (Value::Number(n), 4) if n.is_f64() => json!(-1.5),
        (Value::String(_), _) => {
            json!(["f32", "i32", "rows", "panels", "{layer}", "once"][random.below(6)])
        }
        _ => json!(numbers[random.below(numbers.len())]),
    };
}

#[test]
fn whatever_the_json_says_nothing_overflows_later() {
    let contents = sample::artifact().contents();
    let sections = ["model", "manifest", "target.cpu", "plan.cpu"];
    let mut random = Random(1);
    let (mut sound, mut refused) = (0, 0);
    for round in 0..6000 {
        let mut changed = contents.clone();
        let name = sections[round % sections.len()];
        let section = changed.iter_mut().find(|(n, _)| n == name).expect("there");
        let mut value = serde_json::from_slice(&section.1).expect("JSON");
        for _ in 0..1 + random.below(3) {
            mutate(&mut value, &mut random);
        }
        section.1 = serde_json::to_vec(&value).expect("JSON");
        let bytes = file(&changed);
        match Artifact::from_bytes(&bytes) {
            Err(_) => refused += 1,
            Ok(artifact) => {
                sound += 1;
                assert_eq!(artifact.to_bytes(), bytes);
                use_as_the_runtime_does(&artifact);
            }
        }
    }
    assert!(sound > 100 && refused > 1000, "{sound} sound, {refused} refused");
}

/// The arithmetic and the look-ups that a runtime does unchecked; tests run with overflow checks.
fn use_as_the_runtime_does(artifact: &Artifact) {
    let weights = &artifact.manifest.weights;
    let copies = |w: &crate::Weight| w.instances().count() * w.experts.unwrap_or(1) as usize;
    let _: usize = weights.iter().map(|w| w.packed().bytes() * copies(w)).sum();
    for target in &artifact.targets {
        let plan = &target.plan;
        let _ = plan.step.words() * 4;
        for (state, layers) in plan.states.iter().map(|s| (s, s.layers.len() as u64)) {
            let _ = state.unit_bytes * layers * 4096;
        }
        for entry in &plan.entries {
            for &(block, _) in &entry.sequence {
                for launch in &entry.blocks[block as usize].launches {
                    let kernel = &plan.kernels[launch.kernel as usize];
                    assert_eq!(kernel.params.len(), launch.args.len());
                    assert_eq!(target.variants[0].kernels[launch.kernel as usize].0, kernel.name);
                }
            }
        }
    }
}

#[test]
fn random_bytes_after_a_sound_start_give_an_error() {
    let bytes = sample::artifact().to_bytes();
    let mut random = Random(2);
    for _ in 0..2000 {
        let keep = random.below(bytes.len());
        let mut changed = bytes[..keep].to_vec();
        changed.extend((0..random.below(300)).map(|_| random.below(256) as u8));
        if changed != bytes[..changed.len().min(bytes.len())] {
            error(&changed);
        }
    }
}

#[test]
fn a_written_file_is_read_and_replaces_what_was_there() {
    let folder = Folder::new("written");
    let path = folder.0.join("model.bin");
    fs::write(&path, "old").expect("writable");
    let artifact = sample::artifact();
    artifact.write_file(&path).expect("writable");
    assert_eq!(Artifact::read_file(&path).expect("ours"), artifact);
    assert_eq!(fs::read(&path).expect("there"), artifact.to_bytes());
    assert_eq!(folder.names(), ["model.bin"]);
}

#[test]
fn where_nothing_can_be_written_nothing_is_left() {
    let folder = Folder::new("unwritable");
    let write = |path: &Path| sample::artifact().write_file(path).expect_err("unwritable");
    let missing = folder.0.join("missing/model.bin");
    let said = write(&missing).to_string();
    assert!(
        said.starts_with(&format!("cannot write `{}`: No such file", missing.display())),
        "{said}"
    );
    assert!(matches!(write(&folder.0), ArtifactError::Write { .. }));
    assert!(folder.names().is_empty());
}

#[test]
fn a_file_that_is_none_of_ours_is_not_read_to_its_end() {
    let folder = Folder::new("large");
    let path = folder.0.join("checkpoint");
    // Larger than memory, but for the start it takes no space.
    let file = fs::File::create(&path).expect("writable");
    file.set_len(1 << 42).expect("a sparse file");
    assert!(matches!(Artifact::read_file(&path), Err(ArtifactError::Foreign { .. })));
    assert!(matches!(
        Artifact::read_file(&folder.0.join("nothing")),
        Err(ArtifactError::Read { .. })
    ));
}

#[cfg(target_os = "linux")]
mod linux {
    use super::*;

    #[test]
    fn a_full_disk_is_an_error() {
        let full = Path::new("/dev/full");
        let said = sample::artifact().write_file(full).expect_err("full").to_string();
        assert!(said.starts_with("cannot write `/dev/full`: No space left"), "{said}");
        let kind = fs::metadata(full).expect("still there").file_type();
        assert!(!kind.is_file(), "the device was written to, not replaced");
    }

    #[test]
    fn a_write_that_fails_halfway_leaves_what_was_there() {
        // In a process of its own, whose files may have no more than 1 KiB.
        let folder = Folder::new("limited");
        let path = folder.0.join("model.bin");
        fs::write(&path, "old").expect("writable");
        let test = std::env::current_exe().expect("this test");
        let status = std::process::Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 2; exec \"$0\" \"$@\""])
            .arg(test)
            .args(["--exact", "container::tests::linux::write_to_the_path_given", "--ignored"])
            .env("Q35_TEST_PATH", &path)
            .stdout(std::process::Stdio::null())
            .status()
            .expect("a shell");
        assert!(status.success());
        assert_eq!(fs::read(&path).expect("there"), b"old");
        assert_eq!(folder.names(), ["model.bin"]);
    }

    #[test]
    #[ignore = "run by the test above, in a process whose files cannot grow"]
    fn write_to_the_path_given() {
        let path = std::env::var_os("Q35_TEST_PATH").expect("run by the test above");
        let error = sample::artifact().write_file(Path::new(&path)).expect_err("too large");
        assert!(error.to_string().contains("File too large"), "{error}");
    }

    #[test]
    fn behind_a_link_the_file_is_replaced() {
        let folder = Folder::new("link");
        let (file, link) = (folder.0.join("file"), folder.0.join("link"));
        fs::write(&file, "old").expect("writable");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        sample::artifact().write_file(&link).expect("writable");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert!(Artifact::read_file(&file).is_ok());
    }
}
