//! Keeping issuers' keys fresh.
//!
//! When a document is due, and what is in it, is known to `larder-auth`; here it is fetched: over https, without following
//! anybody anywhere else, within limits of time and size. Issuers are fetched side by side, so that one that is down holds up no
//! other. The server starts and serves without any of this: until keys are there, the tokens of their issuer are misses.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL};
use http::{HeaderMap, Request, StatusCode};
use larder_auth::{Document, Fetch, FetchedDocument, Issuers, IssuersError};
use larder_client::Client;
use larder_protocols::{Gateway, Identity};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::issuers::{Standing, Trust};
use crate::clock;

/// How long fetching a document may take.
pub(super) const FETCH_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked whether something is due. Whoever waits for keys asks for them at once.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Fetches what issuers publish.
pub(crate) struct KeyFollower {
    gateway: Arc<Gateway>,
    standing: ArcSwap<Standing>,
    fares: Fares,
}

/// How each issuer fares. Shared with the metrics.
#[derive(Clone, Default)]
struct Fares(Arc<Mutex<BTreeMap<String, Fare>>>);

#[derive(Default)]
struct Fare {
    /// When its keys were fetched last, in unix milliseconds.
    keys_at_ms: Option<u64>,
    failures: AtomicU64,
    in_trouble: bool,
}

impl KeyFollower {
    /// A follower that knows no issuer yet.
    pub(crate) fn new(gateway: Arc<Gateway>) -> Self {
        Self {
            gateway,
            standing: ArcSwap::default(),
            fares: Fares::default(),
        }
    }

    /// Puts this in force, in the gateway and here. Issuers that stay keep their keys, and sessions of rules that stay go on.
    pub(crate) async fn believe(&self, trust: Trust) -> Result<(), IssuersError> {
        let known = trust.issuers.clone();
        let issuers = self.gateway.issuers().successor(trust.issuers)?;
        let clients: BTreeMap<String, Client> = trust.clients.into_iter().collect();
        {
            let mut fares = self.fares.lock();
            fares.retain(|url, _| clients.contains_key(url));
            for url in clients.keys() {
                fares.entry(url.clone()).or_default();
            }
        }
        self.standing.store(Arc::new(Standing {
            issuers: known,
            clients,
        }));
        let identity = Identity {
            issuers: Arc::new(issuers),
            rules: trust.rules,
            certificates: trust.certificates,
            session_ttl: trust.session_ttl,
        };
        self.gateway.set_identity(identity).await;
        Ok(())
    }

    /// The issuers that are believed.
    pub(crate) fn standing(&self) -> Arc<Standing> {
        self.standing.load_full()
    }

    /// What `/metrics` says of issuers.
    pub(crate) fn collector(&self) -> Box<dyn Collector> {
        Box::new(self.fares.clone())
    }

    /// Fetches whatever becomes due, until the task is dropped.
    pub(crate) async fn follow(self: Arc<Self>) {
        loop {
            let issuers = self.gateway.issuers();
            for fetch in issuers.due(clock::now_ms()) {
                let (follower, issuers) = (Arc::clone(&self), Arc::clone(&issuers));
                tokio::spawn(async move { follower.fetch(&issuers, &fetch).await });
            }
            // Either way it is looked again.
            let _ =
                tokio::time::timeout(LOOK_INTERVAL, self.gateway.keys_wanted().notified()).await;
        }
    }

    async fn fetch(&self, issuers: &Issuers, fetch: &Fetch) {
        let client = self.standing.load().clients.get(&fetch.issuer).cloned();
        let document = match client {
            Some(client) => document(&client, &fetch.url).await,
            None => Err("the issuer is not configured any more".to_owned()),
        };
        let now_ms = clock::now_ms();
        let taken = issuers.fetched(fetch, document, now_ms);
        let is_news = self.fares.note(fetch, taken.is_ok(), now_ms);
        match taken {
            Ok(()) if fetch.what == Document::Keys => {
                if is_news {
                    tracing::info!(issuer = fetch.issuer, "the issuer's keys are known");
                }
                self.gateway.keys_arrived();
            }
            // The key set is due now.
            Ok(()) => self.gateway.keys_wanted().notify_one(),
            Err(problem) if is_news => {
                let keys = if issuers.has_keys(&fetch.issuer, now_ms) {
                    "those that were fetched before stay in force for a while"
                } else {
                    "until they are, its tokens are misses"
                };
                tracing::warn!(
                    issuer = fetch.issuer,
                    url = fetch.url,
                    "the issuer's keys cannot be had: {problem}; {keys}"
                );
            }
            Err(problem) => tracing::debug!(issuer = fetch.issuer, %problem, "still no keys"),
        }
    }
}

