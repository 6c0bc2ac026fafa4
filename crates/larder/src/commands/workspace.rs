//! `larder workspace`.

use larder_ledger::WorkspaceRow;

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
        WorkspaceCommand::Delete { place, name } => {
            let settings = place::existing(&place)?;
            let ledger = place::ledger(&settings.store.data_dir).await?;
            ledger.delete_workspace(name.as_str()).await?;
            terminal::note(&format!(
                "workspace {name} is deleted; remove its entries with: larder purge --workspace {name}"
            ));
        }
    }
    Ok(())
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
