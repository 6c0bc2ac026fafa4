//! Purge, quarantine and release: selected, written down, done, written down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::Response;
use larder_cache::{Cache, Change, Changed, ControlError, ControlTurn, Selection};
use larder_ledger::Ledger;
use serde_json::{Map, Value};

use super::lines::{self, Progress};
use super::routes::{Admin, message};
use super::selection::SelectionRequest;
use super::status::{self, NotDone};
use super::wire::{ChangeResponse, ChangeRow};
use super::writers::writers;
use crate::body::Body;
use crate::gateway::Gateway;
use crate::intake::Intake;
use crate::journal::{Act, ActName, Journal};

pub(super) async fn change<B>(
    gateway: &Gateway,
    admin: Admin,
    change: Change,
    intake: &mut Intake<'_, B>,
) -> Result<Response<Body>, NotDone>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let request = SelectionRequest::parse(&message(intake).await?)?;
    let turn = gateway.cache.control_turn(&admin.grant).await?;
    let selection = request.select(&admin.grant, &gateway.ledger).await?;
    let with_progress = request.progress;
    let work = Work {
        cache: gateway.cache.clone(),
        ledger: gateway.ledger.clone(),
        journal: gateway.journal.clone(),
        act: Act {
            outcome: "requested",
            count: 0,
            workspace: admin.grant.workspace().cloned(),
            address: admin.address,
            details: details(&request),
            ..Act::new(name(change), admin.actor, gateway.now_ms())
        },
        admin,
        turn,
        change,
        selection,
        dry_run: request.dry_run,
    };
    if with_progress {
        return lines::stream(|progress| work.run(progress)).await;
    }
    // Not given up when the caller is: what was begun is written down to its end.
    let work = tokio::spawn(work.run(Box::new(|_, _| true)));
    let done = work.await.map_err(|_| NotDone::Failed)??;
    Ok(status::json(&done))
}

struct Work {
    cache: Arc<Cache>,
    ledger: Ledger,
    journal: Arc<Journal>,
    admin: Admin,
    turn: ControlTurn,
    act: Act,
    change: Change,
    selection: Selection,
    dry_run: bool,
}

impl Work {
    async fn run(self, mut progress: Progress) -> Result<ChangeResponse, NotDone> {
        if !self.dry_run {
            let requested = self.act.clone();
            self.journal.write_now(&self.ledger, requested).await?;
        }
        let stopped = Arc::new(AtomicBool::new(false));
        let stops = stopped.clone();
        let progress = move |done, total| {
            let goes_on = progress(done, total);
            stops.fetch_or(!goes_on, Ordering::Relaxed);
            goes_on
        };
        let dry_run = self.dry_run;
        let changed = self
            .cache
            .change_in(
                self.turn.clone(),
                self.change,
                self.selection.clone(),
                dry_run,
                progress,
            )
            .await;
        if !dry_run {
            let outcome = match &changed {
                Err(_) => "failed",
                Ok(_) if stopped.load(Ordering::Relaxed) => "stopped",
                Ok(_) => "done",
            };
            let (count, bytes) = match &changed {
                Ok(changed) => (changed.entries, changed.bytes),
                Err(ControlError::Incomplete { entries, bytes, .. }) => (*entries, *bytes),
                Err(_) => (0, 0),
            };
            let end = Act {
                outcome,
                count,
                bytes,
                ..self.act.clone()
            };
            self.note(end).await;
        }
        self.respond(changed?).await
    }

    /// What was done is done, whether it can be written down or not; that it was asked for has been.
    async fn note(&self, end: Act) {
        let outcome = end.outcome;
        if let Err(error) = self.journal.write_now(&self.ledger, end).await {
            tracing::error!(%error, outcome, "the end of a change is not in the audit");
        }
    }

    async fn respond(self, changed: Changed) -> Result<ChangeResponse, NotDone> {
        let ids = changed.rows.iter().map(|row| row.writer).collect();
        let writers = writers(&self.ledger, &self.admin.grant, ids).await?;
        let rows = changed.rows.into_iter().map(|row| ChangeRow {
            workspace: row.workspace,
            scope: row.scope,
            writer: row.writer.0,
            entries: row.entries,
            bytes: row.bytes,
        });
        Ok(ChangeResponse {
            dry_run: self.dry_run,
            entries: changed.entries,
            bytes: changed.bytes,
            refused: changed.refused,
            rows: rows.collect(),
            entries_beyond_rows: changed.entries_beyond_rows,
            writers,
        })
    }
}

fn name(change: Change) -> ActName {
    match change {
        Change::Purge => ActName::Purge,
        Change::Quarantine => ActName::Quarantine,
        Change::Release => ActName::Release,
    }
}

/// The conditions, as they were asked for.
fn details(request: &SelectionRequest) -> Map<String, Value> {
    let mut details = match serde_json::to_value(request) {
        Ok(Value::Object(details)) => details,
        Ok(_) | Err(_) => Map::new(),
    };
    details.retain(|_, value| *value != Value::Bool(false));
    details.remove("progress");
    details
}
