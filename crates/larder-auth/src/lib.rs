//! From what a request brings to a [`Principal`](larder_model::Principal).
//!
//! [`Authenticator`] answers for every request: nobody said who they are ([`Credential::Absent`]), a credential that the server
//! knows ([`Credential::Known`]), one that was good and is over ([`Credential::Expired`]), a JWT that must be looked at first
//! ([`Credential::Unintroduced`]), or a credential that is bad ([`BadCredential`]), which is loud because its sender believes
//! to be someone. What a principal may do is not decided here; that is `larder_model::Policy`.
//!
//! Credentials are static tokens, sessions that CI jobs got for their JWTs, JWTs themselves, and client certificates. A JWT is
//! looked at in two steps: [`Issuers::verify`] makes [`VerifiedClaims`] of it, and [`ci`] decides what they give.
//!
//! Always true:
//! - A token exists as text in [`TokenSecret`] and [`SessionSecret`] alone, and a JWT is borrowed and never kept. Nothing here
//!   prints one, and the tables of what is known hold SHA-256 hashes.
//! - `Known` is answered for the exact text of a credential and for no other text.
//! - Authenticating takes no lock, does no allocation and reads no clock.
//!
//! This crate does no I/O: whoever keeps the tokens and sessions calls [`Authenticator::replace`] and
//! [`Authenticator::replace_sessions`] when they change and stores what [`Authenticator::take_last_used`] returns, and whoever
//! can reach issuers fetches what [`Issuers::due`] names.

#![forbid(unsafe_code)]

mod admission;
mod authenticator;
mod certificate;
pub mod ci;
mod claims;
mod header;
mod jwt;
mod keys;
mod memo;
mod session;
mod shards;
mod token;

pub use admission::{ADMITTED_COUNT_MAX, ADMITTED_MS_MAX, Admission, PolicyEpoch, SetAside};
pub use authenticator::{
    Authenticator, BadCredential, Credential, CredentialKind, Presented, Standing, TokenGrant,
};
pub use certificate::{CertificateGrant, CertificateNames, CertificateRule, San};
pub use claims::{Claims, MalformedClaims, VerifiedClaims};
pub use jwt::{
    Algorithm, Issuer, Issuers, IssuersError, JWT_BYTES_MAX, JWT_LIFETIME_S_MAX, JwtProblem,
    KeySource,
};
pub use keys::{DOCUMENT_BYTES_MAX, Document, Fetch, FetchedDocument, KeysProblem};
pub use session::{SessionGrant, SessionMark};
pub use token::{MalformedToken, SessionSecret, TokenHash, TokenSecret};
