//! Who owns which state: a slot for each sequence, and pages of the KV cache as it grows.
//!
//! Slots and pages are only numbers here; their memory is the device's. A page is handed out
//! when a sequence reaches it (or is promised the room), and goes back when the sequence ends.
//! Nothing is cleared: a fresh sequence starts from slot -1, and attention never looks past a
//! sequence's own length.

use crate::EngineError;
use crate::sampling::Rng;
use q35_types::step::PAGE;

/// A sequence of a [`Model`](crate::Model), good until it is finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SeqId {
    slot: u32,
    /// Tells a sequence from others that had its slot.
    generation: u32,
}

impl SeqId {
    pub(crate) fn slot(self) -> u32 {
        self.slot
    }
}

/// What there is to hand out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pools {
    pub slots: u32,
    pub pages: u32,
    /// Tokens of the longest sequence.
    pub max_context: u32,
}

/// All sequences of a model.
#[derive(Debug)]
pub(crate) struct Sequences {
    pools: Pools,
    slots: Vec<Slot>,
    free_slots: FreeList,
    free_pages: FreeList,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    taken: bool,
    length: u32,
    /// The physical page of each page of the sequence.
    pages: Vec<u32>,
}

impl Sequences {
    /// With `shuffle`, slots and pages are handed out in the order of that seed instead of from 0
    /// up: results must not depend on it.
    pub fn new(pools: Pools, shuffle: Option<u64>) -> Self {
        let most = pages_of(pools.max_context) as usize;
        let slot = |_| Slot {
            generation: 0,
            taken: false,
            length: 0,
            pages: Vec::with_capacity(most.min(pools.pages as usize)),
        };
        Self {
            slots: (0..pools.slots).map(slot).collect(),
            free_slots: FreeList::new(pools.slots, shuffle),
            free_pages: FreeList::new(pools.pages, shuffle),
            pools,
        }
    }

    pub fn pools(&self) -> Pools {
        self.pools
    }

    pub fn free_pages(&self) -> u32 {
        self.free_pages.left()
    }

    pub fn start(&mut self) -> Result<SeqId, EngineError> {
        let slots = self.pools.slots;
        let slot = self.free_slots.take().ok_or(EngineError::NoFreeSlot { slots })?;
        let own = &mut self.slots[slot as usize];
        own.taken = true;
        own.length = 0;
        Ok(SeqId { slot, generation: own.generation })
    }

    pub fn finish(&mut self, id: SeqId) -> Result<(), EngineError> {
        let slot = self.find(id)?;
        let own = &mut self.slots[slot];
        own.taken = false;
        own.generation = own.generation.wrapping_add(1);
        // Last first, so that the next sequence gets them in the same order.
        while let Some(page) = own.pages.pop() {
            self.free_pages.give(page);
        }
        self.free_slots.give(id.slot);
        Ok(())
    }

    /// Tokens that the sequence has been fed.
    pub fn length(&self, id: SeqId) -> Result<u32, EngineError> {
        Ok(self.slots[self.find(id)?].length)
    }

    /// The physical pages of the sequence, of a sequence that is there.
    pub fn pages(&self, id: SeqId) -> &[u32] {
        &self.slots[id.slot as usize].pages
    }

    /// Make room for `more` tokens of each sequence behind those that it has: for all or, with an
    /// error, for none.
    pub fn make_room(
        &mut self,
        wanted: impl Iterator<Item = (SeqId, usize)> + Clone,
    ) -> Result<(), EngineError> {
        let mut needed = 0;
        for (id, more) in wanted.clone() {
            let own = &self.slots[self.find(id)?];
            let tokens = u64::from(own.length) + more as u64;
            if tokens > u64::from(self.pools.max_context) {
                let max_context = self.pools.max_context;
                return Err(EngineError::TooLong { tokens, max_context });
            }
            needed += pages_of(tokens as u32).saturating_sub(own.pages.len() as u32);
        }
        let (free, total) = (self.free_pages.left(), self.pools.pages);
        if needed > free {
            return Err(EngineError::KvPagesExhausted { needed, free, total });
        }
        for (id, more) in wanted {
            let own = &mut self.slots[id.slot as usize];
            let pages = pages_of(own.length + more as u32) as usize;
            while own.pages.len() < pages {
                own.pages.push(self.free_pages.take().expect("counted above"));
            }
        }
        Ok(())
    }

    /// The sequence has been fed `tokens` more.
    pub fn advance(&mut self, id: SeqId, tokens: u32) {
        let own = &mut self.slots[id.slot as usize];
        own.length += tokens;
        debug_assert!(pages_of(own.length) as usize <= own.pages.len(), "room was made");
    }

