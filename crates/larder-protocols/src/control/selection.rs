//! Which entries a call is about, as a message says it: by what they are, and by who wrote them.
//!
//! What is known of writers is in the ledger, so a selection by run, commit or repository becomes one by writers first.
//! If the ledger knows no such writer that is an error: a misspelt run must not look like one that stored nothing.

use std::collections::BTreeSet;

use larder_cache::{EntryFilter, KeyFilter, Selection, Standing};
use larder_ledger::{Ledger, WriterFilter};
use larder_model::{AdminGrant, BlobHash, Dialect, EntryKey, WriterId};
use serde::{Deserialize, Deserializer, Serialize};

use super::status::NotDone;
use crate::journal::DETAILS_BYTES_MAX;

/// The most writers that a selection may mean: a repository's runs of a year.
pub(super) const WRITER_COUNT_MAX: u32 = 100_000;

/// Which entries: those that match every field that is set. At least one field must be set, or `everything`, which goes
/// with no other.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SelectionRequest {
    /// A workspace's name.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub workspace: Option<String>,
    /// A scope: `trusted`, or an untrusted scope's whole path.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub scope: Option<String>,
    /// A dialect, such as `nx`.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub dialect: Option<String>,
    /// A key as the tool writes it, not percent-encoded: a task's hash, or a digest as `HASH` or `HASH/SIZE`.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub key: Option<String>,
    /// The instance name of an action's result; without it, any.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub instance: Option<String>,
    /// The id of the writer: of a token, of a CI's run, of a certificate.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub writer: Option<u64>,
    /// The id of the token that wrote them.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub token: Option<u64>,
    /// The issuer of the CI's tokens.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub issuer: Option<String>,
    /// The name of the configuration's rule.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub rule: Option<String>,
    /// The repository's name.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub repository: Option<String>,
    /// The repository's id, which outlives its name.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub repository_id: Option<String>,
    /// The git ref, such as `refs/heads/main`.
    #[serde(
        rename = "ref",
        skip_serializing_if = "Option::is_none",
        deserialize_with = "present"
    )]
    pub git_ref: Option<String>,
    /// The commit.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub commit: Option<String>,
    /// What started the run.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub event: Option<String>,
    /// The workflow.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub workflow: Option<String>,
    /// The id of the run, pipeline or build.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub run: Option<String>,
    /// Who started the run.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub actor: Option<String>,
    /// Entries stored before this time.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub written_before_ms: Option<u64>,
    /// Entries stored at this time or later.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub written_after_ms: Option<u64>,
    /// Entries that are served, or those in quarantine.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub state: Option<EntryState>,
    /// Everything the caller administers.
    pub everything: bool,
    /// Changes nothing, only counts.
    pub dry_run: bool,
    /// Answers with lines: how far the work is, and its result.
    pub progress: bool,
}

/// Whether an entry is found by those who may read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryState {
    /// It is.
    Served,
    /// It is in quarantine.
    Quarantined,
}

impl EntryState {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Quarantined => "quarantined",
        }
    }
}

impl From<Standing> for EntryState {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Entry => Self::Served,
            Standing::Held => Self::Quarantined,
        }
    }
}

impl From<EntryState> for Standing {
    fn from(state: EntryState) -> Self {
        match state {
            EntryState::Served => Self::Entry,
            EntryState::Quarantined => Self::Held,
        }
    }
}

/// A field that is there has a value: `null`, as a script writes that looked something up and failed, would
/// otherwise select more than was meant.
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
    #[error("the body is not the message that belongs here: {0}")]
    Json(String),
    #[error("{field}: {problem}")]
    Field {
        field: &'static str,
        problem: String,
    },
    #[error("the query may have {0}")]
    Query(&'static str),
    #[error("\"everything\" goes with no other condition")]
    EverythingAndMore,
    #[error("name at least one thing to select by, or set \"everything\"")]
    NothingSelected,
    #[error("no writer matches: the ledger knows none of that {0}")]
    NoWriter(String),
    #[error("the conditions are longer than {DETAILS_BYTES_MAX} bytes")]
    Long,
    #[error("more than {WRITER_COUNT_MAX} writers match; add a condition")]
    TooManyWriters,
}

impl SelectionRequest {
    pub(super) fn parse(json: &[u8]) -> Result<Self, BadMessage> {
        let request: Self =
            serde_json::from_slice(json).map_err(|error| BadMessage::Json(error.to_string()))?;
        // Who selects must not choose that the audit leaves the conditions out.
        let bytes = serde_json::to_vec(&request).map_or(usize::MAX, |json| json.len());
        if bytes > DETAILS_BYTES_MAX {
            return Err(BadMessage::Long);
        }
        Ok(request)
    }

