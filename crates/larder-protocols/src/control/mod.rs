//! The control API: purge, quarantine, entries, stats and verify as JSON over HTTP.
//!
//! | request | answer |
//! |---|---|
//! | `POST /v1/control/purge`, `…/quarantine` or `…/release` with a [`SelectionRequest`] | [`ChangeResponse`] |
//! | `POST /v1/control/entries` with a [`SelectionRequest`] | [`EntriesResponse`] |
//! | `POST /v1/control/export` with an [`ExportRequest`] | the entry's bytes |
//! | `GET /v1/control/stats` | [`StatsResponse`] |
//! | `GET /v1/control/audit?after=ID&limit=N` | [`AuditResponse`] |
//! | `GET /v1/control/nondeterministic` | [`NondeterministicResponse`] |
//! | `POST /v1/control/verify` | a [`Line`] of [`VerifyResponse`] per line, the last one its result |
//!
//! With `"progress": true` the answers to a selection come in [`Line`]s as well. On the TCP port it takes an admin token
//! and is confined to that token's workspace; on the control socket the caller is the server's operator. What changes
//! entries is in the audit before it begins. Everything that goes wrong is an [`ErrorResponse`] with 400, 401, 403, 404
//! or 503. Unlike a build tool, whoever calls this wants to know.

mod audit;
mod change;
mod entries;
mod lines;
pub(crate) mod routes;
mod selection;
mod status;
mod wire;
mod writers;

pub use audit::{AuditRecord, AuditResponse, audit_records};
pub use selection::{EntryState, SelectionRequest};
pub use wire::{
    ChangeResponse, ChangeRow, EntriesResponse, EntryFigures, ErrorResponse, ExportRequest,
    KeyBytes, Line, NondeterministicAction, NondeterministicResponse, PoolFigures, ScopeFigures,
    StatsResponse, VerifyResponse, WriterFigures,
};
