//! Packs: immutable objects of many entries. Version 1.
//!
//! | bytes | what |
//! |---|---|
//! | 16 | header: magic `LARDPACK` (8), version (4), zero (4) |
//! | | bodies, one behind the other |
//! | | index |
//! | 16 | footer: where the index starts (8), its length (4), magic `LPND` (4) |
//!
//! The index is what nodes keep and look up:
//!
//! | bytes | what |
//! |---|---|
//! | 16 | magic `LPIX` (4), version (4), number of records (4), zero (4) |
//! | | records (see `record.rs`), those whose body is here in order of the bodies |
//! | 32 | MAC: keyed BLAKE3 over purpose, version, the object's whole name from `v1/` on, and all of the index before |
//!
//! Little-endian. So nothing under a wrong name, put there by hand or altered is ever believed, and as the records hold the
//! hashes of all bodies, nothing that is not what was stored is ever handed out. Header and footer need no protection: the
//! header says nothing, and the footer only where an index may be found.

use bytes::Bytes;

use crate::name::MacKey;
use crate::record::{Location, PIECE_BYTES, PieceHasher, Record, u32_at, u64_at};

/// The format's version.
pub const FORMAT_VERSION: u32 = 1;
/// A pack is full at this size: large enough that requests do not matter, small enough that one is soon written.
pub const PACK_BYTES_TARGET: u64 = 8 << 20;
/// A body above this is an object of its own.
pub const PACKED_BODY_BYTES_MAX: u64 = 4 << 20;
/// The most records of a pack: the work of one load of an index is bounded.
pub const PACK_RECORD_COUNT_MAX: u32 = 4096;
/// The most bytes of an index that are read. Two of the largest records fit.
pub const INDEX_BYTES_MAX: u64 = 8 << 20;
/// An index that has grown to this size ends its pack.
pub(crate) const INDEX_BYTES_TARGET: usize = 2 << 20;
/// The most bytes of an object that holds one entry whose body is not an object of its own.
pub(crate) const FIRST_BYTES_MAX: u64 = PACKED_BODY_BYTES_MAX + INDEX_BYTES_MAX;
/// Bytes of a header.
pub(crate) const PACK_HEADER_BYTES: u64 = 16;

const MAGIC: [u8; 8] = *b"LARDPACK";
const INDEX_MAGIC: [u8; 4] = *b"LPIX";
const FOOTER_MAGIC: [u8; 4] = *b"LPND";
const INDEX_HEADER_BYTES: usize = 16;
const FOOTER_BYTES: usize = 16;
const MAC_BYTES: usize = 32;

/// What claims to be an index and is none that this deployment wrote under this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not authentic")]
pub struct NotAuthentic;

fn mac(key: &MacKey, name: &str, index: &[u8]) -> blake3::Hash {
    let version = FORMAT_VERSION.to_le_bytes();
    key.hash("larder bucket 1 index", &[&version, name.as_bytes(), index])
}

/// A pack in the making. Bodies are shared, not copied.
#[derive(Debug)]
pub(crate) struct PackBuilder {
    parts: Vec<Bytes>,
    bytes: u64,
    records: Vec<u8>,
    record_count: u32,
}

/// A pack that can be written.
#[derive(Debug)]
pub(crate) struct Pack {
    /// The object's bytes.
    pub(crate) parts: Vec<Bytes>,
    pub(crate) object_bytes: u64,
    pub(crate) index_offset: u64,
    /// MAC included.
    pub(crate) index: Bytes,
    pub(crate) record_count: u32,
}

impl PackBuilder {
    pub(crate) fn new() -> Self {
        let mut header = Vec::with_capacity(PACK_HEADER_BYTES as usize);
        header.extend_from_slice(&MAGIC);
        header.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        Self {
            parts: vec![header.into()],
            bytes: PACK_HEADER_BYTES,
            records: Vec::new(),
            record_count: 0,
        }
    }

