use super::*;
use crate::graph::StateId;
use q35_types::DType::{Bf16, F32, I32};

const T: Dim = Dim::Tokens;

fn ty<const N: usize>(dtype: DType, shape: [Dim; N]) -> Type {
    Type::new(dtype, shape)
}

fn fixed<const N: usize>(dtype: DType, shape: [u32; N]) -> Type {
    Type::new(dtype, shape.map(Dim::Fixed))
}

fn rows(dtype: DType, cols: u32) -> Type {
    ty(dtype, [T, Dim::Fixed(cols)])
}

fn result(op: Op, operands: &[Type]) -> String {
    let operands: Vec<&Type> = operands.iter().collect();
    match op.result(&operands) {
        Ok(ty) => ty.to_string(),
        Err(e) => e.to_string(),
    }
}

#[test]
fn a_matmul_replaces_the_last_axis_and_says_what_would_have_fitted() {
    let op = Op::MatMul { dtype: F32 };
    let x = rows(Bf16, 64);
    assert_eq!(result(op, &[x.clone(), fixed(Bf16, [192, 64])]), "f32[T, 192]");
    assert_eq!(
        result(op, &[x.clone(), fixed(Bf16, [192, 32])]),
        "`matmul`: `weight` is bf16[192, 32], expected [n, 64] to match `x` bf16[T, 64]"
    );
    assert_eq!(result(op, &[x]), "`matmul` has 1 operands, expected 2");
}

#[test]
fn a_slice_stays_within_the_last_axis() {
    let x = [rows(Bf16, 64)];
    assert_eq!(result(Op::Slice { start: 16, len: 48 }, &x), "bf16[T, 48]");
    assert_eq!(
        result(Op::Slice { start: 17, len: 48 }, &x),
        "`slice`: attribute `start` is 17, expected 48 from there on within 64"
    );
    assert!(result(Op::Slice { start: u32::MAX, len: u32::MAX }, &x).contains("`start`"));
    assert!(result(Op::Slice { start: 0, len: 0 }, &x).contains("`len` is 0"));
}

#[test]
fn split_and_join_undo_each_other() {
    let x = rows(Bf16, 60);
    assert_eq!(result(Op::Split { heads: 3 }, std::slice::from_ref(&x)), "bf16[T, 3, 20]");
    let split = ty(Bf16, [T, Dim::Fixed(3), Dim::Fixed(20)]);
    assert_eq!(result(Op::Join {}, &[split]), "bf16[T, 60]");
    assert_eq!(
        result(Op::Split { heads: 7 }, &[x]),
        "`split`: attribute `heads` is 7, expected a divisor of 60, the last axis of `x`"
    );
    let huge = ty(Bf16, [T, Dim::Fixed(1 << 20), Dim::Fixed(1 << 20)]);
    assert!(result(Op::Join {}, &[huge]).contains("below 2^32"));
}

#[test]
fn broadcasting_repeats_missing_axes_and_axes_of_one() {
    let heads = ty(F32, [T, Dim::Fixed(4), Dim::Fixed(8)]);
    let one = ty(F32, [T, Dim::Fixed(1)]);
    assert_eq!(result(Op::Mul {}, &[heads.clone(), fixed(Bf16, [8])]), "f32[T, 4, 8]");
    assert_eq!(result(Op::Mul {}, &[one.clone(), rows(Bf16, 8)]), "f32[T, 8]");
    assert_eq!(result(Op::Add {}, &[rows(Bf16, 8), one]), "bf16[T, 8]");
    assert_eq!(
        result(Op::Add {}, &[heads, fixed(Bf16, [4])]),
        "`add`: `b` is bf16[4], expected axes of 1 or those of `a` f32[T, 4, 8]"
    );
}

#[test]
fn attention_shares_kv_heads_evenly() {
    let op = Op::Attention { scale: 0.25, state: StateId(0) };
    let heads = |n| ty(Bf16, [T, Dim::Fixed(n), Dim::Fixed(16)]);
    assert_eq!(result(op, &[heads(6), heads(2), heads(2)]), "bf16[T, 6, 16]");
    assert_eq!(
        result(op, &[heads(6), heads(4), heads(4)]),
        "`attention`: `k` is bf16[T, 4, 16], expected a number of heads that divides the 6 of `q`"
    );
    assert!(result(op, &[heads(0), heads(0), heads(0)]).contains("expected a number of heads"));
}

#[test]
fn routing_chooses_among_the_experts_there_are() {
    let logits = rows(F32, 10);
    let top = |experts, k| result(Op::TopK { experts, k }, std::slice::from_ref(&logits));
    assert_eq!(top(8, 3), "i32[T, 3]");
    assert_eq!(top(8, 9), "`top_k`: attribute `k` is 9, expected 1 to 8, the experts");
    assert!(top(11, 3).contains("`experts` is 11, expected 1 to 10"));

    let ids = rows(I32, 3);
    let groups = |experts| result(Op::ExpertGroups { experts }, std::slice::from_ref(&ids));
    assert_eq!(groups(8), "i32[3T+18]");
    assert!(groups(2).contains("`experts` is 2"));
    assert!(groups(u32::MAX).contains("`experts` is"));
}

