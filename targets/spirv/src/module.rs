//! A SPIR-V module while it is written: types and constants once each, capabilities on demand,
//! instructions at the end of the open block.
//!
//! One integer type, unsigned, serves for `i32`: SPIR-V says in the instruction, not in the type,
//! whether a sign counts.

use q35_types::DType;
use rspirv::binary::Assemble;
use rspirv::dr::{Builder, InsertPoint, Instruction, Operand};
use rspirv::spirv::{
    AddressingModel, BuiltIn, Capability, CooperativeMatrixLayout, CooperativeMatrixUse,
    Decoration, ExecutionMode, ExecutionModel, FPEncoding, FunctionControl, GlslStd450Op as Glsl,
    LoopControl, MemoryAccess, MemoryModel, Op, Scope, SelectionControl, StorageClass, Word,
};
use std::collections::{BTreeSet, HashMap};

/// What values are made of. Vectors have at most four elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    F32,
    U32,
    Bool,
}

/// Scalar for 1, vector for 2 to 4.
pub type Shape = (Kind, u8);

/// What a cooperative matrix is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Left = CooperativeMatrixUse::MatrixAKHR as isize,
    Right = CooperativeMatrixUse::MatrixBKHR as isize,
    Sums = CooperativeMatrixUse::MatrixAccumulatorKHR as isize,
}

/// A cooperative matrix of a subgroup.
#[derive(Debug, Clone, Copy)]
pub struct Matrix {
    pub element: DType,
    pub rows: u32,
    pub columns: u32,
    pub used: Use,
}

pub struct Module {
    b: Builder,
    glsl: Word,
    /// The label of the open block.
    pub block: Word,
    required: BTreeSet<Capability>,
    extensions: BTreeSet<&'static str>,
    /// Global variables, which the entry point lists.
    interface: Vec<Word>,
    constants: HashMap<(Word, u32), Word>,
    composites: HashMap<(Word, u8), Word>,
    matrices: HashMap<(Word, Word), Word>,
    builtins: HashMap<(BuiltIn, u8), Word>,
}

impl Module {
    /// SPIR-V 1.6, physical addresses for buffers, the Vulkan memory model.
    pub fn new() -> Module {
        let mut b = Builder::new();
        b.set_version(1, 6);
        let glsl = b.ext_inst_import("GLSL.std.450");
        b.memory_model(AddressingModel::PhysicalStorageBuffer64, MemoryModel::Vulkan);
        let mut m = Module {
            b,
            glsl,
            block: 0,
            required: BTreeSet::new(),
            extensions: BTreeSet::new(),
            interface: vec![],
            constants: HashMap::new(),
            composites: HashMap::new(),
            matrices: HashMap::new(),
            builtins: HashMap::new(),
        };
        m.require(Capability::Shader);
        m.require(Capability::PhysicalStorageBufferAddresses);
        m.require(Capability::VulkanMemoryModel);
        m
    }

    pub fn require(&mut self, capability: Capability) {
        if self.required.insert(capability) {
            self.b.capability(capability);
        }
    }

    pub fn extension(&mut self, name: &'static str) {
        if self.extensions.insert(name) {
            self.b.extension(name);
        }
    }

    /// Open `main`, the entry point, and its first block.
    pub fn begin(&mut self, name: &str) -> Word {
        let void = self.b.type_void();
        let ty = self.b.type_function(void, []);
        let none = FunctionControl::NONE;
        let main = self.b.begin_function(void, None, none, ty).expect("no function is open");
        self.b.name(main, name);
        let first = self.label();
        self.open(first);
        main
    }

    /// Close `main` and the module.
    pub fn finish(mut self, main: Word, lanes: u32) -> Vec<u8> {
        self.b.ret().expect("a block is open");
        self.b.end_function().expect("a function is open");
        self.b.entry_point(ExecutionModel::GLCompute, main, "main", self.interface);
        self.b.execution_mode(main, ExecutionMode::LocalSize, [lanes, 1, 1]);
        // Masks of attention are infinite, and the ends of `exp` are chosen by comparisons with NaN.
        self.b.capability(Capability::SignedZeroInfNanPreserve);
        self.b.execution_mode(main, ExecutionMode::SignedZeroInfNanPreserve, [32]);
        self.b.module().assemble().into_iter().flat_map(u32::to_le_bytes).collect()
    }

    // ---- types and constants ----

