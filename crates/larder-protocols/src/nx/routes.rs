//! What an Nx client asks, and what is done about it.

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Response};
use larder_cache::{Action, PutStart, Stored};
use larder_model::{Dialect, Policy, WriteGrant};

use super::status::{self, Lookup, NotStored, Store, refusal_reason};
use super::wire::{Address, Target};
use crate::body::Body;
use crate::caller::NoCaller;
use crate::gateway::{Gateway, Origin};
use crate::intake::Intake;
use crate::unwind::caught;

/// Answers a request to a path of this protocol.
pub(crate) async fn answer<B>(
    gateway: &Gateway,
    head: &Parts,
    target: &Target,
    origin: Origin,
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
            let stored = stored.unwrap_or(Store::Refused(NotStored::Failed));
            if let Store::Refused(refused) = stored {
                let reason = refused.reason();
                tracing::info!(reason, path = ?head.uri.path(), "a write was refused");
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

async fn lookup(gateway: &Gateway, head: &Parts, target: &Target, origin: Origin) -> Lookup {
    let metrics = gateway.cache.metrics();
    let denied = |reason| metrics.denied(Dialect::Nx, Action::Read, reason);
    let Target::Entry(address) = target else {
        denied(NotStored::NoEntry.reason());
        return Lookup::Miss;
    };
    let caller = match gateway.caller(&head.headers, address.workspace.as_ref(), origin) {
        Ok(caller) => caller,
        Err(NoCaller::BadCredential(bad)) => {
            denied("bad_credential");
            return Lookup::BadCredential(bad);
        }
        Err(NoCaller::OtherWorkspace) => {
            denied(NotStored::OtherWorkspace.reason());
            return Lookup::Miss;
        }
    };
    match Policy::read(&caller, address.label.as_ref()) {
        Ok(grant) => {
            let hit = gateway.cache.get(&grant, Dialect::Nx, &address.key).await;
            hit.map_or(Lookup::Miss, Lookup::Hit)
        }
        Err(refusal) => {
            denied(refusal_reason(refusal));
            Lookup::Miss
        }
    }
}

async fn store<B>(
    gateway: &Gateway,
    head: &Parts,
    target: &Target,
    origin: Origin,
    intake: &mut Intake<'_, B>,
) -> Store
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let metrics = gateway.cache.metrics();
    let denied = |reason| metrics.denied(Dialect::Nx, Action::Write, reason);
    let refuse = |refused: NotStored| {
        denied(refused.reason());
        Store::Refused(refused)
    };
    let Target::Entry(address) = target else {
        return refuse(NotStored::NoEntry);
    };
    let caller = match gateway.caller(&head.headers, address.workspace.as_ref(), origin) {
        Ok(caller) => caller,
        Err(NoCaller::BadCredential(bad)) => {
            denied("bad_credential");
            return Store::BadCredential(bad);
        }
        Err(NoCaller::OtherWorkspace) => return refuse(NotStored::OtherWorkspace),
    };
    let grant = match Policy::write(&caller, address.label.as_ref()) {
        Ok(grant) => grant,
        Err(refusal) => return refuse(NotStored::Policy(refusal)),
    };
    match upload(gateway, &grant, address, intake).await {
        Ok(stored) => {
            let (workspace, scope) = (grant.workspace(), grant.scope());
            let (writer, key) = (grant.writer(), &address.key);
            tracing::debug!(%workspace, %scope, %writer, %key, ?stored, "a write was accepted");
            Store::Done(stored)
        }
        Err(refused) => Store::Refused(refused),
    }
}

/// Moves the body into the cache. Whatever is left of it is still to be drained.
async fn upload<B>(
    gateway: &Gateway,
    grant: &WriteGrant,
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
    let start = gateway
        .cache
        .put(grant, Dialect::Nx, &address.key, declared, Bytes::new())
        .await;
    let mut upload = match start.map_err(NotStored::Cache)? {
        PutStart::Upload(upload) => upload,
        PutStart::Exists => return Ok(Stored::Exists),
    };
    let mut empty = true;
    while let Some(bytes) = intake.next().await.map_err(NotStored::Interrupted)? {
        empty = false;
        upload.write(bytes).await.map_err(NotStored::Cache)?;
    }
    if empty {
        return Err(NotStored::Empty);
    }
    upload.finish().await.map_err(NotStored::Cache)
}
