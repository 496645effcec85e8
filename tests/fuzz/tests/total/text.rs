//! The small files of a checkpoint: tokenizer, chat template, generation config.

use q35_fuzz::{file, files, folder, fuzz};
use q35_runtime::generation_config::GenerationConfig;
use q35_runtime::sampling::Sampler;
use q35_runtime::text::{ChatRequest, ChatTemplate, Tokenizer};
use std::fs;

const TINY: &str = "golden/checkpoints/tiny-moe";

fn tiny(name: &str) -> Vec<u8> {
    file(&format!("{TINY}/{name}"))
}

#[test]
fn a_tokenizer_is_read_or_refused() {
    let folder = folder("tokenizer");
    fs::write(folder.join("tokenizer_config.json"), tiny("tokenizer_config.json")).expect("a copy");
    fuzz("tokenizer", &[tiny("tokenizer.json")], |bytes| {
        fs::write(folder.join("tokenizer.json"), bytes).expect("a temporary file");
        let Ok(tokenizer) = Tokenizer::load(&folder) else { return };
        let ids = tokenizer
            .encode("Who's there?\n<|im_start|>e\u{301} 漢字 \u{1f600} 12345")
            .unwrap_or_default();
        assert!(ids.iter().all(|&id| id < tokenizer.valid_ids()), "{ids:?}");
        let mut stream = tokenizer.detokenizer();
        let mut text = String::new();
        for &id in &ids {
            text += stream.push(id);
        }
        text += stream.finish();
        let _ = tokenizer.decode(&ids);
    });
    fs::remove_dir_all(folder).expect("the folder is ours");
}

#[test]
fn a_tokenizer_config_is_read_or_refused() {
    let folder = folder("tokenizer-config");
    fs::write(folder.join("tokenizer.json"), tiny("tokenizer.json")).expect("a copy");
    fuzz("tokenizer_config", &[tiny("tokenizer_config.json")], |bytes| {
        fs::write(folder.join("tokenizer_config.json"), bytes).expect("a temporary file");
        let _ = ChatTemplate::load(&folder);
        let _ = Tokenizer::load(&folder);
    });
    fs::remove_dir_all(folder).expect("the folder is ours");
}

/// Templates are programs: how long one runs is its author's affair, so mutations are of templates that end.
#[test]
fn a_template_renders_or_refuses() {
    let folder = folder("template");
    let mut seeds = files("golden/templates", ".jinja");
    seeds.push(tiny("chat_template.jinja"));
    let mut request = ChatRequest::default()
        .message("system", "Be brief.")
        .message("user", "What's the weather?")
        .message("assistant", "<think>\nhm\n</think>\n\nIt rains.")
        .message("user", "Thanks.");
    request.tools.push(serde_json::json!({"type": "function", "function": {"name": "weather"}}));
    fuzz("template", &seeds, |bytes| {
        fs::write(folder.join("chat_template.jinja"), bytes).expect("a temporary file");
        let Ok(template) = ChatTemplate::load(&folder) else { return };
        let _ = template.render(&request);
        let _ = template.render(&ChatRequest::default());
    });
    fs::remove_dir_all(folder).expect("the folder is ours");
}

#[test]
fn a_generation_config_is_read_or_refused() {
    let folder = folder("generation");
    fuzz("generation_config", &[tiny("generation_config.json")], |bytes| {
        fs::write(folder.join("generation_config.json"), bytes).expect("a temporary file");
        let Ok(config) = GenerationConfig::load(&folder) else { return };
        let mut sampler = Sampler::new(config.sampling, 8).expect("what was read is in range");
        let _ = sampler.sample(&[0.0, -1.0, f32::INFINITY, f32::NAN, 3.0, 2.0, 1.0, 0.5, 9.0]);
    });
    fs::remove_dir_all(folder).expect("the folder is ours");
}
