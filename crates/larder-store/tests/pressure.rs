//! A pool in want of room: full, crowded, shrunk or misled about the time, it evicts what it may, keeps what it has
//! promised, and goes on storing.

mod hook;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use hook::{MIB, Operation, Stand, fill, is_readable, key, put, record};
use larder_store::sim::SimDisk;
use larder_store::{
    Begin, Disk, Durability, Lease, NewRecord, Pool, PoolOptions, StoreError, Wait,
};

const YEAR: Duration = Duration::from_hours(365 * 24);

fn put_streamed(pool: &Pool, key: &[u8], body: &[u8]) -> Result<(), StoreError> {
    if let Begin::Upload(mut upload) = pool.begin(&record(key), None)? {
        upload.write(body)?;
        upload.finish()?;
    }
    Ok(())
}

#[test]
fn what_is_leased_while_its_segment_is_reclaimed_stays() {
    let stand = Stand::new(7, MIB, Durability::Written);
    assert_eq!(fill(&stand.pool, 0..200, 1000), 0);
    // Used, so it is carried, and synced before its segment goes.
    assert!(is_readable(&stand.pool, &key(0)));
    let leased = Arc::new(AtomicBool::new(false));
    let (pool, lease_taken) = (stand.pool.clone(), Arc::clone(&leased));
    stand.disk.set(move |call| {
        let is_segment = call.path.extension().is_some_and(|end| end == "seg");
        let syncs_copies = is_segment && call.is(Operation::Sync) && pool.usage().carried_bytes > 0;
        if syncs_copies && !lease_taken.swap(true, Ordering::SeqCst) {
            assert!(
                pool.lease(&key(1), Lease::Firm).is_some(),
                "its segment is still there"
            );
        }
        Ok(())
    });
    let mut number = 200;
    while !leased.load(Ordering::SeqCst) {
        put(&stand.pool, &key(number), 1000).expect("older entries make room");
        number += 1;
        assert!(number < 5000, "the first entry is never carried");
    }
    stand.disk.clear();
    assert_eq!(fill(&stand.pool, number..number + 5000, 1000), 0);
    assert!(is_readable(&stand.pool, &key(1)), "leased, and gone");
}

#[test]
fn a_replacement_inherits_the_lease() {
    let stand = Stand::new(7, MIB, Durability::Written);
    let replacing = NewRecord {
        replace: true,
        ..record(b"k")
    };
    stand.pool.put(&replacing, b"one").expect("stored");
    assert!(stand.pool.lease(b"k", Lease::Firm).is_some());
    stand.pool.put(&replacing, b"two").expect("stored");
    assert_eq!(fill(&stand.pool, 0..2000, 1000), 0);
    assert!(is_readable(&stand.pool, b"k"), "leased, and gone");
}

/// Fills a pool, taking `lease` of every entry as it comes, and writes three times as much again, which gets `later`.
/// How many of the later writes are refused, and which of the first entries are readable in the end.
fn check_leased_throughout(
    bytes: usize,
    lease: fn(u64) -> Lease,
    later: Lease,
) -> (usize, Vec<u64>) {
    let stand = Stand::new(7, MIB, Durability::Written);
    let store = |number, lease| {
        let stored = put(&stand.pool, &key(number), bytes).is_ok();
        assert!(!stored || stand.pool.lease(&key(number), lease).is_some());
        stored
    };
    // Some of the budget is kept for reclaim.
    let first = MIB * 3 / 4 / bytes as u64;
    assert!((0..first).all(|number| store(number, lease(number))));
    let more = 1_000_000..1_000_000 + 3 * MIB / bytes as u64;
    let refused = more.filter(|number| !store(*number, later)).count();
    let readable = (0..first).filter(|number| is_readable(&stand.pool, &key(*number)));
    (refused, readable.collect())
}

#[test]
fn a_pool_in_which_everything_is_leased_takes_writes_if_the_leases_yield_and_refuses_them_if_not() {
    for bytes in [1000, 3900, 40_000] {
        let all: Vec<u64> = (0..MIB * 3 / 4 / bytes as u64).collect();
        let (refused, readable) =
            check_leased_throughout(bytes, |_| Lease::Yielding, Lease::Yielding);
        assert_eq!(
            refused, 0,
            "{bytes} bytes: refused, though the leases yield"
        );
        assert!(
            readable.len() * 10 < all.len(),
            "{bytes} bytes: {readable:?} pinned"
        );
        let (refused, readable) = check_leased_throughout(bytes, |_| Lease::Firm, Lease::Firm);
        assert!(refused > 0, "{bytes} bytes: nothing was refused");
        assert_eq!(readable, all, "{bytes} bytes: leased, and gone");
    }
}

