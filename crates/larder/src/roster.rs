//! Keeping the tables of known tokens and sessions equal to the ledger.
//!
//! Other processes (`larder token …`) change the ledger; the server asks four times a second
//! whether anyone did, so that what was revoked stops working within a second (G6). Tokens are
//! few and change seldom: all are read again. Of sessions, which are many and come with every
//! job, those are read that have changed.

use std::sync::Arc;
use std::time::Duration;

use larder_auth::{Authenticator, SessionGrant, TokenGrant, TokenHash};
use larder_ledger::{Ledger, LedgerError, Mark, SessionRow, TokenRow};
use larder_model::Access;
use larder_protocols::Gateway;
use tokio::sync::Mutex;

use crate::clock;
use crate::logging::chain;

/// How often the ledger is asked whether it has changed. A quarter of what G6 allows.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often uses of tokens are noted in the ledger.
const LAST_USED_INTERVAL: Duration = Duration::from_secs(30);
/// How often everything is read, whether it has changed or not: sessions that ended long ago are
/// forgotten then, and the writers of certificates are noted as seen.
const RELOAD_INTERVAL: Duration = Duration::from_hours(1);
/// How often what the ledger did not do when rules changed is tried again.
const SETTLE_INTERVAL: Duration = Duration::from_secs(5);
/// How long a session is known after its end: its job's late requests are misses and no errors.
const ENDED_SESSIONS_MS: u64 = 24 * 3_600_000;

/// The known tokens and sessions and where they come from.
pub(crate) struct Roster {
    ledger: Ledger,
    authenticator: Arc<Authenticator>,
    gateway: Arc<Gateway>,
    /// When the ledger was read last.
    seen: Mutex<Option<Mark>>,
}

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Changed,
    All,
}

impl Roster {
    /// A roster that has read the ledger once.
    pub(crate) async fn load(
        ledger: Ledger,
        authenticator: Arc<Authenticator>,
        gateway: Arc<Gateway>,
    ) -> Result<Self, LedgerError> {
        let roster = Self {
            ledger,
            authenticator,
            gateway,
            seen: Mutex::new(None),
        };
        roster.refresh(Extent::Changed).await?;
        Ok(roster)
    }

    /// Reads of the ledger what has changed, or all. Requests see the old table or the new one.
    async fn refresh(&self, extent: Extent) -> Result<(), LedgerError> {
        let mut seen = self.seen.lock().await;
        let mark = self.ledger.change_mark().await?;
        let last = *seen;
        if last == Some(mark) && extent == Extent::Changed {
            return Ok(());
        }
        let changed = last.is_none_or(|last| last.tokens != mark.tokens);
        if changed || extent == Extent::All {
            let rows = self.ledger.tokens().await?;
            tracing::debug!(tokens = rows.len(), "tokens read");
            self.authenticator
                .replace(rows.into_iter().filter_map(grant_of).collect());
        }
        let sessions = last.filter(|_| extent == Extent::Changed);
        self.refresh_sessions(sessions.map(|last| last.sessions), mark.sessions)
            .await?;
        if changed || extent == Extent::All {
            // Last, because it asks the ledger for each certificate.
            match last {
                // Who was admitted to a workspace that is gone or was revoked is nobody, and whose certificate is for a
                // workspace that has come is somebody.
                Some(_) if changed => self.gateway.workspaces_changed().await,
                Some(_) => self.gateway.renew_certificates().await,
                None => {}
            }
        }
        *seen = Some(mark);
        Ok(())
    }

    /// Reads the sessions that have changed since `last`, or all.
    async fn refresh_sessions(&self, last: Option<u64>, now: u64) -> Result<(), LedgerError> {
        if last == Some(now) {
            return Ok(());
        }
        let table = self.authenticator.session_mark();
        let grants = |rows: Vec<SessionRow>| -> Vec<SessionGrant> {
            rows.into_iter().filter_map(session_grant_of).collect()
        };
        if let Some(last) = last {
            let rows = self.ledger.sessions_since(last).await?;
            self.authenticator.update_sessions(&grants(rows), table);
        } else {
            let known_from_ms = clock::now_ms().saturating_sub(ENDED_SESSIONS_MS);
            let rows = self.ledger.sessions(known_from_ms).await?;
            self.authenticator.replace_sessions(&grants(rows), table);
        }
        Ok(())
    }

    /// Reads of the ledger what has changed, now.
    pub(crate) async fn catch_up(&self) -> Result<(), LedgerError> {
        self.refresh(Extent::Changed).await
    }

    /// Reads the ledger whether it has changed or not.
    pub(crate) async fn reload(&self) -> Result<(), LedgerError> {
        self.refresh(Extent::All).await
    }

    /// Follows the ledger until the task is dropped, and brings to an end what it did not do when rules changed.
    pub(crate) async fn follow(&self) {
        let settle = async {
            loop {
                tokio::time::sleep(SETTLE_INTERVAL).await;
                self.gateway.settle().await;
            }
        };
        tokio::join!(self.follow_changes(), settle);
    }

