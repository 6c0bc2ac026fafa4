//! From a connection of the TLS port to bytes in the clear, or to nothing.
//!
//! It runs in the connection's own task and seat, so a client that stalls holds up nobody, and it must be done within the
//! time that a request's head may take.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::connection::SHED_IDLE_MIN;
use super::pace::{Pace, PaceLimits, PacedWrites};
use super::seats::{Farewell, Seat};
use super::tls::Tls;

/// What is read after a request in the clear, so that its sender gets to see the answer: to close a socket with bytes unread
/// takes the answer back.
const UNREAD_BYTES_MAX: u64 = 256 << 10;

const PLAIN_ANSWER: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
Content-Length: 21\r\nConnection: close\r\n\r\nthis port speaks TLS\n";

/// A connection in the clear.
pub(super) type TlsSocket = TlsStream<PacedWrites<TcpStream>>;

/// What a connection turned out to be.
enum Greeting {
    Encrypted(Box<TlsSocket>),
    /// It was closed: before it said anything, or to make room for others.
    Gone,
    /// HTTP without TLS; it has been told.
    Plain,
}

/// Shakes hands with the client of `socket`. `None`: the connection is over, and everything about it has been said.
pub(super) async fn greet(
    socket: TcpStream,
    tls: &Tls,
    pace: &Arc<Pace>,
    limits: &PaceLimits,
    seat: &mut Seat,
) -> Option<Box<TlsSocket>> {
    let failed = match timeout(limits.header_timeout, meet(socket, tls, pace, seat)).await {
        Ok(Ok(Greeting::Encrypted(socket))) => return Some(socket),
        Ok(Ok(Greeting::Gone)) => return None,
        Ok(Ok(Greeting::Plain)) => "the client speaks HTTP without TLS".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it took too long".to_owned(),
    };
    tls.count_failure();
    tracing::debug!(error = failed, "a TLS handshake came to nothing");
    None
}

async fn meet(
    mut socket: TcpStream,
    tls: &Tls,
    pace: &Arc<Pace>,
    seat: &mut Seat,
) -> io::Result<Greeting> {
    let first = tokio::select! {
        first = first_byte(&socket) => first?,
        () = asked_to_go(seat, pace) => None,
    };
    let Some(first) = first else {
        return Ok(Greeting::Gone);
    };
    // Methods of HTTP are letters, and so is no type of a record.
    if first.is_ascii_alphabetic() {
        refuse_plain(&mut socket).await?;
        return Ok(Greeting::Plain);
    }
    let socket = PacedWrites {
        socket,
        pace: Arc::clone(pace),
    };
    tokio::select! {
        biased;
        socket = tls.acceptor().accept(socket) => Ok(Greeting::Encrypted(Box::new(socket?))),
        // Whoever takes long over it is as idle as who says nothing: one byte must not buy a seat for longer.
        () = asked_to_go(seat, pace) => Ok(Greeting::Gone),
    }
}

/// `None` if the client closes instead.
async fn first_byte(socket: &TcpStream) -> io::Result<Option<u8>> {
    let mut byte = [0];
    let count = socket.peek(&mut byte).await?;
    Ok((count > 0).then_some(byte[0]))
}

/// A client that has not asked anything is idle, whatever it waits for.
async fn asked_to_go(seat: &mut Seat, pace: &Pace) {
    let spared = |idle| idle < SHED_IDLE_MIN;
    while seat.asked_to_go().await == Farewell::Shedding && pace.idle().is_none_or(spared) {}
}

async fn refuse_plain(socket: &mut TcpStream) -> io::Result<()> {
    socket.write_all(PLAIN_ANSWER).await?;
    socket.shutdown().await?;
    let mut rest = socket.take(UNREAD_BYTES_MAX);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await?;
    Ok(())
}
