//! How much of a pool the unfinished uploads of one workspace may hold.
//!
//! A streamed upload reserves its room in the pool when it begins, and room is made by evicting
//! entries. Without a limit a few declared uploads that never send a byte would evict everybody's
//! entries for as long as their connections stand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use larder_model::WorkspaceName;

/// The part of a pool that the unfinished uploads of a workspace may hold together: several large
/// ones fit, and three quarters stay with what is stored.
const HELD_PART: u64 = 4;

/// The least by which the room of an upload of unknown length grows, as the store does it.
const GROWTH_BYTES_MIN: u64 = 256 << 10;

/// The bytes that unfinished uploads hold in the pools of one lane, by workspace.
#[derive(Debug, Default)]
pub(crate) struct Rooms(Mutex<HashMap<WorkspaceName, u64>>);

impl Rooms {
    /// Holds `bytes` of a pool that has room for `pool_bytes`. `None`: the workspace holds too much.
    /// An upload that is alone may be of any size.
    pub(crate) fn hold(
        self: &Arc<Self>,
        workspace: &WorkspaceName,
        bytes: u64,
        pool_bytes: u64,
    ) -> Option<Room> {
        let mut room = Room {
            rooms: Arc::clone(self),
            workspace: workspace.clone(),
            held: 0,
            limit: pool_bytes / HELD_PART,
            expected: u64::MAX,
        };
        room.add(bytes).then_some(room)
    }

    fn change<T>(&self, change: impl FnOnce(&mut HashMap<WorkspaceName, u64>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What one upload holds, until it is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    rooms: Arc<Rooms>,
    workspace: WorkspaceName,
    held: u64,
    limit: u64,
    /// It grows in large steps up to here, and then by what is needed.
    expected: u64,
}

impl Room {
    /// The same room for an upload that is expected to have at most `bytes`.
    pub(crate) fn at_most(mut self, bytes: u64) -> Self {
        self.expected = bytes;
        self
    }

    /// Holds at least `bytes` in all. False: the workspace holds too much.
    pub(crate) fn grow_to(&mut self, bytes: u64) -> bool {
        if bytes <= self.held {
            return true;
        }
        let step = (self.held / 2).max(GROWTH_BYTES_MIN);
        let step = step.min(self.expected.saturating_sub(self.held));
        self.add(step.max(bytes - self.held))
    }

    /// Holds `bytes` more. False: the workspace holds too much.
    pub(crate) fn add(&mut self, bytes: u64) -> bool {
        let (own, limit) = (self.held, self.limit);
        let fits = self.rooms.change(|held| {
            let all = held.get(&self.workspace).copied().unwrap_or(0);
            let fits = all == own || all.saturating_add(bytes) <= limit;
            if fits {
                held.insert(self.workspace.clone(), all.saturating_add(bytes));
            }
            fits
        });
        if fits {
            self.held = own.saturating_add(bytes);
        }
        fits
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.rooms.change(|held| {
            let all = held.get(&self.workspace).copied().unwrap_or(0);
            match all.saturating_sub(self.held) {
                0 => held.remove(&self.workspace),
                left => held.insert(self.workspace.clone(), left),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_holds_a_quarter_unless_one_upload_is_alone_and_gives_back_all() {
        let rooms = Arc::new(Rooms::default());
        let name = |name: &str| -> WorkspaceName { name.parse().unwrap() };
        let (acme, other) = (name("acme"), name("other"));
        let large = rooms.hold(&acme, 90, 100).expect("alone");
        assert!(rooms.hold(&acme, 1, 100).is_none());
        let mut first = rooms.hold(&other, 10, 100).expect("another workspace");
        drop(large);
        let second = rooms.hold(&other, 15, 100).expect("exactly a quarter");
        assert!(!first.grow_to(11));
        drop(second);
        assert!(first.grow_to(11), "alone");
        drop(first);
        assert!(rooms.0.lock().unwrap().is_empty());
    }
}
