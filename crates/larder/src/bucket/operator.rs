//! What `larder bucket` asks a running server at its control socket.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode};
use larder_bucket::GcProgress;
use larder_protocols::Body;
use larder_protocols::control::ErrorResponse;
use serde::{Deserialize, Serialize};

use super::Depot;
use crate::logging::chain;

/// What the routes begin with: `status` (GET), `check` and `gc` (POST).
pub(crate) const ROUTES: &str = "/bucket/";

/// What there is to say about a bucket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BucketStatus {
    pub(crate) url: String,
    /// Packs in the catalogue.
    pub(crate) packs: u64,
    pub(crate) pack_bytes: u64,
    /// What only a running server knows.
    pub(crate) server: Option<Running>,
}

/// How a server gets on with its bucket.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Running {
    pub(crate) reachable: bool,
    /// How long the bucket is left alone, if it is.
    pub(crate) open_for_ms: Option<u64>,
    pub(crate) caught_up: bool,
    /// Entries that can be found.
    pub(crate) entries: u64,
    pub(crate) index_memory_bytes: u64,
    pub(crate) queue_entries: u64,
    pub(crate) queue_bytes: u64,
    /// When the oldest of them was queued, unix milliseconds.
    pub(crate) queue_oldest_at_ms: Option<u64>,
    /// Since the start; those that never happened are left out.
    pub(crate) requests: Vec<RequestCount>,
}

/// So many requests.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RequestCount {
    pub(crate) operation: String,
    pub(crate) outcome: String,
    pub(crate) count: u64,
}

/// What cleaning up did.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GcFigures {
    pub(crate) listed_objects: u64,
    pub(crate) expired_packs: u64,
    pub(crate) unreferenced_objects: u64,
    pub(crate) foreign_objects: u64,
    pub(crate) freed_bytes: u64,
}

impl From<GcProgress> for GcFigures {
    fn from(done: GcProgress) -> Self {
        Self {
            listed_objects: done.listed,
            expired_packs: done.expired,
            unreferenced_objects: done.unreferenced,
            foreign_objects: done.foreign,
            freed_bytes: done.freed_bytes,
        }
    }
}

impl Depot {
    fn status(&self) -> BucketStatus {
        let usage = self.bucket.usage();
        let requests = self.bucket.link().requests().into_iter();
        BucketStatus {
            url: self.settings.url.to_string(),
            packs: usage.packs,
            pack_bytes: usage.pack_bytes,
            server: Some(Running {
                reachable: usage.open_for.is_none(),
                open_for_ms: usage.open_for.map(|left| left.as_millis() as u64),
                caught_up: usage.caught_up,
                entries: usage.entries,
                index_memory_bytes: usage.index_memory_bytes,
                queue_entries: usage.queue.entries,
                queue_bytes: usage.queue.bytes,
                queue_oldest_at_ms: usage.queue.oldest_at_ms,
                requests: requests
                    .filter(|(_, _, count)| *count > 0)
                    .map(|(operation, outcome, count)| RequestCount {
                        operation: operation.to_string(),
                        outcome: outcome.to_string(),
                        count,
                    })
                    .collect(),
            }),
        }
    }

    /// Deletes what has expired and what no pack refers to.
    pub(crate) async fn gc(&self) -> Result<GcFigures, String> {
        let Ok(_turn) = self.cleaning.try_lock() else {
            return Err("the bucket is being cleaned up already".to_owned());
        };
        let sums = self.ledger.pack_sums().await;
        if sums.map_err(|error| chain(&error))?.revision == 0 {
            // Of a ledger that was lost everything would go.
            return Err(
                "the ledger has never had a pack: nothing says what in the bucket is in use"
                    .to_owned(),
            );
        }
        let done = self.bucket.gc(&|_| {}).await;
        done.map(GcFigures::from).map_err(|error| error.to_string())
    }
}

/// Answers what is asked below [`ROUTES`].
pub(crate) async fn answer(depot: Option<&Depot>, method: &Method, path: &str) -> Response<Body> {
    let Some(depot) = depot else {
        return refusal(StatusCode::NOT_FOUND, "this server has no bucket");
    };
    match (method, path.strip_prefix(ROUTES)) {
        (&Method::GET, Some("status")) => json(StatusCode::OK, &depot.status()),
        (&Method::POST, Some("check")) => match super::check(&depot.settings).await {
            Ok(()) => json(StatusCode::OK, &()),
            Err(error) => refusal(StatusCode::SERVICE_UNAVAILABLE, &format!("{error:#}")),
        },
        (&Method::POST, Some("gc")) => {
            // Goes on when whoever asked goes away.
            let depot = depot.clone();
            let done = tokio::spawn(async move { depot.gc().await }).await;
            match done {
                Ok(Ok(figures)) => json(StatusCode::OK, &figures),
                Ok(Err(error)) => refusal(StatusCode::SERVICE_UNAVAILABLE, &error),
                Err(_) => refusal(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "cleaning up broke off; see the log",
                ),
            }
        }
        _ => refusal(StatusCode::NOT_FOUND, "there is nothing here"),
    }
}

fn refusal(status: StatusCode, error: &str) -> Response<Body> {
    let error = error.to_owned();
    json(status, &ErrorResponse { error })
}

fn json(status: StatusCode, message: &impl Serialize) -> Response<Body> {
    let text = serde_json::to_vec(message).expect("texts and numbers have a form in JSON");
    let mut response = Response::new(Body::from(Bytes::from(text)));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
