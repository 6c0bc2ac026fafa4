//! `/metrics` of the bucket.

use std::fmt;

use larder_bucket::Usage;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Depot;
use crate::clock;

/// What there is to measure.
pub(crate) struct BucketCollector(pub(crate) Depot);

impl fmt::Debug for BucketCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketCollector").finish_non_exhaustive()
    }
}

type ReadUsage = fn(&Usage) -> u64;

/// Gauges: name, help, where to find it.
const FIGURES: [(&str, &str, ReadUsage); 8] = [
    (
        "larder_bucket_reachable",
        "Whether the bucket is in use; 0 while it is left alone after failures",
        |usage| u64::from(usage.open_for.is_none()),
    ),
    (
        "larder_bucket_caught_up",
        "Whether everything is known that was in the catalogue at the start",
        |usage| u64::from(usage.caught_up),
    ),
    ("larder_bucket_packs", "Packs in the catalogue", |usage| {
        usage.packs
    }),
    (
        "larder_bucket_pack_bytes",
        "Bytes of these packs",
        |usage| usage.pack_bytes,
    ),
    (
        "larder_bucket_entries",
        "Entries of the bucket that this node can find",
        |usage| usage.entries,
    ),
    (
        "larder_bucket_index_memory_bytes",
        "Bytes of memory of their index",
        |usage| usage.index_memory_bytes,
    ),
    (
        "larder_bucket_queue_entries",
        "Entries that wait to be uploaded",
        |usage| usage.queue.entries,
    ),
    (
        "larder_bucket_queue_bytes",
        "Bytes of these entries",
        |usage| usage.queue.bytes,
    ),
];

impl Collector for BucketCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let usage = self.0.bucket.usage();
        for (name, help, read) in FIGURES {
            let gauge = ConstGauge::new(read(&usage));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let waited_ms = usage
            .queue
            .oldest_at_ms
            .map_or(0, |oldest| clock::now_ms().saturating_sub(oldest));
        let (name, help) = (
            "larder_bucket_queue_age_seconds",
            "How long the oldest of them has waited",
        );
        let gauge = ConstGauge::new(waited_ms as f64 / 1000.0);
        gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;

        let (name, help) = (
            "larder_bucket_requests",
            "Requests to the bucket, by operation and outcome",
        );
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (operation, outcome, count) in self.0.bucket.link().requests() {
            let (operation, outcome) = (operation.to_string(), outcome.to_string());
            let labels = [
                ("operation", operation.as_str()),
                ("outcome", outcome.as_str()),
            ];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
        }
        let events = &self.0.events.0;
        let (name, help) = ("larder_bucket_events", "Events of the bucket");
        let kind = MetricType::Counter;
        events.encode(encoder.encode_descriptor(name, help, None, kind)?)
    }
}
