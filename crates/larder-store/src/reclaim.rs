//! Eviction: whole segments, oldest first, with a second chance.
//!
//! [`plan`] decides, from what lives in a segment, whether it can go and which entries are copied to
//! the active segment first: those that are firmly leased, because they were promised, and of those used
//! since they were written as many as the bound allows. The bound keeps write amplification below 1.25 and a
//! segment's eviction short. A segment in which too much is leased stays until the leases end.
//!
//! Anybody who reads may take yielding leases, of anything and again and again, so what they hold back is
//! bounded: an entry so leased is copied after those used, within the same bound, or else keeps its segment from
//! going, and segments kept by that alone take up at most an eighth of the pool. When they would take up more, or
//! when all segments stay, yielding leases count for no more than use. A write that does not find room even so is
//! refused.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::disk::{Wait, read_exact_at};
use crate::format::{
    Place, RECORD_HEADER_BYTES, RecordHeader, RecordKind, SEGMENT_HEADER_BYTES, STATE_OFFSET, Slot,
    State, TagKey,
};
use crate::lease::{self, Honour};
use crate::pool::{Bug, Event, Shared, StoreError};
use crate::segment::Segment;
use crate::walk::Walk;

/// Of a segment's bytes, at most one part in this many is copied because it was used.
const CARRY_PART: u64 = 5;
/// Of a segment's bytes, at most one part in this many is copied because it is firmly leased.
const LEASE_PART: u64 = 2;
/// Of the bytes the pool takes up, at most one part in this many stays because of yielding leases alone.
const YIELDING_PART: u64 = 8;
/// Of the bytes that are evicted, at most one part in this many more may go round again because they were used; saved
/// up to this part of the budget.
pub(crate) const RENEW_PART: u64 = 4;
/// How often, at most, a segment's entries are looked at again for leases taken since the last look. Only what cannot be
/// read comes up a third time.
const CARRY_ROUNDS_MAX: usize = 3;
/// Of the budget, at most one part in this many is evicted from under its readers.
const READERS_PART: u64 = 16;

/// An entry that lives in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resident {
    pub(crate) slot: Slot,
    pub(crate) record_bytes: u64,
    /// Live, or held; its copy is the same.
    pub(crate) state: State,
}

/// What to do with a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Copy these, then remove it.
    Evict { carry: Vec<Resident> },
    /// Its one entry is too large to copy but was used: let it go round again, if not too much does.
    Renew,
    /// Too much is leased until then, Unix seconds.
    Wait { until_s: u32 },
}

/// What a plan has to know of leases.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) now_s: u32,
    /// How long a lease lasts.
    pub(crate) lease_s: u32,
    /// The leases that count. An entry with another is one that was used.
    pub(crate) honour: Honour,
}

impl Terms {
    /// When an entry's lease ends, Unix seconds, if it has one that counts.
    fn leased_until_s(&self, slot: &Slot) -> Option<u32> {
        slot.promise.until(self.honour, self.now_s, self.lease_s)
    }

    /// Whether the entry has a lease that counts.
    fn is_leased(&self, slot: &Slot) -> bool {
        self.leased_until_s(slot).is_some()
    }

    fn honouring(self, honour: Honour) -> Self {
        Self { honour, ..self }
    }

    /// When the first of these leases ends, of those that count.
    fn first_end_s(&self, residents: &[&Resident]) -> u32 {
        let ends = residents
            .iter()
            .filter_map(|resident| self.leased_until_s(&resident.slot));
        ends.min().unwrap_or(self.now_s)
    }
}

