//! The messages of the control API. Times are unix milliseconds, sizes bytes.

use larder_cache::{Purge, PurgeFilter, Stats};
use larder_model::{Dialect, EntryKey, WriterId};
use serde::{Deserialize, Deserializer, Serialize};

/// Which entries to purge: those that match every field that is set. At least one field must be
/// set, or `everything`, which goes with no other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PurgeRequest {
    /// A workspace's name.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub workspace: Option<String>,
    /// A scope: `trusted`, or an untrusted scope's whole path.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub scope: Option<String>,
    /// A dialect, such as `nx`.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub dialect: Option<String>,
    /// A key as the tool writes it, not percent-encoded.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub key: Option<String>,
    /// The id of the token that wrote the entries.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub writer: Option<u64>,
    /// Entries stored before this time.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub written_before_ms: Option<u64>,
    /// Entries stored at this time or later.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub written_after_ms: Option<u64>,
    /// Everything the caller administers.
    pub everything: bool,
    /// Removes nothing, only counts.
    pub dry_run: bool,
}

/// A field that is there has a value: `null`, as a script writes that looked something up and failed, would
/// otherwise purge more than was meant.
fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// What is wrong with a message.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadMessage {
    #[error("the body is no purge request: {0}")]
    Json(String),
    #[error("{field}: {problem}")]
    Field {
        field: &'static str,
        problem: String,
    },
    #[error("\"everything\" goes with no other condition")]
    EverythingAndMore,
    #[error("name at least one thing to purge by, or set \"everything\"")]
    NothingSelected,
}

impl PurgeRequest {
    pub(super) fn parse(json: &[u8]) -> Result<Self, BadMessage> {
        serde_json::from_slice(json).map_err(|error| BadMessage::Json(error.to_string()))
    }

    /// The request in the cache's words.
    pub(super) fn purge(&self) -> Result<Purge, BadMessage> {
        let filter = PurgeFilter {
            workspace: field("workspace", self.workspace.as_deref(), str::parse)?,
            scope: field("scope", self.scope.as_deref(), str::parse)?,
            dialect: field("dialect", self.dialect.as_deref(), |name| {
                Dialect::from_name(name).ok_or("there is no such dialect")
            })?,
            key: field("key", self.key.as_deref(), |key| {
                EntryKey::new(key.as_bytes())
            })?,
            writer: number("writer", self.writer)?.map(WriterId),
            written_before_ms: number("written_before_ms", self.written_before_ms)?,
            written_after_ms: number("written_after_ms", self.written_after_ms)?,
        };
        match (self.everything, filter == PurgeFilter::default()) {
            (true, true) => Ok(Purge::Everything),
            (true, false) => Err(BadMessage::EverythingAndMore),
            (false, true) => Err(BadMessage::NothingSelected),
            (false, false) => Ok(Purge::Matching(filter)),
        }
    }
}

fn field<T, E: std::fmt::Display>(
    field: &'static str,
    text: Option<&str>,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<Option<T>, BadMessage> {
    let problem = |error: E| BadMessage::Field {
        field,
        problem: error.to_string(),
    };
    text.map(parse).transpose().map_err(problem)
}

/// The largest number that every JSON reader has exactly. A greater one may have been another before it was read.
const NUMBER_MAX: u64 = (1 << 53) - 1;

fn number(field: &'static str, number: Option<u64>) -> Result<Option<u64>, BadMessage> {
    match number {
        Some(number) if number > NUMBER_MAX => Err(BadMessage::Field {
            field,
            problem: format!("a number is at most {NUMBER_MAX}"),
        }),
        Some(_) | None => Ok(number),
    }
}

/// What a purge removed, or with `dry_run` would have removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeResponse {
    /// Whether nothing was removed.
    pub dry_run: bool,
    /// How many entries.
    pub entries: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// What the pools hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsResponse {
    /// Per workspace, scope and dialect.
    pub scopes: Vec<ScopeFigures>,
    /// How many entries are in scopes that are not listed because there are too many.
    pub entries_beyond_scopes: u64,
    /// The pools that hold nothing but what the caller administers.
    pub pools: Vec<PoolFigures>,
}

/// What a workspace has in a scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeFigures {
    /// The workspace's name.
    pub workspace: String,
    /// The scope.
    pub scope: String,
    /// The dialect.
    pub dialect: String,
    /// How many entries.
    pub entries: u64,
    /// Their bytes, without what the store adds.
    pub bytes: u64,
    /// When the oldest was stored.
    pub oldest_ms: u64,
    /// When the newest was stored.
    pub newest_ms: u64,
}

