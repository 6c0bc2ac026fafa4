//! What the pools hold, counted.

use std::collections::BTreeMap;

use larder_model::{AdminGrant, Dialect, WorkspaceName};
use larder_store::{RecordHead, Standing, Usage};

use super::{ControlError, off_thread};
use crate::cache::Cache;
use crate::key::DecodedKey;

/// The most rows of [`Stats`]: a row per scope, and every pull request has one.
pub const STATS_ROW_COUNT_MAX: usize = 10_000;

/// How many entries a workspace has in a scope, and how old they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatsRow {
    /// The workspace's name.
    pub workspace: String,
    /// The scope's text.
    pub scope: String,
    /// The dialect.
    pub dialect: Dialect,
    /// How many entries, without those in quarantine.
    pub entries: u64,
    /// Their bytes, without what the store adds.
    pub bytes: u64,
    /// How many entries are in quarantine.
    pub held_entries: u64,
    /// Their bytes.
    pub held_bytes: u64,
    /// When the oldest was stored, unix milliseconds.
    pub oldest_ms: u64,
    /// When the newest was stored, unix milliseconds.
    pub newest_ms: u64,
}

/// How full a pool is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolReport {
    /// `shared/trusted`, `WORKSPACE/untrusted` and so on.
    pub name: String,
    /// The store's figures.
    pub usage: Usage,
}

/// What the pools hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Per workspace, scope and dialect, in this order; at most [`STATS_ROW_COUNT_MAX`].
    pub rows: Vec<StatsRow>,
    /// How many entries are in scopes beyond the rows.
    pub entries_beyond_rows: u64,
    /// The pools that hold nothing but what the grant is for.
    pub pools: Vec<PoolReport>,
    /// The bucket, for the operator.
    pub bucket: Option<larder_bucket::Usage>,
}

impl Cache {
    /// Counts what the pools hold. Reads every record's head.
    pub async fn stats(&self, grant: &AdminGrant) -> Result<Stats, ControlError> {
        let pools = self.open_pools(grant.workspace()).await?;
        let only = grant.workspace().cloned();
        let tier = self.tier.as_ref().filter(|_| only.is_none());
        let bucket = tier.map(|tier| tier.bucket.usage());
        let turn = self.control_turn(grant).await?;
        off_thread(turn, move || {
            let mut count = Count::default();
            let mut reports = Vec::new();
            for pool in pools {
                let count = &mut |head: &RecordHead<'_>| count.add(head, only.as_ref());
                pool.pool.scan(count, &mut |_, _| true);
                if only.is_none() || pool.owned {
                    reports.push(PoolReport {
                        name: pool.name,
                        usage: pool.pool.usage(),
                    });
                }
            }
            let rows = count.rows.into_values().collect();
            Ok(Stats {
                rows,
                entries_beyond_rows: count.entries_beyond_rows,
                pools: reports,
                bucket,
            })
        })
        .await
    }
}

#[derive(Default)]
struct Count {
    rows: BTreeMap<(String, String, u8), StatsRow>,
    entries_beyond_rows: u64,
}

impl Count {
    fn add(&mut self, head: &RecordHead<'_>, only: Option<&WorkspaceName>) {
        let Some(name) = DecodedKey::decode(head.key) else {
            return;
        };
        if only.is_some_and(|only| only.as_str() != name.workspace) {
            return;
        }
        let full = self.rows.len() >= STATS_ROW_COUNT_MAX;
        let id = (
            name.workspace.to_owned(),
            name.scope.to_owned(),
            name.dialect.code(),
        );
        if full && !self.rows.contains_key(&id) {
            self.entries_beyond_rows += 1;
            return;
        }
        let row = self.rows.entry(id).or_insert_with(|| StatsRow {
            workspace: name.workspace.to_owned(),
            scope: name.scope.to_owned(),
            dialect: name.dialect,
            entries: 0,
            bytes: 0,
            held_entries: 0,
            held_bytes: 0,
            oldest_ms: u64::MAX,
            newest_ms: 0,
        });
        let (entries, bytes) = match head.standing {
            Standing::Entry => (&mut row.entries, &mut row.bytes),
            Standing::Held => (&mut row.held_entries, &mut row.held_bytes),
        };
        *entries += 1;
        *bytes += head.size;
        row.oldest_ms = row.oldest_ms.min(head.written_at_ms);
        row.newest_ms = row.newest_ms.max(head.written_at_ms);
    }
}
