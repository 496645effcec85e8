//! A loaded model: sequences, the tokens they are fed, and their logits.
//!
//! This is the plain interface, with no sampling, no text and no schedule: what to put into a step
//! is the caller's choice. [`Engine`](crate::Engine) is built on it.

use crate::EngineError;
use crate::bind::Memory;
use crate::heads::{HeadEntries, Heads, Row, Sink};
use crate::load::MemoryUse;
use crate::sampling::{Take, Taken};
use crate::state::{SeqId, Sequences};
use crate::step::{Run, StepWriter, cut};
use q35_artifact::Plan;
use q35_device::{Device, DeviceInfo, EntryId};
use q35_types::StepLayout;
use q35_types::step::PAGE;

/// A model, loaded and ready to run.
///
/// Its steps allocate no memory. To the bit, a sequence's logits do not depend on what other
/// sequences are in its steps, on the slots and pages it happens to get, or on where its prompt is
/// cut, as long as that is at multiples of 64 tokens.
pub struct Model {
    device: Box<dyn Device>,
    facts: Facts,
    entries: Entries,
    memory: Memory,
    memory_use: MemoryUse,
    sequences: Sequences,
    heads: Heads,
    valid_ids: u32,
    /// Of the step at hand: what it takes of each input, and the rows that are to be heads.
    taken: Vec<u32>,
    rows: Vec<Row>,
}

/// The plan's sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    pub step: StepLayout,
    /// Logits of a row, those of ids without a token included.
    pub vocab: u32,
    /// Tokens of the longest sequence.
    pub max_context: u32,
    /// Tokens of a prefill step, all sequences together.
    pub max_chunk: u32,
    /// Sequences at a time.
    pub max_batch: u32,
    /// Tokens of a decode step.
    max_decode: u32,
    /// Likeliest tokens of a row that [`Take::Candidates`] gives; 0 if this device gives all logits.
    pub candidates: u32,
}

/// The recorded entry points.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entries {
    pub prefill: EntryId,
    pub decode: EntryId,
    pub head: HeadEntries,
}

/// Of which tokens a step computes logits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Of the last token of each input that ends in the step.
    Last,
    All,
}

impl Model {
    pub(crate) fn new(
        device: Box<dyn Device>,
        plan: &Plan,
        entries: Entries,
        memory: Memory,
        memory_use: MemoryUse,
        sequences: Sequences,
    ) -> Self {
        let facts = Facts::of(plan);
        let slots = sequences.pools().slots;
        Self {
            device,
            facts,
            entries,
            memory,
            memory_use,
            heads: Heads::new(plan, entries.head, slots),
            sequences,
            valid_ids: facts.vocab,
            taken: Vec::with_capacity(slots as usize),
            rows: Vec::with_capacity(facts.step.max_tokens as usize),
        }
    }

    pub fn facts(&self) -> Facts {
        self.facts
    }

    /// What the device has to say though it works: a cache that had to be rebuilt, say.
    pub fn warnings(&self) -> &[String] {
        self.device.warnings()
    }

    pub fn device(&self) -> &DeviceInfo {
        self.device.info()
    }

    /// Where its memory went.
    pub fn memory_use(&self) -> MemoryUse {
        self.memory_use
    }

    /// Tokens that all sequences together have room for, in whole pages.
    pub fn kv_tokens(&self) -> u64 {
        u64::from(self.pages()) * u64::from(PAGE)
    }

    /// Pages of 64 tokens that there are for all sequences together.
    pub fn pages(&self) -> u32 {
        self.sequences.pools().pages
    }

    /// Pages of 64 tokens that no sequence has.
    pub fn free_pages(&self) -> u32 {
        self.sequences.free_pages()
    }

    /// Ids from here on have no token (`Tokenizer::valid_ids`). Steps are told; logits are not
    /// changed by it.
    pub fn set_valid_ids(&mut self, ids: u32) {
        self.valid_ids = ids.min(self.facts.vocab);
    }

    /// Start an empty sequence.
    ///
    /// # Errors
    ///
    /// [`EngineError::NoFreeSlot`] if there are as many as the artifact was compiled for.
    pub fn start(&mut self) -> Result<SeqId, EngineError> {
        let id = self.sequences.start()?;
        self.heads.forget(id.slot());
        Ok(id)
    }

