//! What happened, as numbers.
//!
//! Every request counts here, so counting takes no lock: the counters of a workspace are found
//! through one atomic pointer and are plain atomics. They become Prometheus metrics only when
//! somebody asks ([`CacheCollector`]). Labels are bounded: after [`WORKSPACE_LABEL_COUNT_MAX`]
//! workspaces the rest is counted as `_other`.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use larder_model::{AccessKind, Dialect, WorkspaceName};
use larder_store::{Event, Usage};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::pool::{PoolHandle, PoolState};
use crate::upload::{PutRefusal, PutStart};

/// How many workspaces have metrics of their own. A series costs memory here and in every
/// scraper, and a server can have thousands of workspaces.
pub const WORKSPACE_LABEL_COUNT_MAX: usize = 64;

/// The label of every workspace beyond [`WORKSPACE_LABEL_COUNT_MAX`]. No workspace can be called so.
const OTHER_WORKSPACES: &str = "_other";

/// Upper ends of the latency buckets in microseconds; one more bucket has no end.
const LATENCY_BUCKETS_US: [u64; 15] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000,
    5_000_000, 30_000_000,
];

/// What a caller wanted to do with entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Get an entry.
    Read,
    /// Put an entry.
    Write,
}

impl Action {
    /// The action's name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Why an upload that the cache had not refused was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfinished {
    /// It had no bytes.
    Empty,
    /// The connection broke off.
    Interrupted,
    /// The client stood still or was too slow.
    Stalled,
    /// A defect in the server.
    Failed,
}

impl Unfinished {
    const ALL: [Self; 4] = [Self::Empty, Self::Interrupted, Self::Stalled, Self::Failed];

    /// The reason's name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Interrupted => "interrupted",
            Self::Stalled => "stalled",
            Self::Failed => "failed",
        }
    }
}

/// Latencies by bucket.
#[derive(Debug, Default)]
struct Latency {
    buckets: [AtomicU64; LATENCY_BUCKETS_US.len() + 1],
    sum_us: AtomicU64,
}

impl Latency {
    fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = LATENCY_BUCKETS_US.partition_point(|end| *end < us);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    fn encode(&self, encoder: &mut MetricEncoder<'_>) -> fmt::Result {
        let ends = LATENCY_BUCKETS_US
            .iter()
            .map(|us| *us as f64 / 1e6)
            .chain([f64::INFINITY]);
        let counts: Vec<u64> = self
            .buckets
            .iter()
            .map(|bucket| bucket.load(Relaxed))
            .collect();
        let buckets: Vec<(f64, u64)> = ends.zip(counts.iter().copied()).collect();
        let sum = self.sum_us.load(Relaxed) as f64 / 1e6;
        encoder.encode_histogram::<NoLabelSet>(sum, counts.iter().sum(), &buckets, None)
    }
}

/// The counters of one dialect, workspace and kind of access.
#[derive(Debug, Default)]
pub(crate) struct KindSeries {
    hits: AtomicU64,
    misses: AtomicU64,
    bytes_out: AtomicU64,
    stored: AtomicU64,
    exists: AtomicU64,
    bytes_in: AtomicU64,
    refused: [AtomicU64; PutRefusal::REASONS.len()],
    unfinished: [AtomicU64; Unfinished::ALL.len()],
    get_latency: Latency,
    put_latency: Latency,
}

impl KindSeries {
    pub(crate) fn hit(&self, took: Duration) {
        self.hits.fetch_add(1, Relaxed);
        self.get_latency.observe(took);
    }

    pub(crate) fn miss(&self, took: Duration) {
        self.misses.fetch_add(1, Relaxed);
        self.get_latency.observe(took);
    }

