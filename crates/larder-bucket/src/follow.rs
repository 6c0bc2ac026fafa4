//! Following the catalogue: what other nodes stored becomes known, what has expired is forgotten.
//!
//! However many ask, one query is under way, and it is shared by all who ask meanwhile. A new pack costs one ranged GET of
//! its index, none if its file is here. A pack whose index cannot be had now is tried again each time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::SetOnce;
use tokio::time::{Instant, timeout};

use crate::catalogue::Change;
use crate::inner::{Inner, Missing};
use crate::shelf::Known;

/// Rows of one query.
const CHANGE_COUNT: u32 = 1000;
/// Indexes that are loaded at once.
const LOADS_AT_ONCE: usize = 32;
/// How long a look-up waits for what is new: longer than a query and a GET take, and short beside a build's patience.
const REFRESH_WAIT_MAX: Duration = Duration::from_secs(2);
/// How long the catalogue may take.
pub(crate) const CATALOGUE_WAIT_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Rounds {
    began: Option<Instant>,
    /// Set when the round that is under way ends.
    under_way: Option<Arc<SetOnce<()>>>,
}

/// How far the node has followed.
#[derive(Debug, Default)]
struct Progress {
    revision: u64,
    /// Packs whose index could not be had yet.
    waiting: HashMap<u32, Arc<Known>>,
}

/// Where a node is in the catalogue.
#[derive(Debug, Default)]
pub(crate) struct Follower {
    rounds: Mutex<Rounds>,
    progress: tokio::sync::Mutex<Progress>,
    /// Set once all that was in the catalogue at the start is known.
    pub(crate) caught_up: SetOnce<()>,
}

/// Ends the round also when it panics.
struct Round(Arc<Inner>);

impl Drop for Round {
    fn drop(&mut self) {
        if let Some(ended) = self.0.follower.rounds.lock().under_way.take() {
            let _ = ended.set(());
        }
    }
}

impl Inner {
    /// Sees to it that a round began at most `freshness` ago, and waits for it a bounded time.
    pub(crate) async fn refresh(self: &Arc<Self>, freshness: Duration) {
        let ended = {
            let mut rounds = self.follower.rounds.lock();
            let is_fresh = |began: Instant| began.elapsed() < freshness;
            match &rounds.under_way {
                Some(ended) => ended.clone(),
                None if rounds.began.is_some_and(is_fresh) => return,
                None => {
                    let ended = Arc::new(SetOnce::new());
                    rounds.began = Some(Instant::now());
                    rounds.under_way = Some(ended.clone());
                    let round = Round(self.clone());
                    tokio::spawn(async move { round.0.follow().await });
                    ended
                }
            }
        };
        let _ = timeout(REFRESH_WAIT_MAX, ended.wait()).await;
    }

    /// One round: all changes since the last one. Returns whether everything is known now.
    pub(crate) async fn follow(self: &Arc<Self>) -> bool {
        let mut progress = self.follower.progress.lock().await;
        loop {
            let query = self.catalogue.changes(progress.revision, CHANGE_COUNT);
            let changes = match timeout(CATALOGUE_WAIT_MAX, query).await {
                Ok(Ok(changes)) => changes,
                Ok(Err(error)) => {
                    self.tell_catalogue("reading changes", &error);
                    return false;
                }
                Err(late) => {
                    self.tell_catalogue("reading changes", &late);
                    return false;
                }
            };
            let is_last = changes.len() < CHANGE_COUNT as usize;
            let Some(last) = changes.last().map(|change| change.revision) else {
                break;
            };
            self.take_in(changes, &mut progress).await;
            progress.revision = last;
            if is_last {
                break;
            }
        }
        let waiting: Vec<Arc<Known>> = progress.waiting.drain().map(|(_, known)| known).collect();
        if self.link.open_for().is_none() {
            self.load_all(waiting, &mut progress).await;
        } else {
            let waiting = waiting.into_iter().map(|known| (known.number, known));
            progress.waiting.extend(waiting);
        }
        if !self.follower.caught_up.initialized() {
            self.clean_shelf(&progress).await;
            let _ = self.follower.caught_up.set(());
        }
        progress.waiting.is_empty()
    }

    async fn take_in(self: &Arc<Self>, changes: Vec<Change>, progress: &mut Progress) {
        let (removed, added): (Vec<Change>, Vec<Change>) =
            changes.into_iter().partition(|change| change.removed);
        let removed: HashSet<u32> = removed.iter().map(|change| change.number).collect();
        progress
            .waiting
            .retain(|number, _| !removed.contains(number));
        if removed.iter().any(|number| self.shelf.has(*number)) {
            self.drop_packs(removed).await;
        }
        let is_new = |change: &Change| !self.shelf.has(change.number);
        let new = added.into_iter().filter(is_new).map(|change| {
            Arc::new(Known {
                number: change.number,
                pack: change.pack,
            })
        });
        let new = new.collect();
        self.load_all(new, progress).await;
    }

    /// Loads packs' indexes; what cannot be had now is left for later.
    async fn load_all(self: &Arc<Self>, packs: Vec<Arc<Known>>, progress: &mut Progress) {
        let loads = packs.into_iter().map(|known| {
            let inner = self.clone();
            async move {
                let loaded = inner.load_pack(&known).await;
                loaded.is_err().then_some(known)
            }
        });
        let mut loads = futures_util::stream::iter(loads).buffer_unordered(LOADS_AT_ONCE);
        while let Some(failed) = loads.next().await {
            progress
                .waiting
                .extend(failed.map(|known| (known.number, known)));
        }
    }

    /// Makes a pack known. `Err`: it cannot be told whether it is there.
    async fn load_pack(self: &Arc<Self>, known: &Arc<Known>) -> Result<(), Missing> {
        let age_ms = self.now_ms().saturating_sub(known.pack.created_at_ms);
        if age_ms > self.expire_ms() {
            // Known only for the one who cleans up.
            self.shelf.add(known.clone());
            return Ok(());
        }
        let (inner, pack) = (self.clone(), known.clone());
        let load = move || {
            let key = &inner.settings.mac_key;
            let index = inner.shelf.load(key, pack.number, &pack.pack)?;
            inner.apply(pack, &Arc::new(index));
            Some(())
        };
        if let Ok(Some(())) = tokio::task::spawn_blocking(load).await {
            return Ok(());
        }
        let index = match self.fetch_index(known, known.pack.realm.trust()).await {
            Ok(index) => index,
            Err(Missing::Gone) => return Ok(()),
            Err(Missing::Unavailable) => return Err(Missing::Unavailable),
        };
        let (inner, pack) = (self.clone(), known.clone());
        let apply = move || inner.apply(pack, &Arc::new(index));
        let applied = tokio::task::spawn_blocking(apply).await;
        applied.map_err(|_| Missing::Unavailable)
    }

    /// Deletes the files of packs that are no longer in the catalogue.
    async fn clean_shelf(self: &Arc<Self>, progress: &Progress) {
        if !progress.waiting.is_empty() {
            return;
        }
        let inner = self.clone();
        let cleaned = tokio::task::spawn_blocking(move || inner.shelf.clean()).await;
        if let Ok(Err(error)) = cleaned {
            self.tell_disk("cleaning the known indexes", &error);
        }
    }
}
