//! Manifests of a few weights against checkpoints of a few tensors, on the CPU device.

use super::*;
use crate::checkpoint::SINGLE;
use crate::testing::{Folder, safetensors};
use q35_artifact::{Part, Weight};
use q35_device::DeviceInfo;
use q35_types::pack::Transform;
use q35_types::{DType, Layout};
use safetensors::Dtype;

type Stored = (&'static str, Dtype, Vec<usize>, Vec<u8>);

fn bytes_of(dtype: DType, values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    let one = |v| {
        let mut bytes = vec![0; dtype.size()];
        dtype.write_f32(v, &mut bytes);
        bytes
    };
    values.into_iter().flat_map(one).collect()
}

/// A bfloat16 tensor of the numbers from `from` up.
fn bf16(name: &'static str, shape: &[usize], from: usize) -> Stored {
    let n: usize = shape.iter().product();
    let values = (from..from + n).map(|v| v as f32);
    (name, Dtype::BF16, shape.to_vec(), bytes_of(DType::Bf16, values))
}

fn part(tensor: &str, shape: &[u64], first: u64, rows: u32) -> Part {
    Part::Rows {
        tensor: tensor.into(),
        shape: shape.to_vec(),
        first,
        per_expert: 0,
        rows,
        transform: Transform::None,
    }
}

fn weight(name: &str, rows: u32, cols: u32, dtype: DType, recipe: Vec<Part>) -> Weight {
    Weight {
        name: name.into(),
        rows,
        cols,
        dtype,
        layout: Layout::Rows,
        layers: vec![],
        experts: None,
        recipes: vec![recipe],
    }
}

fn simple(dtype: DType) -> Weight {
    weight("w", 4, 2, dtype, vec![part("a", &[4, 2], 0, 4)])
}

/// All weights are used.
fn plan_of(weights: &[Weight]) -> Plan {
    let mut plan = crate::testing::plan();
    let args = &mut plan.entries[0].blocks[0].launches[0].args;
    *args = (0..weights.len() as u32).map(Arg::Weight).collect();
    plan
}

struct Packed {
    device: Box<dyn Device>,
    weights: Weights,
}

impl Packed {
    fn bytes(&mut self, span: Span) -> Vec<u8> {
        let mut all = Vec::new();
        self.device.read(span, &mut |bytes| all.extend(bytes)).unwrap();
        all
    }

    /// The numbers of a weight, of each expert.
    fn values(&mut self, index: u32, layer: Option<u32>, dtype: DType) -> Vec<Vec<f32>> {
        let spans = match self.weights.place(index, layer).unwrap() {
            Placed::One(span) => vec![*span],
            Placed::Experts(spans) => spans.clone(),
        };
        let numbers = |bytes: Vec<u8>| {
            bytes.chunks(dtype.size()).map(|b| dtype.read_f32(b)).collect::<Vec<_>>()
        };
        spans.into_iter().map(|span| numbers(self.bytes(span))).collect()
    }
}

fn load(
    weights: Vec<Weight>,
    ignored: &[&str],
    stored: &[Stored],
    progress: &mut dyn FnMut(Progress),
) -> Result<Packed, WeightsError> {
    let folder = Folder::new();
    folder.write(SINGLE, &safetensors(stored));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let plan = plan_of(&weights);
    let ignored = ignored.iter().map(|&s| s.into()).collect();
    let manifest = Manifest { weights, ignored };
    let mut device = q35_device::open(None, &["cpu"], Some(1)).unwrap();
    let weights =
        Weights::from_checkpoint(&manifest, &plan, &checkpoint, &mut *device, 2, progress)?;
    Ok(Packed { device, weights })
}

fn packed(weights: Vec<Weight>, stored: &[Stored]) -> Packed {
    load(weights, &[], stored, &mut |_| ()).unwrap_or_else(|e| panic!("{e}"))
}

fn refusal(weights: Vec<Weight>, ignored: &[&str], stored: &[Stored]) -> String {
    match load(weights, ignored, stored, &mut |_| ()) {
        Ok(_) => panic!("it was loaded"),
        Err(error) => error.to_string(),
    }
}

fn numbers(range: std::ops::Range<usize>) -> Vec<f32> {
    range.map(|v| v as f32).collect()
}

#[test]
fn a_weight_stored_as_it_is_read_stays_in_the_file() {
    let mut p = packed(vec![simple(DType::Bf16)], &[bf16("a", &[4, 2], 1)]);
    assert_eq!(p.values(0, None, DType::Bf16), [numbers(1..9)]);
    assert_eq!((p.weights.packed_bytes, p.weights.mapped_bytes), (0, 16));
}

#[test]
fn narrower_tensors_are_widened() {
    let mut p = packed(vec![simple(DType::F32)], &[bf16("a", &[4, 2], 1)]);
    assert_eq!(p.values(0, None, DType::F32), [numbers(1..9)]);
    assert_eq!(p.weights.mapped_bytes, 0);
    assert!(p.weights.packed_bytes >= 32);
}

#[test]
fn tensors_that_would_be_rounded_are_refused_with_advice() {
    let f32s = || ("a", Dtype::F32, vec![4, 2], vec![0; 32]);
    let f16s = || ("a", Dtype::F16, vec![4, 2], vec![0; 16]);
    for (stored, weight, found, advice) in [
        (f32s(), DType::Bf16, "is f32, expected bf16", "float32"),
        (f32s(), DType::F16, "is f32, expected f16", "float32"),
        (f16s(), DType::Bf16, "is f16, expected bf16", "float16"),
        (bf16("a", &[4, 2], 0), DType::F16, "is bf16, expected f16", "bfloat16"),
    ] {
        let error = load(vec![simple(weight)], &[], &[stored], &mut |_| ()).err().unwrap();
        assert_eq!(error.to_string(), format!("`a` in `{SINGLE}` {found}"));
        assert!(error.advice().unwrap().contains(advice));
    }
}

#[test]
fn other_types_are_refused() {
    let stored = ("a", Dtype::I8, vec![4, 2], vec![0; 8]);
    let error = refusal(vec![simple(DType::F32)], &[], &[stored]);
    assert_eq!(error, format!("`a` in `{SINGLE}` is I8, expected f32 or f16 or bf16"));
}

#[test]
fn a_misshapen_tensor_is_refused() {
    let error = refusal(vec![simple(DType::Bf16)], &[], &[bf16("a", &[2, 4], 0)]);
    assert_eq!(error, format!("`a` in `{SINGLE}` has the shape [2, 4], expected [4, 2]"));
}

#[test]
fn a_missing_tensor_is_refused() {
    let error = refusal(vec![simple(DType::Bf16)], &["b"], &[bf16("b", &[4, 2], 0)]);
    assert_eq!(error, "`a` is not in the checkpoint, which `w` is made of");
}

#[test]
fn a_tensor_that_nothing_reads_is_refused_unless_it_is_ignored() {
    let stored = || [bf16("a", &[4, 2], 0), bf16("mtp.x", &[1], 0), bf16("x", &[1], 0)];
    let error = refusal(vec![simple(DType::Bf16)], &["mtp."], &stored());
    assert_eq!(error, format!("`x` in `{SINGLE}` belongs to no part of the model"));
    let error = refusal(vec![simple(DType::Bf16)], &[], &stored());
    assert!(error.ends_with("(and one more such tensor)"), "{error}");
    load(vec![simple(DType::Bf16)], &["mtp.", "x"], &stored(), &mut |_| ()).map(|_| ()).unwrap();
}

#[test]
fn a_tensor_must_be_read_whole_and_by_no_weight_twice() {
    let read = |parts: &[(u64, u32)]| {
        let recipe = parts.iter().map(|&(first, rows)| part("a", &[4, 2], first, rows)).collect();
        let rows = parts.iter().map(|p| p.1).sum();
        weight("w", rows, 2, DType::Bf16, recipe)
    };
    let a = || [bf16("a", &[4, 2], 0)];
    let hole = refusal(vec![read(&[(0, 1), (2, 2)])], &[], &a());
    assert_eq!(hole, "elements 2..4 of `a` are read by no weight of the artifact");
    let end = refusal(vec![read(&[(0, 3)])], &[], &a());
    assert_eq!(end, "elements 6..8 of `a` are read by no weight of the artifact");
    let twice = refusal(vec![read(&[(0, 4), (1, 1)])], &[], &a());
    assert_eq!(twice, "`w` reads elements 2..4 of `a` twice");
    // In any order, and a tied head: one tensor, two weights.
    let mut p = packed(
        vec![read(&[(2, 2), (0, 2)]), Weight { name: "head".into(), ..read(&[(0, 4)]) }],
        &a(),
    );
    assert_eq!(p.values(0, None, DType::Bf16), [[4.0, 5.0, 6.0, 7.0, 0.0, 1.0, 2.0, 3.0]]);
    assert_eq!(p.values(1, None, DType::Bf16), [numbers(0..8)]);
}

/// Two experts of three rows, fused or apart.
fn experts() -> Weight {
    let fused = Part::Rows {
        tensor: "l{layer}.all".into(),
        shape: vec![2, 3, 2],
        first: 0,
        per_expert: 3,
        rows: 3,
        transform: Transform::None,
    };
    let apart = vec![
        part("l{layer}.e{expert}.x", &[1, 2], 0, 1),
        part("l{layer}.e{expert}.y", &[2, 2], 0, 2),
    ];
    Weight {
        layers: vec![0, 3],
        experts: Some(2),
        recipes: vec![vec![fused], apart],
        ..weight("l{layer}.experts", 3, 2, DType::Bf16, vec![])
    }
}

#[test]
fn experts_are_the_same_fused_and_apart() {
    let fused = [bf16("l0.all", &[2, 3, 2], 0), bf16("l3.all", &[2, 3, 2], 20)];
    let apart = [
        bf16("l0.e0.x", &[1, 2], 0),
        bf16("l0.e0.y", &[2, 2], 2),
        bf16("l0.e1.x", &[1, 2], 6),
        bf16("l0.e1.y", &[2, 2], 8),
    ];
    // One layer so, one so: it is settled for each by what is there.
    let mixed = [&apart[..], &fused[1..]].concat();
    for stored in [fused.to_vec(), mixed] {
        let mut p = packed(vec![experts()], &stored);
        assert_eq!(p.values(0, Some(0), DType::Bf16), [numbers(0..6), numbers(6..12)]);
        assert_eq!(p.values(0, Some(3), DType::Bf16), [numbers(20..26), numbers(26..32)]);
    }
}

#[test]
fn what_is_missing_is_told_by_the_closest_recipe() {
    let stored = [
        bf16("l0.e0.x", &[1, 2], 0),
        bf16("l0.e0.y", &[2, 2], 2),
        bf16("l0.e1.y", &[2, 2], 8),
        bf16("l3.all", &[2, 3, 2], 20),
    ];
    // Of the first recipe one is missing, of the second one: the first counts.
    let error = refusal(vec![experts()], &[], &stored);
    assert_eq!(error, "`l0.all` is not in the checkpoint, which `l0.experts` is made of");
    let mut weight = experts();
    weight.recipes[0].push(part("l{layer}.more", &[1, 2], 0, 1));
    let error = refusal(vec![weight], &[], &stored);
    assert_eq!(error, "`l0.e1.x` is not in the checkpoint, which `l0.experts` is made of");
    let error = refusal(vec![experts()], &[], &stored[3..]);
    assert_eq!(error, "`l0.all` is not in the checkpoint, which `l0.experts` is made of");
}

#[test]
fn both_forms_of_one_weight_are_one_too_many() {
    let stored = [
        bf16("l0.all", &[2, 3, 2], 0),
        bf16("l3.all", &[2, 3, 2], 20),
        bf16("l0.e0.x", &[1, 2], 0),
    ];
    let error = refusal(vec![experts()], &[], &stored);
    assert!(error.starts_with("`l0.e0.x` in"), "{error}");
}

/// Larger than a job, with rows of the checkpoint, of zeros, and of the compiler.
fn large(layout: Layout) -> Weight {
    let transformed = Part::Rows {
        tensor: "b".into(),
        shape: vec![100, 64],
        first: 0,
        per_expert: 0,
        rows: 100,
        transform: Transform::AddOne,
    };
    let recipe = vec![
        part("a", &[4000, 64], 0, 4000),
        Part::Zeros { rows: 7 },
        transformed,
        Part::Values { bits: (0..3 * 64).map(|i| (i as f32).to_bits()).collect() },
    ];
    Weight { layout, ..weight("w", 4110, 64, DType::F32, recipe) }
}

#[test]
fn jobs_give_the_bytes_of_packing_at_once() {
    let stored = [bf16("a", &[4000, 64], 0), bf16("b", &[100, 64], 5)];
    for layout in [Layout::Rows, Layout::Columns, Layout::Panels] {
        let weight = large(layout);
        let matrix = weight.packed();
        let values: Vec<u8> = (0..3 * 64).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let tensor = |bytes, dtype, transform, rows| q35_types::pack::Source::Tensor {
            bytes,
            dtype,
            transform,
            rows,
        };
        let sources = [
            tensor(&stored[0].3, DType::Bf16, Transform::None, 4000),
            q35_types::pack::Source::Zeros { rows: 7 },
            tensor(&stored[1].3, DType::Bf16, Transform::AddOne, 100),
            tensor(&values, DType::F32, Transform::None, 3),
        ];
        let mut expected = vec![1; matrix.bytes()];
        matrix.pack(&sources, 0..4110, &mut expected);

        let mut p = packed(vec![weight], &stored);
        let Some(&Placed::One(span)) = p.weights.place(0, None) else {
            panic!("one matrix");
        };
        assert_eq!(span.bytes, expected.len() as u64);
        assert!(p.bytes(span) == expected, "{layout:?}");
    }
}

#[test]
fn progress_rises_to_its_total() {
    let stored = [bf16("a", &[4000, 64], 0), bf16("b", &[100, 64], 5)];
    let mut seen = Vec::new();
    load(vec![large(Layout::Panels)], &[], &stored, &mut |p| seen.push(p)).map(|_| ()).unwrap();
    let total = large(Layout::Panels).packed().bytes() as u64;
    assert_eq!(seen.first(), Some(&Progress { done: 0, total }));
    assert_eq!(seen.last(), Some(&Progress { done: total, total }));
    assert!(seen.is_sorted_by_key(|p| p.done));
}

fn random(weights: Vec<Weight>, seed: u64) -> Packed {
    let plan = plan_of(&weights);
    let manifest = Manifest { weights, ignored: vec![] };
    let mut device = q35_device::open(None, &["cpu"], Some(1)).unwrap();
    let weights = Weights::random(&manifest, &plan, seed, &mut *device, 2, &mut |_| ()).unwrap();
    Packed { device, weights }
}

#[test]
fn random_weights_keep_the_size_of_what_they_multiply() {
    let values = random(vec![large(Layout::Rows)], 1).values(0, None, DType::F32).remove(0);
    let rows = &values[..4000 * 64];
    let mean = rows.iter().sum::<f32>() / rows.len() as f32;
    let variance = rows.iter().map(|v| v * v).sum::<f32>() / rows.len() as f32;
    assert!(mean.abs() < 1e-3, "{mean}");
    assert!((variance * 64.0 - 1.0).abs() < 0.02, "{variance}");
    assert!(values[4000 * 64..4007 * 64].iter().all(|&v| v == 0.0), "zeros stay");
    assert_eq!(values[4107 * 64..], numbers(0..3 * 64), "so do the compiler's numbers");
}

#[test]
fn random_norms_decays_and_steps_are_sane() {
    let vector = |tensor: &str, transform| {
        let part = Part::Rows {
            tensor: tensor.into(),
            shape: vec![64],
            first: 0,
            per_expert: 0,
            rows: 1,
            transform,
        };
        weight(tensor, 1, 64, DType::F32, vec![part])
    };
    let mut p = random(
        vec![
            vector("layers.0.self_attn.q_norm.weight", Transform::AddOne),
            vector("layers.0.linear_attn.norm.weight", Transform::None),
            vector("layers.0.linear_attn.A_log", Transform::NegExp),
            vector("layers.0.linear_attn.dt_bias", Transform::None),
            vector("layers.0.input_layernorm.weight", Transform::None),
        ],
        7,
    );
    let mut all = |index| p.values(index, None, DType::F32).remove(0);
    assert_eq!(all(0), [1.0; 64]);
    assert_eq!(all(1), [1.0; 64]);
    assert!(all(2).iter().all(|v| (-16.01..=-0.99).contains(v)));
    assert!(all(3).iter().all(|v| (0.0009..0.11).contains(&v.exp().ln_1p())));
    assert_eq!(all(4), [0.0; 64], "the 1 is added where it is used");
}

#[test]
fn random_weights_depend_on_their_seed_and_place_alone() {
    let numbers = |seed| {
        let mut p = random(vec![experts()], seed);
        [Some(0), Some(3)].map(|layer| p.values(0, layer, DType::Bf16))
    };
    let once = numbers(5);
    assert_eq!(once, numbers(5));
    assert_ne!(once, numbers(6));
    let [[a, b], [c, d]] = once.map(|experts| <[_; 2]>::try_from(experts).unwrap());
    assert!(a != b && a != c && a != d && b != c && b != d && c != d);
}

/// A device whose buffers are small, and which cannot read files in place.
struct Small(Box<dyn Device>);

#[test]
fn experts_that_exceed_a_buffer_are_spread_over_several() {
    let mut device = Small(q35_device::open(None, &["cpu"], Some(1)).unwrap());
    let many = Weight { experts: Some(20), ..experts() };
    let weights = vec![many];
    let plan = plan_of(&weights);
    let manifest = Manifest { weights, ignored: vec![] };
    let loaded = Weights::random(&manifest, &plan, 1, &mut device, 1, &mut |_| ()).unwrap();
    let Some(Placed::Experts(spans)) = loaded.place(0, Some(3)) else {
        panic!("a list");
    };
    // Each takes 12 bytes, 64 with padding: three to a buffer of 200.
    let buffers: BTreeSet<_> = spans.iter().map(|s| s.buffer).collect();
    assert_eq!((spans.len(), buffers.len()), (20, 7));
}

impl Device for Small {
    fn limits(&self) -> q35_device::Limits {
        q35_device::Limits { max_buffer: 200, ..self.0.limits() }
    }

    fn alloc(
        &mut self,
        bytes: u64,
        usage: q35_device::Usage,
    ) -> Result<q35_device::BufferId, q35_device::DeviceError> {
        assert!(bytes <= 200);
        self.0.alloc(bytes, usage)
    }

    fn adopt(
        &mut self,
        _: &std::sync::Arc<q35_device::Mapped>,
        _: std::ops::Range<usize>,
        _: u64,
    ) -> Result<Option<q35_device::BufferId>, q35_device::DeviceError> {
        Ok(None)
    }

    fn info(&self) -> &DeviceInfo {
        self.0.info()
    }

    fn variants(&self) -> &[&'static str] {
        self.0.variants()
    }

    fn free_memory(&self) -> Option<u64> {
        self.0.free_memory()
    }

    fn fill(
        &mut self,
        span: Span,
        write: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), q35_device::DeviceError> {
        self.0.fill(span, write)
    }

    fn read(
        &mut self,
        span: Span,
        look: &mut dyn FnMut(&[u8]),
    ) -> Result<(), q35_device::DeviceError> {
        self.0.read(span, look)
    }

    fn load(
        &mut self,
        variant: &str,
        kernels: &[q35_device::KernelCode<'_>],
    ) -> Result<Vec<q35_device::KernelId>, q35_device::DeviceError> {
        self.0.load(variant, kernels)
    }

    fn record(
        &mut self,
        launches: Vec<q35_device::BoundLaunch>,
    ) -> Result<q35_device::EntryId, q35_device::DeviceError> {
        self.0.record(launches)
    }

    fn run(&mut self, entry: q35_device::EntryId) -> Result<(), q35_device::DeviceError> {
        self.0.run(entry)
    }
}