    /// The selection in the cache's words, for whoever has this grant.
    pub(super) async fn select(
        &self,
        grant: &AdminGrant,
        ledger: &Ledger,
    ) -> Result<Selection, NotDone> {
        let mut filter = self.filter()?;
        let (mut writers, named) = self.writer_filter()?;
        if named.is_empty() {
            return Ok(self.selection(filter)?);
        }
        if self.everything {
            return Err(BadMessage::EverythingAndMore.into());
        }
        // Of writers of other workspaces an administrator does not learn that they exist.
        let own = grant.workspace().map(ToString::to_string);
        writers.workspace = own.or_else(|| self.workspace.clone());
        let ids = ledger.writer_ids(&writers, WRITER_COUNT_MAX + 1).await?;
        if ids.is_empty() {
            return Err(BadMessage::NoWriter(named.join(" and ")).into());
        }
        if ids.len() > WRITER_COUNT_MAX as usize {
            return Err(BadMessage::TooManyWriters.into());
        }
        let ids = ids.into_iter().map(WriterId);
        let one = filter.writers.take();
        let both = |id: &WriterId| one.as_ref().is_none_or(|one| one.contains(id));
        filter.writers = Some(ids.filter(both).collect::<BTreeSet<_>>());
        Ok(Selection::Matching(filter))
    }

    fn selection(&self, filter: EntryFilter) -> Result<Selection, BadMessage> {
        match (self.everything, filter == EntryFilter::default()) {
            (true, true) => Ok(Selection::Everything),
            (true, false) => Err(BadMessage::EverythingAndMore),
            (false, true) => Err(BadMessage::NothingSelected),
            (false, false) => Ok(Selection::Matching(filter)),
        }
    }

    /// What the entries themselves tell.
    fn filter(&self) -> Result<EntryFilter, BadMessage> {
        let dialect = field("dialect", self.dialect.as_deref(), |name| {
            Dialect::from_name(name).ok_or("there is no such dialect")
        })?;
        let instance = self.instance.as_ref().map(|name| name.as_bytes().to_vec());
        if instance.is_some() && self.key.is_none() {
            return Err(BadMessage::Field {
                field: "instance",
                problem: "goes with a key".to_owned(),
            });
        }
        Ok(EntryFilter {
            workspace: field("workspace", self.workspace.as_deref(), str::parse)?,
            scope: field("scope", self.scope.as_deref(), str::parse)?,
            dialect,
            key: field("key", self.key.as_deref(), |key| {
                key_filter(dialect, key, instance)
            })?,
            writers: number("writer", self.writer)?.map(|id| [WriterId(id)].into()),
            written_before_ms: number("written_before_ms", self.written_before_ms)?,
            written_after_ms: number("written_after_ms", self.written_after_ms)?,
            standing: self.state.map(Standing::from),
        })
    }

