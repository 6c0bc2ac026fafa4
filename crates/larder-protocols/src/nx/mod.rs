//! The cache protocol of Nx: `GET` and `PUT /v1/cache/{hash}`.
//!
//! What the real clients do decides, not the published OpenAPI text. Observed with 20.8.4 to
//! 24.0.6: a `GET` that is neither 200 nor 404 ends the whole run, and a `PUT` that is none of
//! 200, 403 and 409 fails its task after six attempts. So everything that goes wrong is 404 or
//! 403, and only a bad credential is louder (401, `Content-Type` exactly `text/plain`, or the user
//! does not see the text). A client that gets its answer while it is sending takes it for a broken
//! connection, so every body is read to its end first.

pub(crate) mod routes;
mod status;
pub(crate) mod wire;
