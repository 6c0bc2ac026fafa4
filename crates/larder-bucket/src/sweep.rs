//! Cleaning up: expired packs, and what no pack refers to.
//!
//! Whatever is used within `expire_after` has been written again into a younger pack, so one that is older by a grace
//! holds nothing that anybody uses, and goes as a whole. A lifecycle rule of the bucket may do the same. Objects without a
//! row, bodies and first objects without a live record are left by writers that died, by purges and by expiry; they go when
//! they are a day old, if their names carry this deployment's tag. It does no harm on several nodes at once.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::catalogue::CatalogueError;
use crate::inner::{Inner, Missing};
use crate::link::{LinkError, Listed};
use crate::name::PREFIX;
use crate::realm::Trust;
use crate::record::Location;

/// How long expired packs and unreferenced objects stay: longer than any lease, upload or clock's error.
pub const GRACE: Duration = Duration::from_hours(24);
/// Objects that one request deletes.
const DELETED_AT_ONCE: usize = 1000;

/// How far cleaning up is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GcProgress {
    /// Objects looked at.
    pub listed: u64,
    /// Expired packs.
    pub expired: u64,
    /// Objects without a row or a live record that were deleted.
    pub unreferenced: u64,
    /// Bytes that were freed.
    pub freed_bytes: u64,
    /// Objects that are not this deployment's; they stay.
    pub foreign: u64,
}

/// Why cleaning up ended early. What it did stays done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GcError {
    /// This node does not know every pack now, so it cannot tell what is referred to.
    #[error("not all packs are known now")]
    Incomplete,
    /// See [`CatalogueError`].
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// See [`LinkError`].
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl Inner {
    pub(crate) async fn gc(
        self: &Arc<Self>,
        progress: &(dyn Fn(GcProgress) + Send + Sync),
    ) -> Result<GcProgress, GcError> {
        let mut done = GcProgress::default();
        if !self.follow().await {
            return Err(GcError::Incomplete);
        }
        self.remove_expired(&mut done).await?;
        progress(done);
        // Before what is referred to is collected, so that it cannot miss what is listed.
        let began_ms = self.now_ms();
        let (used, doubtful) = self.used_names().await?;
        let may_go = |object: &Listed| {
            let is_doubtful = |realm: &String| object.name.starts_with(realm);
            is_old(object, began_ms)
                && !used.contains(&object.name)
                && !doubtful.iter().any(is_doubtful)
        };
        let mut after = None;
        loop {
            let page = self
                .link_for(Trust::Untrusted)
                .list(PREFIX, after.as_deref())
                .await?;
            done.listed += page.objects.len() as u64;
            let mut garbage = Vec::new();
            for object in page.objects {
                if !self.settings.mac_key.made(&object.name) {
                    done.foreign += 1;
                } else if may_go(&object) {
                    done.unreferenced += 1;
                    done.freed_bytes += object.bytes;
                    garbage.push(object.name);
                }
            }
            if !garbage.is_empty() {
                self.link_for(Trust::Untrusted).delete(garbage).await?;
            }
            progress(done);
            after = page.after;
            if after.is_none() {
                return Ok(done);
            }
        }
    }

    async fn remove_expired(self: &Arc<Self>, done: &mut GcProgress) -> Result<(), GcError> {
        let (now_ms, limit_ms) = (self.now_ms(), self.expire_ms() + GRACE.as_millis() as u64);
        let mut expired = self.shelf.all();
        expired.retain(|known| now_ms.saturating_sub(known.pack.created_at_ms) > limit_ms);
        for some in expired.chunks(DELETED_AT_ONCE) {
            let numbers: Vec<u32> = some.iter().map(|known| known.number).collect();
            let names = some.iter().map(|known| known.pack.name.clone()).collect();
            self.catalogue.remove(numbers.clone()).await?;
            self.drop_packs(numbers.into_iter().collect()).await;
            // What stays because this fails has no row any more, and is found by the listing of a later day.
            self.link_for(Trust::Untrusted).delete(names).await?;
            done.expired += some.len() as u64;
            done.freed_bytes += some
                .iter()
                .map(|known| known.pack.object_bytes)
                .sum::<u64>();
        }
        Ok(())
    }

    /// The names of all objects that a row or a live record refers to; and the prefixes of realms of which nobody can tell,
    /// because a pack was not authentic when this node read it: perhaps another one can.
    async fn used_names(self: &Arc<Self>) -> Result<(HashSet<String>, HashSet<String>), GcError> {
        let (mut used, mut doubtful) = (HashSet::new(), HashSet::new());
        for known in self.shelf.all() {
            used.insert(known.pack.name.clone());
            if self.shelf.get(known.number).is_none() {
                doubtful.insert(format!("{PREFIX}{}/", known.pack.realm));
            }
            if self.age_ms(known.number).is_none() {
                continue;
            }
            let index = match self.index_of(&known, Trust::Untrusted).await {
                Ok(index) => index,
                Err(Missing::Gone) => {
                    doubtful.insert(format!("{PREFIX}{}/", known.pack.realm));
                    continue;
                }
                Err(Missing::Unavailable) => return Err(GcError::Incomplete),
            };
            let (realm, key) = (&known.pack.realm, &self.settings.mac_key);
            for (position, record) in index.records() {
                let name = match record.location {
                    Location::Here { .. } => continue,
                    Location::Body(id) => key.body_name(realm, id),
                    Location::First => key.first_name(realm, &record.key),
                };
                let hash = self.index.hash(realm, &record.key);
                if self.index.is_at(hash, (known.number, position)) {
                    used.insert(name);
                }
            }
        }
        Ok((used, doubtful))
    }
}

fn is_old(object: &Listed, now_ms: u64) -> bool {
    now_ms.saturating_sub(object.modified_ms) > GRACE.as_millis() as u64
}
