//! `ActionCache`: results of actions, handed out only if all their blobs are there.
//!
//! A result is stored as the bytes that were sent and comes back as them: what a newer client puts into it and this server does not know
//! survives. What an action is is nobody's business here; its digest is a name.

use std::collections::HashSet;

use bytes::Bytes;
use larder_cache::{BlobName, Cache, Encoding, PutStart};
use larder_model::{BlobHash, Dialect, Digest, DigestFunction, EntryKey, ReadGrant};

use super::action_result::{self, Stray};
use super::call::{Call, Common, action_hash, digest};
use super::completeness::find_complete;
use super::fields::{Fields, Malformed, Value, embedded, put_block};
use super::rewrites;
use super::status::{Absent, Refused};
use crate::excerpt::Excerpt;
use crate::gateway::Gateway;
use crate::shown_key::ShownKey;
use crate::writer::Writer;

/// The most bytes that are put into a result on top of what it has: a result may have to fit 4 MiB, with its own bytes.
const INLINED_BYTES_MAX: u64 = 3 << 20;

/// What an action result without any field is stored as: with its exit code 0 said. No bytes could not be told from nothing.
const DEFAULT_RESULT: &[u8] = &[4 << 3, 0];

const GET: &str = "GetActionResultRequest";
const UPDATE: &str = "UpdateActionResultRequest";

/// What a client would like to have in the result itself.
#[derive(Default)]
struct Hints<'m> {
    stdout: bool,
    stderr: bool,
    files: HashSet<&'m [u8]>,
}

/// Answers with an `ActionResult`.
pub(super) async fn get(call: &Call<'_>, message: &[u8]) -> Result<Bytes, Refused> {
    let common = Common::read(message, 6, GET)?;
    let (mut action, mut hints) = (&b""[..], Hints::default());
    for field in Fields::of(message) {
        match field.map_err(|Malformed| Refused::Malformed(GET))? {
            (2, Value::Bytes(digest)) => action = digest,
            (3, Value::Varint(wanted)) => hints.stdout = wanted != 0,
            (4, Value::Varint(wanted)) => hints.stderr = wanted != 0,
            (5, Value::Bytes(path)) => {
                hints.files.insert(path);
            }
            (2..=5, _) => return Err(Refused::Malformed(GET)),
            _ => {}
        }
    }
    let hash = action_hash(common.function, action)?;
    let grant = call.reader(&common.instance)?;
    let key = common.instance.action_key(common.function, hash);
    let cache = &call.gateway.cache;
    let found = find_complete(cache, &grant, common.function, &key, 0).await;
    let (result, _) = found.ok_or(Absent::ActionResult)?;
    let inliner = Inliner {
        cache,
        grant: &grant,
        function: common.function,
        left: INLINED_BYTES_MAX.saturating_sub(result.len() as u64),
    };
    Ok(inliner.inline(result, &hints))
}

/// Stores an `ActionResult` and answers with it.
pub(super) async fn update(call: &Call<'_>, message: &Bytes) -> Result<Bytes, Refused> {
    let malformed = |Malformed| Refused::Malformed(UPDATE);
    let common = Common::read(message, 5, UPDATE)?;
    let writer = call.writer(&common.instance).await?;
    let action = embedded(message, 2).map_err(malformed)?;
    let hash = action_hash(common.function, &action.unwrap_or_default())?;
    let sent = embedded(message, 3).map_err(malformed)?;
    let sent = sent.ok_or(Refused::Malformed(UPDATE))?;
    action_result::check(common.function, &sent).map_err(Refused::ActionResult)?;
    let key = common.instance.action_key(common.function, hash);
    admit_paths(call.gateway, &writer, &key, &sent).map_err(Refused::Stray)?;
    let result = if sent.is_empty() {
        Bytes::from_static(DEFAULT_RESULT)
    } else {
        sent.clone()
    };
    store(call, &common, &writer, hash, result).await?;
    Ok(sent)
}

/// Refuses a result that has clients make something outside their working directory, unless its writer is trusted.
pub(crate) fn admit_paths(
    gateway: &Gateway,
    writer: &Writer<'_>,
    key: &EntryKey,
    result: &[u8],
) -> Result<(), Stray> {
    let trusted = writer.grant.kind().writes_trusted();
    let metrics = gateway.cache.metrics();
    let Err(stray) = action_result::check_paths(result) else {
        metrics.inspected(Dialect::ActionResult, "clean", "", trusted);
        return Ok(());
    };
    metrics.inspected(Dialect::ActionResult, "hostile", stray.name(), trusted);
    if !trusted {
        return Err(stray);
    }
    writer.note_flagged(Dialect::ActionResult, key, stray.name(), &stray.to_string());
    let (workspace, writer) = (writer.grant.workspace(), writer.grant.writer());
    let key = ShownKey::of(Dialect::ActionResult, key).text;
    tracing::warn!(%workspace, %writer, %key, fault = %stray, "a trusted writer stores a hostile action result");
    Ok(())
}

