//! What is read from a config, and what is refused and where.

use super::*;

const DENSE: &str = include_str!("../../../../golden/configs/Qwen3.5-27B.json");
const MOE: &str = include_str!("../../../../golden/configs/Qwen3.5-35B-A3B.json");

/// The 27B text model at the root, with four layers and nothing that has a default.
const TEXT_ONLY: &str = r#"{
  "model_type": "qwen3_5_text",
  "hidden_size": 96,
  "num_hidden_layers": 4
}"#;

#[test]
fn every_published_config_is_read() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/configs");
    let mut read = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let Parsed { config, notes } = Config::parse(&text).unwrap();
        assert_eq!(
            notes,
            [Note::VisionNotCompiled, Note::MtpNotCompiled { layers: 1 }],
            "{path:?}"
        );
        let full = config.layers.iter().filter(|&&k| k == LayerKind::Attention);
        assert_eq!(full.count() * 4, config.layers.len(), "{path:?}");
        assert_eq!(
            (config.head_dim, config.rope.width, config.rope.theta),
            (256, 64, 1e7),
            "{path:?}"
        );
        read += 1;
    }
    assert_eq!(read, 9);
}

#[test]
fn a_dense_config_is_resolved() {
    let config = parse(DENSE);
    assert_eq!((config.hidden_size, config.vocab_size, config.layers.len()), (5120, 248_320, 64));
    assert_eq!(config.mlp, Mlp::Dense { intermediate_size: 17408 });
    assert_eq!((config.query_width(), config.kv_width()), (6144, 1024));
    assert_eq!(config.conv_channels(), 10240);
    assert_eq!(config.rms_norm_eps, 1e-6);
    assert_eq!(config.rope.sections, [11, 11, 10]);
    assert_eq!(config.max_position_embeddings, 262_144);
    assert_eq!(config.max_context(), 262_144);
    assert_eq!((config.tied, config.dtype), (false, DType::Bf16));
    assert_eq!(config.prefix, "model.language_model.");
    assert_eq!(config.vision.unwrap().depth, 27);
    assert_eq!(config.mtp_layers, 1);
}

#[test]
fn a_mixture_config_is_resolved() {
    assert_eq!(
        parse(MOE).mlp,
        Mlp::Moe(Moe {
            num_experts: 256,
            num_experts_per_tok: 8,
            moe_intermediate_size: 512,
            shared_expert_intermediate_size: 512,
        })
    );
}

#[test]
fn a_text_only_config_has_defaults_for_the_rest() {
    let config = parse(TEXT_ONLY);
    use LayerKind::{Attention, DeltaNet};
    assert_eq!(config.layers, [DeltaNet, DeltaNet, DeltaNet, Attention]);
    assert_eq!((config.num_attention_heads, config.num_key_value_heads), (16, 4));
    assert_eq!((config.linear_num_key_heads, config.linear_num_value_heads), (16, 32));
    assert_eq!((config.rope.theta, config.rope.width), (1e4, 64));
    assert_eq!((config.prefix, config.vision), ("model.", None));
    assert_eq!((config.mtp_layers, config.tied), (0, false));
}

