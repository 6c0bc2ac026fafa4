//! The control plane: purge, stats and verify, over an [`AdminGrant`].
//!
//! A grant for one workspace sees and touches that workspace alone: what pools hold for others,
//! and how full shared pools are, is not its business (G3). Each call reads whole pools, so it
//! runs off the async threads, in turns ([`crate::turns`]), reports progress and can be stopped by it.

use std::collections::BTreeMap;

use larder_model::{AdminGrant, Dialect, EntryKey, Scope, WorkspaceName, WriterId};
use larder_store::{Pool, RecordHead, StoreError, Usage};

use crate::cache::{Cache, NamedPool};
use crate::key::DecodedKey;

pub use larder_store::{Purged, Verified};

/// The most rows of [`Stats`]: a row per scope, and every pull request has one.
pub const STATS_ROW_COUNT_MAX: usize = 10_000;

/// Why a control call did nothing, or not all.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The grant is for another workspace, or the call is about all of them.
    #[error("this credential administers the workspace {workspace:?} only")]
    OtherWorkspace {
        /// The workspace the grant is for.
        workspace: String,
    },
    /// The pools are shared with other workspaces, and the grant is for one of them.
    #[error("only the server's operator can do this: the pools are shared with other workspaces")]
    SharedPools,
    /// A purge that names nothing.
    #[error("name at least one thing to purge by, or ask for everything")]
    NothingSelected,
    /// As many control calls as may run are running, or one of this workspace.
    #[error("another purge, verification or count is running")]
    Busy,
    /// A pool is loading, broken or closed.
    #[error("the pool {pool} is not available")]
    Unavailable {
        /// The pool's name in reports.
        pool: String,
    },
    /// The store failed half-way.
    #[error("the store failed")]
    Store(#[from] StoreError),
}

/// Which entries to purge. Every field that is set must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PurgeFilter {
    /// Entries of this workspace.
    pub workspace: Option<WorkspaceName>,
    /// Entries of exactly this scope.
    pub scope: Option<Scope>,
    /// Entries of this dialect.
    pub dialect: Option<Dialect>,
    /// Entries under this key.
    pub key: Option<EntryKey>,
    /// Entries of this writer.
    pub writer: Option<WriterId>,
    /// Entries stored before this unix time in milliseconds.
    pub written_before_ms: Option<u64>,
    /// Entries stored at or after this unix time in milliseconds.
    pub written_after_ms: Option<u64>,
}

impl PurgeFilter {
    fn matches(&self, head: &RecordHead<'_>) -> bool {
        let Some(name) = DecodedKey::decode(head.key) else {
            return false;
        };
        self.workspace
            .as_ref()
            .is_none_or(|workspace| workspace.as_str() == name.workspace)
            && self
                .scope
                .as_ref()
                .is_none_or(|scope| scope.as_str() == name.scope)
            && self.dialect.is_none_or(|dialect| dialect == name.dialect)
            && self
                .key
                .as_ref()
                .is_none_or(|key| key.as_bytes() == name.key)
            && self.writer.is_none_or(|writer| writer.0 == head.writer)
            && self
                .written_before_ms
                .is_none_or(|end| head.written_at_ms < end)
            && self
                .written_after_ms
                .is_none_or(|start| head.written_at_ms >= start)
    }
}

/// What to purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purge {
    /// Everything the grant is for.
    Everything,
    /// What a filter with at least one field matches.
    Matching(PurgeFilter),
}

/// How many entries a workspace has in a scope, and how old they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatsRow {
    /// The workspace's name.
    pub workspace: String,
    /// The scope's text.
    pub scope: String,
    /// The dialect.
    pub dialect: Dialect,
    /// How many entries.
    pub entries: u64,
    /// Their bytes, without what the store adds.
    pub bytes: u64,
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
}

impl Cache {
    /// Removes entries durably and says how many; with `dry_run` only says so. `progress` is
    /// called with entries looked at and entries in all, and stops the purge by returning false.
    pub async fn purge(
        &self,
        grant: &AdminGrant,
        purge: Purge,
        dry_run: bool,
        mut progress: impl FnMut(u64, u64) -> bool + Send + 'static,
    ) -> Result<Purged, ControlError> {
        let filter = restrict(grant, purge)?;
        let workspace = filter.as_ref().and_then(|filter| filter.workspace.as_ref());
        let pools = self.open_pools(workspace).await?;
        self.off_thread(grant, move || {
            let mut purged = Purged::default();
            let mut choose =
                |head: &RecordHead<'_>| filter.as_ref().is_none_or(|filter| filter.matches(head));
            for_each_pool(&pools, &mut progress, |pool, progress| {
                let part = pool.purge(dry_run, &mut choose, progress)?;
                purged.entries += part.entries;
                purged.bytes += part.bytes;
                Ok(())
            })?;
            tracing::info!(?filter, dry_run, purged.entries, purged.bytes, "purged");
            Ok(purged)
        })
        .await
    }

