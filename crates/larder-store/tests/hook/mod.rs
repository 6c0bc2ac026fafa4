//! A pool on a disk on which a test can do something in the middle of any operation, and a clock that it sets.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder_store::sim::SimDisk;
use larder_store::{Clock, Disk, Durability, File, NewRecord, Pool, PoolOptions, StoreError, Wait};
use parking_lot::Mutex;

pub(crate) const MIB: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Read,
    Write,
    Sync,
    Create,
    Remove,
    Allocate,
}

/// An operation that is about to happen.
pub(crate) struct Call<'a> {
    pub(crate) operation: Operation,
    pub(crate) path: &'a Path,
    /// Where it reads or writes, or how many bytes it allocates.
    pub(crate) at: u64,
}

impl Call<'_> {
    pub(crate) fn is(&self, operation: Operation) -> bool {
        self.operation == operation
    }
}

type Hook = Arc<dyn Fn(&Call<'_>) -> io::Result<()> + Send + Sync>;

/// Asks a hook before every operation; the operation fails if the hook does.
pub(crate) struct HookDisk {
    inner: Arc<SimDisk>,
    hook: Arc<Mutex<Hook>>,
    /// The disk never reports more free bytes than this.
    pub(crate) free_bytes_max: AtomicU64,
}

impl HookDisk {
    fn new(inner: Arc<SimDisk>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            hook: Arc::new(Mutex::new(Arc::new(|_| Ok(())))),
            free_bytes_max: AtomicU64::new(u64::MAX),
        })
    }

    /// From now on every operation asks `hook`.
    pub(crate) fn set(&self, hook: impl Fn(&Call<'_>) -> io::Result<()> + Send + Sync + 'static) {
        *self.hook.lock() = Arc::new(hook);
    }

    /// From now on every operation goes through.
    pub(crate) fn clear(&self) {
        self.set(|_| Ok(()));
    }

    fn file(&self, inner: Arc<dyn File>, path: &Path) -> Arc<dyn File> {
        Arc::new(HookFile {
            inner,
            hook: Arc::clone(&self.hook),
            path: path.into(),
        })
    }
}

fn ask(hook: &Mutex<Hook>, operation: Operation, path: &Path, at: u64) -> io::Result<()> {
    // A hook may use the disk itself.
    let hook = Arc::clone(&hook.lock());
    hook(&Call {
        operation,
        path,
        at,
    })
}

impl Disk for HookDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        ask(&self.hook, Operation::Create, path, 0)?;
        Ok(self.file(self.inner.create(path)?, path))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(self.file(self.inner.open(path)?, path))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        ask(&self.hook, Operation::Remove, path, 0)?;
        self.inner.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let free = self.inner.free_bytes(dir)?;
        Ok(free.min(self.free_bytes_max.load(Ordering::Relaxed)))
    }
}

struct HookFile {
    inner: Arc<dyn File>,
    hook: Arc<Mutex<Hook>>,
    path: PathBuf,
}

impl File for HookFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64, wait: Wait) -> io::Result<usize> {
        ask(&self.hook, Operation::Read, &self.path, offset)?;
        self.inner.read_at(buffer, offset, wait)
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        ask(&self.hook, Operation::Write, &self.path, offset)?;
        self.inner.write_at(parts, offset)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        ask(&self.hook, Operation::Allocate, &self.path, bytes)?;
        self.inner.allocate(bytes)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.inner.set_len(bytes)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.inner.next_data(offset)
    }

    fn sync(&self) -> io::Result<()> {
        ask(&self.hook, Operation::Sync, &self.path, 0)?;
        self.inner.sync()
    }

    fn bytes(&self) -> io::Result<u64> {
        self.inner.bytes()
    }
}

/// A pool and what it stands on. Leases last a minute.
pub(crate) struct Stand {
    pub(crate) sim: Arc<SimDisk>,
    pub(crate) disk: Arc<HookDisk>,
    pub(crate) now_ms: Arc<AtomicU64>,
    pub(crate) options: PoolOptions,
    pub(crate) pool: Pool,
}

impl Stand {
    /// An empty pool on a disk much larger than its budget.
    pub(crate) fn new(seed: u64, budget_bytes: u64, durability: Durability) -> Self {
        let sim = SimDisk::new(seed, 8 * budget_bytes);
        let disk = HookDisk::new(Arc::clone(&sim));
        let now_ms = Arc::new(AtomicU64::new(1_000_000_000));
        let options = PoolOptions {
            durability,
            lease: Duration::from_mins(1),
            free_reserve_bytes: 0,
            clock: Clock::Manual(Arc::clone(&now_ms)),
            seed: Some(seed),
            ..PoolOptions::new(budget_bytes)
        };
        let pool = open(&disk, options.clone());
        Self {
            sim,
            disk,
            now_ms,
            options,
            pool,
        }
    }

    /// Opens the pool again, a second later, after the disk's owner has died.
    pub(crate) fn reopen(&mut self) {
        self.pass(Duration::from_secs(1));
        self.options.seed = self.options.seed.map(|seed| seed + 1_000_000);
        self.pool = open(&self.disk, self.options.clone());
    }

    /// Time passes.
    pub(crate) fn pass(&self, time: Duration) {
        self.now_ms
            .fetch_add(time.as_millis() as u64, Ordering::Relaxed);
    }
}

fn open(disk: &Arc<HookDisk>, options: PoolOptions) -> Pool {
    Pool::open(
        Arc::clone(disk) as Arc<dyn Disk>,
        Path::new("pool"),
        options,
    )
    .expect("the pool opens")
}

pub(crate) fn key(number: u64) -> Vec<u8> {
    format!("key-{number:08}").into_bytes()
}

/// A record of the key, not to replace another.
pub(crate) fn record(key: &[u8]) -> NewRecord<'_> {
    NewRecord {
        key,
        metadata: &[],
        check: 0,
        writer: 1,
        replace: false,
    }
}

/// Puts an entry of `bytes` bytes.
pub(crate) fn put(pool: &Pool, key: &[u8], bytes: usize) -> Result<(), StoreError> {
    pool.put(&record(key), &vec![2; bytes]).map(|_| ())
}

/// Puts an entry of `bytes` bytes under each of the keys, and counts those that are refused.
pub(crate) fn fill(pool: &Pool, keys: Range<u64>, bytes: usize) -> usize {
    keys.filter(|number| put(pool, &key(*number), bytes).is_err())
        .count()
}

pub(crate) fn is_readable(pool: &Pool, key: &[u8]) -> bool {
    let entry = pool.get(key, Wait::Allowed).expect("may wait");
    entry.is_some()
}