#[test]
fn layers_follow_the_interval_where_they_are_not_listed() {
    let interval = parse(&with(TEXT_ONLY, r#""full_attention_interval": 2"#));
    let listed = parse(&with(
        TEXT_ONLY,
        r#""full_attention_interval": 3, "layer_types":
        ["linear_attention", "full_attention", "linear_attention", "full_attention"]"#,
    ));
    assert_eq!(interval.layers, listed.layers);
}

#[test]
fn a_head_is_tied_by_either_flag() {
    let flag = |root: &str, text: &str| {
        let config = DENSE.replace("\"tie_word_embeddings\": false,", root);
        let nested = format!("\"text_config\": {{ {text}");
        parse(&config.replace("\"text_config\": {", &nested)).tied
    };
    let tie = "\"tie_word_embeddings\": true,";
    assert!(flag(tie, "") && flag("", tie) && flag(tie, tie));
    assert!(!flag("", ""));
    assert!(flag("\"tie_word_embeddings\": false,", tie));
}

#[test]
fn rotary_keys_may_stand_nested_or_beside_and_nested_wins() {
    let beside = r#""rope_theta": 5e5, "partial_rotary_factor": 0.5"#;
    let config = parse(&with(TEXT_ONLY, beside));
    assert_eq!((config.rope.theta, config.rope.width), (5e5, 128));
    let nested = format!(r#"{beside}, "rope_parameters": {{"rope_theta": 20000}}"#);
    let config = parse(&with(TEXT_ONLY, &nested));
    assert_eq!((config.rope.theta, config.rope.width), (2e4, 128));
}

#[test]
fn yarn_is_read_in_every_spelling() {
    let yarn = r#""factor": 4.0, "original_max_position_embeddings": 32768"#;
    let new = format!(r#""rope_parameters": {{"rope_type": "yarn", {yarn}}}"#);
    let old = format!(r#""rope_scaling": {{"type": "yarn", {yarn}}}"#);
    let both = format!(r#"{old}, "rope_parameters": {{"rope_type": "default"}}"#);
    let rope = parse(&with(TEXT_ONLY, &new)).rope;
    let read = rope.yarn.unwrap();
    assert_eq!((read.factor, read.original), (4.0, 32768.0));
    assert!((read.attention_factor - 1.138629436).abs() < 1e-9);
    assert_eq!(parse(&with(TEXT_ONLY, &old)).rope, rope);
    assert_eq!(parse(&with(TEXT_ONLY, &both)).rope, rope);
}

#[test]
fn yarn_derives_what_is_not_given() {
    let yarn = |keys: &str| {
        let keys = format!(
            r#""max_position_embeddings": 65536, "rope_parameters": {{"rope_type": "yarn", {keys}}}"#
        );
        parse(&with(TEXT_ONLY, &keys))
    };
    let config = yarn(r#""factor": null, "original_max_position_embeddings": 16384"#);
    assert_eq!(config.rope.yarn.unwrap().factor, 4.0);
    assert_eq!(config.max_context(), 65536);
    let config = yarn(r#""factor": 8"#);
    assert_eq!(config.rope.yarn.unwrap().original, 65536.0);
    assert_eq!(config.max_context(), 524_288);
    let config = yarn(r#""factor": 8, "mscale": 1, "mscale_all_dim": 2, "truncate": false"#);
    let magnitude = |c: f64| 0.1 * c * 8f64.ln() + 1.0;
    let read = config.rope.yarn.unwrap();
    assert_eq!(read.attention_factor, magnitude(1.0) / magnitude(2.0));
    assert!(!read.truncate);
    let config = yarn(r#""factor": 8, "attention_factor": 1.5"#);
    assert_eq!(config.rope.yarn.unwrap().attention_factor, 1.5);
}

#[test]
fn the_stored_type_is_read_in_either_spelling() {
    let dtype = |keys: &str| parse(&with(TEXT_ONLY, keys)).dtype;
    assert_eq!(dtype(r#""dtype": "float32""#), DType::F32);
    assert_eq!(dtype(r#""torch_dtype": "float16""#), DType::F16);
    assert_eq!(dtype(r#""dtype": null"#), DType::Bf16);
}

#[test]
fn a_section_that_does_not_fit_is_noted() {
    let keys = r#""rope_parameters": {"mrope_section": [4, 3, 2]}"#;
    let parsed = Config::parse(&with(TEXT_ONLY, keys)).unwrap();
    assert_eq!(parsed.notes, [Note::MropeSection { sum: 9, frequencies: 32 }]);
    assert_eq!(Config::parse(TEXT_ONLY).unwrap().notes, []);
}

/// Keys added to [`TEXT_ONLY`]; what is pointed at; what is said.
#[rustfmt::skip]
const REFUSED: &[(&str, &str, &str)] = &[
    // Not this family, or other arithmetic.
    (r#""architectures": ["LlamaForCausalLM"]"#, r#""LlamaForCausalLM""#,
     r#"`architectures[0]` is "LlamaForCausalLM", expected "Qwen3_5ForCausalLM" with this `model_type`"#),
    (r#""text_config": {}"#, "{}",
     "`text_config` is an object, expected no such key beside this `model_type`"),
    (r#""hidden_act": "gelu""#, r#""gelu""#, r#"`hidden_act` is "gelu", expected "silu""#),
    (r#""output_gate_type": "sigmoid""#, r#""sigmoid""#, r#"`output_gate_type` is "sigmoid", expected "swish""#),
    (r#""attention_bias": true"#, "true", "`attention_bias` is true, expected false"),
    (r#""attn_output_gate": false"#, "false", "`attn_output_gate` is false, expected true"),
    (r#""use_sliding_window": true"#, "true", "`use_sliding_window` is true, expected false"),
    (r#""mlp_only_layers": [0, 2]"#, "[0, 2]", "`mlp_only_layers` is an array of 2, expected an empty array"),
    (r#""mtp_use_dedicated_embeddings": true"#, "true", "`mtp_use_dedicated_embeddings` is true, expected false"),
    (r#""mamba_ssm_dtype": "bfloat16""#, r#""bfloat16""#, r#"`mamba_ssm_dtype` is "bfloat16", expected "float32""#),
    (r#""dtype": "float8_e4m3fn""#, r#""float8_e4m3fn""#,
     r#"`dtype` is "float8_e4m3fn", expected "bfloat16", "float16" or "float32""#),
    (r#""layer_types": ["full_attention", "sliding_attention", "a", "b"]"#, r#""sliding_attention""#,
     r#"`layer_types[1]` is "sliding_attention", expected "linear_attention" or "full_attention""#),
    (r#""rope_scaling": {"type": "linear", "factor": 2}"#, r#""linear""#,
     r#"`rope_scaling.type` is "linear", expected "default" or "yarn""#),
    (r#""rope_parameters": {"mrope_interleaved": false}"#, "false",
     "`rope_parameters.mrope_interleaved` is false, expected true"),
    (r#""quantization_config": {"bits": 4, "quant_method": "gptq"}"#, r#""gptq""#,
     r#"`quantization_config.quant_method` is "gptq", expected weights that are not quantised"#),
    (r#""quantization_config": {"bits": 4}"#, "{",
     "`quantization_config` is an object without `quant_method`, expected weights that are not quantised"),
    // Contradictions.
    (r#""num_attention_heads": 6"#, "6", "`num_attention_heads` is 6, not a multiple of `num_key_value_heads`, 4"),
    (r#""num_key_value_heads": 3"#, "3", "`num_attention_heads` is 16, not a multiple of `num_key_value_heads`, 3"),
    (r#""linear_num_value_heads": 24"#, "24",
     "`linear_num_value_heads` is 24, not a multiple of `linear_num_key_heads`, 16"),
    (r#""layer_types": ["full_attention"]"#, r#"["full_attention"]"#,
     "`layer_types` has length 1, expected 4, which is `num_hidden_layers`"),
    (r#""head_dim": 20"#, "20",
     "`partial_rotary_factor` of 0.25 rotates 5 of the 20 dimensions of a head, expected an even number from 2 to 20"),
    (r#""partial_rotary_factor": 1.5"#, "1.5",
     "`partial_rotary_factor` of 1.5 rotates 384 of the 256 dimensions of a head, expected an even number from 2 to 256"),
    (r#""partial_rotary_factor": -1"#, "-1",
     "`partial_rotary_factor` of -1 rotates 0 of the 256 dimensions of a head, expected an even number from 2 to 256"),
    (r#""rope_parameters": {"rope_type": "yarn", "factor": 2, "beta_fast": 0.5}"#, "0.5",
     "`rope_parameters.beta_fast` is 0.5, expected a `beta_fast` that is not below `beta_slow`"),
    (r#""eos_token_id": 248320"#, "248320", "`eos_token_id` is 248320, expected a whole number from 0 to 248319"),
    (r#""vocab_size": 8, "eos_token_id": [7, 8]"#, "8", "`eos_token_id[1]` is 8, expected a whole number from 0 to 7"),
    // Numbers and types.
    (r#""vocab_size": 0"#, "0", "`vocab_size` is 0, expected a whole number from 1 to 16777216"),
    (r#""vocab_size": 99999999999999999999999"#, "99999999999999999999999",
     "`vocab_size` is 99999999999999999999999, expected a whole number from 1 to 16777216"),
    (r#""num_attention_heads": -2"#, "-2", "`num_attention_heads` is -2, expected a whole number from 1 to 1024"),
    (r#""head_dim": 256.0"#, "256.0", "`head_dim` is 256.0, expected a whole number"),
    (r#""head_dim": "256""#, r#""256""#, r#"`head_dim` is "256", expected a whole number"#),
    (r#""full_attention_interval": 0"#, "0",
     "`full_attention_interval` is 0, expected a whole number from 1 to 4294967295"),
    (r#""rms_norm_eps": 0"#, "0", "`rms_norm_eps` is 0, expected a number from 1e-30 to 1"),
    (r#""rms_norm_eps": 1e999"#, "1e999", "`rms_norm_eps` is 1e999, expected a number that a double can hold"),
    (r#""rope_theta": 1"#, "1", "`rope_theta` is 1, expected a number from 1.0001 to 1e15"),
    (r#""tie_word_embeddings": 1"#, "1", "`tie_word_embeddings` is 1, expected true or false"),
    (r#""layer_types": "full_attention""#, r#""full_attention""#,
     r#"`layer_types` is "full_attention", expected an array"#),
    (r#""rope_parameters": []"#, "[]", "`rope_parameters` is an empty array, expected an object"),
    (r#""rope_parameters": {"mrope_section": [16, 16]}"#, "[16, 16]",
     "`rope_parameters.mrope_section` is an array of 2, expected an array of three whole numbers"),
    (r#""mtp_num_hidden_layers": 9"#, "9", "`mtp_num_hidden_layers` is 9, expected a whole number from 0 to 8"),
];

#[test]
fn what_cannot_be_compiled_is_refused_at_its_place() {
    for (keys, place, message) in REFUSED {
        let text = with(TEXT_ONLY, keys);
        let error = Config::parse(&text).expect_err(keys);
        assert_eq!(error.to_string(), *message);
        assert_eq!(&text[error.span().expect(keys)], *place, "{keys}");
    }
}

#[test]
fn a_mixture_that_contradicts_itself_is_refused() {
    refused(
        MOE,
        "\"num_experts_per_tok\": 8",
        "\"num_experts_per_tok\": 257",
        "257",
        "`text_config.num_experts_per_tok` is 257, expected at most 256, which is `num_experts`",
    );
    refused(
        MOE,
        "Qwen3_5MoeForConditionalGeneration",
        "Qwen3_5ForConditionalGeneration",
        "\"Qwen3_5ForConditionalGeneration\"",
        "`architectures[0]` is \"Qwen3_5ForConditionalGeneration\", expected \
         \"Qwen3_5MoeForConditionalGeneration\" with this `model_type`",
    );
    refused(
        MOE,
        "qwen3_5_moe_text",
        "qwen3_5_text",
        "\"qwen3_5_text\"",
        "`text_config.model_type` is \"qwen3_5_text\", expected \"qwen3_5_moe_text\"",
    );
}

#[test]
fn a_vision_tower_that_is_not_ours_is_refused() {
    refused(
        DENSE,
        "\"deepstack_visual_indexes\": []",
        "\"deepstack_visual_indexes\": [5]",
        "[5]",
        "`vision_config.deepstack_visual_indexes` is an array of 1, expected an empty array",
    );
    refused(
        DENSE,
        "\"out_hidden_size\": 5120",
        "\"out_hidden_size\": 4096",
        "4096",
        "`vision_config.out_hidden_size` is 4096, but `text_config.hidden_size` is 5120",
    );
    refused(
        DENSE,
        "\"num_heads\": 16",
        "\"num_heads\": 10",
        "1152",
        "`vision_config.hidden_size` is 1152, not a multiple of `vision_config.num_heads`, 10",
    );
}

#[test]
fn another_family_is_refused() {
    let text = r#"{"model_type": "llama"}"#;
    let error = Config::parse(text).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`model_type` is \"llama\", expected \"qwen3_5\", \"qwen3_5_moe\", \"qwen3_5_text\" or \
         \"qwen3_5_moe_text\""
    );
    assert_eq!(
        error.help(),
        Some("only the Qwen3.5 family is compiled; is this another model's config?")
    );
    let message = |text: &str| Config::parse(text).unwrap_err().to_string();
    assert_eq!(message("[]"), "`config` is an empty array, expected an object");
    assert!(message("{}").starts_with("`model_type` is missing, expected"));
    assert!(message(r#"{"model_type": "qwen3_5"}"#).starts_with("`text_config` is missing"));
}

#[test]
fn a_model_of_absurd_size_is_refused_without_listing_it() {
    let text = r#"{"model_type": "qwen3_5_moe_text", "hidden_size": 131072, "num_hidden_layers": 1024,
        "num_experts": 4096, "moe_intermediate_size": 131072, "mtp_num_hidden_layers": 8}"#;
    let error = Config::parse(text).unwrap_err();
    assert!(matches!(error, ConfigError::TooLarge { .. }), "{error}");
    assert_eq!(error.span(), None);
}

#[test]
fn no_damage_to_a_config_makes_it_panic() {
    let damage = ["", "0", "-1", "null", "\"\"", "[]", "{}", "1e308", "4294967295"];
    for text in [DENSE, MOE] {
        let colons = text.match_indices(": ").map(|(at, _)| at + 2);
        for start in colons {
            let end = start + text[start..].find(['\n', ',']).unwrap();
            for value in damage {
                let damaged = format!("{}{value}{}", &text[..start], &text[end..]);
                if let Err(error) = Config::parse(&damaged) {
                    let at = error.span().unwrap_or(0..0);
                    assert!(damaged.get(at).is_some(), "{error}");
                }
            }
        }
    }
}

fn parse(text: &str) -> Config {
    Config::parse(text).unwrap_or_else(|e| panic!("{e}")).config
}

/// `object` with more keys at its end.
fn with(object: &str, keys: &str) -> String {
    let open = object.trim_end().strip_suffix('}').unwrap();
    format!("{},\n  {keys}\n}}", open.trim_end())
}

fn refused(config: &str, from: &str, to: &str, place: &str, message: &str) {
    assert!(config.contains(from), "{from}");
    let text = config.replace(from, to);
    let error = Config::parse(&text).expect_err(to);
    assert_eq!(error.to_string(), message);
    assert_eq!(&text[error.span().expect(to)], place);
}
