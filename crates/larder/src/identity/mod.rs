//! Who clients are, on both sides of the network.
//!
//! - Of the server: `issuers` makes what the configuration says into issuers with keys, and `follower` keeps those keys fresh.
//! - Of a client: `job` finds the identity token of a CI job, `session` exchanges it, asks who it is, and ends the session.
//!
//! What a token is worth is decided in `larder-auth`.

mod follower;
mod issuers;
mod job;
mod percent;
mod secret;
mod server_url;
pub(crate) mod session;

pub(crate) use follower::KeyFollower;
pub(crate) use issuers::{trust, trust_beside};
pub(crate) use job::Job;
pub(crate) use secret::Secret;
pub(crate) use server_url::ServerUrl;
