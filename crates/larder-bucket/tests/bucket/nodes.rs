//! Nodes that share a bucket.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use larder_bucket::link::{Link, Operation, Outcome};
use larder_bucket::{
    Bucket, BucketSettings, Clock, Delivery, Event, FetchedBody, Local, MacKey, Observer, Realm,
    Rule, Trust, Unavailable,
};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::catalogue::MemoryCatalogue;
use crate::local::{Entry, MemoryLocal};

pub(crate) const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// Longer than anything that ends; costs nothing, as time stands still.
pub(crate) const LONG: Duration = Duration::from_mins(2);

/// What nodes share.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) catalogue: Arc<MemoryCatalogue>,
    pub(crate) now_ms: Arc<AtomicU64>,
    pub(crate) mac_key: MacKey,
    pub(crate) expire_after: Duration,
}

pub(crate) fn site() -> Site {
    site_over(Arc::new(InMemory::new()))
}

pub(crate) fn site_over(store: Arc<dyn ObjectStore>) -> Site {
    Site {
        store,
        catalogue: Arc::default(),
        // The stores' clocks are the system's.
        now_ms: Arc::new(AtomicU64::new(Clock::default().now_ms())),
        mac_key: MacKey::new([9; 32]),
        expire_after: Duration::from_hours(30 * 24),
    }
}

pub(crate) struct Node {
    pub(crate) bucket: Bucket,
    pub(crate) local: Arc<MemoryLocal>,
    pub(crate) events: Arc<Mutex<Vec<Event>>>,
    pub(crate) dir: Arc<TempDir>,
    now_ms: Arc<AtomicU64>,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

impl Site {
    pub(crate) async fn node(&self) -> Node {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        self.node_in(dir, Arc::default()).await
    }

    /// A node over these files, which has caught up.
    pub(crate) async fn node_in(&self, dir: Arc<TempDir>, local: Arc<MemoryLocal>) -> Node {
        let node = self.starting_node(dir, local);
        node.bucket.caught_up().await;
        node
    }

