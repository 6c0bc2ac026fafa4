//! The audit: what was done, by whom, from where. Rows are added and read, and go by [`Ledger::prune`] alone.

use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, QueryBuilder, Row, Sqlite, SqliteConnection};

use crate::error::LedgerError;
use crate::ledger::Ledger;
use crate::rows::{number, number_if_any, to_sql};

/// Who acts on the server's own machine: the command line and the control socket.
pub const OPERATOR: &str = "operator";

/// The server itself.
pub(crate) const SERVER: &str = "server";

/// The outcome of what was simply done.
const DONE: &str = "done";

/// A row to be added. Texts are stored as they are: whoever makes a row bounds and cleans what comes from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAuditRow {
    /// When, in unix milliseconds.
    pub at_ms: u64,
    /// What, 1 to 40 characters.
    pub action: String,
    /// How it ended, 1 to 40 characters.
    pub outcome: String,
    /// Why it ended like that.
    pub reason: Option<String>,
    /// The workspace it is about.
    pub workspace: Option<String>,
    /// The scope it is about.
    pub scope: Option<String>,
    /// The dialect of the entries.
    pub dialect: Option<String>,
    /// The entry's key as people see it.
    pub key: Option<String>,
    /// The writer who did it or to whom it was done.
    pub writer: Option<u64>,
    /// Who caused it, if that is no writer.
    pub actor: Option<String>,
    /// The address it came from.
    pub address: Option<String>,
    /// How many like this the row stands for.
    pub count: u64,
    /// How many bytes it is about.
    pub bytes: u64,
    /// A JSON object with what belongs to this action alone.
    pub details: Option<String>,
}

impl Default for NewAuditRow {
    fn default() -> Self {
        Self {
            at_ms: 0,
            action: String::new(),
            outcome: DONE.to_owned(),
            reason: None,
            workspace: None,
            scope: None,
            dialect: None,
            key: None,
            writer: None,
            actor: None,
            address: None,
            count: 1,
            bytes: 0,
            details: None,
        }
    }
}

impl NewAuditRow {
    pub(crate) fn by_operator(action: &str, workspace: &str, at_ms: u64) -> Self {
        Self {
            at_ms,
            action: action.to_owned(),
            workspace: Some(workspace.to_owned()),
            actor: Some(OPERATOR.to_owned()),
            ..Self::default()
        }
    }
}

/// A row of the audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its number. Later rows have higher ones.
    pub id: u64,
    /// What was written down.
    pub row: NewAuditRow,
}

/// Which rows to find: all that agree with everything that is given, exactly.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// At this time or later, in unix milliseconds.
    pub since_ms: Option<u64>,
    /// Before this time, in unix milliseconds.
    pub until_ms: Option<u64>,
    /// The action.
    pub action: Option<String>,
    /// The workspace.
    pub workspace: Option<String>,
    /// The writer.
    pub writer: Option<u64>,
    /// The run of the writer.
    pub run_id: Option<String>,
    /// The commit of the writer.
    pub commit_sha: Option<String>,
    /// The entry's key as people see it.
    pub key: Option<String>,
    /// The address.
    pub address: Option<String>,
}

impl AuditFilter {
    fn push_to(&self, query: &mut QueryBuilder<Sqlite>) {
        for (condition, value) in [
            (" AND key = ", &self.key),
            (" AND address = ", &self.address),
            (" AND action = ", &self.action),
            (" AND workspace = ", &self.workspace),
        ] {
            if let Some(value) = value {
                query.push(condition).push_bind(value.clone());
            }
        }
        for (condition, value) in [
            (" AND writer = ", self.writer),
            (" AND at_ms >= ", self.since_ms),
            (" AND at_ms < ", self.until_ms),
        ] {
            if let Some(value) = value {
                query.push(condition).push_bind(to_sql(value));
            }
        }
        for (condition, value) in [
            (
                " AND writer IN (SELECT id FROM writers WHERE run_id = ",
                &self.run_id,
            ),
            (
                " AND writer IN (SELECT id FROM writers WHERE commit_sha = ",
                &self.commit_sha,
            ),
        ] {
            if let Some(value) = value {
                query.push(condition).push_bind(value.clone()).push(")");
            }
        }
    }
}

