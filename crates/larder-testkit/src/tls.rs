//! A certificate authority for tests, the certificates it issues, and a client that believes it.
//!
//! Everything is real and on disk, as an operator has it: PEM files in a temporary folder that goes with the [`Authority`].

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};
use tempfile::TempDir;

pub use crate::identity::Identity;

use crate::http::PATIENCE;

/// The name in every server's certificate, beside `127.0.0.1` and `localhost`.
pub const SERVER_NAME: &str = "cache.test";

/// How long certificates are valid that are not asked to be shorter.
const LIFETIME: Duration = Duration::from_hours(24 * 90);
const DAY: Duration = Duration::from_hours(24);

/// What a client's certificate calls its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// A host.
    Dns(String),
    /// A URI.
    Uri(String),
    /// A mailbox.
    Email(String),
    /// An address.
    Ip(IpAddr),
}

/// An authority of its own.
pub struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    issued: AtomicU64,
}

impl Authority {
    /// A new authority that nobody else knows.
    pub fn create() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("larder-tls-").tempdir()?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "Larder's test authority");
        let certificate = params.self_signed(&key)?;
        fs::write(folder.path().join("ca.pem"), certificate.pem())?;
        Ok(Self {
            folder,
            issuer: Issuer::new(params, key),
            issued: AtomicU64::new(1),
        })
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A place for further files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A server's certificate for [`SERVER_NAME`], `localhost` and `127.0.0.1`.
    pub fn server(&self) -> Result<Identity> {
        self.server_for(LIFETIME)
    }

    /// One that ends after `lifetime`.
    pub fn server_for(&self, lifetime: Duration) -> Result<Identity> {
        let names = [SERVER_NAME, "localhost", "127.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_after = (SystemTime::now() + lifetime).into();
        self.issue("server", params)
    }

    /// A client's certificate with these names.
    pub fn client(&self, common_name: &str, names: &[Name]) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_after = (SystemTime::now() + LIFETIME).into();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        for name in names {
            params.subject_alt_names.push(match name {
                Name::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
                Name::Uri(uri) => SanType::URI(uri.as_str().try_into()?),
                Name::Email(mailbox) => SanType::Rfc822Name(mailbox.as_str().try_into()?),
                Name::Ip(address) => SanType::IpAddress(*address),
            });
        }
        self.issue("client", params)
    }

    /// A list of revoked certificates, in PEM.
    pub fn revocations(&self, revoked: &[&Identity]) -> Result<String> {
        self.revocations_from(SystemTime::now(), revoked)
    }

    /// The same, as a list whose next update is overdue since yesterday.
    pub fn outdated_revocations(&self, revoked: &[&Identity]) -> Result<String> {
        self.revocations_from(SystemTime::now() - LIFETIME - DAY, revoked)
    }

    fn revocations_from(&self, now: SystemTime, revoked: &[&Identity]) -> Result<String> {
        let revoked_certs = revoked.iter().map(|identity| RevokedCertParams {
            serial_number: SerialNumber::from(identity.serial),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: now.into(),
            next_update: (now + LIFETIME).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }

    fn issue(&self, kind: &str, mut params: CertificateParams) -> Result<Identity> {
        let serial = self.issued.fetch_add(1, Ordering::Relaxed);
        params.serial_number = Some(SerialNumber::from(serial));
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let path = |what: &str| {
            self.folder
                .path()
                .join(format!("{kind}-{serial}{what}.pem"))
        };
        let identity = Identity {
            certificate: path(""),
            key: path("-key"),
            serial,
        };
        fs::write(&identity.certificate, certificate.pem())?;
        fs::write(&identity.key, key.serialize_pem())?;
        fs::set_permissions(&identity.key, fs::Permissions::from_mode(0o600))?;
        Ok(identity)
    }
}

/// What a client is, and what it accepts.
#[derive(Debug, Clone)]
pub struct Client {
    config: Arc<ClientConfig>,
}

impl Client {
    /// One that believes `authority`, has this certificate, if any, and speaks HTTP/1.1.
    pub fn new(authority: &Authority, identity: Option<&Identity>) -> Result<Self> {
        Self::with(authority, identity, &[b"http/1.1"], rustls::ALL_VERSIONS)
    }

    /// One that offers these protocols (ALPN) in these versions of TLS.
    pub fn with(
        authority: &Authority,
        identity: Option<&Identity>,
        protocols: &[&[u8]],
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority.certificate())?)?;
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)?
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder.with_client_auth_cert(
                vec![CertificateDer::from_pem_file(&identity.certificate)?],
                PrivateKeyDer::from_pem_file(&identity.key)?,
            )?,
        };
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Self {
            config: Arc::new(config),
        })
    }

    /// The configuration, for a client of another kind.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Connects and shakes hands.
    pub fn connect(&self, address: SocketAddr) -> Result<TlsStream> {
        let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.set_nodelay(true)?;
        let name = ServerName::try_from(SERVER_NAME)?;
        let connection = ClientConnection::new(self.config(), name)?;
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            stream
                .conn
                .complete_io(&mut stream.sock)
                .context("the handshake")?;
        }
        Ok(TlsStream(Box::new(stream)))
    }
}

/// A connection in TLS.
#[derive(Debug)]
pub struct TlsStream(Box<StreamOwned<ClientConnection, TcpStream>>);

impl TlsStream {
    /// The state of TLS on it.
    pub fn tls(&self) -> &ClientConnection {
        &self.0.conn
    }

    /// The connection below.
    pub fn socket(&self) -> &TcpStream {
        &self.0.sock
    }

    /// The certificate that the server showed.
    pub fn server_certificate(&self) -> Option<Vec<u8>> {
        let chain = self.0.conn.peer_certificates()?;
        chain.first().map(|certificate| certificate.to_vec())
    }
}

impl Read for TlsStream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for TlsStream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// The first certificate of a PEM file, as it is sent.
pub fn der(certificate: &Path) -> Result<Vec<u8>> {
    Ok(CertificateDer::from_pem_file(certificate)?.to_vec())
}
