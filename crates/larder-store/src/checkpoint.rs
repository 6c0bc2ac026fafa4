//! The checkpoint: the index, saved so that opening a pool need not read the whole log.
//!
//! Before the slots are copied, every segment's covered length is noted; whatever lands while they
//! are copied is in the log behind it and found again by recovery. After they are copied the log is synced, and only then
//! the checkpoint takes its name; so it never knows more than the disk does.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::disk::{Disk, File, Wait, read_exact_at};
use crate::format::{COVERED_BYTES, CheckpointHeader, Slot, decode_covered, encode_covered};
use crate::index::Index;
use crate::pool::{Event, Shared};
use crate::segment::Segment;
use crate::space::SpaceClaim;

const FILE_NAME: &str = "index.ckpt";
const UNFINISHED_FILE_NAME: &str = "index.ckpt.tmp";
/// Slots are written and read in blocks of at most this many: 2 MiB.
const BLOCK_SLOTS: usize = 65_536;
/// Room in a checkpoint for entries that come while a small one is written.
const SLOTS_SLACK: u64 = 256;
/// Where a checkpoint is more than this part of the budget there is only one at a time.
const CHECKPOINT_PART: u64 = 32;

impl Shared {
    /// Saves the index.
    pub(crate) fn checkpoint(self: &Arc<Self>) -> io::Result<()> {
        let mut current = self.checkpoint_claim.lock();
        let began_ms = self.clock.now_ms();
        // What lands while the slots are copied is in the log behind this. No segment is held on to: one that is
        // evicted meanwhile has to give its space back.
        let mut covered: BTreeMap<u32, u64> = self
            .segments
            .read()
            .values()
            .map(|segment| (segment.id(), segment.covered()))
            .collect();
        self.sync_now();
        // Of what could not be synced, or is being held, the next start reads what there is.
        let uncovered = self.uncovered.lock().clone();
        for segment in self.segments.read().values() {
            if !segment.is_sound() || uncovered.contains(&segment.id()) {
                covered.insert(segment.id(), 0);
            }
        }
        let slot_count = self.index.len();
        let header = CheckpointHeader {
            segment_count: covered.len() as u32,
            hash_key: self.index.hash_key(),
            next_sequence: self.next_sequence.load(Ordering::Relaxed),
            next_segment: self.next_segment.load(Ordering::Relaxed),
            slot_count,
        };
        let (file, mut claim) = self.create_checkpoint(&header, &mut current)?;
        let unfinished = self.dir.join(UNFINISHED_FILE_NAME);
        let written = write_checkpoint(&*file, &header, &covered, &self.index, claim.bytes())
            .and_then(|end| {
                // Every slot's record has to be durable before the slot is.
                self.sync_now();
                let unsound = |segment: &&Arc<Segment>| {
                    !segment.is_sound() && covered.get(&segment.id()) != Some(&0)
                };
                if let Some(segment) = self.segments.read().values().find(unsound) {
                    let id = segment.id();
                    return Err(io::Error::other(format!(
                        "segment {id} could not be synced"
                    )));
                }
                file.sync()?;
                self.disk.rename(&unfinished, &self.dir.join(FILE_NAME))?;
                self.disk.sync_dir(&self.dir)?;
                Ok(end)
            });
        match written {
            Ok(end) => claim.shrink_to(end),
            Err(error) => {
                let _ = self.disk.remove(&unfinished);
                return Err(error);
            }
        }
        *current = Some(claim);
        for segment in self.segments.read().values() {
            if let Some(covered) = covered.get(&segment.id()) {
                segment.set_checkpointed(*covered);
            }
        }
        let took = Duration::from_millis(self.clock.now_ms().saturating_sub(began_ms));
        self.observe(&Event::Checkpointed {
            entries: slot_count,
            took,
        });
        Ok(())
    }

