//! `ByteStream.Read`: a blob, or what is left of one, in messages.
//!
//! Nothing is gathered: a piece as the cache hands it out is a message. If the rest cannot be read any more the call ends with
//! `UNAVAILABLE`; Bazel then asks again from where it is, and what did not verify is not found from then on.

use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use larder_cache::{BlobBody, BlobName, Encoding};
use larder_grpc::{Code, Status};

use super::call::Call;
use super::fields::{Fields, Malformed, Value, put_varint};
use super::resource_name::ResourceName;
use super::status::{Absent, BadRange, Refused};

const REQUEST: &str = "ReadRequest";

/// A zstd frame of no bytes, which is what an empty blob is compressed.
const EMPTY_FRAME: [u8; 9] = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x00, 0x01, 0x00, 0x00];

/// A piece up to this size goes out in one frame with what is in front of it. A copy is cheaper than a frame, up to one frame of HTTP/2.
const JOINED_BYTES_MAX: usize = 16 << 10;

/// Begins to answer with `ReadResponse` messages.
pub(super) async fn answer(call: &Call<'_>, message: &[u8]) -> Result<BlobMessages, Refused> {
    let (mut name, mut offset, mut limit) = (&b""[..], 0_i64, 0_i64);
    for field in Fields::of(message) {
        match field.map_err(|Malformed| Refused::Malformed(REQUEST))? {
            (1, Value::Bytes(text)) => name = text,
            (2, Value::Varint(number)) => offset = number.cast_signed(),
            (3, Value::Varint(number)) => limit = number.cast_signed(),
            (1..=3, _) => return Err(Refused::Malformed(REQUEST)),
            _ => {}
        }
    }
    let name = std::str::from_utf8(name).map_err(|_| Refused::Malformed(REQUEST))?;
    let name = ResourceName::of_read(name)?;
    let (size, encoding) = (name.digest.size(), name.encoding);
    let limit = range(encoding, size, offset, limit).map_err(Refused::Range)?;
    let offset = offset.cast_unsigned();
    // The empty blob is everybody's, and there is nothing to see in it.
    let grant = match call.reader(&name.instance) {
        Err(Refused::Absent(_)) if name.digest.is_empty() => return Ok(nothing_left(encoding)),
        grant => grant?,
    };
    if !name.digest.is_empty() {
        let wanted = BlobName::from(&name.digest);
        let hit = call.gateway.cache.get_blob(&grant, &wanted).await;
        let hit = hit.ok_or(Absent::Blob)?;
        if offset < size {
            return Ok(BlobMessages {
                ready: None,
                body: Some(hit.read(encoding, offset)),
                left: limit,
                trailers: Some(Status::OK.trailers()),
            });
        }
    }
    Ok(nothing_left(encoding))
}

/// Checks what part of a blob is asked for; the most bytes of it.
fn range(encoding: Encoding, size: u64, offset: i64, limit: i64) -> Result<u64, BadRange> {
    if offset < 0 {
        return Err(BadRange::NegativeOffset);
    }
    if limit < 0 {
        return Err(BadRange::NegativeLimit);
    }
    if encoding == Encoding::Zstd && limit != 0 {
        return Err(BadRange::CompressedLimit);
    }
    if offset.cast_unsigned() > size {
        return Err(BadRange::BehindEnd { offset, size });
    }
    Ok(if limit == 0 {
        u64::MAX
    } else {
        limit.cast_unsigned()
    })
}

/// What comes behind the last byte: nothing, which compressed is a frame.
fn nothing_left(encoding: Encoding) -> BlobMessages {
    let ready = match encoding {
        Encoding::Identity => None,
        Encoding::Zstd => Some(message_of(&EMPTY_FRAME)),
    };
    BlobMessages {
        ready,
        body: None,
        left: u64::MAX,
        trailers: Some(Status::OK.trailers()),
    }
}

/// A blob in `ReadResponse` messages, and the trailers behind them.
pub(crate) struct BlobMessages {
    /// What goes out next, before anything else is read.
    ready: Option<Bytes>,
    body: Option<BlobBody>,
    /// The most bytes that are still wanted.
    left: u64,
    trailers: Option<HeaderMap>,
}

impl BlobMessages {
    pub(crate) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        if let Some(ready) = self.ready.take() {
            return Poll::Ready(Some(Frame::data(ready)));
        }
        if let Some(body) = &mut self.body
            && self.left > 0
        {
            match std::task::ready!(body.poll_next(context)) {
                Some(Ok(mut piece)) => {
                    piece.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                    self.left -= piece.len() as u64;
                    return Poll::Ready(Some(Frame::data(self.message(piece))));
                }
                Some(Err(lost)) => {
                    let status = Status::new(Code::Unavailable, lost.to_string());
                    self.trailers = Some(status.trailers());
                }
                None => {}
            }
        }
        self.body = None;
        Poll::Ready(self.trailers.take().map(Frame::trailers))
    }

    /// The beginning of a message with this piece, which follows if it is long.
    fn message(&mut self, piece: Bytes) -> Bytes {
        if piece.len() <= JOINED_BYTES_MAX {
            return message_of(&piece);
        }
        let head = head_of(piece.len());
        self.ready = Some(piece);
        head
    }
}

/// What stands in front of so many bytes of a blob: the frame's prefix, and `data`, field 10.
fn head_of(len: usize) -> Bytes {
    let mut field = Vec::with_capacity(11);
    put_varint(10 << 3 | 2, &mut field);
    put_varint(len as u64, &mut field);
    let mut head = BytesMut::with_capacity(5 + field.len());
    head.put_slice(&larder_grpc::prefix((field.len() + len) as u32));
    head.put_slice(&field);
    head.freeze()
}

fn message_of(piece: &[u8]) -> Bytes {
    let head = head_of(piece.len());
    let mut message = BytesMut::with_capacity(head.len() + piece.len());
    message.put_slice(&head);
    message.put_slice(piece);
    message.freeze()
}
