//! The bytes on disk. `docs/format.md` is this file in words; a golden dump pins both.
//!
//! A pool directory holds segment files `{id:08x}.seg` and at most one `index.ckpt`. All numbers
//! are little-endian. A segment is a [`SegmentHeader`] followed by records, each on a 16-byte
//! boundary:
//!
//! ```text
//! record = header (64) | key | metadata | body | block table | zeros to a multiple of 16
//! ```
//!
//! A body of at most [`BLOCK_BYTES`] is covered by one CRC-32C in the header. A longer one is
//! followed by a table of one CRC-32C per block, which the header's CRC covers in turn; so a body
//! can be verified piece by piece while it is streamed, and any block on its own.
//!
//! The header is written last and carries a SipHash-2-4 tag, keyed by its segment's random salt, over
//! the segment's id, the record's offset, the header, the key and the metadata. Space that was
//! reserved and never completed is full of bytes that a client chose; recovery walks through
//! such gaps, and the tag is why a client cannot plant a record there. A second, shorter tag over the
//! header alone keeps what looks like a header from being read any further.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

use crate::lease::LeasePromise;

/// The version in every header. A reader refuses a newer one.
pub const FORMAT_VERSION: u32 = 1;
/// Records start on multiples of this.
pub const ALIGN_BYTES: u64 = 16;
/// The part of a body that one checksum covers.
pub const BLOCK_BYTES: u64 = 64 * 1024;
/// The most bytes of a record's key.
pub const KEY_BYTES_MAX: usize = 1024;
/// The most bytes of a record's metadata.
pub const METADATA_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a segment's header.
pub const SEGMENT_HEADER_BYTES: u64 = 64;
/// Bytes of a record's header.
pub const RECORD_HEADER_BYTES: usize = 64;

const SEGMENT_MAGIC: [u8; 8] = *b"LARDSEG1";
const RECORD_MAGIC: [u8; 4] = *b"LREC";
/// Where a record's state field is, from the record's start. Not covered by the tag, so that it can change in place.
pub(crate) const STATE_OFFSET: u64 = 56;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Why bytes are no header of this format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderError {
    /// Wrong magic or checksum: not ours, torn, or rotten.
    Invalid,
    /// Written by a newer version of Larder.
    Newer(u32),
}

/// The first 64 bytes of a segment file.
///
/// | at | bytes | field |
/// |---|---|---|
/// | 0 | 8 | magic `LARDSEG1` |
/// | 8 | 4 | format version |
/// | 12 | 4 | segment id |
/// | 16 | 8 | created at, Unix milliseconds |
/// | 24 | 16 | salt, random |
/// | 40 | 20 | zero |
/// | 60 | 4 | CRC-32C of bytes 0 to 59 |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The segment's number, from 1 on, never used twice in a pool.
    pub id: u32,
    /// When the segment was created, Unix milliseconds.
    pub created_at_ms: u64,
    /// The key of the records' tags.
    pub salt: [u8; 16],
}

impl SegmentHeader {
    /// The header as bytes.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES as usize] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
        bytes[0..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.created_at_ms.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.salt);
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header from bytes.
    pub fn decode(bytes: &[u8; SEGMENT_HEADER_BYTES as usize]) -> Result<Self, HeaderError> {
        if bytes[0..8] != SEGMENT_MAGIC || crc32c::crc32c(&bytes[..60]) != u32_at(bytes, 60) {
            return Err(HeaderError::Invalid);
        }
        match u32_at(bytes, 8) {
            FORMAT_VERSION => {}
            0 => return Err(HeaderError::Invalid),
            newer => return Err(HeaderError::Newer(newer)),
        }
        let salt = bytes[24..40].try_into().expect("sixteen bytes");
        Ok(Self {
            id: u32_at(bytes, 12),
            created_at_ms: u64_at(bytes, 16),
            salt,
        })
    }
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// An entry.
    Entry,
    /// Says that the record at another place is dead: segment id (4), offset in units of 16 (4), hash of the key (16).
    Tombstone,
    /// An upload that was given up: `body_bytes` of nothing, so that recovery need not walk through it.
    Filler,
}

