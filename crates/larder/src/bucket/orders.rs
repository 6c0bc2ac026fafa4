//! Purges and quarantines, kept in the ledger: every node carries them out in the bucket as it knows it, also one that starts
//! later.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use larder_cache::{Cache, Order, OrderKeeper, OrderNotKept};
use larder_ledger::{Ledger, OrderRow};

use super::LEDGER_RETRY;
use crate::clock;
use crate::logging::chain;

/// How often other nodes' orders are looked for: they are obeyed within about a second.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

/// See the module.
pub(super) struct Orders {
    ledger: Ledger,
    /// How long an order says something.
    kept_for: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The last order that was obeyed.
    seen: u64,
    /// Orders that this node gave, and has carried out already.
    own: BTreeSet<u64>,
}

impl Orders {
    pub(super) fn new(ledger: Ledger, kept_for: Duration) -> Self {
        Self {
            ledger,
            kept_for,
            state: Arc::default(),
        }
    }

    /// Keeps the orders that are given here.
    pub(super) fn keeper(&self) -> OrderKeeper {
        let (ledger, state, kept_for) = (self.ledger.clone(), self.state.clone(), self.kept_for);
        Arc::new(move |text: String| {
            let (ledger, state) = (ledger.clone(), state.clone());
            Box::pin(async move {
                let now_ms = clock::now_ms();
                let until_ms = now_ms.saturating_sub(kept_for.as_millis() as u64);
                let kept = ledger.keep_order(&text, now_ms, until_ms).await;
                let number = kept.map_err(|error| OrderNotKept(chain(&error)))?;
                lock(&state).own.insert(number);
                Ok(())
            })
        })
    }

    /// Obeys all that is kept, however long the ledger takes to say it.
    pub(super) async fn obey_standing(&self, cache: &Cache) {
        let mut said = false;
        while let Err(error) = self.obey_new(cache).await {
            if !std::mem::replace(&mut said, true) {
                tracing::error!(error = %chain(&error), "the bucket waits for the ledger");
            }
            tokio::time::sleep(LEDGER_RETRY).await;
        }
    }

    /// Obeys what other nodes order, for good.
    pub(super) async fn follow(self: Arc<Self>, cache: Arc<Cache>) {
        let mut in_trouble = false;
        loop {
            tokio::time::sleep(FOLLOW_EVERY).await;
            let outcome = self.obey_new(&cache).await;
            let was_in_trouble = std::mem::replace(&mut in_trouble, outcome.is_err());
            if let Err(error) = outcome
                && !was_in_trouble
            {
                tracing::error!(error = %chain(&error), "purges of other nodes are not seen now");
            }
        }
    }

    async fn obey_new(&self, cache: &Cache) -> Result<(), larder_ledger::LedgerError> {
        let seen = lock(&self.state).seen;
        for row in self.ledger.orders_since(seen).await? {
            let is_own = lock(&self.state).own.remove(&row.number);
            if let Some(order) = order_of(&row).filter(|_| !is_own) {
                let (number, entries) = (row.number, cache.obey(order).await);
                tracing::info!(
                    number,
                    entries,
                    "entries of the bucket were purged or quarantined"
                );
            }
            lock(&self.state).seen = row.number;
        }
        Ok(())
    }
}

/// What a row orders. One that only a newer version of Larder understands is about everything that was written before: better
/// a miss than what was purged.
fn order_of(row: &OrderRow) -> Option<Order> {
    Order::from_text(&row.text).or_else(|| {
        tracing::warn!(
            number = row.number,
            "an order about the bucket is of another version of Larder: all that was in the bucket before is taken out"
        );
        Order::from_text(&format!("order 1\nuntil {}", row.given_at_ms))
    })
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
