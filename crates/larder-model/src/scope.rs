//! Scopes: the trust zones inside a workspace, and the path a reader walks through them.
//!
//! A workspace has one trusted scope and any number of untrusted ones. An untrusted scope is a
//! path of labels (`pr/7`, `token/12/linux`) whose first label can never be `trusted`, so no text
//! that names an untrusted scope reads like the trusted one.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::name::{NameError, ScopeLabel, show_as_text};

/// The text of the trusted scope.
const TRUSTED: &str = "trusted";

/// Why a text is no scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// One of the path's labels is no label.
    #[error("a scope is a path of labels: {0}")]
    Label(#[from] NameError),
    /// The path has too many labels.
    #[error("a scope has at most {limit} labels")]
    TooDeep {
        /// The most labels of a path.
        limit: usize,
    },
    /// The first label is `trusted` in some spelling.
    #[error("only the trusted scope may be called \"trusted\"")]
    Reserved,
}

/// A scope whose entries no trusted reader ever sees.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UntrustedScope(Arc<str>);

impl UntrustedScope {
    /// The most labels in a path; with [`ScopeLabel::BYTES_MAX`] it bounds a scope's text.
    pub const LABEL_COUNT_MAX: usize = 3;
    /// The most bytes of a scope's text: the labels and the slashes between them.
    pub const BYTES_MAX: usize =
        Self::LABEL_COUNT_MAX * ScopeLabel::BYTES_MAX + Self::LABEL_COUNT_MAX - 1;

    /// The path as text, labels joined by `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The sub-scope `label` below this one.
    pub fn child(&self, label: &ScopeLabel) -> Result<Self, ScopeError> {
        if self.0.split('/').count() >= Self::LABEL_COUNT_MAX {
            return Err(ScopeError::TooDeep {
                limit: Self::LABEL_COUNT_MAX,
            });
        }
        Ok(Self(format!("{}/{label}", self.0).into()))
    }
}

impl FromStr for UntrustedScope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        for (index, label) in text.split('/').enumerate() {
            if index == Self::LABEL_COUNT_MAX {
                return Err(ScopeError::TooDeep {
                    limit: Self::LABEL_COUNT_MAX,
                });
            }
            let label: ScopeLabel = label.parse()?;
            if index == 0 && label.as_str().eq_ignore_ascii_case(TRUSTED) {
                return Err(ScopeError::Reserved);
            }
        }
        Ok(Self(text.into()))
    }
}

/// A trust zone inside a workspace.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// What trunk writes and everyone in the workspace reads.
    Trusted,
    /// What one untrusted credential writes and only it reads.
    Untrusted(UntrustedScope),
}

impl Scope {
    /// The scope as text: `trusted`, or the untrusted path.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Trusted => TRUSTED,
            Self::Untrusted(scope) => scope.as_str(),
        }
    }

    /// Whether this is the trusted scope.
    pub fn is_trusted(&self) -> bool {
        matches!(self, Self::Trusted)
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        if text == TRUSTED {
            Ok(Self::Trusted)
        } else {
            text.parse().map(Self::Untrusted)
        }
    }
}

/// The scopes a reader consults, in order: `trusted` first, so that no untrusted entry ever
/// stands in front of a trusted one (R2). Nobody consults an own scope without `trusted`.
///
/// Outside this crate nobody makes one:
/// ```compile_fail,E0624
/// # use larder_model::ReadPath;
/// let path = ReadPath::trusted();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadPath(Steps);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Steps {
    Nowhere,
    Trusted,
    TrustedThen(UntrustedScope),
}

impl ReadPath {
    pub(crate) fn nowhere() -> Self {
        Self(Steps::Nowhere)
    }

    pub(crate) fn trusted() -> Self {
        Self(Steps::Trusted)
    }

    pub(crate) fn trusted_then(own: UntrustedScope) -> Self {
        Self(Steps::TrustedThen(own))
    }

    /// The scopes, the one to ask first first.
    pub fn scopes(&self) -> impl Iterator<Item = Scope> + '_ {
        let (trusted, own) = match &self.0 {
            Steps::Nowhere => (None, None),
            Steps::Trusted => (Some(Scope::Trusted), None),
            Steps::TrustedThen(own) => (Some(Scope::Trusted), Some(Scope::Untrusted(own.clone()))),
        };
        trusted.into_iter().chain(own)
    }
}

show_as_text!(UntrustedScope);
show_as_text!(Scope);
