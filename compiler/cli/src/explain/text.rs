//! The report for people.

use super::predict::assumptions;
use super::{KernelRow, Moved, Report, ShareOf, Step};
use crate::units::{bytes, count, operations, percent, table};

/// One table of kernels for each step, and below it the totals per token and what is predicted; then
/// the launches, what kernels take of a GPU, and what predictions rest on.
pub fn text(report: &Report) -> String {
    let mut out = format!("{} for {}\n", report.model_type, report.target);
    for step in &report.steps {
        out += &format!("\n{}\n", title(step));
        out += &kernels(step);
        out += &format!("\n{}", totals(step));
        if let (Some(prediction), Some(gpu)) = (&step.prediction, report.gpu) {
            out += &format!("\n{}", prediction.text(gpu));
        }
    }
    for launches in &report.launches {
        out += &format!("\n{}", launches.text());
    }
    if let Some(code) = &report.code {
        out += &format!("\n{}", code.text());
    }
    if let Some(gpu) = report.gpu {
        out += &format!("\n{}", assumptions(gpu));
    }
    out
}

fn title(step: &Step) -> String {
    let plural =
        |n: u32, one: &str| format!("{} {one}{}", count(n.into()), if n == 1 { "" } else { "s" });
    let experts = match step.experts {
        Some(n) => format!(", {n:.1} experts a layer expected"),
        None => String::new(),
    };
    format!(
        "{} and head: {} of {}, each after {}{experts}",
        step.entry,
        plural(step.tokens, "token"),
        plural(step.sequences, "sequence"),
        plural(step.depth, "token"),
    )
}

fn kernels(step: &Step) -> String {
    let share = match step.share_of {
        ShareOf::Bytes => "of bytes",
        ShareOf::Flops => "of flops",
    };
    let columns = [
        "kernel",
        "launches",
        "weights",
        "state",
        "activations",
        "read",
        "written",
        "flops",
        share,
    ];
    let mut rows = vec![columns.map(String::from).to_vec()];
    let launches = step.kernels.iter().map(|k| k.launches).sum();
    let sum = step.kernels.iter().map(|k| k.share).sum();
    rows.extend(
        step.kernels.iter().map(|k: &KernelRow| row(&k.name, k.launches, &k.moved, k.share)),
    );
    rows.push(row("together", launches, &step.total, sum));
    table("  ", &rows)
}

fn row(name: &str, launches: u64, moved: &Moved, share: f64) -> Vec<String> {
    vec![
        name.into(),
        count(launches),
        or_dash(moved.weights, bytes),
        or_dash(moved.state(), bytes),
        or_dash(moved.activations(), bytes),
        or_dash(moved.read(), bytes),
        or_dash(moved.written(), bytes),
        or_dash(moved.flops, operations),
        percent(share),
    ]
}

fn or_dash(n: f64, text: fn(f64) -> String) -> String {
    if n == 0.0 { "-".into() } else { text(n) }
}

fn totals(step: &Step) -> String {
    let tokens = f64::from(step.tokens);
    let (moved, least) = (step.total.over(tokens), step.least.over(tokens));
    let line = |what: &str, found: f64, least: f64| {
        let times = if least > 0.0 { format!("{:.2} x", found / least) } else { "-".into() };
        vec![what.into(), bytes(found), bytes(least), times]
    };
    let head = ["per token", "moved", "least possible", ""].map(String::from).to_vec();
    let rows = [
        head,
        line("weights", moved.weights, least.weights),
        line("state, keys and values", moved.state(), least.state + least.kv),
        line("together", moved.weights + moved.state(), least.bytes()),
    ];
    let besides = format!(
        "  besides: {} of activations read and {} written per token, and {} flops\n",
        bytes(moved.activations_read),
        bytes(moved.activations_written),
        operations(moved.flops),
    );
    table("  ", &rows) + &besides
}
