//! Where the bytes of a streamed upload go: into the store, or into memory first.
//!
//! The store gives a body of unknown length, sent to it piece by piece, a file of its own. Most such bodies are
//! much smaller than that is worth: blobs that are compressed on the way, whose names say how many bytes they are
//! uncompressed. So they are kept until their length is known, as far as the lane has memory and up to 4 MiB. Nobody
//! waits for memory: without it the body goes into the store at once.

use std::sync::Arc;

use larder_store::{Begin, Pool, Put, StoreError};
use tokio::sync::OwnedSemaphorePermit;

use crate::lanes::Lane;
use crate::stream::BATCH_BYTES;
use crate::upload::{Draft, PutRefusal};

/// How many pieces of [`BATCH_BYTES`] a body of unknown length may have in memory.
const SPOOL_PIECE_COUNT_MAX: usize = 16;

/// Where the bytes go.
pub(crate) enum Target {
    Upload(larder_store::Upload),
    /// Of unknown length: in memory until it is known, or too much for that.
    Spool(Box<Spool>),
    /// Somebody else's entry of the same name was there first.
    Exists,
}

impl Target {
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), PutRefusal> {
        let written = match self {
            Self::Upload(upload) => upload.write(bytes),
            Self::Spool(spool) => {
                let rest = spool.take(bytes);
                if rest.is_empty() {
                    return Ok(());
                }
                spool.begin(None).and_then(|begun| {
                    *self = match begun {
                        Begin::Exists => Self::Exists,
                        Begin::Upload(mut upload) => {
                            upload.write(rest)?;
                            Self::Upload(upload)
                        }
                    };
                    Ok(())
                })
            }
            Self::Exists => Ok(()),
        };
        written.map_err(|error| PutRefusal::of(&error))
    }

    /// Makes the entry visible; with this check, if its draft did not know it.
    pub(crate) fn finish(self, check: Option<u16>) -> Result<Put, StoreError> {
        match self {
            Self::Upload(mut upload) => {
                if let Some(check) = check {
                    upload.set_check(check);
                }
                upload.finish()
            }
            Self::Spool(mut spool) => {
                spool.draft.check = check.unwrap_or(spool.draft.check);
                spool.finish()
            }
            Self::Exists => Ok(Put::Exists),
        }
    }
}

/// A body of unknown length while it is in memory.
pub(crate) struct Spool {
    draft: Draft,
    pool: Pool,
    lane: Arc<Lane>,
    /// Each of [`BATCH_BYTES`] at most, and the memory for it.
    pieces: Vec<(Vec<u8>, OwnedSemaphorePermit)>,
}

impl Spool {
    pub(crate) fn new(draft: Draft, pool: Pool, lane: Arc<Lane>) -> Self {
        Self {
            draft,
            pool,
            lane,
            pieces: Vec::new(),
        }
    }

    /// Keeps what there is memory for, from the front, and returns the rest.
    fn take<'b>(&mut self, mut bytes: &'b [u8]) -> &'b [u8] {
        loop {
            if let Some((piece, _)) = self.pieces.last_mut() {
                let count = bytes.len().min(BATCH_BYTES - piece.len());
                let (head, rest) = bytes.split_at(count);
                piece.extend_from_slice(head);
                bytes = rest;
            }
            if bytes.is_empty() || self.pieces.len() == SPOOL_PIECE_COUNT_MAX {
                return bytes;
            }
            let Some(memory) = self.lane.memory(BATCH_BYTES as u32) else {
                return bytes;
            };
            self.pieces.push((Vec::new(), memory));
        }
    }

    /// Writes what is there into the store, as the beginning of `size` bytes or of any number of them.
    fn begin(&self, size: Option<u64>) -> Result<Begin, StoreError> {
        let mut begun = self.pool.begin(&self.draft.record(), size)?;
        if let Begin::Upload(upload) = &mut begun {
            for (piece, _) in &self.pieces {
                upload.write(piece)?;
            }
        }
        Ok(begun)
    }

    fn finish(self) -> Result<Put, StoreError> {
        if let [] | [_] = &self.pieces[..] {
            let body = self.pieces.first().map_or(&[][..], |(piece, _)| piece);
            return self.pool.put(&self.draft.record(), body);
        }
        let bytes = self.pieces.iter().map(|(piece, _)| piece.len() as u64);
        match self.begin(Some(bytes.sum()))? {
            Begin::Upload(upload) => upload.finish(),
            Begin::Exists => Ok(Put::Exists),
        }
    }
}
