//! Uploading a batch: its bodies into one pack, the pack into the bucket, its row into the catalogue.
//!
//! The order makes every moment safe to die in: a large body without a record, a pack without a row, and a first object
//! without a record in a pack are garbage for [`crate::Bucket::gc`], and the queue on disk still has the entry.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::timeout;

use crate::bucket::{Delivery, FetchedBody};
use crate::catalogue::NewPack;
use crate::event::Event;
use crate::follow::CATALOGUE_WAIT_MAX;
use crate::inner::{Inner, Located, Missing};
use crate::link::LinkError;
use crate::local::{Local, LocalEntry};
use crate::name::ObjectId;
use crate::pack::{PACKED_BODY_BYTES_MAX, PackBuilder};
use crate::queue::{Batch, Item, Waiters};
use crate::realm::Realm;
use crate::record::{Location, PieceHasher, Record, Rule};
use crate::shelf::Known;

/// A large body up to this size is one request; a larger one is sent in parts, and never in memory as a whole.
const LARGE_PUT_BYTES_MAX: u64 = 16 << 20;
/// Stores copy no more than this with one request.
pub(crate) const COPIED_BYTES_MAX: u64 = 4 << 30;
/// First objects and large bodies of one batch that are written at once.
const WRITES_AT_ONCE: usize = 8;
/// How often a pack that is in the bucket is told to the catalogue before it is written again.
const APPEND_COUNT_MAX: u32 = 4;

/// Trouble that may pass: the entry is to be tried again.
#[derive(Debug)]
pub(crate) struct Again;

impl From<LinkError> for Again {
    fn from(_: LinkError) -> Self {
        Self
    }
}

/// What goes into the pack for an entry.
pub(crate) enum Part {
    /// Record and body.
    Whole(Record, Vec<Bytes>),
    /// The record of a body that is elsewhere in the bucket.
    Record(Record),
    /// Nothing.
    Nothing,
}

/// What is known of an entry when its part is made.
pub(crate) struct Made {
    pub(crate) part: Part,
    /// How it ends once the pack is in the catalogue.
    pub(crate) delivery: Delivery,
}

impl Made {
    pub(crate) fn nothing(delivery: Delivery) -> Self {
        Self {
            part: Part::Nothing,
            delivery,
        }
    }
}

/// An entry of the local store.
pub(crate) enum Read {
    /// Its body is read.
    Small(Record, Vec<Bytes>),
    /// Its body is for an object of its own.
    Large(Record, LocalEntry),
    /// It is no longer there, or cannot be read.
    Gone,
}

impl Inner {
    /// Uploads a batch. Returns whether the bucket took it; what it did not take is queued again.
    pub(crate) async fn upload(self: &Arc<Self>, batch: Batch) -> bool {
        let realm = batch.realm;
        let made = batch.items.into_iter().map(|(item, waiters)| {
            let (inner, realm) = (self.clone(), realm.clone());
            async move {
                let made_of = item.clone();
                // A task of its own: it goes on while a pack is written, and what is ahead of that is bounded, as nobody knows
                // how large an entry is by now.
                let made = tokio::spawn(async move { inner.make(&realm, &made_of).await });
                let made = made.await.unwrap_or(Err(Again));
                (item, waiters, made)
            }
        });
        let mut made = pin!(futures_util::stream::iter(made).buffered(WRITES_AT_ONCE));
        let (mut builder, mut in_pack, mut is_well) = (PackBuilder::new(), Vec::new(), true);
        while let Some((item, waiters, made)) = made.next().await {
            let Ok(Made { part, delivery }) = made else {
                is_well = false;
                self.try_again(&item, waiters);
                continue;
            };
            if builder.is_full() {
                let full = std::mem::replace(&mut builder, PackBuilder::new());
                is_well &= self
                    .end_pack(&realm, full, std::mem::take(&mut in_pack))
                    .await;
            }
            let is_in_pack = match part {
                Part::Nothing => {
                    self.settle(&realm, &item, waiters, delivery).await;
                    continue;
                }
                Part::Whole(record, body) => self.admit(&realm, record, |record| {
                    builder.add(record, body);
                }),
                Part::Record(record) => self.admit(&realm, record, |record| {
                    builder.add_elsewhere(&record);
                }),
            };
            if is_in_pack {
                in_pack.push((item, waiters, delivery));
            } else {
                self.settle(&realm, &item, waiters, Delivery::Failed).await;
            }
        }
        is_well & self.end_pack(&realm, builder, in_pack).await
    }

