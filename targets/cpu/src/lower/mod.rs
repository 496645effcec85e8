//! Kernel IR to Cranelift's: the frame, the task loop, control flow.
//!
//! A value of the kernel is a list of Cranelift values, its *parts*: vectors of four elements
//! where the width is a multiple of four, scalars for widths 1 and 2. A `bool` is an `i8` of 0
//! or 1 as a scalar, and an `i32` of 0 or -1 in a vector, as comparisons leave it.
//!
//! Loops are tested at the bottom, so that an iteration costs one branch:
//!
//! ```text
//!   brif start < end ── body(start, init) ─▶ …  brif next < end ── body(next, yields)
//!          └────────────── done(init)                   └───────── done(yields)
//! ```

mod address;
mod memory;
mod vector;

use address::Linear;
use cranelift_codegen::ir::{
    self, AbiParam, BlockArg, Function, InstBuilder, MemFlagsData, Signature, UserFuncName,
    condcodes::IntCC, types,
};
use cranelift_codegen::isa::{CallConv, TargetIsa};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use q35_kernel::{Block, Inst, Kernel, Literal, PanelDot, Scalar, Stmt, Type, Value};
use q35_target::Caps;
use q35_types::DType;
use std::collections::HashMap;

type Parts = Vec<ir::Value>;

/// `kernel` as one function of the calling convention that the crate states.
pub fn function(kernel: &Kernel, caps: &Caps, isa: &dyn TargetIsa) -> Result<Function, String> {
    if kernel.lanes != 1 {
        return Err(format!("has {} lanes, expected 1", kernel.lanes));
    }
    let mut function = Function::with_name_signature(UserFuncName::default(), signature(5));
    let mut context = FunctionBuilderContext::new();
    let mut f = FunctionBuilder::new(&mut function, &mut context);
    let entry = f.create_block();
    f.append_block_params_for_function_params(entry);
    f.switch_to_block(entry);
    let [buffers, scratch, begin, end, micro] = *f.block_params(entry) else {
        unreachable!("five parameters")
    };
    let params = (0..kernel.params.len())
        .map(|i| f.ins().load(types::I64, constant(), buffers, 8 * i as i32))
        .collect();
    let count = kernel.types.len();
    let mut lowering = Lowering {
        f,
        kernel,
        caps,
        params,
        scratch,
        micro,
        parts: vec![vec![]; count],
        defined: vec![None; count],
        wide: vec![None; count],
        depth: vec![0; count],
        linear: HashMap::new(),
        loops: 0,
        task: begin,
    };
    lowering.counted(begin, end, 1, vec![], |l, task, _| {
        l.task = task;
        l.block(&kernel.body)
    })?;
    lowering.f.ins().return_(&[]);
    lowering.f.seal_all_blocks();
    lowering.f.finalize(isa.frontend_config());
    Ok(function)
}

/// What is known while a kernel is lowered. Vectors are indexed by the kernel's values.
struct Lowering<'a> {
    f: FunctionBuilder<'a>,
    kernel: &'a Kernel,
    caps: &'a Caps,
    /// Addresses of the parameters.
    params: Vec<ir::Value>,
    scratch: ir::Value,
    micro: ir::Value,
    /// Number of the task, `i64`.
    task: ir::Value,
    parts: Vec<Parts>,
    /// The instruction that defines a value; none for what a loop carries.
    defined: Vec<Option<&'a Inst>>,
    /// Values that there are as `i64` anyway: the counters of loops.
    wide: Vec<Option<ir::Value>>,
    /// How many loops surround the definition.
    depth: Vec<u32>,
    linear: HashMap<Value, Linear>,
    /// Loops around the point that is being lowered.
    loops: u32,
}

impl<'a> Lowering<'a> {
    fn block(&mut self, block: &'a Block) -> Result<Parts, String> {
        for stmt in &block.stmts {
            self.stmt(stmt)?;
        }
        Ok(block.yields.iter().flat_map(|v| self.parts_of(*v).to_vec()).collect())
    }

