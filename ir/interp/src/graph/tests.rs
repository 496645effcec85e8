//! The definitions on numbers small enough to follow by hand, the fused ops against their
//! compositions, and state across steps.

use super::block::block;
use super::ops::{self, Delta};
use super::*;
use q35_graph::{Graph, Op, Part, Port, State, Type, Value, Weight};
use q35_types::pack::{Layout, Transform};
use q35_types::{DType, Dim, Sizes};
use std::rc::Rc;

/// Close in the way that f32 can be.
#[track_caller]
fn assert_close(found: &[f32], expected: &[f32]) {
    let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * b.abs().max(1.0);
    let all = found.len() == expected.len() && found.iter().zip(expected).all(close);
    assert!(all, "found {found:?}, expected {expected:?}");
}

#[test]
fn norms_divide_by_the_root_of_a_mean_or_of_a_sum() {
    assert_close(&ops::rms_norm(&[3.0, 4.0], &[1.0, 2.0], 3.5), &[0.75, 2.0]);
    assert_close(&ops::l2_norm(&[3.0, 4.0], 75.0, 0.5), &[0.15, 0.2]);
}

#[test]
fn activations_are_exact_far_out() {
    assert_close(&[ops::silu(1.0), ops::sigmoid(1.0)], &[0.731_058_6, 0.731_058_6]);
    assert_close(&[ops::softplus(0.0), ops::softplus(200.0)], &[std::f32::consts::LN_2, 200.0]);
    assert_close(&[ops::silu(-200.0), ops::sigmoid(-200.0), ops::softplus(-200.0)], &[0.0; 3]);
}

#[test]
fn dot_takes_every_element_once() {
    let x: Vec<f32> = (1..=19).map(|i| i as f32).collect();
    assert_eq!(ops::dot(&x, &x), 2470.0);
    assert_eq!(ops::matmul(&[1.0, 2.0], &[1.0, 0.0, 3.0, 4.0, 5.0, 6.0]), [1.0, 11.0, 17.0]);
}

#[test]
fn the_last_tap_of_a_convolution_is_the_current_token() {
    let weight = [1.0, 10.0, 100.0, 2.0, 20.0, 200.0];
    let mut history = vec![0.0; 4];
    let first = ops::conv(&[1.0, 1.0, 2.0, 2.0], &weight, 2, &mut history);
    assert_eq!(first, [100.0, 200.0, 210.0, 420.0]);
    assert_eq!(history, [1.0, 1.0, 2.0, 2.0]);
    assert_eq!(ops::conv(&[3.0, 3.0], &weight, 2, &mut history), [321.0, 642.0]);
    assert_eq!(history, [2.0, 2.0, 3.0, 3.0]);
}

#[test]
fn rope_takes_its_axis_by_the_frequency_and_turns_pairs_apart_by_n() {
    // Positions T = 1, H = 2, W = 3 of one token; frequency 4 is beyond the one of H.
    let table = ops::rope_table(&[1, 2, 3], &[0.5; 5], 1, 1, 2.0);
    let angles = [0.5f32, 1.0, 1.5, 0.5, 0.5];
    assert_close(&table[..5], &angles.map(|a| 2.0 * a.cos()));
    assert_close(&table[5..], &angles.map(|a| 2.0 * a.sin()));

    let mut head = [1.0, 2.0, 3.0, 4.0, 5.0];
    ops::rope(&mut head, &[0.0, 0.6, 1.0, 0.8]);
    assert_close(&head, &[-3.0, 2.0 * 0.6 - 4.0 * 0.8, 1.0, 4.0 * 0.6 + 2.0 * 0.8, 5.0]);
}