    /// Writes a pack, and tells those whose entries are in it.
    async fn end_pack(
        self: &Arc<Self>,
        realm: &Realm,
        builder: PackBuilder,
        in_pack: Vec<(Arc<Item>, Waiters, Delivery)>,
    ) -> bool {
        if builder.is_empty() {
            return true;
        }
        let written = self.write_pack(realm, builder).await;
        for (item, waiters, delivery) in in_pack {
            match written {
                Ok(()) => self.settle(realm, &item, waiters, delivery).await,
                Err(Again) => self.try_again(&item, waiters),
            }
        }
        written.is_ok()
    }

    /// Lets a record into a pack unless it is forbidden.
    fn admit(&self, realm: &Realm, record: Record, add: impl FnOnce(Record)) -> bool {
        if self.is_forbidden(realm, &record) {
            self.settings.observer.tell(Event::Withheld { entries: 1 });
            return false;
        }
        add(record);
        true
    }

    async fn settle(&self, realm: &Realm, item: &Item, waiters: Waiters, delivery: Delivery) {
        if delivery == Delivery::Lost
            && let Some(local) = self.local()
        {
            let (realm, key) = (realm.clone(), item.offer.key.clone());
            let drop_it = move || local.lost(&realm, &key);
            let _ = tokio::task::spawn_blocking(drop_it).await;
        }
        // Also for an entry: it may have taken a touch's place.
        if delivery == Delivery::Failed {
            self.index.untouch(item.hash);
        }
        self.queue.complete(item);
        for waiter in waiters {
            let _ = waiter.send(delivery);
        }
    }

    fn try_again(&self, item: &Item, waiters: Waiters) {
        self.queue.retry(item);
        for waiter in waiters {
            let _ = waiter.send(Delivery::Failed);
        }
    }

    async fn make(self: &Arc<Self>, realm: &Realm, item: &Arc<Item>) -> Result<Made, Again> {
        if item.offer.is_touch {
            return self.touch(realm, item).await;
        }
        let read = self.read_offered(realm, item).await;
        let record = match &read {
            Read::Gone => return Ok(Made::nothing(Delivery::Failed)),
            Read::Small(record, _) | Read::Large(record, _) => record,
        };
        if self.is_forbidden(realm, record) {
            self.settings.observer.tell(Event::Withheld { entries: 1 });
            return Ok(Made::nothing(Delivery::Failed));
        }
        if let Some(delivery) = self.is_settled(item, record) {
            return Ok(Made::nothing(delivery));
        }
        if item.offer.rule == Rule::First {
            return self.write_first(realm, read).await;
        }
        let part = match read {
            Read::Small(record, body) => Part::Whole(record, body),
            Read::Large(record, entry) => match self.write_large(realm, record, entry).await? {
                Some(record) => Part::Record(record),
                None => return Ok(Made::nothing(Delivery::Failed)),
            },
            Read::Gone => Part::Nothing,
        };
        let delivery = Delivery::Stored;
        Ok(Made { part, delivery })
    }

    async fn read_offered(&self, realm: &Realm, item: &Arc<Item>) -> Read {
        let Some(local) = self.local() else {
            return Read::Gone;
        };
        let (realm, item) = (realm.clone(), item.clone());
        let read = tokio::task::spawn_blocking(move || read(local.as_ref(), &realm, &item));
        read.await.unwrap_or(Read::Gone)
    }

    /// How an offer ends that need not be uploaded, because of what is in the bucket.
    fn is_settled(&self, item: &Item, record: &Record) -> Option<Delivery> {
        let (slot, age_ms) = self.live(item.hash)?;
        let (found, written_at_ms) = (slot.written_at_ms(), record.written_at_ms);
        // Two writes of one millisecond differ in their check.
        let is_it = found == written_at_ms && slot.check == record.check;
        match item.offer.rule {
            Rule::First if !is_it => Some(Delivery::Lost),
            Rule::Replace if found <= written_at_ms && !is_it => None,
            _ if self.is_aging(age_ms) => None,
            _ => Some(Delivery::Stored),
        }
    }

