//! `larder purge`: shows what would go, asks, removes.

use anyhow::Context as _;
use bytes::Bytes;
use http::Method;
use larder_protocols::control::{PurgeRequest, PurgeResponse};

use super::control::{Control, read};
use crate::cli::PurgeArgs;
use crate::config::size_text;
use crate::{clock, terminal};

pub(super) async fn run(args: PurgeArgs) -> anyhow::Result<()> {
    let request = request(&args, clock::now_ms())?;
    let mut control = Control::reach(&args.place).await?;
    let outcome = purge(&mut control, &args, request).await;
    control.close().await;
    outcome
}

async fn purge(
    control: &mut Control,
    args: &PurgeArgs,
    mut request: PurgeRequest,
) -> anyhow::Result<()> {
    let unreached = control.unreached(request.workspace.as_deref()).await?;
    request.dry_run = true;
    if args.dry_run || !args.yes {
        let would = ask(control, &request).await?;
        if args.dry_run {
            terminal::print(&format!("would remove {}", amount(&would)))?;
            return all_reached(&unreached);
        }
        if !agreed(&would)? {
            terminal::note("nothing was removed");
            return Ok(());
        }
    }
    request.dry_run = false;
    let removed = ask(control, &request).await?;
    terminal::print(&format!("removed {}", amount(&removed)))?;
    all_reached(&unreached)
}

/// Removes all entries of a workspace, wherever they are; false when the operator said no.
pub(super) async fn empty(
    control: &mut Control,
    workspace: &str,
    yes: bool,
) -> anyhow::Result<bool> {
    all_reached(&control.unreached(Some(workspace)).await?)?;
    let mut request = PurgeRequest {
        workspace: Some(workspace.to_owned()),
        dry_run: true,
        ..PurgeRequest::default()
    };
    let would = ask(control, &request).await?;
    if would.entries > 0 && !yes && !agreed(&would)? {
        return Ok(false);
    }
    // Also when there was nothing: an upload may have ended since.
    request.dry_run = false;
    let removed = ask(control, &request).await?;
    terminal::note(&format!("removed {}", amount(&removed)));
    Ok(true)
}

fn agreed(would: &PurgeResponse) -> anyhow::Result<bool> {
    let amount = amount(would);
    terminal::confirm(&format!("Remove {amount} for good?"))
        .with_context(|| format!("this would remove {amount}; pass --yes to do it"))
}

/// What is out of reach may have what was to be removed.
fn all_reached(unreached: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(
        unreached.is_empty(),
        "not reached: {}, which the server's configuration does not mention; stop the server and do \
         this again, or remove the pool's directory",
        unreached.join(", ")
    );
    Ok(())
}

async fn ask(control: &mut Control, request: &PurgeRequest) -> anyhow::Result<PurgeResponse> {
    let message = Bytes::from(serde_json::to_vec(request)?);
    read(control.call(Method::POST, "purge", message).await?).await
}

fn amount(purged: &PurgeResponse) -> String {
    let noun = if purged.entries == 1 {
        "entry"
    } else {
        "entries"
    };
    format!("{} {noun}, {}", purged.entries, size_text(purged.bytes))
}

fn request(args: &PurgeArgs, now_ms: u64) -> anyhow::Result<PurgeRequest> {
    let older_than_ms = args.older_than.map(|age| age.as_millis() as u64);
    let request = PurgeRequest {
        workspace: args.workspace.as_ref().map(ToString::to_string),
        scope: args.scope.as_ref().map(ToString::to_string),
        dialect: args.dialect.map(|dialect| dialect.name().to_owned()),
        key: args.key.clone(),
        writer: args.writer,
        written_before_ms: older_than_ms.map(|age_ms| now_ms.saturating_sub(age_ms)),
        written_after_ms: None,
        everything: args.all,
        dry_run: false,
    };
    if request == PurgeRequest::default() {
        anyhow::bail!(
            "say what to remove: --workspace, --scope, --dialect, --key, --writer, --older-than, or --all"
        );
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn of(line: &str) -> anyhow::Result<PurgeRequest> {
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Command::Purge(args) => request(&args, 10_000_000),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_is_purged_by_saying_nothing() {
        assert!(of("larder purge --yes").is_err());
        assert!(of("larder purge --dry-run").is_err());
        assert!(of("larder purge --all").unwrap().everything);
    }

    #[test]
    fn every_flag_narrows_the_request() {
        let line = "larder purge --workspace acme --scope pr/7 --dialect nx --key k --writer 3 --older-than 1h";
        let expected = PurgeRequest {
            workspace: Some("acme".to_owned()),
            scope: Some("pr/7".to_owned()),
            dialect: Some("nx".to_owned()),
            key: Some("k".to_owned()),
            writer: Some(3),
            written_before_ms: Some(10_000_000 - 3_600_000),
            written_after_ms: None,
            everything: false,
            dry_run: false,
        };
        assert_eq!(of(line).unwrap(), expected);
    }
}
