//! The keys of an issuer: read from a key set, kept for a while, fetched again in time.
//!
//! Nothing here fetches. [`IssuerKeys::due`] says what should be fetched, [`IssuerKeys::fetched`] is told what came of it, and
//! the time is an argument of both.
//!
//! Always true:
//! - Addresses come from the configuration, or from a discovery document whose `issuer` is ours, and then with its origin.
//! - A fetch is told once and not again while it is under way; whatever JWTs ask for, two fetches for unknown keys are
//!   [`REFETCH_MS_MIN`] apart.
//! - Keys that cannot be renewed serve [`STALE_MS_MAX`] longer than they are fresh, then no more.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use parking_lot::Mutex;
use serde_json::{Map, Value};

use crate::claims::Claims;
use crate::jwt::{Algorithm, Issuer, IssuersError, JwtProblem, KeySource, LEEWAY_S};

/// The most bytes of a document that an issuer publishes: 64 keys with their certificates.
pub const DOCUMENT_BYTES_MAX: usize = 512 << 10;
/// The most keys of an issuer. Issuers that rotate have two to six.
const KEYS_MAX: usize = 64;
/// How long keys are fresh when their issuer does not say.
const FRESH_MS: u64 = 60 * 60 * 1000;
/// The shortest and the longest time that keys are fresh, whatever their issuer says.
const FRESH_MS_MIN: u64 = 5 * 60 * 1000;
const FRESH_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// How long keys serve after they were fresh when they cannot be fetched.
const STALE_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// The shortest time between two fetches that JWTs with unknown keys cause.
const REFETCH_MS_MIN: u64 = 30 * 1000;
/// How long after a JWT was issued its key may still be missing in what its issuer publishes: behind a cache, or by a clock that
/// differs from this one.
const PUBLISHED_MS_MAX: u64 = LEEWAY_S * 1000 + 60 * 1000;
/// How long to wait after a fetch that failed; twice as long after each further one.
const RETRY_MS_MIN: u64 = 5 * 1000;
const RETRY_MS_MAX: u64 = 5 * 60 * 1000;
/// A fetch that nobody reported on after this time counts as failed.
const FETCH_MS_MAX: u64 = 60 * 1000;
/// A weaker key could be broken; a larger one makes each signature expensive, and the library refuses it.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// Where discovery documents are (OpenID Connect Discovery 1.0, section 4).
const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";

/// Something to fetch: with GET, over https, without following redirects, at most [`DOCUMENT_BYTES_MAX`] bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// Whose it is.
    pub issuer: String,
    /// Where it is.
    pub url: String,
    /// What it is.
    pub what: Document,
}

/// The documents that issuers publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// Where the key set is.
    Discovery,
    /// The key set.
    Keys,
}

/// What came of a fetch with the status 200.
#[derive(Debug, Clone)]
pub struct FetchedDocument {
    /// The body.
    pub body: Vec<u8>,
    /// `max-age` of its `Cache-Control`, in seconds; 0 for `no-store` and `no-cache`, `None` if nothing is said.
    pub max_age_s: Option<u64>,
}

/// What is wrong with a document, or that there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysProblem {
    /// The fetch failed.
    #[error("not fetched: {0}")]
    NotFetched(String),
    /// Larger than any honest one.
    #[error("the document is larger than {DOCUMENT_BYTES_MAX} bytes")]
    TooLarge,
    /// No JSON object, or one in which a name occurs twice.
    #[error("the document is not one JSON object in which every name occurs once")]
    Unreadable,
    /// A discovery document of somebody else.
    #[error("the discovery document's \"issuer\" is not the configured one")]
    OtherIssuer,
    /// A key set at another place than the issuer's.
    #[error(
        "the discovery document's \"jwks_uri\" is not an https address of the issuer's own host; if it is right, configure it"
    )]
    OtherOrigin,
    /// Not a key set.
    #[error("the key set has no list \"keys\"")]
    NoList,
    /// More keys than any honest set has.
    #[error("the key set has more than {KEYS_MAX} keys")]
    TooMany,
    /// No key of the set can check a signature.
    #[error(
        "the key set has no key that can be used here: signing keys with an id, RSA of 2048 bits or more, P-256, P-384 or Ed25519"
    )]
    NoneUsable,
}

