//! Thin adapters from wire protocols to the cache.
//!
//! [`Gateway`] is the one entry point: it takes a request from whatever listener the program has
//! and answers it. Inside, each protocol is a folder of the same three files: `routes` (what is
//! asked and what to do), `wire` (the bytes of paths and messages), `status` (every outcome to
//! this protocol's status, by name).
//!
//! - `nx/`: the cache of Nx, `/v1/cache/{hash}`, as its real clients behave.
//! - `reapi/`: the Remote Execution API as a cache, over gRPC: moon, Bazel, Buck2 and others.
//! - `bazel_http/`: the same entries over HTTP, `/ac/{hash}` and `/cas/{hash}`.
//! - `control/`: purge, stats and verify under `/v1/control/`, as JSON.
//! - `identity/`: sessions for CI jobs (RFC 8693, RFC 7009), and `/v1/whoami`.
//!
//! A program serves with hyper roughly like this, for each connection:
//!
//! ```text
//! let gateway = Arc::new(Gateway::new(cache, authenticator, workspaces, ledger, journal, limits, now_ms));
//! service_fn(move |request| {
//!     let answer = gateway.handle(request, Origin::Tcp(peer.clone()));
//!     async move { Ok::<_, Infallible>(answer.await) }
//! })
//! ```
//!
//! Always true:
//! - A path, a header or a message from outside becomes types of `larder_model` here, or goes no further.
//! - Every outcome below is mapped by name, and a failure inside is the client's mildest answer.
//! - A body is read with progress limits and answered only once it is read, or the connection dies.

#![forbid(unsafe_code)]

mod archive;
mod attempts;
mod bazel_http;
mod body;
mod caller;
pub mod control;
mod excerpt;
mod gateway;
pub mod identity;
mod instance;
mod intake;
mod introduction;
pub mod journal;
mod ledger_lane;
mod nx;
mod paths;
mod percent;
mod provenance;
mod reapi;
mod shown_key;
mod unwind;
mod writer;

pub use archive::InspectedWriters;
pub use attempts::Attempts;
pub use body::Body;
pub use caller::{WorkspaceTable, default_workspace};
pub use gateway::{Answer, Gateway, Identity, Origin, Peer};
pub use intake::BodyLimits;
pub use journal::Journal;
pub use provenance::ProvenanceText;
pub use shown_key::ShownKey;

/// What must hold of any bytes from outside, for the fuzzer alone.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::archive::fuzzing::{archive, archive_entries};
    pub use crate::bazel_http::fuzzing::action_result_json;
    pub use crate::reapi::fuzzing::{action_result, resource_name, tree, write_request};
}

/// The OpenAPI 3.0 document of everything a Larder server answers, as JSON.
pub const OPENAPI_JSON: &str = include_str!("../openapi.json");
