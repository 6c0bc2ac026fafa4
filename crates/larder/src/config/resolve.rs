//! The second reading: what the values mean. Every problem is collected; a value that is wrong
//! is replaced by its default only to be able to go on looking.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_model::WorkspaceName;
use larder_protocols::InspectedWriters;
use larder_store::Durability;

use super::bucket::bucket;
use super::budgets::BUDGET_BYTES_MIN;
use super::identity::identity;
use super::keys::{Key, WORKSPACE_SECTION};
use super::network::Network;
use super::problem::{Origin, Problem, Problems};
use super::quantity::{parse_duration, parse_size, size_text};
use super::raw::{RawConfig, RawValue, RawWorkspace, Written};
use super::settings::{
    AuditSettings, ClientCertificates, HttpSettings, LimitSettings, LogFormat, LogSettings,
    MetricsAudience, NxSettings, Settings, Share, StoreSettings, TlsFiles, TlsSettings,
    WorkspaceSettings,
};

/// Where a server listens that was told nothing.
const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9092);
/// Where a server with a certificate listens that was told nothing more: not everywhere, as without one.
const TLS_LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9443);
/// Where a server keeps its files that was told nothing.
const DATA_DIR_DEFAULT: &str = "larder-data";
/// The smallest head buffer: less is below what the HTTP library can work with.
const HEADER_BYTES_MIN: u64 = 8 << 10;
/// The largest head buffer: each connection may hold one.
const HEADER_BYTES_MAX: u64 = 1 << 20;
/// Less than this and every connection is over before it begins.
const TIMEOUT_MIN: Duration = Duration::from_millis(100);

/// Less than this and nothing can be looked up after it was noticed.
const RETENTION_MIN: Duration = Duration::from_hours(1);

/// The settings, or everything that is wrong: `problems` of the first reading and our own.
pub(super) fn resolve(raw: &RawConfig, problems: Problems) -> Result<Settings, Problems> {
    let mut reader = Reader {
        problems,
        within: None,
    };
    let top = |key| raw.get(key);
    let workspaces = workspaces(&mut reader, raw);
    let settings = Settings {
        http: HttpSettings {
            listen: reader.parsed(Key::HttpListen, top, parse_listen, Some(LISTEN_DEFAULT)),
            base_path: reader.parsed(Key::HttpBasePath, top, parse_base_path, String::new()),
            insecure_http: reader.boolean(Key::HttpInsecureHttp, top),
            metrics: reader.parsed(
                Key::HttpMetrics,
                top,
                |text| one_of(text, &METRICS_AUDIENCES),
                MetricsAudience::Local,
            ),
            trusted_proxies: reader.list(Key::HttpTrustedProxies, top, str::parse::<Network>),
        },
        tls: tls(&mut reader, raw),
        store: StoreSettings {
            data_dir: data_dir(&mut reader, raw),
            trusted: reader.parsed(Key::StoreTrusted, top, some(parse_budget), None),
            untrusted: reader.parsed(Key::StoreUntrusted, top, some(parse_budget), None),
            durability: reader.parsed(
                Key::StoreDurability,
                top,
                |text| one_of(text, &DURABILITIES),
                Durability::Written,
            ),
            lease: reader.parsed(
                Key::StoreLease,
                top,
                parse_duration,
                Duration::from_hours(1),
            ),
            free_reserve: reader.parsed(Key::StoreFreeReserve, top, some(parse_share), None),
        },
        bucket: bucket(&mut reader, raw),
        limits: limits(&mut reader, raw),
        nx: NxSettings {
            inspect: reader.parsed(
                Key::NxInspect,
                top,
                |text| one_of(text, &INSPECTED_WRITERS),
                InspectedWriters::All,
            ),
        },
        log: LogSettings {
            format: reader.parsed(
                Key::LogFormat,
                top,
                |text| one_of(text, &LOG_FORMATS),
                LogFormat::Auto,
            ),
            level: reader.parsed(
                Key::LogLevel,
                top,
                |text| one_of(text, &LOG_LEVELS),
                tracing::Level::INFO,
            ),
        },
        audit: audit(&mut reader, raw),
        identity: identity(&mut reader, raw, &workspaces),
        workspaces,
    };
    reader.check_percentages(raw, &settings);
    if settings.http.listen.is_none() && settings.tls.is_none() {
        let message = "nothing would listen: give [tls] a certificate, or this an address";
        reader.fault(raw, Key::HttpListen, message);
    }
    if reader.problems.is_empty() {
        Ok(settings)
    } else {
        Err(reader.problems.in_order())
    }
}

