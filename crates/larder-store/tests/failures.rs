//! What a failing disk may cost: each test has one operation fail, at the worst moment that is known.

mod hook;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use hook::{MIB, Operation, Stand, fill, is_readable, key, put, record};
use larder_store::sim::Faults;
use larder_store::{
    Begin, Disk, Durability, File, KEY_BYTES_MAX, Lease, METADATA_BYTES_MAX, Put,
    SEGMENT_HEADER_BYTES, SegmentHeader, StoreError, Upload, Wait,
};

const FIRST_SEGMENT: &str = "pool/00000001.seg";
const SECOND_SEGMENT: &str = "pool/00000002.seg";

/// What Linux says of a sector that cannot be read.
fn unreadable() -> io::Error {
    io::Error::from_raw_os_error(5)
}

/// The file itself, past the hooks.
fn file(stand: &Stand, path: &str) -> io::Result<Arc<dyn File>> {
    stand.sim.open(Path::new(path))
}

fn begin(stand: &Stand, key: &[u8], bytes: u64) -> Upload {
    match stand.pool.begin(&record(key), Some(bytes)) {
        Ok(Begin::Upload(upload)) => upload,
        other => panic!("an upload begins, not {:?}", other.map(|_| "exists")),
    }
}

/// Puts entries, from `first` on, until the first segment has been reclaimed.
fn fill_until_the_first_segment_goes(stand: &Stand, first: u64) {
    let gone = (first..first + 3000).find(|number| {
        put(&stand.pool, &key(*number), 1000).expect("older entries make room");
        file(stand, FIRST_SEGMENT).is_err()
    });
    assert!(gone.is_some(), "the first segment is never reclaimed");
}

#[test]
fn an_entry_whose_header_rotted_goes_with_its_segment() {
    let stand = Stand::new(7, MIB, Durability::Written);
    put(&stand.pool, b"rotten", 100).expect("stored");
    let first = file(&stand, FIRST_SEGMENT).expect("there");
    first
        .write_at(&[&[0xFF; 4]], SEGMENT_HEADER_BYTES)
        .expect("damaged");
    fill_until_the_first_segment_goes(&stand, 0);
    let contained = stand.pool.contains(b"rotten");
    assert!(!contained, "contained, but in no segment");
    let promised = stand.pool.lease(b"rotten", Lease::Firm).is_some();
    assert!(!promised, "promised, but in no segment");
    let stored = stand.pool.put(&record(b"rotten"), b"x");
    assert_eq!(stored.expect("there is room"), Put::Stored);
    assert!(is_readable(&stand.pool, b"rotten"));
}

#[test]
fn an_entry_that_cannot_be_read_is_absent_and_can_be_stored_again() {
    let stand = Stand::new(7, MIB, Durability::Written);
    put(&stand.pool, b"k", 100).expect("stored");
    stand.sim.set_faults(Faults {
        read_error: 1_000_000,
        ..Faults::default()
    });
    assert!(!is_readable(&stand.pool, b"k"));
    assert!(!stand.pool.contains(b"k"), "a miss, but contained");
    assert!(
        stand.pool.lease(b"k", Lease::Firm).is_none(),
        "a miss, but promised"
    );
    stand.sim.set_faults(Faults::default());
    let stored = stand.pool.put(&record(b"k"), b"x").expect("there is room");
    assert_eq!(stored, Put::Stored);
    assert!(is_readable(&stand.pool, b"k"));
}

#[test]
fn an_unreadable_sector_in_the_oldest_segment_refuses_no_write() {
    let stand = Stand::new(7, MIB, Durability::Written);
    stand.disk.set(|call| {
        if call.is(Operation::Read) && call.path.ends_with("00000001.seg") && call.at < 16_384 {
            return Err(unreadable());
        }
        Ok(())
    });
    for number in 0..3000 {
        let written = put(&stand.pool, &key(number), 1000);
        assert!(written.is_ok(), "write {number}: {written:?}");
        stand.pool.do_chores();
    }
}

