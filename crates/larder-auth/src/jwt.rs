//! Issuers of JWTs, and whether a JWT is one of theirs, for this server, and in force.
//!
//! The library `jsonwebtoken` checks the signature, and the issuer and the audience once more. Everything else is checked here
//! first, because a library reads what it is given generously: names that occur twice, texts where numbers belong, headers
//! that ask for another key. Its clock checks stay off: the time is an argument here, and two clocks would be one too many.
//!
//! Always true:
//! - The issuer is found by comparing `iss` whole with the configured ones. Nothing in a JWT chooses an address or a key's text.
//! - A problem's text names what is wrong and never repeats any of the JWT, which whoever reads logs could use.
//! - That a JWT's time is over is said only of one that was genuine.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Validation;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::claims::{Claims, VerifiedClaims};
use crate::keys::{Fetch, FetchedDocument, IssuerKeys, KeysProblem, VerificationKey};

/// The most bytes of a JWT. The largest that CI systems issue have about 3 KiB; hyper limits a request's head as well.
pub const JWT_BYTES_MAX: usize = 16 << 10;
/// How far an issuer's clock and this server's may be apart.
pub(crate) const LEEWAY_S: u64 = 30;
/// The longest time between a JWT's `iat` and its `exp`, unless an issuer is configured with less: no build takes a day.
pub const JWT_LIFETIME_S_MAX: u64 = 24 * 60 * 60;
/// The last second that is taken for a time, at the end of the year 9999: sums in milliseconds stay far from overflow.
const SECONDS_MAX: u64 = 253_402_300_799;
/// What a header may not have: an address or a text of a key, and what changes the meaning of the rest.
const FORBIDDEN_IN_HEADER: [&str; 5] = ["crit", "jku", "x5u", "jwk", "b64"];

/// The signature algorithms there are. `none` and those with a shared secret are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSA with PKCS #1 1.5 and SHA-256: what nearly all CI systems use.
    Rs256,
    /// ECDSA over P-256 with SHA-256.
    Es256,
    /// ECDSA over P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 4] = [Self::Rs256, Self::Es256, Self::Es384, Self::EdDsa];

    /// The algorithm's name in a JWT's header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm with this name, exactly.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    fn of_library(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Es256 => jsonwebtoken::Algorithm::ES256,
            Self::Es384 => jsonwebtoken::Algorithm::ES384,
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

/// Where an issuer's keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// The document at `/.well-known/openid-configuration` below the issuer names a key set of the same origin.
    Discovery,
    /// A key set at this https address.
    Url(String),
    /// This key set, for servers that reach nobody.
    Fixed(Vec<u8>),
}

/// An issuer that this server believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// Exactly what its JWTs have as `iss`: an https address.
    pub url: String,
    /// What `aud` must be: one of these.
    pub audiences: Vec<String>,
    /// The algorithms that it signs with.
    pub algorithms: Vec<Algorithm>,
    /// Where its keys come from.
    pub keys: KeySource,
    /// The longest time between `iat` and `exp` that is believed, in seconds; more than [`JWT_LIFETIME_S_MAX`] counts as that.
    pub lifetime_s_max: u64,
}

impl Issuer {
    /// An issuer as most are: RS256, keys by discovery, our audience alone.
    pub fn new(url: &str, audience: &str) -> Self {
        Self {
            url: url.to_owned(),
            audiences: vec![audience.to_owned()],
            algorithms: vec![Algorithm::Rs256],
            keys: KeySource::Discovery,
            lifetime_s_max: JWT_LIFETIME_S_MAX,
        }
    }
}

/// Why a list of issuers is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuersError {
    /// Two issuers with one address.
    #[error("the issuer {0} is there twice")]
    Twice(String),
    /// An address that is not https, or has in it what an address of an issuer has not.
    #[error("{0} is not an https address without user, query and fragment")]
    NotHttps(String),
    /// Nothing that `aud` could be.
    #[error("the issuer {0} has no audience; it must be this server's own address or name")]
    NoAudience(String),
    /// Nothing to sign with.
    #[error("the issuer {0} has no algorithm")]
    NoAlgorithm(String),
    /// A fixed key set that cannot be used.
    #[error("the keys of the issuer {issuer}: {problem}")]
    Keys {
        /// The issuer.
        issuer: String,
        /// What is wrong with them.
        problem: KeysProblem,
    },
}

