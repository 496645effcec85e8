//! What transformers computed, and how far a run may be from it (design, Numbers).

use safetensors::{Dtype, SafeTensors};
use std::path::{Path, PathBuf};

/// One golden run of a checkpoint.
pub struct Golden {
    pub checkpoint: String,
    pub name: String,
    pub tokens: Vec<u32>,
    pub vocab: usize,
    /// `[T, vocab]`, in float32 arithmetic.
    pub logits: Vec<f32>,
    /// The library's own bf16 run: the yardstick of 16-bit paths.
    pub logits_bf16: Vec<f32>,
    /// The float32 greedy continuation, and the gap between the two best logits at each step.
    pub greedy: Vec<u32>,
    pub greedy_margin: Vec<f32>,
}

/// How far logits are from the golden ones.
#[derive(Debug, Clone, Copy)]
pub struct Distance {
    pub largest: f64,
    pub rms: f64,
}

/// The repository's `golden` folder.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden")
}

pub fn checkpoint(name: &str) -> PathBuf {
    folder().join("checkpoints").join(name)
}

/// Names of all golden checkpoints.
pub fn checkpoints() -> Vec<String> {
    let entries = std::fs::read_dir(folder().join("checkpoints")).expect("golden checkpoints");
    let mut names: Vec<String> = entries
        .map(|e| e.expect("an entry").path())
        .filter(|p| p.join("config.json").exists())
        .map(|p| p.file_name().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert!(names.len() >= 7, "the golden checkpoints are there");
    names
}

/// All golden runs of a checkpoint.
pub fn runs(checkpoint_name: &str) -> Vec<Golden> {
    let dir = checkpoint(checkpoint_name).join("golden");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .expect("goldens")
        .map(|e| e.expect("an entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    files.sort();
    files.iter().map(|f| Golden::read(checkpoint_name, f)).collect()
}

/// The golden run of a checkpoint that has the most tokens.
pub fn longest(checkpoint_name: &str) -> Golden {
    runs(checkpoint_name).into_iter().max_by_key(|g| g.tokens.len()).expect("a run")
}

/// And the one that has the fewest.
pub fn shortest(checkpoint_name: &str) -> Golden {
    runs(checkpoint_name).into_iter().min_by_key(|g| g.tokens.len()).expect("a run")
}

impl Golden {
    fn read(checkpoint: &str, path: &Path) -> Golden {
        let bytes = std::fs::read(path).expect("a golden file");
        let file = SafeTensors::deserialize(&bytes).expect("safetensors");
        let floats = |name: &str| -> Vec<f32> {
            let t = file.tensor(name).expect(name);
            match t.dtype() {
                Dtype::F32 => words(t.data()).map(f32::from_bits).collect(),
                Dtype::BF16 => t
                    .data()
                    .chunks_exact(2)
                    .map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16))
                    .collect(),
                other => panic!("`{name}` is {other:?}"),
            }
        };
        let ids = |name: &str| -> Vec<u32> {
            let t = file.tensor(name).expect(name);
            match t.dtype() {
                Dtype::I32 | Dtype::U32 => words(t.data()).collect(),
                Dtype::I64 => t
                    .data()
                    .chunks_exact(8)
                    .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect(),
                other => panic!("`{name}` is {other:?}"),
            }
        };
        Golden {
            checkpoint: checkpoint.into(),
            name: path.file_stem().expect("a name").to_string_lossy().into_owned(),
            tokens: ids("tokens"),
            vocab: file.tensor("logits_f32").expect("logits").shape()[1],
            logits: floats("logits_f32"),
            logits_bf16: floats("logits_bf16"),
            greedy: ids("greedy"),
            greedy_margin: floats("greedy_margin"),
        }
    }

    pub fn deviation(&self) -> f64 {
        let n = self.logits.len() as f64;
        let mean = self.logits.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        (self.logits.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt()
    }

    /// Of `found`, the logits of the first positions.
    pub fn distance(&self, found: &[f32]) -> Distance {
        assert!(
            found.len() <= self.logits.len() && found.len().is_multiple_of(self.vocab),
            "whole rows"
        );
        let error = |i: usize| f64::from(found[i]) - f64::from(self.logits[i]);
        let errors = || (0..found.len()).map(error);
        assert!(errors().all(f64::is_finite), "{}: logits are finite", self.title());
        Distance {
            largest: errors().map(f64::abs).fold(0.0, f64::max),
            rms: (errors().map(|e| e * e).sum::<f64>() / found.len() as f64).sqrt(),
        }
    }

    /// `found` is within the bound of float32 arithmetic with a float32 cache.
    pub fn assert_float32(&self, found: &[f32], how: &str) {
        let share = self.distance(found).largest / self.deviation();
        assert!(
            share < 1e-3,
            "{}, {how}: largest error {share:.2e} of the deviation",
            self.title()
        );
    }

    /// `found` is as near as the library's own bf16 run, within the factors allowed.
    pub fn assert_sixteen_bit(&self, found: &[f32], how: &str) {
        let (ours, theirs) =
            (self.distance(found), self.distance(&self.logits_bf16[..found.len()]));
        assert!(
            ours.rms <= 1.25 * theirs.rms && ours.largest <= 2.0 * theirs.largest,
            "{}, {how}: {ours:?}, and the yardstick is {theirs:?}",
            self.title(),
        );
    }

    /// As [`assert_sixteen_bit`](Self::assert_sixteen_bit), of the RMS error alone.
    pub fn assert_sixteen_bit_rms(&self, found: &[f32], how: &str) {
        let (ours, theirs) = (self.distance(found).rms, self.distance(&self.logits_bf16).rms);
        assert!(
            ours <= 1.25 * theirs,
            "{}, {how}: {ours}, and the yardstick is {theirs}",
            self.title()
        );
    }

    /// Greedy tokens equal the golden's up to the first step where they are closer than the
    /// error: the number of steps that can be compared.
    pub fn clear_steps(&self, largest_error: f64) -> usize {
        let unclear = |&m: &f32| f64::from(m) < 2.0 * largest_error;
        self.greedy_margin.iter().position(unclear).unwrap_or(self.greedy.len())
    }

    pub fn title(&self) -> String {
        format!("{}/{}", self.checkpoint, self.name)
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().expect("four bytes")))
}
