//! The tables of known credentials, and the question they answer for every request.
//!
//! The table of tokens is replaced as a whole when the tokens change and never changed in place, so that a
//! request sees all of one version. Only "last used" is written by requests: one relaxed atomic
//! per token, shared by successive tables, and written at most once a second so that requests on
//! different processor cores do not fight for it.
//!
//! What a JWT means is not found out here: whoever is told [`Credential::Unintroduced`] verifies it, decides, and says so with
//! [`Authenticator::admit`] or [`Authenticator::set_aside`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use larder_model::{Access, Principal, WorkspaceName, WriterId};

use crate::admission::{Admission, Admissions, PolicyEpoch, SetAside};
use crate::certificate::{CertificateGrant, CertificateNames, San};
use crate::header::{self, Named};
use crate::memo::HashMemo;
use crate::session::{SessionGrant, SessionMark, Sessions};
use crate::token::TokenHash;

/// How exact "last used" is.
const LAST_USED_RESOLUTION_MS: u64 = 1_000;
/// "Not used since the last take".
const UNUSED: u64 = 0;

/// One token, as whoever keeps the tokens knows it.
#[derive(Debug, Clone)]
pub struct TokenGrant {
    /// The token's number. Entries written with the token remember it as their writer.
    pub id: u64,
    /// The hash of the token's text.
    pub hash: TokenHash,
    /// The workspace the token belongs to.
    pub workspace: WorkspaceName,
    /// What the token may do.
    pub access: Access,
    /// When the token stops working, in unix milliseconds; `None` is never.
    pub expires_at_ms: Option<u64>,
    /// Whether the token has been revoked.
    pub revoked: bool,
}

/// What a request brings to show who sent it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Presented<'a> {
    /// The value of its `Authorization` header. A credential in it counts instead of a certificate, whatever it is worth; an
    /// empty one does not.
    pub authorization: Option<&'a [u8]>,
    /// What the certificate of its connection's peer says, if TLS has verified one.
    pub certificate: Option<&'a CertificateNames>,
}

/// Who a request says it comes from, when that is in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// No credential, or an empty one: what a fork's CI sends when the secret is withheld.
    Absent,
    /// The holder of a credential that the server knows and that is in force.
    Known(Principal),
    /// A session or a JWT that was good and is over, or that cannot be judged for now. Its sender gets misses and stores
    /// nothing, and its build goes on.
    Expired,
    /// A JWT that nobody has looked at yet, or not for a while.
    Unintroduced,
}

/// What kind of credential a request brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CredentialKind {
    /// None, or an empty one.
    Absent,
    /// A static token.
    Token,
    /// A session.
    Session,
    /// A JWT.
    Jwt,
    /// A client certificate.
    Certificate,
}

/// A credential with what its bearer may want to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Who it is.
    pub credential: Credential,
    /// What was looked at.
    pub kind: CredentialKind,
    /// When it ends, in unix milliseconds; `None` is never, or not known.
    pub expires_at_ms: Option<u64>,
}

/// What is wrong with a credential. The text is one line for whoever sent it, says what to do,
/// and never contains any of the credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BadCredential {
    /// The header is in no form that the server reads.
    #[error("the Authorization header cannot be read; send it as: Authorization: Bearer TOKEN")]
    Unreadable,
    /// The credential has not the shape of a token.
    #[error(
        "this is not a whole Larder token: tokens begin with \"lrd_\" and end with a checksum; \
         copy it again, without quotes, and check that nothing was cut off"
    )]
    Malformed,
    /// A well-formed token that the server has never seen.
    #[error(
        "this server does not know this token; check the server's address, ask for a new token, \
         or run: larder token create --workspace NAME --access KIND"
    )]
    Unknown,
    /// The token's time is over.
    #[error(
        "this token has expired; ask for a new one, or run: larder token create \
         --workspace NAME --access KIND"
    )]
    Expired,
    /// The token has been revoked.
    #[error(
        "this token was revoked; ask for a new one, or run: larder token create \
         --workspace NAME --access KIND"
    )]
    Revoked,
    /// A session that the server has never seen, or has forgotten long after it ended.
    #[error(
        "this server does not know this session token; check the server's address, and exchange the CI's token again at \
         /v1/oauth/token"
    )]
    UnknownSession,
    /// A JWT that is not accepted. Why is for this server's log: who forges one learns nothing.
    #[error(
        "this CI token was not accepted; the server's log says why. Check that its audience is this server's, and that a \
         rule of the server's configuration names its repository"
    )]
    Jwt,
    /// A certificate whose names belong to several principals.
    #[error(
        "several rules of the server's configuration map the names of this client certificate, and they do not agree; \
         leave one of them"
    )]
    Certificate,
}

#[derive(Debug)]
struct KnownToken {
    id: u64,
    principal: Principal,
    expires_at_ms: Option<u64>,
    revoked: bool,
    last_used_ms: Arc<AtomicU64>,
}