#[test]
fn attention_sees_the_cache_up_to_its_token_and_shares_kv_heads() {
    let (dtype, heads, width) = (DType::F32, 1, 1);
    let mut cache = Kv { dtype, heads, width, keys: vec![], values: vec![] };
    cache.append(&[0.0, 0.0], &[2.0, 4.0]);
    cache.append(&[3f32.ln()], &[8.0]);
    // Two query heads of the last token; the second one's scores are 0, 0 and ln 3.
    let out = ops::attend(&[0.0, 2.0], 2, &cache, 0.5);
    assert_close(&out, &[14.0 / 3.0, (2.0 + 4.0 + 3.0 * 8.0) / 5.0]);
    // The last two tokens: the first of them does not see the second.
    let out = ops::attend(&[0.0, 0.0], 1, &cache, 1.0);
    assert_close(&out, &[3.0, 14.0 / 3.0]);
}

#[test]
fn the_cache_holds_what_its_type_can() {
    let (dtype, heads, width) = (DType::Bf16, 1, 1);
    let mut cache = Kv { dtype, heads, width, keys: vec![], values: vec![] };
    cache.append(&[1.003], &[-1.005]);
    assert_eq!((cache.keys[0], cache.values[0]), (1.0, -1.007_812_5));
}

#[test]
fn the_delta_rule_decays_corrects_and_then_reads() {
    let heads = Delta { nk: 1, dk: 2, nv: 2, dv: 1 };
    let mut state = [4.0, 8.0, 1.0, 1.0];
    let (q, k, v) = ([1.0, 10.0], [1.0, 2.0], [5.0, 7.0]);
    let (g, beta) = ([0.5f32.ln(), 0.0], [0.5, 1.0]);
    let out = ops::gated_delta([&q, &k, &v, &g, &beta], heads, &mut state);
    // Head 0: S = [2, 4], Sᵀk = 10, e = -2.5; head 1: S = [1, 1], Sᵀk = 3, e = 4.
    assert_close(&state, &[-0.5, -1.0, 5.0, 9.0]);
    assert_close(&out, &[-10.5, 95.0]);
}

#[test]
fn equal_logits_choose_the_lower_expert() {
    assert_eq!(experts::top_k(&[1.0, 3.0, 2.0, 3.0, 3.0], 3), [1, 3, 4]);
    let weights = experts::route_weights(&[0.0, 2f32.ln(), 9.0, 0.0], &[1, 0, 3]);
    let weights: Vec<f32> = weights.into_iter().map(|w| w as f32).collect();
    assert_close(&weights, &[0.5, 0.25, 0.25]);
}

#[test]
fn groups_list_each_chosen_experts_pairs() {
    let ids = [3, 1, 1, 0, 3, 1];
    let words = experts::expert_groups(&ids, 5);
    assert_eq!(words[..4], [3, 0, 1, 3]);
    assert_eq!(words[6..10], [0, 1, 4, 6]);
    assert_eq!(words[12..], [3, 1, 2, 5, 0, 4]);
    assert_eq!(experts::grouped_ids(&words, 5), ids);
}

/// Weights that are all different, made from their names.
struct Made;

impl Weights for Made {
    fn matrix(&self, w: &Weight, _: Option<u32>) -> Result<Rc<[f32]>, WeightError> {
        let seed: u32 = w.name.bytes().map(u32::from).sum();
        let len = w.rows * w.cols * w.experts.unwrap_or(1);
        Ok((0..len).map(|i| noise(seed * 7919 + i)).collect())
    }
}

/// Between -1 and 1.
fn noise(i: u32) -> f32 {
    let mixed = i.wrapping_add(1).wrapping_mul(0x9e37_79b9);
    (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca6b) as i32 as f32 / i32::MAX as f32
}

fn weight(g: &mut Graph, name: &str, experts: Option<u32>, rows: u32, cols: u32) -> Value {
    let part = Part::Zeros { rows };
    let id = g.add_weight(Weight {
        name: name.into(),
        dtype: DType::F32,
        experts,
        rows,
        cols,
        vector: rows == 1,
        layout: Layout::Rows,
        recipes: vec![vec![part]],
    });
    g.weight_value(id)
}

const TOKENS: u32 = 5;

