//! Writers: whom entries name as their writer, and what is known of them.
//!
//! A token is one. So is each way in which a CI's verified claims described a run, and each identity of a certificate. Two
//! descriptions that differ in anything but the address are two writers; the same description is the same writer, whenever it comes.

use blake3::Hasher;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, QueryBuilder, Row, Sqlite};

use crate::error::{LedgerError, Missing};
use crate::ledger::Ledger;
use crate::rows::{from_sql, number, number_if_any, to_sql};
use crate::workspaces::must_exist;

/// How far behind the noted time of a writer's last use may be. A run introduces itself every few minutes, and each note is
/// a write to the disk.
const SEEN_BEHIND_MS_MAX: u64 = 60_000;

/// What the hash of a description begins with, so that it is the hash of nothing else.
const IDENTITY_CONTEXT: &str = "larder 2026 ledger writer identity";

/// What kind of credential a writer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriterKind {
    /// A static token. [`Ledger::create_token`] makes these.
    Token,
    /// A CI whose token was verified.
    Ci,
    /// A client certificate.
    Certificate,
}

/// Every kind, for those who read words.
const KINDS: [WriterKind; 3] = [WriterKind::Token, WriterKind::Ci, WriterKind::Certificate];

impl WriterKind {
    /// The word in the ledger and in what commands print.
    pub fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Ci => "ci",
            Self::Certificate => "certificate",
        }
    }
}

/// Where a writer comes from, as its verified claims say. What a kind of credential does not tell is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ProvenanceColumns {
    /// The issuer's URL, exactly as it is configured.
    pub issuer: Option<String>,
    /// The rule of the configuration that mapped the claims.
    pub rule: Option<String>,
    /// The repository's or project's id, which no renaming changes.
    pub repository_id: Option<String>,
    /// The repository's name at that time.
    pub repository: Option<String>,
    /// The full name of the git reference.
    pub git_ref: Option<String>,
    /// The commit that was built.
    pub commit_sha: Option<String>,
    /// What started the run.
    pub event: Option<String>,
    /// The workflow's or pipeline's definition.
    pub workflow: Option<String>,
    /// The run or pipeline.
    pub run_id: Option<String>,
    /// Which attempt of that run.
    pub run_attempt: Option<String>,
    /// The job in the run.
    pub job: Option<String>,
    /// Who started the run.
    pub actor: Option<String>,
    /// The subject of the token or of the certificate. Shown, and never interpreted.
    pub subject: Option<String>,
    /// The deployment environment.
    pub environment: Option<String>,
}

impl ProvenanceColumns {
    /// Every column, in the order of the table.
    fn values(&self) -> [Option<&str>; 14] {
        [
            &self.issuer,
            &self.rule,
            &self.repository_id,
            &self.repository,
            &self.git_ref,
            &self.commit_sha,
            &self.event,
            &self.workflow,
            &self.run_id,
            &self.run_attempt,
            &self.job,
            &self.actor,
            &self.subject,
            &self.environment,
        ]
        .map(Option::as_deref)
    }
}

/// The description of a writer that is no token.
#[derive(Debug, Clone)]
pub struct NewWriter {
    /// The kind, any but [`WriterKind::Token`].
    pub kind: WriterKind,
    /// The workspace it writes to.
    pub workspace: String,
    /// The word for what it may do.
    pub access: String,
    /// Its own scope, if its access has one.
    pub scope: Option<String>,
    /// Where it comes from.
    pub provenance: ProvenanceColumns,
    /// The address it came from this time. It does not tell writers apart.
    pub address: Option<String>,
    /// The present time, in unix milliseconds.
    pub now_ms: u64,
}

impl NewWriter {
    /// A hash over everything that tells this writer from others. Lengths stand in front of texts, so that no text of one
    /// column can pass for another's.
    fn identity(&self) -> [u8; 32] {
        let mut hasher = Hasher::new_derive_key(IDENTITY_CONTEXT);
        let own = [
            Some(self.kind.name()),
            Some(self.workspace.as_str()),
            Some(self.access.as_str()),
            self.scope.as_deref(),
        ];
        for text in own.into_iter().chain(self.provenance.values()) {
            match text {
                None => hasher.update(&[0]),
                Some(text) => hasher
                    .update(&[1])
                    .update(&(text.len() as u64).to_le_bytes())
                    .update(text.as_bytes()),
            };
        }
        *hasher.finalize().as_bytes()
    }
}

/// A writer in the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterRow {
    /// Its number, which entries name.
    pub id: u64,
    /// What kind of credential it has.
    pub kind: WriterKind,
    /// The workspace it writes to.
    pub workspace: String,
    /// The word for what it may do.
    pub access: String,
    /// Its own scope, if its access has one.
    pub scope: Option<String>,
    /// What people call it, if it is a token that has a name.
    pub name: Option<String>,
    /// Where it comes from.
    pub provenance: ProvenanceColumns,
    /// When it was first seen, in unix milliseconds.
    pub created_at_ms: u64,
    /// When it was last seen, in unix milliseconds; up to a minute behind.
    pub last_seen_at_ms: u64,
    /// The address it came from when that was noted.
    pub last_address: Option<String>,
    /// When it was revoked, in unix milliseconds, if it was. [`crate::TokenRow`] says so of tokens.
    pub revoked_at_ms: Option<u64>,
}

