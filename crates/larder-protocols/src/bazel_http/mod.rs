//! The HTTP form of the Remote Execution API's cache: `[/PREFIX]/ac/HASH` and `[/PREFIX]/cas/HASH`.
//!
//! Bazel's `--remote_cache=http://…` brought it about; moon, ccache (`layout=bazel`) and others speak it too, and they differ in what they
//! keep under `ac`. It is told from the bytes:
//!
//! - An action result, which Bazel sends as protobuf and moon as JSON, becomes the same entry that gRPC clients see: it is found only
//!   while it is complete, and comes back in the form that the reader asks for.
//! - Anything else is opaque: it comes back byte for byte with its content type, to HTTP clients only. ccache's results are, and what
//!   moon 2.4.0 to 2.4.3 send, JSON that is no action result. An entry that is both is the action result while that is complete.
//! - No bytes at all are neither: they would mean an action that succeeded without any output, and are more likely a body that was lost.
//!
//! `routes` says what happens, `wire` reads paths and headers, `status` names every outcome; `shape`, `json` and `moment` are action
//! results from and to JSON.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod json;
mod moment;
pub(crate) mod routes;
mod shape;
mod status;
pub(crate) mod wire;
