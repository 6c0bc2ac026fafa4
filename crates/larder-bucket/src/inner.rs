//! What the parts of a bucket share.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::time::{Duration, Instant};

use crate::bucket::BucketSettings;
use crate::catalogue::Catalogue;
use crate::edict::{Edict, RecordHead};
use crate::event::Event;
use crate::fetch::Flights;
use crate::follow::Follower;
use crate::index::Index;
use crate::link::{Lane, Link, LinkError};
use crate::local::Local;
use crate::pack::PackIndex;
use crate::queue::Queue;
use crate::queue_file::Offer;
use crate::realm::{Realm, Trust};
use crate::record::Record;
use crate::shelf::{Known, Shelf};
use crate::table::Slot;

/// Events that would repeat come this often.
const REPEAT_AFTER: Duration = Duration::from_mins(1);

#[derive(Debug, Default)]
pub(crate) struct Told {
    catalogue: Option<Instant>,
    disk: Option<Instant>,
    pub(crate) queue: Option<Instant>,
}

/// Whether an event is due again.
pub(crate) fn is_due(told: &mut Option<Instant>) -> bool {
    let due = told.is_none_or(|told| told.elapsed() >= REPEAT_AFTER);
    if due {
        *told = Some(Instant::now());
    }
    due
}

pub(crate) struct Inner {
    pub(crate) settings: BucketSettings,
    pub(crate) link: Link,
    pub(crate) catalogue: Arc<dyn Catalogue>,
    pub(crate) index: Index,
    pub(crate) shelf: Shelf,
    pub(crate) queue: Queue,
    pub(crate) edicts: RwLock<Vec<Edict>>,
    pub(crate) follower: Follower,
    pub(crate) flights: Flights,
    pub(crate) local: OnceLock<Weak<dyn Local>>,
    pub(crate) told: Mutex<Told>,
}

/// The record of a key.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) hash: u128,
    pub(crate) slot: Slot,
    pub(crate) known: Arc<Known>,
    pub(crate) index: Arc<PackIndex>,
    pub(crate) record: Record,
}

/// Why something cannot be had from the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It is not there, or not authentic.
    Gone,
    /// Nobody can tell now.
    Unavailable,
}

impl Inner {
    /// The local store, as long as the bucket runs.
    pub(crate) fn local(&self) -> Option<Arc<dyn Local>> {
        self.local.get()?.upgrade()
    }

    pub(crate) fn link_for(&self, lane: Trust) -> Link {
        self.link.lane(match lane {
            Trust::Trusted => Lane::Trusted,
            Trust::Untrusted => Lane::Untrusted,
        })
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.settings.clock.now_ms()
    }

    /// The age of a pack; `None`: nobody knows it, or it has expired.
    pub(crate) fn age_ms(&self, pack: u32) -> Option<u64> {
        let created_at_ms = self.shelf.created_at_ms(pack)?;
        let age_ms = self.now_ms().saturating_sub(created_at_ms);
        (age_ms <= self.expire_ms()).then_some(age_ms)
    }

    pub(crate) fn expire_ms(&self) -> u64 {
        self.settings.expire_after.as_millis() as u64
    }

    /// Whether an entry in a pack of this age is to be written again when it is used.
    pub(crate) fn is_aging(&self, age_ms: u64) -> bool {
        age_ms > self.expire_ms() / 2
    }

    /// The live slot of a key, and the age of its pack.
    pub(crate) fn live(&self, hash: u128) -> Option<(Slot, u64)> {
        let slot = self.index.get(hash)?;
        Some((slot, self.age_ms(slot.pack)?))
    }

    /// The live slot of a key that somebody uses: it is written again when it is old.
    pub(crate) fn live_used(&self, realm: &Realm, key: &[u8]) -> Option<Slot> {
        let hash = self.index.hash(realm, key);
        let (slot, age_ms) = self.live(hash)?;
        if !slot.is_touched() && self.is_aging(age_ms) && self.index.touch(&slot) {
            let offer = Offer {
                realm: realm.clone(),
                key: Bytes::copy_from_slice(key),
                rule: slot.rule(),
                is_touch: true,
                body_bytes: 0,
                offered_at_ms: self.now_ms(),
            };
            if !self.queue.offer(hash, offer, None) {
                self.index.untouch(hash);
            }
        }
        Some(slot)
    }

    /// The record of a key. Its pack's index comes from memory, disk or bucket.
    pub(crate) async fn locate(
        self: &Arc<Self>,
        realm: &Realm,
        key: &[u8],
    ) -> Result<Located, Missing> {
        let hash = self.index.hash(realm, key);
        let (slot, _) = self.live(hash).ok_or(Missing::Gone)?;
        let known = self.shelf.get(slot.pack).ok_or(Missing::Gone)?;
        let index = self.index_of(&known, realm.trust()).await?;
        let record = index.record(slot.position);
        let record = record.filter(|record| record.key == key);
        let record = record.ok_or(Missing::Gone)?;
        Ok(Located {
            hash,
            slot,
            known,
            index,
            record,
        })
    }

    /// The index of a known pack.
    pub(crate) async fn index_of(
        self: &Arc<Self>,
        known: &Arc<Known>,
        lane: Trust,
    ) -> Result<Arc<PackIndex>, Missing> {
        if let Some(index) = self.shelf.parsed(known.number) {
            return Ok(index);
        }
        // One load for all who ask; so they also want their regions together.
        let _turn = self.shelf.turn(known.number).lock().await;
        if let Some(index) = self.shelf.parsed(known.number) {
            return Ok(index);
        }
        let (inner, pack) = (self.clone(), known.clone());
        let load = move || {
            let key = &inner.settings.mac_key;
            inner.shelf.load(key, pack.number, &pack.pack)
        };
        let loaded = tokio::task::spawn_blocking(load).await.ok().flatten();
        let index = match loaded {
            Some(index) => index,
            None => self.fetch_index(known, lane).await?,
        };
        let index = Arc::new(index);
        self.shelf.keep_parsed(known.number, index.clone());
        Ok(index)
    }

