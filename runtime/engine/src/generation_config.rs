//! A checkpoint's own wishes about generation: where to stop, how to sample (spec 19).
//!
//! Read from `generation_config.json`. A key that is absent or null leaves its control off, but
//! for `do_sample`, which is false as in transformers: a checkpoint that asks for nothing is run
//! greedily. A checkpoint without the file still stops where its `config.json` says.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::sampling::{SamplingError, SamplingParams};
use crate::text::file::read_if_there;

/// The published files have 200 bytes and 4 KB.
const LARGEST_FILE: u64 = 16 << 20;

/// A generation config that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GenerationConfigError {
    /// A file is there but cannot be read.
    #[error("cannot read `{}`: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },

    /// Not a JSON object.
    #[error("`{}` is not a JSON object: {source}", path.display())]
    Json { path: PathBuf, source: serde_json::Error },

    /// A value of the wrong type.
    #[error("`{key}` of `{}` is {found}, expected {expected}", path.display())]
    Type { path: PathBuf, key: &'static str, found: String, expected: &'static str },

    /// A value out of range.
    #[error("in `{}`, {source}", path.display())]
    Range { path: PathBuf, source: SamplingError },
}

/// What a checkpoint says about generating from it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationConfig {
    /// Generation stops after any of these ids; empty if no file names one.
    pub eos_ids: Vec<u32>,
    /// How to sample. `greedy` unless `do_sample` is true: who sets another control by hand
    /// probably wants that off too.
    pub sampling: SamplingParams,
}

impl GenerationConfig {
    /// Read `generation_config.json` in `dir`, and `eos_token_id` from `config.json` if the
    /// first has none. Neither file has to exist.
    ///
    /// # Errors
    ///
    /// A file is no JSON object, or a key in use has a value of the wrong type or out of range.
    pub fn load(dir: &Path) -> Result<Self, GenerationConfigError> {
        let file = Object::load(dir.join("generation_config.json"))?;
        let sampling = file.sampling()?;
        let mut eos_ids = file.ids("eos_token_id")?;
        if eos_ids.is_empty() {
            let model = Object::load(dir.join("config.json"))?;
            eos_ids = model.ids("eos_token_id")?;
            if eos_ids.is_empty() {
                eos_ids = model.nested("text_config").ids("eos_token_id")?;
            }
        }
        Ok(Self { eos_ids, sampling })
    }
}

/// A JSON object and where it came from.
struct Object {
    path: PathBuf,
    keys: Map<String, Value>,
}

impl Object {
    fn load(path: PathBuf) -> Result<Self, GenerationConfigError> {
        let keys = match read_if_there(&path, LARGEST_FILE) {
            Ok(Some(bytes)) => match serde_json::from_slice(&bytes) {
                Ok(keys) => keys,
                Err(source) => return Err(GenerationConfigError::Json { path, source }),
            },
            Ok(None) => Map::new(),
            Err(source) => return Err(GenerationConfigError::Read { path, source }),
        };
        Ok(Self { path, keys })
    }

    /// The object at a key; anything else is as good as absent.
    fn nested(mut self, key: &str) -> Self {
        self.keys = match self.keys.remove(key) {
            Some(Value::Object(keys)) => keys,
            _ => Map::new(),
        };
        self
    }

    fn sampling(&self) -> Result<SamplingParams, GenerationConfigError> {
        let off = SamplingParams::default();
        let params = SamplingParams {
            temperature: self.number("temperature", off.temperature)?,
            top_k: self.read("top_k", "an integer, 0 or more", as_u32)?.unwrap_or(off.top_k),
            top_p: self.number("top_p", off.top_p)?,
            min_p: self.number("min_p", off.min_p)?,
            presence_penalty: self.number("presence_penalty", off.presence_penalty)?,
            frequency_penalty: self.number("frequency_penalty", off.frequency_penalty)?,
            repetition_penalty: self.number("repetition_penalty", off.repetition_penalty)?,
            seed: None,
            greedy: !self.read("do_sample", "true or false", Value::as_bool)?.unwrap_or(false),
        };
        params
            .validate()
            .map_err(|source| GenerationConfigError::Range { path: self.path.clone(), source })?;
        Ok(params)
    }

    fn number(&self, key: &'static str, absent: f32) -> Result<f32, GenerationConfigError> {
        let number = self.read(key, "a number", |v| v.as_f64().map(|x| x as f32))?;
        Ok(number.unwrap_or(absent))
    }

    /// One id or a list of them.
    fn ids(&self, key: &'static str) -> Result<Vec<u32>, GenerationConfigError> {
        let ids = self.read(key, "an id or a list of ids", |value| match value {
            Value::Array(ids) => ids.iter().map(as_u32).collect(),
            one => as_u32(one).map(|id| vec![id]),
        })?;
        Ok(ids.unwrap_or_default())
    }

