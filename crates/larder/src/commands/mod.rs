//! What the commands do, apart from `serve`.

mod audit;
mod bench;
mod bucket;
mod change;
mod config;
mod control;
mod credential_helper;
mod creep_check;
mod entry;
mod lines;
mod login;
mod logout;
mod policy;
mod purge;
mod quarantine;
mod selection;
mod session;
mod stats;
mod token;
mod verify;
mod whoami;
mod workspace;

use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli::Command;

/// Runs a command to its end, and tells how the program ends if that is no error.
pub(crate) fn run(command: Command) -> anyhow::Result<ExitCode> {
    let done = match command {
        // What it finds is in its exit code.
        Command::CreepCheck(args) => return block_on(creep_check::run(*args)),
        Command::Bench(args) => return bench::run(&args),
        Command::Serve(args) => crate::serve::serve(&args),
        Command::Config(command) => config::run(&command),
        Command::Token(command) => block_on(token::run(command)),
        Command::Workspace(command) => block_on(workspace::run(command)),
        Command::Purge(args) => block_on(purge::run(*args)),
        Command::Quarantine(args) => block_on(quarantine::run(*args)),
        Command::Entry(command) => block_on(entry::run(command)),
        Command::Bucket(command) => block_on(bucket::run(command)),
        Command::Audit(args) => block_on(audit::run(*args)),
        Command::Stats(args) => block_on(stats::run(args)),
        Command::Verify(args) => block_on(verify::run(args)),
        Command::Login(args) => block_on(login::run(args)),
        Command::Logout(args) => block_on(logout::run(args)),
        Command::Session(command) => block_on(session::run(command)),
        Command::Whoami(args) => block_on(whoami::run(args)),
        Command::CredentialHelper(args) => block_on(credential_helper::run(args)),
        Command::Policy(command) => return policy::run(&command),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn block_on<T>(command: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(command)
}
