//! Names from outside: workspaces and scope labels.
//!
//! Both become path segments of URLs, words of configuration and parts of storage keys, so their
//! grammar is small and has one spelling per name: nothing to percent-decode, no `.` or `..`, no
//! empty name.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Why a text is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text has no characters.
    #[error("a name cannot be empty")]
    Empty,
    /// The text has more than `limit` bytes.
    #[error("a name has at most {limit} characters")]
    TooLong {
        /// The most bytes a name of this kind may have.
        limit: usize,
    },
    /// A character outside the grammar, or a first character that is no letter or digit.
    #[error("a name consists of {allowed} and starts with a letter or digit")]
    Character {
        /// The grammar, for people.
        allowed: &'static str,
    },
}

fn check(text: &str, limit: usize, upper: bool) -> Result<(), NameError> {
    let first = *text.as_bytes().first().ok_or(NameError::Empty)?;
    if text.len() > limit {
        return Err(NameError::TooLong { limit });
    }
    let letter =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || (upper && b.is_ascii_uppercase());
    if letter(first)
        && text
            .bytes()
            .all(|b| letter(b) || matches!(b, b'.' | b'_' | b'-'))
    {
        return Ok(());
    }
    let allowed = if upper {
        "a-z, A-Z, 0-9, '.', '_' and '-'"
    } else {
        "a-z, 0-9, '.', '_' and '-'"
    };
    Err(NameError::Character { allowed })
}

/// A tenant: the hard wall between entries. Lower case, so that two names never differ by case only.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkspaceName(Arc<str>);

impl WorkspaceName {
    /// The most bytes a workspace name may have: a DNS label, so that it can become a host name.
    pub const BYTES_MAX: usize = 63;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WorkspaceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check(text, Self::BYTES_MAX, false)?;
        Ok(Self(text.into()))
    }
}

/// One segment of an untrusted scope's path, as a URL's `/scope/LABEL/` or a token's `--scope` names it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopeLabel(Arc<str>);

impl ScopeLabel {
    /// The most bytes a label may have.
    pub const BYTES_MAX: usize = 64;

    /// The label as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ScopeLabel {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        check(text, Self::BYTES_MAX, true)?;
        Ok(Self(text.into()))
    }
}

/// Shows a type as its text: plainly to people, quoted with its name to developers.
macro_rules! show_as_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:?})", stringify!($name), self.as_str())
            }
        }
    };
}
pub(crate) use show_as_text;

show_as_text!(WorkspaceName);
show_as_text!(ScopeLabel);
