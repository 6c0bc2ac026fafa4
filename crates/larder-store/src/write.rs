//! The way in: extents, whole-body puts, streamed uploads, tombstones.
//!
//! A record's header is written last and only under a claim on its key, so what is complete on
//! disk is what was acknowledged or may have been, and a write-once key never has two.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::format::{
    ALIGN_BYTES, BLOCK_BYTES, BODY_BYTES_MAX, KEY_BYTES_MAX, METADATA_BYTES_MAX, Place,
    RECORD_HEADER_BYTES, RecordHeader, RecordKind, SEGMENT_HEADER_BYTES, STATE_DEAD, STATE_OFFSET,
    SegmentHeader, Slot, record_bytes,
};
use crate::index::Claim;
use crate::pool::{Bug, Durability, Event, Pool, Shared, StoreError};
use crate::segment::Segment;
use crate::space::SpaceClaim;

/// A record larger than this part of a segment gets a segment of its own.
const OWN_SEGMENT_PART: u64 = 4;
/// What a body of unknown length starts with, and grows by at least.
const GROWTH_BYTES_MIN: u64 = 256 * 1024;
/// How often a writer reclaims a segment to make room before it gives up.
const RECLAIM_ATTEMPTS_MAX: u32 = 4096;
const ZEROS: [u8; ALIGN_BYTES as usize] = [0; ALIGN_BYTES as usize];

/// What a writer says of an entry.
#[derive(Debug, Clone, Copy)]
pub struct NewRecord<'a> {
    /// The full key, at most [`KEY_BYTES_MAX`] bytes.
    pub key: &'a [u8],
    /// Opaque metadata that comes back with the entry, at most [`METADATA_BYTES_MAX`] bytes.
    pub metadata: &'a [u8],
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
struct KeyClaim<'a> {
    shared: &'a Shared,
    hash: u128,
    settled: bool,
}

impl<'a> KeyClaim<'a> {
    fn take(shared: &'a Shared, hash: u128, replace: bool) -> Option<Self> {
        match shared.index.claim(hash, replace) {
            Claim::Claimed => Some(Self {
                shared,
                hash,
                settled: false,
            }),
            Claim::Exists => None,
        }
    }

    fn settle(mut self, place: Place, record_bytes: u64) -> Option<Slot> {
        self.settled = true;
        self.shared
            .index
            .settle(Slot::new(self.hash, place, record_bytes))
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
        let header = shared.header(record, body.len() as u64, body_crc);
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
        let extent = match size {
            Some(size) => shared.reserve(record_bytes(names_bytes, size))?,
            None => shared.reserve_own(record_bytes(names_bytes, GROWTH_BYTES_MIN))?,
        };
        Ok(Begin::Upload(Upload {
            extent,
            hash,
            key: record.key.into(),
            metadata: record.metadata.into(),
            writer: record.writer,
            replace: record.replace,
            declared: size,
            received: 0,
            checksums: Checksums::default(),
        }))
    }
}

/// A streamed body on its way in. Dropped before [`Upload::finish`], nothing is stored.
pub struct Upload {
    extent: Extent,
    hash: u128,
    key: Box<[u8]>,
    metadata: Box<[u8]>,
    writer: u64,
    replace: bool,
    declared: Option<u64>,
    received: u64,
    checksums: Checksums,
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upload")
            .field("place", &self.extent.place())
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
            self.grow(received)?;
        }
        let at = self.body_start() + self.received;
        self.extent.write(&[piece], at)?;
        self.checksums.update(piece);
        self.received = received;
        Ok(())
    }

    fn body_start(&self) -> u64 {
        (RECORD_HEADER_BYTES + self.key.len() + self.metadata.len()) as u64
    }

    /// Makes room for a body of `received` bytes: half as much again as there was, if there is that much.
    fn grow(&mut self, received: u64) -> Result<(), StoreError> {
        let shared = Arc::clone(&self.extent.shared);
        let limit = shared.body_bytes_max();
        if received > limit {
            return Err(StoreError::TooLarge { limit });
        }
        let needed = record_bytes(self.body_start() - RECORD_HEADER_BYTES as u64, received);
        if needed > self.extent.bytes {
            let wanted = (needed - self.extent.bytes).max(self.extent.bytes / 2);
            let claim = shared.take_space(wanted.max(GROWTH_BYTES_MIN))?;
            let bytes = self.extent.bytes + claim.bytes();
            self.extent
                .segment
                .extend(self.extent.start + bytes, claim)?;
            self.extent.bytes = bytes;
        }
        Ok(())
    }

    /// The body is complete: stores the entry.
    pub fn finish(mut self) -> Result<Put, StoreError> {
        let received = self.received;
        if let Some(declared) = self.declared.filter(|declared| received != *declared) {
            return Err(StoreError::SizeMismatch { declared, received });
        }
        let shared = Arc::clone(&self.extent.shared);
        if shared.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        let Some(claim) = KeyClaim::take(&shared, self.hash, self.replace) else {
            return Ok(Put::Exists);
        };
        let record = NewRecord {
            key: &self.key,
            metadata: &self.metadata,
            writer: self.writer,
            replace: self.replace,
        };
        let mut tail = Vec::new();
        let body_crc = self.checksums.finish(&mut tail);
        let header = shared.header(&record, received, body_crc);
        if self.declared.is_none() {
            self.extent.bytes = header.record_bytes();
            self.extent
                .segment
                .set_tail(self.extent.start + self.extent.bytes);
        }
        let body_end = header.body_start() + received;
        self.extent
            .write(&[&tail, padding(body_end + tail.len() as u64)], body_end)?;
        let Extent { segment, start, .. } = &self.extent;
        let head = header.encode(&segment.tag_key, *start, record.key, record.metadata);
        self.extent
            .write(&[&head, record.key, record.metadata], 0)?;
        shared.commit(claim, self.extent, &header)
    }
}

