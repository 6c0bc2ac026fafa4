//! Held records: out of sight, kept, and found again by those who look for them.

mod hook;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hook::{MIB, Operation, Stand, fill, is_readable, key, put, record};
use larder_store::{
    Begin, Body, Disk, Durability, Lease, NewRecord, Pool, Put, RecordHead, SEGMENT_HEADER_BYTES,
    Standing, Wait,
};

fn hold(pool: &Pool, key: &[u8]) -> u64 {
    let choose = &mut |head: &RecordHead<'_>| head.key == key;
    let held = pool.hold(false, choose, &mut |_, _| true);
    held.expect("the disk works").entries
}

fn release(pool: &Pool, key: &[u8]) -> (u64, u64) {
    let choose = &mut |head: &RecordHead<'_>| head.key == key;
    let released = pool.release(false, choose, &mut |_, _| true);
    let released = released.expect("the disk works");
    (released.entries, released.refused)
}

/// The sequences of what is held of a key, the oldest first.
fn held(pool: &Pool, key: &[u8]) -> Vec<u64> {
    let mut sequences = Vec::new();
    let list = &mut |head: &RecordHead<'_>| {
        if head.key == key && head.standing == Standing::Held {
            sequences.push(head.sequence);
        }
    };
    pool.scan(list, &mut |_, _| true);
    sequences.sort_unstable();
    sequences
}

fn body(pool: &Pool, key: &[u8], sequence: u64) -> Option<Vec<u8>> {
    match pool.held_entry(key, sequence)?.body {
        Body::Whole(whole) => Some(whole.to_vec()),
        Body::Stream(_) => panic!("small bodies come whole"),
    }
}

fn unreadable() -> io::Error {
    io::Error::from_raw_os_error(5)
}

#[test]
fn nobody_finds_what_is_held_and_its_key_is_free() {
    let stand = Stand::new(7, MIB, Durability::Written);
    let pool = &stand.pool;
    pool.put(&record(b"k"), b"evil").expect("stored");
    assert_eq!(hold(pool, b"k"), 1);
    assert_eq!(hold(pool, b"k"), 0, "it is held already");
    assert!(!pool.contains(b"k") && !is_readable(pool, b"k"));
    assert_eq!(pool.head(b"k", Wait::Allowed), Ok(None));
    assert_eq!(pool.lease(b"k", Lease::Firm), None);
    assert!(matches!(
        pool.begin(&record(b"k"), Some(4)),
        Ok(Begin::Upload(_))
    ));
    assert!(matches!(pool.put(&record(b"k"), b"good"), Ok(Put::Stored)));
    let sequences = held(pool, b"k");
    assert_eq!(sequences.len(), 1);
    assert_eq!(
        body(pool, b"k", sequences[0]).as_deref(),
        Some(&b"evil"[..])
    );
}

#[test]
fn of_several_held_records_of_a_key_the_newest_is_released_and_none_onto_an_entry() {
    let mut stand = Stand::new(7, MIB, Durability::Synced);
    for text in [&b"one"[..], b"two", b"three"] {
        stand.pool.put(&record(b"k"), text).expect("stored");
        assert_eq!(hold(&stand.pool, b"k"), 1);
    }
    stand.sim.power_cut();
    stand.reopen();
    assert_eq!(held(&stand.pool, b"k").len(), 3);
    assert_eq!(release(&stand.pool, b"k"), (1, 2));
    let entry = stand.pool.get(b"k", Wait::Allowed).expect("may wait");
    assert!(matches!(entry.expect("released").body, Body::Whole(whole) if whole == "three"));
    assert_eq!(release(&stand.pool, b"k"), (0, 2), "the key has an entry");
    stand.sim.power_cut();
    stand.reopen();
    assert!(is_readable(&stand.pool, b"k"));
    assert_eq!(held(&stand.pool, b"k").len(), 2);
}

#[test]
fn held_records_survive_with_and_without_a_checkpoint_and_can_be_purged() {
    for with_checkpoint in [true, false] {
        let mut stand = Stand::new(7, MIB, Durability::Written);
        put(&stand.pool, b"k", 300).expect("stored");
        hold(&stand.pool, b"k");
        put(&stand.pool, b"k", 500).expect("stored");
        if with_checkpoint {
            stand.pool.checkpoint().expect("saved");
        } else {
            stand
                .sim
                .remove(Path::new("pool/index.ckpt"))
                .expect("removed");
        }
        stand.sim.kill();
        stand.reopen();
        assert_eq!(held(&stand.pool, b"k").len(), 1, "{with_checkpoint}");
        assert!(is_readable(&stand.pool, b"k"));
        let choose = &mut |head: &RecordHead<'_>| head.standing == Standing::Held;
        let purged = stand.pool.purge(false, choose, &mut |_, _| true);
        assert_eq!(purged.expect("the disk works").entries, 1);
        stand.sim.power_cut();
        stand.reopen();
        assert!(held(&stand.pool, b"k").is_empty());
    }
}