/// One issuer's keys.
#[derive(Debug)]
pub(crate) struct IssuerKeys {
    source: Source,
    state: Mutex<State>,
}

#[derive(Debug)]
enum Source {
    Fixed(KeySet),
    Url(String),
    /// `origin` is the issuer's.
    Discovery {
        url: String,
        origin: String,
    },
}

#[derive(Debug, Default)]
struct State {
    current: Option<Fetched>,
    /// Where discovery says that the key set is. Asked anew at each refresh.
    discovered: Option<String>,
    under_way: Option<UnderWay>,
    /// When the next fetch is due.
    next_ms: u64,
    failures: u32,
    /// When a fetch was begun last, for whatever reason.
    begun_ms: Option<u64>,
}

#[derive(Debug, Clone)]
struct Fetched {
    keys: KeySet,
    /// When the fetch was begun: what its issuer publishes later is not in it.
    as_of_ms: u64,
    fresh_until_ms: u64,
}

#[derive(Debug, Clone, Copy)]
struct UnderWay {
    what: Document,
    begun_ms: u64,
}

/// Why there is no key to check with.
pub(crate) enum NoCandidate {
    /// The issuer published its keys after the JWT was issued, without this one.
    Unknown,
    /// Keys must be fetched first, which is under way or due.
    KeysWanted,
    /// Keys must be fetched first, which is not due yet.
    KeysMissing,
}

impl NoCandidate {
    pub(crate) fn into_problem(self, issuer: &str) -> JwtProblem {
        match self {
            Self::Unknown => JwtProblem::UnknownKey,
            Self::KeysWanted => JwtProblem::KeysWanted {
                issuer: issuer.to_owned(),
            },
            Self::KeysMissing => JwtProblem::KeysMissing {
                issuer: issuer.to_owned(),
            },
        }
    }
}

impl IssuerKeys {
    pub(crate) fn new(issuer: &Issuer) -> Result<Self, IssuersError> {
        let not_https = |url: &str| IssuersError::NotHttps(url.to_owned());
        let origin = origin(&issuer.url).ok_or_else(|| not_https(&issuer.url))?;
        let source = match &issuer.keys {
            KeySource::Fixed(document) => {
                let keys = KeySet::read(document).map_err(|problem| IssuersError::Keys {
                    issuer: issuer.url.clone(),
                    problem,
                })?;
                Source::Fixed(keys)
            }
            KeySource::Url(url) => {
                self::origin(url).ok_or_else(|| not_https(url))?;
                Source::Url(url.clone())
            }
            KeySource::Discovery => Source::Discovery {
                url: format!("{}{DISCOVERY_PATH}", issuer.url.trim_end_matches('/')),
                origin,
            },
        };
        let state = Mutex::default();
        Ok(Self { source, state })
    }

    /// What is to be fetched now for `issuer`.
    pub(crate) fn due(&self, issuer: &str, now_ms: u64) -> Option<Fetch> {
        let mut state = self.state.lock();
        if let Some(under_way) = state.under_way {
            let since_ms = now_ms.checked_sub(under_way.begun_ms);
            // A clock that was set back says nothing.
            if since_ms.is_some_and(|since_ms| since_ms < FETCH_MS_MAX) {
                return None;
            }
            state.failed(now_ms);
        }
        // Further ahead than that nothing is ever due, unless the clock was set back.
        let wait_ms = state.next_ms.saturating_sub(now_ms);
        if (1..=FRESH_MS_MAX).contains(&wait_ms) {
            return None;
        }
        let (url, what) = match &self.source {
            Source::Fixed(_) => return None,
            Source::Url(url) => (url.clone(), Document::Keys),
            Source::Discovery { url, .. } => match &state.discovered {
                Some(keys) => (keys.clone(), Document::Keys),
                None => (url.clone(), Document::Discovery),
            },
        };
        let begun_ms = now_ms;
        state.under_way = Some(UnderWay { what, begun_ms });
        state.begun_ms = Some(begun_ms);
        Some(Fetch {
            issuer: issuer.to_owned(),
            url,
            what,
        })
    }

