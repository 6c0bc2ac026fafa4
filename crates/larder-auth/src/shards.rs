//! A table from hashes to what is known of them, read without locks and changed one part at a time.
//!
//! A change copies the part that it is in: with 64 parts that is little, however many sessions there are. Readers see a part as
//! it was or as it is, and entries do not depend on each other.

use std::array;
use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::token::TokenHash;

/// How many parts a table has.
pub(crate) const SHARDS: usize = 64;

pub(crate) type Shard<T> = HashMap<TokenHash, Arc<T>>;

#[derive(Debug)]
pub(crate) struct Shards<T>([ArcSwap<Shard<T>>; SHARDS]);

impl<T> Default for Shards<T> {
    fn default() -> Self {
        Self(array::from_fn(|_| ArcSwap::default()))
    }
}

impl<T> Shards<T> {
    /// What `ask` makes of the entry.
    pub(crate) fn get<R>(&self, hash: &TokenHash, ask: impl FnOnce(&T) -> R) -> Option<R> {
        let shard = self.0[shard_of(hash)].load();
        shard.get(hash).map(|entry| ask(entry))
    }

    /// Changes the part that `hash` is in. `change` may run more than once, each time on a fresh copy.
    pub(crate) fn change(&self, hash: &TokenHash, change: impl Fn(&mut Shard<T>)) {
        self.change_shard(shard_of(hash), change);
    }

    /// Changes every part, each in one step.
    pub(crate) fn change_all(&self, change: impl Fn(usize, &mut Shard<T>)) {
        for index in 0..SHARDS {
            self.change_shard(index, |shard| change(index, shard));
        }
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.0.iter().map(|shard| shard.load().len()).sum()
    }

    fn change_shard(&self, index: usize, change: impl Fn(&mut Shard<T>)) {
        self.0[index].rcu(|old| {
            let mut shard = Shard::clone(old);
            change(&mut shard);
            shard
        });
    }
}

/// The part that this hash is in.
pub(crate) fn shard_of(hash: &TokenHash) -> usize {
    usize::from(hash.0[0]) % SHARDS
}
