//! The way out: an entry's record is found, checked against its tag and key, and its body handed out
//! block by verified block.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes};

use crate::disk::{Wait, read_exact_at};
use crate::format::{BLOCK_BYTES, RECORD_HEADER_BYTES, RecordHeader, RecordKind, Slot, State};
use crate::index::Index;
use crate::pool::{Bug, Pool, Shared};
use crate::segment::Segment;

/// A body of at most this many bytes comes whole, in one read with its header.
pub const WHOLE_BYTES_MAX: u64 = BLOCK_BYTES;
/// The most bytes of a piece of a streamed body.
pub const PIECE_BYTES_MAX: u64 = 4 * BLOCK_BYTES;
/// What is read of a large record to get its header and names.
const HEAD_BYTES: u64 = 2048;
/// Block checksums that a reader fetches at a time.
const TABLE_BLOCKS: u64 = 1024;
/// How often a look-up follows an entry that reclaim keeps moving.
const MOVES_MAX: u32 = 8;

/// The read would have to wait for the disk. Ask again with [`Wait::Allowed`], off the async threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WouldBlock;

/// What is stored under a key.
#[derive(Debug)]
pub struct Entry {
    /// The writer's metadata.
    pub metadata: Bytes,
    /// The writer's check.
    pub check: u16,
    /// Who wrote it.
    pub writer: u64,
    /// When it was written, Unix milliseconds.
    pub written_at_ms: u64,
    /// Bytes of the body.
    pub size: u64,
    /// The body.
    pub body: Body,
}

/// What is stored under a key, but for the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryHead {
    /// The writer's metadata.
    pub metadata: Bytes,
    /// The writer's check.
    pub check: u16,
    /// Who wrote it.
    pub writer: u64,
    /// When it was written, Unix milliseconds.
    pub written_at_ms: u64,
    /// Bytes of the body.
    pub size: u64,
}

/// An entry's body.
#[derive(Debug)]
pub enum Body {
    /// All of it, verified; at most [`WHOLE_BYTES_MAX`].
    Whole(Bytes),
    /// To be read piece by piece.
    Stream(Reader),
}

/// Why a reader has no next piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadError {
    /// The piece is not in the page cache. Ask again with [`Wait::Allowed`].
    WouldBlock,
    /// The rest of the body did not verify or could not be read. The answer under way must be broken
    /// off, not ended.
    Lost,
}

/// Why a record at a place is not the one looked for.
pub(crate) enum Doubt {
    WouldBlock,
    /// It belongs to another key: two keys share a 128-bit hash.
    OtherKey,
    /// It is dead, torn or rotten.
    Unverified,
    /// The disk failed.
    Disk(io::Error),
}

impl From<io::Error> for Doubt {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock => Self::WouldBlock,
            io::ErrorKind::UnexpectedEof => Self::Unverified,
            _ => Self::Disk(error),
        }
    }
}

/// A record's header and names, verified, in the buffer they were read into.
pub(crate) struct Head {
    pub(crate) header: RecordHeader,
    /// What the disk says; not dead.
    state: State,
    buffer: Vec<u8>,
}

impl Head {
    fn key_range(&self) -> Range<usize> {
        RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + usize::from(self.header.key_bytes)
    }

    fn metadata_range(&self) -> Range<usize> {
        self.key_range().end..self.header.body_start() as usize
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.buffer[self.key_range()]
    }

    pub(crate) fn metadata(&self) -> &[u8] {
        &self.buffer[self.metadata_range()]
    }
}

/// What a record is to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its entry.
    Entry,
    /// One that [`Pool::hold`] took out of sight.
    Held,
}

/// How much of a small record is read with its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// All of it: the body is wanted as well.
    Wanted,
    /// None on purpose.
    Unwanted,
}