/// Decides what to do with a segment of `segment_bytes` in which `residents` live.
pub(crate) fn plan(residents: &[Resident], segment_bytes: u64, terms: &Terms) -> Plan {
    if let [only] = residents
        && only.record_bytes > segment_bytes / LEASE_PART
    {
        return match (terms.leased_until_s(&only.slot), only.slot.is_used()) {
            (Some(until_s), _) => Plan::Wait { until_s },
            (None, true) => Plan::Renew,
            (None, false) => Plan::Evict { carry: Vec::new() },
        };
    }
    let (firm, rest): (Vec<&Resident>, Vec<&Resident>) = residents
        .iter()
        .partition(|resident| terms.honouring(Honour::Firm).is_leased(&resident.slot));
    let mut bytes: u64 = firm.iter().map(|resident| resident.record_bytes).sum();
    if bytes > segment_bytes / LEASE_PART {
        let until_s = terms.first_end_s(&firm);
        return Plan::Wait { until_s };
    }
    let mut carry: Vec<Resident> = firm.into_iter().copied().collect();
    let (yielding, rest): (Vec<&Resident>, Vec<&Resident>) = rest
        .into_iter()
        .partition(|resident| terms.honouring(Honour::All).is_leased(&resident.slot));
    let mut carry_if_it_fits = |resident: &Resident| {
        let fits = bytes + resident.record_bytes <= segment_bytes / CARRY_PART;
        if fits {
            bytes += resident.record_bytes;
            carry.push(*resident);
        }
        fits
    };
    for resident in rest.into_iter().filter(|resident| resident.slot.is_used()) {
        carry_if_it_fits(resident);
    }
    for resident in &yielding {
        let counts = terms.is_leased(&resident.slot);
        let carried = (counts || resident.slot.is_used()) && carry_if_it_fits(resident);
        if counts && !carried {
            let until_s = terms.first_end_s(&yielding);
            return Plan::Wait { until_s };
        }
    }
    Plan::Evict { carry }
}

impl Shared {
    /// Makes some room, unless by now there is room for `wanted` bytes. Returns how many bytes came free or will
    /// when their readers are done; 0 if nothing can go. With [`Honour::Firm`], which is for writes that would be
    /// refused otherwise, any number of yielding leases is broken if nothing else can go.
    pub(crate) fn reclaim_one(self: &Arc<Self>, wanted: u64, honour: Honour) -> u64 {
        let _moving = self.moving.lock();
        let used = self.space.used();
        if used.saturating_add(wanted) <= self.limit() {
            return wanted;
        }
        match self.evict_honouring(honour) {
            Ok(0) if honour == Honour::Firm => {
                // The active segment may hold what little there is. Chores leave it alone: they would cut a pool
                // in which much is leased into small pieces.
                self.seal_active();
                match self.evict_honouring(honour) {
                    Ok(0) => self.drop_outsized_checkpoint(),
                    freed => freed.unwrap_or(0),
                }
            }
            Ok(0) => self.drop_outsized_checkpoint(),
            freed => freed.unwrap_or(0),
        }
    }

    /// Evicts a segment in which all leases have ended, as far as the bound on yielding ones allows, or else one in
    /// which those to honour have.
    fn evict_honouring(self: &Arc<Self>, honour: Honour) -> io::Result<u64> {
        match (self.evict_oldest(Honour::All), honour) {
            (Ok(0) | Err(_), Honour::Firm) => self.evict_oldest(Honour::Firm),
            (freed, _) => freed,
        }
    }

    /// Evicts the oldest segment that can go. Returns how many bytes that frees. Needs [`Shared::moving`].
    fn evict_oldest(self: &Arc<Self>, honour: Honour) -> io::Result<u64> {
        loop {
            // Looking at a segment may have shown that one more is kept.
            let honour = if self.is_too_much_kept_by_yielding() {
                Honour::Firm
            } else {
                honour
            };
            let Some(segment) = self.oldest_evictable(honour) else {
                return Ok(0);
            };
            let bytes = segment.disk_bytes();
            let evicted = self
                .reclaim(&segment, honour)
                .inspect_err(|error| self.disk_failed("reclaim a segment", error))?;
            if evicted {
                self.earn_renewable(bytes / RENEW_PART);
                return Ok(bytes.max(1));
            }
        }
    }

    /// Lets that many more bytes go round again.
    fn earn_renewable(&self, bytes: u64) {
        let most = self.budget_bytes.load(Ordering::Relaxed) / RENEW_PART;
        let saved = self.renewable_bytes.load(Ordering::Relaxed);
        let saved = saved.saturating_add(bytes).min(most);
        self.renewable_bytes.store(saved, Ordering::Relaxed);
    }

