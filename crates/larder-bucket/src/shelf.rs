//! The packs this node knows, and their indexes on local disk.
//!
//! `index/NUMBER` is the index of a pack as it is in the bucket, MAC included, and it is believed as little: what does not
//! verify is fetched again. So a restart reads no bucket, and the files may be deleted at any time. The indexes used last
//! are kept in memory, parsed.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use crate::catalogue::NewPack;
use crate::name::MacKey;
use crate::pack::PackIndex;

/// Parsed indexes in memory: a build reads from few packs at a time.
const PARSED_COUNT_MAX: usize = 256;
/// And their bytes.
const PARSED_BYTES_MAX: usize = 32 << 20;

/// A pack that is in the catalogue.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) number: u32,
    pub(crate) pack: NewPack,
}

/// Loads of indexes that do not wait for each other, at least.
const TURN_COUNT: usize = 16;

#[derive(Debug, Default)]
struct Parsed {
    indexes: HashMap<u32, (Arc<PackIndex>, u64)>,
    bytes: usize,
    /// Counts uses; the least is the oldest.
    tick: u64,
}

#[derive(Debug, Default)]
struct Packs {
    known: HashMap<u32, Arc<Known>>,
    /// Those of them whose object is not in the bucket or is not authentic. They stay known until their rows go.
    lost: HashSet<u32>,
}

/// The known packs.
#[derive(Debug)]
pub(crate) struct Shelf {
    dir: PathBuf,
    packs: RwLock<Packs>,
    parsed: Mutex<Parsed>,
    turns: [tokio::sync::Mutex<()>; TURN_COUNT],
}

impl Shelf {
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let dir = dir.join("index");
        fs::create_dir_all(&dir)?;
        Ok(Self {
            dir,
            packs: RwLock::default(),
            parsed: Mutex::default(),
            turns: Default::default(),
        })
    }

    /// A pack, if its entries can be had.
    pub(crate) fn get(&self, number: u32) -> Option<Arc<Known>> {
        let packs = self.packs.read();
        let known = packs.known.get(&number)?;
        (!packs.lost.contains(&number)).then(|| known.clone())
    }

    /// When a pack was written, unix milliseconds, if its entries can be had.
    pub(crate) fn created_at_ms(&self, number: u32) -> Option<u64> {
        let packs = self.packs.read();
        let known = packs.known.get(&number)?;
        let is_lost = !packs.lost.is_empty() && packs.lost.contains(&number);
        (!is_lost).then_some(known.pack.created_at_ms)
    }

    /// Whether the pack has a row that this node has seen.
    pub(crate) fn has(&self, number: u32) -> bool {
        self.packs.read().known.contains_key(&number)
    }

    pub(crate) fn add(&self, known: Arc<Known>) {
        self.packs.write().known.insert(known.number, known);
    }

    /// All packs, the lost ones included.
    pub(crate) fn all(&self) -> Vec<Arc<Known>> {
        self.packs.read().known.values().cloned().collect()
    }

    /// Notes that a pack's entries cannot be had. Blocks.
    pub(crate) fn lose(&self, known: &Arc<Known>) {
        let mut packs = self.packs.write();
        packs.known.insert(known.number, known.clone());
        packs.lost.insert(known.number);
        drop(packs);
        self.remove_index(known.number);
    }

    /// Forgets packs and their files. Blocks.
    pub(crate) fn remove(&self, numbers: &HashSet<u32>) {
        let mut packs = self.packs.write();
        packs.known.retain(|number, _| !numbers.contains(number));
        packs.lost.retain(|number| !numbers.contains(number));
        drop(packs);
        for number in numbers {
            self.remove_index(*number);
        }
    }

    fn remove_index(&self, number: u32) {
        let mut parsed = self.parsed.lock();
        if let Some((index, _)) = parsed.indexes.remove(&number) {
            parsed.bytes -= index.memory_bytes();
        }
        drop(parsed);
        let _ = fs::remove_file(self.path(number));
    }

    /// Deletes the files of packs that nobody knows. Blocks.
    pub(crate) fn clean(&self) -> io::Result<()> {
        for file in fs::read_dir(&self.dir)? {
            let file = file?;
            let number = file.file_name().to_str().and_then(|name| name.parse().ok());
            if number.is_none_or(|number| !self.has(number)) {
                fs::remove_file(file.path())?;
            }
        }
        Ok(())
    }

    /// The index, if it is in memory.
    pub(crate) fn parsed(&self, number: u32) -> Option<Arc<PackIndex>> {
        let mut parsed = self.parsed.lock();
        parsed.tick += 1;
        let tick = parsed.tick;
        let (index, used) = parsed.indexes.get_mut(&number)?;
        *used = tick;
        Some(index.clone())
    }

    /// Whose holder may load the pack's index.
    pub(crate) fn turn(&self, number: u32) -> &tokio::sync::Mutex<()> {
        &self.turns[number as usize % TURN_COUNT]
    }

    /// Keeps an index in memory in place of those used longest ago.
    pub(crate) fn keep_parsed(&self, number: u32, index: Arc<PackIndex>) {
        let mut parsed = self.parsed.lock();
        parsed.tick += 1;
        let tick = parsed.tick;
        parsed.bytes += index.memory_bytes();
        if let Some((old, _)) = parsed.indexes.insert(number, (index, tick)) {
            parsed.bytes -= old.memory_bytes();
        }
        while parsed.indexes.len() > PARSED_COUNT_MAX || parsed.bytes > PARSED_BYTES_MAX {
            let oldest = parsed.indexes.iter().min_by_key(|(_, (_, used))| *used);
            let Some(oldest) = oldest.map(|(number, _)| *number) else {
                break;
            };
            if let Some((old, _)) = parsed.indexes.remove(&oldest) {
                parsed.bytes -= old.memory_bytes();
            }
        }
    }

    /// The index from its file, if that is there and verifies. Blocks.
    pub(crate) fn load(&self, key: &MacKey, number: u32, pack: &NewPack) -> Option<PackIndex> {
        let bytes = fs::read(self.path(number)).ok()?;
        PackIndex::parse(key, &pack.name, pack.index_offset, bytes.into()).ok()
    }

    /// Writes an index's file. Blocks.
    pub(crate) fn save(&self, number: u32, index: &Bytes) -> io::Result<()> {
        let unfinished = self.dir.join(format!("{number}.new"));
        fs::write(&unfinished, index)?;
        fs::rename(unfinished, self.path(number))
    }

    fn path(&self, number: u32) -> PathBuf {
        self.dir.join(number.to_string())
    }
}
