//! The body of an answer.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use larder_cache::{BlobBody, BodyLost, HitBody};
use tokio::sync::mpsc;

use crate::intake::Room;
use crate::reapi::read::BlobMessages;
use crate::reapi::routes::failed;
use crate::reapi::tree::TreePages;
use crate::unwind::{Panicked, caught_at_once};

enum Source {
    /// The bytes at once; none left is the end.
    Whole(Bytes),
    /// An entry too large to be held in memory.
    Entry(Box<HitBody>),
    /// Lines that somebody is still writing, after a first one.
    Lines(Option<Bytes>, mpsc::Receiver<Bytes>),
    /// A blob too large to be held in memory, or one that is decoded or encoded on the way.
    Blob(Box<BlobBody>),
    /// The bytes of a gRPC message and of the frame around it, and the trailers with the status.
    Reply([Bytes; 2], Option<Box<HeaderMap>>),
    /// A blob in gRPC messages, and the trailers.
    BlobMessages(Box<BlobMessages>),
    /// A tree of directories in gRPC messages, and the trailers.
    TreePages(Box<TreePages>),
}

/// The body of an answer. It fails with [`BodyLost`] when an entry's remaining bytes cannot be
/// read; hyper then breaks the connection or stream off, and the client notices.
pub struct Body(
    Source,
    #[expect(dead_code, reason = "given back when dropped")] Option<Box<Room>>,
);

impl Body {
    /// No bytes.
    pub const fn empty() -> Self {
        Self(Source::Whole(Bytes::new()), None)
    }

    pub(crate) fn entry(mut entry: HitBody) -> Self {
        match entry.take_whole() {
            Some(bytes) => Self(Source::Whole(bytes), None),
            None => Self(Source::Entry(Box::new(entry)), None),
        }
    }

    pub(crate) fn blob(blob: BlobBody) -> Self {
        Self(Source::Blob(Box::new(blob)), None)
    }

    /// The same, with the memory that it occupies, however long the client is in reading it.
    pub(crate) fn holding(self, room: Option<Room>) -> Self {
        Self(self.0, room.map(Box::new))
    }

    /// A gRPC message, and the trailers behind it.
    pub(crate) fn reply(message: Bytes, trailers: HeaderMap) -> Self {
        // Up to a frame of HTTP/2 a copy is cheaper than a second frame.
        let parts = if message.len() < 16 << 10 {
            [larder_grpc::frame(&message), Bytes::new()]
        } else {
            let prefix = larder_grpc::prefix(message.len() as u32);
            [Bytes::copy_from_slice(&prefix), message]
        };
        Self(Source::Reply(parts, Some(Box::new(trailers))), None)
    }

    pub(crate) fn blob_messages(messages: Box<BlobMessages>) -> Self {
        Self(Source::BlobMessages(messages), None)
    }

    pub(crate) fn tree_pages(pages: TreePages) -> Self {
        Self(Source::TreePages(Box::new(pages)), None)
    }

    pub(crate) fn lines(first: Bytes, rest: mpsc::Receiver<Bytes>) -> Self {
        Self(Source::Lines(Some(first), rest), None)
    }
}

impl Source {
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyLost>>> {
        match self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Entry(entry) => entry
                .poll_next(context)
                .map(|piece| piece.map(|piece| piece.map(Frame::data))),
            Self::Lines(first, rest) => match first.take() {
                Some(line) => Poll::Ready(Some(Ok(Frame::data(line)))),
                None => rest
                    .poll_recv(context)
                    .map(|line| line.map(|line| Ok(Frame::data(line)))),
            },
            Self::Blob(blob) => blob
                .poll_next(context)
                .map(|piece| piece.map(|piece| piece.map(Frame::data))),
            Self::Reply(parts, trailers) => {
                let part = parts.iter_mut().find(|part| !part.is_empty());
                Poll::Ready(match part {
                    Some(part) => Some(Ok(Frame::data(std::mem::take(part)))),
                    None => trailers.take().map(|last| Ok(Frame::trailers(*last))),
                })
            }
            Self::BlobMessages(messages) => messages.poll_frame(context).map(|f| f.map(Ok)),
            Self::TreePages(pages) => pages.poll_frame(context).map(|f| f.map(Ok)),
        }
    }
}

impl Body {
    /// What comes next. After a panic a call ends with its status, and all else breaks off: the transport and its other streams
    /// go on.
    fn caught(
        &mut self,
        poll: impl FnOnce(&mut Source) -> Poll<Option<Result<Frame<Bytes>, BodyLost>>>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyLost>>> {
        let polled = caught_at_once(|| poll(&mut self.0));
        polled.unwrap_or_else(|Panicked| {
            let ended = Source::Reply([Bytes::new(), Bytes::new()], None);
            Poll::Ready(Some(match std::mem::replace(&mut self.0, ended) {
                Source::Reply(..) | Source::BlobMessages(_) | Source::TreePages(..) => {
                    Ok(Frame::trailers(failed()))
                }
                Source::Whole(_) | Source::Entry(_) | Source::Lines(..) | Source::Blob(_) => {
                    Err(BodyLost)
                }
            }))
        })
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(Source::Whole(bytes), None)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyLost;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyLost>>> {
        self.caught(|source| source.poll_frame(context))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Whole(bytes) => bytes.is_empty(),
            Source::Entry(entry) => entry.remaining() == 0,
            Source::Blob(blob) => blob.remaining() == Some(0),
            Source::Reply(_, trailers) => trailers.is_none(),
            Source::Lines(..) | Source::BlobMessages(_) | Source::TreePages(..) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Entry(entry) => SizeHint::with_exact(entry.remaining()),
            Source::Blob(blob) => blob
                .remaining()
                .map_or_else(SizeHint::default, SizeHint::with_exact),
            // An answer with trailers declares no length.
            Source::Lines(..)
            | Source::Reply(..)
            | Source::BlobMessages(_)
            | Source::TreePages(..) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_panics_on_its_way_out_ends_with_a_status_or_breaks_off() {
        let mut body = Body::reply(Bytes::new(), HeaderMap::new());
        let Poll::Ready(Some(Ok(last))) = body.caught(|_| panic!("on purpose")) else {
            panic!("the trailers come at once");
        };
        let trailers = last.into_trailers().expect("trailers");
        assert_eq!(trailers["grpc-status"], "13");
        assert!(http_body::Body::is_end_stream(&body));
        let mut body = Body::from(Bytes::from_static(b"declared"));
        let broken = body.caught(|_| panic!("on purpose"));
        assert!(matches!(broken, Poll::Ready(Some(Err(BodyLost)))));
    }
}
