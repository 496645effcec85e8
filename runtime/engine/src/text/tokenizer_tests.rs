//! The tokenizer against the tiny checkpoint's recorded ids, against the `tokenizers` crate's
//! own decoder, and against files that are not what they should be.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::*;
use crate::sampling::Rng;

fn tiny_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/checkpoints/tiny-moe")
}

static TINY: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::load(&tiny_dir()).unwrap());

/// The tokenizer of a folder with these two files; the folder's name is cut out of messages.
fn load(tokenizer: Option<&[u8]>, config: Option<&Value>) -> Result<Tokenizer, String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name =
        format!("q35-tokenizer-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let dir = std::env::temp_dir().join(name);
    fs::create_dir_all(&dir).unwrap();
    if let Some(bytes) = tokenizer {
        fs::write(dir.join("tokenizer.json"), bytes).unwrap();
    }
    if let Some(config) = config {
        fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
    }
    let result = Tokenizer::load(&dir);
    fs::remove_dir_all(&dir).unwrap();
    result.map_err(|e| e.to_string().replace(&format!("{}/", dir.display()), ""))
}

fn load_json(tokenizer: &Value) -> Result<Tokenizer, String> {
    load(Some(tokenizer.to_string().as_bytes()), None)
}

/// The regular expression of spec 16.1.
const SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A tokenizer of bytes alone, with id = byte, and two added tokens, 256 and 257.
fn bytes_json() -> Value {
    let vocab: serde_json::Map<String, Value> =
        (0..=255u8).map(|b| (alphabet(b), json!(b))).collect();
    json!({
        "version": "1.0",
        "added_tokens": [
            {"id": 256, "content": "<|end|>", "special": true},
            {"id": 257, "content": "<think>", "special": false},
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        ]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    })
}

fn alphabet(byte: u8) -> String {
    super::super::alphabet::char_of(byte).to_string()
}

fn with_added(id: u32, content: &str) -> Value {
    let mut json = bytes_json();
    let added = json["added_tokens"].as_array_mut().unwrap();
    for key in ["single_word", "lstrip", "rstrip", "normalized"] {
        added.iter_mut().for_each(|t| t[key] = json!(false));
    }
    added.push(json!({"id": id, "content": content, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false, "special": true}));
    json
}

fn valid() -> Value {
    with_added(258, "<|pad|>")
}

#[test]
fn recorded_prompts_have_the_recorded_ids_and_answers_the_recorded_text() {
    let chats = fs::read(tiny_dir().join("golden/chats.json")).unwrap();
    let chats: Vec<Value> = serde_json::from_slice(&chats).unwrap();
    assert!(!chats.is_empty());
    for chat in chats {
        let ids: Vec<u32> = serde_json::from_value(chat["ids"].clone()).unwrap();
        let prompt = chat["prompt"].as_str().unwrap();
        assert_eq!(TINY.encode(prompt).unwrap(), ids, "{}", chat["name"]);

        let answer: Vec<u32> = serde_json::from_value(chat["answer_ids"].clone()).unwrap();
        let shown = chat["answer"].as_str().unwrap().replace("<|im_end|>", "");
        assert_eq!(TINY.decode(&answer), shown, "{}", chat["name"]);
    }
}

#[test]
fn the_tiny_vocabulary_is_as_its_files_say() {
    assert_eq!(TINY.valid_ids(), 2048);
    assert_eq!(TINY.token(2037).as_deref(), Some("<|im_end|>"));
    assert_eq!(TINY.token(2048), None);
    assert_eq!(TINY.id("</think>"), Some(2047));
    assert_eq!(TINY.eos(), Some(2037));
    assert!(TINY.is_special(2037) && !TINY.is_special(2047) && !TINY.is_special(5000));
}

#[test]
fn any_text_survives_encoding_and_decoding() {
    let texts = [
        "",
        "Hello, world! 12345",
        "  spaced  text\n",
        "Café — κόσμος 🚀 你好，世界！",
        "I'LL don't\r\n\r\n\t x \u{300}\u{0} नमस्ते",
        "<think>\nno</think>",
    ];
    for text in texts {
        assert_eq!(TINY.decode(&TINY.encode(text).unwrap()), text);
    }
}

#[test]
fn text_is_put_into_composed_form() {
    assert_eq!(TINY.encode("cafe\u{301}").unwrap(), TINY.encode("café").unwrap());
}

