//! An HTTP client that trusts no server.

#![forbid(unsafe_code)]
