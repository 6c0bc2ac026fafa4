//! Memory for the windows of a lane's zstd decoders.
//!
//! A decoder lives as long as its client likes, so what there is has a limit, and whoever gets none waits for a
//! bounded time and holds nothing of it meanwhile. A workspace may have what is free; only the last quarter is for
//! those that have less than a quarter themselves, so that no tenant can take the last of it from the others.
//! Nobody waits in a line: of those that wait, the first that fits takes what is given back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use larder_model::WorkspaceName;
use tokio::sync::Notify;

use crate::lanes::{WINDOW_BYTES_MAX, within};

/// Up to here anybody may take what is free.
const FREE_FOR_ALL_BYTES: u64 = WINDOW_BYTES_MAX / 4 * 3;

/// What a workspace may hold of the rest together with all else it holds.
const WORKSPACE_BYTES_MAX: u64 = WINDOW_BYTES_MAX / 4;

/// Who holds how much of a lane's memory for windows.
#[derive(Debug, Default)]
pub(crate) struct WindowAccount {
    held: Mutex<Held>,
    given_back: Notify,
}

#[derive(Debug, Default)]
struct Held {
    all: u64,
    by_workspace: HashMap<WorkspaceName, u64>,
}

impl WindowAccount {
    fn change<T>(&self, change: impl FnOnce(&mut Held) -> T) -> T {
        change(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where the decoders of a workspace get theirs.
#[derive(Debug, Clone)]
pub(crate) struct WindowMemory {
    pub(crate) account: Arc<WindowAccount>,
    pub(crate) workspace: WorkspaceName,
}

impl WindowMemory {
    /// `None`: there is none at the moment.
    pub(crate) fn try_take(&self, bytes: u64) -> Option<WindowHold> {
        let fits = self.account.change(|held| {
            let own = held.by_workspace.get(&self.workspace).copied().unwrap_or(0);
            let (all, own) = (held.all.saturating_add(bytes), own.saturating_add(bytes));
            let fits = all <= FREE_FOR_ALL_BYTES
                || (all <= WINDOW_BYTES_MAX && own <= WORKSPACE_BYTES_MAX);
            if fits {
                held.all = all;
                held.by_workspace.insert(self.workspace.clone(), own);
            }
            fits
        });
        fits.then(|| WindowHold {
            bytes,
            memory: self.clone(),
        })
    }

    /// Waits at most `wait_max`. `None`: there was none in all that time.
    pub(crate) async fn take(&self, bytes: u64, wait_max: Duration) -> Option<WindowHold> {
        let take = async {
            loop {
                let mut given_back = std::pin::pin!(self.account.given_back.notified());
                given_back.as_mut().enable();
                if let Some(hold) = self.try_take(bytes) {
                    return hold;
                }
                given_back.await;
            }
        };
        within(wait_max, take).await
    }
}

/// What a decoder has of it, until it is dropped.
#[derive(Debug)]
pub(crate) struct WindowHold {
    bytes: u64,
    memory: WindowMemory,
}

impl WindowHold {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for WindowHold {
    fn drop(&mut self) {
        let WindowMemory { account, workspace } = &self.memory;
        account.change(|held| {
            held.all = held.all.saturating_sub(self.bytes);
            let own = held.by_workspace.get(workspace).copied().unwrap_or(0);
            match own.saturating_sub(self.bytes) {
                0 => held.by_workspace.remove(workspace),
                left => held.by_workspace.insert(workspace.clone(), left),
            }
        });
        account.given_back.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn windows(account: &Arc<WindowAccount>, name: &str) -> WindowMemory {
        WindowMemory {
            account: account.clone(),
            workspace: name.parse().unwrap(),
        }
    }

    #[test]
    fn a_workspace_has_what_is_free_but_the_last_quarter_and_gives_back_all() {
        let account = Arc::default();
        let (large, small) = (windows(&account, "large"), windows(&account, "small"));
        let first = large.try_take(768 * MIB).expect("three quarters are free");
        assert!(large.try_take(1).is_none());
        let second = small.try_take(256 * MIB).expect("a quarter is left");
        assert!(small.try_take(1).is_none());
        drop((first, second));
        assert!(account.change(|held| held.all == 0 && held.by_workspace.is_empty()));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_gets_what_is_given_back_or_nothing_after_a_while() {
        let account = Arc::default();
        let memory = windows(&account, "acme");
        let held = memory.try_take(768 * MIB).unwrap();
        let wait = Duration::from_secs(5);
        assert!(memory.take(1, wait).await.is_none());
        let (taken, ()) = tokio::join!(memory.take(1, wait), async {
            tokio::task::yield_now().await;
            drop(held);
        });
        assert!(taken.is_some());
    }
}
