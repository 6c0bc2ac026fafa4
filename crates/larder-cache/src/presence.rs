//! Which blobs are missing.
//!
//! The answer is exact, because a wrong "present" breaks builds: the store compares whole keys by a
//! 128-bit keyed hash, and the size in a digest must be the blob's as well. The index knows sizes below
//! [`SIZE_CHECK_MAX`]; for larger blobs the entry's head is read. What is present is leased: it is
//! still there when the client comes to use it.
//!
//! What no pool has can be in the bucket ([`crate::tier`]): in its index, with the same size, while the bucket answers. It
//! stays there for longer than any lease, and for longer still because it was asked for. Nobody asks the bucket itself.

use larder_bucket::Realm;
use larder_model::{AccessKind, Digest, DigestFunction, ReadGrant, Scope};
use larder_store::{EntryHead, Lease, Pool, Wait};

use crate::blob::BlobName;
use crate::cache::Cache;
use crate::encoding::StoredForm;
use crate::key::StorageKey;
use crate::lanes::{COLD_READ_WAIT_MAX, Lane, permits};
use crate::tier::{Tier, realm_of};

/// What the index says of a blob of this size or a larger one.
pub(crate) const SIZE_CHECK_MAX: u16 = u16::MAX;

/// How many digests are looked up before other tasks have their turn.
const LOOKUP_COUNT_MAX: usize = 4096;

/// How many heads are read on an async thread, if they are in the page cache.
const HEAD_COUNT_INLINE_MAX: usize = 32;

/// How many heads are read with one turn at the disk: a few ten milliseconds on a slow one.
const HEAD_COUNT_TURN_MAX: usize = 256;

/// The check that the store keeps for a blob of `size` bytes.
pub(crate) fn size_check(size: u64) -> u16 {
    u16::try_from(size).unwrap_or(SIZE_CHECK_MAX)
}

/// How firmly this kind of caller leases what it finds in `scope`: nobody but trunk makes trunk's
/// writes fail for want of room (G1).
pub(crate) fn lease(kind: AccessKind, scope: &Scope) -> Lease {
    match (kind, scope) {
        (AccessKind::Trusted | AccessKind::CleanRoom, _) | (_, Scope::Untrusted(_)) => Lease::Firm,
        (
            AccessKind::Anonymous
            | AccessKind::Isolated
            | AccessKind::Gate
            | AccessKind::Reader
            | AccessKind::Admin,
            Scope::Trusted,
        ) => Lease::Yielding,
    }
}

/// A blob that is there, if its size, which the index does not know, is this.
struct Doubtful {
    /// Which of the digests it is.
    position: usize,
    key: Box<[u8]>,
    size: u64,
}

impl Doubtful {
    fn is_of(&self, head: Option<EntryHead>) -> bool {
        let form = head.and_then(|head| StoredForm::decode(&head.metadata, head.size));
        form.is_some_and(|form| form.size == self.size)
    }
}

impl Cache {
    /// For each digest whether it is missing; what is present is leased. The empty blob is never
    /// missing. Doubt is missing.
    pub async fn find_missing(&self, grant: &ReadGrant, digests: &[Digest]) -> Vec<bool> {
        let mut missing: Vec<bool> = digests.iter().map(|digest| !digest.is_empty()).collect();
        let pair = self.pair(grant.workspace());
        for scope in grant.path().scopes() {
            let Some(pool) = pair.of(&scope).wait().await else {
                continue;
            };
            let tier = self.tier_of(grant, &scope);
            let mut doubtful = Vec::new();
            for start in (0..digests.len()).step_by(LOOKUP_COUNT_MAX) {
                if start > 0 {
                    tokio::task::yield_now().await;
                }
                let end = digests.len().min(start + LOOKUP_COUNT_MAX);
                let part = (start..end).zip(&digests[start..end]);
                let found = &mut (&mut missing[..], &mut doubtful);
                look_up(pool, tier.as_ref(), grant, &scope, part, found);
            }
            for position in confirm(pool, doubtful, self.lanes.of(grant.kind())).await {
                missing[position] = false;
            }
        }
        if let Some(tier) = &self.tier
            && missing.contains(&true)
        {
            Box::pin(tier.find_missing(grant, digests, &mut missing)).await;
        }
        missing
    }

    fn tier_of(&self, grant: &ReadGrant, scope: &Scope) -> Option<(&Tier, Realm)> {
        let tier = self.tier.as_deref()?;
        Some((tier, realm_of(grant.workspace(), scope)?))
    }

    /// Whether the holder of `grant` can see this blob, which is then leased.
    pub(crate) async fn sees_blob(&self, grant: &ReadGrant, name: &BlobName) -> bool {
        let pair = self.pair(grant.workspace());
        for scope in grant.path().scopes() {
            let Some(pool) = pair.of(&scope).wait().await else {
                continue;
            };
            let doubtful = {
                let key = StorageKey::of_blob(grant.workspace(), &scope, name.function, name.hash);
                let found = pool.lease(key.as_bytes(), lease(grant.kind(), &scope));
                match (found, name.size) {
                    (None, _) => continue,
                    (Some(check), Some(size)) if check != size_check(size) => continue,
                    (Some(SIZE_CHECK_MAX), Some(size)) => Doubtful {
                        position: 0,
                        key: key.as_bytes().into(),
                        size,
                    },
                    (Some(_), _) => return true,
                }
            };
            let lane = self.lanes.of(grant.kind());
            if !confirm(pool, vec![doubtful], lane).await.is_empty() {
                return true;
            }
        }
        match &self.tier {
            Some(tier) => Box::pin(tier.sees_blob(grant, name)).await,
            None => false,
        }
    }
}

