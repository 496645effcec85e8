//! Which templates compute a node. One arm an op; the ops that passes have taken apart or fused
//! have none.

use super::Limits;
use super::fuse::{Fused, Fusions, Parts};
use crate::kernels::*;
use crate::kernels::{Act, page::Pages};
use q35_graph::{Entry, Graph, Op, State, StateId, Type, Value, WeightId};
use q35_target::Caps;
use q35_types::{Count, DType, Dim};

/// What an argument is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Step,
    Value(Value),
    /// Memory between two launches of one node.
    Temp(usize),
    Weight(WeightId),
    /// Keys of a KV cache are part 0, values part 1; other state has only a part 0.
    State(StateId, usize),
}

/// A kernel and its arguments, the result last.
#[derive(Debug)]
pub struct Launch {
    pub spec: Spec,
    pub args: Vec<Source>,
}

#[derive(Debug, Default)]
pub struct Selected {
    pub launches: Vec<Launch>,
    /// Bytes of each temporary.
    pub temps: Vec<u64>,
}

pub fn select(graph: &Graph, entry: Entry, limits: Limits, caps: &Caps) -> Selected {
    let mut cx = Cx { graph, entry, limits, lanes: caps.lanes, out: Selected::default() };
    let fusions = match entry {
        Entry::Decode if caps.lanes > 1 => {
            Fusions::find(graph, |v| cx.heads(v), |v, parts| cx.mixture(v, parts))
        }
        _ => Fusions::default(),
    };
    for v in graph.values() {
        match fusions.at(v) {
            Some(fused) => cx.fused(v, fused),
            None if fusions.is_inner(v) => {}
            None => cx.node(v),
        }
    }
    cx.out
}

struct Cx<'g> {
    graph: &'g Graph,
    entry: Entry,
    limits: Limits,
    lanes: u32,
    out: Selected,
}

/// Rows of `x` that a product takes together: few when every row is staged first or there are only
/// a few, many when a step has hundreds.
fn tile(entry: Entry, staged: bool, lanes: u32) -> u32 {
    match (entry, staged && lanes == 1) {
        (Entry::Prefill, false) => 64,
        (Entry::Prefill, true) => 16,
        (Entry::Decode | Entry::Head | Entry::Greedy | Entry::Candidates, _) => 8,
    }
}

