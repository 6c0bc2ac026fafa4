//! From PEM files to a server's configuration.
//!
//! Every error names the file and says what to do about it; none holds anything of a key.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail, ensure};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::names;
use crate::config::{ClientCertificates, TlsFiles};

/// The bytes of a file. Lists of revoked certificates can be long; this is some four hundred thousand of them.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What may be spoken, best first.
const ALPN_PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The configuration that `files` make, and the Unix time at which the certificate ends.
pub(super) fn server_config(files: &TlsFiles) -> anyhow::Result<(ServerConfig, i64)> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain = certificates(&files.certificate, "tls.certificate")?;
    let own = chain.first().context("a chain is never empty")?;
    let expires_at_secs = names::expires_at_secs(own).with_context(|| {
        let path = files.certificate.display();
        format!("the first certificate in tls.certificate {path} cannot be read")
    })?;
    let key = private_key(&files.key)?;
    let verifier = verifier(&files.clients, &provider)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("aws-lc-rs supports the default versions of TLS")
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|error| unusable(files, &error))?;
    config.alpn_protocols = ALPN_PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    if matches!(files.clients, ClientCertificates::Off) {
        config.ticketer = aws_lc_rs::Ticketer::new().context("cannot make keys for tickets")?;
    } else {
        // See the invariants of the module above.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok((config, expires_at_secs))
}

fn unusable(files: &TlsFiles, error: &rustls::Error) -> anyhow::Error {
    let (certificate, key) = (files.certificate.display(), files.key.display());
    match error {
        rustls::Error::InconsistentKeys(_) => anyhow!(
            "tls.key {key} is not the key of the first certificate in tls.certificate {certificate}; give the \
             two that were made together, and the server's own certificate first in its chain"
        ),
        other => {
            anyhow!("tls.certificate {certificate} and tls.key {key} cannot be used: {other}")
        }
    }
}

fn verifier(
    clients: &ClientCertificates,
    provider: &Arc<CryptoProvider>,
) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
    let ClientCertificates::Asked { ca, crl, required } = clients else {
        return Ok(WebPkiClientVerifier::no_client_auth());
    };
    let mut roots = RootCertStore::empty();
    for authority in certificates(ca, "tls.client_ca")? {
        let path = ca.display();
        roots
            .add(authority)
            .with_context(|| format!("tls.client_ca {path} holds no usable authority"))?;
    }
    let provider = Arc::clone(provider);
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if let Some(crl) = crl {
        let key = "tls.client_crl";
        let lists: Vec<CertificateRevocationListDer<'static>> = objects(crl, key)?;
        let path = crl.display();
        ensure!(
            !lists.is_empty(),
            "{key} {path} holds no list; it needs one in PEM (BEGIN X509 CRL) of each authority that issues"
        );
        builder = builder.with_crls(lists);
    }
    if !required {
        builder = builder.allow_unauthenticated();
    }
    let paths = || {
        let crl = crl
            .iter()
            .map(|crl| format!(" with tls.client_crl {}", crl.display()));
        format!(
            "tls.client_ca {}{} cannot be used",
            ca.display(),
            crl.collect::<String>()
        )
    };
    builder.build().with_context(paths)
}

fn certificates(path: &Path, key: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found = objects(path, key)?;
    let path = path.display();
    ensure!(
        !found.is_empty(),
        "{key} {path} holds no certificate; it needs PEM (BEGIN CERTIFICATE)"
    );
    Ok(found)
}

fn private_key(path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    const OTHERS: u32 = 0o007;
    const ENCRYPTED: &[u8] = b"ENCRYPTED";
    let key = "tls.key";
    let text = read(path, key)?;
    let mode = path.metadata().map(|found| found.permissions().mode());
    let path = path.display();
    if mode.is_ok_and(|mode| mode & OTHERS != 0) {
        tracing::warn!("every user of this machine can read {key} {path}; chmod 0600 closes it");
    }
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(found) => Ok(found),
        Err(pem::Error::NoItemsFound) if text.windows(ENCRYPTED.len()).any(|w| w == ENCRYPTED) => {
            bail!(
                "{key} {path} has a passphrase; write it without: openssl pkey -in {path} -out PLAIN.pem"
            )
        }
        Err(pem::Error::NoItemsFound) => {
            bail!("{key} {path} holds no private key; it needs PEM (BEGIN PRIVATE KEY)")
        }
        // Its text could quote the file.
        Err(_) => bail!("{key} {path} is not valid PEM"),
    }
}

/// Everything of one kind in a PEM file; what else is in it is passed over.
fn objects<T: PemObject>(path: &Path, key: &str) -> anyhow::Result<Vec<T>> {
    let text = read(path, key)?;
    T::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|_| anyhow!("{key} {} is not valid PEM", path.display()))
}

fn read(path: &Path, key: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {key} {}", path.display()))?;
    ensure!(
        bytes.len() as u64 <= FILE_BYTES_MAX,
        "{key} {} is larger than any certificate",
        path.display()
    );
    Ok(bytes)
}
