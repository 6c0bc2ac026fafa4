//! Static tokens. A token is a writer of its own: its id is its writer's.

use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row};

use crate::audit::{NewAuditRow, OPERATOR, insert};
use crate::error::{LedgerError, Missing};
use crate::ledger::Ledger;
use crate::rows::{hash, number, number_if_any, to_sql};
use crate::workspaces::must_exist;

/// The first label of the scopes that tokens have by default.
const OWN_SCOPES: &str = "token";
/// The first label of the scopes that a CI's runs get, and what such labels begin with.
const CI_SCOPES: &str = "ci";
const CI_SCOPES_PREFIX: &str = "ci.";

/// A token to be put into the ledger.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// The SHA-256 of the token's text.
    pub hash: [u8; 32],
    /// The workspace it belongs to.
    pub workspace: String,
    /// `trusted`, `clean-room`, `isolated`, `gate`, `reader` or `admin`.
    pub access: String,
    /// The scope of an isolated or gate token; `None` gives it `token/ID`. Other tokens have none.
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
    /// Its number, never used for another writer.
    pub id: u64,
    /// The SHA-256 of the token's text.
    pub hash: [u8; 32],
    /// The workspace it belongs to.
    pub workspace: String,
    /// `trusted`, `clean-room`, `isolated`, `gate`, `reader` or `admin`.
    pub access: String,
    /// The scope of an isolated or gate token; other tokens have none.
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

impl Ledger {
    /// Adds a token. An isolated or gate token without a scope gets the scope `token/ID`, which no other
    /// writer has: scopes that begin with `token`, `ci` or `ci.…` cannot be asked for.
    pub async fn create_token(&self, new: NewToken) -> Result<TokenRow, LedgerError> {
        if let Some(label) = new.scope.as_deref().and_then(reserved_label) {
            return Err(LedgerError::ReservedScope {
                label: label.to_owned(),
            });
        }
        let missing = || LedgerError::NotFound(Missing::Workspace(new.workspace.clone()));
        let mut writing = self.write().await?;
        let id: i64 = sqlx::query_scalar(
            "INSERT INTO writers (kind, workspace, access, scope, created_at_ms, last_seen_at_ms)
             VALUES ('token', $1, $2, $3, $4, $4) RETURNING id",
        )
        .bind(&new.workspace)
        .bind(&new.access)
        .bind(&new.scope)
        .bind(to_sql(new.created_at_ms))
        .fetch_one(&mut *writing.transaction)
        .await
        .map_err(|error| match error.as_database_error() {
            Some(refusal) if refusal.is_foreign_key_violation() => missing(),
            _ => error.into(),
        })?;
        must_exist(&mut writing.transaction, &new.workspace).await?;
        let needs_scope = matches!(new.access.as_str(), "isolated" | "gate");
        let mut scope = new.scope;
        if needs_scope && scope.is_none() {
            scope = Some(format!("{OWN_SCOPES}/{id}"));
            sqlx::query("UPDATE writers SET scope = $2 WHERE id = $1")
                .bind(id)
                .bind(&scope)
                .execute(&mut *writing.transaction)
                .await?;
        }
        let row: TokenRow = sqlx::query_as(
            "INSERT INTO tokens (id, hash, workspace, access, scope, name, created_at_ms, expires_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             RETURNING *",
        )
        .bind(id)
        .bind(new.hash.as_slice())
        .bind(&new.workspace)
        .bind(&new.access)
        .bind(&scope)
        .bind(&new.name)
        .bind(to_sql(new.created_at_ms))
        .bind(new.expires_at_ms.map(to_sql))
        .fetch_one(&mut *writing.transaction)
        .await
        .map_err(|error| match error.as_database_error() {
            Some(refusal) if refusal.is_unique_violation() => LedgerError::TokenExists,
            _ => error.into(),
        })?;
        let row_of_audit = audit_of("token-created", &row, row.created_at_ms);
        insert(&mut writing.transaction, &row_of_audit).await?;
        writing.commit().await?;
        Ok(row)
    }

