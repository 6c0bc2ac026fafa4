//! The control plane: purge, quarantine, entries one by one, stats and verify, over an [`AdminGrant`].
//!
//! A grant for one workspace sees and touches that workspace alone: what pools hold for others,
//! and how full shared pools are, is not its business (G3). Each call reads whole pools, so it
//! runs off the async threads, in turns ([`crate::turns`]), reports progress and can be stopped by it.

mod change;
mod entries;
mod filter;
mod order;
mod stats;

use larder_model::{AdminGrant, WorkspaceName};
use larder_store::{Pool, StoreError};

use crate::cache::{Cache, NamedPool};
use crate::turns::ControlTurn;

pub use change::{CHANGED_ROW_COUNT_MAX, Change, Changed, ChangedRow};
pub use entries::{ENTRY_REPORT_COUNT_MAX, Entries, EntryPlace, EntryReport, Export};
pub use filter::{EntryFilter, KeyFilter, Selection};
pub use larder_store::{Standing, Verified};
pub use order::{Order, OrderKeeper, OrderNotKept};
pub use stats::{PoolReport, STATS_ROW_COUNT_MAX, Stats, StatsRow};

/// Why a control call did nothing, or not all.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The grant is for another workspace, or the call is about all of them.
    #[error("this credential administers the workspace {workspace:?} only")]
    OtherWorkspace {
        /// The workspace the grant is for.
        workspace: String,
    },
    /// The pools are shared with other workspaces, and the grant is for one of them.
    #[error("only the server's operator can do this: the pools are shared with other workspaces")]
    SharedPools,
    /// A selection that names nothing.
    #[error("name at least one thing to select by, or ask for everything")]
    NothingSelected,
    /// As many control calls as may run are running, or one of this workspace.
    #[error("another purge, verification or count is running")]
    Busy,
    /// A pool is loading, broken or closed.
    #[error("the pool {pool} is not available")]
    Unavailable {
        /// The pool's name in reports.
        pool: String,
    },
    /// The bucket would go on having the entries, as nobody can keep in mind that they are not to be served; nothing was
    /// changed.
    #[error("nothing was changed")]
    NotKept(#[from] OrderNotKept),
    /// More entries than can be released at once; nothing was changed.
    #[error("more than {limit} entries at once: add a condition")]
    TooMany {
        /// The most entries.
        limit: u64,
    },
    /// The store failed.
    #[error("the store failed")]
    Store(#[source] StoreError),
    /// The store failed half-way.
    #[error(
        "the store failed when {entries} entries had been selected, and some of them may not be changed: repeat this"
    )]
    Incomplete {
        /// How many entries had been selected.
        entries: u64,
        /// Bytes of their bodies.
        bytes: u64,
        /// Why.
        source: StoreError,
    },
}

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::TooMany { limit } => Self::TooMany { limit },
            error => Self::Store(error),
        }
    }
}

impl Cache {
    /// Re-reads every entry against its checksums. What does not verify becomes a miss. `progress`
    /// is called with entries read and entries in all, and stops the verification by returning false.
    pub async fn verify(
        &self,
        grant: &AdminGrant,
        mut progress: impl FnMut(u64, u64) -> bool + Send + 'static,
    ) -> Result<Verified, ControlError> {
        let mut pools = self.open_pools(grant.workspace()).await?;
        if grant.workspace().is_some() {
            pools.retain(|pool| pool.owned);
            if pools.is_empty() {
                return Err(ControlError::SharedPools);
            }
        }
        let turn = self.control_turn(grant).await?;
        off_thread(turn, move || {
            let mut verified = Verified::default();
            for_each_pool(&pools, &mut progress, |pool, progress| {
                let part = pool.verify(progress);
                verified.entries += part.entries;
                verified.bytes += part.bytes;
                verified.corrupt += part.corrupt;
                Ok(())
            })?;
            Ok(verified)
        })
        .await
    }

    /// The pools where entries of `workspace` may live, or all: its own, and the shared ones, where
    /// it may have left entries before it had its own.
    async fn open_pools(
        &self,
        workspace: Option<&WorkspaceName>,
    ) -> Result<Vec<OpenPool>, ControlError> {
        let mut open = Vec::new();
        for NamedPool {
            name,
            owner,
            handle,
        } in self.pools()
        {
            let foreign = matches!((owner, workspace), (Some(owner), Some(of)) if owner != of);
            if foreign {
                continue;
            }
            match handle.wait().await {
                Some(pool) => {
                    open.push(OpenPool {
                        name,
                        owned: owner.is_some(),
                        pool: pool.clone(),
                    });
                }
                None => return Err(ControlError::Unavailable { pool: name }),
            }
        }
        Ok(open)
    }

    /// A turn at the control plane: for a call that looks something up elsewhere first, and must not do even that while others
    /// of its like do.
    pub async fn control_turn(&self, grant: &AdminGrant) -> Result<ControlTurn, ControlError> {
        let turn = self.control_turns.take(grant).await;
        turn.ok_or(ControlError::Busy)
    }
}

/// Does a job that reads whole pools, off the async threads. The turn is held until it is done, whoever waits for it.
async fn off_thread<T: Send + 'static>(
    turn: ControlTurn,
    job: impl FnOnce() -> Result<T, ControlError> + Send + 'static,
) -> Result<T, ControlError> {
    let done = tokio::task::spawn_blocking(move || {
        let done = job();
        drop(turn);
        done
    });
    match done.await {
        Ok(done) => done,
        Err(_) => Err(ControlError::Unavailable {
            pool: "of this server".to_owned(),
        }),
    }
}

/// What an administrator of one workspace is told of `total` entries, most of which may be of others, and how many there are is
/// not its business (G3): how far the work is of this many parts.
const SHARE_PARTS: u64 = 1000;

/// The progress as the holder of `grant` may see it.
fn as_seen_by(
    grant: &AdminGrant,
    mut progress: impl FnMut(u64, u64) -> bool + Send + 'static,
) -> impl FnMut(u64, u64) -> bool + Send + 'static {
    let in_parts = grant.workspace().is_some();
    move |done, total| {
        if !in_parts {
            return progress(done, total);
        }
        let parts =
            u128::from(done.min(total)) * u128::from(SHARE_PARTS) / u128::from(total.max(1));
        progress(parts as u64, SHARE_PARTS)
    }
}

struct OpenPool {
    name: String,
    /// Whether one workspace has it for itself.
    owned: bool,
    pool: Pool,
}

/// Does `step` to each pool, with one progress over all of them; stops when progress says so.
fn for_each_pool(
    pools: &[OpenPool],
    progress: &mut impl FnMut(u64, u64) -> bool,
    mut step: impl FnMut(&Pool, &mut dyn FnMut(u64, u64) -> bool) -> Result<(), StoreError>,
) -> Result<(), ControlError> {
    let mut counts: Vec<u64> = pools.iter().map(|pool| pool.pool.usage().entries).collect();
    let mut stopped = false;
    for (index, pool) in pools.iter().enumerate() {
        step(&pool.pool, &mut |done, total| {
            counts[index] = total;
            let before: u64 = counts[..index].iter().sum();
            stopped = !progress(before + done, counts.iter().sum());
            !stopped
        })?;
        if stopped {
            break;
        }
    }
    Ok(())
}
