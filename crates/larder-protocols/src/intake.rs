//! Reading the body of a request from a client that may be slow, or gone.
//!
//! There is no limit on how long an upload may take, only on how long it may stand still: a
//! client that sends nothing for [`BodyLimits::idle`], or that has been waited for longer than
//! [`BodyLimits::grace`] and sends less than [`BodyLimits::bytes_per_second_min`] on average, is
//! given up. Only the time spent waiting for the client counts, not the time spent on its bytes.
//!
//! A body that is refused is read too, because clients take an early answer for a broken connection,
//! but with little patience: whoever may store nothing must not hold a connection for long either.
//! With as little who has been given memory that others wait for ([`Intake::hurry`]).

mod memory;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::EXPECT;
use http_body::Body;
use tokio::time::{Instant, timeout};

pub(crate) use memory::{Room, SMALL_BYTES_MAX, WholeBodies};

/// How patient a server is with the bodies of requests.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// The longest a client may send nothing.
    pub idle: Duration,
    /// How long a client is waited for before its average speed counts.
    pub grace: Duration,
    /// The least average speed, over the time the client was waited for.
    pub bytes_per_second_min: u64,
    /// How much of a refused body is read before the answer. Clients take an answer for a broken
    /// connection while they are still sending, so this is more than any of them can send.
    pub drain_bytes_max: u64,
    /// The longest a client may send nothing of a refused body, or of one that memory is kept for.
    pub drain_idle: Duration,
    /// How long a client is waited for before the average speed of such a body counts.
    pub drain_grace: Duration,
    /// The least average speed of such a body. A client that is slower is answered at once, and
    /// may take it for a broken connection.
    pub drain_bytes_per_second_min: u64,
    /// The longest the client of a refused body is waited for in all.
    pub drain_wait_max: Duration,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self {
            idle: Duration::from_mins(1),
            grace: Duration::from_mins(1),
            bytes_per_second_min: 1 << 10,
            drain_bytes_max: 64 << 30,
            drain_idle: Duration::from_secs(10),
            drain_grace: Duration::from_secs(10),
            drain_bytes_per_second_min: 64 << 10,
            drain_wait_max: Duration::from_hours(1),
        }
    }
}

/// Why a body ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupted {
    /// The connection broke, or the bytes are no body.
    Broken,
    /// The client stands still or is too slow.
    Stalled,
}

/// The body of one request.
pub(crate) struct Intake<'a, B> {
    body: &'a mut B,
    limits: BodyLimits,
    received: u64,
    /// What had been received when the time of `waited` began.
    received_before: u64,
    waited: Duration,
    /// The client waits for a go-ahead, which hyper sends at the first read.
    awaits_go_ahead: bool,
    /// The body's end, or its untimely end, has been seen.
    over: bool,
}

impl<'a, B: Body<Data = Bytes> + Unpin> Intake<'a, B> {
    pub(crate) fn new(body: &'a mut B, headers: &HeaderMap, limits: BodyLimits) -> Self {
        let awaits_go_ahead = headers.contains_key(EXPECT);
        let waited = Duration::ZERO;
        Self {
            body,
            limits,
            received: 0,
            received_before: 0,
            waited,
            awaits_go_ahead,
            over: false,
        }
    }

