//! A real OpenID Connect issuer over https: discovery, keys, and tokens with whatever claims a test wants.
//!
//! It runs in threads of the test's process, on a free port of this machine, with a certificate of its own that a server trusts by
//! [`Issuer::ca_file`]. Its keys are real and can be rotated; a [`Mood`] makes it fail in the ways that issuers fail.
//!
//! It also plays GitHub's part of `ACTIONS_ID_TOKEN_REQUEST_URL`: a job with the right request token gets an identity token for the
//! audience it asks for.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long a connection may stand still.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a [`Mood::Slow`] issuer lets others wait: longer than anyone should.
const SLOW: Duration = Duration::from_secs(20);
/// More than anyone should read of a document.
const OVERSIZED_BYTES: usize = 2 << 20;

/// How the issuer answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// As it should.
    Well,
    /// 503.
    Down,
    /// Takes the connection and says nothing for long.
    Slow,
    /// Sends everybody to the same path with `/moved` before it, where the true answer is.
    Redirecting,
    /// A document without end.
    Oversized,
    /// 200, and no JSON.
    Garbled,
}

/// The signature algorithm of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256 and 2048 bits.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
}

/// An issuer. It ends when dropped.
pub struct Issuer {
    shared: Arc<Shared>,
    address: SocketAddr,
    files: TempDir,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    url: String,
    mood: Mutex<Mood>,
    keys: Mutex<Vec<SigningKey>>,
    /// Bearer of the request URL, and the claims of the tokens it gives.
    job: Mutex<Option<(String, Value)>>,
    keys_made: AtomicU64,
    keys_fetched: AtomicU64,
    stopping: AtomicBool,
}

struct SigningKey {
    id: String,
    published: bool,
    secret: Secret,
}

enum Secret {
    Rsa(rsa::KeyPair),
    Ecdsa(EcdsaKeyPair),
}

