//! Entries one by one, and their bytes.

use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use larder_cache::{Cache, ControlTurn, EntryPlace, EntryReport, Selection};
use larder_ledger::{AuditFilter, Ledger};
use larder_model::Dialect;
use serde_json::json;
use std::sync::Arc;

use super::lines::{self, Progress};
use super::routes::{Admin, message};
use super::selection::{BadMessage, SelectionRequest};
use super::status::{self, NotDone};
use super::wire::{EntriesResponse, EntryFigures, ExportRequest};
use super::writers::writers;
use crate::body::Body;
use crate::gateway::Gateway;
use crate::intake::Intake;
use crate::journal::{Act, ActName};
use crate::shown_key::ShownKey;

/// For so many entries the audit is asked where they came from.
const ADDRESS_COUNT_MAX: usize = 100;

pub(super) async fn list<B>(
    gateway: &Gateway,
    admin: Admin,
    intake: &mut Intake<'_, B>,
) -> Result<Response<Body>, NotDone>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let request = SelectionRequest::parse(&message(intake).await?)?;
    let turn = gateway.cache.control_turn(&admin.grant).await?;
    let selection = request.select(&admin.grant, &gateway.ledger).await?;
    let (cache, ledger) = (gateway.cache.clone(), gateway.ledger.clone());
    if request.progress {
        let work = |progress| find(cache, ledger, turn, selection, progress);
        return lines::stream(work).await;
    }
    let found = find(cache, ledger, turn, selection, Box::new(|_, _| true)).await?;
    Ok(status::json(&found))
}

async fn find(
    cache: Arc<Cache>,
    ledger: Ledger,
    turn: ControlTurn,
    selection: Selection,
    progress: Progress,
) -> Result<EntriesResponse, NotDone> {
    let found = cache.entries_in(turn.clone(), selection, progress).await?;
    let ids = found.reports.iter().map(|report| report.writer).collect();
    let writers = writers(&ledger, turn.grant(), ids).await?;
    let mut entries: Vec<EntryFigures> = found.reports.iter().map(figures).collect();
    for entry in entries.iter_mut().take(ADDRESS_COUNT_MAX) {
        entry.address = address(&ledger, entry).await?;
    }
    Ok(EntriesResponse {
        entries,
        entries_beyond: found.beyond,
        writers,
    })
}

fn figures(report: &EntryReport) -> EntryFigures {
    let shown = ShownKey::of(report.dialect, &report.key);
    EntryFigures {
        workspace: report.workspace.clone(),
        scope: report.scope.clone(),
        dialect: report.dialect.name().to_owned(),
        key: shown.text,
        digest_function: shown.function.map(str::to_owned),
        instance: shown.instance,
        key_bytes: report.key.as_bytes().into(),
        bytes: report.size,
        written_at_ms: report.written_at_ms,
        state: report.standing.into(),
        sequence: report.sequence,
        writer: report.writer.0,
        address: None,
    }
}

/// Where an entry came from, if the audit still has the row of its write.
async fn address(ledger: &Ledger, entry: &EntryFigures) -> Result<Option<String>, NotDone> {
    /// A write is taken down when its record is on disk, by the same clock. These rows are read, so it is not minutes.
    const BEFORE_MS: u64 = 1000;
    const AFTER_MS: u64 = 15_000;
    let filter = AuditFilter {
        since_ms: Some(entry.written_at_ms.saturating_sub(BEFORE_MS)),
        until_ms: Some(entry.written_at_ms.saturating_add(AFTER_MS)),
        action: Some("write".to_owned()),
        workspace: Some(entry.workspace.clone()),
        writer: Some(entry.writer),
        key: Some(entry.key.clone()),
        ..AuditFilter::default()
    };
    let rows = ledger.audit(&filter, 0, 16).await?;
    let mut of_scope = rows
        .into_iter()
        .rev()
        .filter(|row| row.row.scope.as_ref() == Some(&entry.scope));
    Ok(of_scope.find_map(|row| row.row.address))
}

/// Answers with an entry's bytes.
pub(super) async fn export<B>(
    gateway: &Gateway,
    admin: Admin,
    intake: &mut Intake<'_, B>,
) -> Result<Response<Body>, NotDone>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let request = ExportRequest::parse(&message(intake).await?)?;
    let place = request.place()?;
    let shown = ShownKey::of(place.dialect, &place.key);
    let mut act = Act {
        workspace: Some(place.workspace.clone()),
        scope: Some(place.scope.to_string()),
        dialect: Some(place.dialect),
        key: Some(shown.text),
        address: admin.address,
        ..Act::new(ActName::Export, admin.actor, gateway.now_ms())
    };
    if let Some(sequence) = place.held {
        act.details.insert("sequence".to_owned(), json!(sequence));
    }
    let export = gateway.cache.export(&admin.grant, place).await?;
    let export = export.ok_or(NotDone::NoEntry)?;
    act.bytes = export.size;
    gateway.journal.write_now(&gateway.ledger, act).await?;
    let mut response = Response::new(Body::lines(Bytes::new(), export.pieces));
    let content_type = if export.compressed {
        "application/zstd"
    } else {
        "application/octet-stream"
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // If not all of it comes, the client notices.
    headers.insert(CONTENT_LENGTH, HeaderValue::from(export.size));
    Ok(response)
}

impl ExportRequest {
    fn parse(json: &[u8]) -> Result<Self, BadMessage> {
        serde_json::from_slice(json).map_err(|error| BadMessage::Json(error.to_string()))
    }

    fn place(&self) -> Result<EntryPlace, BadMessage> {
        let problem = |field: &'static str, problem: String| BadMessage::Field { field, problem };
        let workspace = self.workspace.parse();
        let scope = self.scope.parse();
        Ok(EntryPlace {
            workspace: workspace.map_err(|error: larder_model::NameError| {
                problem("workspace", error.to_string())
            })?,
            scope: scope
                .map_err(|error: larder_model::ScopeError| problem("scope", error.to_string()))?,
            dialect: Dialect::from_name(&self.dialect)
                .ok_or_else(|| problem("dialect", "there is no such dialect".to_owned()))?,
            key: self
                .key_bytes
                .key()
                .ok_or_else(|| problem("key_bytes", "is no key".to_owned()))?,
            held: self.sequence,
        })
    }
}