    fn stmt(&mut self, stmt: &'a Stmt) -> Result<(), String> {
        for r in &stmt.results {
            self.defined[r.0 as usize] = Some(&stmt.inst);
            self.depth[r.0 as usize] = self.loops;
        }
        let ty = |v: Value| self.kernel.type_of(v);
        let result: Parts = match &stmt.inst {
            Inst::Const(literal) => vec![self.literal(*literal)],
            Inst::Task => {
                self.wide[stmt.results[0].0 as usize] = Some(self.task);
                vec![self.f.ins().ireduce(types::I32, self.task)]
            }
            // A group is one lane: it is lane 0, what it gathers is its own, and it waits for nobody.
            Inst::Lane | Inst::Subgroup => vec![self.f.ins().iconst(types::I32, 0)],
            Inst::Cluster { op: _, value, size: _ } => self.parts_of(*value).to_vec(),
            Inst::GroupScan(v) => self.parts_of(*v).to_vec(),
            Inst::Barrier => vec![],
            Inst::MmaZero(_) | Inst::Mma(_) | Inst::MmaLoad { .. } | Inst::MmaStore { .. } => {
                return Err("`mma`, but there are no matrix units".into());
            }
            Inst::Unary(op, a) => self.unary(*op, *a),
            Inst::Binary(op, a, b) => self.binary(*op, *a, *b)?,
            Inst::Fma(a, b, c) => self.fma(*a, *b, *c)?,
            Inst::Compare(op, a, b) => self.compare(*op, *a, *b)?,
            Inst::Select(c, a, b) => self.select(*c, *a, *b),
            Inst::Splat(v, width) => self.splat(*v, *width),
            Inst::Vector(elements) => self.vector(elements),
            Inst::Extract(v, element) => vec![self.element(*v, *element)],
            Inst::Reduce(op, v) => vec![self.reduce(*op, *v)?],
            Inst::Load { at, width } => self.load(*at, *width)?,
            Inst::Store { at, value } => {
                self.store(*at, *value)?;
                vec![]
            }
            Inst::PanelDot(dot) => {
                self.panel_dot(dot)?;
                vec![]
            }
            Inst::For { start, end, step, var, init, carried, body } => {
                let [start, end] = [start, end].map(|v| self.sign_extended(*v));
                let init = init.iter().flat_map(|v| self.parts_of(*v).to_vec()).collect();
                self.counted(start, end, *step, init, |l, counter, parts| {
                    l.wide[var.0 as usize] = Some(counter);
                    l.depth[var.0 as usize] = l.loops;
                    l.parts[var.0 as usize] = vec![l.f.ins().ireduce(types::I32, counter)];
                    l.distribute(carried, parts);
                    l.block(body)
                })?
            }
            Inst::If { cond, then, otherwise } => {
                let cond = self.parts_of(*cond)[0];
                let types: Vec<_> = stmt.results.iter().flat_map(|v| part_types(ty(*v))).collect();
                self.branch(cond, &types, then, otherwise)?
            }
        };
        self.distribute(&stmt.results, &result);
        Ok(())
    }

    /// `for counter in (start..end).step_by(step)`, with `i64` bounds; the values carried out of it.
    fn counted(
        &mut self,
        start: ir::Value,
        end: ir::Value,
        step: u32,
        init: Parts,
        body: impl FnOnce(&mut Self, ir::Value, &[ir::Value]) -> Result<Parts, String>,
    ) -> Result<Parts, String> {
        let types: Vec<_> = init.iter().map(|v| self.f.func.dfg.value_type(*v)).collect();
        let (again, done) = (self.f.create_block(), self.f.create_block());
        let counter = self.f.append_block_param(again, types::I64);
        let carried: Parts = types.iter().map(|t| self.f.append_block_param(again, *t)).collect();
        let results: Parts = types.iter().map(|t| self.f.append_block_param(done, *t)).collect();

        let enter = self.f.ins().icmp(IntCC::SignedLessThan, start, end);
        self.f.ins().brif(enter, again, &args(Some(start), &init), done, &args(None, &init));
        self.f.switch_to_block(again);
        self.loops += 1;
        let yields = body(self, counter, &carried)?;
        self.loops -= 1;
        let next = self.f.ins().iadd_imm_s(counter, i64::from(step));
        let more = self.f.ins().icmp(IntCC::SignedLessThan, next, end);
        self.f.ins().brif(more, again, &args(Some(next), &yields), done, &args(None, &yields));
        self.f.switch_to_block(done);
        Ok(results)
    }

    fn branch(
        &mut self,
        cond: ir::Value,
        types: &[ir::Type],
        then: &'a Block,
        otherwise: &'a Block,
    ) -> Result<Parts, String> {
        let [on_true, on_false, done] = [(); 3].map(|()| self.f.create_block());
        let results = types.iter().map(|t| self.f.append_block_param(done, *t)).collect();
        self.f.ins().brif(cond, on_true, &[], on_false, &[]);
        for (at, block) in [(on_true, then), (on_false, otherwise)] {
            self.f.switch_to_block(at);
            let yields = self.block(block)?;
            self.f.ins().jump(done, &args(None, &yields));
        }
        self.f.switch_to_block(done);
        Ok(results)
    }

