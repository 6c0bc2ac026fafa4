//! A pool that may still be loading, or may have failed to open.
//!
//! The server listens before its index is loaded. Until then a request waits a bounded time for
//! the pool and then gets a miss or a refusal; a pool that failed to open stays that way, and the
//! process goes on serving what it can.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use larder_model::Scope;
use larder_store::{OpenError, Pool};
use tokio::sync::SetOnce;

use crate::lanes::within;

/// How long a request waits for a pool that is still loading. Longer than any index takes to
/// load, and shorter than a person takes to think that a build hangs.
pub const LOAD_WAIT_MAX: Duration = Duration::from_secs(10);

/// How far a pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolState {
    /// The index is being loaded.
    Loading,
    /// It serves.
    Ready,
    /// It could not be opened: every read of it is a miss, every write to it is refused.
    Failed,
}

/// One pool, from before it is opened. Clones share it.
#[derive(Clone)]
pub struct PoolHandle {
    /// `None` in the cell: the pool failed to open.
    opened: Arc<SetOnce<Option<Pool>>>,
}

impl PoolHandle {
    /// A pool that is about to be opened.
    pub fn loading() -> Self {
        Self {
            opened: Arc::new(SetOnce::new()),
        }
    }

    /// Opens the pool by calling `open`. Blocks; call it off the async threads, once. A failure
    /// is logged and the pool is [`PoolState::Failed`] from then on, also when `open` panics.
    pub fn load(&self, open: impl FnOnce() -> Result<Pool, OpenError>) -> PoolState {
        let pool = match catch_unwind(AssertUnwindSafe(open)) {
            Ok(Ok(pool)) => Some(pool),
            Ok(Err(error)) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "a pool cannot be opened: its entries are misses");
                None
            }
            Err(_) => {
                tracing::error!("opening a pool panicked: its entries are misses");
                None
            }
        };
        if self.opened.set(pool).is_err() {
            tracing::error!("a pool was opened twice; the first one is in use");
        }
        self.state()
    }

    /// How far the pool is.
    pub fn state(&self) -> PoolState {
        match self.opened.get() {
            None => PoolState::Loading,
            Some(Some(_)) => PoolState::Ready,
            Some(None) => PoolState::Failed,
        }
    }

    /// The pool, if it is ready.
    pub fn pool(&self) -> Option<&Pool> {
        self.opened.get()?.as_ref()
    }

    /// The pool, waiting up to [`LOAD_WAIT_MAX`] for it to be loaded.
    pub(crate) async fn wait(&self) -> Option<&Pool> {
        match self.opened.get() {
            Some(opened) => opened.as_ref(),
            None => within(LOAD_WAIT_MAX, self.opened.wait()).await?.as_ref(),
        }
    }

    /// Whether both are the same pool.
    pub(crate) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.opened, &other.opened)
    }
}

impl std::fmt::Debug for PoolHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PoolHandle({:?})", self.state())
    }
}

/// The two pools of a workspace: what untrusted writers do in theirs cannot displace what is in
/// the other.
#[derive(Debug, Clone)]
pub struct PoolPair {
    /// Where the trusted scope lives.
    pub trusted: PoolHandle,
    /// Where every untrusted scope lives.
    pub untrusted: PoolHandle,
}

impl PoolPair {
    /// The pool where `scope` lives.
    pub(crate) fn of(&self, scope: &Scope) -> &PoolHandle {
        if scope.is_trusted() {
            &self.trusted
        } else {
            &self.untrusted
        }
    }
}