    /// All tokens, revoked and expired ones too, by id.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, LedgerError> {
        Ok(sqlx::query_as("SELECT * FROM tokens ORDER BY id")
            .fetch_all(&self.pool)
            .await?)
    }

    /// The token whose text has this SHA-256, if it is in the ledger.
    pub async fn token_by_hash(&self, hash: &[u8; 32]) -> Result<Option<TokenRow>, LedgerError> {
        let row = sqlx::query_as("SELECT * FROM tokens WHERE hash = $1").bind(hash.as_slice());
        Ok(row.fetch_optional(&self.pool).await?)
    }

    /// Revokes a token, for good. A token that was revoked before keeps the time of that.
    pub async fn revoke_token(&self, id: u64, now_ms: u64) -> Result<TokenRow, LedgerError> {
        let mut writing = self.write().await?;
        let revoked = sqlx::query_as(
            "UPDATE tokens SET revoked_at_ms = $2 WHERE id = $1 AND revoked_at_ms IS NULL
             RETURNING *",
        )
        .bind(to_sql(id))
        .bind(to_sql(now_ms))
        .fetch_optional(&mut *writing.transaction)
        .await?;
        let Some(row) = revoked else {
            let row = sqlx::query_as("SELECT * FROM tokens WHERE id = $1").bind(to_sql(id));
            let row = row.fetch_optional(&mut *writing.transaction).await?;
            return row.ok_or(LedgerError::NotFound(Missing::Token(id)));
        };
        insert(
            &mut writing.transaction,
            &audit_of("token-revoked", &row, now_ms),
        )
        .await?;
        writing.commit().await?;
        Ok(row)
    }

    /// Notes when tokens were last used, as pairs of an id and unix milliseconds. An earlier time
    /// than the noted one changes nothing, nor does an unknown id.
    pub async fn record_last_used(&self, uses: &[(u64, u64)]) -> Result<(), LedgerError> {
        if uses.is_empty() {
            return Ok(());
        }
        let mut writing = self.write().await?;
        for &(id, used_at_ms) in uses {
            sqlx::query(
                "UPDATE tokens SET last_used_at_ms = $2
                 WHERE id = $1 AND coalesce(last_used_at_ms, 0) < $2",
            )
            .bind(to_sql(id))
            .bind(to_sql(used_at_ms))
            .execute(&mut *writing.transaction)
            .await?;
            sqlx::query(
                "UPDATE writers SET last_seen_at_ms = $2 WHERE id = $1 AND last_seen_at_ms < $2",
            )
            .bind(to_sql(id))
            .bind(to_sql(used_at_ms))
            .execute(&mut *writing.transaction)
            .await?;
        }
        writing.commit().await
    }
}

/// The first label of a scope, if nobody may ask for it.
fn reserved_label(scope: &str) -> Option<&str> {
    let label = scope.split('/').next()?;
    let lower = label.to_ascii_lowercase();
    let reserved = lower == OWN_SCOPES || lower == CI_SCOPES || lower.starts_with(CI_SCOPES_PREFIX);
    reserved.then_some(label)
}

fn audit_of(action: &str, row: &TokenRow, at_ms: u64) -> NewAuditRow {
    NewAuditRow {
        at_ms,
        action: action.to_owned(),
        workspace: Some(row.workspace.clone()),
        scope: row.scope.clone(),
        writer: Some(row.id),
        actor: Some(OPERATOR.to_owned()),
        // A word of access is one of six: nothing to escape.
        details: Some(format!(r#"{{"access":"{}"}}"#, row.access)),
        ..NewAuditRow::default()
    }
}

impl FromRow<'_, SqliteRow> for TokenRow {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            id: number(row, "id")?,
            hash: hash(row, "hash")?,
            workspace: row.try_get("workspace")?,
            access: row.try_get("access")?,
            scope: row.try_get("scope")?,
            name: row.try_get("name")?,
            created_at_ms: number(row, "created_at_ms")?,
            expires_at_ms: number_if_any(row, "expires_at_ms")?,
            revoked_at_ms: number_if_any(row, "revoked_at_ms")?,
            last_used_at_ms: number_if_any(row, "last_used_at_ms")?,
        })
    }
}
