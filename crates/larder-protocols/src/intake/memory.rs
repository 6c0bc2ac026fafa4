//! Memory for what has to be in memory whole: messages of unary calls, action results, answers of many blobs.
//!
//! Whoever holds such bytes has asked for [`Room`] before, and whoever finds none waits, in the order of asking. Trusted callers,
//! all other known ones and anonymous ones have a lane each (as in the cache), so that nobody waits for those who are trusted less.
//! Within a lane no workspace keeps the others out: one that is alone has nearly all of it, and half as soon as another wants some.
//! Anonymous callers only say which workspace they mean, so theirs has no shares.
//!
//! Clients hold the room, and clients may be slow: [`super::Intake::hurry`] is for those who do.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use larder_model::{AccessKind, Caller, WorkspaceName};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// What is not longer needs no room: a connection buffers as much anyway.
pub(crate) const SMALL_BYTES_MAX: u64 = 64 << 10;

/// Of requests. One moon has up to 150 batches of 4 MiB under way on one connection. Should they have to wait for each other,
/// what waits unread would fill the connection's window in front of what those with room still lack; so one client's fit.
/// A client with more large requests on one connection than fit can come to a stand, until [`ROOM_WAIT_MAX`] ends some of them.
const REQUEST_BYTES_MAX: [u64; 3] = [768 << 20, 256 << 20, 32 << 20];

/// Of answers. A set of its own: who waits for room for an answer may hold some for its request.
const ANSWER_BYTES_MAX: [u64; 3] = [384 << 20, 128 << 20, 32 << 20];

/// How long somebody waits for room.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(30);

/// The lanes.
pub(crate) struct WholeBodies {
    trusted: Arc<Lane>,
    known: Arc<Lane>,
    anonymous: Arc<Lane>,
}

impl WholeBodies {
    /// The lanes of requests.
    pub(crate) fn of_requests() -> Self {
        Self::new(REQUEST_BYTES_MAX)
    }

    /// The lanes of answers.
    pub(crate) fn of_answers() -> Self {
        Self::new(ANSWER_BYTES_MAX)
    }

    fn new(bytes_max: [u64; 3]) -> Self {
        let [trusted, known, anonymous] = bytes_max.map(|bytes_max| {
            Arc::new(Lane {
                bytes_max,
                state: Mutex::default(),
            })
        });
        Self {
            trusted,
            known,
            anonymous,
        }
    }

    /// Waits for memory for so many bytes, which are the caller's until the room is dropped. `None`: none came free in time.
    pub(crate) async fn room(&self, caller: &Caller, bytes: u64) -> Option<Room> {
        let mut room = self.no_room(caller);
        if room.grow_to(bytes) {
            return Some(room);
        }
        let waiting = room.lane.wait(&room.holder, bytes)?;
        // What was granted and is never received gives itself back.
        timeout(ROOM_WAIT_MAX, waiting).await.ok()?.ok()
    }

    /// [`Self::room`] if there is nothing to wait for.
    pub(crate) fn room_at_hand(&self, caller: &Caller, bytes: u64) -> Option<Room> {
        let mut room = self.no_room(caller);
        room.grow_to(bytes).then_some(room)
    }

    /// For a caller who does not know yet how much it will be. See [`Room::grow_to`].
    pub(crate) fn no_room(&self, caller: &Caller) -> Room {
        let lane = match caller.kind() {
            AccessKind::Trusted | AccessKind::CleanRoom => &self.trusted,
            AccessKind::Isolated | AccessKind::Gate | AccessKind::Reader | AccessKind::Admin => {
                &self.known
            }
            AccessKind::Anonymous => &self.anonymous,
        };
        let holder = match caller {
            Caller::Known(principal) => Holder::Workspace(principal.workspace().clone()),
            Caller::Anonymous { .. } | Caller::LocalOperator => Holder::Anyone,
        };
        Room {
            lane: Arc::clone(lane),
            holder,
            bytes: 0,
        }
    }
}

/// Whose share of a lane it is.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Holder {
    Workspace(WorkspaceName),
    /// Who has proven nothing, or serves all.
    Anyone,
}

