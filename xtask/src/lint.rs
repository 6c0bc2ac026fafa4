//! What a change must pass before anyone reads it: rustfmt, generated code that is up to date, clippy without warnings,
//! cargo-deny.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use larder_testkit::target_dir;

use crate::{codegen, shell};

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
    let cargo_deny = cargo_deny()?;
    shell::timed("cargo-deny", || {
        shell::show(Command::new(cargo_deny).args(["check", "bans", "licenses", "sources"]))
    })
}

/// The pinned cargo-deny: the installed one if it is that version, else built below `target/tools`.
fn cargo_deny() -> Result<PathBuf> {
    let tools = target_dir().join("tools");
    let own = tools.join("bin/cargo-deny");
    let is_pinned = |program: &PathBuf| {
        shell::read(Command::new(program).arg("--version"))
            .is_ok_and(|version| version.trim().ends_with(&format!(" {CARGO_DENY_VERSION}")))
    };
    let installed = shell::find("cargo-deny")
        .into_iter()
        .chain([own.clone()])
        .find(is_pinned);
    if let Some(installed) = installed {
        return Ok(installed);
    }
    shell::timed(
        &format!("building cargo-deny {CARGO_DENY_VERSION} (once, some minutes)"),
        || {
            let mut install = shell::cargo();
            install.args([
                "install",
                "--locked",
                "--quiet",
                "cargo-deny",
                "--version",
                CARGO_DENY_VERSION,
            ]);
            // A target directory of its own: this one would otherwise be filled with another program's crates.
            install
                .arg("--root")
                .arg(&tools)
                .env("CARGO_TARGET_DIR", tools.join("build"));
            shell::show(&mut install)
        },
    )?;
    Ok(own)
}
