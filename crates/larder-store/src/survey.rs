//! Going through all entries: statistics, purge, verification.
//!
//! All three go through the index a shard at a time and read each entry's record. They see every entry that exists throughout; of those that come and go meanwhile, some.

use std::io;
use std::sync::Arc;

use crate::disk::Wait;
use crate::format::{RecordHeader, Slot};
use crate::pool::{Bug, Pool, Shared, StoreError};
use crate::read::{Doubt, Head, ReadError, Reader, Standing};
use crate::segment::Segment;

/// What an entry's record says of it.
#[derive(Debug, Clone, Copy)]
pub struct RecordHead<'a> {
    /// The full key.
    pub key: &'a [u8],
    /// The writer's metadata.
    pub metadata: &'a [u8],
    /// The writer's check.
    pub check: u16,
    /// Who wrote it.
    pub writer: u64,
    /// When it was written, Unix milliseconds.
    pub written_at_ms: u64,
    /// Bytes of the body.
    pub size: u64,
    /// Orders the records of a key, and tells those that are held apart.
    pub sequence: u64,
    /// Whether it is its key's entry, or held.
    pub standing: Standing,
}

impl<'a> RecordHead<'a> {
    pub(crate) fn of(head: &'a Head, standing: Standing) -> Self {
        let RecordHeader {
            check,
            writer,
            written_at_ms,
            body_bytes: size,
            sequence,
            ..
        } = head.header;
        Self {
            key: head.key(),
            metadata: head.metadata(),
            check,
            writer,
            written_at_ms,
            size,
            sequence,
            standing,
        }
    }
}

/// What a purge removed, or would remove.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purged {
    /// Entries.
    pub entries: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}

/// What a verification read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Entries that are what was written.
    pub entries: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Entries that are not; they are misses now.
    pub corrupt: u64,
}