#[test]
fn of_a_mixed_pool_the_firmly_leased_stay_and_no_write_is_refused() {
    fn lease(number: u64) -> Lease {
        let firm = number.is_multiple_of(3);
        if firm { Lease::Firm } else { Lease::Yielding }
    }
    for bytes in [1000, 3900, 40_000] {
        let (refused, readable) = check_leased_throughout(bytes, lease, Lease::Yielding);
        assert_eq!(refused, 0, "{bytes} bytes");
        let firm = (0..MIB * 3 / 4 / bytes as u64).filter(|number| lease(*number) == Lease::Firm);
        let lost: Vec<u64> = firm.filter(|number| !readable.contains(number)).collect();
        assert!(
            lost.is_empty(),
            "{bytes} bytes: {lost:?} are firmly leased, and gone"
        );
    }
}

/// Fills a pool, takes yielding leases of `leased` and writes six times as much again, with chores or without. How
/// many of the leased are gone.
fn gone_though_leased_yieldingly(leased: impl Iterator<Item = u64>, with_chores: bool) -> usize {
    let stand = Stand::new(7, MIB, Durability::Written);
    assert_eq!(fill(&stand.pool, 0..800, 1000), 0);
    let leased: Vec<u64> = leased.collect();
    let asking = stand.pool.leases(Lease::Yielding);
    assert!(
        leased
            .iter()
            .all(|number| asking.take(&key(*number)).is_some())
    );
    for number in 800..5600 {
        put(&stand.pool, &key(number), 1000).expect("there is room");
        if with_chores {
            stand.pool.do_chores();
        }
    }
    assert!(stand.pool.usage().evicted_entries > 3000);
    let gone = |number: &&u64| !is_readable(&stand.pool, &key(**number));
    leased.iter().filter(gone).count()
}

#[test]
fn leases_that_yield_hold_as_long_as_they_hold_back_no_more_than_an_eighth_of_the_pool() {
    for with_chores in [false, true] {
        // A tenth, in one run and evenly spread.
        assert_eq!(gone_though_leased_yieldingly(200..280, with_chores), 0);
        let spread = (0..800).step_by(10);
        assert_eq!(gone_though_leased_yieldingly(spread, with_chores), 0);
        // Copies count as well: no more than a fifth of what is evicted.
        let gone = gone_though_leased_yieldingly(0..600, with_chores);
        assert!((320..580).contains(&gone), "{gone} of 600 gone");
    }
}

#[test]
fn what_is_firmly_leased_does_not_count_as_held_back_by_leases_that_yield() {
    let stand = Stand::new(7, MIB, Durability::Written);
    assert_eq!(fill(&stand.pool, 0..800, 1000), 0);
    for number in 0..380 {
        let yields = number < 80;
        let lease = if yields { Lease::Yielding } else { Lease::Firm };
        assert!(stand.pool.lease(&key(number), lease).is_some());
    }
    assert_eq!(fill(&stand.pool, 800..5600, 1000), 0);
    let gone = (0..380).filter(|number| !is_readable(&stand.pool, &key(*number)));
    assert_eq!(gone.collect::<Vec<_>>(), [0; 0]);
}

/// Fills a pool and then writes three times as much, while `asked` says of which numbers, of how many the pool holds,
/// yielding leases are taken again and again. Nearly all of the last writes, half of what the pool holds, have to be
/// there.
fn check_newest_stay(bytes: usize, what: &str, asked: fn(u64, u64) -> bool) {
    let stand = Stand::new(7, MIB, Durability::Written);
    let held = 3 * MIB / 4 / bytes as u64;
    assert_eq!(fill(&stand.pool, 0..held, bytes), 0);
    for number in held..4 * held {
        let before = held..number - held / 2;
        let leased = (0..held)
            .chain(before)
            .filter(|number| asked(*number, held));
        if number.is_multiple_of(held / 8) {
            let asking = stand.pool.leases(Lease::Yielding);
            leased.for_each(|number| _ = asking.take(&key(number)));
            stand.pass(Duration::from_secs(5));
        }
        put(&stand.pool, &key(number), bytes).expect("older entries make room");
    }
    let last = 4 * held - held / 2..4 * held;
    let there = last.filter(|number| stand.pool.contains(&key(*number)));
    let (there, all) = (there.count() as u64, held / 2);
    assert!(
        there * 100 >= all * 95,
        "{bytes} bytes, {what} leased: {there} of the last {all} are there"
    );
}