    pub(crate) fn bytes_out(&self, bytes: u64) {
        self.bytes_out.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn stored(&self, bytes: u64, took: Duration) {
        self.stored.fetch_add(1, Relaxed);
        self.bytes_in.fetch_add(bytes, Relaxed);
        self.put_latency.observe(took);
    }

    pub(crate) fn exists(&self) {
        self.exists.fetch_add(1, Relaxed);
    }

    pub(crate) fn refused(&self, refusal: PutRefusal) {
        self.refused[refusal.reason_index()].fetch_add(1, Relaxed);
    }

    /// Counts how a put began.
    pub(crate) fn count_start(&self, start: &Result<PutStart, PutRefusal>) {
        match start {
            Ok(PutStart::Upload(_)) => {}
            Ok(PutStart::Exists) => self.exists(),
            Err(refusal) => self.refused(*refusal),
        }
    }

    fn idle(&self) -> bool {
        let used = |counter: &AtomicU64| counter.load(Relaxed) > 0;
        !([&self.hits, &self.misses, &self.stored, &self.exists]
            .into_iter()
            .any(used)
            || self.not_stored().any(|(_, count)| used(count)))
    }

    /// Every reason for which a write was not stored.
    fn not_stored(&self) -> impl Iterator<Item = (&'static str, &AtomicU64)> {
        let refused = PutRefusal::REASONS.into_iter().zip(&self.refused);
        refused.chain(
            Unfinished::ALL
                .map(Unfinished::name)
                .into_iter()
                .zip(&self.unfinished),
        )
    }
}

const KIND_COUNT: usize = AccessKind::ALL.len();

/// The counters of one workspace.
#[derive(Debug, Default)]
struct WorkspaceSeries {
    /// By the positions of the dialect and the kind in their `ALL`.
    series: [[Arc<KindSeries>; KIND_COUNT]; Dialect::ALL.len()],
}

impl WorkspaceSeries {
    fn of(&self, dialect: Dialect, kind: AccessKind) -> &Arc<KindSeries> {
        let position = |found: Option<usize>| found.expect("ALL lists every variant");
        let dialect = position(Dialect::ALL.iter().position(|each| *each == dialect));
        let kind = position(AccessKind::ALL.iter().position(|each| *each == kind));
        &self.series[dialect][kind]
    }
}

#[derive(Default)]
struct Registered {
    workspaces: ArcSwap<HashMap<WorkspaceName, Arc<WorkspaceSeries>>>,
    others: WorkspaceSeries,
    denied: Family<[(&'static str, &'static str); 3], Counter>,
    calls: Family<[(&'static str, &'static str); 3], Counter>,
    nondeterministic: Counter,
    inspected: Family<[(&'static str, &'static str); 4], Counter>,
    store_events: Family<[(&'static str, String); 2], Counter>,
}

/// The counters of a cache and its pools. Clones share them.
#[derive(Clone, Default)]
pub struct CacheMetrics(Arc<Registered>);

impl fmt::Debug for CacheMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CacheMetrics")
    }
}

impl CacheMetrics {
    /// New counters, all zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a request that came with no permission to do what it wanted. `reason` is one of a
    /// few fixed texts, it becomes a label.
    pub fn denied(&self, dialect: Dialect, action: Action, reason: &'static str) {
        let labels = [
            ("dialect", dialect.name()),
            ("action", action.name()),
            ("reason", reason),
        ];
        self.0.denied.get_or_create(&labels).inc();
    }

    /// Counts a call that has been answered. All three are of a few fixed texts, they become labels: the client
    /// program, the call's name and how it ended.
    pub fn call(&self, tool: &'static str, call: &'static str, status: &'static str) {
        let labels = [("tool", tool), ("call", call), ("status", status)];
        self.0.calls.get_or_create(&labels).inc();
    }

    /// Counts an action's result that took the place of one with other outputs.
    pub fn nondeterministic_result(&self) {
        self.0.nondeterministic.inc();
    }

    /// Counts an entry that was looked into, for what it would do to who unpacks it. Both texts are of a few fixed ones, they become
    /// labels: what it is, and what is wrong with it if something is.
    pub fn inspected(
        &self,
        dialect: Dialect,
        verdict: &'static str,
        fault: &'static str,
        trusted: bool,
    ) {
        let labels = [
            ("dialect", dialect.name()),
            ("verdict", verdict),
            ("fault", fault),
            ("writer", if trusted { "trusted" } else { "untrusted" }),
        ];
        self.0.inspected.get_or_create(&labels).inc();
    }

    /// Counts an upload that was begun with permission, was not refused by the cache, and is not stored.
    pub fn unfinished(
        &self,
        dialect: Dialect,
        workspace: &WorkspaceName,
        kind: AccessKind,
        why: Unfinished,
    ) {
        let series = self.series(dialect, workspace, kind);
        series.unfinished[why as usize].fetch_add(1, Relaxed);
    }

    /// What a pool should call with its events: counts and logs them. `pool` names the pool in
    /// both.
    pub fn observer(&self, pool: impl Into<String>) -> Arc<dyn Fn(&Event) + Send + Sync> {
        let metrics = self.clone();
        let pool = pool.into();
        Arc::new(move |event| metrics.store_event(&pool, event))
    }