    /// Counts what the pools hold. Reads every record's head.
    pub async fn stats(&self, grant: &AdminGrant) -> Result<Stats, ControlError> {
        let pools = self.open_pools(grant.workspace()).await?;
        let only = grant.workspace().cloned();
        self.off_thread(grant, move || {
            let mut count = Count::default();
            let mut reports = Vec::new();
            for pool in pools {
                pool.pool.scan(&mut |head| {
                    count.add(head, only.as_ref());
                    true
                });
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
            })
        })
        .await
    }

    /// Re-reads every entry against its checksums. What does not verify becomes a miss. `progress`
    /// is called with entries read and entries in all, and stops the verification by returning false.
    pub async fn verify(
        &self,
        grant: &AdminGrant,
        mut progress: impl FnMut(u64, u64) -> bool + Send + 'static,
    ) -> Result<Verified, ControlError> {
        let mut pools = self.open_pools(grant.workspace()).await?;
        if grant.workspace().is_some() {
            pools.retain(|pool| pool.owned);
            if pools.is_empty() {
                return Err(ControlError::SharedPools);
            }
        }
        self.off_thread(grant, move || {
            let mut verified = Verified::default();
            for_each_pool(&pools, &mut progress, |pool, progress| {
                let part = pool.verify(progress);
                verified.entries += part.entries;
                verified.bytes += part.bytes;
                verified.corrupt += part.corrupt;
                Ok(())
            })?;
            Ok(verified)
        })
        .await
    }

    /// The pools where entries of `workspace` may live, or all: its own, and the shared ones, where
    /// it may have left entries before it had its own.
    async fn open_pools(
        &self,
        workspace: Option<&WorkspaceName>,
    ) -> Result<Vec<OpenPool>, ControlError> {
        let mut open = Vec::new();
        for NamedPool {
            name,
            owner,
            handle,
        } in self.pools()
        {
            let foreign = matches!((owner, workspace), (Some(owner), Some(of)) if owner != of);
            if foreign {
                continue;
            }
            match handle.wait().await {
                Some(pool) => {
                    open.push(OpenPool {
                        name,
                        owned: owner.is_some(),
                        pool: pool.clone(),
                    });
                }
                None => return Err(ControlError::Unavailable { pool: name }),
            }
        }
        Ok(open)
    }

    async fn off_thread<T: Send + 'static>(
        &self,
        grant: &AdminGrant,
        job: impl FnOnce() -> Result<T, ControlError> + Send + 'static,
    ) -> Result<T, ControlError> {
        let turn = self.control_turns.take(grant).await;
        let turn = turn.ok_or(ControlError::Busy)?;
        let done = tokio::task::spawn_blocking(move || {
            let done = job();
            drop(turn);
            done
        });
        match done.await {
            Ok(done) => done,
            Err(_) => Err(ControlError::Unavailable {
                pool: "of this server".to_owned(),
            }),
        }
    }
}

struct OpenPool {
    name: String,
    /// Whether one workspace has it for itself.
    owned: bool,
    pool: Pool,
}

/// The filter to purge by under this grant; `None` is everything there is.
fn restrict(grant: &AdminGrant, purge: Purge) -> Result<Option<PurgeFilter>, ControlError> {
    let filter = match purge {
        Purge::Matching(filter) if filter == PurgeFilter::default() => {
            return Err(ControlError::NothingSelected);
        }
        Purge::Matching(filter) => Some(filter),
        Purge::Everything => None,
    };
    let Some(own) = grant.workspace() else {
        return Ok(filter);
    };
    let mut filter = filter.unwrap_or_default();
    if filter
        .workspace
        .as_ref()
        .is_some_and(|workspace| workspace != own)
    {
        return Err(ControlError::OtherWorkspace {
            workspace: own.to_string(),
        });
    }
    filter.workspace = Some(own.clone());
    Ok(Some(filter))
}

/// Does `step` to each pool, with one progress over all of them; stops when progress says so.
fn for_each_pool(
    pools: &[OpenPool],
    progress: &mut impl FnMut(u64, u64) -> bool,
    mut step: impl FnMut(&Pool, &mut dyn FnMut(u64, u64) -> bool) -> Result<(), StoreError>,
) -> Result<(), ControlError> {
    let mut counts: Vec<u64> = pools.iter().map(|pool| pool.pool.usage().entries).collect();
    let mut stopped = false;
    for (index, pool) in pools.iter().enumerate() {
        step(&pool.pool, &mut |done, total| {
            counts[index] = total;
            let before: u64 = counts[..index].iter().sum();
            stopped = !progress(before + done, counts.iter().sum());
            !stopped
        })?;
        if stopped {
            break;
        }
    }
    Ok(())
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
            oldest_ms: u64::MAX,
            newest_ms: 0,
        });
        row.entries += 1;
        row.bytes += head.size;
        row.oldest_ms = row.oldest_ms.min(head.written_at_ms);
        row.newest_ms = row.newest_ms.max(head.written_at_ms);
    }
}
