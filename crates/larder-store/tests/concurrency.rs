//! Many threads on a real disk: whatever is read is what some thread wrote under that key.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use larder_store::{
    Begin, Body, DataDir, Durability, Lease, NewRecord, OpenError, Pool, PoolOptions, Put,
    RealDisk, Wait,
};

fn open(dir: &Path, options: PoolOptions) -> Pool {
    Pool::open(Arc::new(RealDisk), dir, options).expect("the pool opens")
}

/// A body in which every eight bytes repeat the key's number and the writer's.
fn body(key: u64, writer: u64, bytes: usize) -> Vec<u8> {
    let word = (key << 32 | writer).to_le_bytes();
    word.iter()
        .copied()
        .cycle()
        .take(bytes.next_multiple_of(8))
        .collect()
}

fn is_body_of(key: u64, bytes: &[u8]) -> bool {
    let Some(first) = bytes.get(..8) else {
        return false;
    };
    let word = u64::from_le_bytes(first.try_into().expect("eight bytes"));
    word >> 32 == key && bytes.chunks(8).all(|chunk| chunk == first)
}

/// What every writer of a key says of it.
fn check(key: u64, writer: u64) -> u16 {
    (key * 8 + writer) as u16
}

fn read_all(pool: &Pool, key: u64) -> Option<Vec<u8>> {
    let entry = pool
        .get(&key.to_le_bytes(), Wait::Allowed)
        .expect("may wait")?;
    assert_eq!(entry.check, check(key, entry.writer), "key {key}");
    match entry.body {
        Body::Whole(bytes) => Some(bytes.to_vec()),
        Body::Stream(mut reader) => {
            let mut bytes = Vec::new();
            while let Some(piece) = reader
                .next(Wait::Allowed)
                .expect("an intact disk loses nothing")
            {
                bytes.extend_from_slice(&piece);
            }
            Some(bytes)
        }
    }
}

fn write(pool: &Pool, key: u64, writer: u64, bytes: usize, replace: bool) {
    let body = body(key, writer, bytes);
    let name = key.to_le_bytes();
    let record = NewRecord {
        key: &name,
        metadata: &[],
        check: check(key, writer),
        writer,
        replace,
    };
    if !bytes.is_multiple_of(3) {
        pool.put(&record, &body).expect("there is room");
        return;
    }
    let declared = (bytes.is_multiple_of(2)).then_some(body.len() as u64);
    let Begin::Upload(mut upload) = pool.begin(&record, declared).expect("there is room") else {
        return;
    };
    body.chunks(10_000)
        .for_each(|piece| upload.write(piece).expect("there is room"));
    if !bytes.is_multiple_of(5) {
        upload.finish().expect("all of it came");
    }
}

#[test]
fn threads_that_write_read_lease_replace_evict_and_save_never_see_wrong_bytes() {
    let dir = tempfile::tempdir().expect("a directory");
    let budget = 8 << 20;
    let options = PoolOptions {
        free_reserve_bytes: 0,
        ..PoolOptions::new(budget)
    };
    let pool = open(dir.path(), options.clone());
    let stop = AtomicBool::new(false);
    let found = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                pool.do_chores();
                let _ = pool.checkpoint();
                pool.wait_for_chores(Duration::from_millis(5));
                assert!(pool.usage().used_bytes <= budget, "{:?}", pool.usage());
            }
        });
        let workers: Vec<_> = (1..=4_u64)
            .map(|writer| {
                let (pool, found) = (&pool, &found);
                scope.spawn(move || {
                    let mut chance = writer;
                    for _ in 0..4_000 {
                        chance = chance
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(99);
                        let key = (chance >> 33) % 300;
                        let bytes = match (chance >> 20) % 50 {
                            0 => 200_000,
                            1..=5 => 30_000,
                            _ => 1_500,
                        } + (chance >> 50) as usize % 1000;
                        match (chance >> 10) % 10 {
                            0..=4 => write(pool, key, writer, bytes, (chance >> 5) % 2 == 0),
                            5 if (chance >> 40).is_multiple_of(16) => {
                                pool.remove(&key.to_le_bytes()).expect("removes");
                            }
                            5 => {
                                let leased = pool.lease(&key.to_le_bytes(), Lease::Yielding);
                                let is_its = |check: u16| u64::from(check / 8) == key;
                                assert!(leased.is_none_or(is_its), "key {key}: {leased:?}");
                            }
                            _ => {
                                if let Some(bytes) = read_all(pool, key) {
                                    assert!(is_body_of(key, &bytes), "key {key} holds other bytes");
                                    found.fetch_add(1, Ordering::Relaxed);
                                }
                            }
                        }
                    }
                })
            })
            .collect();
        let ended: Vec<_> = workers
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect();
        stop.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(Result::is_ok), "a worker panicked");
    });
    assert!(
        found.load(Ordering::Relaxed) > 100,
        "hardly anything was found"
    );
    let written = pool.usage().written_bytes;
    assert!(written > 2 * budget, "{written} bytes never needed reclaim");
    assert_eq!(pool.verify(&mut |_, _| true).corrupt, 0);
    pool.close().expect("closes");
    let before = pool.usage().entries;
    drop(pool);
    let pool = open(dir.path(), options);
    assert_eq!(pool.usage().entries, before, "a clean stop loses nothing");
    assert_eq!(pool.verify(&mut |_, _| true).entries, before);
}

