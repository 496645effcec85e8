//! One block, node by node.

use super::experts as moe;
use super::fused::{self, AttentionColumns, DeltaColumns};
use super::ops::{self, Delta};
use super::sampling;
use super::sequence::Sequence;
use super::tensor::{Tensor, round};
use super::weights::{WeightError, Weights};
use q35_graph::{Graph, Node, Op, Port, StateId, Type};
use q35_types::{DType, Sizes};

/// Why a block cannot be evaluated.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EvalError {
    #[error(transparent)]
    Weight(#[from] WeightError),

    #[error("token {id} is not one of the {vocab} of the embedding")]
    Token { id: i32, vocab: usize },

    #[error("row {row} is not one of the step's {tokens} tokens")]
    Row { row: i32, tokens: usize },

    #[error("block `{block}` needs `{port}`, which nothing gave")]
    Port { block: String, port: &'static str },
}

/// What `graph` gives back, from what `ports` gives it, on one layer's weights and the state of one sequence.
pub fn block(
    graph: &Graph,
    layer: Option<u32>,
    ports: &[(Port, Tensor)],
    weights: &impl Weights,
    sequence: &mut Sequence,
    sizes: Sizes,
) -> Result<Vec<(Port, Tensor)>, EvalError> {
    let mut values: Vec<Tensor> = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let value = match node.op {
            Op::Input { port } => {
                let given =
                    ports.iter().find(|(p, _)| *p == port).map(|(_, tensor)| tensor.clone());
                let (block, port) = (&graph.name, port.name());
                given.ok_or_else(|| EvalError::Port { block: block.clone(), port })?
            }
            Op::Weight { id } => {
                let elements = weights.matrix(graph.weight(id), layer)?;
                Tensor::floats(shape(&node.ty, sizes), elements)
            }
            _ => {
                let operands: Vec<&Tensor> =
                    node.operands.iter().map(|v| &values[v.0 as usize]).collect();
                Frame { graph, layer, sequence, sizes }.node(node, &operands)?
            }
        };
        assert_eq!(value.shape, shape(&node.ty, sizes), "`{}`", node.op.name());
        values.push(value);
    }
    let output = |&(port, v): &(Port, q35_graph::Value)| (port, values[v.0 as usize].clone());
    Ok(graph.outputs.iter().map(output).collect())
}

fn shape(ty: &Type, sizes: Sizes) -> Vec<usize> {
    ty.shape.iter().map(|dim| dim.resolve(sizes) as usize).collect()
}

struct Frame<'a> {
    graph: &'a Graph,
    layer: Option<u32>,
    sequence: &'a mut Sequence,
    sizes: Sizes,
}