    /// End a sequence; others may use its slot and pages.
    ///
    /// # Errors
    ///
    /// [`EngineError::UnknownSequence`].
    pub fn finish(&mut self, sequence: SeqId) -> Result<(), EngineError> {
        self.sequences.finish(sequence)
    }

    /// Tokens that a sequence has been fed.
    ///
    /// # Errors
    ///
    /// [`EngineError::UnknownSequence`].
    pub fn length(&self, sequence: SeqId) -> Result<u32, EngineError> {
        self.sequences.length(sequence)
    }

    /// Promise a sequence room for so many more tokens, so that it cannot run out of pages.
    ///
    /// # Errors
    ///
    /// [`EngineError::TooLong`], [`EngineError::KvPagesExhausted`].
    pub fn reserve(&mut self, sequence: SeqId, tokens: usize) -> Result<(), EngineError> {
        self.sequences.make_room([(sequence, tokens)].into_iter())
    }

    /// Feed tokens to sequences, through as many prefill steps as it takes. Afterwards each has
    /// the [`logits`](Self::logits) of its last token.
    ///
    /// # Errors
    ///
    /// A sequence is unknown or named twice, has no tokens, an id out of range, too many tokens
    /// or no room for them: then nothing was fed.
    pub fn feed(&mut self, inputs: &[(SeqId, &[u32])]) -> Result<(), EngineError> {
        self.admit(inputs.iter().copied())?;
        self.feed_all(inputs, Wanted::Last, &mut |_, _, _| ())
    }

    /// As [`feed_step_for`](Self::feed_step_for), for all logits.
    ///
    /// # Errors
    ///
    /// As [`feed`](Self::feed).
    pub fn feed_step(&mut self, inputs: &[(SeqId, &[u32])]) -> Result<&[u32], EngineError> {
        self.feed_step_for(inputs, Take::Logits)
    }

    /// Feed in one prefill step as much as fits of the tokens, in order of the inputs; returns how
    /// many were taken of each. The rest is for the next step. Room is made for all. Those that
    /// have no rest have what is to be taken, or more, as their [`latest`](Self::latest).
    ///
    /// # Errors
    ///
    /// As [`feed`](Self::feed).
    pub fn feed_step_for(
        &mut self,
        inputs: &[(SeqId, &[u32])],
        take: Take,
    ) -> Result<&[u32], EngineError> {
        self.admit(inputs.iter().copied())?;
        self.taken.clear();
        self.taken.resize(inputs.len(), 0);
        self.prefill(inputs, None, (Wanted::Last, take), &mut |_, _, _| ())?;
        Ok(&self.taken)
    }

    /// Feed one token to each of several sequences, in one decode step. Afterwards each has the
    /// [`logits`](Self::logits) of its token.
    ///
    /// # Errors
    ///
    /// As [`feed`](Self::feed).
    pub fn decode(&mut self, inputs: &[(SeqId, u32)]) -> Result<(), EngineError> {
        self.decode_for(inputs, Take::Logits)
    }

    /// As [`decode`](Self::decode), but afterwards each has what is to be taken, or more, as its
    /// [`latest`](Self::latest).
    ///
    /// # Errors
    ///
    /// As [`feed`](Self::feed).
    pub fn decode_for(&mut self, inputs: &[(SeqId, u32)], take: Take) -> Result<(), EngineError> {
        self.admit(inputs.iter().map(one_token))?;
        let most = self.facts.max_decode.min(self.facts.max_batch) as usize;
        for inputs in inputs.chunks(most) {
            self.write_step(inputs.iter().map(one_token))?;
            self.device.run(self.entries.decode)?;
            self.rows.clear();
            for ((id, _), n) in inputs.iter().zip(0..) {
                let position = self.sequences.length(*id)?;
                self.rows.push(Row { token: n, input: n, position, slot: id.slot() });
                self.sequences.advance(*id, 1);
            }
            self.heads(take, &mut |_, _, _| ())?;
        }
        Ok(())
    }

