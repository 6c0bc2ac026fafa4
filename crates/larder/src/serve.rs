//! `larder serve`: from nothing to a listening server, and back to nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use larder_store::DataDir;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::audit::AuditBook;
use crate::bucket::{BucketCollector, Depot};
use crate::cli::ServeArgs;
use crate::config::{BucketSettings, Budgets, IdentitySettings, Key, Settings};
use crate::doors::Doors;
use crate::front::Front;
use crate::identity::{self, KeyFollower};
use crate::logging::{LevelSwitch, chain};
use crate::net::{self, PaceLimits, Seats, Tls};
use crate::pools::Purpose;
use crate::roster::Roster;
use crate::signals::{Signals, Wish};
use crate::start::{self, Engine};
use crate::{control_socket, exposure, log_queue, logging, metrics, place, pools, terminal};

/// Serves until a signal says stop.
pub(crate) fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    let flags = args.values();
    let read = || place::settings(args.place.config.as_deref(), &flags);
    let settings = read()?;
    exposure::check(settings.http.listen, settings.http.insecure_http)?;
    let level = logging::start(settings.log.format, settings.log.level)?;
    let room = net::raise_limit();
    let data_dir = settings.store.data_dir.clone();
    start::make_data_dir(&data_dir)?;
    start::warn_if_others_can_read(&data_dir);
    let lock = start::lock(&data_dir, "stop it first, or pass another --data-dir")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let served = runtime.block_on(async {
        let server = Server::start(settings, lock, room, level).await?;
        server.run(&read).await
    });
    // What did not end in time ends now.
    runtime.shutdown_background();
    served
}

/// A server that listens.
struct Server {
    started_with: Settings,
    drain_timeout: Duration,
    engine: Engine,
    front: Arc<Front>,
    roster: Arc<Roster>,
    seats: Arc<Seats>,
    level: LevelSwitch,
    signals: Signals,
    stop: watch::Sender<bool>,
    accepting: Vec<JoinHandle<()>>,
    tls: Option<Arc<Tls>>,
    keys: Arc<KeyFollower>,
    audit: AuditBook,
    stop_bucket: watch::Sender<bool>,
    /// What uses the bucket, if there is one.
    bucket: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens first; the pools load meanwhile.
    async fn start(
        settings: Settings,
        lock: DataDir,
        room: usize,
        level: LevelSwitch,
    ) -> anyhow::Result<Self> {
        let signals = Signals::listen().context("cannot listen to signals")?;
        let doors = Doors::open(&settings)?;
        let tls = doors.tls();
        let data_dir = &settings.store.data_dir;
        let control = control_socket::bind(data_dir).context("cannot make the control socket")?;
        let ledger = place::ledger(data_dir).await?;
        let engine = Engine::open(lock, ledger.clone(), &settings, Purpose::Serve).await?;
        let connection_count_max = settings.limits.connection_count_max.min(room);
        let seats = Arc::new(Seats::new(connection_count_max, doors.count()));
        warn_of_orphans(&settings);
        let trust = identity::trust(&settings.identity)?;

        // A token is shown once. So it is made when nothing can fail any more that has ever failed,
        // and is printed before anything else is done.
        let first_token = start::first_start(&ledger).await?;
        terminal::print(&format!(
            "larder {} listening on {}",
            env!("CARGO_PKG_VERSION"),
            doors.addresses()
        ))?;
        if let Some(secret) = first_token {
            let url = doors.client_url(&settings.http.base_path);
            terminal::print(&start::welcome(&secret, &url, data_dir))?;
        }
        let journal = Arc::clone(&engine.journal);
        let audit = AuditBook::open(journal, ledger.clone(), &settings).await;
        let (authenticator, gateway) = (&engine.authenticator, &engine.gateway);
        let roster = Roster::load(ledger, Arc::clone(authenticator), Arc::clone(gateway)).await?;
        let roster = Arc::new(roster);
        let keys = Arc::new(KeyFollower::new(Arc::clone(&engine.gateway)));
        keys.believe(trust).await?;
        let mut registry = metrics::registry(
            engine.cache.collector(),
            Arc::clone(&seats),
            tls.clone(),
            Arc::clone(&engine.journal),
        );
        registry.register_collector(keys.collector());
        if let Some(depot) = &engine.depot {
            registry.register_collector(Box::new(BucketCollector(depot.clone())));
        }
        let front = Arc::new(Front {
            gateway: Arc::clone(&engine.gateway),
            roster: Arc::clone(&roster),
            pools: Arc::clone(&engine.pools),
            depot: engine.depot.clone(),
            registry,
            settings: ArcSwap::from_pointee(settings.http.clone()),
            started: Instant::now(),
        });
        let (stop, stopping) = watch::channel(false);
        let accepting = doors.serve(&front, &seats, pace(&settings), &stopping)?;
        if let Some(tls) = &tls {
            tokio::spawn(Arc::clone(tls).follow());
        }
        tokio::spawn(Arc::clone(&keys).follow());
        tokio::spawn(serve_operator(control, Arc::clone(&front)));
        tokio::spawn({
            let roster = Arc::clone(&roster);
            async move { roster.follow().await }
        });
        tokio::spawn(say_when_loaded(Arc::clone(&front)));
        let (stop_bucket, stopping) = watch::channel(false);
        let run = |depot: &Depot| depot.run(Arc::clone(&engine.cache), stopping);
        let bucket = engine.depot.as_ref().map(run);
        Ok(Self {
            drain_timeout: settings.limits.drain_timeout,
            started_with: settings,
            engine,
            front,
            roster,
            seats,
            level,
            signals,
            stop,
            accepting,
            tls,
            keys,
            audit,
            stop_bucket,
            bucket,
        })
    }

