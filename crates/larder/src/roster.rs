//! Keeping the table of known tokens equal to the ledger.
//!
//! Other processes (`larder token …`) change the ledger; the server asks four times a second
//! whether anyone did, so that a revoked token stops working within a second (G6).

use std::sync::Arc;
use std::time::Duration;

use larder_auth::{Authenticator, TokenGrant, TokenHash};
use larder_ledger::{Ledger, LedgerError, TokenRow};
use larder_model::Access;
use tokio::sync::Mutex;

use crate::logging::chain;

/// How often the ledger is asked whether it has changed. A quarter of what G6 allows.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often uses of tokens are noted in the ledger.
const LAST_USED_INTERVAL: Duration = Duration::from_secs(30);

/// The known tokens and where they come from.
pub(crate) struct Roster {
    ledger: Ledger,
    authenticator: Arc<Authenticator>,
    /// The ledger's mark when it was read last.
    mark: Mutex<Option<u64>>,
}

impl Roster {
    /// A roster that has read the ledger once.
    pub(crate) async fn load(
        ledger: Ledger,
        authenticator: Arc<Authenticator>,
    ) -> Result<Self, LedgerError> {
        let roster = Self {
            ledger,
            authenticator,
            mark: Mutex::new(None),
        };
        roster.refresh().await?;
        Ok(roster)
    }

    /// Reads the ledger if it has changed. Requests see the old table or the new one.
    async fn refresh(&self) -> Result<(), LedgerError> {
        let mut mark = self.mark.lock().await;
        let now = self.ledger.change_mark().await?;
        if *mark == Some(now) {
            return Ok(());
        }
        let rows = self.ledger.tokens().await?;
        tracing::debug!(tokens = rows.len(), "tokens read");
        self.authenticator
            .replace(rows.into_iter().filter_map(grant_of).collect());
        *mark = Some(now);
        Ok(())
    }

    /// Reads the ledger whether it has changed or not.
    pub(crate) async fn reload(&self) -> Result<(), LedgerError> {
        *self.mark.lock().await = None;
        self.refresh().await
    }

    /// Follows the ledger until the task is dropped. While the ledger cannot be read the table
    /// stays as it is, and the log says so once.
    pub(crate) async fn follow(&self) {
        let mut in_trouble = false;
        let mut noted_at = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            match self.refresh().await {
                Err(error) if !in_trouble => {
                    in_trouble = true;
                    tracing::error!(error = %chain(&error), "tokens cannot be read; the known ones stay in force");
                }
                Ok(()) if in_trouble => {
                    in_trouble = false;
                    tracing::info!("tokens are read again");
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
        let access = match (row.access.as_str(), &row.scope) {
            ("trusted", None) => Access::Trusted,
            ("clean-room", None) => Access::CleanRoom,
            ("reader", None) => Access::Reader,
            ("admin", None) => Access::Admin,
            ("isolated", Some(scope)) => Access::Isolated {
                scope: scope.parse().map_err(|e| format!("{e}"))?,
            },
            ("gate", Some(scope)) => Access::Gate {
                scope: scope.parse().map_err(|e| format!("{e}"))?,
            },
            (access, scope) => return Err(format!("access {access:?} with scope {scope:?}")),
        };
        Ok(TokenGrant {
            id,
            hash: TokenHash(row.hash),
            workspace: row.workspace.parse().map_err(|e| format!("{e}"))?,
            access,
            expires_at_ms: row.expires_at_ms,
            revoked: row.revoked_at_ms.is_some(),
        })
    };
    match understood() {
        Ok(grant) => Some(grant),
        Err(reason) => {
            tracing::error!(
                token = id,
                reason,
                "a token in the ledger is not understood"
            );
            None
        }
    }
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
            ("reader", None),
            ("admin", None),
            ("isolated", Some("pr/7")),
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
