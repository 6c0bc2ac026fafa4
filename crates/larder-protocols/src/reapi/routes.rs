//! From a gRPC request to its answer.
//!
//! What surrounds each method is here: which one it is, the deadline, a panic, and what is counted and logged of a refusal.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method as HttpMethod, Response};
use larder_cache::Action;
use larder_grpc::{Code, Status};
use larder_model::{Caller, Dialect, DigestFunction};
use larder_proto::{bytestream, health, reapi};

use super::call::Call;
use super::clients::Client;
use super::fields::{Fields, Malformed, Value};
use super::read::BlobMessages;
use super::status::{Absent, Counted, Refused};
use super::tree::TreePages;
use super::{action_cache, batch, capabilities, find_missing, read, tree, write};
use crate::body::Body;
use crate::caller::NoCaller;
use crate::gateway::{Gateway, Origin};
use crate::intake::{Intake, Room, SMALL_BYTES_MAX};
use crate::unwind::{Panicked, caught};

/// The methods that are here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    GetCapabilities,
    GetActionResult,
    UpdateActionResult,
    FindMissingBlobs,
    BatchUpdateBlobs,
    BatchReadBlobs,
    GetTree,
    Read,
    Write,
    QueryWriteStatus,
    HealthCheck,
}

impl Method {
    fn of(path: &str) -> Option<Self> {
        use reapi::{action_cache, capabilities, content_addressable_storage as cas};
        Some(match path {
            capabilities::GET_CAPABILITIES => Self::GetCapabilities,
            action_cache::GET_ACTION_RESULT => Self::GetActionResult,
            action_cache::UPDATE_ACTION_RESULT => Self::UpdateActionResult,
            cas::FIND_MISSING_BLOBS => Self::FindMissingBlobs,
            cas::BATCH_UPDATE_BLOBS => Self::BatchUpdateBlobs,
            cas::BATCH_READ_BLOBS => Self::BatchReadBlobs,
            cas::GET_TREE => Self::GetTree,
            bytestream::byte_stream::READ => Self::Read,
            bytestream::byte_stream::WRITE => Self::Write,
            bytestream::byte_stream::QUERY_WRITE_STATUS => Self::QueryWriteStatus,
            // `Watch` is not here: clients take its absence for health.
            health::health::CHECK => Self::HealthCheck,
            _ => return None,
        })
    }

    /// The method's name in metrics and logs.
    fn name(self) -> &'static str {
        match self {
            Self::GetCapabilities => "GetCapabilities",
            Self::GetActionResult => "GetActionResult",
            Self::UpdateActionResult => "UpdateActionResult",
            Self::FindMissingBlobs => "FindMissingBlobs",
            Self::BatchUpdateBlobs => "BatchUpdateBlobs",
            Self::BatchReadBlobs => "BatchReadBlobs",
            Self::GetTree => "GetTree",
            Self::Read => "Read",
            Self::Write => "Write",
            Self::QueryWriteStatus => "QueryWriteStatus",
            Self::HealthCheck => "Check",
        }
    }

    fn action(self) -> Action {
        match self {
            Self::UpdateActionResult | Self::BatchUpdateBlobs | Self::Write => Action::Write,
            Self::GetCapabilities
            | Self::GetActionResult
            | Self::FindMissingBlobs
            | Self::BatchReadBlobs
            | Self::GetTree
            | Self::Read
            | Self::QueryWriteStatus
            | Self::HealthCheck => Action::Read,
        }
    }

    /// Whose entries the method is about, for what is counted without having come to an entry.
    fn dialect(self) -> Dialect {
        match self {
            Self::GetCapabilities
            | Self::GetActionResult
            | Self::UpdateActionResult
            | Self::HealthCheck => Dialect::ActionResult,
            Self::FindMissingBlobs
            | Self::BatchUpdateBlobs
            | Self::BatchReadBlobs
            | Self::GetTree
            | Self::Read
            | Self::Write
            | Self::QueryWriteStatus => Dialect::Cas(DigestFunction::Sha256),
        }
    }
}

