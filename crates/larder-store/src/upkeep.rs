//! The chores that somebody has to do from time to time: sync, reclaim ahead of need, checkpoint, scrub.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::disk::Wait;
use crate::format::Slot;
use crate::lease::Honour;
use crate::pool::{Durability, Pool, Shared, StoreError};
use crate::read::Doubt;

/// With [`Durability::Written`], a power cut costs at most what was written in this time.
const SYNC_INTERVAL_MS: u64 = 3_000;
/// Reclaim starts when less than this many segments are free, besides the one kept for reclaim itself.
const FREE_SEGMENTS_LOW: u64 = 3;
/// A checkpoint is due after this many records, or an eighth of the entries if that is more.
const CHECKPOINT_RECORDS: u64 = 200_000;
/// A checkpoint is due after this many bytes of records, or [`CHECKPOINT_INDEX_MULTIPLE`] times
/// the index if that is more: reading the log behind it takes about a second then.
const CHECKPOINT_BYTES: u64 = 1 << 30;
const CHECKPOINT_INDEX_MULTIPLE: u64 = 16;
/// A checkpoint is due after this time if anything was written.
const CHECKPOINT_INTERVAL_MS: u64 = 5 * 60 * 1000;
/// After a checkpoint that failed, the next attempt is not before this.
const CHECKPOINT_PAUSE_MS: u64 = 10_000;
/// Every entry is verified about once in this time.
const SCRUB_PASS_MS: u64 = 7 * 24 * 3600 * 1000;
/// At most this much is scrubbed at a time, so that chores stay short.
const SCRUB_BYTES_MAX: u64 = 16 << 20;

/// When which chore was done last.
pub(crate) struct Chores {
    synced_at_ms: u64,
    /// The pool has been closed in good order.
    saved: bool,
    checkpointed_at_ms: u64,
    /// After a failure, not before this time.
    checkpoint_again_ms: u64,
    records_at_checkpoint: u64,
    bytes_at_checkpoint: u64,
    scrubbed_at_ms: u64,
    scrub_shard: usize,
    scrub_slots: Vec<Slot>,
    /// Bytes scrubbed ahead of what time has earned: a large entry leaves a debt.
    scrub_debt: u64,
}

impl Chores {
    pub(crate) fn new(now_ms: u64) -> Self {
        Self {
            synced_at_ms: now_ms,
            saved: false,
            checkpointed_at_ms: now_ms,
            checkpoint_again_ms: 0,
            records_at_checkpoint: 0,
            bytes_at_checkpoint: 0,
            scrubbed_at_ms: now_ms,
            scrub_shard: 0,
            scrub_slots: Vec::new(),
            scrub_debt: 0,
        }
    }
}

impl Pool {
    /// Does the chores that are due. To be called from one thread, at least about once a second, and when
    /// [`Pool::wait_for_chores`] returns.
    pub fn do_chores(&self) {
        let shared = &self.shared;
        *shared.chore_due.lock() = false;
        let mut chores = shared.chores.lock();
        if shared.closed.load(Ordering::Acquire) {
            return;
        }
        shared.catch_up();
        shared.reclaim_ahead();
        shared.sync_if_due(&mut chores);
        shared.checkpoint_if_due(&mut chores);
        shared.scrub_a_little(&mut chores);
    }

    /// Waits until there is a chore to do, at most for `timeout`.
    pub fn wait_for_chores(&self, timeout: Duration) {
        let mut due = self.shared.chore_due.lock();
        if !*due {
            self.shared.chore_due_changed.wait_for(&mut due, timeout);
        }
    }

    /// Saves the index now. Chores do it in time; after this, opening the pool is fast.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        let mut chores = self.shared.chores.lock();
        self.shared.checkpoint_now(&mut chores)
    }

    /// Makes durable what the disk takes, saves the index and refuses writes from now on. Reads go on. May be called again if
    /// the disk failed.
    pub fn close(&self) -> Result<(), StoreError> {
        let shared = &self.shared;
        shared.closed.store(true, Ordering::Release);
        shared.wake_chores();
        let mut chores = shared.chores.lock();
        if chores.saved {
            return Ok(());
        }
        shared.catch_up();
        shared.seal_active();
        shared.checkpoint_now(&mut chores)?;
        chores.saved = true;
        Ok(())
    }
}

impl Shared {
    /// Free bytes that chores keep ahead of need.
    fn free_wanted(&self) -> u64 {
        (FREE_SEGMENTS_LOW + 1) * self.segment_bytes() + self.checkpoint_reserve()
    }

    /// Bytes that chores have to reclaim.
    fn deficit(&self) -> u64 {
        (self.space.used() + self.free_wanted()).saturating_sub(self.limit())
    }

    /// Whether it is time to reclaim.
    pub(crate) fn is_low(&self) -> bool {
        self.deficit() > 0
    }