impl Frame<'_> {
    /// The result of a node that is neither an input nor a weight.
    fn node(&mut self, node: &Node, operands: &[&Tensor]) -> Result<Tensor, EvalError> {
        let shape = shape(&node.ty, self.sizes);
        if node.ty.dtype == DType::I32 {
            return Ok(Tensor::ints(shape, ints(&node.op, operands)));
        }
        let mut out = self.floats(&node.op, operands)?;
        out.iter_mut().for_each(|v| *v = round(node.ty.dtype, *v));
        Ok(Tensor::floats(shape, out))
    }

    fn conv_or_delta(&mut self, state: StateId) -> &mut Vec<f32> {
        self.sequence.floats(self.layer, self.graph.state(state))
    }

    fn cache(&mut self, state: StateId) -> &mut super::Kv {
        self.sequence.cache(self.layer, self.graph.state(state))
    }

    /// The elements of a float result, not yet rounded to its type.
    fn floats(&mut self, op: &Op, operands: &[&Tensor]) -> Result<Vec<f32>, EvalError> {
        let f32s = |i: usize| operands[i].f32s();
        let each = |f: fn(f32) -> f32| operands[0].f32s().iter().map(|&v| f(v)).collect();
        Ok(match *op {
            Op::Input { .. } | Op::Weight { .. } => unreachable!("they are given"),
            Op::TopK { .. } | Op::ExpertGroups { .. } | Op::Likeliest { .. } => {
                unreachable!("they are integers")
            }

            Op::Embed { .. } => {
                let (ids, vocab) = (operands[0].i32s(), operands[1].shape[0]);
                let outside = ids.iter().find(|&&id| !(0..vocab as i64).contains(&i64::from(id)));
                if let Some(&id) = outside {
                    return Err(EvalError::Token { id, vocab });
                }
                take_rows(operands[1], ids)
            }
            Op::Gather {} => {
                let (rows, tokens) = (operands[1].i32s(), operands[0].shape[0]);
                let outside = rows.iter().find(|&&r| !(0..tokens as i64).contains(&i64::from(r)));
                if let Some(&row) = outside {
                    return Err(EvalError::Row { row, tokens });
                }
                take_rows(operands[0], rows)
            }
            Op::RmsNorm { eps, zero_centred } => {
                let factor = ops::norm_factor(f32s(1), zero_centred);
                operands[0].rows().flat_map(|x| ops::rms_norm(x, &factor, eps)).collect()
            }
            Op::L2Norm { eps, scale } => {
                operands[0].rows().flat_map(|x| ops::l2_norm(x, eps, scale)).collect()
            }
            Op::MatMul { .. } => matmul(operands[0], f32s(1)),
            Op::Slice { start, len } => operands[0].columns(start as usize, len as usize),
            Op::Split { .. } | Op::Join {} => f32s(0).to_vec(),
            Op::Add {} => broadcast(operands[0], operands[1], |a, b| a + b),
            Op::Mul {} => broadcast(operands[0], operands[1], |a, b| a * b),
            Op::Silu {} => each(ops::silu),
            Op::Sigmoid {} => each(ops::sigmoid),
            Op::Softplus {} => each(ops::softplus),
            Op::Conv { state } => {
                let channels = operands[0].cols();
                ops::conv(f32s(0), f32s(1), channels, self.conv_or_delta(state))
            }
            Op::RopeTable { h, w, scale } => {
                ops::rope_table(operands[0].i32s(), f32s(1), h, w, scale)
            }
            Op::Rope {} => {
                let [tokens, heads, width] = axes(operands[0]);
                let per_token = f32s(1).len() / tokens.max(1);
                let mut x = f32s(0).to_vec();
                for (i, head) in x.chunks_exact_mut(width).enumerate() {
                    ops::rope(head, &f32s(1)[i / heads * per_token..][..per_token]);
                }
                x
            }
            Op::Attention { scale, state } => {
                let cache = self.cache(state);
                cache.append(f32s(1), f32s(2));
                ops::attend(f32s(0), operands[0].shape[1], cache, scale)
            }
            Op::GatedDelta { state } => {
                let ([_, nk, dk], [_, nv, dv]) = (axes(operands[0]), axes(operands[2]));
                let inputs = [f32s(0), f32s(1), f32s(2), f32s(3), f32s(4)];
                ops::gated_delta(inputs, Delta { nk, dk, nv, dv }, self.conv_or_delta(state))
            }
            Op::RouteWeights {} => {
                let ids = operands[1].i32s().chunks_exact(operands[1].cols());
                let weights = operands[0].rows().zip(ids);
                weights.flat_map(|(x, ids)| moe::route_weights(x, ids)).map(|w| w as f32).collect()
            }
            Op::ExpertMatMul {} => {
                let [_, rows, cols] = axes(operands[1]);
                moe::expert_matmul(f32s(0), cols, f32s(1), rows, operands[2].i32s())
            }
            Op::ExpertSum {} => {
                let [_, k, cols] = axes(operands[0]);
                let tokens = f32s(0).chunks_exact(k * cols).zip(operands[1].rows());
                let sum = |(x, weights): (&[f32], &[f32])| {
                    moe::expert_sum(x, cols, weights.iter().map(|&w| f64::from(w)))
                };
                tokens.flat_map(sum).map(|v| v as f32).collect()
            }
            Op::LogitsAt {} => {
                let ids = operands[1].i32s().chunks_exact(operands[1].cols());
                operands[0].rows().zip(ids).flat_map(|(x, i)| sampling::logits_at(x, i)).collect()
            }
            Op::NormMatMul { eps, zero_centred, .. } => {
                let factor = ops::norm_factor(f32s(1), zero_centred);
                let norm = |x| ops::matmul(&ops::rms_norm(x, &factor, eps), f32s(2));
                operands[0].rows().flat_map(norm).collect()
            }
            Op::MatMulAdd {} => {
                let product = matmul(operands[0], f32s(1));
                product.into_iter().zip(f32s(2)).map(|(v, r)| r + v).collect()
            }
            Op::SwiGlu { width, up } => {
                let (width, up) = (width as usize, up as usize);
                operands[0].rows().flat_map(|x| fused::swiglu(x, f32s(1), width, up)).collect()
            }
            Op::NormSwiGlu { eps, zero_centred, width, up } => {
                let (width, up) = (width as usize, up as usize);
                let factor = ops::norm_factor(f32s(1), zero_centred);
                let row = |x| fused::swiglu(&ops::rms_norm(x, &factor, eps), f32s(2), width, up);
                operands[0].rows().flat_map(row).collect()
            }
            Op::DeltaConv { nk, dk, nv, dv, eps, scale, state } => {
                let history = self.conv_or_delta(state);
                fused::delta_conv(
                    operands[0],
                    f32s(1),
                    delta(nk, dk, nv, dv),
                    (eps, scale),
                    history,
                )
            }
            Op::DeltaRule { nk, dk, nv, dv, z, b, a, eps, state } => {
                let columns = DeltaColumns { z: z as usize, b: b as usize, a: a as usize };
                let parameters = [f32s(2), f32s(3), f32s(4)];
                let (qkv, x, heads) = (operands[0], operands[1], delta(nk, dk, nv, dv));
                let state = self.conv_or_delta(state);
                fused::delta_rule(qkv, x, parameters, heads, columns, eps, state)
            }
            Op::QkRope { heads, kv_heads, width, q, k, v, eps, state } => {
                let [heads, kv_heads, width, q, k, v] =
                    [heads, kv_heads, width, q, k, v].map(|n| n as usize);
                let columns = AttentionColumns { heads, kv_heads, width, q, k, v };
                let (norms, cache) = ([f32s(1), f32s(2)], self.cache(state));
                fused::qk_rope(operands[0], norms, operands[3], columns, eps, cache)
            }
            Op::GatedAttention { heads, gate, scale, state, .. } => {
                let (heads, gate) = (heads as usize, gate as usize);
                fused::gated_attention(f32s(0), operands[1], heads, gate, scale, self.cache(state))
            }
            Op::ExpertSwiGlu { k, width, up } => {
                let [experts, rows, cols] = axes(operands[1]);
                let ids = moe::grouped_ids(operands[2].i32s(), experts);
                let row = |(p, &id): (usize, &i32)| {
                    let x = &f32s(0)[p / k as usize * cols..][..cols];
                    let weight = moe::expert(f32s(1), rows * cols, id);
                    fused::swiglu(x, weight, width as usize, up as usize)
                };
                ids.iter().enumerate().flat_map(row).collect()
            }
            Op::ExpertLinear {} => {
                let [experts, rows, cols] = axes(operands[1]);
                let ids = moe::grouped_ids(operands[2].i32s(), experts);
                moe::expert_matmul(f32s(0), cols, f32s(1), rows, &ids)
            }
            Op::ExpertCombine { gate } => {
                let [_, k, cols] = axes(operands[0]);
                let token = |t: usize| {
                    let row = |i: usize| &f32s(i)[t * cols..][..cols];
                    let x = &f32s(0)[t * k * cols..][..k * cols];
                    let logits = &f32s(1)[t * operands[1].cols()..][..operands[1].cols()];
                    let ids = &operands[2].i32s()[t * k..][..k];
                    moe::expert_combine(x, logits, ids, row(3), row(4), gate as usize)
                };
                (0..operands[0].shape[0]).flat_map(token).collect()
            }
        })
    }
}

