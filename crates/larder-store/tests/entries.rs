//! What comes back of an entry: its check, its head, and its body from any byte on.

mod hook;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hook::{MIB, Operation, Stand, fill, is_readable, key, put, record};
use larder_store::{
    ALIGN_BYTES, BLOCK_BYTES, Begin, Body, Disk, Durability, EntryHead, Event, Lease, NewRecord,
    PIECE_BYTES_MAX, Pool, Put, ReadError, Reader, Wait,
};
use parking_lot::Mutex;
use proptest::prelude::*;

fn checked(key: &[u8], check: u16) -> NewRecord<'_> {
    NewRecord {
        check,
        metadata: b"meta",
        replace: true,
        ..record(key)
    }
}

fn upload(pool: &Pool, key: &[u8], declared: bool, body: &[u8], check: u16) {
    let size = declared.then_some(body.len() as u64);
    let begun = pool.begin(&checked(key, 0), size).expect("there is room");
    let Begin::Upload(mut upload) = begun else {
        panic!("a replacement is not refused as existing");
    };
    upload.write(body).expect("there is room");
    upload.set_check(check);
    assert_eq!(upload.finish().expect("all of it came"), Put::Stored);
}

/// The check of a key's entry as the index, its head and the entry itself have it, which is one.
fn check_of(pool: &Pool, key: &[u8]) -> Option<u16> {
    let head = pool.head(key, Wait::Allowed).expect("may wait");
    let entry = pool.get(key, Wait::Allowed).expect("may wait");
    let leased = pool.lease(key, Lease::Firm);
    assert_eq!(head.map(|head| head.check), leased);
    assert_eq!(entry.map(|entry| entry.check), leased);
    leased
}

#[test]
fn an_entry_keeps_its_check_however_it_came_through_kills_power_cuts_and_reclaim() {
    for saved in [false, true] {
        for power_cut in [false, true] {
            let mut stand = Stand::new(7, MIB, Durability::Synced);
            let put_checked = |key: &[u8], check| {
                let put = stand.pool.put(&checked(key, check), b"body");
                assert_eq!(put.expect("there is room"), Put::Stored);
            };
            put_checked(b"whole", 0x1234);
            put_checked(b"replaced", 1);
            put_checked(b"replaced", u16::MAX);
            put_checked(b"none", 0);
            upload(&stand.pool, b"declared", true, &[1; 5000], 2);
            upload(&stand.pool, b"spooled", false, &[1; 5000], 3);
            upload(&stand.pool, b"grown", false, &vec![1; 100_000], 0x8000);
            let all: [(&[u8], u16); 6] = [
                (b"whole", 0x1234),
                (b"replaced", u16::MAX),
                (b"none", 0),
                (b"declared", 2),
                (b"spooled", 3),
                (b"grown", 0x8000),
            ];
            let check_all = |pool: &Pool| {
                for (key, check) in all {
                    let name = key.escape_ascii();
                    assert_eq!(check_of(pool, key), Some(check), "{name}, saved: {saved}");
                }
                assert_eq!(pool.lease(b"absent", Lease::Firm), None);
            };
            check_all(&stand.pool);
            if saved {
                stand.pool.checkpoint().expect("saved");
            }
            if power_cut {
                stand.sim.power_cut();
            } else {
                stand.sim.kill();
            }
            stand.reopen();
            check_all(&stand.pool);
            // They are leased, and so is carried what shares a segment with what is not.
            for first in (0..3000).step_by(100) {
                check_all(&stand.pool);
                assert_eq!(fill(&stand.pool, first..first + 100, 1000), 0);
            }
            assert!(stand.pool.usage().carried_bytes > 0);
            check_all(&stand.pool);
        }
    }
}

type Change = fn(&mut Vec<u8>);

