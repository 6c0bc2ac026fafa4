//! Every outcome of a control call as a status and JSON.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use larder_auth::BadCredential;
use larder_cache::ControlError;
use larder_ledger::LedgerError;
use larder_model::Refusal;
use serde::Serialize;
use tokio::sync::mpsc;

use super::selection::BadMessage;
use super::wire::ErrorResponse;
use crate::body::Body;
use crate::intake::Interrupted;

/// Why a control call was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotDone {
    #[error("{0}")]
    BadCredential(BadCredential),
    #[error(transparent)]
    Policy(Refusal),
    #[error(transparent)]
    BadMessage(#[from] BadMessage),
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge { limit: usize },
    #[error("the body did not arrive")]
    Interrupted(Interrupted),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("the ledger failed: {0}")]
    Ledger(#[from] LedgerError),
    #[error("there is no such entry")]
    NoEntry,
    #[error("there is no such operation")]
    NoSuchOperation,
    #[error("use {allow}")]
    Method { allow: &'static str },
    #[error("this failed inside the server; its log says more")]
    Failed,
}

impl NotDone {
    /// Whether anybody on the network can be told this, without a credential.
    pub(super) fn is_anybodys(&self) -> bool {
        match self {
            Self::BadCredential(_)
            | Self::Policy(Refusal::Anonymous)
            | Self::NoSuchOperation
            | Self::Method { .. } => true,
            Self::Policy(_)
            | Self::BadMessage(_)
            | Self::BodyTooLarge { .. }
            | Self::Interrupted(_)
            | Self::Control(_)
            | Self::Ledger(_)
            | Self::NoEntry
            | Self::Failed => false,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::BadCredential(_) | Self::Policy(Refusal::Anonymous) => StatusCode::UNAUTHORIZED,
            Self::Policy(
                Refusal::ReadOnly
                | Refusal::ControlPlaneOnly
                | Refusal::NotAdmin
                | Refusal::LabelNeedsIsolated
                | Refusal::TooDeep,
            )
            | Self::Control(ControlError::OtherWorkspace { .. } | ControlError::SharedPools) => {
                StatusCode::FORBIDDEN
            }
            Self::BadMessage(_)
            | Self::BodyTooLarge { .. }
            | Self::Interrupted(_)
            | Self::Control(ControlError::NothingSelected | ControlError::TooMany { .. }) => {
                StatusCode::BAD_REQUEST
            }
            Self::NoSuchOperation | Self::NoEntry => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Control(
                ControlError::Busy
                | ControlError::Unavailable { .. }
                | ControlError::Store(_)
                | ControlError::NotKept(_)
                | ControlError::Incomplete { .. },
            )
            | Self::Ledger(_)
            | Self::Failed => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// The answer to a call that was not done.
pub(super) fn of_not_done(not_done: &NotDone) -> Response<Body> {
    let mut response = json(&ErrorResponse {
        error: not_done.to_string(),
    });
    *response.status_mut() = not_done.status();
    let headers = response.headers_mut();
    if let NotDone::Method { allow } = not_done {
        headers.insert(ALLOW, HeaderValue::from_static(allow));
    }
    if not_done.status() == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// The answer to a call that was done.
pub(super) fn json(message: &impl Serialize) -> Response<Body> {
    let mut response = Response::new(Body::from(bytes(message)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The answer to a call that reports while it works.
pub(super) fn lines(first: Bytes, rest: mpsc::Receiver<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::lines(first, rest));
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    response
}

/// A message and the end of its line.
pub(super) fn bytes(message: &impl Serialize) -> Bytes {
    let mut json = serde_json::to_vec(message).expect("messages are plain and serialize");
    json.push(b'\n');
    json.into()
}
