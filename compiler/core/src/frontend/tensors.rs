//! Every tensor of a checkpoint: its name, shape, stored type and role.
//!
//! This table is the one home of the names. The graph builder takes its weights from it, the
//! manifest the names to ignore, `synth` writes what it lists, and `count` adds it up. A layer's
//! rows are written once, with [`LAYER`] in the place of its number and [`EXPERT`] in that of an
//! expert's: [`layer_pattern`] hands them out so, [`layer`] fills them in.
//!
//! Sources: spec section 3 (text), 11.1 (prediction block), 12 (vision).

use super::config::{Config, LayerKind, Mlp, Moe, Vision};
use q35_types::DType;

/// Stands for the number of the layer in a name.
pub const LAYER: &str = "{}";
/// Stands for the number of the expert in a name, where experts are stored one by one.
pub const EXPERT: &str = "{e}";

/// A tensor of the checkpoint, or the row for one in every layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    pub name: String,
    /// Outermost first; matrices are `[out, in]`.
    pub shape: Vec<u64>,
    /// As published. Another float type in the file is as good.
    pub dtype: DType,
    pub role: Role,
}

/// What a tensor is to the model. Within [`top`], and within one layer's pattern, each role is
/// there at most once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    // The text model around its layers.
    EmbedTokens,
    Norm,
    LmHead,
    // Every layer.
    InputLayernorm,
    PostAttentionLayernorm,
    // `self_attn`. Rows of `q_proj`: per head its query, then its gate.
    QProj,
    KProj,
    VProj,
    OProj,
    QNorm,
    KNorm,
    // `linear_attn`. Rows of `in_proj_qkv`: all q, all k, all v.
    InProjQkv,
    InProjZ,
    InProjB,
    InProjA,
    Conv1d,
    ALog,
    DtBias,
    LinearNorm,
    OutProj,
    // `mlp`, dense.
    GateProj,
    UpProj,
    DownProj,
    // `mlp`, mixture: the router, all experts in one tensor, or one of them.
    Router,
    ExpertsGateUp,
    ExpertsDown,
    ExpertGate,
    ExpertUp,
    ExpertDown,
    SharedGateProj,
    SharedUpProj,
    SharedDownProj,
    SharedExpertGate,
    // The prediction block around its layers.
    MtpFc,
    MtpNorm,
    MtpNormHidden,
    MtpNormEmbedding,
    // The vision tower, which is not compiled: only what initial values depend on.
    VisionPatchEmbed,
    VisionPosEmbed,
    VisionNormWeight,
    VisionWeight,
    VisionBias,
}

/// How the experts of a layer are stored (spec section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Experts {
    /// `gate_up_proj` and `down_proj` of all experts, each in one tensor of three axes.
    Fused,
    /// Three matrices an expert.
    Apart,
}

impl Role {
    /// Whether every expert has a tensor of this role to itself.
    pub const fn is_of_one_expert(self) -> bool {
        matches!(self, Role::ExpertGate | Role::ExpertUp | Role::ExpertDown)
    }
}

impl Tensor {
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Bytes in the checkpoint.
    pub fn bytes(&self) -> u64 {
        self.elements() * self.dtype.size() as u64
    }

    /// The tensor of layer `n` that this row stands for.
    pub fn at_layer(&self, n: u32) -> Tensor {
        self.numbered(LAYER, n)
    }

    /// The tensor of expert `e` that this row stands for.
    pub fn of_expert(&self, e: u32) -> Tensor {
        self.numbered(EXPERT, e)
    }

    fn numbered(&self, placeholder: &str, n: u32) -> Tensor {
        Tensor { name: self.name.replacen(placeholder, &n.to_string(), 1), ..self.clone() }
    }
}

/// Everything a checkpoint of this config holds: text, prediction block, vision.
pub fn all(config: &Config) -> Vec<Tensor> {
    [text(config), mtp(config), vision(config)].concat()
}

/// The text model with its head, in the order of the forward pass.
pub fn text(config: &Config) -> Vec<Tensor> {
    let (embedding, after): (Vec<_>, Vec<_>) =
        top(config).into_iter().partition(|t| t.role == Role::EmbedTokens);
    let layers = (0..config.layers.len()).flat_map(|n| layer(config, n));
    embedding.into_iter().chain(layers).chain(after).collect()
}