#[test]
fn the_stream_agrees_with_the_reference_decoder_on_any_ids() {
    let mut rng = Rng::new(1);
    for _ in 0..500 {
        // Ids below 256 are single bytes of every kind; some ids have no token.
        let ids: Vec<u32> = (0..rng.next_u64() % 20)
            .map(|_| match rng.next_u64() % 3 {
                0 => (rng.next_u64() % 2060) as u32,
                1 => 2030 + (rng.next_u64() % 20) as u32,
                _ => (rng.next_u64() % 256) as u32,
            })
            .collect();
        assert_eq!(TINY.decode(&ids), TINY.bpe.decode(&ids, true).unwrap(), "{ids:?}");
    }
}

#[test]
fn text_is_split_as_the_spec_says() {
    let mut json = valid();
    // A merge for every pair of letters, digits or spaces: what stays apart was split apart.
    let letters = "abdeghlmorstvwy17ĠĊ!'";
    let pairs: Vec<(String, String)> =
        letters.chars().flat_map(|a| letters.chars().map(move |b| (a.into(), b.into()))).collect();
    for (i, (a, b)) in pairs.iter().enumerate() {
        json["model"]["vocab"][format!("{a}{b}")] = json!(258 + i);
    }
    json["model"]["merges"] = json!(pairs);
    for (i, token) in json["added_tokens"].as_array_mut().unwrap().iter_mut().enumerate() {
        token["id"] = json!(258 + pairs.len() + i);
    }
    // The vocabulary must have no holes, or added tokens cannot follow it.
    json["model"]["vocab"]["spare 256"] = json!(256);
    json["model"]["vocab"]["spare 257"] = json!(257);
    let tokenizer = load_json(&json).unwrap();

    let pieces = |text: &str| -> Vec<String> {
        let ids = tokenizer.encode(text).unwrap();
        ids.iter().map(|&id| tokenizer.token(id).unwrap()).collect()
    };
    assert_eq!(pieces("17"), ["1", "7"]);
    assert_eq!(pieces("the"), ["t", "he"]);
    assert_eq!(pieces("a  b"), ["a", "Ġ", "Ġb"]);
    assert_eq!(pieces("a!!b"), ["a", "!!", "b"]);
    assert_eq!(pieces("a'ss"), ["a", "'s", "s"]);
    assert_eq!(pieces("  \n\na"), ["ĠĠ", "ĊĊ", "a"]);
    assert_eq!(pieces("!\n1"), ["!Ċ", "1"]);
}

#[test]
fn merges_may_be_pairs_or_strings() {
    let mut json = valid();
    json["model"]["vocab"] = {
        let mut vocab = json["model"]["vocab"].clone();
        vocab["ab"] = json!(256);
        vocab
    };
    for (token, id) in json["added_tokens"].as_array_mut().unwrap().iter_mut().zip(257..) {
        token["id"] = json!(id);
    }
    for merges in [json!([["a", "b"]]), json!(["a b"])] {
        json["model"]["merges"] = merges;
        assert_eq!(load_json(&json).unwrap().encode("cab").unwrap(), [u32::from(b'c'), 256]);
    }
}

#[test]
fn tokens_that_only_the_config_names_are_added_at_their_ids() {
    let config = json!({
        "eos_token": {"content": "<|end|>"},
        "added_tokens_decoder": {
            "256": {"content": "<|end|>", "special": true},
            "260": {"content": "<tts>", "special": true},
            "259": {"content": "<call>", "special": false},
        },
    });
    let tokenizer = load(Some(valid().to_string().as_bytes()), Some(&config)).unwrap();
    assert_eq!(tokenizer.valid_ids(), 261);
    assert_eq!(tokenizer.encode("a<tts><call>").unwrap(), [97, 260, 259]);
    assert_eq!(tokenizer.decode(&[97, 260, 259, 98]), "a<call>b");
    assert_eq!(tokenizer.eos(), Some(256));
}

