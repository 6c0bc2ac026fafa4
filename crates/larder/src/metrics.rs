//! `/metrics`: what the cache counts, and figures of the process under their customary names.

use std::fmt;
use std::sync::Arc;

use larder_protocols::Journal;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::clock;
use crate::net::{Seats, Tls};

/// The kernel's unit of processor time in `/proc`, fixed for user space on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// A registry with everything there is to say.
pub(crate) fn registry(
    cache: larder_cache::CacheCollector,
    seats: Arc<Seats>,
    tls: Option<Arc<Tls>>,
    journal: Arc<Journal>,
) -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(cache));
    registry.register_collector(Box::new(ProcessCollector {
        seats,
        tls,
        journal,
        started_ms: clock::now_ms(),
    }));
    let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
    registry.register("larder_build", "The running program", version);
    registry
}

struct ProcessCollector {
    seats: Arc<Seats>,
    tls: Option<Arc<Tls>>,
    journal: Arc<Journal>,
    started_ms: u64,
}

impl fmt::Debug for ProcessCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessCollector").finish_non_exhaustive()
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut put = |name, help, unit: Option<&Unit>, metric: &dyn EncodeMetric| {
            metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
        };
        let gauge = |figure: u64| ConstGauge::new(figure);
        put(
            "larder_connections_open",
            "Connections",
            None,
            &gauge(self.seats.open_count() as u64),
        )?;
        put(
            "larder_connections_accepted",
            "Connections since the start",
            None,
            &ConstCounter::new(self.seats.accepted_count()),
        )?;
        put(
            "larder_audit_lost_rows",
            "Events that are in no row of the audit, because the ledger could not be written for too long",
            None,
            &ConstCounter::new(self.journal.lost_rows()),
        )?;
        if let Some(tls) = &self.tls {
            put(
                "larder_tls_handshake_failures",
                "Handshakes that came to nothing: no common version, a certificate that was not believed, plain HTTP, or too slow",
                None,
                &ConstCounter::new(tls.failure_count()),
            )?;
            put(
                "larder_tls_certificate_expiry",
                "Unix time at which the server's certificate ends",
                Some(&Unit::Seconds),
                &ConstGauge::new(tls.expires_at_secs()),
            )?;
        }
        put(
            "process_start_time",
            "Unix time of the start",
            Some(&Unit::Seconds),
            &ConstGauge::new(self.started_ms as f64 / 1000.0),
        )?;
        let figures = ProcessFigures::read();
        if let Some(seconds) = figures.cpu_seconds {
            let help = "Processor time used";
            put(
                "process_cpu",
                help,
                Some(&Unit::Seconds),
                &ConstCounter::new(seconds),
            )?;
        }
        if let Some(bytes) = figures.resident_bytes {
            put(
                "process_resident_memory",
                "Memory in use",
                Some(&Unit::Bytes),
                &gauge(bytes),
            )?;
        }
        if let Some(count) = figures.open_files {
            put("process_open_fds", "Open files", None, &gauge(count))?;
        }
        if let Some(count) = figures.open_files_max {
            put(
                "process_max_fds",
                "The limit of open files",
                None,
                &gauge(count),
            )?;
        }
        Ok(())
    }
}

/// What the kernel says of this process. What it does not say is left out.
struct ProcessFigures {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<u64>,
    open_files: Option<u64>,
    open_files_max: Option<u64>,
}

impl ProcessFigures {
    fn read() -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").ok();
        let status = std::fs::read_to_string("/proc/self/status").ok();
        let files = std::fs::read_dir("/proc/self/fd").ok();
        Self {
            cpu_seconds: stat.as_deref().and_then(cpu_seconds),
            resident_bytes: status.as_deref().and_then(resident_bytes),
            open_files: files.map(|files| files.count() as u64),
            open_files_max: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        }
    }
}

/// Fields 14 and 15 of `/proc/PID/stat`, counted after the command's name, which may contain
/// anything (proc_pid_stat(5)).
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// `VmRSS:  1234 kB` (proc_pid_status(5)).
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_the_kernels_own_format() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 4 0 1 2 3";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(
            resident_bytes("Name:\tx\nVmRSS:\t  12 kB\nThreads: 1\n"),
            Some(12 << 10)
        );
        let own = ProcessFigures::read();
        assert!(own.resident_bytes.is_some_and(|bytes| bytes > 1 << 20));
        assert!(own.open_files.is_some_and(|count| count > 2));
    }
}
