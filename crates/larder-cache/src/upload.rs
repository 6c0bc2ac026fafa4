//! Writing an entry: exactly the declared bytes, or nothing.
//!
//! A small body is collected in memory, if the lane has memory left, and stored with one call; any
//! other one is written into the store as it arrives ([`Stream`]) and becomes visible when it is
//! finished. Either way an upload holds no lock: of two uploads of one key the first to finish wins,
//! and one that stalls keeps nobody waiting. Dropping an upload stores nothing.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use larder_model::BlobHash;
use larder_store::{Durability, NewRecord, Pool, Put, StoreError};
use tokio::sync::OwnedSemaphorePermit;

use crate::key::StorageKey;
use crate::lanes::{Lane, UPLOAD_WAIT_MAX, permits};
use crate::metrics::KindSeries;
use crate::stream::Stream;
use crate::verify::Verification;

/// The largest body that is collected in memory: what the store hands out whole, and 86 % of all
/// entries in real caches are far below it.
pub(crate) const COLLECTED_BYTES_MAX: u64 = 64 << 10;

/// Why an entry was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PutRefusal {
    /// Entries of this size are not accepted.
    #[error("entries are limited to {limit} bytes")]
    TooLarge {
        /// The most bytes of an entry here.
        limit: u64,
    },
    /// The body had another length than it was declared to have.
    #[error("{received} bytes arrived, {declared} were declared")]
    SizeMismatch {
        /// What was announced.
        declared: u64,
        /// What came, as far as it was read.
        received: u64,
    },
    /// The bytes are not the blob that their name says.
    #[error("the bytes have the hash {found}, not {expected}")]
    DigestMismatch {
        /// The hash in the name.
        expected: BlobHash,
        /// The hash of what came, uncompressed.
        found: BlobHash,
    },
    /// The bytes were said to be compressed, and cannot be decompressed.
    #[error("the body is not valid zstd, or needs too large a window")]
    Undecodable,
    /// Everything in the pool is leased or being written, or the disk is full.
    #[error("there is no room left")]
    NoRoom,
    /// Too much is going on; the wait for a turn took too long.
    #[error("the cache is busy")]
    Busy,
    /// The pool is not loaded, is broken or is closed.
    #[error("the cache is not available")]
    Unavailable,
}

impl PutRefusal {
    /// The reasons' names in metrics, by [`PutRefusal::reason_index`].
    pub(crate) const REASONS: [&'static str; 7] = [
        "too_large",
        "size_mismatch",
        "digest_mismatch",
        "undecodable",
        "no_room",
        "busy",
        "unavailable",
    ];

    pub(crate) fn reason_index(self) -> usize {
        match self {
            Self::TooLarge { .. } => 0,
            Self::SizeMismatch { .. } => 1,
            Self::DigestMismatch { .. } => 2,
            Self::Undecodable => 3,
            Self::NoRoom => 4,
            Self::Busy => 5,
            Self::Unavailable => 6,
        }
    }

    /// The reason's name in metrics and logs.
    pub fn reason(self) -> &'static str {
        Self::REASONS[self.reason_index()]
    }

    /// What the store's error means to a writer. A failing disk is logged as the store's event.
    pub(crate) fn of(error: &StoreError) -> Self {
        match *error {
            StoreError::TooLarge { limit } => Self::TooLarge { limit },
            StoreError::NoRoom => Self::NoRoom,
            StoreError::SizeMismatch { declared, received } => {
                Self::SizeMismatch { declared, received }
            }
            StoreError::NamesTooLong | StoreError::Closed | StoreError::Io(_) => Self::Unavailable,
        }
    }
}

/// How a put begins.
pub enum PutStart {
    /// Send the bytes.
    Upload(Upload),
    /// The writer can already see an entry under this key; nothing will be stored.
    Exists,
}

/// How a put ends well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// The entry is stored.
    New,
    /// Somebody else finished an entry under this key meanwhile; theirs stays.
    Exists,
}

/// The name and the writer of an entry to be.
pub(crate) struct Draft {
    pub key: StorageKey,
    pub metadata: Bytes,
    pub check: u16,
    pub writer: u64,
    pub replace: bool,
}

impl Draft {
    pub(crate) fn record(&self) -> NewRecord<'_> {
        NewRecord {
            key: self.key.as_bytes(),
            metadata: &self.metadata,
            check: self.check,
            writer: self.writer,
            replace: self.replace,
        }
    }
}

pub(crate) enum Sink {
    Collected(Box<Collection>),
    Streamed(Stream),
}

/// An entry that is stored with one call.
pub(crate) struct Collection {
    pub draft: Draft,
    pub pool: Pool,
    pub body: CollectedBody,
    /// For a blob: what its bytes must be.
    pub verification: Option<Verification>,
}

pub(crate) enum CollectedBody {
    /// As it comes in, and the memory it may take.
    Growing(
        BytesMut,
        #[expect(dead_code, reason = "given back when dropped")] OwnedSemaphorePermit,
    ),
    Whole(Bytes),
}