fn read_head_and(rest: Rest, segment: &Segment, slot: &Slot, wait: Wait) -> Result<Head, Doubt> {
    const WHOLE_RECORD_MAX: u64 = WHOLE_BYTES_MAX + HEAD_BYTES;
    let bytes = match slot.record_bytes() {
        Some(bytes) if rest == Rest::Wanted && bytes <= WHOLE_RECORD_MAX => bytes,
        Some(bytes) => bytes.min(HEAD_BYTES),
        None => HEAD_BYTES,
    };
    let offset = slot.place.offset();
    let mut buffer = vec![0; bytes as usize];
    read_exact_at(&*segment.file, &mut buffer, offset, wait)?;
    let untagged = RecordHeader::decode(&buffer).ok_or(Doubt::Unverified)?;
    let header = untagged.header;
    let names_end = header.body_start() as usize;
    if buffer.len() < names_end {
        let read = buffer.len();
        buffer.resize(names_end, 0);
        read_exact_at(
            &*segment.file,
            &mut buffer[read..],
            offset + read as u64,
            wait,
        )?;
    }
    let names = &buffer[RECORD_HEADER_BYTES..names_end];
    let fits = untagged.state != State::Dead
        && header.kind == RecordKind::Entry
        && header.tag_fits(&buffer, &segment.tag_key, offset, names);
    if fits {
        Ok(Head {
            header,
            state: untagged.state,
            buffer,
        })
    } else {
        Err(Doubt::Unverified)
    }
}

/// The head of a key's entry.
fn read_live(
    rest: Rest,
    segment: &Segment,
    slot: &Slot,
    key: &[u8],
    wait: Wait,
) -> Result<Head, Doubt> {
    let head = read_head_and(rest, segment, slot, wait)?;
    match head.state {
        State::Live if head.key() == key => Ok(head),
        State::Live => Err(Doubt::OtherKey),
        State::Held | State::Dead => Err(Doubt::Unverified),
    }
}

impl Pool {
    /// The entry of a key. Every doubt is `None`. With [`Wait::Never`] nothing is read that is not in the page cache.
    pub fn get(&self, key: &[u8], wait: Wait) -> Result<Option<Entry>, WouldBlock> {
        let shared = &self.shared;
        shared.look_up(key, Index::get_used, |segment, slot| {
            shared.open_entry(segment, slot, key, wait)
        })
    }

    /// The same, and does not count as use.
    pub fn peek(&self, key: &[u8], wait: Wait) -> Result<Option<Entry>, WouldBlock> {
        let shared = &self.shared;
        shared.look_up(key, Index::peek, |segment, slot| {
            shared.open_entry(segment, slot, key, wait)
        })
    }

    /// The same without the body, which is not read and need not be intact. Does not count as use.
    pub fn head(&self, key: &[u8], wait: Wait) -> Result<Option<EntryHead>, WouldBlock> {
        self.shared.look_up(key, Index::peek, |segment, slot| {
            let head = read_live(Rest::Unwanted, &segment, slot, key, wait)?;
            Ok(EntryHead {
                metadata: Bytes::copy_from_slice(head.metadata()),
                check: head.header.check,
                writer: head.header.writer,
                written_at_ms: head.header.written_at_ms,
                size: head.header.body_bytes,
            })
        })
    }
}

impl Shared {
    /// Reads the head of whatever `slot` points to, an entry or a held one, and says which it is.
    pub(crate) fn read_any(
        &self,
        segment: &Segment,
        slot: &Slot,
        wait: Wait,
    ) -> Result<(Head, Standing), Doubt> {
        self.read_any_and(Rest::Unwanted, segment, slot, wait)
    }

    fn read_any_and(
        &self,
        rest: Rest,
        segment: &Segment,
        slot: &Slot,
        wait: Wait,
    ) -> Result<(Head, Standing), Doubt> {
        let head = read_head_and(rest, segment, slot, wait)?;
        let hash = self.index.hash(head.key());
        if hash == slot.hash {
            return match head.state {
                State::Live => Ok((head, Standing::Entry)),
                State::Held | State::Dead => Err(Doubt::Unverified),
            };
        }
        // One that the disk does not say to be held could not be marked yet.
        if self.index.held_hash(hash, head.header.sequence) == slot.hash {
            return Ok((head, Standing::Held));
        }
        Err(Doubt::OtherKey)
    }