async fn document(client: &Client, url: &str) -> Result<FetchedDocument, String> {
    let request = Request::get(url)
        .header(ACCEPT, "application/json")
        .body(Bytes::new())
        .map_err(|_| "the address cannot be asked".to_owned())?;
    let answer = client
        .send(request)
        .await
        .map_err(|error| error.to_string())?;
    match answer.status() {
        StatusCode::OK => Ok(FetchedDocument {
            max_age_s: max_age_s(answer.headers()),
            body: answer.into_body().into(),
        }),
        status if status.is_redirection() => Err(format!("status {status}, which is not followed")),
        status => Err(format!("status {status}")),
    }
}

/// How long the answer's sender lets it be kept (RFC 9111, section 5.2.2), in seconds.
fn max_age_s(headers: &HeaderMap) -> Option<u64> {
    let directives = headers
        .get_all(CACHE_CONTROL)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let mut max_age = None;
    for directive in directives {
        let directive = directive.trim().to_ascii_lowercase();
        if matches!(directive.as_str(), "no-store" | "no-cache") {
            return Some(0);
        }
        if let Some(secs) = directive.strip_prefix("max-age=") {
            max_age = secs.trim_matches('"').parse().ok();
        }
    }
    max_age
}

impl Fares {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Fare>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how a fetch went. Whether that is news: the first keys, the first trouble, or the end of trouble.
    fn note(&self, fetch: &Fetch, went_well: bool, now_ms: u64) -> bool {
        let mut fares = self.lock();
        let Some(fare) = fares.get_mut(&fetch.issuer) else {
            return false;
        };
        if !went_well {
            fare.failures.fetch_add(1, Ordering::Relaxed);
            return !std::mem::replace(&mut fare.in_trouble, true);
        }
        if fetch.what == Document::Discovery {
            return false;
        }
        let first = fare.keys_at_ms.replace(now_ms).is_none();
        std::mem::take(&mut fare.in_trouble) || first
    }
}

impl fmt::Debug for Fares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fares").finish_non_exhaustive()
    }
}

impl Collector for Fares {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let fares = self.lock();
        let (name, help) = (
            "larder_issuer_fetch_failures",
            "Fetches of an issuer's documents that failed",
        );
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (url, fare) in fares.iter() {
            let labels = [("issuer", url.as_str())];
            let mut metric = family.encode_family(&labels)?;
            let failures = fare.failures.load(Ordering::Relaxed);
            metric.encode_counter::<NoLabelSet, u64, f64>(&failures, None)?;
        }
        let (name, help) = (
            "larder_issuer_keys_age",
            "Time since an issuer's keys were fetched",
        );
        let unit = Some(&Unit::Seconds);
        let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        let now_ms = clock::now_ms();
        for (url, fare) in fares.iter() {
            if let Some(keys_at_ms) = fare.keys_at_ms {
                let age = now_ms.saturating_sub(keys_at_ms) as f64 / 1000.0;
                let labels = [("issuer", url.as_str())];
                let mut metric = family.encode_family(&labels)?;
                metric.encode_gauge(&age)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_keys_may_be_kept_is_read_as_caches_do() {
        let check = |values: &[&str], expected| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CACHE_CONTROL, value.parse().unwrap());
            }
            assert_eq!(max_age_s(&headers), expected, "{values:?}");
        };
        check(&[], None);
        check(&["public, max-age=600"], Some(600));
        check(&["public", "Max-Age=600, must-revalidate"], Some(600));
        check(&["max-age=600, no-store"], Some(0));
        check(&["no-cache"], Some(0));
        check(&["max-age=soon"], None);
        check(&["s-maxage=5"], None);
    }

    #[test]
    fn the_log_says_what_changed_and_nothing_twice() {
        let fares = Fares::default();
        let url = "https://issuer.example".to_owned();
        fares.lock().insert(url.clone(), Fare::default());
        let fetch = |what| Fetch {
            issuer: url.clone(),
            url: String::new(),
            what,
        };
        let note = |what, went_well| fares.note(&fetch(what), went_well, 1);
        assert!(note(Document::Discovery, false));
        assert!(!note(Document::Discovery, false));
        // Discovery alone opens nothing.
        assert!(!note(Document::Discovery, true));
        assert!(note(Document::Keys, true));
        assert!(!note(Document::Keys, true));
        assert!(note(Document::Keys, false));
        assert!(note(Document::Keys, true));
    }
}