/// The elements of an integer result.
fn ints(op: &Op, operands: &[&Tensor]) -> Vec<i32> {
    let x = operands[0];
    match *op {
        Op::TopK { experts, k } => {
            x.rows().flat_map(|row| moe::top_k(&row[..experts as usize], k as usize)).collect()
        }
        Op::ExpertGroups { experts } => moe::expert_groups(x.i32s(), experts as usize),
        Op::Likeliest { k } => {
            let valid = operands[1].i32s()[0];
            x.rows().flat_map(|row| sampling::likeliest(row, valid, k as usize)).collect()
        }
        Op::Slice { start, len } => {
            let rows = x.i32s().chunks_exact(x.cols());
            rows.flat_map(|row| &row[start as usize..][..len as usize]).copied().collect()
        }
        Op::Split { .. } => x.i32s().to_vec(),
        _ => unreachable!("`{}` gives floats", op.name()),
    }
}

fn axes(x: &Tensor) -> [usize; 3] {
    x.shape[..].try_into().expect("three axes")
}

fn delta(nk: u32, dk: u32, nv: u32, dv: u32) -> Delta {
    let [nk, dk, nv, dv] = [nk, dk, nv, dv].map(|n| n as usize);
    Delta { nk, dk, nv, dv }
}

fn take_rows(x: &Tensor, rows: &[i32]) -> Vec<f32> {
    let (data, cols) = (x.f32s(), x.cols());
    rows.iter().flat_map(|&row| &data[row as usize * cols..][..cols]).copied().collect()
}

fn matmul(x: &Tensor, weight: &[f32]) -> Vec<f32> {
    x.rows().flat_map(|x| ops::matmul(x, weight)).collect()
}

fn broadcast(a: &Tensor, b: &Tensor, f: impl Fn(f32, f32) -> f32) -> Vec<f32> {
    let rank = a.shape.len().max(b.shape.len());
    let padded = |x: &Tensor| [vec![1; rank - x.shape.len()], x.shape.clone()].concat();
    let (sa, sb) = (padded(a), padded(b));
    let shape: Vec<usize> = sa.iter().zip(&sb).map(|(&m, &n)| if m == 1 { n } else { m }).collect();
    // The element of a repeated operand that element `i` of the result reads.
    let at = |mut i: usize, own: &[usize]| {
        let (mut at, mut stride) = (0, 1);
        for (&n, &own) in shape.iter().zip(own).rev() {
            at += if own == 1 { 0 } else { i % n * stride };
            stride *= own;
            i /= n;
        }
        at
    };
    let (x, y) = (a.f32s(), b.f32s());
    (0..shape.iter().product()).map(|i| f(x[at(i, &sa)], y[at(i, &sb)])).collect()
}
