//! A large body from the bucket, in verified pieces.
//!
//! Two pieces are read ahead. A response that breaks off is asked for again from the last good piece, at most twice. The
//! first piece is there before anybody hears of a hit, so an object that is gone, forged or cut is a miss; what breaks later
//! ends the stream with an error, never with wrong bytes or a clean end.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::event::Event;
use crate::inner::{Inner, Located, Missing};
use crate::link::{Link, LinkError};
use crate::realm::Trust;
use crate::record::{PIECE_BYTES, Record};

/// Pieces that wait for the reader.
const AHEAD_COUNT: usize = 2;
/// How often a response is asked for, in all.
const ATTEMPT_COUNT_MAX: u32 = 3;

/// The body broke off: the bucket does not answer, or what it sent is not what was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body from the bucket broke off")]
pub struct BrokenOff;

/// A body as it arrives.
#[derive(Debug)]
pub struct BodyStream {
    first: Option<Bytes>,
    rest: mpsc::Receiver<Result<Bytes, Missing>>,
    remaining: u64,
}

struct Reading {
    inner: Arc<Inner>,
    link: Link,
    name: String,
    hash: u128,
    place: (u32, u32),
    record: Record,
    ready: mpsc::Sender<Result<Bytes, Missing>>,
}

impl BodyStream {
    pub(crate) async fn open(
        inner: &Arc<Inner>,
        located: &Located,
        name: String,
        lane: Trust,
    ) -> Result<Self, Missing> {
        let (ready, mut rest) = mpsc::channel(AHEAD_COUNT);
        let reading = Reading {
            inner: inner.clone(),
            link: inner.link_for(lane),
            name,
            hash: located.hash,
            place: located.slot.place(),
            record: located.record.clone(),
            ready,
        };
        tokio::spawn(reading.read());
        let first = rest.recv().await.ok_or(Missing::Unavailable)??;
        Ok(Self {
            first: Some(first),
            rest,
            remaining: located.record.body_bytes,
        })
    }

    /// Bytes that are still to come.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// The next piece; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BrokenOff> {
        let piece = match self.first.take() {
            Some(first) => first,
            None if self.remaining == 0 => return Ok(None),
            None => {
                let next = self.rest.recv().await.ok_or(BrokenOff)?;
                next.map_err(|_| BrokenOff)?
            }
        };
        self.remaining -= piece.len() as u64;
        Ok(Some(piece))
    }
}

impl Reading {
    async fn read(self) {
        let (mut piece, mut last) = (0, Missing::Unavailable);
        for _ in 0..ATTEMPT_COUNT_MAX {
            match self.read_from(&mut piece).await {
                Ok(()) => return,
                Err(Missing::Unavailable) => last = Missing::Unavailable,
                Err(Missing::Gone) => {
                    last = Missing::Gone;
                    break;
                }
            }
        }
        let _ = self.ready.send(Err(last)).await;
    }

    /// Hands out pieces from `piece` on, which counts them. Ends well also if nobody wants more.
    async fn read_from(&self, piece: &mut u64) -> Result<(), Missing> {
        let (start, end) = (*piece * PIECE_BYTES, self.record.body_bytes);
        let stream = self.link.get_stream(&self.name, start..end).await;
        let mut stream = stream.map_err(|error| self.told(&error))?;
        let mut at = start;
        let mut buffer = BytesMut::new();
        while at < end {
            let wanted = PIECE_BYTES.min(end - at) as usize;
            while buffer.len() < wanted {
                let more = stream.next().await.map_err(|error| self.told(&error))?;
                buffer.extend_from_slice(&more.ok_or(Missing::Unavailable)?);
            }
            let bytes = buffer.split_to(wanted).freeze();
            if !self.record.piece_fits(*piece, &bytes) {
                let name = self.name.clone();
                let event = Event::NotAuthentic { name };
                self.inner.drop_entry(self.hash, self.place, event);
                return Err(Missing::Gone);
            }
            *piece += 1;
            at += wanted as u64;
            if self.ready.send(Ok(bytes)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn told(&self, error: &LinkError) -> Missing {
        if *error != LinkError::NotFound {
            return Missing::Unavailable;
        }
        let name = self.name.clone();
        let event = Event::Gone { name };
        self.inner.drop_entry(self.hash, self.place, event);
        Missing::Gone
    }
}
