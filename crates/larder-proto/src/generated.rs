//! What `cargo xtask codegen` writes: a file for each protobuf package.

#![expect(
    missing_docs,
    clippy::module_inception,
    reason = "prost-build documents only what the .proto files comment, and the package of health checks has one service, Health"
)]

pub mod bytestream;
pub mod health;
pub mod reapi;
pub mod rpc;
pub mod semver;