    /// What is to be asked of the ledger, and the names of the fields that say so.
    fn writer_filter(&self) -> Result<(WriterFilter, Vec<String>), BadMessage> {
        let token = number("token", self.token)?;
        let filter = WriterFilter {
            workspace: None,
            issuer: self.issuer.clone(),
            rule: self.rule.clone(),
            repository_id: self.repository_id.clone(),
            repository: self.repository.clone(),
            git_ref: self.git_ref.clone(),
            commit_sha: self.commit.clone(),
            run_id: self.run.clone(),
            workflow: self.workflow.clone(),
            event: self.event.clone(),
            actor: self.actor.clone(),
            token,
        };
        let token = token.map(|id| id.to_string());
        let named = [
            ("issuer", &self.issuer),
            ("rule", &self.rule),
            ("repository id", &self.repository_id),
            ("repository", &self.repository),
            ("ref", &self.git_ref),
            ("commit", &self.commit),
            ("run", &self.run),
            ("workflow", &self.workflow),
            ("event", &self.event),
            ("actor", &self.actor),
            ("token", &token),
        ];
        let named = named
            .into_iter()
            .filter_map(|(name, text)| Some(format!("{name} {:?}", text.as_ref()?)));
        Ok((filter, named.collect()))
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

pub(super) fn number(field: &'static str, number: Option<u64>) -> Result<Option<u64>, BadMessage> {
    match number {
        Some(number) if number > NUMBER_MAX => Err(BadMessage::Field {
            field,
            problem: format!("a number is at most {NUMBER_MAX}"),
        }),
        Some(_) | None => Ok(number),
    }
}

/// A key as it was typed: text, and the hash that it may be.
fn key_filter(
    dialect: Option<Dialect>,
    typed: &str,
    instance: Option<Vec<u8>>,
) -> Result<KeyFilter, String> {
    let digits = match typed.split_once('/') {
        Some((digits, size)) if size.parse::<u64>().is_ok() => digits,
        Some(_) | None => typed,
    };
    let hash = BlobHash::from_hex(digits.as_bytes()).ok();
    let by_hash = instance.is_some() || dialect.is_some_and(|dialect| dialect != Dialect::Nx);
    if by_hash && hash.is_none() {
        return Err(
            "is 64 lower-case hexadecimal digits here, or these, a slash and a size".to_owned(),
        );
    }
    let text = EntryKey::new(typed.as_bytes()).map_err(|error| error.to_string())?;
    Ok(KeyFilter {
        text: (!by_hash).then_some(text),
        hash,
        instance,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(json: &str) -> Result<Selection, BadMessage> {
        let request = SelectionRequest::parse(json.as_bytes())?;
        request.selection(request.filter()?)
    }

    #[test]
    fn a_selection_of_nothing_in_particular_needs_to_say_everything() {
        assert_eq!(select("{}"), Err(BadMessage::NothingSelected));
        assert_eq!(
            select(r#"{"dry_run": true, "progress": true}"#),
            Err(BadMessage::NothingSelected)
        );
        assert_eq!(select(r#"{"everything": true}"#), Ok(Selection::Everything));
        let both = r#"{"everything": true, "writer": 7}"#;
        assert_eq!(select(both), Err(BadMessage::EverythingAndMore));
    }

    #[test]
    fn a_field_that_is_misspelt_or_misshapen_is_an_error_and_not_ignored() {
        for json in [
            r#"{"scop": "trusted", "writer": 1}"#,
            r#"{"run": null, "workspace": "acme"}"#,
            r#"{"run": 4711}"#,
            r#"{"state": "held"}"#,
        ] {
            assert!(matches!(select(json), Err(BadMessage::Json(_))), "{json}");
        }
        for (json, name) in [
            (r#"{"workspace": "ACME"}"#, "workspace"),
            (r#"{"scope": "Trusted"}"#, "scope"),
            (r#"{"scope": "a//b"}"#, "scope"),
            (r#"{"dialect": "npm"}"#, "dialect"),
            (r#"{"key": ""}"#, "key"),
            (r#"{"key": "123", "dialect": "ac"}"#, "key"),
            (r#"{"key": "123", "instance": ""}"#, "key"),
            (r#"{"instance": "main"}"#, "instance"),
            (
                r#"{"written_after_ms": 9007199254740992}"#,
                "written_after_ms",
            ),
        ] {
            let Err(BadMessage::Field { field, .. }) = select(json) else {
                panic!("{json}")
            };
            assert_eq!(field, name);
        }
    }

    #[test]
    fn conditions_that_the_audit_would_leave_out_are_refused() {
        let select = |instance: &str, bytes| {
            let instance = instance.repeat(bytes);
            let json = format!(
                r#"{{"key": "{}", "instance": "{instance}"}}"#,
                "a".repeat(64)
            );
            SelectionRequest::parse(json.as_bytes()).map(drop)
        };
        assert_eq!(select("i", 3900), Ok(()));
        assert_eq!(select("i", 4096), Err(BadMessage::Long));
        assert_eq!(select("\\u0001", 700), Err(BadMessage::Long), "as JSON");
    }

    #[test]
    fn every_field_reaches_the_filter() {
        let json = r#"{"workspace": "acme", "scope": "pr/7", "dialect": "nx", "key": "1%2F2",
            "writer": 3, "written_before_ms": 5, "written_after_ms": 4, "state": "quarantined"}"#;
        let expected = EntryFilter {
            workspace: Some("acme".parse().unwrap()),
            scope: Some("pr/7".parse().unwrap()),
            dialect: Some(Dialect::Nx),
            key: Some(KeyFilter {
                text: Some(EntryKey::new(b"1%2F2").unwrap()),
                hash: None,
                instance: None,
            }),
            writers: Some([WriterId(3)].into()),
            written_before_ms: Some(5),
            written_after_ms: Some(4),
            standing: Some(Standing::Held),
        };
        assert_eq!(select(json), Ok(Selection::Matching(expected)));
    }

    #[test]
    fn a_digest_is_a_key_with_or_without_its_size() {
        let digits = "0a".repeat(32);
        for typed in [digits.clone(), format!("{digits}/142")] {
            let filter = key_filter(None, &typed, None).unwrap();
            assert_eq!(filter.hash, Some(BlobHash([10; 32])), "{typed}");
            assert!(filter.text.is_some(), "a task's hash can look like that");
            let filter = key_filter(Some(Dialect::ActionResult), &typed, None).unwrap();
            assert_eq!((filter.hash, filter.text), (Some(BlobHash([10; 32])), None));
        }
        let filter = key_filter(None, "17723469234776321346", None).unwrap();
        assert_eq!(filter.hash, None);
    }

    #[test]
    fn every_field_about_writers_reaches_the_ledger() {
        let json = r#"{"token": 1, "issuer": "i", "rule": "r", "repository": "a/b", "repository_id": "7",
            "ref": "refs/heads/main", "commit": "c", "event": "push", "workflow": "w", "run": "4711", "actor": "a"}"#;
        let request = SelectionRequest::parse(json.as_bytes()).unwrap();
        let (filter, named) = request.writer_filter().unwrap();
        let expected = WriterFilter {
            workspace: None,
            issuer: Some("i".to_owned()),
            rule: Some("r".to_owned()),
            repository_id: Some("7".to_owned()),
            repository: Some("a/b".to_owned()),
            git_ref: Some("refs/heads/main".to_owned()),
            commit_sha: Some("c".to_owned()),
            run_id: Some("4711".to_owned()),
            workflow: Some("w".to_owned()),
            event: Some("push".to_owned()),
            actor: Some("a".to_owned()),
            token: Some(1),
        };
        assert_eq!(filter, expected);
        assert_eq!(named.len(), 11, "{named:?}");
    }
}
