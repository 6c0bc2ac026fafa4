//! Sessions: what the token of a CI was exchanged for, and what may be exchanged only once.
//!
//! A session lasts hours, and is kept for a while after its end, so that its late bearer is known for one whose time is over.
//! A writer has a bounded number of them; and one that was revoked gets no more.

use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, QueryBuilder, Row, Sqlite, SqliteConnection};

use crate::audit::{NewAuditRow, OPERATOR, SERVER, insert};
use crate::error::{LedgerError, Missing};
use crate::ledger::Ledger;
use crate::rows::{hash, number, number_if_any, to_sql};
use crate::workspaces::must_exist;

/// How many sessions of a writer are in force at once; one more ends the oldest. A writer is a run, and a run of GitHub has at most
/// 256 jobs from one matrix; each job exchanges once.
const LIVE_SESSIONS_MAX: i64 = 256;

/// A session to be put into the ledger.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// The SHA-256 of the session token's text.
    pub hash: [u8; 32],
    /// The writer that it writes as.
    pub writer: u64,
    /// The workspace it belongs to.
    pub workspace: String,
    /// `trusted`, `clean-room`, `isolated`, `gate` or `reader`.
    pub access: String,
    /// The scope of isolated and gate access; other access has none.
    pub scope: Option<String>,
    /// What stands for the rule that gave it: see [`Ledger::end_sessions_of_other_rules`].
    pub rule_mark: Option<[u8; 32]>,
    /// When it was created, in unix milliseconds.
    pub created_at_ms: u64,
    /// When it stops working, in unix milliseconds.
    pub expires_at_ms: u64,
    /// What it was exchanged for, if that may be exchanged only once.
    pub once: Option<Once>,
    /// Where the request for it came from.
    pub address: Option<String>,
}

/// A token of an issuer that may be exchanged once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// The issuer's URL.
    pub issuer: String,
    /// The hash of the token's id, or of the token.
    pub jti_hash: [u8; 32],
    /// Until when that token could be presented again, in unix milliseconds, with all leeway.
    pub until_ms: u64,
}

/// A session in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// The SHA-256 of the session token's text.
    pub hash: [u8; 32],
    /// The writer that it writes as.
    pub writer: u64,
    /// The workspace it belongs to.
    pub workspace: String,
    /// `trusted`, `clean-room`, `isolated`, `gate` or `reader`.
    pub access: String,
    /// The scope of isolated and gate access; other access has none.
    pub scope: Option<String>,
    /// When it was created, in unix milliseconds.
    pub created_at_ms: u64,
    /// When it stops working, in unix milliseconds.
    pub expires_at_ms: u64,
    /// When it was revoked, in unix milliseconds, if it was.
    pub revoked_at_ms: Option<u64>,
    /// The number of [`crate::Mark::sessions`] when it was created or last changed.
    pub revision: u64,
}

impl Ledger {
    /// Adds a session. What it was exchanged for counts as used from then on, whether this process lives or not.
    pub async fn create_session(&self, new: NewSession) -> Result<SessionRow, LedgerError> {
        let mut writing = self.write().await?;
        if let Some(once) = &new.once {
            use_once(&mut writing.transaction, once).await?;
        }
        let refused = |error: sqlx::Error| match error.as_database_error() {
            Some(refusal) if refusal.is_foreign_key_violation() => {
                LedgerError::NotFound(Missing::Writer(new.writer))
            }
            Some(refusal) if refusal.is_unique_violation() => LedgerError::TokenExists,
            _ => error.into(),
        };
        sqlx::query(
            "INSERT INTO sessions (
                 hash, writer, workspace, access, scope, rule_mark, created_at_ms, expires_at_ms
             ) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(new.hash.as_slice())
        .bind(to_sql(new.writer))
        .bind(&new.workspace)
        .bind(&new.access)
        .bind(&new.scope)
        .bind(new.rule_mark.as_ref().map(<[u8; 32]>::as_slice))
        .bind(to_sql(new.created_at_ms))
        .bind(to_sql(new.expires_at_ms))
        .execute(&mut *writing.transaction)
        .await
        .map_err(refused)?;
        must_exist(&mut writing.transaction, &new.workspace).await?;
        must_be_good(&mut writing.transaction, new.writer).await?;
        // Read back, because its revision is set after the insertion.
        let row: SessionRow = sqlx::query_as("SELECT * FROM sessions WHERE hash = $1")
            .bind(new.hash.as_slice())
            .fetch_one(&mut *writing.transaction)
            .await?;
        let created = audit_of("session-created", &row, row.created_at_ms);
        let created = NewAuditRow {
            address: new.address,
            ..created
        };
        insert(&mut writing.transaction, &created).await?;
        end_oldest(&mut writing.transaction, &row).await?;
        writing.commit().await?;
        Ok(row)
    }

