//! The ledger's questions and changes.

use std::path::Path;
use std::sync::Arc;

use sqlx::pool::PoolOptions;
use sqlx::{ConnectOptions, SqliteConnection, SqlitePool};
use tokio::sync::Mutex;

use crate::error::{LedgerError, Missing};
use crate::open;
use crate::rows::{NewToken, TokenRow, WorkspaceRow, to_sql};

/// Enough for a listing beside a write; the control plane is not busy.
const CONNECTION_COUNT_MAX: u32 = 4;

/// The first label of the scopes that tokens have by default.
const OWN_SCOPES: &str = "token";

/// Workspaces and tokens, in a file that other processes may have open too. A clone is the same
/// ledger.
#[derive(Debug, Clone)]
pub struct Ledger {
    pool: SqlitePool,
    /// The connection that watches for changes. It never writes, because SQLite does not tell a
    /// connection of its own writes.
    watcher: Arc<Mutex<SqliteConnection>>,
}

impl Ledger {
    /// Opens the ledger in the file `path`, whose directory must exist. Creates the file, and
    /// brings an older version's tables up to date.
    pub async fn open(path: &Path) -> Result<Self, LedgerError> {
        let options = open::prepare(path).await?;
        let opening = |error| LedgerError::opening(path.into(), error);
        let watcher = options.connect().await.map_err(opening)?;
        let pool = PoolOptions::new()
            .max_connections(CONNECTION_COUNT_MAX)
            .connect_with(options)
            .await
            .map_err(opening)?;
        Ok(Self {
            pool,
            watcher: Arc::new(Mutex::new(watcher)),
        })
    }

    /// Adds a workspace. One that was deleted comes back, with the rows of its old tokens.
    pub async fn create_workspace(&self, name: &str, now_ms: u64) -> Result<(), LedgerError> {
        let added = sqlx::query(
            "INSERT INTO workspaces (name, created_at_ms) VALUES ($1, $2)
             ON CONFLICT (name) DO UPDATE SET created_at_ms = $2, deleted_at_ms = NULL
             WHERE workspaces.deleted_at_ms IS NOT NULL",
        )
        .bind(name)
        .bind(to_sql(now_ms))
        .execute(&self.pool)
        .await?;
        if added.rows_affected() == 0 {
            return Err(LedgerError::Exists {
                workspace: name.to_owned(),
            });
        }
        Ok(())
    }

    /// All workspaces, by name.
    pub async fn workspaces(&self) -> Result<Vec<WorkspaceRow>, LedgerError> {
        let rows = sqlx::query_as(
            "SELECT name, created_at_ms FROM workspaces WHERE deleted_at_ms IS NULL ORDER BY name",
        );
        Ok(rows.fetch_all(&self.pool).await?)
    }

