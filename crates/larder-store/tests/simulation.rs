//! The engine on a disk that loses, tears, flips and fills: histories against a map as oracle.
//!
//! Every history follows from its seed, which a failure prints. The rules that are checked:
//! whatever is read was written whole under that key; what was acknowledged is there until it is
//! evicted, removed or damaged, through kills, and with `Synced` through power cuts; what was removed stays
//! away; the files never exceed the budget.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder_store::sim::{Faults, SimDisk};
use larder_store::{
    Begin, Body, Bug, Clock, Disk, Durability, Entry, EntryHead, Lease, NewRecord, Pool,
    PoolOptions, Put, ReadError, Wait,
};

const BUDGET: u64 = 1 << 20;
const SEGMENT: u64 = BUDGET / 64;
const DISK: u64 = 4 << 20;
const LEASE_MS: u64 = 60_000;

/// How many seeds a test tries: `usual`, times `LARDER_SIMULATION_FACTOR` for a long run.
fn seeds(usual: u64) -> std::ops::RangeInclusive<u64> {
    let factor = std::env::var("LARDER_SIMULATION_FACTOR").map_or(1, |factor| {
        factor
            .parse::<u64>()
            .expect("LARDER_SIMULATION_FACTOR is a whole number")
    });
    1..=usual * factor
}

/// SplitMix64, so that a history depends on nothing but its seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

/// A body that follows from its number, which is in it: no two versions look alike.
fn body(version: u64, bytes: usize) -> Vec<u8> {
    let mut chance = Chance(version);
    let mut body: Vec<u8> = version.to_le_bytes().into();
    while body.len() < bytes {
        body.extend_from_slice(&chance.below(u64::MAX).to_le_bytes());
    }
    body.truncate(bytes.max(8));
    body
}

/// The check that goes with a version.
fn check(version: u64) -> u16 {
    (version as u16).wrapping_mul(40_503)
}

/// What may be under a key.
#[derive(Default, Clone, Debug)]
struct Expected {
    /// The version that was acknowledged last, with its length, unless it was removed.
    acknowledged: Option<(u64, usize)>,
    /// Older versions and versions whose write was never acknowledged or refused.
    possible: Vec<(u64, usize)>,
    /// Whether `acknowledged` has to be there.
    required: bool,
}

struct World {
    disk: Arc<SimDisk>,
    pool: Pool,
    now_ms: Arc<AtomicU64>,
    chance: Chance,
    durability: Durability,
    bug: Option<Bug>,
    expected: BTreeMap<Vec<u8>, Expected>,
    versions: u64,
    bytes_allowed: u64,
    /// Bits were flipped or files damaged: presence is no longer promised.
    damaged: bool,
    /// When which leases were taken, Unix milliseconds, and of how many bytes.
    leases: Vec<(u64, Lease, u64)>,
}

type Checked = Result<(), String>;

impl World {
    fn new(seed: u64, durability: Durability, bug: Option<Bug>) -> Self {
        let disk = SimDisk::new(seed, DISK);
        let now_ms = Arc::new(AtomicU64::new(1_000_000_000));
        let pool = open(&disk, &now_ms, durability, seed, bug).expect("an empty disk opens");
        Self {
            disk,
            pool,
            now_ms,
            chance: Chance(seed),
            durability,
            bug,
            expected: BTreeMap::new(),
            versions: seed << 32,
            bytes_allowed: BUDGET,
            damaged: false,
            leases: Vec::new(),
        }
    }

    fn key(&mut self) -> Vec<u8> {
        format!("key-{}", self.chance.below(60)).into_bytes()
    }

    /// Sizes of all kinds: nothing, tiny, records that share a segment, several blocks, own segments.
    fn size(&mut self) -> usize {
        (match self.chance.below(20) {
            0..=9 => 8 + self.chance.below(200),
            10..=15 => 200 + self.chance.below(3000),
            16..=18 => 3000 + self.chance.below(20_000),
            _ => 60_000 + self.chance.below(90_000),
        }) as usize
    }

    fn put(&mut self, streamed: bool, replace: bool) -> Checked {
        let (key, bytes) = (self.key(), self.size());
        self.put_key(&key, bytes, streamed, replace)
    }

