//! Which entries a control call is about.

use std::collections::BTreeSet;

use larder_model::{AdminGrant, BlobHash, Dialect, EntryKey, Scope, WorkspaceName, WriterId};
use larder_store::{RecordHead, Standing};

use super::ControlError;
use crate::key::DecodedKey;

/// A key as people know it: what a tool prints can be the key of an entry, or the hash in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFilter {
    /// The key of tools whose keys are text.
    pub text: Option<EntryKey>,
    /// The hash of a blob, or of an action.
    pub hash: Option<BlobHash>,
    /// Of an action's results those under this instance name; `None`: under any.
    pub instance: Option<Vec<u8>>,
}

impl KeyFilter {
    fn matches(&self, dialect: Dialect, key: &[u8]) -> bool {
        let is_hash = |bytes: &[u8]| self.hash.is_some_and(|hash| hash.0 == bytes);
        match dialect {
            Dialect::Nx => self
                .text
                .as_ref()
                .is_some_and(|text| text.as_bytes() == key),
            Dialect::Cas(_) => self.instance.is_none() && is_hash(key),
            // The hash, the digest function in a byte, the instance name.
            Dialect::ActionResult | Dialect::OpaqueActionResult => key
                .split_at_checked(BlobHash::BYTES)
                .is_some_and(|(hash, rest)| {
                    let instance = rest.get(1..).unwrap_or_default();
                    is_hash(hash) && self.instance.as_deref().is_none_or(|of| of == instance)
                }),
        }
    }
}

/// Which entries. Every field that is set must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntryFilter {
    /// Entries of this workspace.
    pub workspace: Option<WorkspaceName>,
    /// Entries of exactly this scope.
    pub scope: Option<Scope>,
    /// Entries of this dialect.
    pub dialect: Option<Dialect>,
    /// Entries under this key.
    pub key: Option<KeyFilter>,
    /// Entries of these writers.
    pub writers: Option<BTreeSet<WriterId>>,
    /// Entries stored before this unix time in milliseconds.
    pub written_before_ms: Option<u64>,
    /// Entries stored at or after this unix time in milliseconds.
    pub written_after_ms: Option<u64>,
    /// Entries that are served, or those in quarantine.
    pub standing: Option<Standing>,
}

impl EntryFilter {
    pub(super) fn matches(&self, name: &DecodedKey<'_>, head: &RecordHead<'_>) -> bool {
        self.workspace
            .as_ref()
            .is_none_or(|workspace| workspace.as_str() == name.workspace)
            && self
                .scope
                .as_ref()
                .is_none_or(|scope| scope.as_str() == name.scope)
            && self.dialect.is_none_or(|dialect| dialect == name.dialect)
            && self
                .key
                .as_ref()
                .is_none_or(|key| key.matches(name.dialect, name.key))
            && self
                .writers
                .as_ref()
                .is_none_or(|writers| writers.contains(&WriterId(head.writer)))
            && self
                .written_before_ms
                .is_none_or(|end| head.written_at_ms < end)
            && self
                .written_after_ms
                .is_none_or(|start| head.written_at_ms >= start)
            && self
                .standing
                .is_none_or(|standing| standing == head.standing)
    }

    /// Whether blobs are meant as well: they are named.
    pub(super) fn names_blobs(&self) -> bool {
        self.key.is_some() || matches!(self.dialect, Some(Dialect::Cas(_)))
    }
}

/// What a control call is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Everything the grant is for.
    Everything,
    /// What a filter with at least one field matches.
    Matching(EntryFilter),
}

impl Selection {
    /// What it selects under this grant; `None` is everything there is.
    pub(super) fn under(self, grant: &AdminGrant) -> Result<Option<EntryFilter>, ControlError> {
        let filter = match self {
            Self::Matching(filter) if filter == EntryFilter::default() => {
                return Err(ControlError::NothingSelected);
            }
            Self::Matching(filter) => Some(filter),
            Self::Everything => None,
        };
        let Some(own) = grant.workspace() else {
            return Ok(filter);
        };
        let mut filter = filter.unwrap_or_default();
        if filter
            .workspace
            .as_ref()
            .is_some_and(|workspace| workspace != own)
        {
            return Err(ControlError::OtherWorkspace {
                workspace: own.to_string(),
            });
        }
        filter.workspace = Some(own.clone());
        Ok(Some(filter))
    }
}