impl Ledger {
    /// Adds rows, all or none.
    pub async fn append_audit(&self, rows: &[NewAuditRow]) -> Result<(), LedgerError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut writing = self.write().await?;
        for row in rows {
            insert(&mut writing.transaction, row).await?;
        }
        writing.commit().await
    }

    /// The first `limit` rows that the filter finds and whose id is above `after_id`, by id.
    pub async fn audit(
        &self,
        filter: &AuditFilter,
        after_id: u64,
        limit: u32,
    ) -> Result<Vec<AuditRow>, LedgerError> {
        let mut after_id = to_sql(after_id);
        if let Some(since_ms) = filter.since_ms.filter(|_| after_id == 0) {
            // Ids and times rise together, nearly: with this the past is not read to find its end.
            let first = sqlx::query_scalar(FIRST_SINCE);
            let first: Option<i64> = first.bind(to_sql(since_ms)).fetch_one(&self.pool).await?;
            let Some(first) = first else {
                return Ok(Vec::new());
            };
            after_id = first - 1;
        }
        let mut query = QueryBuilder::new("");
        push_listing(&mut query, filter, after_id, limit);
        Ok(query.build_query_as().fetch_all(&self.pool).await?)
    }
}

fn push_listing(query: &mut QueryBuilder<Sqlite>, filter: &AuditFilter, after_id: i64, limit: u32) {
    query.push("SELECT * FROM audit WHERE id > ");
    query.push_bind(after_id);
    filter.push_to(query);
    query.push(" ORDER BY id LIMIT ");
    query.push_bind(i64::from(limit));
}

/// `id + 0` is no column, so that the smallest is not looked for row by row from the beginning.
const FIRST_SINCE: &str = "SELECT min(id + 0) FROM audit WHERE at_ms >= $1";

/// Adds a row within a transaction.
pub(crate) async fn insert(
    connection: &mut SqliteConnection,
    row: &NewAuditRow,
) -> Result<(), LedgerError> {
    sqlx::query(
        "INSERT INTO audit (
             at_ms, action, outcome, reason, workspace, scope, dialect, key, writer, actor, address,
             count, bytes, details
         ) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    )
    .bind(to_sql(row.at_ms))
    .bind(&row.action)
    .bind(&row.outcome)
    .bind(&row.reason)
    .bind(&row.workspace)
    .bind(&row.scope)
    .bind(&row.dialect)
    .bind(&row.key)
    .bind(row.writer.map(to_sql))
    .bind(&row.actor)
    .bind(&row.address)
    .bind(to_sql(row.count))
    .bind(to_sql(row.bytes))
    .bind(&row.details)
    .execute(connection)
    .await?;
    Ok(())
}

impl FromRow<'_, SqliteRow> for AuditRow {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            id: number(row, "id")?,
            row: NewAuditRow {
                at_ms: number(row, "at_ms")?,
                action: row.try_get("action")?,
                outcome: row.try_get("outcome")?,
                reason: row.try_get("reason")?,
                workspace: row.try_get("workspace")?,
                scope: row.try_get("scope")?,
                dialect: row.try_get("dialect")?,
                key: row.try_get("key")?,
                writer: number_if_any(row, "writer")?,
                actor: row.try_get("actor")?,
                address: row.try_get("address")?,
                count: number(row, "count")?,
                bytes: number(row, "bytes")?,
                details: row.try_get("details")?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::plan_of;

    #[tokio::test]
    async fn every_filter_but_time_has_an_index() {
        let text = || Some("x".to_owned());
        let none = AuditFilter::default;
        for (filter, index) in [
            (
                AuditFilter {
                    action: text(),
                    ..none()
                },
                "audit_by_action",
            ),
            (
                AuditFilter {
                    workspace: text(),
                    ..none()
                },
                "audit_by_workspace",
            ),
            (
                AuditFilter {
                    writer: Some(1),
                    ..none()
                },
                "audit_by_writer",
            ),
            (
                AuditFilter {
                    key: text(),
                    ..none()
                },
                "audit_by_key",
            ),
            (
                AuditFilter {
                    address: text(),
                    ..none()
                },
                "audit_by_address",
            ),
            (
                AuditFilter {
                    run_id: text(),
                    ..none()
                },
                "writers_by_run_id",
            ),
            (
                AuditFilter {
                    commit_sha: text(),
                    ..none()
                },
                "writers_by_commit_sha",
            ),
            (none(), "INTEGER PRIMARY KEY"),
        ] {
            let plan = plan_of(|query| push_listing(query, &filter, 7, 10)).await;
            assert!(plan.contains(index), "{filter:?}: {plan}");
            assert!(!plan.contains("SCAN"), "{filter:?}: {plan}");
        }
        let plan = plan_of(|query| {
            query.push(FIRST_SINCE.replace("$1", "1"));
        });
        assert!(plan.await.contains("audit_by_time"));
    }
}
