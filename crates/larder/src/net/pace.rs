//! How slow a connection may be, and the sockets that measure it.
//!
//! A connection is never judged by its total time, so a large transfer over a slow line is fine.
//! It is judged by what it does not do: finish a request's head, take any byte of an answer, or
//! ask for anything.
//!
//! hyper has a timeout for heads, but it also counts the idle time before a head, so it closes
//! idle connections, and a client that writes to one at that moment may fail its build. Hence this.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What HTTP/2 begins with, as far as it takes to tell it from HTTP/1.
const HTTP2_START: &[u8] = b"PRI ";

/// What TLS begins with (RFC 8446, section 5.1: a record of the type `handshake`), and HTTP never does.
const TLS_START: u8 = 22;

/// A head and its small body cost less to copy together than to write as two pieces; large pieces
/// are never copied.
const GATHERED_BYTES_MAX: usize = 16 << 10;

/// No such moment.
const NEVER: u64 = 0;

/// How slow a connection may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PaceLimits {
    /// From a head's first byte to its last.
    pub(crate) header_timeout: Duration,
    /// The bytes of a head.
    pub(crate) header_bytes_max: usize,
    /// Between requests.
    pub(crate) idle_timeout: Duration,
    /// While bytes wait to be taken.
    pub(crate) stall_timeout: Duration,
}

/// Why a connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// A head took too long.
    SlowHead,
    /// The client takes nothing of an answer.
    Stalled,
    /// Nobody asked anything for too long.
    Idle,
}

/// What one connection is doing. Shared by its socket, its requests and its watch.
#[derive(Debug)]
pub(super) struct Pace {
    began: Instant,
    http2: AtomicBool,
    requests: AtomicU32,
    /// Since when there is no request.
    quiet_since_ms: AtomicU64,
    /// When the first byte of the next head came.
    head_since_ms: AtomicU64,
    head_bytes: AtomicU64,
    /// Since when the socket takes no bytes.
    blocked_since_ms: AtomicU64,
    /// HTTP/2 only: answers that have begun. Who still sends a body is timed where it is read.
    answers: AtomicU32,
    /// HTTP/2 only, where a client can stop taking an answer while its socket still moves, as pings
    /// do: when an answer began or a part of one was taken.
    moved_at_ms: AtomicU64,
    /// Time that only seems to have passed.
    #[cfg(test)]
    skipped_ms: AtomicU64,
}

impl Pace {
    pub(super) fn new() -> Arc<Self> {
        let pace = Self {
            began: Instant::now(),
            http2: AtomicBool::new(false),
            requests: AtomicU32::new(0),
            quiet_since_ms: AtomicU64::new(NEVER),
            head_since_ms: AtomicU64::new(NEVER),
            head_bytes: AtomicU64::new(0),
            blocked_since_ms: AtomicU64::new(NEVER),
            answers: AtomicU32::new(0),
            moved_at_ms: AtomicU64::new(NEVER),
            #[cfg(test)]
            skipped_ms: AtomicU64::new(0),
        };
        pace.quiet_since_ms.store(pace.now_ms(), Ordering::Relaxed);
        Arc::new(pace)
    }

    /// Milliseconds since the connection began, counted from 1 so that none is [`NEVER`].
    fn now_ms(&self) -> u64 {
        let ms = 1 + u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        #[cfg(test)]
        let ms = ms + self.skipped_ms.load(Ordering::Relaxed);
        ms
    }

