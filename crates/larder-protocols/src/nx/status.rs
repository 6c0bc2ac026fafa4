//! Every outcome of an Nx request as the status its clients take well.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use larder_auth::BadCredential;
use larder_cache::{Hit, PutRefusal, Stored, Unfinished};
use larder_model::Refusal;

use crate::archive::Finding;
use crate::body::Body;
use crate::caller::{NoCaller, refusal_reason};
use crate::intake::Interrupted;
use crate::writer::NotWritten;

/// How a `GET` or `HEAD` ends.
#[expect(
    clippy::large_enum_variant,
    reason = "lives for a moment, and a box would cost more"
)]
pub(super) enum Lookup {
    Hit(Hit),
    /// No such entry, no permission to see it, or trouble: all the same to the client.
    Miss,
    BadCredential(BadCredential),
}

/// Why nothing was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotStored {
    /// The path names no entry that could exist.
    #[error("this server URL or task hash names no entry")]
    NoEntry,
    /// The credential belongs to another workspace than the URL names.
    #[error("this credential belongs to another workspace than the URL names")]
    OtherWorkspace,
    /// A credential that was good and is over, or cannot be judged for now: its build goes on.
    #[error("this credential's time is over, or it cannot be checked for now; nothing is stored")]
    Expired,
    /// The credential was bad, or is by now: the only outcome that is loud.
    #[error("{0}")]
    BadCredential(BadCredential),
    /// What the credential may do was changed while the body was on its way.
    #[error("this credential was changed during the upload")]
    CallerChanged,
    /// Policy gave no grant.
    #[error(transparent)]
    Policy(Refusal),
    /// An empty body is no archive. Stored, it would fail every later run that gets it.
    #[error("an empty body is no task output")]
    Empty,
    /// The archive is one that no client makes, and its writer is not trusted.
    #[error("the archive is refused: {}", .0.fault)]
    HostileArchive(Finding),
    /// Too much is going on to look into the archive, and its writer is not trusted.
    #[error("the cache is busy")]
    NotExamined,
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
    /// As a request without permission.
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

impl NotStored {
    pub(super) fn counted(&self) -> Counted {
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
            | Self::HostileArchive(_)
            | Self::NotExamined => Counted::Denied,
        }
    }

    /// The reason's name in metrics and logs.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::NoEntry => "no_entry",
            Self::OtherWorkspace => "other_workspace",
            Self::Expired => "expired_credential",
            Self::BadCredential(_) => "bad_credential",
            Self::CallerChanged => "caller_changed",
            Self::Policy(refusal) => refusal_reason(*refusal),
            Self::HostileArchive(_) => "hostile_archive",
            Self::NotExamined => "not_examined",
            Self::Empty => Unfinished::Empty.name(),
            Self::Cache(refusal) => refusal.reason(),
            Self::Interrupted(Interrupted::Broken) => Unfinished::Interrupted.name(),
            Self::Interrupted(Interrupted::Stalled) => Unfinished::Stalled.name(),
            Self::Failed => Unfinished::Failed.name(),
        }
    }
}

/// The answer to a `GET`, or to a `HEAD` if `with_body` is false.
pub(super) fn of_lookup(lookup: Lookup, with_body: bool) -> Response<Body> {
    match lookup {
        Lookup::Hit(hit) => {
            let size = HeaderValue::from(hit.size);
            let body = if with_body {
                Body::entry(hit.body)
            } else {
                Body::empty()
            };
            let mut response = Response::new(body);
            let headers = response.headers_mut();
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("application/octet-stream"),
            );
            headers.insert(CONTENT_LENGTH, size);
            response
        }
        Lookup::Miss => bare(StatusCode::NOT_FOUND),
        Lookup::BadCredential(bad) => unauthorized(bad),
    }
}

/// The answer to a `PUT` whose body has been read.
pub(super) fn of_store(stored: Result<Stored, NotStored>) -> Response<Body> {
    match stored {
        Ok(Stored::New) => bare(StatusCode::OK),
        Ok(Stored::Exists) => bare(StatusCode::CONFLICT),
        Err(NotStored::BadCredential(bad)) => unauthorized(bad),
        Err(
            refused @ (NotStored::NoEntry
            | NotStored::OtherWorkspace
            | NotStored::Expired
            | NotStored::CallerChanged
            | NotStored::Policy(_)
            | NotStored::Empty
            | NotStored::HostileArchive(_)
            | NotStored::NotExamined
            | NotStored::Cache(_)
            | NotStored::Interrupted(_)
            | NotStored::Failed),
        ) => line(StatusCode::FORBIDDEN, refused.to_string()),
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
    response
        .headers_mut()
        .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn line(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(Bytes::from(text)));
    *response.status_mut() = status;
    // Exactly this: with a charset the client hides the text and blames the server.
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
