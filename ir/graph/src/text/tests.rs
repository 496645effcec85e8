use super::*;
use crate::graph::{Entry, Graph, Part, Port, Program, State, Type, Weight};
use crate::op::Op;
use q35_types::{DType, Dim, Layout, pack::Transform};

fn weight(name: &str, rows: u32, cols: u32) -> Weight {
    let part = Part::Rows {
        tensor: format!("model.{name}.weight"),
        shape: vec![u64::from(rows), u64::from(cols)],
        first: 0,
        per_expert: 0,
        rows,
        transform: Transform::None,
    };
    Weight {
        name: name.into(),
        dtype: DType::Bf16,
        experts: None,
        rows,
        cols,
        vector: rows == 1,
        layout: Layout::Panels,
        recipes: vec![vec![part]],
    }
}

fn example() -> Graph {
    let mut g = Graph::new("mixer");
    let x = g.input(Port::Hidden, Type::new(DType::Bf16, [Dim::Tokens, Dim::Fixed(4)]));
    let mut norm = weight("layers.{layer}.norm", 1, 4);
    norm.recipes
        .push(vec![Part::Values { bits: [1.5, -0.0, 1e-6, 3e9].map(f32::to_bits).to_vec() }]);
    let norm = g.add_weight(norm);
    let norm = g.weight_value(norm);
    let mut proj = weight("layers.{layer}.\"odd\"\n\u{7f}é\\", 3, 4);
    proj.recipes[0].push(Part::Zeros { rows: 1 });
    proj.rows = 4;
    let proj = g.add_weight(proj);
    let proj = g.weight_value(proj);
    let conv = g.add_weight(weight("conv", 4, 2));
    let conv = g.weight_value(conv);
    let state = g.add_state(State::Conv { taps: 2, channels: 4 });
    let y = g.push(
        Op::NormMatMul { eps: 1e-6, zero_centred: true, dtype: DType::Bf16 },
        [x, norm, proj],
    );
    let y = g.push(Op::Conv { state }, [y, conv]);
    let y = g.push(Op::Add {}, [x, y]);
    g.output(Port::Hidden, y);
    g
}

#[test]
fn a_graph_reads_as_a_listing() {
    insta::assert_snapshot!(example(), @r#"
    block mixer
    w0: bf16[4] panels "layers.{layer}.norm"
      recipe
        rows "model.layers.{layer}.norm.weight" [1, 4] {first: 0, rows: 1, per_expert: 0, transform: none}
      recipe
        values [1.5, -0.0, 1e-6, 3000000000.0]
    w1: bf16[4, 4] panels "layers.{layer}.\"odd\"\n\u{7f}é\\"
      recipe
        rows "model.layers.{layer}.\"odd\"\n\u{7f}é\\.weight" [3, 4] {first: 0, rows: 3, per_expert: 0, transform: none}
        zeros {rows: 1}
    w2: bf16[4, 2] panels "conv"
      recipe
        rows "model.conv.weight" [4, 2] {first: 0, rows: 4, per_expert: 0, transform: none}
    s0: conv {taps: 2, channels: 4}
    %0: bf16[T, 4] = input {port: hidden}
    %1: bf16[4] = weight {id: w0}
    %2: bf16[4, 4] = weight {id: w1}
    %3: bf16[4, 2] = weight {id: w2}
    %4: bf16[T, 4] = norm_matmul %0, %1, %2 {eps: 0.000001, zero_centred: true, dtype: bf16}
    %5: bf16[T, 4] = conv %4, %3 {state: s0}
    %6: bf16[T, 4] = add %0, %5
    return hidden %6
    "#);
}

#[test]
fn what_is_printed_reads_back_the_same() {
    let g = example();
    assert_eq!(crate::verify(&g), Ok(()));
    assert_eq!(graph("g", &g.to_string()).unwrap(), g);

    let mut embed = Graph::new("other");
    let ids = embed.input(Port::Ids, Type::new(DType::I32, [Dim::Tokens]));
    let table = embed.add_weight(weight("embed_tokens", 100, 4));
    let table = embed.weight_value(table);
    let x = embed.push(Op::Embed { dtype: DType::Bf16 }, [ids, table]);
    embed.output(Port::Hidden, x);
    let sequence = vec![(1, None), (0, Some(0)), (0, Some(1))];
    let whole = Program { entry: Entry::Prefill, blocks: vec![g, embed], sequence };
    assert_eq!(crate::verify_program(&whole), Ok(()));
    assert_eq!(program("p", &whole.to_string()).unwrap(), whole);
}

#[test]
fn errors_name_file_line_and_what_was_expected() {
    let error = |text: &str| graph("a.graph", text).unwrap_err().to_string();
    assert_eq!(
        error("block b\n\n%0: bf16[T, 64] = tanh {a: 1}"),
        "a.graph:3: there is no op `tanh`"
    );
    assert_eq!(
        error("block b\n%1: bf16[T] = silu %0"),
        "a.graph:2: found `%1`, expected `%0`, the next in order"
    );
    assert_eq!(
        error("block b\n%0: bf16[T, x] = silu %0"),
        "a.graph:2: found `x]`, expected a size, `T`, `R` or `2T+3`"
    );
    assert_eq!(error("graph b"), "a.graph:1: found `graph`, expected `block`");
    assert_eq!(error(""), "a.graph:1: found the end of the line, expected `block`");
    assert_eq!(
        program("a.graph", "program decode\nrun x\nblock y\n").unwrap_err().to_string(),
        "a.graph:2: there is no block `x`"
    );
}

/// Texts near a true one: cut anywhere, or with a byte exchanged.
#[test]
fn any_text_gives_a_graph_or_an_error_and_what_is_read_prints_the_same_again() {
    let text = example().to_string();
    let marks = [" ", "%", "\"", "{", "}", "[", "]", ",", ":", "9999999999", "\\u{", "T+", "\n"];
    for (at, _) in text.char_indices() {
        let mut variants = vec![text[..at].to_string()];
        variants.extend(marks.map(|mark| format!("{}{mark}{}", &text[..at], &text[at..])));
        for variant in variants {
            let Ok(g) = graph("g", &variant) else {
                continue;
            };
            let _findings = crate::verify(&g);
            let printed = g.to_string();
            assert_eq!(graph("g", &printed).unwrap().to_string(), printed);
        }
    }
}
