//! What an Nx client asks, and what is done about it.

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response};
use larder_auth::BadCredential;
use larder_cache::{Action, NotAtHand, PutStart, Stored};
use larder_model::{Caller, Dialect, EntryKey, Policy, ReadGrant};

use super::status::{self, Counted, Lookup, NotStored};
use super::wire::{Address, Target};
use crate::archive::{Examination, Examined, Finding, Verdict};
use crate::body::Body;
use crate::caller::{NoCaller, refusal_reason};
use crate::excerpt::Excerpt;
use crate::gateway::{Gateway, Origin};
use crate::intake::Intake;
use crate::unwind::{caught, caught_at_once};
use crate::writer::Writer;

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
            if let Err(refused) = &stored {
                note_refused(gateway, head, origin, refused);
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

/// The answer to a request that has nothing to wait for: most reads. `None`: it has, and nothing
/// has happened yet.
pub(crate) fn answer_at_hand(
    gateway: &Gateway,
    head: &Parts,
    target: &Target,
    origin: &Origin,
) -> Option<Response<Body>> {
    if !matches!(head.method, Method::GET | Method::HEAD) {
        return None;
    }
    let found = caught_at_once(|| match readable(gateway, head, target, origin) {
        Ok((grant, key)) => {
            let hit = gateway.cache.get_at_hand(&grant, Dialect::Nx, key)?;
            Ok(hit.map_or(Lookup::Miss, Lookup::Hit))
        }
        Err(unreadable) => Ok(unreadable.into()),
    });
    match found.unwrap_or(Ok(Lookup::Miss)) {
        Ok(found) => Some(status::of_lookup(found, head.method == Method::GET)),
        Err(NotAtHand) => None,
    }
}

async fn lookup(gateway: &Gateway, head: &Parts, target: &Target, origin: &Origin) -> Lookup {
    match readable(gateway, head, target, origin) {
        Ok((grant, key)) => {
            let hit = gateway.cache.get(&grant, Dialect::Nx, key).await;
            hit.map_or(Lookup::Miss, Lookup::Hit)
        }
        Err(unreadable) => unreadable.into(),
    }
}

/// Why there is nothing to look up.
enum Unreadable {
    /// As good as a miss.
    Unseen,
    BadCredential(BadCredential),
}

impl From<Unreadable> for Lookup {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::Unseen => Self::Miss,
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
) -> Result<(ReadGrant, &'a EntryKey), Unreadable> {
    let metrics = gateway.cache.metrics();
    let denied = |reason| metrics.denied(Dialect::Nx, Action::Read, reason);
    let Target::Entry(address) = target else {
        denied(NotStored::NoEntry.reason());
        return Err(Unreadable::Unseen);
    };
    let caller = match gateway.caller(&head.headers, address.workspace.as_ref(), origin) {
        Ok(caller) => caller,
        Err(NoCaller::BadCredential(bad)) => {
            denied("bad_credential");
            return Err(Unreadable::BadCredential(bad));
        }
        Err(NoCaller::OtherWorkspace) => {
            denied(NotStored::OtherWorkspace.reason());
            return Err(Unreadable::Unseen);
        }
        Err(NoCaller::Expired) => {
            denied(NotStored::Expired.reason());
            return Err(Unreadable::Unseen);
        }
    };
    match Policy::read(&caller, address.label.as_ref()) {
        Ok(grant) => Ok((grant, &address.key)),
        Err(refusal) => {
            denied(refusal_reason(refusal));
            Err(Unreadable::Unseen)
        }
    }
}

async fn store<B>(
    gateway: &Gateway,
    head: &Parts,
    target: &Target,
    origin: &Origin,
    intake: &mut Intake<'_, B>,
) -> Result<Stored, NotStored>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let Target::Entry(address) = target else {
        return Err(NotStored::NoEntry);
    };
    let (workspace, label) = (address.workspace.as_ref(), address.label.as_ref());
    let writer = gateway
        .writer(&head.headers, workspace, label, origin)
        .await?;
    let stored = upload(gateway, &writer, address, intake).await?;
    let (grant, key) = (&writer.grant, Excerpt(&address.key));
    let (workspace, scope, writer) = (grant.workspace(), grant.scope(), grant.writer());
    tracing::debug!(%workspace, %scope, %writer, %key, ?stored, "a write was accepted");
    Ok(stored)
}

