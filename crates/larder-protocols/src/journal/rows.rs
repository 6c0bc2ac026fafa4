//! From events to rows of the audit: what gets one of its own, what is summed, and the words.

use std::collections::VecDeque;
use std::net::IpAddr;

use larder_ledger::{NewAuditRow, OPERATOR};
use larder_model::{Dialect, WriterId};
use serde_json::{Map, Value, json};

use super::allowance::{Allowance, REFUSALS, Untrusted};
use super::event::{Act, Actor, Event, Refused, Written};
use super::pending::{Sum, Summed, Sums, Taken, WRITTEN_COUNT_MAX, add_stored};
use crate::shown_key::ShownKey;

/// How many rows wait while the ledger cannot be written. Above that nothing more is taken from what is pending, which has bounds of
/// its own.
const WAITING_ROWS_MAX: usize = 2 * WRITTEN_COUNT_MAX;
/// The most characters of a text in a row: a key has at most 512 bytes.
const TEXT_CHARS_MAX: usize = 2048;
/// The most bytes of the details of a row.
pub(crate) const DETAILS_BYTES_MAX: usize = 4096;

/// The server itself, as it is called in the audit.
const SERVER: &str = "server";
/// The action of the row that counts what has none.
const LOST: &str = "audit-lost";

/// The rows that are to be written, in order, and what decides about the next ones.
#[derive(Default)]
pub(super) struct Rows {
    waiting: VecDeque<NewAuditRow>,
    /// Refusals that had no allowance: they wait in their sums.
    refused: Sums,
    untrusted: Untrusted,
    refusals: Option<Allowance>,
    lost: u64,
    /// How much of that has no row yet that counts it.
    lost_uncounted: u64,
}

