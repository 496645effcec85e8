//! What was measured, for people and for programs.

use super::stats::Stats;
use super::work::{Case, Phase, Timed, Work};
use crate::units;
use q35_artifact::ModelFacts;
use q35_device::DeviceInfo;
use q35_device::cpu::measure::Peaks;
use q35_runtime::MemoryUse;
use serde_json::{Value, json};

pub struct Report<'a> {
    pub model: &'a ModelFacts,
    pub device: &'a DeviceInfo,
    pub memory: MemoryUse,
    /// Bytes of the process at its largest, without what measuring the machine took.
    pub peak_memory: Option<u64>,
    /// None for devices that nothing measures.
    pub peaks: Option<Peaks>,
    pub runs: u32,
    pub results: Vec<Row>,
}

/// One phase of one case.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    case: Case,
    phase: Phase,
    tokens: u64,
    tokens_per_second: Stats,
    /// Of a run.
    work: Work,
    /// Of the run in the middle.
    seconds: f64,
}

impl Row {
    /// None of no runs.
    pub fn new(case: Case, phase: Phase, runs: &[Timed]) -> Option<Self> {
        let tokens_per_second = Stats::of(runs.iter().map(Timed::tokens_per_second))?;
        // All runs do the same work.
        let Timed { tokens, work, .. } = runs[0];
        let seconds = tokens as f64 / tokens_per_second.median;
        Some(Self { case, phase, tokens, tokens_per_second, work, seconds })
    }

    fn bytes_per_second(&self) -> f64 {
        self.work.bytes / self.seconds
    }

    fn flops_per_second(&self) -> f64 {
        self.work.flops / self.seconds
    }

    /// Of the measured bandwidth and of the peak of arithmetic.
    fn shares(&self, peaks: Peaks) -> (f64, f64) {
        (self.bytes_per_second() / peaks.bandwidth, self.flops_per_second() / peaks.flops)
    }
}

impl Report<'_> {
    /// A table, and lines about limits and memory.
    pub fn text(&self) -> String {
        let head = [
            "phase",
            "batch",
            "depth",
            "context",
            "tokens",
            "tokens/s",
            "spread",
            "GB/s",
            "of bandwidth",
            "GFLOP/s",
            "of peak",
        ];
        let mut rows = vec![head.map(String::from).to_vec()];
        rows.extend(self.results.iter().map(|row| self.cells(row)));
        let mut text = format!("{}\n\n{}\n", self.device, units::table(&rows));
        text += &format!(
            "tokens/s: median of {} runs, all sequences together; spread: from least to most, as a share of it\n",
            self.runs
        );
        text += "GB/s: weights and sequence state, as the plan counts them; context: tokens of a sequence when the phase begins\n";
        if let Some(Peaks { bandwidth, flops }) = self.peaks {
            text += &format!(
                "limits measured with {} threads: {}B/s of memory read, {}FLOP/s in float32\n",
                self.device.units,
                units::decimal(bandwidth),
                units::decimal(flops)
            );
        }
        text += &format!("memory: {}", self.memory);
        if let Some(peak) = self.peak_memory {
            text += &format!("; process at most {}, mapped pages included", units::bytes(peak));
        }
        text + "\n"
    }

    /// Keys are stable: other programs read them. Shares are null where no limit was measured.
    pub fn json(&self) -> Value {
        let ModelFacts { model_type, parameters, .. } = self.model;
        let MemoryUse { weights_packed, weights_mapped, slots, pages, step } = self.memory;
        json!({
            "model": {
                "model_type": model_type,
                "layers": self.model.layers.len(),
                "parameters": parameters.text,
                "active_parameters": parameters.active,
            },
            "device": {
                "id": self.device.id,
                "name": self.device.name,
                "threads": self.device.units,
                "features": self.device.features,
            },
            "limits": {
                "bytes_per_second": self.peaks.map(|p| p.bandwidth),
                "flops_per_second": self.peaks.map(|p| p.flops),
            },
            "memory": {
                "weights_packed": weights_packed,
                "weights_mapped": weights_mapped,
                "state": slots,
                "kv_cache": pages,
                "step": step,
                "process_peak": self.peak_memory,
            },
            "runs": self.runs,
            "results": self.results.iter().map(|row| self.result(row)).collect::<Vec<_>>(),
        })
    }

    fn cells(&self, row: &Row) -> Vec<String> {
        let shares = self.peaks.map(|peaks| row.shares(peaks));
        let share = |share: Option<f64>| share.map_or("-".into(), units::percent);
        vec![
            row.phase.to_string(),
            row.case.batch.to_string(),
            row.case.depth.to_string(),
            row.case.context_of(row.phase).to_string(),
            row.tokens.to_string(),
            units::digits(row.tokens_per_second.median),
            units::percent(row.tokens_per_second.spread()),
            units::digits(row.bytes_per_second() / 1e9),
            share(shares.map(|s| s.0)),
            units::digits(row.flops_per_second() / 1e9),
            share(shares.map(|s| s.1)),
        ]
    }

    fn result(&self, row: &Row) -> Value {
        let Stats { median, least, most } = row.tokens_per_second;
        let shares = self.peaks.map(|peaks| row.shares(peaks));
        json!({
            "phase": row.phase.to_string(),
            "batch": row.case.batch,
            "depth": row.case.depth,
            "context": row.case.context_of(row.phase),
            "tokens": row.tokens,
            "tokens_per_second": { "median": median, "min": least, "max": most },
            "bytes": row.work.bytes,
            "flops": row.work.flops,
            "bytes_per_second": row.bytes_per_second(),
            "flops_per_second": row.flops_per_second(),
            "share_of_bandwidth": shares.map(|s| s.0),
            "share_of_flops": shares.map(|s| s.1),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CASE: Case = Case { batch: 2, depth: 100, prompt: 10, generated: 4 };

    fn row() -> Row {
        let run = |seconds| Timed { tokens: 8, seconds, work: Work { bytes: 4e9, flops: 6e9 } };
        Row::new(CASE, Phase::Decode, &[run(4.0), run(2.0), run(1.0)]).unwrap()
    }

    #[test]
    fn shares_are_those_of_the_run_in_the_middle() {
        let row = row();
        assert_eq!(row.tokens_per_second, Stats { median: 4.0, least: 2.0, most: 8.0 });
        let peaks = Peaks { bandwidth: 8e9, flops: 30e9 };
        assert_eq!(row.shares(peaks), (0.25, 0.1));
    }

    #[test]
    fn a_phase_that_was_not_run_has_no_row() {
        assert_eq!(Row::new(CASE, Phase::Prefill, &[]), None);
    }

    #[test]
    fn decode_begins_behind_the_prompt() {
        assert_eq!([Phase::Prefill, Phase::Decode].map(|p| CASE.context_of(p)), [100, 110]);
    }
}