/// What each output of a graph on noise is, fed in portions.
fn run(g: &Graph, portions: &[u32]) -> Vec<Vec<f32>> {
    q35_graph::verify(g).expect("a sound graph");
    let mut sequence = Sequence::default();
    let mut out = vec![vec![]; g.outputs.len()];
    let mut start = 0;
    for &tokens in portions {
        let sizes = Sizes { tokens, rows: 0 };
        let row = |t: u32, n: u32| (0..n).map(move |c| noise(1000 * t + c));
        let mut ports = vec![];
        for node in &g.nodes {
            let Op::Input { port } = node.op else { continue };
            let shape: Vec<usize> =
                node.ty.shape.iter().map(|d| d.resolve(sizes) as usize).collect();
            let per_token = shape[1..].iter().product::<usize>() as u32;
            let data: Vec<f32> = (start..start + tokens).flat_map(|t| row(t, per_token)).collect();
            ports.push((port, Tensor::floats(shape, data)));
        }
        let given = block(g, Some(0), &ports, &Made, &mut sequence, sizes).expect("evaluates");
        for (out, (_, tensor)) in out.iter_mut().zip(given) {
            out.extend_from_slice(tensor.f32s());
        }
        start += tokens;
    }
    out
}

fn hidden(g: &mut Graph, cols: u32) -> Value {
    g.input(Port::Hidden, Type::new(DType::F32, [Dim::Tokens, Dim::Fixed(cols)]))
}

/// That both graphs compute the same, whole and in portions.
#[track_caller]
fn assert_same(fused: &Graph, composed: &Graph) {
    let expected = run(composed, &[TOKENS]);
    assert!(expected[0].iter().any(|v| v.abs() > 1e-2), "something is computed");
    for portions in [&[TOKENS][..], &[2, 3], &[1; TOKENS as usize]] {
        for g in [fused, composed] {
            run(g, portions).iter().zip(&expected).for_each(|(a, b)| assert_close(a, b));
        }
    }
}

fn graph(build: impl Fn(&mut Graph) -> Value) -> Graph {
    let mut g = Graph::new("test");
    let out = build(&mut g);
    g.output(Port::Hidden, out);
    g
}

const F32: DType = DType::F32;

#[test]
fn fused_products_are_their_compositions() {
    let fused = graph(|g| {
        let x = hidden(g, 6);
        let (norm, w) = (weight(g, "norm", None, 1, 6), weight(g, "w", None, 7, 6));
        let down = weight(g, "down", None, 6, 3);
        let a = g.push(Op::NormMatMul { eps: 0.1, zero_centred: true, dtype: F32 }, [x, norm, w]);
        let b = Op::NormSwiGlu { eps: 0.1, zero_centred: false, width: 3, up: 4 };
        let b = g.push(b, [x, norm, w]);
        let c = g.push(Op::SwiGlu { width: 3, up: 3 }, [x, w]);
        let a = g.push(Op::Slice { start: 1, len: 3 }, [a]);
        let ab = g.push(Op::Mul {}, [a, b]);
        let abc = g.push(Op::Mul {}, [ab, c]);
        g.push(Op::MatMulAdd {}, [abc, down, x])
    });
    let composed = graph(|g| {
        let x = hidden(g, 6);
        let (norm, w) = (weight(g, "norm", None, 1, 6), weight(g, "w", None, 7, 6));
        let down = weight(g, "down", None, 6, 3);
        let swiglu = |g: &mut Graph, y, up| {
            let gate = g.push(Op::Slice { start: 0, len: 3 }, [y]);
            let gate = g.push(Op::Silu {}, [gate]);
            let up = g.push(Op::Slice { start: up, len: 3 }, [y]);
            g.push(Op::Mul {}, [gate, up])
        };
        let normed = |g: &mut Graph, zero_centred| {
            let normed = g.push(Op::RmsNorm { eps: 0.1, zero_centred }, [x, norm]);
            g.push(Op::MatMul { dtype: F32 }, [normed, w])
        };
        let (y, y2) = (normed(g, true), normed(g, false));
        let plain = g.push(Op::MatMul { dtype: F32 }, [x, w]);
        let a = g.push(Op::Slice { start: 1, len: 3 }, [y]);
        let (b, c) = (swiglu(g, y2, 4), swiglu(g, plain, 3));
        let ab = g.push(Op::Mul {}, [a, b]);
        let abc = g.push(Op::Mul {}, [ab, c]);
        let product = g.push(Op::MatMul { dtype: F32 }, [abc, down]);
        g.push(Op::Add {}, [x, product])
    });
    assert_same(&fused, &composed);
}

