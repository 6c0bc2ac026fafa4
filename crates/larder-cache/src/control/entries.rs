//! Entries one by one: who wrote them, in which scopes, and their bytes.

use std::cmp::Reverse;
use std::time::Duration;

use bytes::Bytes;
use larder_model::{AdminGrant, Dialect, EntryKey, Scope, WorkspaceName, WriterId};
use larder_store::{Body, Entry, Pool, RecordHead, Standing, Wait};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::filter::Selection;
use super::{ControlError, as_seen_by, for_each_pool, off_thread};
use crate::cache::Cache;
use crate::key::{DecodedKey, StorageKey};
use crate::turns::ControlTurn;

/// The most entries that are listed at a time.
pub const ENTRY_REPORT_COUNT_MAX: usize = 10_000;

/// So many pieces of an export wait for whoever reads it: 1 MiB.
const PIECE_COUNT_MAX: usize = 4;

/// How long an export waits for its reader to take a piece, of 256 KiB. Whoever takes longer could as well never end.
const PIECE_WAIT_MAX: Duration = Duration::from_mins(1);

/// What is known of an entry without its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryReport {
    /// The workspace's name.
    pub workspace: String,
    /// The scope's text.
    pub scope: String,
    /// The dialect.
    pub dialect: Dialect,
    /// The tool's own key.
    pub key: EntryKey,
    /// Bytes as they are stored.
    pub size: u64,
    /// When it was stored, unix milliseconds.
    pub written_at_ms: u64,
    /// Who stored it.
    pub writer: WriterId,
    /// Whether it is served, or in quarantine.
    pub standing: Standing,
    /// Tells entries of one name apart; the newest has the greatest.
    pub sequence: u64,
}

/// Entries that were looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entries {
    /// At most [`ENTRY_REPORT_COUNT_MAX`], by workspace, scope, dialect and key, the newest first.
    pub reports: Vec<EntryReport>,
    /// How many there are besides.
    pub beyond: u64,
}

/// Where an entry is, for [`Cache::export`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryPlace {
    /// The workspace.
    pub workspace: WorkspaceName,
    /// The scope.
    pub scope: Scope,
    /// The dialect.
    pub dialect: Dialect,
    /// The tool's own key.
    pub key: EntryKey,
    /// The sequence of one in quarantine; `None`: the one that is served.
    pub held: Option<u64>,
}

/// An entry's bytes on their way out.
#[derive(Debug)]
pub struct Export {
    /// How many bytes come.
    pub size: u64,
    /// Whether they are zstd frames in which a client sent a blob.
    pub compressed: bool,
    /// The pieces. They end early if the rest does not verify: then it is fewer bytes than `size`.
    pub pieces: mpsc::Receiver<Bytes>,
}

impl Cache {
    /// Lists entries, in quarantine or not. Reads every record's head; `progress` as for [`Cache::change`].
    pub async fn entries(
        &self,
        grant: &AdminGrant,
        selection: Selection,
        progress: impl FnMut(u64, u64) -> bool + Send + 'static,
    ) -> Result<Entries, ControlError> {
        let turn = self.control_turn(grant).await?;
        self.entries_in(turn, selection, progress).await
    }

    /// The same for whoever has a turn.
    pub async fn entries_in(
        &self,
        turn: ControlTurn,
        selection: Selection,
        progress: impl FnMut(u64, u64) -> bool + Send + 'static,
    ) -> Result<Entries, ControlError> {
        let mut progress = as_seen_by(turn.grant(), progress);
        let filter = selection.under(turn.grant())?;
        let workspace = filter.as_ref().and_then(|filter| filter.workspace.as_ref());
        let pools = self.open_pools(workspace).await?;
        off_thread(turn, move || {
            let mut found = Entries::default();
            for_each_pool(&pools, &mut progress, |pool, progress| {
                let list = &mut |head: &RecordHead<'_>| {
                    let Some(name) = DecodedKey::decode(head.key) else {
                        return;
                    };
                    if filter
                        .as_ref()
                        .is_none_or(|filter| filter.matches(&name, head))
                    {
                        found.add(&name, head);
                    }
                };
                pool.scan(list, progress);
                Ok(())
            })?;
            found.reports.sort_by(|a, b| order(a).cmp(&order(b)));
            Ok(found)
        })
        .await
    }

    /// An entry's bytes, in quarantine or not; `None` if there is no such entry. Counts as no use.
    pub async fn export(
        &self,
        grant: &AdminGrant,
        place: EntryPlace,
    ) -> Result<Option<Export>, ControlError> {
        if let Some(own) = grant.workspace()
            && *own != place.workspace
        {
            return Err(ControlError::OtherWorkspace {
                workspace: own.to_string(),
            });
        }
        let pools = self.open_pools(Some(&place.workspace)).await?;
        // Not a turn at what reads whole pools: a slow reader would keep other workspaces from a purge.
        let turn = self.export_turns.take(grant).await;
        let turn = turn.ok_or(ControlError::Busy)?;
        let (found, is_found) = oneshot::channel();
        let (pieces, to_read) = mpsc::channel(PIECE_COUNT_MAX);
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let entry = pools.iter().find_map(|pool| find(&pool.pool, &place));
            let Some(entry) = entry else {
                return;
            };
            let compressed = matches!(place.dialect, Dialect::Cas(_)) && !entry.metadata.is_empty();
            if found.send((entry.size, compressed)).is_ok() {
                send(entry, |piece| {
                    let sent = runtime.block_on(timeout(PIECE_WAIT_MAX, pieces.send(piece)));
                    matches!(sent, Ok(Ok(())))
                });
            }
        });
        Ok(is_found.await.ok().map(|(size, compressed)| Export {
            size,
            compressed,
            pieces: to_read,
        }))
    }
}

impl Entries {
    fn add(&mut self, name: &DecodedKey<'_>, head: &RecordHead<'_>) {
        let key = EntryKey::new(name.key).ok();
        let Some(key) = key.filter(|_| self.reports.len() < ENTRY_REPORT_COUNT_MAX) else {
            self.beyond += 1;
            return;
        };
        self.reports.push(EntryReport {
            workspace: name.workspace.to_owned(),
            scope: name.scope.to_owned(),
            dialect: name.dialect,
            key,
            size: head.size,
            written_at_ms: head.written_at_ms,
            writer: WriterId(head.writer),
            standing: head.standing,
            sequence: head.sequence,
        });
    }
}

fn order(report: &EntryReport) -> impl Ord {
    let EntryReport {
        workspace,
        scope,
        dialect,
        key,
        sequence,
        ..
    } = report;
    (
        workspace,
        scope,
        dialect.code(),
        key.as_bytes(),
        Reverse(*sequence),
    )
}

fn find(pool: &Pool, place: &EntryPlace) -> Option<Entry> {
    let key = StorageKey::encode(&place.workspace, &place.scope, place.dialect, &place.key);
    match place.held {
        Some(sequence) => pool.held_entry(key.as_bytes(), sequence),
        None => pool.peek(key.as_bytes(), Wait::Allowed).ok().flatten(),
    }
}

/// Hands out a body until it ends, does not verify, or nobody reads on.
fn send(entry: Entry, mut piece_is_sent: impl FnMut(Bytes) -> bool) {
    match entry.body {
        Body::Whole(whole) => {
            piece_is_sent(whole);
        }
        Body::Stream(mut reader) => {
            while let Ok(Some(piece)) = reader.next(Wait::Allowed) {
                if !piece_is_sent(piece) {
                    return;
                }
            }
        }
    }
}
