//! What a configuration means.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use larder_model::WorkspaceName;
use larder_store::Durability;

/// The whole configuration, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    pub(crate) http: HttpSettings,
    pub(crate) store: StoreSettings,
    pub(crate) limits: LimitSettings,
    pub(crate) log: LogSettings,
    pub(crate) workspaces: BTreeMap<WorkspaceName, WorkspaceSettings>,
}

/// `[http]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpSettings {
    pub(crate) listen: SocketAddr,
    /// Empty, or a path that starts and does not end with `/`.
    pub(crate) base_path: String,
    pub(crate) insecure_http: bool,
    pub(crate) metrics: MetricsAudience,
}

/// Who may read `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetricsAudience {
    /// Processes on this machine that did not come through a proxy.
    Local,
    /// Everyone.
    Open,
}

/// `[store]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreSettings {
    pub(crate) data_dir: PathBuf,
    /// `None` follows the disk.
    pub(crate) trusted: Option<Share>,
    /// `None` follows the disk.
    pub(crate) untrusted: Option<Share>,
    pub(crate) durability: Durability,
    pub(crate) lease: Duration,
    /// `None` follows the disk.
    pub(crate) free_reserve: Option<Share>,
}

/// A part of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of the whole disk, 1 to 100.
    Percent(u8),
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => f.write_str(&super::size_text(*bytes)),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LimitSettings {
    pub(crate) entry_size_max: u64,
    pub(crate) connection_count_max: usize,
    pub(crate) header_timeout: Duration,
    pub(crate) header_bytes_max: usize,
    pub(crate) idle_timeout: Duration,
    pub(crate) stall_timeout: Duration,
    pub(crate) drain_timeout: Duration,
}

/// `[log]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogSettings {
    pub(crate) format: LogFormat,
    pub(crate) level: tracing::Level,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Human on a terminal, JSON elsewhere.
    Auto,
    Human,
    Json,
}

/// `[workspace.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct WorkspaceSettings {
    pub(crate) public: bool,
    /// Budgets of pools of its own, trusted then untrusted.
    pub(crate) own_pools: Option<(Share, Share)>,
    pub(crate) entry_size_max: Option<u64>,
}
