//! Predictions for people and for programs.

use super::{BANDWIDTH_SHARE, Bound, FLOPS_SHARE, MANNERS, Prediction, Timed};
use crate::explain::gpus::{Gpu, dotted};
use crate::units::{bytes, count, microseconds, operations, percent, rate, table};
use serde_json::{Value, json};

impl Prediction {
    /// Below the title of the step.
    pub fn text(&self, gpu: Gpu) -> String {
        let mut out = format!("  prediction for {}\n", gpu.name);
        out += &table("    ", &self.launches());
        out += &format!(
            "    {} nodes, of which {} wait for one another; {} us without waiting\n",
            count(self.nodes),
            count(self.chain),
            microseconds(self.busy),
        );
        out + &table("    ", &self.manners())
    }

    fn launches(&self) -> Vec<Vec<String>> {
        let columns = [
            "kernel",
            "launches",
            "tasks",
            "from memory",
            "again",
            "flops",
            "bound by",
            "us each",
            "us",
        ];
        let mut rows = vec![columns.map(String::from).to_vec()];
        rows.extend(self.launches.iter().map(Timed::row));
        rows
    }

    fn manners(&self) -> Vec<Vec<String>> {
        let columns = ["launches as", "us a wait", "us a step", "tokens/s", "of the floor"];
        let mut rows = vec![columns.map(String::from).to_vec()];
        let row = |name: &str, wait: Option<f64>, seconds: f64| {
            vec![
                name.into(),
                wait.map_or("-".into(), microseconds),
                microseconds(seconds),
                rate(self.tokens_per_second(seconds)),
                percent(self.floor / seconds),
            ]
        };
        for manner in MANNERS {
            rows.push(row(manner.name, Some(manner.wait), self.seconds(manner)));
        }
        rows.push(row("roofline of the data sheet", None, self.roofline));
        rows.push(row("floor: least bytes at its bandwidth", None, self.floor));
        rows
    }

    pub fn json(&self) -> Value {
        let way = |name: &str, wait: Option<f64>, seconds: f64| {
            json!({
                "name": name,
                "seconds_per_wait": wait,
                "seconds": seconds,
                "tokens_per_second": self.tokens_per_second(seconds),
                "share_of_floor": self.floor / seconds,
            })
        };
        let ways = MANNERS.map(|m| way(m.name, Some(m.wait), self.seconds(m)));
        json!({
            "launches": self.launches.iter().map(Timed::json).collect::<Vec<_>>(),
            "nodes": self.nodes,
            "nodes_that_wait": self.chain,
            "busy_seconds": self.busy,
            "manners": ways,
            "roofline": way("roofline", None, self.roofline),
            "floor": way("floor", None, self.floor),
        })
    }
}

impl Timed {
    fn row(&self) -> Vec<String> {
        let bound = match self.bound {
            Bound::Bytes => "bytes",
            Bound::Flops if self.work.matrix => "matrix flops",
            Bound::Flops => "flops",
        };
        vec![
            self.kernel.clone(),
            count(self.launches),
            count(self.work.tasks.round() as u64),
            bytes(self.work.bytes),
            bytes(self.again),
            operations(self.work.flops),
            bound.into(),
            microseconds(self.seconds),
            microseconds(self.launches as f64 * self.seconds),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "kernel": self.kernel,
            "launches": self.launches,
            "tasks": self.work.tasks,
            "bytes": self.work.bytes,
            "bytes_again": self.again,
            "flops": self.work.flops,
            "matrix_units": self.work.matrix,
            "bound_by": match self.bound { Bound::Bytes => "bytes", Bound::Flops => "flops" },
            "seconds": self.seconds,
        })
    }
}

/// What predictions take for granted, once for all of a report.
pub fn assumptions(gpu: Gpu) -> String {
    let mut out = format!(
        "predicted for {}, not measured: compute capability {}, {} SMs, {} GB/s, {} TFLOPS with matrix units, {} without
  from: {}
  a launch takes the longer of its bytes at {} of this bandwidth and its flops at {} of this peak;
    with fewer tasks than SMs it gets only their share; room on an SM, latency and rounds of tasks are left out
  from memory: of each argument no more than it holds; again: what tasks read once more, from the L2 cache, at no cost
  experts: as many as equally likely choices would hit; what the host does between steps is left out
  a step adds, for each launch of the longest chain that wait for one another,
",
        gpu.name,
        dotted(gpu.capability),
        gpu.sms,
        gpu.bandwidth / 1e9,
        gpu.matrix_flops / 1e12,
        gpu.flops / 1e12,
        gpu.source,
        share(BANDWIDTH_SHARE),
        share(FLOPS_SHARE),
    );
    for manner in MANNERS {
        let wait = microseconds(manner.wait);
        out += &format!("    {wait} us as {}: {}\n", manner.name, manner.why);
    }
    out
}

pub fn assumptions_json(gpu: Gpu) -> Value {
    json!({
        "name": gpu.name,
        "compute_capability": dotted(gpu.capability),
        "sms": gpu.sms,
        "bytes_per_second": gpu.bandwidth,
        "matrix_flops_per_second": gpu.matrix_flops,
        "flops_per_second": gpu.flops,
        "source": gpu.source,
        "assumed": {
            "share_of_bandwidth": BANDWIDTH_SHARE,
            "share_of_flops": FLOPS_SHARE,
            "share_of_tasks": "min(1, tasks / sms)",
            "bytes_again": "from the L2 cache, at no cost",
        },
    })
}

fn share(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}
