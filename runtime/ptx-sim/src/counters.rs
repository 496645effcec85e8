//! What a launch did, counted.

use crate::memory::Memory;
use crate::op::Kernel;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Accesses to global memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Warp instructions.
    pub requests: u64,
    /// Distinct 32-byte sectors of each request.
    pub sectors: u64,
    /// Bytes that lanes asked for.
    pub bytes: u64,
}

impl Traffic {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.sectors += other.sectors;
        self.bytes += other.bytes;
    }
}

/// Accesses to one allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buffer {
    pub address: u64,
    pub size: u64,
    pub loads: Traffic,
    pub stores: Traffic,
    pub atomics: Traffic,
}

/// Sums over all blocks of a launch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Warp instructions with a live lane, whether or not its guard holds.
    pub instructions: u64,
    pub kinds: BTreeMap<String, u64>,
    pub global_load: Traffic,
    pub global_store: Traffic,
    /// `atom` and `red`; in neither of the two above.
    pub global_atomic: Traffic,
    pub shared_requests: u64,
    /// Passes beyond the first of each access; 8- and 16-byte ones are two and four accesses, of a half and a quarter
    /// of the warp.
    pub shared_conflicts: u64,
    /// Barriers that a block passed, once for all its threads.
    pub barriers: u64,
    pub flops: u64,
    pub tensor_flops: u64,
    /// Allocations that were touched, by address.
    pub buffers: Vec<Buffer>,
}

impl Counters {
    /// Adds another launch; its buffers must be of the same memory.
    pub fn add(&mut self, other: &Self) {
        self.instructions += other.instructions;
        for (kind, count) in &other.kinds {
            *self.kinds.entry(kind.clone()).or_default() += count;
        }
        self.global_load.add(other.global_load);
        self.global_store.add(other.global_store);
        self.global_atomic.add(other.global_atomic);
        self.shared_requests += other.shared_requests;
        self.shared_conflicts += other.shared_conflicts;
        self.barriers += other.barriers;
        self.flops += other.flops;
        self.tensor_flops += other.tensor_flops;
        for buffer in &other.buffers {
            match self.buffers.binary_search_by_key(&buffer.address, |b| b.address) {
                Ok(at) => {
                    self.buffers[at].loads.add(buffer.loads);
                    self.buffers[at].stores.add(buffer.stores);
                    self.buffers[at].atomics.add(buffer.atomics);
                }
                Err(at) => self.buffers.insert(at, buffer.clone()),
            }
        }
    }

    /// One object: `instructions`, `global_load_requests` and so on, `buffers` a list of objects.
    pub fn to_json(&self) -> Value {
        let kinds: Map<String, Value> =
            self.kinds.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        let mut out = Map::new();
        out.insert("instructions".into(), json!(self.instructions));
        out.insert("instructions_by_kind".into(), kinds.into());
        let three = [
            ("global_load", self.global_load),
            ("global_store", self.global_store),
            ("global_atomic", self.global_atomic),
        ];
        for (name, traffic) in three {
            out.insert(format!("{name}_requests"), json!(traffic.requests));
            out.insert(format!("{name}_sectors"), json!(traffic.sectors));
            out.insert(format!("{name}_bytes"), json!(traffic.bytes));
        }
        out.insert("shared_requests".into(), json!(self.shared_requests));
        out.insert("shared_conflicts".into(), json!(self.shared_conflicts));
        out.insert("barriers".into(), json!(self.barriers));
        out.insert("flops".into(), json!(self.flops));
        out.insert("tensor_flops".into(), json!(self.tensor_flops));
        let buffers: Vec<Value> = self.buffers.iter().map(Buffer::to_json).collect();
        out.insert("buffers".into(), buffers.into());
        out.into()
    }
}

impl Buffer {
    pub fn to_json(&self) -> Value {
        let mut all = self.loads;
        all.add(self.stores);
        all.add(self.atomics);
        let part =
            |t: Traffic| json!({ "requests": t.requests, "sectors": t.sectors, "bytes": t.bytes });
        json!({
            "address": self.address,
            "size": self.size,
            "requests": all.requests,
            "sectors": all.sectors,
            "bytes": all.bytes,
            "loads": part(self.loads),
            "stores": part(self.stores),
            "atomics": part(self.atomics),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Load,
    Store,
    Atomic,
}

/// What one host thread counts, by place in the code and in the memory.
pub(crate) struct Tally {
    pub executed: Vec<u64>,
    /// Lanes that did arithmetic on floats.
    pub lanes: Vec<u64>,
    pub global: [Traffic; 3],
    pub buffers: Vec<[Traffic; 3]>,
    pub shared_requests: u64,
    pub shared_conflicts: u64,
    pub barriers: u64,
}

impl Tally {
    pub fn new(code: usize, allocations: usize) -> Self {
        Self {
            executed: vec![0; code],
            lanes: vec![0; code],
            global: [Traffic::default(); 3],
            buffers: vec![[Traffic::default(); 3]; allocations],
            shared_requests: 0,
            shared_conflicts: 0,
            barriers: 0,
        }
    }

    pub fn merge(&mut self, other: &Self) {
        let add = |to: &mut [u64], from: &[u64]| to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
        add(&mut self.executed, &other.executed);
        add(&mut self.lanes, &other.lanes);
        self.global.iter_mut().zip(other.global).for_each(|(t, f)| t.add(f));
        for (to, from) in self.buffers.iter_mut().zip(&other.buffers) {
            to.iter_mut().zip(from).for_each(|(t, f)| t.add(*f));
        }
        self.shared_requests += other.shared_requests;
        self.shared_conflicts += other.shared_conflicts;
        self.barriers += other.barriers;
    }

    pub fn counters(&self, kernel: &Kernel, memory: &Memory) -> Counters {
        let mut out = Counters {
            global_load: self.global[Way::Load as usize],
            global_store: self.global[Way::Store as usize],
            global_atomic: self.global[Way::Atomic as usize],
            shared_requests: self.shared_requests,
            shared_conflicts: self.shared_conflicts,
            barriers: self.barriers,
            ..Counters::default()
        };
        let mut kinds = vec![0; kernel.kinds.len()];
        for ((code, executed), lanes) in kernel.code.iter().zip(&self.executed).zip(&self.lanes) {
            out.instructions += executed;
            kinds[usize::from(code.kind)] += executed;
            out.flops += lanes * u64::from(code.flops);
            out.tensor_flops += executed * u64::from(code.tensor_flops);
        }
        let counted = kernel.kinds.iter().zip(kinds).filter(|(_, count)| *count > 0);
        out.kinds = counted.map(|(kind, count)| (kind.clone(), count)).collect();
        for (allocation, [loads, stores, atomics]) in memory.allocations().iter().zip(&self.buffers)
        {
            let buffer = Buffer {
                address: allocation.base,
                size: allocation.bytes,
                loads: *loads,
                stores: *stores,
                atomics: *atomics,
            };
            if loads.requests + stores.requests + atomics.requests > 0 {
                out.buffers.push(buffer);
            }
        }
        out
    }
}