#[test]
fn whatever_is_leased_yieldingly_and_however_often_the_newest_entries_stay() {
    for bytes in [1000, 3900, 40_000] {
        check_newest_stay(bytes, "nothing", |_, _| false);
        check_newest_stay(bytes, "everything old", |_, _| true);
        check_newest_stay(bytes, "the first", |number, held| number < held);
        check_newest_stay(bytes, "every second", |number, _| number.is_multiple_of(2));
        check_newest_stay(bytes, "every fourth", |number, _| number.is_multiple_of(4));
    }
}

#[test]
fn entries_that_are_leased_again_while_reclaim_looks_for_room_do_not_keep_it_looking() {
    let stand = Stand::new(7, MIB, Durability::Written);
    let held = MIB * 3 / 4 / 40_000;
    assert_eq!(fill(&stand.pool, 0..held, 40_000), 0);
    let (pool, asked) = (stand.pool.clone(), AtomicU64::new(0));
    stand.disk.set(move |call| {
        if call.is(Operation::Read) {
            let asking = pool.leases(Lease::Yielding);
            (0..2 * held).for_each(|number| _ = asking.take(&key(number)));
            let asked = asked.fetch_add(1, Ordering::Relaxed);
            assert!(asked < 100_000, "looks at the same entries again and again");
        }
        Ok(())
    });
    assert_eq!(fill(&stand.pool, held..2 * held, 40_000), 0);
}

#[test]
fn an_entry_that_is_leased_over_and_over_while_its_segment_is_reclaimed_does_not_keep_it_from_going()
 {
    let mut stand = Stand::new(7, MIB, Durability::Written);
    stand.sim.kill();
    stand.options.free_reserve_bytes = MIB;
    stand.reopen();
    assert_eq!(fill(&stand.pool, 0..700, 1000), 0);
    assert!(is_readable(&stand.pool, &key(0)));
    // Others have filled the disk: nothing can be copied.
    stand.disk.free_bytes_max.store(MIB / 2, Ordering::Relaxed);
    let (pool, now_ms) = (stand.pool.clone(), Arc::clone(&stand.now_ms));
    let reads = AtomicU64::new(0);
    stand.disk.set(move |call| {
        let is_segment = call.path.extension().is_some_and(|end| end == "seg");
        if is_segment && call.is(Operation::Read) {
            pool.lease(&key(1), Lease::Yielding);
            now_ms.fetch_add(16_000, Ordering::Relaxed);
            let reads = reads.fetch_add(1, Ordering::Relaxed);
            assert!(reads < 100_000, "reads the same entries again and again");
        }
        Ok(())
    });
    let _ = fill(&stand.pool, 10_000..10_200, 1000);
    assert!(!stand.pool.contains(&key(1)));
}

#[test]
fn an_entry_that_cannot_be_read_goes_however_often_it_is_leased() {
    let stand = Stand::new(7, MIB, Durability::Written);
    assert_eq!(fill(&stand.pool, 0..700, 1000), 0);
    assert!(stand.pool.lease(&key(1), Lease::Firm).is_some());
    let (pool, now_ms) = (stand.pool.clone(), Arc::clone(&stand.now_ms));
    let failed = Arc::new(AtomicU64::new(0));
    let reads_failed = Arc::clone(&failed);
    stand.disk.set(move |call| {
        let is_its = call.path.ends_with("00000001.seg") && (1000..1200).contains(&call.at);
        // What reclaim reads in order to copy it.
        if is_its && call.is(Operation::Read) {
            now_ms.fetch_add(16_000, Ordering::Relaxed);
            pool.lease(&key(1), Lease::Firm);
            let failed = reads_failed.fetch_add(1, Ordering::Relaxed);
            assert!(failed < 1000, "reads the same entry again and again");
            return Err(io::Error::other("unreadable"));
        }
        Ok(())
    });
    assert_eq!(fill(&stand.pool, 10_000..12_000, 1000), 0);
    assert!(failed.load(Ordering::Relaxed) > 0, "the hook is blind");
    assert!(!stand.pool.contains(&key(1)));
}

