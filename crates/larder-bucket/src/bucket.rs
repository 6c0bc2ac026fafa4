//! The bucket as the cache sees it.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::catalogue::Catalogue;
use crate::clock::Clock;
use crate::edict::Edict;
use crate::event::Observer;
use crate::fetch::Flights;
use crate::follow::Follower;
use crate::index::Index;
use crate::inner::{Inner, Told};
use crate::link::Link;
use crate::local::Local;
use crate::name::MacKey;
use crate::queue::{Queue, QueueUsage};
use crate::queue_file::Offer;
use crate::realm::{Realm, Trust};
use crate::record::{KEY_BYTES_MAX, Rule};
use crate::shelf::Shelf;
use crate::stream::BodyStream;
use crate::sweep::{GcError, GcProgress};

/// How long an entry stays that nobody uses, where nobody said otherwise.
pub const EXPIRE_AFTER_DEFAULT: Duration = Duration::from_hours(30 * 24);

/// How a bucket is used.
#[derive(Debug, Clone)]
pub struct BucketSettings {
    /// A directory of this process alone, for the queue and the known indexes; it is made if it is missing.
    pub dir: PathBuf,
    /// What makes the bucket's contents believable.
    pub mac_key: MacKey,
    /// How long an entry stays that nobody uses.
    pub expire_after: Duration,
    /// How long an entry that nobody waits for may wait for others to share a pack with.
    pub linger: Duration,
    /// How often other nodes' packs are looked for when nobody asks.
    pub refresh_every: Duration,
    /// Where ages come from.
    pub clock: Clock,
    /// Who is told what happens.
    pub observer: Observer,
}

impl BucketSettings {
    /// The usual choices: entries expire after 30 days, linger for 200 ms, and packs are looked for every second.
    pub fn new(dir: PathBuf, mac_key: MacKey) -> Self {
        Self {
            dir,
            mac_key,
            expire_after: EXPIRE_AFTER_DEFAULT,
            linger: Duration::from_millis(200),
            refresh_every: Duration::from_secs(1),
            clock: Clock::default(),
            observer: Observer::default(),
        }
    }
}

/// An entry that is in the bucket, as far as this node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// What the index knows of it.
    pub check: u16,
    /// Which of several entries of its key counts.
    pub rule: Rule,
    /// When it was written, unix milliseconds.
    pub written_at_ms: u64,
}

/// All of an entry but its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// What the protocol stored with it.
    pub metadata: Bytes,
    /// What the index knows of it.
    pub check: u16,
    /// Which of several entries of its key counts.
    pub rule: Rule,
    /// Who wrote it.
    pub writer: u64,
    /// When, unix milliseconds.
    pub written_at_ms: u64,
    /// The body's length.
    pub body_bytes: u64,
}

/// An entry from the bucket.
#[derive(Debug)]
pub struct Fetched {
    /// All but the body.
    pub head: Head,
    /// The body.
    pub body: FetchedBody,
}

/// A body from the bucket, verified.
#[derive(Debug)]
pub enum FetchedBody {
    /// At most 4 MiB. It goes to [`Local::install`] as well, unless it is empty; so the caller need not store it.
    Whole(Bytes),
    /// More than that, in pieces of 1 MiB. Whoever wants it stored stores it.
    Stream(BodyStream),
}

/// The bucket cannot tell: an entry may be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bucket is not available")]
pub struct Unavailable;

/// How an offer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// It is in the bucket and in the catalogue, or a newer one that replaces it is.
    Stored,
    /// Another node's write of the key was first. [`Local::lost`] has been called, and [`Bucket::lookup`] finds the winner.
    Lost,
    /// It is not stored, or nobody can tell. If the bucket is to blame it stays queued.
    Failed,
}

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Packs in the catalogue.
    pub packs: u64,
    /// Bytes of these packs, without large bodies and first objects.
    pub pack_bytes: u64,
    /// Entries that can be found.
    pub entries: u64,
    /// Bytes of memory of the index.
    pub index_memory_bytes: u64,
    /// What waits to be uploaded.
    pub queue: QueueUsage,
    /// Whether everything that was in the catalogue at the start is known.
    pub caught_up: bool,
    /// `None`: the bucket is in use. `Some`: it is left alone for this long.
    pub open_for: Option<Duration>,
}

/// The bucket. Clones share it.
#[derive(Clone, Debug)]
pub struct Bucket {
    inner: Arc<Inner>,
}

impl Bucket {
    /// Opens the files in the directory. Nothing is asked of bucket or catalogue before [`Bucket::run`].
    pub fn open(
        settings: BucketSettings,
        link: Link,
        catalogue: Arc<dyn Catalogue>,
    ) -> io::Result<Self> {
        let index = Index::new();
        let shelf = Shelf::open(&settings.dir)?;
        let hash = |offer: &Offer| index.hash(&offer.realm, &offer.key);
        let queue = Queue::open(&settings.dir, hash)?;
        let inner = Inner {
            settings,
            link,
            catalogue,
            index,
            shelf,
            queue,
            edicts: RwLock::default(),
            follower: Follower::default(),
            flights: Flights::default(),
            local: OnceLock::new(),
            told: Mutex::new(Told::default()),
        };
        let inner = Arc::new(inner);
        Ok(Self { inner })
    }

