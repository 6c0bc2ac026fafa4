//! What an operator asks, and what is done about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::Response;
use http::request::Parts;
use larder_cache::{Cache, Verified};
use larder_model::{AdminGrant, Policy, Refusal};
use tokio::sync::mpsc::{self, error::TrySendError};

use super::status::{self, NotDone};
use super::wire::{PurgeRequest, PurgeResponse, StatsResponse, VerifyLine};
use crate::body::Body;
use crate::caller::NoCaller;
use crate::excerpt::Excerpt;
use crate::gateway::{Gateway, Origin};
use crate::intake::Intake;
use crate::unwind::{Panicked, caught};

/// The most bytes of a message: a purge request names seven things.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// How many lines of a verification may wait for a slow reader.
const LINE_COUNT_MAX: usize = 16;

/// The least time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Answers a request to `/v1/control/{operation}`.
pub(crate) async fn answer<B>(
    gateway: &Gateway,
    head: &Parts,
    operation: &str,
    origin: Origin,
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

async fn act<B>(
    gateway: &Gateway,
    head: &Parts,
    operation: &str,
    origin: Origin,
    intake: &mut Intake<'_, B>,
) -> Result<Response<Body>, NotDone>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let allow = match operation {
        "purge" | "verify" => "POST",
        "stats" => "GET",
        _ => return Err(NotDone::NoSuchOperation),
    };
    if head.method.as_str() != allow {
        return Err(NotDone::Method { allow });
    }
    let grant = admin(gateway, head, origin)?;
    match operation {
        "purge" => purge(gateway, &grant, intake).await,
        "stats" => Ok(status::json(&StatsResponse::from(
            gateway.cache.stats(&grant).await?,
        ))),
        _ => Ok(verify(gateway.cache.clone(), grant).await?),
    }
}

fn admin(gateway: &Gateway, head: &Parts, origin: Origin) -> Result<AdminGrant, NotDone> {
    let caller = match gateway.caller(&head.headers, None, origin) {
        Ok(caller) => caller,
        Err(NoCaller::BadCredential(bad)) => return Err(NotDone::BadCredential(bad)),
        Err(NoCaller::OtherWorkspace) => return Err(NotDone::Policy(Refusal::NotAdmin)),
    };
    Policy::admin(&caller).map_err(NotDone::Policy)
}

async fn purge<B>(
    gateway: &Gateway,
    grant: &AdminGrant,
    intake: &mut Intake<'_, B>,
) -> Result<Response<Body>, NotDone>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let request = PurgeRequest::parse(&message(intake).await?)?;
    let dry_run = request.dry_run;
    let purged = gateway
        .cache
        .purge(grant, request.purge()?, dry_run, |_, _| true)
        .await?;
    let (entries, bytes) = (purged.entries, purged.bytes);
    Ok(status::json(&PurgeResponse {
        dry_run,
        entries,
        bytes,
    }))
}

async fn message<B>(intake: &mut Intake<'_, B>) -> Result<BytesMut, NotDone>
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

/// Starts a verification. What is wrong before its first line becomes the answer's status; later
/// trouble becomes its last line. A reader who goes away stops it.
async fn verify(cache: Arc<Cache>, grant: AdminGrant) -> Result<Response<Body>, NotDone> {
    let (lines, mut answer) = mpsc::channel(LINE_COUNT_MAX);
    let progress_lines = lines.clone();
    let begun = Arc::new(AtomicBool::new(false));
    let begins = begun.clone();
    let mut last: Option<Instant> = None;
    let progress = move |done_entries, total_entries| {
        if last.is_some_and(|last| last.elapsed() < PROGRESS_INTERVAL) {
            return !progress_lines.is_closed();
        }
        last = Some(Instant::now());
        begins.store(true, Ordering::Relaxed);
        let line = status::bytes(&VerifyLine::Progress {
            done_entries,
            total_entries,
        });
        // A reader that falls behind misses lines; one that is gone ends the work.
        !matches!(progress_lines.try_send(line), Err(TrySendError::Closed(_)))
    };
    let work = tokio::spawn(async move {
        let end = match cache.verify(&grant, progress).await {
            Ok(Verified {
                entries,
                bytes,
                corrupt,
            }) => VerifyLine::Result {
                entries,
                bytes,
                corrupt,
            },
            Err(error) if !begun.load(Ordering::Relaxed) => return Err(error),
            Err(error) => {
                tracing::error!(%error, "a verification ended early");
                VerifyLine::Error {
                    error: error.to_string(),
                }
            }
        };
        // Nobody is left to be told if this fails.
        let _ = lines.send(status::bytes(&end)).await;
        Ok(())
    });
    match answer.recv().await {
        Some(first) => Ok(status::lines(first, answer)),
        None => match work.await {
            Ok(Err(error)) => Err(NotDone::Control(error)),
            Ok(Ok(())) | Err(_) => Err(NotDone::Failed),
        },
    }
}