    /// Feed prompts to fresh sequences side by side, and hand the logits of every position to
    /// `sink`: number of the prompt, position, row. With `chunk`, each gets so many tokens at a
    /// time, through prefill, or through decode if it is 1; otherwise as many as a step holds.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start) and [`feed`](Self::feed).
    pub fn all_logits(
        &mut self,
        prompts: &[&[u32]],
        chunk: Option<usize>,
        mut sink: impl FnMut(usize, u32, &[f32]),
    ) -> Result<(), EngineError> {
        let mut ids = Vec::new();
        let done = self.all_logits_of(prompts, chunk.unwrap_or(usize::MAX), &mut ids, &mut sink);
        for id in ids {
            self.sequences.finish(id)?;
        }
        done
    }

    /// The logits of the last token that a sequence was fed: one for each id of the vocabulary,
    /// padding included.
    ///
    /// # Errors
    ///
    /// [`EngineError::NoLogits`] before the first token, and after steps of which less was taken;
    /// [`EngineError::UnknownSequence`].
    pub fn logits(&self, sequence: SeqId) -> Result<&[f32], EngineError> {
        match self.latest(sequence)? {
            Taken::Logits(logits) => Ok(logits),
            Taken::Likeliest(_) | Taken::Candidates(_) => Err(EngineError::NoLogits),
        }
    }

