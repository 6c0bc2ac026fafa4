//! Nodes over one bucket, which is in memory and can be made to fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use larder_bucket::link::faulty::{Faults, FaultyStore};
use larder_bucket::link::{Link, Operation};
use larder_bucket::{
    Bucket, BucketSettings, Catalogue, CatalogueError, Change, MacKey, NewPack, Pending,
};
use larder_cache::{Ack, Tier};
use object_store::memory::InMemory;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::pools::Setup;

/// Everything fails.
const DOWN: Faults = Faults {
    refused: 1000,
    unacknowledged: 0,
    torn: 0,
    cut: 0,
    delayed: 0,
    delay_ms_max: 0,
};

#[derive(Default)]
pub(crate) struct MemoryCatalogue {
    rows: Mutex<Vec<Change>>,
    pub(crate) queries: AtomicU64,
    /// No query ends.
    pub(crate) hangs: AtomicBool,
}

impl MemoryCatalogue {
    /// Where each pack lives.
    pub(crate) fn realms(&self) -> Vec<String> {
        let rows = self.rows.lock();
        rows.iter().map(|row| row.pack.realm.to_string()).collect()
    }
}

impl Catalogue for MemoryCatalogue {
    fn append(&self, pack: NewPack) -> Pending<'_, u32> {
        Box::pin(async move {
            let mut rows = self.rows.lock();
            if let Some(row) = rows.iter().find(|row| row.pack.name == pack.name) {
                return Ok(row.number);
            }
            let number = rows.len() as u32 + 1;
            let revision = u64::from(number);
            rows.push(Change {
                revision,
                number,
                removed: false,
                pack,
            });
            Ok(number)
        })
    }

    fn changes(&self, after_revision: u64, limit: u32) -> Pending<'_, Vec<Change>> {
        Box::pin(async move {
            self.queries.fetch_add(1, Ordering::Relaxed);
            if self.hangs.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            let rows = self.rows.lock();
            let new = rows.iter().filter(|row| row.revision > after_revision);
            Ok(new.take(limit as usize).cloned().collect())
        })
    }

    fn remove(&self, _numbers: Vec<u32>) -> Pending<'_, ()> {
        Box::pin(async { Err(CatalogueError("nothing is removed here".to_owned())) })
    }
}

/// What the nodes share.
pub(crate) struct Site {
    store: Arc<FaultyStore>,
    pub(crate) catalogue: Arc<MemoryCatalogue>,
}

/// A running node.
pub(crate) struct Node {
    pub(crate) setup: Setup,
    pub(crate) bucket: Bucket,
    _dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

impl Site {
    pub(crate) fn new() -> Self {
        let store = FaultyStore::new(Arc::new(InMemory::new()), 1, Faults::default());
        Self {
            store: Arc::new(store),
            catalogue: Arc::default(),
        }
    }

    /// A node that has caught up.
    pub(crate) async fn node(&self, ack: Ack) -> Node {
        self.node_with(|bucket| Tier::new(bucket, ack)).await
    }

    pub(crate) async fn node_with(&self, tier: impl FnOnce(Bucket) -> Tier) -> Node {
        let dir = TempDir::new().unwrap();
        let settings = BucketSettings::new(dir.path().to_owned(), MacKey::new([9; 32]));
        let link = Link::new(self.store.clone());
        let bucket = Bucket::open(settings, link, self.catalogue.clone()).unwrap();
        let setup = Setup::with_tier(tier(bucket.clone()));
        let (stop, stopped) = oneshot::channel();
        let (of_run, local) = (bucket.clone(), setup.cache.clone());
        let running = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            of_run.run(local, stopped).await;
        });
        bucket.caught_up().await;
        Node {
            setup,
            bucket,
            _dir: dir,
            stop: Some(stop),
            running,
        }
    }

    pub(crate) fn fail(&self) {
        self.store.set(DOWN);
    }

    pub(crate) fn recover(&self) {
        self.store.set(Faults::default());
    }
}

impl Node {
    /// Waits until everything is uploaded. Time does not pass in these tests.
    pub(crate) async fn settle(&self) {
        while self.bucket.usage().queue.entries > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Sees what is in the catalogue.
    pub(crate) async fn refresh(&self) {
        self.bucket.refresh(Duration::ZERO).await;
    }

    /// Requests of a kind so far.
    pub(crate) fn requests(&self, operation: Operation) -> u64 {
        let requests = self.bucket.link().requests();
        let of_it = requests.iter().filter(|(of, _, _)| *of == operation);
        of_it.map(|(_, _, count)| count).sum()
    }

    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        self.running.await.unwrap();
    }
}