    pub fn ty(&mut self, (kind, n): Shape) -> Word {
        let scalar = match kind {
            Kind::F32 => self.b.type_float(32, None),
            Kind::U32 => self.b.type_int(32, 0),
            Kind::Bool => self.b.type_bool(),
        };
        if n == 1 { scalar } else { self.b.type_vector(scalar, u32::from(n)) }
    }

    /// A 16-bit integer, for storage only.
    pub fn short(&mut self) -> Word {
        self.b.type_int(16, 0)
    }

    pub fn pointer(&mut self, class: StorageClass, to: Word) -> Word {
        self.b.type_pointer(None, class, to)
    }

    /// A pointer to `struct { element[] }` in a buffer.
    pub fn buffer_of(&mut self, element: Word, stride: u32, name: &str) -> Word {
        let array = self.b.type_runtime_array(element);
        self.b.decorate(array, Decoration::ArrayStride, [Operand::LiteralBit32(stride)]);
        let block = self.block_type(&[(array, 0)], name);
        self.pointer(StorageClass::PhysicalStorageBuffer, block)
    }

    /// A structure of members at byte offsets.
    pub fn block_type(&mut self, members: &[(Word, u32)], name: &str) -> Word {
        let block = self.b.type_struct(members.iter().map(|m| m.0));
        for (i, (_, offset)) in members.iter().enumerate() {
            let offset = [Operand::LiteralBit32(*offset)];
            self.b.member_decorate(block, i as u32, Decoration::Offset, offset);
        }
        self.b.decorate(block, Decoration::Block, []);
        self.b.name(block, name);
        block
    }

    pub fn u32(&mut self, v: u32) -> Word {
        let ty = self.ty((Kind::U32, 1));
        self.constant(ty, v)
    }

    pub fn f32(&mut self, v: f32) -> Word {
        let ty = self.ty((Kind::F32, 1));
        self.constant(ty, v.to_bits())
    }

    pub fn bool(&mut self, v: bool) -> Word {
        let ty = self.ty((Kind::Bool, 1));
        if v { self.b.constant_true(ty) } else { self.b.constant_false(ty) }
    }

    /// `v` in each of `n` elements.
    pub fn u32s(&mut self, v: u32, n: u8) -> Word {
        let scalar = self.u32(v);
        self.repeated((Kind::U32, n), scalar)
    }

    /// `v` in each of `n` elements.
    pub fn f32s(&mut self, v: f32, n: u8) -> Word {
        let scalar = self.f32(v);
        self.repeated((Kind::F32, n), scalar)
    }

    /// A vector of one constant.
    pub fn repeated(&mut self, shape: Shape, scalar: Word) -> Word {
        if shape.1 == 1 {
            return scalar;
        }
        if let Some(known) = self.composites.get(&(scalar, shape.1)) {
            return *known;
        }
        let ty = self.ty(shape);
        let made = self.b.constant_composite(ty, vec![scalar; usize::from(shape.1)]);
        self.composites.insert((scalar, shape.1), made);
        made
    }

    fn constant(&mut self, ty: Word, bits: u32) -> Word {
        if let Some(known) = self.constants.get(&(ty, bits)) {
            return *known;
        }
        let made = self.b.constant_bit32(ty, bits);
        self.constants.insert((ty, bits), made);
        made
    }

    // ---- variables ----

    /// A variable of the module.
    pub fn global(&mut self, class: StorageClass, ty: Word, name: &str) -> Word {
        let pointer = self.pointer(class, ty);
        let open = self.b.selected_block();
        self.b.select_block(None).expect("none can always be selected");
        let variable = self.b.variable(pointer, None, class, None);
        self.b.select_block(open).expect("a block of this function");
        self.b.name(variable, name);
        self.interface.push(variable);
        variable
    }

    /// A variable of the function, whose first instruction must not be open yet.
    pub fn local(&mut self, ty: Word, name: &str) -> Word {
        let pointer = self.pointer(StorageClass::Function, ty);
        let variable = self.b.variable(pointer, None, StorageClass::Function, None);
        self.b.name(variable, name);
        variable
    }

    /// An array of words that the group shares.
    pub fn shared(&mut self, words: u32, name: &str) -> Word {
        let (element, len) = (self.ty((Kind::U32, 1)), self.u32(words));
        let array = self.b.type_array(element, len);
        self.global(StorageClass::Workgroup, array, name)
    }