/// Embedding, final norm and, unless tied, the head.
pub fn top(config: &Config) -> Vec<Tensor> {
    let table = [config.vocab_size, config.hidden_size];
    let mut rows = Rows::new(config.prefix, config.dtype);
    rows.add("embed_tokens.weight", table, Role::EmbedTokens);
    rows.add("norm.weight", [config.hidden_size], Role::Norm);
    if !config.tied {
        rows.prefix = String::new();
        rows.add("lm_head.weight", table, Role::LmHead);
    }
    rows.list
}

/// The tensors of decoder layer `n`, experts fused as in the published BF16 files.
///
/// Panics if the model has no such layer.
pub fn layer(config: &Config, n: usize) -> Vec<Tensor> {
    let pattern = layer_pattern(config, config.layers[n], Experts::Fused);
    fill(config, &pattern, n as u32)
}

/// The rows of every decoder layer of one kind: names with [`LAYER`], and with [`EXPERT`] where
/// experts are stored apart. Dense models have the same rows for both kinds of [`Experts`].
pub fn layer_pattern(config: &Config, kind: LayerKind, experts: Experts) -> Vec<Tensor> {
    decoder_layer(config, config.prefix, kind, experts)
}

/// The prediction block; empty without one. Its experts are stored one by one (spec section 3).
pub fn mtp(config: &Config) -> Vec<Tensor> {
    if config.mtp_layers == 0 {
        return Vec::new();
    }
    let h = config.hidden_size;
    let mut rows = Rows::new("mtp.", config.dtype);
    rows.add("fc.weight", [h, 2 * h], Role::MtpFc);
    rows.add("norm.weight", [h], Role::MtpNorm);
    rows.add("pre_fc_norm_hidden.weight", [h], Role::MtpNormHidden);
    rows.add("pre_fc_norm_embedding.weight", [h], Role::MtpNormEmbedding);

    let pattern = mtp_pattern(config, Experts::Apart);
    for n in 0..config.mtp_layers {
        rows.list.extend(fill(config, &pattern, n));
    }
    rows.list
}

/// The rows of every layer of the prediction block: an attention layer (spec 11.1).
pub fn mtp_pattern(config: &Config, experts: Experts) -> Vec<Tensor> {
    decoder_layer(config, "mtp.", LayerKind::Attention, experts)
}

/// The tensors that the rows of a pattern stand for in layer `n`, each expert's own included.
pub fn fill(config: &Config, pattern: &[Tensor], n: u32) -> Vec<Tensor> {
    let mut tensors = Vec::new();
    for row in pattern.iter().map(|row| row.at_layer(n)) {
        match config.mlp {
            Mlp::Moe(moe) if row.role.is_of_one_expert() => {
                tensors.extend((0..moe.num_experts).map(|e| row.of_expert(e)));
            }
            _ => tensors.push(row),
        }
    }
    tensors
}

/// The vision tower; empty without one.
pub fn vision(config: &Config) -> Vec<Tensor> {
    let Some(vision) = &config.vision else {
        return Vec::new();
    };
    let mut rows = Rows::new("model.visual.", config.dtype);
    let hv = vision.hidden_size;
    let patch =
        [hv, vision.in_channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size];
    rows.add("patch_embed.proj.weight", patch, Role::VisionPatchEmbed);
    rows.add("patch_embed.proj.bias", [hv], Role::VisionBias);
    let positions = [vision.num_position_embeddings, hv];
    rows.add("pos_embed.weight", positions, Role::VisionPosEmbed);
    for n in 0..vision.depth {
        vision_block(&mut rows, vision, n);
    }
    let joined = hv * vision.spatial_merge_size.pow(2);
    rows.layer_norm("merger.norm", hv);
    rows.linear("merger.linear_fc1", joined, joined);
    rows.linear("merger.linear_fc2", vision.out_hidden_size, joined);
    rows.list
}

fn vision_block(rows: &mut Rows, vision: &Vision, n: u32) {
    let (hv, mlp) = (vision.hidden_size, vision.intermediate_size);
    rows.prefix = format!("model.visual.blocks.{n}.");
    rows.layer_norm("norm1", hv);
    rows.layer_norm("norm2", hv);
    rows.linear("attn.qkv", 3 * hv, hv);
    rows.linear("attn.proj", hv, hv);
    rows.linear("mlp.linear_fc1", mlp, hv);
    rows.linear("mlp.linear_fc2", hv, mlp);
    rows.prefix = "model.visual.".into();
}

