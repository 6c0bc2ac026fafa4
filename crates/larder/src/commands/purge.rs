//! `larder purge`: shows what would go, asks, removes.

use larder_protocols::control::{EntryState, SelectionRequest};

use super::change::{PURGE, agreed, all_reached, amount, ask, run as change};
use super::control::Control;
use crate::cli::PurgeArgs;
use crate::terminal;

pub(super) async fn run(args: PurgeArgs) -> anyhow::Result<()> {
    let state = args.quarantined.then_some(EntryState::Quarantined);
    change(PURGE, &args.change, |request| request.state = state).await
}

/// Removes all entries of a workspace, wherever they are; false when the operator said no.
pub(super) async fn empty(
    control: &mut Control,
    workspace: &str,
    yes: bool,
) -> anyhow::Result<bool> {
    all_reached(&control.unreached(Some(workspace)).await?)?;
    let mut request = SelectionRequest {
        workspace: Some(workspace.to_owned()),
        dry_run: true,
        ..SelectionRequest::default()
    };
    let would = ask(control, PURGE, &request).await?;
    if would.entries > 0 && !yes && !agreed(PURGE, &would)? {
        return Ok(false);
    }
    // Also when there was nothing: an upload may have ended since.
    request.dry_run = false;
    let removed = ask(control, PURGE, &request).await?;
    terminal::note(&format!("removed {}", amount(&removed)));
    Ok(true)
}
