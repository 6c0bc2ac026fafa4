//! First write wins, on all nodes together: the bucket's conditional create decides.
//!
//! The entry goes, as the only one of a pack, under a name made from its key. Whoever finds an object there has lost, unless
//! it is its own from an attempt whose answer never came; the winner's record goes into the loser's next pack, so that it is
//! known to all even if its writer died before it could say so.
//!
//! A winner that is purged, or whose body is gone, counts for nothing: its object is deleted and made again. Of two nodes that
//! do so at once both are told that they stored; each has its bytes in a pack of its own, and the earlier write counts.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::bucket::Delivery;
use crate::event::Event;
use crate::inner::Inner;
use crate::link::LinkError;
use crate::name::{MacKey, ObjectId};
use crate::pack::{FIRST_BYTES_MAX, NotAuthentic, PackBuilder, PackIndex};
use crate::realm::Realm;
use crate::record::{Location, Record};
use crate::sweep::GRACE;
use crate::upload::{Again, COPIED_BYTES_MAX, Made, Part, Read};

/// How often one attempt meets a winner before it leaves the entry for later.
const TAKEN_COUNT_MAX: u32 = 3;
/// An older winner is written again by who finds it: if nothing refers to it, it may be cleaned up at any moment.
const WINNER_AGE_MAX: Duration = GRACE.checked_div(2).expect("two is not zero");

impl Inner {
    /// Writes an entry unless there is one.
    pub(crate) async fn write_first(
        self: &Arc<Self>,
        realm: &Realm,
        read: Read,
    ) -> Result<Made, Again> {
        let (record, body) = match read {
            Read::Small(record, body) => (record, Some(body)),
            Read::Large(record, entry) => match self.write_large(realm, record, entry).await? {
                Some(record) => (record, None),
                None => return Ok(Made::nothing(Delivery::Failed)),
            },
            Read::Gone => return Ok(Made::nothing(Delivery::Failed)),
        };
        let own_body = match record.location {
            Location::Body(id) => Some(id),
            Location::Here { .. } | Location::First => None,
        };
        let made = self.create_first(realm, record, body).await;
        // After an error it is not known what is written, so the body may be needed.
        self.discard_unless_used(realm, own_body, made.as_ref().ok())
            .await;
        made
    }

    /// Writes the key's object unless there is one that counts.
    async fn create_first(
        self: &Arc<Self>,
        realm: &Realm,
        record: Record,
        body: Option<Vec<Bytes>>,
    ) -> Result<Made, Again> {
        let key = &self.settings.mac_key;
        let name = key.first_name(realm, &record.key);
        let mut builder = PackBuilder::new();
        let mut record = if let Some(body) = &body {
            builder.add(record, body.clone())
        } else {
            builder.add_elsewhere(&record);
            record
        };
        let parts = builder.finish(key, &name).parts;
        let link = self.link_for(realm.trust());
        for freed in 0..TAKEN_COUNT_MAX {
            match link.put_create(&name, parts.clone()).await {
                Ok(()) => {
                    let part = match body {
                        // Another node may free the name of this object as well.
                        Some(body) if freed > 0 => Part::Whole(record, body),
                        Some(_) => {
                            record.location = Location::First;
                            Part::Record(record)
                        }
                        None => Part::Record(record),
                    };
                    let delivery = Delivery::Stored;
                    return Ok(Made { part, delivery });
                }
                Err(LinkError::AlreadyExists) => {}
                Err(error) => return Err(error.into()),
            }
            let object = match link.get(&name, FIRST_BYTES_MAX).await {
                Ok(object) => Ok(object),
                Err(LinkError::TooLarge { .. }) => Err(NotAuthentic),
                // One that has just been deleted is not there: next time it is.
                Err(_) => return Err(Again),
            };
            match self.concede(realm, &name, &record, object).await? {
                Some(made) => return Ok(made),
                None => link.delete(vec![name.clone()]).await?,
            }
        }
        Err(Again)
    }

    /// What becomes of an entry whose name was taken by `object`. `None`: that one counts for nothing.
    async fn concede(
        self: &Arc<Self>,
        realm: &Realm,
        name: &str,
        record: &Record,
        object: Result<Bytes, NotAuthentic>,
    ) -> Result<Option<Made>, Again> {
        let key = &self.settings.mac_key;
        let winner = object.and_then(|object| winner_in(key, name, record, &object));
        let Ok((mut winner, body)) = winner else {
            let name = name.to_owned();
            self.settings.observer.tell(Event::NotAuthentic { name });
            // The entry stays on this node.
            return Ok(Some(Made::nothing(Delivery::Failed)));
        };
        if self.is_forbidden(realm, &winner) {
            return Ok(None);
        }
        let delivery = if winner.is_same_write(record) {
            Delivery::Stored
        } else {
            Delivery::Lost
        };
        let age_ms = self.now_ms().saturating_sub(winner.written_at_ms);
        let is_old = self.is_aging(age_ms) || u128::from(age_ms) > WINNER_AGE_MAX.as_millis();
        let part = match (winner.location, body) {
            (Location::Here { .. }, Some(body)) if is_old => Part::Whole(winner, vec![body]),
            (Location::Here { .. }, _) => {
                winner.location = Location::First;
                Part::Record(winner)
            }
            (Location::Body(id), _) if is_old && winner.body_bytes <= COPIED_BYTES_MAX => {
                match self.renew_large(realm, winner, id).await? {
                    Part::Nothing => return Ok(None),
                    part => part,
                }
            }
            (Location::Body(_) | Location::First, _) => Part::Record(winner),
        };
        Ok(Some(Made { part, delivery }))
    }

    /// Deletes this node's body of an entry whose record points to another one.
    async fn discard_unless_used(
        &self,
        realm: &Realm,
        own_body: Option<ObjectId>,
        made: Option<&Made>,
    ) {
        let (Some(own), Some(made)) = (own_body, made) else {
            return;
        };
        let is_used = match &made.part {
            Part::Record(record) => record.location == Location::Body(own),
            Part::Whole(..) | Part::Nothing => false,
        };
        if !is_used {
            let name = self.settings.mac_key.body_name(realm, own);
            // If it stays, it is garbage that is found later.
            let _ = self.link_for(realm.trust()).delete(vec![name]).await;
        }
    }
}

/// The record of a first object, and its body if that is in it.
fn winner_in(
    key: &MacKey,
    name: &str,
    record: &Record,
    object: &Bytes,
) -> Result<(Record, Option<Bytes>), NotAuthentic> {
    let index = PackIndex::of_object(key, name, object)?;
    let (_, winner) = index.records().next().ok_or(NotAuthentic)?;
    if winner.key != record.key {
        return Err(NotAuthentic);
    }
    let Location::Here { offset } = winner.location else {
        return Ok((winner, None));
    };
    let (start, end) = (offset, offset.saturating_add(winner.body_bytes));
    let is_there = end <= object.len() as u64;
    let body = is_there.then(|| object.slice(start as usize..end as usize));
    let body = body.filter(|body| winner.body_fits(body));
    Ok((winner, Some(body.ok_or(NotAuthentic)?)))
}