#[test]
fn a_write_whose_only_sync_failed_in_the_round_of_another_is_not_acknowledged() {
    let stand = Stand::new(7, 16 * MIB, Durability::Synced);
    put(&stand.pool, b"first", 1).expect("stored");
    // The next round is to sync the second segment and then the first, which is dirty but whose writer waits for nothing.
    let mut own_segment = begin(&stand, b"own segment", 200_000);
    own_segment.write(&vec![7; 200_000]).expect("taken");
    let mut half_done = begin(&stand, b"half done", 100);
    half_done.write(&[1; 50]).expect("taken");
    let (round_runs, runs) = mpsc::channel();
    let (writer_wrote, wrote) = mpsc::channel();
    let wrote = parking_lot::Mutex::new(wrote);
    let (first_round, armed) = (AtomicBool::new(true), AtomicBool::new(true));
    stand.disk.set(move |call| {
        if call.is(Operation::Sync) && call.path == Path::new(SECOND_SEGMENT) {
            if first_round.swap(false, Ordering::SeqCst) {
                round_runs.send(()).expect("the test listens");
                wrote.lock().recv().expect("the writer writes");
            }
        } else if call.is(Operation::Sync) && armed.swap(false, Ordering::SeqCst) {
            return Err(unreadable());
        }
        Ok(())
    });
    let pool = &stand.pool;
    thread::scope(|scope| {
        let leader = scope.spawn(|| own_segment.finish());
        runs.recv_timeout(Duration::from_secs(30))
            .expect("a round begins");
        let writer = scope.spawn(|| pool.put(&record(b"late"), b"precious"));
        let first = file(&stand, FIRST_SEGMENT).expect("there");
        let mut bytes = vec![0; 4096];
        let is_written = |bytes: &[u8]| bytes.windows(8).any(|window| window == b"precious");
        while !is_written(&bytes) && !writer.is_finished() {
            first
                .read_at(&mut bytes, 0, Wait::Allowed)
                .expect("readable");
            thread::yield_now();
        }
        writer_wrote.send(()).expect("the round waits");
        let led = leader.join().expect("no panic");
        assert_eq!(led.expect("its own segment was synced"), Put::Stored);
        let written = writer.join().expect("no panic");
        assert!(
            matches!(written, Err(StoreError::Io(_))),
            "{written:?}, but the only sync of its bytes failed"
        );
    });
    assert!(!stand.pool.contains(b"late"), "refused, but there");
}

#[test]
fn a_removal_that_failed_and_was_repeated_holds_through_a_restart() {
    let mut stand = Stand::new(7, MIB, Durability::Synced);
    put(&stand.pool, b"poisoned", 1).expect("stored");
    stand.disk.set(|call| match call.operation {
        Operation::Write => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    });
    let removed = stand.pool.remove(b"poisoned");
    assert!(removed.is_err(), "{removed:?} while nothing can be written");
    stand.disk.clear();
    stand.pool.remove(b"poisoned").expect("the disk works");
    stand.sim.kill();
    stand.reopen();
    assert!(!stand.pool.contains(b"poisoned"), "removed, and back");
}

#[test]
fn a_checkpoint_never_knows_more_than_the_disk() {
    for seed in 1..=40 {
        let mut stand = Stand::new(seed, 16 * MIB, Durability::Written);
        let pool = stand.pool.clone();
        stand.disk.set(move |call| {
            if call.is(Operation::Create) && call.path.ends_with("index.ckpt.tmp") {
                put(&pool, b"ghost", 100).expect("there is room");
            }
            Ok(())
        });
        stand.pool.checkpoint().expect("saved");
        stand.disk.clear();
        stand.sim.power_cut();
        stand.reopen();
        // Looked up before it is read: a read that fails hides what it could not find.
        let is_phantom =
            |stand: &Stand| stand.pool.contains(b"ghost") && !is_readable(&stand.pool, b"ghost");
        assert!(!is_phantom(&stand), "seed {seed}: contained, not stored");
        put(&stand.pool, b"other", 100).expect("there is room");
        stand.sim.kill();
        stand.reopen();
        assert!(!is_phantom(&stand), "seed {seed}: a phantom came back");
        stand.pool.remove(b"ghost").expect("the disk works");
        let other = is_readable(&stand.pool, b"other");
        assert!(other, "seed {seed}: the ghost took another entry with it");
    }
}

#[test]
fn a_crafted_body_that_was_cut_short_costs_recovery_no_more_reads_than_a_plain_one() {
    let reads_after = |body: &[u8]| {
        let mut stand = Stand::new(7, 64 * MIB, Durability::Written);
        let mut upload = begin(&stand, b"sixteen bytes...", 4 * MIB);
        upload.write(body).expect("taken");
        stand.sim.kill();
        let reads = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&reads);
        stand.disk.set(move |call| {
            let read = u64::from(call.is(Operation::Read));
            counted.fetch_add(read, Ordering::Relaxed);
            Ok(())
        });
        stand.reopen();
        reads.load(Ordering::Relaxed)
    };
    // Every 32 bytes the start of a record with the longest names there can be.
    let mut header = [0; 32];
    header[..6].copy_from_slice(b"LREC\x01\x01");
    header[6..8].copy_from_slice(&(KEY_BYTES_MAX as u16).to_le_bytes());
    header[8..12].copy_from_slice(&(METADATA_BYTES_MAX as u32).to_le_bytes());
    let crafted = reads_after(&header.repeat(4 * MIB as usize / header.len()));
    let plain = reads_after(&vec![0xAB; 4 * MIB as usize]);
    assert!(plain > 0, "nothing is read of what was never finished");
    assert!(crafted <= plain, "{crafted} reads, not {plain}");
}

