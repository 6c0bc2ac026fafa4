//! A pool: what its parts share, and the public face.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use crate::clock::Clock;
use crate::disk::Disk;
use crate::format::{Place, Slot};
use crate::index::Index;
use crate::lease::Lease;
use crate::recover;
use crate::segment::Segment;
use crate::space::{Space, SpaceClaim};
use crate::sync::GroupSync;
use crate::upkeep::Chores;
use crate::write::ActiveSegment;

/// The least budget of a pool.
pub const POOL_BUDGET_BYTES_MIN: u64 = 1 << 20;
/// A segment is this part of the budget, so that reclaim takes small steps.
const SEGMENTS_PER_BUDGET: u64 = 64;
/// A segment never gets larger than this: the work of reclaiming one has to end.
const SEGMENT_BYTES_MAX: u64 = 512 << 20;

/// What an acknowledged write survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The death of the process at once, a power cut after a few seconds.
    Written,
    /// A power cut at once: synced, together with other writes, before it is acknowledged.
    Synced,
}

/// How a pool is to behave.
#[derive(Clone)]
pub struct PoolOptions {
    /// The most bytes the pool's files may take up; at least [`POOL_BUDGET_BYTES_MIN`].
    pub budget_bytes: u64,
    /// What an acknowledged write survives.
    pub durability: Durability,
    /// How long an entry that was reported present by [`Pool::lease`] stays readable, as firmly as [`Lease`] says.
    pub lease: Duration,
    /// The pool evicts rather than leave less than this free on its disk.
    pub free_reserve_bytes: u64,
    /// More bytes to leave free, asked for whenever space is claimed: what other pools on the disk have
    /// been promised and this one must not take.
    pub reserved_for_others: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Where the time comes from.
    pub clock: Clock,
    /// Told of every event, from whatever thread it happens on. Must not call back into the pool.
    pub observer: Arc<dyn Fn(&Event) + Send + Sync>,
    /// A seed for hash keys and salts; `None` takes them from the operating system, as any pool must that
    /// strangers can reach.
    pub seed: Option<u64>,
    /// A bug to inject.
    #[cfg(feature = "sim")]
    pub bug: Option<Bug>,
}

impl PoolOptions {
    /// A pool of this budget, with the usual choices for everything else: written, not synced; leases of an
    /// hour; a reserve of 1 GiB of free disk; the system's clock and random numbers; nobody observing.
    pub fn new(budget_bytes: u64) -> Self {
        Self {
            budget_bytes,
            durability: Durability::Written,
            lease: Duration::from_hours(1),
            free_reserve_bytes: 1 << 30,
            reserved_for_others: Arc::new(|| 0),
            clock: Clock::System,
            observer: Arc::new(|_| {}),
            seed: None,
            #[cfg(feature = "sim")]
            bug: None,
        }
    }
}

/// Something an operator would want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The index is loaded and the pool serves.
    Loaded {
        /// Entries there are.
        entries: u64,
        /// Entries that a checkpoint knew.
        from_checkpoint: u64,
        /// Records read from the log because no checkpoint covered them.
        scanned: u64,
        /// How long it took.
        took: Duration,
    },
    /// Stored bytes failed verification; the entry is a miss from now on.
    Corrupt {
        /// The segment's id.
        segment: u32,
        /// Where the record starts, in bytes.
        offset: u64,
    },
    /// A segment's space was reclaimed.
    Reclaimed {
        /// The segment's id.
        segment: u32,
        /// Bytes of disk it took up.
        bytes: u64,
        /// Entries that went with it.
        evicted: u64,
        /// Entries that were used and therefore copied.
        carried: u64,
    },
    /// A disk operation failed.
    DiskFailed {
        /// What was being done.
        operation: &'static str,
        /// What the operating system said.
        message: String,
    },
    /// A write was refused: all that is left is firmly leased or being written, or the disk is full.
    NoRoom {
        /// Bytes the write needed.
        bytes: u64,
    },
    /// The index was saved.
    Checkpointed {
        /// Entries in it.
        entries: u64,
        /// How long it took.
        took: Duration,
    },
}

