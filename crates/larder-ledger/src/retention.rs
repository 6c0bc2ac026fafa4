//! What the ledger forgets, and when.
//!
//! Tokens, their writers and workspaces stay for good. Everything that comes from outside has an end, here: in time, and in
//! number where a client decides how much there is. Deletions go in portions, so that nobody waits long for their turn to write.

use sqlx::{QueryBuilder, Sqlite};

use crate::error::LedgerError;
use crate::ledger::Ledger;
use crate::rows::{from_sql, to_sql};

/// How many rows one transaction deletes. A few thousand take milliseconds.
const PORTION_ROWS: i64 = 5_000;
/// How long a session is kept after its end: as long as a forgotten job may still present it.
const ENDED_SESSIONS_MS: u64 = 7 * 24 * 3_600_000;
/// How far the time that deletions go by moves at once: a day, where deletions are an hour apart. A server that was off for a month
/// has caught up after a day and a half; one whose clock is wrong for an hour has lost the oldest day.
const ADVANCE_MS_MAX: u64 = 24 * 3_600_000;
/// How many keys are remembered as rewritten: clients choose keys. As many in `trusted`, and as many in all other scopes.
const REWRITTEN_KEYS_MAX: u64 = 100_000;

/// How to find the last time before which rewritten keys are too many, and how to delete those up to that time.
struct TooMany {
    find: &'static str,
    delete: &'static str,
}

const TOO_MANY_TRUSTED: TooMany = TooMany {
    find: "SELECT last_at_ms FROM rewrites WHERE scope = 'trusted'
           ORDER BY last_at_ms DESC LIMIT 1 OFFSET $1",
    delete: "DELETE FROM rewrites WHERE (workspace, scope, key) IN (
                 SELECT workspace, scope, key FROM rewrites
                 WHERE last_at_ms <= $1 AND scope = 'trusted' LIMIT $2
             )",
};

const TOO_MANY_UNTRUSTED: TooMany = TooMany {
    find: "SELECT last_at_ms FROM rewrites WHERE scope <> 'trusted'
           ORDER BY last_at_ms DESC LIMIT 1 OFFSET $1",
    delete: "DELETE FROM rewrites WHERE (workspace, scope, key) IN (
                 SELECT workspace, scope, key FROM rewrites
                 WHERE last_at_ms <= $1 AND scope <> 'trusted' LIMIT $2
             )",
};