const METRICS_AUDIENCES: [(&str, MetricsAudience); 2] = [
    ("local", MetricsAudience::Local),
    ("open", MetricsAudience::Open),
];
const INSPECTED_WRITERS: [(&str, InspectedWriters); 2] = [
    ("all", InspectedWriters::All),
    ("untrusted", InspectedWriters::Untrusted),
];
const DURABILITIES: [(&str, Durability); 2] = [
    ("written", Durability::Written),
    ("synced", Durability::Synced),
];
const LOG_FORMATS: [(&str, LogFormat); 3] = [
    ("auto", LogFormat::Auto),
    ("human", LogFormat::Human),
    ("json", LogFormat::Json),
];
const LOG_LEVELS: [(&str, tracing::Level); 5] = [
    ("error", tracing::Level::ERROR),
    ("warn", tracing::Level::WARN),
    ("info", tracing::Level::INFO),
    ("debug", tracing::Level::DEBUG),
    ("trace", tracing::Level::TRACE),
];

fn limits(reader: &mut Reader, raw: &RawConfig) -> LimitSettings {
    let top = |key| raw.get(key);
    let mut timeout = |key, default_secs| {
        reader.parsed(key, top, parse_timeout, Duration::from_secs(default_secs))
    };
    let header_timeout = timeout(Key::LimitsHeaderTimeout, 30);
    let idle_timeout = timeout(Key::LimitsIdleTimeout, 600);
    let stall_timeout = timeout(Key::LimitsStallTimeout, 60);
    let drain_timeout = timeout(Key::LimitsDrainTimeout, 30);
    LimitSettings {
        entry_size_max: reader.parsed(Key::LimitsEntrySizeMax, top, parse_entry_size, 2 << 30),
        connection_count_max: reader.count(Key::LimitsConnectionsMax, top, 65_536),
        header_timeout,
        header_bytes_max: reader.parsed(Key::LimitsHeaderSizeMax, top, parse_header_size, 32 << 10),
        idle_timeout,
        stall_timeout,
        drain_timeout,
    }
}

fn audit(reader: &mut Reader, raw: &RawConfig) -> AuditSettings {
    let top = |key| raw.get(key);
    let mut days = |key, default: u64| {
        let default = Duration::from_hours(24 * default);
        reader.parsed(key, top, parse_retention, default)
    };
    AuditSettings {
        retention: days(Key::AuditRetention, 90),
        writers: days(Key::AuditWriters, 400),
        row_count_max: reader.count(Key::AuditRows, top, 10_000_000),
    }
}

fn workspaces(reader: &mut Reader, raw: &RawConfig) -> BTreeMap<WorkspaceName, WorkspaceSettings> {
    let mut workspaces = BTreeMap::new();
    for (name, table) in raw.workspaces() {
        match name.parse::<WorkspaceName>() {
            Ok(parsed) => {
                workspaces.insert(parsed, workspace(reader, name, table));
            }
            Err(error) => reader.problems.push(Problem {
                origin: table.origin.clone(),
                key: Some(format!("{WORKSPACE_SECTION}.{}", name.escape_debug())),
                message: error.to_string(),
            }),
        }
    }
    workspaces
}

fn workspace(reader: &mut Reader, name: &str, table: &RawWorkspace) -> WorkspaceSettings {
    let own = |key| table.values.get(&key);
    let trusted = reader.parsed(Key::WorkspaceTrusted, own, some(parse_budget), None);
    let untrusted = reader.parsed(Key::WorkspaceUntrusted, own, some(parse_budget), None);
    let written = (own(Key::WorkspaceTrusted), own(Key::WorkspaceUntrusted));
    if let (Some(only), None) | (None, Some(only)) = written {
        let (has, lacks) = if written.0.is_some() {
            ("trusted", "untrusted")
        } else {
            ("untrusted", "trusted")
        };
        reader.problems.push(Problem {
            origin: only.origin.clone(),
            key: Some(format!("{WORKSPACE_SECTION}.{name}.{has}")),
            message: format!("a workspace with pools of its own needs both; {lacks} is missing"),
        });
    }
    WorkspaceSettings {
        public: reader.boolean(Key::WorkspacePublic, own),
        own_pools: trusted.zip(untrusted),
        entry_size_max: reader.parsed(
            Key::WorkspaceEntrySizeMax,
            own,
            some(parse_entry_size),
            None,
        ),
    }
}

