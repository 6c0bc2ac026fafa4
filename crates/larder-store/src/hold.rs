//! Holding: entries are taken out of everybody's sight while their bytes are kept, and can be let go again.
//!
//! A held record stays where it is. Its state says `HELD` on the disk, and the index finds it under a hash of its
//! own ([`crate::index::Index::held_hash`]), so its key is free for a new entry while reclaim, scrubbing and the checkpoint
//! treat it as an entry that nobody reads. It is neither protected from eviction nor evicted sooner.
//!
//! Always true:
//! - At every moment, and after any crash, a record is live or held: the state is four bytes in one sector. As long as
//!   states change no checkpoint covers the segments they are in, so that the next start reads the states themselves.
//! - A record that replaces one being held waits, by the claim on the key, until that is marked: the log cannot
//!   take the held one for the replaced one.
//! - When [`Pool::hold`] returns without an error, nothing that it held is found again, also after a power cut.

use std::cmp::Reverse;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::disk::Wait;
use crate::format::{Place, Slot, State};
use crate::pool::{Bug, Pool, Shared, StoreError};
use crate::read::{Doubt, Entry, Standing};
use crate::survey::{RecordHead, all_read};
use crate::write::KeyClaim;

/// So many are chosen before their states are changed: 3 MiB of memory.
const CHOSEN_COUNT_MAX: usize = 65_536;
/// So many states are changed at a time. Writers of these keys wait for as long, and whoever has to make room.
const GROUP_COUNT_MAX: usize = 64;

/// What a hold took out of sight, or would.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Entries.
    pub entries: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}

/// What a release made entries again, or would.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Released {
    /// Entries.
    pub entries: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Held ones that stay held because their key has an entry.
    pub refused: u64,
}

/// A record whose state is to change.
struct Chosen {
    /// What its key is found by.
    key: u128,
    /// What it is found by now.
    slot: Slot,
    sequence: u64,
    body_bytes: u64,
}

/// How a change of state ended.
enum Turned {
    Done,
    /// The key has an entry.
    Refused,
    /// It was gone.
    Gone,
}

