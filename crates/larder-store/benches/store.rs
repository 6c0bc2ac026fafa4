//! The store's figures, through its public API, on the real disk.
//!
//! `cargo xtask bench store` runs this in release mode and keeps the results. Each line printed is
//! one figure, as JSON: name, value, unit, and what was aimed at. Everything is in the page cache; the
//! directory is `LARDER_BENCH_DIR`, or the system's temporary one. Keys are 16 bytes. Wall-clock figures depend
//! on the machine; ratios are taken in one run.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use larder_store::{Body, Durability, Lease, NewRecord, Pool, PoolOptions, RealDisk, Wait};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

type Bench = fn(&Path);

fn main() {
    let dir = std::env::var_os("LARDER_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let scratch = tempfile::tempdir_in(dir).expect("a scratch directory");
    let only = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with('-'));
    let benches: [(&str, Bench); 6] = [
        ("small", put_and_get_small),
        ("synced", synced),
        ("memory", memory_per_entry),
        ("open", open_times),
        ("full", full_pool),
        ("amplification", write_amplification),
    ];
    for (name, bench) in benches {
        if only.as_deref().is_none_or(|only| only == name) {
            let dir = scratch.path().join(name);
            bench(&dir);
            let _ = std::fs::remove_dir_all(&dir);
        }
    }
}

#[expect(clippy::print_stdout, reason = "the figures are this program's output")]
fn report(name: &str, value: f64, unit: &str, aim: &str) {
    println!(r#"{{"name":"{name}","value":{value:.3},"unit":"{unit}","aim":"{aim}"}}"#);
}

fn options(budget_bytes: u64) -> PoolOptions {
    PoolOptions {
        free_reserve_bytes: 0,
        ..PoolOptions::new(budget_bytes)
    }
}

fn open(dir: &Path, options: PoolOptions) -> Pool {
    Pool::open(Arc::new(RealDisk), dir, options).expect("the pool opens")
}

fn key(number: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.to_le_bytes());
    key
}

fn put(pool: &Pool, number: u64, body: &[u8]) {
    let key = key(number);
    let record = NewRecord {
        key: &key,
        metadata: &[],
        check: 0,
        writer: 1,
        replace: false,
    };
    pool.put(&record, body).expect("stored");
}

/// Numbers that do not repeat early: a full-period generator's.
fn next(chance: &mut u64) -> u64 {
    *chance = chance
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *chance >> 20
}

/// Runs `work` beside a thread that does the pool's chores.
fn with_chores<T>(pool: &Pool, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                pool.wait_for_chores(Duration::from_millis(50));
                pool.do_chores();
            }
        });
        let result = work();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