    fn store_event(&self, pool: &str, event: &Event) {
        let labels = [
            ("pool", pool.to_owned()),
            ("event", event_name(event).to_owned()),
        ];
        let count = self.0.store_events.get_or_create(&labels).inc() + 1;
        match event {
            Event::Corrupt { segment, offset } => {
                tracing::warn!(
                    pool,
                    segment,
                    offset,
                    "stored bytes did not verify: now a miss"
                );
            }
            Event::DiskFailed { operation, message } => {
                tracing::error!(pool, operation, message, "a disk operation failed");
            }
            // A full pool refuses every write; the log hears of it ever more rarely.
            Event::NoRoom { bytes } if count.is_power_of_two() => {
                tracing::warn!(pool, bytes, count, "no room: a write was refused");
            }
            Event::Loaded {
                entries,
                from_checkpoint,
                scanned,
                took,
            } => {
                tracing::info!(
                    pool,
                    entries,
                    from_checkpoint,
                    scanned,
                    ?took,
                    "pool loaded"
                );
            }
            Event::NoRoom { .. } | Event::Reclaimed { .. } | Event::Checkpointed { .. } => {
                tracing::debug!(pool, ?event, "store event");
            }
        }
    }

    /// The counters for one kind of caller. Lock-free, except for a workspace's first request.
    pub(crate) fn series(
        &self,
        dialect: Dialect,
        workspace: &WorkspaceName,
        kind: AccessKind,
    ) -> Arc<KindSeries> {
        let workspaces = self.0.workspaces.load();
        if let Some(series) = workspaces.get(workspace) {
            return series.of(dialect, kind).clone();
        }
        self.0.workspaces.rcu(|workspaces| {
            if workspaces.len() >= WORKSPACE_LABEL_COUNT_MAX || workspaces.contains_key(workspace) {
                return workspaces.clone();
            }
            let mut grown = HashMap::clone(workspaces);
            grown.insert(workspace.clone(), Arc::default());
            Arc::new(grown)
        });
        let workspaces = self.0.workspaces.load();
        workspaces
            .get(workspace)
            .map_or(&self.0.others, Arc::as_ref)
            .of(dialect, kind)
            .clone()
    }
}

fn event_name(event: &Event) -> &'static str {
    match event {
        Event::Corrupt { .. } => "corrupt",
        Event::Reclaimed { .. } => "reclaimed",
        Event::DiskFailed { .. } => "disk_failed",
        Event::NoRoom { .. } => "no_room",
        Event::Checkpointed { .. } => "checkpointed",
        Event::Loaded { .. } => "loaded",
    }
}

/// Everything a cache counts, for a Prometheus registry without a prefix.
#[derive(Debug)]
pub struct CacheCollector {
    pub(crate) metrics: CacheMetrics,
    /// The pools with the names they have in labels.
    pub(crate) pools: Vec<(String, PoolHandle)>,
}

type Series<'a> = ([(&'static str, &'a str); 3], &'a KindSeries);
type ReadCounter = fn(&KindSeries) -> u64;
type ReadUsage = fn(&Usage) -> u64;

/// Counters per dialect, workspace and kind of access: name, help, where to find it.
const COUNTERS: [(&str, &str, ReadCounter); 6] = [
    ("larder_hits", "Entries found", |series| {
        series.hits.load(Relaxed)
    }),
    ("larder_misses", "Entries not found", |series| {
        series.misses.load(Relaxed)
    }),
    ("larder_stored", "Entries stored", |series| {
        series.stored.load(Relaxed)
    }),
    (
        "larder_exists",
        "Writes of entries that existed",
        |series| series.exists.load(Relaxed),
    ),
    ("larder_bytes_out", "Bytes of entries read", |series| {
        series.bytes_out.load(Relaxed)
    }),
    ("larder_bytes_in", "Bytes of entries stored", |series| {
        series.bytes_in.load(Relaxed)
    }),
];

/// Figures per pool: name, help, kind, where to find it.
const POOL_FIGURES: [(&str, &str, MetricType, ReadUsage); 10] = [
    (
        "larder_pool_budget_bytes",
        "Most bytes of disk the pool takes",
        MetricType::Gauge,
        |usage| usage.budget_bytes,
    ),
    (
        "larder_pool_used_bytes",
        "Bytes of disk in use",
        MetricType::Gauge,
        |usage| usage.used_bytes,
    ),
    (
        "larder_pool_entries",
        "Entries in the index",
        MetricType::Gauge,
        |usage| usage.entries,
    ),
    (
        "larder_pool_segments",
        "Segment files",
        MetricType::Gauge,
        |usage| usage.segments,
    ),
    (
        "larder_pool_oldest_segment_timestamp_ms",
        "Unix time of the oldest segment in milliseconds",
        MetricType::Gauge,
        |usage| usage.oldest_ms,
    ),
    (
        "larder_pool_evicted_entries",
        "Entries evicted",
        MetricType::Counter,
        |usage| usage.evicted_entries,
    ),
    (
        "larder_pool_carried_bytes",
        "Bytes moved to outlive a segment",
        MetricType::Counter,
        |usage| usage.carried_bytes,
    ),
    (
        "larder_pool_written_bytes",
        "Bytes written to disk",
        MetricType::Counter,
        |usage| usage.written_bytes,
    ),
    (
        "larder_pool_corrupt_entries",
        "Entries that did not verify",
        MetricType::Counter,
        |usage| usage.corrupt_entries,
    ),
    (
        "larder_pool_refused_writes",
        "Writes refused for want of room",
        MetricType::Counter,
        |usage| usage.refused_writes,
    ),
];

