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
        roster.refresh().await?;
        Ok(roster)
    }

    /// Reads of the ledger what has changed. Requests see the old table or the new one.
    async fn refresh(&self) -> Result<(), LedgerError> {
        let mut seen = self.seen.lock().await;
        let mark = self.ledger.change_mark().await?;
        let last = *seen;
        if last == Some(mark) {
            return Ok(());
        }
        if last.is_none_or(|last| last.tokens != mark.tokens) {
            let rows = self.ledger.tokens().await?;
            tracing::debug!(tokens = rows.len(), "tokens read");
            self.authenticator
                .replace(rows.into_iter().filter_map(grant_of).collect());
            if last.is_some() {
                // Who was admitted to a workspace that is gone or was revoked is nobody, and whose certificate is for a
                // workspace that has come is somebody.
                self.gateway.workspaces_changed().await;
            }
        }
        let sessions = last.map(|last| last.sessions);
        self.refresh_sessions(sessions.filter(|number| *number > 0), mark.sessions)
            .await?;
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

    /// Reads the ledger whether it has changed or not.
    pub(crate) async fn reload(&self) -> Result<(), LedgerError> {
        if let Some(seen) = self.seen.lock().await.as_mut() {
            // Marks begin at 1.
            *seen = Mark {
                tokens: 0,
                sessions: 0,
            };
        }
        self.refresh().await
    }

    /// Follows the ledger until the task is dropped. While the ledger cannot be read the table
    /// stays as it is, and the log says so once.
    pub(crate) async fn follow(&self) {
        let mut in_trouble = false;
        let mut noted_at = tokio::time::Instant::now();
        let mut reloaded_at = noted_at;
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let read = if reloaded_at.elapsed() >= RELOAD_INTERVAL {
                reloaded_at = tokio::time::Instant::now();
                self.reload().await
            } else {
                self.refresh().await
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
            access: access_of(&row.access, row.scope.as_deref())?,
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
        ] {
            assert!(grant_of(row(access, scope)).is_none(), "{access} {scope:?}");
        }
        let elsewhere = TokenRow {
            workspace: "UPPER".to_owned(),
            ..row("trusted", None)
        };
        assert!(grant_of(elsewhere).is_none());
    }
}
