//! What a pack's index says of one entry.
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 2 | length of the key |
//! | 2 | 2 | length of the metadata |
//! | 4 | 2 | check |
//! | 6 | 1 | rule: 1 content, 2 replace, 3 first |
//! | 7 | 1 | place of the body: 1 in this pack, 2 an object of its own, 3 the key's first object |
//! | 8 | 8 | writer |
//! | 16 | 8 | written at, unix milliseconds |
//! | 24 | 8 | length of the body |
//! | 32 | 16 | 1: offset in this pack (8), zero (8); 2: the object's id; 3: zero |
//! | 48 | | key, metadata, and the BLAKE3 (32) of each piece of 1 MiB of the body |
//!
//! Little-endian. A first object's body starts right behind its header. Every field has one spelling, and what does not
//! read back exactly is no record.

use bytes::Bytes;

use crate::name::ObjectId;
use crate::pack::PACK_HEADER_BYTES;

/// The unit in which bodies are verified.
pub const PIECE_BYTES: u64 = 1 << 20;

/// The most bytes of a key.
pub const KEY_BYTES_MAX: usize = 1024;

/// The most bytes of metadata: what its length can say.
pub(crate) const METADATA_BYTES_MAX: usize = 0xffff;

/// The most bytes of a body: its piece hashes are 2 MiB, which an index can hold.
pub const BODY_BYTES_MAX: u64 = 64 << 30;

const FIXED_BYTES: usize = 48;
const HASH_BYTES: usize = 32;

/// Which of several entries of one key counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    /// The key names the bytes: any copy is as good as another.
    Content,
    /// The newest wins.
    Replace,
    /// The first write wins, on all nodes together.
    First,
}

impl Rule {
    pub(crate) const ALL: [Self; 3] = [Self::Content, Self::Replace, Self::First];

    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Content => 1,
            Self::Replace => 2,
            Self::First => 3,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.code() == code)
    }
}

/// Where a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Location {
    /// In the pack whose index holds the record.
    Here { offset: u64 },
    /// It is an object.
    Body(ObjectId),
    /// In the object named by the record's key.
    First,
}

/// An entry without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: Bytes,
    pub(crate) metadata: Bytes,
    pub(crate) check: u16,
    pub(crate) rule: Rule,
    pub(crate) writer: u64,
    pub(crate) written_at_ms: u64,
    pub(crate) body_bytes: u64,
    pub(crate) location: Location,
    /// The hashes of its pieces, one behind the other.
    pub(crate) pieces: Bytes,
}

/// Bytes of the hashes of a body's pieces.
fn pieces_bytes(body_bytes: u64) -> usize {
    body_bytes.div_ceil(PIECE_BYTES) as usize * HASH_BYTES
}

impl Record {
    pub(crate) fn encoded_bytes(&self) -> usize {
        FIXED_BYTES + self.key.len() + self.metadata.len() + self.pieces.len()
    }

    /// Whether the record can be written at all.
    pub(crate) fn is_sane(&self) -> bool {
        !self.key.is_empty()
            && self.key.len() <= KEY_BYTES_MAX
            && self.metadata.len() <= METADATA_BYTES_MAX
            && self.body_bytes <= BODY_BYTES_MAX
            && self.pieces.len() == pieces_bytes(self.body_bytes)
    }

