//! The engine on a disk that loses, tears, flips and fills: histories against a map as oracle.
//!
//! Every history follows from its seed, which a failure prints. The rules that are checked:
//! whatever is read was written whole under that key; what was acknowledged is there until it is
//! evicted, removed or damaged, through kills, and with `Synced` through power cuts; what was removed stays
//! away; what was held is never read as its key's entry and is there to be looked at; the files never exceed the budget.

mod world;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use larder_store::sim::{Faults, SimDisk};
use larder_store::{Bug, Durability, Lease, NewRecord, Pool, PoolOptions, Wait};

use world::{Checked, DISK, Expected, World, listed, open};

/// How many seeds a test tries: `usual`, times `LARDER_SIMULATION_FACTOR` for a long run.
fn seeds(usual: u64) -> std::ops::RangeInclusive<u64> {
    let factor = std::env::var("LARDER_SIMULATION_FACTOR").map_or(1, |factor| {
        factor
            .parse::<u64>()
            .expect("LARDER_SIMULATION_FACTOR is a whole number")
    });
    1..=usual * factor
}

/// A short history of every kind of operation, the power going in operation `cut_at` of the disk.
fn small_history(seed: u64, durability: Durability, cut_at: Option<u64>) -> Result<u64, String> {
    let mut world = World::new(seed, durability, None);
    if let Some(operation) = cut_at {
        world.disk.cut_power_at(operation);
    }
    for round in 0..3 {
        world.put_key(b"small", 100, false, round > 0)?;
        world.put_key(b"streamed", 5000, true, round > 0)?;
        world.put_key(b"own-segment", 70_000, true, round > 0)?;
        world.put_key(format!("kept-{round}").as_bytes(), 300, false, false)?;
        world.give_up()?;
        world.now_ms.fetch_add(5_000, Ordering::Relaxed);
        world.pool.do_chores();
        let _ = world.pool.checkpoint();
        world.put_key(format!("late-{round}").as_bytes(), 300, false, false)?;
        if world.pool.remove(b"kept-0").is_ok() && !world.disk.is_dead() {
            world
                .expected
                .insert(b"kept-0".to_vec(), Expected::default());
        } else if let Some(expected) = world.expected.get_mut(b"kept-0".as_slice()) {
            expected.required = false;
        }
    }
    let _ = world.pool.close();
    let operations = world.disk.operations();
    let promised = durability == Durability::Synced;
    world.restart(true)?;
    for key in world.expected.keys().cloned().collect::<Vec<_>>() {
        world.lease(&key, Lease::Yielding)?;
    }
    for (key, expected) in &world.expected {
        let required = promised && expected.required && expected.acknowledged.is_some();
        if required && !world.pool.contains(key) {
            return Err(format!(
                "{} was acknowledged: {expected:?}",
                key.escape_ascii()
            ));
        }
    }
    // The pool works on: the same keys can be stored, and found.
    world.put_key(b"afterwards", 100, false, true)?;
    world.check_key(b"afterwards")?;
    Ok(operations)
}

fn check_every_power_cut(durability: Durability) {
    let operations = small_history(1, durability, None).expect("without a power cut all is well");
    assert!(
        operations > 100,
        "{operations} operations are hardly a history"
    );
    for cut_at in 1..=operations {
        for seed in seeds(6) {
            if let Err(error) = small_history(seed, durability, Some(cut_at)) {
                panic!("power cut in operation {cut_at}, seed {seed}, {durability:?}: {error}");
            }
        }
    }
}

#[test]
fn a_power_cut_in_any_operation_costs_a_synced_pool_nothing_acknowledged() {
    check_every_power_cut(Durability::Synced);
}

#[test]
fn a_power_cut_in_any_operation_leaves_a_written_pool_with_whole_entries_only() {
    check_every_power_cut(Durability::Written);
}