impl RecordKind {
    fn code(self) -> u8 {
        match self {
            Self::Entry => 1,
            Self::Tombstone => 2,
            Self::Filler => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Entry, Self::Tombstone, Self::Filler]
            .into_iter()
            .find(|kind| kind.code() == code)
    }
}

/// What a record's state field says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It is its key's entry, unless a newer one is.
    Live,
    /// It was an entry that is kept and no longer served. Who does not know this state takes it for dead.
    Held,
    /// It is nothing any more. So is a record whose state is none of these.
    Dead,
}

impl State {
    pub(crate) fn encode(self) -> [u8; 4] {
        match self {
            Self::Live => *b"LIVE",
            Self::Held => *b"HELD",
            Self::Dead => *b"DEAD",
        }
    }

    fn decode(bytes: &[u8]) -> Self {
        [Self::Live, Self::Held]
            .into_iter()
            .find(|state| state.encode() == bytes)
            .unwrap_or(Self::Dead)
    }
}

/// The fixed part in front of every record.
///
/// | at | bytes | field |
/// |---|---|---|
/// | 0 | 4 | magic `LREC` |
/// | 4 | 1 | format version |
/// | 5 | 1 | kind: 1 entry, 2 tombstone, 3 filler |
/// | 6 | 2 | key bytes |
/// | 8 | 2 | metadata bytes |
/// | 10 | 2 | check: the writer's, kept in the index as well |
/// | 12 | 4 | CRC-32C of the body, or of the block table where there is one |
/// | 16 | 8 | body bytes |
/// | 24 | 8 | sequence: of two records of a key, the greater is the newer |
/// | 32 | 8 | written at, Unix milliseconds |
/// | 40 | 8 | writer |
/// | 48 | 8 | tag: SipHash-2-4, keyed by the salt, over segment id (4), offset (8), bytes 0 to 47, key, metadata |
/// | 56 | 4 | state: `LIVE` or `HELD`, anything else is dead |
/// | 60 | 4 | header tag: the low half of SipHash-2-4, keyed by the salt, over segment id (4), offset (8), bytes 0 to 55 |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the record is.
    pub kind: RecordKind,
    /// Bytes of the key.
    pub key_bytes: u16,
    /// Bytes of the metadata.
    pub metadata_bytes: u16,
    /// The writer's, for comparisons that need no disk.
    pub check: u16,
    /// CRC-32C of the body, or of the block table.
    pub body_crc: u32,
    /// Bytes of the body.
    pub body_bytes: u64,
    /// Orders the records of a key.
    pub sequence: u64,
    /// When the entry was first written, Unix milliseconds.
    pub written_at_ms: u64,
    /// Who wrote it.
    pub writer: u64,
}

/// A segment's identity, as the tags of its records need it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TagKey {
    pub(crate) segment: u32,
    pub(crate) salt: [u8; 16],
}

/// What a header's bytes say before its tag is checked.
pub(crate) struct Untagged {
    pub(crate) header: RecordHeader,
    pub(crate) state: State,
}

impl RecordHeader {
    /// Bytes of key and metadata together.
    pub fn names_bytes(&self) -> u64 {
        u64::from(self.key_bytes) + u64::from(self.metadata_bytes)
    }

    /// Where the body starts, from the record's start.
    pub fn body_start(&self) -> u64 {
        RECORD_HEADER_BYTES as u64 + self.names_bytes()
    }

    /// Bytes of the table of block checksums.
    pub fn table_bytes(&self) -> u64 {
        table_bytes(self.body_bytes)
    }

    /// Bytes of the whole record, padding included.
    pub fn record_bytes(&self) -> u64 {
        record_bytes(self.names_bytes(), self.body_bytes)
    }

