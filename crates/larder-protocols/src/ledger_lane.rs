//! Asking the ledger on behalf of clients: not for long, and untrusted ones a few at a time.
//!
//! The ledger takes one write after another, each with a sync of the disk. Pull requests can cause as many as they like, so they
//! queue here, before that, and trunk does not: it waits for as many of theirs as have a turn, and no more.

use std::pin::Pin;
use std::time::Duration;

use larder_model::Access;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The longest that a request waits for the ledger. Whoever waits is a build's first step.
const LEDGER_WAIT_MAX: Duration = Duration::from_secs(3);
/// How many untrusted requests ask the ledger at once: one writes, and the next is ready.
const UNTRUSTED_COUNT_MAX: usize = 2;

/// What is asked of the ledger. On the heap: every request's future would have room for it.
pub(crate) type Question<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The ledger did not answer in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooSlow;

/// The turns of those who wait for the ledger.
#[derive(Debug)]
pub(crate) struct LedgerLane {
    untrusted: Semaphore,
}

impl Default for LedgerLane {
    fn default() -> Self {
        Self {
            untrusted: Semaphore::new(UNTRUSTED_COUNT_MAX),
        }
    }
}

impl LedgerLane {
    /// What the ledger answers to somebody with this access. The question is asked only when it is its turn.
    pub(crate) async fn ask<T>(
        &self,
        access: &Access,
        question: Question<'_, T>,
    ) -> Result<T, TooSlow> {
        let in_turn = async {
            let _turn = if access.kind().writes_trusted() {
                None
            } else {
                let turn = self.untrusted.acquire().await;
                Some(turn.expect("the lane is never closed"))
            };
            question.await
        };
        timeout(LEDGER_WAIT_MAX, in_turn).await.map_err(|_| TooSlow)
    }
}
