//! Every outcome of a call as a gRPC status, with a text that helps whoever reads it.
//!
//! Clients show the text: moon at `GetCapabilities` alone, Bazel as an error or a warning. What they do next depends on the code:
//! - `NOT_FOUND` is a miss to all, so every doubt about a read is one: no permission to see it as well as a defect here.
//! - `UNAUTHENTICATED` makes Bazel ask its credential helper again; only bad credentials are that.
//! - `UNAVAILABLE` and `ABORTED` are tried again by Bazel, Buck2 and Pants; moon tries nothing again.
//! - `RESOURCE_EXHAUSTED` reads "out of storage space" in moon. It is for storage; sizes are `INVALID_ARGUMENT`. A blob that has no
//!   room in the answer to a batch is that, too: clients that do not count what is around blobs ask again for what they lack. moon counts.
//! - A defect here is `INTERNAL` for what cannot be a miss: all of these clients go on building without the cache, and Buck2 does
//!   not try again what would fail again.

use std::fmt::{self, Display, Formatter};

use larder_auth::BadCredential;
use larder_cache::{PutRefusal, Unfinished};
use larder_grpc::{Code, Status};
use larder_model::{DigestError, Refusal};

use super::DECODED_BYTES_MAX;
use super::action_result::{Invalid, Stray};
use super::batch::BATCH_COUNT_MAX;
use super::capabilities::BATCH_BYTES_MAX;
use super::fields::Malformed;
use super::resource_name::ResourceNameError;
use crate::caller::{NoCaller, refusal_reason};
use crate::excerpt::Excerpt;
use crate::instance::InstanceError;
use crate::intake::Interrupted;
use crate::writer::NotWritten;

/// Why a call is not answered with what it asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// A service or method that is not here.
    #[error("this server has no such method; it is a cache, and executes nothing")]
    NoSuchMethod,
    /// A health check of a service that is not here.
    #[error("this server has no such service")]
    NoSuchService,
    #[error("{0}")]
    BadCredential(BadCredential),
    /// A good credential of another workspace than the instance name names.
    #[error("this token belongs to another workspace than the instance name names")]
    OtherWorkspace,
    /// A credential that was good and is over, or cannot be judged for now.
    #[error("this credential's time is over, or it cannot be checked for now; nothing is stored")]
    Expired,
    /// What the credential may do was changed while its bytes were on their way.
    #[error("this token was changed during the upload")]
    CallerChanged,
    /// Policy gives no grant.
    #[error("{}", advice(*.0))]
    Policy(Refusal),
    /// There is nothing to read, or nothing for this caller.
    #[error("{0}")]
    Absent(Absent),
    #[error("the instance name cannot be used: {0}")]
    Instance(InstanceError),
    #[error("the resource name cannot be used: {0}")]
    ResourceName(ResourceNameError),
    #[error("the digest {} cannot be used: {why}", Excerpt(.digest))]
    Digest { digest: String, why: DigestError },
    #[error("digest function {0} is not supported; this server has SHA256 (1) and BLAKE3 (9)")]
    Function(u64),
    #[error("compressor {0} is not supported; this server has IDENTITY (0) and ZSTD (1)")]
    Compressor(u64),
    /// The bytes are no such message.
    #[error("the request is no valid {0} message")]
    Malformed(&'static str),
    #[error("the action result cannot be stored: {0}")]
    ActionResult(Invalid),
    /// It is valid, but would have clients make something elsewhere, and its writer is not trusted.
    #[error("the action result is not stored: {0}")]
    Stray(Stray),
    /// The frames around messages are wrong; what gRPC itself says.
    #[error("{}", framing_text(.status, *.message_bytes_max))]
    Framing {
        status: Status,
        message_bytes_max: usize,
    },
    #[error("the call has no message, or more than one")]
    NotOneMessage,
    #[error("a batch has at most {BATCH_BYTES_MAX} bytes of blobs; use ByteStream for more")]
    BatchTooLarge,
    #[error(
        "the blobs of a batch have at most {DECODED_BYTES_MAX} bytes decompressed; use ByteStream for more"
    )]
    BatchDecodesTooLarge,
    #[error("a batch has at most {BATCH_COUNT_MAX} blobs; use several")]
    BatchTooLong,
    #[error("a blob of the batch has no digest")]
    NoDigest,
    /// Not even the verdicts have room in one answer.
    #[error("the answer to this batch would have more than {0} bytes; ask for fewer blobs at once")]
    BatchTooMany(usize),
    /// What there is of the batch has no room for this blob.
    #[error("this answer is full; ask again")]
    AnswerFull,
    #[error("{0}")]
    Order(OutOfOrder),
    #[error("{0}")]
    Range(BadRange),
    #[error("{0}")]
    PageToken(BadPageToken),
    /// Too many large requests at once.
    #[error("the server is busy; try again")]
    Busy,
    #[error("{}", cache_text(.0))]
    Cache(PutRefusal),
    #[error("the request did not arrive")]
    Interrupted(Interrupted),
    #[error("the call took longer than its deadline")]
    Deadline,
    /// A defect in this server.
    #[error("the cache failed; this is a defect in Larder, and its log says more")]
    Failed,
}

