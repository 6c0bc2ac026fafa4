//! The control API: purge, stats and verify as JSON over HTTP.
//!
//! | request | answer |
//! |---|---|
//! | `POST /v1/control/purge` with a [`PurgeRequest`] | [`PurgeResponse`] |
//! | `GET /v1/control/stats` | [`StatsResponse`] |
//! | `POST /v1/control/verify` | a [`VerifyLine`] per line, the last one its result |
//!
//! On the TCP port it takes an admin token and is confined to that token's workspace; on the
//! control socket the caller is the server's operator. Everything that goes wrong is an
//! [`ErrorResponse`] with 400, 401, 403 or 503. Unlike a build tool, whoever calls this wants to know.

pub(crate) mod routes;
mod status;
mod wire;

pub use wire::{
    ErrorResponse, PoolFigures, PurgeRequest, PurgeResponse, ScopeFigures, StatsResponse,
    VerifyLine,
};
