//! The audit, as JSON: for administrators of workspaces page by page, for commands row by row.

use std::collections::HashMap;

use http::Response;
use larder_ledger::{AuditFilter, AuditRow, Ledger, LedgerError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::routes::Admin;
use super::selection::BadMessage;
use super::status::{self, NotDone};
use super::wire::WriterFigures;
use crate::body::Body;
use crate::gateway::Gateway;

/// How many rows an answer has that was not asked for a number, and how many at most.
const ROW_COUNT_DEFAULT: u32 = 100;
const ROW_COUNT_MAX: u32 = 1000;

/// A row of the audit. The names of its fields do not change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Its number. Later rows have higher ones.
    pub id: u64,
    /// When, in unix milliseconds; of a row that sums, the first time.
    pub at_ms: u64,
    /// What was done: see `docs/audit.md`.
    pub action: String,
    /// How it ended.
    pub outcome: String,
    /// Why it ended like that.
    pub reason: Option<String>,
    /// The workspace it is about.
    pub workspace: Option<String>,
    /// The scope it is about.
    pub scope: Option<String>,
    /// The dialect of the entries.
    pub dialect: Option<String>,
    /// The entry's key, as its tool prints it.
    pub key: Option<String>,
    /// The id of the writer who did it, or to whom it was done.
    pub writer: Option<u64>,
    /// Who caused it, if that is no writer: `operator` or `server`.
    pub actor: Option<String>,
    /// The address it came from.
    pub address: Option<String>,
    /// How many like this the row stands for.
    pub count: u64,
    /// How many bytes it is about.
    pub bytes: u64,
    /// What belongs to this action alone.
    pub details: Option<Value>,
    /// Who the writer is, if the ledger knows.
    pub by: Option<WriterFigures>,
}

/// The answer to `GET /v1/control/audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditResponse {
    /// The rows, by id.
    pub rows: Vec<AuditRecord>,
    /// What to ask for next, as `after`; `None`: there are no more for now.
    pub after: Option<u64>,
}

/// Answers with a page of the rows about the administrator's workspace.
pub(super) async fn page(
    gateway: &Gateway,
    admin: &Admin,
    query: Option<&str>,
) -> Result<Response<Body>, NotDone> {
    let (mut after, limit) = read_query(query.unwrap_or_default())?;
    if let Some(workspace) = admin.grant.workspace() {
        // What was before was about another workspace of this name, and other people's.
        let begin = gateway.ledger.audit_begin(workspace.as_str()).await?;
        after = after.max(begin.saturating_sub(1));
    }
    let filter = AuditFilter {
        workspace: admin.grant.workspace().map(ToString::to_string),
        ..AuditFilter::default()
    };
    let rows = audit_records(&gateway.ledger, &filter, after, limit).await?;
    let full = rows.len() >= limit as usize;
    Ok(status::json(&AuditResponse {
        after: rows.last().map(|row| row.id).filter(|_| full),
        rows,
    }))
}

fn read_query(query: &str) -> Result<(u64, u32), BadMessage> {
    let (mut after, mut limit) = (0, ROW_COUNT_DEFAULT);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let refused = || BadMessage::Query("after=ID and limit=1..1000");
        match name {
            "after" => after = value.parse().map_err(|_| refused())?,
            "limit" => {
                limit = value.parse().map_err(|_| refused())?;
                if !(1..=ROW_COUNT_MAX).contains(&limit) {
                    return Err(refused());
                }
            }
            _ => return Err(refused()),
        }
    }
    Ok((after, limit))
}

/// The first `limit` rows after `after` that the filter finds, with what is known of their writers.
pub async fn audit_records(
    ledger: &Ledger,
    filter: &AuditFilter,
    after: u64,
    limit: u32,
) -> Result<Vec<AuditRecord>, LedgerError> {
    let rows = ledger.audit(filter, after, limit).await?;
    let mut known: HashMap<u64, Option<WriterFigures>> = HashMap::new();
    let mut records = Vec::with_capacity(rows.len());
    for row in rows {
        let by = match row.row.writer {
            None => None,
            Some(id) => {
                if let Some(by) = known.get(&id) {
                    by.clone()
                } else {
                    let by = ledger.writer(id).await?.map(WriterFigures::from);
                    known.insert(id, by.clone());
                    by
                }
            }
        };
        records.push(record(row, by));
    }
    Ok(records)
}

fn record(AuditRow { id, row }: AuditRow, by: Option<WriterFigures>) -> AuditRecord {
    AuditRecord {
        id,
        at_ms: row.at_ms,
        action: row.action,
        outcome: row.outcome,
        reason: row.reason,
        workspace: row.workspace,
        scope: row.scope,
        dialect: row.dialect,
        key: row.key,
        writer: row.writer,
        actor: row.actor,
        address: row.address,
        count: row.count,
        bytes: row.bytes,
        // What is no JSON, which a foreign hand has put there, is shown as text.
        details: row
            .details
            .map(|text| serde_json::from_str(&text).unwrap_or(Value::String(text))),
        by,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_where_to_go_on_and_how_far() {
        for (query, expected) in [
            ("", (0, 100)),
            ("after=7", (7, 100)),
            ("limit=1000&after=0", (0, 1000)),
        ] {
            assert_eq!(read_query(query).ok(), Some(expected), "{query}");
        }
        for query in [
            "limit=0",
            "limit=1001",
            "after=-1",
            "after",
            "workspace=other",
            "x=1",
        ] {
            assert!(read_query(query).is_err(), "{query}");
        }
    }
}
