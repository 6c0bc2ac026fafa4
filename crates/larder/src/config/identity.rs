//! The second reading of what says who clients are: `[identity]`, issuers, rules for CI jobs and for client certificates.
//!
//! Issuers are made of the rules that need them, so that no token is believed which no rule is for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use larder_auth::{Algorithm, CertificateRule, JWT_LIFETIME_S_MAX, San};
use larder_model::{Access, UntrustedScope, WorkspaceName};

use super::ci::{self, ReadRule};
use super::keys::{ISSUER_SECTION, Key};
use super::problem::{Origin, Problem};
use super::quantity::{duration_text, parse_duration};
use super::raw::{RawConfig, RawTable};
use super::resolve::{Reader, some};
use super::settings::{IdentitySettings, IssuerKeysAt, IssuerSettings, WorkspaceSettings};

/// The longest session: a day, after which even the longest build has asked anew.
const SESSION_TTL_MAX: Duration = Duration::from_hours(24);
const SESSION_TTL_TRUSTED: Duration = Duration::from_hours(2);
const SESSION_TTL_UNTRUSTED: Duration = Duration::from_hours(6);
/// The longest name of an issuer's table: it is a word in logs and metrics.
const ISSUER_NAME_BYTES_MAX: usize = 64;

/// What tokens are made for that log jobs in elsewhere.
const SHARED_AUDIENCES: [&str; 3] = [
    "sts.amazonaws.com",
    "api://AzureADTokenExchange",
    "sigstore",
];

/// An issuer's own table, before anybody knows which audience its tokens have.
struct IssuerTable {
    url: String,
    keys: IssuerKeysAt,
    ca_file: Option<PathBuf>,
    allow_link_local: bool,
    algorithms: Vec<Algorithm>,
    token_lifetime_max: Duration,
}

/// Reads everything about identity. The tables of workspaces have been read before.
pub(super) fn identity(
    reader: &mut Reader,
    raw: &RawConfig,
    workspaces: &BTreeMap<WorkspaceName, WorkspaceSettings>,
) -> IdentitySettings {
    let top = |key| raw.get(key);
    let audience = reader.parsed(Key::IdentityAudience, top, some(parse_audience), None);
    let session_ttl_trusted = reader.parsed(
        Key::IdentitySessionTtlTrusted,
        top,
        parse_session_ttl,
        SESSION_TTL_TRUSTED,
    );
    let session_ttl_untrusted = reader.parsed(
        Key::IdentitySessionTtlUntrusted,
        top,
        parse_session_ttl,
        SESSION_TTL_UNTRUSTED,
    );
    let tables: BTreeMap<&str, IssuerTable> = raw
        .issuers()
        .filter_map(|(name, table)| Some((name, issuer(reader, name, table)?)))
        .collect();
    let urls = tables
        .iter()
        .map(|(name, table)| (*name, table.url.as_str()));
    let urls: BTreeMap<&str, &str> = urls.collect();
    let mut rules = Vec::new();
    let mut certificates = Vec::new();
    for (name, table) in raw.workspaces() {
        // A name that is none has been reported.
        let Some((workspace, _)) = workspaces.iter().find(|(known, _)| known.as_str() == name)
        else {
            continue;
        };
        for (rule, table) in &table.ci {
            rules.extend(ci::rule(reader, workspace, rule, table, &urls));
        }
        for (rule, table) in &table.certificates {
            certificates.extend(certificate(reader, workspace, rule, table));
        }
    }
    ci::compare(reader, &rules);
    tell_same_names(reader, raw, &certificates);
    if !certificates.is_empty() && raw.get(Key::TlsClientCa).is_none() {
        let certificate: &CertificateRule = &certificates[0];
        reader.problems.push(Problem {
            origin: Origin::Whole,
            key: Some(Key::TlsClientCa.path()),
            message: format!(
                "needed for [workspace.{}.certificate.{}]: without it no client is asked for a certificate",
                certificate.workspace, certificate.name
            ),
        });
    }
    let issuers = issuers(reader, &tables, &rules, audience.as_deref());
    IdentitySettings {
        session_ttl_trusted,
        session_ttl_untrusted,
        issuers,
        rules: rules.into_iter().map(|read| read.rule).collect(),
        certificates,
    }
}