    async fn run(mut self, read: &dyn Fn() -> anyhow::Result<Settings>) -> anyhow::Result<()> {
        while self.signals.next().await == Wish::Reload {
            match read() {
                Ok(settings) => self.reload(settings).await,
                Err(problems) => {
                    tracing::error!("not reloaded, the configuration stays as it was: {problems}");
                }
            }
            if let Err(error) = self.roster.reload().await {
                tracing::error!(error = %chain(&error), "tokens were not reloaded");
            }
        }
        tracing::info!("stopping once what has begun is finished; a second signal stops at once");
        let Self {
            mut signals,
            started_with,
            drain_timeout,
            engine,
            roster,
            seats,
            stop,
            accepting,
            audit,
            stop_bucket,
            bucket,
            ..
        } = self;
        stop.send_replace(true);
        let end = async {
            for door in accepting {
                // The task ends by itself; if it panicked there is nothing left to wait for.
                let _ = door.await;
            }
            if !seats.drain(drain_timeout).await {
                tracing::warn!("some requests did not finish in time");
            }
            stop_bucket.send_replace(true);
            if let Some(bucket) = bucket {
                // What has not been uploaded is in its queue. If the task panicked it has said so.
                let _ = bucket.await;
            }
            roster.note_last_used().await;
            audit.close().await;
            let pools = Arc::clone(&engine.pools);
            let _ = tokio::task::spawn_blocking(move || pools.close()).await;
            control_socket::remove(&started_with.store.data_dir);
        };
        tokio::select! {
            () = end => tracing::info!("stopped"),
            () = second_signal(&mut signals) => {
                tracing::warn!("stopped at once");
                log_queue::flush();
                std::process::exit(1);
            }
        }
        Ok(())
    }

    /// Puts what can change in a running server in force, and says what cannot.
    async fn reload(&mut self, new: Settings) {
        let fixed = fixed_changes(&self.started_with, &new);
        let mut waiting: Vec<String> = fixed.into_iter().map(Key::path).collect();
        self.audit.change(&new).await;
        self.level.set(new.log.level);
        self.engine.cache.set_limits(pools::cache_limits(&new));
        self.engine
            .gateway
            .set_workspaces(start::workspace_table(&new));
        self.engine.gateway.set_inspected_writers(new.nx.inspect);
        self.front.settings.store(Arc::new(new.http.clone()));
        if let (Some(tls), Some(new)) = (&self.tls, &new.tls) {
            let (tls, files) = (Arc::clone(tls), new.files.clone());
            // If it panicked it has said so.
            let _ = tokio::task::spawn_blocking(move || tls.reload(files)).await;
        }
        self.drain_timeout = new.limits.drain_timeout;
        let unread = self.believe(&new.identity).await;
        match budgets(&new, &self.started_with.store.data_dir) {
            Ok(budgets) => {
                let pools = Arc::clone(&self.engine.pools);
                let resized = tokio::task::spawn_blocking(move || pools.resize(&budgets)).await;
                waiting.extend(resized.unwrap_or_default());
            }
            Err(error) => tracing::error!(error = %format!("{error:#}"), "pools keep their sizes"),
        }
        if waiting.is_empty() && !unread {
            tracing::info!("configuration reloaded");
            return;
        }
        let waiting = match waiting.join(", ") {
            waiting if waiting.is_empty() => String::new(),
            waiting => format!("; after a restart: {waiting}"),
        };
        let unread = if unread {
            "; issuers could not be read, see above"
        } else {
            ""
        };
        tracing::warn!("configuration reloaded in part{waiting}{unread}");
    }

    /// Puts other rules and issuers in force, and says whether something of an issuer could not be read: it stays what it was.
    async fn believe(&self, new: &IdentitySettings) -> bool {
        let (trust, faults) = match identity::trust_beside(new, &self.keys.standing()) {
            Ok(read) => read,
            Err(error) => {
                tracing::error!("rules and issuers stay as they were: {error:#}");
                return true;
            }
        };
        for fault in &faults {
            tracing::error!("an issuer stays as it was: {fault:#}");
        }
        if let Err(error) = self.keys.believe(trust).await {
            tracing::error!("rules and issuers stay as they were: {error}");
            return true;
        }
        !faults.is_empty()
    }
}

fn budgets(settings: &Settings, data_dir: &Path) -> anyhow::Result<Budgets> {
    Ok(Budgets::plan(
        settings,
        pools::disk_figures(data_dir, settings)?,
    )?)
}

