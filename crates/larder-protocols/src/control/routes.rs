//! What an operator asks, and what is done about it.

use std::net::IpAddr;

use bytes::{Bytes, BytesMut};
use http::Response;
use http::request::Parts;
use larder_cache::{Change, Verified};
use larder_model::{AdminGrant, Caller, Policy, Refusal};

use super::lines::{self, Progress};
use super::status::{self, NotDone};
use super::wire::{
    NondeterministicAction, NondeterministicResponse, StatsResponse, VerifyResponse,
};
use super::writers::writers;
use super::{audit, change, entries};
use crate::body::Body;
use crate::caller::NoCaller;
use crate::excerpt::Excerpt;
use crate::gateway::{Gateway, Origin};
use crate::intake::Intake;
use crate::journal::Actor;
use crate::unwind::{Panicked, caught};

/// The most bytes of a message: a selection names some twenty things.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// How many actions whose results differ are listed.
const NONDETERMINISTIC_COUNT_MAX: u32 = 1000;

/// Answers a request to `/v1/control/{operation}`.
pub(crate) async fn answer<B>(
    gateway: &Gateway,
    head: &Parts,
    operation: &str,
    origin: &Origin,
    intake: &mut Intake<'_, B>,
) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let done = caught(act(gateway, head, operation, origin, intake)).await;
    let done = done.unwrap_or_else(|Panicked| Err(NotDone::Failed));
    intake.drain().await;
    done.unwrap_or_else(|not_done| {
        let (operation, error) = (Excerpt(operation), Excerpt(&not_done));
        if not_done.is_anybodys() {
            tracing::debug!(%operation, %error, "a control call was not done");
        } else {
            tracing::info!(%operation, %error, "a control call was not done");
        }
        status::of_not_done(&not_done)
    })
}

/// Who asks, and what for.
pub(super) struct Admin {
    pub(super) grant: AdminGrant,
    pub(super) actor: Actor,
    pub(super) address: Option<IpAddr>,
}

async fn act<B>(
    gateway: &Gateway,
    head: &Parts,
    operation: &str,
    origin: &Origin,
    intake: &mut Intake<'_, B>,
) -> Result<Response<Body>, NotDone>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let allow = match operation {
        "purge" | "quarantine" | "release" | "entries" | "export" | "verify" => "POST",
        "stats" | "nondeterministic" | "audit" => "GET",
        _ => return Err(NotDone::NoSuchOperation),
    };
    if head.method.as_str() != allow {
        return Err(NotDone::Method { allow });
    }
    let admin = admin(gateway, head, origin)?;
    match operation {
        "purge" => change::change(gateway, admin, Change::Purge, intake).await,
        "quarantine" => change::change(gateway, admin, Change::Quarantine, intake).await,
        "release" => change::change(gateway, admin, Change::Release, intake).await,
        "entries" => entries::list(gateway, admin, intake).await,
        "export" => entries::export(gateway, admin, intake).await,
        "stats" => Ok(status::json(&StatsResponse::from(
            gateway.cache.stats(&admin.grant).await?,
        ))),
        "audit" => audit::page(gateway, &admin, head.uri.query()).await,
        "nondeterministic" => nondeterministic(gateway, &admin.grant).await,
        _ => verify(gateway, admin.grant).await,
    }
}

fn admin(gateway: &Gateway, head: &Parts, origin: &Origin) -> Result<Admin, NotDone> {
    let caller = match gateway.caller(&head.headers, None, origin) {
        Ok(caller) => caller,
        Err(NoCaller::BadCredential(bad)) => return Err(NotDone::BadCredential(bad)),
        // What can expire softly is never an administrator's.
        Err(NoCaller::OtherWorkspace | NoCaller::Expired) => {
            return Err(NotDone::Policy(Refusal::NotAdmin));
        }
    };
    let actor = match &caller {
        Caller::Known(principal) => Actor::Writer(principal.writer()),
        Caller::LocalOperator | Caller::Anonymous { .. } => Actor::Operator,
    };
    Ok(Admin {
        grant: Policy::admin(&caller).map_err(NotDone::Policy)?,
        actor,
        address: origin.address(),
    })
}

pub(super) async fn message<B>(intake: &mut Intake<'_, B>) -> Result<BytesMut, NotDone>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let mut message = BytesMut::new();
    while let Some(bytes) = intake.next().await.map_err(NotDone::Interrupted)? {
        if message.len() + bytes.len() > MESSAGE_BYTES_MAX {
            return Err(NotDone::BodyTooLarge {
                limit: MESSAGE_BYTES_MAX,
            });
        }
        message.extend_from_slice(&bytes);
    }
    Ok(message)
}

async fn verify(gateway: &Gateway, grant: AdminGrant) -> Result<Response<Body>, NotDone> {
    let cache = gateway.cache.clone();
    lines::stream(|progress: Progress| async move {
        let Verified {
            entries,
            bytes,
            corrupt,
        } = cache.verify(&grant, progress).await?;
        Ok(VerifyResponse {
            entries,
            bytes,
            corrupt,
        })
    })
    .await
}

async fn nondeterministic(
    gateway: &Gateway,
    grant: &AdminGrant,
) -> Result<Response<Body>, NotDone> {
    let own = grant.workspace().map(ToString::to_string);
    let ledger = &gateway.ledger;
    let rows = ledger.rewrites(own.as_deref(), NONDETERMINISTIC_COUNT_MAX);
    let rows = rows.await?;
    let ids = rows.iter().flat_map(|row| [row.writer, row.writer_before]);
    let ids = ids.flatten().map(larder_model::WriterId).collect();
    let writers = writers(ledger, grant, ids).await?;
    let actions = rows.into_iter().map(|row| NondeterministicAction {
        workspace: row.workspace,
        scope: row.scope,
        action: row.key,
        times: row.count,
        first_at_ms: row.first_at_ms,
        last_at_ms: row.last_at_ms,
        writer: row.writer,
        writer_before: row.writer_before,
    });
    Ok(status::json(&NondeterministicResponse {
        actions: actions.collect(),
        writers,
    }))
}
