//! gRPC as a client that costs little: HTTP/2 by hyper, framing by hand, what is read compared where it arrives.
//!
//! Frames stay at 16 KiB, as the clients that people use have them; a stream's window is 8 MiB and a connection's 16 MiB.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::uri::{self, Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::content::{Blob, Content};
use crate::error::BenchError;
use crate::messages::{self, method};
use crate::socket::Socket;
use crate::target::Target;

const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// The largest message that is taken whole: a batch of any server has fewer bytes.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// gRPC's codes that a cache answers with in good order.
const OK: u16 = 0;
const NOT_FOUND: u16 = 5;

/// Uploads have ids of their own.
static UPLOADS: AtomicU64 = AtomicU64::new(0);

/// One stream's place on a connection. Clones share the connection.
#[derive(Clone)]
pub(crate) struct Grpc {
    target: Arc<Target>,
    sender: SendRequest<Frames>,
    headers: HeaderMap,
    scheme: Scheme,
    authority: Authority,
}

/// What a call came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer<T> {
    Ok(T),
    NotFound,
    /// Any other code, and what the server says.
    Refused(String),
}

impl Grpc {
    pub(crate) async fn connect(target: &Arc<Target>) -> Result<Self, BenchError> {
        let socket = Socket::connect(target).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(BenchError::connection)?;
        tokio::spawn(connection);
        let mut headers = HeaderMap::new();
        let grpc = HeaderValue::from_static("application/grpc");
        headers.insert(header::CONTENT_TYPE, grpc);
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if let Some(token) = &target.token {
            let mut value = HeaderValue::try_from(token.header())
                .map_err(|_| BenchError::Usage("a token that no header takes".to_owned()))?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        Ok(Self {
            target: target.clone(),
            sender,
            headers,
            scheme: match target.tls {
                Some(_) => Scheme::HTTPS,
                None => Scheme::HTTP,
            },
            authority: target.authority().parse().map_err(BenchError::connection)?,
        })
    }

    /// Whether calls can still be made here.
    pub(crate) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// The instance name.
    pub(crate) fn instance(&self) -> &str {
        &self.target.instance
    }

    /// One message there, one back.
    pub(crate) async fn unary(
        &mut self,
        method: &'static str,
        request: Bytes,
    ) -> Result<Answer<Bytes>, BenchError> {
        let frames = VecDeque::from([prefix(request.len()), request]);
        self.single(method, frames).await
    }

    /// Reads a blob as a stream and compares it.
    pub(crate) async fn read(
        &mut self,
        content: &Content,
        blob: &Blob,
    ) -> Result<Answer<()>, BenchError> {
        let request = messages::read(self.instance(), blob);
        let frames = VecDeque::from([prefix(request.len()), request]);
        let response = self.send(method::READ, frames).await?;
        let mut status = status(response.headers());
        let (mut body, mut stream) = (response.into_body(), ReadStream::default());
        let mut is_right = true;
        while let Some(frame) = body.frame().await {
            match frame.map_err(BenchError::connection)?.into_data() {
                Ok(bytes) => stream.take(&bytes, |at, chunk| {
                    is_right &= content.is_right(blob, at, chunk);
                })?,
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    status = status.or_else(|| self::status(&trailers));
                }
            }
        }
        let answer = answer(status, ())?;
        if answer == Answer::Ok(()) && !(is_right && stream.is_whole(blob.size)) {
            let what = format!(
                "{} bytes as {} that are not the {} that were stored",
                stream.taken, blob.name, blob.size
            );
            return Err(BenchError::Wrong(what));
        }
        Ok(answer)
    }

    /// Writes a blob as a stream.
    pub(crate) async fn write(
        &mut self,
        content: &Content,
        blob: &Blob,
    ) -> Result<Answer<()>, BenchError> {
        let upload = UPLOADS.fetch_add(1, Ordering::Relaxed);
        let name = messages::upload_name(self.instance(), upload, blob);
        let mut frames = VecDeque::new();
        let mut offset = 0;
        let messages = messages_of(content.pieces(blob));
        let count = messages.len();
        for (number, parts) in messages.into_iter().enumerate() {
            let length: usize = parts.iter().map(Bytes::len).sum();
            let head = messages::write_head(&name, offset, length, number + 1 == count);
            let mut start = prefix(head.len() + length).to_vec();
            start.extend_from_slice(&head);
            frames.push_back(start.into());
            frames.extend(parts);
            offset += length as u64;
        }
        match self.single(method::WRITE, frames).await? {
            Answer::Ok(response) => {
                let committed = messages::committed_size(response)?;
                // A server that has the blob may say so with its size, or with -1 if it keeps it compressed.
                if committed != blob.size && committed != u64::MAX {
                    let what = format!("{committed} of {} bytes committed", blob.size);
                    return Err(BenchError::Wrong(what));
                }
                Ok(Answer::Ok(()))
            }
            Answer::NotFound => Ok(Answer::Refused("NOT_FOUND for a write".to_owned())),
            Answer::Refused(why) => Ok(Answer::Refused(why)),
        }
    }

