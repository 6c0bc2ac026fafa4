//! A pool on a simulated disk beside a map that knows what may be in it.
//!
//! `World` does an operation to both and says where they differ. It runs no histories and asserts nothing: every
//! difference is an `Err` that says what is wrong, so that a history can add where it was. `damaged` says that the disk
//! was made to lie: from then on only wrong bytes count, and nothing has to be there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder_store::sim::SimDisk;
use larder_store::{
    Begin, Body, Bug, Clock, Disk, Durability, Entry, EntryHead, Lease, NewRecord, Pool,
    PoolOptions, Put, ReadError, RecordHead, Standing, Wait,
};

const BUDGET: u64 = 1 << 20;
const SEGMENT: u64 = BUDGET / 64;
pub(crate) const DISK: u64 = 4 << 20;
const LEASE_MS: u64 = 60_000;

/// SplitMix64, so that a history depends on nothing but its seed.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
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
pub(crate) struct Expected {
    /// The version that was acknowledged last, with its length, unless it was removed.
    pub(crate) acknowledged: Option<(u64, usize)>,
    /// Older versions and versions whose write was never acknowledged or refused.
    possible: Vec<(u64, usize)>,
    /// Whether `acknowledged` has to be there.
    pub(crate) required: bool,
}

pub(crate) struct World {
    pub(crate) disk: Arc<SimDisk>,
    pub(crate) pool: Pool,
    pub(crate) now_ms: Arc<AtomicU64>,
    pub(crate) chance: Chance,
    pub(crate) durability: Durability,
    bug: Option<Bug>,
    pub(crate) expected: BTreeMap<Vec<u8>, Expected>,
    pub(crate) versions: u64,
    bytes_allowed: u64,
    /// Bits were flipped or files damaged: presence is no longer promised.
    pub(crate) damaged: bool,
    /// Versions that were held and not released since, with their length; not those of which neither is known.
    pub(crate) held: BTreeMap<u64, usize>,
    /// When which leases were taken, Unix milliseconds, and of how many bytes.
    leases: Vec<(u64, Lease, u64)>,
}

pub(crate) type Checked = Result<(), String>;

