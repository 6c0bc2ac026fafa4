//! The one thing a protocol may call: get, put, find out what is missing, purge and hold back, over grants.
//!
//! Between the protocols, which know clients, and the store, which knows bytes, this crate keeps
//! the law of scopes: where an entry lives, which entries a reader sees, what a write conflicts
//! with. Nothing here can be called without a grant, and only `larder_model::Policy` makes grants.
//!
//! Always true:
//! - Workspace, scope and dialect are part of every storage key ([`StorageKey`]), so an entry can
//!   be found under no other name.
//! - Trusted and untrusted entries live in different pools, and every limit that callers compete
//!   for (memory, threads) is counted apart for the two, so untrusted callers cannot slow trusted ones.
//! - A read asks `trusted` first, then the caller's own scope (R2). A write conflicts only with
//!   what its writer can see (R5) and waits for no other upload and no other client. An entry of a replaceable
//!   dialect takes the place of an older one in its own scope alone (R4).
//! - A blob ([`BlobName`]) is not there before its bytes have been hashed and, if they were sent compressed,
//!   decompressed to their last byte, whoever sent them (G2). What [`Cache::find_missing`] says is there has the
//!   size in its digest, can be read by whoever asked, and stays for the lease.
//! - Hashing, encoding and decoding of more than 64 KiB happen off the async threads, so much at a time as the
//!   lane allows. No memory is filled by what compressed bytes claim of themselves.
//! - Behind the pools there can be a bucket ([`Tier`]). Without one nothing of it is done.
//! - Doubt is a miss, or "not stored" (R6): a pool that is loading too long or broken, a full
//!   queue, bytes that do not verify.
//!
//! It knows no protocol, opens no files and reads no configuration.

#![forbid(unsafe_code)]

mod arrival;
mod blob;
mod body;
mod bring;
mod cache;
mod control;
mod encoding;
mod found;
mod key;
mod lanes;
mod local;
mod metrics;
mod pool;
mod presence;
mod recode;
mod replaced;
mod room;
mod spool;
mod stream;
mod tier;
mod trips;
mod turns;
mod upload;
mod verify;
mod windows;

pub use blob::{BlobHit, BlobName};
pub use body::{BodyLost, HitBody};
pub use cache::{Cache, CacheLimits, ENTRY_BYTES_MAX_DEFAULT, Hit, NotAtHand};
pub use control::{
    CHANGED_ROW_COUNT_MAX, Change, Changed, ChangedRow, ControlError, ENTRY_REPORT_COUNT_MAX,
    Entries, EntryFilter, EntryPlace, EntryReport, Export, KeyFilter, Order, OrderKeeper,
    OrderNotKept, PoolReport, STATS_ROW_COUNT_MAX, Selection, Standing, Stats, StatsRow, Verified,
};
pub use encoding::Encoding;
pub use key::{DecodedKey, StorageKey};
pub use metrics::{Action, CacheCollector, CacheMetrics, Unfinished, WORKSPACE_LABEL_COUNT_MAX};
pub use pool::{LOAD_WAIT_MAX, PoolHandle, PoolPair, PoolState};
pub use recode::BlobBody;
pub use replaced::Replaced;
pub use tier::{Ack, Tier};
pub use turns::ControlTurn;
pub use upload::{PutRefusal, PutStart, Stored, Upload};