#[test]
fn fused_delta_ops_are_their_compositions() {
    // Columns: q and k of 2 heads of 3, v of 4 heads of 2, then a, z, b with gaps.
    let (nk, dk, nv, dv) = (2, 3, 4, 2);
    let (channels, a, z, b, columns) = (20, 21, 26, 35, 40);
    let (eps, scale) = (1e-3, 0.5);
    let states = |g: &mut Graph| {
        let conv = g.add_state(State::Conv { taps: 3, channels });
        (conv, g.add_state(State::Delta { heads: nv, dk, dv }))
    };
    let weights = |g: &mut Graph| {
        let conv = weight(g, "conv", None, channels, 3);
        [("decay", nv), ("dt_bias", nv), ("norm", dv)]
            .map(|(name, n)| weight(g, name, None, 1, n))
            .into_iter()
            .fold(vec![conv], |mut all, v| {
                all.push(v);
                all
            })
    };
    let fused = graph(|g| {
        let (x, w, (conv, delta)) = (hidden(g, columns), weights(g), states(g));
        let op = Op::DeltaConv { nk, dk, nv, dv, eps, scale, state: conv };
        let qkv = g.push(op, [x, w[0]]);
        let op = Op::DeltaRule { nk, dk, nv, dv, z, b, a, eps, state: delta };
        g.push(op, [qkv, x, w[1], w[2], w[3]])
    });
    let composed = graph(|g| {
        let (x, w, (conv, delta)) = (hidden(g, columns), weights(g), states(g));
        let cut = |g: &mut Graph, x, start, len| g.push(Op::Slice { start, len }, [x]);
        let qkv = cut(g, x, 0, channels);
        let qkv = g.push(Op::Conv { state: conv }, [qkv, w[0]]);
        let qkv = g.push(Op::Silu {}, [qkv]);
        let heads = |g: &mut Graph, x, start, heads, width| {
            let x = cut(g, x, start, heads * width);
            g.push(Op::Split { heads }, [x])
        };
        let (q, k) = (heads(g, qkv, 0, nk, dk), heads(g, qkv, 6, nk, dk));
        let q = g.push(Op::L2Norm { eps, scale }, [q]);
        let k = g.push(Op::L2Norm { eps, scale: 1.0 }, [k]);
        let v = heads(g, qkv, 12, nv, dv);
        let a = cut(g, x, a, nv);
        let a = g.push(Op::Add {}, [a, w[2]]);
        let a = g.push(Op::Softplus {}, [a]);
        let gate = g.push(Op::Mul {}, [a, w[1]]);
        let beta = cut(g, x, b, nv);
        let beta = g.push(Op::Sigmoid {}, [beta]);
        let out = g.push(Op::GatedDelta { state: delta }, [q, k, v, gate, beta]);
        let out = g.push(Op::RmsNorm { eps, zero_centred: false }, [out, w[3]]);
        let z = heads(g, x, z, nv, dv);
        let z = g.push(Op::Silu {}, [z]);
        let out = g.push(Op::Mul {}, [out, z]);
        g.push(Op::Join {}, [out])
    });
    assert_same(&fused, &composed);
}

