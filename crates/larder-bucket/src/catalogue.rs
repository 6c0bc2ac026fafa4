//! The table of all packs, which the nodes share.
//!
//! Who implements it serialises what changes it, so that a reader who has seen a revision has seen all that are smaller
//! and will ever exist. A pack's object is written before its row, and its row goes before its object: an object without a
//! row is garbage, a row without an object is trouble.

use std::future::Future;
use std::pin::Pin;

use crate::realm::Realm;

/// An answer that is awaited.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, CatalogueError>> + Send + 'a>>;

/// The catalogue cannot be asked. The text is for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the catalogue is not available: {0}")]
pub struct CatalogueError(pub String);

/// A pack that has just been written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPack {
    /// Whose entries are in it.
    pub realm: Realm,
    /// The object's name, unique.
    pub name: String,
    /// Its length.
    pub object_bytes: u64,
    /// Where in it the index starts.
    pub index_offset: u64,
    /// The index's length.
    pub index_bytes: u64,
    /// Records in the index.
    pub entry_count: u32,
    /// When it was written, unix milliseconds.
    pub created_at_ms: u64,
}

/// A row that has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Grows with every change of any row, from 1.
    pub revision: u64,
    /// The pack's number: grows with every pack, from 1.
    pub number: u32,
    /// Whether the row has been removed.
    pub removed: bool,
    /// The pack.
    pub pack: NewPack,
}

/// The catalogue.
pub trait Catalogue: Send + Sync + 'static {
    /// Adds a row and returns its number. For a name that has a row already that is the row's number: whoever got no
    /// answer asks again.
    fn append(&self, pack: NewPack) -> Pending<'_, u32>;

    /// The changes after a revision, in order, at most `limit`. Each row is in it once, as it is now. A removed row may be
    /// left out after a month.
    fn changes(&self, after_revision: u64, limit: u32) -> Pending<'_, Vec<Change>>;

    /// Marks rows as removed; those that are not there or are already removed do not matter.
    fn remove(&self, numbers: Vec<u32>) -> Pending<'_, ()>;
}
