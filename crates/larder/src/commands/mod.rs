//! What the commands do, apart from `serve`.

mod config;
mod control;
mod purge;
mod stats;
mod token;
mod verify;
mod workspace;

use anyhow::Context as _;

use crate::cli::Command;

/// Runs a command to its end.
pub(crate) fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Serve(args) => crate::serve::serve(&args),
        Command::Config(command) => config::run(&command),
        Command::Token(command) => block_on(token::run(command)),
        Command::Workspace(command) => block_on(workspace::run(command)),
        Command::Purge(args) => block_on(purge::run(args)),
        Command::Stats(args) => block_on(stats::run(args)),
        Command::Verify(args) => block_on(verify::run(args)),
    }
}

fn block_on(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(command)
}
