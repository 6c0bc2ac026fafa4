//! The index: from a keyed 128-bit hash of a key to where its record is.
//!
//! 256 shards, each a mutex over a [`Table`]: linear probing with the slots kept in order of hash,
//! at a load between 70 % and 88 %. Hashes are keyed, hence uniform whatever keys clients choose;
//! so a slot's home is its hash scaled to the capacity, a look-up ends at the first greater hash,
//! a removal shifts back instead of leaving a grave, and a table grows by a quarter in one ordered
//! copy. That is 36 to 47 bytes of memory per entry, whatever their number.
//!
//! Writers of a key take a *claim* on its hash before they complete a record and give it back
//! with the slot, so at most one complete record of a write-once key ever gets on disk.

use std::hash::Hasher;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex};
use siphasher::sip128::{Hasher128, SipHasher24};

use crate::format::{Place, Slot};
use crate::lease::Lease;

const SHARD_COUNT: usize = 256;
/// Slots of an empty shard's table.
const CAPACITY_MIN: usize = 16;

/// Slots in order of hash. `slots[..capacity]` are homes, the rest catches what probing pushes over the end.
struct Table {
    slots: Vec<Slot>,
    capacity: usize,
    len: usize,
}

impl Table {
    const fn new() -> Self {
        Self {
            slots: Vec::new(),
            capacity: 0,
            len: 0,
        }
    }

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

    fn get_mut(&mut self, hash: u128) -> Option<&mut Slot> {
        let position = self.find(hash).ok()?;
        Some(&mut self.slots[position])
    }

    /// Puts a slot in, in place of one with the same hash, which is returned.
    fn insert(&mut self, slot: Slot) -> Option<Slot> {
        // Load at most 7/8.
        if (self.len + 1) * 8 > self.capacity * 7 {
            self.grow();
        }
        loop {
            match self.find(slot.hash) {
                Ok(position) => return Some(std::mem::replace(&mut self.slots[position], slot)),
                Err(position) => {
                    let gap = self.slots[position..].iter().position(Slot::is_empty);
                    if let Some(gap) = gap {
                        self.slots
                            .copy_within(position..position + gap, position + 1);
                        self.slots[position] = slot;
                        self.len += 1;
                        return None;
                    }
                    self.grow();
                }
            }
        }
    }

    /// Takes a slot out if `only_if` agrees.
    fn remove_if(&mut self, hash: u128, only_if: impl FnOnce(&Slot) -> bool) -> Option<Slot> {
        let position = self.find(hash).ok()?;
        if !only_if(&self.slots[position]) {
            return None;
        }
        let removed = self.slots[position];
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
        Some(removed)
    }

    fn grow(&mut self) {
        let capacity = (self.capacity + self.capacity / 4).max(CAPACITY_MIN);
        self.rebuild(capacity);
    }

    fn rebuild(&mut self, capacity: usize) {
        let old = std::mem::replace(
            &mut self.slots,
            vec![Slot::EMPTY; capacity + capacity / 32 + 16],
        );
        self.capacity = capacity;
        self.len = 0;
        for slot in old.into_iter().filter(|slot| !slot.is_empty()) {
            self.append(slot);
        }
    }