/// Saves a pool of ten entries, changes its checkpoint in a way that the checksums do not show, and opens it again. How
/// many entries were taken from the checkpoint.
fn loaded_from_changed_checkpoint(what: &str, change: Change) -> u64 {
    let mut stand = Stand::new(7, MIB, Durability::Written);
    for check in 0..10_u16 {
        let put = stand.pool.put(&checked(&check.to_le_bytes(), check), b"x");
        put.expect("there is room");
    }
    stand.pool.close().expect("saved");
    let path = Path::new("pool/index.ckpt");
    let checkpoint = stand.sim.open(path).expect("there");
    let mut bytes = vec![0; checkpoint.bytes().expect("known") as usize];
    let read = checkpoint.read_at(&mut bytes, 0, Wait::Allowed);
    assert_eq!(read.expect("readable"), bytes.len());
    change(&mut bytes);
    // One segment, hence one row of covered bytes; then one block of slots.
    let slots = 64 + 16 + 4 + 8;
    let (header_crc, block_crc) = (
        crc32c::crc32c(&bytes[..60]),
        crc32c::crc32c(&bytes[slots..slots + 10 * 32]),
    );
    bytes[60..64].copy_from_slice(&header_crc.to_le_bytes());
    bytes[slots - 4..slots].copy_from_slice(&block_crc.to_le_bytes());
    checkpoint.write_at(&[&bytes], 0).expect("written");
    stand.sim.kill();
    let from_checkpoint = Arc::new(AtomicU64::new(u64::MAX));
    let told = Arc::clone(&from_checkpoint);
    stand.options.observer = Arc::new(move |event| {
        if let Event::Loaded {
            from_checkpoint, ..
        } = event
        {
            told.store(*from_checkpoint, Ordering::Relaxed);
        }
    });
    stand.reopen();
    for check in 0..10_u16 {
        let found = check_of(&stand.pool, &check.to_le_bytes());
        assert_eq!(found, Some(check), "{what}, though the log knows it");
    }
    from_checkpoint.load(Ordering::Relaxed)
}

#[test]
fn a_checkpoint_from_before_there_were_checks_or_out_of_order_is_not_loaded() {
    let changes: [(&str, Change); 3] = [
        ("old", |bytes| bytes[..8].copy_from_slice(b"LARDIDX1")),
        ("out of order", |bytes| {
            let (left, right) = bytes[64 + 16 + 4 + 8..].split_at_mut(32);
            left.swap_with_slice(&mut right[..32]);
        }),
        ("twice the same", |bytes| {
            let slots = 64 + 16 + 4 + 8;
            bytes.copy_within(slots..slots + 32, slots + 32);
        }),
    ];
    for (what, change) in changes {
        assert_eq!(loaded_from_changed_checkpoint(what, change), 0, "{what}");
    }
}

#[test]
fn a_checkpoint_that_claims_to_be_huge_makes_nobody_allocate() {
    let loaded = loaded_from_changed_checkpoint("huge", |bytes| {
        bytes[48..56].copy_from_slice(&u64::MAX.to_le_bytes());
    });
    assert_eq!(loaded, 10, "the count is only a hint");
}

#[test]
fn a_head_says_what_the_entry_says_after_one_read() {
    let stand = Stand::new(7, 16 * MIB, Durability::Written);
    for bytes in [0, 100, 60_000, 70_000, 600_000] {
        let name = key(bytes);
        let body = vec![5; bytes as usize];
        stand.pool.put(&checked(&name, 9), &body).expect("stored");
        let reads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&reads);
        stand.disk.set(move |call| {
            assert!(call.is(Operation::Read));
            seen.lock().push((call.path.to_owned(), call.at));
            Ok(())
        });
        let head = stand.pool.head(&name, Wait::Allowed).expect("may wait");
        stand.disk.clear();
        let reads = std::mem::take(&mut *reads.lock());
        assert!(
            matches!(&reads[..], [(path, at)] if path.starts_with("pool") && at % ALIGN_BYTES == 0),
            "one read for the head, not {reads:?}"
        );
        let entry = stand.pool.get(&name, Wait::Allowed).expect("may wait");
        let entry = entry.expect("stored");
        let expected = EntryHead {
            metadata: entry.metadata,
            check: entry.check,
            writer: entry.writer,
            written_at_ms: entry.written_at_ms,
            size: entry.size,
        };
        assert_eq!(head, Some(expected));
        assert_eq!(entry.size, bytes);
    }
    assert_eq!(stand.pool.head(b"absent", Wait::Allowed), Ok(None));
}

#[test]
fn a_head_is_whole_though_the_body_rotted_and_a_miss_where_itself_rotted() {
    let stand = Stand::new(7, MIB, Durability::Written);
    stand
        .pool
        .put(&checked(b"k", 9), &[5; 100])
        .expect("stored");
    let segment = stand.sim.open(Path::new("pool/00000001.seg"));
    let segment = segment.expect("there");
    segment.write_at(&[&[6]], 64 + 64 + 10).expect("damaged");
    let head = stand.pool.head(b"k", Wait::Allowed).expect("may wait");
    assert_eq!(head.expect("there").size, 100);
    segment.write_at(&[b"x"], 64 + 64).expect("damaged");
    assert_eq!(stand.pool.head(b"k", Wait::Allowed), Ok(None));
    assert!(!stand.pool.contains(b"k"), "a miss, but contained");
}

