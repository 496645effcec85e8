//! Several texts at once: requests come in, tokens and text come out as they are made.
//!
//! Each step of the engine is one step of the model. Requests wait until a slot and all the pages
//! that they may come to need are free: so none ever fails halfway for what others do, and
//! what one gets does not depend on its neighbours. Prompts go before answers: while a prompt is
//! unread, a step reads prompts, of several requests side by side; otherwise it gives each
//! running request its next token.

use crate::sampling::{NoToken, Sampler, SamplingParams, Take};
use crate::state::{SeqId, pages_of};
use crate::text::{Detokenizer, StopMatcher, StopStrings, Tokenizer};
use crate::{EngineError, Model};
use q35_types::step::PAGE;
use std::collections::VecDeque;
use std::sync::Arc;

/// What to generate from.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Ids of the prompt, at least one.
    pub prompt: Vec<u32>,
    pub sampling: SamplingParams,
    /// Tokens to generate at most; none means as many as context and KV cache have room for.
    pub max_tokens: Option<u32>,
    /// Generation ends after any of these; it is not part of the text.
    pub stop_ids: Vec<u32>,
    /// Generation ends where any of these begins in the text. Needs a tokenizer.
    pub stop_strings: Vec<String>,
}

/// Tells a request from others of the same engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(u64);

/// Something that happened to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A token was generated. `text` is what it completes, perhaps nothing yet: special tokens
    /// have no text, and what may be the beginning of a stop string is held back.
    Token { request: RequestId, id: u32, text: String },
    /// The request has ended, with `text` that was held back until now.
    Finished { request: RequestId, text: String, reason: FinishReason, usage: Usage },
}

/// Why a request ended.
#[derive(Debug, Clone, PartialEq)]
pub enum FinishReason {
    /// One of its stop ids was generated, this one.
    StopId(u32),
    /// One of its stop strings appeared.
    StopString,
    /// `max_tokens`, or no more room.
    Length,
    /// The logits were not numbers.
    NoToken(NoToken),
}

/// What a request took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub prompt_tokens: u32,
    /// A stop id included.
    pub generated_tokens: u32,
}

/// Generates for several requests side by side.
pub struct Engine {
    model: Model,
    tokenizer: Option<Arc<Tokenizer>>,
    valid_ids: u32,
    waiting: VecDeque<Job>,
    running: Vec<Running>,
    events: Vec<Event>,
    next: u64,
}

/// A request that has been checked.
struct Job {
    id: RequestId,
    prompt: Vec<u32>,
    /// Tokens to generate at most.
    limit: u32,
    stop_ids: Vec<u32>,
    sampler: Sampler,
    text: Option<Text>,
    usage: Usage,
}

/// From tokens to the text that is shown.
struct Text {
    detokenizer: Detokenizer,
    stop: StopMatcher,
}

struct Running {
    job: Job,
    sequence: SeqId,
    /// Tokens of the prompt that have been read.
    read: usize,
    /// The token that was generated last, to be fed next.
    last: Option<u32>,
    ended: bool,
}

impl Engine {
    /// An engine for a model. Without a tokenizer there are tokens but no text.
    pub fn new(mut model: Model, tokenizer: Option<Arc<Tokenizer>>) -> Self {
        let vocab = model.facts().vocab;
        let valid_ids = tokenizer.as_ref().map_or(vocab, |t| t.valid_ids().min(vocab));
        model.set_valid_ids(valid_ids);
        Self {
            model,
            tokenizer,
            valid_ids,
            waiting: VecDeque::new(),
            running: Vec::new(),
            events: Vec::new(),
            next: 0,
        }
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_deref()
    }

