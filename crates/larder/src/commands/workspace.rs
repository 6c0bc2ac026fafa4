//! `larder workspace`.

use larder_ledger::{Ledger, LedgerError, Missing, TokenRow, WorkspaceRow};

use super::control::Control;
use super::purge;
use crate::cli::WorkspaceCommand;
use crate::{clock, place, terminal};

pub(super) async fn run(command: WorkspaceCommand) -> anyhow::Result<()> {
    match command {
        WorkspaceCommand::Create { place, name } => {
            let settings = place::existing(&place)?;
            let ledger = place::ledger(&settings.store.data_dir).await?;
            ledger
                .create_workspace(name.as_str(), clock::now_ms())
                .await?;
            terminal::note(&format!(
                "workspace {name} is there; give it tokens with: larder token create --workspace {name} --access trusted"
            ));
        }
        WorkspaceCommand::List { place, json } => {
            let settings = place::existing(&place)?;
            let rows = place::ledger(&settings.store.data_dir)
                .await?
                .workspaces()
                .await?;
            terminal::print(&if json {
                list_json(&rows)?
            } else {
                list_table(&rows)
            })?;
        }
        WorkspaceCommand::Delete { place, name, yes } => {
            let settings = place::existing(&place)?;
            let ledger = place::ledger(&settings.store.data_dir).await?;
            check_deletable(&ledger, name.as_str()).await?;
            // First of all, so that a workspace made with the same name later finds nothing.
            let mut control = Control::reach(&place).await?;
            let emptied = purge::empty(&mut control, name.as_str(), yes).await;
            control.close().await;
            if !emptied? {
                terminal::note("nothing was removed");
                return Ok(());
            }
            ledger
                .delete_workspace(name.as_str(), clock::now_ms())
                .await?;
            terminal::note(&format!("workspace {name} is deleted"));
        }
    }
    Ok(())
}

/// Refuses what the ledger would refuse, before any entry is removed.
async fn check_deletable(ledger: &Ledger, name: &str) -> anyhow::Result<()> {
    if !ledger
        .workspaces()
        .await?
        .iter()
        .any(|row| row.name == name)
    {
        let missing = Missing::Workspace(name.to_owned());
        return Err(LedgerError::NotFound(missing).into());
    }
    let tokens = ledger.tokens().await?;
    let in_use = |row: &&TokenRow| row.workspace == name && row.revoked_at_ms.is_none();
    match tokens.iter().filter(in_use).count() as u64 {
        0 => Ok(()),
        token_count => Err(LedgerError::InUse {
            workspace: name.to_owned(),
            token_count,
        }
        .into()),
    }
}

fn list_table(rows: &[WorkspaceRow]) -> String {
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| vec![row.name.clone(), clock::utc_text(row.created_at_ms)])
        .collect();
    terminal::table(&["WORKSPACE", "CREATED"], &cells)
}

fn list_json(rows: &[WorkspaceRow]) -> anyhow::Result<String> {
    let rows: Vec<serde_json::Value> = rows
        .iter()
        .map(|row| serde_json::json!({ "name": row.name, "created_at_ms": row.created_at_ms }))
        .collect();
    Ok(serde_json::to_string_pretty(&rows)?)
}
