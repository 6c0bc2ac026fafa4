//! What is to be uploaded: bounded, kept on disk, trusted before untrusted, workspaces in turn.
//!
//! An offer costs its caller a lock and an allocation. Files are written by [`Queue::flush`], for many offers at once; so
//! what was offered in the last moments before a `kill -9` may be forgotten, and stays on this node only. A key that is
//! queued is not queued again: its entry is read when its turn comes. But an entry takes the place of a touch of its key:
//! that would write again what is in the bucket, not what is new.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::bucket::Delivery;
use crate::pack::{PACK_BYTES_TARGET, PACK_RECORD_COUNT_MAX, PACKED_BODY_BYTES_MAX};
use crate::queue_file::{Offer, QueueFile, append_completion, append_offer};
use crate::realm::{Realm, Trust};

/// The most entries that wait: hours of the busiest day.
pub const QUEUE_ENTRY_COUNT_MAX: usize = 1 << 20;
/// The most bytes of memory that their names take.
pub const QUEUE_NAME_BYTES_MAX: usize = 256 << 20;
/// Untrusted entries have this share of both on top, and no more, so that they leave trusted ones their place.
const UNTRUSTED_SHARE: usize = 4;
/// The file is written anew once it is this much larger than twice what is live in it.
const STALE_BYTES_MAX: u64 = 4 << 20;

/// An entry in the queue.
#[derive(Debug)]
pub(crate) struct Item {
    sequence: u64,
    pub(crate) hash: u128,
    pub(crate) offer: Offer,
    since: Instant,
}

impl Item {
    fn is_large(&self) -> bool {
        self.offer.body_bytes > PACKED_BODY_BYTES_MAX
    }

    fn name_bytes(&self) -> usize {
        // The name, and about what the maps take.
        self.offer.key.len() + 160
    }
}

/// Who waits for an entry.
pub(crate) type Waiters = Vec<oneshot::Sender<Delivery>>;

/// Entries of one realm that are uploaded together.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) realm: Realm,
    pub(crate) items: Vec<(Arc<Item>, Waiters)>,
}

/// What there is to do.
#[derive(Debug)]
pub(crate) enum Next {
    Upload(Batch),
    /// Nothing before then, unless something is offered.
    Later(Instant),
    Nothing,
}

#[derive(Debug, Default)]
struct Line {
    items: VecDeque<Arc<Item>>,
    bytes: u64,
    /// How many of the items somebody waits for.
    urgent: usize,
}

impl Line {
    /// `None`: at once.
    fn ready_at(&self, linger: Duration) -> Option<Instant> {
        let front = self.items.front()?;
        let is_ready = self.urgent > 0
            || self.bytes >= PACK_BYTES_TARGET
            || self.items.len() >= PACK_RECORD_COUNT_MAX as usize
            || front.is_large();
        (!is_ready).then(|| front.since + linger)
    }
}

/// What a lane's items take, those under way included.
#[derive(Debug, Default)]
struct Taken {
    entries: usize,
    name_bytes: usize,
}

impl Taken {
    fn add(&mut self, item: &Item) {
        self.entries += 1;
        self.name_bytes += item.name_bytes();
    }

    fn subtract(&mut self, item: &Item) {
        self.entries -= 1;
        self.name_bytes -= item.name_bytes();
    }

    fn is_full(&self, trust: Trust) -> bool {
        let share = match trust {
            Trust::Trusted => 1,
            Trust::Untrusted => UNTRUSTED_SHARE,
        };
        self.entries >= QUEUE_ENTRY_COUNT_MAX / share
            || self.name_bytes >= QUEUE_NAME_BYTES_MAX / share
    }
}

#[derive(Debug, Default)]
struct Lane {
    /// Realms with something to do, in turn.
    turns: VecDeque<Realm>,
    lines: HashMap<Realm, Line>,
    taken: Taken,
}

/// What is queued of a key.
#[derive(Debug)]
struct Queued {
    /// The item's. One of another sequence has had its place taken, and is passed over.
    sequence: u64,
    is_touch: bool,
    /// Who waits; for a touch nobody does.
    waiters: Waiters,
}

#[derive(Debug, Default)]
struct State {
    lanes: [Lane; 2],
    queued: HashMap<u128, Queued>,
    under_way: HashMap<u64, Arc<Item>>,
    next_sequence: u64,
    unwritten: Vec<u8>,
    dropped: u64,
}

/// The queue.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    file: Mutex<QueueFile>,
    /// Something was offered, or ended.
    pub(crate) changed: Notify,
}