type Table = HashMap<TokenHash, KnownToken>;

/// Tells which principal a request comes from. Shared by all of a server's connections.
#[derive(Debug, Default)]
pub struct Authenticator {
    tokens: ArcSwap<Table>,
    sessions: Sessions,
    admissions: Admissions,
    certificates: ArcSwap<HashMap<San, Vec<Principal>>>,
    hashes: HashMemo,
}

impl Authenticator {
    /// An authenticator that knows no credential.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on `grants` are the known tokens, and no other. Requests that arrive meanwhile
    /// see the old table or the new one.
    pub fn replace(&self, grants: Vec<TokenGrant>) {
        self.tokens.rcu(|old| successor(old, &grants));
    }

    /// Now, in the history of the table of sessions: for [`Authenticator::replace_sessions`].
    pub fn session_mark(&self) -> SessionMark {
        self.sessions.mark()
    }

    /// From now on `grants` are the known sessions, and those that were added or ended here since `mark` was taken, which must
    /// have been before the grants were read.
    pub fn replace_sessions(&self, grants: &[SessionGrant], mark: SessionMark) {
        self.sessions.replace(grants, mark);
    }

    /// Of these sessions, which have changed, what the ledger says is known from now on; as with
    /// [`Authenticator::replace_sessions`], but the others stay.
    pub fn update_sessions(&self, grants: &[SessionGrant], mark: SessionMark) {
        self.sessions.update(grants, mark);
    }

    /// Knows one more session, which the ledger knows already.
    pub fn add_session(&self, grant: &SessionGrant) {
        self.sessions.add(grant);
    }

    /// Ends a session, which the ledger has ended already: from now on its holder's requests are misses.
    pub fn end_session(&self, hash: &TokenHash) {
        self.sessions.end(hash);
    }

    /// From now on certificates mean this, and nothing else.
    pub fn replace_certificates(&self, grants: &[CertificateGrant]) {
        let mut table: HashMap<San, Vec<Principal>> = HashMap::new();
        for CertificateGrant { rule, writer } in grants {
            let (workspace, access) = (rule.workspace.clone(), rule.access.clone());
            let principal = Principal::new(workspace, access, WriterId(*writer));
            table.entry(rule.san.clone()).or_default().push(principal);
        }
        self.certificates.store(Arc::new(table));
    }

    /// The rules in force, for what is about to be decided under them.
    pub fn policy_epoch(&self) -> PolicyEpoch {
        self.admissions.epoch()
    }

    /// The rules have changed: every JWT must be introduced again.
    pub fn forget_admissions(&self) {
        self.admissions.forget();
    }

    /// The bearer of the JWT with this hash is known from now on.
    pub fn admit(&self, jwt: &TokenHash, admission: Admission, now_ms: u64) {
        self.admissions.admit(jwt, admission, now_ms);
    }

    /// The JWT with this hash is nobody's until `until_ms`.
    pub fn set_aside(
        &self,
        jwt: &TokenHash,
        why: SetAside,
        now_ms: u64,
        until_ms: u64,
        epoch: PolicyEpoch,
    ) {
        let times = (now_ms, until_ms);
        self.admissions.set_aside(jwt, why, times, epoch);
    }

    /// The JWT that this value of an `Authorization` header has in it, if it has one.
    pub fn jwt(authorization: &[u8]) -> Option<&[u8]> {
        header::jwt(authorization)
    }

    /// Who sent a request that brings this? `now_ms` is the time in unix milliseconds.
    pub fn authenticate(
        &self,
        presented: &Presented<'_>,
        now_ms: u64,
    ) -> Result<Credential, BadCredential> {
        if let Some(authorization) = presented.authorization
            && let Some(answer) = self.of_header(authorization, now_ms)
        {
            // Also if it is nobody's: what its sender is given must not depend on whose connection it uses.
            return answer;
        }
        match presented.certificate {
            Some(certificate) => self.of_certificate(certificate, now_ms),
            None => Ok(Credential::Absent),
        }
    }

    /// What [`Authenticator::authenticate`] answers, and what was looked at for it.
    pub fn standing(
        &self,
        presented: &Presented<'_>,
        now_ms: u64,
    ) -> Result<Standing, BadCredential> {
        let named = match presented.authorization {
            Some(authorization) => header::read(authorization)?,
            None => None,
        };
        let credential = self.authenticate(presented, now_ms)?;
        let (kind, expires_at_ms) = match named {
            Some(Named::Token(hash)) => {
                let expires = self.tokens.load().get(&hash).map(|it| it.expires_at_ms);
                (CredentialKind::Token, expires.flatten())
            }
            Some(Named::Session(hash)) => {
                let expires = self.sessions.expires_at_ms(&hash);
                (CredentialKind::Session, expires)
            }
            Some(Named::Jwt(hash)) => (CredentialKind::Jwt, self.admissions.expires_at_ms(&hash)),
            None if credential == Credential::Absent => (CredentialKind::Absent, None),
            None => {
                let not_after = presented.certificate.map(|it| it.not_after_ms);
                (CredentialKind::Certificate, not_after)
            }
        };
        Ok(Standing {
            credential,
            kind,
            expires_at_ms,
        })
    }