/// What the pages of a tree take: one at a time, each below the limit of clients.
const TREE_ROOM_BYTES: u64 = 4 << 20;

/// What a call is answered with.
enum Reply {
    /// A large one with the room for it.
    Message(Bytes, Option<Room>),
    Blob(Box<BlobMessages>),
    Tree(TreePages, Room),
}

impl From<Vec<u8>> for Reply {
    fn from(message: Vec<u8>) -> Self {
        Self::Message(message.into(), None)
    }
}

/// Answers a gRPC request, whatever it has to wait for.
pub(crate) async fn answer<B>(
    gateway: &Gateway,
    head: &Parts,
    origin: &Origin,
    intake: &mut Intake<'_, B>,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let headers = &head.headers;
    let call = Call {
        gateway,
        headers,
        origin,
        client: Client::of(headers),
    };
    let method = Method::of(head.uri.path()).filter(|_| head.method == HttpMethod::POST);
    let replied = match method {
        None => Err(Refused::NoSuchMethod),
        Some(method) => {
            let work = caught(perform(&call, method, intake));
            match in_time(larder_grpc::timeout(headers), work).await {
                None => Err(Refused::Deadline),
                Some(Ok(replied)) => replied,
                // A miss hurts nobody.
                Some(Err(Panicked)) if method == Method::GetActionResult => {
                    Err(Absent::ActionResult.into())
                }
                Some(Err(Panicked)) => Err(Refused::Failed),
            }
        }
    };
    let (tool, name) = (
        call.client.tool.name(),
        method.map_or("other", Method::name),
    );
    let code = replied.as_ref().map_or_else(Refused::code, |_| Code::Ok);
    gateway.cache.metrics().call(tool, name, code.name());
    match replied {
        Ok(Reply::Message(message, room)) => {
            larder_grpc::response(Body::reply(message, Status::OK.trailers()).holding(room))
        }
        Ok(Reply::Blob(messages)) => larder_grpc::response(Body::blob_messages(messages)),
        Ok(Reply::Tree(pages, room)) => {
            larder_grpc::response(Body::tree_pages(pages).holding(Some(room)))
        }
        Err(refused) => {
            if let Some(method) = method {
                note_refused(&call, method, &refused);
            }
            // A short request is here by now; a client whose stream is not reset has one case less to get right.
            intake.drain_at_hand().await;
            refused.status().response(Body::empty())
        }
    }
}

async fn perform<B>(
    call: &Call<'_>,
    method: Method,
    intake: &mut Intake<'_, B>,
) -> Result<Reply, Refused>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    if method != Method::HealthCheck {
        // Before anything is read: at every call a bad credential is what there is to say.
        match call.gateway.caller(call.headers, None, call.origin) {
            Err(NoCaller::BadCredential(bad)) => return Err(Refused::BadCredential(bad)),
            // What is soft is said by each method in its own way.
            Ok(_) | Err(NoCaller::OtherWorkspace | NoCaller::Expired) => {}
        }
    }
    if method == Method::Write {
        let response = write::answer(call, intake).await?;
        intake.drain_at_hand().await;
        return Ok(response.into());
    }
    let held = call.message(intake).await?;
    let message = &held.message;
    let answers = &call.gateway.whole_answers;
    let answer = match method {
        Method::GetCapabilities => capabilities::get(call, message)?.into(),
        Method::GetActionResult => Reply::Message(action_cache::get(call, message).await?, None),
        Method::UpdateActionResult => {
            Reply::Message(action_cache::update(call, message).await?, None)
        }
        Method::FindMissingBlobs => find_missing::answer(call, message).await?.into(),
        Method::BatchUpdateBlobs => batch::update(call, message).await?.into(),
        Method::BatchReadBlobs => {
            let (answer, room) = batch::read(call, message).await?;
            Reply::Message(answer.into(), Some(room))
        }
        Method::GetTree => {
            let room = answers.room(&call.anybody(), TREE_ROOM_BYTES).await;
            let room = room.ok_or(Refused::Busy)?;
            Reply::Tree(tree::answer(call, message).await?, room)
        }
        Method::Read => Reply::Blob(Box::new(read::answer(call, message).await?)),
        Method::QueryWriteStatus => write::status(call, message).await?.into(),
        Method::HealthCheck => Reply::Message(healthy(message)?, None),
        Method::Write => unreachable!("answered above"),
    };
    // A client may be long in reading an answer, so a large one takes room, too. These are made already: those that are no larger than
    // their requests wait for it within the room that the request has; what a small request has made large does not wait.
    Ok(match answer {
        Reply::Message(message, None) if message.len() as u64 > SMALL_BYTES_MAX => {
            let (caller, bytes) = (call.anybody(), message.len() as u64);
            let room = if method == Method::GetActionResult {
                answers.room_at_hand(&caller, bytes)
            } else {
                answers.room(&caller, bytes).await
            };
            Reply::Message(message, Some(room.ok_or(Refused::Busy)?))
        }
        answer => answer,
    })
}