/// How long and how much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Rows of the audit, and rewritten keys, in milliseconds.
    pub audit_ms: u64,
    /// How many of the last rows of the audit are kept in any case; of older ones those that are not about entries, and as many
    /// about entries in `trusted`. Clients decide how many rows about entries there are, and untrusted ones must not push the
    /// others out.
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
        let now_ms = self.time_to_prune_by(now_ms).await?;
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
        Ok(Pruned {
            audit,
            sessions,
            used_once,
            writers,
            rewrites: self.prune_rewrites(before(kept.audit_ms)).await?,
        })
    }

    /// The time that deletions go by: `now_ms`, but never more than [`ADVANCE_MS_MAX`] after that of the deletions before. A clock
    /// that is wrong by years, after a start without a battery or a resumed machine, must not end what cannot be had again.
    async fn time_to_prune_by(&self, now_ms: u64) -> Result<u64, LedgerError> {
        let mut writing = self.write().await?;
        let moved: Option<i64> = sqlx::query_scalar(
            "UPDATE audit_kept SET clock_ms = CASE
                 WHEN clock_ms = 0 OR $1 - clock_ms < $2 THEN $1 ELSE clock_ms + $2
             END WHERE clock_ms < $1 RETURNING clock_ms",
        )
        .bind(to_sql(now_ms))
        .bind(to_sql(ADVANCE_MS_MAX))
        .fetch_optional(&mut *writing.transaction)
        .await?;
        writing.commit().await?;
        // A clock that was set back moves nothing.
        Ok(moved.map_or(now_ms, from_sql))
    }

    async fn prune_rewrites(&self, before: i64) -> Result<u64, LedgerError> {
        let old = self.prune_rows(
            "DELETE FROM rewrites WHERE (workspace, scope, key) IN
                 (SELECT workspace, scope, key FROM rewrites WHERE last_at_ms < $1 LIMIT $2)",
            before,
        );
        let mut pruned = old.await?;
        for sql in [TOO_MANY_TRUSTED, TOO_MANY_UNTRUSTED] {
            let last_at_ms: Option<i64> = sqlx::query_scalar(sql.find)
                .bind(to_sql(REWRITTEN_KEYS_MAX))
                .fetch_optional(&self.pool)
                .await?;
            if let Some(last_at_ms) = last_at_ms {
                pruned += self.prune_rows(sql.delete, last_at_ms).await?;
            }
        }
        Ok(pruned)
    }

    async fn prune_audit(&self, kept: &Retention, now_ms: u64) -> Result<u64, LedgerError> {
        let since_ms = to_sql(now_ms.saturating_sub(kept.audit_ms));
        let newest: Option<i64> = sqlx::query_scalar("SELECT max(id) FROM audit")
            .fetch_one(&self.pool)
            .await?;
        let since_id = newest.unwrap_or(0).saturating_add(1) - to_sql(kept.audit_rows);
        self.may_be_deleted(
            "UPDATE audit_kept SET since_ms = $1 WHERE since_ms < $1",
            since_ms,
        )
        .await?;
        self.may_be_deleted(
            "UPDATE audit_kept SET since_id = $1 WHERE since_id < $1",
            since_id,
        )
        .await?;
        let old = self.prune_rows(
            "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at_ms < $1 LIMIT $2)",
            since_ms,
        );
        let many = old.await? + self.prune_untrusted_rows(since_id).await?;
        Ok(many + self.prune_trusted_rows(kept, since_id).await?)
    }

    /// What anybody can have as many rows of as they like. They are looked for beside the writing: before them there may be all that
    /// trunk ever stored.
    async fn prune_untrusted_rows(&self, since_id: i64) -> Result<u64, LedgerError> {
        let (mut pruned, mut seen) = (0, 0);
        loop {
            let ids: Vec<i64> = sqlx::query_scalar(
                r#"SELECT id FROM audit WHERE id > $1 AND id < $2 AND (
                       (action IN ('write', 'bad-credential', 'flagged')
                           AND coalesce(scope, '') <> 'trusted')
                       OR (action IN ('session-created', 'session-revoked')
                           AND details NOT LIKE '{"access":"trusted"%'
                           AND details NOT LIKE '{"access":"clean-room"%')
                   ) ORDER BY id LIMIT $3"#,
            )
            .bind(seen)
            .bind(since_id)
            .bind(PORTION_ROWS)
            .fetch_all(&self.pool)
            .await?;
            let Some(last) = ids.last() else {
                return Ok(pruned);
            };
            seen = *last;
            let mut removal = QueryBuilder::<Sqlite>::new("DELETE FROM audit WHERE id IN (");
            let mut places = removal.separated(", ");
            for id in &ids {
                places.push_bind(id);
            }
            removal.push(")");
            let mut writing = self.write().await?;
            let outcome = removal.build().execute(&mut *writing.transaction).await?;
            writing.commit().await?;
            pruned += outcome.rows_affected();
        }
    }

    /// What trunk stored has as many rows again, beside the last ones of all.
    async fn prune_trusted_rows(
        &self,
        kept: &Retention,
        since_id: i64,
    ) -> Result<u64, LedgerError> {
        let first_kept: Option<i64> = sqlx::query_scalar(
            "SELECT id FROM audit
             WHERE id < $1 AND action IN ('write', 'flagged') AND scope = 'trusted'
             ORDER BY id DESC LIMIT 1 OFFSET $2",
        )
        .bind(since_id)
        .bind(to_sql(kept.audit_rows.saturating_sub(1)))
        .fetch_optional(&self.pool)
        .await?;
        let Some(first_kept) = first_kept else {
            return Ok(0);
        };
        let sql = "UPDATE audit_kept SET trusted_since_id = $1 WHERE trusted_since_id < $1";
        self.may_be_deleted(sql, first_kept).await?;
        self.prune_rows(
            "DELETE FROM audit WHERE id IN (
                 SELECT id FROM audit
                 WHERE id < $1 AND action IN ('write', 'flagged') AND scope = 'trusted'
                 ORDER BY id LIMIT $2
             )",
            first_kept,
        )
        .await
    }

    /// Moves one of the bounds that the tables hold deletions to, if it is to move forward.
    async fn may_be_deleted(&self, sql: &'static str, since: i64) -> Result<(), LedgerError> {
        let mut writing = self.write().await?;
        sqlx::query(sql)
            .bind(since)
            .execute(&mut *writing.transaction)
            .await?;
        writing.commit().await
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
