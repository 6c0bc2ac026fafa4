//! Writing an entry: exactly the declared bytes, or nothing.
//!
//! A small body is collected in memory, if the lane has memory left, and stored with one call; any
//! other one is written into the store as it arrives ([`Stream`]) and becomes visible when it is
//! finished. Either way an upload holds no lock: of two uploads of one key the first to finish wins,
//! and one that stalls keeps nobody waiting. Dropping an upload stores nothing.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use larder_model::{BlobHash, Dialect};
use larder_store::{Durability, Lease, NewRecord, Pool, Put, StoreError};
use tokio::sync::OwnedSemaphorePermit;

use crate::key::StorageKey;
use crate::lanes::{Lane, UPLOAD_WAIT_MAX, permits};
use crate::metrics::KindSeries;
use crate::stream::Stream;
use crate::tier::Offering;
use crate::trips::{self, Pause, Trip, Work};
use crate::verify::Verification;

/// The largest body that is collected in memory: what the store hands out whole, and 86 % of all
/// entries in real caches are far below it.
pub(crate) const COLLECTED_BYTES_MAX: u64 = 64 << 10;

/// Why an entry was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PutRefusal {
    /// Entries of this size are not accepted, or a blob is sent in far more bytes than it has.
    #[error("no more than {limit} bytes are accepted")]
    TooLarge {
        /// The most bytes of an entry here, or of what this blob may be sent in.
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
            StoreError::NamesTooLong
            | StoreError::TooMany { .. }
            | StoreError::Closed
            | StoreError::Io(_) => Self::Unavailable,
        }
    }
}

/// How a put begins.
pub enum PutStart {
    /// Send the bytes.
    Upload(Upload),
    /// The writer can already see an entry under this key; nothing will be stored. A blob is leased.
    Exists,
}

/// How a put ends well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// The entry is stored. It is not leased, not even if it is a blob: leases on all that is new would leave a
    /// small pool no room.
    New,
    /// Somebody else finished an entry under this key meanwhile; theirs stays. A blob is leased.
    Exists,
}

/// The name and the writer of an entry to be.
pub(crate) struct Draft {
    pub key: StorageKey,
    pub metadata: Bytes,
    pub check: u16,
    pub writer: u64,
    pub dialect: Dialect,
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

/// The lease that a blob gets if somebody else's copy of it turns out to be there.
pub(crate) struct Promise {
    pub pool: Pool,
    pub key: Box<[u8]>,
    pub lease: Lease,
}

impl Promise {
    /// Keeps it. An entry that was there a moment ago can be gone: the writer has to send its own again.
    pub(crate) fn keep(&self) -> Result<(), PutRefusal> {
        let leased = self.pool.lease(&self.key, self.lease);
        leased.map(|_| ()).ok_or(PutRefusal::Busy)
    }
}

pub(crate) enum Sink {
    Collected(Box<Collection>),
    Streamed(Box<Stream>),
    /// After a refusal.
    Spent,
}

/// An entry that is stored with one call.
pub(crate) struct Collection {
    pub draft: Draft,
    pub pool: Pool,
    pub body: CollectedBody,
    /// For a blob: what its bytes must be.
    pub verification: Option<Verification>,
    /// How many bytes of the body have been looked at.
    pub verified: usize,
}

pub(crate) enum CollectedBody {
    /// As it comes in, and the memory it may take.
    Growing(
        BytesMut,
        #[expect(dead_code, reason = "given back when dropped")] OwnedSemaphorePermit,
    ),
    Whole(Bytes),
}

impl CollectedBody {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Growing(bytes, _) => bytes,
            Self::Whole(bytes) => bytes,
        }
    }
}