/// The trailers of a call whose answer failed on its way out.
pub(crate) fn failed() -> HeaderMap {
    Refused::Failed.status().trailers()
}

/// Answers with `HealthCheckResponse`. A server that answers serves: what it cannot do at the moment is a miss.
fn healthy(message: &[u8]) -> Result<Bytes, Refused> {
    let services = [
        "",
        reapi::capabilities::NAME,
        reapi::action_cache::NAME,
        reapi::content_addressable_storage::NAME,
        bytestream::byte_stream::NAME,
        health::health::NAME,
    ];
    let mut service = &b""[..];
    for field in Fields::of(message) {
        if let (1, Value::Bytes(name)) =
            field.map_err(|Malformed| Refused::Malformed("HealthCheckRequest"))?
        {
            service = name;
        }
    }
    if services.iter().all(|name| name.as_bytes() != service) {
        return Err(Refused::NoSuchService);
    }
    // `status`, field 1, is `SERVING`.
    Ok(Bytes::from_static(&[1 << 3, 1]))
}

/// The work's output, or `None` when the client has stopped waiting for it. What is at hand costs no timer.
async fn in_time<F: Future>(deadline: Option<Duration>, work: F) -> Option<F::Output> {
    let mut work = pin!(work);
    let at_hand = poll_fn(|context| match work.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    });
    if let Some(output) = at_hand.await {
        return Some(output);
    }
    match deadline {
        None => Some(work.await),
        Some(deadline) => tokio::time::timeout(deadline, work).await.ok(),
    }
}

/// Counts and logs a refused call. What anybody on the network can cause is logged for those who look for it only.
fn note_refused(call: &Call<'_>, method: Method, refused: &Refused) {
    let (metrics, reason) = (call.gateway.cache.metrics(), refused.reason());
    let (dialect, action) = (method.dialect(), method.action());
    let caller = call.gateway.caller(call.headers, None, call.origin);
    if let Refused::BadCredential(bad) = refused {
        let gateway = call.gateway;
        gateway.note_bad_credential(*bad, call.headers, call.origin);
    } else if action == Action::Write {
        let gateway = call.gateway;
        gateway.note_refused_write(&caller, call.origin, dialect, reason);
    }
    let principal = match &caller {
        Ok(Caller::Known(principal)) => Some((principal, principal.access().kind())),
        Ok(Caller::Anonymous { .. } | Caller::LocalOperator) | Err(_) => None,
    };
    match (refused.counted(), principal, action) {
        (Counted::ByTheCache, _, _) => {}
        (Counted::Unfinished(why), Some((principal, kind)), Action::Write) => {
            metrics.unfinished(dialect, principal.workspace(), kind, why);
        }
        (Counted::Unfinished(_) | Counted::Denied, _, _) => metrics.denied(dialect, action, reason),
    }
    let (tool, method) = (call.client.tool.name(), method.name());
    let metadata = call.client.metadata();
    if let (Some((principal, _)), Action::Write) = (principal, action) {
        let (workspace, writer) = (principal.workspace(), principal.writer());
        tracing::info!(reason, method, %workspace, %writer, tool, %metadata, "a write was refused");
    } else {
        tracing::debug!(reason, method, tool, %metadata, "a call was refused");
    }
}