fn decoder_layer(config: &Config, prefix: &str, kind: LayerKind, experts: Experts) -> Vec<Tensor> {
    let h = config.hidden_size;
    let mut rows = Rows::new(&format!("{prefix}layers.{LAYER}."), config.dtype);
    rows.add("input_layernorm.weight", [h], Role::InputLayernorm);
    match kind {
        LayerKind::DeltaNet => linear_attn(&mut rows, config),
        LayerKind::Attention => self_attn(&mut rows, config),
    }
    rows.add("post_attention_layernorm.weight", [h], Role::PostAttentionLayernorm);
    match config.mlp {
        Mlp::Dense { intermediate_size } => dense(&mut rows, h, intermediate_size),
        Mlp::Moe(moe) => mixture(&mut rows, h, moe, experts),
    }
    rows.list
}

fn self_attn(rows: &mut Rows, config: &Config) {
    let (h, d) = (config.hidden_size, config.head_dim);
    let (query, kv) = (config.query_width(), config.kv_width());
    rows.add("self_attn.q_proj.weight", [2 * query, h], Role::QProj);
    rows.add("self_attn.k_proj.weight", [kv, h], Role::KProj);
    rows.add("self_attn.v_proj.weight", [kv, h], Role::VProj);
    rows.add("self_attn.o_proj.weight", [h, query], Role::OProj);
    rows.add("self_attn.q_norm.weight", [d], Role::QNorm);
    rows.add("self_attn.k_norm.weight", [d], Role::KNorm);
}

fn linear_attn(rows: &mut Rows, config: &Config) {
    let h = config.hidden_size;
    let (nv, value) = (config.linear_num_value_heads, config.linear_value_width());
    let channels = config.conv_channels();
    let taps = [channels, 1, config.linear_conv_kernel_dim];
    let qkv = "linear_attn.in_proj_qkv.weight";
    rows.add(qkv, [channels, h], Role::InProjQkv);
    rows.add("linear_attn.in_proj_z.weight", [value, h], Role::InProjZ);
    rows.add("linear_attn.in_proj_b.weight", [nv, h], Role::InProjB);
    rows.add("linear_attn.in_proj_a.weight", [nv, h], Role::InProjA);
    rows.add("linear_attn.conv1d.weight", taps, Role::Conv1d);
    rows.add_f32("linear_attn.A_log", [nv], Role::ALog);
    rows.add("linear_attn.dt_bias", [nv], Role::DtBias);
    let head = [config.linear_value_head_dim];
    rows.add_f32("linear_attn.norm.weight", head, Role::LinearNorm);
    rows.add("linear_attn.out_proj.weight", [h, value], Role::OutProj);
}

fn dense(rows: &mut Rows, h: u32, width: u32) {
    rows.add("mlp.gate_proj.weight", [width, h], Role::GateProj);
    rows.add("mlp.up_proj.weight", [width, h], Role::UpProj);
    rows.add("mlp.down_proj.weight", [h, width], Role::DownProj);
}

fn mixture(rows: &mut Rows, h: u32, moe: Moe, experts: Experts) {
    let (e, width) = (moe.num_experts, moe.moe_intermediate_size);
    rows.add("mlp.gate.weight", [e, h], Role::Router);
    match experts {
        Experts::Fused => {
            let gate_up = [e, 2 * width, h];
            rows.add("mlp.experts.gate_up_proj", gate_up, Role::ExpertsGateUp);
            rows.add("mlp.experts.down_proj", [e, h, width], Role::ExpertsDown);
        }
        Experts::Apart => {
            let name = |part| format!("mlp.experts.{EXPERT}.{part}_proj.weight");
            rows.add(&name("gate"), [width, h], Role::ExpertGate);
            rows.add(&name("up"), [width, h], Role::ExpertUp);
            rows.add(&name("down"), [h, width], Role::ExpertDown);
        }
    }
    let width = moe.shared_expert_intermediate_size;
    let name = |part| format!("mlp.shared_expert.{part}_proj.weight");
    rows.add(&name("gate"), [width, h], Role::SharedGateProj);
    rows.add(&name("up"), [width, h], Role::SharedUpProj);
    rows.add(&name("down"), [h, width], Role::SharedDownProj);
    let gate = "mlp.shared_expert_gate.weight";
    rows.add(gate, [1, h], Role::SharedExpertGate);
}

/// A table in the making.
struct Rows {
    prefix: String,
    dtype: DType,
    list: Vec<Tensor>,
}

impl Rows {
    fn new(prefix: &str, dtype: DType) -> Self {
        Rows { prefix: prefix.into(), dtype, list: Vec::new() }
    }

    fn add<const N: usize>(&mut self, name: &str, shape: [u32; N], role: Role) {
        self.list.push(Tensor {
            name: format!("{}{name}", self.prefix),
            shape: shape.map(u64::from).into(),
            dtype: self.dtype,
            role,
        });
    }