/// What is wrong with a JWT: one line for the log, without any of the JWT.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum JwtProblem {
    /// Longer than any real one.
    #[error("it is longer than {JWT_BYTES_MAX} bytes")]
    TooLong,
    /// Not three parts of canonical base64.
    #[error("it is not three parts of base64")]
    Unreadable,
    /// The header is no JSON object, or has a name twice.
    #[error("its header is not one JSON object in which every name occurs once")]
    Header,
    /// The claims are no JSON object, or have a name twice.
    #[error("its claims are not one JSON object in which every name occurs once")]
    Claims,
    /// The issuer is not configured. Nothing else was looked at.
    #[error("its issuer is not one of this server's")]
    UnknownIssuer,
    /// `alg` is not in the issuer's list.
    #[error("its algorithm is not one that is configured for its issuer")]
    Algorithm,
    /// `typ` is there and is something else.
    #[error("it is typed as something else than a JWT")]
    Type,
    /// The header asks for what is never granted.
    #[error("its header has \"{0}\", which is not accepted")]
    Forbidden(&'static str),
    /// `kid` is missing, empty or no text.
    #[error("its header names no key")]
    NoKeyId,
    /// A claim that must be there is missing, or of the wrong type.
    #[error("its claim \"{0}\" is missing or of the wrong type")]
    Claim(&'static str),
    /// It is for somebody else, or for others too.
    #[error("its audience is not this server alone")]
    Audience,
    /// `iat` lies in the future.
    #[error("it was issued in the future; this machine's clock or the issuer's is wrong")]
    IssuedInFuture,
    /// `nbf` lies in the future.
    #[error("it is not valid yet; this machine's clock or the issuer's is wrong")]
    NotYet,
    /// `exp` is too long after `iat`, or before it.
    #[error("the time between its \"iat\" and its \"exp\" is not one that is accepted")]
    Lifetime,
    /// The issuer's keys, read after the JWT was issued, do not have its key.
    #[error("it names a key that its issuer does not have")]
    UnknownKey,
    /// The key is of another kind than the algorithm.
    #[error("it names a key of another kind than its algorithm")]
    WrongKey,
    /// The signature is not the key's.
    #[error("its signature is wrong")]
    Signature,
    /// It was genuine, and its time is over.
    #[error("its time is over")]
    Expired,
    /// It cannot be judged before its issuer's keys have been fetched, again or for the first time, which is to happen now or
    /// is happening. Nothing is wrong with it.
    #[error("the keys of {issuer} have not been fetched, or not recently enough")]
    KeysWanted {
        /// The issuer, as it is configured.
        issuer: String,
    },
    /// The same, but the keys will not be fetched for a while: it is of no use to wait.
    #[error("the keys of {issuer} cannot be had, or do not have its key yet")]
    KeysMissing {
        /// The issuer, as it is configured.
        issuer: String,
    },
}

/// The issuers that this server believes, with their keys.
#[derive(Debug, Default)]
pub struct Issuers {
    known: HashMap<String, KnownIssuer>,
}

#[derive(Debug)]
struct KnownIssuer {
    issuer: Issuer,
    keys: Arc<IssuerKeys>,
}

impl Issuers {
    /// These issuers, without keys but for fixed ones.
    pub fn new(issuers: Vec<Issuer>) -> Result<Self, IssuersError> {
        Self::default().successor(issuers)
    }

    /// These issuers. Those of `self` whose keys come from the same place keep them.
    pub fn successor(&self, issuers: Vec<Issuer>) -> Result<Self, IssuersError> {
        let mut known = HashMap::with_capacity(issuers.len());
        for issuer in issuers {
            let url = issuer.url.clone();
            if issuer.audiences.is_empty() {
                return Err(IssuersError::NoAudience(url));
            }
            if issuer.algorithms.is_empty() {
                return Err(IssuersError::NoAlgorithm(url));
            }
            let kept = self.known.get(&url);
            let keys = match kept.filter(|kept| kept.issuer.keys == issuer.keys) {
                Some(kept) => Arc::clone(&kept.keys),
                None => Arc::new(IssuerKeys::new(&issuer)?),
            };
            if known
                .insert(url.clone(), KnownIssuer { issuer, keys })
                .is_some()
            {
                return Err(IssuersError::Twice(url));
            }
        }
        Ok(Self { known })
    }

    /// Whether no issuer is believed at all.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// What is to be fetched now. Each is told once, until [`Issuers::fetched`] was told how it went.
    pub fn due(&self, now_ms: u64) -> Vec<Fetch> {
        let known = self.known.iter();
        let due = known.filter_map(|(url, known)| known.keys.due(url, now_ms));
        due.collect()
    }

    /// How a fetch of [`Issuers::due`] went. The error's text is for the log, as is the one that is returned: what is wrong
    /// with the document, or that an older one stays in force.
    pub fn fetched(
        &self,
        fetch: &Fetch,
        document: Result<FetchedDocument, String>,
        now_ms: u64,
    ) -> Result<(), KeysProblem> {
        // An issuer that is no longer configured needs no keys.
        self.known
            .get(&fetch.issuer)
            .map_or(Ok(()), |known| known.keys.fetched(fetch, document, now_ms))
    }

    /// Whether keys of the issuer are at hand, for those who show how a server fares.
    pub fn has_keys(&self, issuer: &str, now_ms: u64) -> bool {
        let known = self.known.get(issuer);
        known.is_some_and(|known| known.keys.current(now_ms).is_some())
    }

    /// The claims of a JWT that an issuer of these signed for this server and that is in force.
    pub fn verify(&self, jwt: &[u8], now_ms: u64) -> Result<VerifiedClaims, JwtProblem> {
        let jwt = Jwt::read(jwt)?;
        let issuer = jwt.claims.text("iss").ok_or(JwtProblem::Claim("iss"))?;
        let known = self.known.get(issuer).ok_or(JwtProblem::UnknownIssuer)?;
        let issuer = &known.issuer;
        let (algorithm, key_id) = read_header(&jwt.header, issuer)?;
        check_audience(&jwt.claims, issuer)?;
        let times = Times::read(&jwt.claims, issuer, now_ms)?;
        if jwt.claims.text("sub").is_none_or(str::is_empty) {
            return Err(JwtProblem::Claim("sub"));
        }
        let candidates = known.keys.candidates(key_id, times.issued_ms, now_ms);
        let candidates = candidates.map_err(|missing| missing.into_problem(&issuer.url))?;
        check_signature(&jwt, issuer, algorithm, &candidates)?;
        // Asked last: only a JWT that is genuine has a time that can be over.
        if now_ms >= times.valid_until_ms {
            return Err(JwtProblem::Expired);
        }
        let Jwt { claims, .. } = jwt;
        Ok(VerifiedClaims::new(
            claims,
            issuer.url.clone(),
            times.valid_until_ms,
        ))
    }
}

/// The parts of a JWT, read but not believed.
struct Jwt<'a> {
    text: &'a [u8],
    header: Claims,
    claims: Claims,
}

