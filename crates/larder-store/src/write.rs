//! The way in: extents, whole-body puts, streamed uploads, tombstones.
//!
//! A record's header is written last and only under a claim on its key, so what is complete on
//! disk is what was acknowledged or may have been, and a write-once key never has two.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::checksums::Checksums;
use crate::format::{
    ALIGN_BYTES, BODY_BYTES_MAX, KEY_BYTES_MAX, METADATA_BYTES_MAX, Place, RECORD_HEADER_BYTES,
    RecordHeader, RecordKind, SEGMENT_HEADER_BYTES, STATE_OFFSET, SegmentHeader, Slot, State,
    TOMBSTONE_BYTES, record_bytes,
};
use crate::index::Claim;
use crate::lease::Honour;
use crate::pool::{Bug, Durability, Event, Pool, Shared, StoreError};
use crate::segment::Segment;
use crate::space::{DISK_BLOCK_BYTES, SpaceClaim};
use crate::walk::Walk;

/// A record larger than this part of a segment gets a segment of its own.
const OWN_SEGMENT_PART: u64 = 4;
/// What a body of unknown length starts with, and grows by at least.
const GROWTH_BYTES_MIN: u64 = 256 * 1024;
/// A body of unknown length is kept in memory up to this.
const SPOOL_BYTES_MAX: u64 = 64 * 1024;
/// A writer gives up after it has reclaimed this many times what it wants, which others took or which is slow to
/// come free.
const FREED_PART: u64 = 8;
/// How often a writer reclaims a segment because the disk is full although it said otherwise.
const FULL_DISK_ATTEMPTS: u32 = 8;
const ZEROS: [u8; ALIGN_BYTES as usize] = [0; ALIGN_BYTES as usize];

/// What a writer says of an entry.
#[derive(Debug, Clone, Copy)]
pub struct NewRecord<'a> {
    /// The full key, at most [`KEY_BYTES_MAX`] bytes.
    pub key: &'a [u8],
    /// Opaque metadata that comes back with the entry, at most [`METADATA_BYTES_MAX`] bytes.
    pub metadata: &'a [u8],
    /// Opaque as well, and kept in memory: what [`Pool::lease`] returns without asking the disk.
    pub check: u16,
    /// Who writes.
    pub writer: u64,
    /// Whether an existing entry of this key is replaced; otherwise keys are write-once.
    pub replace: bool,
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The entry is stored and visible.
    Stored,
    /// The key had an entry; nothing was stored.
    Exists,
}

/// How an upload begins.
#[derive(Debug)]
pub enum Begin {
    /// Send the body.
    Upload(Upload),
    /// The key has an entry; no need to send anything.
    Exists,
}

/// The segment that small records go to.
#[derive(Default)]
pub(crate) struct ActiveSegment {
    current: Mutex<Option<Arc<Segment>>>,
    /// Held by the writer that replaces the full one.
    turn: Mutex<()>,
}

/// A reserved part of a segment. Dropped without [`Extent::land`], it leaves a filler behind.
pub(crate) struct Extent {
    shared: Arc<Shared>,
    pub(crate) segment: Arc<Segment>,
    pub(crate) start: u64,
    pub(crate) bytes: u64,
    own_segment: bool,
    landed: bool,
}

impl Extent {
    pub(crate) fn place(&self) -> Place {
        Place::new(self.segment.id(), self.start)
    }

    pub(crate) fn write(&self, parts: &[&[u8]], at: u64) -> io::Result<()> {
        self.segment.file.write_at(parts, self.start + at)?;
        self.shared.sync.mark(&self.segment);
        Ok(())
    }

    /// The record is in the index.
    pub(crate) fn land(mut self) {
        self.landed = true;
        self.segment.land(self.start);
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        if self.landed {
            return;
        }
        if self.own_segment {
            self.segment.land(self.start);
            self.shared.discard(&self.segment);
            return;
        }
        let filler = RecordHeader {
            kind: RecordKind::Filler,
            key_bytes: 0,
            metadata_bytes: 0,
            check: 0,
            body_crc: 0,
            body_bytes: filler_body_bytes(self.bytes),
            sequence: 0,
            written_at_ms: 0,
            writer: 0,
        };
        let header = filler.encode(&self.segment.tag_key, self.start, &[], &[]);
        // Only saves recovery a walk through the gap.
        let _ = self.write(&[&header], 0);
        self.segment.land(self.start);
    }
}

