//! The messages of the control API. Times are unix milliseconds, sizes bytes.

use larder_cache::Stats;
use larder_model::EntryKey;
use serde::{Deserialize, Serialize};

use super::selection::EntryState;
use crate::provenance::ProvenanceText;

/// What a purge, a quarantine or a release did, or with `dry_run` would have done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeResponse {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// How many entries.
    pub entries: u64,
    /// How many bytes.
    pub bytes: u64,
    /// How many entries stay in quarantine because a new one has their place.
    #[serde(default)]
    pub refused: u64,
    /// What was selected, by workspace, scope and writer.
    #[serde(default)]
    pub rows: Vec<ChangeRow>,
    /// How many selected entries are in no row because there are too many.
    #[serde(default)]
    pub entries_beyond_rows: u64,
    /// Who the writers are, as far as the ledger knows; of very many, some.
    #[serde(default)]
    pub writers: Vec<WriterFigures>,
}

/// What was selected of a writer in a scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRow {
    /// The workspace's name.
    pub workspace: String,
    /// The scope.
    pub scope: String,
    /// The writer's id.
    pub writer: u64,
    /// How many entries.
    pub entries: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// Who a writer is: a token, a run of a CI, a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WriterFigures {
    /// The number that entries name.
    pub id: u64,
    /// `token`, `ci` or `certificate`.
    pub kind: String,
    /// The workspace.
    pub workspace: String,
    /// What it may do.
    pub access: String,
    /// The untrusted scope that it writes, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// A token's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What its issuer said of it.
    #[serde(flatten)]
    pub said: ProvenanceText,
    /// Where it was seen last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_address: Option<String>,
}

/// Entries that were looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntriesResponse {
    /// By workspace, scope, dialect and key, the newest first.
    pub entries: Vec<EntryFigures>,
    /// How many there are besides.
    pub entries_beyond: u64,
    /// Who wrote them, as far as the ledger knows.
    pub writers: Vec<WriterFigures>,
}

/// An entry without its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryFigures {
    /// The workspace's name.
    pub workspace: String,
    /// The scope.
    pub scope: String,
    /// The dialect.
    pub dialect: String,
    /// The key as its tool prints it.
    pub key: String,
    /// The digest function of an action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest_function: Option<String>,
    /// The instance name of an action's result, if it is not empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The key as it is stored, in hexadecimal digits.
    pub key_bytes: KeyBytes,
    /// Its bytes, without what the store adds.
    pub bytes: u64,
    /// When it was stored.
    pub written_at_ms: u64,
    /// Whether it is served.
    pub state: EntryState,
    /// Tells entries of one key apart; the newest has the greatest.
    pub sequence: u64,
    /// The writer's id.
    pub writer: u64,
    /// Where it came from, if the audit still knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}

/// A key as it is stored, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyBytes(String);

impl From<&[u8]> for KeyBytes {
    fn from(bytes: &[u8]) -> Self {
        let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
        let digits = bytes
            .iter()
            .flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
        Self(digits.collect())
    }
}

impl KeyBytes {
    /// The key, if the digits are of one.
    pub(super) fn key(&self) -> Option<EntryKey> {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let pairs = self.0.as_bytes().chunks(2);
        let byte = |pair: &[u8]| match pair {
            [high, low] => Some((digit(*high)? * 16 + digit(*low)?) as u8),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = pairs.map(byte).collect();
        EntryKey::new(&bytes?).ok()
    }
}

/// Which entry's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportRequest {
    /// The workspace's name.
    pub workspace: String,
    /// The scope.
    pub scope: String,
    /// The dialect.
    pub dialect: String,
    /// The key as it is stored, in hexadecimal digits.
    pub key_bytes: KeyBytes,
    /// The sequence of an entry in quarantine; without it, the one that is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
}

/// Actions whose results were stored again with other outputs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NondeterministicResponse {
    /// The last ones first.
    pub actions: Vec<NondeterministicAction>,
    /// Who the writers are, as far as the ledger knows.
    pub writers: Vec<WriterFigures>,
}

/// An action whose results differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NondeterministicAction {
    /// The workspace's name.
    pub workspace: String,
    /// The scope of the results.
    pub scope: String,
    /// The hash of the action.
    pub action: String,
    /// How often a result with other outputs took the place of one.
    pub times: u64,
    /// When that was first seen.
    pub first_at_ms: u64,
    /// When that was last seen.
    pub last_at_ms: u64,
    /// Who stored the last result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer: Option<u64>,
    /// Who stored the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writer_before: Option<u64>,
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
    /// How many entries, without those in quarantine.
    pub entries: u64,
    /// Their bytes, without what the store adds.
    pub bytes: u64,
    /// How many entries are in quarantine.
    #[serde(default)]
    pub quarantined_entries: u64,
    /// Their bytes.
    #[serde(default)]
    pub quarantined_bytes: u64,
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
            quarantined_entries: row.held_entries,
            quarantined_bytes: row.held_bytes,
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

/// One line of an answer that reports while the work goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line<T> {
    /// How far it is.
    Progress {
        /// Entries looked at.
        done_entries: u64,
        /// Entries there are.
        total_entries: u64,
    },
    /// The end: the answer.
    Result(T),
    /// The end: why it stopped.
    Error {
        /// One line.
        error: String,
    },
}

/// What a verification read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyResponse {
    /// How many entries.
    pub entries: u64,
    /// How many bytes.
    pub bytes: u64,
    /// How many entries did not verify; they are misses from now on.
    pub corrupt: u64,
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

    #[test]
    fn key_bytes_are_read_back_and_what_is_no_key_is_none() {
        let bytes = [0, 1, 0x7f, 0x80, 0xff];
        let text = KeyBytes::from(&bytes[..]);
        assert_eq!(text.0, "00017f80ff");
        assert_eq!(text.key().unwrap().as_bytes(), bytes);
        for bad in ["", "0", "0g", "zz", "+1", "é"] {
            assert_eq!(KeyBytes(bad.to_owned()).key(), None, "{bad}");
        }
    }
}
