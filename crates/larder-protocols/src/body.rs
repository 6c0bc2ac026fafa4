//! The body of an answer.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use larder_cache::{BodyLost, HitBody};
use tokio::sync::mpsc;

enum Source {
    /// The bytes at once; none left is the end.
    Whole(Bytes),
    /// An entry too large to be held in memory.
    Entry(Box<HitBody>),
    /// Lines that somebody is still writing, after a first one.
    Lines(Option<Bytes>, mpsc::Receiver<Bytes>),
}

/// The body of an answer. It fails with [`BodyLost`] when an entry's remaining bytes cannot be
/// read; hyper then breaks the connection or stream off, and the client notices.
pub struct Body(Source);

impl Body {
    /// No bytes.
    pub const fn empty() -> Self {
        Self(Source::Whole(Bytes::new()))
    }

    pub(crate) fn entry(mut entry: HitBody) -> Self {
        match entry.take_whole() {
            Some(bytes) => Self(Source::Whole(bytes)),
            None => Self(Source::Entry(Box::new(entry))),
        }
    }

    pub(crate) fn lines(first: Bytes, rest: mpsc::Receiver<Bytes>) -> Self {
        Self(Source::Lines(Some(first), rest))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Source::Whole(bytes))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyLost;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyLost>>> {
        match &mut self.0 {
            Source::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Source::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Source::Entry(entry) => entry
                .poll_next(context)
                .map(|piece| piece.map(|piece| piece.map(Frame::data))),
            Source::Lines(first, rest) => match first.take() {
                Some(line) => Poll::Ready(Some(Ok(Frame::data(line)))),
                None => rest
                    .poll_recv(context)
                    .map(|line| line.map(|line| Ok(Frame::data(line)))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Entry(entry) => entry.remaining() == 0,
            Source::Lines(..) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Entry(entry) => SizeHint::with_exact(entry.remaining()),
            Source::Lines(..) => SizeHint::default(),
        }
    }
}