/// The keys whose change takes a restart and that have changed.
fn fixed_changes(old: &Settings, new: &Settings) -> Vec<Key> {
    fixed_keys(old, new)
        .into_iter()
        .filter(|(_, changed)| *changed)
        .map(|(key, _)| key)
        .collect()
}

fn fixed_keys(old: &Settings, new: &Settings) -> Vec<(Key, bool)> {
    let (from, to) = (&old.limits, &new.limits);
    // Where there is a bucket before or after alone, its URL says all.
    let in_bucket = |changed: fn(&BucketSettings, &BucketSettings) -> bool| {
        let both = old.bucket.as_ref().zip(new.bucket.as_ref());
        both.is_some_and(|(old, new)| changed(old, new))
    };
    let url = |settings: &Settings| settings.bucket.as_ref().map(|bucket| bucket.url.clone());
    vec![
        (Key::HttpListen, old.http.listen != new.http.listen),
        (
            Key::HttpInsecureHttp,
            old.http.insecure_http != new.http.insecure_http,
        ),
        (
            Key::TlsListen,
            old.tls.as_ref().map(|tls| tls.listen) != new.tls.as_ref().map(|tls| tls.listen),
        ),
        (Key::StoreDataDir, old.store.data_dir != new.store.data_dir),
        (
            Key::StoreDurability,
            old.store.durability != new.store.durability,
        ),
        (Key::StoreLease, old.store.lease != new.store.lease),
        (
            Key::StoreFreeReserve,
            old.store.free_reserve != new.store.free_reserve,
        ),
        (Key::BucketUrl, url(old) != url(new)),
        (Key::BucketAck, in_bucket(|old, new| old.ack != new.ack)),
        (
            Key::BucketExpireAfter,
            in_bucket(|old, new| old.expire_after != new.expire_after),
        ),
        (
            Key::BucketEndpoint,
            in_bucket(|old, new| old.endpoint != new.endpoint),
        ),
        (
            Key::BucketAddressing,
            in_bucket(|old, new| old.addressing != new.addressing),
        ),
        (
            Key::BucketRegion,
            in_bucket(|old, new| old.region != new.region),
        ),
        (
            Key::BucketAccount,
            in_bucket(|old, new| old.account != new.account),
        ),
        (
            Key::BucketEncryption,
            in_bucket(|old, new| old.encryption != new.encryption),
        ),
        (
            Key::BucketCaFile,
            in_bucket(|old, new| old.ca_file != new.ca_file),
        ),
        (
            Key::LimitsConnectionsMax,
            from.connection_count_max != to.connection_count_max,
        ),
        (
            Key::LimitsHeaderTimeout,
            from.header_timeout != to.header_timeout,
        ),
        (
            Key::LimitsHeaderSizeMax,
            from.header_bytes_max != to.header_bytes_max,
        ),
        (Key::LimitsIdleTimeout, from.idle_timeout != to.idle_timeout),
        (
            Key::LimitsStallTimeout,
            from.stall_timeout != to.stall_timeout,
        ),
        (Key::LogFormat, old.log.format != new.log.format),
    ]
}

fn pace(settings: &Settings) -> PaceLimits {
    PaceLimits {
        header_timeout: settings.limits.header_timeout,
        header_bytes_max: settings.limits.header_bytes_max,
        idle_timeout: settings.limits.idle_timeout,
        stall_timeout: settings.limits.stall_timeout,
    }
}

/// Says which pools nobody will reach.
fn warn_of_orphans(settings: &Settings) {
    let orphans = pools::orphaned(&settings.store.data_dir, settings);
    if orphans.is_empty() {
        return;
    }
    let names: Vec<String> = orphans.keys().map(ToString::to_string).collect();
    tracing::warn!(
        "pools are on disk that the configuration does not mention: {}; their entries are misses and \
         take room; give the workspace its pools again, or stop and remove their directories",
        names.join(", ")
    );
}

async fn second_signal(signals: &mut Signals) {
    while signals.next().await != Wish::Stop {}
}

async fn say_when_loaded(front: Arc<Front>) {
    let began = Instant::now();
    front.pools.loaded().await;
    if front.pools.ready() {
        tracing::info!(took = ?began.elapsed(), "ready: all pools are loaded");
    }
}

/// Answers the operator's commands, a few at a time; there is one operator.
async fn serve_operator(control: UnixListener, front: Arc<Front>) {
    loop {
        let stream = match control.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a command was not taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let front = Arc::clone(&front);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let front = Arc::clone(&front);
                async move { Ok::<_, std::convert::Infallible>(front.answer_operator(request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(error = %chain(&error), "a command broke off");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_keys_that_the_page_says_take_a_restart() {
        let settings = crate::config::load(None, std::iter::empty(), &[]).unwrap();
        let fixed: Vec<Key> = fixed_keys(&settings, &settings)
            .iter()
            .map(|(key, _)| *key)
            .collect();
        let documented: Vec<Key> = Key::ALL
            .iter()
            .copied()
            .filter(|key| !key.spec().reloads)
            .collect();
        assert_eq!(fixed, documented);
        assert!(fixed_changes(&settings, &settings).is_empty());
    }
}
