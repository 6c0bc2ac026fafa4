//! Who a client is: sessions for CI jobs, their end, and "who am I".
//!
//! | request | answer |
//! |---|---|
//! | `POST /v1/oauth/token` (RFC 8693, a form) | [`TokenResponse`]: a session for a CI job's identity token |
//! | `POST /v1/oauth/revoke` (RFC 7009, a form) | 200 and nothing, whether there was such a session or not |
//! | `GET /v1/whoami` | [`WhoamiResponse`]: what the credential of the request may do |
//!
//! An exchange looks at the identity token in the same way as a request that brings it as its credential, so that both doors
//! give the same rights. An identity token is exchanged once.
//!
//! Always true:
//! - Whatever is wrong with an identity token, its sender is told the same; the reason is in the log, under the request's id.
//! - Nothing is written to the ledger before the token's signature has been verified.
//! - A session never may more, nor lasts longer, than the rule says, whatever the request asks for.
//! - No answer of these routes is stored by a cache on its way.

mod pace;
pub(crate) mod routes;
mod status;
pub(crate) mod wire;

pub(crate) use pace::Pace;
pub use routes::SessionTtl;
pub use wire::{OauthError, Rights, TokenResponse, WhoamiResponse};