    /// Whose static token this is, or was: of one that has expired or was revoked, too. For those who write down its use; it
    /// gives nobody anything.
    pub fn bearer_of_token(&self, presented: &Presented<'_>) -> Option<Principal> {
        let Ok(Some(Named::Token(hash))) = header::read(presented.authorization?) else {
            return None;
        };
        let tokens = self.tokens.load();
        tokens.get(&hash).map(|token| token.principal.clone())
    }

    /// Whose credential the header has in it; `None` if there is none, or an empty one.
    fn of_header(
        &self,
        authorization: &[u8],
        now_ms: u64,
    ) -> Option<Result<Credential, BadCredential>> {
        if let Some(named) = self.hashes.recall(authorization) {
            return Some(self.ask(&named, now_ms));
        }
        let named = match header::read(authorization) {
            Ok(named) => named?,
            Err(bad) => return Some(Err(bad)),
        };
        let answer = self.ask(&named, now_ms);
        // What nobody knows has no place in it: anybody can send it.
        let known = !matches!(
            answer,
            Ok(Credential::Unintroduced)
                | Err(BadCredential::Unknown | BadCredential::UnknownSession)
        );
        if known {
            self.hashes.remember(authorization, named);
        }
        Some(answer)
    }

    fn ask(&self, named: &Named, now_ms: u64) -> Result<Credential, BadCredential> {
        match named {
            Named::Token(hash) => match self.tokens.load().get(hash) {
                Some(token) => token.ask(now_ms),
                None => Err(BadCredential::Unknown),
            },
            Named::Session(hash) => {
                let session = self.sessions.ask(hash, now_ms);
                session.ok_or(BadCredential::UnknownSession)
            }
            Named::Jwt(hash) => {
                let decided = self.admissions.ask(hash, now_ms);
                decided.unwrap_or(Ok(Credential::Unintroduced))
            }
        }
    }

    fn of_certificate(
        &self,
        certificate: &CertificateNames,
        now_ms: u64,
    ) -> Result<Credential, BadCredential> {
        let table = self.certificates.load();
        let names = certificate.subject_alternative_names.iter();
        let mut principals = names.filter_map(|name| table.get(name)).flatten();
        let Some(principal) = principals.next() else {
            return Ok(Credential::Absent);
        };
        // By which of its rules entries are remembered is of no matter to what they may do.
        let rights = |it: &Principal| (it.workspace().clone(), it.access().clone());
        if principals.any(|other| rights(other) != rights(principal)) {
            return Err(BadCredential::Certificate);
        }
        if now_ms >= certificate.not_after_ms {
            return Ok(Credential::Expired);
        }
        Ok(Credential::Known(principal.clone()))
    }

    /// The tokens that were used since the last call, with the time of their latest use in unix
    /// milliseconds, exact to a second. A token that leaves the table takes its use with it.
    pub fn take_last_used(&self) -> Vec<(u64, u64)> {
        let tokens = self.tokens.load();
        tokens
            .values()
            .map(|token| (token.id, token.last_used_ms.swap(UNUSED, Ordering::Relaxed)))
            .filter(|&(_, last_used_ms)| last_used_ms != UNUSED)
            .collect()
    }
}

impl KnownToken {
    fn ask(&self, now_ms: u64) -> Result<Credential, BadCredential> {
        if self.revoked {
            return Err(BadCredential::Revoked);
        }
        if self
            .expires_at_ms
            .is_some_and(|expires_at_ms| now_ms >= expires_at_ms)
        {
            return Err(BadCredential::Expired);
        }
        let last_used_ms = self.last_used_ms.load(Ordering::Relaxed);
        if now_ms >= last_used_ms.saturating_add(LAST_USED_RESOLUTION_MS) {
            self.last_used_ms.fetch_max(now_ms, Ordering::Relaxed);
        }
        Ok(Credential::Known(self.principal.clone()))
    }
}

/// The table of `grants`, in which tokens keep the "last used" of `old`. The cells are shared, not
/// copied: a request that still reads the old table loses nothing.
fn successor(old: &Table, grants: &[TokenGrant]) -> Table {
    let known = |grant: &TokenGrant| {
        let kept = old.get(&grant.hash).filter(|token| token.id == grant.id);
        KnownToken {
            id: grant.id,
            principal: Principal::new(
                grant.workspace.clone(),
                grant.access.clone(),
                WriterId(grant.id),
            ),
            expires_at_ms: grant.expires_at_ms,
            revoked: grant.revoked,
            last_used_ms: kept
                .map(|token| token.last_used_ms.clone())
                .unwrap_or_default(),
        }
    };
    grants
        .iter()
        .map(|grant| (grant.hash, known(grant)))
        .collect()
}
