//! The bucket behind the pools, as this program has it: opened with the rest, run beside it, and told of to the operator.
//!
//! `catalogue` keeps packs in the ledger, `orders` purges, `events` is what is logged and counted, `metrics` what is measured,
//! `operator` what the commands ask at the control socket.
//!
//! Always true:
//! - Nothing waits for the bucket at a start or for readiness: it is asked for the first time by a task of its own.
//! - No secret of it is printed or logged. Its MAC key leaves the ledger by `larder bucket key export` alone.

mod catalogue;
mod events;
mod metrics;
mod operator;
mod orders;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use larder_bucket::link::{BucketOptions, Link, LinkError, LinkEvent, Trouble};
use larder_bucket::{Bucket, Event, GRACE, MacKey, Observer};
use larder_cache::{Cache, Tier};
use larder_ledger::Ledger;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

pub(crate) use metrics::BucketCollector;
pub(crate) use operator::{BucketStatus, GcFigures, ROUTES, Running, answer};

use crate::bucket::catalogue::LedgerCatalogue;
use crate::bucket::events::EventCounts;
use crate::bucket::orders::Orders;
use crate::config::BucketSettings;

/// The folder in the data directory.
const DIRECTORY: &str = "bucket";

/// How long to wait before the ledger is asked again.
const LEDGER_RETRY: Duration = Duration::from_secs(1);
/// How long after a start the bucket is cleaned up: not while every client waits for the first entries, and also by a server
/// that is started every day.
const FIRST_CLEANING: Duration = Duration::from_hours(1);
/// What expires does so over days.
const CLEANING_EVERY: Duration = Duration::from_hours(24);

/// A bucket in use. Clones share it.
#[derive(Clone)]
pub(crate) struct Depot {
    settings: Arc<BucketSettings>,
    bucket: Bucket,
    events: EventCounts,
    orders: Arc<Orders>,
    ledger: Ledger,
    /// Held by whoever cleans up.
    cleaning: Arc<Mutex<()>>,
}

impl Depot {
    /// Opens the bucket of a data directory whose lock the caller holds. Asks the bucket nothing.
    pub(crate) async fn open(
        settings: &BucketSettings,
        data_dir: &Path,
        ledger: &Ledger,
    ) -> anyhow::Result<Self> {
        let events = EventCounts::default();
        let on_link = events.clone();
        let on_link = Arc::new(move |event: LinkEvent| on_link.note_link(&event));
        let link = link(settings, Some(on_link))?;
        let key = ledger.bucket_key(new_key()?).await?;
        let on_event = events.clone();
        let open = larder_bucket::BucketSettings {
            expire_after: settings.expire_after,
            // More often than misses ask whether something is new, so that they find it at hand.
            refresh_every: Duration::from_millis(500),
            observer: Observer::new(move |event: Event| on_event.note(&event)),
            ..larder_bucket::BucketSettings::new(data_dir.join(DIRECTORY), MacKey::new(key))
        };
        let catalogue = Arc::new(LedgerCatalogue(ledger.clone()));
        let bucket = tokio::task::spawn_blocking(move || Bucket::open(open, link, catalogue));
        let bucket = bucket.await?.with_context(|| {
            let directory = data_dir.join(DIRECTORY);
            format!("cannot use {}", directory.display())
        })?;
        // What was in the bucket when an order was given has expired by then, on every node's clock.
        let kept_for = settings.expire_after + 2 * GRACE;
        Ok(Self {
            settings: Arc::new(settings.clone()),
            bucket,
            events,
            orders: Arc::new(Orders::new(ledger.clone(), kept_for)),
            ledger: ledger.clone(),
            cleaning: Arc::default(),
        })
    }

    /// What is put behind the pools.
    pub(crate) fn tier(&self) -> Tier {
        let tier = Tier::new(self.bucket.clone(), self.settings.ack);
        tier.keeping(self.orders.keeper())
    }

    /// Uses the bucket until `stop` says so, for the cache that has its tier. The task ends once what is under way has, or
    /// after ten seconds.
    pub(crate) fn run(&self, cache: Arc<Cache>, mut stop: watch::Receiver<bool>) -> JoinHandle<()> {
        let depot = self.clone();
        tokio::spawn(depot.clone().say_how_it_is());
        tokio::spawn(async move {
            // Nothing is brought from a bucket of which nobody knows what was purged in it.
            tokio::select! {
                () = depot.orders.obey_standing(&cache) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let following = tokio::spawn(Arc::clone(&depot.orders).follow(Arc::clone(&cache)));
            let cleaning = tokio::spawn(depot.clone().clean_daily());
            let stopped = async move {
                // The sender lives as long as the server.
                let _ = stop.wait_for(|stop| *stop).await;
            };
            depot.bucket.run(cache, stopped).await;
            following.abort();
            cleaning.abort();
        })
    }

    async fn clean_daily(self) {
        tokio::time::sleep(FIRST_CLEANING).await;
        loop {
            match self.gc().await {
                Ok(done) => tracing::info!(?done, "the bucket was cleaned up"),
                Err(error) => tracing::warn!(error, "the bucket was not cleaned up"),
            }
            tokio::time::sleep(CLEANING_EVERY).await;
        }
    }

    async fn say_how_it_is(self) {
        let url = &self.settings.url;
        match self.bucket.link().check().await {
            Ok(()) => tracing::info!(%url, "the bucket answers"),
            Err(LinkError::Unavailable {
                trouble: Trouble::Unsupported,
                message,
            }) => tracing::error!(
                %url,
                %message,
                "this is no bucket that can be used: first writes of several nodes would not be told apart"
            ),
            Err(error) => {
                tracing::warn!(%url, %error, "the bucket does not answer now; everything else goes on without it");
            }
        }
    }
}

/// A connection to a bucket. Asks it nothing.
fn link(
    settings: &BucketSettings,
    on_event: Option<Arc<dyn Fn(LinkEvent) + Send + Sync>>,
) -> anyhow::Result<Link> {
    let roots = settings.ca_file.iter().map(|file| {
        fs::read(file)
            .with_context(|| format!("cannot read ca_file of [bucket], {}", file.display()))
    });
    let variables = std::env::vars_os();
    let options = BucketOptions {
        endpoint: settings.endpoint.clone(),
        addressing: settings.addressing,
        region: settings.region.clone(),
        account: settings.account.clone(),
        encryption: settings.encryption.clone(),
        extra_roots_pem: roots.collect::<anyhow::Result<_>>()?,
        environment: variables
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
    };
    Link::open(&settings.url, &options, on_event)
        .with_context(|| format!("cannot use the bucket {}", settings.url))
}

/// Finds out whether the bucket can be used, over a connection of its own, whatever became of earlier ones.
pub(crate) async fn check(settings: &BucketSettings) -> anyhow::Result<()> {
    Ok(link(settings, None)?.check().await?)
}

/// Checks that there could be a connection: the options fit the bucket.
pub(crate) fn check_options(settings: &BucketSettings) -> anyhow::Result<()> {
    link(settings, None).map(|_| ())
}

fn new_key() -> anyhow::Result<[u8; 32]> {
    let mut key = [0; 32];
    aws_lc_rs::rand::fill(&mut key)
        .map_err(|_| anyhow::anyhow!("the operating system has no random numbers"))?;
    Ok(key)
}
