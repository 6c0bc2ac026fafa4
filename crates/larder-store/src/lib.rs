//! A log-structured segment store on local disk: opaque keys to immutable bytes.
//!
//! A [`Pool`] is one engine: append-only segment files, an in-memory index, a byte budget that is
//! never exceeded. It knows no protocol, no scope and no user, runs no threads and reads no clock
//! but the one it is given; all disk access goes through [`Disk`], so that the tests can put the
//! whole engine on a simulated disk that fails on command.
//!
//! Always true:
//! - An entry is visible only when it is complete, and a reader gets bytes that match their
//!   checksums or an error, never a clean end after wrong bytes.
//! - Every doubt is a miss. What fails verification is a miss from then on, and an [`Event`].
//! - The files together never take up more than the budget, not even while space is reclaimed.
//! - An entry reported present by [`Pool::lease`] stays readable for the lease; if that is a yielding one, unless a
//!   write would be refused otherwise or such leases alone hold back more than an eighth of the pool.
//! - What [`Pool::hold`] has taken out of sight is no key's entry for anybody, also after a power cut, and its bytes stay as
//!   long as those of an entry that nobody uses.
//! - An acknowledged write survives the death of the process; with [`Durability::Synced`] also a
//!   power cut.
//! - One process at a time: [`DataDir`] holds the lock.

#![forbid(unsafe_code)]

mod checkpoint;
mod checksums;
mod clock;
mod data_dir;
mod disk;
mod format;
mod hold;
mod index;
mod lease;
mod pool;
mod read;
mod reclaim;
mod recover;
mod segment;
#[cfg(feature = "sim")]
pub mod sim;
mod space;
mod survey;
mod sync;
mod upkeep;
mod walk;
mod write;

pub use clock::Clock;
pub use data_dir::DataDir;
pub use disk::{Disk, File, RealDisk, WRITE_PARTS_MAX, Wait};
pub use format::{
    ALIGN_BYTES, BLOCK_BYTES, FORMAT_VERSION, HeaderError, KEY_BYTES_MAX, METADATA_BYTES_MAX,
    RECORD_HEADER_BYTES, RecordHeader, RecordKind, SEGMENT_HEADER_BYTES, SegmentHeader,
};
pub use hold::{Held, Released};
pub use lease::Lease;
pub use pool::{
    Bug, Durability, Event, Leases, OpenError, POOL_BUDGET_BYTES_MIN, Pool, PoolOptions,
    StoreError, Usage,
};
pub use read::{
    Body, Entry, EntryHead, PIECE_BYTES_MAX, ReadError, Reader, Standing, WHOLE_BYTES_MAX,
    WouldBlock,
};
pub use survey::{Purged, RecordHead, Verified};
pub use write::{Begin, NewRecord, Put, Upload};