    /// What the machine says of this invocation: a `u32`, or the first of three.
    pub fn builtin(&mut self, which: BuiltIn, n: u8) -> Word {
        let ty = self.ty((Kind::U32, n));
        let variable = match self.builtins.get(&(which, n)) {
            Some(known) => *known,
            None => {
                let variable = self.global(StorageClass::Input, ty, &format!("{which:?}"));
                self.b.decorate(variable, Decoration::BuiltIn, [Operand::BuiltIn(which)]);
                self.builtins.insert((which, n), variable);
                variable
            }
        };
        let value = self.b.load(ty, None, variable, None, []).expect("a block is open");
        if n == 1 { value } else { self.element((Kind::U32, n), value, 0) }
    }

    // ---- instructions ----

    /// An instruction on values.
    pub fn op(&mut self, op: Op, shape: Shape, operands: &[Word]) -> Word {
        let ty = self.ty(shape);
        self.typed(op, ty, operands)
    }

    pub fn typed(&mut self, op: Op, ty: Word, operands: &[Word]) -> Word {
        let id = self.b.id();
        let operands = operands.iter().map(|v| Operand::IdRef(*v)).collect();
        self.push(Instruction::new(op, Some(ty), Some(id), operands));
        id
    }

    pub fn push(&mut self, inst: Instruction) {
        self.b.insert_into_block(InsertPoint::End, inst).expect("a block is open");
    }

    /// Arithmetic on floats, which no driver may fuse or reorder.
    pub fn float(&mut self, op: Op, n: u8, operands: &[Word]) -> Word {
        let id = self.op(op, (Kind::F32, n), operands);
        self.exact(id);
        id
    }

    /// A function of GLSL.std.450.
    pub fn glsl(&mut self, op: Glsl, shape: Shape, operands: &[Word]) -> Word {
        let ty = self.ty(shape);
        let operands: Vec<Operand> = operands.iter().map(|v| Operand::IdRef(*v)).collect();
        let id = self.b.ext_inst(ty, None, self.glsl, op as u32, operands);
        let id = id.expect("a block is open");
        if shape.0 == Kind::F32 {
            self.exact(id);
        }
        id
    }

    fn exact(&mut self, id: Word) {
        self.b.decorate(id, Decoration::NoContraction, []);
    }

    pub fn bitcast(&mut self, shape: Shape, v: Word) -> Word {
        self.op(Op::Bitcast, shape, &[v])
    }

    /// Element `i` of a vector, or the scalar itself.
    pub fn element(&mut self, (kind, n): Shape, v: Word, i: u8) -> Word {
        if n == 1 {
            return v;
        }
        let ty = self.ty((kind, 1));
        self.b.composite_extract(ty, None, v, [u32::from(i)]).expect("a block is open")
    }

    /// A vector of scalars and vectors that fill it, or the one scalar.
    pub fn vector(&mut self, shape: Shape, from: &[Word]) -> Word {
        match from {
            [one] => *one,
            _ => self.op(Op::CompositeConstruct, shape, from),
        }
    }

    /// Elements of `a`, then `b`, by number.
    pub fn shuffle(&mut self, kind: Kind, a: Word, b: Word, elements: &[u8]) -> Word {
        let ty = self.ty((kind, elements.len() as u8));
        let elements = elements.iter().map(|e| u32::from(*e));
        self.b.vector_shuffle(ty, None, a, b, elements).expect("a block is open")
    }

    // ---- memory ----

    pub fn access(&mut self, pointer: Word, base: Word, indices: &[Word]) -> Word {
        let indices = indices.iter().copied();
        self.b.access_chain(pointer, None, base, indices).expect("a block is open")
    }

    /// `align` of a buffer, none of other memory. What `shared` says others may write, or see.
    pub fn load(&mut self, ty: Word, from: Word, align: Option<u32>, shared: bool) -> Word {
        let (access, params) = memory_access(align, shared);
        self.b.load(ty, None, from, access, params).expect("a block is open")
    }

    pub fn store(&mut self, to: Word, value: Word, align: Option<u32>, shared: bool) {
        let (access, params) = memory_access(align, shared);
        self.b.store(to, value, access, params).expect("a block is open");
    }

    // ---- matrices ----

