//! How many connections there may be, and what happens when that is not enough.
//!
//! Shedding load is not an option: a refused connection fails an Nx run. So a connection that
//! finds no seat waits in the kernel's queue, and idle connections are asked to go: an eighth of
//! them at a time, because a client whose idle connection goes away at the wrong moment fails as
//! well.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How many parts idle connections are divided into when some have to go.
const SHED_PARTS: u64 = 8;
/// How long to wait for a seat before more idle connections are asked to go.
pub(super) const SHED_INTERVAL: Duration = Duration::from_millis(100);

/// How often the log hears of a lasting lack of seats.
const COMPLAINT_INTERVAL: Duration = Duration::from_mins(1);

/// What every connection listens to.
#[derive(Debug, Clone, Copy, Default)]
struct Notice {
    draining: bool,
    shed_round: u64,
}

/// The seats for connections.
#[derive(Debug)]
pub(crate) struct Seats {
    free: Arc<Semaphore>,
    /// Of connections, and one for each port's next.
    count_max: usize,
    ready_count: usize,
    accepted: AtomicU64,
    notice: watch::Sender<Notice>,
    complained: Mutex<Option<Instant>>,
}

/// A connection's seat and its number. Dropping it frees the seat.
pub(super) struct Seat {
    _permit: OwnedSemaphorePermit,
    number: u64,
    shed_round: u64,
    notice: watch::Receiver<Notice>,
}

impl Seats {
    /// Seats for `count_max` connections at a time from `ports` ports. Each port keeps one ready for its next connection.
    pub(crate) fn new(count_max: usize, ports: usize) -> Self {
        // With one port the last connection has the seat that is kept ready; the others' are further ones, so that no port
        // waits for another's.
        let further = ports.saturating_sub(1);
        let count_max = count_max
            .saturating_add(further)
            .min(Semaphore::MAX_PERMITS);
        Self {
            free: Arc::new(Semaphore::new(count_max)),
            count_max,
            ready_count: ports,
            accepted: AtomicU64::new(0),
            notice: watch::Sender::default(),
            complained: Mutex::new(None),
        }
    }

    /// Connections that are open now.
    pub(crate) fn open_count(&self) -> usize {
        let taken = self.count_max - self.free.available_permits();
        taken.saturating_sub(self.ready_count)
    }

    /// Connections since the start.
    pub(crate) fn accepted_count(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// A seat, as soon as there is one. Idle connections are asked to go meanwhile.
    pub(super) async fn take(&self) -> Seat {
        let permit = loop {
            let next = Arc::clone(&self.free).acquire_owned();
            match tokio::time::timeout(SHED_INTERVAL, next).await {
                Ok(permit) => break permit.expect("the semaphore is never closed"),
                Err(_) => self.shed_idle(),
            }
            if self.complaint_is_due() {
                tracing::warn!(
                    connections = self.count_max,
                    "every connection is taken; closing idle ones"
                );
            }
        };
        Seat {
            _permit: permit,
            number: self.accepted.fetch_add(1, Ordering::Relaxed),
            shed_round: self.notice.borrow().shed_round,
            notice: self.notice.subscribe(),
        }
    }

    /// Whether the log should hear that there is no seat: it lasts, and is said now and then.
    pub(super) fn complaint_is_due(&self) -> bool {
        let mut complained = self
            .complained
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let due = complained.is_none_or(|then| then.elapsed() >= COMPLAINT_INTERVAL);
        if due {
            *complained = Some(Instant::now());
        }
        due
    }

    /// Asks an eighth of the idle connections to go.
    pub(super) fn shed_idle(&self) {
        self.notice.send_modify(|notice| notice.shed_round += 1);
    }

    /// Ends connections as they finish what they do; true when all have ended in time.
    pub(crate) async fn drain(&self, time_max: Duration) -> bool {
        self.notice.send_modify(|notice| notice.draining = true);
        let all = u32::try_from(self.count_max).unwrap_or(u32::MAX);
        tokio::time::timeout(time_max, self.free.acquire_many(all))
            .await
            .is_ok()
    }
}

impl Seat {
    /// Waits for a reason to end the connection when it has nothing to do.
    pub(super) async fn asked_to_go(&mut self) -> Farewell {
        loop {
            let notice = *self.notice.borrow_and_update();
            if notice.draining {
                return Farewell::Draining;
            }
            if notice.shed_round != self.shed_round {
                self.shed_round = notice.shed_round;
                if notice.shed_round % SHED_PARTS == self.number % SHED_PARTS {
                    return Farewell::Shedding;
                }
            }
            // A sender that is gone belongs to a server that is gone.
            if self.notice.changed().await.is_err() {
                return Farewell::Draining;
            }
        }
    }
}

/// Why a connection is asked to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Farewell {
    /// The server stops.
    Draining,
    /// Others need the seat; only an idle connection goes.
    Shedding,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newcomer_waits_for_a_place_and_idle_ones_are_asked_to_go() {
        let seats = Arc::new(Seats::new(2, 1));
        let mut first = seats.take().await;
        let second = seats.take().await;
        assert_eq!(seats.open_count(), 1, "one of them is kept ready");
        let newcomer = tokio::spawn({
            let seats = Arc::clone(&seats);
            async move { seats.take().await.number }
        });
        assert_eq!(first.asked_to_go().await, Farewell::Shedding);
        assert!(!newcomer.is_finished());
        drop(second);
        assert_eq!(newcomer.await.unwrap(), 2);
    }

    #[tokio::test]
    async fn each_port_has_a_seat_of_its_own_to_wait_with() {
        let seats = Seats::new(1, 2);
        let both = async { (seats.take().await, seats.take().await) };
        let waiting = tokio::time::timeout(Duration::from_secs(5), both).await;
        assert_eq!(seats.open_count(), 0);
        assert!(waiting.is_ok());
    }

    #[tokio::test]
    async fn draining_ends_when_the_last_connection_does_or_the_time_is_over() {
        let seats = Arc::new(Seats::new(4, 1));
        let mut seat = seats.take().await;
        assert!(!seats.drain(Duration::from_millis(10)).await);
        assert_eq!(seat.asked_to_go().await, Farewell::Draining);
        drop(seat);
        assert!(seats.drain(Duration::from_secs(1)).await);
    }
}
