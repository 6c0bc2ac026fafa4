//! The Remote Execution API, version 2, as a cache: over gRPC.
//!
//! Capabilities, action cache, content-addressable storage and byte streams, as their real clients use them: moon, Bazel, Buck2,
//! Pants, BuildStream and others. Every answer is HTTP 200 with a gRPC status; what each client makes of a status decides which one it is
//! ([`status`]), and where one client needs what others do not, [`clients`] says so by name.
//!
//! - `routes`: which method is called, and what surrounds each call: credential, deadline, a panic, what is counted.
//! - `call`: who calls, what they may do, and the one message of a unary call.
//! - `capabilities`, `action_cache`, `find_missing`, `batch`, `tree`, `read`, `write`: the methods.
//! - `resource_name`, `write_request`, `fields`, `request_metadata`: bytes from outside.
//! - `completeness`, `action_result`: what an action result refers to, and whether all of it is there.
//!
//! Always true:
//! - A message that is held whole has a limit, and the memory of all of them together has one ([`crate::intake::WholeBodies`]).
//!   Uploads and downloads are not held whole.
//! - There is no state between calls.
//! - What a caller may not see is not found; only a bad credential is louder, at every call.

pub(crate) mod action_cache;
pub(crate) mod action_result;
mod batch;
mod call;
mod capabilities;
mod clients;
pub(crate) mod completeness;
pub(crate) mod fields;
mod find_missing;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub(crate) mod read;
mod request_metadata;
mod resource_name;
pub(crate) mod rewrites;
pub(crate) mod routes;
mod status;
mod together;
pub(crate) mod tree;
mod write;
mod write_request;

/// The most bytes of a message that is held whole: more than a batch with everything around it, and some hundred thousand digests.
const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// The most bytes that the blobs of one batch may have decompressed. Batches are decoded where they are received.
const DECODED_BYTES_MAX: u64 = 32 << 20;