/// The body length with which a filler takes up exactly `extent_bytes`, or a little less where the
/// block table's length gets in the way.
fn filler_body_bytes(extent_bytes: u64) -> u64 {
    let mut body = extent_bytes - RECORD_HEADER_BYTES as u64;
    while record_bytes(0, body) > extent_bytes {
        body -= (record_bytes(0, body) - extent_bytes).min(body);
    }
    body
}

/// A claim on a key, given back when dropped.
pub(crate) struct KeyClaim<'a> {
    shared: &'a Shared,
    hash: u128,
    settled: bool,
}

impl<'a> KeyClaim<'a> {
    pub(crate) fn take(shared: &'a Shared, hash: u128, replace: bool) -> Option<Self> {
        match shared.index.claim(hash, replace) {
            Claim::Claimed => Some(Self {
                shared,
                hash,
                settled: false,
            }),
            Claim::Exists => None,
        }
    }

    fn settle(self, place: Place, header: &RecordHeader) -> Option<Slot> {
        let slot = Slot::new(self.hash, place, header.record_bytes(), header.check);
        self.settle_slot(slot)
    }

    /// Puts a slot of the key into the index. Returns the one it replaces.
    pub(crate) fn settle_slot(mut self, slot: Slot) -> Option<Slot> {
        self.settled = true;
        self.shared.index.settle(slot)
    }
}

impl Drop for KeyClaim<'_> {
    fn drop(&mut self) {
        if !self.settled {
            self.shared.index.release(self.hash);
        }
    }
}

impl Pool {
    /// Stores an entry whose body is at hand. With [`Durability::Synced`] it returns when the entry is durable.
    pub fn put(&self, record: &NewRecord<'_>, body: &[u8]) -> Result<Put, StoreError> {
        self.put_written(record, None, body)
    }

    /// The same for an entry that was written elsewhere: at this time, Unix milliseconds. `None`: now.
    pub fn put_written(
        &self,
        record: &NewRecord<'_>,
        written_at_ms: Option<u64>,
        body: &[u8],
    ) -> Result<Put, StoreError> {
        let shared = &self.shared;
        shared.admit(record, body.len() as u64)?;
        let hash = shared.index.hash(record.key);
        let Some(claim) = KeyClaim::take(shared, hash, record.replace) else {
            return Ok(Put::Exists);
        };
        let mut checksums = Checksums::default();
        checksums.update(body);
        let mut tail = Vec::new();
        let body_crc = checksums.finish(&mut tail);
        let header = shared.header(record, written_at_ms, (body.len() as u64, body_crc));
        let extent = shared.reserve(header.record_bytes())?;
        let head = header.encode(
            &extent.segment.tag_key,
            extent.start,
            record.key,
            record.metadata,
        );
        let padding = padding(header.body_start() + header.body_bytes + tail.len() as u64);
        extent.write(
            &[&head, record.key, record.metadata, body, &tail, padding],
            0,
        )?;
        shared.commit(claim, extent, &header)
    }

    /// Begins an upload of a body of `size` bytes, or of unknown length.
    pub fn begin(&self, record: &NewRecord<'_>, size: Option<u64>) -> Result<Begin, StoreError> {
        let shared = &self.shared;
        shared.admit(record, size.unwrap_or(0))?;
        let hash = shared.index.hash(record.key);
        if !record.replace && shared.index.peek(hash).is_some() {
            return Ok(Begin::Exists);
        }
        let names_bytes = (record.key.len() + record.metadata.len()) as u64;
        let sink = match size {
            Some(size) => Sink::Extent(shared.reserve(record_bytes(names_bytes, size))?),
            None => Sink::Spool(Vec::new()),
        };
        Ok(Begin::Upload(Upload {
            shared: Arc::clone(shared),
            sink,
            key: record.key.into(),
            metadata: record.metadata.into(),
            check: record.check,
            writer: record.writer,
            replace: record.replace,
            written_at_ms: None,
            declared: size,
            received: 0,
            checksums: Checksums::default(),
        }))
    }
}

/// Where the pieces of an upload go.
enum Sink {
    /// A body of unknown length that is still small stays in memory: most end before they are worth a file.
    Spool(Vec<u8>),
    /// Its place in a segment. That of a body of unknown length has the segment for itself, and grows.
    Extent(Extent),
}

