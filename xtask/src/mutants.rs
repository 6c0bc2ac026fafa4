//! Breaks the law and the authentication on purpose, one line at a time, and sees whether a test notices.
//!
//! `.cargo/mutants.toml` names the files, and each change that no test can notice, with the reason. Every other change that
//! survives fails the chore. It takes an hour and more, so it is no part of `cargo xtask test`: run it after a change of the
//! policy, the rules of CI systems or anything that reads a credential.

use std::process::Command;
use std::thread::available_parallelism;

use anyhow::Result;
use larder_testkit::target_dir;

use crate::{shell, tool};

const CARGO_MUTANTS_VERSION: &str = "27.1.0";

/// The crates with those files; the tests of the crate that was changed must notice.
const CRATES: [&str; 2] = ["larder-model", "larder-auth"];

/// Each job compiles and tests by itself, with more than one core for the linker and the slow tests.
const CORES_PER_JOB: usize = 2;

/// Runs it, for all files or those that fit a pattern.
pub(crate) fn run(file: Option<&str>) -> Result<()> {
    let cargo_mutants = tool::pinned("cargo-mutants", CARGO_MUTANTS_VERSION)?;
    let cores = available_parallelism().map_or(1, usize::from);
    let jobs = (cores / CORES_PER_JOB).max(1);
    let mut mutants = Command::new(cargo_mutants);
    mutants.args(["mutants", "--no-shuffle", "--jobs", &jobs.to_string()]);
    for name in CRATES {
        mutants.args(["--package", name]);
    }
    if let Some(file) = file {
        mutants.args(["--file", file]);
    }
    mutants.arg("--output").arg(target_dir());
    shell::timed("mutants", || shell::show(&mut mutants))
}