#[test]
fn leases_taken_together_last_from_one_moment_on() {
    let stand = Stand::new(7, MIB, Durability::Written);
    assert_eq!(fill(&stand.pool, 0..20, 1000), 0);
    let leases = stand.pool.leases(Lease::Firm);
    stand.pass(Duration::from_secs(50));
    assert_eq!(leases.take(b"absent"), None);
    assert_eq!(leases.take(&key(1)), Some(0));
    assert!(stand.pool.lease(&key(2), Lease::Firm).is_some());
    assert_eq!(fill(&stand.pool, 100..2000, 1000), 0);
    assert!(is_readable(&stand.pool, &key(1)), "leased, and gone");
    // A minute and 25 seconds after the first lease, and 35 seconds after the second.
    stand.pass(Duration::from_secs(35));
    assert_eq!(fill(&stand.pool, 2000..4000, 1000), 0);
    assert!(stand.pool.contains(&key(2)), "leased, and gone");
    assert!(
        !stand.pool.contains(&key(1)),
        "leased from when it was taken on"
    );
}

#[test]
fn the_segment_that_is_being_filled_goes_when_nothing_else_can() {
    let stand = Stand::new(7, MIB, Durability::Written);
    put(&stand.pool, b"small", 100).expect("there is room");
    // Nobody can take their room from uploads under way.
    let mut uploads = Vec::new();
    while let Ok(Begin::Upload(upload)) = stand.pool.begin(&record(b"k"), Some(20_000)) {
        uploads.push(upload);
    }
    assert!(uploads.len() > 20, "{}", uploads.len());
    assert!(
        !stand.pool.contains(b"small"),
        "refused, though it could go"
    );
}

#[test]
fn chores_do_not_cut_a_pool_in_which_everything_is_leased_into_small_pieces() {
    let stand = Stand::new(7, MIB, Durability::Written);
    for number in 0..3 * MIB / 1000 {
        put(&stand.pool, &key(number), 1000).expect("the leases yield");
        assert!(stand.pool.lease(&key(number), Lease::Yielding).is_some());
        stand.pool.do_chores();
    }
    let usage = stand.pool.usage();
    assert!(usage.evicted_entries > 0, "never in want of room");
    assert!(usage.segments <= 70, "cut into small pieces: {usage:?}");
}

#[test]
fn small_bodies_of_unknown_length_share_segments() {
    let stand = Stand::new(7, 64 * MIB, Durability::Written);
    for number in 0..3000 {
        put_streamed(&stand.pool, &key(number), &[1; 100]).expect("there is room");
    }
    let usage = stand.pool.usage();
    assert_eq!(usage.entries, 3000);
    assert!(usage.segments < 10, "{usage:?}");
}

/// Leases everything, and steps over the leases' end when a write is refused.
fn check_room_after_leases(bytes: usize, step_ms: u64, chores_every: u64) {
    let stand = Stand::new(7, 4 * MIB, Durability::Written);
    let mut refused_last = false;
    for number in 0..12 * MIB / bytes as u64 {
        let stored = put(&stand.pool, &key(number), bytes).is_ok();
        assert!(
            stored || !refused_last,
            "{bytes} bytes, {step_ms} ms, chores every {chores_every} writes: refused after the leases have ended"
        );
        if stored {
            assert!(stand.pool.lease(&key(number), Lease::Firm).is_some());
            stand.pass(Duration::from_millis(step_ms));
        } else {
            stand.pass(Duration::from_hours(1));
        }
        if number % chores_every == 0 {
            stand.pool.do_chores();
        }
        refused_last = !stored;
    }
    let usage = stand.pool.usage();
    assert!(usage.evicted_entries > 0, "{usage:?}");
}

#[test]
fn a_pool_in_which_everything_was_leased_has_room_again_when_the_leases_end() {
    for bytes in [1000, 4000, 12_000, 30_000] {
        for step_ms in [1, 40, 400] {
            for chores_every in [1, 50] {
                check_room_after_leases(bytes, step_ms, chores_every);
            }
        }
    }
}

