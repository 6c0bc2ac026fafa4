//! A hyper server that is built on this crate, and a real client, tonic, over loopback.
//!
//! The messages are plain bytes, because what they mean is not this crate's affair.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::convert::Infallible;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use http::uri::PathAndQuery;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use larder_grpc::{
    Code, Messages, Status, Unary, binary_metadata, frame, is_grpc, response, timeout,
};
use tokio::net::TcpListener;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};

const MESSAGE_BYTES_MAX: usize = 1 << 20;

type Body = UnsyncBoxBody<Bytes, Infallible>;

// The server.

/// Answers one call: `messages`, then OK.
fn answer(messages: Vec<Bytes>) -> Response<Body> {
    let frames = messages
        .iter()
        .map(|message| Frame::data(frame(message)))
        .chain([Frame::trailers(Status::OK.trailers())])
        .map(Ok);
    response(StreamBody::new(tokio_stream::iter(frames.collect::<Vec<_>>())).boxed_unsync())
}

async fn serve_call(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    Ok(match outcome(request).await {
        Ok(response) => response,
        Err(status) => status.response(Empty::new().boxed_unsync()),
    })
}

async fn outcome(request: Request<Incoming>) -> Result<Response<Body>, Status> {
    let (head, body) = request.into_parts();
    assert!(is_grpc(&head.headers));
    match head.uri.path() {
        "/test.Echo/Unary" => Ok(answer(vec![unary(body).await?])),
        "/test.Echo/Fail" => {
            let message = unary(body).await?;
            let text = String::from_utf8(message.to_vec()).unwrap();
            let details = Bytes::from_static(b"\x08\x09\x12\x04\xf0\xff\x00\x0a");
            Err(Status::new(Code::FailedPrecondition, text).with_details(details))
        }
        "/test.Echo/FailLate" => {
            let message = unary(body).await?;
            let late = Status::new(Code::DataLoss, "bytes are damaged").trailers();
            let frames = [Frame::data(frame(&message)), Frame::trailers(late)].map(Ok);
            Ok(response(
                StreamBody::new(tokio_stream::iter(frames)).boxed_unsync(),
            ))
        }
        "/test.Echo/Split" => {
            let message = unary(body).await?;
            let words = message.split(|byte| *byte == b',');
            Ok(answer(words.map(Bytes::copy_from_slice).collect()))
        }
        "/test.Echo/Join" => join(body).await,
        "/test.Echo/Head" => {
            let deadline = timeout(&head.headers);
            let trace = binary_metadata(&head.headers, "trace-bin");
            unary(body).await?;
            Ok(answer(vec![format!("{deadline:?} {trace:?}").into()]))
        }
        path => Err(Status::new(
            Code::Unimplemented,
            format!("there is no method {path}"),
        )),
    }
}

async fn unary(mut body: Incoming) -> Result<Bytes, Status> {
    let mut request = Unary::new(MESSAGE_BYTES_MAX);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(broken_off)?.into_data() {
            request.push(data)?;
        }
    }
    request.finish()
}

/// All messages joined with commas; a message `enough` ends it early.
async fn join(mut body: Incoming) -> Result<Response<Body>, Status> {
    let mut request = Messages::new(MESSAGE_BYTES_MAX);
    let mut joined = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(broken_off)?.into_data() else {
            continue;
        };
        request.push(data);
        while let Some(message) = request.next_message()? {
            if message == "enough" {
                return Ok(answer(vec![joined.join(&b","[..]).into()]));
            }
            joined.push(message);
        }
    }
    request.finish()?;
    Ok(answer(vec![joined.join(&b","[..]).into()]))
}

fn broken_off(error: hyper::Error) -> Status {
    Status::new(Code::Cancelled, error.to_string())
}

/// A client of a new server.
async fn client() -> Grpc<Channel> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(socket), service_fn(serve_call)),
            );
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = Grpc::new(endpoint.connect().await.unwrap());
    client.ready().await.unwrap();
    client
}

// The client's messages.

#[derive(Clone, Copy)]
struct PlainBytes;

impl Codec for PlainBytes {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for PlainBytes {
    type Item = Bytes;
    type Error = tonic::Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        out.put(message);
        Ok(())
    }
}

