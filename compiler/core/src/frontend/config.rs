//! A Hugging Face `config.json`, read, checked and fully resolved.
//!
//! Every stage after this one sees only a [`Config`]: no optional keys, no two spellings of one
//! thing, no sizes that could overflow later. What cannot be compiled is refused here, with the
//! key, its place in the file, what was found and what is supported, so that nobody finds out
//! from wrong text what a checkpoint asked for. Defaults and old spellings are those of the
//! reference's own config classes (spec section 2); fields have the names of the keys.

use super::config_read::{Field, Object};
use super::config_rope::{self, Rope};
use super::{count, span};
use q35_types::DType;
use std::fmt;

pub use super::config_error::ConfigError;

/// What a config compiles to, and what the user should know of what it does not.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    pub config: Config,
    pub notes: Vec<Note>,
}

/// A Qwen3.5 text model, with what has to be known of the parts around it.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub hidden_size: u32,
    /// Rows of embedding and head, padding rows included.
    pub vocab_size: u32,
    /// What mixes tokens, one a layer.
    pub layers: Vec<LayerKind>,
    /// What follows it, the same in every layer.
    pub mlp: Mlp,

    /// Query heads of an attention layer; a multiple of `num_key_value_heads`.
    pub num_attention_heads: u32,
    pub num_key_value_heads: u32,
    /// Width of a query, key or value head in attention.
    pub head_dim: u32,

    pub linear_num_key_heads: u32,
    /// A multiple of `linear_num_key_heads`.
    pub linear_num_value_heads: u32,
    pub linear_key_head_dim: u32,
    pub linear_value_head_dim: u32,
    /// Taps of the causal convolution; one more than the tokens it remembers.
    pub linear_conv_kernel_dim: u32,

    pub rms_norm_eps: f32,
    pub rope: Rope,
    /// The context that the model was made for. YaRN goes beyond it: see [`Config::max_context`].
    pub max_position_embeddings: u32,
    /// The head is the embedding matrix.
    pub tied: bool,
    /// How the checkpoint stores all but `A_log` and `linear_attn.norm`, which are float32.
    pub dtype: DType,
    /// What the names of text tensors start with: `model.language_model.`, or `model.` in a
    /// text-only checkpoint.
    pub prefix: &'static str,

    /// `eos_token_id`: ids that end a text where no `generation_config.json` says otherwise.
    pub eos: Vec<u32>,

    /// The vision tower beside the text model.
    pub vision: Option<Vision>,
    /// Layers of the multi-token prediction block, 0 for none.
    pub mtp_layers: u32,
}

/// How a layer mixes tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerKind {
    /// `linear_attention`: gated DeltaNet (spec section 8).
    DeltaNet,
    /// `full_attention`: gated attention over all earlier tokens (spec section 7).
    Attention,
}

/// The feed-forward half of a layer (spec section 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mlp {
    Dense { intermediate_size: u32 },
    Moe(Moe),
}

/// Routed experts and the shared one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Moe {
    pub num_experts: u32,
    /// At most `num_experts`.
    pub num_experts_per_tok: u32,
    pub moe_intermediate_size: u32,
    pub shared_expert_intermediate_size: u32,
}

/// Geometry of the vision tower (spec section 12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Vision {
    pub depth: u32,
    pub hidden_size: u32,
    pub intermediate_size: u32,
    pub num_heads: u32,
    pub in_channels: u32,
    pub patch_size: u32,
    pub temporal_patch_size: u32,
    pub spatial_merge_size: u32,
    pub num_position_embeddings: u32,
    /// Equal to the text model's `hidden_size`.
    pub out_hidden_size: u32,
}

/// Something that was accepted but has no effect on the compiled model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    VisionNotCompiled,
    MtpNotCompiled {
        layers: u32,
    },
    /// Harmless for text, whose three positions are equal; the rule of spec 6.2 is defined for
    /// any section, and the reference applies it without looking.
    MropeSection {
        sum: u64,
        frequencies: u32,
    },
}

impl Config {
    /// Read the text of a `config.json`.
    ///
    /// # Errors
    ///
    /// A text that is not JSON, another model's config, one that contradicts itself, or a feature
    /// that the compiler does not have. Total: any text gives a value or an error.
    pub fn parse(text: &str) -> Result<Parsed, ConfigError> {
        let tree = span::parse(text)?;
        let root = Object::root(&tree)?;
        let file = Model::find(root)?;
        file.refuse_quantized()?;
        refuse_other_arithmetic(&file.text)?;

        let (config, note) = file.config()?;
        check_total(&config)?;

        let mut notes: Vec<Note> = note.into_iter().collect();
        if config.vision.is_some() {
            notes.push(Note::VisionNotCompiled);
        }
        if config.mtp_layers > 0 {
            notes.push(Note::MtpNotCompiled { layers: config.mtp_layers });
        }
        Ok(Parsed { config, notes })
    }

