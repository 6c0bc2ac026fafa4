//! What an operator would want to know, beside what the link tells ([`crate::link::LinkEvent`]). Names in events are of objects, and hold no client's key.

use std::fmt;
use std::sync::Arc;

/// Something that happened. Events that would repeat come at most once a minute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// What is in the bucket under this name is not what this deployment wrote there. It is a miss from now on.
    NotAuthentic {
        /// The object.
        name: String,
    },
    /// An object of the catalogue is not in the bucket, or its end is missing: its entries are misses from now on.
    Gone {
        /// The object.
        name: String,
    },
    /// The queue is full; entries stay on this node only.
    QueueFull {
        /// How many since the last such event.
        dropped: u64,
    },
    /// A file of the queue or of the known indexes cannot be used. Everything goes on without it.
    DiskFailed {
        /// What was being done.
        operation: &'static str,
        /// What the operating system said.
        message: String,
    },
    /// The catalogue cannot be asked. New packs of other nodes are not seen until it can be.
    CatalogueFailed {
        /// What was being done.
        operation: &'static str,
        /// What it said.
        message: String,
    },
    /// An entry was purged, quarantined or expired while it was on its way; it was not stored.
    Withheld {
        /// How many entries of one pack.
        entries: u64,
    },
}

/// Who is told. Called from any thread; must not block.
#[derive(Clone)]
pub struct Observer(Arc<dyn Fn(Event) + Send + Sync>);

impl Observer {
    /// Whoever this is.
    pub fn new(observe: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(observe))
    }

    /// Tells.
    pub fn tell(&self, event: Event) {
        (self.0)(event);
    }
}

impl Default for Observer {
    /// Nobody.
    fn default() -> Self {
        Self::new(|_| {})
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}
