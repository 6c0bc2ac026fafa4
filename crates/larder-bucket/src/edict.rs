//! What must not be served any more: purges and quarantines, as they reach the bucket.
//!
//! An edict is standing: it is applied to all packs that are known, and to those that are loaded later, up to the number
//! the catalogue had reached when it was given. Packs are immutable; what is forgotten leaves with its pack when that
//! expires, and a large body when it is next cleaned up.

use std::fmt;
use std::sync::Arc;

use crate::inner::{Inner, head_of};
use crate::realm::{Realm, Trust};

/// What is known of an entry without its body.
#[derive(Debug, Clone, Copy)]
pub struct RecordHead<'a> {
    /// Where it lives.
    pub realm: &'a Realm,
    /// Its key.
    pub key: &'a [u8],
    /// Who wrote it.
    pub writer: u64,
    /// When, unix milliseconds.
    pub written_at_ms: u64,
    /// Its length.
    pub body_bytes: u64,
}

type Predicate = dyn Fn(&RecordHead<'_>) -> bool + Send + Sync;

/// A standing order to forget. Clones share it.
#[derive(Clone)]
pub struct Edict {
    through: u32,
    matches: Arc<Predicate>,
}

impl Edict {
    /// Forgets what matches in packs up to and including the number `through`; `u32::MAX`: in all there will ever be.
    pub fn new(
        through: u32,
        matches: impl Fn(&RecordHead<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            through,
            matches: Arc::new(matches),
        }
    }

    pub(crate) fn covers(&self, number: u32) -> bool {
        number <= self.through
    }

    pub(crate) fn matches(&self, head: &RecordHead<'_>) -> bool {
        (self.matches)(head)
    }
}

impl fmt::Debug for Edict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Edict(through {})", self.through)
    }
}

impl Inner {
    /// Makes an edict standing, and applies it to all that is known. An index that cannot be read takes its pack along:
    /// better a miss than what was purged.
    pub(crate) async fn forget(self: &Arc<Self>, edict: Edict) -> u64 {
        self.edicts.write().push(edict.clone());
        let mut forgotten = 0;
        for known in self.shelf.all() {
            if !edict.covers(known.number) || self.age_ms(known.number).is_none() {
                continue;
            }
            let Ok(index) = self.index_of(&known, Trust::Untrusted).await else {
                self.lose_pack(&known).await;
                continue;
            };
            let (inner, edict) = (self.clone(), edict.clone());
            let apply = move || {
                let realm = &known.pack.realm;
                let matching = index
                    .records()
                    .filter(|(_, record)| edict.matches(&head_of(realm, record)));
                let removed = matching.filter(|(position, record)| {
                    let hash = inner.index.hash(realm, &record.key);
                    inner.index.remove(hash, (known.number, *position))
                });
                removed.count() as u64
            };
            forgotten += tokio::task::spawn_blocking(apply).await.unwrap_or(0);
        }
        forgotten
    }
}
