//! What a client of this protocol asks, and what is done about it.

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{Method, Response};
use larder_auth::BadCredential;
use larder_cache::{Action, BlobName, Encoding, NotAtHand, PutStart, Upload};
use larder_model::{Caller, Dialect, EntryKey, Policy, ReadGrant, WriteGrant};

use super::json;
use super::shape::{ACTION_RESULT, fits};
use super::status::{self, Counted, Lookup, NotStored};
use super::wire::{self, Address, FUNCTION, Space, Target};
use crate::body::Body;
use crate::caller::{NoCaller, refusal_reason};
use crate::excerpt::Excerpt;
use crate::gateway::{Gateway, Origin};
use crate::intake::{Intake, Room};
use crate::reapi::action_cache::admit_paths;
use crate::reapi::action_result::{ACTION_RESULT_BYTES_MAX, References};
use crate::reapi::completeness::find_complete;
use crate::reapi::rewrites;
use crate::unwind::{caught, caught_at_once};

/// The most bytes of what is no action result but is kept as one. It never comes back over gRPC.
const OPAQUE_BYTES_MAX: u64 = 16 << 20;

/// Answers a request to a path of this protocol, whatever it has to wait for.
pub(crate) async fn answer<B>(
    gateway: &Gateway,
    head: &Parts,
    target: &Target,
    origin: &Origin,
    intake: &mut Intake<'_, B>,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    match head.method {
        Method::GET | Method::HEAD => {
            let found = caught(lookup(gateway, head, target, origin)).await;
            let found = found.unwrap_or(Lookup::Miss);
            status::of_lookup(found, head.method == Method::GET)
        }
        Method::PUT => {
            let stored = caught(store(gateway, head, target, origin, intake)).await;
            let stored = stored.unwrap_or(Err(NotStored::Failed));
            if let Err(refused) = stored {
                note_refused(gateway, head, target, origin, refused);
            }
            intake.drain().await;
            status::of_store(stored)
        }
        _ => {
            intake.drain().await;
            status::method_not_allowed()
        }
    }
}

/// The answer to a request for a blob that has nothing to wait for. `None`: it has, and nothing has happened yet.
pub(crate) fn answer_at_hand(
    gateway: &Gateway,
    head: &Parts,
    target: &Target,
    origin: &Origin,
) -> Option<Response<Body>> {
    let reads = matches!(head.method, Method::GET | Method::HEAD);
    if !reads || target.space != Space::Blobs {
        return None;
    }
    let found = caught_at_once(|| match readable(gateway, head, target, origin) {
        Ok((grant, address)) => {
            let hit = gateway.cache.get_blob_at_hand(&grant, &name_of(address))?;
            Ok(hit.map_or(Lookup::Miss, |hit| Lookup::Blob(hit, wanted(head))))
        }
        Err(unreadable) => Ok(unreadable.into()),
    });
    match found.unwrap_or(Ok(Lookup::Miss)) {
        Ok(found) => Some(status::of_lookup(found, head.method == Method::GET)),
        Err(NotAtHand) => None,
    }
}

async fn lookup(gateway: &Gateway, head: &Parts, target: &Target, origin: &Origin) -> Lookup {
    let (grant, address) = match readable(gateway, head, target, origin) {
        Ok(readable) => readable,
        Err(unreadable) => return unreadable.into(),
    };
    match target.space {
        Space::Blobs => {
            let hit = gateway.cache.get_blob(&grant, &name_of(address)).await;
            hit.map_or(Lookup::Miss, |hit| Lookup::Blob(hit, wanted(head)))
        }
        Space::Actions => lookup_action(gateway, head, &grant, address).await,
    }
}