/// An entry on its way in. Dropping it stores nothing.
pub struct Upload {
    pub(crate) sink: Sink,
    pub(crate) declared: Option<u64>,
    pub(crate) received: u64,
    pub(crate) limit: u64,
    pub(crate) durability: Durability,
    /// For a blob.
    pub(crate) promise: Option<Promise>,
    /// What is done with the entry once it is stored.
    pub(crate) offering: Option<Offering>,
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
                    CollectedBody::Whole(bytes) => {
                        let declared = bytes.len() as u64;
                        return Err(PutRefusal::SizeMismatch { declared, received });
                    }
                }
                Ok(())
            }
            Sink::Streamed(stream) => stream.write(chunk, &self.lane).await,
            Sink::Spent => Err(PutRefusal::Unavailable),
        }
    }

    /// Looks at the whole body, and waits until the entry can be stored without further waiting for others.
    /// Whoever wants to look at something a last time does so after this; [`Upload::finish`] does it by itself.
    /// After a refusal the upload is over.
    pub async fn take_turn(&mut self) -> Result<(), PutRefusal> {
        let ready = match self.look_at_rest().await {
            Ok(()) => self.wait_for_turn().await,
            Err(refusal) => Err(refusal),
        };
        ready.inspect_err(|refusal| self.series.refused(*refusal))
    }

    /// Does all that is to be done with the bytes before the entry is made visible.
    async fn look_at_rest(&mut self) -> Result<(), PutRefusal> {
        let received = self.received;
        if let Some(declared) = self.declared.filter(|declared| received != *declared) {
            return Err(PutRefusal::SizeMismatch { declared, received });
        }
        self.sink = match std::mem::replace(&mut self.sink, Sink::Spent) {
            Sink::Collected(collection) if collection.verification.is_some() => {
                let is_heavy = collection.is_heavy();
                Sink::Collected(trips::complete(collection, is_heavy, &self.lane).await?)
            }
            Sink::Collected(collection) => Sink::Collected(collection),
            Sink::Streamed(mut stream) => {
                stream.write_rest(&self.lane).await?;
                Sink::Streamed(stream)
            }
            Sink::Spent => return Err(PutRefusal::Unavailable),
        };
        Ok(())
    }

    async fn wait_for_turn(&mut self) -> Result<(), PutRefusal> {
        let turns = match (self.durability, &self.sink) {
            (Durability::Synced, _) => &self.lane.synced_writes,
            (Durability::Written, Sink::Collected(collection)) if collection.is_heavy() => {
                &self.lane.streamed_writes
            }
            (Durability::Written, Sink::Streamed(stream)) if !stream.is_heavy() => return Ok(()),
            (Durability::Written, Sink::Streamed(_)) => &self.lane.streamed_writes,
            (Durability::Written, Sink::Collected(_) | Sink::Spent) => return Ok(()),
        };
        if self.turn.is_none() {
            self.turn = permits(turns, 1, UPLOAD_WAIT_MAX).await;
        }
        self.turn.as_ref().map(|_| ()).ok_or(PutRefusal::Busy)
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
        let (sink, received, offering) = (self.sink, self.received, self.offering);
        let put = match self.turn {
            None => sink.commit(offering.as_ref()),
            Some(turn) => {
                let offering = offering.clone();
                let commit = tokio::task::spawn_blocking(move || {
                    let put = sink.commit(offering.as_ref());
                    drop(turn);
                    put
                });
                commit.await.map_err(|_| PutRefusal::Unavailable)?
            }
        };
        let put = put?;
        if put == Put::Exists {
            self.promise.as_ref().map_or(Ok(()), Promise::keep)?;
        }
        match (put, offering) {
            (Put::Stored, None) => Ok(Stored::New),
            (Put::Stored, Some(offering)) => Box::pin(offering.make(received)).await,
            (Put::Exists, None) => Ok(Stored::Exists),
            (Put::Exists, Some(offering)) => Box::pin(offering.make_existing(received)).await,
        }
    }
}

impl Sink {
    fn commit(self, offering: Option<&Offering>) -> Result<Put, PutRefusal> {
        let _turn = offering.and_then(Offering::turn);
        match self {
            Self::Collected(collection) => collection.commit(),
            Self::Streamed(stream) => stream.finish(),
            Self::Spent => Err(PutRefusal::Unavailable),
        }
    }
}

impl Collection {
    /// Whether looking at the blob is too much work for an async thread.
    fn is_heavy(&self) -> bool {
        let verification = self.verification.as_ref();
        let is_large = self.body.bytes().len() as u64 > COLLECTED_BYTES_MAX;
        verification.is_some_and(|verification| is_large || verification.is_heavy())
    }

    fn commit(self) -> Result<Put, PutRefusal> {
        if let Some(verification) = self.verification {
            verification.finish()?;
        }
        let put = self.pool.put(&self.draft.record(), self.body.bytes());
        put.map_err(|error| PutRefusal::of(&error))
    }
}

impl Work for Box<Collection> {
    fn work(&mut self, trip: &mut Trip) -> Result<Pause, PutRefusal> {
        let body = self.body.bytes();
        let Some(verification) = &mut self.verification else {
            return Ok(Pause::Done);
        };
        let mut rest = &body[self.verified..];
        let pause = verification.add(&mut rest, trip, |_| Ok(()));
        self.verified = body.len() - rest.len();
        pause
    }

    fn verification(&mut self) -> Option<&mut Verification> {
        self.verification.as_mut()
    }
}
