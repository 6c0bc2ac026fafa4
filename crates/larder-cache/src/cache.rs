//! The cache: get and put over grants.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use bytes::{Bytes, BytesMut};
use larder_bucket::Unavailable;
use larder_model::{Dialect, EntryKey, ReadGrant, Scope, WorkspaceName, WriteGrant, WriterId};
use larder_store::{Begin, Entry, Pool, Wait, WouldBlock};

use crate::body::HitBody;
use crate::bring::Place;
use crate::found::Found;
use crate::key::StorageKey;
use crate::lanes::{COLD_READ_WAIT_MAX, Lane, Lanes, permits};
use crate::metrics::{CacheCollector, CacheMetrics, KindSeries};
use crate::pool::{PoolHandle, PoolPair};
use crate::spool::{Spool, Target};
use crate::stream::{Keep, Proof, Stream};
use crate::tier::{Ack, Offering, Tier, lane_of, realm_of};
use crate::turns::ControlTurns;
use crate::upload::{
    COLLECTED_BYTES_MAX, CollectedBody, Collection, Draft, Promise, PutRefusal, PutStart, Sink,
    Upload,
};

/// The most bytes of an entry where nobody said otherwise: far above any task's output that is
/// worth caching, and far below what would empty a pool.
pub const ENTRY_BYTES_MAX_DEFAULT: u64 = 2 << 30;

/// Limits an operator sets; can be replaced while the cache is in use.
#[derive(Debug, Clone)]
pub struct CacheLimits {
    /// The most bytes of an entry.
    pub entry_bytes_max: u64,
    /// The same for workspaces that have a limit of their own.
    pub workspace_entry_bytes_max: HashMap<WorkspaceName, u64>,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self {
            entry_bytes_max: ENTRY_BYTES_MAX_DEFAULT,
            workspace_entry_bytes_max: HashMap::new(),
        }
    }
}

/// An entry that was found.
pub struct Hit {
    /// The length of the body.
    pub size: u64,
    /// When the entry was stored, in unix milliseconds.
    pub written_at_ms: u64,
    /// Who stored it.
    pub writer: WriterId,
    /// What the protocol stored with it.
    pub metadata: Bytes,
    /// The bytes.
    pub body: HitBody,
}

/// A look-up would have to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAtHand;

/// What a look-up does about a scope that cannot be read now, because its pool is not there or the wait took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// It is over: what would be found behind a scope that goes first could be another entry (R2).
    EndsIt,
    /// It goes on with the next scope: a blob is the same wherever it is found.
    IsPassed,
}

/// Entries in pools, behind grants.
#[derive(Debug)]
pub struct Cache {
    shared: PoolPair,
    own: HashMap<WorkspaceName, PoolPair>,
    limits: ArcSwap<CacheLimits>,
    metrics: CacheMetrics,
    pub(crate) lanes: Lanes,
    pub(crate) control_turns: ControlTurns,
    /// Of exports, which last as long as their readers.
    pub(crate) export_turns: ControlTurns,
    pub(crate) tier: Option<Arc<Tier>>,
}

impl Cache {
    /// A cache over the pools that workspaces share and those that some have for themselves.
    pub fn new(
        shared: PoolPair,
        own: HashMap<WorkspaceName, PoolPair>,
        limits: CacheLimits,
        metrics: CacheMetrics,
    ) -> Self {
        let limits = ArcSwap::from_pointee(limits);
        Self {
            shared,
            own,
            limits,
            metrics,
            lanes: Lanes::new(),
            control_turns: ControlTurns::new(),
            export_turns: ControlTurns::new(),
            tier: None,
        }
    }

    /// Puts a bucket behind the pools. The cache is what [`larder_bucket::Bucket::run`] is to be given.
    #[must_use]
    pub fn with_tier(mut self, tier: Tier) -> Self {
        self.tier = Some(Arc::new(tier));
        self
    }

    /// The bucket behind the pools, if there is one.
    pub fn tier(&self) -> Option<&Tier> {
        self.tier.as_deref()
    }

    /// Puts other limits in force for everything that begins from now on.
    pub fn set_limits(&self, limits: CacheLimits) {
        self.limits.store(Arc::new(limits));
    }

