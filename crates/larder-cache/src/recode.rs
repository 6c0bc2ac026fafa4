//! A blob's body in the encoding that is wanted, from any byte of the blob on.
//!
//! What is stored in the wanted encoding is passed on as it is. Everything else is decoded or encoded
//! a piece at a time: off the async threads unless the whole blob is small, stored as well as uncompressed,
//! and only when the client has taken the piece before. A decoder whose window there is no memory for waits,
//! holding none, for as long as for a piece from the disk. A body that does not decode to exactly the blob's size ends with
//! [`BodyLost`], never as if it were complete.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::body::{BodyLost, HitBody};
use crate::encoding::{DecodeError, Decoder, Encoding, STEP_BYTES_MAX, encode_frame};
use crate::lanes::{COLD_PIECE_WAIT_MAX, Lane, permits};
use crate::windows::WindowMemory;

/// A blob of at most this many bytes, stored and uncompressed, is decoded or encoded on the async thread.
const INLINE_BYTES_MAX: u64 = 64 << 10;

/// The body of a [`crate::BlobHit`].
pub struct BlobBody(State);

enum State {
    AsStored(HitBody),
    Recoded(Box<Recoded>),
}

struct Recoded {
    source: HitBody,
    work: Work,
    /// Bytes that are still to come; `None`: encoded on the way.
    remaining: Option<u64>,
    lane: Arc<Lane>,
    is_small: bool,
}

enum Work {
    /// Nothing is being done.
    Idle(Recoder),
    /// A piece is being worked on elsewhere.
    Away(Step),
    Ended,
}

type Step = Pin<Box<dyn Future<Output = Result<(Recoder, Option<Bytes>), BodyLost>> + Send>>;

impl BlobBody {
    /// The body of a blob of `size` bytes, of which none has been taken, from its byte `offset` on. Without a recoder, as it is stored.
    pub(crate) fn new(
        mut source: HitBody,
        recoder: Option<Recoder>,
        size: u64,
        offset: u64,
        lane: Arc<Lane>,
    ) -> Self {
        // What is decoded is read from its start on.
        if recoder
            .as_ref()
            .is_none_or(|recoder| recoder.decoder.is_none())
        {
            source.skip_to(offset);
        }
        let stored_bytes = source.remaining();
        let Some(recoder) = recoder else {
            return Self(State::AsStored(source));
        };
        Self(State::Recoded(Box::new(Recoded {
            source,
            remaining: (!recoder.encode).then_some(recoder.remaining),
            work: Work::Idle(recoder),
            lane,
            is_small: size.max(stored_bytes) <= INLINE_BYTES_MAX,
        })))
    }

    /// How many bytes are still to come; `None` while that is not known, because they are encoded on the way.
    pub fn remaining(&self) -> Option<u64> {
        match &self.0 {
            State::AsStored(source) => Some(source.remaining()),
            State::Recoded(recoded) => recoded.remaining,
        }
    }

    /// Takes all bytes, if they are at hand as they are wanted and none has been taken yet.
    pub fn take_whole(&mut self) -> Option<Bytes> {
        match &mut self.0 {
            State::AsStored(source) => source.take_whole(),
            State::Recoded(_) => None,
        }
    }

    /// The next piece, about 256 KiB at most (a whole small blob is one piece); `None` after the last.
    pub async fn next(&mut self) -> Option<Result<Bytes, BodyLost>> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// [`BlobBody::next`] for those who poll.
    pub fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyLost>>> {
        match &mut self.0 {
            State::AsStored(source) => source.poll_next(context),
            State::Recoded(recoded) => recoded.poll_next(context),
        }
    }
}

