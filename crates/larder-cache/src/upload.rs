//! Writing an entry: exactly the declared bytes, or nothing.
//!
//! A small body is collected in memory, if the lane has memory left, and stored with one call; any
//! other one is written into the store as it arrives ([`Stream`]) and becomes visible when it is
//! finished. Either way an upload holds no lock: of two uploads of one key the first to finish wins,
//! and one that stalls keeps nobody waiting. Dropping an upload stores nothing.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use larder_store::{Durability, NewRecord, Pool, Put, StoreError};
use tokio::sync::OwnedSemaphorePermit;

use crate::key::StorageKey;
use crate::lanes::{Lane, UPLOAD_WAIT_MAX, permits};
use crate::metrics::KindSeries;
use crate::stream::Stream;

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
    pub(crate) const REASONS: [&'static str; 5] = [
        "too_large",
        "size_mismatch",
        "no_room",
        "busy",
        "unavailable",
    ];

    pub(crate) fn reason_index(self) -> usize {
        match self {
            Self::TooLarge { .. } => 0,
            Self::SizeMismatch { .. } => 1,
            Self::NoRoom => 2,
            Self::Busy => 3,
            Self::Unavailable => 4,
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
    pub writer: u64,
}

impl Draft {
    pub(crate) fn record(&self) -> NewRecord<'_> {
        NewRecord {
            key: self.key.as_bytes(),
            metadata: &self.metadata,
            writer: self.writer,
            replace: false,
        }
    }
}

pub(crate) enum Sink {
    Collected {
        draft: Box<Draft>,
        pool: Pool,
        bytes: BytesMut,
        memory: OwnedSemaphorePermit,
    },
    Streamed(Stream),
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
            Sink::Collected { bytes, .. } => {
                bytes.extend_from_slice(&chunk);
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
            (Durability::Written, Sink::Streamed(_)) => &self.lane.streamed_writes,
            (Durability::Written, Sink::Collected { .. }) => return Ok(()),
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
            Err(error) => Err(PutRefusal::of(&error)),
        }
    }
}

impl Sink {
    fn commit(self) -> Result<Put, StoreError> {
        match self {
            Self::Collected {
                draft,
                pool,
                bytes,
                memory,
                ..
            } => {
                let put = pool.put(&draft.record(), &bytes);
                drop(memory);
                put
            }
            Self::Streamed(stream) => stream.finish(),
        }
    }
}