/// What is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Absent {
    #[error("there is no such action result, or a blob that it needs is gone")]
    ActionResult,
    #[error("there is no such blob")]
    Blob,
    /// As good as absent to this caller.
    #[error("nothing is found here: {}", advice(*.0))]
    Unseen(Refusal),
    #[error(
        "nothing is found here: this token belongs to another workspace than the instance name names"
    )]
    OtherWorkspace,
    #[error(
        "nothing is found here: this credential's time is over, or it cannot be checked for now"
    )]
    Expired,
}

/// A rule between the messages of an upload that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum OutOfOrder {
    #[error("the first message of an upload has a resource_name")]
    NoName,
    #[error("the resource_name changed during the upload")]
    OtherName,
    #[error("write_offset is {sent}, but {expected} bytes have been written; begin again at 0")]
    Offset { sent: i64, expected: u64 },
    #[error("there is a message after the one with finish_write")]
    AfterEnd,
    #[error("the upload ended without finish_write; nothing is stored")]
    NoEnd,
}

/// A part of a blob that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRange {
    #[error("read_offset is negative")]
    NegativeOffset,
    #[error("read_limit is negative")]
    NegativeLimit,
    #[error("a compressed blob is read without read_limit")]
    CompressedLimit,
    #[error("read_offset is {offset}, and the blob has {size} bytes")]
    BehindEnd { offset: i64, size: u64 },
}

/// A page that `GetTree` never offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the page_token is none of this server's")]
pub(super) struct BadPageToken;

/// Where a refused call is counted.
pub(super) enum Counted {
    /// The cache has done so, or it is a miss.
    ByTheCache,
    /// As an upload that came to nothing.
    Unfinished(Unfinished),
    /// As a call without permission or sense.
    Denied,
}

impl Refused {
    pub(super) fn of_no_caller(no_caller: NoCaller) -> Self {
        match no_caller {
            NoCaller::BadCredential(bad) => Self::BadCredential(bad),
            NoCaller::OtherWorkspace => Self::OtherWorkspace,
            NoCaller::Expired => Self::Expired,
        }
    }

    /// What is wrong with the frames around messages of at most so many bytes.
    pub(super) fn framing(message_bytes_max: usize) -> impl Fn(Status) -> Self + Copy {
        move |status| Self::Framing {
            status,
            message_bytes_max,
        }
    }