impl Issuer {
    /// An issuer with one RS256 key.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let files = tempfile::tempdir()?;
        let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        std::fs::write(files.path().join("ca.pem"), certified.cert.pem())?;
        let tls = tls(
            certified.cert.der().clone(),
            certified.signing_key.serialize_der(),
        )?;
        let shared = Arc::new(Shared {
            url: format!("https://{address}"),
            mood: Mutex::new(Mood::Well),
            keys: Mutex::new(Vec::new()),
            job: Mutex::new(None),
            keys_made: AtomicU64::new(0),
            keys_fetched: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        });
        shared.add_key(Algorithm::Rs256)?;
        let accepting = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &tls, &shared)
        });
        Ok(Self {
            shared,
            address,
            files,
            accepting: Some(accepting),
        })
    }

    /// Its URL and the `iss` of its tokens.
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// PEM of the certificate that a client has to trust.
    pub fn ca_file(&self) -> PathBuf {
        self.files.path().join("ca.pem")
    }

    /// The published keys, as the document of `jwks_uri`.
    pub fn jwks(&self) -> String {
        self.shared.jwks()
    }

    /// Writes [`jwks`](Self::jwks) to a file, for a server without a way to the issuer.
    pub fn jwks_file(&self) -> Result<PathBuf> {
        let file = self.files.path().join("jwks.json");
        std::fs::write(&file, self.jwks())?;
        Ok(file)
    }

    /// From now on it answers like this.
    pub fn set_mood(&self, mood: Mood) {
        *lock(&self.shared.mood) = mood;
    }

    /// How many times its keys were asked for, whatever the answer was.
    pub fn keys_fetched(&self) -> u64 {
        self.shared.keys_fetched.load(Ordering::SeqCst)
    }

    /// Signs with a new key from now on. The old keys stay published.
    pub fn add_key(&self, algorithm: Algorithm) -> Result<()> {
        self.shared.add_key(algorithm)
    }

    /// Signs with a new key from now on, and publishes no other.
    pub fn rotate(&self) -> Result<()> {
        for key in lock(&self.shared.keys).iter_mut() {
            key.published = false;
        }
        self.shared.add_key(Algorithm::Rs256)
    }

    /// A token with these claims. `iss`, `iat`, `nbf`, `exp` (five minutes), `jti` and `sub` are added unless they are there.
    pub fn token(&self, claims: &Value) -> Result<String> {
        self.shared.token(claims)
    }

    /// Gives tokens with `claims` to whoever asks at [`request_url`](Self::request_url) with this bearer.
    pub fn set_job(&self, bearer: &str, claims: Value) {
        *lock(&self.shared.job) = Some((bearer.to_owned(), claims));
    }

    /// What GitHub puts into `ACTIONS_ID_TOKEN_REQUEST_URL`.
    pub fn request_url(&self) -> String {
        format!("{}/request?api-version=2.0", self.url())
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

impl Shared {
    fn add_key(&self, algorithm: Algorithm) -> Result<()> {
        let secret = match algorithm {
            Algorithm::Rs256 => Secret::Rsa(
                rsa::KeyPair::generate(rsa::KeySize::Rsa2048)
                    .map_err(|_| anyhow!("no RSA key was made"))?,
            ),
            Algorithm::Es256 => Secret::Ecdsa(
                EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
                    .map_err(|_| anyhow!("no ECDSA key was made"))?,
            ),
        };
        let number = self.keys_made.fetch_add(1, Ordering::SeqCst) + 1;
        lock(&self.keys).push(SigningKey {
            id: format!("key-{number}"),
            published: true,
            secret,
        });
        Ok(())
    }

    fn jwks(&self) -> String {
        let keys = lock(&self.keys);
        let published: Vec<Value> = keys
            .iter()
            .filter(|key| key.published)
            .map(SigningKey::public)
            .collect();
        json!({ "keys": published }).to_string()
    }

    fn token(&self, claims: &Value) -> Result<String> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let serial = SERIAL.fetch_add(1, Ordering::SeqCst);
        let mut whole = json!({
            "iss": self.url, "iat": now, "nbf": now, "exp": now + 300,
            "jti": format!("{}-{serial}", std::process::id()), "sub": "a job",
        });
        let own = claims.as_object().context("claims are an object")?;
        let all = whole.as_object_mut().context("this is an object")?;
        all.extend(own.clone());
        // A claim that is null is left out.
        all.retain(|_, value| !value.is_null());
        let keys = lock(&self.keys);
        keys.last().context("an issuer has a key")?.sign(&whole)
    }

    /// The status, the type and the body of the answer to a request.
    fn answer(&self, target: &str, bearer: Option<&str>) -> (u16, String) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        match path.strip_prefix("/moved").unwrap_or(path) {
            "/.well-known/openid-configuration" => {
                let keys = format!("{}/.well-known/jwks", self.url);
                (
                    200,
                    json!({ "issuer": self.url, "jwks_uri": keys }).to_string(),
                )
            }
            "/.well-known/jwks" => (200, self.jwks()),
            "/request" => self.answer_job(query, bearer),
            _ => (404, "{}".to_owned()),
        }
    }

    fn answer_job(&self, query: &str, bearer: Option<&str>) -> (u16, String) {
        let Some((expected, mut claims)) = lock(&self.job).clone() else {
            return (404, "{}".to_owned());
        };
        if bearer != Some(expected.as_str()) {
            return (401, "{}".to_owned());
        }
        let audience = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("audience="));
        if let Some(audience) = audience {
            claims["aud"] = json!(percent_decoded(audience));
        }
        match self.token(&claims) {
            Ok(token) => (200, json!({ "count": 1, "value": token }).to_string()),
            Err(error) => (500, json!({ "message": error.to_string() }).to_string()),
        }
    }
}