impl Pool {
    /// Takes the entries that `choose` picks out of sight and keeps their bytes; `dry_run` only counts them. When it returns
    /// no one finds them, also after a power cut; bodies being read are read to their end. `progress` as in
    /// [`Pool::purge`].
    pub fn hold(
        &self,
        dry_run: bool,
        choose: &mut dyn FnMut(&RecordHead<'_>) -> bool,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Held, StoreError> {
        let mut held = Held::default();
        let mut count = |chosen: &Chosen, turned| {
            if matches!(turned, Turned::Done) {
                held.entries += 1;
                held.bytes += chosen.body_bytes;
            }
        };
        let choose = &mut |head: &RecordHead<'_>| head.standing == Standing::Entry && choose(head);
        self.shared
            .turn(State::Held, dry_run, choose, progress, &mut count)?;
        Ok(held)
    }

    /// Makes the held entries that `choose` picks their keys' entries again, but for keys that have one: `replace` is not for
    /// evidence. Of several of a key it is the newest. When it returns that is durable.
    pub fn release(
        &self,
        dry_run: bool,
        choose: &mut dyn FnMut(&RecordHead<'_>) -> bool,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Released, StoreError> {
        let mut released = Released::default();
        let mut count = |chosen: &Chosen, turned| match turned {
            Turned::Done => {
                released.entries += 1;
                released.bytes += chosen.body_bytes;
            }
            Turned::Refused => released.refused += 1,
            Turned::Gone => {}
        };
        let choose = &mut |head: &RecordHead<'_>| head.standing == Standing::Held && choose(head);
        self.shared
            .turn(State::Live, dry_run, choose, progress, &mut count)?;
        Ok(released)
    }

    /// What is held of a key under this sequence ([`RecordHead::sequence`]). Waits for the disk.
    pub fn held_entry(&self, key: &[u8], sequence: u64) -> Option<Entry> {
        let shared = &self.shared;
        let hash = shared.index.held_hash(shared.index.hash(key), sequence);
        let slot = shared.index.peek(hash)?;
        let segment = shared.segment(slot.place.segment)?;
        match shared.open_any(segment, &slot, Wait::Allowed) {
            Ok(entry) => Some(entry),
            Err(Doubt::Disk(error)) => {
                shared.disk_failed("read", &error);
                None
            }
            Err(_) => {
                shared.lose(&slot);
                None
            }
        }
    }
}

impl Shared {
    /// Brings the records that `choose` picks into a state, and tells `count` of each.
    fn turn(
        self: &Arc<Self>,
        into: State,
        dry_run: bool,
        choose: &mut dyn FnMut(&RecordHead<'_>) -> bool,
        progress: &mut dyn FnMut(u64, u64) -> bool,
        count: &mut dyn FnMut(&Chosen, Turned),
    ) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        let _alone = self.holding.write();
        let mut chosen = Vec::new();
        let mut failed = None;
        let unread = self.survey(
            &mut |slot, _, head, standing| {
                if failed.is_some() || !choose(&RecordHead::of(head, standing)) {
                    return;
                }
                chosen.push(Chosen {
                    key: self.index.hash(head.key()),
                    slot: *slot,
                    sequence: head.header.sequence,
                    body_bytes: head.header.body_bytes,
                });
                if chosen.len() == CHOSEN_COUNT_MAX {
                    failed = self.turn_chosen(into, dry_run, &mut chosen, count).err();
                }
            },
            progress,
        );
        let turned = match failed {
            Some(error) => Err(error),
            None => self.turn_chosen(into, dry_run, &mut chosen, count),
        };
        self.uncovered.lock().clear();
        turned?;
        if !dry_run {
            self.make_removals_durable()?;
        }
        all_read(unread)?;
        Ok(())
    }

    fn turn_chosen(
        self: &Arc<Self>,
        into: State,
        dry_run: bool,
        chosen: &mut Vec<Chosen>,
        count: &mut dyn FnMut(&Chosen, Turned),
    ) -> io::Result<()> {
        let mut chosen = std::mem::take(chosen);
        // Of the held records of one key the newest comes first, and is the one to be released.
        chosen.sort_unstable_by_key(|chosen| (chosen.key, Reverse(chosen.sequence)));
        if dry_run {
            let mut last = None;
            for chosen in chosen {
                let taken = into == State::Live
                    && (last.replace(chosen.key) == Some(chosen.key)
                        || self.index.peek(chosen.key).is_some());
                let turned = if taken { Turned::Refused } else { Turned::Done };
                count(&chosen, turned);
            }
            return Ok(());
        }
        let segments = self.segments.read();
        // What is carried meanwhile goes to the active segment.
        let active = segments.values().filter(|segment| !segment.is_idle());
        let mut places: Vec<u32> = active.map(|segment| segment.id()).collect();
        drop(segments);
        places.extend(chosen.iter().map(|chosen| chosen.slot.place.segment));
        self.uncover(&places)?;
        for group in chosen.chunks(GROUP_COUNT_MAX) {
            self.turn_group(into, group, count)?;
        }
        Ok(())
    }

    /// Sees to it that no checkpoint covers these segments until the work is done.
    fn uncover(self: &Arc<Self>, segments: &[u32]) -> io::Result<()> {
        let mut is_news = false;
        for segment in segments {
            is_news |= self.uncovered.lock().insert(*segment);
        }
        if is_news {
            self.renew_checkpoint()?;
        }
        Ok(())
    }

    fn turn_group(
        self: &Arc<Self>,
        into: State,
        group: &[Chosen],
        count: &mut dyn FnMut(&Chosen, Turned),
    ) -> io::Result<()> {
        // Before `moving`: a writer that has a claim may have to make room.
        let mut last = None;
        let mut claims = Vec::with_capacity(group.len());
        for chosen in group {
            let first = last.replace(chosen.key) != Some(chosen.key);
            let claim = first
                .then(|| KeyClaim::take(self, chosen.key, into == State::Held))
                .flatten();
            claims.push((chosen, claim));
        }
        let _moving = self.moving.lock();
        if into == State::Live {
            // What was stored after these and is gone again must not come back and outdo them.
            if !self.catch_up() {
                return Err(io::Error::other("the disk failed to remove what is gone"));
            }
            self.sync_now();
            self.disk.sync_dir(&self.dir)?;
        }
        for (chosen, claim) in claims {
            let turned = match claim {
                None => Turned::Refused,
                Some(claim) => match self.still_there(chosen)? {
                    None => Turned::Gone,
                    Some(now) if into == State::Held => self.hold_one(chosen, &now),
                    Some(now) => self.release_one(chosen, &now, claim)?,
                },
            };
            count(chosen, turned);
        }
        Ok(())
    }

    /// Where a chosen record is now, if it has not been removed or replaced.
    fn still_there(self: &Arc<Self>, chosen: &Chosen) -> io::Result<Option<Slot>> {
        let Some(now) = self.index.peek(chosen.slot.hash) else {
            return Ok(None);
        };
        if now.place != chosen.slot.place && self.sequence_at(now.place) != Some(chosen.sequence) {
            return Ok(None);
        }
        self.uncover(&[now.place.segment])?;
        Ok(Some(now))
    }

    fn hold_one(&self, chosen: &Chosen, now: &Slot) -> Turned {
        if !self.index.remove(now.hash, now.place) {
            return Turned::Gone;
        }
        let hash = self.index.held_hash(chosen.key, chosen.sequence);
        self.index.restore(now.under(hash));
        self.mark_held(hash);
        Turned::Done
    }

    /// Says on the disk that a record is held; chores try again if the disk fails.
    pub(crate) fn mark_held(&self, hash: u128) {
        let Some(slot) = self.index.peek(hash) else {
            return;
        };
        if self.has_bug(Bug::ForgetToMark) {
            return;
        }
        if let Err(error) = self.write_state_at(slot.place, State::Held) {
            self.disk_failed("mark a record held", &error);
            self.unmarked.lock().push(hash);
        }
    }

    fn release_one(&self, chosen: &Chosen, now: &Slot, claim: KeyClaim<'_>) -> io::Result<Turned> {
        self.write_state_at(now.place, State::Live)?;
        if !self.index.remove(now.hash, now.place) {
            // A reader found it damaged. It is buried as a held one, and that would miss it now.
            self.unburied.lock().push((chosen.key, now.place));
            return Ok(Turned::Gone);
        }
        claim.settle_slot(now.under(chosen.key));
        Ok(Turned::Done)
    }

    fn write_state_at(&self, place: Place, state: State) -> io::Result<()> {
        match self.segment(place.segment) {
            Some(segment) => self.write_state(&segment, place, state),
            None => Ok(()),
        }
    }
}