    pub(super) fn code(&self) -> Code {
        match self {
            // So the specification of gRPC says of a unary call.
            Self::NoSuchMethod | Self::NotOneMessage => Code::Unimplemented,
            Self::NoSuchService | Self::Absent(_) => Code::NotFound,
            Self::BadCredential(_) => Code::Unauthenticated,
            Self::OtherWorkspace | Self::Expired | Self::CallerChanged | Self::Policy(_) => {
                Code::PermissionDenied
            }
            Self::Instance(_)
            | Self::ResourceName(_)
            | Self::Digest { .. }
            | Self::Function(_)
            | Self::Compressor(_)
            | Self::Malformed(_)
            | Self::ActionResult(_)
            | Self::Stray(_)
            | Self::BatchTooLarge
            | Self::BatchDecodesTooLarge
            | Self::BatchTooLong
            | Self::NoDigest
            | Self::BatchTooMany(_)
            | Self::Order(_)
            | Self::PageToken(BadPageToken) => Code::InvalidArgument,
            Self::AnswerFull => Code::ResourceExhausted,
            Self::Range(range) => match range {
                BadRange::NegativeOffset | BadRange::NegativeLimit | BadRange::CompressedLimit => {
                    Code::InvalidArgument
                }
                BadRange::BehindEnd { .. } => Code::OutOfRange,
            },
            // A message above the limit. See the header.
            Self::Framing { status, .. } if status.code == Code::ResourceExhausted => {
                Code::InvalidArgument
            }
            Self::Framing { status, .. } => status.code,
            Self::Cache(refusal) => cache_code(refusal),
            Self::Busy => Code::Unavailable,
            Self::Interrupted(Interrupted::Broken) => Code::Cancelled,
            Self::Interrupted(Interrupted::Stalled) => Code::Aborted,
            Self::Deadline => Code::DeadlineExceeded,
            Self::Failed => Code::Internal,
        }
    }

    /// The reason's name in metrics and logs.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::NoSuchMethod | Self::NoSuchService => "no_method",
            Self::BadCredential(_) => "bad_credential",
            Self::OtherWorkspace | Self::Absent(Absent::OtherWorkspace) => "other_workspace",
            Self::Expired | Self::Absent(Absent::Expired) => "expired_credential",
            Self::CallerChanged => "caller_changed",
            Self::Policy(refusal) | Self::Absent(Absent::Unseen(refusal)) => {
                refusal_reason(*refusal)
            }
            Self::Absent(Absent::ActionResult | Absent::Blob) => "absent",
            Self::Instance(_) => "instance_name",
            Self::ResourceName(_) => "resource_name",
            Self::Digest { .. } | Self::NoDigest => "digest",
            Self::Function(_) => "digest_function",
            Self::Compressor(_) => "compressor",
            Self::Malformed(_) | Self::NotOneMessage => "malformed",
            Self::Framing { .. } => "framing",
            Self::ActionResult(_) => "action_result",
            Self::Stray(_) => "hostile_paths",
            Self::BatchTooLarge
            | Self::BatchDecodesTooLarge
            | Self::BatchTooLong
            | Self::BatchTooMany(_)
            | Self::AnswerFull => "batch_too_large",
            Self::Order(_) => "order",
            Self::Range(_) => "range",
            Self::PageToken(BadPageToken) => "page_token",
            Self::Busy => "busy",
            Self::Cache(refusal) => refusal.reason(),
            Self::Interrupted(Interrupted::Broken) => Unfinished::Interrupted.name(),
            Self::Interrupted(Interrupted::Stalled) => Unfinished::Stalled.name(),
            Self::Deadline => "deadline",
            Self::Failed => Unfinished::Failed.name(),
        }
    }

    pub(super) fn counted(&self) -> Counted {
        match self {
            Self::Absent(Absent::ActionResult | Absent::Blob) | Self::Cache(_) => {
                Counted::ByTheCache
            }
            Self::Order(OutOfOrder::NoEnd)
            | Self::Interrupted(Interrupted::Broken)
            | Self::Deadline => Counted::Unfinished(Unfinished::Interrupted),
            Self::Interrupted(Interrupted::Stalled) => Counted::Unfinished(Unfinished::Stalled),
            Self::Failed => Counted::Unfinished(Unfinished::Failed),
            Self::NoSuchMethod
            | Self::NoSuchService
            | Self::BadCredential(_)
            | Self::OtherWorkspace
            | Self::Expired
            | Self::CallerChanged
            | Self::Policy(_)
            | Self::Absent(Absent::Unseen(_) | Absent::OtherWorkspace | Absent::Expired)
            | Self::Instance(_)
            | Self::ResourceName(_)
            | Self::Digest { .. }
            | Self::Function(_)
            | Self::Compressor(_)
            | Self::Malformed(_)
            | Self::ActionResult(_)
            | Self::Stray(_)
            | Self::Framing { .. }
            | Self::NotOneMessage
            | Self::BatchTooLarge
            | Self::BatchDecodesTooLarge
            | Self::BatchTooLong
            | Self::NoDigest
            | Self::BatchTooMany(_)
            | Self::AnswerFull
            | Self::Order(_)
            | Self::Range(_)
            | Self::PageToken(BadPageToken)
            | Self::Busy => Counted::Denied,
        }
    }

    /// The status as it is sent.
    pub(super) fn status(&self) -> Status {
        Status::new(self.code(), self.to_string())
    }
}

