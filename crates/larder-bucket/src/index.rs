//! The index: which key is in which pack, in memory on every node.
//!
//! 256 shards, each a mutex over a [`Table`]. A slot is 32 bytes and points at a record in a pack's index, which is on
//! local disk; with the table's slack that is 36 to 47 bytes of memory per entry, whatever the length of its key.

use std::collections::HashSet;
use std::hash::Hasher;

use parking_lot::Mutex;
use siphasher::sip128::{Hasher128, SipHasher24};

use crate::realm::Realm;
use crate::table::{Slot, Table};

const SHARD_COUNT: usize = 256;

/// The index.
#[derive(Debug)]
pub(crate) struct Index {
    hash_key: [u8; 16],
    shards: Box<[Mutex<Table>]>,
}

impl Index {
    /// An empty one, with a hash of its own: no client can know which keys collide.
    pub(crate) fn new() -> Self {
        let mut hash_key = [0; 16];
        getrandom::fill(&mut hash_key).expect("the system has random numbers");
        let shards = std::iter::repeat_with(Mutex::default).take(SHARD_COUNT);
        Self {
            hash_key,
            shards: shards.collect(),
        }
    }

    /// The keyed hash of a realm's key.
    pub(crate) fn hash(&self, realm: &Realm, key: &[u8]) -> u128 {
        let mut hasher = SipHasher24::new_with_key(&self.hash_key);
        hasher.write(&[realm.trust().code(), realm.workspace().len() as u8]);
        hasher.write(realm.workspace().as_bytes());
        hasher.write(key);
        hasher.finish128().as_u128()
    }

    fn shard(&self, hash: u128) -> &Mutex<Table> {
        &self.shards[(hash >> 120) as usize]
    }

    pub(crate) fn get(&self, hash: u128) -> Option<Slot> {
        self.shard(hash).lock().get(hash)
    }

    /// Puts a record in, unless the one that is there counts more. `is_dead` says whether that one's pack no longer
    /// counts at all.
    pub(crate) fn add(&self, slot: Slot, is_dead: impl FnOnce(u32) -> bool) {
        let mut table = self.shard(slot.hash).lock();
        match table.get_mut(slot.hash) {
            Some(old) if is_dead(old.pack) || slot.supersedes(old) => *old = slot,
            Some(_) => {}
            None => table.insert(slot),
        }
    }

    /// Marks the entry as touched; whether it was not yet.
    pub(crate) fn touch(&self, slot: &Slot) -> bool {
        let mut table = self.shard(slot.hash).lock();
        let now = table.get_mut(slot.hash);
        let Some(now) = now.filter(|now| now.place() == slot.place() && !now.is_touched()) else {
            return false;
        };
        now.set_touched(true);
        true
    }

    /// The touch came to nothing: the next use may try again.
    pub(crate) fn untouch(&self, hash: u128) {
        if let Some(slot) = self.shard(hash).lock().get_mut(hash) {
            slot.set_touched(false);
        }
    }

    /// Whether the key's record is the one at this place.
    pub(crate) fn is_at(&self, hash: u128, place: (u32, u32)) -> bool {
        self.get(hash).is_some_and(|slot| slot.place() == place)
    }

    /// Takes the key out if its record is the one at this place.
    pub(crate) fn remove(&self, hash: u128, place: (u32, u32)) -> bool {
        let mut table = self.shard(hash).lock();
        table.remove_if(hash, |slot| slot.place() == place)
    }

    /// Takes out all that is in these packs. Looks at everything.
    pub(crate) fn remove_packs(&self, packs: &HashSet<u32>) {
        for shard in &self.shards {
            shard.lock().retain(|slot| !packs.contains(&slot.pack));
        }
    }

    /// The number of entries.
    pub(crate) fn len(&self) -> u64 {
        self.shards
            .iter()
            .map(|shard| shard.lock().len() as u64)
            .sum()
    }

    /// Bytes of memory.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let bytes = self
            .shards
            .iter()
            .map(|shard| shard.lock().memory_bytes() as u64);
        bytes.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::realm::Trust;
    use crate::record::Rule;

    #[test]
    fn an_entry_takes_at_most_48_bytes_of_memory() {
        let index = Index::new();
        let realm = Realm::new("acme", Trust::Trusted).unwrap();
        let (mut least, mut most) = (f64::MAX, 0.0_f64);
        for count in 1_u32..=1_000_000 {
            let hash = index.hash(&realm, &count.to_le_bytes());
            index.add(Slot::new(hash, (1, count), Rule::Content, 1, 1), |_| false);
            if count >= 200_000 && count % 50_000 == 0 {
                let per_entry = index.memory_bytes() as f64 / f64::from(count);
                (least, most) = (least.min(per_entry), most.max(per_entry));
            }
        }
        println!("{least:.1} to {most:.1} bytes of memory per entry");
        assert!(index.len() == 1_000_000 && most <= 48.0, "{most}");
    }

    #[test]
    fn realms_do_not_find_each_others_keys() {
        let index = Index::new();
        let realm = |workspace, trust| Realm::new(workspace, trust).unwrap();
        let realms = [
            realm("acme", Trust::Trusted),
            realm("acme", Trust::Untrusted),
            realm("acm", Trust::Trusted),
        ];
        let hashes = realms.each_ref().map(|realm| index.hash(realm, b"ekey"));
        assert_eq!(HashSet::from(hashes).len(), 3);
        assert_ne!(
            index.hash(&realms[2], b"ekey"),
            index.hash(&realms[0], b"key")
        );
    }
}