    /// Whether the connection has turned out to be HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        self.http2.load(Ordering::Relaxed)
    }

    /// A request begins; it ends when the answer is dropped.
    pub(super) fn request(self: &Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.head_since_ms.store(NEVER, Ordering::Relaxed);
        InFlight {
            pace: Arc::clone(self),
            answering: false,
        }
    }

    /// For how long nobody has asked anything; `None` while a request is answered or arrives.
    pub(super) fn idle(&self) -> Option<Duration> {
        let http1 = !self.http2.load(Ordering::Relaxed);
        let head = http1 && self.head_since_ms.load(Ordering::Relaxed) != NEVER;
        let busy = self.requests.load(Ordering::Relaxed) > 0;
        (!busy && !head).then(|| self.since(&self.quiet_since_ms).unwrap_or_default())
    }

    /// Whether the connection is too slow by now.
    pub(super) fn verdict(&self, limits: &PaceLimits) -> Option<Ending> {
        let over = |moment: &AtomicU64, limit| self.since(moment).is_some_and(|past| past >= limit);
        let http2 = self.http2.load(Ordering::Relaxed);
        if over(&self.blocked_since_ms, limits.stall_timeout) {
            return Some(Ending::Stalled);
        }
        if self.requests.load(Ordering::Relaxed) > 0 {
            let answering = http2 && self.answers.load(Ordering::Relaxed) > 0;
            let still = answering && over(&self.moved_at_ms, limits.stall_timeout);
            return still.then_some(Ending::Stalled);
        }
        if !http2 && over(&self.head_since_ms, limits.header_timeout) {
            return Some(Ending::SlowHead);
        }
        over(&self.quiet_since_ms, limits.idle_timeout).then_some(Ending::Idle)
    }

    fn since(&self, moment: &AtomicU64) -> Option<Duration> {
        match moment.load(Ordering::Relaxed) {
            NEVER => None,
            then => Some(Duration::from_millis(self.now_ms().saturating_sub(then))),
        }
    }

    /// Bytes came. Only those of a head are looked at.
    fn read(&self, bytes: &[u8], limits: &PaceLimits) -> io::Result<()> {
        if self.http2.load(Ordering::Relaxed)
            || bytes.is_empty()
            || self.requests.load(Ordering::Relaxed) > 0
        {
            return Ok(());
        }
        if self.head_since_ms.load(Ordering::Relaxed) == NEVER {
            if bytes.starts_with(HTTP2_START) {
                self.http2.store(true, Ordering::Relaxed);
                return Ok(());
            }
            if bytes[0] == TLS_START {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the client speaks TLS and this port does not",
                ));
            }
            self.head_since_ms.store(self.now_ms(), Ordering::Relaxed);
            self.head_bytes.store(0, Ordering::Relaxed);
        }
        // What came before these bytes was no whole head, or there would be a request by now.
        let before = self
            .head_bytes
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if before > limits.header_bytes_max as u64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the request's head is too large",
            ));
        }
        Ok(())
    }

    /// The socket took bytes, or would not.
    fn wrote<T>(&self, outcome: &Poll<T>) {
        let blocked = self.blocked_since_ms.load(Ordering::Relaxed) != NEVER;
        match outcome {
            Poll::Pending if !blocked => {
                self.blocked_since_ms
                    .store(self.now_ms(), Ordering::Relaxed);
            }
            Poll::Ready(_) if blocked => self.blocked_since_ms.store(NEVER, Ordering::Relaxed),
            Poll::Pending | Poll::Ready(_) => {}
        }
    }
}

/// A request that has not been answered to its end.
#[derive(Debug)]
pub(super) struct InFlight {
    pace: Arc<Pace>,
    answering: bool,
}

impl InFlight {
    /// The answer begins.
    pub(super) fn answered(&mut self) {
        if self.pace.http2.load(Ordering::Relaxed) {
            self.answering = true;
            self.pace.answers.fetch_add(1, Ordering::Relaxed);
            self.moved();
        }
    }

