//! The table of known tokens, and the question it answers for every request.
//!
//! The table is replaced as a whole when the tokens change and never changed in place, so that a
//! request sees all of one version. Only "last used" is written by requests: one relaxed atomic
//! per token, shared by successive tables, and written at most once a second so that requests on
//! different processor cores do not fight for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use larder_model::{Access, Principal, WorkspaceName, WriterId};

use crate::header::{self, Presented};
use crate::memo::HashMemo;
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

/// Who a request says it comes from, when that is in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// No credential, or an empty one: what a fork's CI sends when the secret is withheld.
    Absent,
    /// The holder of a token that the server knows and that is in force.
    Known(Principal),
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
    table: ArcSwap<Table>,
    hashes: HashMemo,
}

impl Authenticator {
    /// An authenticator that knows no token.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on `grants` are the known tokens, and no other. Requests that arrive meanwhile
    /// see the old table or the new one.
    pub fn replace(&self, grants: Vec<TokenGrant>) {
        self.table.rcu(|old| successor(old, &grants));
    }

    /// Who sent a request with this value of the `Authorization` header, if it had one? `now_ms`
    /// is the time in unix milliseconds.
    pub fn authenticate(
        &self,
        authorization: Option<&[u8]>,
        now_ms: u64,
    ) -> Result<Credential, BadCredential> {
        let Some(authorization) = authorization else {
            return Ok(Credential::Absent);
        };
        let table = self.table.load();
        let known = self.hashes.recall(authorization, |hash| table.get(hash));
        let token = if let Some(token) = known {
            token
        } else {
            let hash = match header::read(authorization)? {
                Presented::Nothing => return Ok(Credential::Absent),
                Presented::Token(secret) => secret.hash(),
            };
            let token = table.get(&hash).ok_or(BadCredential::Unknown)?;
            self.hashes.remember(authorization, hash);
            token
        };
        if token.revoked {
            return Err(BadCredential::Revoked);
        }
        if token
            .expires_at_ms
            .is_some_and(|expires_at_ms| now_ms >= expires_at_ms)
        {
            return Err(BadCredential::Expired);
        }
        let last_used_ms = token.last_used_ms.load(Ordering::Relaxed);
        if now_ms >= last_used_ms.saturating_add(LAST_USED_RESOLUTION_MS) {
            token.last_used_ms.fetch_max(now_ms, Ordering::Relaxed);
        }
        Ok(Credential::Known(token.principal.clone()))
    }

    /// The tokens that were used since the last call, with the time of their latest use in unix
    /// milliseconds, exact to a second. A token that leaves the table takes its use with it.
    pub fn take_last_used(&self) -> Vec<(u64, u64)> {
        let table = self.table.load();
        table
            .values()
            .map(|token| (token.id, token.last_used_ms.swap(UNUSED, Ordering::Relaxed)))
            .filter(|&(_, last_used_ms)| last_used_ms != UNUSED)
            .collect()
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
