//! The control plane's memory: workspaces and tokens, in one SQLite file.
//!
//! The ledger stores what it is told and decides nothing about trust. It knows no other crate of
//! Larder: names and words of access are text here, and whoever reads them turns them into types.
//!
//! Always true:
//! - The file belongs to its owner alone (mode 0600) and holds hashes of tokens, never tokens.
//! - Several processes may have one ledger open; each waits for the other's writes, and each
//!   learns of the other's changes through [`Ledger::change_mark`].
//! - A write that returned is on disk: a revocation survives a power cut.
//! - The id of a token is never given to another one.
//!
//! The queries are one SQL text for SQLite and PostgreSQL (`$1`, `RETURNING`); what differs is in
//! `migrations/` and in `open.rs`.

#![forbid(unsafe_code)]

mod error;
mod ledger;
mod open;
mod rows;

pub use error::{LedgerError, Missing};
pub use ledger::Ledger;
pub use rows::{NewToken, TokenRow, WorkspaceRow};
