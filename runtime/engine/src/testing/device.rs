//! A device whose kernels are Rust functions, and a plan that runs on it: a "model" that hashes.
//!
//! A token's hidden state is a hash of all tokens of its sequence up to it. It is carried from step
//! to step in the slot, and checked at every token against the ids in the sequence's pages; its
//! logits follow from it. So a wrong slot, page, tile, position or row shows in the logits or
//! stops the test, and what must come out is known without running anything.

use crate::Model;
use crate::load::{LoadOptions, finish};
use crate::sampling::Rng;
use crate::weights::Weights;
use q35_artifact::*;
use q35_device::*;
use q35_types::step::PAGE;
use q35_types::{Count, DType, StepLayout};
use std::ops::Range;
use std::sync::{Arc, Mutex};

const VOCAB: u32 = 50;
const LAYER: u32 = 3;
const LAYOUT: StepLayout = StepLayout { max_tokens: 128, max_seqs: 3, max_pages: 5 };
/// The hash of no tokens.
const NOTHING: i32 = 17;

/// What a step had: the entry, and its numbers of tokens and sequences, or of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Prefill { tokens: u32, seqs: u32 },
    Decode { seqs: u32 },
    Head { rows: u32 },
}

/// A plan for three sequences of up to 300 tokens, and steps of up to 128.
pub fn plan() -> Plan {
    let param = |name: &str, dtype, write| Param { name: name.into(), dtype, write, table: false };
    let kernel = |name: &str, params| Kernel { name: name.into(), shared_bytes: 0, params };
    let tokens = [("step", false), ("slot", true), ("page", true), ("hidden", true)];
    let tokens = tokens.map(|(name, write)| param(name, DType::I32, write)).to_vec();
    let head = vec![
        param("step", DType::I32, false),
        param("hidden", DType::I32, false),
        param("logits", DType::F32, true),
    ];
    let launch = |kernel, count, args| Launch {
        kernel,
        tasks: Tasks { each: 1, times: Times::Step(count) },
        args,
        cost: Cost::default(),
    };
    let hidden = Arg::Arena { offset: 64, bytes: 4 * u64::from(LAYOUT.max_tokens) };
    let entry = |name: &str, max_tokens, layer, launch| Entry {
        name: name.into(),
        max_tokens,
        blocks: vec![Block { name: "all".into(), launches: vec![launch] }],
        sequence: vec![(0, layer)],
    };
    let step = |kernel| {
        launch(kernel, Count::Tiles, vec![Arg::Step, Arg::State(0), Arg::State(1), hidden])
    };
    let state = |name: &str, unit, unit_bytes| State {
        name: name.into(),
        unit,
        unit_bytes,
        ring: false,
        layers: vec![LAYER],
    };
    Plan {
        step: LAYOUT,
        max_context: 300,
        vocab: VOCAB,
        kernels: vec![
            kernel("prefill", tokens.clone()),
            kernel("decode", tokens),
            kernel("head", head),
        ],
        arena_bytes: 64 + 4 * u64::from(LAYOUT.max_tokens),
        buffers: vec![Buffer {
            name: LOGITS.into(),
            bytes: 4 * u64::from(LAYOUT.max_seqs * VOCAB),
        }],
        states: vec![state("slot", Unit::Slot, 4), state("page", Unit::Page, 4 * u64::from(PAGE))],
        entries: vec![
            entry("prefill", LAYOUT.max_tokens, Some(LAYER), step(0)),
            entry("decode", LAYOUT.max_seqs, Some(LAYER), step(1)),
            entry(
                "head",
                LAYOUT.max_seqs,
                None,
                launch(2, Count::Rows, vec![Arg::Step, hidden, Arg::Buffer(0)]),
            ),
        ],
    }
}

/// The hashing model, and what its steps will have been.
pub fn model(options: &LoadOptions<'_>) -> (Model, Arc<Mutex<Vec<Step>>>) {
    let device = HashDevice::new();
    let steps = Arc::clone(&device.steps);
    let plan = plan();
    let kernels = plan.kernels.iter().map(|k| (k.name.clone(), vec![0])).collect();
    let variant = Variant { name: "rust".into(), extension: "rs".into(), kernels };
    let model = finish(Box::new(device), &plan, &variant, &Weights::default(), options);
    (model.unwrap(), steps)
}

/// A device for code of that target, which runs the variant `rust` and lacks width for `wide`.
pub fn device(target: &'static str) -> Box<dyn Device> {
    let mut device = HashDevice::new();
    (device.info.id, device.info.target) = (target.into(), target);
    Box::new(device)
}