    /// Claims space for a checkpoint and creates its file. Where there is no room for two, the old one goes first:
    /// opening the pool would then read the whole log, which knows the same.
    fn create_checkpoint(
        &self,
        header: &CheckpointHeader,
        current: &mut Option<SpaceClaim>,
    ) -> io::Result<(Arc<dyn File>, SpaceClaim)> {
        let bytes = checkpoint_bytes(header.slot_count, u64::from(header.segment_count));
        // Not what is kept for reclaim.
        let take = || {
            self.space
                .take(bytes, self.limit().saturating_sub(self.segment_bytes()))
        };
        let claim = if let Some(claim) = take() {
            claim
        } else {
            self.remove_checkpoint(current)?;
            take().ok_or(io::ErrorKind::StorageFull)?
        };
        let unfinished = self.dir.join(UNFINISHED_FILE_NAME);
        match self.disk.remove(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok((self.disk.create(&unfinished)?, claim))
    }

    fn remove_checkpoint(&self, current: &mut Option<SpaceClaim>) -> io::Result<()> {
        match self.disk.remove(&self.dir.join(FILE_NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.disk.sync_dir(&self.dir)?;
        *current = None;
        for segment in self.segments.read().values() {
            segment.set_checkpointed(0);
        }
        Ok(())
    }

    /// Bytes that writers leave free for the next checkpoint. Where a checkpoint is a large part of the budget, that
    /// is only what it is to be larger than the one there is, which it replaces.
    pub(crate) fn checkpoint_reserve(&self) -> u64 {
        let bytes = checkpoint_bytes(self.index.len(), self.segments.read().len() as u64);
        if bytes <= self.budget_bytes.load(Ordering::Relaxed) / CHECKPOINT_PART {
            return bytes;
        }
        // Whoever holds the lock is writing one, and has its space.
        let current = self.checkpoint_claim.try_lock();
        let current = current
            .as_deref()
            .and_then(Option::as_ref)
            .map_or(0, SpaceClaim::bytes);
        bytes.saturating_sub(current)
    }

    /// Removes a checkpoint that knows many more entries than there are. Returns the bytes that frees.
    pub(crate) fn drop_outsized_checkpoint(&self) -> u64 {
        let mut current = self.checkpoint_claim.lock();
        let bytes = current.as_ref().map_or(0, SpaceClaim::bytes);
        let needed = checkpoint_bytes(self.index.len(), self.segments.read().len() as u64);
        if bytes <= needed {
            return 0;
        }
        match self.remove_checkpoint(&mut current) {
            Ok(()) => bytes,
            Err(error) => {
                self.disk_failed("remove the checkpoint", &error);
                0
            }
        }
    }

    /// Sees to it that no checkpoint knows an entry whose end only the log tells: saves the index, or removes the
    /// checkpoint that there is.
    pub(crate) fn renew_checkpoint(self: &Arc<Self>) -> io::Result<()> {
        if self.checkpoint().is_ok() {
            return Ok(());
        }
        let mut current = self.checkpoint_claim.lock();
        self.remove_checkpoint(&mut current)
    }

    /// The same before a segment goes, which may be the only one to tell.
    pub(crate) fn outdate_checkpoint(self: &Arc<Self>, segment: &Segment) -> io::Result<()> {
        if segment.is_checkpointed() {
            Ok(())
        } else {
            self.renew_checkpoint()
        }
    }
}

/// Bytes of a checkpoint of about this many slots: entries may come while they are written, but rarely an eighth more.
fn checkpoint_bytes(slots: u64, segments: u64) -> u64 {
    let slots = slots + slots / 8 + SLOTS_SLACK;
    CheckpointHeader::BYTES as u64 + segments * COVERED_BYTES as u64 + slots * Slot::BYTES as u64
}

/// Writes a checkpoint of at most `bytes_max` bytes and returns its length.
fn write_checkpoint(
    file: &dyn File,
    header: &CheckpointHeader,
    covered: &BTreeMap<u32, u64>,
    index: &Index,
    bytes_max: u64,
) -> io::Result<u64> {
    let mut list = Vec::with_capacity(covered.len() * COVERED_BYTES);
    for (segment, covered) in covered {
        encode_covered(*segment, *covered, &mut list);
    }
    let mut end = 0;
    let mut append = |parts: &[&[u8]]| {
        let bytes: u64 = parts.iter().map(|part| part.len() as u64).sum();
        if end + bytes > bytes_max {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        file.write_at(parts, end)?;
        end += bytes;
        Ok(end)
    };
    append(&[
        &header.encode(),
        &list,
        &crc32c::crc32c(&list).to_le_bytes(),
    ])?;
    let mut slots = Vec::new();
    let mut block = Vec::new();
    let mut write_block = |slots: &[Slot]| {
        block.clear();
        for slot in slots {
            slot.encode_into(&mut block);
        }
        let count = (slots.len() as u32).to_le_bytes();
        append(&[&count, &crc32c::crc32c(&block).to_le_bytes(), &block])
    };
    for shard in 0..index.shard_count() {
        index.copy_shard(shard, &mut slots);
        slots.retain(|slot| covered.get(&slot.place.segment) != Some(&0));
        if slots.len() >= BLOCK_SLOTS {
            slots
                .chunks(BLOCK_SLOTS)
                .try_for_each(|chunk| write_block(chunk).map(drop))?;
            slots.clear();
        }
    }
    slots
        .chunks(BLOCK_SLOTS)
        .try_for_each(|chunk| write_block(chunk).map(drop))?;
    write_block(&[])
}

/// What a checkpoint knew.
pub(crate) struct Loaded {
    pub(crate) index: Index,
    pub(crate) covered: Vec<(u32, u64)>,
    pub(crate) next_sequence: u64,
    pub(crate) next_segment: u32,
    pub(crate) file_bytes: u64,
}

/// Loads the checkpoint, keeping the slots that `keep` says still have a segment. `None` if there is none that verifies.
pub(crate) fn load(
    disk: &dyn Disk,
    dir: &Path,
    keep: &dyn Fn(&Slot) -> bool,
) -> io::Result<Option<Loaded>> {
    let _ = disk.remove(&dir.join(UNFINISHED_FILE_NAME));
    let file = match disk.open(&dir.join(FILE_NAME)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if let Ok(Some(loaded)) = read_checkpoint(&*file, keep) {
        return Ok(Some(loaded));
    }
    // Torn or unreadable: the log knows the same, and more slowly.
    disk.remove(&dir.join(FILE_NAME))?;
    Ok(None)
}

fn read_checkpoint(file: &dyn File, keep: &dyn Fn(&Slot) -> bool) -> io::Result<Option<Loaded>> {
    let file_bytes = file.bytes()?;
    let mut at = 0;
    let mut read = |bytes: usize| {
        if at + bytes as u64 > file_bytes {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let mut buffer = vec![0; bytes];
        read_exact_at(file, &mut buffer, at, Wait::Allowed)?;
        at += bytes as u64;
        Ok(buffer)
    };
    let header = read(CheckpointHeader::BYTES)?;
    let Some(header) = CheckpointHeader::decode(header[..].try_into().expect("asked for")) else {
        return Ok(None);
    };
    let covered = read(header.segment_count as usize * COVERED_BYTES)?;
    if crc32c::crc32c(&covered).to_le_bytes() != read(4)?[..] {
        return Ok(None);
    }
    let index = Index::new(header.hash_key);
    let expected = header.slot_count.min(file_bytes / Slot::BYTES as u64);
    let mut kept = Vec::new();
    let mut last_hash = None;
    loop {
        let head = read(8)?;
        let count = u32::from_le_bytes(head[0..4].try_into().expect("four bytes")) as usize;
        if count == 0 {
            break;
        }
        let block = read(count.min(BLOCK_SLOTS) * Slot::BYTES)?;
        if count > BLOCK_SLOTS || crc32c::crc32c(&block).to_le_bytes() != head[4..8] {
            return Ok(None);
        }
        let slots = block.chunks_exact(Slot::BYTES);
        kept.clear();
        for bytes in slots {
            let slot = Slot::decode(bytes.try_into().expect("a slot's bytes"));
            // The index relies on the order.
            if last_hash.replace(slot.hash) >= Some(slot.hash) {
                return Ok(None);
            }
            kept.extend(Some(slot).filter(keep));
        }
        index.append_sorted(&kept, expected);
    }
    let covered = covered
        .chunks_exact(COVERED_BYTES)
        .map(decode_covered)
        .collect();
    let CheckpointHeader {
        next_sequence,
        next_segment,
        ..
    } = header;
    Ok(Some(Loaded {
        index,
        covered,
        next_sequence,
        next_segment,
        file_bytes,
    }))
}
