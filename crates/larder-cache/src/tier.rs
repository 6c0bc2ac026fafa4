//! The bucket behind the pools.
//!
//! A pool is asked first, then the bucket's index, which is in memory: what it knows is *brought* ([`crate::bring`]), that
//! is fetched, answered with, and put into the pool of its scope together with what came along. What is stored is offered
//! to the bucket, and with [`Ack::Bucket`] the answer waits for it.
//!
//! Always true:
//! - The order of scopes stays (R2): `trusted` in the pool, `trusted` in the bucket, then the own scope in both. A scope's
//!   entries come from its own realm of the bucket and go into its own pool, and nothing else decides where they go.
//! - What the index does not know is not there. What it knows and cannot be had is a doubt, and it is one at once while the
//!   bucket is known not to answer.
//! - Nobody asks the bucket whether something is there. A miss waits for one query of the catalogue at most, shared with
//!   all who miss meanwhile, and for none while queries are slow.
//! - A pool's entry gives way to the bucket's where that is newer ([`Rule::Replace`]) or was first ([`Rule::First`]), if
//!   the bucket's can be had. An older one never takes the place of a newer one.
//! - What an order is about ([`Order`]) neither is answered with nor gets into a pool from the bucket, however long it
//!   has been on its way.
//! - What came from the bucket keeps its writer and its time, and is not offered again.

use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::{Context, Waker};
use std::time::Duration;

use larder_bucket::{Bucket, Clock, Delivery, Edict, Found, Realm, RecordHead, Rule, Trust};
use larder_model::{AccessKind, Dialect, Scope, WorkspaceName};
use tokio::time::Instant;

use crate::bring::Flights;
use crate::cache::NotAtHand;
use crate::control::{Change, EntryFilter, Order, OrderKeeper, OrderNotKept};
use crate::lanes::within;
use crate::upload::{PutRefusal, Stored};

/// How long ago other nodes' entries may have been looked for when a miss is told.
const FRESHNESS: Duration = Duration::from_secs(1);

/// How long a miss waits for that: several times what a query and the GET of a new pack's index take.
const REFRESH_WAIT_MAX: Duration = Duration::from_millis(500);

/// How long no miss waits after one has waited in vain.
const IMPATIENCE: Duration = Duration::from_secs(5);

/// How long an answer waits for the bucket to have the entry: longer than an upload that is tried again takes, and shorter
/// than clients wait.
const ACK_WAIT_MAX: Duration = Duration::from_secs(30);

/// Keys take turns in so many groups.
const TURN_COUNT: usize = 64;

/// What "stored" means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ack {
    /// It is in the pool, and queued for the bucket.
    #[default]
    Local,
    /// It is in the bucket, and every node can find it.
    Bucket,
}

/// A bucket, as a cache uses it.
pub struct Tier {
    pub(crate) bucket: Bucket,
    pub(crate) ack: Ack,
    pub(crate) flights: Flights,
    /// Held for reading by whoever puts an entry of the bucket into a pool.
    orders: RwLock<Vec<Arc<Order>>>,
    keeper: Option<OrderKeeper>,
    turns: KeyTurns,
    /// Until when no miss waits, in milliseconds since `started`.
    impatient_until_ms: AtomicU64,
    started: Instant,
    write_count: AtomicU64,
}

impl Tier {
    /// A tier over an open bucket.
    pub fn new(bucket: Bucket, ack: Ack) -> Self {
        Self {
            bucket,
            ack,
            flights: Flights::default(),
            orders: RwLock::default(),
            keeper: None,
            turns: KeyTurns::default(),
            impatient_until_ms: AtomicU64::new(0),
            started: Instant::now(),
            write_count: AtomicU64::new(0),
        }
    }

    /// A tier whose orders are kept. Without a keeper they hold until the program ends, and on this node.
    #[must_use]
    pub fn keeping(mut self, keeper: OrderKeeper) -> Self {
        self.keeper = Some(keeper);
        self
    }

    /// The bucket.
    pub fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// What is known of a key that the pool does not have; waits for what is new if nothing is.
    pub(crate) async fn look_up(&self, realm: &Realm, key: &[u8]) -> Option<Found> {
        let found = self.bucket.lookup(realm, key);
        if found.is_some() {
            return found;
        }
        self.freshen().await;
        self.bucket.lookup(realm, key)
    }