    /// Takes what was fetched. What cannot be used leaves everything as it was, and is fetched again a little later.
    pub(crate) fn fetched(
        &self,
        fetch: &Fetch,
        document: Result<FetchedDocument, String>,
        now_ms: u64,
    ) -> Result<(), KeysProblem> {
        let mut state = self.state.lock();
        // An answer that comes after it was given up, or to another question, is nobody's.
        let under_way = state.under_way.filter(|it| it.what == fetch.what);
        let Some(under_way) = under_way else {
            return Ok(());
        };
        let taken = document
            .map_err(KeysProblem::NotFetched)
            .and_then(|document| match fetch.what {
                Document::Discovery => {
                    let keys_url = self.read_discovery(&fetch.issuer, &document)?;
                    state.discovered = Some(keys_url);
                    state.under_way = None;
                    state.next_ms = now_ms;
                    Ok(())
                }
                Document::Keys => {
                    let keys = KeySet::read_limited(&document.body)?;
                    state.take(keys, under_way.begun_ms, document.max_age_s);
                    Ok(())
                }
            });
        if taken.is_err() {
            state.failed(now_ms);
        }
        taken
    }

    /// Where the key set is, according to the issuer's discovery document.
    fn read_discovery(
        &self,
        issuer: &str,
        document: &FetchedDocument,
    ) -> Result<String, KeysProblem> {
        let Source::Discovery { origin, .. } = &self.source else {
            return Err(KeysProblem::OtherIssuer);
        };
        if document.body.len() > DOCUMENT_BYTES_MAX {
            return Err(KeysProblem::TooLarge);
        }
        let read = Claims::parse(&document.body).map_err(|_| KeysProblem::Unreadable)?;
        if read.text("issuer") != Some(issuer) {
            return Err(KeysProblem::OtherIssuer);
        }
        let keys_url = read.text("jwks_uri").ok_or(KeysProblem::OtherOrigin)?;
        if self::origin(keys_url).as_ref() != Some(origin) {
            return Err(KeysProblem::OtherOrigin);
        }
        Ok(keys_url.to_owned())
    }

    /// The keys in force, if there are any.
    pub(crate) fn current(&self, now_ms: u64) -> Option<KeySet> {
        match &self.source {
            Source::Fixed(keys) => Some(keys.clone()),
            Source::Url(_) | Source::Discovery { .. } => {
                let state = self.state.lock();
                let current = state.current.as_ref();
                current
                    .filter(|it| it.serves(now_ms))
                    .map(|it| it.keys.clone())
            }
        }
    }

    /// The keys with this id. A JWT that was issued at `issued_ms` and names a key that is not there is refused if the keys are
    /// newer than it; else they are to be fetched again, and that is soon due.
    pub(crate) fn candidates(
        &self,
        key_id: &str,
        issued_ms: u64,
        now_ms: u64,
    ) -> Result<Vec<Arc<VerificationKey>>, NoCandidate> {
        if let Source::Fixed(keys) = &self.source {
            let found = keys.with_id(key_id);
            return if found.is_empty() {
                Err(NoCandidate::Unknown)
            } else {
                Ok(found)
            };
        }
        let mut state = self.state.lock();
        if let Some(current) = state.current.as_ref().filter(|it| it.serves(now_ms)) {
            let found = current.keys.with_id(key_id);
            if !found.is_empty() {
                return Ok(found);
            }
            if current.as_of_ms >= issued_ms.saturating_add(PUBLISHED_MS_MAX) {
                return Err(NoCandidate::Unknown);
            }
        }
        let allowed_ms = state
            .begun_ms
            .map_or(0, |begun_ms| begun_ms.saturating_add(REFETCH_MS_MIN));
        state.next_ms = state.next_ms.min(allowed_ms.max(now_ms));
        if state.under_way.is_some() || state.next_ms <= now_ms {
            Err(NoCandidate::KeysWanted)
        } else {
            Err(NoCandidate::KeysMissing)
        }
    }
}