#[test]
fn a_clock_that_was_years_ahead_pins_nothing() {
    let stand = Stand::new(7, MIB, Durability::Written);
    stand.pass(10 * YEAR);
    assert_eq!(fill(&stand.pool, 0..840, 1000), 0);
    assert!((0..840).all(|number| stand.pool.lease(&key(number), Lease::Firm).is_some()));
    let nine_years_ms = 9 * YEAR.as_millis() as u64;
    stand.now_ms.fetch_sub(nine_years_ms, Ordering::Relaxed);
    assert_eq!(fill(&stand.pool, 1000..6000, 1000), 0);
    let pinned = (0..840)
        .filter(|number| stand.pool.contains(&key(*number)))
        .count();
    assert!(pinned < 100, "{pinned} of 840");
}

#[test]
fn writers_who_race_for_the_last_room_are_not_refused() {
    let stand = Stand::new(7, MIB, Durability::Written);
    let pool = &stand.pool;
    thread::scope(|scope| {
        for writer in 0..8 {
            scope.spawn(move || {
                for number in 0..1000 {
                    put(pool, &key(writer * 10_000 + number), 3900)
                        .expect("older entries make room");
                }
            });
        }
    });
}

#[test]
fn a_disk_that_is_slow_to_report_free_space_does_not_empty_the_pool() {
    let mut stand = Stand::new(7, 16 * MIB, Durability::Written);
    stand.sim.kill();
    stand.options.free_reserve_bytes = MIB;
    stand.reopen();
    assert_eq!(fill(&stand.pool, 0..10_000, 1000), 0);
    // Somebody else fills the disk, and what is removed does not show.
    stand
        .disk
        .free_bytes_max
        .store(MIB + MIB / 2, Ordering::Relaxed);
    stand.pool.do_chores();
    let usage = stand.pool.usage();
    assert!(usage.entries > 5000, "{usage:?}");
    assert!(usage.evicted_entries > 0, "{usage:?}");
}

#[test]
fn the_largest_body_there_may_be_finds_room_in_a_pool_full_of_small_ones() {
    let stand = Stand::new(7, 16 * MIB, Durability::Written);
    assert_eq!(fill(&stand.pool, 0..60_000, 60), 0);
    stand.pool.checkpoint().expect("saved");
    let largest = stand.pool.body_bytes_max();
    let begun = stand.pool.begin(&record(b"large"), Some(largest));
    assert!(matches!(begun, Ok(Begin::Upload(_))), "{:?}", begun.err());
}

#[test]
fn a_checkpoint_that_cannot_be_read_counts_as_well() {
    let budget = 16 * MIB;
    let mut stand = Stand::new(7, budget, Durability::Written);
    assert_eq!(fill(&stand.pool, 0..60_000, 60), 0);
    stand.pool.close().expect("saved");
    let path = Path::new("pool/index.ckpt");
    let checkpoint = stand.sim.open(path).expect("there");
    let middle = checkpoint.bytes().expect("known") / 2;
    let mut byte = [0];
    checkpoint
        .read_at(&mut byte, middle, Wait::Allowed)
        .expect("readable");
    checkpoint
        .write_at(&[&[!byte[0]]], middle)
        .expect("damaged");
    stand.sim.kill();
    stand.reopen();
    assert_eq!(stand.pool.usage().entries, 60_000, "the log knows the same");
    assert_eq!(fill(&stand.pool, 100_000..160_000, 60), 0);
    let peak = stand.sim.take_bytes_peak();
    assert!(peak <= budget, "{peak} bytes of {budget}");
}