    /// The header, live and tagged for its place.
    pub(crate) fn encode(
        &self,
        tag_key: &TagKey,
        offset: u64,
        key: &[u8],
        metadata: &[u8],
    ) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&RECORD_MAGIC);
        bytes[4] = FORMAT_VERSION as u8;
        bytes[5] = self.kind.code();
        bytes[6..8].copy_from_slice(&self.key_bytes.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.metadata_bytes.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.check.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.body_crc.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.written_at_ms.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.writer.to_le_bytes());
        let whole_tag = tag(tag_key, offset, &bytes[..48], key, metadata);
        bytes[48..56].copy_from_slice(&whole_tag.to_le_bytes());
        bytes[56..60].copy_from_slice(&State::Live.encode());
        let header_tag = tag(tag_key, offset, &bytes[..56], &[], &[]) as u32;
        bytes[60..64].copy_from_slice(&header_tag.to_le_bytes());
        bytes
    }

    /// Reads the fields; they mean nothing until [`RecordHeader::tag_fits`] has been asked.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Untagged> {
        let bytes = bytes.get(..RECORD_HEADER_BYTES)?;
        if bytes[0..4] != RECORD_MAGIC || u32::from(bytes[4]) != FORMAT_VERSION {
            return None;
        }
        let header = Self {
            kind: RecordKind::from_code(bytes[5])?,
            key_bytes: u16_at(bytes, 6),
            metadata_bytes: u16_at(bytes, 8),
            check: u16_at(bytes, 10),
            body_crc: u32_at(bytes, 12),
            body_bytes: u64_at(bytes, 16),
            sequence: u64_at(bytes, 24),
            written_at_ms: u64_at(bytes, 32),
            writer: u64_at(bytes, 40),
        };
        let sane = usize::from(header.key_bytes) <= KEY_BYTES_MAX
            && usize::from(header.metadata_bytes) <= METADATA_BYTES_MAX
            && header.body_bytes <= BODY_BYTES_MAX;
        sane.then_some(Untagged {
            header,
            state: State::decode(&bytes[56..60]),
        })
    }

    /// Whether the header (`bytes`) alone was written by us for this place: worth a look at key and metadata.
    pub(crate) fn header_tag_fits(bytes: &[u8], tag_key: &TagKey, offset: u64) -> bool {
        tag(tag_key, offset, &bytes[..56], &[], &[]) as u32 == u32_at(bytes, 60)
    }

    /// Whether header (`bytes`), key and metadata were written by us for this place.
    pub(crate) fn tag_fits(
        &self,
        bytes: &[u8],
        tag_key: &TagKey,
        offset: u64,
        names: &[u8],
    ) -> bool {
        let (key, metadata) = names.split_at(usize::from(self.key_bytes));
        tag(tag_key, offset, &bytes[..48], key, metadata) == u64_at(bytes, 48)
    }
}

#[cfg(feature = "sim")]
impl RecordHeader {
    /// The header that recovery finds in the bytes of a record at a place, and whether it is live; for fuzzing.
    pub fn found_in(
        record: &[u8],
        segment: u32,
        salt: [u8; 16],
        offset: u64,
    ) -> Option<(Self, bool)> {
        let Untagged { header, state } = Self::decode(record)?;
        let names = record.get(RECORD_HEADER_BYTES..header.body_start() as usize)?;
        let tag_key = TagKey { segment, salt };
        let fits = Self::header_tag_fits(record, &tag_key, offset)
            && header.tag_fits(record, &tag_key, offset, names);
        fits.then_some((header, state == State::Live))
    }

    /// The fields of a header whose tags nobody asks for; for fuzzing.
    pub fn untagged(bytes: &[u8]) -> Option<Self> {
        Self::decode(bytes).map(|untagged| untagged.header)
    }

    /// The header of a live record at a place; for fuzzing.
    pub fn tagged(&self, segment: u32, salt: [u8; 16], offset: u64, names: &[u8]) -> [u8; 64] {
        let (key, metadata) = names.split_at(usize::from(self.key_bytes));
        self.encode(&TagKey { segment, salt }, offset, key, metadata)
    }
}

