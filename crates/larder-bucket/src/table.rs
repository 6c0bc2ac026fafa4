//! An ordered open-addressed table of slots with keyed hashes, for an index of millions in little memory.
//!
//! Hashes are keyed, hence uniform whatever keys clients choose; so a slot's home is its hash scaled to the capacity,
//! probing is linear with the slots kept in order of hash, a look-up ends at the first greater hash, a removal shifts back
//! instead of leaving a grave, and a table grows by a quarter in one ordered copy. The load is between 70 % and 88 %.

use crate::record::Rule;

/// Slots of the smallest table.
const CAPACITY_MIN: usize = 16;

const MS_BITS: u16 = (1 << 10) - 1;
const RULE_SHIFT: u32 = 10;
const TOUCHED_BIT: u16 = 1 << 12;

/// Where the record of a key is, and what look-ups want without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) hash: u128,
    /// The pack's number, from 1; 0: the slot is empty.
    pub(crate) pack: u32,
    /// Where the record starts in the pack's index.
    pub(crate) position: u32,
    /// Unix seconds, good until 2106; their milliseconds are in `bits`.
    written_s: u32,
    /// Bits 0 to 9 milliseconds, 10 and 11 rule, 12 touched.
    bits: u16,
    pub(crate) check: u16,
}

const _: () = assert!(size_of::<Slot>() == 32);

impl Slot {
    const EMPTY: Self = Self {
        hash: 0,
        pack: 0,
        position: 0,
        written_s: 0,
        bits: 0,
        check: 0,
    };

    pub(crate) fn new(
        hash: u128,
        (pack, position): (u32, u32),
        rule: Rule,
        written_at_ms: u64,
        check: u16,
    ) -> Self {
        let written_s = u32::try_from(written_at_ms / 1000).unwrap_or(u32::MAX);
        Self {
            hash,
            pack,
            position,
            written_s,
            bits: (written_at_ms % 1000) as u16 | u16::from(rule.code()) << RULE_SHIFT,
            check,
        }
    }

    fn is_empty(&self) -> bool {
        self.pack == 0
    }

    pub(crate) fn place(&self) -> (u32, u32) {
        (self.pack, self.position)
    }

    pub(crate) fn written_at_ms(&self) -> u64 {
        u64::from(self.written_s) * 1000 + u64::from(self.bits & MS_BITS)
    }

    pub(crate) fn rule(&self) -> Rule {
        Rule::from_code((self.bits >> RULE_SHIFT) as u8 & 3).unwrap_or(Rule::Content)
    }

    pub(crate) fn is_touched(&self) -> bool {
        self.bits & TOUCHED_BIT != 0
    }

    pub(crate) fn set_touched(&mut self, touched: bool) {
        self.bits = if touched {
            self.bits | TOUCHED_BIT
        } else {
            self.bits & !TOUCHED_BIT
        };
    }

    /// Whether this is the one that counts, of two live records of a key, in whatever order they become known.
    pub(crate) fn supersedes(&self, old: &Self) -> bool {
        let (written, old_written) = (self.written_at_ms(), old.written_at_ms());
        match self.rule() {
            Rule::Content => self.place() > old.place(),
            Rule::Replace => (written, self.place()) > (old_written, old.place()),
            // Of one write the newest record is in the youngest pack.
            Rule::First if written == old_written => self.place() > old.place(),
            Rule::First => written < old_written,
        }
    }
}

/// Slots in order of hash. `slots[..capacity]` are homes, the rest catches what probing pushes over the end.
#[derive(Debug, Default)]
pub(crate) struct Table {
    slots: Vec<Slot>,
    capacity: usize,
    len: usize,
}

impl Table {
    /// Where probing for `hash` begins. Monotonic in `hash`.
    fn home(&self, hash: u128) -> usize {
        // The top 8 bits choose the shard; the next 64 are uniform within it.
        let fraction = (hash >> 56) as u64;
        ((u128::from(fraction) * self.capacity as u128) >> 64) as usize
    }

    /// The position of `hash`, or where it would go.
    fn find(&self, hash: u128) -> Result<usize, usize> {
        let mut position = self.home(hash);
        while let Some(slot) = self.slots.get(position) {
            if slot.is_empty() || slot.hash > hash {
                return Err(position);
            }
            if slot.hash == hash {
                return Ok(position);
            }
            position += 1;
        }
        Err(position)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, hash: u128) -> Option<Slot> {
        self.find(hash).ok().map(|position| self.slots[position])
    }