#[test]
fn a_quota_below_the_budget_makes_the_pool_evict() {
    let quota = 8 * MIB;
    let stand = Stand::new(7, 16 * MIB, Durability::Written);
    let sim = Arc::clone(&stand.sim);
    stand.disk.set(move |call| {
        if call.is(Operation::Allocate) && sim.bytes() + call.at > quota {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(())
    });
    for first in (0..20_000).step_by(50) {
        assert_eq!(fill(&stand.pool, first..first + 50, 1000), 0);
        stand.pool.do_chores();
    }
    assert!(stand.pool.usage().evicted_entries > 0, "the quota is unmet");
    assert!(is_readable(&stand.pool, &key(19_999)));
}

#[test]
fn a_full_pool_can_be_purged_whether_or_not_chores_go_on() {
    for with_chores in [false, true] {
        let stand = Stand::new(7, 4 * MIB, Durability::Written);
        let pool = &stand.pool;
        for first in (0..80_000).step_by(2000) {
            assert_eq!(fill(pool, first..first + 2000, 20), 0);
            pool.do_chores();
        }
        let entries = pool.usage().entries;
        assert!(pool.usage().evicted_entries > 0, "the pool is not full");
        let purging = AtomicBool::new(true);
        thread::scope(|scope| {
            if with_chores {
                scope.spawn(|| {
                    while purging.load(Ordering::SeqCst) {
                        pool.do_chores();
                    }
                });
            }
            let purged = pool.purge(false, &mut |_| true, &mut |_, _| true);
            purging.store(false, Ordering::SeqCst);
            let purged = purged.expect("the disk works");
            assert!(with_chores || purged.entries == entries, "{purged:?}");
        });
        assert_eq!(pool.usage().entries, 0, "of {entries} entries");
    }
}

#[test]
fn a_purge_spares_what_replaced_the_entry_it_chose() {
    let stand = Stand::new(7, 16 * MIB, Durability::Written);
    let by_writer = |writer| NewRecord {
        writer,
        replace: true,
        ..record(b"k")
    };
    stand.pool.put(&by_writer(666), b"evil").expect("stored");
    let mut choose = |head: &larder_store::RecordHead<'_>| {
        let chosen = head.writer == 666;
        if chosen {
            stand.pool.put(&by_writer(1), b"good").expect("stored");
        }
        chosen
    };
    let purged = stand.pool.purge(false, &mut choose, &mut |_, _| true);
    assert_eq!(purged.expect("the disk works").entries, 0);
    assert!(
        is_readable(&stand.pool, b"k"),
        "writer 1's was never chosen"
    );
}

#[test]
fn a_pool_shrunk_below_the_size_of_its_checkpoint_goes_on_storing() {
    let mut stand = Stand::new(7, 16 * MIB, Durability::Written);
    assert_eq!(fill(&stand.pool, 0..60_000, 60), 0);
    stand.pool.checkpoint().expect("saved");
    stand.pool.resize(MIB).expect("not too small");
    stand.options.budget_bytes = MIB;
    for first in [1_000_000, 2_000_000] {
        for number in first..first + 300 {
            stand.pass(Duration::from_mins(1));
            stand.pool.do_chores();
            let stored = put(&stand.pool, &key(number), 60);
            assert!(stored.is_ok(), "write {number}: {stored:?}");
        }
        assert!(stand.pool.usage().used_bytes <= MIB);
        stand.sim.kill();
        stand.reopen();
    }
}

#[test]
fn two_pools_that_leave_each_other_room_do_not_wait_for_each_other() {
    const BUDGET: u64 = 4 * MIB;
    let disk: Arc<dyn Disk> = SimDisk::new(7, 4 * BUDGET);
    let pools: [Arc<OnceLock<Pool>>; 2] = Default::default();
    for (me, name) in ["left", "right"].into_iter().enumerate() {
        let other = Arc::clone(&pools[1 - me]);
        let options = PoolOptions {
            free_reserve_bytes: 0,
            reserved_for_others: Arc::new(move || other.get().map_or(0, Pool::unclaimed_bytes)),
            seed: Some(7),
            ..PoolOptions::new(BUDGET)
        };
        let pool = Pool::open(Arc::clone(&disk), Path::new(name), options).expect("opens");
        assert!(pools[me].set(pool).is_ok(), "set once");
    }
    let (done, is_done) = mpsc::channel();
    for pool in &pools {
        let pool = pool.get().expect("set").clone();
        let done = done.clone();
        // Not scoped: if they wait for each other the test still ends.
        thread::spawn(move || {
            let refused = fill(&pool, 0..10_000, 3000);
            done.send(refused).expect("the test waits");
        });
    }
    for _ in &pools {
        let refused = is_done.recv_timeout(Duration::from_secs(30));
        assert_eq!(refused, Ok(0), "both are waiting, or writes were refused");
    }
}
