//! What PTX does with memory, shared memory and matrix units, counted on ptx-sim: models of true shapes
//! beside the least possible, and beside golden files.

use q35_artifact::{Artifact, Plan};
use q35_e2e::counters::{Counted, Kind, Param, count, efficiency};
use q35_e2e::files::Files;
use q35_e2e::ledger::{changes, ledger};
use q35_e2e::published::{self, MODELS, layers, least, narrow};
use q35_e2e::run::Build;
use q35_e2e::step::Step;
use q35_target_ptx::Ptx;
use q35_types::DType;
use q35_types::step::PAGE;
use std::sync::LazyLock;

/// Bytes of weights, and of state, that a layer of a decode step may move: in times of the least possible.
const MOVED: f64 = 1.03;
/// The least share of what weights and state make memory move that lanes asked for.
const EFFICIENCY: f64 = 0.98;
/// Passes over shared memory that a matrix-vector product may lose to bank conflicts.
const CONFLICTS: u64 = 0;
/// Launches that a DeltaNet layer and an attention layer may take in a decode step.
const LAUNCHES: [usize; 2] = [6, 7];
/// The least share of a matrix product's operations that are done by matrix units.
const TENSOR: f64 = 0.95;
/// Rows and columns of a matrix product for which what is read serves once.
const TILE: u64 = PAGE as u64;

const DECODE: Step = Step { depth: 4096, tokens: 1 };
/// As many as a chunk may have, so that arguments have no rows to spare.
const PREFILL: Step = Step { depth: 0, tokens: 512 };

/// A model of one layer of each kind, and what a step of it did.
struct Counts {
    name: &'static str,
    artifact: Artifact,
    counted: Vec<Counted>,
}

impl Counts {
    fn of(name: &'static str, entry: &str, step: Step, values: &[(&str, u32)]) -> Counts {
        let artifact = published::compile(name, values, DType::Bf16, &Ptx::SM_80);
        let counted = count(&artifact, entry, step);
        Counts { name, artifact, counted }
    }

    fn plan(&self) -> &Plan {
        &self.artifact.target("ptx").expect("PTX").plan
    }

    /// The layers' launches, each with the name of its layer.
    fn layers(&self) -> impl Iterator<Item = (String, &Counted)> {
        let of_layers = self.counted.iter().filter(|c| c.layer.is_some());
        of_layers.map(|c| (format!("{}, {}: {}", self.name, c.block, c.kernel), c))
    }
}

static DECODED: LazyLock<[Counts; 2]> =
    LazyLock::new(|| MODELS.map(|name| Counts::of(name, "decode", DECODE, &[])));

static PREFILLED: LazyLock<[Counts; 2]> = LazyLock::new(|| {
    let [dense, experts] = MODELS;
    let [few, few_experts] = narrow();
    [
        Counts::of(dense, "prefill", PREFILL, &few),
        Counts::of(experts, "prefill", PREFILL, &few_experts),
    ]
});

/// Weights or state of a launch.
fn of_kind(counted: &Counted, kind: Kind) -> impl Iterator<Item = &Param> {
    counted.params.iter().filter(move |p| p.kind == kind)
}

#[test]
fn a_decode_step_moves_hardly_more_weights_and_state_than_it_must() {
    let mut over = String::new();
    for counts in &*DECODED {
        for block in layers(counts.plan()) {
            let counted: Vec<&Counted> =
                counts.counted.iter().filter(|c| c.block == block.name).collect();
            let moved = |kind| {
                let params = counted.iter().flat_map(|c| of_kind(c, kind));
                params.map(Param::moved).sum::<u64>() as f64
            };
            let least = least(&counts.artifact, counts.plan(), block, DECODE.depth);
            let times = [moved(Kind::Weights) / least[0], moved(Kind::State) / least[1]];
            // These are read again and again, by every group of rows: from caches, if all is well.
            let activations = moved(Kind::Activations);
            let title = format!(
                "{}, {}: weights {:.3} x the least of {:.0} bytes, state {:.3} x the least of {:.0}; \
                 activations {activations:.0} bytes",
                counts.name, block.name, times[0], least[0], times[1], least[1],
            );
            eprintln!("{title}");
            assert!(times.iter().all(|&t| t > 0.99), "all is read: {title}");
            if times.iter().any(|&t| t > MOVED) {
                over += &format!("{title}\n");
                for c in counted {
                    let params =
                        c.params.iter().filter(|p| [Kind::Weights, Kind::State].contains(&p.kind));
                    let params = params.map(|p| format!("{} {}", p.name, p.moved()));
                    over += &format!("  {}: {}\n", c.kernel, params.collect::<Vec<_>>().join(", "));
                }
            }
        }
    }
    assert!(over.is_empty(), "more than {MOVED} x the least:\n{over}");
}

/// How little of a sector new keys and values take is bounded by what is moved in all.
#[test]
fn what_loads_of_weights_and_state_make_memory_move_is_asked_for() {
    let mut under = String::new();
    for (title, counted) in DECODED.iter().flat_map(Counts::layers) {
        for param in [Kind::Weights, Kind::State].into_iter().flat_map(|k| of_kind(counted, k)) {
            let share = efficiency(param.loads);
            let line = format!(
                "{title}: {share:.3} of {} sectors of {}, stores {:.3} of {}",
                param.loads.sectors,
                param.name,
                efficiency(param.stores),
                param.stores.sectors,
            );
            eprintln!("{line}");
            if share < EFFICIENCY {
                under += &format!("{line}\n");
            }
        }
    }
    assert!(under.is_empty(), "less than {EFFICIENCY}:\n{under}");
}

