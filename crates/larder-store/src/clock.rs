//! Time comes in through the door.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where the store gets the time from.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The system's wall clock.
    System,
    /// Unix milliseconds that a test sets.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// Unix milliseconds. A system clock before 1970 reads as 1970.
    pub fn now_ms(&self) -> u64 {
        match self {
            Self::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_millis() as u64),
            Self::Manual(now) => now.load(Ordering::Relaxed),
        }
    }

    /// Unix seconds, as leases count; good until 2106.
    pub(crate) fn now_s(&self) -> u32 {
        (self.now_ms() / 1000) as u32
    }
}