impl Cx<'_> {
    fn ty(&self, v: Value) -> &Type {
        self.graph.ty(v)
    }

    /// Columns of a row: all axes but the first.
    fn cols(&self, v: Value) -> u32 {
        let fixed = |d: &Dim| d.fixed().expect("only rows vary");
        self.ty(v).shape[1..].iter().map(fixed).product()
    }

    fn rows(&self, v: Value) -> Count {
        match self.ty(v).shape[0] {
            Dim::Rows => Count::Rows,
            _ => Count::Tokens,
        }
    }

    fn weight(&self, v: Value) -> &q35_graph::Weight {
        match self.graph.node(v).op {
            Op::Weight { id } => self.graph.weight(id),
            _ => panic!("a kernel's weight is a weight of the graph"),
        }
    }

    /// The argument that a value is.
    fn source(&self, v: Value) -> Source {
        match self.graph.node(v).op {
            Op::Weight { id } => Source::Weight(id),
            _ => Source::Value(v),
        }
    }

    /// A launch whose arguments are the step, `operands` and the result.
    fn launch(&mut self, spec: impl Into<Spec>, operands: &[Value], out: Value) {
        let sources: Vec<Source> = operands.iter().map(|&v| self.source(v)).collect();
        self.launch_with(spec, sources, Source::Value(out));
    }

    fn launch_with(&mut self, spec: impl Into<Spec>, sources: Vec<Source>, out: Source) {
        let args = [vec![Source::Step], sources, vec![out]].concat();
        self.out.launches.push(Launch { spec: spec.into(), args });
    }

    fn norm(&self, weight: Value, eps: f32, zero_centred: bool) -> Norm {
        Norm { eps, weight: self.weight(weight).dtype, zero_centred }
    }

    fn linear(&self, x: Value, w: Value, out: Value, norm: Option<Norm>, act: Act) -> Linear {
        let (n, k) = (self.cols(out), self.cols(x));
        let staged = norm.is_some() || self.ty(x).dtype != DType::F32;
        Linear {
            n,
            k,
            x: self.ty(x).dtype,
            weight: self.weight(w).dtype,
            out: self.ty(out).dtype,
            norm,
            act,
            residual: false,
            rows: self.rows(out),
            tile: tile(self.entry, staged, self.lanes),
        }
    }

    fn pages(&self, state: StateId) -> (Pages, DType) {
        match *self.graph.state(state) {
            State::Kv { dtype, heads, head_dim } => {
                (Pages { kv_heads: heads, width: head_dim }, dtype)
            }
            _ => panic!("attention has a KV cache"),
        }
    }

    fn node(&mut self, v: Value) {
        let node = self.graph.node(v);
        let args = node.operands.as_slice();
        let dtype = node.ty.dtype;
        match node.op {
            Op::Input { .. } | Op::Weight { .. } => {}
            Op::Embed { dtype } => {
                let table = self.weight(args[1]);
                let (table, layout) = (table.dtype, table.layout);
                let spec = Embed { hidden: self.cols(v), table, layout, out: dtype };
                self.launch(spec, &args[1..], v);
            }
            Op::Gather {} => {
                let spec = Gather { hidden: self.cols(v), x: self.ty(args[0]).dtype };
                self.launch(spec, &args[..1], v);
            }
            Op::RopeTable { h, w, scale } => {
                let n = self.cols(v) / 2;
                self.launch(RopeTable { n, h, w, scale }, &args[1..], v);
            }
            Op::RmsNorm { eps, zero_centred } => {
                let spec = RmsNorm {
                    cols: self.cols(v),
                    x: self.ty(args[0]).dtype,
                    out: dtype,
                    norm: self.norm(args[1], eps, zero_centred),
                    rows: self.rows(v),
                };
                self.launch(spec, args, v);
            }
            Op::MatMul { .. } => {
                let spec = self.linear(args[0], args[1], v, None, Act::None);
                self.launch(spec, args, v);
            }
            Op::NormMatMul { eps, zero_centred, .. } => {
                let norm = self.norm(args[1], eps, zero_centred);
                let spec = self.linear(args[0], args[2], v, Some(norm), Act::None);
                self.launch(spec, args, v);
            }
            Op::MatMulAdd {} => {
                let spec = self.linear(args[0], args[1], v, None, Act::None);
                self.launch(Linear { residual: true, ..spec }, args, v);
            }
            Op::SwiGlu { up, .. } => {
                let spec = self.linear(args[0], args[1], v, None, Act::SwiGlu { up });
                self.launch(spec, args, v);
            }
            Op::NormSwiGlu { eps, zero_centred, up, .. } => {
                let norm = self.norm(args[1], eps, zero_centred);
                let spec = self.linear(args[0], args[2], v, Some(norm), Act::SwiGlu { up });
                self.launch(spec, args, v);
            }
            Op::DeltaConv { state, .. } => {
                let spec = self.delta_conv(v);
                let sources =
                    vec![self.source(args[0]), self.source(args[1]), Source::State(state, 0)];
                self.launch_with(spec, sources, Source::Value(v));
            }
            Op::DeltaRule { state, .. } => {
                let mut sources: Vec<Source> = args.iter().map(|&a| self.source(a)).collect();
                sources.push(Source::State(state, 0));
                self.launch_with(self.delta_rule(v), sources, Source::Value(v));
            }
            Op::QkRope { state, .. } => {
                let mut sources: Vec<Source> = args.iter().map(|&a| self.source(a)).collect();
                sources.extend([Source::State(state, 0), Source::State(state, 1)]);
                self.launch_with(self.qk_rope(v), sources, Source::Value(v));
            }
            Op::GatedAttention { state, .. } => self.attention(self.heads(v), state, args, v),
            Op::TopK { experts, k } => {
                let spec = TopK { experts, k, cols: self.cols(args[0]) };
                self.launch(spec, args, v);
            }
            Op::ExpertGroups { experts } => {
                let spec = ExpertGroups { experts, k: self.cols(args[0]) };
                self.launch(spec, args, v);
            }
            Op::ExpertSwiGlu { k, width, up } => {
                let spec = self.experts(args, k, width, Act::SwiGlu { up }, true);
                self.launch(spec, args, v);
            }
            Op::ExpertLinear {} => {
                let (k, n) = match node.ty.shape[..] {
                    [_, Dim::Fixed(k), Dim::Fixed(n)] => (k, n),
                    _ => panic!("experts give [T, k, n]"),
                };
                let spec = self.experts(args, k, n, Act::None, false);
                self.launch(spec, args, v);
            }
            Op::Likeliest { k } => {
                let vocab = self.cols(args[0]);
                let lists = SliceLikeliest { vocab, k };
                let temp = self.temp(lists.bytes(self.limits.max_batch));
                self.launch_with(lists, vec![self.source(args[0])], temp);
                self.launch_with(MergeLikeliest { vocab, k }, vec![temp], Source::Value(v));
            }
            Op::LogitsAt {} => {
                let spec = LogitsAt { vocab: self.cols(args[0]), k: self.cols(v) };
                self.launch(spec, args, v);
            }
            Op::ExpertCombine { gate } => {
                let spec = ExpertCombine {
                    hidden: self.cols(v),
                    k: self.cols(args[2]),
                    cols: self.cols(args[1]),
                    gate,
                    dtype,
                };
                self.launch(spec, args, v);
            }
            Op::L2Norm { .. }
            | Op::Slice { .. }
            | Op::Split { .. }
            | Op::Join {}
            | Op::Add {}
            | Op::Mul {}
            | Op::Silu {}
            | Op::Sigmoid {}
            | Op::Softplus {}
            | Op::Conv { .. }
            | Op::Rope {}
            | Op::Attention { .. }
            | Op::GatedDelta { .. }
            | Op::RouteWeights {}
            | Op::ExpertMatMul {}
            | Op::ExpertSum {} => panic!("passes leave no `{}`", node.op.name()),
        }
    }

    fn experts(&self, args: &[Value], k: u32, n: u32, act: Act, shared_x: bool) -> ExpertLinear {
        let weight = self.weight(args[1]);
        ExpertLinear {
            experts: weight.experts.expect("a table of experts"),
            k,
            n,
            cols: weight.cols,
            dtype: self.ty(args[0]).dtype,
            weight: weight.dtype,
            act,
            shared_x,
            tile: tile(self.entry, true, self.lanes),
        }
    }

    fn delta_conv(&self, v: Value) -> DeltaConv {
        let node = self.graph.node(v);
        let (Op::DeltaConv { nk, dk, nv, dv, eps, scale, .. }, &[x, taps]) =
            (node.op, &node.operands[..])
        else {
            panic!("a convolution is `delta_conv`")
        };
        DeltaConv {
            nk,
            dk,
            nv,
            dv,
            taps: self.weight(taps).cols,
            x_cols: self.cols(x),
            x: self.ty(x).dtype,
            out: node.ty.dtype,
            eps,
            scale,
        }
    }

    fn delta_rule(&self, v: Value) -> DeltaRule {
        let node = self.graph.node(v);
        let Op::DeltaRule { nk, dk, nv, dv, z, b, a, eps, .. } = node.op else {
            panic!("a delta rule is `delta_rule`")
        };
        DeltaRule {
            shape: DeltaShape { nk, dk, nv, dv },
            x_cols: self.cols(node.operands[1]),
            z,
            b,
            a,
            dtype: node.ty.dtype,
            eps,
            chunked: self.entry == Entry::Prefill,
        }
    }

    fn qk_rope(&self, v: Value) -> QkRope {
        let node = self.graph.node(v);
        let Op::QkRope { heads, q, k, v, eps, state, .. } = node.op else {
            panic!("queries and keys come from `qk_rope`")
        };
        let (pages, kv) = self.pages(state);
        QkRope {
            heads,
            pages,
            x_cols: self.cols(node.operands[0]),
            q,
            k,
            v,
            n: self.cols(node.operands[3]) / 2,
            dtype: node.ty.dtype,
            kv,
            eps,
        }
    }

    fn heads(&self, v: Value) -> Heads {
        let node = self.graph.node(v);
        let Op::GatedAttention { heads, gate, scale, state, .. } = node.op else {
            panic!("attention is `gated_attention`")
        };
        let (pages, kv) = self.pages(state);
        let x_cols = self.cols(node.operands[1]);
        Heads { heads, pages, x_cols, gate, scale, dtype: node.ty.dtype, kv }
    }

    /// The sizes of a mixture that ends in `v`.
    fn mixture(&self, v: Value, parts: &Parts) -> Mixture {
        let weight = |of: Value| self.weight(self.graph.node(of).operands[1]);
        let (Op::ExpertCombine { gate }, Op::ExpertSwiGlu { k, width, .. }) =
            (self.graph.node(v).op, self.graph.node(parts.up).op)
        else {
            panic!("a mixture has both")
        };
        Mixture {
            experts: weight(parts.up).experts.expect("a table of experts"),
            k,
            hidden: self.cols(v),
            width,
            shared: self.cols(parts.shared_up),
            logits: self.cols(parts.router),
            gate,
            tokens: self.limits.max_batch,
            dtype: self.ty(v).dtype,
            weights: [parts.up, parts.down, parts.shared_up, parts.shared_down]
                .map(|of| weight(of).dtype),
            norm: self.norm(parts.norm, parts.eps, parts.zero_centred),
        }
    }

    /// The launches of a node that compute others besides.
    fn fused(&mut self, v: Value, fused: Fused) {
        let args = self.graph.node(v).operands.as_slice();
        match (fused, self.graph.node(v).op) {
            (Fused::Delta { input, conv, rule }, Op::MatMulAdd {}) => {
                self.delta_launches(v, [input, conv, rule]);
            }
            (Fused::Attention { rope }, Op::GatedAttention { state, .. }) => {
                let heads = self.heads(v);
                let (split, partial) = self.split(heads);
                let spec = AttendStep { rope: self.qk_rope(rope), heads, split };
                let combine = AttendCombine(heads, split);
                let mut sources: Vec<Source> =
                    self.graph.node(rope).operands.iter().map(|&a| self.source(a)).collect();
                sources.extend([Source::State(state, 0), Source::State(state, 1)]);
                self.launch_with(spec, sources, partial);
                let x = self.source(args[1]);
                self.launch_with(combine, vec![partial, x], Source::Value(v));
            }
            (Fused::Mixture(parts), Op::ExpertCombine { .. }) => self.mixture_launches(v, &parts),
            (fused, op) => panic!("`{}` is no root of {fused:?}", op.name()),
        }
    }

    fn delta_launches(&mut self, v: Value, [input, conv, rule]: [Value; 3]) {
        let operands = |v: Value| self.graph.node(v).operands.as_slice();
        let (
            Op::NormMatMul { eps, zero_centred, .. },
            Op::DeltaConv { state: history, .. },
            Op::DeltaRule { state, .. },
        ) = (self.graph.node(input).op, self.graph.node(conv).op, self.graph.node(rule).op)
        else {
            panic!("DeltaNet has all three")
        };
        let (&[x, norm, weight], &[_, taps]) = (operands(input), operands(conv)) else {
            panic!("their operands")
        };
        let convolution = self.delta_conv(conv);
        let before = self.norm(norm, eps, zero_centred);
        let linear = self.linear(x, weight, input, Some(before), Act::None);
        let spec = DeltaIn { linear, conv: convolution.clone() };
        let mut sources: Vec<Source> = [x, norm, weight, taps].map(|a| self.source(a)).to_vec();
        sources.push(Source::State(history, 0));
        self.launch_with(spec, sources, Source::Value(input));

        let DeltaConv { eps: l2_eps, scale, .. } = convolution;
        let spec = DeltaStep { rule: self.delta_rule(rule), l2_eps, scale };
        let floats = |n: u32| u64::from(n * self.limits.max_batch) * 4;
        let sizes = [spec.rule.shape.nv * spec.panels(), spec.cols()].map(floats);
        let [squares, out] = sizes.map(|bytes| self.temp(bytes));
        let &[_, _, decay, dt_bias, gated_norm] = operands(rule) else { panic!("its operands") };
        let mut sources: Vec<Source> =
            [input, decay, dt_bias, gated_norm].map(|a| self.source(a)).to_vec();
        sources.extend([Source::State(state, 0), squares]);
        self.launch_with(spec.clone(), sources, out);

        let &[_, weight, residual] = operands(v) else { panic!("its operands") };
        let linear = self.linear(rule, weight, v, None, Act::None);
        let spec = DeltaOut {
            linear: Linear { x: DType::F32, residual: true, ..linear },
            width: spec.rule.shape.dv,
            parts: spec.panels(),
            eps: spec.rule.eps,
        };
        let sources = vec![out, squares, self.source(weight), self.source(residual)];
        self.launch_with(spec, sources, Source::Value(v));
    }

    fn temp(&mut self, bytes: u64) -> Source {
        self.out.temps.push(bytes);
        Source::Temp(self.out.temps.len() - 1)
    }

    fn mixture_launches(&mut self, v: Value, p: &Parts) {
        let of = self.mixture(v, p);
        let weight = |of: Value| self.graph.node(of).operands[1];
        let (Op::ExpertSwiGlu { up, .. }, Op::SwiGlu { up: shared_up, .. }) =
            (self.graph.node(p.up).op, self.graph.node(p.shared_up).op)
        else {
            panic!("a mixture has both")
        };
        let router = weight(p.router);
        let logits = self.temp(of.logits_bytes());
        let weights = self.temp(of.weights_bytes());
        let inputs = [p.x, p.norm, router].map(|v| self.source(v)).to_vec();
        let spec = MixtureRouter { of, weight: self.weight(router).dtype };
        self.launch_with(spec, inputs, logits);
        let [x, norm, experts, shared, groups, shared_out] =
            [p.x, p.norm, weight(p.up), weight(p.shared_up), p.groups, p.shared_up]
                .map(|v| self.source(v));
        let args = vec![x, norm, logits, experts, shared, groups, weights, shared_out];
        self.launch_with(MixtureUp { of, up, shared_up }, args, Source::Value(p.up));
        let residual = self.graph.node(v).operands[4];
        let [up, shared_up, groups, experts, shared, residual] =
            [p.up, p.shared_up, p.groups, weight(p.down), weight(p.shared_down), residual]
                .map(|v| self.source(v));
        let args = vec![up, shared_up, groups, weights, experts, shared, residual];
        self.launch_with(MixtureDown { of }, args, Source::Value(v));
    }

    /// How long sequences are shared out, and memory for what the tasks leave.
    fn split(&mut self, h: Heads) -> (Split, Source) {
        let split = Split::of(self.limits.step().max_pages, self.lanes);
        let partial = self.temp(h.partial_bytes(split, self.limits.max_batch));
        (split, partial)
    }

    fn attention(&mut self, h: Heads, state: StateId, args: &[Value], v: Value) {
        let (q, x) = (self.source(args[0]), self.source(args[1]));
        let (keys, values) = (Source::State(state, 0), Source::State(state, 1));
        if self.entry == Entry::Prefill {
            self.launch_with(AttendPrefill(h), vec![q, x, keys, values], Source::Value(v));
            return;
        }
        let (split, partial) = self.split(h);
        self.launch_with(AttendSplit(h, split), vec![q, keys, values], partial);
        self.launch_with(AttendCombine(h, split), vec![partial, x], Source::Value(v));
    }
}