/// Matrix-vector products, by the beginnings of their names.
fn is_product(kernel: &str) -> bool {
    kernel.starts_with("linear_") || kernel.starts_with("mixture_")
}

#[test]
fn matrix_vector_products_have_no_bank_conflicts() {
    let mut over = String::new();
    let mut products = 0;
    for (title, counted) in DECODED.iter().flat_map(Counts::layers) {
        let c = &counted.counters;
        let line =
            format!("{title}: {} conflicts of {} requests", c.shared_conflicts, c.shared_requests);
        eprintln!("{line}");
        if is_product(&counted.kernel) {
            products += 1;
            if c.shared_conflicts > CONFLICTS {
                over += &format!("{line}\n");
            }
        }
    }
    assert!(products >= 8, "both layers of both models have products");
    assert!(over.is_empty(), "more than {CONFLICTS}:\n{over}");
}

#[test]
fn a_layer_is_a_handful_of_launches() {
    for counts in &*DECODED {
        for (block, most) in layers(counts.plan()).into_iter().zip(LAUNCHES) {
            let ran = counts.counted.iter().filter(|c| c.block == block.name);
            let kernels: Vec<&str> = ran.map(|c| c.kernel.as_str()).collect();
            assert!(
                kernels.len() <= most,
                "{}, {}: at most {most}: {kernels:?}",
                counts.name,
                block.name
            );
        }
    }
}

/// Kernels whose operations are nearly all those of matrix products, by their names: `expert_combine` and the
/// like are none.
fn multiplies_matrices(kernel: &str) -> bool {
    let sizes = kernel.strip_prefix("linear_").or(kernel.strip_prefix("expert_"));
    sizes.is_some_and(|s| s.starts_with(|c: char| c.is_ascii_digit()))
        || kernel.starts_with("attend_prefill_")
}

#[test]
fn matrix_products_of_prefill_are_done_by_matrix_units() {
    let mut under = String::new();
    let mut products = 0;
    for (title, counted) in PREFILLED.iter().flat_map(Counts::layers) {
        let c = &counted.counters;
        let all = c.flops + c.tensor_flops;
        if all == 0 {
            continue;
        }
        let share = c.tensor_flops as f64 / all as f64;
        // A request of 8 or 16 bytes a lane takes two or four passes, of which one is counted here.
        let passes = c.shared_requests + c.shared_conflicts;
        let line = format!(
            "{title}: {share:.3} of {all} operations on matrix units; for 1000 of them, {:.2} requests to shared \
             memory and passes lost to its conflicts, {} and {} in all",
            1000.0 * passes as f64 / all as f64,
            c.shared_requests,
            c.shared_conflicts,
        );
        eprintln!("{line}");
        if multiplies_matrices(&counted.kernel) {
            products += 1;
            if share < TENSOR {
                under += &format!("{line}\n");
            }
        }
    }
    assert!(products >= 20, "both layers of both models have products");
    assert!(under.is_empty(), "less than {TENSOR}:\n{under}");
}

#[test]
fn a_prefill_product_reads_weights_once_for_64_rows_and_rows_once_for_64_columns() {
    let mut over = String::new();
    let rows = u64::from(PREFILL.tokens);
    let products = PREFILLED.iter().flat_map(Counts::layers);
    for (title, counted) in products.filter(|(_, c)| c.kernel.starts_with("linear_")) {
        let param = |name: &str| {
            counted.params.iter().find(|p| p.name == name).expect("a parameter of every product")
        };
        let read = |name: &str| param(name).moved() as f64 / param(name).size as f64;
        let (weights, x) = (read("weight"), read("x"));
        let columns = param("out").size / param("out").dtype.size() as u64 / rows;
        let line = format!("{title}: weights read {weights:.2} times, x {x:.2} times");
        eprintln!("{line}");
        let most = |size: u64| size.div_ceil(TILE) as f64;
        if weights > most(rows) || x > most(columns) {
            over += &format!("{line}\n");
        }
        assert!(weights >= 1.0 && x >= 1.0, "all is read: {line}");
    }
    assert!(over.is_empty(), "read too often:\n{over}");
}

#[test]
fn what_a_small_model_does_is_golden() {
    let artifact = Build::SIXTEEN.artifact_for("tiny-moe", &Ptx::SM_80);
    let mut files = Files::open("counters/tiny-moe");
    // Across the edges of pages.
    let steps = [("decode", 130, 1), ("prefill", 40, 100), ("greedy", 130, 1)];
    for (entry, depth, tokens) in steps {
        check(&mut files, entry, &count(&artifact, entry, Step { depth, tokens }));
    }
    files.finish();
}

#[test]
fn what_a_decode_step_does_is_golden() {
    for Counts { name, counted, .. } in &*DECODED {
        let mut files = Files::open(&format!("counters/{name}"));
        check(&mut files, "decode", counted);
        files.finish();
    }
}

fn check(files: &mut Files, entry: &str, counted: &[Counted]) {
    files.check_by(&format!("{entry}.txt"), &ledger(counted), |old, new| {
        changes(old, new).iter().map(|change| format!("\n  {change}")).collect()
    });
}
