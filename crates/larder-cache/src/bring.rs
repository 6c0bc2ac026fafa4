//! Bringing an entry from the bucket.
//!
//! However many ask for a key, one fetch is under way, in a task of its own: whoever goes away leaves the others their
//! answer. A body of at most 4 MiB is answered with from memory, and the bucket has it and its neighbours installed in the
//! pool ([`crate::local`]). A larger one is handed out while it is written into the pool ([`crate::arrival`]). Trusted
//! callers share flights with each other and with nobody else.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use larder_bucket::{FetchedBody, Head, Realm, RecordHead, Trust, Unavailable};
use larder_store::Pool;
use tokio::sync::SetOnce;

use crate::arrival::{Arrival, Landing};
use crate::found::{Found, FoundBody};
use crate::lanes::Lane;
use crate::tier::Tier;

/// An entry to be brought, and where to.
#[derive(Clone)]
pub(crate) struct Place {
    pub realm: Realm,
    /// The storage key.
    pub key: Box<[u8]>,
    /// Where the entry's scope lives.
    pub pool: Pool,
    /// The limits of whoever asks.
    pub lane: Arc<Lane>,
    /// The same in the bucket.
    pub trust: Trust,
}

/// How a flight ends.
#[derive(Clone)]
enum Landed {
    Whole(Head, Bytes),
    /// The body is on its way.
    Arriving(Head, Arc<Landing>),
    /// There is no such entry.
    Gone,
    Unavailable,
}

type FlightKey = (Box<[u8]>, Trust);

/// What is being fetched.
#[derive(Default)]
pub(crate) struct Flights(Mutex<HashMap<FlightKey, Arc<SetOnce<Landed>>>>);

impl Flights {
    fn change<T>(
        &self,
        change: impl FnOnce(&mut HashMap<FlightKey, Arc<SetOnce<Landed>>>) -> T,
    ) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Ends a flight also when it panics.
struct Flight {
    tier: Arc<Tier>,
    key: FlightKey,
    landed: Arc<SetOnce<Landed>>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.tier
            .flights
            .change(|flights| flights.remove(&self.key));
        let _ = self.landed.set(Landed::Unavailable);
    }
}

impl Tier {
    /// The entry of a key that the index knows.
    pub(crate) async fn bring(
        self: &Arc<Self>,
        place: Place,
    ) -> Result<Option<Found>, Unavailable> {
        if !self.bucket.is_reachable() {
            return Err(Unavailable);
        }
        let key = (place.key.clone(), place.trust);
        let (landed, is_new) = self.flights.change(|flights| {
            if let Some(landed) = flights.get(&key) {
                return (landed.clone(), false);
            }
            let landed = Arc::new(SetOnce::new());
            flights.insert(key.clone(), landed.clone());
            (landed, true)
        });
        if is_new {
            let flight = Flight {
                tier: self.clone(),
                key,
                landed: landed.clone(),
            };
            tokio::spawn(flight.fly(place.clone()));
        }
        let (head, body) = match landed.wait().await.clone() {
            Landed::Unavailable => return Err(Unavailable),
            Landed::Gone => return Ok(None),
            Landed::Whole(head, body) => {
                let body = FoundBody::Stored(larder_store::Body::Whole(body));
                (head, body)
            }
            Landed::Arriving(head, landing) => {
                let arrival = Arrival::join(self, &place, &head, landing).await?;
                (head, FoundBody::Arriving(Box::new(arrival)))
            }
        };
        let is_let_in = self.gate().lets_in(&record_head(&place, &head));
        Ok(is_let_in.then_some(Found {
            metadata: head.metadata,
            check: head.check,
            writer: head.writer,
            written_at_ms: head.written_at_ms,
            size: head.body_bytes,
            body,
        }))
    }
}

impl Flight {
    async fn fly(self, place: Place) {
        let fetched = self
            .tier
            .bucket
            .fetch(&place.realm, &place.key, place.trust);
        match fetched.await {
            // It is over when it is dropped.
            Err(Unavailable) => {}
            Ok(None) => self.land(Landed::Gone),
            Ok(Some(fetched)) => match fetched.body {
                FetchedBody::Whole(body) => self.land(Landed::Whole(fetched.head, body)),
                FetchedBody::Stream(stream) => {
                    let (landing, pieces) = Landing::new();
                    let landing = Arc::new(landing);
                    self.land(Landed::Arriving(fetched.head.clone(), landing.clone()));
                    let tier = &self.tier;
                    landing
                        .store(tier, &place, &fetched.head, stream, pieces)
                        .await;
                }
            },
        }
    }

    fn land(&self, landed: Landed) {
        let _ = self.landed.set(landed);
    }
}

pub(crate) fn record_head<'a>(place: &'a Place, head: &Head) -> RecordHead<'a> {
    RecordHead {
        realm: &place.realm,
        key: &place.key,
        writer: head.writer,
        written_at_ms: head.written_at_ms,
        body_bytes: head.body_bytes,
    }
}