fn issuer(reader: &mut Reader, name: &str, table: &RawTable) -> Option<IssuerTable> {
    let own = |key| table.values.get(&key);
    if name.is_empty() || name.len() > ISSUER_NAME_BYTES_MAX || name.contains(char::is_control) {
        reader.problems.push(Problem {
            origin: table.origin.clone(),
            key: Some(table.path.clone()),
            message: format!("an issuer's name has 1 to {ISSUER_NAME_BYTES_MAX} characters"),
        });
    }
    reader.within(&table.path, |reader| {
        let url = reader.parsed(Key::IssuerUrl, own, some(parse_issuer_url), None);
        if own(Key::IssuerUrl).is_none() {
            missing(reader, table, Key::IssuerUrl, "");
        }
        let file = reader.file(Key::IssuerJwksFile, own);
        let address = reader.parsed(Key::IssuerJwksUrl, own, some(parse_https), None);
        let keys = match (file, address) {
            (Some(_), Some(_)) => {
                let message = "jwks_file and jwks_url exclude each other";
                fault(reader, table, Key::IssuerJwksFile, message);
                IssuerKeysAt::Discovery
            }
            (Some(file), None) => IssuerKeysAt::File(file),
            (None, Some(address)) => IssuerKeysAt::Url(address),
            (None, None) => IssuerKeysAt::Discovery,
        };
        let mut algorithms = reader.list(Key::IssuerAlgorithms, own, parse_algorithm);
        if algorithms.is_empty() {
            if own(Key::IssuerAlgorithms).is_some() {
                fault(
                    reader,
                    table,
                    Key::IssuerAlgorithms,
                    "an empty list accepts nothing",
                );
            }
            algorithms = vec![Algorithm::Rs256];
        }
        let longest = Duration::from_secs(JWT_LIFETIME_S_MAX);
        Some(IssuerTable {
            url: url?,
            keys,
            ca_file: reader.file(Key::IssuerCaFile, own),
            allow_link_local: reader.boolean(Key::IssuerAllowLinkLocal, own),
            algorithms,
            token_lifetime_max: reader.parsed(
                Key::IssuerMaxTokenLifetime,
                own,
                parse_session_ttl,
                longest,
            ),
        })
    })
}

/// The issuers that a rule needs. All rules of one agree on the audience: a token that was made for one of them would
/// otherwise be as good for the other.
fn issuers(
    reader: &mut Reader,
    tables: &BTreeMap<&str, IssuerTable>,
    rules: &[ReadRule],
    audience: Option<&str>,
) -> Vec<IssuerSettings> {
    let mut names_of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, table) in tables {
        names_of.entry(&table.url).or_default().push(name);
    }
    for names in names_of.values().filter(|names| names.len() > 1) {
        reader.problems.push(Problem {
            origin: Origin::Whole,
            key: Some(format!("{ISSUER_SECTION}.{}", names[1])),
            message: format!("issuer.{} has the same url", names[0]),
        });
    }
    let mut issuers: Vec<IssuerSettings> = Vec::new();
    for read in rules {
        let url = &read.rule.issuer;
        let wanted = read.audience.as_deref().or(audience);
        let Some(wanted) = wanted else {
            reader.problems.push(Problem {
                origin: read.origin.clone(),
                key: Some(Key::IdentityAudience.path()),
                message: format!(
                    "needed for [{}]: this server's address as clients write it, which their tokens must be made for",
                    read.path
                ),
            });
            continue;
        };
        if let Some(known) = issuers.iter().find(|issuer| issuer.url == *url) {
            if known.audience != wanted {
                reader.problems.push(Problem {
                    origin: read.origin.clone(),
                    key: Some(format!("{}.audience", read.path)),
                    message: format!(
                        "another rule of {url} has the audience \"{}\"; all rules of an issuer need the same",
                        known.audience
                    ),
                });
            }
            continue;
        }
        let table = tables.values().find(|table| table.url == *url);
        issuers.push(IssuerSettings {
            url: url.clone(),
            audience: wanted.to_owned(),
            keys: table.map_or(IssuerKeysAt::Discovery, |table| table.keys.clone()),
            ca_file: table.and_then(|table| table.ca_file.clone()),
            allow_link_local: table.is_some_and(|table| table.allow_link_local),
            algorithms: table
                .map_or_else(|| vec![Algorithm::Rs256], |table| table.algorithms.clone()),
            token_lifetime_max: table.map_or(Duration::from_secs(JWT_LIFETIME_S_MAX), |table| {
                table.token_lifetime_max
            }),
        });
    }
    issuers
}