/// The logits after these tokens.
pub fn expected_logits(tokens: &[u32]) -> Vec<f32> {
    logits(hash(tokens)).collect()
}

/// The tokens that follow greedily.
pub fn greedy(prompt: &[u32], n: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..n {
        let logits = expected_logits(&tokens);
        let best = (0..VOCAB).max_by(|&a, &b| logits[a as usize].total_cmp(&logits[b as usize]));
        tokens.push(best.unwrap());
    }
    tokens.split_off(prompt.len())
}

fn hash(tokens: &[u32]) -> i32 {
    tokens.iter().fold(NOTHING, |h, &id| mix(h, id))
}

fn mix(hash: i32, id: u32) -> i32 {
    (hash.rotate_left(7) ^ id as i32).wrapping_mul(0x5bd1_e995)
}

fn logits(hash: i32) -> impl Iterator<Item = f32> {
    let mut rng = Rng::new(hash as u64);
    (0..VOCAB).map(move |_| rng.next_f64() as f32)
}

struct HashDevice {
    info: DeviceInfo,
    buffers: Vec<Vec<u8>>,
    kernels: Vec<String>,
    entries: Vec<BoundLaunch>,
    steps: Arc<Mutex<Vec<Step>>>,
}

impl HashDevice {
    fn new() -> Self {
        let info = DeviceInfo {
            id: "hash".into(),
            target: "hash",
            name: "hash".into(),
            units: 1,
            features: vec![],
            memory: None,
        };
        let steps = Arc::default();
        Self { info, buffers: vec![], kernels: vec![], entries: vec![], steps }
    }

    fn word(&self, span: Span, at: u32) -> i32 {
        let (at, begin) = (at as usize * 4, span.offset as usize);
        assert!((at as u64) < span.bytes, "word {at} of {span:?}");
        let bytes = &self.buffers[span.buffer.0 as usize][begin + at..][..4];
        i32::from_le_bytes(bytes.try_into().unwrap())
    }

    fn put(&mut self, span: Span, at: u32, word: i32) {
        let (at, begin) = (at as usize * 4, span.offset as usize);
        assert!((at as u64) < span.bytes, "word {at} of {span:?}");
        let bytes = &mut self.buffers[span.buffer.0 as usize][begin + at..][..4];
        bytes.copy_from_slice(&word.to_le_bytes());
    }

    /// `prefill` and `decode`.
    fn tokens(&mut self, step: Span, slots: Span, pages: Span, hidden: Span) -> (u32, u32) {
        let read = |this: &Self, at: u32| this.word(step, at);
        let count = |this: &Self, count: Count| this.word(step, count.word()) as u32;
        let (tokens, seqs) = (count(self, Count::Tokens), count(self, Count::Seqs));
        let mut next_token = 0;
        assert_eq!(read(self, LAYOUT.seq_tile()), 0);
        for seq in 0..seqs {
            let tiles = LAYOUT.seq_tile() + seq;
            let tiles = read(self, tiles) as u32..read(self, tiles + 1) as u32;
            assert!(!tiles.is_empty());
            let slot = read(self, LAYOUT.seq_slot() + seq);
            let mut hash = if slot < 0 { NOTHING } else { self.word(slots, slot as u32) };
            for tile in tiles {
                assert_eq!(read(self, LAYOUT.tile_seq() + tile), seq as i32);
                assert_eq!(read(self, LAYOUT.tile_token() + tile), next_token as i32);
                let position = read(self, LAYOUT.tile_pos() + tile) as u32;
                let length = read(self, LAYOUT.tile_len() + tile) as u32;
                assert!(length > 0 && position % PAGE + length <= PAGE, "{position}+{length}");
                assert!(slot >= 0 || tile > 0 || position == 0, "a fresh sequence begins at 0");
                for position in position..position + length {
                    hash = self.token(step, pages, (seq, tile, next_token, position), hash);
                    self.put(hidden, next_token, hash);
                    next_token += 1;
                }
                let slot = read(self, LAYOUT.tile_slot() + tile);
                if slot >= 0 {
                    self.put(slots, slot as u32, hash);
                }
            }
        }
        assert_eq!(tokens, next_token);
        (tokens, seqs)
    }