/// Entries are stored, held, stored again, held again and released, the power going in operation `cut_at` of the disk.
/// Every version that was stored is then its key's entry or held, and what was held is held.
fn holding_history(seed: u64, cut_at: Option<u64>) -> Result<u64, String> {
    let mut world = World::new(seed, Durability::Synced, None);
    let mut stored = BTreeSet::new();
    let mut put = |world: &mut World, key: &[u8], bytes| {
        let existed = world.pool.contains(key);
        world.put_key(key, bytes, false, false)?;
        let is_acknowledged = |(version, _): &(u64, usize)| *version == world.versions;
        if !existed
            && world.expected[key]
                .acknowledged
                .as_ref()
                .is_some_and(is_acknowledged)
        {
            stored.insert(world.versions);
        }
        Ok::<(), String>(())
    };
    put(&mut world, b"before", 100)?;
    let _ = world.pool.checkpoint();
    if let Some(operation) = cut_at {
        world.disk.cut_power_at(operation);
    }
    for bytes in [100, 5000, 70_000] {
        put(&mut world, b"a", bytes)?;
        put(&mut world, format!("b-{bytes}").as_bytes(), bytes)?;
        world.hold(b"a")?;
    }
    put(&mut world, b"a", 300)?;
    world.release(b"a")?;
    world.hold(b"before")?;
    world.release(b"before")?;
    world.hold(b"b-100")?;
    world.hold(b"a")?;
    world.release(b"a")?;
    let operations = world.disk.operations();
    world.restart(true)?;
    let held = listed(&world.pool);
    for version in &stored {
        let is_live = world.expected.keys().any(|key| {
            let found = world.pool.head(key, Wait::Allowed);
            found.is_ok_and(|head| head.is_some_and(|head| head.writer == *version))
        });
        let is_held = held.contains_key(version);
        if is_live == is_held {
            return Err(format!("{version}: live {is_live}, held {is_held}"));
        }
        if world.held.contains_key(version) && !is_held {
            return Err(format!("{version} was held"));
        }
    }
    // And it works on.
    world.hold(b"before")?;
    world.release(b"before")?;
    world.check_all()?;
    Ok(operations)
}

#[test]
fn a_power_cut_while_entries_are_held_or_released_leaves_each_of_them_live_or_held() {
    let operations = holding_history(1, None).expect("without a power cut all is well");
    assert!(
        operations > 60,
        "{operations} operations are hardly a history"
    );
    for cut_at in 1..=operations {
        for seed in seeds(12) {
            if let Err(error) = holding_history(seed, Some(cut_at)) {
                panic!("power cut in operation {cut_at}, seed {seed}: {error}");
            }
        }
    }
}

#[test]
fn the_simulation_finds_held_entries_that_come_back() {
    let bug = Some(Bug::ForgetToMark);
    assert!((1..=20).any(|seed| random_history(seed, 600, Durability::Synced, bug).is_err()));
}

fn random_history(seed: u64, steps: u64, durability: Durability, bug: Option<Bug>) -> Checked {
    let mut world = World::new(seed, durability, bug);
    for step in 0..steps {
        world
            .step()
            .map_err(|error| format!("step {step}: {error}"))?;
    }
    world.check_all()
}

fn check_random_histories(durability: Durability) {
    for seed in seeds(60) {
        if let Err(error) = random_history(seed, 600, durability, None) {
            panic!("seed {seed}, {durability:?}: {error}");
        }
    }
}

#[test]
fn a_synced_pool_is_a_map_through_kills_and_power_cuts() {
    check_random_histories(Durability::Synced);
}

#[test]
fn a_written_pool_is_a_map_through_kills() {
    check_random_histories(Durability::Written);
}