    /// Finds a key's record and has it opened. What cannot be opened is a miss from then on.
    fn look_up<T>(
        &self,
        key: &[u8],
        find: fn(&Index, u128) -> Option<Slot>,
        open: impl Fn(Arc<Segment>, &Slot) -> Result<T, Doubt>,
    ) -> Result<Option<T>, WouldBlock> {
        let hash = self.index.hash(key);
        for _ in 0..MOVES_MAX {
            let Some(slot) = find(&self.index, hash) else {
                return Ok(None);
            };
            // Between the two look-ups reclaim may have moved the entry, or evicted it.
            let Some(segment) = self.segment(slot.place.segment) else {
                continue;
            };
            return match open(segment, &slot) {
                Ok(found) => Ok(Some(found)),
                Err(Doubt::WouldBlock) => Err(WouldBlock),
                Err(Doubt::OtherKey) => {
                    // Of two keys with one hash, only one can be here.
                    self.index.remove(hash, slot.place);
                    Ok(None)
                }
                Err(Doubt::Unverified) => {
                    self.lose(&slot);
                    Ok(None)
                }
                Err(Doubt::Disk(error)) => {
                    self.give_up(&slot, &error);
                    Ok(None)
                }
            };
        }
        Ok(None)
    }

    fn open_entry(
        self: &Arc<Self>,
        segment: Arc<Segment>,
        slot: &Slot,
        key: &[u8],
        wait: Wait,
    ) -> Result<Entry, Doubt> {
        let head = read_live(Rest::Wanted, &segment, slot, key, wait)?;
        self.open_body(segment, slot, head, wait)
    }

    /// What `slot` points to, entry or held.
    pub(crate) fn open_any(
        self: &Arc<Self>,
        segment: Arc<Segment>,
        slot: &Slot,
        wait: Wait,
    ) -> Result<Entry, Doubt> {
        let (head, _) = self.read_any_and(Rest::Wanted, &segment, slot, wait)?;
        self.open_body(segment, slot, head, wait)
    }

    /// The entry whose head has been read.
    fn open_body(
        self: &Arc<Self>,
        segment: Arc<Segment>,
        slot: &Slot,
        head: Head,
        wait: Wait,
    ) -> Result<Entry, Doubt> {
        let header = head.header;
        let metadata = head.metadata_range();
        let body_start = header.body_start() as usize;
        let (metadata, body) = if header.body_bytes <= WHOLE_BYTES_MAX {
            let mut record = Bytes::from(whole_record(&segment, slot, head, wait)?);
            let names = record.split_to(body_start);
            record.truncate(header.body_bytes as usize);
            if crc32c::crc32c(&record) != header.body_crc && !self.has_bug(Bug::SkipBlockChecksums)
            {
                return Err(Doubt::Unverified);
            }
            let metadata = if metadata.is_empty() {
                Bytes::new()
            } else {
                names.slice(metadata)
            };
            (metadata, Body::Whole(record))
        } else {
            let metadata = Bytes::copy_from_slice(&head.buffer[metadata]);
            (
                metadata,
                Body::Stream(Reader::new(Arc::clone(self), segment, *slot, header)),
            )
        };
        Ok(Entry {
            metadata,
            check: header.check,
            writer: header.writer,
            written_at_ms: header.written_at_ms,
            size: header.body_bytes,
            body,
        })
    }
}

/// The rest of a record whose body comes whole: usually read with its head already.
fn whole_record(segment: &Segment, slot: &Slot, head: Head, wait: Wait) -> Result<Vec<u8>, Doubt> {
    let end = (head.header.body_start() + head.header.body_bytes) as usize;
    let mut record = head.buffer;
    let read = record.len();
    if read < end {
        record.resize(end, 0);
        let offset = slot.place.offset() + read as u64;
        read_exact_at(&*segment.file, &mut record[read..], offset, wait)?;
    }
    Ok(record)
}

