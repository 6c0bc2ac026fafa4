//! From what the configuration says of issuers and rules to what the gateway takes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use larder_auth::ci::Rules;
use larder_auth::{CertificateRule, DOCUMENT_BYTES_MAX, Issuer, Issuers, KeySource};
use larder_client::{Client, ClientOptions};
use larder_protocols::identity::SessionTtl;

use super::follower::FETCH_LIMIT;
use crate::config::{IdentitySettings, IssuerKeysAt, IssuerSettings};

/// The most bytes of a file of certificate authorities: the system's own are about 200 KiB.
const CA_FILE_BYTES_MAX: u64 = 4 << 20;

/// Whom the server believes, and what it gives them.
pub(crate) struct Trust {
    pub(crate) issuers: Vec<Issuer>,
    pub(crate) rules: Rules,
    pub(crate) certificates: Vec<CertificateRule>,
    pub(crate) session_ttl: SessionTtl,
    /// What fetches each issuer's keys, by its URL.
    pub(crate) clients: Vec<(String, Client)>,
}

/// The issuers that are believed already: what stays in force of one whose files cannot be read any more.
#[derive(Clone, Default)]
pub(crate) struct Standing {
    pub(crate) issuers: Vec<Issuer>,
    pub(crate) clients: BTreeMap<String, Client>,
}

/// Reads the files that the settings name. An error says which of them is wrong.
pub(crate) fn trust(settings: &IdentitySettings) -> anyhow::Result<Trust> {
    let (trust, mut faults) = trust_beside(settings, &Standing::default())?;
    match faults.pop() {
        None => Ok(trust),
        Some(fault) => Err(fault),
    }
}

/// The same for a server that runs: an issuer whose files cannot be read stays what it was, if it was, and the rules are those of
/// the settings all the same. A rule that was taken away must not live on because of a file that has nothing to do with it.
pub(crate) fn trust_beside(
    settings: &IdentitySettings,
    standing: &Standing,
) -> anyhow::Result<(Trust, Vec<anyhow::Error>)> {
    let (mut issuers, mut clients, mut faults) = (Vec::new(), Vec::new(), Vec::new());
    for issuer in &settings.issuers {
        match read_issuer(issuer) {
            Ok((issuer, client)) => {
                clients.extend(client.map(|client| (issuer.url.clone(), client)));
                issuers.push(issuer);
            }
            Err(fault) => {
                faults.push(fault);
                let known = standing
                    .issuers
                    .iter()
                    .find(|known| known.url == issuer.url);
                issuers.extend(known.cloned());
                let client = standing.clients.get(&issuer.url);
                clients.extend(client.map(|client| (issuer.url.clone(), client.clone())));
            }
        }
    }
    let trust = Trust {
        issuers,
        rules: Rules::new(settings.rules.clone())?,
        certificates: settings.certificates.clone(),
        session_ttl: SessionTtl {
            trusted: settings.session_ttl_trusted,
            untrusted: settings.session_ttl_untrusted,
        },
        clients,
    };
    Ok((trust, faults))
}

/// An issuer, and what fetches its keys if they do not come from a file.
fn read_issuer(settings: &IssuerSettings) -> anyhow::Result<(Issuer, Option<Client>)> {
    let issuer = Issuer {
        algorithms: settings.algorithms.clone(),
        keys: keys(settings)?,
        lifetime_s_max: settings.token_lifetime_max.as_secs(),
        ..Issuer::new(&settings.url, &settings.audience)
    };
    // Keys from files are looked into, so that a mistake in them is told at once.
    Issuers::new(vec![issuer.clone()])?;
    let fetched = !matches!(settings.keys, IssuerKeysAt::File(_));
    let client = fetched.then(|| client(settings)).transpose()?;
    Ok((issuer, client))
}

fn keys(issuer: &IssuerSettings) -> anyhow::Result<KeySource> {
    Ok(match &issuer.keys {
        IssuerKeysAt::Discovery => KeySource::Discovery,
        IssuerKeysAt::Url(url) => KeySource::Url(url.clone()),
        IssuerKeysAt::File(file) => KeySource::Fixed(read(file, DOCUMENT_BYTES_MAX as u64)?),
    })
}

fn client(issuer: &IssuerSettings) -> anyhow::Result<Client> {
    let mut options = ClientOptions {
        timeout: FETCH_LIMIT,
        answer_bytes_max: DOCUMENT_BYTES_MAX,
        link_local: issuer.allow_link_local,
        ..ClientOptions::default()
    };
    if let Some(file) = &issuer.ca_file {
        options.extra_roots_pem.push(read(file, CA_FILE_BYTES_MAX)?);
    }
    Client::new(options).with_context(|| format!("cannot fetch the keys of {}", issuer.url))
}

fn read(file: &Path, bytes_max: u64) -> anyhow::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let opened = fs::File::open(file);
    opened
        .and_then(|opened| opened.take(bytes_max + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", file.display()))?;
    anyhow::ensure!(
        bytes.len() as u64 <= bytes_max,
        "{} is larger than {bytes_max} bytes",
        file.display()
    );
    Ok(bytes)
}
