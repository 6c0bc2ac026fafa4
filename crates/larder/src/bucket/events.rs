//! What happens with the bucket, in the log and in numbers.

use larder_bucket::Event;
use larder_bucket::link::LinkEvent;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// Counts of events by name. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct EventCounts(pub(super) Family<[(&'static str, &'static str); 1], Counter>);

impl EventCounts {
    fn count(&self, event: &'static str) {
        self.0.get_or_create(&[("event", event)]).inc();
    }

    /// Of the bucket's contents, queue and catalogue.
    pub(super) fn note(&self, event: &Event) {
        match event {
            Event::NotAuthentic { name } => {
                self.count("not_authentic");
                tracing::error!(
                    name,
                    "an object of the bucket is not what was written there: its entries are misses; who can write to the bucket?"
                );
            }
            Event::Gone { name } => {
                self.count("gone");
                tracing::warn!(
                    name,
                    "an object is gone from the bucket: its entries are misses"
                );
            }
            Event::QueueFull { dropped } => {
                self.count("queue_full");
                tracing::warn!(
                    dropped,
                    "the queue for the bucket is full: entries stay on this machine alone"
                );
            }
            Event::DiskFailed { operation, message } => {
                self.count("disk_failed");
                tracing::error!(
                    operation,
                    message,
                    "a disk operation failed beside the bucket"
                );
            }
            Event::CatalogueFailed { operation, message } => {
                self.count("catalogue_failed");
                tracing::error!(
                    operation,
                    message,
                    "the ledger did not answer for the bucket"
                );
            }
            Event::Withheld { entries } => {
                self.count("withheld");
                tracing::info!(
                    entries,
                    "entries were purged or expired on their way to the bucket"
                );
            }
        }
    }

    /// Of the connection.
    pub(super) fn note_link(&self, event: &LinkEvent) {
        let name = match event {
            LinkEvent::Opened { .. } => "opened",
            LinkEvent::Closed => "closed",
            LinkEvent::Refused { .. } => "refused",
        };
        self.count(name);
        match event {
            LinkEvent::Closed => tracing::info!("{event}"),
            LinkEvent::Opened { .. } | LinkEvent::Refused { .. } => tracing::warn!("{event}"),
        }
    }
}