/// Why a pool or data directory cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process owns the directory.
    #[error("{path} is in use by another process ({holder})")]
    InUse {
        /// The directory.
        path: PathBuf,
        /// What the lock file says of the owner.
        holder: String,
    },
    /// The directory was written by another version.
    #[error("{path} has format {found}; this version reads format {supported}")]
    Format {
        /// The directory or file.
        path: PathBuf,
        /// The format it has.
        found: u32,
        /// The format this version reads.
        supported: u32,
    },
    /// The budget is too small.
    #[error("a budget of {budget} bytes is less than the least possible, {least} bytes")]
    Budget {
        /// The budget asked for.
        budget: u64,
        /// [`POOL_BUDGET_BYTES_MIN`].
        least: u64,
    },
    /// The operating system refused.
    #[error("{context}")]
    Io {
        /// What was being done to what.
        context: String,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

/// Why a write was not stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Larger than the pool could ever hold.
    #[error("larger than the pool can hold, which is {limit} bytes")]
    TooLarge {
        /// The most bytes of a body.
        limit: u64,
    },
    /// All space is leased, being written or being read, or the disk is full.
    #[error("no room: what could be evicted is leased or in use")]
    NoRoom,
    /// More or fewer bytes came than were declared.
    #[error("the body has {received} bytes, {declared} were declared")]
    SizeMismatch {
        /// Bytes declared.
        declared: u64,
        /// Bytes received, at least.
        received: u64,
    },
    /// Key or metadata are longer than the format allows.
    #[error("the key or the metadata are too long")]
    NamesTooLong,
    /// So much cannot be done at once.
    #[error("more than {limit} entries at once: select fewer of them")]
    TooMany {
        /// The most entries.
        limit: u64,
    },
    /// The pool has been closed.
    #[error("the pool is closed")]
    Closed,
    /// The disk failed.
    #[error("the disk failed")]
    Io(#[from] io::Error),
}

/// A pool's figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// The most bytes the files may take up.
    pub budget_bytes: u64,
    /// Bytes the files take up.
    pub used_bytes: u64,
    /// Entries there are, those held among them.
    pub entries: u64,
    /// Segment files there are.
    pub segments: u64,
    /// Bytes of records written since the pool was opened, without those carried.
    pub written_bytes: u64,
    /// Bytes of records copied by reclaim since the pool was opened.
    pub carried_bytes: u64,
    /// Entries evicted since the pool was opened.
    pub evicted_entries: u64,
    /// Entries found corrupt since the pool was opened.
    pub corrupt_entries: u64,
    /// Writes refused for want of room since the pool was opened.
    pub refused_writes: u64,
    /// When the oldest segment was created, Unix milliseconds; 0 if there is none.
    pub oldest_ms: u64,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) written_bytes: AtomicU64,
    pub(crate) written_records: AtomicU64,
    pub(crate) carried_bytes: AtomicU64,
    pub(crate) evicted_entries: AtomicU64,
    pub(crate) corrupt_entries: AtomicU64,
    pub(crate) refused_writes: AtomicU64,
}

/// Bugs that a test of the tests injects, to see that the simulated disk finds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A write is acknowledged as [`Durability::Synced`] before it is synced.
    AcknowledgeUnsynced,
    /// Blocks are handed out without a look at their checksums.
    SkipBlockChecksums,
    /// Reclaim removes a segment before the copies of its entries are durable.
    ReclaimBeforeSync,
    /// A purged record is taken out of the index only.
    ForgetToBury,
    /// A held record is taken out of sight, and not marked on the disk.
    ForgetToMark,
}

