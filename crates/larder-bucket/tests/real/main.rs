//! What every kind of bucket must do, said once and asked of each: memory, a shared folder, a real S3 server, Azurite, and the protocol
//! of Google's XML API.
//!
//! The servers are started here, on ports of their own, and end with the test.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod azurite;
mod contract;
mod folder;
mod gcs;
mod memory;
mod outage;
mod s3;