#[test]
fn sampling_ranks_float32_logits() {
    let logits = ty(F32, [Dim::Rows, Dim::Fixed(50)]);
    let (valid, ids) = (fixed(I32, [1]), ty(I32, [Dim::Rows, Dim::Fixed(3)]));
    let likeliest =
        |logits: &Type, k| result(Op::Likeliest { k }, &[logits.clone(), valid.clone()]);
    assert_eq!(likeliest(&logits, 3), "i32[R, 3]");
    assert_eq!(likeliest(&logits, 99), "i32[R, 99]");
    assert_eq!(likeliest(&logits, 0), "`likeliest`: attribute `k` is 0, expected at least 1");
    let half = ty(Bf16, [Dim::Rows, Dim::Fixed(50)]);
    assert!(likeliest(&half, 3).contains("expected f32[R, vocab]"));

    assert_eq!(result(Op::LogitsAt {}, &[logits.clone(), ids]), "f32[R, 3]");
    let others = rows(I32, 3);
    assert!(result(Op::LogitsAt {}, &[logits, others]).contains("expected i32[R, k] to match"));
}

#[test]
fn experts_take_words_that_group_their_tokens() {
    let x = rows(Bf16, 32);
    let weight = fixed(Bf16, [8, 40, 32]);
    let groups = ty(I32, [Dim::PerToken { times: 2, plus: 18 }]);
    let op = Op::ExpertSwiGlu { k: 2, width: 20, up: 20 };
    assert_eq!(result(op, &[x.clone(), weight.clone(), groups.clone()]), "bf16[T, 2, 20]");
    let op = Op::ExpertSwiGlu { k: 3, width: 20, up: 20 };
    assert_eq!(
        result(op, &[x.clone(), weight.clone(), groups.clone()]),
        "`expert_swiglu`: `groups` is i32[2T+18], expected i32[3T+18]"
    );
    let op = Op::ExpertSwiGlu { k: 2, width: 21, up: 21 };
    assert!(result(op, &[x, weight, groups]).contains("expected 21 from there on within 40"));
}

#[test]
fn fused_delta_ops_find_their_columns() {
    let (nk, dk, nv, dv) = (2, 8, 4, 6);
    let conv = Op::DeltaConv { nk, dk, nv, dv, eps: 1e-6, scale: 0.5, state: StateId(0) };
    let x = rows(Bf16, 96);
    assert_eq!(result(conv, &[x.clone(), fixed(Bf16, [56, 4])]), "bf16[T, 56]");
    assert!(result(conv, &[rows(Bf16, 55), fixed(Bf16, [56, 4])]).contains("[T, 56 or more]"));

    let gates = [fixed(F32, [4]), fixed(F32, [4]), fixed(F32, [6])];
    let rule = |z, b| {
        let state = StateId(1);
        let op = Op::DeltaRule { nk, dk, nv, dv, z, b, a: 92, eps: 1e-6, state };
        let [decay, dt_bias, norm] = gates.clone();
        result(op, &[rows(Bf16, 56), x.clone(), decay, dt_bias, norm])
    };
    assert_eq!(rule(56, 80), "bf16[T, 24]");
    assert!(rule(73, 80).contains("`z` is 73, expected 24 from there on within 96"));
    assert!(rule(56, 93).contains("`b` is 93"));
}

/// Attributes may come from a file: any of them gives a type or an error.
#[test]
fn rules_are_total_at_the_edges() {
    let sizes = [0, 1, 2, 1 << 16, u32::MAX];
    let x = rows(Bf16, 8);
    for nk in sizes {
        for nv in sizes {
            for d in sizes {
                let state = StateId(0);
                let ops = [
                    Op::DeltaConv { nk, dk: d, nv, dv: d, eps: 0.0, scale: 1.0, state },
                    Op::DeltaRule { nk, dk: d, nv, dv: d, z: nk, b: d, a: nv, eps: 0.0, state },
                    Op::QkRope {
                        heads: nv,
                        kv_heads: nk,
                        width: d,
                        q: d,
                        k: nk,
                        v: nv,
                        eps: 0.0,
                        state,
                    },
                    Op::GatedAttention {
                        heads: nv,
                        kv_heads: nk,
                        width: d,
                        gate: nk,
                        scale: 1.0,
                        state,
                    },
                    Op::SwiGlu { width: nk, up: nv },
                    Op::ExpertSwiGlu { k: nk, width: nv, up: d },
                    Op::ExpertGroups { experts: nk },
                ];
                for op in ops {
                    let operands = vec![&x; op.operands().len()];
                    assert!(op.result(&operands).is_err(), "{op:?}");
                }
            }
        }
    }
}
