//! A segment: an append-only file of records, and the extents of it that writers hold.
//!
//! A writer reserves an extent, writes into it with positioned writes beside other writers, and
//! lands it when its record is in the index or given up. Nothing below [`Segment::covered`] is in
//! flight, which is what a checkpoint needs to know.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::disk::{Disk, File};
use crate::format::{SEGMENT_HEADER_BYTES, SegmentHeader, TagKey};
use crate::lease::Honour;
use crate::space::SpaceClaim;

/// The file name of a segment.
pub(crate) fn file_name(id: u32) -> String {
    format!("{id:08x}.seg")
}

/// The segment id that a file name stands for.
pub(crate) fn id_of_file_name(name: &str) -> Option<u32> {
    let id = u32::from_str_radix(name.strip_suffix(".seg")?, 16).ok()?;
    (file_name(id) == name).then_some(id)
}

pub(crate) struct Segment {
    pub(crate) file: Arc<dyn File>,
    pub(crate) path: PathBuf,
    pub(crate) tag_key: TagKey,
    pub(crate) created_at_ms: u64,
    /// Written since it was last synced.
    pub(crate) dirty: AtomicBool,
    /// Evicted or given up; only whoever is using it right now still has it.
    pub(crate) gone: AtomicBool,
    /// A sync failed: what was written before it may never become durable, whatever later syncs say.
    pub(crate) unsound: AtomicBool,
    /// Readers of bodies in here.
    pub(crate) readers: AtomicU32,
    /// Reclaim takes the least first.
    pub(crate) age: AtomicU64,
    /// Before this time, Unix seconds, reclaim need not look: too much in here is leased.
    leased_until_s: AtomicU32,
    /// The same for reclaim that honours firm leases only.
    firm_until_s: AtomicU32,
    /// What the last checkpoint covers.
    checkpointed: AtomicU64,
    flight: Mutex<Flight>,
}

struct Flight {
    claim: SpaceClaim,
    /// Bytes that may be reserved.
    capacity: u64,
    /// Where the next extent starts.
    tail: u64,
    /// Where extents start that have not landed.
    starts: Vec<u64>,
    sealed: bool,
}

impl Segment {
    /// Creates the file of a segment and allocates `capacity` bytes, which `claim` covers.
    pub(crate) fn create(
        disk: &dyn Disk,
        dir: &Path,
        header: &SegmentHeader,
        claim: SpaceClaim,
        capacity: u64,
    ) -> io::Result<Self> {
        let path = dir.join(file_name(header.id));
        let file = disk.create(&path)?;
        let written = file
            .allocate(capacity)
            .and_then(|()| file.write_at(&[&header.encode()], 0));
        if let Err(error) = written {
            // Without its header the file is nothing; recovery would remove it as well.
            let _ = disk.remove(&path);
            return Err(error);
        }
        let segment = Self::open(path, file, header, claim, capacity, SEGMENT_HEADER_BYTES);
        segment.flight.lock().sealed = false;
        Ok(segment)
    }

    /// A segment that exists, sealed, whose records end at `tail`.
    pub(crate) fn open(
        path: PathBuf,
        file: Arc<dyn File>,
        header: &SegmentHeader,
        claim: SpaceClaim,
        capacity: u64,
        tail: u64,
    ) -> Self {
        Self {
            file,
            path,
            tag_key: TagKey {
                segment: header.id,
                salt: header.salt,
            },
            created_at_ms: header.created_at_ms,
            dirty: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            unsound: AtomicBool::new(false),
            readers: AtomicU32::new(0),
            age: AtomicU64::new(u64::from(header.id)),
            leased_until_s: AtomicU32::new(0),
            firm_until_s: AtomicU32::new(0),
            checkpointed: AtomicU64::new(0),
            flight: Mutex::new(Flight {
                claim,
                capacity,
                tail,
                starts: Vec::new(),
                sealed: true,
            }),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.tag_key.segment
    }

    /// Reserves an extent and returns where it starts, if the segment takes it.
    pub(crate) fn reserve(&self, bytes: u64) -> Option<u64> {
        let mut flight = self.flight.lock();
        if flight.sealed || flight.tail + bytes > flight.capacity {
            return None;
        }
        let start = flight.tail;
        flight.tail += bytes;
        flight.starts.push(start);
        Some(start)
    }

    /// Makes room for an extent that grows: it must be the last one, and its writer the only one.
    pub(crate) fn extend(&self, end: u64, claim: SpaceClaim) -> io::Result<()> {
        let capacity = self.disk_bytes() + claim.bytes();
        // Slow, and therefore not under the lock.
        self.file.allocate(capacity)?;
        let mut flight = self.flight.lock();
        flight.claim.absorb(claim);
        flight.capacity = capacity;
        flight.tail = end;
        Ok(())
    }

    /// Says where the last extent, which has grown, ends.
    pub(crate) fn set_tail(&self, end: u64) {
        self.flight.lock().tail = end;
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.flight.lock().capacity
    }

    /// Ends a writer's hold on the extent at `start`.
    pub(crate) fn land(&self, start: u64) {
        let mut flight = self.flight.lock();
        flight.starts.retain(|other| *other != start);
        self.trim(&mut flight);
    }

    /// No more extents: gives the free end of the file back as soon as the last writer has landed.
    pub(crate) fn seal(&self) {
        let mut flight = self.flight.lock();
        flight.sealed = true;
        self.trim(&mut flight);
    }

    fn trim(&self, flight: &mut Flight) {
        let idle = flight.sealed && flight.starts.is_empty();
        // A file that cannot be cut stays as long as it is, and so does the claim.
        if idle && flight.capacity > flight.tail && self.file.set_len(flight.tail).is_ok() {
            flight.capacity = flight.tail;
            let tail = flight.tail;
            flight.claim.shrink_to(tail);
        }
    }

    /// Before this time, Unix seconds, reclaim need not look here.
    pub(crate) fn leased_until_s(&self, honour: Honour) -> &AtomicU32 {
        match honour {
            Honour::All => &self.leased_until_s,
            Honour::Firm => &self.firm_until_s,
        }
    }

    /// Whether nobody writes here any more.
    pub(crate) fn is_idle(&self) -> bool {
        let flight = self.flight.lock();
        flight.sealed && flight.starts.is_empty()
    }

    /// Where the records end.
    pub(crate) fn tail(&self) -> u64 {
        self.flight.lock().tail
    }

    /// Everything below this has landed.
    pub(crate) fn covered(&self) -> u64 {
        let flight = self.flight.lock();
        flight.starts.iter().copied().min().unwrap_or(flight.tail)
    }

    /// Bytes of the disk the file takes up.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.flight.lock().claim.bytes()
    }

    /// A checkpoint covers the segment up to `covered`.
    pub(crate) fn set_checkpointed(&self, covered: u64) {
        self.checkpointed.store(covered, Ordering::Release);
    }

    /// Whether a checkpoint covers all of the segment.
    pub(crate) fn is_checkpointed(&self) -> bool {
        self.checkpointed.load(Ordering::Acquire) >= self.tail()
    }

    /// Whether everything written here is durable once it is synced.
    pub(crate) fn is_sound(&self) -> bool {
        !self.unsound.load(Ordering::Acquire)
    }

    /// Whether somebody is reading a body in here.
    pub(crate) fn is_read(&self) -> bool {
        self.readers.load(Ordering::Relaxed) > 0
    }

    /// The file has no name any more.
    pub(crate) fn leave_to_readers(&self) {
        self.flight.lock().claim.leave_to_readers();
    }
}