#[test]
fn what_is_held_is_evicted_like_what_nobody_uses_and_carried_if_it_was_used() {
    let stand = Stand::new(7, MIB, Durability::Written);
    put(&stand.pool, b"used", 300).expect("stored");
    put(&stand.pool, b"cold", 300).expect("stored");
    assert!(is_readable(&stand.pool, b"used"));
    for name in [&b"used"[..], b"cold"] {
        assert_eq!(hold(&stand.pool, name), 1);
    }
    let first = Path::new("pool/00000001.seg");
    let gone = (0..3000).find(|number| {
        put(&stand.pool, &key(*number), 1000).expect("older entries make room");
        stand.sim.open(first).is_err()
    });
    assert!(gone.is_some(), "the first segment is never reclaimed");
    assert_eq!(held(&stand.pool, b"used").len(), 1, "its copy is held");
    assert!(!stand.pool.contains(b"used"));
    assert!(held(&stand.pool, b"cold").is_empty());
    assert_eq!(release(&stand.pool, b"used"), (1, 0));
    assert!(is_readable(&stand.pool, b"used"));
}

#[test]
fn a_held_record_differs_from_a_live_one_in_its_state_alone() {
    let stand = Stand::new(7, MIB, Durability::Written);
    stand.pool.put(&record(b"k"), b"the body").expect("stored");
    let bytes = || {
        let file = stand.sim.open(Path::new("pool/00000001.seg"));
        let mut bytes = [0; 80];
        let read = file.expect("there");
        read.read_at(&mut bytes, SEGMENT_HEADER_BYTES, Wait::Allowed)
            .expect("readable");
        bytes
    };
    let live = bytes();
    assert_eq!(&live[56..60], b"LIVE");
    hold(&stand.pool, b"k");
    let mut expected = live;
    expected[56..60].copy_from_slice(b"HELD");
    assert_eq!(bytes(), expected);
    release(&stand.pool, b"k");
    assert_eq!(bytes(), live);
}

#[test]
fn of_two_copies_of_a_record_the_newer_one_says_whether_it_is_held() {
    let mut stand = Stand::new(7, MIB, Durability::Written);
    put(&stand.pool, b"k", 300).expect("stored");
    assert!(is_readable(&stand.pool, b"k"));
    // The file of the segment stays, with the original in it, after the copy has been made.
    stand.disk.set(|call| match call.operation {
        Operation::Remove if call.path.ends_with("00000001.seg") => Err(unreadable()),
        _ => Ok(()),
    });
    let carried = (0..3000).any(|number| {
        put(&stand.pool, &key(number), 1000).expect("older entries make room");
        stand.pool.usage().carried_bytes > 0
    });
    assert!(carried, "the first segment is never reclaimed");
    let choose = &mut |head: &RecordHead<'_>| head.key == b"k";
    let incomplete = stand.pool.hold(false, choose, &mut |_, _| true);
    assert!(
        incomplete.is_err(),
        "the original may come back: {incomplete:?}"
    );
    assert!(!stand.pool.contains(b"k"));
    let _ = stand.sim.remove(Path::new("pool/index.ckpt"));
    stand.disk.clear();
    stand.sim.kill();
    stand.reopen();
    assert!(!stand.pool.contains(b"k"), "its copy is held");
    assert_eq!(held(&stand.pool, b"k").len(), 1);
}

#[test]
fn what_the_disk_does_not_let_be_marked_is_out_of_sight_and_no_success() {
    let stand = Stand::new(7, MIB, Durability::Written);
    put(&stand.pool, b"k", 300).expect("stored");
    stand.disk.set(|call| {
        let marks = call.is(Operation::Write) && call.at == SEGMENT_HEADER_BYTES + 56;
        if marks { Err(unreadable()) } else { Ok(()) }
    });
    let all = &mut |_: &RecordHead<'_>| true;
    assert!(stand.pool.hold(false, all, &mut |_, _| true).is_err());
    assert!(!stand.pool.contains(b"k"));
    stand.disk.clear();
    stand.pool.do_chores();
    assert_eq!(held(&stand.pool, b"k").len(), 1);
    assert_eq!(hold(&stand.pool, b"nothing"), 0, "chores have caught up");
}