#[test]
fn settings_that_would_change_the_ids_are_switched_off() {
    let mut json = valid();
    json["truncation"] =
        json!({"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"});
    json["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 258, "pad_type_id": 0, "pad_token": "<|pad|>"});
    json["post_processor"] = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [], "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [256], "tokens": ["<|end|>"]}}});
    assert_eq!(load_json(&json).unwrap().encode("abcd").unwrap(), [97, 98, 99, 100]);
}

#[test]
fn a_config_that_contradicts_the_tokenizer_is_an_error() {
    let tokenizer = valid().to_string();
    let message = |id: &str, content: &str| {
        let config = json!({"added_tokens_decoder": {id: {"content": content}}});
        load(Some(tokenizer.as_bytes()), Some(&config)).unwrap_err()
    };
    let expected =
        "`tokenizer_config.json` gives `<other>` the id 256, but `<|end|>` has it already";
    assert_eq!(message("256", "<other>"), expected);
    let expected = "`tokenizer_config.json` gives `<|end|>` the id 300, but it has 256 already";
    assert_eq!(message("300", "<|end|>"), expected);
    let expected = "`tokenizer.json` gives `<far>` the id 300, but 259 is the next free one";
    assert_eq!(message("300", "<far>"), expected);
}

#[test]
fn files_that_are_no_tokenizer_of_ours_are_errors_that_say_why() {
    let changed = |change: fn(&mut Value)| {
        let mut json = valid();
        change(&mut json);
        load_json(&json).unwrap_err()
    };
    let starts = |message: String, start: &str| assert!(message.starts_with(start), "{message}");

    starts(load(None, None).unwrap_err(), "cannot read `tokenizer.json`: ");
    starts(
        load(Some(b"{}"), None).unwrap_err(),
        "`tokenizer.json` is not a byte-level BPE tokenizer: missing field",
    );
    starts(
        changed(|j| j["decoder"] = json!({"type": "Metaspace"})),
        "`tokenizer.json` is not a byte-level BPE tokenizer: unknown variant `Metaspace`",
    );
    starts(
        changed(|j| j["model"]["type"] = json!("Unigram")),
        "`model.type` of `tokenizer.json` is \"Unigram\", expected \"BPE\"",
    );
    starts(
        changed(|j| j["model"]["dropout"] = json!(0.1)),
        "`model.dropout` of `tokenizer.json` is 0.1",
    );
    starts(
        changed(|j| j["model"]["continuing_subword_prefix"] = json!("##")),
        "`model.continuing_subword_prefix` of `tokenizer.json` is \"##\"",
    );
    starts(
        changed(|j| _ = j["pre_tokenizer"]["pretokenizers"].as_array_mut().unwrap().pop()),
        "`pre_tokenizer` of `tokenizer.json` is without a ByteLevel step",
    );
    starts(
        changed(|j| _ = j["model"]["vocab"].as_object_mut().unwrap().remove("A")),
        "`tokenizer.json` has no token for the byte 0x41",
    );
    starts(
        changed(|j| j["model"]["merges"] = json!([["a", "nowhere"]])),
        "`tokenizer.json` is not a usable tokenizer: ",
    );
    starts(
        changed(|j| j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!("(")),
        "`tokenizer.json` is not a usable tokenizer: ",
    );
    starts(
        changed(|j| j["added_tokens"][2]["id"] = json!(u32::MAX)),
        "`tokenizer.json` gives `<|pad|>` the id 4294967295, expected below",
    );
    starts(
        changed(|j| j["added_tokens"][2]["id"] = json!(97)),
        "`tokenizer.json` gives `<|pad|>` the id 97, but `a` has it already",
    );
    let config = json!({"added_tokens_decoder": []});
    let message = load(Some(valid().to_string().as_bytes()), Some(&config)).unwrap_err();
    starts(message, "`tokenizer_config.json` is not a tokenizer config: ");
}

#[test]
fn broken_files_never_panic() {
    let whole = valid().to_string().into_bytes();
    for end in (0..whole.len()).step_by(97) {
        assert!(load(Some(&whole[..end]), None).is_err(), "cut at {end}");
    }
    let mut rng = Rng::new(9);
    let mut refused = 0;
    for _ in 0..300 {
        let mut bytes = whole.clone();
        for _ in 0..=rng.next_u64() % 3 {
            let at = (rng.next_u64() % bytes.len() as u64) as usize;
            bytes[at] = b"0\"{}[],:9a\\"[(rng.next_u64() % 11) as usize];
        }
        match load(Some(&bytes), None) {
            Ok(tokenizer) => _ = tokenizer.encode("Hello 🚀<|end|>"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 100, "most changes break the file: {refused}");
}

#[test]
fn long_runs_of_white_space_are_text_like_any_other() {
    let text = format!("a{}b", " ".repeat(200_000));
    assert_eq!(TINY.decode(&TINY.encode(&text).unwrap()), text);
}
