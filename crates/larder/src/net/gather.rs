//! One write for many HTTP/2 frames.
//!
//! The HTTP/2 library writes and flushes every DATA frame by itself, and clients keep frames at 16 KiB, so a large answer
//! costs a system call per 16 KiB, which is more than everything else about it together. Here the frames that one turn of the
//! connection's task produces are copied into one buffer, which goes out when the task comes round again or the buffer is full.
//!
//! Always true:
//! - HTTP/1.1 passes through: its answers are written whole already, and large ones should not be copied.
//! - A turn that writes once is flushed at once: a single small answer waits for nothing.
//! - Whatever is held back, the task has been woken for, and a socket that takes nothing more holds up the writer as ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most bytes that are gathered: sixteen frames. Beyond that a larger write is hardly cheaper.
const GATHERED_BYTES_MAX: usize = 256 << 10;

/// What the buffer keeps of its memory when it is empty: connections are mostly idle.
const KEPT_BYTES_MAX: usize = 16 << 10;

/// A socket that gathers what is written while `gathers` says so.
pub(super) struct GatheringSocket<S, G> {
    socket: S,
    gathers: G,
    buffer: Vec<u8>,
    /// How much of the buffer has been written.
    written: usize,
    /// Writes since the task last came to read.
    writes: usize,
    /// What was written out may still be in a buffer of the socket's own, as TLS has one.
    unflushed: bool,
}

impl<S, G> GatheringSocket<S, G> {
    /// Gathers what is written to `socket` while `gathers` is true.
    pub(super) fn new(socket: S, gathers: G) -> Self {
        Self {
            socket,
            gathers,
            buffer: Vec::new(),
            written: 0,
            writes: 0,
            unflushed: false,
        }
    }
}

