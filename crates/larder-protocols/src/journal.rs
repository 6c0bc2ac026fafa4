//! What happens, on its way into the ledger's audit.
//!
//! Whoever serves a request records an event and goes on: that costs a moment under a mutex and never waits for the ledger. About
//! once a second [`Journal::follow`] writes what has come together. Whatever changes what is kept or who may do what is written
//! with [`Journal::write_now`] before it takes effect.
//!
//! - An assertion (an entry of Nx, the result of an action) that was stored has a row of its own. Of what is stored in an untrusted
//!   scope above its allowance the rest is summed, so that nobody can push the past out of the audit by storing much.
//! - Blobs prove what they are. They are summed by writer, scope and address; so are refused writes and bad credentials, by reason.
//!
//! Always true:
//! - Memory is bounded, whether the ledger can be written or not. What finds no room is counted, and the count gets a row.
//! - No row holds a secret or a control character, and none is longer than the limits of this file make it.
//! - What was recorded since the last flush is lost when the process is killed; entries remember their writers by themselves.

mod allowance;
mod event;
mod notes;
mod pending;
mod rows;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder_ledger::{Ledger, LedgerError, NewAuditRow};
use tokio::sync::Mutex;
use tokio::time::MissedTickBehavior;

pub use event::{Act, ActName, Actor, Event, Refused, Rewritten, Written};
use pending::Pending;
pub(crate) use rows::DETAILS_BYTES_MAX;
use rows::Rows;

/// How often what was recorded is written: what a kill may cost, and one sync of the disk.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// How many rows are written in one transaction. A token that is created meanwhile waits for no more than that.
const TRANSACTION_ROWS_MAX: usize = 5000;

/// What happened and is not in the ledger yet.
pub struct Journal {
    now_ms: fn() -> u64,
    pending: Pending,
    /// What has been turned into rows; whoever writes holds it.
    rows: Mutex<Rows>,
    lost: AtomicU64,
}

impl Journal {
    /// An empty journal. `now_ms` tells the unix time in milliseconds.
    pub fn new(now_ms: fn() -> u64) -> Self {
        Self {
            now_ms,
            pending: Pending::default(),
            rows: Mutex::default(),
            lost: AtomicU64::new(0),
        }
    }

    /// Takes down an event. Never waits for anything but the moment in which another is taken down.
    pub fn record(&self, event: impl Into<Event>) {
        self.pending.push(event.into());
    }

    /// Counts a result that took the place of one with other outputs.
    pub fn note_rewritten(&self, rewritten: Rewritten) {
        self.pending.push_rewritten(rewritten);
    }

    /// Writes an event into the ledger, and returns once it is on disk: before what it tells of takes effect.
    pub async fn write_now(
        &self,
        ledger: &Ledger,
        event: impl Into<Event>,
    ) -> Result<(), LedgerError> {
        ledger.append_audit(&[rows::of_event(event.into())]).await
    }

    /// How many events have no row, because there was no room for them while the ledger could not be written.
    pub fn lost_rows(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Writes what was recorded about once a second, for as long as this future lives.
    pub async fn follow(self: Arc<Self>, ledger: Ledger) {
        let mut ticks = tokio::time::interval(FLUSH_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut in_trouble = false;
        loop {
            ticks.tick().await;
            match self.flush(&ledger).await {
                Err(error) if !in_trouble => {
                    in_trouble = true;
                    tracing::error!(%error, "the audit cannot be written; serving goes on, and what happens is kept as far as there is room");
                }
                Ok(()) if in_trouble => {
                    in_trouble = false;
                    tracing::info!("the audit is written again");
                }
                Err(_) | Ok(()) => {}
            }
        }
    }

    /// Writes everything that was recorded up to now. What cannot be written stays for the next time.
    pub async fn flush(&self, ledger: &Ledger) -> Result<(), LedgerError> {
        let mut rows = self.rows.lock().await;
        if let Err(error) = ledger.note_rewrites(&self.pending.take_rewritten()).await {
            tracing::warn!(%error, "results that were rewritten are not counted");
        }
        let taken = self.pending.take(rows.room());
        rows.add(taken, (self.now_ms)());
        self.lost.store(rows.lost(), Ordering::Relaxed);
        let mut count_max = TRANSACTION_ROWS_MAX;
        loop {
            let portion = rows.portion(count_max);
            let count = portion.len();
            if count == 0 {
                return Ok(());
            }
            match ledger.append_audit(portion).await {
                Ok(()) => {
                    rows.written(count);
                    count_max = (2 * count_max).min(TRANSACTION_ROWS_MAX);
                }
                Err(error @ LedgerError::Invalid { .. }) if count == 1 => {
                    // A row that the ledger does not accept never will be.
                    tracing::error!(%error, "the ledger refuses a row of the audit; it is lost");
                    rows.refused();
                    self.lost.store(rows.lost(), Ordering::Relaxed);
                }
                Err(LedgerError::Invalid { .. }) => count_max = count / 2,
                Err(error) => return Err(error),
            }
        }
    }
}

/// A row as the ledger takes it; for those who show events elsewhere.
impl From<Event> for NewAuditRow {
    fn from(event: Event) -> Self {
        rows::of_event(event)
    }
}

#[cfg(test)]
mod tests;