    /// The session with this hash, whether it is in force or not.
    pub async fn session(&self, hash: &[u8; 32]) -> Result<Option<SessionRow>, LedgerError> {
        let row = sqlx::query_as("SELECT * FROM sessions WHERE hash = $1").bind(hash.as_slice());
        Ok(row.fetch_optional(&self.pool).await?)
    }

    /// The sessions that end after this time, in unix milliseconds, revoked ones too.
    pub async fn sessions(&self, ended_after_ms: u64) -> Result<Vec<SessionRow>, LedgerError> {
        let rows = sqlx::query_as(
            "SELECT * FROM sessions WHERE expires_at_ms > $1 ORDER BY expires_at_ms",
        )
        .bind(to_sql(ended_after_ms));
        Ok(rows.fetch_all(&self.pool).await?)
    }

    /// The sessions that were created or changed after the mark with this [`crate::Mark::sessions`].
    pub async fn sessions_since(&self, revision: u64) -> Result<Vec<SessionRow>, LedgerError> {
        let rows = sqlx::query_as("SELECT * FROM sessions WHERE revision > $1 ORDER BY revision")
            .bind(to_sql(revision));
        Ok(rows.fetch_all(&self.pool).await?)
    }

    /// Revokes a session, for good, as its bearer wishes, who asks from `address`. `None`: there is none with this hash. One that
    /// was revoked before keeps the time of that.
    pub async fn revoke_session(
        &self,
        hash: &[u8; 32],
        address: Option<&str>,
        now_ms: u64,
    ) -> Result<Option<SessionRow>, LedgerError> {
        let mut writing = self.write().await?;
        let revoked = sqlx::query(
            "UPDATE sessions SET revoked_at_ms = $2 WHERE hash = $1 AND revoked_at_ms IS NULL",
        )
        .bind(hash.as_slice())
        .bind(to_sql(now_ms))
        .execute(&mut *writing.transaction)
        .await?;
        let row: Option<SessionRow> = sqlx::query_as("SELECT * FROM sessions WHERE hash = $1")
            .bind(hash.as_slice())
            .fetch_optional(&mut *writing.transaction)
            .await?;
        if let Some(row) = &row
            && revoked.rows_affected() > 0
        {
            let revoked = NewAuditRow {
                address: address.map(str::to_owned),
                ..audit_of("session-revoked", row, now_ms)
            };
            insert(&mut writing.transaction, &revoked).await?;
        }
        writing.commit().await?;
        Ok(row)
    }

    /// Revokes these writers as the operator wishes, for good, and all their sessions; says how many of these were in force. A writer
    /// without a run stands for all runs to come, and certificates and tokens have no sessions: of those only what sessions
    /// they have ends.
    pub async fn revoke_writers(&self, writers: &[u64], now_ms: u64) -> Result<u64, LedgerError> {
        let mut writing = self.write().await?;
        let mut ended = 0;
        for &writer in writers {
            let revoked: Option<(String, Option<String>)> = sqlx::query_as(
                "UPDATE writers SET revoked_at_ms = $2
                 WHERE id = $1 AND kind = 'ci' AND run_id IS NOT NULL AND revoked_at_ms IS NULL
                 RETURNING workspace, scope",
            )
            .bind(to_sql(writer))
            .bind(to_sql(now_ms))
            .fetch_optional(&mut *writing.transaction)
            .await?;
            if let Some((workspace, scope)) = revoked {
                let row = NewAuditRow {
                    scope,
                    writer: Some(writer),
                    ..NewAuditRow::by_operator("writer-revoked", &workspace, now_ms)
                };
                insert(&mut writing.transaction, &row).await?;
            }
            let hashes: Vec<Vec<u8>> = sqlx::query_scalar(
                "UPDATE sessions SET revoked_at_ms = $2
                 WHERE writer = $1 AND revoked_at_ms IS NULL AND expires_at_ms > $2
                 RETURNING hash",
            )
            .bind(to_sql(writer))
            .bind(to_sql(now_ms))
            .fetch_all(&mut *writing.transaction)
            .await?;
            note_ended(&mut writing.transaction, &hashes, OPERATOR, now_ms).await?;
            ended += hashes.len() as u64;
        }
        writing.commit().await?;
        Ok(ended)
    }