/// A streamed body on its way in. Dropped before [`Upload::finish`], nothing is stored.
pub struct Upload {
    shared: Arc<Shared>,
    sink: Sink,
    key: Box<[u8]>,
    metadata: Box<[u8]>,
    check: u16,
    writer: u64,
    replace: bool,
    written_at_ms: Option<u64>,
    declared: Option<u64>,
    received: u64,
    checksums: Checksums,
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload")
            .field("declared", &self.declared)
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

impl Upload {
    /// Adds a piece of the body.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        let received = self.received + piece.len() as u64;
        if let Some(declared) = self.declared.filter(|declared| received > *declared) {
            return Err(StoreError::SizeMismatch { declared, received });
        }
        if self.declared.is_none() {
            self.make_room(received)?;
        }
        let at = self.body_start() + self.received;
        match &mut self.sink {
            Sink::Spool(spool) => spool.extend_from_slice(piece),
            Sink::Extent(extent) => extent.write(&[piece], at)?,
        }
        self.checksums.update(piece);
        self.received = received;
        Ok(())
    }

    /// Changes [`NewRecord::check`], for a writer who knows it only when the body has come.
    pub fn set_check(&mut self, check: u16) {
        self.check = check;
    }

    /// The entry was written elsewhere, at this time, Unix milliseconds; otherwise it is written when it is finished.
    pub fn set_written_at(&mut self, written_at_ms: u64) {
        self.written_at_ms = Some(written_at_ms);
    }

    fn body_start(&self) -> u64 {
        RECORD_HEADER_BYTES as u64 + self.names_bytes()
    }

    fn names_bytes(&self) -> u64 {
        (self.key.len() + self.metadata.len()) as u64
    }

    /// Makes room for a body of unknown length of which `received` bytes are there: moves it from memory into a
    /// segment of its own when it gets large, and lets that grow by half of what it was.
    fn make_room(&mut self, received: u64) -> Result<(), StoreError> {
        let limit = self.shared.body_bytes_max();
        if received > limit {
            return Err(StoreError::TooLarge { limit });
        }
        let (names_bytes, body_start) = (self.names_bytes(), self.body_start());
        let needed = record_bytes(names_bytes, received);
        match &mut self.sink {
            Sink::Spool(spool) if received > SPOOL_BYTES_MAX => {
                let extent = self.shared.reserve_own(needed.max(GROWTH_BYTES_MIN))?;
                extent.write(&[spool], body_start)?;
                self.sink = Sink::Extent(extent);
            }
            Sink::Extent(extent) if needed > extent.bytes => {
                let wanted = (needed - extent.bytes)
                    .max(extent.bytes / 2)
                    .max(GROWTH_BYTES_MIN);
                let claim = self.shared.take_space(wanted)?;
                let bytes = extent.bytes + claim.bytes();
                extent.segment.extend(extent.start + bytes, claim)?;
                extent.bytes = bytes;
            }
            Sink::Spool(_) | Sink::Extent(_) => {}
        }
        Ok(())
    }

    /// The body is complete: stores the entry.
    pub fn finish(mut self) -> Result<Put, StoreError> {
        let received = self.received;
        if let Some(declared) = self.declared.filter(|declared| received != *declared) {
            return Err(StoreError::SizeMismatch { declared, received });
        }
        let record = NewRecord {
            key: &self.key,
            metadata: &self.metadata,
            check: self.check,
            writer: self.writer,
            replace: self.replace,
        };
        let mut extent = match self.sink {
            Sink::Spool(body) => {
                return Pool {
                    shared: Arc::clone(&self.shared),
                }
                .put_written(&record, self.written_at_ms, &body);
            }
            Sink::Extent(extent) => extent,
        };
        let shared = &self.shared;
        if shared.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        let hash = shared.index.hash(&self.key);
        let Some(claim) = KeyClaim::take(shared, hash, self.replace) else {
            return Ok(Put::Exists);
        };
        let mut tail = Vec::new();
        let body_crc = self.checksums.finish(&mut tail);
        let header = shared.header(&record, self.written_at_ms, (received, body_crc));
        if self.declared.is_none() {
            extent.bytes = header.record_bytes();
            extent.segment.set_tail(extent.start + extent.bytes);
        }
        let body_end = header.body_start() + received;
        extent.write(&[&tail, padding(body_end + tail.len() as u64)], body_end)?;
        let tag_key = &extent.segment.tag_key;
        let head = header.encode(tag_key, extent.start, record.key, record.metadata);
        extent.write(&[&head, record.key, record.metadata], 0)?;
        shared.commit(claim, extent, &header)
    }
}

fn padding(record_end: u64) -> &'static [u8] {
    &ZEROS[..(record_end.next_multiple_of(ALIGN_BYTES) - record_end) as usize]
}