/// How much is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueUsage {
    /// Entries that wait or are under way.
    pub entries: u64,
    /// Their bytes, as far as is known.
    pub bytes: u64,
    /// When the oldest was offered, unix milliseconds.
    pub oldest_at_ms: Option<u64>,
}

impl Queue {
    /// Opens the queue in a directory, with what was left in it.
    pub(crate) fn open(dir: &Path, hash: impl Fn(&Offer) -> u128) -> io::Result<Self> {
        let (file, offers) = QueueFile::open(dir)?;
        let mut state = State::default();
        for (sequence, offer) in offers {
            let hash = hash(&offer);
            match state.join(hash, &offer, Vec::new()) {
                Ok(()) => append_completion(&mut state.unwritten, sequence),
                Err(waiters) => state.push(sequence, hash, offer, Instant::now(), waiters),
            }
            state.next_sequence = sequence + 1;
        }
        Ok(Self {
            state: Mutex::new(state),
            file: Mutex::new(file),
            changed: Notify::new(),
        })
    }

    /// Adds an entry, or a waiter to one that is queued. Returns whether there is room for it.
    pub(crate) fn offer(
        &self,
        hash: u128,
        offer: Offer,
        waiter: Option<oneshot::Sender<Delivery>>,
    ) -> bool {
        let mut state = self.state.lock();
        let mut has_room = true;
        if let Err(waiters) = state.join(hash, &offer, waiter.into_iter().collect()) {
            let trust = offer.realm.trust();
            has_room = !state.lanes[trust.rank()].taken.is_full(trust);
            if has_room {
                let sequence = state.next_sequence;
                state.next_sequence += 1;
                append_offer(&mut state.unwritten, sequence, &offer);
                state.push(sequence, hash, offer, Instant::now(), waiters);
            } else {
                state.dropped += 1;
                // The waiter is told by losing its sender.
            }
        }
        drop(state);
        self.changed.notify_one();
        has_room
    }

    /// The next entries of one half that are due.
    pub(crate) fn next(&self, trust: Trust, linger: Duration) -> Next {
        let now = Instant::now();
        let mut state = self.state.lock();
        let lane = &mut state.lanes[trust.rank()];
        let mut earliest: Option<Instant> = None;
        for _ in 0..lane.turns.len() {
            let Some(realm) = lane.turns.pop_front() else {
                break;
            };
            let ready_at = lane
                .lines
                .get(&realm)
                .and_then(|line| line.ready_at(linger));
            match ready_at.filter(|ready_at| *ready_at > now) {
                None => return Next::Upload(state.take(realm)),
                Some(ready_at) => {
                    earliest = Some(earliest.map_or(ready_at, |earliest| earliest.min(ready_at)));
                    lane.turns.push_back(realm);
                }
            }
        }
        earliest.map_or(Next::Nothing, Next::Later)
    }

    /// An entry is done with.
    pub(crate) fn complete(&self, item: &Item) {
        self.state.lock().complete(item);
    }

    /// An entry is to be tried again, behind the others.
    pub(crate) fn retry(&self, item: &Item) {
        let mut state = self.state.lock();
        if state.queued.contains_key(&item.hash) {
            state.complete(item);
        } else if state.under_way.remove(&item.sequence).is_some() {
            state.taken_by(item).subtract(item);
            let offer = item.offer.clone();
            state.push(item.sequence, item.hash, offer, item.since, Vec::new());
        }
    }

    /// How many offers were dropped since this was last asked.
    pub(crate) fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.state.lock().dropped)
    }

    /// Writes what is new to the file. Blocks.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let mut file = self.file.lock();
        let mut state = self.state.lock();
        if state.unwritten.is_empty() && !file.is_torn() {
            return Ok(());
        }
        let live_bytes = state.lanes.iter().map(|lane| lane.taken.name_bytes as u64);
        let bytes_max = 2 * live_bytes.sum::<u64>() + STALE_BYTES_MAX;
        if file.is_torn() || file.bytes() + state.unwritten.len() as u64 > bytes_max {
            state.unwritten.clear();
            if file.rests() {
                return Ok(());
            }
            let mut lines = Vec::new();
            for item in state.items() {
                append_offer(&mut lines, item.sequence, &item.offer);
            }
            drop(state);
            return file.rewrite(&lines);
        }
        let lines = std::mem::take(&mut state.unwritten);
        drop(state);
        file.append(&lines)
    }

    pub(crate) fn usage(&self) -> QueueUsage {
        let state = self.state.lock();
        let lines = state.lanes.iter().flat_map(|lane| lane.lines.values());
        let fronts = lines.clone().filter_map(|line| line.items.front());
        let oldest = fronts.chain(state.under_way.values());
        let under_way = state.under_way.values().map(|item| item.offer.body_bytes);
        QueueUsage {
            entries: (state.queued.len() + state.under_way.len()) as u64,
            bytes: lines.map(|line| line.bytes).chain(under_way).sum(),
            oldest_at_ms: oldest.map(|item| item.offer.offered_at_ms).min(),
        }
    }
}