impl<'a> Jwt<'a> {
    fn read(text: &'a [u8]) -> Result<Self, JwtProblem> {
        if text.len() > JWT_BYTES_MAX {
            return Err(JwtProblem::TooLong);
        }
        let mut parts = text.split(|byte| *byte == b'.');
        let (Some(header), Some(claims), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JwtProblem::Unreadable);
        };
        // This alphabet refuses padding and bits beyond the last byte: a JWT has one spelling.
        let decode = |part: &[u8]| URL_SAFE_NO_PAD.decode(part);
        let (Ok(header), Ok(claims), Ok(_)) = (decode(header), decode(claims), decode(signature))
        else {
            return Err(JwtProblem::Unreadable);
        };
        Ok(Self {
            text,
            header: Claims::parse(&header).map_err(|_| JwtProblem::Header)?,
            claims: Claims::parse(&claims).map_err(|_| JwtProblem::Claims)?,
        })
    }
}

/// The algorithm and the key's id that a header names, if it names nothing else.
fn read_header<'h>(
    header: &'h Claims,
    issuer: &Issuer,
) -> Result<(Algorithm, &'h str), JwtProblem> {
    if let Some(name) = FORBIDDEN_IN_HEADER
        .into_iter()
        .find(|name| header.has(name))
    {
        return Err(JwtProblem::Forbidden(name));
    }
    let algorithm = header.text("alg").and_then(Algorithm::named);
    let algorithm = algorithm.filter(|algorithm| issuer.algorithms.contains(algorithm));
    let algorithm = algorithm.ok_or(JwtProblem::Algorithm)?;
    if header.has("typ") && header.text("typ") != Some("JWT") {
        return Err(JwtProblem::Type);
    }
    let key_id = header.text("kid").filter(|id| !id.is_empty());
    Ok((algorithm, key_id.ok_or(JwtProblem::NoKeyId)?))
}