    /// The text model's `model_type`.
    pub fn model_type(&self) -> &'static str {
        match self.mlp {
            Mlp::Dense { .. } => "qwen3_5_text",
            Mlp::Moe(_) => "qwen3_5_moe_text",
        }
    }

    /// `KD`: width of all DeltaNet query or key heads together.
    pub fn linear_key_width(&self) -> u32 {
        self.linear_num_key_heads * self.linear_key_head_dim
    }

    /// `VD`: width of all DeltaNet value heads together.
    pub fn linear_value_width(&self) -> u32 {
        self.linear_num_value_heads * self.linear_value_head_dim
    }

    /// `2 KD + VD`: what the convolution runs over, laid out `[q | k | v]`.
    pub fn conv_channels(&self) -> u32 {
        2 * self.linear_key_width() + self.linear_value_width()
    }

    /// `H d`: width of all query heads together, without their gates.
    pub fn query_width(&self) -> u32 {
        self.num_attention_heads * self.head_dim
    }

    /// `K d`: width of all key or value heads together.
    pub fn kv_width(&self) -> u32 {
        self.num_key_value_heads * self.head_dim
    }

    /// The longest context that the positions are good for: `max_position_embeddings`, or what
    /// YaRN stretches the original context to.
    pub fn max_context(&self) -> u32 {
        let stretched = self.rope.yarn.map_or(0.0, |y| y.factor * y.original);
        (stretched as u32).clamp(self.max_position_embeddings, MAX_POSITIONS)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::VisionNotCompiled => {
                f.write_str("the vision tower is not compiled yet; the artifact takes text only")
            }
            Note::MtpNotCompiled { layers } => write!(
                f,
                "the multi-token prediction block ({layers} layer{}) is not compiled yet",
                if *layers == 1 { "" } else { "s" }
            ),
            Note::MropeSection { sum, frequencies } => write!(
                f,
                "`mrope_section` sums to {sum}, but there are {frequencies} rotary frequencies"
            ),
        }
    }
}

// Limits, all far beyond any published model. Every axis of a tensor, two fused ones included,
// stays below 2^25, so any index into an axis fits 32 bits; positions are exact in a float32; and
// with `MAX_PARAMETERS` the bytes of a whole checkpoint fit 64 bits many times over.
const MAX_HIDDEN: u32 = 1 << 17;
const MAX_INTERMEDIATE: u32 = 1 << 20;
const MAX_VOCAB: u32 = 1 << 24;
const MAX_LAYERS: u32 = 1024;
const MAX_HEADS: u32 = 1024;
const MAX_HEAD_DIM: u32 = 1024;
const MAX_CONV_KERNEL: u32 = 16;
const MAX_EXPERTS: u32 = 4096;
const MAX_POSITIONS: u32 = 1 << 24;
const MAX_MTP_LAYERS: u32 = 8;
const MAX_PARAMETERS: u128 = 1 << 43;

const OTHER_MODEL: &str = "only the Qwen3.5 family is compiled; is this another model's config?";
const OTHER_ARITHMETIC: &str = "no Qwen3.5 model has this; is this another model's config?";

#[derive(Clone, Copy, PartialEq)]
enum Family {
    Dense,
    Moe,
}

/// The two objects of a file that describe the text model.
struct Model<'a> {
    family: Family,
    root: Object<'a>,
    /// `text_config`, or the root of a text-only file.
    text: Object<'a>,
    text_only: bool,
}