/// One engine. Clones share it.
#[derive(Clone)]
pub struct Pool {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) durability: Durability,
    pub(crate) lease_s: u32,
    pub(crate) free_reserve_bytes: u64,
    pub(crate) reserved_for_others: Arc<dyn Fn() -> u64 + Send + Sync>,
    pub(crate) clock: Clock,
    pub(crate) observer: Arc<dyn Fn(&Event) + Send + Sync>,
    pub(crate) random: Random,
    pub(crate) budget_bytes: AtomicU64,
    pub(crate) index: Index,
    pub(crate) segments: RwLock<HashMap<u32, Arc<Segment>>>,
    pub(crate) space: Arc<Space>,
    pub(crate) active: ActiveSegment,
    pub(crate) sync: GroupSync,
    pub(crate) next_segment: AtomicU32,
    pub(crate) next_age: AtomicU64,
    pub(crate) next_sequence: AtomicU64,
    /// Held by whoever moves or kills records: reclaim and purge, one segment or one batch at a time.
    pub(crate) moving: Mutex<()>,
    /// Bytes of large entries that reclaim may yet let go round again. Changes under `moving`.
    pub(crate) renewable_bytes: AtomicU64,
    pub(crate) chores: Mutex<Chores>,
    pub(crate) chore_due: Mutex<bool>,
    pub(crate) chore_due_changed: Condvar,
    pub(crate) checkpoint_claim: Mutex<Option<SpaceClaim>>,
    /// Records that could not be buried yet.
    pub(crate) unburied: Mutex<Vec<(u128, Place)>>,
    /// Held records that could not be marked as such yet, by what they are found by.
    pub(crate) unmarked: Mutex<Vec<u128>>,
    /// Segments that no checkpoint covers as long as their records' states change.
    pub(crate) uncovered: Mutex<HashSet<u32>>,
    /// Written by whoever holds or releases and read by whoever purges, from beginning to end.
    pub(crate) holding: RwLock<()>,
    /// Segments that could not be removed yet.
    pub(crate) undeleted: Mutex<Vec<Arc<Segment>>>,
    /// Segments whose files could not be read when the pool was opened. What is in them is a miss, and may be back at
    /// the next start.
    pub(crate) unread_segments: u64,
    pub(crate) closed: AtomicBool,
    pub(crate) counters: Counters,
    #[cfg(feature = "sim")]
    pub(crate) bug: Mutex<Option<Bug>>,
}

impl Pool {
    /// Opens a pool in `dir`, which it creates if need be, and loads its index: from the checkpoint,
    /// and from the log behind it. Takes a second or so per million records not in the checkpoint.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path, options: PoolOptions) -> Result<Self, OpenError> {
        if options.budget_bytes < POOL_BUDGET_BYTES_MIN {
            return Err(OpenError::Budget {
                budget: options.budget_bytes,
                least: POOL_BUDGET_BYTES_MIN,
            });
        }
        recover::open(disk, dir, options).map(|shared| Self { shared })
    }

    /// Whether the key has an entry. No disk access, no lease.
    pub fn contains(&self, key: &[u8]) -> bool {
        let shared = &self.shared;
        shared.index.peek(shared.index.hash(key)).is_some()
    }

    /// The check of the key's entry, if it has one; it stays readable for [`PoolOptions::lease`] from now on, as firmly
    /// as [`Lease`] says. No disk access.
    pub fn lease(&self, key: &[u8], lease: Lease) -> Option<u16> {
        self.leases(lease).take(key)
    }

    /// [`Pool::lease`] for many keys, from one moment on.
    pub fn leases(&self, lease: Lease) -> Leases<'_> {
        Leases {
            shared: &self.shared,
            lease,
            now_s: self.shared.clock.now_s(),
        }
    }

    /// Changes the budget. A smaller one takes effect as segments are reclaimed, by and by.
    pub fn resize(&self, budget_bytes: u64) -> Result<(), OpenError> {
        if budget_bytes < POOL_BUDGET_BYTES_MIN {
            let least = POOL_BUDGET_BYTES_MIN;
            return Err(OpenError::Budget {
                budget: budget_bytes,
                least,
            });
        }
        self.shared
            .budget_bytes
            .store(budget_bytes, Ordering::Relaxed);
        self.shared.wake_chores();
        Ok(())
    }

    /// What is left of the budget.
    pub fn unclaimed_bytes(&self) -> u64 {
        let budget = self.shared.budget_bytes.load(Ordering::Relaxed);
        budget.saturating_sub(self.shared.space.used())
    }

    /// The most bytes a body can have here.
    pub fn body_bytes_max(&self) -> u64 {
        self.shared.body_bytes_max()
    }

    /// What an acknowledged write survives.
    pub fn durability(&self) -> Durability {
        self.shared.durability
    }

    /// The pool's figures.
    pub fn usage(&self) -> Usage {
        let shared = &self.shared;
        let segments = shared.segments.read();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Usage {
            budget_bytes: shared.budget_bytes.load(Ordering::Relaxed),
            used_bytes: shared.space.used(),
            entries: shared.index.len(),
            segments: segments.len() as u64,
            written_bytes: count(&shared.counters.written_bytes),
            carried_bytes: count(&shared.counters.carried_bytes),
            evicted_entries: count(&shared.counters.evicted_entries),
            corrupt_entries: count(&shared.counters.corrupt_entries),
            refused_writes: count(&shared.counters.refused_writes),
            oldest_ms: segments
                .values()
                .map(|segment| segment.created_at_ms)
                .min()
                .unwrap_or(0),
        }
    }
}