/// Finds a complete action result or what is opaque: of the scopes on the read path the first that has either, and the result if it
/// has both. Of a result in front of the caller's own only what is complete counts.
async fn lookup_action(
    gateway: &Gateway,
    head: &Parts,
    grant: &ReadGrant,
    address: &Address,
) -> Lookup {
    let key = address.instance.action_key(FUNCTION, address.hash);
    let cache = &gateway.cache;
    let wants_json = wire::wants_json(&head.headers);
    let (mut result, mut from) = (None, 0);
    while let Some((message, next)) = find_complete(cache, grant, FUNCTION, &key, from).await {
        from = next;
        result = if wants_json {
            json::write_action_result(&message).map(Lookup::Json)
        } else {
            Some(Lookup::Result(message))
        };
        if result.is_some() {
            break;
        }
    }
    let result = match result {
        // Nothing can be in front of the first step.
        Some(result) if from == 1 => return result,
        result => result.map(|result| (result, from)),
    };
    let opaque = cache.get_from(grant, Dialect::OpaqueActionResult, &key, 0);
    match (result, opaque.await) {
        (Some((result, at)), Some((_, opaque_at))) if at <= opaque_at => result,
        (_, Some((opaque, _))) => Lookup::Opaque(opaque),
        (Some((result, _)), None) => result,
        (None, None) => Lookup::Miss,
    }
}

fn name_of(address: &Address) -> BlobName {
    BlobName {
        function: FUNCTION,
        hash: address.hash,
        size: None,
    }
}

fn wanted(head: &Parts) -> Encoding {
    if wire::reads_zstd(&head.headers) {
        Encoding::Zstd
    } else {
        Encoding::Identity
    }
}

/// Why there is nothing to look up.
enum Unreadable {
    /// As good as a miss.
    Unseen,
    /// Nothing but the blob of no bytes, which is nobody's secret.
    EmptyBlob,
    BadCredential(BadCredential),
}

impl From<Unreadable> for Lookup {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::Unseen => Self::Miss,
            Unreadable::EmptyBlob => Self::EmptyBlob,
            Unreadable::BadCredential(bad) => Self::BadCredential(bad),
        }
    }
}

/// What the request may read.
fn readable<'a>(
    gateway: &Gateway,
    head: &Parts,
    target: &'a Target,
    origin: &Origin,
) -> Result<(ReadGrant, &'a Address), Unreadable> {
    let (metrics, dialect) = (gateway.cache.metrics(), target.space.dialect());
    let denied = |reason| metrics.denied(dialect, Action::Read, reason);
    let unseen = |reason| {
        let empty = |it: &Address| it.hash == FUNCTION.empty_hash();
        if target.space == Space::Blobs && target.address.as_ref().is_some_and(empty) {
            return Unreadable::EmptyBlob;
        }
        denied(reason);
        Unreadable::Unseen
    };
    let workspace = target.address.as_ref().map(|it| &it.instance.workspace);
    let named = workspace.and_then(Option::as_ref);
    let caller = match gateway.caller(&head.headers, named, origin) {
        Ok(caller) => caller,
        Err(NoCaller::BadCredential(bad)) => {
            denied("bad_credential");
            return Err(Unreadable::BadCredential(bad));
        }
        Err(NoCaller::OtherWorkspace) => return Err(unseen(NotStored::OtherWorkspace.reason())),
        Err(NoCaller::Expired) => return Err(unseen(NotStored::Expired.reason())),
    };
    let Some(address) = &target.address else {
        return Err(unseen(NotStored::NoEntry.reason()));
    };
    match Policy::read(&caller, address.instance.label.as_ref()) {
        Ok(grant) => Ok((grant, address)),
        Err(refusal) => Err(unseen(refusal_reason(refusal))),
    }
}

