//! The open ledger: its connections, its transactions, and what others changed in it.

use std::path::Path;
use std::sync::Arc;

use sqlx::pool::PoolOptions;
use sqlx::{ConnectOptions, Sqlite, SqliteConnection, SqlitePool, Transaction};
use tokio::sync::{Mutex, MutexGuard};

use crate::error::LedgerError;
use crate::open;
use crate::rows::from_sql;

/// How many listings run at once. Writing has a connection of its own, so that no listing keeps it waiting.
const READING_CONNECTIONS: u32 = 4;

/// The control plane's memory, in a file that other processes may have open too. A clone is the same ledger.
#[derive(Debug, Clone)]
pub struct Ledger {
    pub(crate) pool: SqlitePool,
    /// The one connection that writes.
    writer: SqlitePool,
    /// The writers of this process wait here, in turn; SQLite's own waiting is polling without an order, and for other processes.
    writing: Arc<Mutex<()>>,
    /// The connection that watches for changes, which never waits for those that write or list.
    watcher: Arc<Mutex<SqliteConnection>>,
}

/// How far changes have come that servers must follow. Of two marks that differ the ledger has changed in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Changes of workspaces and tokens.
    pub tokens: u64,
    /// Changes of sessions: see [`Ledger::sessions_since`].
    pub sessions: u64,
}

/// A transaction, and this process's turn to write.
pub(crate) struct Writing<'a> {
    pub(crate) transaction: Transaction<'static, Sqlite>,
    _turn: MutexGuard<'a, ()>,
}

impl Writing<'_> {
    pub(crate) async fn commit(self) -> Result<(), LedgerError> {
        Ok(self.transaction.commit().await?)
    }
}

impl Ledger {
    /// Opens the ledger in the file `path`, whose directory must exist. Creates the file, and
    /// brings an older version's tables up to date.
    pub async fn open(path: &Path) -> Result<Self, LedgerError> {
        let options = open::prepare(path).await?;
        let opening = |error| LedgerError::opening(path.into(), error);
        let watcher = options.connect().await.map_err(opening)?;
        let pool = async |connections, options| {
            let pool = PoolOptions::new().max_connections(connections);
            pool.connect_with(options).await.map_err(opening)
        };
        let writer = pool(1, options.clone()).await?;
        Ok(Self {
            pool: pool(READING_CONNECTIONS, options).await?,
            writer,
            writing: Arc::new(Mutex::new(())),
            watcher: Arc::new(Mutex::new(watcher)),
        })
    }

    /// A transaction that writes, and must begin with a write: one that begins with a read may find the ledger changed when it
    /// wants to write.
    pub(crate) async fn write(&self) -> Result<Writing<'_>, LedgerError> {
        let turn = self.writing.lock().await;
        Ok(Writing {
            transaction: self.writer.begin().await?,
            _turn: turn,
        })
    }

    /// How far changes have come, whoever made them: this process, a different one, or a hand with a database shell. Take the
    /// mark before reading what it stands for. The audit, new writers and times of last use do not change it.
    pub async fn change_mark(&self) -> Result<Mark, LedgerError> {
        let mut watcher = self.watcher.lock().await;
        let (tokens, sessions) = sqlx::query_as(
            "SELECT (SELECT number FROM revisions WHERE name = 'tokens'),
                    (SELECT number FROM revisions WHERE name = 'sessions')",
        )
        .fetch_one(&mut *watcher)
        .await?;
        Ok(Mark {
            tokens: from_sql(tokens),
            sessions: from_sql(sessions),
        })
    }
}

/// How SQLite would run a query, in a new ledger.
#[cfg(test)]
pub(crate) async fn plan_of(push: impl FnOnce(&mut sqlx::QueryBuilder<Sqlite>)) -> String {
    use sqlx::Row;

    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("ledger.sqlite");
    let ledger = Ledger::open(&path).await.expect("a new ledger");
    let mut query = sqlx::QueryBuilder::new("EXPLAIN QUERY PLAN ");
    push(&mut query);
    let rows = query.build().fetch_all(&ledger.pool).await;
    let steps = rows.expect("a query");
    let steps = steps.iter().map(|step| step.get::<String, _>("detail"));
    steps.collect::<Vec<_>>().join("; ")
}