/// Bytes of a tombstone's body: a place (8) and a hash (16).
pub(crate) const TOMBSTONE_BYTES: usize = 24;

/// The most bytes a body may have, so that no sum of lengths overflows.
pub(crate) const BODY_BYTES_MAX: u64 = 1 << 48;

fn tag(tag_key: &TagKey, offset: u64, fields: &[u8], key: &[u8], metadata: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new_with_key(&tag_key.salt);
    hasher.write(&tag_key.segment.to_le_bytes());
    hasher.write(&offset.to_le_bytes());
    hasher.write(fields);
    hasher.write(key);
    hasher.write(metadata);
    hasher.finish()
}

/// Bytes of the table of block checksums behind a body of this size.
pub(crate) fn table_bytes(body_bytes: u64) -> u64 {
    if body_bytes <= BLOCK_BYTES {
        0
    } else {
        body_bytes.div_ceil(BLOCK_BYTES) * 4
    }
}

/// Bytes of a whole record, padding included.
pub(crate) fn record_bytes(names_bytes: u64, body_bytes: u64) -> u64 {
    let bytes = RECORD_HEADER_BYTES as u64 + names_bytes + body_bytes + table_bytes(body_bytes);
    bytes.next_multiple_of(ALIGN_BYTES)
}

/// Where a record is: its segment, and its offset there in units of [`ALIGN_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) unit: u32,
}

impl Place {
    pub(crate) fn new(segment: u32, offset: u64) -> Self {
        debug_assert!(offset.is_multiple_of(ALIGN_BYTES));
        Self {
            segment,
            unit: (offset / ALIGN_BYTES) as u32,
        }
    }

    pub(crate) fn offset(self) -> u64 {
        u64::from(self.unit) * ALIGN_BYTES
    }

    pub(crate) fn encode(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[0..4].copy_from_slice(&self.segment.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.unit.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: [u8; 8]) -> Self {
        Self {
            segment: u32_at(&bytes, 0),
            unit: u32_at(&bytes, 4),
        }
    }
}

/// One entry of the index, in memory and, in this encoding, in the checkpoint.
///
/// | at | bytes | field |
/// |---|---|---|
/// | 0 | 16 | keyed hash of the key (SipHash-2-4-128) |
/// | 16 | 4 | segment id |
/// | 20 | 4 | offset, in units of 16 bytes |
/// | 24 | 2 | bit 15: used since it was written; bits 0 to 14: record bytes in units of 16, saturating |
/// | 26 | 2 | check, as in the record's header |
/// | 28 | 4 | lease (see [`LeasePromise`]) |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) hash: u128,
    pub(crate) place: Place,
    size: u16,
    pub(crate) check: u16,
    pub(crate) promise: LeasePromise,
}

const USED_BIT: u16 = 1 << 15;
const UNITS_MAX: u16 = USED_BIT - 1;

impl Slot {
    /// Bytes of an encoded slot.
    pub(crate) const BYTES: usize = 32;
    /// What an empty place in the index's table holds.
    pub(crate) const EMPTY: Self = Self {
        hash: 0,
        place: Place {
            segment: 0,
            unit: 0,
        },
        size: 0,
        check: 0,
        promise: LeasePromise::NONE,
    };

    pub(crate) fn new(hash: u128, place: Place, record_bytes: u64, check: u16) -> Self {
        let units = u16::try_from(record_bytes / ALIGN_BYTES)
            .unwrap_or(UNITS_MAX)
            .min(UNITS_MAX);
        Self {
            hash,
            place,
            size: units,
            check,
            promise: LeasePromise::NONE,
        }
    }

    /// The same record under another hash. What was promised of the key is not promised of it.
    pub(crate) fn under(self, hash: u128) -> Self {
        Self {
            hash,
            promise: LeasePromise::NONE,
            ..self
        }
    }

