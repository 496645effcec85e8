//! The random weights themselves.
//!
//! They are scaled so that activations neither vanish nor overflow at any depth, since arithmetic
//! on zeros, infinities or denormals would not cost what the real one does. Every element is a
//! function of the seed, the tensor's name and its own index, so files do not depend on the number
//! of threads or on how tensors are cut into shards.

use half::{bf16, f16};
use q35_core::frontend::tensors::{Role, Tensor};
use q35_types::DType;

/// The elements of one tensor, each computable alone.
pub(super) struct Stream {
    key: u64,
    draw: Draw,
    dtype: DType,
}

/// Where elements are drawn from.
#[derive(Debug, Clone, Copy)]
enum Draw {
    Normal {
        mean: f32,
        std: f32,
    },
    Uniform {
        least: f32,
        most: f32,
    },
    /// `ln(a)`, a uniform in 1..16: decay rates.
    ALog,
    /// The inverse softplus of a step that is log-uniform in 0.001..0.1.
    DtBias,
}

impl Stream {
    pub fn new(tensor: &Tensor, seed: u64) -> Self {
        // FNV-1a, so that a tensor's weights follow from its name.
        let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        let name = tensor.name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
        Stream { key: mix(mix(seed) ^ name), draw: draw(tensor), dtype: tensor.dtype }
    }

    /// Elements from index `first` on, as many as `out` holds.
    pub fn fill(&self, first: u64, out: &mut [u8]) {
        match self.draw {
            Draw::Normal { mean, std } => {
                self.store(first, out, |bits| mean + std * normal(bits));
            }
            Draw::Uniform { least, most } => {
                self.store(first, out, |bits| least + (most - least) * unit(bits));
            }
            Draw::ALog => self.store(first, out, |bits| (1.0 + 15.0 * unit(bits)).ln()),
            Draw::DtBias => self.store(first, out, |bits| {
                let dt = 1e-3 * 100f32.powf(unit(bits));
                dt + (-(-dt).exp_m1()).ln()
            }),
        }
    }

    fn store(&self, first: u64, out: &mut [u8], sample: impl Fn(u64) -> f32) {
        match self.dtype {
            DType::F32 => self.each(first, out, |bits| sample(bits).to_le_bytes()),
            DType::F16 => self.each(first, out, |bits| f16::from_f32(sample(bits)).to_le_bytes()),
            DType::Bf16 => self.each(first, out, |bits| bf16::from_f32(sample(bits)).to_le_bytes()),
            DType::I32 => unreachable!("weights are floats"),
        }
    }

    fn each<const N: usize>(&self, first: u64, out: &mut [u8], element: impl Fn(u64) -> [u8; N]) {
        for (index, slot) in (first..).zip(out.as_chunks_mut().0) {
            *slot = element(mix(self.key.wrapping_add(index)));
        }
    }
}

/// What suits a tensor's place in the model.
fn draw(tensor: &Tensor) -> Draw {
    let normal = |mean, std| Draw::Normal { mean, std };
    let fan_in = |axes: &[u64]| normal(0.0, (axes.iter().product::<u64>() as f32).powf(-0.5));
    let last = tensor.shape.len() - 1;
    match tensor.role {
        // Scaled as 1 + w, so near 0.
        Role::Norm
        | Role::InputLayernorm
        | Role::PostAttentionLayernorm
        | Role::QNorm
        | Role::KNorm
        | Role::MtpNorm
        | Role::MtpNormHidden
        | Role::MtpNormEmbedding => normal(0.0, 0.05),
        Role::LinearNorm | Role::VisionNormWeight => normal(1.0, 0.05),
        Role::ALog => Draw::ALog,
        Role::DtBias => Draw::DtBias,
        Role::Conv1d => Draw::Uniform { least: -0.5, most: 0.5 },
        Role::VisionBias | Role::VisionPosEmbed => normal(0.0, 0.02),
        Role::VisionPatchEmbed => fan_in(&tensor.shape[1..]),
        // Matrices, `[.., in]`. The embedding too: it may be the head.
        Role::EmbedTokens
        | Role::LmHead
        | Role::QProj
        | Role::KProj
        | Role::VProj
        | Role::OProj
        | Role::InProjQkv
        | Role::InProjZ
        | Role::InProjB
        | Role::InProjA
        | Role::OutProj
        | Role::GateProj
        | Role::UpProj
        | Role::DownProj
        | Role::Router
        | Role::ExpertsGateUp
        | Role::ExpertsDown
        | Role::ExpertGate
        | Role::ExpertUp
        | Role::ExpertDown
        | Role::SharedGateProj
        | Role::SharedUpProj
        | Role::SharedDownProj
        | Role::SharedExpertGate
        | Role::MtpFc
        | Role::VisionWeight => fan_in(&tensor.shape[last..]),
    }
}

/// SplitMix64: neighbouring numbers in, unrelated bits out.
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Uniform in 0..=1.
fn unit(bits: u64) -> f32 {
    (bits >> 40) as f32 / ((1 << 24) - 1) as f32
}

/// Of mean 0 and deviation 1: the sum of four uniform numbers, which is near enough to a bell and
/// costs a tenth of one.
fn normal(bits: u64) -> f32 {
    const DEVIATION: f32 = 37_837.23; // of such a sum: 65536 / sqrt(3)
    const MEAN: f32 = 131_070.0;
    let quarter = |i: u32| (bits >> (16 * i)) as u16;
    let sum: u32 = (0..4).map(|i| u32::from(quarter(i))).sum();
    (sum as f32 - MEAN) / DEVIATION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_scaled_as_their_place_wants() {
        let tensor = |role, shape: &[u64]| Tensor {
            name: "x".into(),
            shape: shape.into(),
            dtype: DType::F32,
            role,
        };
        let sample = |role, shape: &[u64]| {
            let tensor = tensor(role, shape);
            let mut bytes = vec![0; tensor.bytes() as usize];
            Stream::new(&tensor, 0).fill(0, &mut bytes);
            let values: Vec<f32> =
                bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            let n = values.len() as f32;
            let mean = values.iter().sum::<f32>() / n;
            let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n;
            (values, mean, variance.sqrt())
        };
        let near = |got: f32, wanted: f32| (got - wanted).abs() < 0.02 * wanted.abs().max(0.05);

        let (_, mean, std) = sample(Role::GateProj, &[256, 400]);
        assert!(near(mean, 0.0) && near(std, 0.05), "{mean} {std}");
        let (_, mean, std) = sample(Role::LinearNorm, &[100_000]);
        assert!(near(mean, 1.0) && near(std, 0.05), "{mean} {std}");
        let (taps, ..) = sample(Role::Conv1d, &[25_000, 1, 4]);
        assert!(taps.iter().all(|t| t.abs() <= 0.5));
        let (rates, ..) = sample(Role::ALog, &[1000]);
        assert!(rates.iter().all(|r| (1.0..=16.0001).contains(&r.exp())));
        let (biases, ..) = sample(Role::DtBias, &[1000]);
        let steps = biases.iter().map(|b| b.exp().ln_1p());
        let (least, most) = steps.fold((1.0f32, 0.0f32), |(l, m), s| (l.min(s), m.max(s)));
        assert!((0.00099..0.0015).contains(&least), "{least}");
        assert!((0.08..0.1001).contains(&most), "{most}");
    }
}
