//! Any files as a pool's directory: random bytes, and files in which every checksum and tag fits but nothing else.
//!
//! The files are laid out by `docs/format.md`, not by the store's own code. What is served afterwards must have been
//! laid out whole under that key.

#![no_main]

use std::collections::HashSet;
use std::hash::Hasher;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arbitrary::Arbitrary;
use larder_store::sim::SimDisk;
use larder_store::{Body, Clock, Disk, Lease, NewRecord, Pool, PoolOptions, SegmentHeader, Wait};
use libfuzzer_sys::fuzz_target;
use siphasher::sip::SipHasher24;
use siphasher::sip128::{Hasher128, SipHasher24 as SipHasher24Wide};

const HASH_KEY: [u8; 16] = [9; 16];
/// Few, so that records meet.
const KEYS: u8 = 16;

#[derive(Debug, Arbitrary)]
struct Files {
    segments: Vec<SegmentFile>,
    checkpoint: Option<Checkpoint>,
    /// What the next life writes.
    later: Vec<(u8, u16, bool)>,
}

#[derive(Debug, Arbitrary)]
enum SegmentFile {
    Random(Vec<u8>),
    Laid { salt: u8, pieces: Vec<Piece> },
}

#[derive(Debug, Arbitrary)]
enum Piece {
    Random(Vec<u8>),
    Zeros(u16),
    Entry {
        key: u8,
        check: u16,
        body: BodyBytes,
        sequence: Sequence,
        dead: bool,
        rotten: bool,
    },
    Tombstone {
        segment: u8,
        unit: u16,
        key: u8,
        sequence: Sequence,
    },
    /// A header that fits, with any lengths.
    Header {
        fields: Box<[u8; 42]>,
        names: Vec<u8>,
    },
}

#[derive(Debug, Arbitrary)]
struct BodyBytes {
    bytes: u16,
    blocks: bool,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Sequence {
    Small(u8),
    Any(u64),
}

#[derive(Debug, Arbitrary)]
struct Checkpoint {
    next_sequence: Sequence,
    next_segment: Option<u32>,
    segments: Vec<(u8, u32)>,
    slot_count: Option<u64>,
    slots: Vec<(u8, u8, u16, u16, u16, u32)>,
    sorted: bool,
    end: Vec<u8>,
}

fuzz_target!(|files: Files| {
    let disk = SimDisk::new(1, 64 << 20);
    let mut written = Written::default();
    for (number, segment) in files.segments.iter().take(6).enumerate() {
        let id = number as u32 + 1;
        write_file(
            &disk,
            &format!("{id:08x}.seg"),
            &segment.bytes(id, &mut written),
        );
    }
    if let Some(checkpoint) = &files.checkpoint {
        write_file(&disk, "index.ckpt", &checkpoint.bytes());
    }
    // A segment of another version is refused, and that is that.
    let Ok(pool) = open(&disk, 1) else {
        return;
    };
    check(&pool, &written);
    let mut writable = true;
    for (number, bytes, replace) in files.later.iter().take(30) {
        let (key, body) = (key(*number), vec![*number; usize::from(*bytes)]);
        let record = NewRecord {
            key: &key,
            metadata: &[],
            check: *bytes,
            writer: 2,
            replace: *replace,
        };
        written.entries.insert((key.clone(), body.clone()));
        writable &= pool.put(&record, &body).is_ok();
        let _ = pool.lease(
            &key,
            if *replace {
                Lease::Firm
            } else {
                Lease::Yielding
            },
        );
    }
    pool.do_chores();
    check(&pool, &written);
    let _ = pool.verify(&mut |_, _| true);
    let _ = pool.close();
    drop(pool);
    disk.kill();
    let again = open(&disk, 2).expect("what was opened once opens again");
    check(&again, &written);
    if writable {
        let purged = again.purge(false, &mut |_| true, &mut |_, _| true);
        purged.expect("the disk works");
        assert_eq!(again.usage().entries, 0);
    }
});

fn open(disk: &Arc<SimDisk>, seed: u64) -> Result<Pool, larder_store::OpenError> {
    let options = PoolOptions {
        free_reserve_bytes: 0,
        clock: Clock::Manual(Arc::new(AtomicU64::new(1_700_000_000_000))),
        seed: Some(seed),
        ..PoolOptions::new(1 << 20)
    };
    Pool::open(
        Arc::clone(disk) as Arc<dyn Disk>,
        Path::new("pool"),
        options,
    )
}

/// What may be served: bodies by key, and keys of which nothing is known.
#[derive(Default)]
struct Written {
    entries: HashSet<(Vec<u8>, Vec<u8>)>,
    unknown: HashSet<Vec<u8>>,
}

fn check(pool: &Pool, written: &Written) {
    let mut keys: Vec<Vec<u8>> = (0..KEYS).map(key).collect();
    pool.scan(&mut |head| {
        keys.push(head.key.to_vec());
        true
    });
    for key in keys {
        let head = pool.head(&key, Wait::Allowed).expect("may wait");
        let Some(entry) = pool.get(&key, Wait::Allowed).expect("may wait") else {
            continue;
        };
        assert_eq!(head.expect("has one").size, entry.size);
        let body = match entry.body {
            Body::Whole(body) => Some(body.to_vec()),
            Body::Stream(mut reader) => {
                let mut body = Vec::new();
                loop {
                    match reader.next(Wait::Allowed) {
                        Ok(Some(piece)) => body.extend_from_slice(&piece),
                        Ok(None) => break Some(body),
                        Err(_) => break None,
                    }
                }
            }
        };
        if let Some(body) = body {
            assert_eq!(body.len() as u64, entry.size);
            let is_unknown = written.unknown.contains(&key);
            let is_written = is_unknown || written.entries.contains(&(key, body));
            assert!(is_written, "served what nobody wrote");
        }
    }
}

fn write_file(disk: &SimDisk, name: &str, bytes: &[u8]) {
    let dir = Path::new("pool");
    let file = disk.create(&dir.join(name)).expect("a new name");
    file.write_at(&[bytes], 0).expect("written");
    file.sync().expect("synced");
    disk.sync_dir(dir).expect("synced");
}

fn key(number: u8) -> Vec<u8> {
    vec![b'k', number % KEYS]
}

fn index_hash(key: &[u8]) -> u128 {
    let mut hasher = SipHasher24Wide::new_with_key(&HASH_KEY);
    hasher.write(key);
    hasher.finish128().as_u128()
}

impl Sequence {
    fn number(self) -> u64 {
        match self {
            Self::Small(number) => number.into(),
            Self::Any(number) => number,
        }
    }
}

impl BodyBytes {
    fn make(&self, number: u8) -> Vec<u8> {
        let bytes = usize::from(self.bytes) + if self.blocks { 60_000 } else { 0 };
        (0..bytes)
            .map(|at| (at as u8).wrapping_add(number))
            .collect()
    }
}

/// Where a record goes.
struct Spot {
    segment: u32,
    salt: [u8; 16],
    offset: u64,
}

impl Spot {
    fn tag(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.salt);
        hasher.write(&self.segment.to_le_bytes());
        hasher.write(&self.offset.to_le_bytes());
        parts.iter().for_each(|part| hasher.write(part));
        hasher.finish()
    }

