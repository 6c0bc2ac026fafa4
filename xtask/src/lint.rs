//! What a change must pass before anyone reads it: rustfmt, generated code that is up to date, clippy without warnings,
//! cargo-deny.

use std::process::Command;

use anyhow::Result;

use crate::{codegen, shell, tool};

const CARGO_DENY_VERSION: &str = "0.20.2";

/// Runs the four of them.
pub(crate) fn run() -> Result<()> {
    shell::timed("rustfmt", || {
        shell::show(shell::cargo().args(["fmt", "--all", "--check"]))
    })?;
    shell::timed("generated code", codegen::check)?;
    shell::timed("clippy", || {
        let mut clippy = shell::cargo();
        clippy.args(["clippy", "--workspace", "--all-targets", "--locked"]);
        shell::show(clippy.args(["--", "--deny", "warnings"]))
    })?;
    let cargo_deny = tool::pinned("cargo-deny", CARGO_DENY_VERSION)?;
    shell::timed("cargo-deny", || {
        shell::show(Command::new(cargo_deny).args(["check", "bans", "licenses", "sources"]))
    })
}
