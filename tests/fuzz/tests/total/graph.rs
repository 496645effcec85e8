//! The text of graphs: refused, or graphs that the verifier can judge.

use crate::model;
use q35_fuzz::fuzz;
use q35_graph::{Program, text, verify, verify_program};

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![];
    for (text, config) in &model::configs() {
        seeds.extend(
            model::compile(text, config).graphs.into_iter().map(|(_, graph)| graph.into_bytes()),
        );
        let mut written =
            model::with_request(text, config, |r| q35_core::emit(r, "graph").expect("a stage"));
        // The entry points stand one after another.
        while let Some(at) = written.rfind("program ") {
            seeds.push(written.split_off(at).into_bytes());
        }
    }
    seeds
}

#[test]
fn a_graph_is_read_or_refused() {
    let seeds = seeds();
    for seed in &seeds {
        let text = str::from_utf8(seed).expect("graphs are text");
        let program = text::program("seed", text).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(verify_program(&program), Ok(()));
    }
    fuzz("graph", &seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let _ = text::graph("fuzz", &text).map(|graph| verify(&graph));
        let Ok(program) = text::program("fuzz", &text) else { return };
        let printed = program.to_string();
        let back: Program = text::program("fuzz", &printed).expect("what is printed can be read");
        assert_eq!(back.to_string(), printed);
        let _ = verify_program(&program);
    });
}
