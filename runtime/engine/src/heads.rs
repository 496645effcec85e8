//! The end of a step: from hidden rows on the device to what the host keeps of their logits.
//!
//! All logits of a row, the few likeliest tokens, or the likeliest alone: the less is wanted, the less
//! comes home. Where a device has no entry for less, more is taken, and nobody need know.

use crate::EngineError;
use crate::bind::Memory;
use crate::sampling::{Ranked, Take, Taken};
use crate::step::Words;
use q35_artifact::Plan;
use q35_device::{Device, DeviceError, EntryId, Span};
use q35_types::{Count, StepLayout};

/// The recorded entry points that end a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadEntries {
    pub logits: EntryId,
    pub likeliest: Option<EntryId>,
    pub candidates: Option<EntryId>,
}

/// A token whose logits are wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    /// As counted in the step.
    pub token: u32,
    pub input: u32,
    pub position: u32,
    pub slot: u32,
}

/// Takes logits: number of the input, position in the sequence, one row.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(usize, u32, &[f32]);

/// What is known of the last token of each slot's sequence.
pub(crate) struct Heads {
    entries: HeadEntries,
    step: StepLayout,
    vocab: usize,
    /// Of a row, at most.
    candidates: usize,
    known: Vec<Known>,
    /// `vocab` for each slot.
    logits: Vec<f32>,
    /// `candidates` for each slot.
    ranked: Vec<Ranked>,
}

#[derive(Debug, Clone, Copy)]
enum Known {
    Nothing,
    Likeliest(Option<u32>),
    /// So many of the slot's.
    Candidates(usize),
    Logits,
}

impl Heads {
    pub fn new(plan: &Plan, entries: HeadEntries, slots: u32) -> Self {
        let (slots, vocab, candidates) =
            (slots as usize, plan.vocab as usize, plan.candidates() as usize);
        Self {
            entries,
            step: plan.step,
            vocab,
            candidates,
            known: vec![Known::Nothing; slots],
            logits: vec![0.0; slots * vocab],
            ranked: vec![Ranked::default(); slots * candidates],
        }
    }

    /// A sequence begins.
    pub fn forget(&mut self, slot: u32) {
        self.known[slot as usize] = Known::Nothing;
    }

    pub fn latest(&self, slot: u32) -> Option<Taken<'_>> {
        let slot = slot as usize;
        match self.known[slot] {
            Known::Nothing => None,
            Known::Likeliest(id) => Some(Taken::Likeliest(id)),
            Known::Candidates(n) => {
                Some(Taken::Candidates(&self.ranked[slot * self.candidates..][..n]))
            }
            Known::Logits => Some(Taken::Logits(&self.logits[slot * self.vocab..][..self.vocab])),
        }
    }

    /// Compute for `rows` what is wanted or more, and keep it as their sequence's latest; `sink`
    /// is shown logits.
    pub fn run(
        &mut self,
        device: &mut dyn Device,
        memory: &Memory,
        rows: &[Row],
        take: Take,
        sink: Sink<'_>,
    ) -> Result<(), EngineError> {
        let HeadEntries { logits, likeliest, candidates } = self.entries;
        for rows in rows.chunks(self.step.max_seqs as usize) {
            self.ask(device, memory, rows)?;
            match (take, likeliest, candidates) {
                (Take::Likeliest, Some(entry), _) => {
                    device.run(entry)?;
                    self.take_likeliest(device, memory, rows)?;
                }
                (Take::Likeliest | Take::Candidates, _, Some(entry)) => {
                    device.run(entry)?;
                    self.take_candidates(device, memory, rows)?;
                }
                _ => {
                    device.run(logits)?;
                    self.take_logits(device, memory, rows, sink)?;
                }
            }
        }
        Ok(())
    }

    /// Say which rows are wanted.
    fn ask(
        &self,
        device: &mut dyn Device,
        memory: &Memory,
        rows: &[Row],
    ) -> Result<(), DeviceError> {
        let count = memory.step.part(u64::from(Count::Rows.word()) * 4, 4);
        device.fill(count, &mut |bytes| Words(bytes).put(0, rows.len() as i32))?;
        let list = memory.step.part(u64::from(self.step.rows()) * 4, rows.len() as u64 * 4);
        device.fill(list, &mut |bytes| {
            let mut words = Words(bytes);
            rows.iter().zip(0..).for_each(|(row, at)| words.put(at, row.token as i32));
        })
    }

    fn take_likeliest(
        &mut self,
        device: &mut dyn Device,
        memory: &Memory,
        rows: &[Row],
    ) -> Result<(), DeviceError> {
        let span = memory.likeliest.expect("a checked plan has the results of its entries");
        device.read(first(span, rows.len()), &mut |bytes| {
            for (row, id) in rows.iter().zip(words(bytes)) {
                let id = u32::try_from(i32::from_le_bytes(id)).ok();
                self.known[row.slot as usize] = Known::Likeliest(id);
            }
        })
    }

    fn take_candidates(
        &mut self,
        device: &mut dyn Device,
        memory: &Memory,
        rows: &[Row],
    ) -> Result<(), DeviceError> {
        let [ids, logits] =
            memory.candidates.expect("a checked plan has the results of its entries");
        let k = self.candidates;
        device.read(first(ids, rows.len() * k), &mut |bytes| {
            for (row, ids) in rows.iter().zip(bytes.chunks_exact(k * 4)) {
                let slot = row.slot as usize;
                let ids = words(ids).map_while(|id| u32::try_from(i32::from_le_bytes(id)).ok());
                let mut found = 0;
                for (ranked, id) in self.ranked[slot * k..][..k].iter_mut().zip(ids) {
                    ranked.id = id;
                    found += 1;
                }
                self.known[slot] = Known::Candidates(found);
            }
        })?;
        device.read(first(logits, rows.len() * k), &mut |bytes| {
            for (row, logits) in rows.iter().zip(bytes.chunks_exact(k * 4)) {
                let ranked = &mut self.ranked[row.slot as usize * k..][..k];
                for (ranked, logit) in ranked.iter_mut().zip(words(logits)) {
                    ranked.logit = f32::from_le_bytes(logit);
                }
            }
        })
    }

    fn take_logits(
        &mut self,
        device: &mut dyn Device,
        memory: &Memory,
        rows: &[Row],
        sink: Sink<'_>,
    ) -> Result<(), DeviceError> {
        let vocab = self.vocab;
        device.read(first(memory.logits, rows.len() * vocab), &mut |bytes| {
            for (bytes, at) in bytes.chunks_exact(vocab * 4).zip(rows) {
                let slot = at.slot as usize;
                let row = &mut self.logits[slot * vocab..][..vocab];
                for (logit, bytes) in row.iter_mut().zip(words(bytes)) {
                    *logit = f32::from_le_bytes(bytes);
                }
                self.known[slot] = Known::Logits;
                sink(at.input as usize, at.position, row);
            }
        })
    }
}

/// The first words of a result.
fn first(span: Span, words: usize) -> Span {
    span.part(0, words as u64 * 4)
}

fn words(bytes: &[u8]) -> impl Iterator<Item = [u8; 4]> {
    bytes.chunks_exact(4).map(|word| word.try_into().expect("four bytes"))
}
