//! From a JWT that nobody knows to a caller: verify, decide, note the writer, remember.
//!
//! That costs a signature, maybe a wait for the issuer's keys, and a look into the ledger; so it happens once for a JWT, however
//! many requests come with it at the same time, and is remembered for some minutes. The rest of a request finds the JWT known.
//!
//! What is wrong with a JWT is told to nobody but the log. A forged one is refused loudly. One that is genuine but over, or that
//! cannot be judged because keys or the ledger are out of reach, is a miss: its build goes on. One that is genuine and that no
//! rule gives anything counts as no credential: a fork's pipeline has exactly that. So does a well-formed one of an issuer that is
//! not configured, which nobody here can judge.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use larder_auth::ci::{self, Decision};
use larder_auth::{Admission, Issuers, JwtProblem, SetAside, TokenHash, VerifiedClaims};
use larder_ledger::{LedgerError, NewWriter, WriterKind};
use larder_model::WriterId;
use tokio::time::{Instant, timeout_at};

use crate::attempts::network;
use crate::gateway::{Gateway, Identity, Origin, Peer};
use crate::journal::Refused;
use crate::ledger_lane::TooSlow;
use crate::provenance::columns;
use crate::unwind::caught;

/// The longest that a request waits for its issuer's keys. A build's first request waits this long at worst.
const KEYS_WAIT_MAX: Duration = Duration::from_secs(3);
/// The most JWTs of one client address that wait for keys at once, and of one issuer. Those beyond get misses. Only JWTs that
/// name a key which is not at hand wait at all, and only while it is being fetched.
const WAIT_COUNT_MAX_OF_ADDRESS: usize = 16;
const WAIT_COUNT_MAX_OF_ISSUER: usize = 1024;
/// How long a bad JWT is remembered as such.
const REFUSED_MS: u64 = 60_000;
/// How long a JWT that is good for nothing is remembered as such: its time is over, or no rule gives it anything.
const USELESS_MS: u64 = 10 * 60_000;
/// How long a JWT that cannot be judged is not looked at again, so that a build does not wait anew with each request.
const UNDECIDED_MS: u64 = 5_000;

type Introduced<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// A JWT that is somebody's.
pub(crate) struct Identified {
    pub(crate) claims: VerifiedClaims,
    pub(crate) decision: Decision,
    pub(crate) writer: WriterId,
    /// What was in force when it was decided.
    pub(crate) under: Arc<Identity>,
}

/// Why a JWT is nobody's: for the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unidentified {
    #[error(transparent)]
    Jwt(JwtProblem),
    #[error("{0}")]
    NoRule(ci::Refused),
    #[error("the keys of {issuer} cannot be had, or do not have its key yet")]
    KeysMissing { issuer: String },
    #[error("the ledger does not take its writer: {0}")]
    Ledger(LedgerError),
    #[error("the ledger did not take its writer in time")]
    LedgerSlow,
}

impl Unidentified {
    /// The reason's name in the audit.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Jwt(JwtProblem::Expired) => "jwt_expired",
            Self::Jwt(
                JwtProblem::KeysWanted { .. }
                | JwtProblem::KeysMissing { .. }
                | JwtProblem::UnknownKey,
            )
            | Self::KeysMissing { .. } => "keys_missing",
            Self::Jwt(JwtProblem::IssuedInFuture | JwtProblem::NotYet | JwtProblem::Lifetime) => {
                "jwt_times"
            }
            Self::Jwt(JwtProblem::UnknownIssuer) => "unknown_issuer",
            Self::Jwt(_) => "bad_jwt",
            Self::NoRule(_) => "no_rule",
            Self::Ledger(LedgerError::RevokedWriter(_)) => "revoked",
            Self::Ledger(_) | Self::LedgerSlow => "ledger",
        }
    }

    /// Whether the JWT itself is bad. A signature that nobody could check, and times by which one of two clocks is wrong, are
    /// doubt, and no reason to stop a build. Nor is an issuer that is not configured: its last rule may have been taken away.
    pub(crate) fn is_bad(&self) -> bool {
        match self {
            Self::Jwt(
                JwtProblem::Expired
                | JwtProblem::KeysWanted { .. }
                | JwtProblem::KeysMissing { .. }
                | JwtProblem::UnknownKey
                | JwtProblem::IssuedInFuture
                | JwtProblem::NotYet
                | JwtProblem::Lifetime
                | JwtProblem::UnknownIssuer,
            )
            | Self::NoRule(_)
            | Self::KeysMissing { .. }
            | Self::Ledger(_)
            | Self::LedgerSlow => false,
            Self::Jwt(
                JwtProblem::TooLong
                | JwtProblem::Unreadable
                | JwtProblem::Header
                | JwtProblem::Claims
                | JwtProblem::Algorithm
                | JwtProblem::Type
                | JwtProblem::Forbidden(_)
                | JwtProblem::NoKeyId
                | JwtProblem::Claim(_)
                | JwtProblem::Audience
                | JwtProblem::WrongKey
                | JwtProblem::Signature,
            ) => true,
        }
    }

    /// What is remembered of the JWT, and for how many milliseconds.
    fn set_aside(&self) -> (SetAside, u64) {
        match self {
            Self::Jwt(JwtProblem::Expired) | Self::Ledger(LedgerError::RevokedWriter(_)) => {
                (SetAside::Soft, USELESS_MS)
            }
            Self::NoRule(_) => (SetAside::Nobody, USELESS_MS),
            Self::Jwt(JwtProblem::UnknownIssuer) => (SetAside::Nobody, REFUSED_MS),
            _ if self.is_bad() => (SetAside::Refused, REFUSED_MS),
            Self::Jwt(_) | Self::KeysMissing { .. } | Self::Ledger(_) | Self::LedgerSlow => {
                (SetAside::Soft, UNDECIDED_MS)
            }
        }
    }
}

