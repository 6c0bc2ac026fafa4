//! Group commit: many writers, one round of syncs.
//!
//! A writer that needs its bytes durable takes a ticket after it has written. Whoever finds no
//! round under way leads the next one, for every ticket taken by then; the others wait for it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{Condvar, Mutex};

use crate::segment::Segment;

#[derive(Default)]
pub(crate) struct GroupSync {
    /// Segments written since they were last synced.
    dirty: Mutex<Vec<Arc<Segment>>>,
    rounds: Mutex<Rounds>,
    round_ended: Condvar,
}

#[derive(Default)]
struct Rounds {
    tickets: u64,
    /// Tickets up to this one have had their round.
    done: u64,
    /// Tickets up to this one that still wait count as failed.
    failed: u64,
    running: bool,
}

impl GroupSync {
    /// Notes that a segment has bytes that are not durable.
    pub(crate) fn mark(&self, segment: &Arc<Segment>) {
        if !segment.dirty.swap(true, Ordering::AcqRel) {
            self.dirty.lock().push(Arc::clone(segment));
        }
    }

    /// The segment is being removed; nobody needs it durable.
    pub(crate) fn forget(&self, segment: &Arc<Segment>) {
        self.dirty
            .lock()
            .retain(|other| !Arc::ptr_eq(other, segment));
    }

    /// Whether anything waits for a sync.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.lock().is_empty()
    }

    /// Returns when everything marked before the call is durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let mut rounds = self.rounds.lock();
        rounds.tickets += 1;
        let ticket = rounds.tickets;
        while rounds.done < ticket {
            if rounds.running {
                self.round_ended.wait(&mut rounds);
                continue;
            }
            rounds.running = true;
            let last = rounds.tickets;
            drop(rounds);
            let result = self.round();
            rounds = self.rounds.lock();
            rounds.running = false;
            rounds.done = last;
            if result.is_err() {
                rounds.failed = last;
            }
            self.round_ended.notify_all();
            // The leader's ticket is at most `last`.
            return result;
        }
        if ticket <= rounds.failed {
            return Err(io::Error::other("the disk failed to sync"));
        }
        Ok(())
    }

    fn round(&self) -> io::Result<()> {
        let dirty = std::mem::take(&mut *self.dirty.lock());
        let mut result = Ok(());
        for segment in dirty {
            // Cleared first: a write that comes later marks the segment again.
            segment.dirty.store(false, Ordering::Release);
            if let Err(error) = segment.file.sync() {
                // After a failed sync the kernel may have dropped the bytes. Nothing more goes in here.
                segment.seal();
                result = Err(error);
            }
        }
        result
    }
}