fn certificate(
    reader: &mut Reader,
    workspace: &WorkspaceName,
    name: &str,
    table: &RawTable,
) -> Option<CertificateRule> {
    let own = |key| table.values.get(&key);
    reader.within(&table.path, |reader| {
        let san = reader.parsed(Key::CertificateSan, own, some(parse_san), None);
        let scope = reader.parsed(
            Key::CertificateScope,
            own,
            some(parse_certificate_scope),
            None,
        );
        let word = reader.parsed(Key::CertificateAccess, own, some(parse_access), None);
        for key in [Key::CertificateSan, Key::CertificateAccess] {
            if own(key).is_none() {
                missing(reader, table, key, "");
            }
        }
        let access = match (word?, scope) {
            ("isolated", Some(scope)) => Access::Isolated { scope },
            ("gate", Some(scope)) => Access::Gate { scope },
            ("isolated" | "gate", None) => {
                if own(Key::CertificateScope).is_none() {
                    missing(reader, table, Key::CertificateScope, " for this access");
                }
                return None;
            }
            (word, Some(_)) => {
                let message = format!("a client with {word} access has no scope of its own");
                fault(reader, table, Key::CertificateScope, &message);
                return None;
            }
            ("trusted", None) => Access::Trusted,
            ("clean-room", None) => Access::CleanRoom,
            ("reader", None) => Access::Reader,
            (_, None) => Access::Admin,
        };
        Some(CertificateRule {
            name: name.to_owned(),
            workspace: workspace.clone(),
            san: san?,
            access,
        })
    })
}

/// A certificate that two rules are for would be nobody's.
fn tell_same_names(reader: &mut Reader, raw: &RawConfig, rules: &[CertificateRule]) {
    for (index, rule) in rules.iter().enumerate() {
        let Some(earlier) = rules[..index]
            .iter()
            .find(|earlier| earlier.san == rule.san)
        else {
            continue;
        };
        let path = format!("workspace.{}.certificate.{}", rule.workspace, rule.name);
        let tables = raw.workspaces().map(|(_, table)| &table.certificates);
        let origin = tables
            .flatten()
            .find(|(_, table)| table.path == path)
            .map_or(Origin::Whole, |(_, table)| table.origin.clone());
        reader.problems.push(Problem {
            origin,
            key: Some(format!("{path}.{}", Key::CertificateSan.spec().name)),
            message: format!(
                "[workspace.{}.certificate.{}] is for the same name",
                earlier.workspace, earlier.name
            ),
        });
    }
}

/// A scope of a certificate's own. The names that tokens and CI jobs get by themselves are nobody's to write down.
fn parse_certificate_scope(text: &str) -> Result<UntrustedScope, String> {
    let scope = text.parse::<UntrustedScope>();
    let scope = scope.map_err(|error| error.to_string())?;
    let first = text.split('/').next().unwrap_or_default();
    let first = first.to_ascii_lowercase();
    if first == "token" || first == "ci" || first.starts_with("ci.") {
        return Err(format!(
            "scopes that begin with \"{first}\" are given by the server itself"
        ));
    }
    Ok(scope)
}

