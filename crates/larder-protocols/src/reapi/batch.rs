//! `BatchUpdateBlobs` and `BatchReadBlobs`: many small blobs in one message.
//!
//! Each blob has a verdict of its own, and each request its answer, duplicates too. What concerns a batch as a whole, that it is
//! no message, too large, or not allowed, refuses it as a whole.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::OnceLock;
use std::task::{Poll, ready};

use bytes::Bytes;
use larder_cache::{BlobName, Cache, Encoding};
use larder_model::{Dialect, Digest, DigestFunction, ReadGrant};
use larder_proto::{Message, rpc};

use super::DECODED_BYTES_MAX;
use super::call::{Call, Common, digest, encoding_of};
use super::capabilities::BATCH_BYTES_MAX;
use super::fields::{Fields, Malformed, Value, put_block, put_varint};
use super::status::{Absent, Refused};
use super::together::all;
use crate::intake::Room;
use crate::writer::{NotWritten, Writer};

/// The most blobs of a batch. The smallest takes 70 bytes and its answer more, so a batch within the other limits has hardly more.
pub(super) const BATCH_COUNT_MAX: usize = 50_000;

/// How many blobs of a batch are worked on at once, as far as there is something to wait for.
const AT_ONCE: usize = 64;

const UPDATE: &str = "BatchUpdateBlobsRequest";
const READ: &str = "BatchReadBlobsRequest";

/// A blob to store: its digest as it was sent, and the rest.
struct Item {
    named: Bytes,
    data: Bytes,
    compressor: u64,
}

/// Stores blobs and answers with `BatchUpdateBlobsResponse`.
pub(super) async fn update(call: &Call<'_>, message: &Bytes) -> Result<Vec<u8>, Refused> {
    let common = Common::read(message, 5, UPDATE)?;
    let writer = call.writer(&common.instance).await?;
    let items = items(message)?;
    if items.iter().map(|item| item.data.len()).sum::<usize>() > BATCH_BYTES_MAX {
        return Err(Refused::BatchTooLarge);
    }
    let digests = items
        .iter()
        .map(|item| digest(common.function, &item.named));
    let decoded = digests.flatten().map(|digest| digest.size());
    if decoded.fold(0, u64::saturating_add) > DECODED_BYTES_MAX {
        return Err(Refused::BatchDecodesTooLarge);
    }
    let verdicts = Verdicts::on(&items, call.client.batch_answer_bytes_max())?;
    let (cache, grant) = (&call.gateway.cache, &writer.grant);
    let (items, writer, ended) = (&items, &writer, &OnceLock::new());
    let stores = (0..items.len()).map(|index| async move {
        let item = &items[index];
        let (digest, encoding) = (
            digest(common.function, &item.named)?,
            encoding_of(item.compressor)?,
        );
        if digest.is_empty() && item.data.is_empty() {
            return Ok(());
        }
        let stored = cache.put_whole_blob(grant, &digest, encoding, item.data.clone());
        let Some(stored) = while_good(writer, ended, stored).await else {
            return Ok(());
        };
        let dialect = Dialect::Cas(digest.function());
        writer.note_stored(stored?, dialect, None, item.data.len() as u64);
        call.note_stored(grant, &digest);
        Ok(())
    });
    let found: Vec<Result<(), Refused>> = all(stores, AT_ONCE).await;
    if let Some(ended) = ended.get() {
        return Err(ended.clone().into());
    }
    note_refused(call, common.function, &found);
    Ok(verdicts.fill(found))
}

/// Takes down what of a batch was refused; what concerns all of it is taken down where other calls are.
fn note_refused(call: &Call<'_>, function: DigestFunction, found: &[Result<(), Refused>]) {
    let (gateway, dialect) = (call.gateway, Dialect::Cas(function));
    let mut caller = None;
    for refused in found.iter().filter_map(|found| found.as_ref().err()) {
        let caller = caller.get_or_insert_with(|| gateway.caller(call.headers, None, call.origin));
        gateway.note_refused_write(caller, call.origin, dialect, refused.reason());
    }
}

/// The output of `work`, which makes an entry visible without waiting for anything after its last poll began; so the credential is
/// looked at before each, and a JWT that has lapsed is introduced again. `None`: it has ended, as `ended` says, and with it the
/// batch. What was stored before that stays.
async fn while_good<F: Future>(
    writer: &Writer<'_>,
    ended: &OnceLock<NotWritten>,
    work: F,
) -> Option<F::Output> {
    let mut work = pin!(work);
    let mut introduction = None;
    poll_fn(|context| {
        if ended.get().is_some() {
            return Poll::Ready(None);
        }
        if introduction.is_none() && writer.lapsed() {
            introduction = Some(Box::pin(writer.introduce()));
        }
        if let Some(under_way) = &mut introduction {
            ready!(under_way.as_mut().poll(context));
            introduction = None;
        }
        if let Err(why) = writer.still_good() {
            ended.get_or_init(|| why);
            return Poll::Ready(None);
        }
        work.as_mut().poll(context).map(Some)
    })
    .await
}