/// Which writers to find: all that agree with everything that is given, exactly.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriterFilter {
    /// The workspace.
    pub workspace: Option<String>,
    /// The issuer's URL.
    pub issuer: Option<String>,
    /// The rule of the configuration.
    pub rule: Option<String>,
    /// The repository's id.
    pub repository_id: Option<String>,
    /// The repository's name.
    pub repository: Option<String>,
    /// The full name of the git reference.
    pub git_ref: Option<String>,
    /// The commit.
    pub commit_sha: Option<String>,
    /// The run.
    pub run_id: Option<String>,
    /// The workflow.
    pub workflow: Option<String>,
    /// What started the run.
    pub event: Option<String>,
    /// Who started the run.
    pub actor: Option<String>,
    /// The token with this id, and no writer of another kind.
    pub token: Option<u64>,
}

impl WriterFilter {
    /// Appends ` AND …` for everything that is given. What tells few writers from many others has an index.
    fn push_to(&self, query: &mut QueryBuilder<Sqlite>) {
        for (condition, value) in [
            (" AND writers.workspace = ", &self.workspace),
            (" AND writers.issuer = ", &self.issuer),
            (" AND writers.rule = ", &self.rule),
            (" AND writers.repository_id = ", &self.repository_id),
            (" AND writers.repository = ", &self.repository),
            (" AND writers.git_ref = ", &self.git_ref),
            (" AND writers.commit_sha = ", &self.commit_sha),
            (" AND writers.run_id = ", &self.run_id),
            (" AND writers.workflow = ", &self.workflow),
            (" AND writers.event = ", &self.event),
            (" AND writers.actor = ", &self.actor),
        ] {
            if let Some(value) = value {
                query.push(condition).push_bind(value.clone());
            }
        }
        if let Some(token) = self.token {
            query
                .push(" AND writers.kind = 'token' AND writers.id = ")
                .push_bind(to_sql(token));
        }
    }
}

const SELECT: &str = "SELECT writers.*, tokens.name AS name
    FROM writers LEFT JOIN tokens ON tokens.id = writers.id";

impl Ledger {
    /// The id of the writer of this description, who is given one if it is new. Notes when and from where it was seen.
    /// One that was revoked has none any more: [`LedgerError::RevokedWriter`].
    pub async fn writer_id(&self, new: &NewWriter) -> Result<u64, LedgerError> {
        if new.kind == WriterKind::Token {
            return Err(LedgerError::Invalid {
                rule: "a token is created, not described".to_owned(),
            });
        }
        let identity = new.identity();
        if let Some(id) = self.seen_lately(&identity, new.now_ms).await? {
            return Ok(id);
        }
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT INTO writers (
                 kind, workspace, access, scope, identity, issuer, rule, repository_id, repository,
                 git_ref, commit_sha, event, workflow, run_id, run_attempt, job, actor, subject,
                 environment, created_at_ms, last_seen_at_ms, last_address
             ) VALUES (",
        );
        let mut values = query.separated(", ");
        values.push_bind(new.kind.name());
        values.push_bind(new.workspace.clone());
        values.push_bind(new.access.clone());
        values.push_bind(new.scope.clone());
        values.push_bind(identity.to_vec());
        for value in new.provenance.values() {
            values.push_bind(value.map(str::to_owned));
        }
        values.push_bind(to_sql(new.now_ms));
        values.push_bind(to_sql(new.now_ms));
        values.push_bind(new.address.clone());
        query.push(
            ") ON CONFLICT (identity) DO UPDATE SET
                 last_seen_at_ms = excluded.last_seen_at_ms, last_address = excluded.last_address
             RETURNING id, revoked_at_ms",
        );
        let mut writing = self.write().await?;
        let (id, revoked_at_ms): (i64, Option<i64>) = query
            .build_query_as()
            .fetch_one(&mut *writing.transaction)
            .await
            .map_err(|error| match error.as_database_error() {
                Some(refusal) if refusal.is_foreign_key_violation() => {
                    LedgerError::NotFound(Missing::Workspace(new.workspace.clone()))
                }
                _ => error.into(),
            })?;
        must_exist(&mut writing.transaction, &new.workspace).await?;
        writing.commit().await?;
        match revoked_at_ms {
            None => Ok(from_sql(id)),
            Some(_) => Err(LedgerError::RevokedWriter(from_sql(id))),
        }
    }

    /// The writer of this identity, if its workspace is there and its last use need not be noted again.
    async fn seen_lately(
        &self,
        identity: &[u8; 32],
        now_ms: u64,
    ) -> Result<Option<u64>, LedgerError> {
        let id: Option<i64> = sqlx::query_scalar(
            "SELECT writers.id FROM writers JOIN workspaces ON workspaces.name = writers.workspace
             WHERE writers.identity = $1 AND writers.last_seen_at_ms BETWEEN $2 AND $3
               AND workspaces.deleted_at_ms IS NULL AND writers.revoked_at_ms IS NULL",
        )
        .bind(identity.as_slice())
        .bind(to_sql(now_ms.saturating_sub(SEEN_BEHIND_MS_MAX)))
        .bind(to_sql(now_ms))
        .fetch_optional(&self.pool)
        .await?;
        Ok(id.map(from_sql))
    }