    /// Completes the first 48 bytes of a header with tags that fit.
    fn seal(&self, fields: [u8; 48], names: &[u8], dead: bool) -> Vec<u8> {
        let mut bytes = fields.to_vec();
        bytes.extend_from_slice(&self.tag(&[&fields, names]).to_le_bytes());
        let header_tag = self.tag(&[&bytes]) as u32;
        bytes.extend_from_slice(if dead { b"DEAD" } else { b"LIVE" });
        bytes.extend_from_slice(&header_tag.to_le_bytes());
        bytes.extend_from_slice(names);
        bytes
    }
}

fn fields(kind: u8, key: &[u8], check: u16, crc: u32, body: usize, sequence: u64) -> [u8; 48] {
    let mut fields = [0; 48];
    fields[..4].copy_from_slice(b"LREC");
    fields[4..6].copy_from_slice(&[1, kind]);
    fields[6..8].copy_from_slice(&(key.len() as u16).to_le_bytes());
    fields[10..12].copy_from_slice(&check.to_le_bytes());
    fields[12..16].copy_from_slice(&crc.to_le_bytes());
    fields[16..24].copy_from_slice(&(body as u64).to_le_bytes());
    fields[24..32].copy_from_slice(&sequence.to_le_bytes());
    fields
}

/// The header's checksum of a body, and the table behind the body.
fn checksums(body: &[u8]) -> (u32, Vec<u8>) {
    if body.len() <= 65_536 {
        return (crc32c::crc32c(body), Vec::new());
    }
    let blocks = body.chunks(65_536);
    let table: Vec<u8> = blocks
        .flat_map(|block| crc32c::crc32c(block).to_le_bytes())
        .collect();
    (crc32c::crc32c(&table), table)
}

impl SegmentFile {
    fn bytes(&self, segment: u32, written: &mut Written) -> Vec<u8> {
        let (salt, pieces) = match self {
            Self::Random(bytes) => return bytes.clone(),
            Self::Laid { salt, pieces } => ([*salt; 16], pieces),
        };
        let header = SegmentHeader {
            id: segment,
            created_at_ms: 0,
            salt,
        };
        let mut bytes = header.encode().to_vec();
        for piece in pieces.iter().take(40) {
            bytes.resize(bytes.len().next_multiple_of(16), 0);
            let spot = Spot {
                segment,
                salt,
                offset: bytes.len() as u64,
            };
            bytes.extend_from_slice(&piece.bytes(&spot, written));
        }
        bytes
    }
}

