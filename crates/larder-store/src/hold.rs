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
//! - What [`Pool::hold`] has found is out of sight within a second, while it goes on looking. When it returns without an error, nothing that it held is found again, also after a power cut.

use std::cmp::Reverse;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::disk::Wait;
use crate::format::{Place, Slot, State};
use crate::pool::{Bug, Pool, Shared, StoreError};
use crate::read::{Doubt, Entry, Head, Standing};
use crate::survey::{RecordHead, all_read};
use crate::write::KeyClaim;

/// So many are chosen to be held before their states are changed: 4 MiB of memory.
const HOLD_CHOSEN_COUNT_MAX: usize = 65_536;
/// For so long what was chosen to be held is served on while others are looked for. On a cold disk that takes minutes, and what
/// was found first is as bad as what is found last.
const HOLD_DELAY_MS_MAX: u64 = 500;
/// So many may be chosen to be released: 64 MiB of memory. All are known before the first is released, because of several of a
/// key it has to be the newest.
const RELEASE_CHOSEN_COUNT_MAX: usize = 1 << 20;
/// So many states are changed at a time. Writers of these keys wait for as long, and whoever has to make room.
const HOLD_GROUP_COUNT_MAX: usize = 64;
/// Before each group of these the disk is synced. Nobody writes these keys, or they would have an entry.
const RELEASE_GROUP_COUNT_MAX: usize = 1024;

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
    /// evidence. Of several of a key it is the newest. When it returns that is durable. More than a million at once are
    /// [`StoreError::TooMany`], and nothing is changed.
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

/// A change of states under way.
struct Turning<'t> {
    shared: &'t Arc<Shared>,
    into: State,
    dry_run: bool,
    /// What waits to be changed.
    chosen: Vec<Chosen>,
    first_chosen_ms: u64,
    count: &'t mut dyn FnMut(&Chosen, Turned),
}

impl Turning<'_> {
    /// Another record was looked at, and perhaps chosen.
    fn go_on(&mut self, chosen: Option<(&Slot, &Head)>) -> Result<(), StoreError> {
        if let Some((slot, head)) = chosen {
            if self.chosen.is_empty() {
                self.first_chosen_ms = self.shared.clock.now_ms();
            }
            self.chosen.push(Chosen {
                key: self.shared.index.hash(head.key()),
                slot: *slot,
                sequence: head.header.sequence,
                body_bytes: head.header.body_bytes,
            });
        }
        if self.into == State::Live {
            if self.chosen.len() > RELEASE_CHOSEN_COUNT_MAX {
                return Err(StoreError::TooMany {
                    limit: RELEASE_CHOSEN_COUNT_MAX as u64,
                });
            }
            return Ok(());
        }
        let is_late = || {
            let now_ms = self.shared.clock.now_ms();
            now_ms.saturating_sub(self.first_chosen_ms) >= HOLD_DELAY_MS_MAX
        };
        if self.chosen.len() >= HOLD_CHOSEN_COUNT_MAX || (!self.chosen.is_empty() && is_late()) {
            self.finish()?;
        }
        Ok(())
    }

    /// Changes the states of what was chosen up to now.
    fn finish(&mut self) -> io::Result<()> {
        let mut chosen = std::mem::take(&mut self.chosen);
        if chosen.is_empty() {
            return Ok(());
        }
        // Of the held records of one key the newest comes first, and is the one to be released.
        chosen.sort_unstable_by_key(|chosen| (chosen.key, Reverse(chosen.sequence)));
        if self.dry_run {
            self.only_count(&chosen);
            return Ok(());
        }
        // All of them at once, or each batch would save the whole index again; also those to which records are carried meanwhile.
        let segments: Vec<u32> = self.shared.segments.read().keys().copied().collect();
        self.shared.uncover(&segments)?;
        let group_count_max = match self.into {
            State::Live => RELEASE_GROUP_COUNT_MAX,
            State::Held | State::Dead => HOLD_GROUP_COUNT_MAX,
        };
        for group in chosen.chunks(group_count_max) {
            self.shared.turn_group(self.into, group, self.count)?;
        }
        Ok(())
    }

    fn only_count(&mut self, chosen: &[Chosen]) {
        let mut last = None;
        for chosen in chosen {
            let taken = self.into == State::Live
                && (last.replace(chosen.key) == Some(chosen.key)
                    || self.shared.index.peek(chosen.key).is_some());
            let turned = if taken { Turned::Refused } else { Turned::Done };
            (self.count)(chosen, turned);
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
        let mut turning = Turning {
            shared: self,
            into,
            dry_run,
            chosen: Vec::new(),
            first_chosen_ms: 0,
            count,
        };
        let mut failed = None;
        let unread = self.survey(
            &mut |slot, _, head, standing| {
                if failed.is_some() {
                    return;
                }
                let is_chosen = choose(&RecordHead::of(head, standing));
                failed = turning.go_on(is_chosen.then_some((slot, head))).err();
            },
            progress,
        );
        let turned = match failed {
            Some(error) => Err(error),
            None => turning.finish().map_err(StoreError::from),
        };
        self.uncovered.lock().clear();
        turned?;
        if !dry_run {
            self.make_removals_durable()?;
        }
        all_read(unread)?;
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
        if into == State::Live {
            self.catch_up();
        }
        let _moving = self.moving.lock();
        if into == State::Live {
            // What was stored after these and is gone again must not come back and outdo them.
            if !self.has_caught_up() {
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