#[test]
fn what_only_its_head_was_asked_of_has_not_been_used() {
    let stand = Stand::new(7, MIB, Durability::Written);
    assert_eq!(fill(&stand.pool, 0..2, 1000), 0);
    let gone = (2..3000).find(|number| {
        assert!(is_readable(&stand.pool, &key(1)), "used, and gone");
        put(&stand.pool, &key(*number), 1000).expect("older entries make room");
        stand.pool.head(&key(0), Wait::Allowed) == Ok(None)
    });
    assert!(gone.is_some(), "carried along as if it were used");
}

fn reader(pool: &Pool, key: &[u8]) -> Reader {
    let entry = pool.get(key, Wait::Allowed).expect("may wait");
    match entry.expect("stored").body {
        Body::Stream(reader) => reader,
        Body::Whole(_) => panic!("a large body is streamed"),
    }
}

fn read_to_end(reader: &mut Reader) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    while let Some(piece) = reader.next(Wait::Allowed)? {
        assert!(!piece.is_empty() && piece.len() as u64 <= PIECE_BYTES_MAX);
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn varied(bytes: usize) -> Vec<u8> {
    let word = |number: u32| number.wrapping_mul(2_654_435_761).to_le_bytes();
    let mut body: Vec<u8> = (0..=bytes as u32 / 4).flat_map(word).collect();
    body.truncate(bytes);
    body
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_body_can_be_read_from_any_byte_on_and_again(
        bytes in BLOCK_BYTES as usize + 1..900_000,
        positions in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..4), 1..8),
    ) {
        let stand = Stand::new(7, 16 * MIB, Durability::Written);
        let body = varied(bytes);
        stand.pool.put(&record(b"k"), &body).expect("stored");
        let mut reader = reader(&stand.pool, b"k");
        prop_assert_eq!(reader.size(), bytes as u64);
        for (position, pieces) in positions {
            let position = position.index(bytes + 1);
            reader.seek(position as u64);
            let mut at = position;
            for _ in 0..pieces {
                let Some(piece) = reader.next(Wait::Allowed).expect("intact") else {
                    prop_assert_eq!(at, bytes);
                    break;
                };
                prop_assert_eq!(&piece[..], &body[at..at + piece.len()]);
                at += piece.len();
            }
        }
        reader.seek(bytes as u64 + 1);
        prop_assert_eq!(reader.next(Wait::Allowed), Ok(None), "behind the end is the end");
        reader.seek(0);
        prop_assert_eq!(read_to_end(&mut reader).expect("intact"), body);
    }
}

#[test]
fn a_jump_over_more_blocks_than_a_reader_has_checksums_of_finds_its_own() {
    let blocks: u64 = 1026 + 4;
    let stand = Stand::new(7, 512 * MIB, Durability::Written);
    let body = varied((blocks * BLOCK_BYTES) as usize);
    stand.pool.put(&record(b"k"), &body).expect("stored");
    let mut reader = reader(&stand.pool, b"k");
    for block in [0, 1022, 1023, 3, 1024, 1029, 1021] {
        let position = block * BLOCK_BYTES + 1;
        reader.seek(position);
        let piece = reader.next(Wait::Allowed).expect("intact").expect("more");
        let start = position as usize;
        assert!(piece == body[start..start + piece.len()], "block {block}");
    }
}

#[test]
fn a_reader_that_jumps_into_a_rotten_block_hands_out_nothing_of_it() {
    let bytes = 5 * BLOCK_BYTES;
    let stand = Stand::new(7, 16 * MIB, Durability::Written);
    let body = varied(bytes as usize);
    stand.pool.put(&record(b"k"), &body).expect("stored");
    let mut reader = reader(&stand.pool, b"k");
    let segment = stand.sim.open(Path::new("pool/00000001.seg"));
    let segment = segment.expect("there");
    let body_start = 64 + 64 + 1;
    assert!(
        !u64::is_multiple_of(body_start, ALIGN_BYTES),
        "one byte of key"
    );
    // The first byte of the last block rots; what is asked for is its last byte.
    let rotten = body_start + 4 * BLOCK_BYTES;
    segment
        .write_at(&[&[!body[4 * BLOCK_BYTES as usize]]], rotten)
        .expect("damaged");
    reader.seek(0);
    let piece = reader.next(Wait::Allowed).expect("intact").expect("more");
    assert_eq!(piece[..], body[..4 * BLOCK_BYTES as usize]);
    reader.seek(bytes - 1);
    assert_eq!(reader.next(Wait::Allowed), Err(ReadError::Lost));
    assert!(!stand.pool.contains(b"k"), "a miss from now on");
}