fn padding(record_end: u64) -> &'static [u8] {
    &ZEROS[..(record_end.next_multiple_of(ALIGN_BYTES) - record_end) as usize]
}

/// The checksums of a body as it comes in.
#[derive(Debug, Default)]
pub(crate) struct Checksums {
    crc: u32,
    in_block: u64,
    /// One CRC-32C for each full block.
    blocks: Vec<u8>,
}

impl Checksums {
    pub(crate) fn update(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            // A block is closed when the next one begins, so that a body of one block has no table.
            if self.in_block == BLOCK_BYTES {
                self.close_block();
            }
            let count = piece.len().min((BLOCK_BYTES - self.in_block) as usize);
            let (head, rest) = piece.split_at(count);
            self.crc = crc32c::crc32c_append(self.crc, head);
            self.in_block += count as u64;
            piece = rest;
        }
    }

    fn close_block(&mut self) {
        self.blocks.extend_from_slice(&self.crc.to_le_bytes());
        self.crc = 0;
        self.in_block = 0;
    }

    /// Returns the header's checksum and leaves the block table, if there is one, in `table`.
    pub(crate) fn finish(&mut self, table: &mut Vec<u8>) -> u32 {
        if self.blocks.is_empty() {
            return self.crc;
        }
        self.close_block();
        *table = std::mem::take(&mut self.blocks);
        crc32c::crc32c(table)
    }
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

    fn header(&self, record: &NewRecord<'_>, body_bytes: u64, body_crc: u32) -> RecordHeader {
        RecordHeader {
            kind: RecordKind::Entry,
            key_bytes: record.key.len() as u16,
            metadata_bytes: record.metadata.len() as u32,
            body_crc,
            body_bytes,
            sequence: self.next_sequence(),
            written_at_ms: self.clock.now_ms(),
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
        if self.durability == Durability::Synced
            && !self.has_bug(Bug::AcknowledgeUnsynced)
            && let Err(error) = self.sync.sync()
        {
            self.disk_failed("sync", &error);
            // Not acknowledged, so it must not come back after a restart.
            let _ = extent.write(&[&STATE_DEAD], STATE_OFFSET);
            extent.land();
            return Err(error.into());
        }
        self.counters
            .written_bytes
            .fetch_add(header.record_bytes(), Ordering::Relaxed);
        self.counters
            .written_records
            .fetch_add(1, Ordering::Relaxed);
        let replaced = claim.settle(extent.place(), header.record_bytes());
        extent.land();
        if let Some(old) = replaced
            && let Err(error) = self.bury(old.hash, old.place)
        {
            self.disk_failed("mark a replaced record dead", &error);
        }
        Ok(Put::Stored)
    }

    /// Marks the record at `place`, which is no longer in the index, dead: in its header, for whoever walks
    /// the segment, and by a tombstone, for whoever loads a checkpoint that still has it.
    pub(crate) fn bury(self: &Arc<Self>, hash: u128, place: Place) -> io::Result<()> {
        if let Some(segment) = self.segment(place.segment) {
            segment
                .file
                .write_at(&[&STATE_DEAD], place.offset() + STATE_OFFSET)?;
            self.sync.mark(&segment);
        }
        let mut body = [0; 24];
        body[..8].copy_from_slice(&place.encode());
        body[8..].copy_from_slice(&hash.to_le_bytes());
        let tombstone = RecordHeader {
            kind: RecordKind::Tombstone,
            key_bytes: 0,
            metadata_bytes: 0,
            body_crc: crc32c::crc32c(&body),
            body_bytes: body.len() as u64,
            sequence: self.next_sequence(),
            written_at_ms: self.clock.now_ms(),
            writer: 0,
        };
        let extent =
            self.reserve_privileged(tombstone.record_bytes())
                .map_err(|error| match error {
                    StoreError::Io(error) => error,
                    other => io::Error::new(io::ErrorKind::StorageFull, other),
                })?;
        let head = tombstone.encode(&extent.segment.tag_key, extent.start, &[], &[]);
        let end = padding(tombstone.body_start() + tombstone.body_bytes);
        extent.write(&[&head, &body, end], 0)?;
        extent.land();
        Ok(())
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
        let claim = self.take_space(capacity)?;
        // Making room may have replaced the active segment.
        if let Some(extent) = self.reserve_in_active(bytes) {
            return Ok(extent);
        }
        self.activate(claim, capacity)?;
        self.reserve_in_active(bytes).ok_or(StoreError::NoRoom)
    }

    /// The same for reclaim itself, which may use the space kept for it and never reclaims.
    pub(crate) fn reserve_privileged(self: &Arc<Self>, bytes: u64) -> Result<Extent, StoreError> {
        if let Some(extent) = self.reserve_in_active(bytes) {
            return Ok(extent);
        }
        let capacity = self.segment_bytes().max(bytes + SEGMENT_HEADER_BYTES);
        let claim = self.take_kept_space(capacity).ok_or(StoreError::NoRoom)?;
        self.activate(claim, capacity)?;
        self.reserve_in_active(bytes).ok_or(StoreError::NoRoom)
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
        let capacity = bytes + SEGMENT_HEADER_BYTES;
        let claim = self.take_space(capacity)?;
        let segment = self.create_segment(claim, capacity)?;
        let start = segment.reserve(bytes).ok_or(StoreError::NoRoom)?;
        segment.seal();
        Ok(self.extent(segment, start, bytes, true))
    }

    fn activate(&self, claim: SpaceClaim, capacity: u64) -> Result<(), StoreError> {
        let segment = self.create_segment(claim, capacity)?;
        let full = self.active.current.lock().replace(segment);
        if let Some(full) = full {
            full.seal();
        }
        Ok(())
    }

    /// Seals the active segment; the next record gets a new one.
    pub(crate) fn seal_active(&self) {
        if let Some(segment) = self.active.current.lock().take() {
            segment.seal();
        }
    }

    fn create_segment(&self, claim: SpaceClaim, capacity: u64) -> Result<Arc<Segment>, StoreError> {
        let id = self.next_segment.fetch_add(1, Ordering::Relaxed);
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
        self.segments.write().insert(id, Arc::clone(&segment));
        Ok(segment)
    }

    /// Claims space for a file of a writer, reclaiming as long as there is too little.
    pub(crate) fn take_space(self: &Arc<Self>, bytes: u64) -> Result<SpaceClaim, StoreError> {
        let kept = self.segment_bytes();
        for _ in 0..RECLAIM_ATTEMPTS_MAX {
            if let Some(claim) = self
                .space
                .take(bytes, |used| self.limit(used).saturating_sub(kept))
            {
                if self.is_low() {
                    self.wake_chores();
                }
                return Ok(claim);
            }
            if !self.reclaim_one(bytes + kept) {
                break;
            }
        }
        self.counters.refused_writes.fetch_add(1, Ordering::Relaxed);
        self.observe(&Event::NoRoom { bytes });
        Err(StoreError::NoRoom)
    }

    /// Claims space that writers may not: the segment's worth that is kept for reclaim.
    pub(crate) fn take_kept_space(&self, bytes: u64) -> Option<SpaceClaim> {
        self.space.take(bytes, |used| self.limit(used))
    }

    /// The most bytes the files may take up now: the budget, or less if others fill the disk.
    pub(crate) fn limit(&self, used: u64) -> u64 {
        let budget = self.budget_bytes.load(Ordering::Relaxed);
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

    /// Removes a segment that nobody needs: the file goes with its last handle.
    pub(crate) fn discard(&self, segment: &Arc<Segment>) {
        self.segments.write().remove(&segment.id());
        self.sync.forget(segment);
        if let Err(error) = self.disk.remove(&segment.path) {
            self.disk_failed("remove a segment", &error);
        }
    }
}
