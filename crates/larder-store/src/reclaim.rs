//! Eviction: whole segments, oldest first, with a second chance.
//!
//! [`plan`] decides, from what lives in a segment, whether it can go and which entries are copied to
//! the active segment first: those that are leased, because they were promised, and of those used
//! since they were written as many as the bound allows. The bound keeps write amplification below 1.25 and a
//! segment's eviction short. A segment in which too much is leased stays until the leases end;
//! if all do, the write that wanted the space is refused.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::disk::{Wait, read_exact_at};
use crate::format::{
    Place, RECORD_HEADER_BYTES, RecordHeader, RecordKind, SEGMENT_HEADER_BYTES, STATE_DEAD,
    STATE_OFFSET, Slot, TagKey,
};
use crate::pool::{Bug, Event, Shared, StoreError};
use crate::segment::Segment;
use crate::walk::Walk;

/// Of a segment's bytes, at most one part in this many is copied because it was used.
const CARRY_PART: u64 = 5;
/// Of a segment's bytes, at most one part in this many is copied because it is leased.
const LEASE_PART: u64 = 2;
/// Of the budget, at most one part in this many is evicted from under its readers.
const READERS_PART: u64 = 16;

/// An entry that lives in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resident {
    pub(crate) slot: Slot,
    pub(crate) record_bytes: u64,
}

/// What to do with a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Copy these, then remove it.
    Evict { carry: Vec<Resident> },
    /// Its one entry is too large to copy but was used: let it go round again.
    Renew,
    /// Too much is leased until then, Unix seconds.
    Wait { until_s: u32 },
}

/// When an entry's lease ends, Unix seconds.
fn lease_end(slot: &Slot, lease_s: u32) -> u32 {
    slot.leased_at_s.saturating_add(lease_s)
}

/// Whether an entry is leased. One that will be leased for more than twice as long as a lease lasts was leased with a
/// clock that was wrong.
fn is_leased(slot: &Slot, now_s: u32, lease_s: u32) -> bool {
    slot.leased_at_s > 0
        && lease_end(slot, lease_s) > now_s
        && slot.leased_at_s <= now_s.saturating_add(lease_s)
}

/// Decides what to do with a segment of `segment_bytes` in which `residents` live.
pub(crate) fn plan(residents: &[Resident], segment_bytes: u64, now_s: u32, lease_s: u32) -> Plan {
    let lease_end = |resident: &Resident| lease_end(&resident.slot, lease_s);
    let is_leased = |resident: &&Resident| is_leased(&resident.slot, now_s, lease_s);
    if let [only] = residents
        && only.record_bytes > segment_bytes / LEASE_PART
    {
        return match (is_leased(&only), only.slot.is_used()) {
            (true, _) => Plan::Wait {
                until_s: lease_end(only),
            },
            (false, true) => Plan::Renew,
            (false, false) => Plan::Evict { carry: Vec::new() },
        };
    }
    let (leased, rest): (Vec<&Resident>, Vec<&Resident>) = residents.iter().partition(is_leased);
    let mut bytes: u64 = leased.iter().map(|resident| resident.record_bytes).sum();
    if bytes > segment_bytes / LEASE_PART {
        let until_s = leased
            .iter()
            .map(|resident| lease_end(resident))
            .min()
            .unwrap_or(now_s);
        return Plan::Wait { until_s };
    }
    let mut carry: Vec<Resident> = leased.into_iter().copied().collect();
    for resident in rest.into_iter().filter(|resident| resident.slot.is_used()) {
        if bytes + resident.record_bytes <= segment_bytes / CARRY_PART {
            bytes += resident.record_bytes;
            carry.push(*resident);
        }
    }
    Plan::Evict { carry }
}