/// Memory that somebody may use as long as this lives.
pub(crate) struct Room {
    lane: Arc<Lane>,
    holder: Holder,
    bytes: u64,
}

impl Room {
    /// Makes it room for so many bytes in all, if that much is free now. Not to wait is the point: others may be waiting for
    /// what this one has already.
    #[must_use]
    pub(crate) fn grow_to(&mut self, bytes: u64) -> bool {
        if bytes <= SMALL_BYTES_MAX.max(self.bytes) {
            return true;
        }
        let more = bytes - self.bytes;
        let mut state = self.lane.state();
        let free = state.queue.is_empty() || self.bytes > 0;
        if !free || !state.take(self.lane.bytes_max, &self.holder, more) {
            return false;
        }
        drop(state);
        self.bytes = bytes;
        true
    }

    /// Whether anything of a lane is taken.
    pub(crate) fn is_held(&self) -> bool {
        self.bytes > 0
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.lane.state().give_back(&self.holder, self.bytes);
            self.lane.serve();
        }
    }
}

struct Lane {
    bytes_max: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: u64,
    /// Of each that has any.
    shares: HashMap<Holder, u64>,
    queue: VecDeque<Waiting>,
}

/// Somebody who waits for room.
struct Waiting {
    holder: Holder,
    bytes: u64,
    granted: oneshot::Sender<Room>,
}

impl State {
    /// Takes bytes for somebody who may have them now.
    fn take(&mut self, lane_bytes_max: u64, holder: &Holder, bytes: u64) -> bool {
        let share = self.shares.get(holder).copied().unwrap_or(0);
        let most = if *holder == Holder::Anyone {
            lane_bytes_max
        } else if self.others(holder) {
            lane_bytes_max / 2
        } else {
            // What is left is for the first who comes.
            lane_bytes_max / 8 * 7
        };
        if self.held + bytes > lane_bytes_max || share + bytes > most {
            return false;
        }
        self.held += bytes;
        *self.shares.entry(holder.clone()).or_default() += bytes;
        true
    }

    /// Whether anybody else has room or wants some.
    fn others(&self, holder: &Holder) -> bool {
        self.shares.keys().any(|other| other != holder)
            || self.queue.iter().any(|other| other.holder != *holder)
    }

    fn give_back(&mut self, holder: &Holder, bytes: u64) {
        self.held -= bytes;
        if let Some(share) = self.shares.get_mut(holder) {
            *share -= bytes;
            if *share == 0 {
                self.shares.remove(holder);
            }
        }
    }
}

impl Lane {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in there can panic half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues up; `None` for more than there will ever be.
    fn wait(self: &Arc<Self>, holder: &Holder, bytes: u64) -> Option<oneshot::Receiver<Room>> {
        if bytes > self.bytes_max / 2 {
            return None;
        }
        let (granted, waiting) = oneshot::channel();
        self.state().queue.push_back(Waiting {
            holder: holder.clone(),
            bytes,
            granted,
        });
        // Room may have come free since it was asked for.
        self.serve();
        Some(waiting)
    }