async fn store<B>(
    gateway: &Gateway,
    head: &Parts,
    target: &Target,
    origin: &Origin,
    intake: &mut Intake<'_, B>,
) -> Result<(), NotStored>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let named = target.address.as_ref().map(|it| &it.instance.workspace);
    let named = named.and_then(Option::as_ref);
    let label = target.address.as_ref().map(|it| &it.instance.label);
    let label = label.and_then(Option::as_ref);
    // What is wrong with a credential is said first.
    let writer = gateway.writer(&head.headers, named, label, origin).await?;
    let address = target.address.as_ref().ok_or(NotStored::NoEntry)?;
    let (grant, hash, space) = (&writer.grant, address.hash, target.space);
    match space {
        Space::Blobs => {
            let start = begin_blob(gateway, head, grant, address, intake.declared()).await?;
            if let PutStart::Upload(mut upload) = start {
                let received = receive(&mut upload, intake).await?;
                let stored = writer.finish(upload).await?;
                writer.note_stored(stored, space.dialect(), None, received);
            }
        }
        Space::Actions => {
            let sent = collect(gateway, head, &writer.caller, intake).await?;
            let key = address.instance.action_key(FUNCTION, hash);
            if sent.reads_as_result() {
                admit_paths(gateway, &writer, &key, &sent.bytes).map_err(NotStored::Stray)?;
            }
            let start = begin_action(gateway, grant, &key, &sent).await?;
            if let PutStart::Upload(mut upload) = start {
                let bytes = sent.bytes.len() as u64;
                let is_result = sent.dialect == Dialect::ActionResult;
                let replaced = is_result
                    .then(|| gateway.cache.replaced_at_hand(grant, sent.dialect, &key))
                    .flatten();
                let written = upload.write(sent.bytes.clone()).await;
                written.map_err(NotStored::Cache)?;
                let stored = writer.finish(upload).await?;
                rewrites::note(gateway, grant, hash, replaced, &sent.bytes);
                writer.note_stored(stored, sent.dialect, Some(&key), bytes);
            }
        }
    }
    let (workspace, scope, writer) = (grant.workspace(), grant.scope(), grant.writer());
    tracing::debug!(%workspace, %scope, %writer, ?space, %hash, "a write was accepted");
    Ok(())
}

async fn begin_blob(
    gateway: &Gateway,
    head: &Parts,
    grant: &WriteGrant,
    address: &Address,
    declared: Option<u64>,
) -> Result<PutStart, NotStored> {
    let (encoding, size) = wire::sent_form(&head.headers)?;
    let name = BlobName {
        size,
        ..name_of(address)
    };
    let cache = &gateway.cache;
    let start = cache.put_blob(grant, &name, encoding, declared).await;
    start.map_err(NotStored::Cache)
}

/// Moves the body into the cache; how many bytes it has.
async fn receive<B>(upload: &mut Upload, intake: &mut Intake<'_, B>) -> Result<u64, NotStored>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let mut received = 0;
    while let Some(bytes) = intake.next().await.map_err(NotStored::Interrupted)? {
        received += bytes.len() as u64;
        upload.write(bytes).await.map_err(NotStored::Cache)?;
    }
    Ok(received)
}

/// What a client wants to keep under an action's hash.
struct Sent {
    dialect: Dialect,
    bytes: Bytes,
    metadata: Bytes,
    _room: Room,
}

impl Sent {
    /// Whether a client may take it for an action result. What is no valid one is kept as it came, and handed out so.
    fn reads_as_result(&self) -> bool {
        self.dialect == Dialect::ActionResult || fits(&ACTION_RESULT, &self.bytes)
    }
}

