//! The entry that a write is about to replace, for those who compare the two.

use bytes::Bytes;
use larder_model::{Dialect, EntryKey, WriteGrant, WriterId};
use larder_store::{Body, Wait};

use crate::cache::Cache;
use crate::key::StorageKey;

/// An entry in the scope of a writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replaced {
    /// Who stored it.
    pub writer: WriterId,
    /// All its bytes.
    pub bytes: Bytes,
}

impl Cache {
    /// The entry of this name in the scope that `grant` writes, if it is in memory whole: one of at most 64 KiB that the disk need
    /// not be asked for. Counts as no use.
    pub fn replaced_at_hand(
        &self,
        grant: &WriteGrant,
        dialect: Dialect,
        key: &EntryKey,
    ) -> Option<Replaced> {
        let pool = self.pair(grant.workspace()).of(grant.scope()).pool()?;
        let name = StorageKey::encode(grant.workspace(), grant.scope(), dialect, key);
        let entry = pool.peek(name.as_bytes(), Wait::Never).ok()??;
        match entry.body {
            Body::Whole(bytes) => Some(Replaced {
                writer: WriterId(entry.writer),
                bytes,
            }),
            Body::Stream(_) => None,
        }
    }
}
