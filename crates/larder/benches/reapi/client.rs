//! A client that costs little: HTTP/2 by hyper, framing by hand, every message prepared before it is timed.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use larder_proto::{Message, bytestream};
use tokio::net::TcpStream;

/// The bytes of data in a message of an upload, as moon has them.
const WRITE_MESSAGE_BYTES: usize = 1 << 20;

/// One connection.
#[derive(Clone)]
pub(crate) struct Client {
    sender: SendRequest<Frames>,
    authority: String,
    authorization: String,
}

/// A body whose pieces are all there.
#[derive(Default)]
pub(crate) struct Frames(VecDeque<Bytes>);

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

impl Client {
    pub(crate) async fn connect(address: SocketAddr, token: &str) -> Self {
        let socket = TcpStream::connect(address).await.expect("a server");
        socket.set_nodelay(true).expect("a socket");
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake(TokioIo::new(socket))
            .await
            .expect("HTTP/2");
        tokio::spawn(connection);
        Self {
            sender,
            authority: address.to_string(),
            authorization: format!("Bearer {token}"),
        }
    }

    /// One message there, one back.
    pub(crate) async fn unary(&self, path: &str, request: Bytes) -> Bytes {
        self.call(path, VecDeque::from([frame(&request)])).await.1
    }

    /// [`Client::unary`] with messages that have types.
    pub(crate) async fn ask<Q: Message, A: Message + Default>(&self, path: &str, request: &Q) -> A {
        let answer = self.unary(path, request.encode_to_vec().into()).await;
        A::decode(answer).expect("an answer of this type")
    }

    /// Reads a blob as a stream; how many bytes came, with their framing.
    pub(crate) async fn read(&self, resource_name: String) -> u64 {
        let request = bytestream::ReadRequest {
            resource_name,
            ..Default::default()
        };
        let request = VecDeque::from([frame(&request.encode_to_vec())]);
        self.call(bytestream::byte_stream::READ, request).await.0
    }

    /// Writes a blob as a stream; what the server says it has.
    pub(crate) async fn write(&self, resource_name: String, blob: &[Bytes]) -> i64 {
        let mut frames = VecDeque::new();
        let size: usize = blob.iter().map(Bytes::len).sum();
        let mut offset = 0;
        for part in blob {
            for start in (0..part.len()).step_by(WRITE_MESSAGE_BYTES) {
                let data = part.slice(start..part.len().min(start + WRITE_MESSAGE_BYTES));
                let end = offset + data.len();
                let message = bytestream::WriteRequest {
                    resource_name: if offset == 0 {
                        resource_name.clone()
                    } else {
                        String::new()
                    },
                    write_offset: offset.cast_signed() as i64,
                    finish_write: end == size,
                    // The data is not copied: its tag and length are written here, and it follows as a frame.
                    data: Bytes::new(),
                };
                let mut head = message.encode_to_vec();
                head.push(10 << 3 | 2);
                let mut rest = data.len();
                while rest >= 0x80 {
                    head.push(rest as u8 | 0x80);
                    rest >>= 7;
                }
                head.push(rest as u8);
                frames.push_back(prefixed(&head, data.len()));
                frames.push_back(data);
                offset = end;
            }
        }
        let (_, answer) = self.call(bytestream::byte_stream::WRITE, frames).await;
        let answer = bytestream::WriteResponse::decode(answer).expect("an answer of this type");
        answer.committed_size
    }

    /// Sends a request and takes the answer: its bytes, and its first message.
    async fn call(&self, path: &str, frames: VecDeque<Bytes>) -> (u64, Bytes) {
        let request = hyper::Request::post(format!("http://{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", &self.authorization)
            .body(Frames(frames))
            .expect("a request");
        let mut sender = self.sender.clone();
        sender.ready().await.expect("a connection");
        let response = sender.send_request(request).await.expect("an answer");
        let status = response.headers().get("grpc-status").cloned();
        let (mut body, mut message, mut count) = (response.into_body(), BytesMut::new(), 0);
        let mut trailers = None;
        while let Some(frame) = body.frame().await {
            match frame.expect("a whole answer").into_data() {
                Ok(data) => {
                    count += data.len() as u64;
                    if message.is_empty() || message_bytes(&message) > message.len() {
                        message.extend_from_slice(&data);
                    }
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        let status = status.or_else(|| trailers.as_ref()?.get("grpc-status").cloned());
        let status = status.expect("a status");
        assert_eq!(status.as_bytes(), b"0", "{path}: {trailers:?}");
        let end = message_bytes(&message).min(message.len());
        message.truncate(end);
        (count, message.freeze().slice(5.min(end)..))
    }
}

/// The bytes of a framed message, its prefix among them.
fn message_bytes(framed: &[u8]) -> usize {
    let length = framed
        .get(1..5)
        .map(|length| length.try_into().expect("four"));
    5 + length.map_or(0, u32::from_be_bytes) as usize
}

fn frame(message: &[u8]) -> Bytes {
    prefixed(message, 0)
}

/// A message's prefix and its first bytes; `more` of it follow.
fn prefixed(message: &[u8], more: usize) -> Bytes {
    let mut framed = vec![0];
    framed.extend_from_slice(&((message.len() + more) as u32).to_be_bytes());
    framed.extend_from_slice(message);
    framed.into()
}