#[test]
fn fused_attention_ops_are_their_compositions() {
    // Columns: values, then query and gate of each of 4 heads of 4, then keys.
    let (heads, kv_heads, width, columns) = (4, 2, 4, 50);
    let (v, q, k) = (1, 9, 41);
    let (eps, scale) = (1e-3, 0.7);
    let cache = State::Kv { dtype: DType::Bf16, heads: kv_heads, head_dim: width };
    let inputs = |g: &mut Graph| {
        let (x, state) = (hidden(g, columns), g.add_state(cache.clone()));
        let shape = [Dim::Tokens, Dim::Fixed(2), Dim::Fixed(1)];
        let rope = g.input(Port::Rope, Type::new(F32, shape));
        (x, rope, [("q_norm", 4), ("k_norm", 4)].map(|(n, w)| weight(g, n, None, 1, w)), state)
    };
    let fused = graph(|g| {
        let (x, rope, [qn, kn], state) = inputs(g);
        let op = Op::QkRope { heads, kv_heads, width, q, k, v, eps, state };
        let queries = g.push(op, [x, qn, kn, rope]);
        let op = Op::GatedAttention { heads, kv_heads, width, gate: q + width, scale, state };
        g.push(op, [queries, x])
    });
    let composed = graph(|g| {
        let (x, rope, norms, state) = inputs(g);
        let split = |g: &mut Graph, start, heads, width| {
            let x = g.push(Op::Slice { start, len: heads * width }, [x]);
            g.push(Op::Split { heads }, [x])
        };
        let both = split(g, q, heads, 2 * width);
        let queries = g.push(Op::Slice { start: 0, len: width }, [both]);
        let gates = g.push(Op::Slice { start: width, len: width }, [both]);
        let (keys, values) = (split(g, k, kv_heads, width), split(g, v, kv_heads, width));
        let [queries, keys] = [(queries, norms[0]), (keys, norms[1])].map(|(x, norm)| {
            let x = g.push(Op::RmsNorm { eps, zero_centred: false }, [x, norm]);
            g.push(Op::Rope {}, [x, rope])
        });
        let out = g.push(Op::Attention { scale, state }, [queries, keys, values]);
        let gates = g.push(Op::Sigmoid {}, [gates]);
        let out = g.push(Op::Mul {}, [out, gates]);
        g.push(Op::Join {}, [out])
    });
    assert_same(&fused, &composed);
}

#[test]
fn fused_expert_ops_are_their_compositions() {
    let (experts, k, hidden_size, width) = (5, 2, 6, 3);
    let inputs = |g: &mut Graph| {
        let x = hidden(g, hidden_size);
        let router = weight(g, "router", None, experts + 1, hidden_size);
        let logits = g.push(Op::MatMul { dtype: F32 }, [x, router]);
        let ids = g.push(Op::TopK { experts, k }, [logits]);
        let gate_up = weight(g, "gate_up", Some(experts), 2 * width, hidden_size);
        (x, logits, ids, gate_up, weight(g, "down", Some(experts), hidden_size, width))
    };
    let fused = graph(|g| {
        let (x, logits, ids, gate_up, down) = inputs(g);
        let groups = g.push(Op::ExpertGroups { experts }, [ids]);
        let y = g.push(Op::ExpertSwiGlu { k, width, up: width }, [x, gate_up, groups]);
        let y = g.push(Op::ExpertLinear {}, [y, down, groups]);
        let shared = g.push(Op::Silu {}, [x]);
        g.push(Op::ExpertCombine { gate: experts }, [y, logits, ids, shared, x])
    });
    let composed = graph(|g| {
        let (x, logits, ids, gate_up, down) = inputs(g);
        let both = g.push(Op::ExpertMatMul {}, [x, gate_up, ids]);
        let gate = g.push(Op::Slice { start: 0, len: width }, [both]);
        let gate = g.push(Op::Silu {}, [gate]);
        let up = g.push(Op::Slice { start: width, len: width }, [both]);
        let y = g.push(Op::Mul {}, [gate, up]);
        let y = g.push(Op::ExpertMatMul {}, [y, down, ids]);
        let weights = g.push(Op::RouteWeights {}, [logits, ids]);
        let routed = g.push(Op::ExpertSum {}, [y, weights]);
        let shared = g.push(Op::Silu {}, [x]);
        let open = g.push(Op::Slice { start: experts, len: 1 }, [logits]);
        let open = g.push(Op::Sigmoid {}, [open]);
        let shared = g.push(Op::Mul {}, [shared, open]);
        let y = g.push(Op::Add {}, [routed, shared]);
        g.push(Op::Add {}, [x, y])
    });
    assert_same(&fused, &composed);
}