impl Recoded {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyLost>>> {
        loop {
            let stepped = match std::mem::replace(&mut self.work, Work::Ended) {
                Work::Ended => return Poll::Ready(None),
                Work::Away(mut step) => match step.as_mut().poll(context) {
                    Poll::Pending => {
                        self.work = Work::Away(step);
                        return Poll::Pending;
                    }
                    Poll::Ready(stepped) => stepped,
                },
                Work::Idle(mut recoder) if recoder.has_work() => {
                    if !self.is_small {
                        self.work = Work::Away(Box::pin(step_away(recoder, self.lane.clone())));
                        continue;
                    }
                    match recoder.step() {
                        Ok(piece) => Ok((recoder, piece)),
                        Err(StepError::NoMemory) => {
                            self.work = Work::Away(Box::pin(step_away(recoder, self.lane.clone())));
                            continue;
                        }
                        Err(StepError::Lost) => Err(BodyLost),
                    }
                }
                Work::Idle(mut recoder) => match self.source.poll_next(context) {
                    Poll::Pending => {
                        self.work = Work::Idle(recoder);
                        return Poll::Pending;
                    }
                    Poll::Ready(Some(Ok(piece))) => {
                        recoder.input = piece;
                        self.work = Work::Idle(recoder);
                        continue;
                    }
                    Poll::Ready(Some(Err(lost))) => Err(lost),
                    Poll::Ready(None) => {
                        return Poll::Ready(recoder.finish().transpose());
                    }
                },
            };
            match stepped {
                Err(lost) => return Poll::Ready(Some(Err(lost))),
                Ok((recoder, piece)) => {
                    self.work = Work::Idle(recoder);
                    if let Some(piece) = piece {
                        if let Some(remaining) = &mut self.remaining {
                            *remaining -= piece.len() as u64;
                        }
                        return Poll::Ready(Some(Ok(piece)));
                    }
                    // Many frames can hold nothing: others have their turn between two steps.
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
    }
}

/// Does a step of work off the async threads, when there is memory for it.
async fn step_away(
    mut recoder: Recoder,
    lane: Arc<Lane>,
) -> Result<(Recoder, Option<Bytes>), BodyLost> {
    loop {
        let turn = permits(&lane.recoding, 1, COLD_PIECE_WAIT_MAX).await;
        let turn = turn.ok_or(BodyLost)?;
        let step = tokio::task::spawn_blocking(move || {
            let piece = recoder.step();
            drop(turn);
            (recoder, piece)
        });
        let stepped;
        (recoder, stepped) = step.await.map_err(|_| BodyLost)?;
        match stepped {
            Ok(piece) => return Ok((recoder, piece)),
            Err(StepError::Lost) => return Err(BodyLost),
            Err(StepError::NoMemory) => {
                let decoder = recoder.decoder.as_mut().ok_or(BodyLost)?;
                if !decoder.wait_for_memory(COLD_PIECE_WAIT_MAX).await {
                    return Err(BodyLost);
                }
            }
        }
    }
}

/// Why a step was not done.
enum StepError {
    /// There is no memory for the decoder's window at the moment; nothing has happened.
    NoMemory,
    Lost,
}

/// From the stored encoding to the wanted one.
pub(crate) struct Recoder {
    decoder: Option<Box<Decoder>>,
    encode: bool,
    /// Stored bytes that are still to be worked on.
    input: Bytes,
    /// The blob's bytes.
    size: u64,
    /// Uncompressed bytes to be left out before the first that is wanted.
    skip: u64,
    /// Uncompressed bytes that are still to come, without those to be skipped.
    remaining: u64,
    has_sent: bool,
}

impl Recoder {
    /// What has to be done to a blob of `size` bytes to read it from `offset` on; `None`: nothing.
    pub(crate) fn new(
        (stored, wanted): (Encoding, Encoding),
        size: u64,
        offset: u64,
        windows: impl FnOnce() -> WindowMemory,
    ) -> Option<Self> {
        let (decode, encode) = match (stored, wanted) {
            (Encoding::Identity, Encoding::Identity) => return None,
            (Encoding::Zstd, Encoding::Zstd) if offset == 0 => return None,
            (Encoding::Identity, Encoding::Zstd) => (false, true),
            (Encoding::Zstd, Encoding::Identity) => (true, false),
            (Encoding::Zstd, Encoding::Zstd) => (true, true),
        };
        let offset = offset.min(size);
        Some(Self {
            decoder: decode.then(|| Box::new(Decoder::new(size, windows()))),
            encode,
            input: Bytes::new(),
            size,
            skip: if decode { offset } else { 0 },
            remaining: size - offset,
            has_sent: false,
        })
    }

    fn has_work(&self) -> bool {
        let more = self
            .decoder
            .as_ref()
            .is_some_and(|decoder| decoder.has_more());
        more || !self.input.is_empty()
    }

    /// Works on the next bytes: at most [`STEP_BYTES_MAX`] of them, as they come in or as they go out.
    fn step(&mut self) -> Result<Option<Bytes>, StepError> {
        let plain = match &mut self.decoder {
            None => std::mem::take(&mut self.input),
            Some(decoder) => {
                let left = self.size - decoder.produced();
                let room = left.clamp(1, STEP_BYTES_MAX as u64) as usize;
                let mut plain = Vec::with_capacity(room);
                let mut input = &self.input[..];
                let stepped = decoder.step(&mut input, &mut plain);
                let taken = self.input.len() - input.len();
                self.input = self.input.slice(taken..);
                stepped.map_err(|error| match error {
                    DecodeError::NoMemory => StepError::NoMemory,
                    DecodeError::Undecodable | DecodeError::TooLong => StepError::Lost,
                })?;
                let skipped = self.skip.min(plain.len() as u64);
                self.skip -= skipped;
                Bytes::from(plain).slice(skipped as usize..)
            }
        };
        if plain.is_empty() {
            return Ok(None);
        }
        self.remaining = self
            .remaining
            .checked_sub(plain.len() as u64)
            .ok_or(StepError::Lost)?;
        self.has_sent = true;
        Ok(Some(if self.encode {
            Bytes::from(encode_frame(&plain))
        } else {
            plain
        }))
    }

    /// What comes after the last stored byte.
    fn finish(&mut self) -> Result<Option<Bytes>, BodyLost> {
        let complete = self
            .decoder
            .as_ref()
            .is_none_or(|decoder| decoder.is_complete());
        if !complete || self.remaining > 0 {
            return Err(BodyLost);
        }
        let needs_frame = self.encode && !self.has_sent;
        Ok(needs_frame.then(|| Bytes::from(encode_frame(&[]))))
    }
}
