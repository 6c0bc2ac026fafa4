//! `larder stats`.

use std::fmt::Write as _;

use bytes::Bytes;
use http::Method;
use larder_protocols::control::{PoolFigures, ScopeFigures, StatsResponse};

use super::control::{Control, read};
use crate::cli::StatsArgs;
use crate::config::size_text;
use crate::{clock, terminal};

pub(super) async fn run(args: StatsArgs) -> anyhow::Result<()> {
    let mut control = Control::reach(&args.place).await?;
    let answer = control.call(Method::GET, "stats", Bytes::new()).await;
    let stats: anyhow::Result<StatsResponse> = match answer {
        Ok(answer) => read(answer).await,
        Err(error) => Err(error),
    };
    control.close().await;
    let stats = stats?;
    let text = if args.json {
        serde_json::to_string_pretty(&stats)?
    } else {
        tables(&stats)
    };
    Ok(terminal::print(&text)?)
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
        clock::utc_text(scope.oldest_ms),
        clock::utc_text(scope.newest_ms),
    ]
}