/// Leases entries, all from the same moment on.
#[must_use = "it leases nothing by itself"]
pub struct Leases<'p> {
    shared: &'p Shared,
    lease: Lease,
    now_s: u32,
}

impl Leases<'_> {
    /// [`Pool::lease`].
    pub fn take(&self, key: &[u8]) -> Option<u16> {
        let index = &self.shared.index;
        index.lease(index.hash(key), self.lease, self.now_s, self.shared.lease_s)
    }
}

impl Shared {
    pub(crate) fn segment_bytes(&self) -> u64 {
        let budget = self.budget_bytes.load(Ordering::Relaxed);
        (budget / SEGMENTS_PER_BUDGET).min(SEGMENT_BYTES_MAX) / 4096 * 4096
    }

    /// Four segments less than the budget: the active one, the one being filled by reclaim, its
    /// reserve, and what rounding costs.
    pub(crate) fn body_bytes_max(&self) -> u64 {
        let budget = self.budget_bytes.load(Ordering::Relaxed);
        (budget - 4 * self.segment_bytes()) / 1025 * 1024
    }

    pub(crate) fn observe(&self, event: &Event) {
        (self.observer)(event);
    }

    pub(crate) fn disk_failed(&self, operation: &'static str, error: &io::Error) {
        self.observe(&Event::DiskFailed {
            operation,
            message: error.to_string(),
        });
    }

    pub(crate) fn segment(&self, id: u32) -> Option<Arc<Segment>> {
        self.segments.read().get(&id).cloned()
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// Orders segments for reclaim.
    pub(crate) fn next_age(&self) -> u64 {
        self.next_age.fetch_add(1, Ordering::Relaxed)
    }

    /// What was read at `slot`'s place did not verify: the entry is a miss from now on. Readers come here, so
    /// burying the record is left to chores.
    pub(crate) fn lose(&self, slot: &Slot) {
        if self.index.remove(slot.hash, slot.place) {
            self.counters
                .corrupt_entries
                .fetch_add(1, Ordering::Relaxed);
            let Place { segment, .. } = slot.place;
            self.observe(&Event::Corrupt {
                segment,
                offset: slot.place.offset(),
            });
            self.unburied.lock().push((slot.hash, slot.place));
            self.wake_chores();
        }
    }

    /// The disk failed to read the entry: present, and never to be had, would break builds again and again. It is
    /// buried, or else a purge would not find it and the next start would.
    pub(crate) fn give_up(&self, slot: &Slot, error: &io::Error) {
        self.disk_failed("read", error);
        if self.index.remove(slot.hash, slot.place) {
            self.unburied.lock().push((slot.hash, slot.place));
            self.wake_chores();
        }
    }

    /// Whether a test has injected `bug`.
    #[cfg(feature = "sim")]
    pub(crate) fn has_bug(&self, bug: Bug) -> bool {
        *self.bug.lock() == Some(bug)
    }

    /// Whether a test has injected `bug`: never outside of tests.
    #[cfg(not(feature = "sim"))]
    #[expect(clippy::unused_self, reason = "the tests' twin needs it")]
    pub(crate) const fn has_bug(&self, _bug: Bug) -> bool {
        false
    }

    pub(crate) fn wake_chores(&self) {
        *self.chore_due.lock() = true;
        self.chore_due_changed.notify_one();
    }
}

/// Salts and hash keys.
pub(crate) struct Random(Option<Mutex<u64>>);

impl Random {
    pub(crate) fn new(seed: Option<u64>) -> Self {
        Self(seed.map(Mutex::new))
    }

    pub(crate) fn bytes(&self) -> io::Result<[u8; 16]> {
        let mut bytes = [0; 16];
        match &self.0 {
            None => getrandom::fill(&mut bytes).map_err(io::Error::other)?,
            Some(state) => {
                let mut state = state.lock();
                for half in bytes.chunks_mut(8) {
                    *state = splitmix(*state);
                    half.copy_from_slice(&state.to_le_bytes());
                }
            }
        }
        Ok(bytes)
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) fn splitmix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