/// How full a pool is and what has happened in it since the server started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolFigures {
    /// `shared/trusted`, `WORKSPACE/untrusted` and so on.
    pub name: String,
    /// The most bytes of disk it takes.
    pub budget_bytes: u64,
    /// The bytes of disk it takes.
    pub used_bytes: u64,
    /// How many entries it holds.
    pub entries: u64,
    /// How many segment files it has.
    pub segments: u64,
    /// How many entries were evicted.
    pub evicted_entries: u64,
    /// How many bytes were moved to outlive their segment.
    pub carried_bytes: u64,
    /// How many bytes were written.
    pub written_bytes: u64,
    /// How many entries did not verify.
    pub corrupt_entries: u64,
    /// How many writes were refused for want of room.
    pub refused_writes: u64,
    /// When its oldest segment was begun; 0 if it has none.
    pub oldest_ms: u64,
}

impl From<Stats> for StatsResponse {
    fn from(stats: Stats) -> Self {
        let scopes = stats.rows.into_iter().map(|row| ScopeFigures {
            workspace: row.workspace,
            scope: row.scope,
            dialect: row.dialect.name().to_owned(),
            entries: row.entries,
            bytes: row.bytes,
            oldest_ms: row.oldest_ms,
            newest_ms: row.newest_ms,
        });
        let pools = stats.pools.into_iter().map(|pool| PoolFigures {
            name: pool.name,
            budget_bytes: pool.usage.budget_bytes,
            used_bytes: pool.usage.used_bytes,
            entries: pool.usage.entries,
            segments: pool.usage.segments,
            evicted_entries: pool.usage.evicted_entries,
            carried_bytes: pool.usage.carried_bytes,
            written_bytes: pool.usage.written_bytes,
            corrupt_entries: pool.usage.corrupt_entries,
            refused_writes: pool.usage.refused_writes,
            oldest_ms: pool.usage.oldest_ms,
        });
        Self {
            scopes: scopes.collect(),
            entries_beyond_scopes: stats.entries_beyond_rows,
            pools: pools.collect(),
        }
    }
}

/// One line of a verification's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyLine {
    /// How far it is.
    Progress {
        /// Entries read.
        done_entries: u64,
        /// Entries there are.
        total_entries: u64,
    },
    /// The end: what was read.
    Result {
        /// How many entries.
        entries: u64,
        /// How many bytes.
        bytes: u64,
        /// How many entries did not verify; they are misses from now on.
        corrupt: u64,
    },
    /// The end: why it stopped.
    Error {
        /// One line.
        error: String,
    },
}

/// The body of every answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorResponse {
    /// One line.
    pub error: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purge(json: &str) -> Result<Purge, BadMessage> {
        PurgeRequest::parse(json.as_bytes())?.purge()
    }

    #[test]
    fn a_purge_of_nothing_in_particular_needs_to_say_everything() {
        assert_eq!(purge("{}"), Err(BadMessage::NothingSelected));
        assert_eq!(
            purge(r#"{"dry_run": true}"#),
            Err(BadMessage::NothingSelected)
        );
        assert_eq!(purge(r#"{"everything": true}"#), Ok(Purge::Everything));
        let both = r#"{"everything": true, "writer": 7}"#;
        assert_eq!(purge(both), Err(BadMessage::EverythingAndMore));
    }

    #[test]
    fn a_field_that_is_misspelt_or_misshapen_is_an_error_and_not_ignored() {
        assert!(matches!(
            purge(r#"{"scop": "trusted", "writer": 1}"#),
            Err(BadMessage::Json(_))
        ));
        for (json, name) in [
            (r#"{"workspace": "ACME"}"#, "workspace"),
            (r#"{"scope": "Trusted"}"#, "scope"),
            (r#"{"scope": "a//b"}"#, "scope"),
            (r#"{"dialect": "npm"}"#, "dialect"),
            (r#"{"key": ""}"#, "key"),
            (
                r#"{"written_after_ms": 9007199254740992}"#,
                "written_after_ms",
            ),
        ] {
            let Err(BadMessage::Field { field, .. }) = purge(json) else {
                panic!("{json}")
            };
            assert_eq!(field, name);
        }
    }

    #[test]
    fn every_field_reaches_the_filter() {
        let json = r#"{"workspace": "acme", "scope": "pr/7", "dialect": "nx", "key": "1%2F2",
            "writer": 3, "written_before_ms": 5, "written_after_ms": 4}"#;
        let expected = PurgeFilter {
            workspace: Some("acme".parse().unwrap()),
            scope: Some("pr/7".parse().unwrap()),
            dialect: Some(Dialect::Nx),
            key: Some(EntryKey::new(b"1%2F2").unwrap()),
            writer: Some(WriterId(3)),
            written_before_ms: Some(5),
            written_after_ms: Some(4),
        };
        assert_eq!(purge(json), Ok(Purge::Matching(expected)));
    }
}