impl Shared {
    /// Makes some room, unless by now there is room for `wanted` bytes. Returns how many bytes came free or will
    /// when their readers are done; 0 if nothing can go.
    pub(crate) fn reclaim_one(self: &Arc<Self>, wanted: u64) -> u64 {
        let _moving = self.moving.lock();
        let used = self.space.used();
        if used.saturating_add(wanted) <= self.limit() {
            return wanted;
        }
        let mut sealed_active = false;
        loop {
            let Some(segment) = self.oldest_evictable() else {
                // The active segment may hold what little there is.
                if sealed_active {
                    return self.drop_outsized_checkpoint();
                }
                self.seal_active();
                sealed_active = true;
                continue;
            };
            let bytes = segment.disk_bytes();
            match self.reclaim(&segment) {
                Ok(true) => return bytes.max(1),
                Ok(false) => {}
                Err(error) => {
                    self.disk_failed("reclaim a segment", &error);
                    return 0;
                }
            }
        }
    }

    /// The oldest segment that nobody writes to and whose leases may have ended; of those that nobody reads, if
    /// there is one. What is evicted while it is read comes free only when its readers are done, so a few slow
    /// ones could drain the pool: together they hold on to a small part of it, and what more they read stays.
    fn oldest_evictable(&self) -> Option<Arc<Segment>> {
        let now_s = self.clock.now_s();
        let budget = self.budget_bytes.load(Ordering::Relaxed);
        let left_to_readers = (budget / READERS_PART).saturating_sub(self.space.held_by_readers());
        let segments: Vec<_> = self.segments.read().values().cloned().collect();
        let evictable = segments.into_iter().filter(|segment| {
            let until_s = segment.leased_until_s.load(Ordering::Relaxed);
            // A clock that was set back must not make leases longer than they are.
            let is_leased =
                until_s > now_s && until_s <= now_s.saturating_add(self.lease_s.saturating_mul(2));
            segment.is_idle()
                && !is_leased
                && (!segment.is_read() || segment.disk_bytes() <= left_to_readers)
        });
        evictable.min_by_key(|segment| (segment.is_read(), segment.age.load(Ordering::Relaxed)))
    }

