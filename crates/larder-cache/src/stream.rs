//! A body that is written into the store as it arrives.
//!
//! A write to a file can block for long when the system has too many dirty pages. So pieces are
//! gathered until they are worth a trip to a blocking thread, and as many trips run at once as the
//! lane allows. The memory for gathering is the lane's; an upload that gets none sends every piece
//! on its way as it comes.

use bytes::Bytes;
use larder_store::Put;
use tokio::sync::OwnedSemaphorePermit;

use crate::lanes::{Lane, UPLOAD_WAIT_MAX, permits};
use crate::presence::size_check;
use crate::room::Room;
use crate::spool::Target;
use crate::upload::{COLLECTED_BYTES_MAX, PutRefusal};
use crate::verify::Verification;

/// How many bytes are written at once: enough that the trip costs nothing beside the writing.
pub(crate) const BATCH_BYTES: usize = 256 << 10;

/// How much longer than a small blob its compressed form may be without being written in parts.
const SLACK_BYTES: u64 = 4 << 10;

/// How many pieces are written at once: each can keep a buffer much larger than itself.
const BATCH_PIECE_COUNT_MAX: usize = 64;

/// A body on its way into the store. Dropping it stores nothing.
pub(crate) struct Stream {
    /// `None` after a failed write.
    open: Option<Box<Open>>,
    batch: Vec<Bytes>,
    batch_bytes: usize,
    received: u64,
    /// How much is gathered before it is written.
    gather_bytes: usize,
    /// For what is gathered; `None`: nothing is.
    memory: Option<OwnedSemaphorePermit>,
}

struct Open {
    target: Target,
    room: Room,
    /// For a blob: what its bytes must be.
    proof: Option<Proof>,
}

/// How a blob is looked at while it is written.
pub(crate) struct Proof {
    pub verification: Verification,
    pub keep: Keep,
}

/// What of a blob is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// The bytes as they were sent.
    AsSent,
    /// What they are uncompressed.
    Uncompressed,
}

impl Stream {
    pub(crate) fn new(target: Target, room: Room, proof: Option<Proof>, lane: &Lane) -> Self {
        // A blob that is small uncompressed needs little memory; a little more than its size if it does not compress.
        let size = proof.as_ref().and_then(|proof| proof.verification.size());
        let most = size.map_or(u64::MAX, |size| size.saturating_add(SLACK_BYTES));
        let gather_bytes = most.min(BATCH_BYTES as u64) as usize;
        Self {
            open: Some(Box::new(Open {
                target,
                room,
                proof,
            })),
            batch: Vec::new(),
            batch_bytes: 0,
            received: 0,
            gather_bytes,
            memory: lane.memory(gather_bytes as u32),
        }
    }

    pub(crate) async fn write(&mut self, piece: Bytes, lane: &Lane) -> Result<(), PutRefusal> {
        let open = self.open.as_mut().ok_or(PutRefusal::Unavailable)?;
        self.received += piece.len() as u64;
        if !open.room.grow_to(self.received) {
            return Err(PutRefusal::Busy);
        }
        self.batch_bytes += piece.len();
        self.batch.push(piece);
        let gather = self.memory.is_some()
            && self.batch_bytes < self.gather_bytes
            && self.batch.len() < BATCH_PIECE_COUNT_MAX;
        if gather {
            return Ok(());
        }
        let turn = permits(&lane.streamed_writes, 1, UPLOAD_WAIT_MAX).await;
        let turn = turn.ok_or(PutRefusal::Busy)?;
        self.batch_bytes = 0;
        let batch = std::mem::take(&mut self.batch);
        let mut open = self.open.take().ok_or(PutRefusal::Unavailable)?;
        let written = tokio::task::spawn_blocking(move || {
            let written = open.write_all(&batch);
            drop(turn);
            written.map(|()| open)
        });
        let written = written.await.map_err(|_| PutRefusal::Unavailable)?;
        self.open = Some(written?);
        Ok(())
    }

    /// Whether what is left to do is too much for an async thread.
    pub(crate) fn is_heavy(&self) -> bool {
        let in_memory = self.received <= COLLECTED_BYTES_MAX
            && self.batch_bytes as u64 == self.received
            && self.open.as_ref().is_some_and(|open| {
                matches!(open.target, Target::Spool(_))
                    && open
                        .proof
                        .as_ref()
                        .is_none_or(|proof| !proof.verification.is_heavy())
            });
        !in_memory
    }

    /// Writes what is left and makes the entry visible. May block.
    pub(crate) fn finish(self) -> Result<Put, PutRefusal> {
        let mut open = *self.open.ok_or(PutRefusal::Unavailable)?;
        open.write_all(&self.batch)?;
        open.finish()
    }
}

impl Open {
    fn write_all(&mut self, batch: &[Bytes]) -> Result<(), PutRefusal> {
        batch.iter().try_for_each(|piece| self.write(piece))
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), PutRefusal> {
        let Self {
            target,
            room,
            proof,
        } = self;
        let mut write = |bytes: &[u8]| target.write(bytes);
        let Some(proof) = proof else {
            return write(piece);
        };
        match proof.keep {
            Keep::AsSent => {
                proof.verification.add(piece, |_| Ok(()))?;
                write(piece)
            }
            Keep::Uncompressed => {
                let mut plain_bytes = proof.verification.seen();
                proof.verification.add(piece, |plain| {
                    plain_bytes += plain.len() as u64;
                    if !room.grow_to(plain_bytes) {
                        return Err(PutRefusal::Busy);
                    }
                    write(plain)
                })
            }
        }
    }

    fn finish(self) -> Result<Put, PutRefusal> {
        let check = match self.proof {
            Some(proof) => Some(size_check(proof.verification.finish()?)),
            None => None,
        };
        let put = self.target.finish(check);
        put.map_err(|error| PutRefusal::of(&error))
    }
}
