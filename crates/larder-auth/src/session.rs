//! Sessions: what CI jobs got in exchange for their JWTs.
//!
//! The ledger keeps them. This table is replaced by what the ledger says, a few times a second at most, and changed at once
//! where this node makes or ends a session, so that nobody waits for the ledger to be read again.
//!
//! Always true: what was made or ended here after somebody began to read the ledger survives what was read. A session that has
//! ended, wherever that was known first, is never in force again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use larder_model::{Access, Principal, WorkspaceName, WriterId};

use crate::authenticator::Credential;
use crate::shards::{SHARDS, Shards, shard_of};
use crate::token::TokenHash;

/// One session, as whoever keeps the sessions knows it.
#[derive(Debug, Clone)]
pub struct SessionGrant {
    /// The hash of the session's text.
    pub hash: TokenHash,
    /// The number that entries written in the session remember as their writer.
    pub writer: u64,
    /// The workspace the session belongs to.
    pub workspace: WorkspaceName,
    /// What may be done in it.
    pub access: Access,
    /// When it ends, in unix milliseconds.
    pub expires_at_ms: u64,
    /// Whether it was ended before.
    pub revoked: bool,
}

/// A moment in the history of a table of sessions. To be taken before the ledger is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionMark(u64);

impl SessionGrant {
    /// Who its bearer is while it is in force.
    pub fn principal(&self) -> Principal {
        let (workspace, access) = (self.workspace.clone(), self.access.clone());
        Principal::new(workspace, access, WriterId(self.writer))
    }
}

#[derive(Debug)]
struct KnownSession {
    principal: Principal,
    expires_at_ms: u64,
    revoked: bool,
    /// Which change of the table put it in. 0: the ledger said so.
    change: u64,
}

impl KnownSession {
    fn of(grant: &SessionGrant, change: u64) -> Arc<Self> {
        Arc::new(Self {
            principal: grant.principal(),
            expires_at_ms: grant.expires_at_ms,
            revoked: grant.revoked,
            change,
        })
    }
}

/// The known sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    known: Shards<KnownSession>,
    changes: AtomicU64,
}

impl Sessions {
    /// Who holds the session; `None` if nobody knows it. One that is over, or was ended, is [`Credential::Expired`]: a job's
    /// last step ends its session while uploads may still be on their way.
    pub(crate) fn ask(&self, hash: &TokenHash, now_ms: u64) -> Option<Credential> {
        self.known.get(hash, |session| {
            if session.revoked || now_ms >= session.expires_at_ms {
                Credential::Expired
            } else {
                Credential::Known(session.principal.clone())
            }
        })
    }

    pub(crate) fn mark(&self) -> SessionMark {
        SessionMark(self.changes.load(Ordering::SeqCst))
    }

    pub(crate) fn replace(&self, grants: &[SessionGrant], mark: SessionMark) {
        let mut by_shard: [Vec<&SessionGrant>; SHARDS] = std::array::from_fn(|_| Vec::new());
        for grant in grants {
            by_shard[shard_of(&grant.hash)].push(grant);
        }
        self.known.change_all(|index, shard| {
            shard.retain(|_, session| session.change > mark.0);
            for grant in &by_shard[index] {
                let fresh = || KnownSession::of(grant, 0);
                if grant.revoked {
                    shard.insert(grant.hash, fresh());
                } else {
                    shard.entry(grant.hash).or_insert_with(fresh);
                }
            }
        });
    }

    /// Takes what the ledger says of these, and leaves the others.
    pub(crate) fn update(&self, grants: &[SessionGrant], mark: SessionMark) {
        for grant in grants {
            self.known.change(&grant.hash, |shard| {
                let changed_since = |known: &Arc<KnownSession>| known.change > mark.0;
                if grant.revoked || !shard.get(&grant.hash).is_some_and(changed_since) {
                    shard.insert(grant.hash, KnownSession::of(grant, 0));
                }
            });
        }
    }

    /// When the session ends, in unix milliseconds.
    pub(crate) fn expires_at_ms(&self, hash: &TokenHash) -> Option<u64> {
        self.known.get(hash, |session| session.expires_at_ms)
    }

    pub(crate) fn add(&self, grant: &SessionGrant) {
        let session = KnownSession::of(grant, self.next_change());
        self.known.change(&grant.hash, |shard| {
            let ended = shard.get(&grant.hash).is_some_and(|known| known.revoked);
            if !ended {
                shard.insert(grant.hash, Arc::clone(&session));
            }
        });
    }

    pub(crate) fn end(&self, hash: &TokenHash) {
        let change = self.next_change();
        self.known.change(hash, |shard| {
            if let Some(session) = shard.get_mut(hash) {
                *session = Arc::new(KnownSession {
                    principal: session.principal.clone(),
                    expires_at_ms: session.expires_at_ms,
                    revoked: true,
                    change,
                });
            }
        });
    }

    fn next_change(&self) -> u64 {
        self.changes.fetch_add(1, Ordering::SeqCst) + 1
    }
}