/// Reads the whole body and tells what it is. An action result in JSON is stored as protobuf, all else as it came.
async fn collect<B>(
    gateway: &Gateway,
    head: &Parts,
    caller: &Caller,
    intake: &mut Intake<'_, B>,
) -> Result<Sent, NotStored>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    if wire::sent_form(&head.headers)?.0 != Encoding::Identity {
        return Err(NotStored::Encoding);
    }
    let declared = intake.declared();
    let opaque_too_large = NotStored::TooLarge {
        what: "entries under /ac/",
        limit: OPAQUE_BYTES_MAX,
    };
    if declared > Some(OPAQUE_BYTES_MAX) {
        return Err(opaque_too_large);
    }
    let is_json = wire::sends_json(&head.headers);
    // What is translated is in memory twice.
    let memory = |capacity: u64| capacity * if is_json { 2 } else { 1 };
    let rooms = &gateway.whole_bodies;
    let room = rooms.room(caller, memory(declared.unwrap_or(0))).await;
    let mut room = room.ok_or(NotStored::Busy)?;
    let mut hurried = room.is_held();
    if hurried {
        intake.hurry();
    }
    let mut body = BytesMut::with_capacity(declared.unwrap_or(0) as usize);
    while let Some(bytes) = intake.next().await.map_err(NotStored::Interrupted)? {
        let len = body.len() + bytes.len();
        if len as u64 > OPAQUE_BYTES_MAX {
            return Err(opaque_too_large);
        }
        if len > body.capacity() {
            let capacity = len.next_power_of_two();
            let bytes = memory(capacity as u64);
            // Who has none yet may wait for it; who has some would wait for others who do so, too.
            let has_more = room.grow_to(bytes);
            if !has_more && !room.is_held() {
                room = rooms.room(caller, bytes).await.ok_or(NotStored::Busy)?;
            } else if !has_more {
                return Err(NotStored::Busy);
            }
            body.reserve(capacity - body.len());
            if !hurried && room.is_held() {
                hurried = true;
                intake.hurry();
            }
        }
        body.extend_from_slice(&bytes);
    }
    if body.is_empty() {
        return Err(NotStored::Empty);
    }
    let body = body.freeze();
    let result = if is_json {
        json::read_action_result(&body).map(Bytes::from)
    } else {
        Some(body.clone())
    };
    let result = result.filter(|result| is_action_result(result));
    let (dialect, bytes, metadata) = if let Some(result) = result {
        if result.len() as u64 > ACTION_RESULT_BYTES_MAX {
            return Err(NotStored::TooLarge {
                what: "action results",
                limit: ACTION_RESULT_BYTES_MAX,
            });
        }
        (Dialect::ActionResult, result, Bytes::new())
    } else {
        // No other content type is kept: a page is never one, whoever wrote it.
        let content_type = if is_json { wire::JSON } else { "" };
        let content_type = Bytes::from_static(content_type.as_bytes());
        (Dialect::OpaqueActionResult, body, content_type)
    };
    Ok(Sent {
        dialect,
        bytes,
        metadata,
        _room: room,
    })
}

/// Whether bytes are really an action result. Many short texts are protobuf messages by chance, so it must say something.
fn is_action_result(message: &[u8]) -> bool {
    fits(&ACTION_RESULT, message)
        && References::of(FUNCTION, message).is_ok_and(|found| found.says_something)
}

async fn begin_action(
    gateway: &Gateway,
    grant: &WriteGrant,
    key: &EntryKey,
    sent: &Sent,
) -> Result<PutStart, NotStored> {
    let (size, metadata) = (Some(sent.bytes.len() as u64), sent.metadata.clone());
    let cache = &gateway.cache;
    let start = cache.put(grant, sent.dialect, key, size, metadata).await;
    start.map_err(NotStored::Cache)
}

/// Counts and logs a refused write. What anybody on the network can cause is logged for those who look for it only.
fn note_refused(
    gateway: &Gateway,
    head: &Parts,
    target: &Target,
    origin: &Origin,
    refused: NotStored,
) {
    let (metrics, reason) = (gateway.cache.metrics(), refused.reason());
    let (dialect, path) = (target.space.dialect(), Excerpt(head.uri.path()));
    // Whom the credential names, whatever workspace the URL does.
    let caller = gateway.caller(&head.headers, None, origin);
    gateway.note_refused_write(&caller, origin, dialect, reason);
    let principal = match &caller {
        Ok(Caller::Known(principal)) => Some((principal, principal.access().kind())),
        Ok(Caller::Anonymous { .. } | Caller::LocalOperator) | Err(_) => None,
    };
    match (refused.counted(), principal) {
        (Counted::ByTheCache, _) => {}
        (Counted::Unfinished(why), Some((principal, kind))) => {
            metrics.unfinished(dialect, principal.workspace(), kind, why);
        }
        (Counted::Unfinished(_) | Counted::Denied, _) => {
            metrics.denied(dialect, Action::Write, reason);
        }
    }
    if let Some((principal, _)) = principal {
        let (workspace, writer) = (principal.workspace(), principal.writer());
        tracing::info!(reason, %workspace, %writer, %path, "a write was refused");
    } else {
        tracing::debug!(reason, %path, "a write was refused");
    }
}
