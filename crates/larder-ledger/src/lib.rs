//! The control plane's memory, in one SQLite file: workspaces, credentials, who wrote, what was done.
//!
//! The ledger stores what it is told and decides nothing about trust. It knows no other crate of
//! Larder: names and words of access are text here, and whoever reads them turns them into types.
//!
//! A *writer* is whoever entries name as their writer: a token, a run of a CI, a certificate. A *session* is what a CI's token was
//! exchanged for; it writes as its writer. The *audit* is what was done. A *pack* is an object of a bucket with entries in it.
//!
//! Always true:
//! - The file belongs to its owner alone (mode 0600) and holds hashes of secrets, never secrets.
//! - Several processes may have one ledger open; each waits for the other's writes, and each
//!   learns of the other's changes through [`Ledger::change_mark`].
//! - A write that returned is on disk: a revocation survives a power cut.
//! - The id of a writer is never given to another one, and no token has the id of what is no token.
//! - A credential or a workspace changes in one transaction with the row of the audit that says so.
//! - Rows of the audit are added, and deleted when their time is over. Nothing changes them.
//!
//! The queries are one SQL text for SQLite and PostgreSQL (`$1`, `RETURNING`); what differs is in
//! `migrations/` and in `open.rs`.

#![forbid(unsafe_code)]

mod audit;
mod error;
mod ledger;
mod open;
mod packs;
mod retention;
mod rewrites;
mod rows;
mod sessions;
mod tokens;
mod workspaces;
mod writers;

pub use audit::{AuditFilter, AuditRow, NewAuditRow, OPERATOR};
pub use error::{LedgerError, Missing};
pub use ledger::{Ledger, Mark};
pub use packs::{NewPack, OrderRow, PackRow, PackSums};
pub use retention::{Pruned, Retention};
pub use rewrites::{Rewrite, RewriteRow};
pub use sessions::{NewSession, Once, SessionRow};
pub use tokens::{NewToken, TokenRow};
pub use workspaces::WorkspaceRow;
pub use writers::{NewWriter, ProvenanceColumns, WriterFilter, WriterKind, WriterRow};
