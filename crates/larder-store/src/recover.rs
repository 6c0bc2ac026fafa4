//! Opening a pool: the checkpoint, then the log behind it.
//!
//! Records behind the checkpoint are verified whole, bodies included, since after a power cut a
//! header may have reached the disk without its body. Of two records of a key the one with the
//! greater sequence counts; of two copies of one record, the one in the newer segment. Every
//! segment is sealed and cut behind its last record; writing goes on in a new one.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use crate::checkpoint;
use crate::disk::{Disk, Wait, read_exact_at};
use crate::format::{
    HeaderError, Place, RecordKind, SEGMENT_HEADER_BYTES, SegmentHeader, Slot, State,
    TOMBSTONE_BYTES,
};
use crate::index::Index;
use crate::pool::{Counters, Event, OpenError, PoolOptions, Random, Shared};
use crate::reclaim::RENEW_PART;
use crate::segment::{self, Segment};
use crate::space::Space;
use crate::sync::GroupSync;
use crate::upkeep::Chores;
use crate::walk::{Found, Walk};
use crate::write::ActiveSegment;

struct Tombstone {
    place: Place,
    hash: u128,
    sequence: u64,
}

/// Opens the pool in `dir`.
pub(crate) fn open(
    disk: Arc<dyn Disk>,
    dir: &Path,
    options: PoolOptions,
) -> Result<Arc<Shared>, OpenError> {
    let failed = |context: &str, source: io::Error| OpenError::Io {
        context: format!("cannot {context} {}", dir.display()),
        source,
    };
    let began_ms = options.clock.now_ms();
    disk.create_dir(dir)
        .map_err(|error| failed("create", error))?;
    let space = Arc::new(Space::default());
    let OpenedSegments {
        segments,
        last_id,
        unread,
    } = open_segments(&*disk, dir, &space, &options)?;
    let keep = |slot: &Slot| {
        let segment = segments.get(&slot.place.segment);
        segment.is_some_and(|segment| slot.place.offset() < segment.capacity())
    };
    let loaded = checkpoint::load(&*disk, dir, &keep)
        .map_err(|error| failed("load the checkpoint in", error))?;
    let random = Random::new(options.seed);
    let hash_key = random
        .bytes()
        .map_err(|error| failed("get random numbers for", error))?;
    let file_bytes = loaded.as_ref().map(|loaded| loaded.file_bytes);
    let (index, covered, next_sequence, next_segment) = match loaded {
        Some(loaded) => (
            loaded.index,
            loaded.covered,
            loaded.next_sequence,
            loaded.next_segment,
        ),
        None => (Index::new(hash_key), Vec::new(), 1, 1),
    };
    let next_segment = next_segment.max(last_id.saturating_add(1));
    let from_checkpoint = index.len();
    let shared = Arc::new(Shared {
        disk,
        dir: dir.into(),
        durability: options.durability,
        lease_s: u32::try_from(options.lease.as_secs()).unwrap_or(u32::MAX),
        free_reserve_bytes: options.free_reserve_bytes,
        reserved_for_others: options.reserved_for_others,
        clock: options.clock,
        observer: options.observer,
        random,
        budget_bytes: AtomicU64::new(options.budget_bytes),
        index,
        segments: RwLock::new(segments),
        active: ActiveSegment::default(),
        sync: GroupSync::default(),
        next_segment: AtomicU32::new(next_segment),
        // Segments that exist are as old as their ids.
        next_age: AtomicU64::new(u64::from(next_segment)),
        next_sequence: AtomicU64::new(next_sequence),
        moving: Mutex::new(()),
        renewable_bytes: AtomicU64::new(options.budget_bytes / RENEW_PART),
        chores: Mutex::new(Chores::new(began_ms)),
        chore_due: Mutex::new(false),
        chore_due_changed: Condvar::new(),
        checkpoint_claim: Mutex::new(file_bytes.map(|bytes| space.take_existing(bytes))),
        space,
        unburied: Mutex::new(Vec::new()),
        unmarked: Mutex::new(Vec::new()),
        uncovered: Mutex::new(HashSet::new()),
        holding: RwLock::new(()),
        undeleted: Mutex::new(Vec::new()),
        unread_segments: unread,
        closed: AtomicBool::new(false),
        counters: Counters::default(),
        #[cfg(feature = "sim")]
        bug: Mutex::new(options.bug),
    });
    let covered: HashMap<u32, u64> = covered.into_iter().collect();
    let scanned = shared.replay(&covered);
    let took = Duration::from_millis(shared.clock.now_ms().saturating_sub(began_ms));
    let entries = shared.index.len();
    shared.observe(&Event::Loaded {
        entries,
        from_checkpoint,
        scanned,
        took,
    });
    Ok(shared)
}