    /// For what is stored in float32 beside 16-bit matrices.
    fn add_f32<const N: usize>(&mut self, name: &str, shape: [u32; N], role: Role) {
        self.add(name, shape, role);
        let added = self.list.last_mut().expect("just added");
        added.dtype = DType::F32;
    }

    fn layer_norm(&mut self, name: &str, width: u32) {
        self.add(&format!("{name}.weight"), [width], Role::VisionNormWeight);
        self.add(&format!("{name}.bias"), [width], Role::VisionBias);
    }

    fn linear(&mut self, name: &str, out: u32, input: u32) {
        self.add(&format!("{name}.weight"), [out, input], Role::VisionWeight);
        self.add(&format!("{name}.bias"), [out], Role::VisionBias);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    type Listing = BTreeMap<String, (String, Vec<u64>)>;

    #[test]
    fn a_published_layout_is_reproduced_exactly() {
        let config = config("tiny-moe");
        assert_eq!(listing(all(&config)), stored("tiny-moe", |_| true));
    }

    #[test]
    fn every_golden_text_model_is_reproduced_exactly() {
        for name in ["dense-text-f32", "dense-tied-odd", "moe-ratio3-yarn", "moe-text-tied"] {
            let config = config(name);
            assert_eq!(listing(text(&config)), stored(name, |_| true), "{name}");
        }
    }

    #[test]
    fn experts_stored_one_by_one_are_reproduced_exactly() {
        let config = config("moe-perexpert-f16");
        let layers = config.layers.iter().enumerate().flat_map(|(n, &kind)| {
            let pattern = layer_pattern(&config, kind, Experts::Apart);
            fill(&config, &pattern, n as u32)
        });
        let tensors = top(&config).into_iter().chain(layers).collect();
        assert_eq!(listing(tensors), stored("moe-perexpert-f16", |_| true));
    }

    #[test]
    fn an_odd_vision_tower_is_reproduced_exactly() {
        let of_vision = |name: &str| name.starts_with("model.visual.");
        let config = config("moe-sharded-extras");
        assert_eq!(listing(vision(&config)), stored("moe-sharded-extras", of_vision));
    }

    #[test]
    fn a_role_stands_for_one_row() {
        let config = config("tiny-moe");
        for kind in [LayerKind::DeltaNet, LayerKind::Attention] {
            for experts in [Experts::Fused, Experts::Apart] {
                let rows = layer_pattern(&config, kind, experts);
                let roles: std::collections::HashSet<_> = rows.iter().map(|r| r.role).collect();
                assert_eq!(roles.len(), rows.len(), "{kind:?} {experts:?}");
            }
        }
    }

    #[test]
    fn placeholders_are_filled_in() {
        let config = config("tiny-moe");
        let rows = mtp_pattern(&config, Experts::Apart);
        let row = rows.iter().find(|r| r.role == Role::ExpertUp).unwrap();
        assert_eq!(row.name, "mtp.layers.{}.mlp.experts.{e}.up_proj.weight");
        assert_eq!(
            row.at_layer(3).of_expert(11).name,
            "mtp.layers.3.mlp.experts.11.up_proj.weight"
        );
    }

    fn golden(name: &str) -> PathBuf {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/checkpoints");
        PathBuf::from(root).join(name)
    }

    fn config(name: &str) -> Config {
        let text = std::fs::read_to_string(golden(name).join("config.json")).unwrap();
        Config::parse(&text).unwrap().config
    }

    fn listing(tensors: Vec<Tensor>) -> Listing {
        let count = tensors.len();
        let entry = |t: Tensor| (t.name, (t.dtype.name().to_uppercase(), t.shape));
        let listing: Listing = tensors.into_iter().map(entry).collect();
        assert_eq!(listing.len(), count, "a name stands twice");
        listing
    }

    /// What the headers of a golden checkpoint list.
    fn stored(name: &str, wanted: impl Fn(&str) -> bool) -> Listing {
        let mut listing = Listing::new();
        for file in std::fs::read_dir(golden(name)).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|e| e != "safetensors") {
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
            for (name, entry) in header.as_object().unwrap() {
                if name == "__metadata__" || !wanted(name) {
                    continue;
                }
                let dtype = entry["dtype"].as_str().unwrap().to_owned();
                let shape = entry["shape"].as_array().unwrap();
                let shape = shape.iter().map(|n| n.as_u64().unwrap()).collect();
                listing.insert(name.clone(), (dtype, shape));
            }
        }
        assert!(!listing.is_empty(), "{name} has no such tensors");
        listing
    }
}
