//! Every outcome of a request of this protocol as a status.
//!
//! A read that is no hit is 404, whatever the reason, because clients take that for a miss and all else for trouble; only a bad credential is
//! louder. A write that is refused says so with a status that fits and a line of text: no client ends its build over it.

use bytes::Bytes;
use http::header::{
    ALLOW, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, VARY, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{Response, StatusCode};
use larder_auth::BadCredential;
use larder_cache::{BlobHit, Encoding, Hit, PutRefusal, Unfinished};
use larder_model::Refusal;

use super::wire::{BadHeader, JSON};
use crate::body::Body;
use crate::caller::{NoCaller, refusal_reason};
use crate::intake::Interrupted;
use crate::reapi::action_result::Stray;
use crate::writer::NotWritten;

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const JSON_TYPE: HeaderValue = HeaderValue::from_static(JSON);

/// How a `GET` or `HEAD` ends.
pub(super) enum Lookup {
    /// A blob, and how the client wants it.
    Blob(BlobHit, Encoding),
    /// An action result as protobuf.
    Result(Bytes),
    /// An action result as JSON.
    Json(Vec<u8>),
    /// What was stored as an action result and is none. Its metadata says whether it is JSON.
    Opaque(Hit),
    /// The blob of no bytes, which is there for everybody.
    EmptyBlob,
    /// Nothing there, no permission to see it, or trouble: all the same to the client.
    Miss,
    BadCredential(BadCredential),
}

/// Why nothing was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotStored {
    /// The path names no entry that could exist.
    #[error("this path names no entry: its prefix or its hash is none")]
    NoEntry,
    /// The credential belongs to another workspace than the URL names.
    #[error("this credential belongs to another workspace than the URL names")]
    OtherWorkspace,
    /// A credential that was good and is over, or cannot be judged for now: its build goes on.
    #[error("this credential's time is over, or it cannot be checked for now; nothing is stored")]
    Expired,
    /// The credential was bad, or is by now.
    #[error("{0}")]
    BadCredential(BadCredential),
    /// What the credential may do was changed while the body was on its way.
    #[error("this credential was changed during the upload")]
    CallerChanged,
    /// Policy gave no grant.
    #[error(transparent)]
    Policy(Refusal),
    /// A content encoding that is not understood here.
    #[error(
        "this content encoding is not taken here; blobs may be sent as zstd, action results as they are"
    )]
    Encoding,
    /// `X-Digest-SizeBytes` is no number.
    #[error("the header X-Digest-SizeBytes is no number of bytes")]
    Size,
    /// No bytes are no action result.
    #[error("an empty body is no action result")]
    Empty,
    /// An action result, or what is kept as one, beyond its limit.
    #[error("{what} are limited to {limit} bytes")]
    TooLarge { what: &'static str, limit: u64 },
    /// It would have clients make something elsewhere, and its writer is not trusted.
    #[error("the action result is not stored: {0}")]
    Stray(Stray),
    /// Memory for the body did not come free in time.
    #[error("the cache is busy")]
    Busy,
    /// The cache did not take it.
    #[error(transparent)]
    Cache(PutRefusal),
    /// The body did not arrive; whoever sent it is most likely gone.
    #[error("the body did not arrive")]
    Interrupted(Interrupted),
    /// A defect in this server.
    #[error("the cache is not available")]
    Failed,
}

/// Where a refused write is counted.
pub(super) enum Counted {
    /// The cache has done so.
    ByTheCache,
    /// As an upload that came to nothing.
    Unfinished(Unfinished),
    /// As a request without permission, or without sense.
    Denied,
}

impl From<NotWritten> for NotStored {
    fn from(not_written: NotWritten) -> Self {
        match not_written {
            NotWritten::NoCaller(NoCaller::BadCredential(bad)) => Self::BadCredential(bad),
            NotWritten::NoCaller(NoCaller::OtherWorkspace) => Self::OtherWorkspace,
            NotWritten::NoCaller(NoCaller::Expired) => Self::Expired,
            NotWritten::Policy(refusal) => Self::Policy(refusal),
            NotWritten::CallerChanged => Self::CallerChanged,
            NotWritten::Cache(refusal) => Self::Cache(refusal),
        }
    }
}

impl From<BadHeader> for NotStored {
    fn from(bad: BadHeader) -> Self {
        match bad {
            BadHeader::Encoding => Self::Encoding,
            BadHeader::Size => Self::Size,
        }
    }
}

impl NotStored {
    pub(super) fn counted(self) -> Counted {
        match self {
            Self::Cache(_) => Counted::ByTheCache,
            Self::Empty => Counted::Unfinished(Unfinished::Empty),
            Self::Interrupted(Interrupted::Broken) => Counted::Unfinished(Unfinished::Interrupted),
            Self::Interrupted(Interrupted::Stalled) => Counted::Unfinished(Unfinished::Stalled),
            Self::Failed => Counted::Unfinished(Unfinished::Failed),
            Self::NoEntry
            | Self::OtherWorkspace
            | Self::Expired
            | Self::BadCredential(_)
            | Self::CallerChanged
            | Self::Policy(_)
            | Self::Encoding
            | Self::Size
            | Self::TooLarge { .. }
            | Self::Stray(_)
            | Self::Busy => Counted::Denied,
        }
    }

