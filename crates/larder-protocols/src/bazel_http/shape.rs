//! What an `ActionResult` looks like, as a table: every field with its number, its name in JSON, and its kind.
//!
//! One table serves three readers: `json.rs` translates in both directions by it, and [`fits`] tells whether bytes that an
//! HTTP client sent are an action result or something of the client's own. So it knows the fields of today; a body with
//! others is not mistaken for an action result, but kept as it is.
//!
//! Numbers and names are those of the Remote Execution API, version 2, and of protobuf's well-known types.

use crate::reapi::fields::{Fields, Value};

/// A message: its fields in the order of their numbers.
#[derive(Debug)]
pub(super) struct Shape(pub(super) &'static [Field]);

/// A field of a message.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    /// The name in the `.proto` file. JSON has it in camel case.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) repeated: bool,
}

/// What a field holds.
#[derive(Debug)]
pub(super) enum Kind {
    Bool,
    Int32,
    Int64,
    Text,
    Bytes,
    Message(&'static Shape),
    /// `google.protobuf.Timestamp`: in JSON a text.
    Timestamp,
    /// `google.protobuf.Duration`: in JSON a text.
    Duration,
    /// `google.protobuf.UInt32Value`: in JSON a number.
    UInt32Value,
    /// `google.protobuf.Any`: cannot be told in JSON without knowing what is in it.
    Any,
}

impl Kind {
    /// The shape as protobuf has it, of what is a message there.
    fn shape(&self) -> Option<&'static Shape> {
        match self {
            Self::Bool | Self::Int32 | Self::Int64 | Self::Text | Self::Bytes => None,
            Self::Message(shape) => Some(shape),
            Self::Timestamp | Self::Duration => Some(&SECONDS_AND_NANOS),
            Self::UInt32Value => Some(&UINT32_VALUE),
            Self::Any => Some(&ANY),
        }
    }
}

const fn one(number: u32, name: &'static str, kind: Kind) -> Field {
    let repeated = false;
    Field {
        number,
        name,
        kind,
        repeated,
    }
}

const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
    let repeated = true;
    Field {
        number,
        name,
        kind,
        repeated,
    }
}

pub(super) static ACTION_RESULT: Shape = Shape(&[
    many(2, "output_files", Kind::Message(&OUTPUT_FILE)),
    many(3, "output_directories", Kind::Message(&OUTPUT_DIRECTORY)),
    one(4, "exit_code", Kind::Int32),
    one(5, "stdout_raw", Kind::Bytes),
    one(6, "stdout_digest", Kind::Message(&DIGEST)),
    one(7, "stderr_raw", Kind::Bytes),
    one(8, "stderr_digest", Kind::Message(&DIGEST)),
    one(9, "execution_metadata", Kind::Message(&EXECUTION_METADATA)),
    many(10, "output_file_symlinks", Kind::Message(&OUTPUT_SYMLINK)),
    many(
        11,
        "output_directory_symlinks",
        Kind::Message(&OUTPUT_SYMLINK),
    ),
    many(12, "output_symlinks", Kind::Message(&OUTPUT_SYMLINK)),
]);

static DIGEST: Shape = Shape(&[
    one(1, "hash", Kind::Text),
    one(2, "size_bytes", Kind::Int64),
]);

static OUTPUT_FILE: Shape = Shape(&[
    one(1, "path", Kind::Text),
    one(2, "digest", Kind::Message(&DIGEST)),
    one(4, "is_executable", Kind::Bool),
    one(5, "contents", Kind::Bytes),
    one(7, "node_properties", Kind::Message(&NODE_PROPERTIES)),
]);

static OUTPUT_DIRECTORY: Shape = Shape(&[
    one(1, "path", Kind::Text),
    one(3, "tree_digest", Kind::Message(&DIGEST)),
    one(4, "is_topologically_sorted", Kind::Bool),
    one(5, "root_directory_digest", Kind::Message(&DIGEST)),
]);

static OUTPUT_SYMLINK: Shape = Shape(&[
    one(1, "path", Kind::Text),
    one(2, "target", Kind::Text),
    one(4, "node_properties", Kind::Message(&NODE_PROPERTIES)),
]);

static NODE_PROPERTIES: Shape = Shape(&[
    many(1, "properties", Kind::Message(&NODE_PROPERTY)),
    one(2, "mtime", Kind::Timestamp),
    one(3, "unix_mode", Kind::UInt32Value),
]);

static NODE_PROPERTY: Shape = Shape(&[one(1, "name", Kind::Text), one(2, "value", Kind::Text)]);

static EXECUTION_METADATA: Shape = Shape(&[
    one(1, "worker", Kind::Text),
    one(2, "queued_timestamp", Kind::Timestamp),
    one(3, "worker_start_timestamp", Kind::Timestamp),
    one(4, "worker_completed_timestamp", Kind::Timestamp),
    one(5, "input_fetch_start_timestamp", Kind::Timestamp),
    one(6, "input_fetch_completed_timestamp", Kind::Timestamp),
    one(7, "execution_start_timestamp", Kind::Timestamp),
    one(8, "execution_completed_timestamp", Kind::Timestamp),
    one(9, "output_upload_start_timestamp", Kind::Timestamp),
    one(10, "output_upload_completed_timestamp", Kind::Timestamp),
    many(11, "auxiliary_metadata", Kind::Any),
    one(12, "virtual_execution_duration", Kind::Duration),
]);

static SECONDS_AND_NANOS: Shape =
    Shape(&[one(1, "seconds", Kind::Int64), one(2, "nanos", Kind::Int32)]);

/// An unsigned number is told from a signed one by its JSON alone.
static UINT32_VALUE: Shape = Shape(&[one(1, "value", Kind::Int64)]);

static ANY: Shape = Shape(&[one(1, "type_url", Kind::Text), one(2, "value", Kind::Bytes)]);

/// Whether these bytes are a message of this shape and of no other: known fields only, of the right kinds.
pub(super) fn fits(shape: &Shape, message: &[u8]) -> bool {
    Fields::of(message).all(|field| {
        let Ok((number, value)) = field else {
            return false;
        };
        let known = shape.0.iter().find(|known| known.number == number);
        match (known.map(|known| &known.kind), value) {
            (Some(Kind::Bool), Value::Varint(bit)) => bit <= 1,
            (Some(Kind::Int32 | Kind::Int64), Value::Varint(_))
            | (Some(Kind::Bytes), Value::Bytes(_)) => true,
            (Some(Kind::Text), Value::Bytes(text)) => std::str::from_utf8(text).is_ok(),
            (Some(kind), Value::Bytes(message)) => {
                kind.shape().is_some_and(|shape| fits(shape, message))
            }
            (Some(_) | None, _) => false,
        }
    })
}