impl SigningKey {
    fn algorithm(&self) -> &'static str {
        match self.secret {
            Secret::Rsa(_) => "RS256",
            Secret::Ecdsa(_) => "ES256",
        }
    }

    fn public(&self) -> Value {
        let (id, algorithm) = (&self.id, self.algorithm());
        match &self.secret {
            Secret::Rsa(pair) => {
                // RFC 8017 A.1.1: a sequence of modulus and exponent. Of 2048 bits, each part has its fixed place.
                let der = pair.public_key().as_ref();
                let (modulus, exponent) = (&der[9..265], &der[267..270]);
                json!({
                    "kty": "RSA", "use": "sig", "alg": algorithm, "kid": id,
                    "n": URL_SAFE_NO_PAD.encode(modulus), "e": URL_SAFE_NO_PAD.encode(exponent),
                })
            }
            Secret::Ecdsa(pair) => {
                // SEC 1, 2.3.3: 4, then x and y.
                let point = pair.public_key().as_ref();
                json!({
                    "kty": "EC", "use": "sig", "alg": algorithm, "kid": id, "crv": "P-256",
                    "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..65]),
                })
            }
        }
    }

    fn sign(&self, claims: &Value) -> Result<String> {
        let header = json!({ "alg": self.algorithm(), "kid": self.id, "typ": "JWT" });
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let random = SystemRandom::new();
        let signature = match &self.secret {
            Secret::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(
                    &RSA_PKCS1_SHA256,
                    &random,
                    signed.as_bytes(),
                    &mut signature,
                )
                .map_err(|_| anyhow!("not signed"))?;
                signature
            }
            Secret::Ecdsa(pair) => {
                let signature = pair.sign(&random, signed.as_bytes());
                signature
                    .map_err(|_| anyhow!("not signed"))?
                    .as_ref()
                    .to_vec()
            }
        };
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn tls(certificate: CertificateDer<'static>, key: Vec<u8>) -> Result<Arc<ServerConfig>> {
    let cryptography = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
    let mut config = ServerConfig::builder_with_provider(cryptography)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn accept(listener: &TcpListener, tls: &Arc<ServerConfig>, shared: &Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let (tls, shared) = (Arc::clone(tls), Arc::clone(shared));
        // A client that goes away is no matter of the issuer's.
        std::thread::spawn(move || drop(converse(stream, tls, &shared)));
    }
}

/// Answers one request and closes the connection.
fn converse(stream: TcpStream, tls: Arc<ServerConfig>, shared: &Shared) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut stream = BufReader::new(StreamOwned::new(ServerConnection::new(tls)?, stream));
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut limited = stream.by_ref().take(64 << 10);
        if limited.read_until(b'\n', &mut head)? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8(head)?;
    let target = head.split(' ').nth(1).context("no target")?;
    let bearer = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let value = name
            .eq_ignore_ascii_case("authorization")
            .then(|| value.trim())?;
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token)
    });
    if target.ends_with("/jwks") {
        shared.keys_fetched.fetch_add(1, Ordering::SeqCst);
    }
    let mood = *lock(&shared.mood);
    let (status, body) = match mood {
        Mood::Down => (503, "{}".to_owned()),
        Mood::Garbled => (200, "<html>maintenance</html>".to_owned()),
        Mood::Oversized => (200, format!("{{\"keys\": [{}", " ".repeat(OVERSIZED_BYTES))),
        Mood::Redirecting if !target.starts_with("/moved") => (302, String::new()),
        Mood::Slow => {
            std::thread::sleep(SLOW);
            (200, "{}".to_owned())
        }
        Mood::Well | Mood::Redirecting => shared.answer(target, bearer),
    };
    let location = format!("{}/moved{target}", shared.url);
    let out = stream.get_mut();
    write!(
        out,
        "HTTP/1.1 {status} Answer\r\nContent-Type: application/json\r\nContent-Length: {}\r\nLocation: {location}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    )?;
    out.conn.send_close_notify();
    Ok(out.flush()?)
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match hex.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
