//! A body that is written into the store as it arrives.
//!
//! A write to a file can block for long when the system has too many dirty pages. So pieces are
//! gathered until they are worth a trip to a blocking thread, and as many trips run at once as the
//! lane allows. The memory for gathering is the lane's; an upload that gets none sends every piece
//! on its way as it comes.

use bytes::Bytes;
use larder_store::{Put, StoreError};
use tokio::sync::OwnedSemaphorePermit;

use crate::lanes::{Lane, UPLOAD_WAIT_MAX, permits};
use crate::room::Room;
use crate::upload::PutRefusal;

/// How many bytes are written at once: enough that the trip costs nothing beside the writing.
pub(crate) const BATCH_BYTES: usize = 256 << 10;

/// How many pieces are written at once: each can keep a buffer much larger than itself.
const BATCH_PIECE_COUNT_MAX: usize = 64;

/// A body on its way into the store. Dropping it stores nothing.
pub(crate) struct Stream {
    /// `None` after a failed write.
    open: Option<Box<Open>>,
    batch: Vec<Bytes>,
    batch_bytes: usize,
    received: u64,
    /// What may be gathered; `None`: nothing.
    memory: Option<OwnedSemaphorePermit>,
}

struct Open {
    upload: larder_store::Upload,
    room: Room,
}

impl Stream {
    pub(crate) fn new(upload: larder_store::Upload, room: Room, lane: &Lane) -> Self {
        Self {
            open: Some(Box::new(Open { upload, room })),
            batch: Vec::new(),
            batch_bytes: 0,
            received: 0,
            memory: lane.memory(BATCH_BYTES as u32),
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
            && self.batch_bytes < BATCH_BYTES
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
            let written = write_all(&mut open.upload, &batch);
            drop(turn);
            written.map(|()| open)
        });
        let written = written.await.map_err(|_| PutRefusal::Unavailable)?;
        self.open = Some(written.map_err(|error| PutRefusal::of(&error))?);
        Ok(())
    }

    /// Writes what is left and makes the entry visible. May block.
    pub(crate) fn finish(self) -> Result<Put, StoreError> {
        let open = *self.open.ok_or(StoreError::Closed)?;
        let (mut upload, room) = (open.upload, open.room);
        write_all(&mut upload, &self.batch)?;
        let put = upload.finish();
        drop(room);
        put
    }
}

fn write_all(upload: &mut larder_store::Upload, batch: &[Bytes]) -> Result<(), StoreError> {
    batch.iter().try_for_each(|piece| upload.write(piece))
}