    /// Writes a large body. `None`: the local store could not read it.
    pub(crate) async fn write_large(
        self: &Arc<Self>,
        realm: &Realm,
        mut record: Record,
        entry: LocalEntry,
    ) -> Result<Option<Record>, Again> {
        let id = ObjectId::unique(self.now_ms());
        let name = self.settings.mac_key.body_name(realm, id);
        let link = self.link_for(realm.trust());
        let (mut body, mut hasher) = (entry.body, PieceHasher::default());
        let mut upload = if entry.body_bytes > LARGE_PUT_BYTES_MAX {
            Some(link.put_multipart(&name).await?)
        } else {
            None
        };
        let mut parts = Vec::new();
        loop {
            let next = move || {
                let part = body.next();
                if let Some(Ok(part)) = &part {
                    hasher.update(part);
                }
                (body, hasher, part)
            };
            let part;
            (body, hasher, part) = tokio::task::spawn_blocking(next).await.map_err(|_| Again)?;
            match (part, &mut upload) {
                (None, _) => break,
                (Some(Ok(part)), None) => parts.push(part),
                (Some(Ok(part)), Some(upload)) => upload.write(part).await?,
                (Some(Err(_)), _) => {
                    if let Some(upload) = upload {
                        upload.abort().await;
                    }
                    return Ok(None);
                }
            }
        }
        let (body_bytes, pieces) = hasher.finish();
        if body_bytes != entry.body_bytes {
            return Ok(None);
        }
        match upload {
            Some(upload) => upload.finish().await?,
            None => link.put(&name, parts).await?,
        }
        record.location = Location::Body(id);
        (record.body_bytes, record.pieces) = (body_bytes, pieces);
        Ok(record.is_sane().then_some(record))
    }

    /// Writes an entry again that is in use and whose pack is old.
    async fn touch(self: &Arc<Self>, realm: &Realm, item: &Item) -> Result<Made, Again> {
        match self.live(item.hash) {
            None => return Ok(Made::nothing(Delivery::Failed)),
            Some((_, age_ms)) if !self.is_aging(age_ms) => {
                return Ok(Made::nothing(Delivery::Stored));
            }
            Some(_) => {}
        }
        let located = match self.locate(realm, &item.offer.key).await {
            Ok(located) => located,
            Err(Missing::Gone) => return Ok(Made::nothing(Delivery::Failed)),
            Err(Missing::Unavailable) => return Err(Again),
        };
        let part = match located.record.location {
            Location::Body(id) => self.renew_large(realm, located.record.clone(), id).await?,
            Location::Here { .. } | Location::First => {
                match self.bytes_of(realm, &located).await? {
                    Some(body) => Part::Whole(located.record.clone(), body),
                    None => Part::Nothing,
                }
            }
        };
        let delivery = match part {
            Part::Nothing => Delivery::Failed,
            Part::Whole(..) | Part::Record(_) => Delivery::Stored,
        };
        Ok(Made { part, delivery })
    }

    /// The bytes of a small body: from the local store if they are the same, else from the bucket.
    async fn bytes_of(
        self: &Arc<Self>,
        realm: &Realm,
        located: &Located,
    ) -> Result<Option<Vec<Bytes>>, Again> {
        if let Some(local) = self.local() {
            let (realm, record) = (realm.clone(), located.record.clone());
            let read = move || {
                let entry = local.read(&realm, &record.key)?;
                if entry.body_bytes != record.body_bytes {
                    return None;
                }
                let body: Vec<Bytes> = entry.body.collect::<Result<_, _>>().ok()?;
                let mut hasher = PieceHasher::default();
                for part in &body {
                    hasher.update(part);
                }
                (hasher.finish() == (record.body_bytes, record.pieces)).then_some(body)
            };
            if let Ok(Some(body)) = tokio::task::spawn_blocking(read).await {
                return Ok(Some(body));
            }
        }
        match self.body_of(located, realm.trust()).await {
            Ok(FetchedBody::Whole(body)) => Ok(Some(vec![body])),
            Ok(FetchedBody::Stream(_)) | Err(Missing::Gone) => Ok(None),
            Err(Missing::Unavailable) => Err(Again),
        }
    }

