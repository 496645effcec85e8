use super::*;
use crate::{text, verify};

const MLP: &str = r#"
block mlp
w0: bf16[192, 64] rows "gate"
  recipe
    rows "gate" [192, 64] {first: 0, rows: 192, per_expert: 0, transform: none}
w1: bf16[192, 64] rows "up"
  recipe
    rows "up" [192, 64] {first: 0, rows: 192, per_expert: 0, transform: none}
%0: bf16[T, 64] = input {port: hidden}
%1: bf16[192, 64] = weight {id: w0}
%2: bf16[T, 192] = matmul %0, %1 {dtype: bf16}
%3: bf16[T, 192] = silu %2
%4: bf16[192, 64] = weight {id: w1}
%5: bf16[T, 192] = matmul %0, %4 {dtype: bf16}
%6: bf16[T, 192] = mul %3, %5
return hidden %6
"#;

fn read(text: &str) -> Graph {
    let graph = text::graph("graph", text).expect("the text is well formed");
    assert_eq!(verify(&graph), Ok(()));
    graph
}

/// The nodes and outputs of a sound graph.
fn body(graph: &Graph) -> String {
    assert_eq!(verify(graph), Ok(()));
    graph
        .to_string()
        .lines()
        .skip_while(|line| !line.starts_with('%'))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The weight that has `parts`' rows one after another.
fn stacked(name: &str, parts: &[&Weight]) -> Weight {
    let recipe = parts.iter().flat_map(|w| w.recipes[0].clone()).collect();
    let rows = parts.iter().map(|w| w.rows).sum();
    Weight { name: name.into(), rows, recipes: vec![recipe], ..parts[0].clone() }
}

/// `mul(silu(matmul(x, gate)), matmul(x, up))  ═▶  swiglu(x, gate over up)`
fn swiglu(g: &Rewriter<'_>, root: Value) -> Option<Rewrite> {
    let [activated, lifted] = g.matches(root, Op::Mul {})?;
    let [gated] = g.matches(activated, Op::Silu {})?;
    let (Op::MatMul { .. }, &[x, gate]) = g.at(gated) else {
        return None;
    };
    let (Op::MatMul { .. }, &[x2, up]) = g.at(lifted) else {
        return None;
    };
    let private = [activated, gated, lifted].into_iter().all(|v| g.used_once(v));
    let (gate, up) = (g.weight(gate)?, g.weight(up)?);
    (x == x2 && private).then(|| {
        let mut new = g.draft();
        let weight = new.add_weight(stacked("gate_up", &[gate, up]));
        new.push(Op::SwiGlu { width: gate.rows, up: gate.rows }, [x, weight]);
        new
    })
}

/// `matmul(x, a), matmul(x, b)  ═▶  slices of matmul(x, a over b)`
fn merge(g: &Rewriter<'_>, root: Value) -> Option<Rewrite> {
    let (op @ Op::MatMul { .. }, &[x, _]) = g.at(root) else {
        return None;
    };
    let siblings: Vec<Value> = g.users(x).iter().copied().filter(|&v| g.at(v).0 == op).collect();
    if siblings.len() < 2 {
        return None;
    }
    let weights = siblings.iter().map(|&v| g.weight(g.at(v).1[1])).collect::<Option<Vec<_>>>()?;
    let mut new = g.draft();
    let weight = new.add_weight(stacked("merged", &weights));
    let product = new.push(op, [x, weight]);
    let mut start = 0;
    for (&v, w) in siblings.iter().zip(weights) {
        let slice = new.push(Op::Slice { start, len: w.rows }, [product]);
        new.replace(v, slice);
        start += w.rows;
    }
    Some(new)
}

#[test]
fn a_rule_replaces_its_root_and_what_only_that_needed_is_gone() {
    let mut g = read(MLP);
    assert_eq!(g.rewrite(swiglu), 1);
    insta::assert_snapshot!(g, @r#"
    block mlp
    w0: bf16[384, 64] rows "gate_up"
      recipe
        rows "gate" [192, 64] {first: 0, rows: 192, per_expert: 0, transform: none}
        rows "up" [192, 64] {first: 0, rows: 192, per_expert: 0, transform: none}
    %0: bf16[T, 64] = input {port: hidden}
    %1: bf16[384, 64] = weight {id: w0}
    %2: bf16[T, 192] = swiglu %0, %1 {width: 192, up: 192}
    return hidden %2
    "#);
}

#[test]
fn several_values_become_slices_of_one_before_the_first_use() {
    let mut g = read(MLP);
    assert_eq!(g.rewrite(merge), 1);
    insta::assert_snapshot!(body(&g), @r#"
    %0: bf16[T, 64] = input {port: hidden}
    %1: bf16[384, 64] = weight {id: w0}
    %2: bf16[T, 384] = matmul %0, %1 {dtype: bf16}
    %3: bf16[T, 192] = slice %2 {start: 0, len: 192}
    %4: bf16[T, 192] = slice %2 {start: 192, len: 192}
    %5: bf16[T, 192] = silu %3
    %6: bf16[T, 192] = mul %5, %4
    return hidden %6
    "#);
}

#[test]
fn a_rule_that_does_not_fit_changes_nothing() {
    let mut g = read(&MLP.replace("return hidden %6", "return hidden %5"));
    assert_eq!(g.rewrite(swiglu), 0);
    let before = body(&g);
    g.prune();
    assert_ne!(before, body(&g), "the product was dead");
    assert_eq!(g.weights.len(), 1);
}

#[test]
fn a_value_can_stand_for_the_root() {
    let mut g = read(MLP);
    let drop_silu = |g: &Rewriter<'_>, root| {
        let [x] = g.matches(root, Op::Silu {})?;
        Some(Rewrite::to(x))
    };
    assert_eq!(g.rewrite(drop_silu), 1);
    assert!(body(&g).contains("mul %2, %4"), "{}", body(&g));
}

#[test]
#[should_panic(expected = "the rule fits its own result in block `mlp`")]
fn a_rule_that_never_ends_is_found_out() {
    read(MLP).rewrite(|g, root| {
        let [a, b] = g.matches(root, Op::Mul {})?;
        Some(Rewrite::new(Op::Mul {}, [b, a]))
    });
}

const STATE: &str = r#"
block mixer
w0: f32[64, 4] rows "conv"
  recipe
    rows "conv" [64, 4] {first: 0, rows: 64, per_expert: 0, transform: none}
s0: delta {heads: 1, dk: 2, dv: 2}
s1: conv {taps: 4, channels: 64}
%0: f32[T, 64] = input {port: hidden}
%1: f32[64, 4] = weight {id: w0}
%2: f32[T, 64] = conv %0, %1 {state: s1}
%3: f32[T, 64] = silu %2
%4: f32[T, 64] = conv %0, %1 {state: s1}
return hidden %0
"#;

#[test]
fn ops_that_write_state_stay_though_nobody_reads_them() {
    let mut g = read(STATE);
    g.prune();
    insta::assert_snapshot!(g, @r#"
    block mixer
    w0: f32[64, 4] rows "conv"
      recipe
        rows "conv" [64, 4] {first: 0, rows: 64, per_expert: 0, transform: none}
    s0: conv {taps: 4, channels: 64}
    %0: f32[T, 64] = input {port: hidden}
    %1: f32[64, 4] = weight {id: w0}
    %2: f32[T, 64] = conv %0, %1 {state: s0}
    %3: f32[T, 64] = conv %0, %1 {state: s0}
    return hidden %0
    "#);
}

#[test]
fn new_nodes_take_over_the_state_that_they_use() {
    let mut g = read(&STATE.replace("return hidden %0", "return hidden %3"));
    let silent = |g: &Rewriter<'_>, root| {
        let [x] = g.matches(root, Op::Silu {})?;
        let (op @ Op::Conv { .. }, &[x, weight]) = g.at(x) else {
            return None;
        };
        Some(Rewrite::new(op, [x, weight]))
    };
    assert_eq!(g.rewrite(silent), 1);
    assert_eq!(body(&g).matches("conv").count(), 1, "{}", body(&g));
}
