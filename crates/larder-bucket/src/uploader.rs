//! The task that empties the queue.
//!
//! It uploads whatever is queued as soon as fewer than [`UPLOADS_AT_ONCE`] batches are under way, so that packs grow by
//! themselves when the bucket is slow, and lets only entries that nobody waits for linger for company. What fails waits
//! with everything else, twice as long each time; then one batch tries first.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::event::Event;
use crate::inner::{Inner, is_due};
use crate::queue::Next;
use crate::realm::Trust;

/// Trusted batches under way: enough to use a connection while others are answered.
pub const UPLOADS_AT_ONCE: usize = 4;
/// And untrusted ones; they have places of their own, so that large ones keep no trusted one waiting.
const UNTRUSTED_UPLOADS_AT_ONCE: usize = 2;
const RETRY_AFTER_MIN: Duration = Duration::from_millis(250);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// What is under way when the program ends has this long.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(10);

/// When to try again after failures.
#[derive(Debug, Default)]
struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    fn fail(&mut self) {
        // Of several batches that failed together one counts.
        if self.until.is_some_and(|until| until > Instant::now()) {
            return;
        }
        let most = RETRY_AFTER_MIN * 2_u32.saturating_pow(self.failures.min(16));
        let most = most.min(RETRY_AFTER_MAX);
        self.failures += 1;
        // Nodes that failed together do not come back together.
        let mut random = [0; 4];
        getrandom::fill(&mut random).expect("the system has random numbers");
        let share = f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX);
        self.until = Some(Instant::now() + most.mul_f64(0.5 + share / 2.0));
    }
}

type Batches = JoinSet<(Trust, bool)>;

impl Inner {
    /// Uploads until `shutdown` says so.
    pub(crate) async fn empty_queue(self: &Arc<Self>, mut shutdown: watch::Receiver<bool>) {
        let mut batches = Batches::new();
        let (mut under_way, mut backoff) = ([0; 2], Backoff::default());
        loop {
            self.flush_queue().await;
            let wake = self.start_batches(&mut batches, &mut under_way, &backoff);
            tokio::select! {
                () = self.queue.changed.notified() => {}
                () = sleep_until(wake) => {}
                Some(ended) = batches.join_next() => {
                    match ended {
                        Ok((trust, true)) => {
                            under_way[trust.rank()] -= 1;
                            backoff = Backoff::default();
                        }
                        Ok((trust, false)) => {
                            under_way[trust.rank()] -= 1;
                            backoff.fail();
                        }
                        // A batch that panicked keeps its place; its entries are on disk.
                        Err(_) => backoff.fail(),
                    }
                }
                _ = shutdown.wait_for(|is_ending| *is_ending) => break,
            }
        }
        let _ = timeout(SHUTDOWN_WAIT, async {
            while batches.join_next().await.is_some() {}
        })
        .await;
        self.flush_queue().await;
    }

    /// Starts what is due. Returns when to look again.
    fn start_batches(
        self: &Arc<Self>,
        batches: &mut Batches,
        under_way: &mut [usize; 2],
        backoff: &Backoff,
    ) -> Instant {
        let now = Instant::now();
        let open_until = self.link.open_for().map(|wait| now + wait);
        if let Some(until) = backoff.until.max(open_until).filter(|until| *until > now) {
            return until;
        }
        let mut wake = now + RETRY_AFTER_MAX;
        let limits = match backoff.failures {
            0 => [UPLOADS_AT_ONCE, UNTRUSTED_UPLOADS_AT_ONCE],
            _ => [1, 1],
        };
        for (trust, limit) in Trust::ALL.into_iter().zip(limits) {
            while under_way[trust.rank()] < limit {
                match self.queue.next(trust, self.settings.linger) {
                    Next::Upload(batch) => {
                        under_way[trust.rank()] += 1;
                        let inner = self.clone();
                        batches.spawn(async move { (trust, inner.upload(batch).await) });
                    }
                    Next::Later(at) => {
                        wake = wake.min(at);
                        break;
                    }
                    Next::Nothing => break,
                }
            }
        }
        wake
    }

    async fn flush_queue(self: &Arc<Self>) {
        let inner = self.clone();
        let flushed = tokio::task::spawn_blocking(move || inner.queue.flush()).await;
        if let Ok(Err(error)) = flushed {
            self.tell_disk("keeping the queue", &error);
        }
        if is_due(&mut self.told.lock().queue) {
            let dropped = self.queue.take_dropped();
            if dropped > 0 {
                self.settings.observer.tell(Event::QueueFull { dropped });
            } else {
                self.told.lock().queue = None;
            }
        }
    }
}