    /// What there is of the logits of the last token that a sequence was fed: what was wanted of its
    /// step, or more.
    ///
    /// # Errors
    ///
    /// [`EngineError::NoLogits`] before the first token, [`EngineError::UnknownSequence`].
    pub fn latest(&self, sequence: SeqId) -> Result<Taken<'_>, EngineError> {
        self.sequences.length(sequence)?;
        self.heads.latest(sequence.slot()).ok_or(EngineError::NoLogits)
    }

    fn all_logits_of(
        &mut self,
        prompts: &[&[u32]],
        chunk: usize,
        ids: &mut Vec<SeqId>,
        sink: Sink<'_>,
    ) -> Result<(), EngineError> {
        for _ in prompts {
            ids.push(self.start()?);
        }
        self.admit(ids.iter().copied().zip(prompts.iter().copied()))?;
        let mut fed = 0;
        loop {
            // With their numbers: prompts that end early leave gaps.
            let rest: Vec<(usize, SeqId, &[u32])> = prompts
                .iter()
                .enumerate()
                .filter(|(_, prompt)| fed < prompt.len())
                .map(|(n, prompt)| (n, ids[n], &prompt[fed..]))
                .map(|(n, id, rest)| (n, id, &rest[..rest.len().min(chunk)]))
                .collect();
            if rest.is_empty() {
                return Ok(());
            }
            let mut sink = |n: usize, position: u32, row: &[f32]| sink(rest[n].0, position, row);
            if chunk == 1 {
                let inputs: Vec<_> = rest.iter().map(|r| (r.1, r.2[0])).collect();
                self.decode(&inputs)?;
                for (n, (id, _)) in inputs.iter().enumerate() {
                    sink(n, fed as u32, self.logits(*id)?);
                }
            } else {
                let inputs: Vec<_> = rest.iter().map(|r| (r.1, r.2)).collect();
                self.feed_all(&inputs, Wanted::All, &mut sink)?;
            }
            fed = fed.saturating_add(chunk);
        }
    }

    /// Check what is to be fed, and make room for it.
    fn admit<'t>(
        &mut self,
        inputs: impl Iterator<Item = (SeqId, &'t [u32])> + Clone,
    ) -> Result<(), EngineError> {
        let vocab = self.facts.vocab;
        for (n, (id, tokens)) in inputs.clone().enumerate() {
            if tokens.is_empty() {
                return Err(EngineError::EmptyPrompt);
            }
            if let Some(&id) = tokens.iter().find(|&&id| id >= vocab) {
                return Err(EngineError::TokenOutOfRange { id, vocab });
            }
            if inputs.clone().take(n).any(|(other, _)| other == id) {
                return Err(EngineError::RepeatedSequence);
            }
        }
        self.sequences.make_room(inputs.map(|(id, tokens)| (id, tokens.len())))
    }

    /// Prefill steps until nothing of the admitted inputs is left.
    fn feed_all(
        &mut self,
        inputs: &[(SeqId, &[u32])],
        wanted: Wanted,
        sink: Sink<'_>,
    ) -> Result<(), EngineError> {
        let mut fed = vec![0; inputs.len()];
        while fed.iter().zip(inputs).any(|(&fed, (_, tokens))| fed < tokens.len()) {
            self.taken.clear();
            self.taken.resize(inputs.len(), 0);
            self.prefill(inputs, Some(&fed), (wanted, Take::Logits), sink)?;
            for (fed, &taken) in fed.iter_mut().zip(&self.taken) {
                *fed += taken as usize;
            }
        }
        Ok(())
    }

    /// One prefill step: what fits of each input behind the tokens already `fed`. `taken` says how
    /// many.
    fn prefill(
        &mut self,
        inputs: &[(SeqId, &[u32])],
        fed: Option<&[usize]>,
        (wanted, take): (Wanted, Take),
        sink: Sink<'_>,
    ) -> Result<(), EngineError> {
        let rest = |n: usize| &inputs[n].1[fed.map_or(0, |fed| fed[n])..];
        self.rows.clear();
        let (mut token, mut seqs) = (0, 0);
        for (n, &(id, _)) in inputs.iter().enumerate() {
            if seqs == self.facts.max_batch {
                break;
            }
            let position = self.sequences.length(id)?;
            let taken = cut(position, rest(n).len(), self.facts.max_chunk - token);
            self.taken[n] = taken;
            seqs += u32::from(taken > 0);
            let first = match wanted {
                Wanted::All => 0,
                Wanted::Last if taken as usize == rest(n).len() => taken.saturating_sub(1),
                Wanted::Last => taken,
            };
            self.rows.extend((first..taken).map(|at| Row {
                token: token + at,
                input: n as u32,
                position: position + at,
                slot: id.slot(),
            }));
            token += taken;
        }
        let taken = std::mem::take(&mut self.taken);
        let runs = inputs.iter().enumerate().zip(&taken);
        let runs = runs.filter(|(_, taken)| **taken > 0);
        let written = self.write_step(
            runs.clone().map(|((n, (id, _)), taken)| (*id, &rest(n)[..*taken as usize])),
        );
        self.taken = taken;
        written?;
        self.device.run(self.entries.prefill)?;
        for ((id, _), &taken) in inputs.iter().zip(&self.taken) {
            if taken > 0 {
                self.sequences.advance(*id, taken);
            }
        }
        self.heads(take, sink)
    }

    /// Fill the step-parameter buffer.
    fn write_step<'t>(
        &mut self,
        runs: impl Iterator<Item = (SeqId, &'t [u32])> + Clone,
    ) -> Result<(), EngineError> {
        let Self { device, memory, sequences, facts, valid_ids, .. } = self;
        device.fill(memory.step, &mut |bytes| {
            let mut writer = StepWriter::new(facts.step, bytes);
            for (id, ids) in runs.clone() {
                let position = sequences.length(id).expect("it was admitted");
                let (slot, pages) = (id.slot(), sequences.pages(id));
                writer.add(Run { position, ids, slot, pages });
            }
            writer.finish(*valid_ids);
        })?;
        Ok(())
    }

    fn heads(&mut self, take: Take, sink: Sink<'_>) -> Result<(), EngineError> {
        self.heads.run(&mut *self.device, &self.memory, &self.rows, take, sink)
    }
}

/// A token as an input like any other.
fn one_token((id, token): &(SeqId, u32)) -> (SeqId, &[u32]) {
    (*id, std::slice::from_ref(token))
}

impl Facts {
    fn of(plan: &Plan) -> Self {
        let tokens = |name| plan.entry(name).expect("a checked plan has the entries").max_tokens;
        Self {
            step: plan.step,
            vocab: plan.vocab,
            max_context: plan.max_context,
            max_chunk: tokens("prefill").min(plan.step.max_tokens),
            max_batch: plan.step.max_seqs,
            max_decode: tokens("decode"),
            candidates: plan.candidates(),
        }
    }
}

#[cfg(test)]
mod tests;
