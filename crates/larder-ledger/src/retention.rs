//! What the ledger forgets, and when.
//!
//! Tokens, their writers and workspaces stay for good. Everything that comes from outside has an end, here: in time, and in
//! number where a client decides how much there is. Deletions go in portions, so that nobody waits long for their turn to write.

use crate::error::LedgerError;
use crate::ledger::Ledger;
use crate::rows::to_sql;

/// How many rows one transaction deletes. A few thousand take milliseconds.
const PORTION_ROWS: i64 = 5_000;
/// How long a session is kept after its end: as long as a forgotten job may still present it.
const ENDED_SESSIONS_MS: u64 = 7 * 24 * 3_600_000;
/// How many keys are remembered as rewritten: clients choose keys.
const REWRITTEN_KEYS_MAX: u64 = 100_000;

/// How long and how much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Rows of the audit, and rewritten keys, in milliseconds.
    pub audit_ms: u64,
    /// How many of the last rows of the audit are kept in any case; of older ones those that are not about entries. Clients
    /// decide how many rows about entries there are.
    pub audit_rows: u64,
    /// Writers that are no tokens, in milliseconds since they were last seen.
    pub writers_ms: u64,
}

/// How much was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Rows of the audit.
    pub audit: u64,
    /// Sessions that ended long ago.
    pub sessions: u64,
    /// What cannot be presented again anyway.
    pub used_once: u64,
    /// Writers that were not seen for long.
    pub writers: u64,
    /// Keys that were not rewritten for long, or too many.
    pub rewrites: u64,
}

impl Ledger {
    /// Deletes what need not be kept.
    pub async fn prune(&self, kept: &Retention, now_ms: u64) -> Result<Pruned, LedgerError> {
        let before = |time: u64| to_sql(now_ms.saturating_sub(time));
        let audit = self.prune_audit(kept, now_ms).await?;
        let sessions = self.prune_rows(
            "DELETE FROM sessions WHERE hash IN
                 (SELECT hash FROM sessions WHERE expires_at_ms < $1 LIMIT $2)",
            before(ENDED_SESSIONS_MS),
        );
        let sessions = sessions.await?;
        let used_once = self.prune_rows(
            "DELETE FROM used_once WHERE (issuer, jti_hash) IN
                 (SELECT issuer, jti_hash FROM used_once WHERE until_ms < $1 LIMIT $2)",
            to_sql(now_ms),
        );
        let used_once = used_once.await?;
        let writers = self.prune_rows(
            "DELETE FROM writers WHERE id IN (
                 SELECT id FROM writers WHERE last_seen_at_ms < $1 AND kind <> 'token'
                   AND NOT EXISTS (SELECT 1 FROM sessions WHERE sessions.writer = writers.id)
                 LIMIT $2
             )",
            before(kept.writers_ms),
        );
        let writers = writers.await?;
        let old = self.prune_rows(
            "DELETE FROM rewrites WHERE (workspace, scope, key) IN
                 (SELECT workspace, scope, key FROM rewrites WHERE last_at_ms < $1 LIMIT $2)",
            before(kept.audit_ms),
        );
        let old = old.await?;
        let too_many: Option<i64> = sqlx::query_scalar(
            "SELECT last_at_ms FROM rewrites ORDER BY last_at_ms DESC LIMIT 1 OFFSET $1",
        )
        .bind(to_sql(REWRITTEN_KEYS_MAX))
        .fetch_optional(&self.pool)
        .await?;
        let mut rewrites = old;
        if let Some(last_at_ms) = too_many {
            let many = self.prune_rows(
                "DELETE FROM rewrites WHERE (workspace, scope, key) IN
                     (SELECT workspace, scope, key FROM rewrites WHERE last_at_ms <= $1 LIMIT $2)",
                last_at_ms,
            );
            rewrites += many.await?;
        }
        Ok(Pruned {
            audit,
            sessions,
            used_once,
            writers,
            rewrites,
        })
    }

    async fn prune_audit(&self, kept: &Retention, now_ms: u64) -> Result<u64, LedgerError> {
        let since_ms = to_sql(now_ms.saturating_sub(kept.audit_ms));
        let newest: Option<i64> = sqlx::query_scalar("SELECT max(id) FROM audit")
            .fetch_one(&self.pool)
            .await?;
        let since_id = newest.unwrap_or(0).saturating_add(1) - to_sql(kept.audit_rows);
        let mut writing = self.write().await?;
        // A clock that was set back moves nothing.
        for (sql, since) in [
            (
                "UPDATE audit_kept SET since_ms = $1 WHERE since_ms < $1",
                since_ms,
            ),
            (
                "UPDATE audit_kept SET since_id = $1 WHERE since_id < $1",
                since_id,
            ),
        ] {
            sqlx::query(sql)
                .bind(since)
                .execute(&mut *writing.transaction)
                .await?;
        }
        writing.commit().await?;
        let old = self.prune_rows(
            "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at_ms < $1 LIMIT $2)",
            since_ms,
        );
        let old = old.await?;
        let many = self.prune_rows(
            r#"DELETE FROM audit WHERE id IN (
                 SELECT id FROM audit WHERE id < $1 AND (
                     action IN ('write', 'bad-credential', 'flagged')
                     OR (action IN ('session-created', 'session-revoked')
                         AND details NOT LIKE '{"access":"trusted"%'
                         AND details NOT LIKE '{"access":"clean-room"%')
                 ) ORDER BY id LIMIT $2
             )"#,
            since_id,
        );
        Ok(old + many.await?)
    }

    /// Runs a deletion of at most `$2` rows before `$1` until nothing is left to delete.
    async fn prune_rows(&self, sql: &'static str, before: i64) -> Result<u64, LedgerError> {
        let mut pruned = 0;
        loop {
            let mut writing = self.write().await?;
            let deleted = sqlx::query(sql)
                .bind(before)
                .bind(PORTION_ROWS)
                .execute(&mut *writing.transaction)
                .await?;
            writing.commit().await?;
            pruned += deleted.rows_affected();
            if deleted.rows_affected() < PORTION_ROWS.unsigned_abs() {
                return Ok(pruned);
            }
        }
    }
}