    /// Whether the next record is for another pack.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes >= PACK_BYTES_TARGET
            || self.record_count >= PACK_RECORD_COUNT_MAX
            || self.records.len() >= INDEX_BYTES_TARGET
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    /// Adds an entry with its body, whatever location, length and hashes the record says; returns it with the right ones.
    pub(crate) fn add(&mut self, mut record: Record, body: Vec<Bytes>) -> Record {
        record.location = Location::Here { offset: self.bytes };
        let mut hasher = PieceHasher::default();
        for part in &body {
            hasher.update(part);
        }
        (record.body_bytes, record.pieces) = hasher.finish();
        self.bytes += record.body_bytes;
        self.parts.extend(body);
        self.add_elsewhere(&record);
        record
    }

    /// Adds an entry whose body is elsewhere.
    pub(crate) fn add_elsewhere(&mut self, record: &Record) {
        debug_assert!(record.is_sane(), "a record that cannot be read back");
        record.encode_into(&mut self.records);
        self.record_count += 1;
    }

    /// The pack, for an object of this name.
    pub(crate) fn finish(mut self, key: &MacKey, name: &str) -> Pack {
        let mut index = Vec::with_capacity(INDEX_HEADER_BYTES + self.records.len() + MAC_BYTES);
        index.extend_from_slice(&INDEX_MAGIC);
        index.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        index.extend_from_slice(&self.record_count.to_le_bytes());
        index.extend_from_slice(&[0; 4]);
        index.extend_from_slice(&self.records);
        let mac = mac(key, name, &index);
        index.extend_from_slice(mac.as_bytes());
        let index = Bytes::from(index);
        let mut footer = Vec::with_capacity(FOOTER_BYTES);
        footer.extend_from_slice(&self.bytes.to_le_bytes());
        footer.extend_from_slice(&(index.len() as u32).to_le_bytes());
        footer.extend_from_slice(&FOOTER_MAGIC);
        self.parts.push(index.clone());
        self.parts.push(footer.into());
        Pack {
            parts: self.parts,
            object_bytes: self.bytes + (index.len() + FOOTER_BYTES) as u64,
            index_offset: self.bytes,
            index,
            record_count: self.record_count,
        }
    }
}

/// An authentic index.
#[derive(Debug, Clone)]
pub(crate) struct PackIndex {
    bytes: Bytes,
    /// Where each record starts, ascending.
    positions: Vec<u32>,
}

impl PackIndex {
    /// Reads the index of the pack of this name, whose bodies end where the index starts.
    pub(crate) fn parse(
        key: &MacKey,
        name: &str,
        index_offset: u64,
        bytes: Bytes,
    ) -> Result<Self, NotAuthentic> {
        let mac_at = bytes.len().checked_sub(MAC_BYTES).ok_or(NotAuthentic)?;
        let found: [u8; MAC_BYTES] = bytes[mac_at..].try_into().expect("thirty-two bytes");
        // Compares in constant time.
        if bytes.len() as u64 > INDEX_BYTES_MAX || mac(key, name, &bytes[..mac_at]) != found {
            return Err(NotAuthentic);
        }
        Self::parse_signed(index_offset, bytes.slice(..mac_at)).ok_or(NotAuthentic)
    }

    fn parse_signed(index_offset: u64, bytes: Bytes) -> Option<Self> {
        let header = bytes.get(..INDEX_HEADER_BYTES)?;
        let count = u32_at(header, 8);
        let sane = header[..4] == INDEX_MAGIC
            && u32_at(header, 4) == FORMAT_VERSION
            && header[12..] == [0; 4]
            && count <= PACK_RECORD_COUNT_MAX;
        if !sane {
            return None;
        }
        let mut positions = Vec::with_capacity(count as usize);
        let (mut at, mut body_end) = (INDEX_HEADER_BYTES, PACK_HEADER_BYTES);
        for _ in 0..count {
            let record = Record::decode(&bytes.slice(at..))?;
            if let Location::Here { offset } = record.location {
                let end = offset.checked_add(record.body_bytes)?;
                if offset < body_end || end > index_offset {
                    return None;
                }
                body_end = end;
            }
            positions.push(at as u32);
            at += record.encoded_bytes();
        }
        (at == bytes.len()).then_some(Self { bytes, positions })
    }