/// What a cache's refusal is, for a call as for an item of a batch.
fn cache_code(refusal: &PutRefusal) -> Code {
    match refusal {
        PutRefusal::TooLarge { .. }
        | PutRefusal::SizeMismatch { .. }
        | PutRefusal::DigestMismatch { .. }
        | PutRefusal::Undecodable => Code::InvalidArgument,
        PutRefusal::NoRoom => Code::ResourceExhausted,
        PutRefusal::Busy | PutRefusal::Unavailable => Code::Unavailable,
    }
}

fn cache_text(refusal: &PutRefusal) -> Text {
    match refusal {
        PutRefusal::TooLarge { limit } => Text(format!("blobs are limited to {limit} bytes here")),
        PutRefusal::NoRoom => Text(
            "the cache is full of entries that are in use; nothing can be stored for a while"
                .into(),
        ),
        PutRefusal::SizeMismatch { .. }
        | PutRefusal::DigestMismatch { .. }
        | PutRefusal::Undecodable
        | PutRefusal::Busy
        | PutRefusal::Unavailable => Text(refusal.to_string()),
    }
}

/// What to do about policy's refusal.
fn advice(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Anonymous => {
            "no token was sent; send one as: Authorization: Bearer TOKEN. Ask for one, or run: \
             larder token create --workspace NAME --access KIND"
        }
        Refusal::ReadOnly => {
            "this token may only read; writes need one of another kind: larder token create \
             --workspace NAME --access trusted, or isolated for pull requests"
        }
        Refusal::ControlPlaneOnly => {
            "this token is for administration and reads and writes no entries; builds need another one"
        }
        Refusal::NotAdmin => "this token is not for administration",
        Refusal::LabelNeedsIsolated => {
            "the instance name has a scope, and only an isolated token may name one"
        }
        Refusal::TooDeep => "the scope in the instance name makes this token's too deep",
    }
}

fn framing_text(status: &Status, message_bytes_max: usize) -> Text {
    if status.code == Code::ResourceExhausted {
        return Text(format!(
            "a message has at most {message_bytes_max} bytes here"
        ));
    }
    Text(status.message.to_string())
}

struct Text(String);

impl Display for Text {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<NotWritten> for Refused {
    fn from(not_written: NotWritten) -> Self {
        match not_written {
            NotWritten::NoCaller(no_caller) => Self::of_no_caller(no_caller),
            NotWritten::Policy(refusal) => Self::Policy(refusal),
            NotWritten::CallerChanged => Self::CallerChanged,
            NotWritten::Cache(refusal) => Self::Cache(refusal),
        }
    }
}

impl From<PutRefusal> for Refused {
    fn from(refusal: PutRefusal) -> Self {
        Self::Cache(refusal)
    }
}

impl From<Interrupted> for Refused {
    fn from(interrupted: Interrupted) -> Self {
        Self::Interrupted(interrupted)
    }
}

impl From<OutOfOrder> for Refused {
    fn from(order: OutOfOrder) -> Self {
        Self::Order(order)
    }
}

impl From<Absent> for Refused {
    fn from(absent: Absent) -> Self {
        Self::Absent(absent)
    }
}

impl From<ResourceNameError> for Refused {
    fn from(error: ResourceNameError) -> Self {
        Self::ResourceName(error)
    }
}

impl From<InstanceError> for Refused {
    fn from(error: InstanceError) -> Self {
        Self::Instance(error)
    }
}

/// For the messages of uploads, which are the only ones read piece by piece.
impl From<Malformed> for Refused {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed("WriteRequest")
    }
}