impl<'a> Model<'a> {
    fn find(root: Object<'a>) -> Result<Self, ConfigError> {
        const EXPECTED: &str =
            "\"qwen3_5\", \"qwen3_5_moe\", \"qwen3_5_text\" or \"qwen3_5_moe_text\"";
        let Some(model_type) = root.some("model_type") else {
            return Err(root.missing("model_type", EXPECTED));
        };
        let (family, text_only) = match model_type.text()? {
            "qwen3_5" => (Family::Dense, false),
            "qwen3_5_text" => (Family::Dense, true),
            "qwen3_5_moe" => (Family::Moe, false),
            "qwen3_5_moe_text" => (Family::Moe, true),
            _ => return Err(model_type.unsupported(EXPECTED, Some(OTHER_MODEL))),
        };
        check_architecture(&root, family, text_only)?;
        let nested = root.some("text_config");
        let text = match (text_only, &nested) {
            (true, None) => root.clone(),
            (false, Some(nested)) => nested.object()?,
            (true, Some(nested)) => {
                return Err(nested.unsupported(
                    "no such key beside this `model_type`",
                    Some("a text-only config has the text model's keys at the root"),
                ));
            }
            (false, None) => {
                return Err(root.missing("text_config", "the object that describes the text model"));
            }
        };
        let (text_type, expected) = match family {
            Family::Dense => ("qwen3_5_text", "\"qwen3_5_text\""),
            Family::Moe => ("qwen3_5_moe_text", "\"qwen3_5_moe_text\""),
        };
        text.must_be_one_of("model_type", &[text_type], expected, Some(OTHER_MODEL))?;
        Ok(Model { family, root, text, text_only })
    }

    fn refuse_quantized(&self) -> Result<(), ConfigError> {
        for place in [&self.root, &self.text] {
            let Some(quantization) = place.object("quantization_config")? else {
                continue;
            };
            let method = quantization.some("quant_method");
            return Err(match &method {
                Some(method) => ConfigError::Quantized {
                    field: method.path.clone(),
                    method: format!("{:?}", method.text()?),
                    at: method.at(),
                },
                None => ConfigError::Quantized {
                    field: place.path_of("quantization_config"),
                    method: "an object without `quant_method`".into(),
                    at: quantization.opening(),
                },
            });
        }
        Ok(())
    }

    fn config(&self) -> Result<(Config, Option<Note>), ConfigError> {
        let (root, text) = (&self.root, &self.text);
        let moe = self.family == Family::Moe;
        let pick = |dense: u32, sparse: u32| if moe { sparse } else { dense };
        let heads = |key, default| text.size(key, default, 1..=MAX_HEADS);
        let head_dim = |key, default| text.size(key, default, 1..=MAX_HEAD_DIM);

        let hidden_size = text.size("hidden_size", pick(4096, 2048), 1..=MAX_HIDDEN)?;
        let vocab_size = text.size("vocab_size", 248_320, 1..=MAX_VOCAB)?;
        let max_position_embeddings =
            text.size("max_position_embeddings", 32768, 1..=MAX_POSITIONS)?;
        let attention_head_dim = head_dim("head_dim", 256)?;
        let (rope, note) = config_rope::parse(text, attention_head_dim, max_position_embeddings)?;

        let config = Config {
            hidden_size,
            vocab_size,
            layers: layers(text, pick(32, 40))?,
            mlp: if moe { mixture(text)? } else { dense(text)? },
            num_attention_heads: heads("num_attention_heads", 16)?,
            num_key_value_heads: heads("num_key_value_heads", pick(4, 2))?,
            head_dim: attention_head_dim,
            linear_num_key_heads: heads("linear_num_key_heads", 16)?,
            linear_num_value_heads: heads("linear_num_value_heads", 32)?,
            linear_key_head_dim: head_dim("linear_key_head_dim", 128)?,
            linear_value_head_dim: head_dim("linear_value_head_dim", 128)?,
            linear_conv_kernel_dim: text.size("linear_conv_kernel_dim", 4, 2..=MAX_CONV_KERNEL)?,
            rms_norm_eps: eps(text)?,
            rope,
            max_position_embeddings,
            // Published files say it at the root, in `text_config`, or at both (spec section 1).
            tied: root.flag("tie_word_embeddings", false)?
                | text.flag("tie_word_embeddings", false)?,
            dtype: dtype(root, text)?,
            prefix: if self.text_only { "model." } else { "model.language_model." },
            eos: eos(text, vocab_size)?,
            vision: match root.object("vision_config")? {
                Some(tower) if !self.text_only => Some(vision(&tower, hidden_size)?),
                _ => None,
            },
            mtp_layers: text.size("mtp_num_hidden_layers", 0, 0..=MAX_MTP_LAYERS)?,
        };
        divides(
            text,
            ("num_attention_heads", config.num_attention_heads),
            ("num_key_value_heads", config.num_key_value_heads),
        )?;
        divides(
            text,
            ("linear_num_value_heads", config.linear_num_value_heads),
            ("linear_num_key_heads", config.linear_num_key_heads),
        )?;
        Ok((config, note))
    }
}