    /// Reads the index of a whole object.
    pub(crate) fn of_object(
        key: &MacKey,
        name: &str,
        object: &Bytes,
    ) -> Result<Self, NotAuthentic> {
        let footer_at = object.len().checked_sub(FOOTER_BYTES);
        let footer_at = footer_at.ok_or(NotAuthentic)?;
        let footer = &object[footer_at..];
        let (index_offset, index_bytes) = (u64_at(footer, 0), u32_at(footer, 8));
        let end = index_offset.checked_add(u64::from(index_bytes));
        if footer[12..] != FOOTER_MAGIC || end != Some(footer_at as u64) {
            return Err(NotAuthentic);
        }
        let index = object.slice(index_offset as usize..footer_at);
        Self::parse(key, name, index_offset, index)
    }

    /// The record at a position, which must be one of this index's.
    pub(crate) fn record(&self, position: u32) -> Option<Record> {
        self.positions.binary_search(&position).ok()?;
        Record::decode(&self.bytes.slice(position as usize..))
    }

    /// All records and their positions.
    pub(crate) fn records(&self) -> impl Iterator<Item = (u32, Record)> + '_ {
        self.positions
            .iter()
            .filter_map(|position| Some((*position, self.record(*position)?)))
    }

    /// Bytes of memory, about.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes.len() + self.positions.len() * 4
    }

    /// The region that the body of the record at `position` is fetched with: the positions of its records, neighbours
    /// whose bodies are together at most [`PIECE_BYTES`] or one record. `None`: its body is not in this pack.
    pub(crate) fn region(&self, position: u32) -> Option<Region> {
        let mut region: Option<Region> = None;
        for (at, record) in self.records() {
            let Location::Here { offset } = record.location else {
                continue;
            };
            let end = offset + record.body_bytes;
            match &mut region {
                Some(region) if end - region.start <= PIECE_BYTES => {
                    region.end = end;
                    region.positions.push(at);
                }
                _ => {
                    if region.as_ref().is_some_and(|full| full.has(position)) {
                        break;
                    }
                    region = Some(Region {
                        start: offset,
                        end,
                        positions: vec![at],
                    });
                }
            }
        }
        region.filter(|region| region.has(position))
    }
}

/// Neighbouring bodies that are fetched together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Region {
    /// Where the first body starts.
    pub(crate) start: u64,
    /// Where the last one ends.
    pub(crate) end: u64,
    /// The records.
    pub(crate) positions: Vec<u32>,
}

impl Region {
    fn has(&self, position: u32) -> bool {
        self.positions.binary_search(&position).is_ok()
    }
}

/// Reads arbitrary bytes as an object and as an index with a MAC that fits; for fuzzing.
#[doc(hidden)]
#[cfg(any(test, feature = "sim"))]
pub fn read_anything(bytes: &[u8]) {
    let key = MacKey::new([7; 32]);
    let bytes = Bytes::copy_from_slice(bytes);
    let _ = PackIndex::of_object(&key, "v1/fuzz", &bytes);
    if let Some(index) = PackIndex::parse_signed(u64::MAX, bytes) {
        let encoded = index.records().flat_map(|(position, record)| {
            let _ = index.region(position);
            let mut bytes = Vec::new();
            record.encode_into(&mut bytes);
            bytes
        });
        assert!(encoded.eq(index.bytes[INDEX_HEADER_BYTES..].iter().copied()));
    }
}

#[cfg(test)]
#[path = "pack_tests.rs"]
mod tests;
