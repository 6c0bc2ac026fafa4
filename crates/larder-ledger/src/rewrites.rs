//! Results of actions that were stored again with other outputs: actions that do not always do the same.

use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row};

use crate::error::LedgerError;
use crate::ledger::Ledger;
use crate::rows::{number, number_if_any, to_sql};

/// A result that was stored again with other outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrite {
    /// The workspace.
    pub workspace: String,
    /// The scope.
    pub scope: String,
    /// The entry's key as people see it.
    pub key: String,
    /// When, in unix milliseconds.
    pub at_ms: u64,
    /// Who stored it now.
    pub writer: u64,
    /// Who had stored it before, if that is known.
    pub writer_before: Option<u64>,
}

/// What is known of a key whose results differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RewriteRow {
    /// The workspace.
    pub workspace: String,
    /// The scope.
    pub scope: String,
    /// The entry's key as people see it.
    pub key: String,
    /// How often it was stored again with other outputs.
    pub count: u64,
    /// When for the first time, in unix milliseconds.
    pub first_at_ms: u64,
    /// When for the last time, in unix milliseconds.
    pub last_at_ms: u64,
    /// Who stored it last.
    pub writer: Option<u64>,
    /// Who had stored it before that.
    pub writer_before: Option<u64>,
}

impl Ledger {
    /// Counts rewrites, all or none.
    pub async fn note_rewrites(&self, rewrites: &[Rewrite]) -> Result<(), LedgerError> {
        if rewrites.is_empty() {
            return Ok(());
        }
        let mut writing = self.write().await?;
        for rewrite in rewrites {
            sqlx::query(
                "INSERT INTO rewrites (
                     workspace, scope, key, count, first_at_ms, last_at_ms, writer, writer_before
                 ) VALUES ($1, $2, $3, 1, $4, $4, $5, $6)
                 ON CONFLICT (workspace, scope, key) DO UPDATE SET
                     count = rewrites.count + 1, last_at_ms = excluded.last_at_ms,
                     writer = excluded.writer, writer_before = excluded.writer_before",
            )
            .bind(&rewrite.workspace)
            .bind(&rewrite.scope)
            .bind(&rewrite.key)
            .bind(to_sql(rewrite.at_ms))
            .bind(to_sql(rewrite.writer))
            .bind(rewrite.writer_before.map(to_sql))
            .execute(&mut *writing.transaction)
            .await?;
        }
        writing.commit().await
    }

    /// The `limit` keys that were rewritten last, of one workspace or of all.
    pub async fn rewrites(
        &self,
        workspace: Option<&str>,
        limit: u32,
    ) -> Result<Vec<RewriteRow>, LedgerError> {
        let rows = match workspace {
            Some(workspace) => sqlx::query_as(
                "SELECT * FROM rewrites WHERE workspace = $2 ORDER BY last_at_ms DESC, key LIMIT $1",
            )
            .bind(i64::from(limit))
            .bind(workspace)
            .fetch_all(&self.pool),
            None => sqlx::query_as("SELECT * FROM rewrites ORDER BY last_at_ms DESC, key LIMIT $1")
                .bind(i64::from(limit))
                .fetch_all(&self.pool),
        };
        Ok(rows.await?)
    }
}

impl FromRow<'_, SqliteRow> for RewriteRow {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            workspace: row.try_get("workspace")?,
            scope: row.try_get("scope")?,
            key: row.try_get("key")?,
            count: number(row, "count")?,
            first_at_ms: number(row, "first_at_ms")?,
            last_at_ms: number(row, "last_at_ms")?,
            writer: number_if_any(row, "writer")?,
            writer_before: number_if_any(row, "writer_before")?,
        })
    }
}