impl Decoder for PlainBytes {
    type Item = Bytes;
    type Error = tonic::Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, tonic::Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

fn path(method: &str) -> PathAndQuery {
    format!("/test.Echo/{method}").parse().unwrap()
}

async fn call(method: &str, message: impl Into<Bytes>) -> Result<Bytes, tonic::Status> {
    let request = tonic::Request::new(message.into());
    let reply = client()
        .await
        .unary(request, path(method), PlainBytes)
        .await;
    reply.map(tonic::Response::into_inner)
}

// The tests.

#[tokio::test]
async fn a_unary_call_gets_its_answer_whatever_its_length() {
    for length in [0, 1, 16_379, 16_380, 100_000, MESSAGE_BYTES_MAX] {
        let message: Bytes = (0..length).map(|position| position as u8).collect();
        let reply = call("Unary", message.clone()).await.unwrap();
        assert!(reply == message, "{length}");
    }
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_and_named() {
    let refused = call("Unary", vec![0; MESSAGE_BYTES_MAX + 1]).await;
    let status = refused.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert_eq!(
        status.message(),
        "a message of 1048577 bytes is larger than the limit of 1048576 bytes"
    );
}

#[tokio::test]
async fn a_client_reads_code_message_and_details_of_a_failed_call() {
    for message in ["", "100 % gone", "Käse\nist aus \u{1f9c0}", "a%20b"] {
        let status = call("Fail", message).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::FailedPrecondition);
        assert_eq!(status.message(), message);
        assert_eq!(status.details(), b"\x08\x09\x12\x04\xf0\xff\x00\x0a");
    }
    let status = call("Nothing", "").await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unimplemented);
    assert_eq!(status.message(), "there is no method /test.Echo/Nothing");
}

#[tokio::test]
async fn a_client_reads_every_code() {
    for (code, expected) in Code::ALL.into_iter().zip(0..) {
        let trailers = Status::new(code, "why").trailers();
        let status = tonic::Status::from_header_map(&trailers).unwrap();
        assert_eq!(status.code(), tonic::Code::from_i32(expected), "{code}");
        assert_eq!(status.message(), "why");
    }
}

#[tokio::test]
async fn a_stream_of_messages_arrives_one_by_one_with_empty_ones() {
    let request = tonic::Request::new(Bytes::from("a,,bc,"));
    let mut client = client().await;
    let reply = client.server_streaming(request, path("Split"), PlainBytes);
    let mut stream = reply.await.unwrap().into_inner();
    let mut words = Vec::new();
    while let Some(word) = stream.message().await.unwrap() {
        words.push(word);
    }
    assert_eq!(words, ["a", "", "bc", ""]);
}

#[tokio::test]
async fn a_call_that_fails_behind_its_messages_gives_them_and_then_the_failure() {
    let request = tonic::Request::new(Bytes::from("the beginning"));
    let mut client = client().await;
    let reply = client.server_streaming(request, path("FailLate"), PlainBytes);
    let mut stream = reply.await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap().unwrap(), "the beginning");
    let status = stream.message().await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DataLoss);
    assert_eq!(status.message(), "bytes are damaged");
}

async fn check_join(messages: Vec<Bytes>, expected: &[u8]) {
    let request = tonic::Request::new(tokio_stream::iter(messages));
    let mut client = client().await;
    let reply = client.client_streaming(request, path("Join"), PlainBytes);
    assert_eq!(reply.await.unwrap().into_inner(), expected);
}

#[tokio::test]
async fn the_messages_of_a_clients_stream_arrive_one_by_one_with_empty_ones() {
    check_join(vec![], b"").await;
    check_join(vec!["a".into(), "".into(), "bc".into()], b"a,,bc").await;
    let long = Bytes::from(vec![b'x'; MESSAGE_BYTES_MAX]);
    let expected = [&long[..], b",", &long[..]].concat();
    check_join(vec![long.clone(), long], &expected).await;
}

#[tokio::test]
async fn a_client_that_still_sends_gets_an_early_answer() {
    let mut messages = vec![Bytes::from("a"), Bytes::from("enough")];
    // More than any window holds.
    messages.extend(vec![Bytes::from(vec![b'x'; MESSAGE_BYTES_MAX]); 32]);
    check_join(messages, b"a").await;
}

#[tokio::test]
async fn deadlines_and_binary_metadata_arrive() {
    let mut request = tonic::Request::new(Bytes::new());
    request.set_timeout(Duration::from_millis(61_500));
    let trace = MetadataValue::from_bytes(b"\x00\xff\xfe,");
    request.metadata_mut().insert_bin("trace-bin", trace);
    let mut client = client().await;
    let reply = client.unary(request, path("Head"), PlainBytes);
    assert_eq!(
        reply.await.unwrap().into_inner(),
        "Some(61.5s) Some(b\"\\0\\xff\\xfe,\")"
    );
    assert_eq!(call("Head", "").await.unwrap(), "None None");
}
