//! A body that is written into the store as it arrives.
//!
//! A write to a file can block for long when the system has too many dirty pages. So pieces are
//! gathered until they are worth a trip to a blocking thread, and as many trips run at once as the
//! lane allows. Each trip is bounded by what comes out of it ([`crate::trips`]). The memory for gathering is the lane's; an upload that gets none sends every piece
//! on its way as it comes.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use larder_store::Put;
use tokio::sync::OwnedSemaphorePermit;

use crate::lanes::Lane;
use crate::presence::size_check;
use crate::room::Room;
use crate::spool::Target;
use crate::trips::{self, Pause, Trip, Work};
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
    /// How many pieces have been gathered, and their bytes.
    batch_len: usize,
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
    /// What is still to be written.
    batch: VecDeque<Bytes>,
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
                room: room.at_most(most),
                proof,
                batch: VecDeque::new(),
            })),
            batch_len: 0,
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
        self.batch_len += 1;
        open.batch.push_back(piece);
        let gather = self.memory.is_some()
            && self.batch_bytes < self.gather_bytes
            && self.batch_len < BATCH_PIECE_COUNT_MAX;
        if gather {
            return Ok(());
        }
        let open = self.open.take().ok_or(PutRefusal::Unavailable)?;
        self.open = Some(trips::complete(open, true, lane).await?);
        (self.batch_len, self.batch_bytes) = (0, 0);
        Ok(())
    }

    /// Writes what is left. Nothing may be added after it.
    pub(crate) async fn write_rest(&mut self, lane: &Lane) -> Result<(), PutRefusal> {
        let is_heavy = self.is_heavy();
        let open = self.open.take().ok_or(PutRefusal::Unavailable)?;
        let has_rest = !open.batch.is_empty();
        self.open = Some(if has_rest {
            trips::complete(open, is_heavy, lane).await?
        } else {
            open
        });
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

    /// Makes the entry visible, after [`Stream::write_rest`]. May block.
    pub(crate) fn finish(self) -> Result<Put, PutRefusal> {
        self.open.ok_or(PutRefusal::Unavailable)?.finish()
    }
}

impl Work for Box<Open> {
    fn work(&mut self, trip: &mut Trip) -> Result<Pause, PutRefusal> {
        while let Some(mut piece) = self.batch.pop_front() {
            let pause = self.write(&mut piece, trip)?;
            if pause != Pause::Done {
                self.batch.push_front(piece);
                return Ok(pause);
            }
        }
        Ok(Pause::Done)
    }

    fn verification(&mut self) -> Option<&mut Verification> {
        self.proof.as_mut().map(|proof| &mut proof.verification)
    }
}

impl Open {
    /// Writes what can be written now, and takes it off the front of `piece`.
    fn write(&mut self, piece: &mut Bytes, trip: &mut Trip) -> Result<Pause, PutRefusal> {
        let Self {
            target,
            room,
            proof,
            ..
        } = self;
        let Some(proof) = proof else {
            return target.write(piece).map(|()| Pause::Done);
        };
        let mut rest = &piece[..];
        let pause = match proof.keep {
            Keep::AsSent => proof.verification.add(&mut rest, trip, |_| Ok(()))?,
            Keep::Uncompressed => {
                let mut plain_bytes = proof.verification.seen();
                proof.verification.add(&mut rest, trip, |plain| {
                    plain_bytes += plain.len() as u64;
                    if !room.grow_to(plain_bytes) {
                        return Err(PutRefusal::Busy);
                    }
                    target.write(plain)
                })?
            }
        };
        let taken = piece.len() - rest.len();
        if proof.keep == Keep::AsSent {
            target.write(&piece[..taken])?;
        }
        piece.advance(taken);
        Ok(pause)
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
