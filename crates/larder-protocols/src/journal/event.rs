//! What can be recorded.

use std::net::IpAddr;

use larder_model::{Dialect, EntryKey, Scope, WorkspaceName, WriteGrant, WriterId};
use serde_json::{Map, Value};

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// An assertion was stored.
    Written(Written),
    /// Blobs were stored: `count` of them with `bytes` bytes. The key says nothing and is not kept.
    Blobs(Written),
    /// A write was refused, or a credential was bad.
    Refused(Refused),
    /// Somebody changed what is kept or who may do what.
    Act(Box<Act>),
}

/// The result of an action took the place of one with other outputs. It gets no row in the audit, which has one of the write; the
/// ledger counts such results by action.
pub type Rewritten = larder_ledger::Rewrite;

/// What was stored, by whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// When, in unix milliseconds.
    pub at_ms: u64,
    /// The workspace.
    pub workspace: WorkspaceName,
    /// The scope.
    pub scope: Scope,
    /// The writer.
    pub writer: WriterId,
    /// The dialect of the entries.
    pub dialect: Dialect,
    /// The key; `None` for blobs.
    pub key: Option<EntryKey>,
    /// Where the bytes came from; `None` is the control socket.
    pub address: Option<IpAddr>,
    /// How many entries.
    pub count: u64,
    /// How many bytes, as they were sent.
    pub bytes: u64,
}

impl Written {
    /// One entry of `bytes` bytes that was written with `grant`.
    pub fn new(grant: &WriteGrant, dialect: Dialect, bytes: u64, at_ms: u64) -> Self {
        Self {
            at_ms,
            workspace: grant.workspace().clone(),
            scope: grant.scope().clone(),
            writer: grant.writer(),
            dialect,
            key: None,
            address: None,
            count: 1,
            bytes,
        }
    }
}

/// A write that was refused, or a credential that was bad.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// When, in unix milliseconds.
    pub at_ms: u64,
    /// The name of the reason, as in metrics.
    pub reason: &'static str,
    /// Whether it is the credential that was refused.
    pub bad_credential: bool,
    /// Whose keys it was about, if that came to light.
    pub dialect: Option<Dialect>,
    /// The workspace of the credential, if that is good or once was.
    pub workspace: Option<WorkspaceName>,
    /// The writer, if the credential is good or once was.
    pub writer: Option<WriterId>,
    /// Where it came from.
    pub address: Option<IpAddr>,
}

/// What somebody can do on purpose, in the words of the audit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActName {
    /// Who may do what was changed: the configuration was read again, or a rule of it is new.
    PolicyChanged,
    /// Entries are about to be removed, or were.
    Purge,
    /// Entries were taken out of everybody's sight, with their bytes kept.
    Quarantine,
    /// Entries came back from quarantine.
    Release,
    /// Something else that an operator must be able to look up: an entry that was exported.
    Export,
    /// A trusted writer stored what would have been refused to any other: it would reach outside of where it is unpacked.
    Flagged,
}

impl ActName {
    /// The word in the audit.
    pub fn name(self) -> &'static str {
        match self {
            Self::PolicyChanged => "policy-changed",
            Self::Purge => "purge",
            Self::Quarantine => "quarantine",
            Self::Release => "release",
            Self::Export => "export",
            Self::Flagged => "flagged",
        }
    }
}

/// Who acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// The server's own user, at the command line or the control socket.
    Operator,
    /// The server by itself, as its configuration says.
    Server,
    /// Whoever has the credential of this writer.
    Writer(WriterId),
}

/// What somebody did.
#[derive(Debug, Clone, PartialEq)]
pub struct Act {
    /// When, in unix milliseconds.
    pub at_ms: u64,
    /// What.
    pub name: ActName,
    /// Who.
    pub actor: Actor,
    /// How it went: `requested`, `done`, `failed`.
    pub outcome: &'static str,
    /// The workspace, if it is about one.
    pub workspace: Option<WorkspaceName>,
    /// The scope, if it is about one.
    pub scope: Option<String>,
    /// The dialect, if it is about one.
    pub dialect: Option<Dialect>,
    /// The key as people see it, if it is about one.
    pub key: Option<String>,
    /// Where the request came from.
    pub address: Option<IpAddr>,
    /// How many entries it is about.
    pub count: u64,
    /// How many bytes.
    pub bytes: u64,
    /// What belongs to this act alone: the conditions of a purge, the names of changed rules. At most 4096 bytes as JSON.
    pub details: Map<String, Value>,
}

impl Act {
    /// An act that was done, about one thing.
    pub fn new(name: ActName, actor: Actor, at_ms: u64) -> Self {
        Self {
            at_ms,
            name,
            actor,
            outcome: "done",
            workspace: None,
            scope: None,
            dialect: None,
            key: None,
            address: None,
            count: 1,
            bytes: 0,
            details: Map::new(),
        }
    }
}

impl From<Written> for Event {
    fn from(written: Written) -> Self {
        match written.key {
            Some(_) => Self::Written(written),
            None => Self::Blobs(written),
        }
    }
}

impl From<Refused> for Event {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Act> for Event {
    fn from(act: Act) -> Self {
        Self::Act(Box::new(act))
    }
}