    /// Whether nothing is known of a key that the pool does not have; and nothing new could be waited for.
    pub(crate) fn is_unknown_at_hand(&self, realm: &Realm, key: &[u8]) -> Result<(), NotAtHand> {
        if self.bucket.lookup(realm, key).is_none() && self.is_fresh() {
            Ok(())
        } else {
            Err(NotAtHand)
        }
    }

    /// Whether the bucket's entry takes the place of the pool's, of this time and check. Counts as a use of the bucket's.
    pub(crate) fn supersedes(&self, realm: &Realm, key: &[u8], local: (u64, u16)) -> bool {
        let found = self.bucket.lookup(realm, key);
        found
            .is_some_and(|found| takes_place(found.rule, (found.written_at_ms, found.check), local))
    }

    /// Tells writes of one key from each other that happen in the same millisecond ([`Rule::First`]).
    pub(crate) fn random_check(&self) -> u16 {
        let number = self.write_count.fetch_add(1, Ordering::Relaxed);
        self.turns.random.hash_one(number) as u16
    }

    /// Sees to it that what other nodes stored a second ago is known, if that does not take long.
    pub(crate) async fn freshen(&self) {
        if self.waits_in_vain() {
            return;
        }
        let refreshed = within(REFRESH_WAIT_MAX, self.bucket.refresh(FRESHNESS)).await;
        if refreshed.is_none() {
            let until = self.started.elapsed() + IMPATIENCE;
            let until_ms = until.as_millis() as u64;
            self.impatient_until_ms.store(until_ms, Ordering::Relaxed);
        }
    }

    fn is_fresh(&self) -> bool {
        if self.waits_in_vain() {
            return true;
        }
        // What it begins goes on if nobody waits for it.
        let refresh = pin!(self.bucket.refresh(FRESHNESS));
        let mut context = Context::from_waker(Waker::noop());
        refresh.poll(&mut context).is_ready()
    }

    fn waits_in_vain(&self) -> bool {
        let until_ms = self.impatient_until_ms.load(Ordering::Relaxed);
        let is_impatient = until_ms > 0 && (self.started.elapsed().as_millis() as u64) < until_ms;
        is_impatient || !self.bucket.is_reachable()
    }

    /// Gives the order that goes with a change, if one does: keeps it, and carries it out. Returns how many entries of the
    /// index it took.
    pub(crate) async fn give_order(
        &self,
        change: Change,
        filter: Option<&EntryFilter>,
    ) -> Result<u64, OrderNotKept> {
        let now_ms = Clock::default().now_ms();
        let Some(order) = Order::of(change, filter, (now_ms, self.bucket.newest_pack())) else {
            return Ok(0);
        };
        if let Some(keep) = &self.keeper {
            keep(order.to_text()).await?;
        }
        Ok(self.forget(Arc::new(order)).await)
    }

    /// Takes entries out of the bucket as this node knows it, and out of what is on its way from there or to there.
    /// Returns how many entries of the index there were.
    pub(crate) async fn forget(&self, order: Arc<Order>) -> u64 {
        // Waits for those that are just putting an entry into a pool; who comes later sees it.
        write(&self.orders).push(order.clone());
        let (by_pack, by_time, until_ms) = (order.clone(), order.clone(), order.until_ms);
        let by_pack = Edict::new(order.through_pack, move |head| by_pack.names(head));
        let is_old = move |head: &RecordHead<'_>| head.written_at_ms <= until_ms;
        let by_time = Edict::new(u32::MAX, move |head| is_old(head) && by_time.names(head));
        self.bucket.forget(by_pack).await + self.bucket.forget(by_time).await
    }

    /// What no entry of the bucket gets past while it is held.
    pub(crate) fn gate(&self) -> Gate<'_> {
        Gate(read(&self.orders))
    }

    /// What becomes of an entry that is about to be stored.
    pub(crate) fn offering(
        self: &Arc<Self>,
        workspace: &WorkspaceName,
        scope: &Scope,
        dialect: Dialect,
        key: &[u8],
    ) -> Option<Offering> {
        Some(Offering {
            tier: self.clone(),
            realm: realm_of(workspace, scope)?,
            key: key.into(),
            rule: rule_of(dialect),
        })
    }

    /// A turn at replacing the entry of a key in a pool, against those who write it ([`Offering::turn`]).
    pub(crate) fn replacing(&self, key: &[u8]) -> RwLockWriteGuard<'_, ()> {
        write(self.turns.of(key))
    }
}

impl std::fmt::Debug for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tier")
            .field("ack", &self.ack)
            .finish_non_exhaustive()
    }
}