    /// Appends a sane record.
    pub(crate) fn encode_into(&self, bytes: &mut Vec<u8>) {
        let mut place = [0; 16];
        let place_code = match self.location {
            Location::Here { offset } => {
                place[..8].copy_from_slice(&offset.to_le_bytes());
                1
            }
            Location::Body(ObjectId(id)) => {
                place = id;
                2
            }
            Location::First => 3,
        };
        bytes.extend_from_slice(&(self.key.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&(self.metadata.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&self.check.to_le_bytes());
        bytes.extend_from_slice(&[self.rule.code(), place_code]);
        bytes.extend_from_slice(&self.writer.to_le_bytes());
        bytes.extend_from_slice(&self.written_at_ms.to_le_bytes());
        bytes.extend_from_slice(&self.body_bytes.to_le_bytes());
        bytes.extend_from_slice(&place);
        for part in [&self.key, &self.metadata, &self.pieces] {
            bytes.extend_from_slice(part);
        }
    }

    /// Reads the record at the start of `bytes`, which shares its memory.
    pub(crate) fn decode(bytes: &Bytes) -> Option<Self> {
        let fixed: &[u8; FIXED_BYTES] = bytes.get(..FIXED_BYTES)?.try_into().ok()?;
        let key_bytes = usize::from(u16_at(fixed, 0));
        let metadata_bytes = usize::from(u16_at(fixed, 2));
        let body_bytes = u64_at(fixed, 24);
        let place: [u8; 16] = fixed[32..48].try_into().expect("sixteen bytes");
        let location = match fixed[7] {
            1 if place[8..] == [0; 8] => Location::Here {
                offset: u64_at(fixed, 32),
            },
            2 => Location::Body(ObjectId(place)),
            3 if place == [0; 16] => Location::First,
            _ => return None,
        };
        if key_bytes == 0 || key_bytes > KEY_BYTES_MAX || body_bytes > BODY_BYTES_MAX {
            return None;
        }
        let metadata_at = FIXED_BYTES + key_bytes;
        let pieces_at = metadata_at + metadata_bytes;
        let end = pieces_at + pieces_bytes(body_bytes);
        if bytes.len() < end {
            return None;
        }
        Some(Self {
            key: bytes.slice(FIXED_BYTES..metadata_at),
            metadata: bytes.slice(metadata_at..pieces_at),
            check: u16_at(fixed, 4),
            rule: Rule::from_code(fixed[6])?,
            writer: u64_at(fixed, 8),
            written_at_ms: u64_at(fixed, 16),
            body_bytes,
            location,
            pieces: bytes.slice(pieces_at..end),
        })
    }

    /// Whether these bytes are the body's piece of this number.
    pub(crate) fn piece_fits(&self, piece: u64, bytes: &[u8]) -> bool {
        let start = piece as usize * HASH_BYTES;
        let Some(expected) = self.pieces.get(start..start + HASH_BYTES) else {
            return false;
        };
        blake3::hash(bytes).as_bytes() == expected
    }

    /// Whether these bytes are the body.
    pub(crate) fn body_fits(&self, body: &[u8]) -> bool {
        let mut pieces = (0..).zip(body.chunks(PIECE_BYTES as usize));
        body.len() as u64 == self.body_bytes && pieces.all(|(at, piece)| self.piece_fits(at, piece))
    }

    /// Where a body that is in a pack starts in it.
    pub(crate) fn offset_in_pack(&self) -> Option<u64> {
        match self.location {
            Location::Here { offset } => Some(offset),
            Location::First => Some(PACK_HEADER_BYTES),
            Location::Body(_) => None,
        }
    }

    /// Whether both are records of one write.
    pub(crate) fn is_same_write(&self, other: &Self) -> bool {
        self.key == other.key
            && self.written_at_ms == other.written_at_ms
            && self.check == other.check
            && self.writer == other.writer
            && self.pieces == other.pieces
    }
}

/// Hashes a body piece by piece as it comes.
#[derive(Default)]
pub(crate) struct PieceHasher {
    hasher: blake3::Hasher,
    bytes: u64,
    pieces: Vec<u8>,
}

impl PieceHasher {
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = PIECE_BYTES - self.bytes % PIECE_BYTES;
            let (now, rest) = bytes.split_at(bytes.len().min(room as usize));
            self.hasher.update(now);
            self.bytes += now.len() as u64;
            if self.bytes.is_multiple_of(PIECE_BYTES) {
                self.end_piece();
            }
            bytes = rest;
        }
    }

    fn end_piece(&mut self) {
        let hash = self.hasher.finalize();
        self.pieces.extend_from_slice(hash.as_bytes());
        self.hasher.reset();
    }

    /// The body's length and the hashes of its pieces.
    pub(crate) fn finish(mut self) -> (u64, Bytes) {
        if !self.bytes.is_multiple_of(PIECE_BYTES) {
            self.end_piece();
        }
        (self.bytes, self.pieces.into())
    }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
