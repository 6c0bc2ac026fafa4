//! Workspaces: the tenants, by name. One that is deleted stays as a row, for the sake of its writers.

use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row, SqliteConnection};

use crate::audit::{NewAuditRow, insert};
use crate::error::{LedgerError, Missing};
use crate::ledger::Ledger;
use crate::packs;
use crate::rows::{number, to_sql};

/// A workspace in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceRow {
    /// The name.
    pub name: String,
    /// When it was created, in unix milliseconds.
    pub created_at_ms: u64,
}

impl Ledger {
    /// Adds a workspace. One that was deleted comes back, with the rows of its old tokens.
    pub async fn create_workspace(&self, name: &str, now_ms: u64) -> Result<(), LedgerError> {
        let mut writing = self.write().await?;
        let added = sqlx::query(
            "INSERT INTO workspaces (name, created_at_ms) VALUES ($1, $2)
             ON CONFLICT (name) DO UPDATE SET created_at_ms = $2, deleted_at_ms = NULL
             WHERE workspaces.deleted_at_ms IS NOT NULL",
        )
        .bind(name)
        .bind(to_sql(now_ms))
        .execute(&mut *writing.transaction)
        .await?;
        if added.rows_affected() == 0 {
            return Err(LedgerError::Exists {
                workspace: name.to_owned(),
            });
        }
        let row = NewAuditRow::by_operator("workspace-created", name, now_ms);
        insert(&mut writing.transaction, &row).await?;
        writing.commit().await
    }

    /// All workspaces, by name.
    pub async fn workspaces(&self) -> Result<Vec<WorkspaceRow>, LedgerError> {
        let rows = sqlx::query_as(
            "SELECT name, created_at_ms FROM workspaces WHERE deleted_at_ms IS NULL ORDER BY name",
        );
        Ok(rows.fetch_all(&self.pool).await?)
    }

    /// Deletes a workspace and ends its sessions. Refused while one of its tokens is not revoked, even when that has
    /// expired. The rows of its writers stay: entries and logs name them.
    pub async fn delete_workspace(&self, name: &str, now_ms: u64) -> Result<(), LedgerError> {
        let mut writing = self.write().await?;
        let deleted = sqlx::query(
            "UPDATE workspaces SET deleted_at_ms = $2 WHERE name = $1 AND deleted_at_ms IS NULL",
        )
        .bind(name)
        .bind(to_sql(now_ms))
        .execute(&mut *writing.transaction)
        .await?;
        if deleted.rows_affected() == 0 {
            return Err(LedgerError::NotFound(Missing::Workspace(name.to_owned())));
        }
        let in_use: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM tokens WHERE workspace = $1 AND revoked_at_ms IS NULL",
        )
        .bind(name)
        .fetch_one(&mut *writing.transaction)
        .await?;
        if in_use != 0 {
            return Err(LedgerError::InUse {
                workspace: name.to_owned(),
                token_count: in_use.unsigned_abs(),
            });
        }
        sqlx::query(
            "UPDATE sessions SET revoked_at_ms = $2 WHERE workspace = $1 AND revoked_at_ms IS NULL",
        )
        .bind(name)
        .bind(to_sql(now_ms))
        .execute(&mut *writing.transaction)
        .await?;
        // What is created again under the name is another workspace.
        packs::remove_all_of(&mut writing.transaction, name, now_ms).await?;
        sqlx::query("DELETE FROM rewrites WHERE workspace = $1")
            .bind(name)
            .execute(&mut *writing.transaction)
            .await?;
        let row = NewAuditRow::by_operator("workspace-deleted", name, now_ms);
        insert(&mut writing.transaction, &row).await?;
        writing.commit().await
    }
}

/// Refuses what is about a workspace that is not there, or not any more.
pub(crate) async fn must_exist(
    connection: &mut SqliteConnection,
    name: &str,
) -> Result<(), LedgerError> {
    let there: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM workspaces WHERE name = $1 AND deleted_at_ms IS NULL",
    )
    .bind(name)
    .fetch_one(connection)
    .await?;
    if there == 0 {
        return Err(LedgerError::NotFound(Missing::Workspace(name.to_owned())));
    }
    Ok(())
}

impl FromRow<'_, SqliteRow> for WorkspaceRow {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            name: row.try_get("name")?,
            created_at_ms: number(row, "created_at_ms")?,
        })
    }
}