impl State {
    fn taken_by(&mut self, item: &Item) -> &mut Taken {
        &mut self.lanes[item.offer.realm.trust().rank()].taken
    }

    /// Waits for what is queued of the key, if that will do. `Err`: it is to be queued.
    fn join(&mut self, hash: u128, offer: &Offer, waiters: Waiters) -> Result<(), Waiters> {
        let queued = self.queued.get_mut(&hash);
        let Some(queued) = queued.filter(|queued| offer.is_touch || !queued.is_touch) else {
            return Err(waiters);
        };
        let is_first = queued.waiters.is_empty() && !waiters.is_empty();
        queued.waiters.extend(waiters);
        if is_first {
            let lane = &mut self.lanes[offer.realm.trust().rank()];
            if let Some(line) = lane.lines.get_mut(&offer.realm) {
                line.urgent += 1;
            }
        }
        Ok(())
    }

    fn push(&mut self, sequence: u64, hash: u128, offer: Offer, since: Instant, waiters: Waiters) {
        let Lane {
            turns,
            lines,
            taken,
        } = &mut self.lanes[offer.realm.trust().rank()];
        if !lines.contains_key(&offer.realm) {
            turns.push_back(offer.realm.clone());
        }
        let line = lines.entry(offer.realm.clone()).or_default();
        line.bytes += offer.body_bytes;
        line.urgent += usize::from(!waiters.is_empty());
        let item = Item {
            sequence,
            hash,
            offer,
            since,
        };
        taken.add(&item);
        let queued = Queued {
            sequence,
            is_touch: item.offer.is_touch,
            waiters,
        };
        line.items.push_back(Arc::new(item));
        self.queued.insert(hash, queued);
    }

    /// Takes what fits one pack from the front of a realm's line, or one entry whose body is an object of its own.
    fn take(&mut self, realm: Realm) -> Batch {
        let lane = &mut self.lanes[realm.trust().rank()];
        let mut items = Vec::new();
        if let Some(line) = lane.lines.get_mut(&realm) {
            let mut bytes = 0;
            while let Some(item) = line.items.front() {
                let queued = self.queued.get(&item.hash);
                if queued.is_none_or(|queued| queued.sequence != item.sequence) {
                    // A touch whose place is taken, by something that is behind it in this line.
                    line.bytes -= item.offer.body_bytes;
                    lane.taken.subtract(item);
                    append_completion(&mut self.unwritten, item.sequence);
                    line.items.pop_front();
                    continue;
                }
                let is_large = item.is_large();
                if !items.is_empty()
                    && (is_large || bytes + item.offer.body_bytes > PACK_BYTES_TARGET)
                    || items.len() >= PACK_RECORD_COUNT_MAX as usize
                {
                    break;
                }
                bytes += item.offer.body_bytes;
                let queued = self.queued.remove(&item.hash);
                let waiters = queued.map(|queued| queued.waiters).unwrap_or_default();
                line.urgent -= usize::from(!waiters.is_empty());
                line.bytes -= item.offer.body_bytes;
                self.under_way.insert(item.sequence, item.clone());
                items.extend(line.items.pop_front().map(|item| (item, waiters)));
                if is_large {
                    break;
                }
            }
            if line.items.is_empty() {
                lane.lines.remove(&realm);
            } else {
                lane.turns.push_back(realm.clone());
            }
        }
        Batch { realm, items }
    }

    fn complete(&mut self, item: &Item) {
        if self.under_way.remove(&item.sequence).is_some() {
            self.taken_by(item).subtract(item);
            append_completion(&mut self.unwritten, item.sequence);
        }
    }

    fn items(&self) -> impl Iterator<Item = &Arc<Item>> {
        let lines = self.lanes.iter().flat_map(|lane| lane.lines.values());
        let queued = lines.flat_map(|line| &line.items);
        queued.chain(self.under_way.values())
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