/// An entry on its way in. Dropping it stores nothing.
pub struct Upload {
    pub(crate) sink: Sink,
    pub(crate) declared: Option<u64>,
    pub(crate) received: u64,
    pub(crate) limit: u64,
    pub(crate) durability: Durability,
    pub(crate) lane: Arc<Lane>,
    /// The turn at the disk, once the upload has it.
    pub(crate) turn: Option<OwnedSemaphorePermit>,
    pub(crate) series: Arc<KindSeries>,
    pub(crate) started: Instant,
}

impl Upload {
    /// Takes the next bytes of the body. After a refusal the upload is over.
    pub async fn write(&mut self, chunk: Bytes) -> Result<(), PutRefusal> {
        self.accept(chunk)
            .await
            .inspect_err(|refusal| self.series.refused(*refusal))
    }

    async fn accept(&mut self, chunk: Bytes) -> Result<(), PutRefusal> {
        self.received += chunk.len() as u64;
        let (received, limit) = (self.received, self.limit);
        if received > limit {
            return Err(PutRefusal::TooLarge { limit });
        }
        if let Some(declared) = self.declared.filter(|declared| received > *declared) {
            return Err(PutRefusal::SizeMismatch { declared, received });
        }
        match &mut self.sink {
            Sink::Collected(collection) => {
                match &mut collection.body {
                    CollectedBody::Growing(bytes, _) => bytes.extend_from_slice(&chunk),
                    CollectedBody::Whole(bytes) => *bytes = chunk,
                }
                Ok(())
            }
            Sink::Streamed(stream) => stream.write(chunk, &self.lane).await,
        }
    }

    /// Waits until the entry can be stored without further waiting for others. Whoever wants to
    /// look at something a last time does so after this; [`Upload::finish`] does it by itself.
    pub async fn take_turn(&mut self) -> Result<(), PutRefusal> {
        let turns = match (self.durability, &self.sink) {
            (Durability::Synced, _) => &self.lane.synced_writes,
            (Durability::Written, Sink::Collected(collection)) if collection.is_heavy() => {
                &self.lane.streamed_writes
            }
            (Durability::Written, Sink::Streamed(stream)) if !stream.is_heavy() => return Ok(()),
            (Durability::Written, Sink::Streamed(_)) => &self.lane.streamed_writes,
            (Durability::Written, Sink::Collected(_)) => return Ok(()),
        };
        if self.turn.is_none() {
            self.turn = permits(turns, 1, UPLOAD_WAIT_MAX).await;
        }
        if self.turn.is_none() {
            self.series.refused(PutRefusal::Busy);
            return Err(PutRefusal::Busy);
        }
        Ok(())
    }

    /// Makes the entry visible, if exactly the declared bytes were written.
    pub async fn finish(mut self) -> Result<Stored, PutRefusal> {
        self.take_turn().await?;
        let (series, received, started) = (self.series.clone(), self.received, self.started);
        let finished = self.commit().await;
        match finished {
            Ok(Stored::New) => series.stored(received, started.elapsed()),
            Ok(Stored::Exists) => series.exists(),
            Err(refusal) => series.refused(refusal),
        }
        finished
    }

    async fn commit(self) -> Result<Stored, PutRefusal> {
        let (sink, received) = (self.sink, self.received);
        if let Some(declared) = self.declared.filter(|declared| received != *declared) {
            return Err(PutRefusal::SizeMismatch { declared, received });
        }
        let put = match self.turn {
            None => sink.commit(),
            Some(turn) => {
                let commit = tokio::task::spawn_blocking(move || {
                    let put = sink.commit();
                    drop(turn);
                    put
                });
                commit.await.map_err(|_| PutRefusal::Unavailable)?
            }
        };
        match put {
            Ok(Put::Stored) => Ok(Stored::New),
            Ok(Put::Exists) => Ok(Stored::Exists),
            Err(refusal) => Err(refusal),
        }
    }
}

impl Sink {
    fn commit(self) -> Result<Put, PutRefusal> {
        match self {
            Self::Collected(collection) => collection.commit(),
            Self::Streamed(stream) => stream.finish(),
        }
    }
}

impl Collection {
    /// Whether looking at the blob is too much work for an async thread.
    fn is_heavy(&self) -> bool {
        let verification = self.verification.as_ref();
        verification.is_some_and(Verification::is_heavy)
    }

    fn commit(self) -> Result<Put, PutRefusal> {
        let body: &[u8] = match &self.body {
            CollectedBody::Growing(bytes, _) => bytes,
            CollectedBody::Whole(bytes) => bytes,
        };
        if let Some(mut verification) = self.verification {
            verification.add(body, |_| Ok(()))?;
            verification.finish()?;
        }
        let put = self.pool.put(&self.draft.record(), body);
        put.map_err(|error| PutRefusal::of(&error))
    }
}
