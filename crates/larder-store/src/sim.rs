//! A disk in memory that behaves as badly as real ones may, on command and from a seed.
//!
//! What was written is visible at once and durable only after a sync; names are durable only after
//! their directory is synced. [`SimDisk::power_cut`] keeps of everything unsynced a random part, in
//! random order, torn at sectors. [`SimDisk::kill`] keeps everything, as the death of a process
//! does. Either way the handles of the old process are dead, and the disk serves the next one.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{Disk, File, Wait};
use crate::pool::splitmix;

/// What a torn write is torn at.
const SECTOR_BYTES: usize = 512;

/// How often something goes wrong, in parts per million of operations.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// Reads that fail with EIO.
    pub read_error: u32,
    /// Writes, allocations and cuts that fail with EIO, after doing a part of their work.
    pub write_error: u32,
    /// Syncs that fail and leave what they should have made durable never to become so.
    pub sync_error: u32,
    /// Reads that return less than asked for.
    pub short_read: u32,
    /// Reads with [`Wait::Never`] that would block.
    pub would_block: u32,
}

/// The simulated disk.
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    random: u64,
    capacity: u64,
    faults: Faults,
    /// Changing operations so far, over all lives.
    operations: u64,
    /// The operation in the middle of which the power goes.
    cut_at: Option<u64>,
    dead: bool,
    /// Handles of an earlier life fail.
    life: u64,
    next_file: u64,
    files: HashMap<u64, Content>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    unsynced_names: Vec<NameChange>,
    bytes_peak: u64,
}

#[derive(Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    handles: u32,
}

#[derive(Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Clone)]
enum NameChange {
    Link(PathBuf, u64),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => {
                let end = offset + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*offset..end].copy_from_slice(bytes);
            }
            Self::SetLen(bytes) => content.resize(*bytes, 0),
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            Self::Link(path, file) => drop(names.insert(path.clone(), *file)),
            Self::Unlink(path) => drop(names.remove(path)),
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }
}

fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

impl State {
    fn random(&mut self, below: u64) -> u64 {
        self.random = splitmix(self.random);
        self.random % below.max(1)
    }

    fn happens(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.random(1_000_000) < u64::from(per_million)
    }

    fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.now.len() as u64).sum()
    }

    /// Counts a changing operation. `Ok(true)`: the power goes in the middle of it.
    fn begin(&mut self, life: u64) -> io::Result<bool> {
        if self.dead || life != self.life {
            return Err(power_is_off());
        }
        self.operations += 1;
        self.dead = self.cut_at == Some(self.operations);
        Ok(self.dead)
    }

    fn change(&mut self, file: u64, change: Change) -> io::Result<()> {
        let used = self.bytes();
        let content = self.files.get_mut(&file).expect("open files exist");
        let end = match &change {
            Change::Write { offset, bytes } => offset + bytes.len(),
            Change::SetLen(bytes) => *bytes,
        };
        let grown = end.saturating_sub(content.now.len()) as u64;
        if used + grown > self.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        change.apply(&mut content.now);
        content.unsynced.push(change);
        self.bytes_peak = self.bytes_peak.max(used + grown);
        Ok(())
    }

    fn rename(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
        self.forget_unnamed();
    }

    fn forget_unnamed(&mut self) {
        let named: Vec<u64> = self
            .names
            .values()
            .chain(self.durable_names.values())
            .copied()
            .collect();
        let current: Vec<u64> = self.names.values().copied().collect();
        for (id, file) in &mut self.files {
            // Unlinked and closed: the space is free, even if the unlink is not durable.
            if file.handles == 0 && !current.contains(id) {
                file.now = Vec::new();
            }
        }
        self.files
            .retain(|id, file| file.handles > 0 || named.contains(id));
    }

    /// The part of an interrupted or unsynced change that the disk keeps.
    fn torn(&mut self, change: &Change) -> Vec<Change> {
        match change {
            Change::SetLen(_) => vec![change.clone()],
            Change::Write { offset, bytes } => {
                let mut kept = Vec::new();
                let mut at = 0;
                while at < bytes.len() {
                    let sector_end = (offset + at) / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES;
                    let end = (sector_end - offset).min(bytes.len());
                    if self.random(2) == 0 {
                        kept.push(Change::Write {
                            offset: offset + at,
                            bytes: bytes[at..end].to_vec(),
                        });
                    }
                    at = end;
                }
                kept
            }
        }
    }

    /// What is left of a file after a power cut.
    fn after_power_cut(&mut self, mut content: Content) -> Vec<u8> {
        let fate = self.random(4);
        if fate == 0 {
            return content.durable;
        }
        if fate == 1 {
            return content.now;
        }
        let mut changes = std::mem::take(&mut content.unsynced);
        if fate == 2 {
            for last in (1..changes.len()).rev() {
                let other = self.random(last as u64 + 1) as usize;
                changes.swap(last, other);
            }
        }
        for change in changes {
            match self.random(3) {
                0 => {}
                1 => change.apply(&mut content.durable),
                _ => self
                    .torn(&change)
                    .iter()
                    .for_each(|part| part.apply(&mut content.durable)),
            }
        }
        content.durable
    }
}