#[test]
fn a_close_that_failed_can_be_repeated_and_leaves_whole_entries_only() {
    for seed in 1..=20 {
        let mut stand = Stand::new(seed, MIB, Durability::Written);
        fill(&stand.pool, 0..100, 1000);
        stand.sim.set_faults(Faults {
            sync_error: 1_000_000,
            ..Faults::default()
        });
        let closed = stand.pool.close();
        assert!(
            closed.is_err(),
            "seed {seed}: closed, but nothing is synced"
        );
        stand.sim.set_faults(Faults::default());
        stand.pool.close().expect("the disk works");
        let power_goes = seed % 2 == 0;
        if power_goes {
            stand.sim.power_cut();
        } else {
            stand.sim.kill();
        }
        stand.reopen();
        let known = stand.pool.usage().entries;
        let verified = stand.pool.verify(&mut |_, _| true);
        assert_eq!(verified.entries, known, "seed {seed}: {verified:?}");
        assert!(power_goes || known == 100, "seed {seed}: {known} of 100");
    }
}

#[test]
fn what_is_carried_out_of_a_segment_with_an_unreadable_record_survives_a_power_cut() {
    for seed in 1..=20 {
        let mut stand = Stand::new(seed, MIB, Durability::Synced);
        assert_eq!(fill(&stand.pool, 0..15, 1000), 0);
        let used = [key(0), key(10)];
        assert!(used.iter().all(|key| is_readable(&stand.pool, key)));
        let sim = Arc::clone(&stand.sim);
        stand.disk.set(move |call| {
            let is_first = call.path == Path::new(FIRST_SEGMENT);
            if is_first && call.is(Operation::Read) && call.at > 5000 {
                return Err(unreadable());
            }
            if is_first && call.is(Operation::Remove) {
                sim.cut_power_at(sim.operations() + 1);
            }
            Ok(())
        });
        let ended = (100..3000).find(|number| put(&stand.pool, &key(*number), 1000).is_err());
        assert!(
            ended.is_some() && stand.sim.is_dead(),
            "seed {seed}: {ended:?}"
        );
        stand.disk.clear();
        stand.sim.power_cut();
        stand.reopen();
        let survived = is_readable(&stand.pool, &key(0));
        assert!(survived, "seed {seed}: synced and intact, but lost");
    }
}

#[test]
fn segments_that_cannot_be_removed_count_until_they_can() {
    let stand = Stand::new(7, MIB, Durability::Written);
    stand.disk.set(|call| {
        if call.is(Operation::Remove) && call.path.extension().is_some_and(|end| end == "seg") {
            return Err(unreadable());
        }
        Ok(())
    });
    fill(&stand.pool, 0..5000, 1000);
    let on_disk = stand.sim.bytes();
    assert!(on_disk <= MIB, "{on_disk} bytes");
    stand.disk.clear();
    stand.pool.do_chores();
    assert_eq!(fill(&stand.pool, 5000..10_000, 1000), 0);
}

#[test]
fn a_pool_whose_segment_ids_are_used_up_refuses_writes() {
    let mut stand = Stand::new(7, MIB, Durability::Written);
    let last = SegmentHeader {
        id: u32::MAX,
        created_at_ms: 1,
        salt: [1; 16],
    };
    stand
        .sim
        .create(Path::new("pool/ffffffff.seg"))
        .and_then(|file| file.write_at(&[&last.encode()], 0))
        .expect("created");
    stand.sim.kill();
    stand.reopen();
    let stored = stand.pool.put(&record(b"k"), b"x");
    assert!(matches!(stored, Err(StoreError::Io(_))), "{stored:?}");
    assert!(!stand.pool.contains(b"k"));
}

#[test]
fn a_purge_says_so_when_it_could_not_see_a_segment() {
    let mut stand = Stand::new(7, MIB, Durability::Written);
    put(&stand.pool, b"poison", 100).expect("stored");
    stand.disk.set(|call| {
        let hidden = call.is(Operation::Read) && call.path == Path::new(FIRST_SEGMENT);
        if hidden { Err(unreadable()) } else { Ok(()) }
    });
    stand.reopen();
    stand.disk.clear();
    assert!(!stand.pool.contains(b"poison"), "its segment was not read");
    let purged = stand.pool.purge(false, &mut |_| true, &mut |_, _| true);
    assert!(
        purged.is_err(),
        "what was not seen was not purged: {purged:?}"
    );
    stand.reopen();
    assert!(stand.pool.remove(b"poison").expect("removed"));
    stand.reopen();
    assert!(!stand.pool.contains(b"poison"), "removed for good");
}