/// The segments that there are.
struct OpenedSegments {
    segments: HashMap<u32, Arc<Segment>>,
    /// The greatest id of all.
    last_id: u32,
    /// How many could not be read and are therefore not among them.
    unread: u64,
}

/// Opens every segment file. Files without a valid header are removed: nothing in them
/// can be verified.
fn open_segments(
    disk: &dyn Disk,
    dir: &Path,
    space: &Arc<Space>,
    options: &PoolOptions,
) -> Result<OpenedSegments, OpenError> {
    let failed = |context: &str, path: &Path, source: io::Error| OpenError::Io {
        context: format!("cannot {context} {}", path.display()),
        source,
    };
    let names = disk.list(dir).map_err(|error| failed("list", dir, error))?;
    let mut segments = HashMap::new();
    let mut last_id = 0;
    let mut unread = 0;
    for id in names
        .iter()
        .filter_map(|name| segment::id_of_file_name(name))
    {
        last_id = last_id.max(id);
        let path = dir.join(segment::file_name(id));
        let file = disk
            .open(&path)
            .map_err(|error| failed("open", &path, error))?;
        let bytes = file.bytes().map_err(|error| failed("open", &path, error))?;
        let mut header = [0; SEGMENT_HEADER_BYTES as usize];
        let header = match read_exact_at(&*file, &mut header, 0, Wait::Allowed) {
            Ok(()) => SegmentHeader::decode(&header),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(HeaderError::Invalid),
            Err(error) => {
                // It may come back; until then its entries are misses and its space is taken.
                let message = error.to_string();
                (options.observer)(&Event::DiskFailed {
                    operation: "open a segment",
                    message,
                });
                std::mem::forget(space.take_existing(bytes));
                unread += 1;
                continue;
            }
        };
        match header {
            Ok(header) if header.id == id && id > 0 => {
                let claim = space.take_existing(bytes);
                let segment = Segment::open(path, file, &header, claim, bytes, bytes);
                segments.insert(id, Arc::new(segment));
            }
            Err(HeaderError::Newer(found)) => {
                let supported = crate::format::FORMAT_VERSION;
                return Err(OpenError::Format {
                    path,
                    found,
                    supported,
                });
            }
            Ok(_) | Err(HeaderError::Invalid) => {
                disk.remove(&path)
                    .map_err(|error| failed("remove", &path, error))?;
            }
        }
    }
    Ok(OpenedSegments {
        segments,
        last_id,
        unread,
    })
}

impl Shared {
    /// Reads what the checkpoint does not cover and returns how many records that were.
    fn replay(self: &Arc<Self>, covered: &HashMap<u32, u64>) -> u64 {
        let mut segments: Vec<_> = self.segments.read().values().cloned().collect();
        segments.sort_unstable_by_key(|segment| segment.id());
        let mut tombstones = Vec::new();
        let mut scanned = 0;
        for segment in segments {
            let covered = covered.get(&segment.id()).copied().unwrap_or(0);
            segment.set_checkpointed(covered);
            // What the last process wrote and did not sync is not durable because another process finds it.
            self.sync.mark(&segment);
            let start = covered.max(SEGMENT_HEADER_BYTES);
            match self.replay_segment(&segment, start, &mut tombstones) {
                Ok(count) => scanned += count,
                Err(error) => self.disk_failed("read a segment", &error),
            }
        }
        for Tombstone {
            place,
            hash,
            sequence,
        } in tombstones
        {
            // Segment ids can come again after a crash; the sequence tells whose record that is.
            if self
                .sequence_at(place)
                .is_some_and(|found| found < sequence)
            {
                self.index.remove(hash, place);
                self.mark_superseded(hash, place);
            }
        }
        scanned
    }

