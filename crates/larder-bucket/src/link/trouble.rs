//! What an answer, or the lack of one, means for the caller: the one place where errors of stores are read.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;

use http::StatusCode;
use object_store::Error as StoreError;
use object_store::client::{HttpError, HttpErrorKind};

use super::transport::{self, Refusal};

/// Answers are quoted up to here.
const MESSAGE_CHARS_MAX: usize = 400;

/// Why the bucket cannot be asked, or did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Trouble {
    /// The circuit is open: it has not been asked.
    CircuitOpen,
    /// No answer in time.
    TimedOut,
    /// It asks for fewer requests.
    Throttled,
    /// The credentials are missing, wrong or not allowed to do this.
    AccessDenied,
    /// It has no room left.
    Full,
    /// It does not know what is needed, such as conditional creates.
    Unsupported,
    /// Anything else: connection refused, 5xx, a response that breaks off.
    Failed,
}

impl Trouble {
    /// Its name in metrics and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::CircuitOpen => "circuit_open",
            Self::TimedOut => "timed_out",
            Self::Throttled => "throttled",
            Self::AccessDenied => "access_denied",
            Self::Full => "full",
            Self::Unsupported => "unsupported",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a request ends badly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// There is no such object, in a bucket that is there.
    #[error("no such object")]
    NotFound,
    /// A conditional create found an object of that name. It can be one's own, whose acknowledgement was lost.
    #[error("an object of that name exists")]
    AlreadyExists,
    /// The object is larger than the caller takes.
    #[error("the object has more than {limit} bytes")]
    TooLarge {
        /// The most bytes asked for.
        limit: u64,
    },
    /// Anything else. The text is for people and holds no secret.
    #[error("the bucket is not available: {message}")]
    Unavailable {
        /// What it is.
        trouble: Trouble,
        /// What was said.
        message: Arc<str>,
    },
}

impl LinkError {
    pub(crate) fn unavailable(trouble: Trouble, message: impl Into<Arc<str>>) -> Self {
        Self::Unavailable {
            trouble,
            message: message.into(),
        }
    }

    /// What keeps the bucket from being used; `None` if it was used and had an answer.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Unavailable { trouble, .. } => Some(*trouble),
            Self::NotFound | Self::AlreadyExists | Self::TooLarge { .. } => None,
        }
    }
}

/// Reads an error of `object_store`.
pub(crate) fn read(error: &StoreError) -> LinkError {
    // Which object it was is in the caller's hands; a refusal says more than the kind of error that it was put into.
    if let Some(refusal) = transport::refusal(error) {
        return of_refusal(refusal);
    }
    if is_behind_the_end(error) {
        return LinkError::NotFound;
    }
    let trouble = match error {
        StoreError::NotFound { .. } => return LinkError::NotFound,
        StoreError::AlreadyExists { .. } => return LinkError::AlreadyExists,
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
            Trouble::AccessDenied
        }
        StoreError::NotSupported { .. }
        | StoreError::NotImplemented { .. }
        | StoreError::UnknownConfigurationKey { .. }
        | StoreError::InvalidPath { .. } => Trouble::Unsupported,
        other => of_cause(other),
    };
    LinkError::unavailable(trouble, quote(error))
}

fn of_refusal(refusal: &Refusal) -> LinkError {
    let trouble = match (refusal.code.as_str(), refusal.status) {
        (_, StatusCode::RANGE_NOT_SATISFIABLE) => return LinkError::NotFound,
        (
            "SlowDown"
            | "SlowDownRead"
            | "SlowDownWrite"
            | "ServerBusy"
            | "Throttling"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "TooManyRequests"
            | "RateLimitExceeded"
            | "ConditionalRequestConflict"
            | "OperationAborted",
            _,
        )
        | (_, StatusCode::TOO_MANY_REQUESTS) => Trouble::Throttled,
        (
            "QuotaExceeded"
            | "StorageFull"
            | "XMinioStorageFull"
            | "InsufficientCapacity"
            | "NoSpaceLeftOnDevice"
            | "AccountQuotaExceeded"
            | "InsufficientStorage",
            _,
        )
        | (_, StatusCode::INSUFFICIENT_STORAGE) => Trouble::Full,
        (
            "ExpiredToken"
            | "InvalidToken"
            | "TokenRefreshRequired"
            | "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "AuthenticationFailed"
            | "AccessDenied"
            | "AuthorizationHeaderMalformed"
            | "RequestTimeTooSkewed",
            _,
        )
        | (_, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Trouble::AccessDenied,
        (_, StatusCode::NOT_IMPLEMENTED | StatusCode::METHOD_NOT_ALLOWED) => Trouble::Unsupported,
        _ => Trouble::Failed,
    };
    LinkError::unavailable(trouble, refusal.to_string())
}

/// Whether a range was asked for that begins where the object has ended. `object_store` has no public type for it.
fn is_behind_the_end(error: &(dyn StdError + 'static)) -> bool {
    let mut link = Some(error);
    while let Some(error) = link {
        if error.to_string().contains("but object was only") {
            return true;
        }
        link = error.source();
    }
    false
}

fn of_cause(error: &(dyn StdError + 'static)) -> Trouble {
    if let Some(http) = transport::find::<HttpError>(error) {
        return match http.kind() {
            HttpErrorKind::Timeout => Trouble::TimedOut,
            _ => Trouble::Failed,
        };
    }
    match transport::find::<io::Error>(error).map(io::Error::kind) {
        Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Trouble::Full,
        Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            Trouble::AccessDenied
        }
        Some(io::ErrorKind::Unsupported) => Trouble::Unsupported,
        Some(io::ErrorKind::TimedOut) => Trouble::TimedOut,
        // One of the names that a bulk delete was for; `object_store` has no public type for it.
        None if error.to_string().contains("code: AccessDenied") => Trouble::AccessDenied,
        _ => Trouble::Failed,
    }
}

/// The words of the error that began it; those around it say the same at greater length.
fn quote(error: &(dyn StdError + 'static)) -> String {
    if let Some(client) = transport::find::<larder_client::ClientError>(error) {
        return client.to_string();
    }
    let words = error.to_string();
    match words.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{} …", &words[..end]),
        None => words,
    }
}
