//! Opening the ledger's file: private, in write-ahead mode, with this version's tables.
//!
//! Everything here holds when several processes open the same new file at once, for which SQLite
//! needs two precautions: the switch to write-ahead mode does not wait for locks by itself, and
//! migrations exclude each other only inside a transaction that begins as a writer.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqlSafeStr, SqliteConnection};
use tokio::time::{Instant, sleep};

use crate::error::LedgerError;

/// How long to wait for another process's lock. Writes take milliseconds; a process that holds
/// the ledger for this long is stuck.
const BUSY_MAX: Duration = Duration::from_secs(5);
/// How long to wait before asking again for a lock that SQLite does not wait for.
const BUSY_RETRY: Duration = Duration::from_millis(10);

/// Creates the file if it is missing and returns how to connect to it.
pub(crate) async fn prepare(path: &Path) -> Result<SqliteConnectOptions, LedgerError> {
    make_private(path).map_err(|source| LedgerError::File {
        path: path.into(),
        source,
    })?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY_MAX)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .disable_statement_logging();
    let opening = |error| LedgerError::opening(path.into(), error);
    let mut connection = options.connect().await.map_err(opening)?;
    use_write_ahead_log(&mut connection)
        .await
        .map_err(opening)?;
    migrate(&mut connection, path).await?;
    connection.close().await.map_err(opening)?;
    Ok(options)
}

/// Makes sure that the file exists and is its owner's alone. SQLite gives its side files the same
/// mode. An existing file is not opened: closing it would drop the locks that SQLite holds for
/// another connection of this process.
fn make_private(path: &Path) -> io::Result<()> {
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let mut permissions = fs::metadata(path)?.permissions();
            if permissions.mode() & 0o777 == 0o600 {
                return Ok(());
            }
            permissions.set_mode(0o600);
            fs::set_permissions(path, permissions)
        }
        Err(error) => Err(error),
    }
}

async fn use_write_ahead_log(connection: &mut SqliteConnection) -> sqlx::Result<()> {
    let deadline = Instant::now() + BUSY_MAX;
    loop {
        match sqlx::query("PRAGMA journal_mode = WAL")
            .execute(&mut *connection)
            .await
        {
            Err(error) if LedgerError::is_busy(&error) && Instant::now() < deadline => {
                sleep(BUSY_RETRY).await;
            }
            outcome => return outcome.map(drop),
        }
    }
}

async fn migrate(connection: &mut SqliteConnection, path: &Path) -> Result<(), LedgerError> {
    let opening = |error| LedgerError::opening(path.into(), error);
    let mut transaction = connection
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(opening)?;
    migrator()
        .run_direct(None, &mut *transaction, false)
        .await
        .map_err(|error| LedgerError::migrating(path.into(), error))?;
    transaction.commit().await.map_err(opening)
}

fn migrator() -> Migrator {
    let simple = |version, name: &'static str, sql: &'static str| {
        let kind = MigrationType::Simple;
        Migration::new(version, name.into(), kind, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(vec![
        simple(
            1,
            "workspaces and tokens",
            include_str!("../migrations/sqlite/0001_workspaces_and_tokens.sql"),
        ),
        simple(
            2,
            "deleted workspaces",
            include_str!("../migrations/sqlite/0002_deleted_workspaces.sql"),
        ),
        simple(
            3,
            "writers, sessions and audit",
            include_str!("../migrations/sqlite/0003_writers_sessions_and_audit.sql"),
        ),
        simple(
            4,
            "packs",
            include_str!("../migrations/sqlite/0004_packs.sql"),
        ),
    ])
}