    /// Ends the sessions that were given by rules with none of these marks: by rules that are gone, or that say something else
    /// by now. Says how many were in force.
    pub async fn end_sessions_of_other_rules(
        &self,
        marks: &[[u8; 32]],
        now_ms: u64,
    ) -> Result<u64, LedgerError> {
        let mut query = QueryBuilder::<Sqlite>::new("UPDATE sessions SET revoked_at_ms = ");
        query.push_bind(to_sql(now_ms));
        query.push(" WHERE revoked_at_ms IS NULL AND expires_at_ms > ");
        query.push_bind(to_sql(now_ms));
        if !marks.is_empty() {
            query.push(" AND (rule_mark IS NULL OR rule_mark NOT IN (");
            let mut list = query.separated(", ");
            for mark in marks {
                list.push_bind(mark.to_vec());
            }
            query.push("))");
        }
        query.push(" RETURNING hash");
        let mut writing = self.write().await?;
        let hashes: Vec<Vec<u8>> = query
            .build_query_scalar()
            .fetch_all(&mut *writing.transaction)
            .await?;
        note_ended(&mut writing.transaction, &hashes, SERVER, now_ms).await?;
        writing.commit().await?;
        Ok(hashes.len() as u64)
    }
}

/// Refuses what is about a writer that was revoked.
async fn must_be_good(connection: &mut SqliteConnection, writer: u64) -> Result<(), LedgerError> {
    let revoked_at_ms: Option<i64> =
        sqlx::query_scalar("SELECT revoked_at_ms FROM writers WHERE id = $1")
            .bind(to_sql(writer))
            .fetch_one(connection)
            .await?;
    match revoked_at_ms {
        None => Ok(()),
        Some(_) => Err(LedgerError::RevokedWriter(writer)),
    }
}

/// Ends the oldest sessions of the writer of `new` if that is one too many.
async fn end_oldest(
    connection: &mut SqliteConnection,
    new: &SessionRow,
) -> Result<(), LedgerError> {
    let now_ms = new.created_at_ms;
    let hashes: Vec<Vec<u8>> = sqlx::query_scalar(
        "UPDATE sessions SET revoked_at_ms = $2 WHERE rowid IN (
             SELECT rowid FROM sessions
             WHERE writer = $1 AND revoked_at_ms IS NULL AND expires_at_ms > $2
             ORDER BY rowid DESC LIMIT -1 OFFSET $3
         ) RETURNING hash",
    )
    .bind(to_sql(new.writer))
    .bind(to_sql(now_ms))
    .bind(LIVE_SESSIONS_MAX)
    .fetch_all(&mut *connection)
    .await?;
    note_ended(connection, &hashes, SERVER, now_ms).await
}

/// Writes down that `actor` ended the sessions with these hashes.
async fn note_ended(
    connection: &mut SqliteConnection,
    hashes: &[Vec<u8>],
    actor: &str,
    now_ms: u64,
) -> Result<(), LedgerError> {
    for hash in hashes {
        let row = sqlx::query_as("SELECT * FROM sessions WHERE hash = $1").bind(hash);
        let row: SessionRow = row.fetch_one(&mut *connection).await?;
        let row = NewAuditRow {
            actor: Some(actor.to_owned()),
            ..audit_of("session-revoked", &row, now_ms)
        };
        insert(connection, &row).await?;
    }
    Ok(())
}

async fn use_once(connection: &mut SqliteConnection, once: &Once) -> Result<(), LedgerError> {
    let used = sqlx::query(
        "INSERT INTO used_once (issuer, jti_hash, until_ms) VALUES ($1, $2, $3)
         ON CONFLICT (issuer, jti_hash) DO NOTHING",
    )
    .bind(&once.issuer)
    .bind(once.jti_hash.as_slice())
    .bind(to_sql(once.until_ms))
    .execute(connection)
    .await?;
    if used.rows_affected() == 0 {
        return Err(LedgerError::UsedBefore);
    }
    Ok(())
}

fn audit_of(action: &str, row: &SessionRow, at_ms: u64) -> NewAuditRow {
    NewAuditRow {
        at_ms,
        action: action.to_owned(),
        workspace: Some(row.workspace.clone()),
        scope: row.scope.clone(),
        writer: Some(row.writer),
        // A word of access is one of six: nothing to escape. What is deleted early is decided by it, in the migrations as well.
        details: Some(format!(
            r#"{{"access":"{}","expires_at_ms":{}}}"#,
            row.access, row.expires_at_ms
        )),
        ..NewAuditRow::default()
    }
}

impl FromRow<'_, SqliteRow> for SessionRow {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            hash: hash(row, "hash")?,
            writer: number(row, "writer")?,
            workspace: row.try_get("workspace")?,
            access: row.try_get("access")?,
            scope: row.try_get("scope")?,
            created_at_ms: number(row, "created_at_ms")?,
            expires_at_ms: number(row, "expires_at_ms")?,
            revoked_at_ms: number_if_any(row, "revoked_at_ms")?,
            revision: number(row, "revision")?,
        })
    }
}