    /// Adds a slot whose hash is greater than all others'.
    fn append(&mut self, slot: Slot) {
        let mut position = self.home(slot.hash);
        while self
            .slots
            .get(position)
            .is_some_and(|slot| !slot.is_empty())
        {
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

struct Shard {
    table: Table,
    /// Hashes whose record is being completed. A handful at most, so a scan beats a set.
    claims: Vec<u128>,
}

/// What [`Index::claim`] found.
pub(crate) enum Claim {
    /// The caller completes its record and then calls [`Index::settle`] or [`Index::release`].
    Claimed,
    /// The key has an entry already.
    Exists,
}

/// The pool's index.
pub(crate) struct Index {
    hash_key: [u8; 16],
    len: AtomicU64,
    shards: Box<[(Mutex<Shard>, Condvar)]>,
}

impl Index {
    pub(crate) fn new(hash_key: [u8; 16]) -> Self {
        let shard = || {
            (
                Mutex::new(Shard {
                    table: Table::new(),
                    claims: Vec::new(),
                }),
                Condvar::new(),
            )
        };
        Self {
            hash_key,
            len: AtomicU64::new(0),
            shards: std::iter::repeat_with(shard).take(SHARD_COUNT).collect(),
        }
    }

    pub(crate) fn hash_key(&self) -> [u8; 16] {
        self.hash_key
    }

    /// The keyed hash of a key.
    pub(crate) fn hash(&self, key: &[u8]) -> u128 {
        let mut hasher = SipHasher24::new_with_key(&self.hash_key);
        hasher.write(key);
        hasher.finish128().as_u128()
    }

    /// What a held record is found by: as if its key's hash and its sequence were a key of their own, under another key
    /// of the hash, so that none of a client's can be that. Several held records of a key are beside each other, and
    /// beside its entry.
    pub(crate) fn held_hash(&self, hash: u128, sequence: u64) -> u128 {
        let mut hasher = SipHasher24::new_with_key(&self.hash_key.map(|byte| !byte));
        hasher.write(&hash.to_le_bytes());
        hasher.write(&sequence.to_le_bytes());
        hasher.finish128().as_u128()
    }

    fn shard(&self, hash: u128) -> &(Mutex<Shard>, Condvar) {
        &self.shards[(hash >> 120) as usize]
    }

    /// The slot of a key that is about to be read; it counts as used from now on.
    pub(crate) fn get_used(&self, hash: u128) -> Option<Slot> {
        let mut shard = self.shard(hash).0.lock();
        let slot = shard.table.get_mut(hash)?;
        if !slot.is_used() {
            slot.set_used(true);
        }
        Some(*slot)
    }

    /// The slot of a key, unchanged.
    pub(crate) fn peek(&self, hash: u128) -> Option<Slot> {
        let shard = self.shard(hash).0.lock();
        shard
            .table
            .find(hash)
            .ok()
            .map(|position| shard.table.slots[position])
    }

    /// The check of the key's entry, if it has one; it is leased from `now_s` on.
    pub(crate) fn lease(&self, hash: u128, lease: Lease, now_s: u32, lease_s: u32) -> Option<u16> {
        let mut shard = self.shard(hash).0.lock();
        let slot = shard.table.get_mut(hash)?;
        slot.promise = slot.promise.with(lease, now_s, lease_s);
        slot.set_used(true);
        Some(slot.check)
    }

    /// Claims a key for a writer about to complete its record. Waits for another writer of the same
    /// key who is doing just that. With `replace` an existing entry is no obstacle.
    pub(crate) fn claim(&self, hash: u128, replace: bool) -> Claim {
        let (shard, released) = self.shard(hash);
        let mut shard = shard.lock();
        loop {
            if !replace && shard.table.find(hash).is_ok() {
                return Claim::Exists;
            }
            if !shard.claims.contains(&hash) {
                shard.claims.push(hash);
                return Claim::Claimed;
            }
            released.wait(&mut shard);
        }
    }

    /// Gives a claim back unfulfilled.
    pub(crate) fn release(&self, hash: u128) {
        self.end_claim(hash, None);
    }

    /// Fulfils a claim: the entry is visible from now on. Returns the slot it replaces.
    pub(crate) fn settle(&self, slot: Slot) -> Option<Slot> {
        self.end_claim(slot.hash, Some(slot))
    }

    fn end_claim(&self, hash: u128, slot: Option<Slot>) -> Option<Slot> {
        let (shard, released) = self.shard(hash);
        let mut shard = shard.lock();
        shard.claims.retain(|claim| *claim != hash);
        let replaced = slot.and_then(|mut slot| {
            // What was promised of the key holds for its new record.
            if let Some(old) = shard.table.get_mut(hash) {
                slot.promise = old.promise;
                slot.set_used(old.is_used());
            }
            self.count(shard.table.insert(slot))
        });
        drop(shard);
        released.notify_all();
        replaced
    }

    /// Counts what an insertion added.
    fn count(&self, replaced: Option<Slot>) -> Option<Slot> {
        if replaced.is_none() {
            self.len.fetch_add(1, Ordering::Relaxed);
        }
        replaced
    }

    /// Puts in a slot that recovery found.
    pub(crate) fn restore(&self, slot: Slot) -> Option<Slot> {
        let mut shard = self.shard(slot.hash).0.lock();
        self.count(shard.table.insert(slot))
    }

    /// Points the key at its record's copy, unless it has come to point elsewhere. The copy starts
    /// its life unused.
    pub(crate) fn relocate(&self, hash: u128, from: Place, to: Place) -> bool {
        let mut shard = self.shard(hash).0.lock();
        match shard.table.get_mut(hash) {
            Some(slot) if slot.place == from => {
                slot.place = to;
                slot.set_used(false);
                true
            }
            _ => false,
        }
    }

    /// The entry has had its second chance.
    pub(crate) fn forget_use(&self, hash: u128) {
        if let Some(slot) = self.shard(hash).0.lock().table.get_mut(hash) {
            slot.set_used(false);
        }
    }

    /// Takes the key out if it still points at `place`.
    pub(crate) fn remove(&self, hash: u128, place: Place) -> bool {
        self.remove_if(hash, |now| now.place == place)
    }

    /// Takes the key out unless somebody has leased it since `slot` was read, in a way that `counts`. Returns the slot
    /// if somebody has.
    pub(crate) fn evict(&self, slot: &Slot, counts: impl Fn(&Slot) -> bool) -> Option<Slot> {
        let may_go =
            |now: &Slot| now.place == slot.place && (now.promise == slot.promise || !counts(now));
        if self.remove_if(slot.hash, may_go) {
            return None;
        }
        self.peek(slot.hash).filter(|now| now.place == slot.place)
    }

    fn remove_if(&self, hash: u128, only_if: impl FnOnce(&Slot) -> bool) -> bool {
        let mut shard = self.shard(hash).0.lock();
        let removed = shard.table.remove_if(hash, only_if).is_some();
        if removed {
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
        removed
    }

    /// Takes out every key that points into a segment, and says how many. Looks at the whole index.
    pub(crate) fn forget_segment(&self, segment: u32) -> u64 {
        let mut forgotten = 0;
        let mut slots = Vec::new();
        for shard in 0..self.shard_count() {
            slots.clear();
            self.copy_shard(shard, &mut slots);
            let inside = slots.iter().filter(|slot| slot.place.segment == segment);
            forgotten += inside
                .filter(|slot| self.remove(slot.hash, slot.place))
                .count() as u64;
        }
        forgotten
    }

    /// The number of entries.
    pub(crate) fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    /// A copy of one shard's slots, in order of hash. Shards follow each other in order of hash, too.
    pub(crate) fn copy_shard(&self, shard: usize, into: &mut Vec<Slot>) {
        let shard = self.shards[shard].0.lock();
        into.extend(shard.table.slots.iter().filter(|slot| !slot.is_empty()));
    }

    pub(crate) fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Adds slots in ascending order of hash, each greater than any there is; `expected` slots in all.
    /// The fast way in for a checkpoint.
    pub(crate) fn append_sorted(&self, slots: &[Slot], expected: u64) {
        let capacity = expected as usize / SHARD_COUNT * 5 / 4;
        for run in slots.chunk_by(|a, b| a.hash >> 120 == b.hash >> 120) {
            let mut shard = self.shard(run[0].hash).0.lock();
            for slot in run {
                if (shard.table.len + 1) * 8 > shard.table.capacity * 7 {
                    let grown = shard.table.capacity + shard.table.capacity / 4;
                    shard.table.rebuild(grown.max(capacity).max(CAPACITY_MIN));
                }
                shard.table.append(*slot);
                self.len.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Few distinct homes, so that runs collide and push over the table's end.
    fn crowded_hash() -> impl Strategy<Value = u128> {
        (0..4_u128, 0..40_u128).prop_map(|(high, low)| (u128::MAX / 4 * high) | low)
    }

    fn slot(hash: u128, unit: u32) -> Slot {
        Slot::new(hash, Place { segment: 1, unit }, 64, unit as u16)
    }

    proptest! {
        #[test]
        fn a_table_is_a_map(
            steps in prop::collection::vec((crowded_hash(), any::<u32>(), any::<bool>()), 1..400),
        ) {
            let mut table = Table::new();
            let mut oracle = BTreeMap::new();
            for (hash, unit, insert) in steps {
                if insert {
                    let replaced = table.insert(slot(hash, unit)).map(|slot| slot.place.unit);
                    prop_assert_eq!(replaced, oracle.insert(hash, unit));
                } else {
                    let removed = table.remove_if(hash, |_| true).map(|slot| slot.place.unit);
                    prop_assert_eq!(removed, oracle.remove(&hash));
                }
                prop_assert_eq!(table.len, oracle.len());
                let slots = table.slots.iter().filter(|slot| !slot.is_empty());
                prop_assert!(slots.map(|slot| (slot.hash, slot.place.unit)).eq(
                    oracle.iter().map(|(hash, unit)| (*hash, *unit))
                ));
                for (hash, unit) in &oracle {
                    prop_assert_eq!(table.get_mut(*hash).map(|slot| slot.place.unit), Some(*unit));
                }
            }
        }
    }

    #[test]
    fn a_million_entries_cost_at_most_48_bytes_each() {
        let index = Index::new([7; 16]);
        for number in 0..1_000_000_u32 {
            index.restore(slot(index.hash(&number.to_le_bytes()), number));
            if number.is_power_of_two() && number > 100_000 || number == 999_999 {
                let places: usize = index
                    .shards
                    .iter()
                    .map(|shard| shard.0.lock().table.slots.len())
                    .sum();
                let each = places as f64 * Slot::BYTES as f64 / f64::from(number + 1);
                assert!(
                    each <= 48.0,
                    "{each:.1} bytes per entry at {number} entries"
                );
            }
        }
        assert_eq!(index.len(), 1_000_000);
    }

    #[test]
    fn a_checkpoint_loads_into_the_same_index() {
        let index = Index::new([7; 16]);
        for number in 0..10_000_u32 {
            index.restore(slot(index.hash(&number.to_le_bytes()), number));
        }
        let mut slots = Vec::new();
        (0..index.shard_count()).for_each(|shard| index.copy_shard(shard, &mut slots));
        let loaded = Index::new([7; 16]);
        slots
            .chunks(777)
            .for_each(|chunk| loaded.append_sorted(chunk, slots.len() as u64));
        for number in 0..10_000_u32 {
            let hash = index.hash(&number.to_le_bytes());
            assert_eq!(loaded.peek(hash), index.peek(hash));
        }
        assert_eq!(loaded.len(), 10_000);
    }
}