    pub(crate) fn starting_node(&self, dir: Arc<TempDir>, local: Arc<MemoryLocal>) -> Node {
        let events = Arc::new(Mutex::new(Vec::new()));
        let bucket = self.open(dir.path(), events.clone());
        let (stop, stopped) = oneshot::channel();
        let (running, local_of_run) = (bucket.clone(), local.clone());
        let running = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            running.run(local_of_run as Arc<dyn Local>, stopped).await;
        });
        Node {
            bucket,
            local,
            events,
            dir,
            now_ms: self.now_ms.clone(),
            stop: Some(stop),
            running,
        }
    }

    pub(crate) fn open(&self, dir: &Path, events: Arc<Mutex<Vec<Event>>>) -> Bucket {
        let now_ms = self.now_ms.clone();
        let settings = BucketSettings {
            expire_after: self.expire_after,
            clock: Clock::new(move || now_ms.load(Ordering::Relaxed)),
            observer: Observer::new(move |event| events.lock().push(event)),
            ..BucketSettings::new(dir.to_owned(), self.mac_key.clone())
        };
        Bucket::open(
            settings,
            Link::new(self.store.clone()),
            self.catalogue.clone(),
        )
        .unwrap()
    }

    pub(crate) fn later(&self, ms: u64) {
        self.now_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// The names in the store, and the lengths of what they name.
    pub(crate) async fn objects(&self) -> Vec<(String, u64)> {
        use futures_util::TryStreamExt;
        let listed: Vec<_> = self.store.list(None).try_collect().await.unwrap();
        let names = listed
            .into_iter()
            .map(|meta| (meta.location.to_string(), meta.size));
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// The only object whose name contains this.
    pub(crate) async fn object(&self, part: &str) -> String {
        let mut names = self.objects().await;
        names.retain(|(name, _)| name.contains(part));
        assert_eq!(names.len(), 1, "{part}: {names:?}");
        names.remove(0).0
    }
}

pub(crate) fn trusted() -> Realm {
    Realm::new("acme", Trust::Trusted).unwrap()
}

pub(crate) fn untrusted() -> Realm {
    Realm::new("acme", Trust::Untrusted).unwrap()
}

/// A body of this length that no other number has.
pub(crate) fn body(number: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes.into()
}

impl Node {
    /// Stores an entry here and offers it.
    pub(crate) fn put(&self, realm: &Realm, key: &[u8], rule: Rule, body: &Bytes) {
        self.put_local(realm, key, body);
        self.bucket.offer(realm, key, rule, body.len() as u64);
    }

    pub(crate) fn put_local(&self, realm: &Realm, key: &[u8], body: &Bytes) {
        let entry = Entry {
            metadata: Bytes::from_static(b"metadata"),
            check: body.len().min(65_535) as u16,
            writer: 77,
            written_at_ms: self.now_ms.load(Ordering::Relaxed),
            body: body.clone(),
        };
        self.local.put(realm, key, entry);
    }

    /// Stores an entry here, and in the bucket.
    pub(crate) async fn put_and_wait(
        &self,
        realm: &Realm,
        key: &[u8],
        rule: Rule,
        body: &Bytes,
    ) -> Delivery {
        self.put_local(realm, key, body);
        let length = body.len() as u64;
        self.bucket
            .offer_and_wait(realm, key, rule, length, LONG)
            .await
    }

    /// Reads an entry from the bucket, knowing what the catalogue knows.
    pub(crate) async fn get(
        &self,
        realm: &Realm,
        key: &[u8],
    ) -> Result<Option<Bytes>, Unavailable> {
        self.bucket.refresh(Duration::ZERO).await;
        self.get_known(realm, key).await
    }

    pub(crate) async fn get_known(
        &self,
        realm: &Realm,
        key: &[u8],
    ) -> Result<Option<Bytes>, Unavailable> {
        let fetched = self.bucket.fetch(realm, key, realm.trust()).await?;
        let Some(fetched) = fetched else {
            return Ok(None);
        };
        let bytes = match fetched.body {
            FetchedBody::Whole(body) => body,
            FetchedBody::Stream(mut stream) => {
                let mut bytes = Vec::new();
                while let Some(piece) = stream.next().await.map_err(|_| Unavailable)? {
                    bytes.extend_from_slice(&piece);
                }
                bytes.into()
            }
        };
        assert_eq!(bytes.len() as u64, fetched.head.body_bytes);
        Ok(Some(bytes))
    }

    /// Waits until nothing is queued.
    pub(crate) async fn settle(&self) {
        while self.bucket.usage().queue.entries > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock())
    }

    /// Requests that went out, whatever came of them.
    pub(crate) fn requests(&self) -> Requests {
        let mut requests = Requests::default();
        for (operation, outcome, count) in self.bucket.link().requests() {
            *requests.of(operation) += count;
            if outcome != Outcome::Done {
                requests.failed += count;
            }
        }
        requests
    }

    /// Ends the node as a program would.
    pub(crate) async fn stop(mut self) -> (Arc<TempDir>, Arc<MemoryLocal>) {
        drop(self.stop.take());
        (&mut self.running).await.unwrap();
        (self.dir.clone(), self.local.clone())
    }

    /// Ends the node as `kill -9` would.
    pub(crate) async fn kill(mut self) -> (Arc<TempDir>, Arc<MemoryLocal>) {
        self.running.abort();
        let _ = (&mut self.running).await;
        (self.dir.clone(), self.local.clone())
    }
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Requests {
    pub(crate) get: u64,
    pub(crate) put: u64,
    pub(crate) create: u64,
    pub(crate) multipart: u64,
    pub(crate) copy: u64,
    pub(crate) delete: u64,
    pub(crate) list: u64,
    pub(crate) failed: u64,
}

impl Requests {
    fn of(&mut self, operation: Operation) -> &mut u64 {
        match operation {
            Operation::Get => &mut self.get,
            Operation::Put => &mut self.put,
            Operation::Create => &mut self.create,
            Operation::Multipart | Operation::Part => &mut self.multipart,
            Operation::Copy => &mut self.copy,
            Operation::Delete => &mut self.delete,
            Operation::List => &mut self.list,
        }
    }

    pub(crate) fn all(&self) -> u64 {
        self.get + self.put + self.create + self.multipart + self.copy + self.delete + self.list
    }
}