    fn replay_segment(
        self: &Arc<Self>,
        segment: &Arc<Segment>,
        start: u64,
        tombstones: &mut Vec<Tombstone>,
    ) -> io::Result<u64> {
        let mut scanned = 0;
        let mut end = start;
        let mut walk = Walk::new(segment, start, segment.tail());
        while let Some(found) = walk.next()? {
            scanned += 1;
            end = found.offset + found.header.record_bytes();
            self.next_sequence
                .fetch_max(found.header.sequence.saturating_add(1), Ordering::Relaxed);
            match found.header.kind {
                RecordKind::Entry => {
                    let key = &walk.names()[..usize::from(found.header.key_bytes)];
                    self.replay_entry(segment, &found, self.index.hash(key));
                }
                RecordKind::Tombstone => tombstones.extend(read_tombstone(segment, &found)),
                RecordKind::Filler => {}
            }
        }
        if end > SEGMENT_HEADER_BYTES {
            segment.set_tail(end.min(segment.tail()));
            segment.seal();
        } else {
            self.discard(segment);
        }
        Ok(scanned)
    }

    fn replay_entry(self: &Arc<Self>, segment: &Arc<Segment>, found: &Found, key: u128) {
        let place = Place::new(segment.id(), found.offset);
        let held = self.index.held_hash(key, found.header.sequence);
        let (hash, other) = match found.state {
            State::Live => (key, held),
            State::Held => (held, key),
            State::Dead => {
                self.index.remove(key, place);
                self.index.remove(held, place);
                return;
            }
        };
        self.index.remove(other, place);
        let known = self.index.peek(hash);
        if known.is_some_and(|slot| slot.place == place) {
            return;
        }
        let mut slot = Slot::new(hash, place, found.header.record_bytes(), found.header.check);
        // One whose body has rotted is lost, and still says, if it is held, that an older copy of it is not to be served.
        let is_held = found.state == State::Held;
        if is_held && self.is_outdone(&slot, other, found.header.sequence)
            || !self.body_verifies(segment, &slot, &found.header)
            || !is_held && self.is_outdone(&slot, other, found.header.sequence)
        {
            return;
        }
        let Some(known) = known else {
            self.index.restore(slot);
            return;
        };
        let known_order = self
            .sequence_at(known.place)
            .map(|sequence| (sequence, known.place.segment));
        let superseded = if known_order < Some((found.header.sequence, place.segment)) {
            slot.promise = known.promise;
            self.index.restore(slot);
            known.place
        } else {
            place
        };
        self.mark_superseded(hash, superseded);
    }

    /// Whether the record in `slot` is a copy of the one that `other` finds, from before that was held or released.
    /// If it is the other way round, the other one goes.
    fn is_outdone(&self, slot: &Slot, other: u128, sequence: u64) -> bool {
        let Some(copy) = self.index.peek(other) else {
            return false;
        };
        if self.sequence_at(copy.place) != Some(sequence) {
            return false;
        }
        let outdone = copy.place.segment > slot.place.segment;
        if outdone {
            self.mark_superseded(slot.hash, slot.place);
        } else {
            self.index.remove(other, copy.place);
            self.mark_superseded(other, copy.place);
        }
        outdone
    }

    /// The process died before it had buried the record here, or the power went before that was durable.
    /// Left alone, the record would come back when no newer one, tombstone or checkpoint is left to outdo it.
    fn mark_superseded(&self, hash: u128, place: Place) {
        if let Err(error) = self.mark_dead(hash, place) {
            self.disk_failed("mark a superseded record dead", &error);
            self.unburied.lock().push((hash, place));
        }
    }

    /// The sequence of the record at a place, if there is one, dead or alive.
    pub(crate) fn sequence_at(&self, place: Place) -> Option<u64> {
        let segment = self.segment(place.segment)?;
        let mut walk = Walk::new(&segment, place.offset(), segment.tail());
        let found = walk.next().ok()??;
        (found.offset == place.offset()).then_some(found.header.sequence)
    }
}

fn read_tombstone(segment: &Segment, found: &Found) -> Option<Tombstone> {
    let mut body = [0; TOMBSTONE_BYTES];
    let at = found.offset + found.header.body_start();
    read_exact_at(&*segment.file, &mut body, at, Wait::Allowed).ok()?;
    let fits = found.header.body_bytes == TOMBSTONE_BYTES as u64
        && crc32c::crc32c(&body) == found.header.body_crc;
    fits.then(|| Tombstone {
        place: Place::decode(body[..8].try_into().expect("eight bytes")),
        hash: u128::from_le_bytes(body[8..].try_into().expect("sixteen bytes")),
        sequence: found.header.sequence,
    })
}