#[test]
fn of_writers_who_race_for_a_write_once_key_one_wins_and_the_others_hear_so() {
    let dir = tempfile::tempdir().expect("a directory");
    for durability in [Durability::Written, Durability::Synced] {
        let options = PoolOptions {
            durability,
            ..PoolOptions::new(16 << 20)
        };
        let pool = open(&dir.path().join(format!("{durability:?}")), options);
        for round in 0..50_u64 {
            let results: Vec<Put> = thread::scope(|scope| {
                let writers: Vec<_> = (0..4)
                    .map(|writer| {
                        let pool = &pool;
                        scope.spawn(move || {
                            let name = round.to_le_bytes();
                            let record = NewRecord {
                                key: &name,
                                metadata: &[],
                                check: 0,
                                writer,
                                replace: false,
                            };
                            pool.put(&record, &body(round, writer, 64))
                                .expect("stored or not")
                        })
                    })
                    .collect();
                writers
                    .into_iter()
                    .map(|writer| writer.join().expect("no panic"))
                    .collect()
            });
            let stored = results.iter().filter(|put| **put == Put::Stored).count();
            assert_eq!(stored, 1, "round {round}: {results:?}");
        }
    }
}

#[test]
fn a_stalled_upload_holds_up_nobody_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let pool = open(dir.path(), PoolOptions::new(16 << 20));
    let record = NewRecord {
        key: b"k",
        metadata: &[],
        check: 0,
        writer: 1,
        replace: false,
    };
    let Begin::Upload(mut stalled) = pool.begin(&record, Some(1000)).expect("begins") else {
        panic!("nothing is there yet");
    };
    stalled.write(&[1; 500]).expect("takes half");
    assert_eq!(pool.put(&record, &[2; 1000]).expect("stored"), Put::Stored);
    stalled.write(&[1; 500]).expect("takes the rest");
    assert_eq!(stalled.finish().expect("answers"), Put::Exists);
    let entry = pool
        .get(b"k", Wait::Allowed)
        .expect("may wait")
        .expect("is there");
    assert!(matches!(entry.body, Body::Whole(bytes) if bytes[..] == [2; 1000]));
}

#[test]
fn readers_read_evicted_entries_to_the_end_and_cannot_drain_the_pool() {
    let dir = tempfile::tempdir().expect("a directory");
    let budget = 1_310_720;
    let options = PoolOptions {
        free_reserve_bytes: 0,
        ..PoolOptions::new(budget)
    };
    let pool = open(dir.path(), options);
    // Every entry has a segment of its own, and every segment a reader that takes its time.
    let mut readers = Vec::new();
    let refused = loop {
        let key = readers.len() as u64;
        let name = key.to_le_bytes();
        let record = NewRecord {
            key: &name,
            metadata: &[],
            check: 0,
            writer: 1,
            replace: false,
        };
        if pool.put(&record, &body(key, 1, 70_000)).is_err() {
            break key;
        }
        let entry = pool
            .get(&name, Wait::Allowed)
            .expect("may wait")
            .expect("there");
        let Body::Stream(reader) = entry.body else {
            panic!("a large body is streamed")
        };
        readers.push(reader);
    };
    let evicted: Vec<u64> = (0..refused)
        .filter(|key| !pool.contains(&key.to_le_bytes()))
        .collect();
    assert_eq!(
        evicted.len(),
        1,
        "one sixteenth of the budget is evicted from under its readers"
    );
    assert!(pool.usage().used_bytes <= budget);
    for (key, mut reader) in readers.into_iter().enumerate() {
        let mut bytes = Vec::new();
        while let Some(piece) = reader.next(Wait::Allowed).expect("still readable") {
            bytes.extend_from_slice(&piece);
        }
        assert!(is_body_of(key as u64, &bytes) && bytes.len() == 70_000);
    }
    write(&pool, refused, 1, 70_000, false);
    assert!(
        pool.contains(&refused.to_le_bytes()),
        "without readers there is room again"
    );
}

#[test]
fn a_data_directory_has_one_owner_and_one_format() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("data");
    let owner = DataDir::lock(&path).expect("free");
    let refused = DataDir::lock(&path).expect_err("taken");
    let process = format!("process {}", std::process::id());
    assert!(
        matches!(&refused, OpenError::InUse { holder, .. } if *holder == process),
        "{refused}"
    );
    drop(owner);
    std::fs::write(path.join("FORMAT"), "larder data directory, format 999\n").expect("written");
    let refused = DataDir::lock(&path).expect_err("newer");
    assert!(
        matches!(refused, OpenError::Format { found: 999, .. }),
        "{refused}"
    );
}
