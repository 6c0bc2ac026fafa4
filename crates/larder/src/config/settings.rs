//! What a configuration means.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_auth::ci::Rule;
use larder_auth::{Algorithm, CertificateRule};
use larder_bucket::link::{Addressing, BucketUrl, Encryption};
use larder_cache::Ack;
use larder_model::WorkspaceName;
use larder_protocols::InspectedWriters;
use larder_store::Durability;

use super::network::Network;

/// The whole configuration, checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    pub(crate) http: HttpSettings,
    /// `None` without a certificate.
    pub(crate) tls: Option<TlsSettings>,
    pub(crate) store: StoreSettings,
    /// `None`: entries are on this machine's disk alone.
    pub(crate) bucket: Option<BucketSettings>,
    pub(crate) limits: LimitSettings,
    pub(crate) nx: NxSettings,
    pub(crate) log: LogSettings,
    pub(crate) audit: AuditSettings,
    pub(crate) workspaces: BTreeMap<WorkspaceName, WorkspaceSettings>,
    pub(crate) identity: IdentitySettings,
}

/// `[http]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpSettings {
    /// `None`: there is no plain HTTP.
    pub(crate) listen: Option<SocketAddr>,
    /// Empty, or a path that starts and does not end with `/`.
    pub(crate) base_path: String,
    pub(crate) insecure_http: bool,
    pub(crate) metrics: MetricsAudience,
    /// Whose word on where a request came from counts.
    pub(crate) trusted_proxies: Vec<Network>,
}

/// `[tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsSettings {
    pub(crate) listen: SocketAddr,
    pub(crate) files: TlsFiles,
}

/// What TLS is made of; all of it PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// A chain, the server's own certificate first.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) clients: ClientCertificates,
}

/// Whether clients show certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ClientCertificates {
    /// They are not asked.
    Off,
    /// They are asked for one that an authority in `ca` has issued.
    Asked {
        ca: PathBuf,
        crl: Option<PathBuf>,
        /// Those without are not let in.
        required: bool,
    },
}

impl TlsFiles {
    /// Every file.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        let (ca, crl) = match &self.clients {
            ClientCertificates::Off => (None, None),
            ClientCertificates::Asked { ca, crl, .. } => (Some(ca), crl.as_ref()),
        };
        let own = [&self.certificate, &self.key];
        own.into_iter().chain(ca).chain(crl).map(PathBuf::as_path)
    }
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

/// `[bucket]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BucketSettings {
    pub(crate) url: BucketUrl,
    pub(crate) ack: Ack,
    pub(crate) expire_after: Duration,
    pub(crate) endpoint: Option<String>,
    pub(crate) addressing: Option<Addressing>,
    pub(crate) region: Option<String>,
    pub(crate) account: Option<String>,
    pub(crate) encryption: Option<Encryption>,
    /// PEM.
    pub(crate) ca_file: Option<PathBuf>,
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

/// `[nx]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NxSettings {
    /// Whose archives are looked into.
    pub(crate) inspect: InspectedWriters,
}

/// `[log]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogSettings {
    pub(crate) format: LogFormat,
    pub(crate) level: tracing::Level,
}

/// `[audit]`: what the ledger forgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AuditSettings {
    pub(crate) retention: Duration,
    pub(crate) row_count_max: usize,
    pub(crate) writers: Duration,
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

/// Who clients can be: `[identity]`, the issuers that rules need, and the rules.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct IdentitySettings {
    pub(crate) session_ttl_trusted: Duration,
    pub(crate) session_ttl_untrusted: Duration,
    pub(crate) issuers: Vec<IssuerSettings>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) certificates: Vec<CertificateRule>,
}

/// An issuer whose tokens some rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IssuerSettings {
    pub(crate) url: String,
    /// What its tokens must have been made for.
    pub(crate) audience: String,
    pub(crate) keys: IssuerKeysAt,
    pub(crate) ca_file: Option<PathBuf>,
    /// Whether its keys are fetched from link-local addresses, too.
    pub(crate) allow_link_local: bool,
    pub(crate) algorithms: Vec<Algorithm>,
    pub(crate) token_lifetime_max: Duration,
}

/// Where an issuer's keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum IssuerKeysAt {
    /// Where its discovery document says.
    Discovery,
    Url(String),
    File(PathBuf),
}