impl Piece {
    fn bytes(&self, spot: &Spot, written: &mut Written) -> Vec<u8> {
        match self {
            Self::Random(bytes) => bytes.clone(),
            Self::Zeros(bytes) => vec![0; usize::from(*bytes)],
            Self::Entry {
                key: number,
                check,
                body,
                sequence,
                dead,
                rotten,
            } => {
                let (key, mut body) = (key(*number), body.make(*number));
                let (crc, table) = checksums(&body);
                let fields = fields(1, &key, *check, crc, body.len(), sequence.number());
                let mut bytes = spot.seal(fields, &key, *dead);
                written.entries.insert((key, body.clone()));
                if let Some(byte) = body.last_mut().filter(|_| *rotten) {
                    *byte ^= 1;
                }
                bytes.extend_from_slice(&body);
                bytes.extend_from_slice(&table);
                bytes
            }
            Self::Tombstone {
                segment,
                unit,
                key: number,
                sequence,
            } => {
                let mut body = u32::from(*segment).to_le_bytes().to_vec();
                body.extend_from_slice(&u32::from(*unit).to_le_bytes());
                body.extend_from_slice(&index_hash(&key(*number)).to_le_bytes());
                let crc = crc32c::crc32c(&body);
                let fields = fields(2, &[], 0, crc, body.len(), sequence.number());
                let mut bytes = spot.seal(fields, &[], false);
                bytes.extend_from_slice(&body);
                bytes
            }
            Self::Header {
                fields: rest,
                names,
            } => {
                let mut fields = [0; 48];
                fields[..4].copy_from_slice(b"LREC");
                fields[4] = 1;
                fields[5] = 1 + rest[0] % 3;
                fields[6..].copy_from_slice(&rest[..]);
                // Lengths are as they come, so mostly the names are other bytes than were tagged.
                let key_bytes = usize::from(u16::from_le_bytes([fields[6], fields[7]]));
                let key = names.get(..key_bytes).unwrap_or(names);
                written.unknown.insert(key.to_vec());
                spot.seal(fields, names, false)
            }
        }
    }
}

impl Checkpoint {
    fn bytes(&self) -> Vec<u8> {
        let mut list = Vec::new();
        for (segment, covered) in &self.segments {
            list.extend_from_slice(&u32::from(*segment).to_le_bytes());
            list.extend_from_slice(&[0; 4]);
            list.extend_from_slice(&u64::from(*covered).to_le_bytes());
        }
        let mut header = b"LARDIDX2\x01\0\0\0".to_vec();
        header.extend_from_slice(&(self.segments.len() as u32).to_le_bytes());
        header.extend_from_slice(&HASH_KEY);
        header.extend_from_slice(&self.next_sequence.number().to_le_bytes());
        header.extend_from_slice(&self.next_segment.unwrap_or(7).to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        let slot_count = self.slot_count.unwrap_or(self.slots.len() as u64);
        header.extend_from_slice(&slot_count.to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        let crc = crc32c::crc32c(&header);
        header.extend_from_slice(&crc.to_le_bytes());
        let mut bytes = header;
        bytes.extend_from_slice(&list);
        bytes.extend_from_slice(&crc32c::crc32c(&list).to_le_bytes());
        let mut slots: Vec<_> = self
            .slots
            .iter()
            .map(|slot| (index_hash(&key(slot.0)), slot))
            .collect();
        if self.sorted {
            slots.sort_unstable_by_key(|(hash, _)| *hash);
            slots.dedup_by_key(|(hash, _)| *hash);
        }
        for block in slots.chunks(3) {
            let mut encoded = Vec::new();
            for (hash, (_, segment, unit, size, check, lease)) in block {
                encoded.extend_from_slice(&hash.to_le_bytes());
                encoded.extend_from_slice(&u32::from(*segment).to_le_bytes());
                encoded.extend_from_slice(&u32::from(*unit).to_le_bytes());
                encoded.extend_from_slice(&size.to_le_bytes());
                encoded.extend_from_slice(&check.to_le_bytes());
                encoded.extend_from_slice(&lease.to_le_bytes());
            }
            bytes.extend_from_slice(&(block.len() as u32).to_le_bytes());
            bytes.extend_from_slice(&crc32c::crc32c(&encoded).to_le_bytes());
            bytes.extend_from_slice(&encoded);
        }
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&self.end);
        bytes
    }
}