    /// While the ledger cannot be read the table stays as it is, and the log says so once.
    async fn follow_changes(&self) {
        let mut in_trouble = false;
        let mut noted_at = tokio::time::Instant::now();
        let mut reloaded_at = noted_at;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let read = if reloaded_at.elapsed() >= RELOAD_INTERVAL {
                reloaded_at = tokio::time::Instant::now();
                self.reload().await
            } else {
                self.refresh(Extent::Changed).await
            };
            match read {
                Err(error) if !in_trouble => {
                    in_trouble = true;
                    tracing::error!(error = %chain(&error), "tokens and sessions cannot be read; the known ones stay in force");
                }
                Ok(()) if in_trouble => {
                    in_trouble = false;
                    tracing::info!("tokens and sessions are read again");
                }
                Err(_) | Ok(()) => {}
            }
            if noted_at.elapsed() >= LAST_USED_INTERVAL {
                noted_at = tokio::time::Instant::now();
                self.note_last_used().await;
            }
        }
    }

    /// Writes down which tokens were used.
    pub(crate) async fn note_last_used(&self) {
        let uses = self.authenticator.take_last_used();
        if let Err(error) = self.ledger.record_last_used(&uses).await {
            tracing::warn!(error = %chain(&error), "uses of tokens were not noted");
        }
    }
}

/// What the ledger says of a token, if this version understands all of it. A token that is not
/// understood is not known: doubt never gives access.
fn grant_of(row: TokenRow) -> Option<TokenGrant> {
    let id = row.id;
    let understood = || -> Result<TokenGrant, String> {
        Ok(TokenGrant {
            id,
            hash: TokenHash(row.hash),
            workspace: row.workspace.parse().map_err(|e| format!("{e}"))?,
            access: own_access(id, access_of(&row.access, row.scope.as_deref())?)?,
            expires_at_ms: row.expires_at_ms,
            revoked: row.revoked_at_ms.is_some(),
        })
    };
    let understood = understood();
    if let Err(reason) = &understood {
        tracing::error!(
            token = id,
            reason,
            "a token in the ledger is not understood"
        );
    }
    understood.ok()
}

/// A token's access, unless its scope is one that the server gives to others: to a CI's jobs, or to another token. Versions that
/// had no CI rules let anybody ask for such a scope.
fn own_access(token: u64, access: Access) -> Result<Access, String> {
    let Some(scope) = access.scope() else {
        return Ok(access);
    };
    let first = scope.as_str().split('/').next().unwrap_or_default();
    let first = first.to_ascii_lowercase();
    let is_own = scope.as_str() == format!("token/{token}");
    let is_reserved = first == "token" || first == "ci" || first.starts_with("ci.");
    if is_reserved && !is_own {
        return Err(format!(
            "the scope {scope} is the server's to give; make another token and revoke this one"
        ));
    }
    Ok(access)
}

/// The same of a session.
fn session_grant_of(row: SessionRow) -> Option<SessionGrant> {
    let writer = row.writer;
    let understood = || -> Result<SessionGrant, String> {
        Ok(SessionGrant {
            hash: TokenHash(row.hash),
            writer,
            workspace: row.workspace.parse().map_err(|e| format!("{e}"))?,
            access: access_of(&row.access, row.scope.as_deref())?,
            expires_at_ms: row.expires_at_ms,
            revoked: row.revoked_at_ms.is_some(),
        })
    };
    let understood = understood();
    if let Err(reason) = &understood {
        tracing::error!(writer, reason, "a session in the ledger is not understood");
    }
    understood.ok()
}

fn access_of(word: &str, scope: Option<&str>) -> Result<Access, String> {
    let own = |scope: &str| scope.parse().map_err(|e| format!("{e}"));
    Ok(match (word, scope) {
        ("trusted", None) => Access::Trusted,
        ("clean-room", None) => Access::CleanRoom,
        ("reader", None) => Access::Reader,
        ("admin", None) => Access::Admin,
        ("isolated", Some(scope)) => Access::Isolated { scope: own(scope)? },
        ("gate", Some(scope)) => Access::Gate { scope: own(scope)? },
        (word, scope) => return Err(format!("access {word:?} with scope {scope:?}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(access: &str, scope: Option<&str>) -> TokenRow {
        TokenRow {
            id: 7,
            hash: [1; 32],
            workspace: "default".to_owned(),
            access: access.to_owned(),
            scope: scope.map(str::to_owned),
            name: None,
            created_at_ms: 0,
            expires_at_ms: None,
            revoked_at_ms: None,
            last_used_at_ms: None,
        }
    }

    #[test]
    fn every_kind_of_access_is_understood() {
        for (access, scope) in [
            ("trusted", None),
            ("clean-room", None),
            ("reader", None),
            ("admin", None),
            ("isolated", Some("pr/7")),
            ("gate", Some("mq/7")),
        ] {
            let grant = grant_of(row(access, scope)).unwrap();
            assert_eq!(grant.access.kind().name(), access);
        }
    }

    #[test]
    fn a_token_that_is_not_understood_gives_no_access() {
        for (access, scope) in [
            ("owner", None),
            ("isolated", None),
            ("isolated", Some("trusted")),
            ("isolated", Some("../x")),
            ("trusted", Some("pr/7")),
            ("clean-room", Some("pr/7")),
            ("gate", None),
            ("isolated", Some("ci.web/pr-1")),
            ("gate", Some("CI.web/mq-1")),
            ("isolated", Some("ci")),
            ("isolated", Some("ci/x")),
            ("isolated", Some("token/8")),
            ("isolated", Some("token")),
            ("isolated", Some("token/7/x")),
        ] {
            assert!(grant_of(row(access, scope)).is_none(), "{access} {scope:?}");
        }
        for scope in ["token/7", "cin/x", "tokens/8", "circle/pr-1"] {
            let granted = grant_of(row("isolated", Some(scope)));
            assert!(granted.is_some(), "{scope}");
        }
        let elsewhere = TokenRow {
            workspace: "UPPER".to_owned(),
            ..row("trusted", None)
        };
        assert!(grant_of(elsewhere).is_none());
    }
}
