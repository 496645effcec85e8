//! Checkpoints of random weights, for measuring and testing without a download.
//!
//! What comes out has the names, shapes, types and shards of a published checkpoint of the same
//! config; what stands in it is said in `weights`.
//!
//! Files are written as their weights are made, and take their names only when all of them are
//! whole.

mod weights;

use q35_core::frontend::config::Config;
use q35_core::frontend::tensors::{self, Tensor};
use q35_types::DType;
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use weights::Stream;

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Synthesised {
    pub tensors: usize,
    /// Of weights, headers not counted.
    pub bytes: u64,
    pub shards: usize,
}

/// Why there is no checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum SynthError {
    #[error("`{}` already holds `{found}`, expected a directory without a checkpoint", path.display())]
    AlreadyThere { path: PathBuf, found: String },
    #[error("cannot write `{}`: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

/// Write a checkpoint of random weights into the directory `out`, made if it is not there:
/// everything that `config` lists, `config_text` as its `config.json`, and a
/// `generation_config.json`.
///
/// # Errors
///
/// A directory that holds a checkpoint, or anything that keeps a file from being written. Then
/// nothing is left behind.
pub fn synth(
    config_text: &str,
    config: &Config,
    out: &Path,
    seed: u64,
) -> Result<Synthesised, SynthError> {
    synth_sharded(config_text, config, out, seed, 4 << 30)
}

fn synth_sharded(
    config_text: &str,
    config: &Config,
    out: &Path,
    seed: u64,
    shard_bytes: u64,
) -> Result<Synthesised, SynthError> {
    refuse_checkpoint(out)?;
    let tensors = tensors::all(config);
    let (count, bytes) = (tensors.len(), tensors.iter().map(Tensor::bytes).sum());
    let shards = shards(tensors, shard_bytes);

    let mut files = Pending::new(out)?;
    for shard in &shards {
        files.write(&shard.name, |file| shard.write(seed, file))?;
    }
    if shards.len() > 1 {
        let index = index(&shards, bytes);
        files.write("model.safetensors.index.json", |f| f.write_all(&pretty(&index)))?;
    }
    let generation = generation_config(config_text, config);
    files.write("generation_config.json", |f| f.write_all(&pretty(&generation)))?;
    files.write("config.json", |f| f.write_all(config_text.as_bytes()))?;
    files.commit()?;
    Ok(Synthesised { tensors: count, bytes, shards: shards.len() })
}

fn refuse_checkpoint(out: &Path) -> Result<(), SynthError> {
    let failed = |source| SynthError::Io { path: out.into(), source };
    let entries = match fs::read_dir(out) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let found = entry.map_err(failed)?.file_name();
        let found = found.to_string_lossy();
        let of_checkpoint = found.ends_with(".safetensors")
            || found.ends_with(".safetensors.index.json")
            || found == "generation_config.json"
            || found == "config.json";
        if of_checkpoint {
            return Err(SynthError::AlreadyThere { path: out.into(), found: found.into() });
        }
    }
    Ok(())
}

/// One file of weights.
struct Shard {
    name: String,
    tensors: Vec<Tensor>,
}

/// Fill one shard after the other, none beyond `limit` unless a single tensor is.
fn shards(tensors: Vec<Tensor>, limit: u64) -> Vec<Shard> {
    let mut groups: Vec<Vec<Tensor>> = Vec::new();
    let mut room = 0;
    for tensor in tensors {
        if groups.is_empty() || tensor.bytes() > room {
            groups.push(Vec::new());
            room = limit;
        }
        room = room.saturating_sub(tensor.bytes());
        let group = groups.last_mut().expect("pushed above");
        group.push(tensor);
    }
    let count = groups.len();
    let name = |i: usize| match count {
        1 => "model.safetensors".into(),
        _ => format!("model.safetensors-{:05}-of-{count:05}.safetensors", i + 1),
    };
    let shard = |(i, mut tensors): (usize, Vec<Tensor>)| {
        // The order of the usual writers. Wide types first keeps every tensor aligned.
        tensors.sort_by(|a, b| {
            let width = |t: &Tensor| std::cmp::Reverse(t.dtype.size());
            (width(a), &a.name).cmp(&(width(b), &b.name))
        });
        Shard { name: name(i), tensors }
    };
    groups.into_iter().enumerate().map(shard).collect()
}

impl Shard {
    fn write(&self, seed: u64, file: &mut File) -> std::io::Result<()> {
        /// Enough to keep every thread busy, little beside the model.
        const BLOCK: usize = 16 << 20;
        const PART: usize = 256 << 10;

        file.write_all(&self.header())?;
        let mut block = vec![0; BLOCK];
        for tensor in &self.tensors {
            let stream = Stream::new(tensor, seed);
            let per_part = (PART / tensor.dtype.size()) as u64;
            let (mut first, mut left) = (0, tensor.bytes());
            while left > 0 {
                let take = left.min(BLOCK as u64);
                let bytes = &mut block[..take as usize];
                let parts = bytes.par_chunks_mut(PART).enumerate();
                parts.for_each(|(i, part)| stream.fill(first + i as u64 * per_part, part));
                file.write_all(bytes)?;
                first += take / tensor.dtype.size() as u64;
                left -= take;
            }
        }
        Ok(())
    }