    /// The index of a pack from the bucket; it is kept on disk from then on. One that is not there or not authentic takes
    /// its entries with it.
    pub(crate) async fn fetch_index(
        self: &Arc<Self>,
        known: &Arc<Known>,
        lane: Trust,
    ) -> Result<PackIndex, Missing> {
        let pack = &known.pack;
        let end = pack.index_offset.saturating_add(pack.index_bytes);
        let got = if pack.index_bytes > crate::pack::INDEX_BYTES_MAX {
            Err(LinkError::NotFound)
        } else {
            let link = self.link_for(lane);
            link.get_range(&pack.name, pack.index_offset..end).await
        };
        let event = match got {
            Err(LinkError::NotFound) => Event::Gone {
                name: pack.name.clone(),
            },
            Err(_) => return Err(Missing::Unavailable),
            Ok(bytes) => {
                let (inner, known) = (self.clone(), known.clone());
                let parse = move || inner.parse_and_save(&known, bytes);
                match tokio::task::spawn_blocking(parse).await {
                    Ok(Some(index)) => return Ok(index),
                    Ok(None) => Event::NotAuthentic {
                        name: pack.name.clone(),
                    },
                    Err(_) => return Err(Missing::Unavailable),
                }
            }
        };
        self.settings.observer.tell(event);
        self.lose_pack(known).await;
        Err(Missing::Gone)
    }

    fn parse_and_save(&self, known: &Known, bytes: Bytes) -> Option<PackIndex> {
        let (key, pack) = (&self.settings.mac_key, &known.pack);
        let parsed = PackIndex::parse(key, &pack.name, pack.index_offset, bytes.clone()).ok()?;
        self.save_index(known.number, &bytes);
        Some(parsed)
    }

    /// Keeps an index on disk, if the disk takes it. Blocks.
    pub(crate) fn save_index(&self, number: u32, bytes: &Bytes) {
        if let Err(error) = self.shelf.save(number, bytes) {
            self.tell_disk("keeping an index", &error);
        }
    }

    /// Makes a pack's entries findable, but for those that an edict forbids.
    pub(crate) fn apply(&self, known: Arc<Known>, index: &Arc<PackIndex>) {
        // Held to the end: an edict given meanwhile either is seen here or sees the pack.
        let edicts = self.edicts.read();
        let number = known.number;
        let realm = known.pack.realm.clone();
        let covering: Vec<&Edict> = edicts.iter().filter(|edict| edict.covers(number)).collect();
        self.shelf.add(known);
        // What is new is what is asked for next.
        self.shelf.keep_parsed(number, index.clone());
        for (position, record) in index.records() {
            let head = head_of(&realm, &record);
            if covering.iter().any(|edict| edict.matches(&head)) {
                continue;
            }
            let slot = Slot::new(
                self.index.hash(&realm, &record.key),
                (number, position),
                record.rule,
                record.written_at_ms,
                record.check,
            );
            self.index.add(slot, |old| self.age_ms(old).is_none());
        }
    }

    /// Whether an edict for all packs there will ever be forbids this entry.
    pub(crate) fn is_forbidden(&self, realm: &Realm, record: &Record) -> bool {
        let edicts = self.edicts.read();
        let mut standing = edicts.iter().filter(|edict| edict.covers(u32::MAX));
        standing.any(|edict| edict.matches(&head_of(realm, record)))
    }

    /// Forgets packs whose rows are removed, with all their entries.
    pub(crate) async fn drop_packs(self: &Arc<Self>, numbers: HashSet<u32>) {
        let inner = self.clone();
        let forget = move || {
            inner.shelf.remove(&numbers);
            inner.index.remove_packs(&numbers);
        };
        let _ = tokio::task::spawn_blocking(forget).await;
    }

    /// Forgets the entries of a pack that is not there or not what it should be.
    pub(crate) async fn lose_pack(self: &Arc<Self>, known: &Arc<Known>) {
        let (inner, known) = (self.clone(), known.clone());
        let lose = move || {
            inner.shelf.lose(&known);
            inner.index.remove_packs(&HashSet::from([known.number]));
        };
        let _ = tokio::task::spawn_blocking(lose).await;
    }

    /// Forgets one entry whose bytes are not there or wrong.
    pub(crate) fn drop_entry(&self, hash: u128, place: (u32, u32), event: Event) {
        if self.index.remove(hash, place) {
            self.settings.observer.tell(event);
        }
    }

    pub(crate) fn tell_catalogue(&self, operation: &'static str, error: &impl ToString) {
        if is_due(&mut self.told.lock().catalogue) {
            let message = error.to_string();
            let event = Event::CatalogueFailed { operation, message };
            self.settings.observer.tell(event);
        }
    }

    pub(crate) fn tell_disk(&self, operation: &'static str, error: &std::io::Error) {
        if is_due(&mut self.told.lock().disk) {
            let message = error.to_string();
            let event = Event::DiskFailed { operation, message };
            self.settings.observer.tell(event);
        }
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket").finish_non_exhaustive()
    }
}

pub(crate) fn head_of<'a>(realm: &'a Realm, record: &'a Record) -> RecordHead<'a> {
    RecordHead {
        realm,
        key: &record.key,
        writer: record.writer,
        written_at_ms: record.written_at_ms,
        body_bytes: record.body_bytes,
    }
}