    /// The most bytes of an entry in this workspace.
    pub fn entry_bytes_max(&self, workspace: &WorkspaceName) -> u64 {
        let limits = self.limits.load();
        let own = limits.workspace_entry_bytes_max.get(workspace);
        own.copied().unwrap_or(limits.entry_bytes_max)
    }

    /// The cache's counters.
    pub fn metrics(&self) -> &CacheMetrics {
        &self.metrics
    }

    /// Everything the cache and its pools count, to be registered once.
    pub fn collector(&self) -> CacheCollector {
        let pools = self
            .pools()
            .into_iter()
            .map(|pool| (pool.name, pool.handle.clone()));
        CacheCollector {
            metrics: self.metrics.clone(),
            pools: pools.collect(),
        }
    }

    /// Finds an entry: in `trusted` first, then in the caller's own scope (R2). Every doubt is a miss.
    pub async fn get(&self, grant: &ReadGrant, dialect: Dialect, key: &EntryKey) -> Option<Hit> {
        self.get_from(grant, dialect, key, 0)
            .await
            .map(|(hit, _)| hit)
    }

    /// [`Cache::get`] from a step of the caller's read path on: 0 is `trusted`. Returns the step to go on
    /// from as well, for callers that find an entry unfit and want the next scope's.
    pub async fn get_from(
        &self,
        grant: &ReadGrant,
        dialect: Dialect,
        key: &EntryKey,
        from: usize,
    ) -> Option<(Hit, usize)> {
        let started = Instant::now();
        let name = |scope: &Scope| StorageKey::encode(grant.workspace(), scope, dialect, key);
        let found = self.find(grant, &name, from, Doubt::EndsIt, |_| true);
        let found = found.await;
        let (entry, next) = found.map_or((None, from), |(entry, next)| (Some(entry), next));
        let hit = self.found(entry, grant, dialect, started)?;
        Some((hit, next))
    }

    /// [`Cache::get`] for an answer that is at hand. [`NotAtHand`] says that there would be
    /// something to wait for: a pool that is still loading, or the disk. Then nothing has happened,
    /// and nothing is counted.
    pub fn get_at_hand(
        &self,
        grant: &ReadGrant,
        dialect: Dialect,
        key: &EntryKey,
    ) -> Result<Option<Hit>, NotAtHand> {
        let started = Instant::now();
        let name = |scope: &Scope| StorageKey::encode(grant.workspace(), scope, dialect, key);
        let found = self.find_at_hand(grant, name, Doubt::EndsIt, |_| true)?;
        Ok(self.found(found, grant, dialect, started))
    }

    /// Counts a look-up that is over.
    pub(crate) fn found(
        &self,
        entry: Option<Found>,
        grant: &ReadGrant,
        dialect: Dialect,
        started: Instant,
    ) -> Option<Hit> {
        let series = self
            .metrics
            .series(dialect, grant.workspace(), grant.kind());
        let Some(entry) = entry else {
            series.miss(started.elapsed());
            return None;
        };
        series.hit(started.elapsed());
        let lane = self.lanes.of(grant.kind()).clone();
        Some(Hit {
            size: entry.size,
            written_at_ms: entry.written_at_ms,
            writer: WriterId(entry.writer),
            metadata: entry.metadata,
            body: HitBody::new(entry.body, entry.size, lane, series),
        })
    }

    /// The first entry that `fits`, of those called `name` along the caller's read path behind its first
    /// `from` steps; and the step behind it.
    pub(crate) async fn find(
        &self,
        grant: &ReadGrant,
        name: &(impl Fn(&Scope) -> StorageKey + Sync),
        from: usize,
        doubt: Doubt,
        fits: impl Fn(&Found) -> bool,
    ) -> Option<(Found, usize)> {
        let pair = self.pair(grant.workspace());
        for (step, scope) in grant.path().scopes().enumerate().skip(from) {
            let read = match pair.of(&scope).wait().await {
                None => None,
                Some(pool) => {
                    let read = if let Ok(entry) = warm(pool, || name(&scope)) {
                        Some(entry)
                    } else {
                        let key = name(&scope).as_bytes().into();
                        read_cold(pool.clone(), key, self.lanes.of(grant.kind())).await
                    };
                    match (&self.tier, read) {
                        (Some(tier), Some(entry)) => {
                            // On the heap: without a bucket it must not make every request larger.
                            Box::pin(self.beyond(tier, pool, grant, &scope, name, entry)).await
                        }
                        (_, read) => read.map(|entry| entry.map(Found::from)),
                    }
                }
            };
            match (read, doubt) {
                (None, Doubt::EndsIt) => return None,
                (None, Doubt::IsPassed) => {}
                (Some(entry), _) => {
                    if let Some(entry) = entry.filter(&fits) {
                        return Some((entry, step + 1));
                    }
                }
            }
        }
        None
    }

