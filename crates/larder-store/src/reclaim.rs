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

/// Decides what to do with a segment of `segment_bytes` in which `residents` live.
pub(crate) fn plan(residents: &[Resident], segment_bytes: u64, now_s: u32, lease_s: u32) -> Plan {
    let lease_end = |resident: &Resident| resident.slot.leased_at_s.saturating_add(lease_s);
    let is_leased =
        |resident: &&Resident| resident.slot.leased_at_s > 0 && lease_end(resident) > now_s;
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
    /// Makes some room, unless by now there is room for `wanted` bytes. False if nothing can go.
    pub(crate) fn reclaim_one(self: &Arc<Self>, wanted: u64) -> bool {
        let _moving = self.moving.lock();
        let used = self.space.used();
        if used + wanted <= self.limit(used) {
            return true;
        }
        let mut sealed_active = false;
        loop {
            let Some(segment) = self.oldest_evictable() else {
                // The active segment may hold what little there is.
                if sealed_active {
                    return false;
                }
                self.seal_active();
                sealed_active = true;
                continue;
            };
            match self.reclaim(&segment) {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => {
                    self.disk_failed("reclaim a segment", &error);
                    return false;
                }
            }
        }
    }

    /// The oldest segment that nobody writes to and whose leases may have ended; of those that nobody reads, if
    /// there is one, since the space of the others comes free only when their readers are done.
    fn oldest_evictable(&self) -> Option<Arc<Segment>> {
        let now_s = self.clock.now_s();
        let segments = self.segments.read();
        let evictable = segments.values().filter(|segment| {
            segment.is_idle() && segment.leased_until_s.load(Ordering::Relaxed) <= now_s
        });
        evictable
            .min_by_key(|segment| {
                let is_read =
                    Arc::strong_count(segment) > 1 && !segment.dirty.load(Ordering::Relaxed);
                (is_read, segment.age.load(Ordering::Relaxed))
            })
            .cloned()
    }

    /// Evicts a segment, or finds that it has to stay. Needs [`Shared::moving`].
    fn reclaim(self: &Arc<Self>, segment: &Arc<Segment>) -> io::Result<bool> {
        let residents = self.residents(segment)?;
        let now_s = self.clock.now_s();
        let carry = match plan(&residents, segment.tail(), now_s, self.lease_s) {
            Plan::Evict { carry } => carry,
            Plan::Renew => {
                for resident in &residents {
                    self.index.forget_use(resident.slot.hash);
                }
                let age = self.next_segment.fetch_add(1, Ordering::Relaxed);
                segment.renew(u64::from(age));
                return Ok(false);
            }
            Plan::Wait { until_s } => {
                segment.leased_until_s.store(until_s, Ordering::Relaxed);
                return Ok(false);
            }
        };
        self.outdate_checkpoint(segment)?;
        let carried = self.carry_all(segment, &carry)?;
        let evicted = residents.iter().map(|resident| resident.slot);
        let evicted = evicted
            .filter(|slot| self.index.remove(slot.hash, slot.place))
            .count() as u64;
        self.counters
            .evicted_entries
            .fetch_add(evicted, Ordering::Relaxed);
        self.discard(segment);
        let (id, bytes) = (segment.id(), segment.disk_bytes());
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
        let mut moved = Vec::new();
        let copied = carry.iter().try_for_each(|resident| {
            if self.carry(from, resident)? {
                moved.push(resident.slot.place);
            }
            Ok(())
        });
        let synced = copied.and_then(|()| {
            if moved.is_empty() || self.has_bug(Bug::ReclaimBeforeSync) {
                return Ok(());
            }
            self.sync.sync()
        });
        if synced.is_err() {
            // The segment stays. A purge that finds the copies must not leave the originals behind.
            for place in &moved {
                let _ = from
                    .file
                    .write_at(&[&STATE_DEAD], place.offset() + STATE_OFFSET);
            }
            self.sync.mark(from);
        }
        synced.map(|()| moved.len() as u64)
    }

    /// The entries that live in a segment, in order of place.
    fn residents(&self, segment: &Segment) -> io::Result<Vec<Resident>> {
        let mut residents = Vec::new();
        let mut walk = Walk::new(segment, SEGMENT_HEADER_BYTES, segment.tail());
        while let Some(found) = walk.next()? {
            if found.header.kind != RecordKind::Entry || !found.live {
                continue;
            }
            let key = &walk.names()[..usize::from(found.header.key_bytes)];
            let slot = self.index.peek(self.index.hash(key));
            let here = Place::new(segment.id(), found.offset);
            if let Some(slot) = slot.filter(|slot| slot.place == here) {
                residents.push(Resident {
                    slot,
                    record_bytes: found.header.record_bytes(),
                });
            }
        }
        Ok(residents)
    }

    /// Copies an entry's record to the active segment. False if it was gone, or not worth copying.
    fn carry(self: &Arc<Self>, from: &Segment, resident: &Resident) -> io::Result<bool> {
        let slot = &resident.slot;
        let mut record = vec![0; resident.record_bytes as usize];
        read_exact_at(&*from.file, &mut record, slot.place.offset(), Wait::Allowed)?;
        let Some(header) = verified_record(&record, &from.tag_key, slot) else {
            self.lose(slot);
            return Ok(false);
        };
        let extent = match self.reserve_privileged(resident.record_bytes) {
            Ok(extent) => extent,
            // An unkept promise is what the leases of this segment must not end in.
            Err(StoreError::NoRoom) if slot.leased_at_s == 0 => return Ok(false),
            Err(StoreError::Io(error)) => return Err(error),
            Err(error) => return Err(io::Error::other(error)),
        };
        let names_end = header.body_start() as usize;
        let (key, metadata) =
            record[RECORD_HEADER_BYTES..names_end].split_at(usize::from(header.key_bytes));
        let head = header.encode(&extent.segment.tag_key, extent.start, key, metadata);
        extent.write(&[&head, &record[RECORD_HEADER_BYTES..]], 0)?;
        let moved = self.index.relocate(slot.hash, slot.place, extent.place());
        if moved {
            self.counters
                .carried_bytes
                .fetch_add(resident.record_bytes, Ordering::Relaxed);
            extent.land();
        }
        Ok(moved)
    }
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