impl Fetched {
    fn serves(&self, now_ms: u64) -> bool {
        now_ms < self.fresh_until_ms.saturating_add(STALE_MS_MAX)
    }
}

impl State {
    fn take(&mut self, keys: KeySet, begun_ms: u64, max_age_s: Option<u64>) {
        let said_ms = max_age_s.map_or(FRESH_MS, |seconds| seconds.saturating_mul(1000));
        let fresh_ms = said_ms.clamp(FRESH_MS_MIN, FRESH_MS_MAX);
        self.current = Some(Fetched {
            keys,
            as_of_ms: begun_ms,
            fresh_until_ms: begun_ms.saturating_add(fresh_ms),
        });
        self.under_way = None;
        self.failures = 0;
        // Renewed while they are fresh, so that nobody waits for it.
        self.next_ms = begun_ms.saturating_add(fresh_ms / 5 * 4);
        self.discovered = None;
    }

    fn failed(&mut self, now_ms: u64) {
        self.under_way = None;
        self.discovered = None;
        let wait_ms = RETRY_MS_MIN.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.next_ms = now_ms.saturating_add(wait_ms.min(RETRY_MS_MAX));
    }
}

/// The keys of a set that can check signatures.
#[derive(Debug, Clone)]
pub(crate) struct KeySet(Arc<[Arc<VerificationKey>]>);

impl KeySet {
    fn read_limited(document: &[u8]) -> Result<Self, KeysProblem> {
        if document.len() > DOCUMENT_BYTES_MAX {
            return Err(KeysProblem::TooLarge);
        }
        Self::read(document)
    }

    /// Reads a JSON Web Key Set (RFC 7517). Keys for other things, and kinds that nobody here understands, are passed over.
    fn read(document: &[u8]) -> Result<Self, KeysProblem> {
        let set = Claims::parse(document).map_err(|_| KeysProblem::Unreadable)?;
        let Some(Value::Array(keys)) = set.get("keys") else {
            return Err(KeysProblem::NoList);
        };
        if keys.len() > KEYS_MAX {
            return Err(KeysProblem::TooMany);
        }
        let objects = keys.iter().filter_map(Value::as_object);
        let usable: Vec<_> = objects
            .filter_map(VerificationKey::read)
            .map(Arc::new)
            .collect();
        if usable.is_empty() {
            return Err(KeysProblem::NoneUsable);
        }
        Ok(Self(usable.into()))
    }

    fn with_id(&self, id: &str) -> Vec<Arc<VerificationKey>> {
        let keys = self.0.iter().filter(|key| key.id == id);
        keys.cloned().collect()
    }
}

/// A public key that checks signatures of one algorithm.
pub(crate) struct VerificationKey {
    id: String,
    algorithm: Algorithm,
    decoding: DecodingKey,
}