    /// Whether that many bytes may go round again. Entries that are read or leased all the time would do so for ever,
    /// and newer ones go in their place.
    fn spend_renewable(&self, bytes: u64) -> bool {
        let saved = self.renewable_bytes.load(Ordering::Relaxed);
        let left = saved.checked_sub(bytes);
        self.renewable_bytes
            .store(left.unwrap_or(saved), Ordering::Relaxed);
        left.is_some()
    }

    /// Whether segments that stay because of yielding leases alone take up more than their part of the pool: newer
    /// ones, which nobody has had the time to lease, would have to go in their place.
    fn is_too_much_kept_by_yielding(&self) -> bool {
        let now_s = self.clock.now_s();
        let segments: Vec<_> = self.segments.read().values().cloned().collect();
        let kept = segments.iter().filter(|segment| {
            let stays = |honour| {
                let until_s = segment.leased_until_s(honour).load(Ordering::Relaxed);
                lease::lasts(until_s, now_s, self.lease_s)
            };
            stays(Honour::All) && !stays(Honour::Firm)
        });
        let kept_bytes: u64 = kept.map(|segment| segment.disk_bytes()).sum();
        kept_bytes > self.space.used() / YIELDING_PART
    }

    /// The oldest segment that nobody writes to and whose leases may have ended; of those that nobody reads, if
    /// there is one. What is evicted while it is read comes free only when its readers are done, so a few slow
    /// ones could drain the pool: together they hold on to a small part of it, and what more they read stays.
    fn oldest_evictable(&self, honour: Honour) -> Option<Arc<Segment>> {
        let now_s = self.clock.now_s();
        let budget = self.budget_bytes.load(Ordering::Relaxed);
        let left_to_readers = (budget / READERS_PART).saturating_sub(self.space.held_by_readers());
        let segments: Vec<_> = self.segments.read().values().cloned().collect();
        let evictable = segments.into_iter().filter(|segment| {
            let until_s = segment.leased_until_s(honour).load(Ordering::Relaxed);
            let is_leased = lease::lasts(until_s, now_s, self.lease_s);
            segment.is_idle()
                && !is_leased
                && (!segment.is_read() || segment.disk_bytes() <= left_to_readers)
        });
        evictable.min_by_key(|segment| (segment.is_read(), segment.age.load(Ordering::Relaxed)))
    }

    fn terms(&self, honour: Honour) -> Terms {
        Terms {
            now_s: self.clock.now_s(),
            lease_s: self.lease_s,
            honour,
        }
    }

    /// Evicts a segment, or finds that it has to stay. Needs [`Shared::moving`].
    fn reclaim(self: &Arc<Self>, segment: &Arc<Segment>, honour: Honour) -> io::Result<bool> {
        let Residents {
            residents,
            all_seen,
        } = self.residents(segment);
        let terms = self.terms(honour);
        let mut carry = match plan(&residents, segment.tail(), &terms) {
            Plan::Evict { carry } => carry,
            Plan::Renew if !self.spend_renewable(segment.disk_bytes()) => Vec::new(),
            Plan::Renew => {
                for resident in &residents {
                    self.index.forget_use(resident.slot.hash);
                }
                segment.age.store(self.next_age(), Ordering::Relaxed);
                return Ok(false);
            }
            Plan::Wait { until_s } => {
                let stay = |honour, until_s| {
                    let mark = segment.leased_until_s(honour);
                    mark.store(until_s, Ordering::Relaxed);
                };
                stay(honour, until_s);
                let firm = terms.honouring(Honour::Firm);
                if let Plan::Wait { until_s } = plan(&residents, segment.tail(), &firm) {
                    stay(Honour::Firm, until_s);
                }
                return Ok(false);
            }
        };
        self.outdate_checkpoint(segment)?;
        let (lived, mut pending) = (residents.len() as u64, residents);
        let mut carried = 0;
        for _ in 0..CARRY_ROUNDS_MAX {
            carried += self.carry_all(segment, &carry, honour)?;
            // What was leased while this went on has been promised as well.
            let terms = self.terms(honour);
            pending.retain_mut(|resident| {
                let leased = self.index.evict(&resident.slot, |now| terms.is_leased(now));
                leased.is_some_and(|slot| {
                    resident.slot = slot;
                    true
                })
            });
            if pending.is_empty() {
                break;
            }
            carry.clone_from(&pending);
        }
        for resident in &pending {
            self.index.remove(resident.slot.hash, resident.slot.place);
        }
        let mut evicted = lived.saturating_sub(carried);
        if !all_seen {
            evicted += self.index.forget_segment(segment.id());
        }
        self.counters
            .evicted_entries
            .fetch_add(evicted, Ordering::Relaxed);
        let (id, bytes) = (segment.id(), segment.disk_bytes());
        self.discard(segment);
        self.observe(&Event::Reclaimed {
            segment: id,
            bytes,
            evicted,
            carried,
        });
        Ok(true)
    }