async fn store(
    call: &Call<'_>,
    common: &Common,
    writer: &Writer<'_>,
    hash: BlobHash,
    result: Bytes,
) -> Result<(), Refused> {
    let key = common.instance.action_key(common.function, hash);
    let (size, dialect) = (Some(result.len() as u64), Dialect::ActionResult);
    let (cache, grant) = (&call.gateway.cache, &writer.grant);
    let start = cache.put(grant, dialect, &key, size, Bytes::new()).await?;
    let PutStart::Upload(mut upload) = start else {
        // Results are replaceable, so nothing that exists is in the way.
        return Ok(());
    };
    let replaced = cache.replaced_at_hand(grant, dialect, &key);
    upload.write(result.clone()).await?;
    let stored = writer.finish(upload).await?;
    rewrites::note(call.gateway, grant, hash, replaced, &result);
    writer.note_stored(stored, dialect, Some(&key), size.unwrap_or(0));
    call.note_stored(grant, &Excerpt(hash));
    Ok(())
}

/// Puts blobs into a result, as far as they are at hand and there is room.
struct Inliner<'a> {
    cache: &'a Cache,
    grant: &'a ReadGrant,
    function: DigestFunction,
    left: u64,
}

impl Inliner<'_> {
    /// The result with what the hints ask for. A result that already has a stream raw keeps it.
    fn inline(mut self, result: Bytes, hints: &Hints<'_>) -> Bytes {
        if !(hints.stdout || hints.stderr) && hints.files.is_empty() {
            return result;
        }
        let mut inlined = Vec::with_capacity(result.len() + 1024);
        let (mut raw, mut streams) = ([false; 2], [None, None]);
        let mut fields = Fields::of(&result);
        loop {
            let before = fields.rest();
            let Some(Ok(field)) = fields.next() else {
                break;
            };
            let as_sent = &before[..before.len() - fields.rest().len()];
            match field {
                (2, Value::Bytes(file)) if !hints.files.is_empty() => {
                    match self.contents(file, hints) {
                        Some(contents) => {
                            let file = [file, &field_with(5, &contents)].concat();
                            put_block(2, &file, &mut inlined);
                        }
                        None => inlined.extend_from_slice(as_sent),
                    }
                    continue;
                }
                (5, Value::Bytes(bytes)) => raw[0] = !bytes.is_empty(),
                (7, Value::Bytes(bytes)) => raw[1] = !bytes.is_empty(),
                (6, Value::Bytes(digest)) if hints.stdout => streams[0] = Some(digest),
                (8, Value::Bytes(digest)) if hints.stderr => streams[1] = Some(digest),
                _ => {}
            }
            inlined.extend_from_slice(as_sent);
        }
        for ((field, raw), stream) in [5, 7].into_iter().zip(raw).zip(streams) {
            if let Some(bytes) = stream.filter(|_| !raw).and_then(|digest| self.blob(digest)) {
                put_block(field, &bytes, &mut inlined);
            }
        }
        inlined.into()
    }

    /// The contents of an `OutputFile` that is asked for and has none.
    fn contents(&mut self, file: &[u8], hints: &Hints<'_>) -> Option<Bytes> {
        let (mut path, mut named) = (&b""[..], None);
        for field in Fields::of(file) {
            match field.ok()? {
                (1, Value::Bytes(bytes)) => path = bytes,
                (2, Value::Bytes(bytes)) => named = Some(bytes),
                (5, _) => return None,
                _ => {}
            }
        }
        if hints.files.contains(path) {
            self.blob(named?)
        } else {
            None
        }
    }

    /// A small blob that is in memory.
    fn blob(&mut self, named: &[u8]) -> Option<Bytes> {
        let digest: Digest = digest(self.function, named).ok()?;
        if digest.is_empty() || digest.size() > self.left {
            return None;
        }
        let found = self
            .cache
            .get_blob_at_hand(self.grant, &BlobName::from(&digest));
        let body = found.ok()??.read(Encoding::Identity, 0).take_whole()?;
        self.left -= digest.size();
        Some(body)
    }
}

fn field_with(field: u32, bytes: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(bytes.len() + 10);
    put_block(field, bytes, &mut message);
    message
}