    /// A call through the table of micro-kernels.
    fn panel_dot(&mut self, dot: &PanelDot) -> Result<(), String> {
        let weights = self.kernel.dtype_of(dot.w.mem);
        let entry = match weights {
            DType::F32 => 0,
            DType::F16 => 8,
            DType::Bf16 => 16,
            DType::I32 => {
                return Err("`panel_dot` with weights of i32, expected a float type".into());
            }
        };
        if !self.caps.panel_dot {
            return Err("`panel_dot`, but there is no micro-kernel".into());
        }
        let [x, w, out] = [dot.x, dot.w, dot.out].map(|at| {
            let (base, offset) = self.address(at);
            self.f.ins().iadd_imm_s(base, i64::from(offset))
        });
        let [x_row, x_k, w_panel, out_row, rows, panels, k] =
            [dot.x_row, dot.x_k, dot.w_panel, dot.out_row, dot.rows, dot.panels, dot.k]
                .map(|v| self.sign_extended(v));
        let accumulate = self.f.ins().iconst(types::I64, i64::from(dot.accumulate));
        let callee = self.f.ins().load(types::I64, constant(), self.micro, entry);
        let callee_signature = self.f.import_signature(signature(11));
        let args = [x, x_row, x_k, w, w_panel, out, out_row, rows, panels, k, accumulate];
        self.f.ins().call_indirect(callee_signature, callee, &args);
        Ok(())
    }

    fn literal(&mut self, literal: Literal) -> ir::Value {
        match literal {
            Literal::F32(v) => self.f.ins().f32const(v),
            Literal::I32(v) => self.f.ins().iconst(types::I32, i64::from(v)),
            Literal::Bool(v) => self.f.ins().iconst(types::I8, i64::from(v)),
        }
    }

    fn parts_of(&self, v: Value) -> &[ir::Value] {
        &self.parts[v.0 as usize]
    }

    fn sign_extended(&mut self, v: Value) -> ir::Value {
        match self.wide[v.0 as usize] {
            Some(wide) => wide,
            None => self.f.ins().sextend(types::I64, self.parts[v.0 as usize][0]),
        }
    }

    /// Hand `parts`, all one after another, to the values they make up.
    fn distribute(&mut self, values: &[Value], parts: &[ir::Value]) {
        let mut parts = parts.iter();
        for v in values {
            let count = part_types(self.kernel.type_of(*v)).count();
            self.parts[v.0 as usize] = parts.by_ref().take(count).copied().collect();
            self.depth[v.0 as usize] = self.loops;
        }
        assert_eq!(parts.len(), 0, "as many parts as the values have");
    }

    /// The constant that `v` is, or that each of its elements is.
    fn constant_of(&self, v: Value) -> Option<Literal> {
        match self.defined[v.0 as usize]? {
            Inst::Const(literal) => Some(*literal),
            Inst::Splat(scalar, _) => self.constant_of(*scalar),
            _ => None,
        }
    }
}

/// The scalar, or the vector of four.
fn part_types(ty: Type) -> impl Iterator<Item = ir::Type> {
    let (part, count) = match (ty.scalar, ty.width) {
        (Scalar::F32, w @ (1 | 2)) => (types::F32, w),
        (Scalar::I32, w @ (1 | 2)) => (types::I32, w),
        (Scalar::Bool, w @ (1 | 2)) => (types::I8, w),
        (Scalar::F32, w) => (types::F32X4, w / 4),
        (Scalar::I32 | Scalar::Bool, w) => (types::I32X4, w / 4),
    };
    (0..count).map(move |_| part)
}

fn signature(params: usize) -> Signature {
    let mut signature = Signature::new(CallConv::SystemV);
    signature.params = vec![AbiParam::new(types::I64); params];
    signature
}

/// A load of what never changes during the call, from where it is always safe to read.
fn constant() -> MemFlagsData {
    MemFlagsData::trusted().with_readonly().with_can_move()
}

fn args(first: Option<ir::Value>, rest: &[ir::Value]) -> Vec<BlockArg> {
    first.iter().chain(rest).map(|v| BlockArg::Value(*v)).collect()
}