    /// Copies entries and makes the copies durable. Returns how many there are.
    fn carry_all(
        self: &Arc<Self>,
        from: &Arc<Segment>,
        carry: &[Resident],
        honour: Honour,
    ) -> io::Result<u64> {
        let mut copies = Vec::new();
        let outcome = carry.iter().try_for_each(|resident| {
            copies.extend(self.carry(from, resident, honour)?);
            Ok(())
        });
        let mut durable = true;
        if !copies.is_empty() && !self.has_bug(Bug::ReclaimBeforeSync) {
            self.sync_now();
            durable = copies.iter().all(|(_, into)| into.is_sound());
        }
        if durable && outcome.is_err() {
            // The segment stays. A purge that finds the copies must not leave the originals behind.
            for (original, _) in &copies {
                let _ = self.write_state(from, *original, State::Dead);
            }
        }
        match (outcome, durable) {
            (Err(error), _) => Err(error),
            (Ok(()), false) => Err(io::Error::other("copies could not be synced")),
            (Ok(()), true) => Ok(copies.len() as u64),
        }
    }

    /// The entries that live in a segment, in order of place, as far as its records can be read.
    fn residents(&self, segment: &Segment) -> Residents {
        let mut residents = Vec::new();
        let mut walk = Walk::new(segment, SEGMENT_HEADER_BYTES, segment.tail());
        let walked = loop {
            match walk.next() {
                Err(error) => break Err(error),
                Ok(None) => break Ok(()),
                Ok(Some(found))
                    if found.header.kind != RecordKind::Entry || found.state == State::Dead => {}
                Ok(Some(found)) => {
                    let key = &walk.names()[..usize::from(found.header.key_bytes)];
                    let hash = self.index.hash(key);
                    let here = Place::new(segment.id(), found.offset);
                    let slot_of = |hash| self.index.peek(hash).filter(|slot| slot.place == here);
                    let record_bytes = found.header.record_bytes();
                    let resident = |slot, state| Resident {
                        slot,
                        record_bytes,
                        state,
                    };
                    let held = || slot_of(self.index.held_hash(hash, found.header.sequence));
                    let live = slot_of(hash).map(|slot| resident(slot, State::Live));
                    let found = live.or_else(|| held().map(|slot| resident(slot, State::Held)));
                    residents.extend(found);
                }
            }
        };
        if let Err(error) = &walked {
            self.disk_failed("read a segment", error);
        }
        let all_seen = walked.is_ok() && !walk.has_skipped();
        Residents {
            residents,
            all_seen,
        }
    }

    /// Copies an entry's record to the active segment. Returns where it was and the segment it is in now; `None`
    /// if it was gone, or cannot be copied.
    fn carry(
        self: &Arc<Self>,
        from: &Segment,
        resident: &Resident,
        honour: Honour,
    ) -> io::Result<Option<(Place, Arc<Segment>)>> {
        let slot = &resident.slot;
        let mut record = vec![0; resident.record_bytes as usize];
        if let Err(error) =
            read_exact_at(&*from.file, &mut record, slot.place.offset(), Wait::Allowed)
        {
            // Nobody else could read it either.
            self.disk_failed("read", &error);
            return Ok(None);
        }
        let Some(header) = verified_record(&record, &from.tag_key, slot) else {
            self.lose(slot);
            return Ok(None);
        };
        let extent = match self.reserve_privileged(resident.record_bytes) {
            Ok(extent) => extent,
            Err(StoreError::NoRoom) if !self.terms(honour).is_leased(slot) => {
                return Ok(None);
            }
            Err(StoreError::Io(error)) => return Err(error),
            Err(error) => return Err(io::Error::other(error)),
        };
        let names_end = header.body_start() as usize;
        let (key, metadata) =
            record[RECORD_HEADER_BYTES..names_end].split_at(usize::from(header.key_bytes));
        let mut head = header.encode(&extent.segment.tag_key, extent.start, key, metadata);
        head[STATE_OFFSET as usize..][..4].copy_from_slice(&resident.state.encode());
        extent.write(&[&head, &record[RECORD_HEADER_BYTES..]], 0)?;
        if !self.index.relocate(slot.hash, slot.place, extent.place()) {
            return Ok(None);
        }
        self.counters
            .carried_bytes
            .fetch_add(resident.record_bytes, Ordering::Relaxed);
        let into = Arc::clone(&extent.segment);
        extent.land();
        Ok(Some((slot.place, into)))
    }
}

