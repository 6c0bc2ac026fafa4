//! From the bytes of an `Authorization` header to a [`Principal`](larder_model::Principal).
//!
//! [`Authenticator`] answers three things and never a fourth: nobody said who they are
//! ([`Credential::Absent`]), a credential that the server knows ([`Credential::Known`]), or a
//! credential that is bad ([`BadCredential`]), which is loud because its sender believes to be
//! someone. What a principal may do is not decided here; that is `larder_model::Policy`.
//!
//! Always true:
//! - A token exists as text in [`TokenSecret`] alone. Nothing here prints one, and the table of
//!   known tokens holds SHA-256 hashes.
//! - `Known` is answered for the exact text of a token and for no other text.
//! - Authenticating takes no lock, does no allocation and reads no clock.
//!
//! This crate does no I/O: whoever keeps the tokens calls [`Authenticator::replace`] when they
//! change and stores what [`Authenticator::take_last_used`] returns.

#![forbid(unsafe_code)]

mod authenticator;
mod header;
mod memo;
mod token;

pub use authenticator::{Authenticator, BadCredential, Credential, TokenGrant};
pub use token::{MalformedToken, TokenHash, TokenSecret};