/// The same, on a disk that fails in every way; only whole entries are promised then.
fn faulty_history(seed: u64, bug: Option<Bug>) -> Checked {
    let mut world = World::new(seed, Durability::Written, bug);
    world.damaged = true;
    for step in 0..500 {
        let faulty = world.chance.below(4) > 0;
        let rate = if faulty { 3_000 } else { 0 };
        world.disk.set_faults(Faults {
            read_error: rate,
            write_error: rate,
            sync_error: rate * 10,
            short_read: rate * 30,
            would_block: rate * 30,
        });
        match world.chance.below(40) {
            0..=3 => drop(world.disk.flip_bit()),
            4 => {
                world.disk.set_faults(Faults::default());
                world.disk.kill();
                world.disk.damage_file();
                let seed = world.chance.below(u64::MAX);
                world.pool = open(&world.disk, &world.now_ms, world.durability, seed, bug)?;
            }
            5 => world.disk.set_capacity(DISK / (1 + world.chance.below(16))),
            _ => {}
        }
        let key = world.key();
        let step_result = match world.chance.below(10) {
            0..=4 => world.put(step % 3 == 0, step % 5 == 0),
            5 => world.give_up(),
            6 => {
                world.now_ms.fetch_add(4_000, Ordering::Relaxed);
                world.pool.do_chores();
                Ok(())
            }
            7 => world.hold(&key),
            8 => world.release(&key),
            _ => world.check_key(&key),
        };
        // A replacement may fail half way, and a fault may hide what exists: only wrong bytes count.
        step_result.map_err(|error| format!("step {step}: {error}"))?;
    }
    world.disk.set_faults(Faults::default());
    world.disk.set_capacity(DISK);
    world.disk.kill();
    world.pool = open(&world.disk, &world.now_ms, world.durability, seed, bug)?;
    world.check_all()?;
    world.put_key(b"afterwards", 100, false, true)?;
    world.check_key(b"afterwards")
}

#[test]
fn a_failing_disk_costs_entries_but_never_serves_wrong_bytes() {
    for seed in seeds(150) {
        if let Err(error) = faulty_history(seed, None) {
            panic!("seed {seed}: {error}");
        }
    }
}

#[test]
fn the_simulation_finds_a_write_that_is_acknowledged_before_it_is_synced() {
    let bug = Some(Bug::AcknowledgeUnsynced);
    assert!((1..=20).any(|seed| random_history(seed, 600, Durability::Synced, bug).is_err()));
}

#[test]
fn the_simulation_finds_a_segment_removed_before_its_copies_are_synced() {
    let bug = Some(Bug::ReclaimBeforeSync);
    assert!((1..=60).any(|seed| random_history(seed, 600, Durability::Synced, bug).is_err()));
}

#[test]
fn the_simulation_finds_unverified_blocks() {
    let bug = Some(Bug::SkipBlockChecksums);
    assert!((1..=150).any(|seed| faulty_history(seed, bug).is_err()));
}

#[test]
fn the_simulation_finds_removed_entries_that_come_back() {
    let bug = Some(Bug::ForgetToBury);
    assert!((1..=20).any(|seed| random_history(seed, 600, Durability::Synced, bug).is_err()));
}

#[test]
fn on_a_crowded_disk_a_pool_leaves_others_what_they_were_promised() {
    let disk = SimDisk::new(1, DISK);
    let promised = Arc::new(AtomicU64::new(0));
    let promise = Arc::clone(&promised);
    let options = PoolOptions {
        free_reserve_bytes: 0,
        reserved_for_others: Arc::new(move || promise.load(Ordering::Relaxed)),
        seed: Some(1),
        ..PoolOptions::new(2 * DISK)
    };
    let pool = Pool::open(disk.clone(), Path::new("pool"), options).expect("opens");
    let fill = |first: u64| {
        for number in first..first + 2000 {
            let key = number.to_le_bytes();
            let record = NewRecord {
                key: &key,
                metadata: &[],
                check: 0,
                writer: 0,
                replace: false,
            };
            pool.put(&record, &[7; 4000])
                .expect("older entries make room");
        }
    };
    fill(0);
    assert!(
        disk.bytes() > DISK / 2,
        "nothing is promised, so the disk fills"
    );
    promised.store(DISK / 2, Ordering::Relaxed);
    fill(2000);
    assert!(disk.bytes() <= DISK / 2, "{} bytes of {DISK}", disk.bytes());
}