    /// The reason's name in metrics and logs.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::NoEntry => "no_entry",
            Self::OtherWorkspace => "other_workspace",
            Self::Expired => "expired_credential",
            Self::BadCredential(_) => "bad_credential",
            Self::CallerChanged => "caller_changed",
            Self::Policy(refusal) => refusal_reason(refusal),
            Self::Encoding => "content_encoding",
            Self::Size => "size_header",
            Self::TooLarge { .. } => "too_large",
            Self::Stray(_) => "hostile_paths",
            Self::Busy => "busy",
            Self::Empty => Unfinished::Empty.name(),
            Self::Cache(refusal) => refusal.reason(),
            Self::Interrupted(Interrupted::Broken) => Unfinished::Interrupted.name(),
            Self::Interrupted(Interrupted::Stalled) => Unfinished::Stalled.name(),
            Self::Failed => Unfinished::Failed.name(),
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::BadCredential(_) => StatusCode::UNAUTHORIZED,
            Self::OtherWorkspace
            | Self::Expired
            | Self::CallerChanged
            | Self::Policy(_)
            | Self::Stray(_) => StatusCode::FORBIDDEN,
            Self::Encoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge { .. } | Self::Cache(PutRefusal::TooLarge { .. }) => {
                StatusCode::PAYLOAD_TOO_LARGE
            }
            Self::NoEntry
            | Self::Size
            | Self::Empty
            | Self::Interrupted(_)
            | Self::Cache(
                PutRefusal::SizeMismatch { .. }
                | PutRefusal::DigestMismatch { .. }
                | PutRefusal::Undecodable,
            ) => StatusCode::BAD_REQUEST,
            Self::Cache(PutRefusal::NoRoom) => StatusCode::INSUFFICIENT_STORAGE,
            Self::Busy | Self::Cache(PutRefusal::Busy | PutRefusal::Unavailable) | Self::Failed => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }
}

/// The answer to a `GET`, or to a `HEAD` if `with_body` is false.
pub(super) fn of_lookup(lookup: Lookup, with_body: bool) -> Response<Body> {
    match lookup {
        Lookup::Blob(hit, wanted) => of_blob(hit, wanted, with_body),
        Lookup::Result(message) => of_result(message, OCTETS, with_body),
        Lookup::Json(json) => of_result(json.into(), JSON_TYPE, with_body),
        Lookup::Opaque(hit) => {
            let is_json = hit.metadata == JSON;
            let content_type = if is_json { JSON_TYPE } else { OCTETS };
            let (size, body) = (hit.size, with_body.then(|| Body::entry(hit.body)));
            let mut response = found(size, content_type, "accept", body);
            // Anybody's bytes: no browser may make a page of them.
            let headers = response.headers_mut();
            headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            response
        }
        Lookup::EmptyBlob => {
            let body = with_body.then(Body::empty);
            found(0, OCTETS, "accept-encoding", body)
        }
        Lookup::Miss => bare(StatusCode::NOT_FOUND),
        Lookup::BadCredential(bad) => unauthorized(bad),
    }
}

/// A blob goes out as it is stored, if the client can read that, and is never compressed on the way.
fn of_blob(mut hit: BlobHit, wanted: Encoding, with_body: bool) -> Response<Body> {
    let sent = match (hit.stored, wanted) {
        (Encoding::Zstd, Encoding::Zstd) => Encoding::Zstd,
        (Encoding::Identity, _) | (Encoding::Zstd, Encoding::Identity) => Encoding::Identity,
    };
    let as_stored = sent == hit.stored;
    let size = if as_stored {
        hit.stored_bytes
    } else {
        hit.size
    };
    let body = with_body.then(|| {
        let whole = if as_stored { hit.whole() } else { None };
        whole.map_or_else(|| Body::blob(hit.read(sent, 0)), Body::from)
    });
    let mut response = found(size, OCTETS, "accept-encoding", body);
    if sent == Encoding::Zstd {
        let headers = response.headers_mut();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("zstd"));
    }
    response
}

fn of_result(bytes: Bytes, content_type: HeaderValue, with_body: bool) -> Response<Body> {
    let size = bytes.len() as u64;
    let body = with_body.then(|| Body::from(bytes));
    found(size, content_type, "accept", body)
}

fn found(
    size: u64,
    content_type: HeaderValue,
    varies: &'static str,
    body: Option<Body>,
) -> Response<Body> {
    let mut response = Response::new(body.unwrap_or(Body::empty()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    // Bazel takes an answer without it for a broken one.
    headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
    headers.insert(VARY, HeaderValue::from_static(varies));
    response
}

/// The answer to a `PUT` whose body has been read. What is there already is as good as stored.
pub(super) fn of_store(stored: Result<(), NotStored>) -> Response<Body> {
    match stored {
        Ok(()) => bare(StatusCode::OK),
        Err(NotStored::BadCredential(bad)) => unauthorized(bad),
        Err(refused) => line(refused.status(), refused.to_string()),
    }
}

/// The answer to any other method.
pub(super) fn method_not_allowed() -> Response<Body> {
    let mut response = bare(StatusCode::METHOD_NOT_ALLOWED);
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static("GET, HEAD, PUT"));
    response
}

fn unauthorized(bad: BadCredential) -> Response<Body> {
    let mut response = line(StatusCode::UNAUTHORIZED, bad.to_string());
    let headers = response.headers_mut();
    for scheme in ["Bearer", "Basic realm=\"larder\""] {
        headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
    }
    response
}

fn line(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from(text)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

fn bare(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