/// A streamed body. It keeps its segment's bytes readable, whatever happens to the entry.
pub struct Reader {
    shared: Arc<Shared>,
    segment: Arc<Segment>,
    slot: Slot,
    header: RecordHeader,
    /// Bytes of the body handed out.
    position: u64,
    /// Block checksums from block `table_start` on.
    table: Vec<u8>,
    table_start: u64,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("place", &self.slot.place)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Reader {
    pub(crate) fn new(
        shared: Arc<Shared>,
        segment: Arc<Segment>,
        slot: Slot,
        header: RecordHeader,
    ) -> Self {
        segment.readers.fetch_add(1, Ordering::Relaxed);
        Self {
            shared,
            segment,
            slot,
            header,
            position: 0,
            table: Vec::new(),
            table_start: 0,
        }
    }

    /// Bytes of the body.
    pub fn size(&self) -> u64 {
        self.header.body_bytes
    }

    /// Has the next piece start at this byte of the body, or the end come next if the body has no more. What is
    /// handed out is verified like all else, by whole blocks.
    pub fn seek(&mut self, position: u64) {
        self.position = position.min(self.header.body_bytes);
    }

    /// The next piece, at most [`PIECE_BYTES_MAX`] bytes, verified. `None` is the clean end.
    pub fn next(&mut self, wait: Wait) -> Result<Option<Bytes>, ReadError> {
        if self.position == self.header.body_bytes {
            return Ok(None);
        }
        match self.read_piece(wait) {
            Ok(piece) => {
                self.position += piece.len() as u64;
                Ok(Some(piece))
            }
            Err(Doubt::WouldBlock) => Err(ReadError::WouldBlock),
            Err(Doubt::Unverified | Doubt::OtherKey) => {
                self.shared.lose(&self.slot);
                Err(ReadError::Lost)
            }
            Err(Doubt::Disk(error)) => {
                self.shared.give_up(&self.slot, &error);
                Err(ReadError::Lost)
            }
        }
    }

    /// Reads whole blocks from the one with `position` in it on, verifies each and returns what is there from
    /// `position` on.
    fn read_piece(&mut self, wait: Wait) -> Result<Bytes, Doubt> {
        let first = self.position / BLOCK_BYTES;
        let start = first * BLOCK_BYTES;
        let bytes = PIECE_BYTES_MAX.min(self.header.body_bytes - start);
        let body_start = self.slot.place.offset() + self.header.body_start();
        let mut piece = vec![0; bytes as usize];
        read_exact_at(&*self.segment.file, &mut piece, body_start + start, wait)?;
        if self.header.table_bytes() == 0 {
            self.check(crc32c::crc32c(&piece), self.header.body_crc)?;
        } else {
            self.load_table(first, wait)?;
            for (number, block) in (first..).zip(piece.chunks(BLOCK_BYTES as usize)) {
                let at = ((number - self.table_start) * 4) as usize;
                let expected = self.table[at..at + 4].try_into().expect("four bytes");
                self.check(crc32c::crc32c(block), u32::from_le_bytes(expected))?;
            }
        }
        let mut piece = Bytes::from(piece);
        piece.advance((self.position - start) as usize);
        Ok(piece)
    }

    fn check(&self, found: u32, expected: u32) -> Result<(), Doubt> {
        if found == expected || self.shared.has_bug(Bug::SkipBlockChecksums) {
            Ok(())
        } else {
            Err(Doubt::Unverified)
        }
    }

    /// Makes the checksums of a piece's blocks, from `first` on, available.
    fn load_table(&mut self, first: u64, wait: Wait) -> Result<(), Doubt> {
        let blocks = self.header.table_bytes() / 4;
        let last = (first + PIECE_BYTES_MAX / BLOCK_BYTES).min(blocks) - 1;
        let loaded = self.table_start..self.table_start + self.table.len() as u64 / 4;
        if loaded.contains(&first) && loaded.contains(&last) {
            return Ok(());
        }
        let count = TABLE_BLOCKS.min(blocks - first);
        let mut table = vec![0; (count * 4) as usize];
        let table_start = self.header.body_start() + self.header.body_bytes;
        let offset = self.slot.place.offset() + table_start + first * 4;
        read_exact_at(&*self.segment.file, &mut table, offset, wait)?;
        self.table = table;
        self.table_start = first;
        Ok(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.segment.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

// What is loaded of the table covers a piece, wherever that starts.
const _: () = assert!(TABLE_BLOCKS >= PIECE_BYTES_MAX / BLOCK_BYTES);