impl Tier {
    /// Takes off `missing` what is in the bucket.
    async fn find_missing(&self, grant: &ReadGrant, digests: &[Digest], missing: &mut [bool]) {
        self.freshen().await;
        if !self.bucket.is_reachable() {
            return;
        }
        for scope in grant.path().scopes() {
            let Some(realm) = realm_of(grant.workspace(), &scope) else {
                continue;
            };
            for (position, digest) in digests.iter().enumerate() {
                if position > 0 && position.is_multiple_of(LOOKUP_COUNT_MAX) {
                    tokio::task::yield_now().await;
                }
                if missing[position] {
                    let (workspace, size) = (grant.workspace(), Some(digest.size()));
                    let (function, hash) = (digest.function(), digest.hash());
                    let key = || StorageKey::of_blob(workspace, &scope, function, hash);
                    missing[position] = !self.has_blob(&realm, key, size).await;
                }
            }
        }
    }

    /// Whether the blob is in the bucket, where the holder of `grant` can see it.
    async fn sees_blob(&self, grant: &ReadGrant, name: &BlobName) -> bool {
        if !self.bucket.is_reachable() {
            return false;
        }
        for scope in grant.path().scopes() {
            let Some(realm) = realm_of(grant.workspace(), &scope) else {
                continue;
            };
            let workspace = grant.workspace();
            let key = || StorageKey::of_blob(workspace, &scope, name.function, name.hash);
            if self.has_blob(&realm, key, name.size).await {
                return true;
            }
        }
        false
    }

    async fn has_blob(
        &self,
        realm: &Realm,
        key: impl Fn() -> StorageKey,
        size: Option<u64>,
    ) -> bool {
        let found = self.bucket.lookup(realm, key().as_bytes());
        match (found.map(|found| found.check), size) {
            (None, _) => false,
            (Some(check), Some(size)) if check != size_check(size) => false,
            (Some(SIZE_CHECK_MAX), Some(size)) => {
                let key: Box<[u8]> = key().as_bytes().into();
                let head = self.bucket.head(realm, &key).await;
                let form =
                    head.and_then(|head| StoredForm::decode(&head.metadata, head.body_bytes));
                form.is_some_and(|form| form.size == size)
            }
            (Some(_), _) => true,
        }
    }
}

/// Takes off what is missing what is in the pool, and leases it. Adds what is in doubt.
fn look_up<'a>(
    pool: &Pool,
    tier: Option<&(&Tier, Realm)>,
    grant: &ReadGrant,
    scope: &Scope,
    digests: impl Iterator<Item = (usize, &'a Digest)>,
    (missing, doubtful): &mut (&mut [bool], &mut Vec<Doubtful>),
) {
    let leases = pool.leases(lease(grant.kind(), scope));
    let key = |function: DigestFunction| {
        StorageKey::of_blob(grant.workspace(), scope, function, function.empty_hash())
    };
    let mut keys = DigestFunction::ALL.map(key);
    for (position, digest) in digests {
        if !missing[position] {
            continue;
        }
        let key = match digest.function() {
            DigestFunction::Sha256 => &mut keys[0],
            DigestFunction::Blake3 => &mut keys[1],
        };
        key.set_blob(digest.hash());
        let found = leases.take(key.as_bytes());
        if let (Some(_), Some((tier, realm))) = (found, tier) {
            // It is in use, so it is to stay in the bucket as well.
            tier.bucket.lookup(realm, key.as_bytes());
        }
        match found {
            Some(check) if check != size_check(digest.size()) => {}
            Some(SIZE_CHECK_MAX) => doubtful.push(Doubtful {
                position,
                key: key.as_bytes().into(),
                size: digest.size(),
            }),
            Some(_) => missing[position] = false,
            None => {}
        }
    }
}

/// Reads the heads of what the index cannot tell. Returns the positions of what is there. No more is read when the
/// caller is gone, or when a turn does not come.
async fn confirm(pool: &Pool, doubtful: Vec<Doubtful>, lane: &Lane) -> Vec<usize> {
    let mut present = Vec::with_capacity(doubtful.len());
    let mut cold = doubtful;
    if cold.len() <= HEAD_COUNT_INLINE_MAX {
        cold.retain(|each| match pool.head(&each.key, Wait::Never) {
            Ok(head) => {
                present.extend(each.is_of(head).then_some(each.position));
                false
            }
            Err(_) => true,
        });
    }
    while !cold.is_empty() {
        let now = cold.split_off(cold.len().saturating_sub(HEAD_COUNT_TURN_MAX));
        let Some(turn) = permits(&lane.cold_reads, 1, COLD_READ_WAIT_MAX).await else {
            return present;
        };
        let pool = pool.clone();
        let read = tokio::task::spawn_blocking(move || {
            let found = |each: &Doubtful| match pool.head(&each.key, Wait::Allowed) {
                Ok(head) => each.is_of(head),
                Err(_) => false,
            };
            let found = now.iter().filter(|each| found(each));
            let found: Vec<usize> = found.map(|each| each.position).collect();
            drop(turn);
            found
        });
        present.extend(read.await.unwrap_or_default());
    }
    present
}