    pub fn matrix(&mut self, matrix: Matrix) -> Word {
        let element = match matrix.element {
            DType::F32 => self.ty((Kind::F32, 1)),
            DType::I32 => self.ty((Kind::U32, 1)),
            DType::F16 => {
                self.require(Capability::Float16);
                self.b.type_float(16, None)
            }
            DType::Bf16 => {
                self.require(Capability::BFloat16TypeKHR);
                self.require(Capability::BFloat16CooperativeMatrixKHR);
                self.extension("SPV_KHR_bfloat16");
                self.b.type_float(16, Some(FPEncoding::BFloat16KHR))
            }
        };
        let scope = Scope::Subgroup as u32;
        let [scope, rows, columns, used] =
            [scope, matrix.rows, matrix.columns, matrix.used as u32].map(|v| self.u32(v));
        self.b.type_cooperative_matrix_khr(element, scope, rows, columns, used)
    }

    /// A matrix of one constant.
    pub fn filled(&mut self, matrix: Matrix, element: Word) -> Word {
        let ty = self.matrix(matrix);
        if let Some(known) = self.matrices.get(&(ty, element)) {
            return *known;
        }
        let made = self.b.constant_composite(ty, [element]);
        self.matrices.insert((ty, element), made);
        made
    }

    /// From a word of an array on, with words from row to row, or from column to column.
    pub fn load_matrix(
        &mut self,
        ty: Word,
        (from, layout, stride): (Word, CooperativeMatrixLayout, Word),
        align: Option<u32>,
        shared: bool,
    ) -> Word {
        let (access, params) = memory_access(align, shared);
        let (layout, stride) = (self.u32(layout as u32), Some(stride));
        let loaded =
            self.b.cooperative_matrix_load_khr(ty, None, from, layout, stride, access, params);
        loaded.expect("a block is open")
    }

    /// The other way.
    pub fn store_matrix(
        &mut self,
        value: Word,
        (to, layout, stride): (Word, CooperativeMatrixLayout, Word),
        align: Option<u32>,
        shared: bool,
    ) {
        let (access, params) = memory_access(align, shared);
        let (layout, stride) = (self.u32(layout as u32), Some(stride));
        let stored = self.b.cooperative_matrix_store_khr(to, value, layout, stride, access, params);
        stored.expect("a block is open");
    }

    // ---- control ----

    pub fn label(&mut self) -> Word {
        self.b.id()
    }

    pub fn open(&mut self, label: Word) {
        self.b.begin_block(Some(label)).expect("no block is open");
        self.block = label;
    }

    pub fn branch(&mut self, to: Word) {
        self.b.branch(to).expect("a block is open");
    }

    /// A branch whose two ways meet again at `merge`.
    pub fn choose(&mut self, cond: Word, then: Word, otherwise: Word, merge: Word) {
        self.b.selection_merge(merge, SelectionControl::NONE).expect("a block is open");
        self.b.branch_conditional(cond, then, otherwise, []).expect("a block is open");
    }

    /// The head of a loop: into `body` while `cond`, then on to `merge`.
    pub fn repeat(&mut self, cond: Word, body: Word, next: Word, merge: Word) {
        self.b.loop_merge(merge, next, LoopControl::NONE, []).expect("a block is open");
        self.b.branch_conditional(cond, body, merge, []).expect("a block is open");
    }

    pub fn phi(&mut self, ty: Word, from: [(Word, Word); 2]) -> Word {
        self.b.phi(ty, None, from).expect("a block is open")
    }

    /// Where [`later_phi`](Self::later_phi) can put what the open block begins with.
    pub fn place(&self) -> usize {
        self.b.selected_block().expect("a block is open")
    }

    /// A phi, the `number`th, of a block that was closed before all it needs was known.
    pub fn later_phi(
        &mut self,
        place: usize,
        number: usize,
        (id, ty): (Word, Word),
        from: [(Word, Word); 2],
    ) {
        let open = self.b.selected_block();
        self.b.select_block(Some(place)).expect("a block of this function");
        let at = InsertPoint::FromBegin(number);
        self.b.insert_phi(at, ty, Some(id), from).expect("a block is selected");
        self.b.select_block(open).expect("a block of this function");
    }
}

fn memory_access(align: Option<u32>, shared: bool) -> (Option<MemoryAccess>, Vec<Operand>) {
    let mut access = MemoryAccess::NONE;
    if align.is_some() {
        access |= MemoryAccess::ALIGNED;
    }
    if shared {
        access |= MemoryAccess::NON_PRIVATE_POINTER;
    }
    let params = align.map(Operand::LiteralBit32).into_iter().collect();
    ((access != MemoryAccess::NONE).then_some(access), params)
}
