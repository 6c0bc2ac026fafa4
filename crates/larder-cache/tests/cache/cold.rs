//! Reads that are not in the page cache: off the async threads, bounded, and no different to readers.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use larder_cache::{PoolHandle, PoolPair, Stored};
use larder_store::{Disk, Durability, File, RealDisk, Wait};
use parking_lot::RwLock;

use crate::pools::{Setup, bytes, isolated, trusted};

/// A disk with nothing in the page cache, whose device answers only while `device` can be read-locked.
#[derive(Clone, Default)]
struct ColdDisk {
    device: Arc<RwLock<()>>,
}

struct ColdFile {
    file: Arc<dyn File>,
    device: Arc<RwLock<()>>,
}

impl ColdDisk {
    fn cold(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(ColdFile {
            file,
            device: self.device.clone(),
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

fn cold_setup() -> (Setup, ColdDisk) {
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
