//! Rows of the ledger as plain values, and how numbers cross into SQL and back.
//!
//! SQL has no unsigned numbers. What is too large for `BIGINT` is stored as the largest one:
//! a time that never comes, an id that no token has. What is negative in the file, which only a
//! foreign hand can have written, is read as 0: a time long past.

use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row};

/// A workspace in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceRow {
    /// The name.
    pub name: String,
    /// When it was created, in unix milliseconds.
    pub created_at_ms: u64,
}

/// A token to be put into the ledger.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// The SHA-256 of the token's text.
    pub hash: [u8; 32],
    /// The workspace it belongs to.
    pub workspace: String,
    /// `trusted`, `isolated`, `reader` or `admin`.
    pub access: String,
    /// The scope of an isolated token; `None` gives it `token/ID`. Other tokens have none.
    pub scope: Option<String>,
    /// What people call it, 1 to 200 characters.
    pub name: Option<String>,
    /// When it was created, in unix milliseconds.
    pub created_at_ms: u64,
    /// When it stops working, in unix milliseconds; `None` is never.
    pub expires_at_ms: Option<u64>,
}

/// A token in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Its number, never used for another token.
    pub id: u64,
    /// The SHA-256 of the token's text.
    pub hash: [u8; 32],
    /// The workspace it belongs to.
    pub workspace: String,
    /// `trusted`, `isolated`, `reader` or `admin`.
    pub access: String,
    /// The scope of an isolated token; other tokens have none.
    pub scope: Option<String>,
    /// What people call it.
    pub name: Option<String>,
    /// When it was created, in unix milliseconds.
    pub created_at_ms: u64,
    /// When it stops working, in unix milliseconds; `None` is never.
    pub expires_at_ms: Option<u64>,
    /// When it was revoked, in unix milliseconds, if it was.
    pub revoked_at_ms: Option<u64>,
    /// When it was last used, in unix milliseconds, as far as that has been recorded.
    pub last_used_at_ms: Option<u64>,
}

pub(crate) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn from_sql(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

impl FromRow<'_, SqliteRow> for WorkspaceRow {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            name: row.try_get("name")?,
            created_at_ms: from_sql(row.try_get("created_at_ms")?),
        })
    }
}

impl FromRow<'_, SqliteRow> for TokenRow {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let time =
            |column| Ok::<_, sqlx::Error>(row.try_get::<Option<i64>, _>(column)?.map(from_sql));
        let hash: &[u8] = row.try_get("hash")?;
        Ok(Self {
            id: from_sql(row.try_get("id")?),
            hash: hash.try_into().map_err(|error| sqlx::Error::ColumnDecode {
                index: "hash".to_owned(),
                source: Box::new(error),
            })?,
            workspace: row.try_get("workspace")?,
            access: row.try_get("access")?,
            scope: row.try_get("scope")?,
            name: row.try_get("name")?,
            created_at_ms: from_sql(row.try_get("created_at_ms")?),
            expires_at_ms: time("expires_at_ms")?,
            revoked_at_ms: time("revoked_at_ms")?,
            last_used_at_ms: time("last_used_at_ms")?,
        })
    }
}