    fn put_key(&mut self, key: &[u8], bytes: usize, streamed: bool, replace: bool) -> Checked {
        self.versions += 1;
        let version = (self.versions, bytes.max(8));
        let body = body(version.0, version.1);
        let metadata = version.0.to_le_bytes();
        let record = NewRecord {
            key,
            metadata: &metadata,
            check: check(version.0),
            writer: version.0,
            replace,
        };
        // The header may reach the disk whatever becomes of the call.
        self.expected
            .entry(key.to_vec())
            .or_default()
            .possible
            .push(version);
        let evicted_before = self.pool.usage().evicted_entries;
        let refused_before = self.pool.usage().refused_writes;
        let existed = self.pool.contains(key);
        let put = if streamed {
            self.stream(&record, &body)
        } else {
            self.pool.put(&record, &body).ok()
        };
        let expected = self.expected.get_mut(key).expect("just put");
        match put {
            Some(Put::Stored) => {
                if existed && !replace && self.pool.usage().evicted_entries == evicted_before {
                    return Err("a write-once key was written twice".into());
                }
                expected.acknowledged = Some(version);
                expected.required = true;
                if !self.pool.contains(key) && !self.disk.is_dead() {
                    return Err("an acknowledged write is not visible".into());
                }
            }
            Some(Put::Exists) => {
                expected.possible.retain(|other| *other != version);
                if replace {
                    return Err("a replacement was refused as existing".into());
                }
            }
            None => {
                let may_refuse = self.lasting_leases().any(|(lease, _)| lease == Lease::Firm);
                let refused = self.pool.usage().refused_writes > refused_before;
                if refused && !may_refuse && !self.damaged {
                    return Err("a write was refused though nothing is firmly leased".into());
                }
            }
        }
        Ok(())
    }

    fn stream(&mut self, record: &NewRecord<'_>, body: &[u8]) -> Option<Put> {
        let declared = (self.chance.below(3) > 0).then_some(body.len() as u64);
        let late = self.chance.below(2) == 0;
        let begun = NewRecord {
            check: if late { 0 } else { record.check },
            ..*record
        };
        let mut upload = match self.pool.begin(&begun, declared).ok()? {
            Begin::Exists => return Some(Put::Exists),
            Begin::Upload(upload) => upload,
        };
        if late {
            upload.set_check(record.check);
        }
        let mut rest = body;
        while !rest.is_empty() {
            let count = (1 + self.chance.below(9000) as usize).min(rest.len());
            upload.write(&rest[..count]).ok()?;
            rest = &rest[count..];
        }
        upload.finish().ok()
    }

    /// An upload that is given up half way, or lies about its length, or plants records in its body.
    fn give_up(&mut self) -> Checked {
        let key = self.key();
        let record = NewRecord {
            key: &key,
            metadata: &[],
            check: 0,
            writer: 0,
            replace: false,
        };
        let size = 100 + self.chance.below(3000);
        if let Ok(Begin::Upload(mut upload)) = self.pool.begin(&record, Some(size)) {
            let _ = upload.write(&b"LREC\x01\x01".repeat(size as usize / 12));
            if self.chance.below(2) == 0 && upload.finish().is_ok() {
                return Err("half a body was accepted".into());
            }
        }
        Ok(())
    }

    fn check_key(&mut self, key: &[u8]) -> Checked {
        let contained = self.pool.contains(key);
        let found = read(&self.pool, key)?;
        let expected = self.expected.entry(key.to_vec()).or_default();
        match found {
            Found::Entry(entry, bytes) => {
                let version = (entry.writer, bytes.len());
                let is_known =
                    expected.acknowledged == Some(version) || expected.possible.contains(&version);
                if !is_known || bytes != body(version.0, version.1) {
                    return Err(format!("{key:?} holds {version:?}, expected {expected:?}"));
                }
                let metadata_fits = entry.metadata == entry.writer.to_le_bytes()[..];
                if !metadata_fits || entry.check != check(entry.writer) {
                    return Err(format!("{key:?} holds {entry:?}"));
                }
                let head = self.pool.head(key, Wait::Allowed);
                let head = head.map_err(|_| "blocked though it may wait")?;
                if head.is_some_and(|head| head != head_of(&entry)) {
                    return Err(format!("{key:?} has another head than {entry:?}"));
                }
                if !contained {
                    return Err("readable, but not contained".into());
                }
            }
            Found::Nothing => {
                let promised = expected.required && expected.acknowledged.is_some() && contained;
                if promised && !self.damaged {
                    return Err(format!("{key:?} was promised: {expected:?}"));
                }
            }
        }
        Ok(())
    }

    fn check_all(&mut self) -> Checked {
        let keys: Vec<Vec<u8>> = self.expected.keys().cloned().collect();
        keys.iter().try_for_each(|key| self.check_key(key))?;
        self.check_budget()
    }

