//! Object stores behind the local store, for any number of nodes.
//!
//! A bucket is a set of immutable packs. Every node knows from the catalogue, a table that all nodes share, which packs
//! there are, keeps an index of everything in them, and therefore never asks the bucket whether something is there. The
//! crate knows opaque keys and opaque bytes: no protocol, no scope, no user and no ledger.
//!
//! Always true:
//! - What is read is what was stored, or a miss: nothing in the bucket is believed but what carries this deployment's MAC.
//! - Every doubt about the bucket is [`Unavailable`], and comes within a bounded time; nothing waits for an upload that does
//!   not want to.
//! - An entry never crosses realms: a workspace's trusted and untrusted halves have nothing in common.
//! - A pack's object is written before its row in the catalogue, and deleted after it.

#![forbid(unsafe_code)]

mod bucket;
mod catalogue;
mod clock;
mod edict;
mod event;
mod fetch;
mod first;
mod follow;
mod index;
mod inner;
pub mod link;
mod local;
mod name;
mod pack;
mod queue;
mod queue_file;
mod realm;
mod record;
mod shelf;
mod stream;
mod sweep;
mod table;
mod upload;
mod uploader;

pub use bucket::{
    Bucket, BucketSettings, Delivery, EXPIRE_AFTER_DEFAULT, Fetched, FetchedBody, Found, Head,
    Unavailable, Usage,
};
pub use catalogue::{Catalogue, CatalogueError, Change, NewPack, Pending};
pub use clock::Clock;
pub use edict::{Edict, RecordHead};
pub use event::{Event, Observer};
pub use local::{FetchedEntry, Local, LocalEntry};
pub use name::MacKey;
#[cfg(any(test, feature = "sim"))]
pub use pack::read_anything;
pub use pack::{
    FORMAT_VERSION, INDEX_BYTES_MAX, NotAuthentic, PACK_BYTES_TARGET, PACK_RECORD_COUNT_MAX,
    PACKED_BODY_BYTES_MAX,
};
pub use queue::{QUEUE_ENTRY_COUNT_MAX, QUEUE_NAME_BYTES_MAX, QueueUsage};
pub use realm::{NoRealm, Realm, Trust};
pub use record::{BODY_BYTES_MAX, KEY_BYTES_MAX, PIECE_BYTES, Rule};
pub use stream::{BodyStream, BrokenOff};
pub use sweep::{GRACE, GcError, GcProgress};
pub use uploader::UPLOADS_AT_ONCE;