/// `aud` is one of ours, as a text or in a list with none beside it: whoever else it names could use the JWT here.
fn check_audience(claims: &Claims, issuer: &Issuer) -> Result<(), JwtProblem> {
    let ours = |value: &Value| {
        value
            .as_str()
            .is_some_and(|text| issuer.audiences.iter().any(|it| it == text))
    };
    let accepted = match claims.get("aud") {
        Some(Value::String(_)) => claims.get("aud").is_some_and(ours),
        Some(Value::Array(list)) => !list.is_empty() && list.iter().all(ours),
        Some(_) | None => return Err(JwtProblem::Claim("aud")),
    };
    if accepted {
        Ok(())
    } else {
        Err(JwtProblem::Audience)
    }
}

/// When a JWT was issued and when it stops being good.
struct Times {
    issued_ms: u64,
    valid_until_ms: u64,
}

impl Times {
    /// Reads the times and checks all that does not need a genuine JWT.
    fn read(claims: &Claims, issuer: &Issuer, now_ms: u64) -> Result<Self, JwtProblem> {
        let seconds = |name: &'static str| {
            let number = claims.whole_number(name).filter(|it| *it <= SECONDS_MAX);
            number.ok_or(JwtProblem::Claim(name))
        };
        let (end, begin) = (seconds("exp")?, seconds("iat")?);
        let latest_ms = now_ms.saturating_add(LEEWAY_S * 1000);
        if begin * 1000 > latest_ms {
            return Err(JwtProblem::IssuedInFuture);
        }
        if claims.has("nbf") && seconds("nbf")? * 1000 > latest_ms {
            return Err(JwtProblem::NotYet);
        }
        let lifetime = end.checked_sub(begin).ok_or(JwtProblem::Lifetime)?;
        if lifetime > issuer.lifetime_s_max.min(JWT_LIFETIME_S_MAX) {
            return Err(JwtProblem::Lifetime);
        }
        Ok(Self {
            issued_ms: begin * 1000,
            valid_until_ms: (end + LEEWAY_S) * 1000,
        })
    }
}

/// Checks the signature against the keys that have the JWT's key id: one, unless an issuer gave one id to several.
fn check_signature(
    jwt: &Jwt<'_>,
    issuer: &Issuer,
    algorithm: Algorithm,
    candidates: &[Arc<VerificationKey>],
) -> Result<(), JwtProblem> {
    let mut fitting = candidates
        .iter()
        .filter(|key| key.fits(algorithm))
        .peekable();
    if fitting.peek().is_none() {
        return Err(JwtProblem::WrongKey);
    }
    let mut validation = Validation::new(algorithm.of_library());
    validation.set_issuer(&[&issuer.url]);
    validation.set_audience(&issuer.audiences);
    validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    let genuine = fitting.any(|key| {
        let decoded = jsonwebtoken::decode::<IgnoredAny>(jwt.text, key.decoding(), &validation);
        decoded.is_ok()
    });
    if genuine {
        Ok(())
    } else {
        Err(JwtProblem::Signature)
    }
}