    /// A power cut may bring back files whose removal was not durable. From there on the pool only shrinks until
    /// it is back in its budget, and it never exceeds it again.
    fn check_budget(&mut self) -> Checked {
        let peak = self.disk.take_bytes_peak();
        if peak > self.bytes_allowed {
            return Err(format!(
                "{peak} bytes exceed the allowed {}",
                self.bytes_allowed
            ));
        }
        self.bytes_allowed = self.disk.bytes().clamp(BUDGET, self.bytes_allowed);
        Ok(())
    }

    fn remove(&mut self) {
        let key = self.key();
        if self.pool.remove(&key).is_ok() {
            // The versions before are gone for good; with one exception: writes that failed with
            // the disk may still be there, but those were never visible and are not counted here.
            let expected = self.expected.entry(key).or_default();
            *expected = Expected::default();
        } else if let Some(expected) = self.expected.get_mut(&key) {
            expected.required = false;
        }
    }

    /// Ends this life and begins the next. What the pool contained has to be there again where that was promised.
    fn restart(&mut self, power_cut: bool) -> Checked {
        let promised = !self.damaged && (!power_cut || self.durability == Durability::Synced);
        let mut contained = BTreeMap::new();
        for key in self.expected.keys() {
            if let Found::Entry(entry, _) = read(&self.pool, key)? {
                contained.insert(key.clone(), entry.writer);
            }
        }
        self.check_budget()?;
        if power_cut {
            self.disk.power_cut();
            self.bytes_allowed = self.disk.bytes().max(BUDGET);
        } else {
            self.disk.kill();
        }
        if self.chance.below(4) == 0 {
            // Without a checkpoint the log has to tell it all.
            let _ = self.disk.remove(Path::new("pool/index.ckpt"));
        }
        let seed = self.chance.below(u64::MAX);
        self.pool = open(&self.disk, &self.now_ms, self.durability, seed, self.bug)?;
        for (key, expected) in &mut self.expected {
            if let Some(version) = contained.get(key).filter(|_| promised) {
                match read(&self.pool, key)? {
                    Found::Entry(entry, _) if entry.writer == *version => {}
                    _ => return Err(format!("{key:?} is not {version} again: {expected:?}")),
                }
            } else if power_cut && self.durability == Durability::Written {
                // An older version may have come back, or none.
                expected.required = false;
            }
        }
        self.check_all()
    }

    /// One step of a random history.
    fn step(&mut self) -> Checked {
        self.check_budget()?;
        match self.chance.below(100) {
            0..=39 => self.put(false, false),
            40..=49 => self.put(true, false),
            50..=56 => self.put(false, true),
            57..=60 => self.put(true, true),
            61..=63 => self.give_up(),
            64..=79 => {
                let key = self.key();
                self.check_key(&key)
            }
            80..=83 => {
                self.remove();
                Ok(())
            }
            84..=87 => {
                self.now_ms
                    .fetch_add(self.chance.below(10_000), Ordering::Relaxed);
                self.pool.do_chores();
                Ok(())
            }
            88..=89 => self.keep_a_lease(),
            // So many that writes have to break them.
            90 if self.chance.below(3) == 0 => {
                let keys: Vec<Vec<u8>> = self.expected.keys().cloned().collect();
                for key in keys {
                    self.lease(&key, Lease::Yielding)?;
                }
                Ok(())
            }
            90 => {
                let _ = self.pool.checkpoint();
                Ok(())
            }
            91 => {
                let verified = self.pool.verify(&mut |_, _| true);
                if verified.corrupt > 0 && !self.damaged {
                    return Err(format!("{verified:?} on a disk that damages nothing"));
                }
                Ok(())
            }
            92 => self.close_and_open(),
            93..=96 => self.restart(false),
            _ => self.restart(true),
        }
    }

    fn close_and_open(&mut self) -> Checked {
        let _ = self.pool.close();
        self.restart(false)
    }

    /// Leases a key, which tells the check of its entry.
    fn lease(&mut self, key: &[u8], lease: Lease) -> Result<bool, String> {
        let head = self.pool.head(key, Wait::Allowed);
        let head = head.map_err(|_| "blocked though it may wait")?;
        let leased = self.pool.lease(key, lease);
        if let Some(head) = &head {
            let now_ms = self.now_ms.load(Ordering::Relaxed);
            self.leases.push((now_ms, lease, head.size));
        }
        let expected = head.map(|head| head.check);
        if leased != expected && !self.damaged {
            return Err(format!("{key:?} is leased as {leased:?}, is {expected:?}"));
        }
        Ok(leased.is_some())
    }