impl CacheCollector {
    fn encode_requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let workspaces = self.metrics.0.workspaces.load();
        let named = workspaces
            .iter()
            .map(|(name, series)| (name.as_str(), series.as_ref()));
        let series: Vec<Series<'_>> = named
            .chain([(OTHER_WORKSPACES, &self.metrics.0.others)])
            .flat_map(|(workspace, series)| {
                Dialect::ALL.into_iter().flat_map(move |dialect| {
                    AccessKind::ALL.into_iter().map(move |kind| {
                        let labels = [
                            ("dialect", dialect.name()),
                            ("workspace", workspace),
                            ("access", kind.name()),
                        ];
                        (labels, series.of(dialect, kind).as_ref())
                    })
                })
            })
            .filter(|(_, series)| !series.idle())
            .collect();
        for (name, help, read) in COUNTERS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, series) in &series {
                let mut metric = family.encode_family(labels)?;
                metric.encode_counter::<NoLabelSet, u64, f64>(&read(series), None)?;
            }
        }
        let (name, help) = ("larder_refused_writes", "Writes refused, by reason");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, series) in &series {
            for (reason, count) in series.not_stored() {
                let labels = [labels[0], labels[1], labels[2], ("reason", reason)];
                let mut metric = family.encode_family(&labels)?;
                metric.encode_counter::<NoLabelSet, u64, f64>(&count.load(Relaxed), None)?;
            }
        }
        let (name, help) = (
            "larder_get_seconds",
            "Time until an entry was found or missed",
        );
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, series) in &series {
            series
                .get_latency
                .encode(&mut family.encode_family(labels)?)?;
        }
        let (name, help) = (
            "larder_put_seconds",
            "Time from a write's first byte to its storing",
        );
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, series) in &series {
            series
                .put_latency
                .encode(&mut family.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn encode_pools(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = ("larder_pool_ready", "Whether the pool is loaded and serves");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (pool, handle) in &self.pools {
            let ready = u64::from(handle.state() == PoolState::Ready);
            family
                .encode_family(&[("pool", pool.as_str())])?
                .encode_gauge(&ready)?;
        }
        let usages: Vec<([(&str, &str); 1], Usage)> = self
            .pools
            .iter()
            .filter_map(|(pool, handle)| Some(([("pool", pool.as_str())], handle.pool()?.usage())))
            .collect();
        for (name, help, kind, read) in POOL_FIGURES {
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, usage) in &usages {
                let mut metric = family.encode_family(labels)?;
                match kind {
                    MetricType::Counter => {
                        metric.encode_counter::<NoLabelSet, u64, f64>(&read(usage), None)?;
                    }
                    _ => metric.encode_gauge(&read(usage))?,
                }
            }
        }
        Ok(())
    }
}

impl Collector for CacheCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_requests(&mut encoder)?;
        self.encode_pools(&mut encoder)?;
        let families: [(&str, &str, &dyn EncodeMetric); 5] = [
            (
                "larder_denied",
                "Requests without permission",
                &self.metrics.0.denied,
            ),
            (
                "larder_remote_calls",
                "Calls answered, by client program",
                &self.metrics.0.calls,
            ),
            (
                "larder_nondeterministic_results",
                "Action results that replaced one with other outputs in the same scope",
                &self.metrics.0.nondeterministic,
            ),
            (
                "larder_inspected",
                "Uploads looked into, by what they turned out to be",
                &self.metrics.0.inspected,
            ),
            (
                "larder_store_events",
                "Events of the pools",
                &self.metrics.0.store_events,
            ),
        ];
        for (name, help, family) in families {
            let kind = MetricType::Counter;
            family.encode(encoder.encode_descriptor(name, help, None, kind)?)?;
        }
        Ok(())
    }
}