    pub(crate) fn get_mut(&mut self, hash: u128) -> Option<&mut Slot> {
        let position = self.find(hash).ok()?;
        Some(&mut self.slots[position])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| !slot.is_empty())
    }

    /// Puts in a slot whose hash is not there.
    pub(crate) fn insert(&mut self, slot: Slot) {
        // Load at most 7/8.
        if (self.len + 1) * 8 > self.capacity * 7 {
            self.grow();
        }
        loop {
            let (Ok(position) | Err(position)) = self.find(slot.hash);
            let gap = self.slots.get(position..).unwrap_or_default();
            if let Some(gap) = gap.iter().position(Slot::is_empty) {
                self.slots
                    .copy_within(position..position + gap, position + 1);
                self.slots[position] = slot;
                self.len += 1;
                return;
            }
            self.grow();
        }
    }

    /// Takes a slot out if `only_if` agrees.
    pub(crate) fn remove_if(&mut self, hash: u128, only_if: impl FnOnce(&Slot) -> bool) -> bool {
        let Ok(position) = self.find(hash) else {
            return false;
        };
        if !only_if(&self.slots[position]) {
            return false;
        }
        let mut last = position;
        while let Some(next) = self.slots.get(last + 1) {
            if next.is_empty() || self.home(next.hash) == last + 1 {
                break;
            }
            last += 1;
        }
        self.slots.copy_within(position + 1..=last, position);
        self.slots[last] = Slot::EMPTY;
        self.len -= 1;
        true
    }

    /// Keeps only what `keep` agrees to.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Slot) -> bool) {
        let before = self.len;
        let kept: Vec<Slot> = self.iter().filter(|slot| keep(slot)).copied().collect();
        if kept.len() < before {
            let fitting = kept.len() + kept.len() / 4;
            self.rebuild(fitting.max(CAPACITY_MIN), kept);
        }
    }

    fn grow(&mut self) {
        let capacity = (self.capacity + self.capacity / 4).max(CAPACITY_MIN);
        let slots = std::mem::take(&mut self.slots);
        self.rebuild(capacity, slots);
    }

    /// A table of these slots, which are in order of hash.
    fn rebuild(&mut self, capacity: usize, slots: Vec<Slot>) {
        self.slots = vec![Slot::EMPTY; capacity + capacity / 32 + 16];
        self.capacity = capacity;
        self.len = 0;
        for slot in slots.into_iter().filter(|slot| !slot.is_empty()) {
            let mut position = self.home(slot.hash);
            let occupied = |slot: &Slot| !slot.is_empty();
            while self.slots.get(position).is_some_and(occupied) {
                position += 1;
            }
            if position == self.slots.len() {
                self.slots.push(slot);
            } else {
                self.slots[position] = slot;
            }
            self.len += 1;
        }
    }

    /// Bytes of memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    fn slot(hash: u128, pack: u32, rule: Rule, written_at_ms: u64) -> Slot {
        Slot::new(hash, (pack, 16), rule, written_at_ms, 7)
    }

    #[test]
    fn a_slot_remembers_what_it_was_made_of() {
        let mut made = slot(9, 3, Rule::First, 1_700_000_000_999);
        assert_eq!(made.written_at_ms(), 1_700_000_000_999);
        assert_eq!((made.rule(), made.is_touched()), (Rule::First, false));
        made.set_touched(true);
        assert_eq!((made.rule(), made.is_touched()), (Rule::First, true));
        assert_eq!(made.written_at_ms(), 1_700_000_000_999);
    }

    proptest! {
        #[test]
        fn a_table_does_what_an_ordered_map_does(
            steps in proptest::collection::vec((any::<bool>(), 0_u8..60, any::<u8>()), 0..600),
        ) {
            let mut table = Table::default();
            let mut map = BTreeMap::new();
            for (insert, name, spread) in steps {
                let hash = u128::from(blake3::hash(&[name]).as_bytes()[0]) << 112
                    | u128::from(name) << 100;
                if insert && !map.contains_key(&hash) {
                    let slot = slot(hash, u32::from(spread) + 1, Rule::Content, 5);
                    table.insert(slot);
                    map.insert(hash, slot);
                } else if spread < 4 {
                    table.retain(|slot| slot.hash >> 100 & 1 == 0);
                    map.retain(|hash, _| hash >> 100 & 1 == 0);
                } else {
                    let removed = table.remove_if(hash, |_| true);
                    prop_assert_eq!(removed, map.remove(&hash).is_some());
                }
                prop_assert_eq!(table.len(), map.len());
                prop_assert!(table.iter().eq(map.values()));
                for slot in map.values() {
                    prop_assert_eq!(table.get(slot.hash), Some(*slot));
                }
            }
        }

        #[test]
        fn which_record_counts_does_not_depend_on_the_order_of_arrival(
            rule in 0_usize..3,
            mut writes in proptest::collection::vec((1_u32..9, 0_u64..4), 2..6),
            seed in any::<u64>(),
        ) {
            writes.sort_unstable();
            writes.dedup_by_key(|write| write.0);
            let rule = Rule::ALL[rule];
            let winner = |writes: &[(u32, u64)]| {
                let mut slots = writes.iter().map(|(pack, at)| slot(1, *pack, rule, *at));
                let first = slots.next().unwrap();
                slots.fold(first, |old, new| if new.supersedes(&old) { new } else { old })
            };
            let expected = winner(&writes);
            let mut shuffled = writes.clone();
            shuffled.sort_by_key(|write| {
                blake3::hash(format!("{seed} {write:?}").as_bytes()).to_hex().to_string()
            });
            prop_assert_eq!(winner(&shuffled), expected);
        }
    }
}