#[test]
fn a_node_rounds_to_its_type() {
    let g = graph(|g| {
        let x = hidden(g, 4);
        let w = weight(g, "w", None, 4, 4);
        g.push(Op::MatMul { dtype: DType::Bf16 }, [x, w])
    });
    let rounded = |v: &f32| v.to_bits().is_multiple_of(1 << 16);
    assert!(run(&g, &[TOKENS])[0].iter().all(rounded));
}

/// A safetensors file of f32 tensors.
fn file(tensors: &[(&str, &[usize], &[f32])]) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(.., v)| v.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|(&(name, shape, _), bytes)| {
        let dtype = safetensors::Dtype::F32;
        let view = safetensors::tensor::TensorView::new(dtype, shape.to_vec(), bytes);
        (name, view.expect("as many bytes as the shape says"))
    });
    safetensors::serialize(views, None).expect("serializes")
}

fn rows(tensor: &str, shape: &[u64], first: u64, per_expert: u64, rows: u32) -> Part {
    let (tensor, shape, transform) = (tensor.into(), shape.to_vec(), Transform::AddOne);
    Part::Rows { tensor, shape, first, per_expert, rows, transform }
}

fn recipe_weight(experts: Option<u32>, rows: u32, recipes: Vec<Vec<Part>>) -> Weight {
    let (name, dtype, layout) = ("w".into(), DType::F32, Layout::Panels);
    Weight { name, dtype, experts, rows, cols: 2, vector: false, layout, recipes }
}

#[test]
fn a_checkpoint_follows_the_recipe_that_it_has_the_tensors_for() {
    let (a, b) = (
        file(&[("fused", &[4, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])]),
        file(&[("e.0", &[1, 2], &[8.0, 9.0]), ("e.1", &[1, 2], &[10.0, 11.0])]),
    );
    let known = Part::Values { bits: [0.5f32, 0.25].map(f32::to_bits).to_vec() };
    let recipes = vec![
        vec![rows("absent", &[4, 2], 0, 2, 1), known.clone()],
        vec![rows("fused", &[4, 2], 1, 2, 1), known.clone()],
        vec![rows("e.{expert}", &[1, 2], 0, 0, 1), known],
    ];
    let weight = recipe_weight(Some(2), 2, recipes);
    let made = |files: &[&[u8]]| {
        let checkpoint = Checkpoint::new(files.iter().copied()).expect("safetensors");
        checkpoint.matrix(&weight, None).map(|m| m.to_vec())
    };
    assert_eq!(made(&[&a, &b]).unwrap(), [3.0, 4.0, 0.5, 0.25, 7.0, 8.0, 0.5, 0.25]);
    assert_eq!(made(&[&b]).unwrap(), [9.0, 10.0, 0.5, 0.25, 11.0, 12.0, 0.5, 0.25]);
    let missing = WeightError::Missing { weight: "w".into(), tensor: "absent".into() };
    assert_eq!(made(&[]), Err(missing));
}

#[test]
fn a_tensor_of_another_shape_is_refused() {
    let bytes = file(&[("t.3", &[2, 2], &[0.0; 4])]);
    let checkpoint = Checkpoint::new([&bytes[..]]).expect("safetensors");
    let weight = recipe_weight(None, 3, vec![vec![rows("t.{layer}", &[3, 2], 0, 0, 3)]]);
    assert_eq!(
        checkpoint.matrix(&weight, Some(3)).unwrap_err().to_string(),
        "`t.3` is [2, 2], expected [3, 2]"
    );
    assert!(matches!(Checkpoint::new([&bytes[1..]]), Err(WeightError::Container(_))));
}