    /// Evicts a segment, or finds that it has to stay. Needs [`Shared::moving`].
    fn reclaim(self: &Arc<Self>, segment: &Arc<Segment>) -> io::Result<bool> {
        let Residents {
            residents,
            all_seen,
        } = self.residents(segment);
        let now_s = self.clock.now_s();
        let mut carry = match plan(&residents, segment.tail(), now_s, self.lease_s) {
            Plan::Evict { carry } => carry,
            Plan::Renew => {
                for resident in &residents {
                    self.index.forget_use(resident.slot.hash);
                }
                segment.age.store(self.next_age(), Ordering::Relaxed);
                return Ok(false);
            }
            Plan::Wait { until_s } => {
                segment.leased_until_s.store(until_s, Ordering::Relaxed);
                return Ok(false);
            }
        };
        self.outdate_checkpoint(segment)?;
        let mut carried = 0;
        loop {
            carried += self.carry_all(segment, &carry)?;
            // What was leased while this went on has been promised as well.
            let leased = residents.iter().filter_map(|resident| {
                let slot = self.index.evict(&resident.slot)?;
                Some(Resident { slot, ..*resident })
            });
            carry = leased.collect();
            if carry.is_empty() {
                break;
            }
        }
        let mut evicted = (residents.len() as u64).saturating_sub(carried);
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
    fn carry_all(self: &Arc<Self>, from: &Arc<Segment>, carry: &[Resident]) -> io::Result<u64> {
        let mut copies = Vec::new();
        let outcome = carry.iter().try_for_each(|resident| {
            copies.extend(self.carry(from, resident)?);
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
                let _ = from
                    .file
                    .write_at(&[&STATE_DEAD], original.offset() + STATE_OFFSET);
            }
            self.sync.mark(from);
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
                Ok(Some(found)) if found.header.kind != RecordKind::Entry || !found.live => {}
                Ok(Some(found)) => {
                    let key = &walk.names()[..usize::from(found.header.key_bytes)];
                    let slot = self.index.peek(self.index.hash(key));
                    let here = Place::new(segment.id(), found.offset);
                    if let Some(slot) = slot.filter(|slot| slot.place == here) {
                        let record_bytes = found.header.record_bytes();
                        residents.push(Resident { slot, record_bytes });
                    }
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
            Err(StoreError::NoRoom) if !is_leased(slot, self.clock.now_s(), self.lease_s) => {
                return Ok(None);
            }
            Err(StoreError::Io(error)) => return Err(error),
            Err(error) => return Err(io::Error::other(error)),
        };
        let names_end = header.body_start() as usize;
        let (key, metadata) =
            record[RECORD_HEADER_BYTES..names_end].split_at(usize::from(header.key_bytes));
        let head = header.encode(&extent.segment.tag_key, extent.start, key, metadata);
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
    let mut checksums = crate::write::Checksums::default();
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

    const NOW_S: u32 = 10_000;
    const LEASE_S: u32 = 3600;

    fn resident(unit: u32, record_bytes: u64, used: bool, leased_at_s: u32) -> Resident {
        let mut slot = Slot::new(u128::from(unit), Place { segment: 1, unit }, record_bytes);
        slot.set_used(used);
        slot.leased_at_s = leased_at_s;
        Resident { slot, record_bytes }
    }

    #[test]
    fn what_was_never_used_goes() {
        let residents = [resident(1, 100, false, 0), resident(2, 100, false, 0)];
        assert_eq!(
            plan(&residents, 1000, NOW_S, LEASE_S),
            Plan::Evict { carry: vec![] }
        );
    }

    #[test]
    fn what_was_used_is_carried_up_to_a_fifth_of_the_segment() {
        let residents: Vec<_> = (1..=10).map(|unit| resident(unit, 100, true, 0)).collect();
        let expected = Plan::Evict {
            carry: residents[..2].to_vec(),
        };
        assert_eq!(plan(&residents, 1000, NOW_S, LEASE_S), expected);
    }

    #[test]
    fn what_is_leased_is_carried_before_what_was_used() {
        let residents = [
            resident(1, 100, true, 0),
            resident(2, 200, true, NOW_S - LEASE_S + 1),
            resident(3, 200, false, NOW_S - LEASE_S),
        ];
        let expected = Plan::Evict {
            carry: vec![residents[1]],
        };
        assert_eq!(plan(&residents, 1000, NOW_S, LEASE_S), expected);
    }

    #[test]
    fn a_segment_that_is_mostly_leased_waits_for_the_first_lease_to_end() {
        let residents: Vec<_> = (1..=6)
            .map(|unit| resident(unit, 100, true, NOW_S - unit))
            .collect();
        let expected = Plan::Wait {
            until_s: NOW_S - 6 + LEASE_S,
        };
        assert_eq!(plan(&residents, 1000, NOW_S, LEASE_S), expected);
    }

    #[test]
    fn a_lease_taken_with_a_clock_that_was_years_ahead_is_none() {
        let residents = [
            resident(1, 600, false, NOW_S * 1000),
            resident(2, 10, false, NOW_S + 1),
        ];
        let expected = Plan::Evict {
            carry: vec![residents[1]],
        };
        assert_eq!(plan(&residents, 1000, NOW_S, LEASE_S), expected);
    }

    #[test]
    fn an_entry_with_a_segment_of_its_own_goes_round_again_if_it_was_used() {
        let used = [resident(1, 900, true, 0)];
        assert_eq!(plan(&used, 1000, NOW_S, LEASE_S), Plan::Renew);
        let unused = [resident(1, 900, false, 0)];
        assert_eq!(
            plan(&unused, 1000, NOW_S, LEASE_S),
            Plan::Evict { carry: vec![] }
        );
        let leased = [resident(1, 900, true, NOW_S)];
        assert_eq!(
            plan(&leased, 1000, NOW_S, LEASE_S),
            Plan::Wait {
                until_s: NOW_S + LEASE_S
            }
        );
    }
}