    /// Add a request. It runs as soon as there is room, in the order of submission.
    ///
    /// # Errors
    ///
    /// It can never run: the prompt is empty, too long or has an id out of range, more KV pages are
    /// needed than there are, a control of sampling is out of range, or a stop string is
    /// empty.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, EngineError> {
        let job = self.check(request)?;
        let id = job.id;
        self.next += 1;
        self.waiting.push_back(job);
        Ok(id)
    }

    /// Drop a request, whatever it is doing. It gets no more events.
    pub fn cancel(&mut self, request: RequestId) {
        self.waiting.retain(|job| job.id != request);
        if let Some(at) = self.running.iter().position(|r| r.job.id == request) {
            let gone = self.running.remove(at);
            self.model.finish(gone.sequence).expect("a running sequence is there");
        }
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Run one step of the model, if there is anything to do, and say what came of it.
    ///
    /// # Errors
    ///
    /// [`EngineError::Device`] if the device failed.
    pub fn step(&mut self) -> Result<&[Event], EngineError> {
        self.events.clear();
        self.admit();
        if self.running.iter().any(Running::is_reading) {
            self.read_prompts()?;
        } else if !self.running.is_empty() {
            self.decode()?;
        }
        for gone in self.running.extract_if(.., |r| r.ended) {
            self.model.finish(gone.sequence).expect("a running sequence is there");
        }
        Ok(&self.events)
    }

    fn check(&self, request: Request) -> Result<Job, EngineError> {
        let Request { prompt, sampling, max_tokens, stop_ids, stop_strings } = request;
        let facts = self.model.facts();
        if prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if let Some(&id) = prompt.iter().find(|&&id| id >= facts.vocab) {
            return Err(EngineError::TokenOutOfRange { id, vocab: facts.vocab });
        }
        let (tokens, max_context) = (prompt.len() as u64, facts.max_context);
        if tokens > u64::from(max_context) {
            return Err(EngineError::TooLong { tokens, max_context });
        }
        let limit = self.limit(tokens as u32, max_tokens)?;
        let stop = StopStrings::new(&stop_strings)?;
        if self.tokenizer.is_none() && !stop_strings.is_empty() {
            return Err(EngineError::StopWithoutTokenizer);
        }
        let text = self.tokenizer.as_ref();
        let text = text.map(|t| Text { detokenizer: t.detokenizer(), stop: stop.matcher() });
        let mut sampler = Sampler::new(sampling, self.valid_ids)?;
        sampler.see_prompt(&prompt);
        let usage = Usage { prompt_tokens: tokens as u32, generated_tokens: 0 };
        Ok(Job { id: RequestId(self.next), prompt, limit, stop_ids, sampler, text, usage })
    }

    /// Tokens that may be generated after so many of a prompt. The last one is never fed, so it
    /// needs no room.
    fn limit(&self, prompt: u32, max_tokens: Option<u32>) -> Result<u32, EngineError> {
        let room = self.model.facts().max_context - prompt + 1;
        let total = self.model.pages();
        let fits = |limit: u32| pages_of(fed(prompt, limit)) <= total;
        let limit = match max_tokens {
            Some(wish) => wish.min(room),
            None => room.min((total * PAGE).saturating_sub(prompt) + 1),
        };
        if !fits(limit) {
            let needed = pages_of(fed(prompt, limit));
            return Err(EngineError::KvPagesExhausted { needed, free: total, total });
        }
        Ok(limit)
    }

    /// Start waiting requests, first come, first served, as long as there is room for all that
    /// they may come to need.
    fn admit(&mut self) {
        while let Some(job) = self.waiting.front() {
            let tokens = fed(job.prompt.len() as u32, job.limit);
            if pages_of(tokens) > self.model.free_pages() {
                return;
            }
            let Ok(sequence) = self.model.start() else {
                return;
            };
            self.model.reserve(sequence, tokens as usize).expect("checked by `submit` and above");
            let job = self.waiting.pop_front().expect("looked at above");
            self.running.push(Running { job, sequence, read: 0, last: None, ended: false });
        }
    }

    fn read_prompts(&mut self) -> Result<(), EngineError> {
        let Self { model, running, events, .. } = self;
        let reading = |r: &&mut Running| r.is_reading();
        let mut readers: Vec<_> = running.iter_mut().filter(reading).collect();
        let inputs: Vec<_> =
            readers.iter().map(|r| (r.sequence, &r.job.prompt[r.read..])).collect();
        let take = needs(readers.iter().map(|r| &**r), model);
        let taken = model.feed_step_for(&inputs, take)?;
        for (reader, &taken) in readers.iter_mut().zip(taken) {
            reader.read += taken as usize;
        }
        for reader in readers.into_iter().filter(|r| !r.is_reading()) {
            reader.next_token(model, events)?;
        }
        Ok(())
    }

    fn decode(&mut self) -> Result<(), EngineError> {
        let Self { model, running, events, .. } = self;
        let last = |r: &Running| (r.sequence, r.last.expect("its prompt has been read"));
        let inputs: Vec<_> = running.iter().map(last).collect();
        let take = needs(running.iter(), model);
        model.decode_for(&inputs, take)?;
        for request in running {
            request.next_token(model, events)?;
        }
        Ok(())
    }
}

/// What has to be taken of a step's logits for all of them to choose their next token.
fn needs<'r>(requests: impl Iterator<Item = &'r Running>, model: &Model) -> Take {
    let candidates = model.facts().candidates;
    let needs = requests.map(|r| r.job.sampler.needs(candidates));
    needs.max().unwrap_or(Take::Likeliest)
}

/// Tokens that a sequence is fed at most.
fn fed(prompt: u32, limit: u32) -> u32 {
    prompt + limit.saturating_sub(1)
}

impl Running {
    fn is_reading(&self) -> bool {
        self.read < self.job.prompt.len()
    }

    /// Choose the token after the one that was fed last.
    fn next_token(&mut self, model: &Model, events: &mut Vec<Event>) -> Result<(), EngineError> {
        if self.job.limit == 0 {
            self.end(FinishReason::Length, events);
            return Ok(());
        }
        let taken = model.latest(self.sequence)?;
        let id = match self.job.sampler.sample_taken(taken) {
            Ok(id) => id,
            Err(none) => {
                self.end(FinishReason::NoToken(none), events);
                return Ok(());
            }
        };
        self.last = Some(id);
        self.job.usage.generated_tokens += 1;
        if self.job.stop_ids.contains(&id) {
            self.end(FinishReason::StopId(id), events);
            return Ok(());
        }
        let mut text = String::new();
        let mut stopped = false;
        if let Some(Text { detokenizer, stop }) = &mut self.job.text {
            text.push_str(stop.push(detokenizer.push(id)));
            stopped = stop.stopped();
        }
        events.push(Event::Token { request: self.job.id, id, text });
        if stopped {
            self.end(FinishReason::StopString, events);
        } else if self.job.usage.generated_tokens == self.job.limit {
            self.end(FinishReason::Length, events);
        }
        Ok(())
    }

    fn end(&mut self, reason: FinishReason, events: &mut Vec<Event>) {
        let mut text = String::new();
        if let Some(Text { detokenizer, stop }) = &mut self.job.text
            && reason != FinishReason::StopString
        {
            text.push_str(stop.push(detokenizer.finish()));
            text.push_str(stop.finish());
        }
        let (request, usage) = (self.job.id, self.job.usage);
        events.push(Event::Finished { request, text, reason, usage });
        self.ended = true;
    }
}

#[cfg(test)]
mod tests;