    /// How many bytes will come, if the client said so.
    pub(crate) fn declared(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next bytes; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Interrupted> {
        self.awaits_go_ahead = false;
        let next = if self.over {
            Ok(None)
        } else {
            self.data().await
        };
        self.over |= !matches!(next, Ok(Some(_)));
        next
    }

    /// [`Intake::next`] if there is nothing to wait for.
    pub(crate) async fn next_at_hand(&mut self) -> Option<Result<Option<Bytes>, Interrupted>> {
        let mut next = std::pin::pin!(self.next());
        poll_fn(|context| match next.as_mut().poll(context) {
            Poll::Ready(next) => Poll::Ready(Some(next)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }

    /// Reads and drops what has arrived of a body that nobody needs, and waits for none of it.
    pub(crate) async fn drain_at_hand(&mut self) {
        let end = self.received.saturating_add(AT_HAND_BYTES_MAX);
        while self.received < end && matches!(self.next_at_hand().await, Some(Ok(Some(_)))) {}
    }

    /// From now on the client must be as fast as one whose body is refused: others wait for what it occupies.
    pub(crate) fn hurry(&mut self) {
        let limits = &mut self.limits;
        limits.idle = limits.drain_idle.min(limits.idle);
        limits.grace = limits.drain_grace.min(limits.grace);
        limits.bytes_per_second_min = limits.drain_bytes_per_second_min;
        (self.received_before, self.waited) = (self.received, Duration::ZERO);
    }

    /// Reads and drops the rest of a refused body, within limits. A client that still waits for a
    /// go-ahead sends nothing, so nothing is read.
    pub(crate) async fn drain(&mut self) {
        if self.awaits_go_ahead {
            return;
        }
        self.hurry();
        let (bytes_max, wait_max) = (self.limits.drain_bytes_max, self.limits.drain_wait_max);
        let end = self.received.saturating_add(bytes_max);
        while self.received < end
            && self.waited < wait_max
            && matches!(self.next().await, Ok(Some(_)))
        {}
    }

    async fn data(&mut self) -> Result<Option<Bytes>, Interrupted> {
        loop {
            let Some(frame) = self.frame().await? else {
                return Ok(None);
            };
            let frame = frame.map_err(|_| Interrupted::Broken)?;
            let bytes = frame.into_data().unwrap_or_default();
            self.received += bytes.len() as u64;
            if self.trickles() {
                return Err(Interrupted::Stalled);
            }
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
    }

    fn trickles(&self) -> bool {
        let least = self.waited.as_secs_f64() * self.limits.bytes_per_second_min as f64;
        self.waited > self.limits.grace && ((self.received - self.received_before) as f64) < least
    }

    async fn frame(&mut self) -> Result<Option<Frame<B>>, Interrupted> {
        let mut body = Pin::new(&mut *self.body);
        let mut frame = poll_fn(|context| body.as_mut().poll_frame(context));
        // Bytes that are already here cost no timer.
        let ready = poll_fn(|context| match Pin::new(&mut frame).poll(context) {
            Poll::Ready(frame) => Poll::Ready(Some(frame)),
            Poll::Pending => Poll::Ready(None),
        });
        if let Some(frame) = ready.await {
            return Ok(frame);
        }
        let started = Instant::now();
        let frame = timeout(self.limits.idle, frame)
            .await
            .map_err(|_| Interrupted::Stalled)?;
        self.waited += started.elapsed();
        Ok(frame)
    }
}

/// The most bytes of a body that are dropped as being at hand: more than a connection buffers of one.
const AT_HAND_BYTES_MAX: u64 = 8 << 20;

type Frame<B> = Result<http_body::Frame<Bytes>, <B as Body>::Error>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Context;
    use tokio::time::{Sleep, sleep};

    /// A body that sends `piece` every `pause`, for ever.
    struct Drip {
        piece: Bytes,
        pause: Duration,
        next: Pin<Box<Sleep>>,
    }

    impl Drip {
        fn new(piece_bytes: usize, pause: Duration) -> Self {
            let piece = Bytes::from(vec![0; piece_bytes]);
            Self {
                piece,
                pause,
                next: Box::pin(sleep(pause)),
            }
        }
    }

    impl Body for Drip {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
            std::task::ready!(self.next.as_mut().poll(context));
            self.next = Box::pin(sleep(self.pause));
            Poll::Ready(Some(Ok(http_body::Frame::data(self.piece.clone()))))
        }
    }

    /// Reads `seconds` long; whether the client was given up, and when.
    async fn given_up_after(mut body: Drip, seconds: u64) -> Option<Duration> {
        let headers = HeaderMap::new();
        let mut intake = Intake::new(&mut body, &headers, BodyLimits::default());
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(seconds) {
            if intake.next().await == Err(Interrupted::Stalled) {
                return Some(started.elapsed());
            }
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_upload_that_makes_progress_is_never_given_up() {
        let slow = Drip::new(60_000, Duration::from_secs(50));
        assert_eq!(given_up_after(slow, 24 * 3600).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_trickles_is_given_up_after_its_grace() {
        let trickle = Drip::new(1, Duration::from_secs(10));
        assert_eq!(
            given_up_after(trickle, 3600).await,
            Some(Duration::from_secs(70))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_stands_still_is_given_up_in_time() {
        let still = Drip::new(1 << 20, Duration::from_hours(1));
        assert_eq!(
            given_up_after(still, 3600).await,
            Some(Duration::from_mins(1))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_upload_is_drained_up_to_a_limit() {
        let mut endless = Drip::new(1000, Duration::from_millis(1));
        let headers = HeaderMap::new();
        let limits = BodyLimits {
            drain_bytes_max: 5000,
            ..BodyLimits::default()
        };
        let mut intake = Intake::new(&mut endless, &headers, limits);
        intake.drain().await;
        assert_eq!(intake.received, 5000);
    }

    /// How long the rest of a refused body is waited for, and how much of it is read.
    async fn drained(mut body: Drip) -> (Duration, u64) {
        let headers = HeaderMap::new();
        let mut intake = Intake::new(&mut body, &headers, BodyLimits::default());
        let started = Instant::now();
        intake.drain().await;
        (started.elapsed(), intake.received)
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_upload_gets_little_patience_and_one_of_normal_speed_an_hour() {
        let (second, hour) = (Duration::from_secs(1), Duration::from_hours(1));
        let still = Drip::new(1 << 20, hour);
        assert_eq!(drained(still).await, (10 * second, 0));
        let trickle = Drip::new(60_000, second);
        assert_eq!(drained(trickle).await, (11 * second, 11 * 60_000));
        let normal = Drip::new(1 << 20, second);
        assert_eq!(drained(normal).await, (hour, 3600 << 20));
    }
}
