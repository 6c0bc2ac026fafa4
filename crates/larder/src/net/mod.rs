//! Connections: listening, TLS, how many there may be, how slow each may be, and how they end.
//! Nothing here knows what a request means.

mod connection;
mod gather;
mod handshake;
mod listener;
mod open_files;
mod pace;
mod seats;
mod seldom;
mod tls;

pub(crate) use connection::{Door, Request, serve};
pub(crate) use listener::{Listener, bind};
pub(crate) use open_files::raise_limit;
pub(crate) use pace::PaceLimits;
pub(crate) use seats::Seats;
pub(crate) use tls::Tls;