impl<S: AsyncWrite + Unpin, G: Fn() -> bool + Unpin> GatheringSocket<S, G> {
    /// Writes what has been gathered.
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.buffer.len() {
            let rest = &self.buffer[self.written..];
            let count = ready!(Pin::new(&mut self.socket).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        self.written = 0;
        self.buffer.clear();
        if self.buffer.capacity() > KEPT_BYTES_MAX {
            self.buffer = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what has been gathered, and makes the socket send it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unflushed = true;
        ready!(self.poll_write_out(cx))?;
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Makes room in the buffer. Pending: it is full, and the socket takes nothing.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.len() >= GATHERED_BYTES_MAX {
            ready!(self.poll_write_out(cx))?;
        }
        Poll::Ready(Ok(GATHERED_BYTES_MAX - self.buffer.len()))
    }

    fn is_gathering(&self) -> bool {
        !self.buffer.is_empty() || (self.gathers)()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, G: Fn() -> bool + Unpin> AsyncRead
    for GatheringSocket<S, G>
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.writes = 0;
        if !self.buffer.is_empty() || self.unflushed {
            // If the socket takes nothing it will wake the task; reading goes on meanwhile.
            if let Poll::Ready(sent) = self.poll_send(cx) {
                sent?;
            }
        }
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin, G: Fn() -> bool + Unpin> AsyncWrite for GatheringSocket<S, G> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if !self.is_gathering() {
            return Pin::new(&mut self.socket).poll_write(cx, bytes);
        }
        let room = ready!(self.poll_room(cx))?;
        self.writes += 1;
        let count = bytes.len().min(room);
        self.buffer.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.is_gathering() {
            return Pin::new(&mut self.socket).poll_write_vectored(cx, slices);
        }
        let room = ready!(self.poll_room(cx))?;
        self.writes += 1;
        let before = self.buffer.len();
        for slice in slices {
            let left = room - (self.buffer.len() - before);
            self.buffer
                .extend_from_slice(&slice[..slice.len().min(left)]);
        }
        Poll::Ready(Ok(self.buffer.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.writes > 1 && self.buffer.len() < GATHERED_BYTES_MAX {
            // There may be more to come in this turn. The next one begins with a read, which writes this out.
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_out(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes up to `takes` bytes at a time and nothing when that is none; never has anything to read.
    struct Sink {
        takes: usize,
        calls: Vec<usize>,
        /// It has a buffer of its own that is stuck.
        is_stuck: bool,
        flushes: usize,
    }

    impl AsyncRead for Sink {
        fn poll_read(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            _buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Sink {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.takes == 0 {
                return Poll::Pending;
            }
            let count = bytes.len().min(self.takes);
            self.calls.push(count);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            if self.is_stuck {
                return Poll::Pending;
            }
            self.flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    type Socket = GatheringSocket<Sink, fn() -> bool>;

    fn socket(takes: usize, gathers: fn() -> bool) -> Socket {
        let sink = Sink {
            takes,
            calls: Vec::new(),
            is_stuck: false,
            flushes: 0,
        };
        GatheringSocket::new(sink, gathers)
    }

    /// Writes frames of these sizes as the HTTP/2 library does, each with its flush.
    fn write(socket: &mut Socket, frames: &[usize]) -> Poll<()> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for frame in frames {
            let bytes = vec![0; *frame];
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let slices = [io::IoSlice::new(&rest[..1]), io::IoSlice::new(&rest[1..])];
                let count = ready!(Pin::new(&mut *socket).poll_write_vectored(&mut cx, &slices));
                rest = &rest[count.expect("it cannot fail")..];
            }
            ready!(Pin::new(&mut *socket).poll_flush(&mut cx)).expect("it cannot fail");
        }
        Poll::Ready(())
    }

    fn turn(socket: &mut Socket) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut nothing = [0; 8];
        let read = Pin::new(socket).poll_read(&mut cx, &mut ReadBuf::new(&mut nothing));
        assert!(read.is_pending());
    }

    #[test]
    fn a_single_frame_of_a_turn_goes_out_at_once() {
        let mut socket = socket(usize::MAX, || true);
        for _ in 0..3 {
            assert!(write(&mut socket, &[100]).is_ready());
            turn(&mut socket);
        }
        assert_eq!(socket.socket.calls, [100, 100, 100]);
    }

    #[test]
    fn further_frames_of_a_turn_go_out_as_one_when_the_next_begins() {
        let mut socket = socket(usize::MAX, || true);
        assert!(write(&mut socket, &[10, 20, 30, 40]).is_ready());
        assert_eq!(socket.socket.calls, [10]);
        turn(&mut socket);
        assert_eq!(socket.socket.calls, [10, 90]);
    }

    #[test]
    fn no_more_is_held_back_than_the_limit() {
        let mut socket = socket(usize::MAX, || true);
        assert!(write(&mut socket, &[GATHERED_BYTES_MAX; 3]).is_ready());
        turn(&mut socket);
        assert_eq!(socket.socket.calls, [GATHERED_BYTES_MAX; 3]);
        assert_eq!(socket.buffer.capacity(), 0, "and none of it is kept");
    }

    #[test]
    fn a_socket_that_takes_nothing_holds_up_the_writer_and_loses_nothing() {
        let mut socket = socket(0, || true);
        assert!(write(&mut socket, &[GATHERED_BYTES_MAX]).is_pending());
        assert!(write(&mut socket, &[1]).is_pending());
        socket.socket.takes = 100_000;
        turn(&mut socket);
        assert_eq!(
            socket.socket.calls.iter().sum::<usize>(),
            GATHERED_BYTES_MAX
        );
    }

    #[test]
    fn what_the_socket_keeps_in_a_buffer_of_its_own_is_flushed_until_it_is_gone() {
        let mut socket = socket(usize::MAX, || true);
        assert!(write(&mut socket, &[10, 20, 30]).is_ready());
        socket.socket.is_stuck = true;
        socket.socket.flushes = 0;
        turn(&mut socket);
        assert_eq!(socket.socket.calls, [10, 50]);
        socket.socket.is_stuck = false;
        turn(&mut socket);
        assert_eq!(socket.socket.flushes, 1, "nobody else asks for it");
        turn(&mut socket);
        assert_eq!(socket.socket.flushes, 1);
    }

    #[test]
    fn what_is_held_back_goes_out_before_the_connection_ends() {
        let mut socket = socket(usize::MAX, || true);
        assert!(write(&mut socket, &[10, 20, 30]).is_ready());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(Pin::new(&mut socket).poll_shutdown(&mut cx).is_ready());
        assert_eq!(socket.socket.calls, [10, 50]);
    }

    #[test]
    fn what_is_not_gathered_passes_through() {
        let mut socket = socket(usize::MAX, || false);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for _ in 0..3 {
            let written = Pin::new(&mut socket).poll_write(&mut cx, &[0; 50]);
            assert!(written.is_ready());
        }
        assert_eq!(socket.socket.calls, [50, 50, 50]);
    }
}
