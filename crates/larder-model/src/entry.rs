//! What an entry is called and who wrote it.

use std::fmt;

use crate::digest::DigestFunction;

/// Whose key space a key belongs to. Each dialect's keys are its tool's own and mean nothing in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dialect {
    /// Task hashes of Nx, `/v1/cache/{hash}`. Write-once: a key is a hash of inputs, an entry an assertion.
    Nx,
    /// Blobs named by their own hash. Nothing else than a blob that has this hash can be an entry.
    Cas(DigestFunction),
    /// Action results of the Remote Execution API, by action digest and instance name. Assertions, and replaceable: a
    /// build must be able to heal a result whose blobs are gone.
    ActionResult,
    /// What HTTP clients store as action results although it is none: private JSON, compiler outputs. Replaceable as well;
    /// gRPC never sees it.
    OpaqueActionResult,
}

impl Dialect {
    /// Every dialect, for tables and metrics.
    pub const ALL: [Self; 5] = [
        Self::Nx,
        Self::Cas(DigestFunction::Sha256),
        Self::Cas(DigestFunction::Blake3),
        Self::ActionResult,
        Self::OpaqueActionResult,
    ];

    /// The dialect's number in storage keys. Never changes and is never used again for another.
    pub fn code(self) -> u8 {
        match self {
            Self::Nx => 1,
            Self::Cas(DigestFunction::Sha256) => 2,
            Self::Cas(DigestFunction::Blake3) => 3,
            Self::ActionResult => 4,
            Self::OpaqueActionResult => 5,
        }
    }

    /// Whether a new entry takes the place of an old one in its scope (R4).
    pub fn is_replaceable(self) -> bool {
        match self {
            Self::ActionResult | Self::OpaqueActionResult => true,
            Self::Nx | Self::Cas(_) => false,
        }
    }

    /// The dialect with this number, if there is one.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.code() == code)
    }

    /// The dialect's name in metrics, filters and pages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nx => "nx",
            Self::Cas(DigestFunction::Sha256) => "cas.sha256",
            Self::Cas(DigestFunction::Blake3) => "cas.blake3",
            Self::ActionResult => "ac",
            Self::OpaqueActionResult => "ac.opaque",
        }
    }

    /// The dialect called `name`, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.name() == name)
    }
}

/// Why bytes are no entry key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryKeyError {
    /// No bytes.
    #[error("a key cannot be empty")]
    Empty,
    /// More than [`EntryKey::BYTES_MAX`] bytes.
    #[error("a key has at most {limit} bytes")]
    TooLong {
        /// The most bytes of a key.
        limit: usize,
    },
}

/// The tool's own key, opaque bytes. A protocol may allow less than this type does.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryKey(Box<[u8]>);

impl EntryKey {
    /// The most bytes of a key: longer than any tool's hash, shorter than a header line.
    pub const BYTES_MAX: usize = 512;

    /// A key of these bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, EntryKeyError> {
        match bytes.len() {
            0 => Err(EntryKeyError::Empty),
            len if len > Self::BYTES_MAX => Err(EntryKeyError::TooLong {
                limit: Self::BYTES_MAX,
            }),
            _ => Ok(Self(bytes.into())),
        }
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Escaped for people: never raw control characters in a log or on a terminal.
impl fmt::Display for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EntryKey({self})")
    }
}

/// Who wrote an entry, as a number that the ledger can explain (R7). For a static token it is the token's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WriterId(pub u64);

impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