    /// A call with one message as its answer.
    async fn single(
        &mut self,
        method: &'static str,
        frames: VecDeque<Bytes>,
    ) -> Result<Answer<Bytes>, BenchError> {
        let response = self.send(method, frames).await?;
        let mut status = status(response.headers());
        let mut body = response.into_body();
        let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
        while let Some(frame) = body.frame().await {
            match frame.map_err(BenchError::connection)?.into_data() {
                Ok(bytes) if first.is_empty() => first = bytes,
                Ok(bytes) => {
                    if rest.is_empty() {
                        rest.extend_from_slice(&first);
                    }
                    rest.extend_from_slice(&bytes);
                    if rest.len() > MESSAGE_BYTES_MAX {
                        return Err(BenchError::Refused("an endless message".to_owned()));
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    status = status.or_else(|| self::status(&trailers));
                }
            }
        }
        let mut whole = if rest.is_empty() {
            first
        } else {
            rest.freeze()
        };
        let answer = answer(status, ())?;
        if answer != Answer::Ok(()) {
            return Ok(match answer {
                Answer::Refused(why) => Answer::Refused(why),
                _ => Answer::NotFound,
            });
        }
        let broken = || BenchError::Wrong(format!("{method}: no answer of one message"));
        let prefix = whole.first_chunk::<5>().ok_or_else(broken)?;
        let [flag, length @ ..] = *prefix;
        if flag != 0 || u32::from_be_bytes(length) as usize != whole.len() - 5 {
            return Err(broken());
        }
        Ok(Answer::Ok(whole.split_off(5)))
    }

    async fn send(
        &mut self,
        method: &'static str,
        frames: VecDeque<Bytes>,
    ) -> Result<Response<Incoming>, BenchError> {
        self.sender.ready().await.map_err(BenchError::connection)?;
        let mut uri = uri::Parts::default();
        uri.scheme = Some(self.scheme.clone());
        uri.authority = Some(self.authority.clone());
        uri.path_and_query = Some(PathAndQuery::from_static(method));
        let uri = Uri::from_parts(uri).map_err(BenchError::connection)?;
        let mut request = Request::new(Frames(frames));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        let response = self.sender.send_request(request).await;
        let response = response.map_err(BenchError::connection)?;
        if response.status() != StatusCode::OK {
            return Err(BenchError::Refused(format!("HTTP {}", response.status())));
        }
        Ok(response)
    }
}

/// A body whose pieces are all there.
struct Frames(VecDeque<Bytes>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

/// What stands in front of a message: not compressed, and its length.
fn prefix(length: usize) -> Bytes {
    let [a, b, c, d] = (length as u32).to_be_bytes();
    Bytes::copy_from_slice(&[0, a, b, c, d])
}

/// The data of each message of an upload: a megabyte, and the last one with the entry's end.
fn messages_of(mut pieces: Vec<Bytes>) -> Vec<Vec<Bytes>> {
    let end = pieces.pop();
    let mut messages: Vec<Vec<Bytes>> = pieces.into_iter().map(|piece| vec![piece]).collect();
    match messages.last_mut() {
        Some(last) => last.extend(end),
        None => messages.push(end.into_iter().collect()),
    }
    messages
}

fn status(headers: &HeaderMap) -> Option<(u16, String)> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let said = headers.get("grpc-message").map(HeaderValue::as_bytes);
    let said = String::from_utf8_lossy(said.unwrap_or_default()).into_owned();
    Some((code, said))
}

fn answer<T>(status: Option<(u16, String)>, value: T) -> Result<Answer<T>, BenchError> {
    match status {
        Some((OK, _)) => Ok(Answer::Ok(value)),
        Some((NOT_FOUND, _)) => Ok(Answer::NotFound),
        Some((code, said)) => Ok(Answer::Refused(format!("gRPC status {code}: {said}"))),
        None => Err(BenchError::Wrong(
            "an answer without a gRPC status".to_owned(),
        )),
    }
}

/// Takes the messages of `ByteStream.Read` apart as they come.
#[derive(Debug, Default)]
struct ReadStream {
    state: ReadState,
    /// Bytes of data so far.
    taken: u64,
    /// Of the present message, what has not come.
    message_left: u64,
}

#[derive(Debug, Default)]
enum ReadState {
    /// Within the prefix of a message: how many of its bytes came, and the length as far as it is known.
    #[default]
    Start,
    Prefix(u8, u64),
    /// In front of a field.
    Field,
    /// Within the length of the data.
    Length(u32, u64),
    /// Within the data: how much is left.
    Data(u64),
}

/// `ReadResponse.data`: field 10, with a length.
const READ_DATA: u8 = 10 << 3 | 2;

impl ReadStream {
    fn take(
        &mut self,
        mut chunk: &[u8],
        mut sink: impl FnMut(u64, &[u8]),
    ) -> Result<(), BenchError> {
        let broken = |what: &str| BenchError::Wrong(format!("ByteStream.Read: {what}"));
        while let [byte, rest @ ..] = chunk {
            if let ReadState::Data(left) = self.state {
                let (now, later) = chunk.split_at((chunk.len() as u64).min(left) as usize);
                sink(self.taken, now);
                self.taken += now.len() as u64;
                self.message_left -= now.len() as u64;
                self.state = self.after_data(left - now.len() as u64);
                chunk = later;
                continue;
            }
            chunk = rest;
            self.state = match self.state {
                ReadState::Start if *byte == 0 => ReadState::Prefix(0, 0),
                ReadState::Start => return Err(broken("a compressed message")),
                ReadState::Prefix(count, length) => {
                    let length = length << 8 | u64::from(*byte);
                    self.message_left = length;
                    match (count, length) {
                        (3, 0) => ReadState::Start,
                        (3, _) => ReadState::Field,
                        _ => ReadState::Prefix(count + 1, length),
                    }
                }
                ReadState::Field if *byte == READ_DATA => {
                    self.message_left -= 1;
                    ReadState::Length(0, 0)
                }
                ReadState::Field => return Err(broken("an unknown field")),
                ReadState::Length(shift, length) => {
                    let length = length | u64::from(byte & 0x7f) << shift;
                    self.message_left = self.message_left.saturating_sub(1);
                    match byte & 0x80 {
                        0 if length > self.message_left => {
                            return Err(broken("data that ends behind its message"));
                        }
                        0 => self.after_data(length),
                        _ if shift > 49 => return Err(broken("an endless length")),
                        _ => ReadState::Length(shift + 7, length),
                    }
                }
                ReadState::Data(_) => unreachable!("data is taken above"),
            };
        }
        Ok(())
    }