    /// What there is of a key in a scope, with what the bucket has, if this is what the pool has. `None`: a doubt.
    async fn beyond(
        &self,
        tier: &Arc<Tier>,
        pool: &Pool,
        grant: &ReadGrant,
        scope: &Scope,
        name: &(impl Fn(&Scope) -> StorageKey + Sync),
        local: Option<Entry>,
    ) -> Option<Option<Found>> {
        let local = local.map(Found::from);
        let Some(realm) = realm_of(grant.workspace(), scope) else {
            return Some(local);
        };
        if let Some(entry) = &local
            && !tier.supersedes(
                &realm,
                name(scope).as_bytes(),
                (entry.written_at_ms, entry.check),
            )
        {
            return Some(local);
        }
        let place = Place {
            realm,
            key: name(scope).as_bytes().into(),
            pool: pool.clone(),
            lane: self.lanes.of(grant.kind()).clone(),
            trust: lane_of(grant.kind()),
        };
        if local.is_none() && tier.look_up(&place.realm, &place.key).await.is_none() {
            return Some(None);
        }
        match (tier.bring(place).await, local) {
            (Ok(Some(found)), _) => Some(Some(found)),
            (_, Some(local)) => Some(Some(local)),
            (Ok(None), None) => Some(None),
            (Err(Unavailable), None) => None,
        }
    }

    /// [`Cache::find`] without waiting for anything. What is at hand in no scope and in doubt in one is not at hand.
    pub(crate) fn find_at_hand(
        &self,
        grant: &ReadGrant,
        name: impl Fn(&Scope) -> StorageKey,
        doubt: Doubt,
        fits: impl Fn(&Found) -> bool,
    ) -> Result<Option<Found>, NotAtHand> {
        let pair = self.pair(grant.workspace());
        let mut missing = Ok(None);
        for scope in grant.path().scopes() {
            let pool = pair.of(&scope).pool().ok_or(NotAtHand);
            let read =
                pool.and_then(|pool| warm(pool, || name(&scope)).map_err(|WouldBlock| NotAtHand));
            let read = match (&self.tier, read) {
                (Some(tier), Ok(entry)) => {
                    let key = name(&scope);
                    is_enough(tier, grant.workspace(), &scope, key, entry.as_ref()).map(|()| entry)
                }
                (_, read) => read,
            };
            let read = read.map(|entry| entry.map(Found::from));
            match (read, doubt) {
                (Err(NotAtHand), Doubt::EndsIt) => return Err(NotAtHand),
                (Err(NotAtHand), Doubt::IsPassed) => missing = Err(NotAtHand),
                (Ok(entry), _) => {
                    let entry = entry.filter(&fits);
                    if entry.is_some() {
                        return Ok(entry);
                    }
                }
            }
        }
        missing
    }

    /// Begins to store an entry of `size` bytes; `None` is a size that the writer does not know. An entry of
    /// a replaceable dialect takes the place of the one in the writer's scope, any other one conflicts with
    /// every entry that its writer can see (R4, R5).
    pub async fn put(
        &self,
        grant: &WriteGrant,
        dialect: Dialect,
        key: &EntryKey,
        size: Option<u64>,
        metadata: Bytes,
    ) -> Result<PutStart, PutRefusal> {
        let series = self
            .metrics
            .series(dialect, grant.workspace(), grant.kind());
        let start = self
            .begin(grant, dialect, key, size, metadata, &series)
            .await;
        series.count_start(&start);
        start
    }

