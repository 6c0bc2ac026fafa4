//! What an entry is called and who wrote it.

use std::fmt;

/// Whose key space a key belongs to. Each dialect's keys are its tool's own and mean nothing in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dialect {
    /// Task hashes of Nx, `/v1/cache/{hash}`. Write-once: a key is a hash of inputs, an entry an assertion.
    Nx,
}

impl Dialect {
    /// Every dialect, for tables and metrics.
    pub const ALL: [Self; 1] = [Self::Nx];

    /// The dialect's number in storage keys. Never changes and is never used again for another.
    pub fn code(self) -> u8 {
        match self {
            Self::Nx => 1,
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
