//! The budget: who holds how many bytes of the disk.
//!
//! Every file's bytes are claimed here before they are allocated and given back when the file's
//! space really is free again: when its last handle has gone, not when it is unlinked. So the
//! budget holds also while readers keep evicted segments open.

use std::sync::Arc;

use parking_lot::Mutex;

/// Bytes that files take up on disk are counted in whole blocks.
pub(crate) const DISK_BLOCK_BYTES: u64 = 4096;

#[derive(Debug, Default)]
pub(crate) struct Space {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    used: u64,
    /// Of these, the bytes of segments that are gone for everyone but their readers.
    by_readers: u64,
}

impl Space {
    pub(crate) fn used(&self) -> u64 {
        self.held.lock().used
    }

    /// Bytes that will be free when readers of evicted segments are done.
    pub(crate) fn held_by_readers(&self) -> u64 {
        self.held.lock().by_readers
    }

    /// Claims `bytes` if then at most `limit` are used.
    pub(crate) fn take(self: &Arc<Self>, bytes: u64, limit: u64) -> Option<SpaceClaim> {
        let bytes = bytes.next_multiple_of(DISK_BLOCK_BYTES);
        let mut held = self.held.lock();
        if held.used.saturating_add(bytes) > limit {
            return None;
        }
        held.used += bytes;
        Some(SpaceClaim {
            space: Arc::clone(self),
            bytes,
            by_readers: false,
        })
    }

    /// Claims what a file that exists already takes up, whatever the limit.
    pub(crate) fn take_existing(self: &Arc<Self>, bytes: u64) -> SpaceClaim {
        self.take(bytes, u64::MAX).expect("no limit")
    }
}

/// Bytes of the disk that belong to one file.
#[derive(Debug)]
pub(crate) struct SpaceClaim {
    space: Arc<Space>,
    bytes: u64,
    by_readers: bool,
}

impl SpaceClaim {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back what is over `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let bytes = bytes.next_multiple_of(DISK_BLOCK_BYTES).min(self.bytes);
        self.space.held.lock().used -= self.bytes - bytes;
        self.bytes = bytes;
    }

    /// Adds another claim's bytes to this one.
    pub(crate) fn absorb(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// The file has no name any more; only readers keep it.
    pub(crate) fn leave_to_readers(&mut self) {
        if !self.by_readers {
            self.by_readers = true;
            self.space.held.lock().by_readers += self.bytes;
        }
    }
}

impl Drop for SpaceClaim {
    fn drop(&mut self) {
        let mut held = self.space.held.lock();
        held.used -= self.bytes;
        if self.by_readers {
            held.by_readers -= self.bytes;
        }
    }
}