fn check_architecture(root: &Object, family: Family, text_only: bool) -> Result<(), ConfigError> {
    let Some(architectures) = root.some("architectures") else {
        return Ok(());
    };
    let (name, expected) = match (family, text_only) {
        (Family::Dense, false) => (
            "Qwen3_5ForConditionalGeneration",
            "\"Qwen3_5ForConditionalGeneration\" with this `model_type`",
        ),
        (Family::Dense, true) => {
            ("Qwen3_5ForCausalLM", "\"Qwen3_5ForCausalLM\" with this `model_type`")
        }
        (Family::Moe, false) => (
            "Qwen3_5MoeForConditionalGeneration",
            "\"Qwen3_5MoeForConditionalGeneration\" with this `model_type`",
        ),
        (Family::Moe, true) => {
            ("Qwen3_5MoeForCausalLM", "\"Qwen3_5MoeForCausalLM\" with this `model_type`")
        }
    };
    match architectures.array()?.first() {
        Some(first) if first.text()? != name => Err(first.unsupported(expected, Some(OTHER_MODEL))),
        _ => Ok(()),
    }
}

/// One id of the vocabulary, several, or none.
fn eos(text: &Object, vocab_size: u32) -> Result<Vec<u32>, ConfigError> {
    let Some(field) = text.some("eos_token_id") else {
        return Ok(vec![]);
    };
    let last = vocab_size - 1;
    match field.array() {
        Ok(ids) => ids.iter().map(|id| id.size(0..=last)).collect(),
        Err(_) => Ok(vec![field.size(0..=last)?]),
    }
}

/// Keys whose other values would mean other arithmetic than we generate.
fn refuse_other_arithmetic(text: &Object) -> Result<(), ConfigError> {
    let help = Some(OTHER_ARITHMETIC);
    text.must_be_one_of("hidden_act", &["silu"], "\"silu\"", help)?;
    text.must_be_one_of("output_gate_type", &["swish", "silu"], "\"swish\"", help)?;
    text.must_be_one_of("mamba_ssm_dtype", &["float32"], "\"float32\"", help)?;
    text.must_be("attention_bias", false, help)?;
    text.must_be("attn_output_gate", true, help)?;
    text.must_be("use_sliding_window", false, help)?;
    text.must_be_empty("mlp_only_layers", OTHER_ARITHMETIC)?;
    text.must_be(
        "mtp_use_dedicated_embeddings",
        false,
        Some("in Qwen3.5 the prediction block shares embedding and head with the model"),
    )
}

/// `layer_types`, or every `full_attention_interval`-th layer an attention layer.
fn layers(text: &Object, default: u32) -> Result<Vec<LayerKind>, ConfigError> {
    let count = text.size("num_hidden_layers", default, 1..=MAX_LAYERS)?;
    let Some(types) = text.some("layer_types") else {
        let interval = text.size("full_attention_interval", 4, 1..=u32::MAX)?;
        let kind = |i: u32| match (i + 1) % interval {
            0 => LayerKind::Attention,
            _ => LayerKind::DeltaNet,
        };
        return Ok((0..count).map(kind).collect());
    };
    let kind = |entry: &Field| match entry.text()? {
        "linear_attention" => Ok(LayerKind::DeltaNet),
        "full_attention" => Ok(LayerKind::Attention),
        _ => Err(entry.unsupported(
            "\"linear_attention\" or \"full_attention\"",
            Some("no Qwen3.5 has such a layer; is this the config of another model?"),
        )),
    };
    let layers = types.array()?.iter().map(kind).collect::<Result<Vec<_>, _>>()?;
    if layers.len() != count as usize {
        return Err(ConfigError::LayerCount {
            field: types.path.clone(),
            found: layers.len(),
            layers: count,
            at: types.at(),
        });
    }
    Ok(layers)
}

fn dense(text: &Object) -> Result<Mlp, ConfigError> {
    Ok(Mlp::Dense {
        intermediate_size: text.size("intermediate_size", 12288, 1..=MAX_INTERMEDIATE)?,
    })
}

fn mixture(text: &Object) -> Result<Mlp, ConfigError> {
    let width = |key| text.size(key, 512, 1..=MAX_HIDDEN);
    let moe = Moe {
        num_experts: text.size("num_experts", 256, 1..=MAX_EXPERTS)?,
        num_experts_per_tok: text.size("num_experts_per_tok", 8, 1..=MAX_EXPERTS)?,
        moe_intermediate_size: width("moe_intermediate_size")?,
        shared_expert_intermediate_size: width("shared_expert_intermediate_size")?,
    };
    if moe.num_experts_per_tok > moe.num_experts {
        return Err(ConfigError::TooFewExperts {
            field: text.path_of("num_experts_per_tok"),
            chosen: moe.num_experts_per_tok,
            experts: moe.num_experts,
            at: text.place_of("num_experts_per_tok").or_else(|| text.place_of("num_experts")),
        });
    }
    Ok(Mlp::Moe(moe))
}