    fn find(&self, id: SeqId) -> Result<usize, EngineError> {
        match self.slots.get(id.slot as usize) {
            Some(own) if own.taken && own.generation == id.generation => Ok(id.slot as usize),
            _ => Err(EngineError::UnknownSequence),
        }
    }
}

/// Pages that so many tokens take.
pub(crate) fn pages_of(tokens: u32) -> u32 {
    tokens.div_ceil(PAGE)
}

/// Numbers that nobody has.
#[derive(Debug)]
struct FreeList {
    /// The next one is the last.
    numbers: Vec<u32>,
    shuffle: Option<Rng>,
}

impl FreeList {
    fn new(count: u32, shuffle: Option<u64>) -> Self {
        Self { numbers: (0..count).rev().collect(), shuffle: shuffle.map(Rng::new) }
    }

    fn left(&self) -> u32 {
        self.numbers.len() as u32
    }

    fn take(&mut self) -> Option<u32> {
        if let Some(rng) = &mut self.shuffle
            && let Some(last) = self.numbers.len().checked_sub(1)
        {
            let other = rng.next_u64() as usize % (last + 1);
            self.numbers.swap(last, other);
        }
        self.numbers.pop()
    }

    fn give(&mut self, number: u32) {
        self.numbers.push(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequences(slots: u32, pages: u32) -> Sequences {
        Sequences::new(Pools { slots, pages, max_context: 200 }, None)
    }

    fn room(sequences: &mut Sequences, id: SeqId, more: usize) -> Result<(), EngineError> {
        sequences.make_room([(id, more)].into_iter())
    }

    #[test]
    fn pages_are_handed_out_as_a_sequence_grows() {
        let mut s = sequences(2, 4);
        let a = s.start().unwrap();
        for (tokens, pages) in [(1, 1), (63, 1), (1, 2), (63, 2), (2, 3)] {
            room(&mut s, a, tokens).unwrap();
            s.advance(a, tokens as u32);
            assert_eq!(s.pages(a).len(), pages);
        }
        assert_eq!(s.length(a).unwrap(), 130);
        assert_eq!(s.pages(a), [0, 1, 2]);
    }

    #[test]
    fn room_is_made_for_all_or_for_none() {
        let mut s = sequences(2, 3);
        let (a, b) = (s.start().unwrap(), s.start().unwrap());
        let refused = s.make_room([(a, 100), (b, 100)].into_iter());
        assert!(matches!(
            refused,
            Err(EngineError::KvPagesExhausted { needed: 4, free: 3, total: 3 })
        ));
        assert_eq!((s.pages(a).len(), s.free_pages()), (0, 3));
        s.make_room([(a, 128), (b, 64)].into_iter()).unwrap();
        assert_eq!(s.free_pages(), 0);
    }

    #[test]
    fn what_a_finished_sequence_had_is_used_again() {
        let mut s = sequences(1, 2);
        for _ in 0..5 {
            let a = s.start().unwrap();
            assert!(matches!(s.start(), Err(EngineError::NoFreeSlot { slots: 1 })));
            assert_eq!(s.length(a).unwrap(), 0);
            room(&mut s, a, 128).unwrap();
            assert_eq!(s.pages(a), [0, 1]);
            s.finish(a).unwrap();
        }
    }

    #[test]
    fn a_finished_sequence_is_unknown_even_when_its_slot_is_taken_again() {
        let mut s = sequences(1, 2);
        let old = s.start().unwrap();
        s.finish(old).unwrap();
        assert!(matches!(s.finish(old), Err(EngineError::UnknownSequence)));
        let new = s.start().unwrap();
        assert_eq!(old.slot(), new.slot());
        assert!(matches!(s.length(old), Err(EngineError::UnknownSequence)));
        assert!(matches!(room(&mut s, old, 1), Err(EngineError::UnknownSequence)));
        assert!(s.length(new).is_ok());
    }

    #[test]
    fn the_longest_sequence_is_as_long_as_the_context() {
        let mut s = sequences(1, 9);
        let a = s.start().unwrap();
        room(&mut s, a, 200).unwrap();
        let refused = room(&mut s, a, 201);
        assert!(matches!(refused, Err(EngineError::TooLong { tokens: 201, max_context: 200 })));
        assert!(matches!(room(&mut s, a, usize::MAX), Err(EngineError::TooLong { .. })));
    }

    #[test]
    fn shuffled_numbers_are_the_same_ones_in_another_order() {
        let pools = Pools { slots: 9, pages: 40, max_context: 64 * 40 };
        let mut s = Sequences::new(pools, Some(3));
        let a = s.start().unwrap();
        room(&mut s, a, 64 * 40).unwrap();
        let mut pages = s.pages(a).to_vec();
        assert!(!pages.is_sorted());
        pages.sort_unstable();
        assert!(pages.into_iter().eq(0..40));
    }
}