    /// The writer with this id.
    pub async fn writer(&self, id: u64) -> Result<Option<WriterRow>, LedgerError> {
        let mut query = QueryBuilder::<Sqlite>::new(SELECT);
        query.push(" WHERE writers.id = ").push_bind(to_sql(id));
        Ok(query.build_query_as().fetch_optional(&self.pool).await?)
    }

    /// The ids of the first `limit` writers that the filter finds, by id.
    pub async fn writer_ids(
        &self,
        filter: &WriterFilter,
        limit: u32,
    ) -> Result<Vec<u64>, LedgerError> {
        let mut query = QueryBuilder::new("SELECT writers.id FROM writers");
        push_conditions(&mut query, filter, limit);
        let ids: Vec<i64> = query.build_query_scalar().fetch_all(&self.pool).await?;
        Ok(ids.into_iter().map(from_sql).collect())
    }

    /// The first `limit` writers that the filter finds, by id.
    pub async fn writers(
        &self,
        filter: &WriterFilter,
        limit: u32,
    ) -> Result<Vec<WriterRow>, LedgerError> {
        let mut query = QueryBuilder::new(SELECT);
        push_conditions(&mut query, filter, limit);
        Ok(query.build_query_as().fetch_all(&self.pool).await?)
    }
}

fn push_conditions(query: &mut QueryBuilder<Sqlite>, filter: &WriterFilter, limit: u32) {
    query.push(" WHERE TRUE");
    filter.push_to(query);
    query.push(" ORDER BY writers.id LIMIT ");
    query.push_bind(i64::from(limit));
}

impl FromRow<'_, SqliteRow> for WriterRow {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let word: &str = row.try_get("kind")?;
        let kind = KINDS.into_iter().find(|kind| kind.name() == word);
        Ok(Self {
            id: number(row, "id")?,
            kind: kind.ok_or_else(|| sqlx::Error::ColumnDecode {
                index: "kind".to_owned(),
                source: format!("{word:?} is no kind of writer").into(),
            })?,
            workspace: row.try_get("workspace")?,
            access: row.try_get("access")?,
            scope: row.try_get("scope")?,
            name: row.try_get("name")?,
            provenance: ProvenanceColumns::from_row(row)?,
            created_at_ms: number(row, "created_at_ms")?,
            last_seen_at_ms: number(row, "last_seen_at_ms")?,
            last_address: row.try_get("last_address")?,
            revoked_at_ms: number_if_any(row, "revoked_at_ms")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for ProvenanceColumns {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            issuer: row.try_get("issuer")?,
            rule: row.try_get("rule")?,
            repository_id: row.try_get("repository_id")?,
            repository: row.try_get("repository")?,
            git_ref: row.try_get("git_ref")?,
            commit_sha: row.try_get("commit_sha")?,
            event: row.try_get("event")?,
            workflow: row.try_get("workflow")?,
            run_id: row.try_get("run_id")?,
            run_attempt: row.try_get("run_attempt")?,
            job: row.try_get("job")?,
            actor: row.try_get("actor")?,
            subject: row.try_get("subject")?,
            environment: row.try_get("environment")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::plan_of;

    #[tokio::test]
    async fn of_what_is_given_that_is_looked_up_which_the_fewest_writers_have() {
        let text = || Some("x".to_owned());
        let none = WriterFilter::default;
        let pushes = WriterFilter {
            workspace: text(),
            issuer: text(),
            rule: text(),
            git_ref: text(),
            event: text(),
            workflow: text(),
            actor: text(),
            ..none()
        };
        let repository = WriterFilter {
            repository: text(),
            ..pushes.clone()
        };
        let repository_id = WriterFilter {
            repository_id: text(),
            ..pushes.clone()
        };
        let run = WriterFilter {
            run_id: text(),
            ..repository.clone()
        };
        let commit = WriterFilter {
            commit_sha: text(),
            ..repository_id.clone()
        };
        let token = WriterFilter {
            token: Some(1),
            ..pushes.clone()
        };
        for (filter, expected) in [
            (pushes, "INDEX writers_by_workspace (workspace=?)"),
            (repository, "INDEX writers_by_repository (repository=?)"),
            (
                repository_id,
                "INDEX writers_by_repository_id (repository_id=?)",
            ),
            (run, "INDEX writers_by_run_id (run_id=?)"),
            (commit, "INDEX writers_by_commit_sha (commit_sha=?)"),
            (token, "INTEGER PRIMARY KEY (rowid=?)"),
        ] {
            for select in [SELECT, "SELECT writers.id FROM writers"] {
                let plan = plan_of(|query| push_conditions(query.push(select), &filter, 10)).await;
                assert!(plan.contains(expected), "{filter:?}: {plan}");
            }
        }
    }
}