    /// Gives room to those who wait, the first ones first. Who has the share of its workspace already holds up nobody else.
    fn serve(self: &Arc<Self>) {
        let mut granted = Vec::new();
        let mut state = self.state();
        state.queue.retain(|waiting| !waiting.granted.is_closed());
        let mut at = 0;
        while let Some(waiting) = state.queue.get(at) {
            let (holder, bytes) = (waiting.holder.clone(), waiting.bytes);
            if state.held + bytes > self.bytes_max {
                break;
            }
            if state.take(self.bytes_max, &holder, bytes) {
                granted.extend(state.queue.remove(at));
            } else {
                at += 1;
            }
        }
        drop(state);
        for waiting in granted {
            let room = Room {
                lane: Arc::clone(self),
                holder: waiting.holder,
                bytes: waiting.bytes,
            };
            // Who is gone gives it back by not taking it.
            drop(waiting.granted.send(room));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use larder_model::{Access, Principal, WriterId};
    use tokio::time::Instant;

    const MIB: u64 = 1 << 20;

    fn lanes() -> WholeBodies {
        WholeBodies::new([16 * MIB, 16 * MIB, 16 * MIB])
    }

    fn known(workspace: &str, access: Access) -> Caller {
        let workspace = workspace.parse().expect("a name");
        Caller::Known(Principal::new(workspace, access, WriterId(1)))
    }

    fn anonymous(workspace: &str) -> Caller {
        Caller::Anonymous {
            workspace: workspace.parse().expect("a name"),
            public: true,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_those_who_are_trusted_less() {
        let lanes = lanes();
        let started = Instant::now();
        let crowd = [anonymous("one"), anonymous("two")];
        let mut held = Vec::new();
        for caller in &crowd {
            held.push(lanes.room(caller, 8 * MIB).await);
        }
        let reader = known("acme", Access::Reader);
        held.push(lanes.room(&reader, 8 * MIB).await);
        held.push(lanes.room(&reader, 6 * MIB).await);
        let trusted = known("acme", Access::Trusted);
        held.push(lanes.room(&trusted, 8 * MIB).await);
        held.push(lanes.room(&crowd[0], SMALL_BYTES_MAX).await);
        assert!(held.iter().all(Option::is_some));
        assert_eq!(started.elapsed(), Duration::ZERO);
        assert!(lanes.room(&crowd[0], MIB).await.is_none());
        assert_eq!(started.elapsed(), ROOM_WAIT_MAX);
        held.clear();
        for lane in [&lanes.trusted, &lanes.known, &lanes.anonymous] {
            let state = lane.state();
            assert_eq!(
                (state.held, state.shares.len(), state.queue.len()),
                (0, 0, 0)
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_workspace_alone_has_nearly_all_and_with_others_half() {
        let lanes = lanes();
        let (acme, other) = (
            known("acme", Access::Trusted),
            known("other", Access::Trusted),
        );
        let mut of_acme = Vec::new();
        while let Some(room) = lanes.room_at_hand(&acme, 2 * MIB) {
            of_acme.push(room);
        }
        assert_eq!(of_acme.len(), 7);
        let first = lanes.room_at_hand(&other, 2 * MIB);
        assert!(first.is_some(), "something is left for who comes");
        // From now on acme has no more than half.
        let wanted = lanes.room(&other, 6 * MIB);
        let more = lanes.room(&acme, 2 * MIB);
        let leaving = async {
            for _ in 0..3 {
                of_acme.pop();
            }
        };
        let (wanted, more, ()) = tokio::join!(wanted, more, leaving);
        assert!(wanted.is_some() && more.is_none());
        of_acme.pop();
        assert!(lanes.room_at_hand(&acme, 2 * MIB).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_who_waits_is_served_first_and_who_is_gone_is_not() {
        let lanes = lanes();
        let reader = known("acme", Access::Reader);
        let held = lanes.room(&reader, 8 * MIB).await;
        let second = lanes.room(&reader, 4 * MIB).await;
        let order = Mutex::new(Vec::new());
        let wait = async |name, bytes| {
            let room = lanes.room(&reader, bytes).await;
            order.lock().expect("no panic").push(name);
            room
        };
        let gone = timeout(Duration::from_secs(1), lanes.room(&reader, 8 * MIB));
        let leaving = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            drop(held);
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(second);
        };
        let large = async { drop(wait("large", 8 * MIB).await) };
        let small = async { drop(wait("small", 3 * MIB).await) };
        let (gone, (), (), ()) = tokio::join!(gone, large, small, leaving);
        assert!(gone.is_err());
        assert_eq!(*order.lock().expect("no panic"), ["large", "small"]);
        assert_eq!(lanes.known.state().held, 0);
    }

    #[test]
    fn room_grows_without_waiting_or_stays() {
        let lanes = lanes();
        let reader = known("acme", Access::Reader);
        let mut room = lanes.no_room(&reader);
        assert!(room.grow_to(SMALL_BYTES_MAX) && !room.is_held());
        assert!(room.grow_to(8 * MIB) && room.is_held());
        assert!(room.grow_to(2 * MIB) && !room.grow_to(15 * MIB));
        assert_eq!(lanes.known.state().held, 8 * MIB);
        drop(room);
        assert_eq!(lanes.known.state().held, 0);
    }
}