impl Gateway {
    /// Makes the JWT of a request known, one way or the other, if it has one that is not. To be awaited before the request's
    /// caller is asked for.
    pub async fn introduce(&self, headers: &HeaderMap, origin: &Origin) {
        if let Origin::Tcp(peer) = origin
            && let Some(jwt) = self.unintroduced(headers, origin)
        {
            // Seldom, and large: every request's future would have room for it.
            let introduced: Introduced<'_> =
                Box::pin(self.introduce_new(jwt, headers, origin, peer));
            // Whoever could not be introduced is not known, which is soft.
            let _ = caught(introduced).await;
        }
    }

    async fn introduce_new(&self, jwt: &[u8], headers: &HeaderMap, origin: &Origin, peer: &Peer) {
        let hash = TokenHash::of(jwt);
        let place = self.introductions.enter(hash);
        let _turn = place.turn.lock().await;
        // Whoever was first has done it for all who waited.
        if self.unintroduced(headers, origin).is_some() {
            self.decide_about(jwt, hash, peer).await;
        }
    }

    async fn decide_about(&self, jwt: &[u8], hash: TokenHash, peer: &Peer) {
        let epoch = self.authenticator.policy_epoch();
        match self.identify(jwt, Some(peer.address)).await {
            Ok(Identified {
                claims,
                decision,
                writer,
                under: _,
            }) => {
                let (who, workspace) = (decision.who(), decision.workspace());
                tracing::debug!(who, %workspace, %writer, "a CI token was accepted");
                let admission = Admission::of(&claims, &decision, writer, epoch);
                self.authenticator.admit(&hash, admission, self.now_ms());
            }
            Err(why) => {
                let (set_aside, for_ms) = why.set_aside();
                let now_ms = self.now_ms();
                let until_ms = now_ms.saturating_add(for_ms);
                let authenticator = &self.authenticator;
                authenticator.set_aside(&hash, set_aside, now_ms, until_ms, epoch);
                self.note_unidentified(&why, peer.address);
            }
        }
    }

    /// Whose JWT this is. Waits for the issuer's keys, for [`KEYS_WAIT_MAX`] at most, if they are wanted.
    pub(crate) async fn identify(
        &self,
        jwt: &[u8],
        address: Option<IpAddr>,
    ) -> Result<Identified, Unidentified> {
        let identity = self.identity.load_full();
        let claims = self.verify(&identity.issuers, jwt, address).await?;
        let decision = identity.rules.decide(&claims);
        let decision = decision.map_err(Unidentified::NoRule)?;
        let new_writer = NewWriter {
            kind: WriterKind::Ci,
            workspace: decision.workspace().to_string(),
            access: decision.access().kind().name().to_owned(),
            scope: decision.access().scope().map(ToString::to_string),
            provenance: columns(decision.provenance()),
            address: address.map(|address| address.to_string()),
            now_ms: self.now_ms(),
        };
        let asked = Box::pin(self.ledger.writer_id(&new_writer));
        let writer = self.ledger_lane.ask(decision.access(), asked).await;
        let writer = writer.map_err(|TooSlow| Unidentified::LedgerSlow)?;
        let writer = WriterId(writer.map_err(Unidentified::Ledger)?);
        Ok(Identified {
            claims,
            decision,
            writer,
            under: identity,
        })
    }

    /// Verifies at once whatever keys at hand can verify. Nobody's failures and no crowd keep anybody from that.
    async fn verify(
        &self,
        issuers: &Issuers,
        jwt: &[u8],
        address: Option<IpAddr>,
    ) -> Result<VerifiedClaims, Unidentified> {
        let deadline = Instant::now() + KEYS_WAIT_MAX;
        let mut waiting = None;
        loop {
            // Listened for before it is asked: keys that arrive in between are heard of.
            let mut arrived = std::pin::pin!(self.keys_arrived.notified());
            arrived.as_mut().enable();
            match issuers.verify(jwt, self.now_ms()) {
                Err(JwtProblem::KeysWanted { issuer }) => {
                    self.keys_wanted.notify_one();
                    if waiting.is_none() {
                        waiting = self.may_wait(&issuer, address);
                    }
                    if waiting.is_none() {
                        return Err(Unidentified::KeysMissing { issuer });
                    }
                    if timeout_at(deadline, arrived).await.is_err() {
                        return Err(Unidentified::KeysMissing { issuer });
                    }
                }
                Err(JwtProblem::KeysMissing { issuer }) => {
                    return Err(Unidentified::KeysMissing { issuer });
                }
                verified => return verified.map_err(Unidentified::Jwt),
            }
        }
    }