impl VerificationKey {
    fn read(key: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| key.get(name).and_then(Value::as_str);
        let signs = match key.get("use") {
            None => true,
            Some(purpose) => purpose == "sig",
        };
        let verifies = match key.get("key_ops") {
            None => true,
            Some(operations) => operations
                .as_array()
                .is_some_and(|list| list.iter().any(|it| it == "verify")),
        };
        if !signs || !verifies {
            return None;
        }
        let id = text("kid").filter(|id| !id.is_empty())?.to_owned();
        let (algorithm, decoding) = match (text("kty")?, text("crv")) {
            ("RSA", _) => (Algorithm::Rs256, rsa_key(text("n")?, text("e")?)?),
            ("EC", Some("P-256")) => (Algorithm::Es256, curve_key(text("x")?, text("y")?, 32)?),
            ("EC", Some("P-384")) => (Algorithm::Es384, curve_key(text("x")?, text("y")?, 48)?),
            ("OKP", Some("Ed25519")) => (Algorithm::EdDsa, edwards_key(text("x")?)?),
            _ => return None,
        };
        // A key that says what it is for is for nothing else.
        if key.contains_key("alg") && text("alg") != Some(algorithm.name()) {
            return None;
        }
        Some(Self {
            id,
            algorithm,
            decoding,
        })
    }

    pub(crate) fn fits(&self, algorithm: Algorithm) -> bool {
        self.algorithm == algorithm
    }

    pub(crate) fn decoding(&self) -> &DecodingKey {
        &self.decoding
    }
}

impl fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerificationKey")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    // Some issuers pad, against RFC 7517.
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

fn rsa_key(modulus: &str, exponent: &str) -> Option<DecodingKey> {
    let (modulus, exponent) = (decoded(modulus)?, decoded(exponent)?);
    let significant = |bytes: &[u8]| -> Vec<u8> {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes[zeros..].to_vec()
    };
    let (modulus, exponent) = (significant(&modulus), significant(&exponent));
    let first = modulus.first()?;
    let bits = modulus.len() * 8 - first.leading_zeros() as usize;
    RSA_BITS
        .contains(&bits)
        .then(|| DecodingKey::from_rsa_raw_components(&modulus, &exponent))
}

fn curve_key(x: &str, y: &str, coordinate_bytes: usize) -> Option<DecodingKey> {
    let (x, y) = (decoded(x)?, decoded(y)?);
    if x.len() != coordinate_bytes || y.len() != coordinate_bytes {
        return None;
    }
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    DecodingKey::from_ec_components(&x, &y).ok()
}

fn edwards_key(x: &str) -> Option<DecodingKey> {
    let x = decoded(x).filter(|x| x.len() == 32)?;
    DecodingKey::from_ed_components(&URL_SAFE_NO_PAD.encode(x)).ok()
}

/// The scheme, host and port of an https address, in lower case and without the port that goes without saying. `None` for any
/// other address, and for one with a user, a query, a fragment or characters that readers of addresses disagree about.
fn origin(url: &str) -> Option<String> {
    let rest = url.strip_prefix("https://")?;
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"\\@?#\"<>^`{|}".contains(&byte);
    if !url.bytes().all(plain) {
        return None;
    }
    let authority = rest.split('/').next().filter(|it| !it.is_empty())?;
    let authority = authority.to_ascii_lowercase();
    let authority = authority.strip_suffix(":443").unwrap_or(&authority);
    Some(format!("https://{authority}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_read_from_plain_https_addresses_alone() {
        for (url, expected) in [
            ("https://ci.example", Some("https://ci.example")),
            ("https://CI.example:443/a/b", Some("https://ci.example")),
            ("https://ci.example:8443/", Some("https://ci.example:8443")),
            ("https://[::1]:9/x", Some("https://[::1]:9")),
            ("http://ci.example", None),
            ("HTTPS://ci.example", None),
            ("https://", None),
            ("https:///path", None),
            ("https://ci.example@evil.example/", None),
            ("https://evil.example\\@ci.example/", None),
            ("https://ci.example#evil", None),
            ("https://ci.example?x", None),
            ("https://ci.example\n.evil", None),
            ("https://ci example", None),
        ] {
            assert_eq!(origin(url).as_deref(), expected, "{url}");
        }
    }
}