    fn token(&mut self, step: Span, pages: Span, at: (u32, u32, u32, u32), hash: i32) -> i32 {
        let (seq, tile, token, position) = at;
        assert_eq!(self.word(step, LAYOUT.token_tile() + token), tile as i32);
        for axis in 0..3 {
            let at = LAYOUT.positions() + axis * LAYOUT.max_tokens + token;
            assert_eq!(self.word(step, at), position as i32);
        }
        let place = |this: &Self, position: u32| {
            let table = LAYOUT.pages() + seq * LAYOUT.max_pages;
            this.word(step, table + position / PAGE) as u32 * PAGE + position % PAGE
        };
        let id = self.word(step, LAYOUT.ids() + token);
        self.put(pages, place(self, position), id);
        let history: Vec<u32> =
            (0..=position).map(|p| self.word(pages, place(self, p)) as u32).collect();
        let hash = mix(hash, id as u32);
        assert_eq!(hash, super::device::hash(&history), "slot and pages of one sequence agree");
        hash
    }

    fn head(&mut self, step: Span, hidden: Span, out: Span) -> u32 {
        let rows = self.word(step, Count::Rows.word()) as u32;
        assert!((1..=LAYOUT.max_seqs).contains(&rows));
        for row in 0..rows {
            let token = self.word(step, LAYOUT.rows() + row) as u32;
            for (logit, id) in logits(self.word(hidden, token)).zip(0..) {
                self.put(out, row * VOCAB + id, logit.to_bits() as i32);
            }
        }
        rows
    }
}

impl Device for HashDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn variants(&self) -> &[&'static str] {
        &["rust"]
    }

    fn lacks(&self, variant: &str) -> Option<String> {
        (variant == "wide").then(|| "width".into())
    }

    fn limits(&self) -> Limits {
        Limits { max_buffer: 1 << 20, alignment: 4 }
    }

    fn free_memory(&self) -> Option<u64> {
        None
    }

    fn alloc(&mut self, bytes: u64, _: Usage) -> Result<BufferId, DeviceError> {
        // Not zeros: nobody may rely on them.
        self.buffers.push(vec![0xAB; bytes as usize]);
        Ok(BufferId(self.buffers.len() as u32 - 1))
    }

    fn adopt(
        &mut self,
        _: &Arc<Mapped>,
        _: Range<usize>,
        _: u64,
    ) -> Result<Option<BufferId>, DeviceError> {
        Ok(None)
    }

    fn fill(&mut self, span: Span, write: &mut dyn FnMut(&mut [u8])) -> Result<(), DeviceError> {
        let range = span.offset as usize..(span.offset + span.bytes) as usize;
        write(&mut self.buffers[span.buffer.0 as usize][range]);
        Ok(())
    }

    fn read(&mut self, span: Span, look: &mut dyn FnMut(&[u8])) -> Result<(), DeviceError> {
        let range = span.offset as usize..(span.offset + span.bytes) as usize;
        look(&self.buffers[span.buffer.0 as usize][range]);
        Ok(())
    }

    fn load(&mut self, _: &str, kernels: &[KernelCode<'_>]) -> Result<Vec<KernelId>, DeviceError> {
        self.kernels = kernels.iter().map(|k| k.kernel.name.clone()).collect();
        Ok((0..kernels.len() as u32).map(KernelId).collect())
    }

    fn record(&mut self, launches: Vec<BoundLaunch>) -> Result<EntryId, DeviceError> {
        let [launch] = launches.try_into().expect("an entry of this plan is one launch");
        self.entries.push(launch);
        Ok(EntryId(self.entries.len() as u32 - 1))
    }

    fn run(&mut self, entry: EntryId) -> Result<(), DeviceError> {
        let launch = &self.entries[entry.0 as usize];
        let span = |arg: &BoundArg| match arg {
            BoundArg::Span(span) => *span,
            BoundArg::Table(_) => panic!("no lists in this plan"),
        };
        let spans: Vec<Span> = launch.args.iter().map(span).collect();
        let step = match (self.kernels[launch.kernel.0 as usize].as_str(), &spans[..]) {
            ("prefill", &[step, slot, page, hidden]) => {
                let (tokens, seqs) = self.tokens(step, slot, page, hidden);
                Step::Prefill { tokens, seqs }
            }
            ("decode", &[step, slot, page, hidden]) => {
                let (tokens, seqs) = self.tokens(step, slot, page, hidden);
                assert_eq!(tokens, seqs, "one token of each");
                Step::Decode { seqs }
            }
            ("head", &[step, hidden, out]) => Step::Head { rows: self.head(step, hidden, out) },
            (other, _) => panic!("no kernel {other} of such arguments"),
        };
        self.steps.lock().unwrap().push(step);
        Ok(())
    }
}