const CLIENT_CERTIFICATES: [(&str, AskedOf); 3] = [
    ("off", AskedOf::Nobody),
    ("optional", AskedOf::Everybody),
    ("required", AskedOf::EverybodyOrElse),
];

/// Who is asked for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AskedOf {
    Nobody,
    Everybody,
    EverybodyOrElse,
}

/// `None` without a certificate; then nothing else of the section may be there either.
fn tls(reader: &mut Reader, raw: &RawConfig) -> Option<TlsSettings> {
    let top = |key| raw.get(key);
    let listen = reader.parsed(Key::TlsListen, top, parse_address, TLS_LISTEN_DEFAULT);
    let certificate = reader.file(Key::TlsCertificate, top);
    let key = reader.file(Key::TlsKeyFile, top);
    let clients = client_certificates(reader, raw);
    let Some(certificate) = certificate else {
        let of_tls = |key: &&Key| key.spec().section == "tls" && raw.get(**key).is_some();
        if let Some(written) = Key::ALL.iter().find(of_tls) {
            reader.fault(raw, *written, "there is no TLS without a certificate");
        }
        return None;
    };
    let Some(key) = key else {
        reader.fault(raw, Key::TlsCertificate, "its key is missing");
        return None;
    };
    let files = TlsFiles {
        certificate,
        key,
        clients,
    };
    Some(TlsSettings { listen, files })
}

fn client_certificates(reader: &mut Reader, raw: &RawConfig) -> ClientCertificates {
    let top = |key| raw.get(key);
    let ca = reader.file(Key::TlsClientCa, top);
    let crl = reader.file(Key::TlsClientCrl, top);
    let default = if ca.is_some() {
        AskedOf::Everybody
    } else {
        AskedOf::Nobody
    };
    let asked = reader.parsed(
        Key::TlsClientCertificates,
        top,
        |text| one_of(text, &CLIENT_CERTIFICATES),
        default,
    );
    let Some(ca) = ca else {
        if asked != AskedOf::Nobody {
            let message = "client_ca is missing: who issues the certificates?";
            reader.fault(raw, Key::TlsClientCertificates, message);
        } else if crl.is_some() {
            reader.fault(raw, Key::TlsClientCrl, "client_ca is missing");
        }
        return ClientCertificates::Off;
    };
    match asked {
        AskedOf::Nobody => ClientCertificates::Off,
        AskedOf::Everybody | AskedOf::EverybodyOrElse => ClientCertificates::Asked {
            ca,
            crl,
            required: asked == AskedOf::EverybodyOrElse,
        },
    }
}

fn data_dir(reader: &mut Reader, raw: &RawConfig) -> PathBuf {
    reader
        .file(Key::StoreDataDir, |key| raw.get(key))
        .unwrap_or(DATA_DIR_DEFAULT.into())
}

/// Reads values, collecting what is wrong with them.
pub(super) struct Reader {
    pub(super) problems: Problems,
    /// The path of the table with a name that is being read.
    within: Option<String>,
}

impl Reader {
    /// Reads a table with a name of its own: problems tell its whole path.
    pub(super) fn within<T>(&mut self, table: &str, read: impl FnOnce(&mut Self) -> T) -> T {
        let outside = self.within.replace(table.to_owned());
        let meaning = read(self);
        self.within = outside;
        meaning
    }

    /// The key's path from the top.
    pub(super) fn path_of(&self, key: Key) -> String {
        match &self.within {
            Some(table) => format!("{table}.{}", key.spec().name),
            None => key.path(),
        }
    }