    /// Its length, then JSON, padded so that the data is aligned to 8 bytes.
    fn header(&self) -> Vec<u8> {
        let mut entries = Map::new();
        entries.insert("__metadata__".into(), json!({"format": "pt"}));
        let mut offset = 0;
        for tensor in &self.tensors {
            let end = offset + tensor.bytes();
            let entry = json!({
                "dtype": stored_name(tensor.dtype),
                "shape": tensor.shape,
                "data_offsets": [offset, end],
            });
            entries.insert(tensor.name.clone(), entry);
            offset = end;
        }
        let mut json = Value::Object(entries).to_string().into_bytes();
        json.resize(json.len().next_multiple_of(8), b' ');
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.append(&mut json);
        header
    }
}

/// A type's name in safetensors.
fn stored_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::Bf16 => "BF16",
        DType::I32 => "I32",
    }
}

fn index(shards: &[Shard], total_size: u64) -> Value {
    let place = |shard: &Shard| {
        let file = Value::from(shard.name.clone());
        let entry = move |t: &Tensor| (t.name.clone(), file.clone());
        shard.tensors.iter().map(entry).collect::<Vec<_>>()
    };
    let mut weight_map: Vec<_> = shards.iter().flat_map(place).collect();
    weight_map.sort_by(|a, b| a.0.cmp(&b.0));
    json!({
        "metadata": {"total_size": total_size},
        "weight_map": weight_map.into_iter().collect::<Map<_, _>>(),
    })
}

/// The published sampling defaults (spec section 19), with stop ids that this vocabulary has.
fn generation_config(config_text: &str, config: &Config) -> Value {
    /// The first id after the published tokens.
    const PUBLISHED: u32 = 248_077;
    let mut generation = Map::new();
    if config.vocab_size >= PUBLISHED {
        generation.insert("bos_token_id".into(), json!(248_044));
        generation.insert("pad_token_id".into(), json!(248_044));
        generation.insert("eos_token_id".into(), json!([248_046, 248_044]));
    } else {
        let root: Value = serde_json::from_str(config_text).unwrap_or_default();
        let own = ["/text_config/eos_token_id", "/eos_token_id"];
        let own = own.iter().find_map(|path| root.pointer(path));
        if let Some(own) = own.filter(|id| !id.is_null()) {
            generation.insert("eos_token_id".into(), own.clone());
        }
    }
    generation.insert("do_sample".into(), json!(true));
    generation.insert("temperature".into(), json!(0.6));
    generation.insert("top_k".into(), json!(20));
    generation.insert("top_p".into(), json!(0.95));
    Value::Object(generation)
}

fn pretty(value: &Value) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// Files under temporary names, removed again unless all of them are committed.
struct Pending {
    out: PathBuf,
    /// Whether the directory is ours to remove.
    made: bool,
    names: Vec<String>,
    committed: bool,
}

impl Pending {
    fn new(out: &Path) -> Result<Self, SynthError> {
        let made = !out.exists();
        fs::create_dir_all(out).map_err(|source| SynthError::Io { path: out.into(), source })?;
        Ok(Pending { out: out.into(), made, names: Vec::new(), committed: false })
    }

    fn partial(&self, name: &str) -> PathBuf {
        self.out.join(format!(".{name}.partial"))
    }

    fn write(
        &mut self,
        name: &str,
        body: impl FnOnce(&mut File) -> std::io::Result<()>,
    ) -> Result<(), SynthError> {
        let partial = self.partial(name);
        self.names.push(name.into());
        let written = File::create(&partial).and_then(|mut file| {
            body(&mut file)?;
            file.flush()
        });
        written.map_err(|source| SynthError::Io { path: self.out.join(name), source })
    }

