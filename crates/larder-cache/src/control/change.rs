//! Purge, quarantine and release: what becomes of entries that an operator selects.
//!
//! A purge removes, for good, what is served and what is in quarantine. Quarantine takes entries out of everybody's
//! sight and keeps their bytes; a new entry can be stored under the same name. Release undoes that where the name is
//! still free.
//!
//! Quarantine leaves blobs alone unless they are named, by key or dialect. A blob is its own proof: whoever asks for
//! it by its hash gets what has this hash, whoever wrote it. What can be poisoned is an assertion about which blobs an
//! action makes, and without it nobody is led to them. And blobs are shared by all assertions of their scope: with a
//! writer's blobs, results of others would become incomplete, and what was reported present would be gone.

use std::collections::BTreeMap;

use larder_model::{AdminGrant, Dialect, WriterId};
use larder_store::{Pool, RecordHead, StoreError};

use super::filter::{EntryFilter, Selection};
use super::{ControlError, as_seen_by, for_each_pool, off_thread};
use crate::cache::Cache;
use crate::key::DecodedKey;
use crate::turns::ControlTurn;

/// The most rows of [`Changed`].
pub const CHANGED_ROW_COUNT_MAX: usize = 10_000;

/// What becomes of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// They are removed for good, in quarantine or not.
    Purge,
    /// They are not found any more, and their bytes stay.
    Quarantine,
    /// They come back from quarantine, if their name is free.
    Release,
}

/// What a change did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// How many entries.
    pub entries: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Entries in quarantine whose name has a new entry: they stay there.
    pub refused: u64,
    /// Entries of the bucket that are no longer found, those of them that were in the pools as well included. What is only
    /// there is in no other figure, and a dry run does not look there.
    pub in_bucket: u64,
    /// What was selected, by workspace, scope and writer; at most [`CHANGED_ROW_COUNT_MAX`].
    pub rows: Vec<ChangedRow>,
    /// How many selected entries are in no row.
    pub entries_beyond_rows: u64,
}

/// What was selected of one writer in one scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedRow {
    /// The workspace's name.
    pub workspace: String,
    /// The scope's text.
    pub scope: String,
    /// Who wrote the entries.
    pub writer: WriterId,
    /// How many entries.
    pub entries: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}

impl Cache {
    /// Changes entries durably and says how many; with `dry_run` only says so. Once it has returned, no reader finds
    /// what was purged or put into quarantine; bodies that were being read are read to their end. `progress` is called
    /// with entries looked at and entries in all, and stops the change by returning false. An administrator of a workspace is
    /// told parts of a thousand.
    pub async fn change(
        &self,
        grant: &AdminGrant,
        change: Change,
        selection: Selection,
        dry_run: bool,
        progress: impl FnMut(u64, u64) -> bool + Send + 'static,
    ) -> Result<Changed, ControlError> {
        let turn = self.control_turn(grant).await?;
        self.change_in(turn, change, selection, dry_run, progress)
            .await
    }

    /// The same for whoever has a turn.
    pub async fn change_in(
        &self,
        turn: ControlTurn,
        change: Change,
        selection: Selection,
        dry_run: bool,
        progress: impl FnMut(u64, u64) -> bool + Send + 'static,
    ) -> Result<Changed, ControlError> {
        let mut progress = as_seen_by(turn.grant(), progress);
        let filter = selection.under(turn.grant())?;
        let workspace = filter.as_ref().and_then(|filter| filter.workspace.as_ref());
        let pools = self.open_pools(workspace).await?;
        // First, so that nothing comes back from the bucket meanwhile.
        let in_bucket = match &self.tier {
            Some(tier) if !dry_run => tier.give_order(change, filter.as_ref()).await?,
            _ => 0,
        };
        off_thread(turn, move || {
            let mut chosen = Chosen::default();
            let mut changed = Changed {
                in_bucket,
                ..Changed::default()
            };
            let mut choose =
                |head: &RecordHead<'_>| is_meant(change, filter.as_ref(), head, &mut chosen);
            for_each_pool(&pools, &mut progress, |pool, progress| {
                apply(change, pool, dry_run, &mut choose, progress, &mut changed)
            })
            .map_err(|error| match error {
                ControlError::Store(source) if !dry_run && chosen.entries > 0 => {
                    ControlError::Incomplete {
                        entries: chosen.entries,
                        bytes: chosen.bytes,
                        source,
                    }
                }
                error => error,
            })?;
            chosen.into_rows(&mut changed);
            tracing::info!(
                ?change,
                ?filter,
                dry_run,
                changed.entries,
                changed.bytes,
                changed.refused,
                changed.in_bucket,
                "changed entries"
            );
            Ok(changed)
        })
        .await
    }
}

fn apply(
    change: Change,
    pool: &Pool,
    dry_run: bool,
    choose: &mut dyn FnMut(&RecordHead<'_>) -> bool,
    progress: &mut dyn FnMut(u64, u64) -> bool,
    changed: &mut Changed,
) -> Result<(), StoreError> {
    let (entries, bytes) = match change {
        Change::Purge => {
            let purged = pool.purge(dry_run, choose, progress)?;
            (purged.entries, purged.bytes)
        }
        Change::Quarantine => {
            let held = pool.hold(dry_run, choose, progress)?;
            (held.entries, held.bytes)
        }
        Change::Release => {
            let released = pool.release(dry_run, choose, progress)?;
            changed.refused += released.refused;
            (released.entries, released.bytes)
        }
    };
    changed.entries += entries;
    changed.bytes += bytes;
    Ok(())
}

/// Whether the change is about this entry; if so it is counted.
fn is_meant(
    change: Change,
    filter: Option<&EntryFilter>,
    head: &RecordHead<'_>,
    chosen: &mut Chosen,
) -> bool {
    let Some(name) = DecodedKey::decode(head.key) else {
        // A key of another version: only a purge of everything there is sees it.
        return filter.is_none() && change == Change::Purge;
    };
    let leaves_blobs =
        change == Change::Quarantine && !filter.is_some_and(EntryFilter::names_blobs);
    let meant = filter.is_none_or(|filter| filter.matches(&name, head))
        && !(leaves_blobs && matches!(name.dialect, Dialect::Cas(_)));
    if meant {
        chosen.add(&name, head);
    }
    meant
}

#[derive(Default)]
struct Chosen {
    entries: u64,
    bytes: u64,
    rows: BTreeMap<(String, String, WriterId), (u64, u64)>,
    entries_beyond_rows: u64,
}

impl Chosen {
    fn add(&mut self, name: &DecodedKey<'_>, head: &RecordHead<'_>) {
        self.entries += 1;
        self.bytes += head.size;
        let id = (
            name.workspace.to_owned(),
            name.scope.to_owned(),
            WriterId(head.writer),
        );
        let full = self.rows.len() >= CHANGED_ROW_COUNT_MAX;
        if full && !self.rows.contains_key(&id) {
            self.entries_beyond_rows += 1;
            return;
        }
        let (entries, bytes) = self.rows.entry(id).or_default();
        *entries += 1;
        *bytes += head.size;
    }

    fn into_rows(self, changed: &mut Changed) {
        changed.entries_beyond_rows = self.entries_beyond_rows;
        let rows = self.rows.into_iter();
        let row = |((workspace, scope, writer), (entries, bytes))| ChangedRow {
            workspace,
            scope,
            writer,
            entries,
            bytes,
        };
        changed.rows = rows.map(row).collect();
    }
}