/// A key that has to be there is not.
pub(super) fn missing(reader: &mut Reader, table: &RawTable, key: Key, why: &str) {
    let problem = Problem {
        origin: table.origin.clone(),
        key: Some(reader.path_of(key)),
        message: format!("is missing{why}"),
    };
    reader.problems.push(problem);
}

/// Something is wrong with a key as it stands beside others.
pub(super) fn fault(reader: &mut Reader, table: &RawTable, key: Key, message: &str) {
    let written = table.values.get(&key);
    let problem = Problem {
        origin: written
            .map_or(&table.origin, |written| &written.origin)
            .clone(),
        key: Some(reader.path_of(key)),
        message: message.to_owned(),
    };
    reader.problems.push(problem);
}

/// An audience is compared as text, so it is kept as it was written.
pub(super) fn parse_audience(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 255 || text.contains(|c: char| c.is_control() || c == ' ') {
        return Err(
            "write this server's address, such as \"https://cache.example.com\"".to_owned(),
        );
    }
    let shared = SHARED_AUDIENCES.contains(&text) || text.starts_with("https://github.com/");
    if shared {
        return Err(format!(
            "tokens for \"{text}\" are made for others too, and whoever gets one could use it here; write this server's address"
        ));
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let host = rest.split('/').next().unwrap_or_default();
        if text.ends_with('/') || format!("{scheme}{host}").contains(char::is_uppercase) {
            return Err(
                "audiences are compared as text: write the address in lower case and without a slash at the end, as clients do"
                    .to_owned(),
            );
        }
    }
    Ok(text.to_owned())
}

fn parse_session_ttl(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration < Duration::from_secs(1) || duration > SESSION_TTL_MAX {
        return Err(format!(
            "write something from 1s to {}",
            duration_text(SESSION_TTL_MAX)
        ));
    }
    Ok(duration)
}

/// An issuer as its tokens write it: a slash more or less is another issuer.
pub(super) fn parse_issuer_url(text: &str) -> Result<String, String> {
    let url = parse_https(text)?;
    if url.contains(['?', '#']) {
        return Err("an issuer has no query and no fragment".to_owned());
    }
    Ok(url)
}

fn parse_https(text: &str) -> Result<String, String> {
    let address = text.parse::<http::Uri>().ok().filter(|uri| {
        uri.scheme_str() == Some("https")
            && uri.host().is_some_and(|host| !host.is_empty())
            && !text.contains('@')
    });
    match address {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!(
            "\"{}\" is not an https address; keys are fetched over https alone",
            text.escape_debug()
        )),
    }
}

fn parse_algorithm(text: &str) -> Result<Algorithm, String> {
    Algorithm::named(text).ok_or_else(|| {
        let names: Vec<&str> = Algorithm::ALL.iter().map(|known| known.name()).collect();
        format!(
            "\"{}\" is none of {}",
            text.escape_debug(),
            names.join(", ")
        )
    })
}

fn parse_access(text: &str) -> Result<&'static str, String> {
    const WORDS: [&str; 6] = [
        "trusted",
        "clean-room",
        "isolated",
        "gate",
        "reader",
        "admin",
    ];
    let word = WORDS.into_iter().find(|word| *word == text);
    word.ok_or_else(|| {
        format!(
            "\"{}\" is none of {}",
            text.escape_debug(),
            WORDS.join(", ")
        )
    })
}

fn parse_san(text: &str) -> Result<San, String> {
    let fault = || {
        "write a name as \"DNS:ci.example.com\", \"URI:spiffe://example.com/ci\", \"email:ci@example.com\" or \
         \"IP:192.0.2.7\""
            .to_owned()
    };
    let (kind, name) = text.split_once(':').ok_or_else(fault)?;
    if name.is_empty() || name.contains(|c: char| c.is_control() || c == ' ') {
        return Err(fault());
    }
    match kind {
        "DNS" => Ok(San::dns(name)),
        "URI" => Ok(San::Uri(name.to_owned())),
        "email" => Ok(San::Email(name.to_owned())),
        "IP" => name.parse().map(San::Ip).map_err(|_| fault()),
        _ => Err(fault()),
    }
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