#[test]
fn a_hold_spares_what_replaced_the_entry_it_chose() {
    let stand = Stand::new(7, 16 * MIB, Durability::Written);
    let by_writer = |writer| NewRecord {
        writer,
        replace: true,
        ..record(b"k")
    };
    stand.pool.put(&by_writer(666), b"evil").expect("stored");
    let replaced = AtomicBool::new(false);
    let mut choose = |head: &RecordHead<'_>| {
        let chosen = head.writer == 666;
        if chosen && !replaced.swap(true, Ordering::SeqCst) {
            stand.pool.put(&by_writer(1), b"good").expect("stored");
        }
        chosen
    };
    let held = stand.pool.hold(false, &mut choose, &mut |_, _| true);
    assert_eq!(held.expect("the disk works").entries, 0);
    assert!(
        is_readable(&stand.pool, b"k"),
        "writer 1's was never chosen"
    );
}

#[test]
fn a_full_pool_with_writers_at_work_can_be_held_and_released() {
    let stand = Stand::new(7, 4 * MIB, Durability::Written);
    let pool = &stand.pool;
    for first in (0..80_000).step_by(2000) {
        assert_eq!(fill(pool, first..first + 2000, 20), 0);
        pool.do_chores();
    }
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 1_000_000;
            while !stop.load(Ordering::SeqCst) {
                put(pool, &key(number), 2000).expect("older entries make room");
                number += 1;
                pool.do_chores();
            }
        });
        let odd = &mut |head: &RecordHead<'_>| head.key.last().is_some_and(|digit| digit % 2 == 1);
        let held = pool
            .hold(false, odd, &mut |_, _| true)
            .expect("the disk works");
        assert!(held.entries > 0);
        let released = pool.release(false, &mut |_| true, &mut |_, _| true);
        stop.store(true, Ordering::SeqCst);
        assert_eq!(released.expect("the disk works").refused, 0);
    });
    let mut still_held = 0;
    pool.scan(
        &mut |head| still_held += u64::from(head.standing == Standing::Held),
        &mut |_, _| true,
    );
    assert_eq!(still_held, 0);
}

/// Held records are found under another name, in another part of the index: what is held or released beside a purge could get
/// from a part that it has still to look at into one that it is done with.
#[test]
fn what_is_held_beside_a_purge_does_not_escape_it() {
    const ENTRIES: u64 = 2000;
    let stand = Stand::new(7, 8 * MIB, Durability::Written);
    let pool = &stand.pool;
    for number in 0..ENTRIES {
        pool.put(&record(format!("k{number}").as_bytes()), b"evil")
            .expect("stored");
    }
    std::thread::scope(|scope| {
        let (held, is_held) = std::sync::mpsc::channel();
        let mut start = Some(held);
        let progress = &mut |done, total| {
            if done * 2 > total
                && let Some(held) = start.take()
            {
                scope.spawn(move || {
                    pool.hold(false, &mut |_| true, &mut |_, _| true)
                        .expect("the disk works");
                    let _ = held.send(());
                });
                // It waits for the purge; if it did not, it would be done by then.
                let _ = is_held.recv_timeout(std::time::Duration::from_millis(500));
            }
            true
        };
        let purged = pool.purge(false, &mut |_| true, progress);
        assert_eq!(purged.expect("the disk works").entries, ENTRIES);
        assert!(start.is_none(), "there was progress in the middle");
    });
    let mut left = 0;
    pool.scan(&mut |_| left += 1, &mut |_, _| true);
    assert_eq!(left, 0);
}

#[test]
fn what_a_hold_has_found_is_out_of_sight_within_a_second_while_it_goes_on_looking() {
    let stand = Stand::new(7, 8 * MIB, Durability::Written);
    let pool = &stand.pool;
    assert_eq!(fill(pool, 0..3000, 20), 0);
    let found = std::cell::RefCell::new(Vec::new());
    let mut choose = |head: &RecordHead<'_>| {
        let now_ms = stand.now_ms.load(Ordering::Relaxed);
        found.borrow_mut().push((now_ms, head.key.to_vec()));
        true
    };
    let mut looked = 0;
    let mut progress = |_, _| {
        stand.pass(Duration::from_millis(400));
        let now_ms = stand.now_ms.load(Ordering::Relaxed);
        let found = found.borrow();
        let late = found.iter().filter(|(at_ms, _)| at_ms + 1000 <= now_ms);
        for (at_ms, key) in late {
            assert!(!pool.contains(key), "served {} ms later", now_ms - at_ms);
            looked += 1;
        }
        true
    };
    let held = pool.hold(false, &mut choose, &mut progress);
    assert_eq!(held.expect("the disk works").entries, 3000);
    assert!(looked > 0);
}

