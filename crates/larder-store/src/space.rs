//! The budget: who holds how many bytes of the disk.
//!
//! Every file's bytes are claimed here before they are allocated and given back when the file's
//! space really is free again: when its last handle has gone, not when it is unlinked. So the
//! budget holds also while readers keep evicted segments open.

use std::sync::Arc;

use parking_lot::Mutex;

/// Bytes that files take up on disk are counted in whole blocks.
const DISK_BLOCK_BYTES: u64 = 4096;

#[derive(Debug)]
pub(crate) struct Space {
    used: Mutex<u64>,
}

impl Space {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            used: Mutex::new(0),
        })
    }

    pub(crate) fn used(&self) -> u64 {
        *self.used.lock()
    }

    /// Claims `bytes` if then at most `limit(used)` are used.
    pub(crate) fn take(
        self: &Arc<Self>,
        bytes: u64,
        limit: impl FnOnce(u64) -> u64,
    ) -> Option<SpaceClaim> {
        let bytes = bytes.next_multiple_of(DISK_BLOCK_BYTES);
        let mut used = self.used.lock();
        if *used + bytes > limit(*used) {
            return None;
        }
        *used += bytes;
        Some(SpaceClaim {
            space: Arc::clone(self),
            bytes,
        })
    }

    /// Claims what a file that exists already takes up, whatever the limit.
    pub(crate) fn take_existing(self: &Arc<Self>, bytes: u64) -> SpaceClaim {
        self.take(bytes, |_| u64::MAX).expect("no limit")
    }
}

/// Bytes of the disk that belong to one file.
#[derive(Debug)]
pub(crate) struct SpaceClaim {
    space: Arc<Space>,
    bytes: u64,
}

impl SpaceClaim {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back what is over `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let bytes = bytes.next_multiple_of(DISK_BLOCK_BYTES).min(self.bytes);
        *self.space.used.lock() -= self.bytes - bytes;
        self.bytes = bytes;
    }

    /// Adds another claim's bytes to this one.
    pub(crate) fn absorb(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }
}

impl Drop for SpaceClaim {
    fn drop(&mut self) {
        *self.space.used.lock() -= self.bytes;
    }
}