impl Pool {
    /// Shows the head of every entry, held ones included, to `visit`. `progress` as in [`Pool::purge`].
    pub fn scan(
        &self,
        visit: &mut dyn FnMut(&RecordHead<'_>),
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) {
        self.shared.survey(
            &mut |_, _, head, standing| visit(&RecordHead::of(head, standing)),
            progress,
        );
    }

    /// Removes the entries that `choose` picks, held ones included; `dry_run` only counts them. When it returns they are gone for good,
    /// also after a power cut. `progress` is told entries done and in all, and stops the purge by returning false.
    pub fn purge(
        &self,
        dry_run: bool,
        choose: &mut dyn FnMut(&RecordHead<'_>) -> bool,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Purged, StoreError> {
        let shared = &self.shared;
        // A record that is held or released meanwhile goes to another shard, perhaps to one that has been looked at.
        let _unmoved = (!dry_run).then(|| shared.holding.read());
        let mut purged = Purged::default();
        let unread = shared.survey(
            &mut |slot, _, head, standing| {
                let chosen = choose(&RecordHead::of(head, standing));
                if chosen && (dry_run || shared.remove_entry(slot, head.header.sequence)) {
                    purged.entries += 1;
                    purged.bytes += head.header.body_bytes;
                }
            },
            progress,
        );
        if !dry_run {
            shared.make_removals_durable()?;
        }
        all_read(unread)?;
        Ok(purged)
    }

    /// Removes the entry of one key, for good. Whether there was one.
    pub fn remove(&self, key: &[u8]) -> Result<bool, StoreError> {
        let shared = &self.shared;
        let removed = {
            let _moving = shared.moving.lock();
            let slot = shared.index.peek(shared.index.hash(key));
            slot.is_some_and(|slot| shared.take_out(&slot))
        };
        shared.make_removals_durable()?;
        Ok(removed)
    }

    /// Reads every entry and compares it with its checksums. `progress` as in [`Pool::purge`].
    pub fn verify(&self, progress: &mut dyn FnMut(u64, u64) -> bool) -> Verified {
        let shared = &self.shared;
        let mut verified = Verified::default();
        let corrupt_before = self.usage().corrupt_entries;
        shared.survey(
            &mut |slot, segment, head, _| {
                if shared.body_verifies(segment, slot, &head.header) {
                    verified.entries += 1;
                    verified.bytes += head.header.body_bytes;
                }
            },
            progress,
        );
        verified.corrupt = self.usage().corrupt_entries - corrupt_before;
        verified
    }
}

/// Is shown each entry: its slot, the segment it is in, what its record's head says, and whether it is held.
type Visit<'v> = dyn FnMut(&Slot, &Arc<Segment>, &Head, Standing) + 'v;

/// What could not be read may be what was to be chosen.
pub(crate) fn all_read(unread: u64) -> io::Result<()> {
    if unread == 0 {
        return Ok(());
    }
    let what = format!("the disk failed to read {unread} records: repeat this");
    Err(io::Error::other(what))
}

impl Shared {
    /// Shows every entry, held ones included, to `visit`. Entries whose head does not verify are lost on the way.
    /// Returns how many the disk failed to read: they stay, and what they are is not known.
    pub(crate) fn survey(
        self: &Arc<Self>,
        visit: &mut Visit<'_>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> u64 {
        let total = self.index.len();
        let (mut done, mut unread) = (0, 0);
        let mut slots = Vec::new();
        for shard in 0..self.index.shard_count() {
            slots.clear();
            self.index.copy_shard(shard, &mut slots);
            slots.sort_unstable_by_key(|slot| slot.place);
            for slot in &slots {
                unread += u64::from(!self.survey_one(*slot, visit));
            }
            done += slots.len() as u64;
            if !progress(done, total.max(done)) {
                break;
            }
        }
        unread
    }

    /// False if the disk failed to read the record.
    fn survey_one(self: &Arc<Self>, mut slot: Slot, visit: &mut Visit<'_>) -> bool {
        loop {
            if let Some(segment) = self.segment(slot.place.segment) {
                match self.read_any(&segment, &slot, Wait::Allowed) {
                    Ok((head, standing)) => {
                        visit(&slot, &segment, &head, standing);
                        return true;
                    }
                    Err(Doubt::Disk(error)) => {
                        self.disk_failed("read", &error);
                        return false;
                    }
                    Err(Doubt::OtherKey) => {
                        // A slot from before a crash, whose record another has taken the place of.
                        self.index.remove(slot.hash, slot.place);
                        return true;
                    }
                    Err(_) => self.lose(&slot),
                }
            }
            // An entry that reclaim moved meanwhile, or that has replaced a damaged one, is visited where it is now.
            match self.index.peek(slot.hash) {
                Some(now) if now.place != slot.place => slot = now,
                _ => return true,
            }
        }
    }

    /// Whether the body is what its checksums say; if not, the entry is lost.
    pub(crate) fn body_verifies(
        self: &Arc<Self>,
        segment: &Arc<Segment>,
        slot: &Slot,
        header: &RecordHeader,
    ) -> bool {
        let mut reader = Reader::new(Arc::clone(self), Arc::clone(segment), *slot, *header);
        loop {
            match reader.next(Wait::Allowed) {
                Ok(Some(_)) => {}
                Ok(None) => return true,
                Err(ReadError::Lost | ReadError::WouldBlock) => return false,
            }
        }
    }

    /// After this neither what was removed nor what was evicted before can come back: not from the log, and not from
    /// a checkpoint.
    pub(crate) fn make_removals_durable(self: &Arc<Self>) -> io::Result<()> {
        let failed = |what: &str| Err(io::Error::other(format!("the disk failed to {what}")));
        if self.unread_segments > 0 {
            return failed("read a segment when the pool was opened: start again and repeat this");
        }
        if !self.catch_up() {
            return failed("mark what was chosen: repeat this");
        }
        self.renew_checkpoint()?;
        self.sync_now();
        if !self
            .segments
            .read()
            .values()
            .all(|segment| segment.is_sound())
        {
            return failed("sync what was done");
        }
        self.disk.sync_dir(&self.dir)
    }

    /// Removes a chosen entry, wherever reclaim has moved it by now, but not one that has replaced it.
    fn remove_entry(self: &Arc<Self>, slot: &Slot, sequence: u64) -> bool {
        let _moving = self.moving.lock();
        let Some(now) = self.index.peek(slot.hash) else {
            return false;
        };
        let same = now.place == slot.place || self.sequence_at(now.place) == Some(sequence);
        same && self.take_out(&now)
    }

    /// Takes an entry out of the index and marks its record dead. The checkpoint is seen to afterwards. Needs
    /// [`Shared::moving`].
    fn take_out(&self, slot: &Slot) -> bool {
        if !self.index.remove(slot.hash, slot.place) {
            return false;
        }
        if !self.has_bug(Bug::ForgetToBury)
            && let Err(error) = self.mark_dead(slot.hash, slot.place)
        {
            self.disk_failed("mark a record dead", &error);
            self.unburied.lock().push((slot.hash, slot.place));
        }
        true
    }
}
