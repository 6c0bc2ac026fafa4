//! Group commit: many writers, one round of syncs.
//!
//! A writer that needs its bytes durable takes a ticket after it has written. Whoever finds no
//! round under way leads the next one, for every ticket taken by then; the others wait for it.
//!
//! A segment that fails to sync is unsound from then on: the kernel may have dropped the bytes and
//! call the next sync a success. So [`GroupSync::sync`] says only that a round has been, and a
//! writer asks its segment whether that made its bytes durable.

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
        segment.gone.store(true, Ordering::Release);
        self.dirty
            .lock()
            .retain(|other| !Arc::ptr_eq(other, segment));
    }

    /// Whether anything waits for a sync.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.lock().is_empty()
    }

    /// Returns when everything marked before the call has been synced, unless its segment has become unsound. The
    /// error, if one is returned, is news.
    pub(crate) fn sync(&self) -> Option<io::Error> {
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
            let error = self.round();
            rounds = self.rounds.lock();
            rounds.running = false;
            rounds.done = last;
            self.round_ended.notify_all();
            // The leader's ticket is at most `last`.
            return error;
        }
        None
    }

    fn round(&self) -> Option<io::Error> {
        let dirty = std::mem::take(&mut *self.dirty.lock());
        let mut failed = None;
        // One after the other is let go of: an evicted one has to give its space back.
        for segment in dirty {
            if segment.gone.load(Ordering::Acquire) {
                continue;
            }
            // Cleared first: a write that comes later marks the segment again.
            segment.dirty.store(false, Ordering::Release);
            if let Err(error) = segment.file.sync() {
                segment.unsound.store(true, Ordering::Release);
                // Nothing more goes in here.
                segment.seal();
                failed = Some(error);
            }
        }
        failed
    }
}