    /// A path that counts from the directory of the file it was written in.
    pub(super) fn file<'a>(
        &mut self,
        key: Key,
        get: impl Fn(Key) -> Option<&'a Written>,
    ) -> Option<PathBuf> {
        let written = get(key)?;
        if let RawValue::Path(path) = &written.value {
            return Some(path.clone());
        }
        let path = self.parsed(key, get, some(parse_path), None)?;
        Some(match &written.origin {
            Origin::File { file, .. } => file.parent().unwrap_or(Path::new("")).join(path),
            _ => path,
        })
    }

    pub(super) fn parsed<'a, T>(
        &mut self,
        key: Key,
        get: impl Fn(Key) -> Option<&'a Written>,
        parse: impl Fn(&str) -> Result<T, String>,
        default: T,
    ) -> T {
        let Some(written) = get(key) else {
            return default;
        };
        let text = match &written.value {
            RawValue::Text(text) => Ok(text.as_str()),
            RawValue::Integer(_) => Err("a number"),
            RawValue::Boolean(_) => Err("true or false"),
            RawValue::Path(_) => Err("something that is not UTF-8"),
            RawValue::List(_) => Err("a list"),
            RawValue::Table(_) => Err("a table"),
            RawValue::Other(kind) => Err(*kind),
        };
        let meaning = text
            .map_err(|kind| {
                format!(
                    "{kind} was written; {} goes here, in quotes",
                    key.spec().value
                )
            })
            .and_then(parse);
        self.keep(key, written, meaning).unwrap_or(default)
    }

    pub(super) fn boolean<'a>(
        &mut self,
        key: Key,
        get: impl Fn(Key) -> Option<&'a Written>,
    ) -> bool {
        let Some(written) = get(key) else {
            return false;
        };
        let meaning = match &written.value {
            RawValue::Boolean(boolean) => Ok(*boolean),
            // The environment and flags have nothing but text.
            RawValue::Text(text) if !matches!(written.origin, Origin::File { .. }) => {
                one_of(text, &[("true", true), ("false", false)])
            }
            _ => Err("write true or false, without quotes".to_owned()),
        };
        self.keep(key, written, meaning).unwrap_or_default()
    }

    fn count<'a>(
        &mut self,
        key: Key,
        get: impl Fn(Key) -> Option<&'a Written>,
        default: usize,
    ) -> usize {
        let Some(written) = get(key) else {
            return default;
        };
        let text = match &written.value {
            RawValue::Integer(text) => Some(text),
            RawValue::Text(text) if !matches!(written.origin, Origin::File { .. }) => Some(text),
            _ => None,
        };
        let meaning = match text.and_then(|text| text.parse::<u32>().ok()) {
            Some(count) if count > 0 => Ok(count as usize),
            _ => Err("write a whole number above 0, without quotes".to_owned()),
        };
        self.keep(key, written, meaning).unwrap_or(default)
    }

    /// A list of text; the environment writes one with commas.
    pub(super) fn list<'a, T>(
        &mut self,
        key: Key,
        get: impl Fn(Key) -> Option<&'a Written>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let Some(written) = get(key) else {
            return Vec::new();
        };
        let texts: Option<Vec<&str>> = match &written.value {
            RawValue::List(values) => values
                .iter()
                .map(|value| match value {
                    RawValue::Text(text) => Some(text.as_str()),
                    _ => None,
                })
                .collect(),
            RawValue::Text(text) if !matches!(written.origin, Origin::File { .. }) => {
                let parts = text.split(',').map(str::trim);
                Some(parts.filter(|part| !part.is_empty()).collect())
            }
            _ => None,
        };
        let meaning = texts
            .ok_or_else(|| "write a list of texts, such as [\"one\", \"two\"]".to_owned())
            .and_then(|texts| texts.into_iter().map(parse).collect());
        self.keep(key, written, meaning).unwrap_or_default()
    }

    /// Something is wrong with a key as it stands beside the others.
    pub(super) fn fault(&mut self, raw: &RawConfig, key: Key, message: &str) {
        let origin = raw.get(key).map(|written| written.origin.clone());
        self.problems.push(Problem {
            origin: origin.unwrap_or(Origin::Whole),
            key: Some(key.path()),
            message: message.to_owned(),
        });
    }

    pub(super) fn keep<T>(
        &mut self,
        key: Key,
        written: &Written,
        meaning: Result<T, String>,
    ) -> Option<T> {
        meaning
            .map_err(|message| {
                let origin = written.origin.clone();
                let key = Some(self.path_of(key));
                self.problems.push(Problem {
                    origin,
                    key,
                    message,
                });
            })
            .ok()
    }

    /// Percentages are all of the same disk.
    fn check_percentages(&mut self, raw: &RawConfig, settings: &Settings) {
        let own = settings
            .workspaces
            .values()
            .filter_map(|workspace| workspace.own_pools);
        let shares = [
            settings.store.trusted,
            settings.store.untrusted,
            settings.store.free_reserve,
        ];
        let percent = |share: Share| match share {
            Share::Percent(percent) => u32::from(percent),
            Share::Bytes(_) => 0,
        };
        let sum: u32 = shares.into_iter().flatten().map(percent).sum::<u32>()
            + own
                .map(|(trusted, untrusted)| percent(trusted) + percent(untrusted))
                .sum::<u32>();
        if sum > 100 {
            let first = [
                Key::StoreTrusted,
                Key::StoreUntrusted,
                Key::StoreFreeReserve,
            ];
            let origin = first
                .into_iter()
                .find_map(|key| raw.get(key))
                .map(|w| w.origin.clone());
            self.problems.push(Problem {
                origin: origin.unwrap_or(Origin::Whole),
                key: None,
                message: format!("all percentages together are {sum}% of the disk"),
            });
        }
    }
}

