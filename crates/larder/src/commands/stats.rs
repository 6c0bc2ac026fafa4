//! `larder stats`.

use std::fmt::Write as _;

use bytes::Bytes;
use http::Method;
use larder_protocols::control::{
    NondeterministicResponse, PoolFigures, ScopeFigures, StatsResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::control::{Control, read};
use super::selection::who;
use crate::cli::StatsArgs;
use crate::config::size_text;
use crate::{clock, terminal};

pub(super) async fn run(args: StatsArgs) -> anyhow::Result<()> {
    if args.nondeterministic {
        return show(&args, "nondeterministic", actions).await;
    }
    show(&args, "stats", tables).await
}

async fn show<T: DeserializeOwned + Serialize>(
    args: &StatsArgs,
    operation: &str,
    text: fn(&T) -> String,
) -> anyhow::Result<()> {
    let mut control = Control::reach(&args.place).await?;
    let answer = control.call(Method::GET, operation, Bytes::new()).await;
    let figures: anyhow::Result<T> = match answer {
        Ok(answer) => read(answer).await,
        Err(error) => Err(error),
    };
    control.close().await;
    let figures = figures?;
    let text = if args.json {
        serde_json::to_string_pretty(&figures)?
    } else {
        text(&figures)
    };
    Ok(terminal::print(&text)?)
}

fn actions(found: &NondeterministicResponse) -> String {
    if found.actions.is_empty() {
        return "no action's result was stored again with other outputs".to_owned();
    }
    let writer = |id: Option<u64>| id.map_or_else(|| "-".to_owned(), |id| who(id, &found.writers));
    let cells: Vec<Vec<String>> = found
        .actions
        .iter()
        .map(|action| {
            vec![
                action.workspace.clone(),
                action.scope.clone(),
                action.action.clone(),
                action.times.to_string(),
                clock::utc_text(action.first_at_ms),
                clock::utc_text(action.last_at_ms),
                writer(action.writer_before),
                writer(action.writer),
            ]
        })
        .collect();
    let header = [
        "WORKSPACE",
        "SCOPE",
        "ACTION",
        "TIMES",
        "FIRST",
        "LAST",
        "WRITTEN BY",
        "THEN BY",
    ];
    terminal::table(&header, &cells)
}

fn tables(stats: &StatsResponse) -> String {
    let pools: Vec<Vec<String>> = stats.pools.iter().map(pool_cells).collect();
    let mut text = terminal::table(
        &["POOL", "USED", "BUDGET", "ENTRIES", "EVICTED", "CORRUPT"],
        &pools,
    );
    if stats.scopes.is_empty() {
        return text + "\n\nno entries";
    }
    let scopes: Vec<Vec<String>> = stats.scopes.iter().map(scope_cells).collect();
    let header = [
        "WORKSPACE",
        "SCOPE",
        "DIALECT",
        "ENTRIES",
        "BYTES",
        "QUARANTINED",
        "OLDEST",
        "NEWEST",
    ];
    text.push_str("\n\n");
    text.push_str(&terminal::table(&header, &scopes));
    if stats.entries_beyond_scopes > 0 {
        let beyond = stats.entries_beyond_scopes;
        write!(text, "\nand {beyond} entries in more scopes").expect("a string takes every write");
    }
    text
}

fn pool_cells(pool: &PoolFigures) -> Vec<String> {
    vec![
        pool.name.clone(),
        size_text(pool.used_bytes),
        size_text(pool.budget_bytes),
        pool.entries.to_string(),
        pool.evicted_entries.to_string(),
        pool.corrupt_entries.to_string(),
    ]
}

fn scope_cells(scope: &ScopeFigures) -> Vec<String> {
    vec![
        scope.workspace.clone(),
        scope.scope.clone(),
        scope.dialect.clone(),
        scope.entries.to_string(),
        size_text(scope.bytes),
        scope.quarantined_entries.to_string(),
        clock::utc_text(scope.oldest_ms),
        clock::utc_text(scope.newest_ms),
    ]
}
