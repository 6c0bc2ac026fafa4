//! Every outcome of the identity routes as a status and JSON.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, PRAGMA, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};
use larder_auth::BadCredential;
use serde::Serialize;

use super::wire::{BadForm, OauthError};
use crate::body::Body;
use crate::intake::Interrupted;

/// When a client may ask again while keys or the ledger cannot be reached, in seconds.
const UNAVAILABLE_RETRY_SECS: u64 = 5;

/// Why an identity route did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotDone {
    #[error("there is no such path")]
    NoSuchPath,
    #[error("use {allow}")]
    Method { allow: &'static str },
    #[error("the body did not arrive")]
    Interrupted(Interrupted),
    #[error("the form is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error(transparent)]
    BadForm(#[from] BadForm),
    /// Whatever is wrong with the identity token.
    #[error(
        "the identity token was not accepted; the server's log says why, under the request's id"
    )]
    NotAccepted { request_id: String },
    #[error("the token is for another workspace than resource")]
    OtherWorkspace,
    #[error("what the job may do cannot be reduced to scope")]
    CannotReduce,
    #[error("this job's scope asks for too many sessions; try again in {retry_after_secs} seconds")]
    TooManySessions { retry_after_secs: u64 },
    #[error("this cannot be decided at the moment; try again")]
    Unavailable,
    #[error("{0}")]
    BadCredential(BadCredential),
}

impl NotDone {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoSuchPath => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Interrupted(_)
            | Self::TooLarge { .. }
            | Self::BadForm(_)
            | Self::NotAccepted { .. }
            | Self::OtherWorkspace
            | Self::CannotReduce => StatusCode::BAD_REQUEST,
            Self::TooManySessions { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::BadCredential(_) => StatusCode::UNAUTHORIZED,
        }
    }

    /// The word for it: of RFC 6749 section 5.2, RFC 8693 section 2.2.2 (`invalid_target`) and RFC 6750 section 3.1
    /// (`invalid_token`). Neither says one for "later".
    fn word(&self) -> &'static str {
        match self {
            Self::NoSuchPath
            | Self::Method { .. }
            | Self::Interrupted(_)
            | Self::TooLarge { .. }
            | Self::BadForm(
                BadForm::NotAForm
                | BadForm::Unreadable
                | BadForm::TooMany
                | BadForm::Missing(_)
                | BadForm::Twice
                | BadForm::SubjectTokenType
                | BadForm::RequestedTokenType
                | BadForm::ActorToken
                | BadForm::ExpiresIn,
            ) => "invalid_request",
            Self::BadForm(BadForm::GrantType) => "unsupported_grant_type",
            Self::BadForm(BadForm::Scope) | Self::CannotReduce => "invalid_scope",
            Self::NotAccepted { .. } => "invalid_grant",
            Self::OtherWorkspace => "invalid_target",
            Self::TooManySessions { .. } | Self::Unavailable => "temporarily_unavailable",
            Self::BadCredential(_) => "invalid_token",
        }
    }

    fn request_id(&self) -> Option<&str> {
        match self {
            Self::NotAccepted { request_id } => Some(request_id),
            _ => None,
        }
    }
}

/// The answer to a request that was not done.
pub(super) fn of_not_done(not_done: &NotDone) -> Response<Body> {
    let mut response = json(&OauthError {
        error: not_done.word().to_owned(),
        error_description: not_done.to_string(),
        request_id: not_done.request_id().map(str::to_owned),
    });
    *response.status_mut() = not_done.status();
    let headers = response.headers_mut();
    match not_done {
        NotDone::Method { allow } => {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        NotDone::TooManySessions { retry_after_secs } => {
            headers.insert(RETRY_AFTER, HeaderValue::from(*retry_after_secs));
        }
        NotDone::Unavailable => {
            headers.insert(RETRY_AFTER, HeaderValue::from(UNAVAILABLE_RETRY_SECS));
        }
        NotDone::BadCredential(_) => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        NotDone::NoSuchPath
        | NotDone::Interrupted(_)
        | NotDone::TooLarge { .. }
        | NotDone::BadForm(_)
        | NotDone::NotAccepted { .. }
        | NotDone::OtherWorkspace
        | NotDone::CannotReduce => {}
    }
    response
}

/// The answer to a request that was done.
pub(super) fn json(message: &impl Serialize) -> Response<Body> {
    let mut json = serde_json::to_vec(message).expect("messages are plain and serialize");
    json.push(b'\n');
    let mut response = unkept(Body::from(Bytes::from(json)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// 200, and nothing: all there is to say of a session that is over.
pub(super) fn ended() -> Response<Body> {
    unkept(Body::empty())
}

/// An answer that no cache keeps (RFC 6749, section 5.1).
fn unkept(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}
