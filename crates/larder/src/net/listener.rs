//! The TCP port: taking connections, whatever happens.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

use super::seats::{SHED_INTERVAL, Seat, Seats};

/// Connections that wait in the kernel until they are taken. An Nx run opens one per task at once.
const BACKLOG: i32 = 4096;
/// When a silent client's machine is first asked whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_mins(1);
/// And how often after that.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);

/// A bound port.
pub(crate) struct Listener {
    socket: TcpListener,
    seats: Arc<Seats>,
}

/// Binds `address`. Requests can come from here on, and wait.
pub(crate) fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Listener {
    /// A listener whose connections each need one of `seats`.
    pub(crate) fn new(bound: std::net::TcpListener, seats: Arc<Seats>) -> io::Result<Self> {
        Ok(Self {
            socket: TcpListener::from_std(bound)?,
            seats,
        })
    }

    /// The next connection. Never fails: what goes wrong is waited out.
    pub(super) async fn next(&self) -> (TcpStream, SocketAddr, Seat) {
        loop {
            let seat = self.seats.take().await;
            match self.socket.accept().await {
                Ok((stream, peer)) => {
                    prepare(&stream);
                    return (stream, peer, seat);
                }
                Err(error) if ended_in_the_queue(&error) => {}
                Err(error) => {
                    // Most likely no file descriptor or no memory is left.
                    if self.seats.complaint_is_due() {
                        tracing::error!(%error, "no connection can be taken; closing idle ones");
                    }
                    self.seats.shed_idle();
                    tokio::time::sleep(SHED_INTERVAL).await;
                }
            }
        }
    }
}

fn prepare(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY);
    // A socket that takes no options is about to fail anyway, and says so when it is read.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// The client went away before its connection was taken.
fn ended_in_the_queue(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