    /// Deletes a workspace. Refused while one of its tokens is not revoked, even when that has
    /// expired. The rows of its tokens stay: entries and logs name their writers by them.
    pub async fn delete_workspace(&self, name: &str, now_ms: u64) -> Result<(), LedgerError> {
        let mut transaction = self.pool.begin().await?;
        // The write comes first: a transaction that begins with a read may find the ledger
        // changed when it wants to write.
        let deleted = sqlx::query(
            "UPDATE workspaces SET deleted_at_ms = $2 WHERE name = $1 AND deleted_at_ms IS NULL",
        )
        .bind(name)
        .bind(to_sql(now_ms))
        .execute(&mut *transaction)
        .await?;
        if deleted.rows_affected() == 0 {
            return Err(LedgerError::NotFound(Missing::Workspace(name.to_owned())));
        }
        let in_use: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM tokens WHERE workspace = $1 AND revoked_at_ms IS NULL",
        )
        .bind(name)
        .fetch_one(&mut *transaction)
        .await?;
        if in_use != 0 {
            return Err(LedgerError::InUse {
                workspace: name.to_owned(),
                token_count: in_use.unsigned_abs(),
            });
        }
        Ok(transaction.commit().await?)
    }

    /// Adds a token. An isolated token without a scope gets the scope `token/ID`, which no other
    /// token has: scopes that begin with `token` cannot be asked for.
    pub async fn create_token(&self, new: NewToken) -> Result<TokenRow, LedgerError> {
        let first_label = new.scope.as_deref().and_then(|path| path.split('/').next());
        if first_label.is_some_and(|label| label.eq_ignore_ascii_case(OWN_SCOPES)) {
            return Err(LedgerError::ReservedScope);
        }
        let mut transaction = self.pool.begin().await?;
        let own_scope = new.scope.is_none() && new.access == "isolated";
        // Nobody but this transaction ever sees the scope "token": it becomes "token/ID" below.
        let scope = if own_scope {
            Some(OWN_SCOPES)
        } else {
            new.scope.as_deref()
        };
        let inserted = sqlx::query_as(
            "INSERT INTO tokens (hash, workspace, access, scope, name, created_at_ms, expires_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             RETURNING *",
        )
        .bind(new.hash.as_slice())
        .bind(&new.workspace)
        .bind(&new.access)
        .bind(scope)
        .bind(&new.name)
        .bind(to_sql(new.created_at_ms))
        .bind(new.expires_at_ms.map(to_sql))
        .fetch_one(&mut *transaction)
        .await
        .map_err(|error| match error.as_database_error() {
            Some(refusal) if refusal.is_foreign_key_violation() => {
                LedgerError::NotFound(Missing::Workspace(new.workspace.clone()))
            }
            Some(refusal) if refusal.is_unique_violation() => LedgerError::TokenExists,
            _ => error.into(),
        })?;
        let mut row: TokenRow = inserted;
        if own_scope {
            row = sqlx::query_as("UPDATE tokens SET scope = $2 WHERE id = $1 RETURNING *")
                .bind(to_sql(row.id))
                .bind(format!("{OWN_SCOPES}/{}", row.id))
                .fetch_one(&mut *transaction)
                .await?;
        }
        let there: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM workspaces WHERE name = $1 AND deleted_at_ms IS NULL",
        )
        .bind(&new.workspace)
        .fetch_one(&mut *transaction)
        .await?;
        if there == 0 {
            return Err(LedgerError::NotFound(Missing::Workspace(new.workspace)));
        }
        transaction.commit().await?;
        Ok(row)
    }

    /// All tokens, revoked and expired ones too, by id.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, LedgerError> {
        Ok(sqlx::query_as("SELECT * FROM tokens ORDER BY id")
            .fetch_all(&self.pool)
            .await?)
    }

    /// The token whose text has this SHA-256, if it is in the ledger.
    pub async fn token_by_hash(&self, hash: &[u8; 32]) -> Result<Option<TokenRow>, LedgerError> {
        let row = sqlx::query_as("SELECT * FROM tokens WHERE hash = $1").bind(hash.as_slice());
        Ok(row.fetch_optional(&self.pool).await?)
    }

    /// Revokes a token, for good. A token that was revoked before keeps the time of that.
    pub async fn revoke_token(&self, id: u64, now_ms: u64) -> Result<TokenRow, LedgerError> {
        sqlx::query_as(
            "UPDATE tokens SET revoked_at_ms = coalesce(revoked_at_ms, $2) WHERE id = $1
             RETURNING *",
        )
        .bind(to_sql(id))
        .bind(to_sql(now_ms))
        .fetch_optional(&self.pool)
        .await?
        .ok_or(LedgerError::NotFound(Missing::Token(id)))
    }

    /// Notes when tokens were last used, as pairs of an id and unix milliseconds. An earlier time
    /// than the noted one changes nothing, nor does an unknown id.
    pub async fn record_last_used(&self, uses: &[(u64, u64)]) -> Result<(), LedgerError> {
        if uses.is_empty() {
            return Ok(());
        }
        let mut transaction = self.pool.begin().await?;
        for &(id, used_at_ms) in uses {
            sqlx::query(
                "UPDATE tokens SET last_used_at_ms = $2
                 WHERE id = $1 AND coalesce(last_used_at_ms, 0) < $2",
            )
            .bind(to_sql(id))
            .bind(to_sql(used_at_ms))
            .execute(&mut *transaction)
            .await?;
        }
        Ok(transaction.commit().await?)
    }

    /// A number that is another one after anyone has changed the ledger, this process or a
    /// different one, and after [`Ledger::record_last_used`]. Take the mark before reading what
    /// it stands for. Only marks of one open ledger can be compared. Costs a look into shared
    /// memory, no query.
    pub async fn change_mark(&self) -> Result<u64, LedgerError> {
        let mut watcher = self.watcher.lock().await;
        let version: i64 = sqlx::query_scalar("PRAGMA data_version")
            .fetch_one(&mut *watcher)
            .await?;
        Ok(version.unsigned_abs())
    }
}