pub(super) fn some<T>(
    parse: impl Fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<Option<T>, String> {
    move |text| parse(text).map(Some)
}

pub(super) fn one_of<T: Copy>(text: &str, known: &[(&str, T)]) -> Result<T, String> {
    known
        .iter()
        .find(|(name, _)| *name == text)
        .map(|(_, value)| *value)
        .ok_or_else(|| {
            let names: Vec<String> = known
                .iter()
                .map(|(name, _)| format!("\"{name}\""))
                .collect();
            format!(
                "\"{}\" is none of {}",
                text.escape_debug(),
                names.join(", ")
            )
        })
}

/// An address, or `off`.
pub(crate) fn parse_listen(text: &str) -> Result<Option<SocketAddr>, String> {
    match text {
        "off" => Ok(None),
        text => parse_address(text).map(Some),
    }
}

/// `ADDRESS:PORT`, or `localhost:PORT`.
fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let numeric = text
        .strip_prefix("localhost:")
        .map(|port| format!("127.0.0.1:{port}"));
    numeric.as_deref().unwrap_or(text).parse().map_err(|_| {
        format!(
            "\"{}\" is not an address and a port; write one like \"127.0.0.1:9092\" or \"[::1]:9092\"",
            text.escape_debug()
        )
    })
}

fn parse_base_path(text: &str) -> Result<String, String> {
    let trimmed = text.trim_end_matches('/');
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.' | b'~');
    if trimmed.is_empty() {
        return Ok(String::new());
    }
    if trimmed.starts_with('/') && trimmed.bytes().all(plain) && !trimmed.contains("//") {
        return Ok(trimmed.to_owned());
    }
    Err(format!(
        "\"{}\" is not a plain path; write one like \"/cache\"",
        text.escape_debug()
    ))
}

fn parse_path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        Err("a path cannot be empty".to_owned())
    } else {
        Ok(text.into())
    }
}

fn parse_share(text: &str) -> Result<Share, String> {
    let Some(percent) = text.trim().strip_suffix('%') else {
        return parse_size(text)
            .map(Share::Bytes)
            .map_err(|message| format!("{message}, or a part of the disk like \"20%\""));
    };
    match percent.trim_end().parse::<u8>() {
        Ok(percent @ 1..=100) => Ok(Share::Percent(percent)),
        _ => Err(format!(
            "\"{}\" is not a whole percentage from 1% to 100%",
            text.escape_debug()
        )),
    }
}

fn parse_budget(text: &str) -> Result<Share, String> {
    match parse_share(text)? {
        Share::Bytes(bytes) if bytes < BUDGET_BYTES_MIN => Err(format!(
            "a pool needs at least {}",
            size_text(BUDGET_BYTES_MIN)
        )),
        share => Ok(share),
    }
}

fn parse_entry_size(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("entries of no bytes only would be no cache".to_owned()),
        bytes => Ok(bytes),
    }
}

fn parse_header_size(text: &str) -> Result<usize, String> {
    match parse_size(text)? {
        bytes @ HEADER_BYTES_MIN..=HEADER_BYTES_MAX => Ok(bytes as usize),
        _ => Err(between(
            size_text(HEADER_BYTES_MIN),
            size_text(HEADER_BYTES_MAX),
        )),
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration < TIMEOUT_MIN {
        Err("at least 100ms".to_owned())
    } else {
        Ok(duration)
    }
}

fn parse_retention(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration < RETENTION_MIN {
        Err("at least 1h".to_owned())
    } else {
        Ok(duration)
    }
}

fn between(least: impl fmt::Display, most: impl fmt::Display) -> String {
    format!("write something from {least} to {most}")
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