    async fn begin(
        &self,
        grant: &WriteGrant,
        dialect: Dialect,
        key: &EntryKey,
        size: Option<u64>,
        metadata: Bytes,
        series: &Arc<KindSeries>,
    ) -> Result<PutStart, PutRefusal> {
        let started = Instant::now();
        let replace = dialect.is_replaceable();
        let own = StorageKey::encode(grant.workspace(), grant.scope(), dialect, key);
        if !replace
            && self.visible(grant.visible(), dialect, key).await?
            && !self.awaits_bucket(grant, &own)
        {
            return Ok(PutStart::Exists);
        }
        let limit = self.entry_bytes_max(grant.workspace());
        if size.is_some_and(|size| size > limit) {
            return Err(PutRefusal::TooLarge { limit });
        }
        let handle = self.pair(grant.workspace()).of(grant.scope());
        let pool = handle.wait().await.ok_or(PutRefusal::Unavailable)?;
        let intent = Intent {
            draft: Draft {
                key: own,
                metadata,
                check: self.tier.as_ref().map_or(0, |tier| tier.random_check()),
                writer: grant.writer().0,
                dialect,
                replace,
            },
            declared: size,
            limit,
            proof: None,
            promise: None,
            started,
        };
        self.admit(grant, pool, intent, series)
    }

    /// Finds the place where an entry's bytes can go.
    pub(crate) fn admit(
        &self,
        grant: &WriteGrant,
        pool: &Pool,
        intent: Intent,
        series: &Arc<KindSeries>,
    ) -> Result<PutStart, PutRefusal> {
        let Intent {
            draft,
            declared,
            limit,
            proof,
            promise,
            started,
        } = intent;
        let offering = self.offering(grant, &draft);
        let lane = self.lanes.of(grant.kind());
        let small = declared.filter(|size| *size <= COLLECTED_BYTES_MAX);
        // What an upload in memory decodes to would have no bound but the limit.
        let small = small.filter(|_| {
            proof
                .as_ref()
                .is_none_or(|proof| proof.keep == Keep::AsSent)
        });
        let memory = small.and_then(|size| lane.memory(size as u32));
        let sink = if let (Some(size), Some(memory)) = (small, memory) {
            Sink::Collected(Box::new(Collection {
                draft,
                pool: pool.clone(),
                body: CollectedBody::Growing(BytesMut::with_capacity(size as usize), memory),
                verification: proof.map(|proof| proof.verification),
                verified: 0,
            }))
        } else {
            let stored_bytes = match &proof {
                Some(proof) if proof.keep == Keep::Uncompressed => None,
                _ => declared,
            };
            let (reserved, most) = (stored_bytes.unwrap_or(0), pool.body_bytes_max());
            let room = lane.rooms.hold(grant.workspace(), reserved, most);
            let room = room.ok_or(PutRefusal::Busy)?;
            let target = if stored_bytes.is_some() {
                match pool.begin(&draft.record(), stored_bytes) {
                    Ok(Begin::Upload(upload)) => Target::Upload(upload),
                    Ok(Begin::Exists) => {
                        promise.as_ref().map_or(Ok(()), Promise::keep)?;
                        return Ok(PutStart::Exists);
                    }
                    Err(error) => return Err(PutRefusal::of(&error)),
                }
            } else {
                Target::Spool(Box::new(Spool::new(draft, pool.clone(), lane.clone())))
            };
            Sink::Streamed(Box::new(Stream::new(target, room, proof, lane)))
        };
        Ok(PutStart::Upload(Upload {
            sink,
            declared,
            received: 0,
            limit,
            durability: pool.durability(),
            promise,
            offering,
            lane: lane.clone(),
            turn: None,
            series: series.clone(),
            started,
        }))
    }

