//! Making the ledger forget what need not be kept: at the start, and once an hour.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use larder_ledger::{Ledger, Pruned, Retention};
use tokio::time::MissedTickBehavior;

use crate::clock;
use crate::config::AuditSettings;
use crate::logging::chain;

/// How often. What is to go is a matter of days.
const PRUNE_INTERVAL: Duration = Duration::from_hours(1);

/// Prunes as long as this future lives.
pub(super) async fn follow(ledger: Ledger, settings: Arc<ArcSwap<AuditSettings>>) {
    let mut ticks = tokio::time::interval(PRUNE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let kept = kept(&settings.load());
        match ledger.prune(&kept, clock::now_ms()).await {
            Ok(pruned) if pruned == Pruned::default() => {}
            Ok(pruned) => {
                let Pruned {
                    audit,
                    sessions,
                    used_once,
                    writers,
                    rewrites,
                } = pruned;
                tracing::info!(
                    audit,
                    sessions,
                    used_once,
                    writers,
                    rewrites,
                    "the ledger has forgotten rows whose time was over"
                );
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "the ledger keeps what it need not keep; the next attempt is in an hour");
            }
        }
    }
}

fn kept(settings: &AuditSettings) -> Retention {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Retention {
        audit_ms: ms(settings.retention),
        audit_rows: settings.row_count_max as u64,
        writers_ms: ms(settings.writers),
    }
}