/// More than are held at a time, in no order of their keys.
#[test]
fn of_very_many_held_records_the_newest_of_each_key_is_released() {
    const KEYS: u64 = 36_000;
    let stand = Stand::new(7, 64 * MIB, Durability::Written);
    let pool = &stand.pool;
    let all = || pool.hold(false, &mut |_| true, &mut |_, _| true);
    for body in [&b"old"[..], b"new"] {
        for number in 0..KEYS {
            pool.put(&record(&key(number)), body).expect("stored");
        }
        assert_eq!(all().expect("the disk works").entries, KEYS);
    }
    let dry = pool.release(true, &mut |_| true, &mut |_, _| true);
    let released = pool.release(false, &mut |_| true, &mut |_, _| true);
    let released = released.expect("the disk works");
    assert_eq!((released.entries, released.refused), (KEYS, KEYS));
    assert_eq!(dry.expect("the disk works"), released);
    for number in 0..KEYS {
        let entry = pool.get(&key(number), Wait::Allowed).expect("may wait");
        let body = entry.expect("released").body;
        assert!(
            matches!(body, Body::Whole(whole) if whole == "new"),
            "{number}"
        );
    }
}

#[test]
fn what_is_replaced_before_a_purge_has_looked_at_it_is_looked_at_in_its_new_place() {
    let stand = Stand::new(7, 8 * MIB, Durability::Written);
    let pool = &stand.pool;
    assert_eq!(fill(pool, 0..5000, 20), 0);
    let mut replaced = false;
    let mut choose = |_: &RecordHead<'_>| {
        if !std::mem::replace(&mut replaced, true) {
            for number in 0..5000 {
                let key = key(number);
                let again = NewRecord {
                    replace: true,
                    ..record(&key)
                };
                pool.put(&again, b"again").expect("stored");
            }
        }
        true
    };
    let purged = pool.purge(false, &mut choose, &mut |_, _| true);
    assert_eq!(purged.expect("the disk works").entries, 4999);
    let left = (0..5000).filter(|number| pool.contains(&key(*number)));
    assert_eq!(
        left.count(),
        1,
        "the one that was replaced after it was chosen"
    );
}

#[test]
fn a_held_copy_that_has_rotted_does_not_bring_its_original_back() {
    let mut stand = Stand::new(7, MIB, Durability::Written);
    put(&stand.pool, b"k", 300).expect("stored");
    assert!(is_readable(&stand.pool, b"k"));
    stand.disk.set(|call| match call.operation {
        Operation::Remove if call.path.ends_with("00000001.seg") => Err(unreadable()),
        _ => Ok(()),
    });
    let carried = (0..3000).any(|number| {
        put(&stand.pool, &key(number), 1000).expect("older entries make room");
        stand.pool.usage().carried_bytes > 0
    });
    assert!(carried, "the first segment is never reclaimed");
    let choose = &mut |head: &RecordHead<'_>| head.key == b"k";
    let _ = stand.pool.hold(false, choose, &mut |_, _| true);
    let _ = stand.sim.remove(Path::new("pool/index.ckpt"));
    stand.disk.clear();
    stand.sim.kill();
    let mut rotted = 0;
    for segment in 2..100 {
        let path = format!("pool/{segment:08x}.seg");
        let Ok(file) = stand.sim.open(Path::new(&path)) else {
            continue;
        };
        let mut bytes = vec![0; file.bytes().expect("a length") as usize];
        file.read_at(&mut bytes, 0, Wait::Allowed)
            .expect("readable");
        if let Some(state) = bytes.windows(4).position(|it| it == b"HELD") {
            let at = state + 100;
            file.write_at(&[&[!bytes[at]]], at as u64)
                .expect("writable");
            rotted += 1;
        }
    }
    assert_eq!(rotted, 1);
    stand.reopen();
    assert!(!stand.pool.contains(b"k"));
}
