//! The server's side of the audit: the journal is written, old rows go, changes of the policy are noted.

mod policy_changes;
mod retention;

use std::sync::Arc;

use arc_swap::ArcSwap;
use larder_ledger::Ledger;
use larder_protocols::Journal;

use crate::config::{AuditSettings, Settings};
use crate::logging::chain;

/// Keeps the audit of a running server.
pub(crate) struct AuditBook {
    journal: Arc<Journal>,
    ledger: Ledger,
    settings: Arc<ArcSwap<AuditSettings>>,
    /// Of which the policy is in force.
    in_force: Settings,
}

impl AuditBook {
    /// Notes what is in force, and follows the journal from now on.
    pub(crate) async fn open(journal: Arc<Journal>, ledger: Ledger, settings: &Settings) -> Self {
        policy_changes::note_start(&journal, &ledger, settings).await;
        tokio::spawn(Arc::clone(&journal).follow(ledger.clone()));
        let audit = Arc::new(ArcSwap::from_pointee(settings.audit));
        tokio::spawn(retention::follow(ledger.clone(), Arc::clone(&audit)));
        Self {
            journal,
            ledger,
            settings: audit,
            in_force: settings.clone(),
        }
    }

    /// Notes what is about to change.
    pub(crate) async fn change(&mut self, new: &Settings) {
        policy_changes::note_change(&self.journal, &self.ledger, &self.in_force, new).await;
        self.settings.store(Arc::new(new.audit));
        self.in_force = new.clone();
    }

    /// Writes what is left, once nobody is served any more.
    pub(crate) async fn close(&self) {
        if let Err(error) = self.journal.flush(&self.ledger).await {
            tracing::error!(error = %chain(&error), "the end of the audit was not written");
        }
    }
}
