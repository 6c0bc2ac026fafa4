//! Every test of the repository, with all set-up.
//!
//! Everything is built in the profile `ci`: optimised like a release, so that the real clients meet the program that people run,
//! but quick to compile and with assertions on. Clients are installed while cargo compiles.

use std::path::PathBuf;

use anyhow::Result;
use larder_testkit::target_dir;

use crate::{clients, schemathesis, shell};

/// The cargo profile of the tests; see the root `Cargo.toml`.
pub(crate) const PROFILE: &str = "ci";

/// Installs, builds, tests.
pub(crate) fn run() -> Result<()> {
    let (left_out, built) = std::thread::scope(|scope| {
        let installing = scope.spawn(clients::install_all);
        let built = shell::timed("building the program and its tests", || {
            shell::show(cargo_test().arg("--no-run"))
        });
        let left_out = installing
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (left_out, built)
    });
    built?;
    let left_out = left_out?;

    shell::timed("cargo test", || {
        shell::show(cargo_test().env("LARDER_TEST_WITHOUT", left_out.0.join(",")))
    })?;
    if !left_out.has("schemathesis") {
        shell::timed("schemathesis", || schemathesis::run(&larder_binary()))?;
    }
    shell::say("every test passed");
    Ok(())
}

fn cargo_test() -> std::process::Command {
    let mut cargo = shell::cargo();
    cargo.args([
        "test",
        "--workspace",
        "--locked",
        "--no-fail-fast",
        "--profile",
        PROFILE,
    ]);
    cargo
}

fn larder_binary() -> PathBuf {
    target_dir().join(PROFILE).join("larder")
}