impl Shared {
    fn admit(&self, record: &NewRecord<'_>, size: u64) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        if record.key.len() > KEY_BYTES_MAX || record.metadata.len() > METADATA_BYTES_MAX {
            return Err(StoreError::NamesTooLong);
        }
        let limit = self.body_bytes_max().min(BODY_BYTES_MAX);
        if size > limit {
            return Err(StoreError::TooLarge { limit });
        }
        Ok(())
    }

    /// The header of a body of this length and checksum.
    fn header(
        &self,
        record: &NewRecord<'_>,
        written_at_ms: Option<u64>,
        (body_bytes, body_crc): (u64, u32),
    ) -> RecordHeader {
        RecordHeader {
            kind: RecordKind::Entry,
            key_bytes: record.key.len() as u16,
            metadata_bytes: record.metadata.len() as u16,
            check: record.check,
            body_crc,
            body_bytes,
            sequence: self.next_sequence(),
            written_at_ms: written_at_ms.unwrap_or_else(|| self.clock.now_ms()),
            writer: record.writer,
        }
    }

    /// The record is written whole: makes it durable if that is the contract, then visible.
    fn commit(
        self: &Arc<Self>,
        claim: KeyClaim<'_>,
        extent: Extent,
        header: &RecordHeader,
    ) -> Result<Put, StoreError> {
        if self.durability == Durability::Synced && !self.has_bug(Bug::AcknowledgeUnsynced) {
            self.sync_now();
            if !extent.segment.is_sound() {
                // Not acknowledged, so it must not come back after a restart.
                let _ = extent.write(&[&State::Dead.encode()], STATE_OFFSET);
                extent.land();
                return Err(io::Error::other("the disk failed to sync").into());
            }
        }
        self.counters
            .written_bytes
            .fetch_add(header.record_bytes(), Ordering::Relaxed);
        self.counters
            .written_records
            .fetch_add(1, Ordering::Relaxed);
        let replaced = claim.settle(extent.place(), header);
        extent.land();
        if let Some(old) = replaced {
            self.bury(old.hash, old.place);
        }
        Ok(Put::Stored)
    }

    /// Sees to it that the record at `place`, which is no longer in the index, stays out of it. If the disk fails,
    /// chores try again.
    pub(crate) fn bury(self: &Arc<Self>, hash: u128, place: Place) {
        let buried = self
            .mark_dead(hash, place)
            .and_then(|()| self.write_tombstone(hash, place));
        if let Err(error) = buried {
            self.disk_failed("mark a record dead", &error);
            self.unburied.lock().push((hash, place));
        }
    }

    /// Marks a record dead in its header, for whoever walks its segment.
    pub(crate) fn mark_dead(&self, hash: u128, place: Place) -> io::Result<()> {
        let Some(segment) = self.segment(place.segment) else {
            return Ok(());
        };
        // A slot from before a crash may have come to point at another key's record.
        let mut walk = Walk::new(&segment, place.offset(), segment.tail());
        let Some(found) = walk.next()?.filter(|found| found.offset == place.offset()) else {
            return Ok(());
        };
        let key = self
            .index
            .hash(&walk.names()[..usize::from(found.header.key_bytes)]);
        let is_held = || self.index.held_hash(key, found.header.sequence) == hash;
        let owned = match found.state {
            State::Live => key == hash || is_held(),
            State::Held => is_held(),
            State::Dead => false,
        };
        if owned {
            self.write_state(&segment, place, State::Dead)?;
        }
        Ok(())
    }

    /// Changes a record's state in place.
    pub(crate) fn write_state(
        &self,
        segment: &Arc<Segment>,
        place: Place,
        state: State,
    ) -> io::Result<()> {
        let at = place.offset() + STATE_OFFSET;
        segment.file.write_at(&[&state.encode()], at)?;
        self.sync.mark(segment);
        Ok(())
    }

    /// Says in the log that a record is dead, for whoever loads a checkpoint that still has it.
    fn write_tombstone(self: &Arc<Self>, hash: u128, place: Place) -> io::Result<()> {
        let mut body = [0; TOMBSTONE_BYTES];
        body[..8].copy_from_slice(&place.encode());
        body[8..].copy_from_slice(&hash.to_le_bytes());
        let tombstone = RecordHeader {
            kind: RecordKind::Tombstone,
            key_bytes: 0,
            metadata_bytes: 0,
            check: 0,
            body_crc: crc32c::crc32c(&body),
            body_bytes: body.len() as u64,
            sequence: self.next_sequence(),
            written_at_ms: self.clock.now_ms(),
            writer: 0,
        };
        let extent = match self.reserve_privileged(tombstone.record_bytes()) {
            Ok(extent) => extent,
            // No room for the news, so nobody must know better.
            Err(StoreError::NoRoom) => return self.renew_checkpoint(),
            Err(StoreError::Io(error)) => return Err(error),
            Err(error) => return Err(io::Error::other(error)),
        };
        let head = tombstone.encode(&extent.segment.tag_key, extent.start, &[], &[]);
        let end = padding(tombstone.body_start() + tombstone.body_bytes);
        extent.write(&[&head, &body, end], 0)?;
        extent.land();
        Ok(())
    }

    /// Syncs, and tells the observer if the disk failed to.
    pub(crate) fn sync_now(&self) {
        if let Some(error) = self.sync.sync() {
            self.disk_failed("sync", &error);
        }
    }

    /// Reserves an extent for a record, reclaiming if there is no room.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Extent, StoreError> {
        if bytes > self.segment_bytes() / OWN_SEGMENT_PART {
            return self.reserve_own(bytes);
        }
        if let Some(extent) = self.reserve_in_active(bytes) {
            return Ok(extent);
        }
        let _turn = self.active.turn.lock();
        if let Some(extent) = self.reserve_in_active(bytes) {
            return Ok(extent);
        }
        let capacity = self.segment_bytes();
        let segment = self.make_segment(capacity)?;
        // Making room may have replaced the active segment.
        if let Some(extent) = self.reserve_in_active(bytes) {
            self.discard(&segment);
            return Ok(extent);
        }
        self.activate(segment, bytes)
    }

    /// The same for reclaim itself, which may use the space kept for it and never reclaims.
    pub(crate) fn reserve_privileged(self: &Arc<Self>, bytes: u64) -> Result<Extent, StoreError> {
        if let Some(extent) = self.reserve_in_active(bytes) {
            return Ok(extent);
        }
        let capacity = self.segment_bytes().max(bytes + SEGMENT_HEADER_BYTES);
        let claim = self
            .space
            .take(capacity, self.limit())
            .ok_or(StoreError::NoRoom)?;
        let segment = self.create_segment(claim, capacity)?;
        self.activate(segment, bytes)
    }

    fn reserve_in_active(self: &Arc<Self>, bytes: u64) -> Option<Extent> {
        let current = self.active.current.lock();
        let segment = current.as_ref()?;
        let start = segment.reserve(bytes)?;
        let segment = Arc::clone(segment);
        Some(self.extent(segment, start, bytes, false))
    }

    fn extent(
        self: &Arc<Self>,
        segment: Arc<Segment>,
        start: u64,
        bytes: u64,
        own_segment: bool,
    ) -> Extent {
        Extent {
            shared: Arc::clone(self),
            segment,
            start,
            bytes,
            own_segment,
            landed: false,
        }
    }

    /// Reserves an extent in a segment made for it.
    fn reserve_own(self: &Arc<Self>, bytes: u64) -> Result<Extent, StoreError> {
        let segment = self.make_segment(bytes + SEGMENT_HEADER_BYTES)?;
        let start = segment.reserve(bytes).ok_or(StoreError::NoRoom)?;
        segment.seal();
        Ok(self.extent(segment, start, bytes, true))
    }

    /// Reserves an extent in a new segment and then lets others into it.
    fn activate(self: &Arc<Self>, segment: Arc<Segment>, bytes: u64) -> Result<Extent, StoreError> {
        let start = segment.reserve(bytes).ok_or(StoreError::NoRoom)?;
        let extent = self.extent(Arc::clone(&segment), start, bytes, false);
        let full = self.active.current.lock().replace(segment);
        if let Some(full) = full {
            full.seal();
        }
        Ok(extent)
    }

    /// Seals the active segment; the next record gets a new one.
    pub(crate) fn seal_active(&self) {
        let current = self.active.current.lock().take();
        if let Some(segment) = current {
            segment.seal();
        }
    }

    /// Makes room for a segment and creates it. A disk that is full although it said otherwise is a reason to
    /// reclaim as well.
    fn make_segment(self: &Arc<Self>, capacity: u64) -> Result<Arc<Segment>, StoreError> {
        for _ in 0..FULL_DISK_ATTEMPTS {
            let claim = self.take_space(capacity)?;
            match self.create_segment(claim, capacity) {
                Err(StoreError::Io(error)) if is_full(&error) => {}
                made => return made,
            }
            if self.reclaim_one(u64::MAX, Honour::Firm) == 0 {
                break;
            }
        }
        Err(self.no_room(capacity))
    }

    fn create_segment(&self, claim: SpaceClaim, capacity: u64) -> Result<Arc<Segment>, StoreError> {
        // Ids are not used twice; there are enough for a century of a segment a second.
        let next = |id: u32| id.checked_add(1);
        let id = self
            .next_segment
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .map_err(|_| io::Error::other("the pool has used up its segment ids"))?;
        let header = SegmentHeader {
            id,
            created_at_ms: self.clock.now_ms(),
            salt: self.random.bytes()?,
        };
        let segment = Segment::create(&*self.disk, &self.dir, &header, claim, capacity)
            .and_then(|segment| {
                // Its name has to be durable before anything in it is said to be.
                self.disk.sync_dir(&self.dir)?;
                Ok(Arc::new(segment))
            })
            .inspect_err(|error| self.disk_failed("create a segment", error))?;
        segment.age.store(self.next_age(), Ordering::Relaxed);
        self.segments.write().insert(id, Arc::clone(&segment));
        Ok(segment)
    }

    /// Claims space for a file of a writer, reclaiming as long as there is too little. Space that readers or
    /// the file system are slow to give back is waited for by refusing, not by evicting everything.
    pub(crate) fn take_space(self: &Arc<Self>, bytes: u64) -> Result<SpaceClaim, StoreError> {
        let bytes = bytes.next_multiple_of(DISK_BLOCK_BYTES);
        let mut freed = 0;
        loop {
            let kept = self.segment_bytes() + self.checkpoint_reserve();
            if let Some(claim) = self.space.take(bytes, self.limit().saturating_sub(kept)) {
                if self.is_low() {
                    self.wake_chores();
                }
                return Ok(claim);
            }
            let wanted = bytes + kept;
            if freed > FREED_PART * wanted {
                return Err(self.no_room(bytes));
            }
            match self.reclaim_one(wanted, Honour::Firm) {
                0 => return Err(self.no_room(bytes)),
                more => freed += more,
            }
        }
    }

    fn no_room(&self, bytes: u64) -> StoreError {
        self.counters.refused_writes.fetch_add(1, Ordering::Relaxed);
        self.observe(&Event::NoRoom { bytes });
        StoreError::NoRoom
    }

    /// The most bytes the files may take up now: the budget, or less if others fill the disk.
    pub(crate) fn limit(&self) -> u64 {
        let budget = self.budget_bytes.load(Ordering::Relaxed);
        let used = self.space.used();
        match self.disk.free_bytes(&self.dir) {
            Ok(free) => {
                let kept_free = self
                    .free_reserve_bytes
                    .saturating_add((self.reserved_for_others)());
                budget.min((used + free).saturating_sub(kept_free))
            }
            Err(_) => budget,
        }
    }

    /// Removes a segment that nobody needs: its space comes free with its last handle.
    pub(crate) fn discard(&self, segment: &Arc<Segment>) {
        self.segments.write().remove(&segment.id());
        self.sync.forget(segment);
        match self.disk.remove(&segment.path) {
            Ok(()) => segment.leave_to_readers(),
            Err(error) => {
                self.disk_failed("remove a segment", &error);
                // Its space stays claimed; chores try again.
                self.undeleted.lock().push(Arc::clone(segment));
            }
        }
    }

    /// Does what a failing disk has kept from being done. False if it still does.
    pub(crate) fn catch_up(self: &Arc<Self>) -> bool {
        // Not in the loops' heads, where the locks would be held for as long as the loops run.
        let unburied = std::mem::take(&mut *self.unburied.lock());
        for (hash, place) in unburied {
            self.bury(hash, place);
        }
        let undeleted = std::mem::take(&mut *self.undeleted.lock());
        for segment in undeleted {
            self.discard(&segment);
        }
        let unmarked = std::mem::take(&mut *self.unmarked.lock());
        if !unmarked.is_empty() {
            // A record that is released or purged between the look at its slot and the mark would be marked after all.
            let _moving = self.moving.lock();
            for hash in unmarked {
                self.mark_held(hash);
            }
        }
        self.has_caught_up()
    }

    /// Whether there is nothing left that a failing disk has kept from being done.
    pub(crate) fn has_caught_up(&self) -> bool {
        self.unburied.lock().is_empty()
            && self.undeleted.lock().is_empty()
            && self.unmarked.lock().is_empty()
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
