//! A disk that may block: reads that are not in the page cache and writes of large bodies are off
//! the async threads, bounded, and no different to clients.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::Duration;

use larder_cache::{NotAtHand, PoolHandle, PoolPair, Stored};
use larder_store::{Disk, Durability, File, RealDisk, Wait};
use parking_lot::{Mutex, RwLock};

use crate::pools::{Setup, bytes, isolated, trusted};

/// A disk with nothing in the page cache, whose device answers only while `device` can be read-locked.
#[derive(Clone, Default)]
pub(crate) struct ColdDisk {
    device: Arc<RwLock<()>>,
    /// The threads that wrote, and how many bytes at once.
    writes: Writes,
}

type Writes = Arc<Mutex<Vec<(ThreadId, usize)>>>;

struct ColdFile {
    file: Arc<dyn File>,
    device: Arc<RwLock<()>>,
    writes: Writes,
}

impl ColdDisk {
    /// The threads that have written, and how many bytes at once.
    pub(crate) fn writes(&self) -> Vec<(ThreadId, usize)> {
        self.writes.lock().clone()
    }

    fn cold(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(ColdFile {
            file,
            device: self.device.clone(),
            writes: self.writes.clone(),
        })
    }
}

impl Disk for ColdDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        RealDisk.create(path).map(|file| self.cold(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        RealDisk.open(path).map(|file| self.cold(file))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.sync_dir(dir)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(dir)
    }
}

impl File for ColdFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64, wait: Wait) -> io::Result<usize> {
        if wait == Wait::Never {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let _answering = self.device.read();
        self.file.read_at(buffer, offset, wait)
    }

    fn write_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        let bytes = parts.iter().map(|part| part.len()).sum();
        self.writes.lock().push((thread::current().id(), bytes));
        self.file.write_at(parts, offset)
    }

    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.file.next_data(offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }
}

pub(crate) fn cold_setup() -> (Setup, ColdDisk) {
    let pair = PoolPair {
        trusted: PoolHandle::loading(),
        untrusted: PoolHandle::loading(),
    };
    let setup = Setup::over(pair.clone());
    let disk = ColdDisk::default();
    for (handle, name) in [(&pair.trusted, "trusted"), (&pair.untrusted, "untrusted")] {
        setup.open_on(Arc::new(disk.clone()), handle, name, Durability::Written);
    }
    (setup, disk)
}

#[tokio::test]
async fn a_cold_entry_comes_back_as_it_was_written() {
    let (setup, _disk) = cold_setup();
    let writer = trusted("acme", 1);
    for (name, size) in [("small", 1000), ("large", 1_000_000)] {
        let body = bytes(size, 4);
        assert_eq!(setup.put(&writer, name, &body).await, Ok(Stored::New));
        assert_eq!(setup.read(&writer, name).await, Some(body));
    }
}

#[tokio::test]
async fn what_would_have_to_wait_is_not_at_hand_and_not_counted() {
    let (cold, _disk) = cold_setup();
    let loading = Setup::over(PoolPair {
        trusted: PoolHandle::loading(),
        untrusted: PoolHandle::loading(),
    });
    let (trunk, seven) = (trusted("acme", 1), isolated("acme", "pr/7", 2));
    cold.put(&trunk, "k", b"bytes").await.unwrap();
    for setup in [&cold, &loading] {
        for who in [&trunk, &seven] {
            let found = setup.get_at_hand(who, "k");
            assert_eq!(found.map(|hit| hit.is_some()), Err(NotAtHand));
        }
        let text = setup.metrics();
        let mut counts = text
            .lines()
            .filter(|line| line.starts_with("larder_get_seconds_count"));
        assert!(counts.all(|line| line.ends_with(" 0")), "{text}");
    }
    let miss = cold.get_at_hand(&trunk, "another");
    assert!(matches!(miss, Ok(None)), "a miss is at hand on any disk");
    assert_eq!(cold.read(&trunk, "k").await.as_deref(), Some(&b"bytes"[..]));
}

#[tokio::test]
async fn what_is_at_hand_is_what_waiting_would_have_found() {
    let setup = Setup::new();
    let (trunk, seven) = (trusted("acme", 1), isolated("acme", "pr/7", 2));
    setup.put(&trunk, "k", b"trunk's").await.unwrap();
    setup.put(&seven, "own", b"seven's").await.unwrap();
    for (who, name, expected) in [
        (&trunk, "k", Some("trunk's")),
        (&seven, "k", Some("trunk's")),
        (&seven, "own", Some("seven's")),
        (&trunk, "own", None),
    ] {
        let hit = setup.get_at_hand(who, name).expect("in memory");
        let bytes = hit.map(|mut hit| hit.body.take_whole().expect("small"));
        assert_eq!(bytes.as_deref(), expected.map(str::as_bytes), "{name}");
    }
    let counted = r#"larder_hits_total{dialect="nx",workspace="acme",access="isolated"} 2"#;
    assert!(setup.metrics().contains(counted));
}

#[tokio::test]
async fn large_bodies_are_written_off_the_async_threads() {
    let (setup, disk) = cold_setup();
    let trunk = trusted("acme", 1);
    let body = bytes(1_000_000, 4);
    for (name, declared) in [("declared", Some(1_000_000)), ("unknown", None)] {
        let put = setup.put_sized(&trunk, name, declared, &body).await;
        assert_eq!(put, Ok(Stored::New));
        assert_eq!(setup.read(&trunk, name).await.as_ref(), Some(&body));
    }
    let writes = disk.writes.lock();
    let (here, large) = (thread::current().id(), 50_000);
    assert!(writes.iter().any(|(_, bytes)| *bytes > large));
    let inline = writes
        .iter()
        .filter(|(thread, bytes)| *thread == here && *bytes > large);
    assert_eq!(inline.count(), 0, "{writes:?}");
}

#[tokio::test(start_paused = true)]
#[expect(
    clippy::await_holding_lock,
    reason = "the device is dead for as long as it is held"
)]
async fn a_read_whose_turn_at_a_dead_device_does_not_come_is_a_miss() {
    let (setup, disk) = cold_setup();
    let (trunk, seven) = (trusted("acme", 1), isolated("acme", "pr/7", 2));
    setup.put(&trunk, "k", b"bytes").await.unwrap();
    let setup = Arc::new(setup);
    let dead = disk.device.write();
    let mut held = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let (setup, grant) = (setup.clone(), seven.read());
        held.spawn(async move { setup.get_granted(&grant, "k").await.is_some() });
    }
    // All turns of the lane are taken once those have been polled, and no runtime thread is.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let (late, ()) = tokio::join!(setup.get(&seven, "k"), async {
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_mins(1)).await;
    });
    assert!(late.is_none(), "its turn did not come");
    drop(dead);
    assert_eq!(
        setup.read(&trunk, "k").await.as_deref(),
        Some(&b"bytes"[..])
    );
    assert!(held.join_all().await.into_iter().all(|found| found));
}
