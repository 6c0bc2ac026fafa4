//! Where an entry lives in the bucket: a workspace's trusted or untrusted half.
//!
//! A realm is a prefix of object names, so that bucket policies and lifecycle rules can tell the halves apart, and it
//! is part of what every look-up hashes: nothing is ever found across realms.

use std::fmt;
use std::sync::Arc;

/// Whether an entry was written by trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Trust {
    /// Only trunk writes here.
    Trusted,
    /// Every other writer's.
    Untrusted,
}

impl Trust {
    /// Both, the more important one first.
    pub const ALL: [Self; 2] = [Self::Trusted, Self::Untrusted];

    /// The name in object names, files, metrics and the catalogue.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Untrusted => "untrusted",
        }
    }

    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Trusted => 1,
            Self::Untrusted => 2,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|trust| trust.code() == code)
    }

    /// The position in [`Trust::ALL`].
    pub(crate) fn rank(self) -> usize {
        usize::from(self.code()) - 1
    }
}

/// A workspace's half. Clones share the name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Realm {
    workspace: Arc<str>,
    trust: Trust,
}

/// The text is no workspace's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a workspace's name is 1 to 63 of a-z, 0-9, '.', '_' and '-', and starts with a letter or digit"
)]
pub struct NoRealm;

impl Realm {
    /// The most bytes of a workspace's name.
    pub const WORKSPACE_BYTES_MAX: usize = 63;

    /// The half of a workspace. The grammar of its name is what can be a segment of an object's name.
    pub fn new(workspace: &str, trust: Trust) -> Result<Self, NoRealm> {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = workspace.len() <= Self::WORKSPACE_BYTES_MAX
            && workspace.bytes().next().is_some_and(letter)
            && workspace
                .bytes()
                .all(|byte| letter(byte) || matches!(byte, b'.' | b'_' | b'-'));
        let workspace = workspace.into();
        fits.then_some(Self { workspace, trust }).ok_or(NoRealm)
    }

    /// The workspace's name.
    pub fn workspace(&self) -> &str {
        &self.workspace
    }

    /// Which half.
    pub fn trust(&self) -> Trust {
        self.trust
    }
}

impl fmt::Display for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.workspace, self.trust.as_str())
    }
}

impl fmt::Debug for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