    /// The leases that may last, with the bytes of their bodies.
    fn lasting_leases(&self) -> impl Iterator<Item = (Lease, u64)> {
        let since_ms = self.now_ms.load(Ordering::Relaxed) - 2 * LEASE_MS;
        let leases = self.leases.iter().rev();
        let lasting = leases.take_while(move |(at_ms, ..)| *at_ms > since_ms);
        lasting.map(|(_, lease, bytes)| (*lease, *bytes))
    }

    /// What is leased stays readable, however much is written; if the lease yields, as long as little is leased:
    /// so little that if each lease held back a segment of its own that would be less than an eighth of the pool.
    fn keep_a_lease(&mut self) -> Checked {
        let key = self.key();
        let yields = self.chance.below(2) == 0;
        let lease = if yields { Lease::Yielding } else { Lease::Firm };
        if !self.lease(&key, lease)? {
            return Ok(());
        }
        for number in 0..30 {
            let filler = format!("filler-{number}");
            self.put_key(filler.as_bytes(), 9000, false, true)?;
        }
        self.now_ms.fetch_add(LEASE_MS / 4, Ordering::Relaxed);
        let may_hold_back: u64 = self
            .lasting_leases()
            .map(|(_, bytes)| bytes + SEGMENT)
            .sum();
        // Not all of the budget may be in use.
        let must_hold = !yields || may_hold_back < BUDGET / 10;
        if !self.pool.contains(&key) && !self.damaged && must_hold {
            return Err(format!("{key:?} was leased, {lease:?}"));
        }
        self.check_key(&key)
    }
}

fn open(
    disk: &Arc<SimDisk>,
    now_ms: &Arc<AtomicU64>,
    durability: Durability,
    seed: u64,
    bug: Option<Bug>,
) -> Result<Pool, String> {
    let options = PoolOptions {
        durability,
        lease: Duration::from_millis(LEASE_MS),
        free_reserve_bytes: 0,
        clock: Clock::Manual(Arc::clone(now_ms)),
        seed: Some(seed),
        bug,
        ..PoolOptions::new(BUDGET)
    };
    let disk = Arc::clone(disk);
    Pool::open(disk, Path::new("pool"), options).map_err(|error| format!("does not open: {error}"))
}

fn head_of(entry: &Entry) -> EntryHead {
    EntryHead {
        metadata: entry.metadata.clone(),
        check: entry.check,
        writer: entry.writer,
        written_at_ms: entry.written_at_ms,
        size: entry.size,
    }
}

enum Found {
    Entry(Box<Entry>, Vec<u8>),
    Nothing,
}

/// Reads an entry to its end. A broken-off body is nothing; a clean end is the whole body.
fn read(pool: &Pool, key: &[u8]) -> Result<Found, String> {
    let found = pool
        .get(key, Wait::Never)
        .or_else(|_| pool.get(key, Wait::Allowed));
    let Some(mut entry) = found.map_err(|_| "blocked though it may wait")? else {
        return Ok(Found::Nothing);
    };
    let mut bytes = Vec::new();
    match &mut entry.body {
        Body::Whole(whole) => bytes.extend_from_slice(whole),
        Body::Stream(reader) => loop {
            match reader.next(Wait::Never) {
                Ok(Some(piece)) => bytes.extend_from_slice(&piece),
                Ok(None) => break,
                Err(ReadError::WouldBlock) => match reader.next(Wait::Allowed) {
                    Ok(Some(piece)) => bytes.extend_from_slice(&piece),
                    Ok(None) => break,
                    Err(_) => return Ok(Found::Nothing),
                },
                Err(ReadError::Lost) => return Ok(Found::Nothing),
            }
        },
    }
    if let Body::Stream(reader) = &mut entry.body {
        // The middle once more, as a client asks for that wants only the rest.
        let middle = bytes.len() / 2;
        reader.seek(middle as u64);
        if let Ok(Some(piece)) = reader.next(Wait::Allowed)
            && !bytes[middle..].starts_with(&piece)
        {
            return Err(format!("other bytes from {middle} on"));
        }
    }
    if bytes.len() as u64 != entry.size {
        return Err(format!(
            "a body of {} bytes ended cleanly after {}",
            entry.size,
            bytes.len()
        ));
    }
    Ok(Found::Entry(Box::new(entry), bytes))
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
