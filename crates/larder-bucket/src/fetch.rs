//! Reading from the bucket.
//!
//! A small body comes with its neighbours: one ranged GET of a region of at most 1 MiB, shared by all who want something in
//! it, verified, and handed to the local store as a whole. So a thousand small blobs that were stored together come with a
//! handful of requests. What is wrong or not there leaves the index, is told once, and is a miss.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::SetOnce;

use crate::bucket::{Fetched, FetchedBody, Head, Unavailable};
use crate::event::Event;
use crate::inner::{Inner, Located, Missing};
use crate::link::LinkError;
use crate::local::FetchedEntry;
use crate::pack::Region;
use crate::realm::{Realm, Trust};
use crate::record::{Location, Record};
use crate::stream::BodyStream;

/// What came of a region: the bodies that are what they should be, by position.
type Landed = Result<HashMap<u32, Bytes>, Missing>;

/// Who fetches what: a pack, the first position of a region, and whose turn it uses, so that a trusted reader never waits
/// behind untrusted ones.
type FlightKey = (u32, u32, Trust);

/// Bytes of regions that are kept for a moment: who looked into the local store just before a region got there finds it.
const LANDED_BYTES_MAX: u64 = 16 << 20;

/// What keeping a region takes beside its bytes, about.
const BOARD_ENTRY_BYTES: u64 = 1024;

/// The regions that are under way, and those that came last.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<Board>);

#[derive(Debug, Default)]
struct Board {
    flights: HashMap<FlightKey, Arc<SetOnce<Landed>>>,
    /// Those that are over, the oldest first, and their bytes.
    landed: VecDeque<(FlightKey, u64)>,
    landed_bytes: u64,
}

impl Board {
    fn keep(&mut self, key: FlightKey, bytes: u64) {
        self.landed.push_back((key, bytes));
        self.landed_bytes += bytes;
        while self.landed_bytes > LANDED_BYTES_MAX
            && let Some((oldest, bytes)) = self.landed.pop_front()
        {
            self.landed_bytes -= bytes;
            self.flights.remove(&oldest);
        }
    }
}

/// Ends a flight also when it panics.
struct Flight {
    inner: Arc<Inner>,
    key: FlightKey,
    landed: Arc<SetOnce<Landed>>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        let _ = self.landed.set(Err(Missing::Unavailable));
        let mut board = self.inner.flights.0.lock();
        match self.landed.get() {
            Some(Ok(bodies)) => {
                let bytes: u64 = bodies.values().map(|body| body.len() as u64).sum();
                board.keep(self.key, bytes + BOARD_ENTRY_BYTES);
            }
            Some(Err(_)) | None => {
                board.flights.remove(&self.key);
            }
        }
    }
}

impl Located {
    pub(crate) fn head(&self) -> Head {
        let record = &self.record;
        Head {
            metadata: record.metadata.clone(),
            check: record.check,
            rule: record.rule,
            writer: record.writer,
            written_at_ms: record.written_at_ms,
            body_bytes: record.body_bytes,
        }
    }

    /// The object where the body is, and what is fetched with it.
    fn region(&self, name_first: impl FnOnce() -> String) -> Option<(String, Region)> {
        match self.record.location {
            Location::Body(_) => None,
            Location::Here { .. } => {
                let region = self.index.region(self.slot.position)?;
                Some((self.known.pack.name.clone(), region))
            }
            Location::First => {
                let start = self.record.offset_in_pack()?;
                let end = start.checked_add(self.record.body_bytes)?;
                let positions = vec![self.slot.position];
                let region = Region {
                    start,
                    end,
                    positions,
                };
                Some((name_first(), region))
            }
        }
    }
}

impl Inner {
    /// The entry of a key.
    pub(crate) async fn fetch(
        self: &Arc<Self>,
        realm: &Realm,
        key: &[u8],
        lane: Trust,
    ) -> Result<Option<Fetched>, Unavailable> {
        let got = match self.locate(realm, key).await {
            Ok(located) => self.body_of(&located, lane).await.map(|body| Fetched {
                head: located.head(),
                body,
            }),
            Err(missing) => Err(missing),
        };
        match got {
            Ok(fetched) => Ok(Some(fetched)),
            Err(Missing::Gone) => Ok(None),
            Err(Missing::Unavailable) => Err(Unavailable),
        }
    }

    /// The body of a record.
    pub(crate) async fn body_of(
        self: &Arc<Self>,
        located: &Located,
        lane: Trust,
    ) -> Result<FetchedBody, Missing> {
        if located.record.body_bytes == 0 {
            return Ok(FetchedBody::Whole(Bytes::new()));
        }
        if let Location::Body(id) = located.record.location {
            let name = self
                .settings
                .mac_key
                .body_name(&located.known.pack.realm, id);
            let stream = BodyStream::open(self, located, name, lane).await?;
            return Ok(FetchedBody::Stream(stream));
        }
        let landed = self.land(located, lane).await;
        let body = landed?.get(&located.slot.position).cloned();
        body.map(FetchedBody::Whole).ok_or(Missing::Gone)
    }