    /// A part of the answer was taken.
    pub(super) fn moved(&self) {
        if self.pace.http2.load(Ordering::Relaxed) {
            let now_ms = self.pace.now_ms();
            self.pace.moved_at_ms.store(now_ms, Ordering::Relaxed);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let pace = &self.pace;
        pace.quiet_since_ms.store(pace.now_ms(), Ordering::Relaxed);
        if self.answering {
            pace.answers.fetch_sub(1, Ordering::Relaxed);
        }
        pace.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

thread_local! {
    /// Where small writes are gathered.
    static GATHERED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn byte_count(slices: &[io::IoSlice<'_>]) -> usize {
    slices.iter().map(|slice| slice.len()).sum()
}

/// A socket that tells its [`Pace`] what heads come through it.
#[derive(Debug)]
pub(super) struct PacedReads<S> {
    pub(super) socket: S,
    pub(super) pace: Arc<Pace>,
    pub(super) limits: PaceLimits,
}

impl<S: AsyncRead + Unpin> AsyncRead for PacedReads<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
        Poll::Ready(self.pace.read(&buffer.filled()[before..], &self.limits))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PacedReads<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// A socket that tells its [`Pace`] whether it takes bytes. TLS lies above it: what encryption has taken is not on its way.
#[derive(Debug)]
pub(super) struct PacedWrites<S> {
    pub(super) socket: S,
    pub(super) pace: Arc<Pace>,
}

impl<S: AsyncRead + Unpin> AsyncRead for PacedWrites<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PacedWrites<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.socket).poll_write(cx, bytes);
        self.pace.wrote(&outcome);
        outcome
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let socket = Pin::new(&mut self.socket);
        let outcome = match slices {
            [_, _, ..] if byte_count(slices) <= GATHERED_BYTES_MAX => {
                GATHERED.with_borrow_mut(|all| {
                    all.clear();
                    for slice in slices {
                        all.extend_from_slice(slice);
                    }
                    socket.poll_write(cx, all)
                })
            }
            _ => socket.poll_write_vectored(cx, slices),
        };
        self.pace.wrote(&outcome);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PaceLimits = PaceLimits {
        header_timeout: Duration::from_secs(30),
        header_bytes_max: 1000,
        idle_timeout: Duration::from_mins(10),
        stall_timeout: Duration::from_mins(1),
    };

    fn after(pace: &Pace, secs: u64) {
        pace.skipped_ms.fetch_add(secs * 1000, Ordering::Relaxed);
    }

    #[test]
    fn an_idle_connection_is_not_a_slow_head() {
        let pace = Pace::new();
        after(&pace, 599);
        assert_eq!(pace.verdict(&LIMITS), None);
        after(&pace, 1);
        assert_eq!(pace.verdict(&LIMITS), Some(Ending::Idle));
    }

    #[test]
    fn a_head_has_its_time_from_its_first_byte_however_it_dribbles() {
        let pace = Pace::new();
        after(&pace, 500);
        pace.read(b"GET", &LIMITS).unwrap();
        after(&pace, 29);
        pace.read(b" /", &LIMITS).unwrap();
        assert_eq!(pace.verdict(&LIMITS), None);
        after(&pace, 1);
        assert_eq!(pace.verdict(&LIMITS), Some(Ending::SlowHead));
    }

    #[test]
    fn a_request_may_take_as_long_as_it_needs_and_idleness_starts_after_it() {
        let pace = Pace::new();
        pace.read(b"PUT / HTTP/1.1\r\n\r\n", &LIMITS).unwrap();
        let request = pace.request();
        after(&pace, 10_000);
        assert_eq!(pace.verdict(&LIMITS), None);
        assert_eq!(pace.idle(), None);
        drop(request);
        assert_eq!(pace.verdict(&LIMITS), None);
        after(&pace, 5);
        assert!(
            pace.idle()
                .is_some_and(|idle| idle >= Duration::from_secs(5))
        );
    }

    #[test]
    fn a_client_that_takes_nothing_is_dropped_and_one_that_takes_a_little_is_not() {
        let pace = Pace::new();
        let _request = pace.request();
        pace.wrote::<()>(&Poll::Pending);
        after(&pace, 59);
        pace.wrote(&Poll::Ready(1));
        pace.wrote::<()>(&Poll::Pending);
        after(&pace, 59);
        assert_eq!(pace.verdict(&LIMITS), None);
        after(&pace, 1);
        assert_eq!(pace.verdict(&LIMITS), Some(Ending::Stalled));
    }

    #[test]
    fn http2_heads_are_not_judged_but_a_closed_window_is() {
        let pace = Pace::new();
        pace.read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &LIMITS)
            .unwrap();
        pace.read(&[0; 5000], &LIMITS).unwrap();
        after(&pace, 100);
        assert_eq!(pace.verdict(&LIMITS), None);
        let upload = pace.request();
        after(&pace, 600);
        assert_eq!(pace.verdict(&LIMITS), None, "nothing is answered yet");
        let mut request = pace.request();
        request.answered();
        after(&pace, 59);
        request.moved();
        after(&pace, 59);
        assert_eq!(pace.verdict(&LIMITS), None);
        pace.read(b"a ping", &LIMITS).unwrap();
        pace.wrote(&Poll::Ready(17));
        after(&pace, 1);
        assert_eq!(pace.verdict(&LIMITS), Some(Ending::Stalled));
        drop(request);
        assert_eq!(pace.verdict(&LIMITS), None);
        drop(upload);
    }

    #[test]
    fn tls_on_a_plain_port_is_no_head() {
        let refused = Pace::new().read(&[TLS_START, 3, 1, 2, 0], &LIMITS);
        assert!(refused.unwrap_err().to_string().contains("TLS"));
    }

    #[test]
    fn a_head_has_a_largest_size_and_a_body_has_none() {
        let pace = Pace::new();
        assert!(
            pace.read(&[b'a'; 1001], &LIMITS).is_ok(),
            "it may be a head with a body behind it"
        );
        assert!(pace.read(b"a", &LIMITS).is_err());
        let pace = Pace::new();
        pace.read(&[b'a'; 900], &LIMITS).unwrap();
        let _request = pace.request();
        for _ in 0..10 {
            pace.read(&[b'a'; 900], &LIMITS).unwrap();
        }
    }

    /// Takes everything, and remembers in what pieces.
    #[derive(Default)]
    struct Recorder(Vec<Vec<usize>>);

    impl AsyncWrite for Recorder {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.push(vec![bytes.len()]);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
            slices: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.0
                .push(slices.iter().map(|slice| slice.len()).collect());
            Poll::Ready(Ok(byte_count(slices)))
        }

        fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn small_pieces_are_written_as_one_and_large_ones_are_not_copied() {
        let mut socket = PacedWrites {
            socket: Recorder::default(),
            pace: Pace::new(),
        };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let bytes = [1; GATHERED_BYTES_MAX];
        for sizes in [&[100, 4096][..], &[100, GATHERED_BYTES_MAX], &[7]] {
            let slices: Vec<_> = sizes
                .iter()
                .map(|size| io::IoSlice::new(&bytes[..*size]))
                .collect();
            let written = Pin::new(&mut socket).poll_write_vectored(&mut cx, &slices);
            assert!(matches!(written, Poll::Ready(Ok(count)) if count == byte_count(&slices)));
        }
        let expected = [vec![4196], vec![100, GATHERED_BYTES_MAX], vec![7]];
        assert_eq!(socket.socket.0, expected);
    }
}