    /// Copies a large body within the bucket.
    pub(crate) async fn renew_large(
        self: &Arc<Self>,
        realm: &Realm,
        mut record: Record,
        id: ObjectId,
    ) -> Result<Part, Again> {
        if record.body_bytes > COPIED_BYTES_MAX {
            return Ok(Part::Nothing);
        }
        let key = &self.settings.mac_key;
        let new = ObjectId::unique(self.now_ms());
        let (from, to) = (key.body_name(realm, id), key.body_name(realm, new));
        match self.link_for(realm.trust()).copy(&from, &to).await {
            Ok(()) => {
                record.location = Location::Body(new);
                Ok(Part::Record(record))
            }
            Err(LinkError::NotFound) => Ok(Part::Nothing),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts the pack into the bucket and then into the catalogue; this node knows it from then on.
    async fn write_pack(
        self: &Arc<Self>,
        realm: &Realm,
        builder: PackBuilder,
    ) -> Result<(), Again> {
        let key = &self.settings.mac_key;
        let created_at_ms = self.now_ms();
        let name = key.pack_name(realm, ObjectId::unique(created_at_ms));
        let pack = builder.finish(key, &name);
        self.link_for(realm.trust()).put(&name, pack.parts).await?;
        let new = NewPack {
            realm: realm.clone(),
            name,
            object_bytes: pack.object_bytes,
            index_offset: pack.index_offset,
            index_bytes: pack.index.len() as u64,
            entry_count: pack.record_count,
            created_at_ms,
        };
        let number = self.append(&new).await?;
        let (inner, index) = (self.clone(), pack.index);
        let apply = move || {
            inner.save_index(number, &index);
            let (key, name) = (&inner.settings.mac_key, &new.name);
            let parsed = crate::pack::PackIndex::parse(key, name, new.index_offset, index);
            if let Ok(parsed) = parsed {
                let known = Arc::new(Known { number, pack: new });
                inner.apply(known, &Arc::new(parsed));
            }
        };
        tokio::task::spawn_blocking(apply).await.map_err(|_| Again)
    }

    async fn append(&self, pack: &NewPack) -> Result<u32, Again> {
        for count in 1..=APPEND_COUNT_MAX {
            match timeout(CATALOGUE_WAIT_MAX, self.catalogue.append(pack.clone())).await {
                Ok(Ok(number)) => return Ok(number),
                Ok(Err(error)) => self.tell_catalogue("adding a pack", &error),
                Err(late) => self.tell_catalogue("adding a pack", &late),
            }
            tokio::time::sleep(Duration::from_millis(250) * count).await;
        }
        Err(Again)
    }
}

/// Reads an entry. Blocks.
fn read(local: &dyn Local, realm: &Realm, item: &Item) -> Read {
    let Some(entry) = local.read(realm, &item.offer.key) else {
        return Read::Gone;
    };
    let mut record = Record {
        key: item.offer.key.clone(),
        metadata: entry.metadata.clone(),
        check: entry.check,
        rule: item.offer.rule,
        writer: entry.writer,
        written_at_ms: entry.written_at_ms,
        body_bytes: 0,
        location: Location::First,
        pieces: Bytes::new(),
    };
    let limit = crate::record::BODY_BYTES_MAX;
    if !record.is_sane() || entry.body_bytes > limit {
        return Read::Gone;
    }
    record.body_bytes = entry.body_bytes;
    if entry.body_bytes > PACKED_BODY_BYTES_MAX {
        return Read::Large(record, entry);
    }
    let (expected, body) = (
        entry.body_bytes,
        entry.body.collect::<Result<Vec<Bytes>, _>>(),
    );
    let length = |body: &Vec<Bytes>| body.iter().map(|part| part.len() as u64).sum::<u64>();
    match body {
        Ok(body) if length(&body) == expected => Read::Small(record, body),
        _ => Read::Gone,
    }
}