    /// What follows when `left` bytes of data are still to come.
    fn after_data(&self, left: u64) -> ReadState {
        match (left, self.message_left) {
            (0, 0) => ReadState::Start,
            (0, _) => ReadState::Field,
            _ => ReadState::Data(left),
        }
    }

    /// Whether it ended where a message ends, after `size` bytes of data.
    fn is_whole(&self, size: u64) -> bool {
        matches!(self.state, ReadState::Start) && self.taken == size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::put_bytes;

    fn framed(parts: &[&[u8]]) -> Vec<u8> {
        let mut stream = Vec::new();
        for part in parts {
            let mut message = Vec::new();
            if !part.is_empty() {
                put_bytes(&mut message, 10, part);
            }
            stream.extend_from_slice(&prefix(message.len()));
            stream.extend_from_slice(&message);
        }
        stream
    }

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let large = vec![2; 70_000];
        let parts: [&[u8]; 4] = [&[1; 300], b"", b"x", &large];
        let stream = framed(&parts);
        for step in [1, 2, 7, 256, 16_384, stream.len()] {
            let (mut found, mut reader) = (Vec::new(), ReadStream::default());
            for chunk in stream.chunks(step) {
                let sink = |at: u64, bytes: &[u8]| {
                    assert_eq!(at, found.len() as u64);
                    found.extend_from_slice(bytes);
                };
                reader.take(chunk, sink).unwrap();
            }
            assert_eq!(found, parts.concat());
            assert!(reader.is_whole(70_301));
            assert!(!reader.is_whole(70_300));
        }
    }

    #[test]
    fn a_stream_that_is_none_is_an_error_and_one_that_breaks_off_is_not_whole() {
        let mut cut = ReadStream::default();
        cut.take(&framed(&[b"hello"])[..9], |_, _| ()).unwrap();
        assert!(!cut.is_whole(2));
        for stream in [
            &[1, 0, 0, 0, 1][..],
            &[0, 0, 0, 0, 2, 0x0a],
            &[0, 0, 0, 0, 3, READ_DATA, 9, 1],
            &[
                0, 0, 0, 0, 3, READ_DATA, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80,
            ],
        ] {
            assert!(
                ReadStream::default().take(stream, |_, _| ()).is_err(),
                "{stream:?}"
            );
        }
    }

    #[test]
    fn an_upload_is_cut_into_megabytes_and_its_end_is_no_message_of_its_own() {
        let content = Content::new(1);
        for (size, messages) in [(0, 1), (64, 1), (4096, 1), (1 << 20, 1), (64 << 20, 64)] {
            let cut = messages_of(content.pieces(&content.numbered(0, size)));
            assert_eq!(cut.len(), messages, "{size}");
            let bytes: usize = cut.iter().flatten().map(Bytes::len).sum();
            assert_eq!(bytes as u64, size);
        }
    }
}