    /// Reclaims what is missing now, and no more: a file system may be slow to say that space came free.
    fn reclaim_ahead(self: &Arc<Self>) {
        let deficit = self.deficit();
        let mut freed = 0;
        while freed < deficit && self.is_low() {
            match self.reclaim_one(self.free_wanted(), Honour::All) {
                0 => break,
                more => freed += more,
            }
        }
    }

    fn sync_if_due(&self, chores: &mut Chores) {
        let now_ms = self.clock.now_ms();
        let due = self.durability == Durability::Written
            && now_ms.saturating_sub(chores.synced_at_ms) >= SYNC_INTERVAL_MS
            && self.sync.is_dirty();
        if due {
            chores.synced_at_ms = now_ms;
            self.sync_now();
        }
    }

    fn checkpoint_if_due(self: &Arc<Self>, chores: &mut Chores) {
        let entries = self.index.len();
        let written_records = self.counters.written_records.load(Ordering::Relaxed);
        let written_bytes = self.counters.written_bytes.load(Ordering::Relaxed);
        let records = written_records - chores.records_at_checkpoint;
        let bytes = written_bytes - chores.bytes_at_checkpoint;
        let index_bytes = entries * Slot::BYTES as u64;
        let due = records >= CHECKPOINT_RECORDS.max(entries / 8)
            || bytes >= CHECKPOINT_BYTES.max(index_bytes * CHECKPOINT_INDEX_MULTIPLE)
            || (records > 0
                && self
                    .clock
                    .now_ms()
                    .saturating_sub(chores.checkpointed_at_ms)
                    >= CHECKPOINT_INTERVAL_MS);
        if due && self.clock.now_ms() >= chores.checkpoint_again_ms {
            // What failed was told to the observer.
            if self.checkpoint_now(chores).is_err() {
                chores.checkpoint_again_ms = self.clock.now_ms() + CHECKPOINT_PAUSE_MS;
            }
        }
    }

    fn checkpoint_now(self: &Arc<Self>, chores: &mut Chores) -> Result<(), StoreError> {
        let written_records = self.counters.written_records.load(Ordering::Relaxed);
        let written_bytes = self.counters.written_bytes.load(Ordering::Relaxed);
        self.checkpoint()
            .inspect_err(|error| self.disk_failed("save the index", error))?;
        chores.checkpointed_at_ms = self.clock.now_ms();
        chores.records_at_checkpoint = written_records;
        chores.bytes_at_checkpoint = written_bytes;
        Ok(())
    }

    /// Verifies as many entries as the time since the last call is worth.
    fn scrub_a_little(self: &Arc<Self>, chores: &mut Chores) {
        let now_ms = self.clock.now_ms();
        let elapsed_ms = now_ms.saturating_sub(chores.scrubbed_at_ms);
        chores.scrubbed_at_ms = now_ms;
        let earned =
            u128::from(self.space.used()) * u128::from(elapsed_ms) / u128::from(SCRUB_PASS_MS);
        let mut credit = u64::try_from(earned)
            .unwrap_or(u64::MAX)
            .min(SCRUB_BYTES_MAX);
        let paid = credit.min(chores.scrub_debt);
        chores.scrub_debt -= paid;
        credit -= paid;
        while credit > 0 {
            let Some(slot) = chores.scrub_slots.pop() else {
                if chores.scrub_shard == self.index.shard_count() {
                    chores.scrub_shard = 0;
                    return;
                }
                self.index
                    .copy_shard(chores.scrub_shard, &mut chores.scrub_slots);
                chores.scrub_shard += 1;
                continue;
            };
            let cost = self.scrub(&slot);
            chores.scrub_debt += cost.saturating_sub(credit);
            credit = credit.saturating_sub(cost);
        }
    }

    /// Verifies an entry and returns what that cost, in bytes.
    fn scrub(self: &Arc<Self>, slot: &Slot) -> u64 {
        const LOOK_UP_BYTES: u64 = 512;
        let segment = self.segment(slot.place.segment);
        let Some(segment) = segment.filter(|_| {
            self.index
                .peek(slot.hash)
                .is_some_and(|now| now.place == slot.place)
        }) else {
            return LOOK_UP_BYTES;
        };
        match self.read_any(&segment, slot, Wait::Allowed) {
            Ok((head, _)) => {
                self.body_verifies(&segment, slot, &head.header);
                LOOK_UP_BYTES + head.header.body_bytes
            }
            Err(Doubt::Disk(error)) => {
                self.disk_failed("read", &error);
                LOOK_UP_BYTES
            }
            Err(Doubt::OtherKey) => {
                self.index.remove(slot.hash, slot.place);
                LOOK_UP_BYTES
            }
            Err(_) => {
                self.lose(slot);
                LOOK_UP_BYTES
            }
        }
    }
}
