//! An HTTP client that trusts no server.
//!
//! Larder asks issuers for their keys, other servers for a session, and strangers' caches whether they can be poisoned. None
//! of them may make it wait, fill its memory or send it somewhere else. So:
//!
//! - A redirect is an answer like any other. Nothing is followed, and no credential goes where it was not sent.
//! - One deadline stands over the whole exchange, from the name's look-up to the last byte of the answer.
//! - An answer has at most [`ClientOptions::answer_bytes_max`] bytes of body and [`ANSWER_HEADER_BYTES_MAX`] of headers.
//! - Link-local addresses, and those at which clouds answer their own machines, are not asked, whatever name leads to them,
//!   unless [`ClientOptions::link_local`] says so.
//! - Certificates are verified, always: against the system's roots and those that were given.
//! - What the environment says of proxies (`HTTPS_PROXY` and its kin) is not used.
//! - Nothing is decompressed, remembered or tried again, but for a request that never left because its idle connection had
//!   ended.
//!
//! Whole bodies in memory, both ways. Bodies that do not fit there are for another client, which may take
//! [`tls_configuration`] and [`ClientError::of_request`] from here.

#![forbid(unsafe_code)]

mod addresses;
mod client;
mod error;
mod tls;

pub use client::{ANSWER_HEADER_BYTES_MAX, Client, ClientOptions};
pub use error::{ClientError, ConnectProblem, OptionsError};
pub use tls::configuration as tls_configuration;