impl Rows {
    pub(super) fn room(&self) -> bool {
        self.waiting.len() < WAITING_ROWS_MAX
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Turns what was taken into rows.
    pub(super) fn add(&mut self, taken: Taken, now_ms: u64) {
        let Taken {
            written,
            acts,
            flagged,
            mut stored,
            refused,
            lost,
        } = taken;
        self.lose(lost);
        for act in acts.into_iter().chain(flagged) {
            self.waiting.push_back(of_act(act));
        }
        for written in written {
            if written.scope.is_trusted()
                || self
                    .untrusted
                    .take(&written.workspace, &written.scope, now_ms)
            {
                self.waiting.push_back(of_written(&written));
            } else if !add_stored(&mut stored, written) {
                self.lose(1);
            }
        }
        let sums = stored.of.into_iter();
        self.waiting
            .extend(sums.map(|(key, sum)| of_sum(&key, sum)));
        self.add_refusals(refused, now_ms);
        if self.lost_uncounted > 0 {
            let count = std::mem::take(&mut self.lost_uncounted);
            self.waiting.push_back(NewAuditRow {
                at_ms: now_ms,
                action: LOST.to_owned(),
                actor: Some(SERVER.to_owned()),
                count,
                ..NewAuditRow::default()
            });
        }
    }

    /// Refusals get rows as far as the allowance goes; the rest is summed until there is more of it.
    fn add_refusals(&mut self, refused: Sums, now_ms: u64) {
        for (key, sum) in refused.of {
            let others = Summed::OtherRefusals {
                bad_credential: key.is_bad_credential(),
            };
            let kept = self
                .refused
                .add(key, sum, super::pending::REFUSED_SUM_COUNT_MAX)
                || self.refused.add(others, sum, usize::MAX);
            debug_assert!(kept, "the rest always has room");
        }
        let allowance = self
            .refusals
            .get_or_insert_with(|| Allowance::full(REFUSALS, now_ms));
        let mut left = Sums::default();
        for (key, sum) in std::mem::take(&mut self.refused.of) {
            if allowance.take(REFUSALS, now_ms) {
                self.waiting.push_back(of_sum(&key, sum));
            } else {
                left.of.insert(key, sum);
            }
        }
        self.refused = left;
    }

    fn lose(&mut self, count: u64) {
        self.lost += count;
        self.lost_uncounted += count;
    }

    /// The first rows, at most `count_max`.
    pub(super) fn portion(&mut self, count_max: usize) -> &[NewAuditRow] {
        let waiting = self.waiting.make_contiguous();
        &waiting[..waiting.len().min(count_max)]
    }

    /// The first `count` rows are in the ledger.
    pub(super) fn written(&mut self, count: usize) {
        self.waiting.drain(..count);
    }

    /// The first row never will be.
    pub(super) fn refused(&mut self) {
        self.waiting.pop_front();
        self.lose(1);
    }
}

impl Summed {
    fn is_bad_credential(&self) -> bool {
        match self {
            Self::Stored { .. } => false,
            Self::Refused { bad_credential, .. } | Self::OtherRefusals { bad_credential } => {
                *bad_credential
            }
        }
    }
}

/// The row of an event that is written by itself.
pub(super) fn of_event(event: Event) -> NewAuditRow {
    match event {
        Event::Written(written) | Event::Blobs(written) => of_written(&written),
        Event::Refused(refused) => of_refused(&refused),
        Event::Act(act) => of_act(*act),
    }
}

fn of_written(written: &Written) -> NewAuditRow {
    let shown = written.key.as_ref();
    let shown = shown.map(|key| ShownKey::of(written.dialect, key));
    let mut details = Map::new();
    if let Some(shown) = &shown {
        if let Some(function) = shown.function {
            details.insert("digest_function".to_owned(), json!(function));
        }
        if let Some(instance) = &shown.instance {
            details.insert("instance".to_owned(), json!(instance));
        }
    }
    NewAuditRow {
        at_ms: written.at_ms,
        action: "write".to_owned(),
        outcome: "stored".to_owned(),
        workspace: Some(written.workspace.to_string()),
        scope: Some(written.scope.to_string()),
        dialect: Some(written.dialect.name().to_owned()),
        key: shown.map(|shown| clean(&shown.text)),
        writer: Some(written.writer.0),
        address: address(written.address),
        count: written.count,
        bytes: written.bytes,
        details: object(details),
        ..NewAuditRow::default()
    }
}

fn of_refused(refused: &Refused) -> NewAuditRow {
    NewAuditRow {
        workspace: refused.workspace.as_ref().map(ToString::to_string),
        dialect: refused.dialect.map(dialect),
        writer: refused.writer.map(writer),
        address: address(refused.address),
        ..refusal(refused.bad_credential, refused.reason, refused.at_ms)
    }
}

fn refusal(bad_credential: bool, reason: &str, at_ms: u64) -> NewAuditRow {
    let action = if bad_credential {
        "bad-credential"
    } else {
        "write"
    };
    NewAuditRow {
        at_ms,
        action: action.to_owned(),
        outcome: "refused".to_owned(),
        reason: Some(reason.to_owned()),
        ..NewAuditRow::default()
    }
}

fn of_sum(key: &Summed, sum: Sum) -> NewAuditRow {
    let at_ms = sum.first_at_ms;
    let row = match key {
        Summed::Stored {
            workspace,
            scope,
            writer,
            dialect,
            address,
        } => of_written(&Written {
            at_ms,
            workspace: workspace.clone(),
            scope: scope.clone(),
            writer: *writer,
            dialect: *dialect,
            key: None,
            address: *address,
            count: sum.count,
            bytes: sum.bytes,
        }),
        Summed::Refused {
            reason,
            bad_credential,
            dialect,
            workspace,
            writer,
            address,
        } => of_refused(&Refused {
            at_ms,
            reason,
            bad_credential: *bad_credential,
            dialect: *dialect,
            workspace: workspace.clone(),
            writer: *writer,
            address: *address,
        }),
        Summed::OtherRefusals { bad_credential } => refusal(*bad_credential, "others", at_ms),
    };
    NewAuditRow {
        count: sum.count,
        ..row
    }
}

fn of_act(act: Act) -> NewAuditRow {
    let (writer, actor) = match act.actor {
        Actor::Operator => (None, Some(OPERATOR.to_owned())),
        Actor::Server => (None, Some(SERVER.to_owned())),
        Actor::Writer(writer) => (Some(writer.0), None),
    };
    NewAuditRow {
        at_ms: act.at_ms,
        action: act.name.name().to_owned(),
        outcome: act.outcome.to_owned(),
        reason: None,
        workspace: act.workspace.as_ref().map(ToString::to_string),
        scope: act.scope.as_deref().map(clean),
        dialect: act.dialect.map(dialect),
        key: act.key.as_deref().map(clean),
        writer,
        actor,
        address: address(act.address),
        count: act.count,
        bytes: act.bytes,
        details: object(act.details),
    }
}

fn dialect(dialect: Dialect) -> String {
    dialect.name().to_owned()
}

fn writer(writer: WriterId) -> u64 {
    writer.0
}

/// An address as its family writes it: an IPv4 client of an IPv6 socket is an IPv4 client.
fn address(address: Option<IpAddr>) -> Option<String> {
    address.map(|address| address.to_canonical().to_string())
}

/// A text without control characters, and not longer than a row has room for.
fn clean(text: &str) -> String {
    let cut = text.chars().take(TEXT_CHARS_MAX);
    cut.map(|char| {
        if char.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            char
        }
    })
    .collect()
}

/// Details as JSON, which escapes control characters. What is too long says so and no more.
fn object(details: Map<String, Value>) -> Option<String> {
    if details.is_empty() {
        return None;
    }
    let text = Value::Object(details).to_string();
    Some(if text.len() > DETAILS_BYTES_MAX {
        json!({ "left_out_bytes": text.len() }).to_string()
    } else {
        text
    })
}