/// Whether an entry of the bucket takes the place of one in a pool, by their times and checks.
pub(crate) fn takes_place(rule: Rule, in_bucket: (u64, u16), in_pool: (u64, u16)) -> bool {
    match rule {
        Rule::Content => false,
        Rule::Replace => in_bucket.0 > in_pool.0,
        Rule::First => in_bucket != in_pool,
    }
}

/// Which of several entries of a key counts.
pub(crate) fn rule_of(dialect: Dialect) -> Rule {
    match dialect {
        Dialect::Cas(_) => Rule::Content,
        Dialect::ActionResult | Dialect::OpaqueActionResult => Rule::Replace,
        Dialect::Nx => Rule::First,
    }
}

/// Where the entries of a scope live in the bucket.
pub(crate) fn realm_of(workspace: &WorkspaceName, scope: &Scope) -> Option<Realm> {
    let trust = if scope.is_trusted() {
        Trust::Trusted
    } else {
        Trust::Untrusted
    };
    // Every workspace's name is a realm's.
    Realm::new(workspace.as_str(), trust).ok()
}

/// Whose turns at the bucket a caller uses.
pub(crate) fn lane_of(kind: AccessKind) -> Trust {
    if kind.writes_trusted() {
        Trust::Trusted
    } else {
        Trust::Untrusted
    }
}

/// The orders that were given; none can be given as long as it is held.
pub(crate) struct Gate<'t>(RwLockReadGuard<'t, Vec<Arc<Order>>>);

impl Gate<'_> {
    pub(crate) fn lets_in(&self, head: &RecordHead<'_>) -> bool {
        let forbids =
            |order: &Arc<Order>| head.written_at_ms <= order.until_ms && order.names(head);
        !self.0.iter().any(forbids)
    }
}

/// Keeps an older entry of the bucket from taking the place of a newer one that is stored at the same time. Writers share a
/// turn; what is brought from the bucket to replace an entry has one for itself, from the look at what is there to the end.
struct KeyTurns {
    random: RandomState,
    turns: [RwLock<()>; TURN_COUNT],
}

impl Default for KeyTurns {
    fn default() -> Self {
        Self {
            random: RandomState::new(),
            turns: std::array::from_fn(|_| RwLock::default()),
        }
    }
}

impl KeyTurns {
    fn of(&self, key: &[u8]) -> &RwLock<()> {
        &self.turns[self.random.hash_one(key) as usize % TURN_COUNT]
    }
}

/// What is done with an entry once it is in its pool.
#[derive(Debug, Clone)]
pub(crate) struct Offering {
    tier: Arc<Tier>,
    realm: Realm,
    key: Box<[u8]>,
    rule: Rule,
}

impl Offering {
    /// Held by a writer while the pool takes the entry.
    pub(crate) fn turn(&self) -> Option<RwLockReadGuard<'_, ()>> {
        match self.rule {
            Rule::Content => None,
            Rule::Replace | Rule::First => Some(read(self.tier.turns.of(&self.key))),
        }
    }

    /// Offers the entry, which the pool has taken, and waits for the bucket if that is the contract. An entry that is not
    /// in the bucket then stays in the pool and in the queue.
    pub(crate) async fn make(&self, body_bytes: u64) -> Result<Stored, PutRefusal> {
        let Self {
            tier,
            realm,
            key,
            rule,
        } = self;
        let bucket = &tier.bucket;
        match tier.ack {
            Ack::Local => {
                bucket.offer(realm, key, *rule, body_bytes);
                Ok(Stored::New)
            }
            Ack::Bucket => {
                let offer = bucket.offer_and_wait(realm, key, *rule, body_bytes, ACK_WAIT_MAX);
                match offer.await {
                    Delivery::Stored => Ok(Stored::New),
                    Delivery::Lost => Ok(Stored::Exists),
                    Delivery::Failed => Err(PutRefusal::Unavailable),
                }
            }
        }
    }

    /// The same for an entry that somebody else has stored: whoever is told that it exists relies on it.
    pub(crate) async fn make_existing(&self, body_bytes: u64) -> Result<Stored, PutRefusal> {
        let is_there = self.tier.bucket.lookup(&self.realm, &self.key).is_some();
        match self.tier.ack {
            Ack::Bucket if !is_there => self.make(body_bytes).await.map(|_| Stored::Exists),
            Ack::Bucket | Ack::Local => Ok(Stored::Exists),
        }
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