/// A `BatchUpdateBlobsResponse` that never gets longer than a client takes: what is wrong with blobs is said as often as there is room
/// for the text, and the code always.
struct Verdicts<'m> {
    items: &'m [Item],
    bytes_max: usize,
    /// How long the answer is without any text.
    bare_bytes: usize,
}

impl<'m> Verdicts<'m> {
    fn on(items: &'m [Item], bytes_max: usize) -> Result<Self, Refused> {
        // Of a code one byte is enough.
        let bare = |item: &Item| verdict(&item.named, &[1 << 3, 0]).len();
        let bare_bytes = items.iter().map(bare).sum();
        if bare_bytes > bytes_max {
            return Err(Refused::BatchTooMany(bytes_max));
        }
        Ok(Self {
            items,
            bytes_max,
            bare_bytes,
        })
    }

    fn fill(self, found: Vec<Result<(), Refused>>) -> Vec<u8> {
        let mut response = Vec::with_capacity(self.bare_bytes);
        let mut left = self.bytes_max - self.bare_bytes;
        for (item, found) in self.items.iter().zip(found) {
            let Err(refused) = found else {
                response.extend_from_slice(&verdict(&item.named, &[]));
                continue;
            };
            let bare = verdict(&item.named, &[1 << 3, refused.code().number()]);
            let full = verdict(&item.named, &status(Some(&refused)));
            let more = full.len().saturating_sub(bare.len());
            if more > left {
                response.extend_from_slice(&bare);
            } else {
                left -= more;
                response.extend_from_slice(&full);
            }
        }
        response
    }
}

/// `{digest = 1, status = 2}` as an answer.
fn verdict(named: &[u8], status: &[u8]) -> Vec<u8> {
    let mut answer = Vec::with_capacity(named.len() + status.len() + 16);
    put_block(1, named, &mut answer);
    put_block(2, status, &mut answer);
    let mut verdict = Vec::with_capacity(answer.len() + 8);
    put_block(1, &answer, &mut verdict);
    verdict
}

fn items(message: &Bytes) -> Result<Vec<Item>, Refused> {
    let malformed = |Malformed| Refused::Malformed(UPDATE);
    let mut items = Vec::new();
    for field in Fields::of(message) {
        let request = match field.map_err(malformed)? {
            (2, Value::Bytes(request)) => request,
            (2, _) => return Err(Refused::Malformed(UPDATE)),
            _ => continue,
        };
        let mut item = Item {
            named: Bytes::new(),
            data: Bytes::new(),
            compressor: 0,
        };
        for field in Fields::of(request) {
            match field.map_err(malformed)? {
                (1, Value::Bytes(named)) => item.named = message.slice_ref(named),
                (2, Value::Bytes(data)) => item.data = message.slice_ref(data),
                (3, Value::Varint(compressor)) => item.compressor = compressor,
                (1..=3, _) => return Err(Refused::Malformed(UPDATE)),
                _ => {}
            }
        }
        if item.named.is_empty() {
            return Err(Refused::NoDigest);
        }
        if items.len() == BATCH_COUNT_MAX {
            return Err(Refused::BatchTooLong);
        }
        items.push(item);
    }
    Ok(items)
}

/// Answers with `BatchReadBlobsResponse`, and the room that it takes.
pub(super) async fn read(call: &Call<'_>, message: &[u8]) -> Result<(Vec<u8>, Room), Refused> {
    let malformed = |Malformed| Refused::Malformed(READ);
    let common = Common::read(message, 4, READ)?;
    let (mut digests, mut zstd) = (Vec::new(), false);
    for field in Fields::of(message) {
        match field.map_err(malformed)? {
            (2, Value::Bytes(_)) if digests.len() == BATCH_COUNT_MAX => {
                return Err(Refused::BatchTooLong);
            }
            (2, Value::Bytes(named)) => digests.push((named, digest(common.function, named)?)),
            (3, Value::Varint(compressor)) => zstd |= compressor == 1,
            // A list of numbers comes packed, one behind the other.
            (3, Value::Bytes(compressors)) => zstd |= compressors.contains(&1),
            (2 | 3, _) => return Err(Refused::Malformed(READ)),
            _ => {}
        }
    }
    let total = digests.iter().map(|(_, digest)| digest.size());
    let total = total.fold(0, u64::saturating_add);
    if total > BATCH_BYTES_MAX as u64 {
        return Err(Refused::BatchTooLarge);
    }
    let grant = match call.reader(&common.instance) {
        Ok(grant) => Ok(grant),
        Err(Refused::Absent(unseen)) => Err(unseen),
        Err(refused) => return Err(refused),
    };
    let named = digests.iter().map(|(named, _)| *named);
    let answer = Answer::to(named, call.client.batch_answer_bytes_max())?;
    let most = answer.bytes_max.min(answer.bare_bytes + total as usize);
    let (caller, answers) = (call.anybody(), &call.gateway.whole_answers);
    let room = answers.room(&caller, most as u64).await;
    let room = room.ok_or(Refused::Busy)?;
    let (cache, grant, digests) = (&call.gateway.cache, &grant, &digests);
    let reads = (0..digests.len()).map(|index| async move {
        let digest = &digests[index].1;
        match grant {
            _ if digest.is_empty() => Ok((Bytes::new(), Encoding::Identity)),
            Ok(grant) => blob(cache, grant, digest, zstd).await.ok_or(Absent::Blob),
            Err(unseen) => Err(*unseen),
        }
    });
    let found = all(reads, AT_ONCE).await;
    Ok((answer.fill(found), room))
}