    fn commit(mut self) -> Result<(), SynthError> {
        for name in &self.names {
            let path = self.out.join(name);
            fs::rename(self.partial(name), &path)
                .map_err(|source| SynthError::Io { path, source })?;
        }
        self.committed = true;
        Ok(())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        // There is an error on its way already; one in tidying up after it would only hide it.
        for name in &self.names {
            let _ = fs::remove_file(self.partial(name));
            let _ = fs::remove_file(self.out.join(name));
        }
        if self.made {
            let _ = fs::remove_dir(&self.out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::SafeTensors;
    use std::collections::BTreeMap;

    const TINY: &str = include_str!("../../../golden/checkpoints/tiny-moe/config.json");

    #[test]
    fn what_is_written_is_what_the_config_lists() {
        let dir = TempDir::new("single");
        let config = config(TINY);
        let summary = synth(TINY, &config, &dir.0, 1).unwrap();

        let mut names: Vec<_> = fs::read_dir(&dir.0)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["config.json", "generation_config.json", "model.safetensors"]);
        assert_eq!(fs::read_to_string(dir.0.join("config.json")).unwrap(), TINY);

        let bytes = fs::read(dir.0.join("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let entry = |(name, view): (String, safetensors::tensor::TensorView)| {
            (name, (format!("{:?}", view.dtype()), view.shape().to_vec()))
        };
        let read: BTreeMap<_, _> = file.tensors().into_iter().map(entry).collect();
        let listed = |t: Tensor| {
            let shape = t.shape.iter().map(|&n| n as usize).collect();
            (t.name, (stored_name(t.dtype).to_owned(), shape))
        };
        let wanted: BTreeMap<_, _> = tensors::all(&config).into_iter().map(listed).collect();
        assert_eq!(read, wanted);
        assert_eq!((summary.tensors, summary.shards), (wanted.len(), 1));
    }

    #[test]
    fn shards_hold_the_same_weights_as_one_file() {
        let (one, many) = (TempDir::new("one"), TempDir::new("many"));
        let config = config(TINY);
        let whole = synth_sharded(TINY, &config, &one.0, 7, u64::MAX).unwrap();
        let cut = synth_sharded(TINY, &config, &many.0, 7, 600_000).unwrap();
        assert!(cut.shards > 3);
        assert_eq!((whole.tensors, whole.bytes), (cut.tensors, cut.bytes));

        let index = fs::read(many.0.join("model.safetensors.index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        assert_eq!(index["metadata"]["total_size"], json!(whole.bytes));
        let bytes = fs::read(one.0.join("model.safetensors")).unwrap();
        let whole = SafeTensors::deserialize(&bytes).unwrap();
        let mut seen = 0;
        for (name, shard) in index["weight_map"].as_object().unwrap() {
            let shard = fs::read(many.0.join(shard.as_str().unwrap())).unwrap();
            let shard = SafeTensors::deserialize(&shard).unwrap();
            let (cut, whole) = (shard.tensor(name).unwrap(), whole.tensor(name).unwrap());
            assert!(cut.data() == whole.data(), "{name}");
            seen += 1;
        }
        assert_eq!(seen, cut.tensors);
    }

    #[test]
    fn files_depend_on_the_seed_and_not_on_the_threads() {
        let config = config(TINY);
        let with = |seed, threads| {
            let dir = TempDir::new(&format!("seed{seed}threads{threads}"));
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().unwrap();
            pool.install(|| synth(TINY, &config, &dir.0, seed)).unwrap();
            fs::read(dir.0.join("model.safetensors")).unwrap()
        };
        let once = with(3, 1);
        assert!(once == with(3, 2));
        assert!(once != with(4, 1));
    }

    #[test]
    fn a_checkpoint_that_is_there_is_left_alone() {
        let dir = TempDir::new("there");
        fs::create_dir(&dir.0).unwrap();
        fs::write(dir.0.join("config.json"), "mine").unwrap();
        let error = synth(TINY, &config(TINY), &dir.0, 0).unwrap_err();
        assert!(matches!(error, SynthError::AlreadyThere { .. }), "{error}");
        assert_eq!(fs::read(dir.0.join("config.json")).unwrap(), b"mine");
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_leaves_nothing_behind() {
        let dir = TempDir::new("fails");
        let mut files = Pending::new(&dir.0).unwrap();
        files.write("a", |f| f.write_all(b"whole")).unwrap();
        let full = || Err(std::io::Error::from(std::io::ErrorKind::StorageFull));
        let error = files.write("b", |_| full()).unwrap_err();
        assert!(error.to_string().starts_with("cannot write `"), "{error}");
        assert!(dir.0.join(".a.partial").exists() && !dir.0.join("a").exists());
        drop(files);
        assert!(!dir.0.exists());
    }

    #[test]
    fn a_small_vocabulary_keeps_its_own_stop_id() {
        let generation = generation_config(TINY, &config(TINY));
        assert_eq!(generation["eos_token_id"], json!(2035));
        let published = include_str!("../../../golden/configs/Qwen3.5-0.8B.json");
        let generation = generation_config(published, &config(published));
        assert_eq!(generation["eos_token_id"], json!([248_046, 248_044]));
    }

    fn config(text: &str) -> Config {
        Config::parse(text).unwrap().config
    }

    /// A path of this test's own, removed at its end.
    struct TempDir(PathBuf);

    impl TempDir {
        fn new(name: &str) -> Self {
            let unique = format!("q35c-synth-{}-{name}", std::process::id());
            TempDir(std::env::temp_dir().join(unique))
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
