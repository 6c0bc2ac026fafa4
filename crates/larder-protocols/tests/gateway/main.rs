//! The gateway over real pools in temporary directories, without a network.

#![expect(clippy::unwrap_used, reason = "what fails here fails a test")]
#![expect(clippy::print_stdout, reason = "a test says the seed that repeats it")]

mod archives;
mod audit;
mod bazel_http;
mod control;
mod house;
mod identity;
mod identity_sessions;
mod incidents;
mod interference;
mod log;
mod nx;
mod poisoning;
mod reapi;
mod reapi_actions;
mod reapi_blobs;
mod reapi_calls;
mod reapi_streams;
mod reapi_trust;
mod refusals;
