//! The pools, as the bucket sees them.

use std::iter;

use larder_bucket::{FetchedEntry, Local, LocalEntry, Realm, RecordHead, Rule};
use larder_model::{Scope, WorkspaceName};
use larder_store::{Body, NewRecord, Pool, Wait};
use tokio::runtime::Handle;

use crate::cache::Cache;
use crate::key::DecodedKey;
use crate::tier::{Tier, realm_of, takes_place};

impl Local for Cache {
    fn read(&self, realm: &Realm, key: &[u8]) -> Option<LocalEntry> {
        let (workspace, scope) = place_of(realm, key)?;
        let handle = self.pair(&workspace).of(&scope);
        // What was queued before a restart is not gone because its pool is still loading.
        let pool = match handle.pool() {
            Some(pool) => pool,
            None => Handle::current().block_on(handle.wait())?,
        };
        let entry = pool.peek(key, Wait::Allowed).ok()??;
        let body: Box<dyn Iterator<Item = _> + Send> = match entry.body {
            Body::Whole(whole) => Box::new(iter::once(Ok(whole))),
            Body::Stream(mut reader) => Box::new(iter::from_fn(move || {
                let piece = reader.next(Wait::Allowed);
                let lost = |_| std::io::Error::other("the entry does not verify");
                piece.map_err(lost).transpose()
            })),
        };
        Some(LocalEntry {
            metadata: entry.metadata,
            check: entry.check,
            writer: entry.writer,
            written_at_ms: entry.written_at_ms,
            body_bytes: entry.size,
            body,
        })
    }

    fn install(&self, realm: &Realm, entries: Vec<FetchedEntry>) {
        let Some(tier) = &self.tier else {
            return;
        };
        for entry in entries {
            let Some((workspace, scope)) = place_of(realm, &entry.key) else {
                continue;
            };
            if let Some(pool) = self.pair(&workspace).of(&scope).pool() {
                install(tier, pool, realm, &entry);
            }
        }
    }

    /// The pool's entry stays until the winner takes its place, which it does when the key is next asked for
    /// ([`Tier::supersedes`]): until then it is what this node has if the bucket goes away.
    fn lost(&self, _realm: &Realm, _key: &[u8]) {}
}

/// Puts an entry of the bucket into the pool, unless what is there is as good. What the pool does not take it does not
/// take: the bucket has it.
fn install(tier: &Tier, pool: &Pool, realm: &Realm, entry: &FetchedEntry) {
    let head = RecordHead {
        realm,
        key: &entry.key,
        writer: entry.writer,
        written_at_ms: entry.written_at_ms,
        body_bytes: entry.body.len() as u64,
    };
    let gate = tier.gate();
    if !gate.lets_in(&head) {
        return;
    }
    let replaces = entry.rule != Rule::Content;
    let turn = replaces.then(|| tier.replacing(&entry.key));
    if replaces {
        let Ok(there) = pool.head(&entry.key, Wait::Allowed) else {
            return;
        };
        let is_due = there.is_none_or(|there| {
            takes_place(
                entry.rule,
                (entry.written_at_ms, entry.check),
                (there.written_at_ms, there.check),
            )
        });
        if !is_due {
            return;
        }
    }
    let record = NewRecord {
        key: &entry.key,
        metadata: &entry.metadata,
        check: entry.check,
        writer: entry.writer,
        replace: replaces,
    };
    let _ = pool.put_written(&record, Some(entry.written_at_ms), &entry.body);
    drop((turn, gate));
}

/// Whose entry it is, if the realm is the one where it belongs.
fn place_of(realm: &Realm, key: &[u8]) -> Option<(WorkspaceName, Scope)> {
    let name = DecodedKey::decode(key)?;
    let (workspace, scope) = (name.workspace.parse().ok()?, name.scope.parse().ok()?);
    let belongs = realm_of(&workspace, &scope)? == *realm;
    belongs.then_some((workspace, scope))
}