    /// Whether the holder of `grant` can see an entry under `key` (R5).
    async fn visible(
        &self,
        grant: &ReadGrant,
        dialect: Dialect,
        key: &EntryKey,
    ) -> Result<bool, PutRefusal> {
        let pair = self.pair(grant.workspace());
        for scope in grant.path().scopes() {
            let pool = pair
                .of(&scope)
                .wait()
                .await
                .ok_or(PutRefusal::Unavailable)?;
            let key = StorageKey::encode(grant.workspace(), &scope, dialect, key);
            if pool.contains(key.as_bytes()) {
                return Ok(true);
            }
            if let Some(tier) = &self.tier
                && let Some(realm) = realm_of(grant.workspace(), &scope)
                && tier.bucket.is_reachable()
                && tier.bucket.lookup(&realm, key.as_bytes()).is_some()
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the writer's own scope has an entry that the bucket has yet to acknowledge: who sends it again is told that it exists
    /// once it is there.
    pub(crate) fn awaits_bucket(&self, grant: &WriteGrant, own: &StorageKey) -> bool {
        let Some(tier) = self.tier.as_ref().filter(|tier| tier.ack == Ack::Bucket) else {
            return false;
        };
        let realm = realm_of(grant.workspace(), grant.scope());
        let in_bucket = |realm| tier.bucket.lookup(&realm, own.as_bytes()).is_some();
        let pool = self.pair(grant.workspace()).of(grant.scope()).pool();
        realm.is_some_and(|realm| !in_bucket(realm))
            && pool.is_some_and(|pool| pool.contains(own.as_bytes()))
    }

    /// What is done with an entry once it is stored.
    pub(crate) fn offering(&self, grant: &WriteGrant, draft: &Draft) -> Option<Offering> {
        let tier = self.tier.as_ref()?;
        let key = draft.key.as_bytes();
        tier.offering(grant.workspace(), grant.scope(), draft.dialect, key)
    }

    pub(crate) fn pair(&self, workspace: &WorkspaceName) -> &PoolPair {
        self.own.get(workspace).unwrap_or(&self.shared)
    }

    /// Every pool once, with the name it has in metrics and reports.
    pub(crate) fn pools(&self) -> Vec<NamedPool<'_>> {
        let shared = std::iter::once((None, &self.shared));
        let own = self
            .own
            .iter()
            .map(|(workspace, pair)| (Some(workspace), pair));
        let mut pools: Vec<NamedPool<'_>> = Vec::new();
        for (owner, pair) in shared.chain(own) {
            for (part, handle) in [("trusted", &pair.trusted), ("untrusted", &pair.untrusted)] {
                if pools.iter().all(|pool| !pool.handle.same(handle)) {
                    let prefix = owner.map_or("shared", WorkspaceName::as_str);
                    pools.push(NamedPool {
                        name: format!("{prefix}/{part}"),
                        owner,
                        handle,
                    });
                }
            }
        }
        pools
    }
}

/// An entry that is about to be stored.
pub(crate) struct Intent {
    pub draft: Draft,
    /// The bytes that will be sent, if the writer knows.
    pub declared: Option<u64>,
    /// The most bytes that may be sent.
    pub limit: u64,
    /// For a blob: how its bytes are looked at.
    pub proof: Option<Proof>,
    /// For a blob: what is done if it turns out to be there.
    pub promise: Option<Promise>,
    pub started: Instant,
}

/// A pool and whose it is.
pub(crate) struct NamedPool<'a> {
    pub name: String,
    /// The only workspace whose entries live in it; `None`: many workspaces share it.
    pub owner: Option<&'a WorkspaceName>,
    pub handle: &'a PoolHandle,
}

/// Whether what the pool has of a key is all that a reader need know.
fn is_enough(
    tier: &Tier,
    workspace: &WorkspaceName,
    scope: &Scope,
    key: StorageKey,
    local: Option<&Entry>,
) -> Result<(), NotAtHand> {
    let Some(realm) = realm_of(workspace, scope) else {
        return Ok(());
    };
    match local {
        None => tier.is_unknown_at_hand(&realm, key.as_bytes()),
        Some(entry)
            if tier.supersedes(&realm, key.as_bytes(), (entry.written_at_ms, entry.check)) =>
        {
            Err(NotAtHand)
        }
        Some(_) => Ok(()),
    }
}

/// Reads what is in memory. The key lives on the stack, so no future should hold it.
fn warm(pool: &Pool, name: impl FnOnce() -> StorageKey) -> Result<Option<Entry>, WouldBlock> {
    pool.get(name().as_bytes(), Wait::Never)
}

/// Reads where it may block. `None`: no turn at the disk came in time.
async fn read_cold(pool: Pool, key: Box<[u8]>, lane: &Lane) -> Option<Option<Entry>> {
    let turn = permits(&lane.cold_reads, 1, COLD_READ_WAIT_MAX).await?;
    let read = tokio::task::spawn_blocking(move || {
        let entry = pool.get(&key, Wait::Allowed);
        drop(turn);
        entry
    });
    read.await.ok()?.ok()
}