fn per_second(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

fn put_and_get_small(dir: &Path) {
    const COUNT: u64 = 500_000;
    let pool = open(dir, options(8 * GIB));
    let body = vec![7; 4096];
    let began = Instant::now();
    (0..COUNT).for_each(|number| put(&pool, number, &body));
    report(
        "put 4 KiB, written, one thread",
        per_second(COUNT, began.elapsed()),
        "puts/s",
        ">= 150000",
    );
    let mut chance = 1;
    let began = Instant::now();
    for _ in 0..COUNT {
        let entry = pool
            .get(&key(next(&mut chance) % COUNT), Wait::Never)
            .expect("cached");
        let Some(Body::Whole(bytes)) = entry.map(|entry| entry.body) else {
            panic!("stored")
        };
        assert_eq!(bytes.len(), 4096);
    }
    report(
        "get 4 KiB, cached, one thread",
        per_second(COUNT, began.elapsed()),
        "gets/s",
        ">= 300000",
    );
    let began = Instant::now();
    for _ in 0..COUNT {
        assert!(
            pool.lease(&key(next(&mut chance) % COUNT), Lease::Firm)
                .is_some()
        );
    }
    report(
        "lease, one thread",
        per_second(COUNT, began.elapsed()),
        "leases/s",
        "",
    );
    let large = vec![7; MIB as usize];
    let began = Instant::now();
    (COUNT..COUNT + 1000).for_each(|number| put(&pool, number, &large));
    report(
        "put 1 MiB, written, one thread",
        per_second(1000, began.elapsed()),
        "MiB/s",
        "",
    );
    let began = Instant::now();
    for number in COUNT..COUNT + 1000 {
        let entry = pool
            .get(&key(number), Wait::Allowed)
            .expect("may wait")
            .expect("stored");
        let Body::Stream(mut reader) = entry.body else {
            panic!("large")
        };
        while reader.next(Wait::Allowed).expect("intact").is_some() {}
    }
    report(
        "get 1 MiB, cached, one thread",
        per_second(1000, began.elapsed()),
        "MiB/s",
        "",
    );
}

fn synced(dir: &Path) {
    let synced = |sub: &str| {
        let options = PoolOptions {
            durability: Durability::Synced,
            ..options(4 * GIB)
        };
        open(&dir.join(sub), options)
    };
    let body = vec![7; 4096];
    let alone = synced("alone");
    let began = Instant::now();
    (0..5_000).for_each(|number| put(&alone, number, &body));
    let one = per_second(5_000, began.elapsed());
    report(
        "put 4 KiB, synced, one writer: one fdatasync per put",
        one,
        "puts/s",
        "",
    );
    let group = synced("group");
    let began = Instant::now();
    thread::scope(|scope| {
        for writer in 0..64_u64 {
            let (group, body) = (&group, &body);
            scope.spawn(move || {
                (0..2_000).for_each(|number| put(group, writer << 32 | number, body));
            });
        }
    });
    let many = per_second(128_000, began.elapsed());
    report("put 4 KiB, synced, 64 writers", many, "puts/s", "");
    report(
        "synced, 64 writers against one fdatasync per put",
        many / one,
        "ratio",
        ">= 6",
    );
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a Linux");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("has a VmRSS");
    let kib = line.split_whitespace().nth(1).expect("a number");
    kib.parse::<u64>().expect("a number") * KIB
}

fn memory_per_entry(dir: &Path) {
    const COUNT: u64 = 5_000_000;
    let pool = open(dir, options(4 * GIB));
    let before = resident_bytes();
    (0..COUNT).for_each(|number| put(&pool, number, &number.to_le_bytes()));
    let each = (resident_bytes() - before) as f64 / COUNT as f64;
    report(
        "resident memory per entry at 5 million entries",
        each,
        "bytes",
        "<= 56",
    );
}

fn open_times(dir: &Path) {
    for (count, name, clean_aim, killed_aim) in [
        (1_000_000_u64, "1 million", "<= 0.3", "<= 1"),
        (10_000_000, "10 million", "", "<= 5"),
    ] {
        let dir = dir.join(count.to_string());
        let pool = open(&dir, options(8 * GIB));
        let body = [7; 200];
        with_chores(&pool, || {
            (0..count).for_each(|number| put(&pool, number, &body));
        });
        // As after `kill -9`: nothing is saved that the chores had not saved.
        drop(pool);
        let began = Instant::now();
        let pool = open(&dir, options(8 * GIB));
        let took = began.elapsed().as_secs_f64();
        assert_eq!(pool.usage().entries, count);
        report(
            &format!("open after kill -9, {name} entries"),
            took,
            "s",
            killed_aim,
        );
        pool.close().expect("closes");
        drop(pool);
        let began = Instant::now();
        let pool = open(&dir, options(8 * GIB));
        let took = began.elapsed().as_secs_f64();
        assert_eq!(pool.usage().entries, count);
        report(
            &format!("open after a clean stop, {name} entries"),
            took,
            "s",
            clean_aim,
        );
    }
}

fn full_pool(dir: &Path) {
    const COUNT: u64 = 200_000;
    let pool = open(dir, options(2 * GIB));
    let body = vec![7; 4096];
    let mut number = 0;
    let mut run = |count: u64| {
        let mut latencies = Vec::with_capacity(count as usize);
        let began = Instant::now();
        for _ in 0..count {
            let put_began = Instant::now();
            put(&pool, number, &body);
            latencies.push(put_began.elapsed());
            number += 1;
        }
        let rate = per_second(count, began.elapsed());
        latencies.sort_unstable();
        (
            rate,
            latencies[latencies.len() * 999 / 1000],
            latencies[latencies.len() - 1],
        )
    };
    with_chores(&pool, || {
        let (empty, _, _) = run(COUNT);
        run(400_000);
        let (full, p999, worst) = run(3 * COUNT);
        assert!(pool.usage().evicted_entries > 0, "the pool was never full");
        report("put 4 KiB into an empty pool", empty, "puts/s", "");
        report("put 4 KiB into a full pool", full, "puts/s", "");
        report("full against empty", full / empty, "ratio", ">= 0.7");
        report(
            "put into a full pool, p99.9",
            p999.as_secs_f64() * 1e3,
            "ms",
            "<= 20",
        );
        report(
            "put into a full pool, worst",
            worst.as_secs_f64() * 1e3,
            "ms",
            "",
        );
    });
}

/// A build cache's traffic: entries are asked for by Zipf's law, and stored after a miss.
fn write_amplification(dir: &Path) {
    const KEYS: u64 = 400_000;
    let pool = open(dir, options(256 * MIB));
    let body = vec![7; 4096];
    let mut cumulative = Vec::with_capacity(KEYS as usize);
    let mut sum = 0.0;
    for rank in 1..=KEYS {
        sum += (rank as f64).powf(-0.9);
        cumulative.push(sum);
    }
    let mut chance = 1;
    let (mut hits, mut asked) = (0, 0);
    with_chores(&pool, || {
        while pool.usage().written_bytes < GIB {
            for _ in 0..1000 {
                let draw = (next(&mut chance) % (1 << 40)) as f64 / (1_u64 << 40) as f64 * sum;
                let rank = cumulative.partition_point(|bound| *bound < draw) as u64;
                asked += 1;
                if pool
                    .get(&key(rank), Wait::Allowed)
                    .expect("may wait")
                    .is_some()
                {
                    hits += 1;
                } else {
                    put(&pool, rank, &body);
                }
            }
        }
    });
    let usage = pool.usage();
    let amplification = 1.0 + usage.carried_bytes as f64 / usage.written_bytes as f64;
    report(
        "write amplification, Zipf 0.9 over 6 times the pool",
        amplification,
        "ratio",
        "<= 1.3",
    );
    report(
        "hit rate of the same",
        f64::from(hits) / f64::from(asked),
        "ratio",
        "",
    );
}