impl World {
    pub(crate) fn new(seed: u64, durability: Durability, bug: Option<Bug>) -> Self {
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
            held: BTreeMap::new(),
            leases: Vec::new(),
        }
    }

    pub(crate) fn key(&mut self) -> Vec<u8> {
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

    pub(crate) fn put(&mut self, streamed: bool, replace: bool) -> Checked {
        let (key, bytes) = (self.key(), self.size());
        self.put_key(&key, bytes, streamed, replace)
    }

    pub(crate) fn put_key(
        &mut self,
        key: &[u8],
        bytes: usize,
        streamed: bool,
        replace: bool,
    ) -> Checked {
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
    pub(crate) fn give_up(&mut self) -> Checked {
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

    pub(crate) fn check_key(&mut self, key: &[u8]) -> Checked {
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

    pub(crate) fn check_all(&mut self) -> Checked {
        let keys: Vec<Vec<u8>> = self.expected.keys().cloned().collect();
        keys.iter().try_for_each(|key| self.check_key(key))?;
        self.check_held()?;
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

    /// Holds what a key has. From then on it is not read as that key's entry; if the disk failed it may be.
    pub(crate) fn hold(&mut self, key: &[u8]) -> Checked {
        let before = self.pool.head(key, Wait::Allowed);
        let before = before.map_err(|_| "blocked though it may wait")?;
        let choose = &mut |head: &RecordHead<'_>| head.key == key;
        match self.pool.hold(false, choose, &mut |_, _| true) {
            Ok(held) => {
                let expected = before.as_ref().map_or(0, |_| 1);
                if held.entries != expected && !self.damaged {
                    return Err(format!("{held:?} of {key:?}, which was {before:?}"));
                }
                if self.pool.contains(key) {
                    return Err(format!("{key:?} is there although it is held"));
                }
                self.expected.insert(key.to_vec(), Expected::default());
                let body_bytes = |head: &EntryHead| (head.writer, head.size as usize);
                self.held.extend(before.iter().map(body_bytes));
            }
            Err(_) => {
                if let Some(expected) = self.expected.get_mut(key) {
                    expected.required = false;
                }
            }
        }
        Ok(())
    }

    /// Releases what is held of a key: the newest of it, if the key has no entry.
    pub(crate) fn release(&mut self, key: &[u8]) -> Checked {
        let held = listed(&self.pool);
        let of_key = held.into_iter().filter(|(_, (of, _))| of == key);
        let of_key: Vec<(u64, u64)> = of_key
            .map(|(version, (_, bytes))| (version, bytes))
            .collect();
        let is_free = !self.pool.contains(key);
        let choose = &mut |head: &RecordHead<'_>| head.key == key;
        let released = self.pool.release(false, choose, &mut |_, _| true);
        let expected = self.expected.entry(key.to_vec()).or_default();
        match released {
            Ok(released) => {
                let entries = u64::from(is_free && !of_key.is_empty());
                let refused = of_key.len() as u64 - entries;
                if (released.entries, released.refused) != (entries, refused) && !self.damaged {
                    return Err(format!("{released:?} of {of_key:?}, {is_free}"));
                }
                if let Some((version, bytes)) = of_key.last().filter(|_| released.entries == 1) {
                    self.held.remove(version);
                    expected.acknowledged = Some((*version, *bytes as usize));
                    expected.required = true;
                    if !self.pool.contains(key) {
                        return Err(format!("{key:?} was released and is not there"));
                    }
                }
            }
            Err(_) => {
                for (version, bytes) in of_key {
                    self.held.remove(&version);
                    expected.possible.push((version, bytes as usize));
                }
            }
        }
        Ok(())
    }

    /// What is held is whole, and nobody's entry.
    fn check_held(&mut self) -> Checked {
        for (version, (key, bytes)) in listed(&self.pool) {
            let mut sequence = None;
            let find = &mut |head: &RecordHead<'_>| {
                if head.standing == Standing::Held && head.writer == version {
                    sequence = Some(head.sequence);
                }
            };
            self.pool.scan(find, &mut |_, _| true);
            let Some(entry) = sequence.and_then(|sequence| self.pool.held_entry(&key, sequence))
            else {
                if self.damaged {
                    continue;
                }
                return Err(format!("{version} is held and cannot be read"));
            };
            match whole(entry)? {
                Found::Entry(entry, bytes_read) => {
                    if entry.writer != version || bytes_read != body(version, bytes as usize) {
                        return Err(format!("{version} is held as {entry:?}"));
                    }
                }
                Found::Nothing if self.damaged => {}
                Found::Nothing => return Err(format!("{version} is held and broke off")),
            }
        }
        Ok(())
    }

    /// Ends this life and begins the next. What the pool contained has to be there again where that was promised.
    pub(crate) fn restart(&mut self, power_cut: bool) -> Checked {
        let promised = !self.damaged && (!power_cut || self.durability == Durability::Synced);
        let mut contained = BTreeMap::new();
        for key in self.expected.keys() {
            if let Found::Entry(entry, _) = read(&self.pool, key)? {
                contained.insert(key.clone(), entry.writer);
            }
        }
        let held: BTreeSet<u64> = listed(&self.pool).into_keys().collect();
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
        let held_again = listed(&self.pool);
        for version in held
            .iter()
            .filter(|version| self.held.contains_key(version))
        {
            if !held_again.contains_key(version) && !self.damaged {
                return Err(format!("{version} is not held any more"));
            }
        }
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
    pub(crate) fn step(&mut self) -> Checked {
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
            80..=81 => {
                self.remove();
                Ok(())
            }
            82 => {
                let key = self.key();
                self.hold(&key)
            }
            83 => {
                let key = self.key();
                self.release(&key)
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
    pub(crate) fn lease(&mut self, key: &[u8], lease: Lease) -> Result<bool, String> {
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

pub(crate) fn open(
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

/// What is held: versions, with their keys and the bytes of their bodies.
pub(crate) fn listed(pool: &Pool) -> BTreeMap<u64, (Vec<u8>, u64)> {
    let mut held = BTreeMap::new();
    let list = &mut |head: &RecordHead<'_>| {
        if head.standing == Standing::Held {
            held.insert(head.writer, (head.key.to_vec(), head.size));
        }
    };
    pool.scan(list, &mut |_, _| true);
    held
}

/// Reads an entry to its end. A broken-off body is nothing; a clean end is the whole body.
fn read(pool: &Pool, key: &[u8]) -> Result<Found, String> {
    let found = pool
        .get(key, Wait::Never)
        .or_else(|_| pool.get(key, Wait::Allowed));
    match found.map_err(|_| "blocked though it may wait")? {
        Some(entry) => whole(entry),
        None => Ok(Found::Nothing),
    }
}

fn whole(mut entry: Entry) -> Result<Found, String> {
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