    /// Segments count from 1.
    pub(crate) fn is_empty(&self) -> bool {
        self.place.segment == 0
    }

    pub(crate) fn is_used(&self) -> bool {
        self.size & USED_BIT != 0
    }

    pub(crate) fn set_used(&mut self, used: bool) {
        self.size = if used {
            self.size | USED_BIT
        } else {
            self.size & !USED_BIT
        };
    }

    /// The record's bytes; `None` for one of about 512 KiB or more, whose header has to be asked.
    pub(crate) fn record_bytes(&self) -> Option<u64> {
        let units = self.size & UNITS_MAX;
        (units < UNITS_MAX).then_some(u64::from(units) * ALIGN_BYTES)
    }

    pub(crate) fn encode_into(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.hash.to_le_bytes());
        bytes.extend_from_slice(&self.place.encode());
        bytes.extend_from_slice(&self.size.to_le_bytes());
        bytes.extend_from_slice(&self.check.to_le_bytes());
        bytes.extend_from_slice(&self.promise.encode());
    }

    pub(crate) fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        Self {
            hash: u128::from_le_bytes(bytes[0..16].try_into().expect("sixteen bytes")),
            place: Place {
                segment: u32_at(bytes, 16),
                unit: u32_at(bytes, 20),
            },
            size: u16_at(bytes, 24),
            check: u16_at(bytes, 26),
            promise: LeasePromise::decode(bytes[28..32].try_into().expect("four bytes")),
        }
    }
}

const CHECKPOINT_MAGIC: [u8; 8] = *b"LARDIDX2";

/// The first 64 bytes of a checkpoint. Behind it: `segment_count` times segment id (4), zero (4)
/// and covered bytes (8), then their CRC-32C (4); then blocks of slots, each a count (4), the
/// CRC-32C of the slots (4) and the slots, in ascending order of hash; a block of count 0 ends the file.
///
/// | at | bytes | field |
/// |---|---|---|
/// | 0 | 8 | magic `LARDIDX2` |
/// | 8 | 4 | format version |
/// | 12 | 4 | number of segments |
/// | 16 | 16 | key of the index's hash |
/// | 32 | 8 | next sequence |
/// | 40 | 4 | next segment id |
/// | 44 | 4 | zero |
/// | 48 | 8 | number of slots, about |
/// | 56 | 4 | zero |
/// | 60 | 4 | CRC-32C of bytes 0 to 59 |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CheckpointHeader {
    pub(crate) segment_count: u32,
    pub(crate) hash_key: [u8; 16],
    pub(crate) next_sequence: u64,
    pub(crate) next_segment: u32,
    pub(crate) slot_count: u64,
}

impl CheckpointHeader {
    pub(crate) const BYTES: usize = 64;

    pub(crate) fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0..8].copy_from_slice(&CHECKPOINT_MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.segment_count.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.hash_key);
        bytes[32..40].copy_from_slice(&self.next_sequence.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.next_segment.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.slot_count.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let fits = bytes[0..8] == CHECKPOINT_MAGIC
            && crc32c::crc32c(&bytes[..60]) == u32_at(bytes, 60)
            && u32_at(bytes, 8) == FORMAT_VERSION;
        fits.then(|| Self {
            segment_count: u32_at(bytes, 12),
            hash_key: bytes[16..32].try_into().expect("sixteen bytes"),
            next_sequence: u64_at(bytes, 32),
            next_segment: u32_at(bytes, 40),
            slot_count: u64_at(bytes, 48),
        })
    }
}

/// Covered bytes of a segment, as a checkpoint lists them: id (4), zero (4), bytes (8).
pub(crate) const COVERED_BYTES: usize = 16;

pub(crate) fn encode_covered(segment: u32, covered: u64, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&segment.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&covered.to_le_bytes());
}

pub(crate) fn decode_covered(bytes: &[u8]) -> (u32, u64) {
    (u32_at(bytes, 0), u64_at(bytes, 8))
}
