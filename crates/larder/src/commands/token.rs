//! `larder token`: the ledger does the work, a running server follows it.

use std::io::Read as _;

use anyhow::Context as _;
use larder_auth::TokenSecret;
use larder_ledger::{Ledger, LedgerError, Missing, NewToken, TokenRow};
use larder_model::AccessKind;

use super::control::tokens_changed;
use crate::cli::{AccessArg, TokenCommand, TokenCreateArgs};
use crate::{clock, place, terminal};

/// What `-` may bring: a token, its id, white space.
const STDIN_BYTES_MAX: u64 = 4096;
/// A name is shown in a table.
const NAME_CHARS_MAX: usize = 100;

pub(super) async fn run(command: TokenCommand) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create(args) => create(args).await,
        TokenCommand::List { place, json } => {
            let settings = place::existing(&place)?;
            let rows = place::ledger(&settings.store.data_dir)
                .await?
                .tokens()
                .await?;
            let text = if json {
                list_json(&rows)?
            } else {
                list_table(&rows, clock::now_ms())
            };
            Ok(terminal::print(&text)?)
        }
        TokenCommand::Revoke { place, token } => {
            let settings = place::existing(&place)?;
            revoke(&place::ledger(&settings.store.data_dir).await?, &token).await?;
            tokens_changed(&settings.store.data_dir).await;
            Ok(())
        }
    }
}

async fn create(args: TokenCreateArgs) -> anyhow::Result<()> {
    let kind = access_kind(args.access);
    if args.scope.is_some() && !matches!(kind, AccessKind::Isolated | AccessKind::Gate) {
        anyhow::bail!(
            "--scope is for isolated and gate tokens: a {} token has no scope of its own",
            kind.name()
        );
    }
    if args
        .name
        .as_ref()
        .is_some_and(|name| name.chars().count() > NAME_CHARS_MAX)
    {
        anyhow::bail!("a token's name has at most {NAME_CHARS_MAX} characters");
    }
    if args
        .name
        .as_ref()
        .is_some_and(|name| name.trim().is_empty())
    {
        anyhow::bail!("--name is empty; leave it out, or say what to recognize the token by");
    }
    if args.expires.is_some_and(|time| time.is_zero()) {
        anyhow::bail!(
            "--expires 0s would make a token that never works; leave it out for one that never expires"
        );
    }
    let settings = place::existing(&args.place)?;
    let ledger = place::ledger(&settings.store.data_dir).await?;
    let now_ms = clock::now_ms();
    let expires = args.expires.map(|time| now_ms + time.as_millis() as u64);
    let secret = TokenSecret::generate();
    let new = NewToken {
        hash: secret.hash().0,
        workspace: args.workspace.to_string(),
        access: kind.name().to_owned(),
        scope: args.scope.map(|scope| scope.as_str().to_owned()),
        name: args.name,
        created_at_ms: now_ms,
        expires_at_ms: expires,
    };
    let row = match ledger.create_token(new).await {
        Err(LedgerError::NotFound(Missing::Workspace(name))) => anyhow::bail!(
            "there is no workspace {name:?}; make it with: larder workspace create {name}"
        ),
        created => created?,
    };
    tokens_changed(&settings.store.data_dir).await;
    terminal::note(&describe(&row));
    Ok(terminal::print(secret.expose())?)
}

fn describe(row: &TokenRow) -> String {
    let scope = row
        .scope
        .as_ref()
        .map(|scope| format!(", scope {scope}"))
        .unwrap_or_default();
    let expires = match row.expires_at_ms {
        Some(ms) => format!(", until {}", clock::utc_text(ms)),
        None => String::new(),
    };
    format!(
        "token {} for workspace {:?}: {}{scope}{expires}. It is shown only now.",
        row.id, row.workspace, row.access
    )
}

async fn revoke(ledger: &Ledger, token: &str) -> anyhow::Result<()> {
    let id = match token.trim() {
        "-" => {
            let mut text = String::new();
            std::io::stdin()
                .take(STDIN_BYTES_MAX)
                .read_to_string(&mut text)
                .context("cannot read the token from standard input")?;
            token_id(ledger, text.trim()).await?
        }
        text => {
            if text.parse::<u64>().is_err() {
                terminal::note(
                    "note: every user of this machine could read that token in the list of processes; \
                     give - and the token on standard input, or its id",
                );
            }
            token_id(ledger, text).await?
        }
    };
    let row = match ledger.revoke_token(id, clock::now_ms()).await {
        Err(LedgerError::NotFound(_)) => {
            anyhow::bail!("there is no token {id}; see: larder token list")
        }
        revoked => revoked?,
    };
    terminal::note(&format!("token {} ({}) is revoked", row.id, row.access));
    Ok(())
}

/// Never repeats what it was given: that may be a token.
async fn token_id(ledger: &Ledger, text: &str) -> anyhow::Result<u64> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let secret = TokenSecret::parse(text)
        .context("give the token's id (see: larder token list), the whole token, or - to read it from standard input")?;
    let row = ledger.token_by_hash(&secret.hash().0).await?;
    Ok(row
        .context("no token with this text is in the ledger of this data directory")?
        .id)
}

fn access_kind(access: AccessArg) -> AccessKind {
    match access {
        AccessArg::Trusted => AccessKind::Trusted,
        AccessArg::CleanRoom => AccessKind::CleanRoom,
        AccessArg::Isolated => AccessKind::Isolated,
        AccessArg::Gate => AccessKind::Gate,
        AccessArg::Reader => AccessKind::Reader,
        AccessArg::Admin => AccessKind::Admin,
    }
}

fn state(row: &TokenRow, now_ms: u64) -> &'static str {
    match row {
        row if row.revoked_at_ms.is_some() => "revoked",
        row if row.expires_at_ms.is_some_and(|end| now_ms >= end) => "expired",
        _ => "in force",
    }
}

fn list_table(rows: &[TokenRow], now_ms: u64) -> String {
    let time = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), clock::utc_text);
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.id.to_string(),
                row.workspace.clone(),
                row.access.clone(),
                text(&row.scope),
                text(&row.name),
                state(row, now_ms).to_owned(),
                clock::utc_text(row.created_at_ms),
                time(row.expires_at_ms),
                time(row.last_used_at_ms),
            ]
        })
        .collect();
    let header = [
        "ID",
        "WORKSPACE",
        "ACCESS",
        "SCOPE",
        "NAME",
        "STATE",
        "CREATED",
        "EXPIRES",
        "LAST USED",
    ];
    terminal::table(&header, &cells)
}

fn list_json(rows: &[TokenRow]) -> anyhow::Result<String> {
    let now_ms = clock::now_ms();
    let tokens: Vec<serde_json::Value> = rows
        .iter()
        .map(|row| {
            serde_json::json!({
                "id": row.id,
                "workspace": row.workspace,
                "access": row.access,
                "scope": row.scope,
                "name": row.name,
                "state": state(row, now_ms),
                "created_at_ms": row.created_at_ms,
                "expires_at_ms": row.expires_at_ms,
                "revoked_at_ms": row.revoked_at_ms,
                "last_used_at_ms": row.last_used_at_ms,
            })
        })
        .collect();
    Ok(serde_json::to_string_pretty(&tokens)?)
}
