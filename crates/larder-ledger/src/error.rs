//! What can go wrong with the ledger, by what its reader can do about it.

use std::io;
use std::path::PathBuf;

use sqlx::migrate::MigrateError;

/// Why the ledger did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A workspace of that name exists.
    #[error("workspace {workspace:?} exists already")]
    Exists {
        /// The workspace's name.
        workspace: String,
    },
    /// The workspace, token or writer that the call is about is not there.
    #[error("there is no {0}")]
    NotFound(Missing),
    /// The workspace cannot be deleted while it has tokens that are not revoked.
    #[error(
        "workspace {workspace:?} has {token_count} token(s) that are not revoked; \
         revoke them first: larder token list"
    )]
    InUse {
        /// The workspace's name.
        workspace: String,
        /// How many of its tokens are not revoked.
        token_count: u64,
    },
    /// A token or session of the same text is in the ledger, revoked or not.
    #[error("this very token is in the ledger already")]
    TokenExists,
    /// What may be exchanged once has been exchanged before.
    #[error("this was exchanged for a session before")]
    UsedBefore,
    /// The writer was revoked: nothing that is issued to it counts any more.
    #[error("writer {0} was revoked")]
    RevokedWriter(u64),
    /// The scope would be, or hold, one that another writer is given without asking.
    #[error(
        "scopes that begin with {label:?} are given to tokens without a scope of their own and to runs of a CI; \
         choose another first label"
    )]
    ReservedScope {
        /// The scope's first label.
        label: String,
    },
    /// A value breaks one of the ledger's rules: the grammar of a name, the words of access, or
    /// "a scope for isolated and gate access and for no other".
    #[error("the ledger does not accept these values: {rule}")]
    Invalid {
        /// The rule as the database words it.
        rule: String,
    },
    /// Another process held the ledger for longer than a write may take.
    #[error("the ledger is locked by another process; try again, or look for a process that hangs")]
    Busy,
    /// A newer version of Larder has changed the ledger.
    #[error(
        "the ledger was written by a newer version of Larder (its migration {version} is unknown \
         here); run that version or a later one"
    )]
    Newer {
        /// The number of the first unknown migration.
        version: i64,
    },
    /// The file is no ledger, or it is damaged.
    #[error("{path:?} is not a ledger, or it is damaged: {reason}; restore it from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the database says.
        reason: String,
    },
    /// The file cannot be created, opened or made private.
    #[error("cannot use {path:?} as the ledger")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The database failed in another way, such as a full disk.
    #[error("the ledger's database failed")]
    Database(#[source] sqlx::Error),
}

/// What is not in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// A workspace, by name.
    #[error("workspace {0:?}; see: larder workspace list")]
    Workspace(String),
    /// A token, by id.
    #[error("token {0}; see: larder token list")]
    Token(u64),
    /// A writer, by id.
    #[error("writer {0}")]
    Writer(u64),
}

/// The primary result codes of SQLite, <https://www.sqlite.org/rescode.html>.
mod code {
    pub(super) const BUSY: u32 = 5;
    pub(super) const LOCKED: u32 = 6;
    pub(super) const CORRUPT: u32 = 11;
    pub(super) const CANTOPEN: u32 = 14;
    pub(super) const NOT_A_DATABASE: u32 = 26;
}

fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let extended: u32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}

impl LedgerError {
    /// Whether waiting may help.
    pub(crate) fn is_busy(error: &sqlx::Error) -> bool {
        matches!(error, sqlx::Error::PoolTimedOut)
            || matches!(primary_code(error), Some(code::BUSY | code::LOCKED))
    }

    /// An error of opening the ledger at `path`.
    pub(crate) fn opening(path: PathBuf, error: sqlx::Error) -> Self {
        match primary_code(&error) {
            Some(code::CORRUPT | code::NOT_A_DATABASE) => Self::Damaged {
                path,
                reason: error.to_string(),
            },
            Some(code::CANTOPEN) => Self::File {
                path,
                source: io::Error::other(error),
            },
            _ => error.into(),
        }
    }

    /// An error of bringing the ledger at `path` to this version's tables.
    pub(crate) fn migrating(path: PathBuf, error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                Self::opening(path, error)
            }
            MigrateError::VersionMissing(version) => Self::Newer { version },
            other => Self::Damaged {
                path,
                reason: other.to_string(),
            },
        }
    }
}

impl From<sqlx::Error> for LedgerError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            error if Self::is_busy(error) => Self::Busy,
            sqlx::Error::Database(refusal) if refusal.is_check_violation() => Self::Invalid {
                rule: refusal.message().to_owned(),
            },
            _ => Self::Database(error),
        }
    }
}
