//! The bytes of a hit, a piece at a time.
//!
//! A small entry is whole and verified before anyone hears of it. A large one is read piece by
//! piece, each verified before it is handed out; if one does not verify the body ends with
//! [`BodyLost`], never as if it were complete. One that is on its way from the bucket comes as it
//! arrives ([`crate::arrival`]).

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use larder_store::{ReadError, Reader, Wait};

use crate::arrival::Arrival;
use crate::found::FoundBody;
use crate::lanes::{COLD_PIECE_WAIT_MAX, Lane, permits};
use crate::metrics::KindSeries;

/// The rest of a body cannot be had: it did not verify, the disk failed, or the wait for the disk
/// took too long. The protocol must break its answer off so that the client notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the rest of the entry cannot be read")]
pub struct BodyLost;

type Piece = Result<Option<Bytes>, BodyLost>;
type ColdRead = Pin<Box<dyn Future<Output = (Option<Reader>, Piece)> + Send>>;

enum State {
    Whole(Bytes),
    Warm(Reader),
    Arriving(Box<Arrival>),
    Cold(ColdRead),
    Ended,
}

/// The body of a [`crate::Hit`].
pub struct HitBody {
    state: State,
    remaining: u64,
    lane: Arc<Lane>,
    series: Arc<KindSeries>,
}

impl HitBody {
    pub(crate) fn new(
        body: FoundBody,
        size: u64,
        lane: Arc<Lane>,
        series: Arc<KindSeries>,
    ) -> Self {
        let state = match body {
            FoundBody::Stored(larder_store::Body::Whole(bytes)) => State::Whole(bytes),
            FoundBody::Stored(larder_store::Body::Stream(reader)) => State::Warm(reader),
            FoundBody::Arriving(arrival) => State::Arriving(arrival),
        };
        Self {
            state,
            remaining: size,
            lane,
            series,
        }
    }

    /// Takes all bytes, if they are at hand and none has been taken yet.
    pub fn take_whole(&mut self) -> Option<Bytes> {
        match &mut self.state {
            State::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.state = State::Ended;
                self.remaining = 0;
                self.series.bytes_out(bytes.len() as u64);
                Some(bytes)
            }
            State::Warm(_) | State::Arriving(_) | State::Cold(_) | State::Ended => None,
        }
    }

    /// Leaves out the bytes before `position`. For a body that nobody has polled yet.
    pub(crate) fn skip_to(&mut self, position: u64) {
        let position = position.min(self.remaining);
        match &mut self.state {
            State::Whole(bytes) => *bytes = bytes.slice(position as usize..),
            State::Warm(reader) => reader.seek(position),
            State::Arriving(arrival) => arrival.skip_to(position),
            // There is nothing to leave out.
            State::Ended => {}
            State::Cold(_) => unreachable!("only a poll begins to read"),
        }
        self.remaining -= position;
    }

    /// How many bytes are still to come.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// The next piece, at most 256 KiB (a whole small entry is one piece); `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Bytes, BodyLost>> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// [`HitBody::next`] for those who poll.
    pub fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyLost>>> {
        loop {
            let piece = match std::mem::replace(&mut self.state, State::Ended) {
                State::Ended => return Poll::Ready(None),
                State::Whole(bytes) => Ok((!bytes.is_empty()).then_some(bytes)),
                State::Warm(mut reader) => match reader.next(Wait::Never) {
                    Ok(piece) => {
                        self.state = State::Warm(reader);
                        Ok(piece)
                    }
                    Err(ReadError::Lost) => Err(BodyLost),
                    Err(ReadError::WouldBlock) => {
                        self.state = State::Cold(Box::pin(cold_read(reader, self.lane.clone())));
                        continue;
                    }
                },
                State::Arriving(mut arrival) => match arrival.poll_next(context) {
                    Poll::Pending => {
                        self.state = State::Arriving(arrival);
                        return Poll::Pending;
                    }
                    Poll::Ready(None) if self.remaining > 0 => {
                        self.state = State::Cold(Box::pin(late_read(arrival, self.lane.clone())));
                        continue;
                    }
                    Poll::Ready(piece) => {
                        self.state = State::Arriving(arrival);
                        Ok(piece)
                    }
                },
                State::Cold(mut read) => match read.as_mut().poll(context) {
                    Poll::Pending => {
                        self.state = State::Cold(read);
                        return Poll::Pending;
                    }
                    Poll::Ready((reader, piece)) => {
                        self.state = reader.map_or(State::Ended, State::Warm);
                        piece
                    }
                },
            };
            return Poll::Ready(self.account(piece));
        }
    }

    /// Counts a piece. A body that would end early or run over is lost, whatever the store says.
    fn account(&mut self, piece: Piece) -> Option<Result<Bytes, BodyLost>> {
        match piece {
            Ok(Some(bytes)) if bytes.len() as u64 <= self.remaining => {
                self.remaining -= bytes.len() as u64;
                self.series.bytes_out(bytes.len() as u64);
                Some(Ok(bytes))
            }
            Ok(None) if self.remaining == 0 => {
                self.state = State::Ended;
                None
            }
            Ok(_) | Err(BodyLost) => {
                self.state = State::Ended;
                Some(Err(BodyLost))
            }
        }
    }
}

/// Goes on from the pool with a body whose pieces were not taken fast enough.
async fn late_read(arrival: Box<Arrival>, lane: Arc<Lane>) -> (Option<Reader>, Piece) {
    match arrival.land(lane.clone()).await {
        Some(reader) => cold_read(reader, lane).await,
        None => (None, Err(BodyLost)),
    }
}

async fn cold_read(mut reader: Reader, lane: Arc<Lane>) -> (Option<Reader>, Piece) {
    let Some(permit) = permits(&lane.cold_reads, 1, COLD_PIECE_WAIT_MAX).await else {
        return (None, Err(BodyLost));
    };
    let read = tokio::task::spawn_blocking(move || {
        let piece = reader.next(Wait::Allowed).map_err(|_| BodyLost);
        drop(permit);
        (Some(reader), piece)
    });
    read.await.unwrap_or((None, Err(BodyLost)))
}