impl SimDisk {
    /// An empty disk of `capacity` bytes whose behaviour follows from `seed`.
    pub fn new(seed: u64, capacity: u64) -> Arc<Self> {
        let state = State {
            random: splitmix(seed),
            capacity,
            faults: Faults::default(),
            operations: 0,
            cut_at: None,
            dead: false,
            life: 0,
            next_file: 0,
            files: HashMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            bytes_peak: 0,
        };
        Arc::new(Self {
            state: Arc::new(Mutex::new(state)),
        })
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Changes the disk's size.
    pub fn set_capacity(&self, capacity: u64) {
        self.state.lock().capacity = capacity;
    }

    /// Changing operations so far.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// The power will go in the middle of this operation. What the operation does may be done, in part or not at all.
    pub fn cut_power_at(&self, operation: u64) {
        self.state.lock().cut_at = Some(operation);
    }

    /// Whether the power has gone.
    pub fn is_dead(&self) -> bool {
        self.state.lock().dead
    }

    /// Bytes of all files that have a name or a handle.
    pub fn bytes(&self) -> u64 {
        self.state.lock().bytes()
    }

    /// The most [`SimDisk::bytes`] there have been since the last call.
    pub fn take_bytes_peak(&self) -> u64 {
        let mut state = self.state.lock();
        let now = state.bytes();
        std::mem::replace(&mut state.bytes_peak, now)
    }

    /// The power goes and comes back: of what was not synced, chance decides what is left.
    pub fn power_cut(&self) {
        let mut state = self.state.lock();
        let changes = std::mem::take(&mut state.unsynced_names);
        let kept = state.random(changes.len() as u64 + 1) as usize;
        let mut names = std::mem::take(&mut state.durable_names);
        changes[..kept]
            .iter()
            .for_each(|change| change.apply(&mut names));
        let mut files = std::mem::take(&mut state.files);
        for file in names.values() {
            // A name whose file never got on disk is an empty file.
            let content = files.remove(file).unwrap_or_default();
            let durable = state.after_power_cut(content);
            let content = Content {
                now: durable.clone(),
                durable,
                ..Content::default()
            };
            state.files.insert(*file, content);
        }
        state.names.clone_from(&names);
        state.durable_names = names;
        state.start_next_life();
    }

    /// The process dies and another starts: all that was written is there.
    pub fn kill(&self) {
        let mut state = self.state.lock();
        state.files.values_mut().for_each(|file| file.handles = 0);
        state.forget_unnamed();
        state.start_next_life();
    }

    /// Flips one bit of a random file. Returns whether there was one to flip.
    pub fn flip_bit(&self) -> bool {
        let mut state = self.state.lock();
        let files: Vec<u64> = state.names.values().copied().collect();
        if files.is_empty() {
            return false;
        }
        let file = files[state.random(files.len() as u64) as usize];
        let bytes = state.files[&file].now.len() as u64;
        if bytes == 0 {
            return false;
        }
        let at = state.random(bytes) as usize;
        let mask = 1 << state.random(8);
        let content = state.files.get_mut(&file).expect("named files exist");
        content.now[at] ^= mask;
        if let Some(byte) = content.durable.get_mut(at) {
            *byte ^= mask;
        }
        true
    }

    /// Cuts a random file short, or removes it.
    pub fn damage_file(&self) {
        let mut state = self.state.lock();
        let names: Vec<PathBuf> = state.names.keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let name = names[state.random(names.len() as u64) as usize].clone();
        let file = state.names[&name];
        if state.random(2) == 0 {
            state.names.remove(&name);
            state.durable_names.remove(&name);
        } else {
            let bytes = state.files[&file].now.len() as u64;
            let left = state.random(bytes + 1) as usize;
            let content = state.files.get_mut(&file).expect("named files exist");
            content.now.truncate(left);
            content.durable.truncate(left);
        }
    }
}

impl State {
    fn start_next_life(&mut self) {
        self.life += 1;
        self.bytes_peak = self.bytes();
        self.dead = false;
        self.cut_at = None;
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside
            .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        let life = state.life;
        if state.begin(life)? {
            return Err(power_is_off());
        }
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.next_file += 1;
        let id = state.next_file;
        state.files.insert(
            id,
            Content {
                handles: 1,
                ..Content::default()
            },
        );
        state.rename(NameChange::Link(path.into(), id));
        Ok(Arc::new(SimFile {
            state: Arc::clone(&self.state),
            id,
            life,
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let mut state = self.state.lock();
        let id = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        state.files.get_mut(&id).expect("named files exist").handles += 1;
        Ok(Arc::new(SimFile {
            state: Arc::clone(&self.state),
            id,
            life: state.life,
        }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.names.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let life = state.life;
        state.begin(life)?;
        state.rename(NameChange::Unlink(path.into()));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let life = state.life;
        state.begin(life)?;
        state.rename(NameChange::Rename(from.into(), to.into()));
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let life = state.life;
        if state.begin(life)? {
            return Err(power_is_off());
        }
        state.unsynced_names.clear();
        state.durable_names = state.names.clone();
        state.forget_unnamed();
        Ok(())
    }

    fn free_bytes(&self, _dir: &Path) -> io::Result<u64> {
        let state = self.state.lock();
        Ok(state.capacity.saturating_sub(state.bytes()))
    }
}

struct SimFile {
    state: Arc<Mutex<State>>,
    id: u64,
    life: u64,
}

impl SimFile {
    /// Does a change, or the part of it that a fault or the power cut leaves.
    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.state.lock();
        let cut = state.begin(self.life)?;
        let per_million = state.faults.write_error;
        if cut || state.happens(per_million) {
            for part in state.torn(&change) {
                let _ = state.change(self.id, part);
            }
            return Err(if cut {
                power_is_off()
            } else {
                io::Error::from_raw_os_error(5)
            });
        }
        state.change(self.id, change)
    }
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64, wait: Wait) -> io::Result<usize> {
        let mut state = self.state.lock();
        if state.dead || state.life != self.life {
            return Err(power_is_off());
        }
        let faults = state.faults;
        if wait == Wait::Never && state.happens(faults.would_block) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if state.happens(faults.read_error) {
            return Err(io::Error::from_raw_os_error(5));
        }
        let mut wanted = buffer.len();
        if wanted > 1 && state.happens(faults.short_read) {
            wanted = 1 + state.random(wanted as u64 - 1) as usize;
        }
        let content = &state.files[&self.id].now;
        let start = (offset as usize).min(content.len());
        let end = (start + wanted).min(content.len());
        buffer[..end - start].copy_from_slice(&content[start..end]);
        Ok(end - start)
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        self.change(Change::Write {
            offset: offset as usize,
            bytes: parts.concat(),
        })
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        let bytes = bytes.max(self.bytes()?);
        self.change(Change::SetLen(bytes as usize))
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.change(Change::SetLen(bytes as usize))
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let state = self.state.lock();
        let content = &state.files[&self.id].now;
        let rest = content.get(offset as usize..).unwrap_or_default();
        Ok(rest
            .iter()
            .position(|byte| *byte != 0)
            .map(|at| offset + at as u64))
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.begin(self.life)? {
            return Err(power_is_off());
        }
        let per_million = state.faults.sync_error;
        let fails = state.happens(per_million);
        let content = state.files.get_mut(&self.id).expect("open files exist");
        let unsynced = std::mem::take(&mut content.unsynced);
        if fails {
            return Err(io::Error::from_raw_os_error(5));
        }
        for change in &unsynced {
            change.apply(&mut content.durable);
        }
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        let state = self.state.lock();
        if state.life != self.life {
            return Err(power_is_off());
        }
        Ok(state.files[&self.id].now.len() as u64)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.life == self.life
            && let Some(content) = state.files.get_mut(&self.id)
        {
            content.handles -= 1;
            state.forget_unnamed();
        }
    }
}