/// Moves the body into the cache. Whatever is left of it is still to be drained.
async fn upload<B>(
    gateway: &Gateway,
    writer: &Writer<'_>,
    address: &Address,
    intake: &mut Intake<'_, B>,
) -> Result<Stored, NotStored>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let declared = intake.declared();
    if declared == Some(0) {
        return Err(NotStored::Empty);
    }
    let (cache, grant, key) = (&gateway.cache, &writer.grant, &address.key);
    let start = cache
        .put(grant, Dialect::Nx, key, declared, Bytes::new())
        .await;
    let mut upload = match start.map_err(NotStored::Cache)? {
        PutStart::Upload(upload) => upload,
        PutStart::Exists => return Ok(Stored::Exists),
    };
    let whose = gateway.inspected_writers();
    let mut examination = Examination::begin(&writer.caller, whose, &gateway.whole_bodies);
    let mut received = 0;
    while let Some(bytes) = intake.next().await.map_err(NotStored::Interrupted)? {
        received += bytes.len() as u64;
        // Both have threads of their own for what takes long.
        let (written, ()) = tokio::join!(upload.write(bytes.clone()), examination.add(bytes));
        written.map_err(NotStored::Cache)?;
        if let Some(known) = examination.known() {
            check_examined(gateway, writer, known)?;
        }
    }
    if received == 0 {
        return Err(NotStored::Empty);
    }
    let examined = examination.finish();
    check_examined(gateway, writer, &examined)?;
    let stored = writer.finish(upload).await?;
    writer.note_stored(stored, Dialect::Nx, Some(key), received);
    if stored == Stored::New {
        note_examined(gateway, writer, address, &examined);
    }
    Ok(stored)
}

/// Whether an archive that was found to be such may be stored: one of a trusted writer always may.
fn check_examined(
    gateway: &Gateway,
    writer: &Writer<'_>,
    examined: &Examined,
) -> Result<(), NotStored> {
    if writer.grant.kind().writes_trusted() {
        return Ok(());
    }
    let refused = match examined {
        Examined::As(Verdict::Clean | Verdict::Foreign) => return Ok(()),
        Examined::As(Verdict::Hostile(finding)) => NotStored::HostileArchive(finding.clone()),
        Examined::Not => NotStored::NotExamined,
    };
    count_examined(gateway, writer, examined);
    Err(refused)
}

/// Counts an archive that is stored, and logs one that is hostile: then its writer is trusted, and should not be.
fn note_examined(gateway: &Gateway, writer: &Writer<'_>, address: &Address, examined: &Examined) {
    count_examined(gateway, writer, examined);
    if let Examined::As(Verdict::Hostile(Finding { fault, entry })) = examined {
        let (fault, entry) = (fault.name(), String::from_utf8_lossy(entry));
        writer.note_flagged(Dialect::Nx, &address.key, fault, &entry);
        let (workspace, writer) = (writer.grant.workspace(), writer.grant.writer());
        let (key, entry) = (Excerpt(&address.key), Excerpt(entry));
        tracing::warn!(%workspace, %writer, %key, fault, %entry, "a trusted writer stored a hostile archive");
    }
}

fn count_examined(gateway: &Gateway, writer: &Writer<'_>, examined: &Examined) {
    let (verdict, fault) = examined.labels();
    let trusted = writer.grant.kind().writes_trusted();
    let metrics = gateway.cache.metrics();
    metrics.inspected(Dialect::Nx, verdict, fault, trusted);
}

/// Counts and logs a refused write. What anybody on the network can cause is logged for those who
/// look for it only.
fn note_refused(gateway: &Gateway, head: &Parts, origin: &Origin, refused: &NotStored) {
    let (metrics, reason) = (gateway.cache.metrics(), refused.reason());
    let path = Excerpt(head.uri.path());
    // Whom the credential names, whatever workspace the URL does.
    let caller = gateway.caller(&head.headers, None, origin);
    gateway.note_refused_write(&caller, origin, Dialect::Nx, reason);
    let principal = match &caller {
        Ok(Caller::Known(principal)) => Some((principal, principal.access().kind())),
        Ok(Caller::Anonymous { .. } | Caller::LocalOperator) | Err(_) => None,
    };
    match (refused.counted(), principal) {
        (Counted::ByTheCache, _) => {}
        (Counted::Unfinished(why), Some((principal, kind))) => {
            metrics.unfinished(Dialect::Nx, principal.workspace(), kind, why);
        }
        (Counted::Unfinished(_) | Counted::Denied, _) => {
            metrics.denied(Dialect::Nx, Action::Write, reason);
        }
    }
    if let Some((principal, _)) = principal {
        let (workspace, writer) = (principal.workspace(), principal.writer());
        if let NotStored::HostileArchive(Finding { fault, entry }) = refused {
            let (fault, entry) = (fault.name(), Excerpt(String::from_utf8_lossy(entry)));
            tracing::info!(reason, fault, %entry, %workspace, %writer, %path, "a write was refused");
        } else {
            tracing::info!(reason, %workspace, %writer, %path, "a write was refused");
        }
    } else {
        tracing::debug!(reason, %path, "a write was refused");
    }
}