    /// The region of a record whose body is not an object of its own.
    async fn land(self: &Arc<Self>, located: &Located, lane: Trust) -> Landed {
        let key = &self.settings.mac_key;
        let realm = &located.known.pack.realm;
        let region = located.region(|| key.first_name(realm, &located.record.key));
        let (name, region) = region.ok_or(Missing::Gone)?;
        let first = region.positions.first().ok_or(Missing::Gone)?;
        let key = (located.slot.pack, *first, lane);
        let (landed, is_new) = {
            let flights = &mut self.flights.0.lock().flights;
            if let Some(landed) = flights.get(&key) {
                (landed.clone(), false)
            } else {
                let landed = Arc::new(SetOnce::new());
                flights.insert(key, landed.clone());
                (landed, true)
            }
        };
        if is_new {
            let flight = Flight {
                inner: self.clone(),
                key,
                landed: landed.clone(),
            };
            // A task of its own: a caller that goes away leaves the others their answer.
            tokio::spawn(flight.fly(name, region, located.shared()));
        }
        landed.wait().await.clone()
    }
}

impl Located {
    fn shared(&self) -> Self {
        Self {
            hash: self.hash,
            slot: self.slot,
            known: self.known.clone(),
            index: self.index.clone(),
            record: self.record.clone(),
        }
    }
}

impl Flight {
    async fn fly(self, name: String, region: Region, located: Located) {
        let link = self.inner.link_for(self.key.2);
        let got = link.get_range(&name, region.start..region.end).await;
        let bytes = match got {
            Ok(bytes) => bytes,
            Err(LinkError::NotFound) => {
                self.gone(name, &located).await;
                return;
            }
            // Ended by being dropped.
            Err(_) => return,
        };
        let unpack = move || {
            let (bodies, entries) = self.unpack(&name, &region, &located, &bytes);
            let _ = self.landed.set(Ok(bodies));
            let realm = &located.known.pack.realm;
            if let Some(local) = self.inner.local().filter(|_| !entries.is_empty()) {
                local.install(realm, entries);
            }
            // Only now is the flight over: whoever asked meanwhile has found it, and whoever asks later the local store.
            drop(self);
        };
        let _ = tokio::task::spawn_blocking(unpack).await;
    }

    async fn gone(self, name: String, located: &Located) {
        let event = Event::Gone { name };
        let place = located.slot.place();
        if located.record.location == Location::First {
            self.inner.drop_entry(located.hash, place, event);
        } else {
            self.inner.settings.observer.tell(event);
            self.inner.lose_pack(&located.known).await;
        }
        let _ = self.landed.set(Err(Missing::Gone));
    }

    /// Verifies every body. Returns the good ones, and the entries among them that count.
    fn unpack(
        &self,
        name: &str,
        region: &Region,
        located: &Located,
        bytes: &Bytes,
    ) -> (HashMap<u32, Bytes>, Vec<FetchedEntry>) {
        let (mut bodies, mut entries) = (HashMap::new(), Vec::new());
        let mut is_broken = false;
        for position in &region.positions {
            let Some(record) = located.index.record(*position) else {
                continue;
            };
            let place = (located.slot.pack, *position);
            let hash = self
                .inner
                .index
                .hash(&located.known.pack.realm, &record.key);
            let body = body_in(bytes, region.start, &record);
            let Some(body) = body.filter(|body| record.body_fits(body)) else {
                is_broken |= self.inner.index.remove(hash, place);
                continue;
            };
            bodies.insert(*position, body.clone());
            if self.inner.index.is_at(hash, place) {
                entries.push(entry_of(&record, body));
            }
        }
        if is_broken {
            let name = name.to_owned();
            self.inner
                .settings
                .observer
                .tell(Event::NotAuthentic { name });
        }
        (bodies, entries)
    }
}

fn body_in(bytes: &Bytes, start: u64, record: &Record) -> Option<Bytes> {
    let from = record.offset_in_pack()?.checked_sub(start)? as usize;
    let to = from.checked_add(record.body_bytes as usize)?;
    (to <= bytes.len()).then(|| bytes.slice(from..to))
}

fn entry_of(record: &Record, body: Bytes) -> FetchedEntry {
    FetchedEntry {
        key: record.key.clone(),
        metadata: record.metadata.clone(),
        check: record.check,
        writer: record.writer,
        written_at_ms: record.written_at_ms,
        rule: record.rule,
        body,
    }
}
