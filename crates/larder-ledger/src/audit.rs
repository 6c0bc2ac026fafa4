//! The audit: what was done, by whom, from where. Rows are added and read, and go by [`Ledger::prune`] alone.

use std::ops::RangeInclusive;

use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, QueryBuilder, Row, Sqlite, SqliteConnection};

use crate::error::LedgerError;
use crate::ledger::Ledger;
use crate::rows::{from_sql, number, number_if_any, to_sql};

/// Who acts on the server's own machine: the command line and the control socket.
pub const OPERATOR: &str = "operator";

/// The server itself.
pub(crate) const SERVER: &str = "server";

/// The outcome of what was simply done.
const DONE: &str = "done";

/// How many rows one statement adds at most. Each statement costs a trip to the connection's thread and back.
const STATEMENT_ROWS_MAX: usize = 64;

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
        if self
            .action
            .as_deref()
            .is_some_and(|action| action != "write")
        {
            // Only with these words the index of actions is used, which leaves writes out.
            query.push(" AND action <> 'write'");
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
        insert_all(&mut writing.transaction, rows).await?;
        writing.commit().await
    }

    /// The id of the row that says that this workspace was created, the last time if it had been deleted; 0 if that is so long
    /// ago that the row is gone, and with it all that came before.
    pub async fn audit_begin(&self, workspace: &str) -> Result<u64, LedgerError> {
        let begin: Option<i64> = sqlx::query_scalar(
            "SELECT max(id) FROM audit
             WHERE action = 'workspace-created' AND action <> 'write' AND workspace = $1",
        )
        .bind(workspace)
        .fetch_one(&self.pool)
        .await?;
        Ok(begin.map_or(0, from_sql))
    }

    /// The first `limit` rows that the filter finds and whose id is above `after_id`, by id.
    ///
    /// Actions, workspaces, writers, runs and commits are looked up. For a key or an address alone all rows of the filter's
    /// time are read: some 0.2 s for a million.
    pub async fn audit(
        &self,
        filter: &AuditFilter,
        after_id: u64,
        limit: u32,
    ) -> Result<Vec<AuditRow>, LedgerError> {
        let mut ids = to_sql(after_id).saturating_add(1)..=i64::MAX;
        if after_id == 0 && (filter.since_ms.is_some() || filter.until_ms.is_some()) {
            // Ids and times rise together, nearly: with these bounds what is before and after is not read.
            let bounds: (Option<i64>, Option<i64>) = sqlx::query_as(IDS_OF_TIME)
                .bind(to_sql(filter.since_ms.unwrap_or(0)))
                .bind(to_sql(filter.until_ms.unwrap_or(u64::MAX)))
                .fetch_one(&self.pool)
                .await?;
            let (Some(first), Some(last)) = bounds else {
                return Ok(Vec::new());
            };
            ids = first..=last;
        }
        let mut query = QueryBuilder::new("");
        push_listing(&mut query, filter, ids, limit);
        Ok(query.build_query_as().fetch_all(&self.pool).await?)
    }
}

fn push_listing(
    query: &mut QueryBuilder<Sqlite>,
    filter: &AuditFilter,
    ids: RangeInclusive<i64>,
    limit: u32,
) {
    query.push("SELECT * FROM audit WHERE id >= ");
    query.push_bind(*ids.start());
    query.push(" AND id <= ").push_bind(*ids.end());
    filter.push_to(query);
    query.push(" ORDER BY id LIMIT ");
    query.push_bind(i64::from(limit));
}

/// `id + 0` is no column, so that the smallest is not looked for row by row from the beginning.
const IDS_OF_TIME: &str =
    "SELECT min(id + 0), max(id + 0) FROM audit WHERE at_ms >= $1 AND at_ms < $2";

/// Adds a row within a transaction.
pub(crate) async fn insert(
    connection: &mut SqliteConnection,
    row: &NewAuditRow,
) -> Result<(), LedgerError> {
    insert_all(connection, std::slice::from_ref(row)).await
}

/// Adds rows within a transaction: 1, 2, 4 … at a time, so that there are only a few statements to prepare.
async fn insert_all(
    connection: &mut SqliteConnection,
    mut rows: &[NewAuditRow],
) -> Result<(), LedgerError> {
    while !rows.is_empty() {
        let count = 1 << rows.len().min(STATEMENT_ROWS_MAX).ilog2();
        let (now, later) = rows.split_at(count);
        rows = later;
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT INTO audit (
                 at_ms, action, outcome, reason, workspace, scope, dialect, key, writer, actor, address,
                 count, bytes, details
             ) ",
        );
        query.push_values(now, |mut values, row| {
            values
                .push_bind(to_sql(row.at_ms))
                .push_bind(&row.action)
                .push_bind(&row.outcome)
                .push_bind(&row.reason)
                .push_bind(&row.workspace)
                .push_bind(&row.scope)
                .push_bind(&row.dialect)
                .push_bind(&row.key)
                .push_bind(row.writer.map(to_sql))
                .push_bind(&row.actor)
                .push_bind(&row.address)
                .push_bind(to_sql(row.count))
                .push_bind(to_sql(row.bytes))
                .push_bind(&row.details);
        });
        query.build().execute(&mut *connection).await?;
    }
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
    async fn what_is_looked_up_is_looked_up_and_the_rest_is_read_in_order() {
        let text = || Some("x".to_owned());
        let none = AuditFilter::default;
        let (by_writer, in_order) = (
            "INDEX audit_by_writer (writer=?",
            "INTEGER PRIMARY KEY (rowid>?",
        );
        let action = AuditFilter {
            action: text(),
            ..none()
        };
        let writer = AuditFilter {
            writer: Some(1),
            ..none()
        };
        let workspace = AuditFilter {
            workspace: text(),
            ..none()
        };
        let run = AuditFilter {
            run_id: text(),
            ..none()
        };
        let commit = AuditFilter {
            commit_sha: text(),
            ..none()
        };
        let key = AuditFilter {
            key: text(),
            address: text(),
            ..none()
        };
        let written = AuditFilter {
            action: Some("write".to_owned()),
            ..none()
        };
        let entry = AuditFilter {
            workspace: text(),
            key: text(),
            ..writer.clone()
        };
        for (filter, expected) in [
            (action, "INDEX audit_by_action (action=?"),
            (workspace, "INDEX audit_by_workspace (workspace=?"),
            (writer, by_writer),
            (entry, by_writer),
            (run, "INDEX writers_by_run_id"),
            (commit, "INDEX writers_by_commit_sha"),
            (key, in_order),
            (written, in_order),
            (none(), in_order),
        ] {
            let plan = plan_of(|query| push_listing(query, &filter, 7..=9, 10)).await;
            assert!(plan.contains(expected), "{filter:?}: {plan}");
            assert!(!plan.contains("SCAN"), "{filter:?}: {plan}");
        }
        let plan = plan_of(|query| {
            query.push(IDS_OF_TIME.replace("$1", "1").replace("$2", "2"));
        });
        let plan = plan.await;
        assert!(
            plan.contains("COVERING INDEX audit_by_time (at_ms>? AND at_ms<?)"),
            "{plan}"
        );
    }
}
