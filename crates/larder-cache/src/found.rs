//! An entry that a look-up has found, wherever it is.

use bytes::Bytes;
use larder_store::Entry;

use crate::arrival::Arrival;

/// What is known of it, and its body.
pub(crate) struct Found {
    /// What the protocol stored with it.
    pub metadata: Bytes,
    /// What the index knows of it.
    pub check: u16,
    /// Who wrote it.
    pub writer: u64,
    /// When, unix milliseconds.
    pub written_at_ms: u64,
    /// Bytes of the body.
    pub size: u64,
    pub body: FoundBody,
}

/// Where its body comes from.
pub(crate) enum FoundBody {
    /// The local store, or memory.
    Stored(larder_store::Body),
    /// The bucket, while it is being stored.
    Arriving(Box<Arrival>),
}

impl From<Entry> for Found {
    fn from(entry: Entry) -> Self {
        Self {
            metadata: entry.metadata,
            check: entry.check,
            writer: entry.writer,
            written_at_ms: entry.written_at_ms,
            size: entry.size,
            body: FoundBody::Stored(entry.body),
        }
    }
}
