//! The messages of the Remote Execution API, as far as a cache needs them, and the paths of its
//! methods.
//!
//! What it holds is generated from the `.proto` files beside `src` by `cargo xtask codegen` and
//! checked in, so building needs neither `protoc` nor a build script. Names and numbers are those
//! of the specifications; the files leave out what only an executor needs.
//!
//! Always true:
//! - A `bytes` field is [`bytes::Bytes`]: decoded from `Bytes` it is a slice of them, not a copy.
//! - What the well-known protobuf packages define is [`prost_types`]' and exists once.
//! - A service is a module of constants: `NAME`, and the path of each method as it is in an HTTP/2
//!   request.
//!
//! ```
//! use larder_proto::{Message, reapi};
//!
//! assert_eq!(
//!     reapi::content_addressable_storage::FIND_MISSING_BLOBS,
//!     "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs",
//! );
//! let digest = reapi::Digest { hash: "ab".into(), size_bytes: 3 };
//! assert_eq!(digest.encode_to_vec(), b"\x0a\x02ab\x10\x03");
//! ```

#![forbid(unsafe_code)]

mod generated;

/// `google.bytestream`: reading and writing one blob as a stream.
pub use generated::bytestream;
/// `grpc.health.v1`: is the server able to serve?
pub use generated::health;
/// `build.bazel.remote.execution.v2`: capabilities, action cache, content-addressable storage.
pub use generated::reapi;
/// `google.rpc`: a status as a message.
pub use generated::rpc;
/// `build.bazel.semver`: versions of the API.
pub use generated::semver;

pub use prost::{DecodeError, Message, Name};
/// `google.protobuf`.
pub use prost_types as protobuf;