/// A `BatchReadBlobsResponse` that never gets longer than a client takes, whatever surrounds the blobs.
struct Answer<'m> {
    /// What is asked for, as it was sent.
    named: Vec<&'m [u8]>,
    bytes_max: usize,
    /// How long the answer is if all that it says is that it is full.
    bare_bytes: usize,
}

impl<'m> Answer<'m> {
    fn to(named: impl Iterator<Item = &'m [u8]>, bytes_max: usize) -> Result<Self, Refused> {
        let named: Vec<_> = named.collect();
        let bare_bytes = named.iter().map(|named| bare(named).len()).sum();
        if bare_bytes > bytes_max {
            return Err(Refused::BatchTooMany(bytes_max));
        }
        Ok(Self {
            named,
            bytes_max,
            bare_bytes,
        })
    }

    /// Puts in the blobs that have room, the first ones first. There is always room for the verdict on those that come behind.
    fn fill(self, found: Vec<Result<(Bytes, Encoding), Absent>>) -> Vec<u8> {
        let data = found.iter().flatten().map(|(data, _)| data.len());
        let bytes = data.sum::<usize>() + self.bare_bytes;
        let mut response = Vec::with_capacity(bytes.min(self.bytes_max));
        let mut left = self.bytes_max - self.bare_bytes;
        for (named, found) in self.named.iter().zip(found) {
            let (bare, begin) = (bare(named), response.len());
            put_answer(named, found.map_err(Refused::Absent), &mut response);
            let (room, taken) = (left + bare.len(), response.len() - begin);
            if taken > room {
                response.truncate(begin);
                response.extend_from_slice(&bare);
            } else {
                left = room - taken;
            }
        }
        response
    }
}

/// The answer for a blob that has no room.
fn bare(named: &[u8]) -> Vec<u8> {
    let mut bare = Vec::with_capacity(named.len() + 48);
    put_answer(named, Err(Refused::AnswerFull), &mut bare);
    bare
}

/// A blob whole, as it is stored if the client takes that.
async fn blob(
    cache: &Cache,
    grant: &ReadGrant,
    digest: &Digest,
    zstd: bool,
) -> Option<(Bytes, Encoding)> {
    let hit = cache.get_blob(grant, &BlobName::from(digest)).await?;
    let encoding = match hit.stored {
        // What is smaller as it is stays as it is.
        Encoding::Zstd if zstd && hit.stored_bytes < digest.size() => Encoding::Zstd,
        Encoding::Zstd | Encoding::Identity => Encoding::Identity,
    };
    let mut body = hit.read(encoding, 0);
    if let Some(whole) = body.take_whole() {
        return Some((whole, encoding));
    }
    let mut whole = Vec::with_capacity(body.remaining().unwrap_or(0) as usize);
    while let Some(piece) = body.next().await {
        whole.extend_from_slice(&piece.ok()?);
    }
    Some((whole.into(), encoding))
}

/// Appends `{digest = 1, data = 2, status = 3, compressor = 4}` as an answer. A status that is fine is said all the same.
fn put_answer(named: &[u8], found: Result<(Bytes, Encoding), Refused>, response: &mut Vec<u8>) {
    let (data, encoding, refused) = match found {
        Ok((data, encoding)) => (data, encoding, None),
        Err(refused) => (Bytes::new(), Encoding::Identity, Some(refused)),
    };
    let status = status(refused.as_ref());
    let mut head = Vec::with_capacity(named.len() + status.len() + 16);
    put_block(1, named, &mut head);
    put_block(3, &status, &mut head);
    if encoding == Encoding::Zstd {
        head.extend_from_slice(&[4 << 3, 1]);
    }
    let mut prefix = Vec::with_capacity(11);
    if !data.is_empty() {
        put_varint(2 << 3 | 2, &mut prefix);
        put_varint(data.len() as u64, &mut prefix);
    }
    put_varint(1 << 3 | 2, response);
    put_varint((head.len() + prefix.len() + data.len()) as u64, response);
    for part in [&head, &prefix, &data[..]] {
        response.extend_from_slice(part);
    }
}

/// A `google.rpc.Status` message; no bytes is OK.
fn status(refused: Option<&Refused>) -> Vec<u8> {
    let status = refused.map_or_else(rpc::Status::default, |refused| rpc::Status {
        code: i32::from(refused.code().number()),
        message: refused.to_string(),
        ..rpc::Status::default()
    });
    status.encode_to_vec()
}
