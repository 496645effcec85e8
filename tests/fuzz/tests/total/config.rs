//! `config.json`: refused with a place in the text, or compiled.

use crate::model;
use q35_core::Config;
use std::time::{Duration, Instant};

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = q35_fuzz::files("golden/configs", ".json");
    seeds.extend(model::configs().into_iter().map(|(text, _)| text.into_bytes()));
    seeds
}

#[test]
fn a_config_is_read_or_refused() {
    q35_fuzz::fuzz("config", &seeds(), |bytes| {
        // The programs refuse what is no text before anything reads it.
        let text = String::from_utf8_lossy(bytes);
        match Config::parse(&text) {
            Ok(_) => {}
            Err(error) => {
                assert!(!error.to_string().contains('\n'), "a message is one line");
                if let Some(span) = error.span() {
                    assert!(text.get(span).is_some(), "the place is in the text");
                }
            }
        }
    });
}

/// Sizes may be anything that is accepted: what follows has no way to refuse.
#[test]
fn an_accepted_config_compiles() {
    q35_fuzz::fuzz("compile", &seeds(), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let Ok(parsed) = Config::parse(&text) else { return };
        let start = Instant::now();
        let artifact = model::compile(&text, &parsed.config);
        assert!(start.elapsed() < Duration::from_secs(10), "compile time does not follow sizes");
        let read = q35_artifact::Artifact::from_bytes(&artifact.to_bytes());
        assert_eq!(read.expect("what is compiled can be read"), artifact);
    });
}