struct Residents {
    residents: Vec<Resident>,
    /// False if something could not be read, so that the index may know entries that are not listed.
    all_seen: bool,
}

/// The header of a record that is in `record` whole, if all of it verifies.
pub(crate) fn verified_record(
    record: &[u8],
    tag_key: &TagKey,
    slot: &Slot,
) -> Option<RecordHeader> {
    let header = RecordHeader::decode(record)?.header;
    let names_end = usize::try_from(header.body_start()).ok()?;
    let names = record.get(RECORD_HEADER_BYTES..names_end)?;
    let mut checksums = crate::checksums::Checksums::default();
    let body_end = names_end + usize::try_from(header.body_bytes).ok()?;
    checksums.update(record.get(names_end..body_end)?);
    let mut table = Vec::new();
    let crc = checksums.finish(&mut table);
    let fits = header.tag_fits(record, tag_key, slot.place.offset(), names)
        && crc == header.body_crc
        && record.get(body_end..body_end + table.len())? == table;
    fits.then_some(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Lease;

    // Multiples of what leases are counted in.
    const NOW_S: u32 = 16_000;
    const LEASE_S: u32 = 3600;
    const ALL: Terms = Terms {
        now_s: NOW_S,
        lease_s: LEASE_S,
        honour: Honour::All,
    };
    const FIRM: Terms = Terms {
        honour: Honour::Firm,
        ..ALL
    };

    fn resident(unit: u32, record_bytes: u64, used: bool) -> Resident {
        let place = Place { segment: 1, unit };
        let mut slot = Slot::new(u128::from(unit), place, record_bytes, 0);
        slot.set_used(used);
        Resident {
            slot,
            record_bytes,
            state: State::Live,
        }
    }

    impl Resident {
        fn leased(mut self, lease: Lease, at_s: u32) -> Self {
            self.slot.promise = self.slot.promise.with(lease, at_s, LEASE_S);
            self
        }
    }

    #[test]
    fn what_was_never_used_goes() {
        let residents = [resident(1, 100, false), resident(2, 100, false)];
        assert_eq!(plan(&residents, 1000, &ALL), Plan::Evict { carry: vec![] });
    }

    #[test]
    fn what_was_used_is_carried_up_to_a_fifth_of_the_segment() {
        let residents: Vec<_> = (1..=10).map(|unit| resident(unit, 100, true)).collect();
        let expected = Plan::Evict {
            carry: residents[..2].to_vec(),
        };
        assert_eq!(plan(&residents, 1000, &ALL), expected);
    }

    #[test]
    fn what_is_leased_is_carried_before_what_was_used() {
        let residents = [
            resident(1, 100, true),
            resident(2, 200, true).leased(Lease::Firm, NOW_S - LEASE_S + 1),
            resident(3, 200, false).leased(Lease::Firm, NOW_S - LEASE_S),
        ];
        let expected = Plan::Evict {
            carry: vec![residents[1]],
        };
        assert_eq!(plan(&residents, 1000, &ALL), expected);
    }

    #[test]
    fn a_segment_that_is_mostly_leased_waits_for_the_first_lease_to_end() {
        let residents: Vec<_> = (1..=6)
            .map(|unit| resident(unit, 100, true).leased(Lease::Firm, NOW_S - 16 * unit))
            .collect();
        let expected = Plan::Wait {
            until_s: NOW_S - 16 * 6 + LEASE_S,
        };
        assert_eq!(plan(&residents, 1000, &ALL), expected);
    }

    #[test]
    fn a_lease_taken_with_a_clock_that_was_years_ahead_is_none() {
        let residents = [
            resident(1, 600, false).leased(Lease::Firm, NOW_S * 1000),
            resident(2, 10, false).leased(Lease::Firm, NOW_S + 1),
        ];
        let expected = Plan::Evict {
            carry: vec![residents[1]],
        };
        assert_eq!(plan(&residents, 1000, &ALL), expected);
    }

    #[test]
    fn an_entry_with_a_segment_of_its_own_goes_round_again_if_it_was_used() {
        let used = [resident(1, 900, true)];
        assert_eq!(plan(&used, 1000, &ALL), Plan::Renew);
        let unused = [resident(1, 900, false)];
        assert_eq!(plan(&unused, 1000, &ALL), Plan::Evict { carry: vec![] });
        let leased = [resident(1, 900, true).leased(Lease::Firm, NOW_S)];
        assert_eq!(
            plan(&leased, 1000, &ALL),
            Plan::Wait {
                until_s: NOW_S + LEASE_S
            }
        );
    }

    #[test]
    fn what_yieldingly_leased_entries_cannot_be_copied_like_used_ones_keeps_its_segment_until_that_is_too_much()
     {
        let leased = |unit, bytes, lease| resident(unit, bytes, true).leased(lease, NOW_S);
        let firm = |unit, bytes| leased(unit, bytes, Lease::Firm);
        let yielding = |unit, bytes| leased(unit, bytes, Lease::Yielding);
        let both = |unit, bytes| firm(unit, bytes).leased(Lease::Yielding, NOW_S);
        let wait = || Plan::Wait {
            until_s: NOW_S + LEASE_S,
        };
        let evict = |carry: &[Resident]| Plan::Evict {
            carry: carry.to_vec(),
        };
        let table = [
            // What lives there, what happens at first, and what if yielding leases count no more.
            (vec![yielding(1, 600)], wait(), Plan::Renew),
            (vec![firm(1, 600)], wait(), wait()),
            (vec![both(1, 600)], wait(), wait()),
            (vec![yielding(1, 300), yielding(2, 300)], wait(), evict(&[])),
            (vec![firm(1, 300), both(2, 300)], wait(), wait()),
            (
                vec![yielding(1, 300), firm(2, 300)],
                wait(),
                evict(&[firm(2, 300)]),
            ),
            (
                vec![yielding(1, 150), resident(2, 100, true)],
                wait(),
                evict(&[resident(2, 100, true)]),
            ),
            (
                vec![yielding(1, 100), resident(2, 100, true)],
                evict(&[resident(2, 100, true), yielding(1, 100)]),
                evict(&[resident(2, 100, true), yielding(1, 100)]),
            ),
            (
                vec![yielding(1, 100), yielding(2, 150), firm(3, 100)],
                wait(),
                evict(&[firm(3, 100), yielding(1, 100)]),
            ),
            (
                vec![firm(1, 450), yielding(2, 10)],
                wait(),
                evict(&[firm(1, 450)]),
            ),
        ];
        for (number, (residents, at_first, at_last)) in table.into_iter().enumerate() {
            assert_eq!(plan(&residents, 1000, &ALL), at_first, "row {number}");
            assert_eq!(plan(&residents, 1000, &FIRM), at_last, "row {number}");
        }
    }

    #[test]
    fn a_yielding_lease_outlasts_the_firm_one_it_was_taken_behind() {
        let firm = resident(1, 600, false).leased(Lease::Firm, NOW_S - LEASE_S);
        let both = firm.leased(Lease::Yielding, NOW_S - 16);
        assert_eq!(plan(&[firm], 1000, &ALL), Plan::Evict { carry: vec![] });
        assert!(
            matches!(plan(&[both], 1000, &ALL), Plan::Wait { until_s } if until_s >= NOW_S + LEASE_S - 16)
        );
        assert_eq!(plan(&[both], 1000, &FIRM), Plan::Evict { carry: vec![] });
    }
}