fn eps(text: &Object) -> Result<f32, ConfigError> {
    let eps = text.number("rms_norm_eps", 1e-6)?;
    match text.get("rms_norm_eps") {
        Some(field) if !(1e-30..=1.0).contains(&eps) => {
            Err(field.out_of_range("a number from 1e-30 to 1".into()))
        }
        _ => Ok(eps as f32),
    }
}

/// `dtype` or its older spelling, of the text model or of the whole.
fn dtype(root: &Object, text: &Object) -> Result<DType, ConfigError> {
    let field = [text, root].iter().find_map(|o| o.some("dtype").or_else(|| o.some("torch_dtype")));
    let Some(field) = field else {
        return Ok(DType::Bf16);
    };
    match field.text()? {
        "bfloat16" => Ok(DType::Bf16),
        "float16" => Ok(DType::F16),
        "float32" => Ok(DType::F32),
        _ => Err(field.unsupported("\"bfloat16\", \"float16\" or \"float32\"", None)),
    }
}

fn vision(tower: &Object, text_hidden_size: u32) -> Result<Vision, ConfigError> {
    let help = Some(OTHER_MODEL);
    tower.must_be_one_of(
        "model_type",
        &["qwen3_5", "qwen3_5_moe", "qwen3_5_vision", "qwen3_5_moe_vision"],
        "\"qwen3_5_vision\" or \"qwen3_5_moe_vision\"",
        help,
    )?;
    tower.must_be_one_of("hidden_act", &["gelu_pytorch_tanh"], "\"gelu_pytorch_tanh\"", help)?;
    tower.must_be_empty("deepstack_visual_indexes", OTHER_MODEL)?;

    let vision = Vision {
        depth: tower.size("depth", 27, 1..=MAX_LAYERS)?,
        hidden_size: tower.size("hidden_size", 1152, 1..=MAX_HIDDEN)?,
        intermediate_size: tower.size("intermediate_size", 4304, 1..=MAX_INTERMEDIATE)?,
        num_heads: tower.size("num_heads", 16, 1..=MAX_HEADS)?,
        in_channels: tower.size("in_channels", 3, 1..=16)?,
        patch_size: tower.size("patch_size", 16, 1..=128)?,
        temporal_patch_size: tower.size("temporal_patch_size", 2, 1..=16)?,
        spatial_merge_size: tower.size("spatial_merge_size", 2, 1..=8)?,
        num_position_embeddings: tower.size("num_position_embeddings", 2304, 1..=1 << 20)?,
        out_hidden_size: tower.size("out_hidden_size", 3584, 1..=MAX_HIDDEN)?,
    };
    divides(tower, ("hidden_size", vision.hidden_size), ("num_heads", vision.num_heads))?;
    if vision.out_hidden_size != text_hidden_size {
        return Err(ConfigError::Disagree {
            field: tower.path_of("out_hidden_size"),
            found: vision.out_hidden_size.to_string(),
            other: "text_config.hidden_size".into(),
            other_found: text_hidden_size.to_string(),
            at: tower.place_of("out_hidden_size").unwrap_or_else(|| tower.opening()),
        });
    }
    Ok(vision)
}

fn divides(object: &Object, many: (&str, u32), few: (&str, u32)) -> Result<(), ConfigError> {
    if many.1.is_multiple_of(few.1) {
        return Ok(());
    }
    Err(ConfigError::NotMultiple {
        many: object.path_of(many.0),
        n: many.1,
        few: object.path_of(few.0),
        d: few.1,
        at: object.place_of(many.0).or_else(|| object.place_of(few.0)),
    })
}

fn check_total(config: &Config) -> Result<(), ConfigError> {
    let parameters = count::parameters(config).total();
    if parameters > MAX_PARAMETERS {
        return Err(ConfigError::TooLarge { parameters, limit: MAX_PARAMETERS });
    }
    Ok(())
}

/// A published config, for tests.
#[cfg(test)]
pub(crate) fn published(model: &str) -> Config {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/configs");
    let text = std::fs::read_to_string(format!("{root}/{model}.json")).unwrap();
    Config::parse(&text).unwrap().config
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