    /// Follows the catalogue and uploads what is offered, until `shutdown`; what is then under way has ten seconds to end,
    /// and the rest of the queue waits on disk. Call it once; without it nothing is uploaded or installed.
    pub async fn run(&self, local: Arc<dyn Local>, shutdown: impl Future<Output = ()> + Send) {
        let inner = &self.inner;
        let _ = inner.local.set(Arc::downgrade(&local));
        let (end, ending) = watch::channel(false);
        let follow = async {
            let mut ending = ending.clone();
            loop {
                inner.refresh(Duration::ZERO).await;
                let next = tokio::time::sleep(inner.settings.refresh_every);
                tokio::select! {
                    () = next => {}
                    _ = ending.wait_for(|is_ending| *is_ending) => break,
                }
            }
        };
        let stop = async {
            shutdown.await;
            let _ = end.send(true);
        };
        tokio::join!(follow, inner.empty_queue(ending.clone()), stop);
        drop(local);
    }

    /// Waits until everything that was in the catalogue at the start is known.
    pub async fn caught_up(&self) {
        self.inner.follower.caught_up.wait().await;
    }

    /// What this node knows of a key; counts as a use of the entry. Asks nobody and does not block. It says nothing about
    /// whether the bucket answers: who promises something on the strength of it asks [`Bucket::is_reachable`] as well.
    ///
    /// To be called also for what the local store has, when it is used: else it expires in the bucket.
    pub fn lookup(&self, realm: &Realm, key: &[u8]) -> Option<Found> {
        let slot = self.inner.live_used(realm, key)?;
        Some(Found {
            check: slot.check,
            rule: slot.rule(),
            written_at_ms: slot.written_at_ms(),
        })
    }

    /// Whether the bucket has been answering.
    pub fn is_reachable(&self) -> bool {
        self.inner.link.open_for().is_none()
    }

    /// All but the body. Reads a local file at most, unless that has been lost.
    pub async fn head(&self, realm: &Realm, key: &[u8]) -> Option<Head> {
        let located = self.inner.locate(realm, key).await.ok()?;
        Some(located.head())
    }

    /// The entry, from the bucket; counts as a use. `lane` is whose turn is used: trunk's readers do not wait for others.
    pub async fn fetch(
        &self,
        realm: &Realm,
        key: &[u8],
        lane: Trust,
    ) -> Result<Option<Fetched>, Unavailable> {
        if self.inner.live_used(realm, key).is_none() {
            return Ok(None);
        }
        self.inner.fetch(realm, key, lane).await
    }

    /// Notes an entry that is now in the local store. Does not wait.
    pub fn offer(&self, realm: &Realm, key: &[u8], rule: Rule, body_bytes: u64) {
        self.enqueue(realm, key, rule, body_bytes, None);
    }

    /// The same, and waits until other nodes can see it, or at most `limit`.
    pub async fn offer_and_wait(
        &self,
        realm: &Realm,
        key: &[u8],
        rule: Rule,
        body_bytes: u64,
        limit: Duration,
    ) -> Delivery {
        let (told, telling) = oneshot::channel();
        let waiter = self.is_reachable().then_some(told);
        self.enqueue(realm, key, rule, body_bytes, waiter);
        match timeout(limit, telling).await {
            Ok(Ok(delivery)) => delivery,
            Ok(Err(_)) | Err(_) => Delivery::Failed,
        }
    }

    fn enqueue(
        &self,
        realm: &Realm,
        key: &[u8],
        rule: Rule,
        body_bytes: u64,
        waiter: Option<oneshot::Sender<Delivery>>,
    ) {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return;
        }
        let offer = Offer {
            realm: realm.clone(),
            key: Bytes::copy_from_slice(key),
            rule,
            is_touch: false,
            body_bytes,
            offered_at_ms: self.inner.now_ms(),
        };
        let hash = self.inner.index.hash(realm, key);
        self.inner.queue.offer(hash, offer, waiter);
    }

    /// Sees to it that what was in the catalogue `freshness` ago is known, or that a bounded wait for it is over. Shared by
    /// all who ask meanwhile. While this node has not caught up it does not wait.
    pub async fn refresh(&self, freshness: Duration) {
        if self.inner.follower.caught_up.initialized() {
            self.inner.refresh(freshness).await;
        }
    }

    /// Makes an edict standing and applies it; returns how many entries it took. Looks at everything. Edicts are not kept on
    /// disk: whoever opens the bucket gives them again, before [`Bucket::run`].
    pub async fn forget(&self, edict: Edict) -> u64 {
        let inner = self.inner.clone();
        inner.forget(edict).await
    }

    /// The greatest number of a pack that this node knows, for [`Edict::new`].
    pub fn newest_pack(&self) -> u32 {
        let packs = self.inner.shelf.all();
        packs.iter().map(|known| known.number).max().unwrap_or(0)
    }

    /// Deletes expired packs and what no pack refers to. Harmless on several nodes at once. Returns what it did.
    pub async fn gc(
        &self,
        progress: &(dyn Fn(GcProgress) + Send + Sync),
    ) -> Result<GcProgress, GcError> {
        self.inner.gc(progress).await
    }

    /// What there is.
    pub fn usage(&self) -> Usage {
        let packs = self.inner.shelf.all();
        Usage {
            packs: packs.len() as u64,
            pack_bytes: packs.iter().map(|known| known.pack.object_bytes).sum(),
            entries: self.inner.index.len(),
            index_memory_bytes: self.inner.index.memory_bytes(),
            queue: self.inner.queue.usage(),
            caught_up: self.inner.follower.caught_up.initialized(),
            open_for: self.inner.link.open_for(),
        }
    }

    /// The connection, for its counters.
    pub fn link(&self) -> &Link {
        &self.inner.link
    }
}