    fn read<T>(
        &self,
        key: &'static str,
        expected: &'static str,
        as_type: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, GenerationConfigError> {
        let Some(value) = self.keys.get(key).filter(|v| !v.is_null()) else {
            return Ok(None);
        };
        match as_type(value) {
            Some(value) => Ok(Some(value)),
            None => Err(GenerationConfigError::Type {
                path: self.path.clone(),
                key,
                found: value.to_string(),
                expected,
            }),
        }
    }
}

fn as_u32(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|n| u32::try_from(n).ok())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Load from a folder with these files; the folder's name is cut out of messages.
    fn load(files: &[(&str, &str)]) -> Result<GenerationConfig, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "q35-generation-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir).unwrap();
        for (name, text) in files {
            fs::write(dir.join(name), text).unwrap();
        }
        let result = GenerationConfig::load(&dir);
        fs::remove_dir_all(&dir).unwrap();
        result.map_err(|e| e.to_string().replace(&format!("{}/", dir.display()), ""))
    }

    fn generation(text: &str) -> Result<GenerationConfig, String> {
        load(&[("generation_config.json", text)])
    }

    #[test]
    fn the_tiny_checkpoint_says_what_its_file_says() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/checkpoints/tiny-moe");
        let expected = GenerationConfig {
            eos_ids: vec![2037, 2035],
            sampling: SamplingParams {
                temperature: 0.6,
                top_k: 20,
                top_p: 0.95,
                ..Default::default()
            },
        };
        assert_eq!(GenerationConfig::load(&dir).unwrap(), expected);
    }

    #[test]
    fn every_control_is_read() {
        let text = r#"{"do_sample": true, "temperature": 0.7, "top_k": 5, "top_p": 0.8, "min_p": 0.05,
            "presence_penalty": 1.5, "frequency_penalty": -0.5, "repetition_penalty": 1.1, "eos_token_id": 7}"#;
        let sampling = SamplingParams {
            temperature: 0.7,
            top_k: 5,
            top_p: 0.8,
            min_p: 0.05,
            presence_penalty: 1.5,
            frequency_penalty: -0.5,
            repetition_penalty: 1.1,
            seed: None,
            greedy: false,
        };
        assert_eq!(generation(text), Ok(GenerationConfig { eos_ids: vec![7], sampling }));
    }

    #[test]
    fn without_files_generation_is_greedy_and_has_no_stop_id() {
        let expected = GenerationConfig { eos_ids: vec![], sampling: SamplingParams::greedy() };
        assert_eq!(load(&[]), Ok(expected.clone()));
        assert_eq!(generation(r#"{"temperature": null, "eos_token_id": null}"#), Ok(expected));
    }

    #[test]
    fn stop_ids_come_from_the_config_if_nothing_nearer_names_them() {
        let flat = ("config.json", r#"{"eos_token_id": 3}"#);
        let nested = ("config.json", r#"{"text_config": {"eos_token_id": [4, 5]}}"#);
        let own = ("generation_config.json", r#"{"eos_token_id": 6}"#);
        let eos = |files: &[_]| load(files).unwrap().eos_ids;
        assert_eq!(eos(&[flat]), [3]);
        assert_eq!(eos(&[nested]), [4, 5]);
        assert_eq!(eos(&[own, flat]), [6]);
    }

    #[test]
    fn bad_values_are_errors_that_name_the_key() {
        let cases = [
            (
                r#"{"top_k": -1}"#,
                "`top_k` of `generation_config.json` is -1, expected an integer, 0 or more",
            ),
            (
                r#"{"top_p": "0.9"}"#,
                "`top_p` of `generation_config.json` is \"0.9\", expected a number",
            ),
            (
                r#"{"do_sample": 1}"#,
                "`do_sample` of `generation_config.json` is 1, expected true or false",
            ),
            (
                r#"{"eos_token_id": [1, -2]}"#,
                "`eos_token_id` of `generation_config.json` is [1,-2], expected an id or a list of ids",
            ),
            (
                r#"{"eos_token_id": 4294967296}"#,
                "`eos_token_id` of `generation_config.json` is 4294967296, expected an id or a list of ids",
            ),
            (
                r#"{"temperature": -0.5}"#,
                "in `generation_config.json`, `temperature` is -0.5, expected 0 or a positive number",
            ),
            (
                r#"{"temperature": 1e300}"#,
                "in `generation_config.json`, `temperature` is inf, expected 0 or a positive number",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(generation(text).unwrap_err(), message, "{text}");
        }
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        for text in ["", "[]", "{\"top_k\": ", "\u{0}"] {
            let message = generation(text).unwrap_err();
            assert!(
                message.starts_with("`generation_config.json` is not a JSON object: "),
                "{message}"
            );
        }
    }
}