    /// A place among those who wait for the issuer's keys.
    fn may_wait(&self, issuer: &str, address: Option<IpAddr>) -> Option<Waiting<'_>> {
        let patient = |address| self.attempts.allowed(address, self.now_ms()).is_ok();
        address
            .is_none_or(patient)
            .then(|| self.introductions.wait(issuer, address))?
    }

    /// Counts, logs and records a JWT that is nobody's.
    pub(crate) fn note_unidentified(&self, why: &Unidentified, address: IpAddr) {
        let now_ms = self.now_ms();
        let suspicious = match why {
            // Keys are there, and it names one that is not: most likely it never will be.
            Unidentified::KeysMissing { issuer } => {
                self.identity.load().issuers.has_keys(issuer, now_ms)
            }
            // Anybody can make as many of these as they like.
            Unidentified::Jwt(JwtProblem::UnknownIssuer) => true,
            Unidentified::Jwt(_)
            | Unidentified::NoRule(_)
            | Unidentified::Ledger(_)
            | Unidentified::LedgerSlow => why.is_bad(),
        };
        let known_for_it = self.attempts.allowed(address, now_ms).is_err();
        if suspicious {
            self.attempts.failed(address, now_ms);
        }
        match why {
            _ if suspicious && known_for_it => {
                tracing::debug!(%address, "a CI token was not accepted: {why}");
            }
            Unidentified::Ledger(LedgerError::RevokedWriter(_)) => {
                tracing::warn!(%address, "a CI token gives no access: {why}");
            }
            Unidentified::Jwt(JwtProblem::UnknownIssuer) => {
                tracing::info!(%address, "a CI token gives no access: {why}");
            }
            Unidentified::Jwt(_) if !why.is_bad() => {
                tracing::warn!(%address, "a CI token gives no access for now: {why}");
            }
            Unidentified::Ledger(_) | Unidentified::LedgerSlow => {
                tracing::error!(%address, "a CI token could not be admitted: {why}");
            }
            Unidentified::NoRule(_) | Unidentified::KeysMissing { .. } => {
                tracing::warn!(%address, "a CI token gives no access: {why}");
            }
            Unidentified::Jwt(_) => {
                tracing::info!(%address, "a CI token was not accepted: {why}");
            }
        }
        self.journal.record(Refused {
            at_ms: now_ms,
            reason: why.reason(),
            bad_credential: true,
            dialect: None,
            workspace: None,
            writer: None,
            address: Some(address),
        });
    }
}

/// The JWTs that are being introduced: one turn for each, which whoever comes first has and all others wait for. A request
/// that is given up gives its turn to the next.
#[derive(Default)]
pub(crate) struct Introductions {
    under_way: Mutex<HashMap<TokenHash, Arc<tokio::sync::Mutex<()>>>>,
    /// How many wait for keys, of each issuer and of each address.
    waiting: Mutex<(HashMap<String, usize>, HashMap<IpAddr, usize>)>,
}

struct Place<'a> {
    introductions: &'a Introductions,
    hash: TokenHash,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// One who waits for keys.
struct Waiting<'a> {
    introductions: &'a Introductions,
    issuer: String,
    address: Option<IpAddr>,
}

impl Introductions {
    /// As many as there are requests can be under way: what they wait for is bounded, or not for everybody to cause.
    fn enter(&self, hash: TokenHash) -> Place<'_> {
        let turn = Arc::clone(locked(&self.under_way).entry(hash).or_default());
        Place {
            introductions: self,
            hash,
            turn,
        }
    }

    /// `None` if too many of the issuer or of the address wait already.
    fn wait(&self, issuer: &str, address: Option<IpAddr>) -> Option<Waiting<'_>> {
        let address = address.map(network);
        let mut waiting = locked(&self.waiting);
        let (issuers, addresses) = &mut *waiting;
        let of_issuer = issuers.get(issuer).copied().unwrap_or(0);
        let of_address = address.and_then(|it| addresses.get(&it)).copied();
        let of_address = of_address.unwrap_or(0);
        if of_issuer >= WAIT_COUNT_MAX_OF_ISSUER || of_address >= WAIT_COUNT_MAX_OF_ADDRESS {
            return None;
        }
        issuers.insert(issuer.to_owned(), of_issuer + 1);
        if let Some(address) = address {
            addresses.insert(address, of_address + 1);
        }
        Some(Waiting {
            introductions: self,
            issuer: issuer.to_owned(),
            address,
        })
    }
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One less of `key`.
fn leave<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = locked(&self.introductions.waiting);
        leave(&mut waiting.0, &self.issuer);
        if let Some(address) = &self.address {
            leave(&mut waiting.1, address);
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut under_way = locked(&self.introductions.under_way);
        // The table's own, and this one.
        if Arc::strong_count(&self.turn) == 2 {
            under_way.remove(&self.hash);
        }
    }
}
